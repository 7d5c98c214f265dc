/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The watchdog: tells that a guest hangs by its no longer feeding it.
 *
 * One thread looks at it again and again.  Time in which that thread was not running, since the
 * monitor or the whole host was stopped, was none in which the guest could have fed it: a look
 * counts no more of it than two intervals.  Times are milliseconds on CLOCK_MONOTONIC.
 */
#ifndef KARMA_WATCHDOG_H
#define KARMA_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

struct watchdog {
	int64_t period;		/* 0: there is none */
	int64_t looked_at;
	int64_t hungry;		/* how long it has not been fed */
	uint64_t feeds;		/* as of the last look; 0: the guest is not watched */
};

/* seconds: how long the guest may stay silent once it has fed the first time; 0: for ever. */
void watchdog_start(struct watchdog *watchdog, unsigned seconds, int64_t now);

/* How long until the next look at most; -1: none is needed. */
int watchdog_interval(const struct watchdog *watchdog);

/* feeds: a number that each feed changes, 0 if the guest is not watched.  True: it hangs. */
bool watchdog_look(struct watchdog *watchdog, uint64_t feeds, int64_t now);

#endif
