/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Disks: what a block device reads and writes, whatever the backend is (a file or block device, an
 * overlay over one, an NBD server).
 *
 * A request is submitted by any thread.  Its done() is called on that thread or on the I/O thread,
 * without a lock.  Offsets and lengths are in bytes.  A flush that completed without an error is on
 * stable storage, with all requests that had completed before it was submitted.
 *
 * The life cycle of a backend is that of the device in front of it (karma/virtio.h):
 *
 *   open     disk_open(), in the supervisor, once
 *   start    disk_start(), in the guest's process, at each start of a guest
 *   requests disk_submit() and disk_kick(), by the threads of the guest's process
 *   end      disk_end(), in the guest's process, when the guest has ended
 *   release  disk_close(), in each process that has a reference
 *
 * There is no pause or resume: requests in flight complete while vCPUs are paused, and a paused
 * guest submits none.  There is no reset either: a device waits for its requests instead.
 */
#ifndef KARMA_DISK_H
#define KARMA_DISK_H

#include <errno.h>
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
	const char *overlay;	/* file for what is written, or NULL: path itself */
	const char *from;	/* an overlay, of which a new one begins as a copy; without `overlay`: one that has no
				   name and is lost when it is closed.  NULL: none */
	const char *generation;	/* by disk_generation(): refuse any other; NULL: take any */
	bool pmem;		/* guest memory, and no block device */
	bool private_memory;	/* with pmem: what the guest writes is its own, and not the file's */
	unsigned timeout;	/* NBD: seconds that requests wait for a server; 0: the default */
	struct rate_limit_options limit;	/* for whoever makes the device; a backend ignores it */
};

/*
 * The common part of a disk; a backend has its own state around it.  Constant after disk_open(),
 * but for size.
 */
struct disk {
	const struct disk_backend *backend;
	struct io_ring *ring;	/* the main one */
	uint64_t size;		/* bytes, a multiple of block_size; its device may change it (disk_measure()) */
	uint32_t block_size;	/* of a logical block, the unit of requests: 512 or more */
	uint32_t physical_block_size;	/* a power of 2 times block_size */
	/* In bytes; 0: none, or not known. */
	uint32_t alignment_offset;	/* of the first whole physical block */
	uint32_t io_min, io_opt;	/* the smallest and the best size of a request */
	uint32_t discard_alignment;	/* the smallest unit that a discard frees */
	bool discard;			/* supports DISK_DISCARD */
	bool write_zeroes;		/* supports DISK_WRITE_ZEROES */
	uint64_t large_transfer;	/* bytes; such a transfer keeps the submitting thread busy.  0: none does */
	bool read_only;
	_Atomic unsigned references;
};

enum disk_operation { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };

/* The backend's from disk_submit() on, until it calls done(). */
struct disk_request {
	enum disk_operation operation;
	struct iovec *iov;	/* of DISK_READ and DISK_WRITE; the backend changes the entries */
	unsigned iov_count;
	uint64_t offset, length;
	bool unmap;		/* DISK_WRITE_ZEROES may free the space */
	/* error: 0 or a negative errno.  Never called from within disk_submit() or disk_kick(). */
	void (*done)(struct disk_request *request, int error);

	/* The backend's. */
	struct io_op op;
	struct disk *disk;
	void (*retry)(struct disk_request *request);
	struct disk_request *linked;	/* direct.c: list; file_transfer.c: the first of linked writes */
	struct disk_request *next;
	union {
		uint64_t start;		/* direct.c: the offset at which the request began */
		uint64_t covers;	/* nbd_transmission.c: how many acknowledged writes a flush covers */
	};
	unsigned slot;
	int error;
};

/*
 * What a backend does.  Each function has its contract at the function of disk_ with the same name.
 */
struct disk_backend {
	/* NULL: it has nothing to do at a guest's start. */
	int (*start)(struct disk *disk, bool again);
	void (*submit)(struct disk *disk, struct disk_request *request);
	void (*kick)(struct disk *disk);
	/* NULL: the size never changes. */
	int (*measure)(struct disk *disk, uint64_t *size);
	/* NULL: its requests complete soon by themselves. */
	void (*end)(struct disk *disk);
	/* NULL: it has none. */
	int (*file)(const struct disk *disk);
	/* NULL: it is no overlay. */
	int (*copy)(const struct disk *disk, int to);
	/* The last reference of this process is gone: free the disk. */
	void (*close)(struct disk *disk);
};

