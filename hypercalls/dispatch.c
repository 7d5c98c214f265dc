// SPDX-License-Identifier: GPL-2.0-only
/* From a guest's registers to the function that serves the call. */
#include <errno.h>

#include "internal.h"
#include "karma/hypercall.h"
#include "karma/util.h"

struct call {
	const char *name;
	int64_t (*serve)(struct machine *machine, uint32_t argument, uint64_t value);
};

static const struct call calls[KARMA_WINDOW_CALLS] = {
#define KARMA_CALL_ENTRY(number, name, argument, value, text) [number] = { #name, call_##name },
	KARMA_CALLS(KARMA_CALL_ENTRY)
#undef KARMA_CALL_ENTRY
};

static const struct call *find_call(uint64_t rbx, uint64_t rcx)
{
	uint64_t offset = rbx - KARMA_WINDOW_BASE;
	const struct call *call;

	if (offset % PAGE_BYTES || offset / PAGE_BYTES >= KARMA_WINDOW_CALLS)
		return NULL;
	if ((rcx & ~(uint64_t)KARMA_ARGUMENT_MASK) != KARMA_TAG)
		return NULL;
	call = &calls[offset / PAGE_BYTES];
	return call->serve ? call : NULL;
}

int64_t hypercall(struct machine *machine, struct hypercall_counters *counters, uint64_t rbx,
	uint64_t rcx, uint64_t rdx)
{
	const struct call *call = find_call(rbx, rcx);
	int64_t result;

	if (!call) {
		count_up(&counters->unknown, 1);
		return -ENOSYS;
	}
	count_up(&counters->calls[call - calls], 1);
	result = call->serve(machine, rcx & KARMA_ARGUMENT_MASK, rdx);
	if (result < 0)
		count_up(&counters->refused, 1);
	return result;
}

const char *hypercall_name(unsigned number)
{
	return number < KARMA_WINDOW_CALLS ? calls[number].name : NULL;
}
