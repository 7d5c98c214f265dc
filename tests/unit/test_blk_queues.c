// SPDX-License-Identifier: GPL-2.0-only
/* How a disk's queues are served: notifications, interrupts, and vCPUs with rings of their own. */
#include <errno.h>

#include "blk_fixture.h"

START_TEST(busy_queue_is_served_many_at_a_time)
{
	uint64_t notifications;

	ck_assert(notify_until_it_waits(10000, 1000));
	/* What comes while it waits needs no notification, and all is told by one interrupt. */
	notifications = blk->queues[0].notifications;
	driver_interrupts(&queue);
	*driver_used_event(&queue) = queue.last_used;
	for (unsigned i = 1; i < 20; i++)
		publish_read(&queue, i);
	for (unsigned i = 0; i < 20; i++)
		driver_wait(&queue);
	ck_assert_uint_eq(blk->queues[0].notifications, notifications);
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
	/* It was worth it, so it looks some more by itself, and then asks to be notified. */
	sim_run_moment(&sim);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
	/* The next one begins such a wait at once. */
	publish_read(&queue, 0);
	driver_kick(&queue);
	ck_assert(!wants_notification());
	driver_wait(&queue);
	sim_run_clock();
}
END_TEST

START_TEST(wait_for_more_is_over_when_many_have_come)
{
	const unsigned plenty = 24;

	/* The waits are long, so that none is over before we look. */
	ck_assert(notify_until_it_waits(1900000, 1000));
	driver_interrupts(&queue);
	for (unsigned round = 0; round < 3; round++) {
		*driver_used_event(&queue) = queue.last_used;
		while (blk->queues[0].next_avail + plenty - 1 != queue.avail->idx) {
			ck_assert(!wants_notification());
			publish_read(&queue, 1);
		}
		ck_assert(wants_notification());
		publish_read(&queue, 1);
		driver_kick(&queue);
		ck_assert_uint_eq(blk->queues[0].next_avail, queue.avail->idx);
		for (unsigned i = 0; i < plenty; i++)
			driver_wait(&queue);
		ck_assert_uint_eq(driver_interrupts(&queue), 1);
	}
	/* A guest that notifies at any time is served at once. */
	publish_read(&queue, 1);
	virtio_queue_notify(blk, 0, false);
	ck_assert_uint_eq(blk->queues[0].next_avail, queue.avail->idx);
	driver_wait(&queue);
	/* Then it looks in vain, and asks to be notified. */
	sim_run_moment(&sim);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
	sim_run_clock();
}
END_TEST

static bool has_looked(void *context)
{
	(void)context;
	return io_ring_reap(&sim.ring, false) > 0;
}

START_TEST(pause_between_two_bursts_needs_no_notification)
{
	/* The waits are long, so that we can stop after one. */
	ck_assert(notify_until_it_waits(1900000, 1000));
	for (unsigned i = 1; i < 20; i++)
		publish_read(&queue, i);
	for (unsigned i = 0; i < 20; i++)
		driver_wait(&queue);
	/* The guest is busy with what was done for it, and a look is in vain. */
	ck_assert(sim_run_until(&sim, has_looked, NULL));
	ck_assert(!wants_notification());
	publish_read(&queue, 0);
	driver_wait(&queue);
	sim_run_moment(&sim);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
	sim_run_clock();
}
END_TEST

static void publish_large_read(uint64_t to)
{
	driver_publish(&queue, driver_chain(&queue,
				       (struct part[]){ { header(VIRTIO_BLK_T_IN, 0), 16, false },
					       { to, SEGMENT_BYTES_MAX, true }, { status_place(), 1, true } },
				       3));
}