/*
 * Open what the options name.  Called by the supervisor, which has no other thread then; ring need
 * not be set up yet.  The caller has one reference.  Returns 0, or a negative errno with a message
 * printed.
 */
int disk_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring);

/*
 * A guest starts.  Called in the guest's process, or in the process that opened the disk, before
 * the sandbox is entered, before there are other threads and before the first request; the ring is
 * set up.  again: the disk had an earlier guest, whose process has ended, and what that process
 * left in shared memory is not trusted.  Returns 0, or a negative errno with a message printed.
 */
static inline int disk_start(struct disk *disk, bool again)
{
	return disk->backend->start ? disk->backend->start(disk, again) : 0;
}

/*
 * One more reference, and one fewer.  Any thread, without a request in flight.  The last
 * disk_close() of a process comes after its io_ring_release(), and closes the disk in this process
 * alone.
 */
struct disk *disk_share(struct disk *disk);
void disk_close(struct disk *disk);

/*
 * The disk's size by now, in whole blocks.  disk->size stays what it was: the device decides when
 * to change it.  Any thread of any process that has the disk.  Returns 0, or a negative errno.
 */
int disk_measure(struct disk *disk, uint64_t *size);

/* Queue a request: any thread, without the lock of a ring.  disk_kick() starts it at the latest. */
static inline void disk_submit(struct disk *disk, struct disk_request *request)
{
	request->disk = disk;
	disk->backend->submit(disk, request);
}

/* Start the requests that the calling thread has queued. */
static inline void disk_kick(struct disk *disk)
{
	disk->backend->kick(disk);
}

/*
 * The guest has ended: complete the requests in flight soon, with an error if need be.  Called in
 * the guest's process, once, by the main thread; the I/O thread runs, vCPUs do not, and no new
 * request follows.
 */
static inline void disk_end(struct disk *disk)
{
	if (disk->backend->end)
		disk->backend->end(disk);
}

/*
 * For snapshots and mappings.  The descriptor, which stays the disk's, of what a disk writes to, a file or block
 * device, or of its overlay; -1: there is none.
 */
static inline int disk_descriptor(const struct disk *disk)
{
	return disk->backend->file ? disk->backend->file(disk) : -1;
}

/*
 * Copy its overlay, with the allocation bitmap as it is in memory, into an empty file.  For a disk that has no request in
 * flight.  0, -ENOTSUP for a disk without an overlay, or another negative errno, without a message.
 */
static inline int disk_copy_overlay(const struct disk *disk, int to)
{
	return disk->backend->copy ? disk->backend->copy(disk, to) : -ENOTSUP;
}

/*
 * Which contents a disk without an overlay has: a text that is another once anybody has written to its file, or has put
 * another in its place.  Of a block device, or an NBD server, nobody knows what others write: it is the same while
 * its size is, if the disk is read-only, and else DISK_GENERATION_UNKNOWN, which no disk has.
 */
#define DISK_GENERATION_BYTES 96u
#define DISK_GENERATION_UNKNOWN "unknown"
void disk_generation(const struct disk *disk, char text[DISK_GENERATION_BYTES]);

/*
 * Count the threads that are in a blocking system call for a disk.  Such a call may last as long as
 * a hung NFS server or a frozen file system, and the thread gives no sign of life meanwhile.  The
 * counter, which may be in shared memory, is set once, by the supervisor, before there is another
 * thread.
 */
void disk_set_blocking_counter(atomic_uint *counter);
void disk_blocking_call_begin(void);
void disk_blocking_call_end(void);

/* The name of the image format that a file is in, if it is known and not raw; NULL: none. */
const char *disk_image_format(int fd);

/* For backends, while they open a disk: cut its size to whole blocks, and say so. */
void disk_truncate_to_blocks(struct disk *disk, const char *path);

/* The backends: disk_open() for one kind of disk each, without the first reference. */
int file_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring);
int overlay_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring);
int nbd_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring);

/*
 * For an overlay: a disk of size bytes from start on in a file that is open as fd, with a
 * descriptor of its own and a first reference.  Returns 0, or a negative errno without a message.
 */
int file_open_part(struct disk **disk, int fd, uint64_t start, uint64_t size, bool direct,
	struct io_ring *ring);

#endif
