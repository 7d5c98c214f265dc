/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the sources of disks that are files or block devices share: the disk, and the steps of its
 * requests.
 *
 * file.c         the backend; flushes, discards, writes of zeroes
 * file_transfer.c  reads and writes
 * file_open.c    opening, locking, geometry
 * direct.c       O_DIRECT in blocks larger than a sector
 */
#ifndef KARMA_IO_FILE_H
#define KARMA_IO_FILE_H

#include "direct.h"
#include "karma/disk.h"
#include "karma/util.h"

/* A transfer of so much, if it copies, is handed to the I/O thread: the guest runs on meanwhile. */
#define LARGE_BYTES (128 * KIB)

struct file {
	struct disk disk;
	int fd;
	bool direct;			/* fd has O_DIRECT */
	struct direct blocks;
	bool in_memory;			/* on tmpfs */
	bool ignores_nowait;		/* the file system blocks though asked not to, as NFS does */
	_Atomic bool reads_block;	/* io_uring leaves its reads to a worker: see file_kick() */
	_Atomic int64_t slow_until;	/* CLOCK_MONOTONIC, ns: see write_in_place() */
};

extern const struct disk_backend file_backend;

static inline struct file *file_of(struct disk *disk)
{
	return container_of(disk, struct file, disk);
}

static inline struct disk_request *request_of(struct io_op *op)
{
	return container_of(op, struct disk_request, op);
}

/* Start a request that direct_begin() lets pass. */
void file_submit_request(struct disk_request *request);
/* Complete a request, and start those that direct.c held back for it. */
void file_complete(struct disk_request *request, int error);
/*
 * Whether an operation ended without having been done (-EINTR, -EAGAIN, -ECANCELED): then retry()
 * is called, now or a moment later.
 */
bool file_retries(struct disk_request *request, int result, void (*retry)(struct disk_request *request));

/* Start a read or write. */
void file_submit_transfer(struct disk_request *request);
/* The calling thread's reads were submitted: learn from whether they completed at once. */
void file_transfers_submitted(struct disk *disk);

#endif