START_TEST(large_requests_are_served_one_after_the_other_without_notifications)
{
	uint64_t large = sim_alloc(&sim, SEGMENT_BYTES_MAX, 4096);
	uint64_t notifications;

	ck_assert_int_eq(ftruncate(file, SEGMENT_BYTES_MAX), 0);
	add_disk(descriptor_path(file), false, false, NULL);
	start();
	notifications = blk->queues[0].notifications;
	publish_large_read(large);
	driver_kick(&queue);
	ck_assert(!wants_notification());
	for (unsigned i = 1; i < 4; i++)
		publish_large_read(large);
	for (unsigned i = 0; i < 4; i++)
		driver_wait(&queue);
	ck_assert_uint_eq(blk->queues[0].notifications, notifications + 1);
	sim_run_moment(&sim);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
}
END_TEST

/* Interrupts for so many that were there at once, in a guest that asks to be told of each. */
static unsigned interrupts_of_large_reads(uint64_t to, unsigned count)
{
	driver_interrupts(&queue);
	for (unsigned i = 0; i < count; i++)
		publish_large_read(to);
	driver_kick(&queue);
	for (unsigned i = 0; i < count; i++)
		driver_wait(&queue);
	sim_run_moment(&sim);
	ck_assert_uint_eq(blk->queues[0].signalled_used, blk->queues[0].next_used);
	ck_assert(!blk->queues[0].coalescing);
	return driver_interrupts(&queue);
}

START_TEST(large_requests_are_told_of_together_while_many_more_wait)
{
	uint64_t large = sim_alloc(&sim, SEGMENT_BYTES_MAX, 4096);

	ck_assert_int_eq(ftruncate(file, SEGMENT_BYTES_MAX), 0);
	add_disk(descriptor_path(file), false, false, NULL);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | (blk->offered & 0xffffff), &queue, 1, QUEUE_SIZE);
	/* Few: each as soon as it is done. */
	ck_assert_uint_eq(interrupts_of_large_reads(large, 8), 8);
	/* After 4, 8, 11, 14, 16, 18, 20, 22, 24, and then each; or one less. */
	ck_assert_uint_le(interrupts_of_large_reads(large, 32), 17);
}
END_TEST

START_TEST(guest_that_waits_for_each_request_is_not_kept_waiting_for_long)
{
	unsigned waits = 0;

	for (unsigned i = 1; i <= 5000; i++) {
		sim_set_clock(1000000000 + i * 10000ll);
		publish_read(&queue, 0);
		driver_kick(&queue);
		waits += !wants_notification();
		driver_wait(&queue);
	}
	/* Tries: after 64, 128, 256 ... requests. */
	ck_assert_uint_ge(waits, 3);
	ck_assert_uint_le(waits, 7);
	sim_run_clock();
}
END_TEST

START_TEST(queue_that_is_not_busy_is_served_at_once)
{
	ck_assert(!notify_until_it_waits(5000000, 500));
	sim_run_clock();
}
END_TEST

START_TEST(reset_ends_a_wait)
{
	ck_assert(notify_until_it_waits(10000, 1000));
	sim_reset(&sim, 0);
	ck_assert_uint_eq(blk->in_flight, 0);
	start();
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	sim_run_clock();
}
END_TEST

static struct driver_queue queues[QUEUES];

static void add_disk_of_queues(void)
{
	struct disk_options options = { .path = descriptor_path(file) };
	struct disk *disk;

	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), 0);
	blk = blk_create(&sim.environment, "vda", disk, NULL, QUEUES);
	ck_assert_uint_eq(sim_add(&sim, blk), 0);
}

START_TEST(disk_has_the_queues_it_tells_of)
{
	struct virtio_blk_config config;

	add_disk_of_queues();
	ck_assert(blk->offered & FEATURE(VIRTIO_BLK_F_MQ));
	ck_assert_int_eq(virtio_config_read(blk, 0, &config, sizeof(config)), 0);
	ck_assert_uint_eq(config.num_queues, QUEUES);
	sim_start_device(
		&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | blk->offered, queues, QUEUES, QUEUES_SIZE);
	for (unsigned i = 0; i < QUEUES; i++) {
		uint64_t status = publish_read(&queues[i], i);

		driver_kick(&queues[i]);
		driver_wait(&queues[i]);
		ck_assert_uint_eq(status_at(status), VIRTIO_BLK_S_OK);
		ck_assert_uint_eq(driver_interrupts(&queues[i]), 1);
	}
}
END_TEST

