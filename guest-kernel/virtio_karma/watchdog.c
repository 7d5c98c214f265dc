// SPDX-License-Identifier: GPL-2.0-only
/*
 * The watchdog.  An ordinary work item goes from CPU to CPU, and feeds when it has been on all that
 * are online.  So one CPU that has interrupts off, or runs no ordinary threads any more for another
 * reason, is enough to leave the monitor without food.
 */

#include "driver.h"

#include <linux/cpumask.h>
#include <linux/smp.h>
#include <linux/workqueue.h>

#define KARMA_FEEDS_A_PERIOD 4

static unsigned long karma_feed_delay;	/* jiffies; 0: the monitor has no watchdog */

static void karma_feed(struct work_struct *work)
{
	unsigned int cpu = cpumask_next(raw_smp_processor_id(), cpu_online_mask);

	if (cpu < nr_cpu_ids) {
		/* By the timer, as a work item that is running is queued where it runs. */
		schedule_delayed_work_on(cpu, to_delayed_work(work), 1);
		return;
	}
	karma_call(KARMA_CALL_watchdog, KARMA_WATCHDOG_FEED, 0);
	schedule_delayed_work_on(cpumask_first(cpu_online_mask), to_delayed_work(work),
				 karma_feed_delay);
}

static DECLARE_DELAYED_WORK(karma_feed_work, karma_feed);

void karma_add_watchdog(void)
{
	/* An error from a monitor that does not know the call. */
	long period = karma_call(KARMA_CALL_watchdog, KARMA_WATCHDOG_FEED, 0);

	if (period <= 0)
		return;
	karma_feed_delay = max(period * HZ / KARMA_FEEDS_A_PERIOD, 1L);
	schedule_delayed_work_on(cpumask_first(cpu_online_mask), &karma_feed_work,
				 karma_feed_delay);
}

void karma_remove_watchdog(void)
{
	if (!karma_feed_delay)
		return;
	cancel_delayed_work_sync(&karma_feed_work);
	karma_call(KARMA_CALL_watchdog, KARMA_WATCHDOG_STOP, 0);
	karma_feed_delay = 0;
}
