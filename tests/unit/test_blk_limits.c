// SPDX-License-Identifier: GPL-2.0-only
/* A disk whose requests a limit holds back. */
#include "blk_fixture.h"

/* Ten requests a second. */
static void start_limited(void)
{
	add_disk(descriptor_path(file), false, false, NULL);
	set_limit(blk, 10, 0);
	start();
}

START_TEST(limit_lets_so_many_requests_pass_at_once)
{
	uint64_t notifications;

	start_limited();
	for (unsigned i = 0; i < 25; i++)
		publish_read(&queue, i);
	driver_kick(&queue);
	notifications = blk->queues[0].notifications;
	ck_assert(!wants_notification());
	ck_assert_uint_eq(done_in_a_while(&queue), 10);
	ck_assert_uint_eq(limited(), 1);
	sim_set_clock(LIMIT_START + SECOND / 2);
	ck_assert_uint_eq(done_in_a_while(&queue), 15);
	ck_assert_uint_eq(limited(), 2);
	/* Who notifies without need changes nothing. */
	driver_kick(&queue);
	ck_assert_uint_eq(done_in_a_while(&queue), 15);
	sim_set_clock(LIMIT_START + 10 * SECOND);
	ck_assert_uint_eq(done_in_a_while(&queue), 25);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_uint_eq(blk->queues[0].notifications, notifications + 1);
	/* It asks for notifications again, and none is lost. */
	ck_assert(wants_notification());
	queue.last_used += 25;
	sim_set_clock(LIMIT_START + 20 * SECOND);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(limited(), 2);
	sim_run_clock();
}
END_TEST

START_TEST(queue_that_is_empty_waits_for_no_tokens)
{
	start_limited();
	for (unsigned i = 0; i < 10; i++)
		ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, i, data, SECTOR), VIRTIO_BLK_S_OK);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_uint_eq(limited(), 0);
	sim_run_clock();
}
END_TEST

/* With a bucket that is empty behind the first one. */
static bool takes_a_request(uint32_t type)
{
	struct virtio_blk_discard_write_zeroes range = { 0, 8, 0 };
	bool clears = type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES;
	uint64_t from = clears ? sim_text(&sim, &range, sizeof(range)) : data;
	uint32_t length = clears ? sizeof(range) : type == VIRTIO_BLK_T_FLUSH ? 0 : SECTOR;
	__int128 before;

	sim_set_clock(LIMIT_START);
	rate_limiter_release(&disk_limit);
	rate_limiter_init(&disk_limit, &(struct rate_limit_options){ 10, MIB, 1 });
	before = disk_limit.bytes.balance;
	ck_assert_uint_eq(request(type, 0, from, length), VIRTIO_BLK_S_OK);
	length = clears ? 8 * SECTOR : type == VIRTIO_BLK_T_GET_ID ? 0 : length;
	ck_assert(before - disk_limit.bytes.balance == (__int128)length * SECOND);
	return disk_limit.requests.balance < 10 * SECOND;
}

START_TEST(requests_take_what_they_are)
{
	start_limited();
	ck_assert(takes_a_request(VIRTIO_BLK_T_OUT));
	ck_assert(takes_a_request(VIRTIO_BLK_T_FLUSH));
	ck_assert(takes_a_request(VIRTIO_BLK_T_IN));
	ck_assert(takes_a_request(VIRTIO_BLK_T_DISCARD));
	ck_assert(takes_a_request(VIRTIO_BLK_T_FLUSH));
	ck_assert(takes_a_request(VIRTIO_BLK_T_WRITE_ZEROES));
	ck_assert(!takes_a_request(VIRTIO_BLK_T_GET_ID));
	sim_run_clock();
}
END_TEST

START_TEST(limit_of_bytes_holds_back_what_follows)
{
	add_disk(descriptor_path(file), false, false, NULL);
	set_limit(blk, 0, 2 * SECTOR);
	start();
	/* More than the whole bucket passes, and is paid back. */
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, data, 8 * SECTOR), VIRTIO_BLK_S_OK);
	publish_read(&queue, 0);
	driver_kick(&queue);
	sim_set_clock(LIMIT_START + 3 * SECOND);
	ck_assert_uint_eq(done_in_a_while(&queue), 0);
	sim_set_clock(LIMIT_START + 4 * SECOND);
	ck_assert_uint_eq(done_in_a_while(&queue), 1);
	ck_assert_uint_eq(limited(), 1);
	sim_run_clock();
}
END_TEST