/* A vCPU with a ring of its own, which notifies a queue of its own and takes completions. */
struct vcpu_like {
	pthread_t thread;
	struct io_ring ring;
	unsigned index;
	uint64_t parts[3];	/* header, data, status */
};

static void *notify_as_a_vcpu(void *argument)
{
	struct vcpu_like *vcpu = argument;
	struct driver_queue *mine = &queues[vcpu->index];
	const struct part chain[] = { { vcpu->parts[0], 16, false }, { vcpu->parts[1], SECTOR, true },
		{ vcpu->parts[2], 1, true } };

	io_ring_bind(&vcpu->ring);
	for (unsigned i = 0; i < THREAD_REQUESTS; i++) {
		int64_t end = now_ms() + SIM_PATIENCE_MS;

		driver_publish(mine, driver_chain(mine, chain, 3));
		driver_kick(mine);
		while (!driver_used(mine) && now_ms() < end)
			io_ring_reap(&vcpu->ring, false);
		ck_assert_uint_eq(driver_used(mine), 1);
		mine->last_used++;
	}
	io_ring_unbind(&vcpu->ring);
	return NULL;
}

/* All requests of all vCPUs, each of which works on the next when one is done. */
static void run_vcpus(void)
{
	struct vcpu_like vcpus[QUEUES];
	pthread_t io_thread;

	sim_start_device(
		&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | blk->offered, queues, QUEUES, QUEUES_SIZE);
	for (unsigned i = 0; i < QUEUES; i++) {
		vcpus[i].index = i;
		/* What the vCPU itself takes, and what a worker completes. */
		vcpus[i].parts[0] = header(i % 2 ? VIRTIO_BLK_T_FLUSH : VIRTIO_BLK_T_IN, 0);
		vcpus[i].parts[1] = sim_alloc(&sim, SECTOR, 16);
		vcpus[i].parts[2] = status_place();
		ck_assert_int_eq(
			io_ring_init_thread(&vcpus[i].ring, &sim.ring, QUEUES * QUEUES_SIZE, NULL), 0);
	}
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_io_thread, NULL), 0);
	for (unsigned i = 0; i < QUEUES; i++)
		ck_assert_int_eq(
			pthread_create(&vcpus[i].thread, NULL, notify_as_a_vcpu, &vcpus[i]), 0);
	for (unsigned i = 0; i < QUEUES; i++)
		pthread_join(vcpus[i].thread, NULL);
	virtio_end(blk);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
	for (unsigned i = 0; i < QUEUES; i++) {
		ck_assert_uint_eq(status_at(vcpus[i].parts[2]), VIRTIO_BLK_S_OK);
		io_ring_release_thread(&vcpus[i].ring);
	}
}

START_TEST(vcpus_with_rings_of_their_own_share_a_disk)
{
	add_disk_of_queues();
	run_vcpus();
}
END_TEST

/* What a notification with KARMA_NOTIFY_ANSWER returns. */
static int64_t notify_for_answer(const struct driver_queue *to)
{
	return sim_call(&sim, KARMA_CALL_queue_notify,
		KARMA_ARG(to->device, to->index) | KARMA_NOTIFY_ANSWER, 0);
}

/* The test's thread is a vCPU with a ring of its own. */
static struct io_ring own_ring;

static void answers_setup(void)
{
	setup_memory();
	add_disk_of_queues();
	sim_start_device(
		&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | blk->offered, queues, QUEUES, QUEUES_SIZE);
	ck_assert_int_eq(io_ring_init_thread(&own_ring, &sim.ring, QUEUES * QUEUES_SIZE, NULL), 0);
	io_ring_bind(&own_ring);
}

