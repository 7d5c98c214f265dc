/* SPDX-License-Identifier: GPL-2.0-only */
/* Points in time as the guest's two processes use them: milliseconds on CLOCK_MONOTONIC; 0: never. */
#ifndef KARMA_GUEST_CLOCK_H
#define KARMA_GUEST_CLOCK_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "karma/util.h"

static inline int64_t milliseconds(void)
{
	return nanoseconds() / 1000000;
}

static inline bool passed(int64_t at)
{
	return at && milliseconds() >= at;
}

/* For poll(): how long until then; 0 if that has passed, -1 for never. */
idle_path static inline int timeout_until(int64_t at)
{
	int64_t left = at - milliseconds();

	if (!at)
		return -1;
	return left < 0 ? 0 : left > INT_MAX ? INT_MAX : left;
}

/* The shorter of two timeouts of poll(), each of which may be -1. */
static inline int shorter_timeout(int one, int other)
{
	return one < 0 || (other >= 0 && other < one) ? other : one;
}

#endif
