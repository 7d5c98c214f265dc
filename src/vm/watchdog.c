// SPDX-License-Identifier: GPL-2.0-only
/* The watchdog's clock. */
#include "karma/util.h"
#include "karma/watchdog.h"

/* Often enough that the moment of a feed, which is not known, matters little. */
#define LOOKS_A_PERIOD 8
#define INTERVAL_MAX 1000

void watchdog_start(struct watchdog *watchdog, unsigned seconds, int64_t now)
{
	*watchdog = (struct watchdog){ .period = seconds * 1000ll, .looked_at = now };
}

idle_path int watchdog_interval(const struct watchdog *watchdog)
{
	int64_t interval = watchdog->period / LOOKS_A_PERIOD;

	if (!watchdog->period)
		return -1;
	return interval < INTERVAL_MAX ? interval : INTERVAL_MAX;
}

idle_path bool watchdog_look(struct watchdog *watchdog, uint64_t feeds, int64_t now)
{
	int64_t since = now - watchdog->looked_at;
	int64_t most = 2 * watchdog_interval(watchdog);

	watchdog->looked_at = now;
	if (!watchdog->period || !feeds || feeds != watchdog->feeds) {
		watchdog->feeds = feeds;
		watchdog->hungry = 0;
		return false;
	}
	watchdog->hungry += since < most ? since : most;
	return watchdog->hungry >= watchdog->period;
}
