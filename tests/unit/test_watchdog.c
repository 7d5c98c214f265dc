// SPDX-License-Identifier: GPL-2.0-only
/* The watchdog's clock: when a guest hangs, and when only nobody looked. */
#include "guest.h"
#include "karma/watchdog.h"

#define START 1000000

static struct watchdog watchdog;
static int64_t now;

/* Look on time for so long, with this number of feeds; true once the guest hangs. */
static bool look_for(int64_t milliseconds, uint64_t feeds)
{
	int64_t end = now + milliseconds;

	while (now < end) {
		now += watchdog_interval(&watchdog);
		if (watchdog_check(&watchdog, feeds, now))
			return true;
	}
	return false;
}

static void setup(void)
{
	now = START;
	watchdog_start(&watchdog, 8, now);
}

START_TEST(intervals)
{
	ck_assert_int_eq(watchdog_interval(&watchdog), 1000);
	watchdog_start(&watchdog, 1, now);
	ck_assert_int_eq(watchdog_interval(&watchdog), 125);
	watchdog_start(&watchdog, 24 * 3600, now);
	ck_assert_int_eq(watchdog_interval(&watchdog), 1000);
	watchdog_start(&watchdog, 0, now);
	ck_assert_int_eq(watchdog_interval(&watchdog), -1);
}
END_TEST

START_TEST(without_a_watchdog_nobody_hangs)
{
	watchdog_start(&watchdog, 0, now);
	for (int i = 0; i < 100; i++)
		ck_assert(!watchdog_check(&watchdog, 1, now += 10000));
}
END_TEST

START_TEST(who_does_not_feed_is_not_watched)
{
	ck_assert(!look_for(100000, 0));
}
END_TEST

START_TEST(who_feeds_no_more_hangs)
{
	int64_t last;

	ck_assert(!look_for(20000, 0));
	for (uint64_t feeds = 1; feeds < 100; feeds++)
		ck_assert(!look_for(7000, feeds));
	last = now;
	ck_assert(!look_for(1000, 100));
	ck_assert(look_for(20000, 100));
	/* Never before the time, and not long behind it. */
	ck_assert_int_ge(now - last, 8000);
	ck_assert_int_le(now - last, 10000);
}
END_TEST

START_TEST(who_stops_it_is_not_watched)
{
	ck_assert(!look_for(5000, 3));
	ck_assert(!look_for(100000, 0));
	/* From the next feed on again. */
	ck_assert(!look_for(5000, 1));
	ck_assert(look_for(10000, 1));
}
END_TEST

START_TEST(time_in_which_nobody_looked_does_not_count)
{
	ck_assert(!look_for(4000, 1));
	now += 3600 * 1000;
	ck_assert(!watchdog_check(&watchdog, 1, now));
	/* The guest has the rest of its time to feed. */
	ck_assert(!look_for(2000, 1));
	ck_assert(!look_for(5000, 2));
	ck_assert(look_for(5000, 2));
}
END_TEST

START_TEST(more_looks_change_nothing)
{
	ck_assert(!watchdog_check(&watchdog, 1, now));
	for (int i = 0; i < 7999; i++)
		ck_assert(!watchdog_check(&watchdog, 1, ++now));
	ck_assert(watchdog_check(&watchdog, 1, ++now));
}
END_TEST

Suite *watchdog_suite(void)
{
	const TTest *const tests[] = {
		intervals,
		without_a_watchdog_nobody_hangs,
		who_does_not_feed_is_not_watched,
		who_feeds_no_more_hangs,
		who_stops_it_is_not_watched,
		time_in_which_nobody_looked_does_not_count,
		more_looks_change_nothing,
	};
	Suite *suite = suite_create("watchdog");
	TCase *tcase = tcase_create("watchdog");

	tcase_add_checked_fixture(tcase, setup, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
