/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The dispatcher of the guest ABI (karma/abi.h): registers in, RAX out.
 *
 * Any vCPU thread may call it at any time, with anything in the registers.
 */
#ifndef KARMA_HYPERCALL_H
#define KARMA_HYPERCALL_H

#include <stdint.h>

#include "karma/abi.h"
#include "karma/machine.h"

/* What one vCPU called; only its own thread writes, and any may read (count_of()). */
struct hypercall_counters {
	uint64_t calls[KARMA_WINDOW_CALLS];
	uint64_t unknown;	/* no such number, outside of the window, without the tag */
	uint64_t refused;	/* answered with a negative errno, unknown ones left out */
};

/* Returns what the guest finds in RAX. */
int64_t hypercall(struct machine *machine, struct hypercall_counters *counters, uint64_t rbx,
	uint64_t rcx, uint64_t rdx);

/* The call's name, or NULL if there is no such number. */
const char *hypercall_name(unsigned number);

#endif
