// SPDX-License-Identifier: GPL-2.0-only
/* What the transport asks of a device, and several threads that use one. */
#include <errno.h>
#include <pthread.h>

#include "transport_fixture.h"

/* A device of the test's own, to see what the transport does with the optional operations. */
struct toy {
	struct virtio_device device;
	struct virtq queue;
	uint8_t config[8];
	unsigned starts, resets, notifies, served;
};

static struct toy toy;

static void toy_start(struct virtio_device *device)
{
	(void)device;
	toy.starts++;
}

static void toy_notify(struct virtio_device *device, unsigned index)
{
	toy.notifies++;
	if (toy.notifies < 5)
		virtio_reschedule(&device->queues[index]);
}

static void toy_reset(struct virtio_device *device)
{
	(void)device;
	toy.resets++;
}

static int toy_write_config(
	struct virtio_device *device, size_t offset, const void *from, size_t length)
{
	(void)device;
	memcpy(toy.config + offset, from, length);
	return 0;
}

static void toy_release(struct virtio_device *device)
{
	virtio_device_destroy(device);
}

static const struct virtio_device_ops toy_ops = {
	.device_id = 99,
	.driver_ok = toy_start,
	.notify = toy_notify,
	.reset = toy_reset,
	.write_config = toy_write_config,
	.release = toy_release,
};

static uint32_t toy_serve(
	struct virtio_device *device, unsigned index, const struct virtq_chain *chain)
{
	ck_assert_ptr_eq(device, &toy.device);
	ck_assert_uint_eq(index, 0);
	/* A guest that is as fast as the device. */
	if (++toy.served < TOY_CHAINS)
		driver_publish(&queue, chain->head);
	return toy.served;
}

static void toy_serve_all(struct virtio_device *device, unsigned index)
{
	toy.notifies++;
	virtio_serve_queue(&device->queues[index]);
}

static const struct virtio_device_ops serving_toy_ops = {
	.device_id = 99,
	.notify = toy_serve_all,
	.serve = toy_serve,
	.release = toy_release,
};

static unsigned add_toy_with(const struct virtio_device_ops *ops)
{
	memset(&toy, 0, sizeof(toy));
	virtio_device_init(
		&toy.device, ops, "toy", FEATURE(5), &toy.queue, 1, TOY_QUEUE_SIZE, &sim.environment);
	toy.device.config = toy.config;
	toy.device.config_size = sizeof(toy.config);
	toy.queue.name = "toy";
	return sim_add(&sim, &toy.device);
}

static unsigned add_toy(void)
{
	return add_toy_with(&toy_ops);
}

START_TEST(operations_of_a_device_are_called_when_they_should)
{
	unsigned device = add_toy();
	uint64_t from = sim_text(&sim, "karma", 5);

	sim_start_device(&sim, device, FEATURES_PLAIN, &queue, 1, QUEUE_SIZE);
	ck_assert_uint_eq(toy.starts, 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_set_status, device, STATUS_RUNNING), 0);
	ck_assert_uint_eq(toy.starts, 1);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(device, 3, 5), from), 0);
	ck_assert_mem_eq(toy.config, "\0\0\0karma", 8);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(device, 4, 5), from),
		-EINVAL);
	sim_reset(&sim, device);
	ck_assert_uint_eq(toy.resets, 1);
}
END_TEST

static bool toy_notified(void *times)
{
	return toy.notifies == *(unsigned *)times;
}

START_TEST(device_that_stopped_for_others_is_called_again)
{
	unsigned device = add_toy(), times = 5;

	sim_start_device(&sim, device, FEATURES_PLAIN, &queue, 1, QUEUE_SIZE);
	driver_kick(&queue);
	ck_assert_uint_eq(toy.notifies, 1);
	ck_assert(sim_run_until(&sim, toy_notified, &times));
	sim_run_moment(&sim);
	ck_assert_uint_eq(toy.notifies, 5);
	ck_assert_uint_eq(toy.device.in_flight, 0);
}
END_TEST

START_TEST(device_in_reset_is_not_called_again)
{
	unsigned device = add_toy();

	sim_start_device(&sim, device, FEATURES_PLAIN, &queue, 1, QUEUE_SIZE);
	driver_kick(&queue);
	sim_reset(&sim, device);
	sim_run_moment(&sim);
	ck_assert_uint_eq(toy.notifies, 1);
}
END_TEST

static bool toy_served_all(void *unused)
{
	(void)unused;
	return toy.served == TOY_CHAINS && toy.device.in_flight == 0;
}

START_TEST(queue_is_served_a_ring_of_chains_at_a_time)
{
	unsigned device = add_toy_with(&serving_toy_ops);
	struct part part = { sim_alloc(&sim, 64, 1), 64, true };

	sim_start_device(&sim, device, FEATURES_PLAIN, &queue, 1, QUEUE_SIZE);
	driver_publish(&queue, driver_chain(&queue, &part, 1));
	driver_kick(&queue);
	ck_assert_uint_eq(toy.served, TOY_QUEUE_SIZE);
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
	ck_assert(sim_run_until(&sim, toy_served_all, NULL));
	ck_assert_uint_eq(toy.notifies, 3);
	ck_assert_uint_eq(driver_interrupts(&queue), 2);
	ck_assert_uint_eq(driver_used(&queue), TOY_CHAINS);
	/* The lengths are what serve() returned. */
	ck_assert_uint_eq(queue.used->ring[(TOY_CHAINS - 1) % QUEUE_SIZE].len, TOY_CHAINS);
}
END_TEST

