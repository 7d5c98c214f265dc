/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Files with O_DIRECT whose blocks are larger than a sector, as on a disk with sectors of 4 KiB: the guest's disk still
 * has sectors of 512 bytes, since that is what its image has.
 *
 * What is not whole blocks goes through the page cache, where the kernel reads the rest of a block and writes it
 * back.  It does not know of a direct write of that block which is under way, and would write back what was
 * there before: so writes that have a block in common wait for each other.
 */
#ifndef KARMA_IO_DIRECT_H
#define KARMA_IO_DIRECT_H

#include <pthread.h>

#include "karma/disk.h"

struct direct {
	int fd;			/* of the same file without O_DIRECT; -1: O_DIRECT takes all sectors */
	uint32_t unit, memory_unit;	/* of offsets and lengths, and of addresses, in bytes */
	uint64_t start;		/* the disk's byte 0 in the file */
	pthread_mutex_t lock;	/* of both lists */
	struct disk_request *writes, *waiting;	/* by next */
};

/* For a file that is open with O_DIRECT, or not.  0, or a negative errno. */
int direct_init(struct direct *direct, int fd, uint64_t start, bool is_direct);
void direct_release(struct direct *direct);

/* Whether O_DIRECT takes what is left of a transfer. */
bool direct_takes(const struct direct *direct, const struct disk_request *request);

/* A request begins; false: it waits, and direct_end() of another gives it back. */
bool direct_begin(struct direct *direct, struct disk_request *request);
/* It has ended: the list of those that begin now, by chain. */
struct disk_request *direct_end(struct direct *direct, struct disk_request *request);

/* As fd, once more, with other flags than its access mode: a descriptor, or a negative errno. */
int open_again(int fd, int flags);

#endif
