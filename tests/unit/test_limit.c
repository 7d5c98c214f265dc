// SPDX-License-Identifier: GPL-2.0-only
/* Limits of I/O: what may start when, and that in the long run it is exactly the rate. */
#include <string.h>

#include "guest.h"
#include "karma/rate_limiter.h"

#define SECOND 1000000000ll
#define START (1000 * SECOND)

static struct rate_limiter limit;
static struct rate_limit_waiter turn, others[3];
static int64_t now;

static void set_time(int64_t ns)
{
	now = ns;
	sim_set_clock(now);
}

static void make(uint64_t requests, uint64_t bytes, unsigned burst)
{
	set_time(START);
	rate_limiter_init(&limit, &(struct rate_limit_options){ requests, bytes, burst });
	turn = (struct rate_limit_waiter){ 0 };
	memset(others, 0, sizeof(others));
}

static void teardown(void)
{
	sim_run_clock();
	rate_limiter_release(&limit);
}

/* Requests of so many bytes that may start at once, of so many that want to. */
static unsigned started(struct rate_limit_waiter *by, unsigned wanted, uint64_t bytes)
{
	unsigned count = 0;

	while (count < wanted && rate_limiter_admit(&limit, by) == 0) {
		rate_limiter_consume(&limit, bytes);
		count++;
	}
	if (count == wanted)
		rate_limiter_withdraw(&limit, by);
	return count;
}

/* As a device does: wait for as long as it is told, until that time. */
static uint64_t started_until(int64_t end, uint64_t bytes)
{
	uint64_t count = 0;

	while (now < end) {
		int64_t wait = rate_limiter_admit(&limit, &turn);

		if (wait == 0) {
			rate_limiter_consume(&limit, bytes);
			count++;
			continue;
		}
		ck_assert_int_ge(wait, RATE_LIMIT_WAIT_MIN);
		ck_assert_int_le(wait, RATE_LIMIT_WAIT_MAX);
		set_time(now + wait < end ? now + wait : end);
	}
	return count;
}

START_TEST(burst_passes_at_once_and_no_more)
{
	make(50, 0, 1);
	ck_assert_uint_eq(started(&turn, 1000, UINT64_MAX), 50);
	rate_limiter_release(&limit);
	make(50, 0, 3);
	ck_assert_uint_eq(started(&turn, 1000, 0), 150);
	rate_limiter_release(&limit);
	make(0, 4096, 2);
	ck_assert_uint_eq(started(&turn, 1000, 512), 16);
	sim_run_clock();
}
END_TEST

START_TEST(wait_is_until_there_is_a_token)
{
	make(50, 0, 1);
	started(&turn, 50, 0);
	ck_assert_int_eq(rate_limiter_admit(&limit, &turn), SECOND / 50);
	set_time(now + SECOND / 50 - 1);
	ck_assert_int_eq(rate_limiter_admit(&limit, &turn), RATE_LIMIT_WAIT_MIN);
	set_time(now + 1);
	ck_assert_uint_eq(started(&turn, 10, 0), 1);
	/* A third of a second is not a whole number of nanoseconds: round up. */
	rate_limiter_release(&limit);
	make(30, 0, 1);
	started(&turn, 30, 0);
	ck_assert_int_eq(rate_limiter_admit(&limit, &turn), 33333334);
	set_time(now + 33333333);
	ck_assert_int_gt(rate_limiter_admit(&limit, &turn), 0);
	set_time(now + 1);
	ck_assert_int_eq(rate_limiter_admit(&limit, &turn), 0);
	/* No wait is long, as a reset may wait for its end. */
	rate_limiter_release(&limit);
	make(1, 0, 1);
	started(&turn, 1, 0);
	ck_assert_int_eq(rate_limiter_admit(&limit, &turn), RATE_LIMIT_WAIT_MAX);
	sim_run_clock();
}
END_TEST

START_TEST(both_rates_count)
{
	make(10, 10000, 1);
	ck_assert_uint_eq(started(&turn, 100, 1), 10);
	set_time(now + SECOND);
	ck_assert_uint_eq(started(&turn, 100, 5000), 2);
	/* What needs no bytes still is a request, and waits behind the others. */
	set_time(now + SECOND);
	ck_assert_uint_eq(started(&turn, 100, 0), 10);
	sim_run_clock();
}
END_TEST

