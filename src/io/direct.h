/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Files with O_DIRECT whose blocks are larger than a sector, as on a disk with sectors of 4 KiB.
 * The guest's disk still has sectors of 512 bytes, since its image was made for these.
 *
 * A transfer that is not aligned to blocks goes through the page cache, by a second descriptor: the
 * kernel reads the block, changes a part of it, and writes it back.  The kernel does not order that
 * with a direct write to the same block, whose data it would overwrite with old ones.  So of writes
 * that share a block, one is in flight at a time.
 */
#ifndef KARMA_IO_DIRECT_H
#define KARMA_IO_DIRECT_H

#include <pthread.h>

#include "karma/disk.h"

#define SECTOR_BYTES 512u

struct direct {
	int buffered_fd;	/* the file without O_DIRECT; -1: O_DIRECT takes sectors, and all else here is unused */
	uint32_t block_bytes;	/* alignment of offsets and lengths */
	uint32_t memory_align;	/* alignment of addresses, in bytes */
	uint64_t start;		/* the disk's byte 0 in the file */
	pthread_mutex_t lock;	/* guards both lists */
	struct disk_request *in_flight, *waiting;	/* writes, discards, zeroes; by next */
};

/* For a file that is open, with O_DIRECT or not.  Returns 0, or a negative errno. */
int direct_init(struct direct *direct, int fd, uint64_t start, bool is_direct);
void direct_release(struct direct *direct);

/* Whether O_DIRECT takes what is left of a transfer; else it is for buffered_fd. */
bool direct_is_aligned(const struct direct *direct, const struct disk_request *request);

/*
 * Begin a request, on any thread.  Returns false if it has to wait: then the direct_end() of
 * another returns it.
 */
bool direct_begin(struct direct *direct, struct disk_request *request);
/* End a request, on any thread.  Returns the list of those that begin now, by linked. */
struct disk_request *direct_end(struct direct *direct, struct disk_request *request);

/*
 * Open the file of fd once more, with its access mode and other flags: a descriptor, or a negative
 * errno.
 */
int open_again(int fd, int flags);

#endif
