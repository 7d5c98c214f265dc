/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A disk's backend: a file or a block device, by io_uring.
 *
 * Requests come from any thread and end on that thread or on the I/O thread.  Offsets and lengths
 * are bytes.
 * A flush that ended without an error is on stable storage, with all that ended before it.
 */
#ifndef KARMA_DISK_H
#define KARMA_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "karma/io.h"
#include "karma/limit.h"

struct disk_options {
	const char *path;
	bool read_only;
	bool direct;		/* O_DIRECT: past the host's page cache */
	const char *serial;	/* NULL: none */
	struct limit_options limit;	/* for who makes the device: the backend has none */
};

struct disk {
	struct io_ring *ring;
	int fd;
	uint64_t size;		/* a multiple of block_size */
	uint32_t block_size;	/* the smallest unit of a request, 512 or more */
	uint32_t physical_block_size;
	bool read_only, direct;
	_Atomic int64_t slow_until;	/* CLOCK_MONOTONIC, nanoseconds: see write_at_once() */
};

enum disk_operation { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };

/* The caller's until disk_submit(), and again when done() is called. */
struct disk_request {
	enum disk_operation operation;
	struct iovec *iov;	/* for DISK_READ and DISK_WRITE; the backend changes it */
	unsigned iov_count;
	uint64_t offset, length;
	bool unmap;		/* DISK_WRITE_ZEROES may free the space */
	/* error: 0 or a negative errno.  Never from within disk_submit() or disk_start(). */
	void (*done)(struct disk_request *request, int error);

	/* The backend's. */
	struct io_op op;
	struct disk *disk;
};

/* 0, or a negative errno with a message printed.  disk_close() undoes it. */
int disk_open(struct disk *disk, const struct disk_options *options, struct io_ring *ring);
void disk_close(struct disk *disk);

/* Another descriptor of the same open file, under the same lock; 0, or a negative errno. */
int disk_share(struct disk *copy, const struct disk *disk);

/* Queue a request; disk_start() starts what the calling thread has queued. */
void disk_submit(struct disk *disk, struct disk_request *request);
void disk_start(struct disk *disk);

#endif
