// SPDX-License-Identifier: GPL-2.0-only
/* The life cycle of devices: which step may follow which, and what is under way meanwhile. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "pipe_disk.h"

#define QUEUE_SIZE 16
#define SECTOR 512u
#define HEADER sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define FRAME 60u

static struct sim sim;
static struct driver_queue queue;

static void setup(void)
{
	sim_init(&sim, SIM_MEMORY);
}

static void teardown(void)
{
	sim_run_clock();
	sim_release(&sim);
}

/* --- The order of the steps. */

/* A device that notes what it is asked for. */
static struct virtio_device *device;
static char steps[64];

static void note_step(char step)
{
	size_t length = strlen(steps);

	ck_assert_uint_lt(length, sizeof(steps) - 1);
	steps[length] = step;
}

static void note_start(struct virtio_device *of)
{
	ck_assert_ptr_eq(of, device);
	note_step('s');
}

static void note_pause(struct virtio_device *of)
{
	ck_assert(!virtio_running(of));
	note_step('p');
}

static void note_resume(struct virtio_device *of)
{
	(void)of;
	note_step('r');
}

static void note_reset(struct virtio_device *of)
{
	(void)of;
	note_step('0');
}

static void note_end(struct virtio_device *of)
{
	ck_assert(virtio_ending(of));
	note_step('e');
}

static uint32_t note_chain(struct virtio_device *of, unsigned index, const struct virtq_chain *chain)
{
	(void)of;
	(void)index;
	(void)chain;
	note_step('c');
	return 0;
}

static const struct virtio_device_ops noting_ops = {
	.device_id = 99,
	.serve = note_chain,
	.start = note_start,
	.pause = note_pause,
	.resume = note_resume,
	.reset = note_reset,
	.end = note_end,
	.release = virtio_device_free,
};

/* One that has none of the optional operations. */
static const struct virtio_device_ops bare_ops = {
	.device_id = 99,
	.serve = note_chain,
	.release = virtio_device_free,
};

static void make_device(const struct virtio_device_ops *ops)
{
	memset(steps, 0, sizeof(steps));
	device = virtio_device_create(
		sizeof(*device), ops, "noting", 0, 1, QUEUE_SIZE, &sim.environment);
	ck_assert_ptr_nonnull(device);
	device->queues[0].name = "noting";
	ck_assert_int_eq(machine_add(&sim.machine, device), 0);
	ck_assert_int_eq(device->state, VIRTIO_CREATED);
}

static void setup_noting(void)
{
	setup();
	make_device(&noting_ops);
}

static void start_driver(void)
{
	sim_start_device(&sim, 0, FEATURES_EVENT, &queue, 1, QUEUE_SIZE);
}

static void publish(void)
{
	struct part part = { sim_alloc(&sim, 8, 1), 8, false };

	driver_publish(&queue, driver_chain(&queue, &part, 1));
}

START_TEST(device_goes_through_its_life)
{
	virtio_start(device);
	ck_assert_int_eq(device->state, VIRTIO_RUNNING);
	start_driver();
	virtio_pause(device);
	ck_assert_int_eq(device->state, VIRTIO_PAUSED);
	virtio_drain(device);
	virtio_resume(device);
	ck_assert_int_eq(device->state, VIRTIO_RUNNING);
	sim_run_moment(&sim);
	virtio_pause(device);
	virtio_resume(device);
	sim_run_moment(&sim);
	virtio_end(device);
	ck_assert_int_eq(device->state, VIRTIO_ENDING);
	ck_assert_str_eq(steps, "sprpre");
}
END_TEST

START_TEST(paused_device_may_end)
{
	virtio_start(device);
	virtio_pause(device);
	virtio_end(device);
	ck_assert_str_eq(steps, "spe");
}
END_TEST

START_TEST(operations_are_optional)
{
	setup();
	make_device(&bare_ops);
	virtio_start(device);
	start_driver();
	virtio_pause(device);
	sim_reset(&sim, 0);
	virtio_resume(device);
	start_driver();
	publish();
	driver_kick(&queue);
	virtio_end(device);
	ck_assert_str_eq(steps, "c");
	teardown();
}
END_TEST

/* Up to a state, and then a step that must not follow; the last in each is the wrong one. */
static const char *const wrong_steps[] = { "p", "r", "e", "d", "ss", "sr", "sd", "sps", "spp", "sprr",
	"ses", "sep", "ser", "see", "spes", "spep", "sper", "spee" };

static void take_step(char step)
{
	switch (step) {
	case 's':
		virtio_start(device);
		break;
	case 'p':
		virtio_pause(device);
		break;
	case 'r':
		virtio_resume(device);
		break;
	case 'd':
		virtio_drain(device);
		break;
	default:
		virtio_end(device);
	}
}