START_TEST(reset_while_a_limit_holds_requests_back)
{
	start_limited();
	for (unsigned i = 0; i < 25; i++)
		publish_read(&queue, i);
	driver_kick(&queue);
	ck_assert_uint_eq(done_in_a_while(&queue), 10);
	sim_reset(&sim, 0);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_ptr_null(disk_limit.first);
	start();
	/* A reset brings no tokens. */
	publish_read(&queue, 0);
	driver_kick(&queue);
	ck_assert_uint_eq(done_in_a_while(&queue), 0);
	sim_set_clock(LIMIT_START + SECOND);
	driver_wait(&queue);
	sim_run_clock();
}
END_TEST

START_TEST(broken_queue_waits_no_more)
{
	start_limited();
	for (unsigned i = 0; i < 11; i++)
		publish_read(&queue, i);
	driver_kick(&queue);
	ck_assert_uint_eq(done_in_a_while(&queue), 10);
	queue.last_used += 10;
	queue.avail->idx += QUEUE_SIZE + 1;
	sim_set_clock(LIMIT_START + SECOND);
	sim_run_moment(&sim);
	done_in_a_while(&queue);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_ptr_null(disk_limit.first);
	assert_needs_reset();
	sim_run_clock();
}
END_TEST

START_TEST(end_does_not_wait_for_the_limit)
{
	pthread_t io_thread;
	int64_t before;

	start_limited();
	for (unsigned i = 0; i < 25; i++)
		publish_read(&queue, i);
	driver_kick(&queue);
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_io_thread, NULL), 0);
	before = now_ms();
	virtio_end(blk);
	ck_assert_int_lt(now_ms() - before, SIM_PATIENCE_MS);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_uint_eq(driver_used(&queue), 10);
	ck_assert_ptr_null(disk_limit.first);
	sim_run_clock();
}
END_TEST

START_TEST(limit_that_does_not_bite_changes_nothing)
{
	unsigned done = 0;

	add_disk(descriptor_path(file), false, false, NULL);
	set_limit(blk, 1000000000, 1024 * GIB);
	start();
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < 80; i++)
			publish_read(&queue, i);
		driver_kick(&queue);
		for (; done < 80 * (round + 1); done++)
			driver_wait(&queue);
	}
	ck_assert_uint_eq(limited(), 0);
	/* Busy queues are still served many at a time. */
	ck_assert(notify_until_it_waits(10000, 1000));
	ck_assert_ptr_null(disk_limit.first);
	driver_wait(&queue);
	sim_run_clock();
}
END_TEST

START_TEST(busy_queue_that_meets_its_limit_waits_for_that_alone)
{
	add_disk(descriptor_path(file), false, false, NULL);
	set_limit(blk, 200, 0);
	start();
	/* No time passes, and one of these is the first that is to wait for more. */
	for (unsigned i = 0; i < 65; i++) {
		publish_read(&queue, 0);
		driver_kick(&queue);
		if (!wants_notification())
			break;
		driver_wait(&queue);
	}
	ck_assert(!wants_notification());
	ck_assert_uint_eq(limited(), 0);
	while ((uint16_t)(queue.avail->idx - queue.last_used) < 60)
		publish_read(&queue, 0);
	for (unsigned i = 0; i < 60; i++)
		driver_wait(&queue);
	while ((uint16_t)(queue.avail->idx - queue.last_used) < 85)
		publish_read(&queue, 0);
	driver_kick(&queue);
	done_in_a_while(&queue);
	ck_assert_uint_eq(blk->queues[0].chains, 200);
	ck_assert_uint_eq(limited(), 1);
	ck_assert_uint_eq(blk->in_flight, 1);
	sim_set_clock(LIMIT_START + SECOND);
	ck_assert_uint_eq(done_in_a_while(&queue), 85);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
	sim_run_clock();
}
END_TEST

void blk_limits_tests(Suite *suite)
{
	const TTest *const limiting[] = {
		limit_lets_so_many_requests_pass_at_once,
		queue_that_is_empty_waits_for_no_tokens,
		requests_take_what_they_are,
		reset_while_a_limit_holds_requests_back,
		broken_queue_waits_no_more,
		end_does_not_wait_for_the_limit,
	};
	const TTest *const opening[] = {
		limit_of_bytes_holds_back_what_follows,
		limit_that_does_not_bite_changes_nothing,
		busy_queue_that_meets_its_limit_waits_for_that_alone,
	};

	add_case(suite, "limits", setup_memory, teardown, 30, limiting, ARRAY_SIZE(limiting));
	add_case(suite, "opening", setup_memory, teardown, 30, opening, ARRAY_SIZE(opening));
}