START_TEST(request_larger_than_the_bucket_passes_and_is_paid_back)
{
	make(0, 1000, 1);
	ck_assert_uint_eq(started(&turn, 10, 5000), 1);
	set_time(now + 4 * SECOND);
	ck_assert_int_eq(rate_limiter_admit(&limit, &turn), RATE_LIMIT_WAIT_MIN);
	set_time(now + RATE_LIMIT_WAIT_MIN);
	ck_assert_uint_eq(started(&turn, 10, 5000), 1);
	sim_run_clock();
}
END_TEST

START_TEST(pause_brings_a_burst_and_no_more)
{
	make(7, 0, 5);
	started(&turn, 35, 0);
	set_time(now + 5 * SECOND - 1);
	ck_assert_uint_eq(started(&turn, 100, 0), 34);
	set_time(now + 100 * SECOND);
	ck_assert_uint_eq(started(&turn, 100, 0), 35);
	set_time(INT64_MAX);
	ck_assert_uint_eq(started(&turn, 100, 0), 35);
	sim_run_clock();
}
END_TEST

START_TEST(rate_is_exact_over_a_long_time)
{
	const uint64_t rates[] = { 1, 3, 7, 50, 333, 999, 10007 };

	for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
		make(rates[i], 0, 1);
		/* The last token comes with the last nanosecond, and could be used behind it. */
		ck_assert_uint_eq(started_until(START + 100 * SECOND + 1, 4096), 101 * rates[i]);
		rate_limiter_release(&limit);
	}
	/* However often somebody looks, and whenever. */
	make(333, 0, 1);
	started(&turn, 333, 0);
	for (uint64_t seed = 1, count = 0;; ) {
		int64_t end = START + 10 * SECOND, next = now + 1 + random_next(&seed) % 100000;

		set_time(next < end ? next : end);
		count += started(&turn, 1000, 0);
		if (now < end)
			continue;
		ck_assert_uint_eq(count, 3330);
		break;
	}
	rate_limiter_release(&limit);
	make(0, 1000003, 1);
	/* A debt of one request at most. */
	ck_assert_uint_eq(started_until(START + 100 * SECOND, 4096), 101 * 1000003ull / 4096 + 1);
	sim_run_clock();
}
END_TEST

START_TEST(no_number_overflows)
{
	const uint64_t rates[] = { 1, 1000000007, INT64_MAX, UINT64_MAX - 1, UINT64_MAX };
	const uint64_t lengths[] = { 0, 1, INT64_MAX, UINT64_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(lengths); j++) {
			make(rates[i], rates[i], RATE_LIMIT_BURST_MAX);
			set_time(1);
			ck_assert_int_eq(rate_limiter_admit(&limit, &turn), 0);
			for (unsigned k = 0; k < 10000; k++)
				rate_limiter_consume(&limit, lengths[j]);
			ck_assert_int_le(rate_limiter_admit(&limit, &turn), RATE_LIMIT_WAIT_MAX);
			set_time(INT64_MAX);
			ck_assert_int_le(rate_limiter_admit(&limit, &turn), RATE_LIMIT_WAIT_MAX);
			rate_limiter_release(&limit);
		}
	}
	/* The largest rate: a bucket that is emptied to the last token, and filled. */
	make(0, UINT64_MAX, RATE_LIMIT_BURST_MAX);
	ck_assert_uint_eq(started(&turn, 10000, UINT64_MAX), RATE_LIMIT_BURST_MAX);
	set_time(now + 10 * SECOND);
	ck_assert_uint_eq(started(&turn, 10000, UINT64_MAX), 10);
	set_time(INT64_MAX);
	ck_assert_uint_eq(started(&turn, 10000, UINT64_MAX), RATE_LIMIT_BURST_MAX);
	/* The largest debt is paid back in the end. */
	rate_limiter_release(&limit);
	make(0, UINT64_MAX, 1);
	rate_limiter_consume(&limit, UINT64_MAX);
	rate_limiter_consume(&limit, UINT64_MAX);
	ck_assert_int_gt(rate_limiter_admit(&limit, &turn), 0);
	set_time(now + SECOND + 1);
	ck_assert_int_eq(rate_limiter_admit(&limit, &turn), 0);
	sim_run_clock();
}
END_TEST

