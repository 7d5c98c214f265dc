/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tables of pointers by numbers that a guest is given and gives back.  A number is of one pointer only, for
 * ever: 32 bits of index, and above them how often the index was in use before.
 */
#ifndef KARMA_SHARE_SLOTS_H
#define KARMA_SHARE_SLOTS_H

#include <stdint.h>

struct slot {
	void *item;		/* NULL: free */
	uint32_t generation;
	uint32_t next_free;
};

/* All zeroes: empty. */
struct slots {
	struct slot *slots;
	uint32_t count, capacity;
	uint32_t first_free;	/* 0: none, as the index 0 is never given */
	uint32_t used, max;	/* the caller sets max */
};

/* The item's number, from 1 on; 0 if there are max items, or no memory. */
uint64_t slots_add(struct slots *slots, void *item);
/* NULL for a number that was never given, or is no longer in use. */
void *slots_get(const struct slots *slots, uint64_t number);
void slots_remove(struct slots *slots, uint64_t number);
void slots_release(struct slots *slots);

#endif
