/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a guest's process tells its supervisor, in memory that both share: what state the guest is in,
 * which order was served last, and counters.
 *
 * The guest's process may be the guest's.  So for the supervisor all of it is numbers and text that
 * may be lies and may change at any time: it copies each once, and bounds it (report_counter_at()).
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
	GUEST_ENDING,		/* it has ended, and its output is on its way */
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
	int32_t result;		/* what came of it: 0, or a negative errno */
	uint32_t counter_count;	/* as of the last ORDER_STATISTICS */
	/* Last, so that it takes no memory before it is used. */
	struct report_counter counters[REPORT_COUNTERS];
};

/* Shared with processes that are forked from here on; NULL if memory is short. */
struct report *report_create(void);
void report_release(struct report *report);

/* --- For the guest's process. */

void report_set_state(struct report *report, enum guest_state state);
/* Put all counters there.  One thread at a time. */
void report_collect(struct report *report, struct vm *vm);
void report_set_result(struct report *report, uint32_t number, int result);

/* --- For the supervisor. */

/* Another process is to write here. */
void report_reset(struct report *report);
enum guest_state report_state(const struct report *report);
/* Whether that order was served; then *result is 0 or a negative errno. */
bool report_has_result(const struct report *report, uint32_t number, int *result);

unsigned report_counter_count(const struct report *report);
/*
 * A copy of a counter, whose names end, and have letters, digits, `_`, `-` and `.` only; false if it is
 * none.
 */
bool report_counter_at(const struct report *report, unsigned index, struct report_counter *counter);

#endif