static void answers_teardown(void)
{
	io_ring_unbind(&own_ring);
	io_ring_release_thread(&own_ring);
	teardown();
}

START_TEST(answer_stands_for_the_interrupt_of_what_completes_at_once)
{
	uint64_t status;

	for (unsigned i = 1; i <= 3; i++) {
		status = publish_read(&queues[0], i);
		*driver_used_event(&queues[0]) = queues[0].last_used;
		ck_assert_int_eq(notify_for_answer(&queues[0]), 1);
		ck_assert_uint_eq(driver_used(&queues[0]), 1);
		queues[0].last_used++;
		ck_assert_uint_eq(status_at(status), VIRTIO_BLK_S_OK);
		ck_assert_uint_eq(blk->queues[0].answers, i);
	}
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(&queues[0]), 0);
	ck_assert_uint_eq(blk->queues[0].interrupts, 0);
	/* Nothing new: nothing to tell. */
	ck_assert_int_eq(notify_for_answer(&queues[0]), 0);
}
END_TEST

START_TEST(driver_that_takes_no_answer_gets_the_interrupt)
{
	publish_read(&queues[0], 0);
	driver_kick(&queues[0]);
	ck_assert_uint_eq(driver_interrupts(&queues[0]), 0);
	io_ring_reap(&own_ring, false);
	ck_assert_uint_eq(driver_used(&queues[0]), 1);
	ck_assert_uint_eq(driver_interrupts(&queues[0]), 1);
	ck_assert_uint_eq(blk->queues[0].answers, 0);
}
END_TEST

START_TEST(driver_that_suppresses_interrupts_gets_no_answer)
{
	*driver_used_event(&queues[0]) = queues[0].last_used + 5;
	publish_read(&queues[0], 0);
	ck_assert_int_eq(notify_for_answer(&queues[0]), 0);
	ck_assert_uint_eq(driver_used(&queues[0]), 1);
	ck_assert_uint_eq(driver_interrupts(&queues[0]), 0);
}
END_TEST

START_TEST(answer_tells_of_its_own_queue_alone)
{
	/* Both are complete when the second is notified. */
	publish_read(&queues[0], 0);
	driver_kick(&queues[0]);
	publish_read(&queues[1], 1);
	ck_assert_int_eq(notify_for_answer(&queues[1]), 1);
	ck_assert_uint_eq(driver_used(&queues[0]), 1);
	ck_assert_uint_eq(driver_used(&queues[1]), 1);
	ck_assert_uint_eq(driver_interrupts(&queues[0]), 1);
	ck_assert_uint_eq(driver_interrupts(&queues[1]), 0);
}
END_TEST

static bool own_ring_gave_back(void *of)
{
	io_ring_reap(&own_ring, false);
	return driver_used(of);
}

