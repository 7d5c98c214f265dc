// SPDX-License-Identifier: GPL-2.0-only
/* The report of the guest's process, from both sides. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "karma/report.h"
#include "karma/snapshot.h"
#include "karma/util.h"

struct report *report_create(void)
{
	void *report = mmap(NULL, sizeof(struct report), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return report == MAP_FAILED ? NULL : report;
}

void report_release(struct report *report)
{
	if (report)
		munmap(report, sizeof(*report));
}

void report_set_state(struct report *report, enum guest_state state)
{
	__atomic_store_n(&report->state, state, __ATOMIC_RELAXED);
}

static void collect(void *context, const struct stats_counter *counter)
{
	struct report *report = context;
	struct report_counter *to;

	if (report->counter_count >= REPORT_COUNTERS)
		return;
	to = &report->counters[report->counter_count++];
	to->kind = counter->kind;
	to->bucket = counter->bucket;
	to->value = counter->value;
	snprintf(to->device, sizeof(to->device), "%s", counter->device ? counter->device : "");
	snprintf(to->name, sizeof(to->name), "%s", counter->name);
}

void report_collect(struct report *report, struct vm *vm)
{
	report->counter_count = 0;
	stats_visit(vm, collect, report);
}

void report_set_memory(struct report *report, const void *memory)
{
	report->memory = (uintptr_t)memory;
}

void report_set_checkpoint(struct report *report)
{
	__atomic_store_n(&report->checkpoint, 1, __ATOMIC_RELEASE);
}

void report_set_saved(struct report *report, uint32_t bytes)
{
	report->saved_bytes = bytes;
}

void report_set_result(struct report *report, uint32_t number, int result)
{
	report->result = result;
	__atomic_store_n(&report->answered, number, __ATOMIC_RELEASE);
}

void report_reset(struct report *report)
{
	report->state = GUEST_STARTING;
	report->answered = 0;
	report->checkpoint = 0;
	report->saved_bytes = 0;
	report->counter_count = 0;
}

enum guest_state report_state(const struct report *report)
{
	uint32_t state = __atomic_load_n(&report->state, __ATOMIC_RELAXED);

	return state < GUEST_STATES ? state : GUEST_RUNNING;
}

bool report_has_result(const struct report *report, uint32_t number, int *result)
{
	if (__atomic_load_n(&report->answered, __ATOMIC_ACQUIRE) != number)
		return false;
	*result = __atomic_load_n(&report->result, __ATOMIC_RELAXED);
	/* Out of the range of errno. */
	if (*result > 0 || *result < -4095)
		*result = -EPROTO;
	return true;
}

uint64_t report_memory(const struct report *report)
{
	return __atomic_load_n(&report->memory, __ATOMIC_RELAXED);
}

bool report_checkpoint(const struct report *report)
{
	return __atomic_load_n(&report->checkpoint, __ATOMIC_ACQUIRE);
}

uint32_t report_saved(const struct report *report)
{
	uint32_t bytes = __atomic_load_n(&report->saved_bytes, __ATOMIC_RELAXED);

	return bytes < SNAPSHOT_STATE_MAX ? bytes : SNAPSHOT_STATE_MAX;
}

unsigned report_counter_count(const struct report *report)
{
	uint32_t count = __atomic_load_n(&report->counter_count, __ATOMIC_RELAXED);

	return count < REPORT_COUNTERS ? count : REPORT_COUNTERS;
}

/* Terminated, not empty unless that is allowed, and without characters that are special to any reader. */
static bool is_name(const char *name, size_t size, bool empty)
{
	size_t length = strnlen(name, size);

	return length < size && (length || empty) &&
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == length;
}

bool report_counter_at(const struct report *report, unsigned index, struct report_counter *counter)
{
	*counter = report->counters[index];
	/* From here on the compiler must use the copy, and not load a field from shared memory again. */
	__asm__ volatile("" : "+m"(*counter));
	if (counter->kind >= STATS_KINDS || counter->bucket > LATENCY_BUCKETS ||
		!is_name(counter->name, sizeof(counter->name), false))
		return false;
	return is_name(counter->device, sizeof(counter->device),
		counter->kind != STATS_DEVICE && counter->kind != STATS_LATENCY &&
			counter->kind != STATS_LATENCY_SUM);
}
