/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Disks: what a block device reads and writes, whatever the backend.
 *
 * Requests come from any thread and end on that thread or on the I/O thread.  Offsets and lengths
 * are bytes.
 * A flush that ended without an error is on stable storage, with all that ended before it.
 */
#ifndef KARMA_DISK_H
#define KARMA_DISK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "karma/io.h"
#include "karma/rate_limiter.h"

struct disk_options {
	const char *path;
	bool read_only;
	bool direct;		/* O_DIRECT: past the host's page cache */
	bool raw;		/* even if it looks like an image in another format */
	const char *serial;	/* NULL: none */
	const char *overlay;	/* a file for what is written, or NULL: path itself */
	unsigned timeout;	/* NBD: seconds that requests wait for a server; 0: the default */
	struct rate_limit_options limit;	/* for who makes the device: the backend has none */
};

/* The common part of a disk: a backend has its own state around it. */
struct disk {
	const struct disk_backend *backend;
	struct io_ring *ring;
	uint64_t size;		/* a multiple of block_size; who has the disk may change it */
	uint32_t block_size;	/* the smallest unit of a request, 512 or more */
	uint32_t physical_block_size;	/* a power of 2 times block_size */
	/* Bytes; 0: none, or nobody knows. */
	uint32_t alignment_offset;	/* where the first whole physical block begins */
	uint32_t io_min, io_opt;	/* the least and the best size of a request */
	uint32_t discard_alignment;	/* the smallest unit that a discard frees */
	bool discard;			/* it can free space */
	bool write_zeroes;		/* without their being sent */
	uint64_t large_transfer;		/* transfers of so much keep the thread busy that starts them; 0: none */
	bool read_only;
	_Atomic unsigned references;
};

enum disk_operation { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };

/* The caller's until disk_submit(), and again when done() is called. */
struct disk_request {
	enum disk_operation operation;
	struct iovec *iov;	/* for DISK_READ and DISK_WRITE; the backend changes it */
	unsigned iov_count;
	uint64_t offset, length;
	bool unmap;		/* DISK_WRITE_ZEROES may free the space */
	/* error: 0 or a negative errno.  Never from within disk_submit() or disk_kick(). */
	void (*done)(struct disk_request *request, int error);

	/* The backend's. */
	struct io_op op;
	struct disk *disk;
	void (*again)(struct disk_request *request);
	struct disk_request *chain;	/* the first of those that were started together */
	struct disk_request *next;
	uint64_t mark;
	unsigned slot;
	int error;
};

/* What a backend does; the functions of the same names below tell how. */
struct disk_backend {
	void (*submit)(struct disk *disk, struct disk_request *request);
	void (*kick)(struct disk *disk);
	/* NULL: nothing is to be done. */
	int (*start)(struct disk *disk, bool again);
	/* NULL: the size never changes. */
	int (*measure)(struct disk *disk, uint64_t *size);
	/* NULL: requests end soon by themselves. */
	void (*end)(struct disk *disk);
	/* Nobody has the disk any more: free it. */
	void (*close)(struct disk *disk);
};

/*
 * Open what the options name.  0, or a negative errno with a message printed.  The disk is closed
 * when all who opened or shared it have called disk_close(); any thread may, when it has no request
 * under way, and the last after io_ring_release().
 */
int disk_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring);

/*
 * Before the first request, and when the ring is there: by the process that has opened the disk, or
 * one that was forked since; again if that is not the first.  0, or a negative errno with a message
 * printed.
 */
static inline int disk_start(struct disk *disk, bool again)
{
	return disk->backend->start ? disk->backend->start(disk, again) : 0;
}

struct disk *disk_share(struct disk *disk);
void disk_close(struct disk *disk);

/*
 * How large the disk is by now, in whole blocks.  Its size stays what it was: who has the disk decides.
 * 0, or a negative errno.
 */
int disk_measure(struct disk *disk, uint64_t *size);

/*
 * Threads that are in a system call for a disk, which may take as long as that does (a server of NFS that is
 * away, a file system that is frozen): whoever wants a sign of life has to do without theirs.  Counted at
 * calls from then on, which may be in memory that processes share.
 */
void disk_set_blocking_counter(atomic_uint *calls);
void disk_blocking_call_begin(void);
void disk_blocking_call_end(void);

/* Queue a request; disk_kick() starts what the calling thread has queued. */
static inline void disk_submit(struct disk *disk, struct disk_request *request)
{
	request->disk = disk;
	disk->backend->submit(disk, request);
}

static inline void disk_kick(struct disk *disk)
{
	disk->backend->kick(disk);
}

/* The guest has ended: have requests end soon, if need be with an error, whatever they wait for. */
static inline void disk_end(struct disk *disk)
{
	if (disk->backend->end)
		disk->backend->end(disk);
}

/* The name of the format that a file begins like, if that is known and not raw; NULL: none. */
const char *disk_image_format(int fd);

/* Cut a size to whole blocks, with a note: for a backend that opens a disk. */
void disk_truncate_to_blocks(struct disk *disk, const char *path);

/* The backends: disk_open() for one kind of disk each, without the first reference. */
int file_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring);
int overlay_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring);

/*
 * For an overlay: a part of a file that is open, with a first reference and a descriptor of its own.  0,
 * or a negative errno.
 */
int file_part(struct disk **disk, int fd, uint64_t start, uint64_t size, bool direct,
	struct io_ring *ring);
int nbd_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring);

#endif