START_TEST(what_completes_later_interrupts)
{
	uint64_t status = status_place();

	/* A worker of io_uring does a flush. */
	driver_publish(&queues[0], driver_chain(&queues[0],
					   (struct part[]){ { header(VIRTIO_BLK_T_FLUSH, 0), 16, false },
						   { status, 1, true } },
					   2));
	if (notify_for_answer(&queues[0]) == 0) {
		ck_assert(sim_run_until(&sim, own_ring_gave_back, &queues[0]));
		ck_assert_uint_eq(driver_interrupts(&queues[0]), 1);
	}
	ck_assert_uint_eq(status_at(status), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(answer_of_a_queue_that_is_not_there_is_an_error)
{
	const struct driver_queue none = { .sim = &sim, .index = QUEUES };

	ck_assert_int_eq(notify_for_answer(&none), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_notify, KARMA_NOTIFY_ANSWER << 1, 0), -EINVAL);
	sim_reset(&sim, 0);
	ck_assert_int_eq(notify_for_answer(&queues[0]), -EINVAL);
}
END_TEST

START_TEST(queues_share_one_limit)
{
	unsigned sum = 0;

	add_disk_of_queues();
	set_limit(blk, 100, 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | blk->offered, queues,
		QUEUES, QUEUES_SIZE);
	for (unsigned i = 0; i < QUEUES; i++) {
		for (unsigned j = 0; j < 70; j++)
			publish_read(&queues[i], j);
		driver_kick(&queues[i]);
	}
	ck_assert_uint_eq(done_in_a_while(&queues[0]), 70);
	ck_assert_uint_eq(driver_used(&queues[1]), 30);
	ck_assert_uint_eq(driver_used(&queues[2]), 0);
	/* They have their turns in order. */
	sim_set_clock(LIMIT_START + SECOND);
	done_in_a_while(&queues[0]);
	done_in_a_while(&queues[0]);
	ck_assert_uint_eq(driver_used(&queues[1]), 70);
	ck_assert_uint_eq(driver_used(&queues[2]), 60);
	sim_set_clock(LIMIT_START + 2 * SECOND);
	done_in_a_while(&queues[0]);
	done_in_a_while(&queues[0]);
	for (unsigned i = 0; i < QUEUES; i++)
		sum += driver_used(&queues[i]);
	ck_assert_uint_eq(sum, QUEUES * 70);
	ck_assert_uint_ge(limited(), 3);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_ptr_null(disk_limit.first);
	sim_run_clock();
}
END_TEST

START_TEST(vcpus_with_rings_of_their_own_share_a_limit)
{
	int64_t before = now_ms();

	add_disk_of_queues();
	rate_limiter_init(&disk_limit, &(struct rate_limit_options){ QUEUES * THREAD_REQUESTS / 4, 0, 1 });
	blk_limit(blk, &disk_limit);
	run_vcpus();
	ck_assert_uint_gt(limited(), 0);
	ck_assert_int_ge(now_ms() - before, 2900);
	ck_assert_ptr_null(disk_limit.first);
}
END_TEST

START_TEST(request_in_flight_raises_no_interrupt_before_its_end)
{
	uint64_t status = status_place();

	driver_publish(&queue, driver_chain(&queue,
				       (struct part[]){ { header(VIRTIO_BLK_T_IN, 0), 16, false },
					       { data, SECTOR, true }, { status, 1, true } },
				       3));
	driver_kick(&queue);
	ck_assert_uint_eq(driver_interrupts(&queue), 0);
	driver_wait(&queue);
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
}
END_TEST

void blk_queues_tests(Suite *suite)
{
	const TTest *const writable[] = {
		request_in_flight_raises_no_interrupt_before_its_end,
		busy_queue_is_served_many_at_a_time,
		wait_for_more_is_over_when_many_have_come,
		pause_between_two_bursts_needs_no_notification,
		guest_that_waits_for_each_request_is_not_kept_waiting_for_long,
		queue_that_is_not_busy_is_served_at_once,
		reset_ends_a_wait,
	};
	const TTest *const opening[] = {
		large_requests_are_served_one_after_the_other_without_notifications,
		large_requests_are_told_of_together_while_many_more_wait,
		disk_has_the_queues_it_tells_of,
		vcpus_with_rings_of_their_own_share_a_disk,
		queues_share_one_limit,
		vcpus_with_rings_of_their_own_share_a_limit,
	};

	const TTest *const answers[] = {
		answer_stands_for_the_interrupt_of_what_completes_at_once,
		driver_that_takes_no_answer_gets_the_interrupt,
		driver_that_suppresses_interrupts_gets_no_answer,
		answer_tells_of_its_own_queue_alone,
		what_completes_later_interrupts,
		answer_of_a_queue_that_is_not_there_is_an_error,
	};

	add_case(suite, "requests", setup, teardown, 30, writable, ARRAY_SIZE(writable));
	add_case(suite, "answers", answers_setup, answers_teardown, 30, answers, ARRAY_SIZE(answers));
	add_case(suite, "opening", setup_memory, teardown, 30, opening, ARRAY_SIZE(opening));
}
