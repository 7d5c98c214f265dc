// SPDX-License-Identifier: GPL-2.0-only
/* The watchdog's clock. */
#include "karma/util.h"
#include "karma/watchdog.h"

/* Often enough that the moment of a feed, which is not known, matters little. */
#define CHECKS_PER_PERIOD 8
#define INTERVAL_MAX 1000

void watchdog_start(struct watchdog *watchdog, unsigned seconds, int64_t now)
{
	*watchdog = (struct watchdog){ .period = seconds * 1000ll, .checked_at = now };
}

idle_path int watchdog_interval(const struct watchdog *watchdog)
{
	int64_t interval = watchdog->period / CHECKS_PER_PERIOD;

	if (!watchdog->period)
		return -1;
	return interval < INTERVAL_MAX ? interval : INTERVAL_MAX;
}

idle_path bool watchdog_check(struct watchdog *watchdog, uint64_t feeds, int64_t now)
{
	int64_t since = now - watchdog->checked_at;
	int64_t most = 2 * watchdog_interval(watchdog);

	watchdog->checked_at = now;
	if (!watchdog->period || !feeds || feeds != watchdog->feeds) {
		watchdog->feeds = feeds;
		watchdog->unfed = 0;
		return false;
	}
	watchdog->unfed += since < most ? since : most;
	return watchdog->unfed >= watchdog->period;
}
