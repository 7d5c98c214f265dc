/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which pages of a snapshot's memory a restored guest touches first: the file `touched`, karma-snapshot(5).  The first
 * restore makes it, and the next ones read these pages ahead (memory_options).
 *
 * The file is a hint: what is wrong in it costs time, and nothing else.
 */
#ifndef KARMA_SNAPSHOT_TOUCHED_H
#define KARMA_SNAPSHOT_TOUCHED_H

#include <stdint.h>
#include <sys/types.h>

#include "karma/memory.h"

#define TOUCHED_RANGES_MAX 4096u
/* Small gaps are not worth a range of their own: page faults around a page map 16 at once, too. */
#define TOUCHED_GAP 16u
/* If a guest has written more pages, none is noted as written: to copy them before its start would hold that up. */
#define TOUCHED_WRITTEN_MAX 4096u

struct touched {
	unsigned count;
	/* First what it has written, so that this is not mapped twice; then all that it has touched. */
	struct page_range ranges[TOUCHED_RANGES_MAX];
};

/*
 * Find the pages of a file that a process, which has its guest's memory mapped from it at an address, has touched.  Any
 * address does no harm.  0, or a negative errno without a message.
 */
int touched_find(struct touched *touched, pid_t pid, uint64_t address, const struct memory_options *options);

/* Write them into an empty file.  0, or a negative errno without a message. */
int touched_write(const struct touched *touched, int fd);

/* Read such a file, of any contents; no ranges if it is none. */
void touched_read(struct touched *touched, int fd);

#endif