START_TEST(chain_of_too_many_buffers_stops_the_device)
{
	unsigned device = add_toy_with(&serving_toy_ops);
	struct part parts[TOY_QUEUE_SIZE + 1];

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		parts[i] = (struct part){ sim_alloc(&sim, 8, 1), 8, true };
	sim_start_device(&sim, device, FEATURES_INDIRECT, &queue, 1, QUEUE_SIZE);
	driver_publish(&queue, driver_chain_indirect(&queue, parts, ARRAY_SIZE(parts)));
	driver_kick(&queue);
	ck_assert_uint_eq(toy.served, 0);
	ck_assert_int_eq(sim_status(&sim, device), STATUS_BROKEN);
}
END_TEST

START_TEST(queue_setup_in_a_reset_is_refused)
{
	unsigned device = add_toy();
	struct karma_queue_setup wanted = {
		.descriptors = sim_alloc(&sim, 4096, 16),
		.driver = sim_alloc(&sim, 4096, 2),
		.device = sim_alloc(&sim, 4096, 4),
		.size = QUEUE_SIZE,
	};
	uint64_t gpa = sim_text(&sim, &wanted, sizeof(wanted));

	sim_negotiate(&sim, device, FEATURES_PLAIN);
	virtio_request_started(&toy.device);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_set_status, device, 0), 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_setup, device, gpa), -EINVAL);
	virtio_request_done(&toy.device);
	sim_run_moment(&sim);
	ck_assert_int_eq(sim_status(&sim, device), 0);
	sim_negotiate(&sim, device, FEATURES_PLAIN);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_setup, device, gpa), 0);
}
END_TEST

static void *run_loop(void *ring)
{
	io_ring_loop(ring);
	return NULL;
}

struct noisy_vcpu {
	struct hypercall_counters counters;
	bool *stop;
};

/* A vCPU that notifies and asks while another uses the device. */
static void *run_noisy_vcpu(void *argument)
{
	struct noisy_vcpu *vcpu = argument;
	const unsigned calls[] = { KARMA_CALL_queue_notify, KARMA_CALL_device_status,
		KARMA_CALL_config_generation, KARMA_CALL_event };

	for (unsigned i = 0; !__atomic_load_n(vcpu->stop, __ATOMIC_RELAXED); i++)
		hypercall(&sim.machine, &vcpu->counters,
			KARMA_WINDOW_BASE + ((uint64_t)calls[i % ARRAY_SIZE(calls)] << 12),
			KARMA_TAG, 0);
	return NULL;
}

START_TEST(vcpus_and_the_io_thread_share_a_device)
{
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_GET_ID };
	struct virtio_blk_outhdr flush = { .type = VIRTIO_BLK_T_FLUSH };
	uint64_t header_gpa = sim_text(&sim, &header, sizeof(header));
	uint64_t flush_gpa = sim_text(&sim, &flush, sizeof(flush));
	uint64_t to = sim_alloc(&sim, QUEUE_SIZE_MAX, 1);
	struct noisy_vcpu vcpu = { 0 };
	pthread_t io_thread, vcpu_thread;
	bool stop = false;

	vcpu.stop = &stop;
	start(FEATURES_INDIRECT | FEATURES_EVENT);
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_loop, &sim.ring), 0);
	ck_assert_int_eq(pthread_create(&vcpu_thread, NULL, run_noisy_vcpu, &vcpu), 0);
	for (unsigned i = 0; i < THREAD_REQUESTS; i++) {
		struct part parts[] = { { i % 2 ? header_gpa : flush_gpa, 16, false },
			{ to + i % QUEUE_SIZE, 1, true } };

		driver_publish(&queue, driver_chain(&queue, parts, 2));
		driver_kick(&queue);
		while (driver_used(&queue) == 0)
			sched_yield();
		queue.last_used++;
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(vcpu_thread, NULL);
	virtio_end(blk);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
	ck_assert_uint_eq(blk->queues[0].chains, THREAD_REQUESTS);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

START_TEST(wait_idle_returns_when_the_backend_is_done)
{
	pthread_t io_thread;

	start(FEATURES_PLAIN);
	start_read();
	start_read();
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_loop, &sim.ring), 0);
	end_reads(2);
	virtio_end(blk);
	ck_assert_uint_eq(driver_used(&queue), 2);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
}
END_TEST

START_TEST(resets_in_flight_with_an_io_thread)
{
	pthread_t io_thread;

	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_loop, &sim.ring), 0);
	for (unsigned round = 0; round < 50; round++) {
		start(FEATURES_PLAIN);
		start_read();
		end_reads(1);
		ck_assert_int_eq(set_status(0), 0);
		while (sim_status(&sim, 0))
			sched_yield();
	}
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
	ck_assert_uint_eq(blk->in_flight, 0);
}
END_TEST

void transport_device_tests(Suite *suite)
{
	const TTest *const tests[] = {
		operations_of_a_device_are_called_when_they_should,
		device_that_stopped_for_others_is_called_again,
		device_in_reset_is_not_called_again,
		queue_is_served_a_ring_of_chains_at_a_time,
		chain_of_too_many_buffers_stops_the_device,
		queue_setup_in_a_reset_is_refused,
		vcpus_and_the_io_thread_share_a_device,
		wait_idle_returns_when_the_backend_is_done,
		resets_in_flight_with_an_io_thread,
	};

	add_case(suite, "transport", setup, teardown, 30, tests, ARRAY_SIZE(tests));
}