START_TEST(wrong_step_aborts_a_debug_build)
{
	const char *step = wrong_steps[_i];

	for (; step[1]; step++)
		take_step(*step);
	take_step(*step);
	ck_abort_msg("%s went through", wrong_steps[_i]);
}
END_TEST

START_TEST(driver_of_a_device_that_is_not_started_aborts_a_debug_build)
{
	sim_call(&sim, KARMA_CALL_device_set_status, 0, STATUS_DRIVER);
}
END_TEST

START_TEST(driver_of_a_paused_device_aborts_a_debug_build)
{
	virtio_start(device);
	virtio_pause(device);
	sim_call(&sim, KARMA_CALL_device_set_status, 0, STATUS_DRIVER);
}
END_TEST

/* --- What a pause holds up, and what it does not. */

START_TEST(paused_device_takes_no_chain_until_it_is_resumed)
{
	virtio_start(device);
	start_driver();
	virtio_pause(device);
	publish();
	driver_kick(&queue);
	sim_run_moment(&sim);
	ck_assert_str_eq(steps, "sp");
	/* Nobody has to notify again. */
	virtio_resume(device);
	driver_wait(&queue);
	ck_assert_str_eq(steps, "sprc");
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
	driver_kick(&queue);
	ck_assert_str_eq(steps, "sprc");
}
END_TEST

START_TEST(turn_that_comes_in_a_pause_is_had_afterwards)
{
	virtio_start(device);
	start_driver();
	publish();
	pthread_mutex_lock(device->queues[0].lock);
	virtio_reschedule(&device->queues[0]);
	pthread_mutex_unlock(device->queues[0].lock);
	virtio_pause(device);
	sim_run_moment(&sim);
	ck_assert_uint_eq(device->in_flight, 0);
	ck_assert_str_eq(steps, "sp");
	virtio_resume(device);
	driver_wait(&queue);
}
END_TEST

START_TEST(paused_device_is_reset)
{
	virtio_start(device);
	start_driver();
	publish();
	virtio_pause(device);
	sim_reset(&sim, 0);
	ck_assert_int_eq(device->state, VIRTIO_PAUSED);
	virtio_resume(device);
	sim_run_moment(&sim);
	ck_assert_str_eq(steps, "sp0r");
	start_driver();
	publish();
	driver_kick(&queue);
	ck_assert_str_eq(steps, "sp0rc");
}
END_TEST

START_TEST(broken_device_stays_so_over_a_pause)
{
	virtio_start(device);
	start_driver();
	queue.avail->idx += QUEUE_SIZE + 1;
	driver_kick(&queue);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	virtio_pause(device);
	virtio_resume(device);
	sim_run_moment(&sim);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	ck_assert_str_eq(steps, "spr");
}
END_TEST

START_TEST(what_the_user_changes_in_a_pause_is_told)
{
	virtio_start(device);
	start_driver();
	virtio_pause(device);
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	virtio_config_changed(device);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
}
END_TEST

START_TEST(all_devices_are_paused_and_resumed_together)
{
	ck_assert_int_eq(machine_add(&sim.machine, rng_create(&sim.environment)), 0);
	machine_start_devices(&sim.machine);
	machine_pause_devices(&sim.machine);
	for (unsigned i = 0; i < 2; i++)
		ck_assert_int_eq(sim.machine.devices[i]->state, VIRTIO_PAUSED);
	machine_resume_devices(&sim.machine);
	machine_end_devices(&sim.machine);
	for (unsigned i = 0; i < 2; i++)
		ck_assert_int_eq(sim.machine.devices[i]->state, VIRTIO_ENDING);
}
END_TEST

/* --- A disk whose reads end when the test says so. */

static uint64_t status_gpa;

static void setup_disk(void)
{
	setup();
	device = pipe_disk_create(&sim);
	sim_add(&sim, device);
	sim_start_device(&sim, 0, FEATURES_EVENT, &queue, 1, QUEUE_SIZE);
}

static void teardown_disk(void)
{
	pipe_disk_close();
	teardown();
}

static void publish_read(void)
{
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN };

	status_gpa = sim_alloc(&sim, 1, 1);
	*(uint8_t *)sim_at(&sim, status_gpa, 1) = 0xee;
	driver_publish(&queue,
		driver_chain(&queue,
			(struct part[]){ { sim_text(&sim, &header, sizeof(header)), sizeof(header), false },
				{ sim_alloc(&sim, SECTOR, SECTOR), SECTOR, true }, { status_gpa, 1, true } },
			3));
}

START_TEST(request_in_flight_completes_in_a_pause)
{
	publish_read();
	driver_kick(&queue);
	virtio_pause(device);
	ck_assert_uint_eq(device->in_flight, 1);
	publish_read();
	end_reads(1);
	driver_wait(&queue);
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
	ck_assert_uint_eq(device->in_flight, 0);
	/* The second one is not taken before. */
	virtio_resume(device);
	sim_run_moment(&sim);
	ck_assert_uint_eq(device->in_flight, 1);
	end_reads(1);
	driver_wait(&queue);
}
END_TEST

