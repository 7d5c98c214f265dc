/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The copy of a guest's memory into the file `memory` of a snapshot, karma-snapshot(5): as large as the memory, with
 * holes where that is zero or absent.
 *
 * It is made from outside of the guest's process, most of it while the guest runs:
 *
 *     snapshot_memory_open()
 *     while (snapshot_memory_again()) {
 *         the guest pauses: snapshot_memory_arm(); it goes on: snapshot_memory_copy()
 *     }
 *     the guest pauses: snapshot_memory_last(); it goes on
 *     snapshot_memory_close()
 *
 * Pages that were written after the last snapshot_memory_arm() are found by the host kernel's soft-dirty bits
 * (Documentation/admin-guide/mm/soft-dirty.rst), which see each writer of the process: vCPUs, the monitor, io_uring.
 * To read the bits and to clear them are two steps, and a transfer by O_DIRECT may be under way between them: so
 * whenever "the guest pauses", no vCPU runs and no device has a request in flight.
 *
 * Nothing of this is tracked for huge pages, for memory that other processes write, nor by a host's kernel without
 * CONFIG_MEM_SOFT_DIRTY: snapshot_memory_last() copies all then.
 *
 * One thread.  Functions that return int return 0, or a negative errno with a message printed.
 */
#ifndef KARMA_SNAPSHOT_MEMORY_H
#define KARMA_SNAPSHOT_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "karma/memory.h"

/* What there is to tell of a copy; another process may read it meanwhile. */
struct snapshot_progress {
	uint64_t bytes;		/* written or made holes, over all rounds */
	uint64_t round_bytes, round_done;	/* of the round under way */
	uint32_t rounds;
};

struct snapshot_memory {
	int mem, pagemap, clear_refs;	/* of the guest's process, in /proc */
	int to;				/* the caller's */
	int file;			/* what the memory is mapped from (memory_options), the caller's; or -1 */
	int memfd;			/* of shared memory, or -1 */
	uint64_t address, pages;	/* of the memory in the process */
	bool tracks;			/* by soft-dirty bits */
	bool again;
	bool begun;			/* a round was copied: `to` has all that has not changed since */
	/* A bit for each page. */
	uint64_t *changed;		/* to be copied */
	uint64_t *differs;		/* `to` may differ from `file` there; without one, from a hole */
	uint8_t *buffer;
	uint64_t *entries;		/* of pagemap */
	struct snapshot_progress *progress;	/* the caller's */
};

/*
 * Of the memory that a process has mapped as the options say (which have its size and file), at an address that it
 * tells: any other number does no harm.  The process has to be one that the caller may trace (ptrace(2)), `to` an
 * empty file.  snapshot_memory_close() in any case; neither closes `to`.
 */
int snapshot_memory_open(struct snapshot_memory *copy, pid_t pid, uint64_t address, const struct memory_options *options,
	int to, struct snapshot_progress *progress);
void snapshot_memory_close(struct snapshot_memory *copy);

/* Whether another round, with a short pause, pays before the last. */
static inline bool snapshot_memory_again(const struct snapshot_memory *copy)
{
	return copy->again;
}

/* The guest pauses: note what has changed, and have the kernel begin anew to note it. */
int snapshot_memory_arm(struct snapshot_memory *copy);
/* The guest runs: copy what has been noted. */
int snapshot_memory_copy(struct snapshot_memory *copy);
/* The guest pauses: copy what has changed since. */
int snapshot_memory_last(struct snapshot_memory *copy);

/* Read other memory of the same process, such as the state it has saved. */
int snapshot_memory_read(const struct snapshot_memory *copy, uint64_t address, void *to, uint64_t length);

#endif