START_TEST(clock_that_goes_back_brings_nothing)
{
	make(10, 0, 1);
	started(&turn, 10, 0);
	set_time(START - 100 * SECOND);
	ck_assert_int_gt(rate_limiter_admit(&limit, &turn), 0);
	set_time(START);
	ck_assert_int_gt(rate_limiter_admit(&limit, &turn), 0);
	set_time(START + SECOND / 10);
	ck_assert_uint_eq(started(&turn, 10, 0), 1);
	sim_run_clock();
}
END_TEST

START_TEST(next_guest_gets_the_tokens_that_are_left)
{
	const struct rate_limit_options options = { 10, 0, 1 };

	make(10, 0, 1);
	ck_assert_uint_eq(started(&turn, 7, 0), 7);
	rate_limiter_start(&limit, &options);
	ck_assert_uint_eq(started(&turn, 10, 0), 3);
	rate_limiter_start(&limit, &options);
	ck_assert_ptr_null(limit.first);
	set_time(START + SECOND / 10);
	turn = (struct rate_limit_waiter){ 0 };
	ck_assert_uint_eq(started(&turn, 10, 0), 1);
	sim_run_clock();
}
END_TEST

/* A guest that has broken out can write there what it likes. */
START_TEST(nothing_that_is_left_makes_tokens_or_stops_the_clock)
{
	const struct rate_limit_options options = { 10, 10, 1 };
	const unsigned char bytes[] = { 0x00, 0x7f, 0x80, 0xff, 0x41 };

	for (size_t i = 0; i < ARRAY_SIZE(bytes); i++) {
		make(10, 10, 1);
		rate_limiter_release(&limit);
		memset(&limit, bytes[i], sizeof(limit));
		rate_limiter_start(&limit, &options);
		ck_assert_uint_le(started(&turn, 1000, 1), 10);
		ck_assert_uint_eq(limit.requests.rate, 10);
		ck_assert_int_le(limit.filled_at, nanoseconds());
		rate_limiter_withdraw(&limit, &turn);
	}
	sim_run_clock();
}
END_TEST

START_TEST(those_that_wait_have_their_turns_in_order)
{
	make(1000, 0, 1);
	ck_assert_uint_eq(started(&turn, 2000, 0), 1000);
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
		ck_assert_uint_eq(started(&others[i], 10, 0), 0);
	set_time(now + SECOND / 100);
	/* Whoever looks first: the first that waited takes what there is, and then is the last. */
	ck_assert_uint_eq(started(&others[1], 100, 0), 0);
	ck_assert_uint_eq(started(&turn, 100, 0), 10);
	set_time(now + SECOND / 100);
	ck_assert_uint_eq(started(&turn, 100, 0), 0);
	/* Others that come without having waited go behind them, too. */
	ck_assert_uint_eq(started(&others[0], 4, 0), 4);
	ck_assert_uint_eq(started(&others[0], 1, 0), 0);
	ck_assert_uint_eq(started(&others[2], 1, 0), 0);
	ck_assert_uint_eq(started(&others[1], 100, 0), 6);
	/* Who leaves holds up nobody. */
	rate_limiter_withdraw(&limit, &others[2]);
	rate_limiter_withdraw(&limit, &others[2]);
	set_time(now + SECOND / 100);
	ck_assert_uint_eq(started(&turn, 100, 0), 10);
	rate_limiter_withdraw(&limit, &turn);
	rate_limiter_withdraw(&limit, &others[0]);
	rate_limiter_withdraw(&limit, &others[1]);
	ck_assert_ptr_null(limit.first);
	sim_run_clock();
}
END_TEST

Suite *limit_suite(void)
{
	const TTest *const tests[] = {
		burst_passes_at_once_and_no_more,
		wait_is_until_there_is_a_token,
		both_rates_count,
		request_larger_than_the_bucket_passes_and_is_paid_back,
		pause_brings_a_burst_and_no_more,
		rate_is_exact_over_a_long_time,
		no_number_overflows,
		clock_that_goes_back_brings_nothing,
		next_guest_gets_the_tokens_that_are_left,
		nothing_that_is_left_makes_tokens_or_stops_the_clock,
		those_that_wait_have_their_turns_in_order,
	};
	Suite *suite = suite_create("limit");
	TCase *tcase = tcase_create("limit");

	tcase_add_checked_fixture(tcase, NULL, teardown);
	tcase_set_timeout(tcase, 30);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