static void *run_loop(void *ring)
{
	io_ring_loop(ring);
	return NULL;
}

START_TEST(drain_waits_for_what_is_in_flight)
{
	pthread_t io_thread;

	publish_read();
	driver_kick(&queue);
	virtio_pause(device);
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_loop, &sim.ring), 0);
	end_reads(1);
	virtio_drain(device);
	ck_assert_uint_eq(driver_used(&queue), 1);
	virtio_resume(device);
	virtio_end(device);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
}
END_TEST

static atomic_bool clock_runs;

static void *run_clock_fast(void *unused)
{
	for (int64_t ns = 0; clock_runs; ns += 1000000)
		sim_set_clock(ns);
	return unused;
}

START_TEST(drain_of_a_disk_that_hangs_ends)
{
	const char *messages;
	pthread_t clock;

	publish_read();
	driver_kick(&queue);
	machine_pause_devices(&sim.machine);
	clock_runs = true;
	ck_assert_int_eq(pthread_create(&clock, NULL, run_clock_fast, NULL), 0);
	messages_begin();
	ck_assert_int_eq(machine_drain_devices(&sim.machine), -EBUSY);
	messages = messages_end();
	clock_runs = false;
	pthread_join(clock, NULL);
	ck_assert_ptr_nonnull(strstr(messages, "its requests in flight take more than 2 seconds"));
	end_reads(1);
	sim_run_moment(&sim);
	ck_assert_int_eq(machine_drain_devices(&sim.machine), 0);
}
END_TEST

START_TEST(reset_in_a_pause_waits_for_what_is_in_flight)
{
	publish_read();
	driver_kick(&queue);
	virtio_pause(device);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_set_status, 0, 0), 0);
	ck_assert_int_ne(sim_status(&sim, 0), 0);
	end_reads(1);
	sim_run_moment(&sim);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
	ck_assert_int_eq(*(uint8_t *)sim_at(&sim, status_gpa, 1), 0xee);
	virtio_resume(device);
	ck_assert_uint_eq(device->in_flight, 0);
}
END_TEST

START_TEST(paused_disk_ends_with_what_is_in_flight)
{
	pthread_t io_thread;

	publish_read();
	driver_kick(&queue);
	virtio_pause(device);
	end_reads(1);
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_loop, &sim.ring), 0);
	virtio_end(device);
	ck_assert_uint_eq(driver_used(&queue), 1);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
}
END_TEST

/* Pauses at any moment of a guest that keeps its queue full. */
START_TEST(requests_of_many_pauses_all_complete)
{
	pthread_t io_thread;

	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_loop, &sim.ring), 0);
	for (unsigned i = 0; i < 200; i++) {
		publish_read();
		if (i % 3)
			driver_kick(&queue);
		virtio_pause(device);
		if (i % 2)
			end_reads(1);
		virtio_resume(device);
		if (i % 2 == 0)
			end_reads(1);
		while (driver_used(&queue) == 0)
			sched_yield();
		queue.last_used++;
	}
	virtio_end(device);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
}
END_TEST

/* --- A network, whose other end is a socket. */

static struct net end;
static int host_fd;
static struct driver_queue queues[3];

static ssize_t end_receive(struct net *net, unsigned index, const struct iovec *iov, unsigned count)
{
	ssize_t got = readv(net->queues[index].fd, iov, count);

	return got < 0 ? -EAGAIN : got;
}

static int end_send(struct net *net, unsigned index, struct iovec *iov, unsigned count)
{
	return writev(net->queues[index].fd, iov, count) < 0 ? -EAGAIN : 0;
}

static const struct net_ops end_ops = { .receive = end_receive, .send = end_send };

