/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the guest's process reports to its supervisor, in memory that both share: the guest's state, the result of
 * the last order, and counters.
 *
 * A guest may have broken out into its process.  So the supervisor takes all of it for untrusted numbers and
 * text, which may change at any time: it copies each value once, and checks the copy (report_counter_at()).
 */
#ifndef KARMA_REPORT_H
#define KARMA_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "karma/vm.h"

#define REPORT_COUNTERS 12288u	/* of 61 disks, with all that their histograms can have */
#define REPORT_NAME_BYTES 32u

enum guest_state {
	GUEST_STARTING,
	GUEST_RUNNING,
	GUEST_PAUSED,
	GUEST_STOPPING,		/* it was asked to power off */
	GUEST_ENDING,		/* it has ended, and its output is being drained */
	GUEST_HALTED,		/* it has panicked, and is kept */
	GUEST_STATES
};

struct report_counter {
	uint32_t kind;		/* enum stats_kind */
	uint32_t bucket;
	char device[16];
	char name[REPORT_NAME_BYTES];
	uint64_t value;
};

struct report {
	uint32_t state;		/* enum guest_state */
	uint32_t answered;	/* the number of the order that was served last */
	int32_t result;		/* of that order: 0 or a negative errno */
	uint64_t memory;	/* where guest memory is in the guest's process */
	uint32_t checkpoint;	/* 1: the guest has come to its call `checkpoint` */
	uint32_t saved_bytes;	/* of the state, as of the last ORDER_SNAPSHOT; 0: there is none */
	uint32_t counter_count;	/* as of the last ORDER_STATISTICS */
	/* Last, so that its pages are allocated only when it is used. */
	struct report_counter counters[REPORT_COUNTERS];
};

/* Shared with processes that are forked from here on; NULL if memory is short. */
struct report *report_create(void);
void report_release(struct report *report);

/* --- For the guest's process. */

void report_set_state(struct report *report, enum guest_state state);
/* Write all counters of the VM.  One thread at a time. */
void report_collect(struct report *report, struct vm *vm);
/* Guest memory is there. */
void report_set_memory(struct report *report, const void *memory);
/* The guest is at its checkpoint, and waits there.  A vCPU's thread. */
void report_set_checkpoint(struct report *report);
/* So many bytes of state are saved (guest_read_state()). */
void report_set_saved(struct report *report, uint32_t bytes);
/* The order of that number was served. */
void report_set_result(struct report *report, uint32_t number, int result);

/* --- For the supervisor. */

/* Before the next process is started. */
void report_reset(struct report *report);
enum guest_state report_state(const struct report *report);
/* Whether the order of that number was served; then *result is 0 or a negative errno. */
bool report_has_result(const struct report *report, uint32_t number, int *result);

/* Where guest memory is in the guest's process: any number, which means nothing here. */
uint64_t report_memory(const struct report *report);
bool report_checkpoint(const struct report *report);
/* SNAPSHOT_STATE_MAX at most. */
uint32_t report_saved(const struct report *report);

unsigned report_counter_count(const struct report *report);
/*
 * Copy a counter, and check it: its kind is in range, its names are terminated and have letters, digits, `_`,
 * `-` and `.` only.  False if it fails that.
 */
bool report_counter_at(const struct report *report, unsigned index, struct report_counter *counter);

#endif
