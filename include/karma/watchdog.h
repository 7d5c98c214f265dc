/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The watchdog: a guest that has fed it once and feeds it no longer hangs.
 *
 * One thread checks it periodically.  While that thread did not run, since the monitor or the whole host
 * was stopped, the guest could not feed it either: a check counts two intervals at most.  Times are milliseconds on CLOCK_MONOTONIC.
 */
#ifndef KARMA_WATCHDOG_H
#define KARMA_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

struct watchdog {
	int64_t period;		/* 0: there is none */
	int64_t checked_at;
	int64_t unfed;		/* how long it has not been fed, ms */
	uint64_t feeds;		/* as of the last check; 0: the guest is not watched */
};

/* seconds: how long the guest may stay silent once it has fed the first time; 0: for ever. */
void watchdog_start(struct watchdog *watchdog, unsigned seconds, int64_t now);

/* How long until the next check at most; -1: none is needed. */
int watchdog_interval(const struct watchdog *watchdog);

/* feeds: a number that each feed changes, 0 if the guest is not watched.  True: it hangs. */
bool watchdog_check(struct watchdog *watchdog, uint64_t feeds, int64_t now);

#endif