static void setup_net(void)
{
	static const uint8_t mac[ETH_ALEN] = { 2 };
	int fds[2];

	setup();
	memset(&end, 0, sizeof(end));
	net_init(&end, &end_ops, &sim.ring);
	ck_assert_int_eq(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	end.queues[0].fd = fds[0];
	host_fd = fds[1];
	end.queue_count = 1;
	end.up = true;
	device = net_create(&sim.environment, "eth0", &end, mac, 0);
	sim_add(&sim, device);
	sim_start_device(&sim, 0, FEATURES_EVENT, queues, 3, QUEUE_SIZE);
}

static void teardown_net(void)
{
	teardown();
	close(end.queues[0].fd);
	close(host_fd);
}

static void offer_buffer(void)
{
	struct part part = { sim_alloc(&sim, 2048, 1), 2048, true };

	driver_publish(&queues[0], driver_chain(&queues[0], &part, 1));
	driver_kick(&queues[0]);
}

static void publish_frame(void)
{
	struct part part = { sim_alloc(&sim, HEADER + FRAME, 1), HEADER + FRAME, false };

	driver_publish(&queues[1], driver_chain(&queues[1], &part, 1));
	driver_kick(&queues[1]);
}

static void host_sends(void)
{
	uint8_t frame[HEADER + FRAME] = { 0 };

	ck_assert_int_eq(write(host_fd, frame, sizeof(frame)), sizeof(frame));
}

static unsigned host_received(void)
{
	uint8_t frame[HEADER + FRAME];
	unsigned count = 0;

	while (read(host_fd, frame, sizeof(frame)) > 0)
		count++;
	return count;
}

START_TEST(frame_that_comes_in_a_pause_is_received_afterwards)
{
	offer_buffer();
	virtio_pause(device);
	host_sends();
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(&queues[0]), 0);
	virtio_resume(device);
	driver_wait(&queues[0]);
}
END_TEST

/* Frames that the other end has no room for, which it gets in the pause: nobody hears of it then. */
START_TEST(transmission_that_is_blocked_goes_on_after_a_pause)
{
	unsigned sent = 0, received;

	while (end.queues[0].writable_armed == false && sent < 2000) {
		for (unsigned i = 0; i < QUEUE_SIZE / 2; i++, sent++)
			publish_frame();
		sim_run_moment(&sim);
		queues[1].last_used += driver_used(&queues[1]);
	}
	ck_assert(end.queues[0].writable_armed);
	virtio_pause(device);
	received = host_received();
	sim_run_moment(&sim);
	ck_assert_uint_eq(host_received(), 0);
	virtio_resume(device);
	for (unsigned i = 0; i < 100 && received < sent; i++) {
		sim_run_moment(&sim);
		received += host_received();
	}
	ck_assert_uint_eq(received, sent);
}
END_TEST

/* The interrupt for a lone frame is delayed, but not by a pause. */
START_TEST(interrupt_that_was_delayed_comes_before_a_pause)
{
	publish_frame();
	ck_assert_uint_eq(driver_used(&queues[1]), 1);
	ck_assert_uint_eq(driver_interrupts(&queues[1]), 0);
	virtio_pause(device);
	ck_assert_uint_eq(driver_interrupts(&queues[1]), 1);
	while (device->in_flight)
		sim_run_moment(&sim);
	virtio_resume(device);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(&queues[1]), 0);
}
END_TEST

Suite *life_cycle_suite(void)
{
	const TTest *const order_tests[] = {
		device_goes_through_its_life,
		paused_device_may_end,
		paused_device_takes_no_chain_until_it_is_resumed,
		turn_that_comes_in_a_pause_is_had_afterwards,
		paused_device_is_reset,
		broken_device_stays_so_over_a_pause,
		what_the_user_changes_in_a_pause_is_told,
		all_devices_are_paused_and_resumed_together,
	};
	const TTest *const disk_tests[] = {
		request_in_flight_completes_in_a_pause,
		drain_waits_for_what_is_in_flight,
		drain_of_a_disk_that_hangs_ends,
		reset_in_a_pause_waits_for_what_is_in_flight,
		paused_disk_ends_with_what_is_in_flight,
		requests_of_many_pauses_all_complete,
	};
	const TTest *const net_tests[] = {
		frame_that_comes_in_a_pause_is_received_afterwards,
		transmission_that_is_blocked_goes_on_after_a_pause,
		interrupt_that_was_delayed_comes_before_a_pause,
	};
	Suite *suite = suite_create("life_cycle");
	TCase *wrong = tcase_create("wrong"), *bare = tcase_create("bare");

	add_case(suite, "order", setup_noting, teardown, 30, order_tests, ARRAY_SIZE(order_tests));
	add_case(suite, "disk", setup_disk, teardown_disk, 30, disk_tests, ARRAY_SIZE(disk_tests));
	add_case(suite, "net", setup_net, teardown_net, 30, net_tests, ARRAY_SIZE(net_tests));
	tcase_add_checked_fixture(wrong, setup_noting, teardown);
	tcase_add_loop_test_raise_signal(
		wrong, wrong_step_aborts_a_debug_build, SIGABRT, 0, ARRAY_SIZE(wrong_steps));
	tcase_add_test_raise_signal(
		wrong, driver_of_a_device_that_is_not_started_aborts_a_debug_build, SIGABRT);
	tcase_add_test_raise_signal(
		wrong, driver_of_a_paused_device_aborts_a_debug_build, SIGABRT);
	suite_add_tcase(suite, wrong);
	tcase_add_test(bare, operations_are_optional);
	suite_add_tcase(suite, bare);
	return suite;
}
