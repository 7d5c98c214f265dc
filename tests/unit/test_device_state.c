// SPDX-License-Identifier: GPL-2.0-only
/* The machine and the transport in snapshots: what comes back, what the guest is told, and what is refused. */
#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>

#include "state_fixture.h"

#define QUEUE_SIZE 16

static struct sim sim;
static struct driver_queue queue;
static struct virtio_device *device;

static void add_rng(void)
{
	device = rng_create(&sim.environment);
	ck_assert_int_eq(machine_add(&sim.machine, device), 0);
}

static void start_driver(void)
{
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT, &queue, 1, QUEUE_SIZE);
}

static void setup(void)
{
	sim_init(&sim, SIM_MEMORY);
	sim_add(&sim, rng_create(&sim.environment));
	start_driver();
}

static void teardown(void)
{
	sim_release(&sim);
}

static void publish(void)
{
	struct part part = { sim_alloc(&sim, 16, 1), 16, true };

	driver_publish(&queue, driver_chain(&queue, &part, 1));
}

static void kick_any(void)
{
	sim_call(&sim, KARMA_CALL_queue_notify, KARMA_ARG(0, 0), 0);
	run_what_is_due(&sim);
}

static void restore(void)
{
	sim_change_process(&sim);
	add_rng();
	ck_assert_int_eq(sim_restore(&sim), 0);
}

/* --- What comes back. */

START_TEST(driver_goes_on_with_its_queue)
{
	for (unsigned i = 0; i < 3; i++) {
		publish();
		driver_kick(&queue);
		driver_wait(&queue);
	}
	driver_interrupts(&queue);
	*driver_used_event(&queue) = queue.last_used;
	sim_save(&sim);
	restore();
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
	publish();
	driver_kick(&queue);
	ck_assert_uint_eq(driver_wait(&queue).len, 16);
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
	ck_assert_uint_eq(driver_used(&queue), 0);
}
END_TEST

START_TEST(saved_device_goes_on_as_well)
{
	sim_save(&sim);
	machine_resume_devices(&sim.machine);
	publish();
	driver_kick(&queue);
	ck_assert_uint_eq(driver_wait(&queue).len, 16);
}
END_TEST

/* The driver had notified, and the device had not come to it: nobody notifies again. */
START_TEST(chain_that_waits_is_served_after_the_start)
{
	publish();
	sim_save(&sim);
	ck_assert_uint_eq(driver_used(&queue), 0);
	restore();
	ck_assert_uint_eq(driver_wait(&queue).len, 16);
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
}
END_TEST

START_TEST(queue_that_is_broken_stays_so_until_a_reset)
{
	queue.avail->idx += QUEUE_SIZE + 1;
	driver_kick(&queue);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	sim_save(&sim);
	queue.avail->idx -= QUEUE_SIZE + 1;
	restore();
	publish();
	driver_kick(&queue);
	sim_run_moment(&sim);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	ck_assert_uint_eq(driver_used(&queue), 0);
	sim_reset(&sim, 0);
	start_driver();
	publish();
	driver_kick(&queue);
	driver_wait(&queue);
}
END_TEST

START_TEST(device_without_a_driver_gets_one_afterwards)
{
	sim_reset(&sim, 0);
	sim_save(&sim);
	restore();
	ck_assert_int_eq(sim_status(&sim, 0), 0);
	start_driver();
	publish();
	driver_kick(&queue);
	driver_wait(&queue);
}
END_TEST

/* Between features and queues. */
START_TEST(negotiation_goes_on_where_it_was)
{
	sim_reset(&sim, 0);
	sim_negotiate(&sim, 0, FEATURES_EVENT);
	sim_save(&sim);
	restore();
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_FEATURES);
	driver_queue_setup(&queue, &sim, 0, 0, QUEUE_SIZE);
	sim_driver_ok(&sim, 0);
	publish();
	driver_kick(&queue);
	driver_wait(&queue);
	ck_assert_uint_eq(*driver_avail_event(&queue), 1);
}
END_TEST

START_TEST(events_that_wait_come_again_with_their_interrupt)
{
	machine_press_power_button(&sim.machine);
	virtio_config_changed(sim.machine.devices[0]);
	sim_save(&sim);
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	restore();
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_POWER_BUTTON);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), 0);
}
END_TEST

START_TEST(no_event_is_no_interrupt)
{
	sim_save(&sim);
	restore();
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
	ck_assert_uint_eq(sim.readies + sim.ups, 0);
}
END_TEST

START_TEST(what_the_guest_has_said_is_told_again)
{
	sim_call(&sim, KARMA_CALL_ready, KARMA_READY_QUOTED, 0);
	sim_save(&sim);
	sim.readies = sim.ups = sim.ready = 0;
	restore();
	ck_assert_uint_eq(sim.readies, 1);
	ck_assert_uint_eq(sim.ready, KARMA_READY_QUOTED);
	ck_assert_uint_eq(sim.ups, 1);
	sim_save(&sim);
	ck_assert(sim.machine.tells_ready);
}
END_TEST

START_TEST(guest_that_is_not_ready_is_not_up)
{
	sim_call(&sim, KARMA_CALL_ready, KARMA_READY_NOT_YET, 0);
	sim_save(&sim);
	sim.readies = sim.ups = 0;
	restore();
	ck_assert_uint_eq(sim.readies, 1);
	ck_assert_uint_eq(sim.ups, 0);
}
END_TEST

START_TEST(guest_that_was_watched_is_watched_if_there_is_a_watchdog)
{
	sim.machine.watchdog = 10;
	sim_call(&sim, KARMA_CALL_watchdog, KARMA_WATCHDOG_FEED, 0);
	sim_call(&sim, KARMA_CALL_watchdog, KARMA_WATCHDOG_FEED, 0);
	sim_save(&sim);
	restore();
	ck_assert_uint_eq(sim.machine.feeds, 0);
	sim_change_process(&sim);
	add_rng();
	sim.machine.watchdog = 10;
	ck_assert_int_eq(sim_restore(&sim), 0);
	ck_assert_uint_eq(sim.machine.feeds, 1);
}
END_TEST

/* --- What may be wrong. */

START_TEST(every_wrong_number_is_refused_or_harmless)
{
	publish();
	restore_every_wrong_number(&sim, add_rng, kick_any);
}
END_TEST

static void add_nothing(void)
{
}

static void add_two(void)
{
	add_rng();
	ck_assert_int_eq(machine_add(&sim.machine, balloon_create(&sim.environment, 0)), 0);
}

static void add_balloon(void)
{
	ck_assert_int_eq(machine_add(&sim.machine, balloon_create(&sim.environment, 0)), 0);
}

START_TEST(device_that_is_missing_is_named)
{
	sim_save(&sim);
	expect_restore_refused(&sim, add_nothing,
		"snapshot: has the entropy source rng, which this guest lacks: give the same options");
}
END_TEST

START_TEST(device_that_is_one_more_is_named)
{
	sim_save(&sim);
	expect_restore_refused(&sim, add_two,
		"snapshot: lacks the balloon balloon, which this guest has: give the same --balloon");
}
END_TEST

START_TEST(device_of_another_kind_is_named)
{
	sim_save(&sim);
	expect_restore_refused(&sim, add_balloon, "snapshot: has the entropy source rng, which this guest lacks");
}
END_TEST

START_TEST(other_number_of_queues_is_told)
{
	sim_save(&sim);
	sim_change_state(SNAPSHOT_MACHINE, 0, 2, 4);
	expect_restore_refused(&sim, add_rng, "snapshot: the entropy source rng had 4 queues, and has 1 here");
}
END_TEST

START_TEST(features_that_are_missing_are_named)
{
	sim_save(&sim);
	sim_change_state(SNAPSHOT_DEVICE, 0, 1, sim_state_number(SNAPSHOT_DEVICE, 0, 1) | 1ull << 40);
	expect_restore_refused(&sim, add_rng, "snapshot: device rng: lacks the features 0x10000000000 here");
}
END_TEST

START_TEST(rings_outside_of_memory_are_refused)
{
	sim_save(&sim);
	sim_change_state(SNAPSHOT_DEVICE, 0, 4, SIM_MEMORY);
	expect_restore_refused(&sim, add_rng, "snapshot: device rng: its request queue has rings that no guest can have set up");
}
END_TEST

/* --- Devices of the tests' own. */

static uint32_t config_of_tests;

static uint32_t serve_nothing(struct virtio_device *of, unsigned index, const struct virtq_chain *chain)
{
	(void)of;
	(void)index;
	(void)chain;
	return 0;
}

static const char *why_not(const struct virtio_device *of)
{
	(void)of;
	return config_of_tests == 13 ? "it is Friday" : NULL;
}

static const struct virtio_device_ops test_ops = {
	.device_id = 99,
	.serve = serve_nothing,
	.unsavable = why_not,
	.release = virtio_device_free,
};

static void add_test_device(void)
{
	device = virtio_device_create(sizeof(*device), &test_ops, "tested", 0, 1, QUEUE_SIZE, &sim.environment);
	ck_assert_ptr_nonnull(device);
	device->queues[0].name = "request";
	device->config = &config_of_tests;
	device->config_size = sizeof(config_of_tests);
	ck_assert_int_eq(machine_add(&sim.machine, device), 0);
}

static void setup_test_device(void)
{
	sim_init(&sim, SIM_MEMORY);
	config_of_tests = 5;
	add_test_device();
	machine_start_devices(&sim.machine);
	start_driver();
}

static void restore_test_device(void)
{
	sim_change_process(&sim);
	add_test_device();
	ck_assert_int_eq(sim_restore(&sim), 0);
}

START_TEST(configuration_that_differs_is_told)
{
	int64_t generation;

	virtio_config_changed(device);
	sim_call(&sim, KARMA_CALL_event, 0, 0);
	generation = sim_call(&sim, KARMA_CALL_config_generation, 0, 0);
	sim_save(&sim);
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	restore_test_device();
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_generation, 0, 0), generation);
	config_of_tests = 6;
	restore_test_device();
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_generation, 0, 0), generation + 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG);
}
END_TEST

START_TEST(device_that_cannot_be_saved_says_why)
{
	static uint8_t bytes[4096];
	struct snapshot_writer writer;
	const char *messages;

	config_of_tests = 13;
	machine_pause_devices(&sim.machine);
	snapshot_writer_init(&writer, bytes, sizeof(bytes));
	messages_begin();
	ck_assert_int_eq(machine_save(&sim.machine, &writer, true), -ENOTSUP);
	messages = messages_end();
	ck_assert_ptr_nonnull(strstr(messages, "device tested: can't be in a snapshot, since it is Friday"));
}
END_TEST

/* --- The balloon. */

static struct driver_queue balloon_queues[3];
static const size_t target_at = offsetof(struct virtio_balloon_config, num_pages),
		    actual_at = offsetof(struct virtio_balloon_config, actual);

static uint32_t balloon_config(size_t offset)
{
	uint64_t gpa = sim_alloc(&sim, sizeof(uint32_t), 4);

	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, offset, sizeof(uint32_t)), gpa), 0);
	return *(uint32_t *)sim_at(&sim, gpa, sizeof(uint32_t));
}

static uint64_t counted(const char *name)
{
	const struct virtio_device *of = sim.machine.devices[0];

	for (unsigned i = 0; i < of->counter_count; i++) {
		if (strcmp(of->counters[i].name, name) == 0)
			return count_of(&of->counters[i].value);
	}
	ck_abort_msg("no counter %s", name);
}

static void inflate(uint32_t pfn)
{
	struct part part = { sim_text(&sim, &pfn, sizeof(pfn)), sizeof(pfn), false };

	driver_publish(&balloon_queues[0], driver_chain(&balloon_queues[0], &part, 1));
}

static void start_balloon(void)
{
	uint32_t actual = 7;

	sim_init(&sim, SIM_MEMORY);
	sim_add(&sim, balloon_create(&sim.environment, 10 * PAGE_BYTES));
	sim_start_device(&sim, 0, FEATURES_EVENT, balloon_queues, 3, QUEUE_SIZE);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, actual_at, sizeof(actual)),
				 sim_text(&sim, &actual, sizeof(actual))),
		0);
}

START_TEST(balloon_keeps_its_size)
{
	balloon_set(sim.machine.devices[0], 20 * PAGE_BYTES);
	sim_call(&sim, KARMA_CALL_event, 0, 0);
	sim_save(&sim);
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	sim_change_process(&sim);
	add_balloon();
	ck_assert_int_eq(sim_restore(&sim), 0);
	ck_assert_uint_eq(balloon_config(target_at), 20);
	ck_assert_uint_eq(balloon_config(actual_at), 7);
	ck_assert_uint_eq(counted("target_bytes"), 20 * PAGE_BYTES);
	ck_assert_uint_eq(counted("actual_bytes"), 7 * PAGE_BYTES);
	/* The guest knows all that. */
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
}
END_TEST

static void kick_balloon(void)
{
	for (unsigned i = 0; i < 3; i++)
		sim_call(&sim, KARMA_CALL_queue_notify, KARMA_ARG(0, i), 0);
	run_what_is_due(&sim);
}

START_TEST(balloon_with_any_wrong_number_is_refused_or_harmless)
{
	inflate(SIM_MEMORY / PAGE_BYTES - 1);
	restore_every_wrong_number(&sim, add_balloon, kick_balloon);
}
END_TEST

/* Random pages, of which each that was given is free, and no other. */
START_TEST(balloon_frees_the_same_with_snapshots)
{
	const uint64_t spare = 8 * MIB, pages = 64;
	uint64_t random = 1 + _i;
	bool given[64] = { false };

	memset(sim_at(&sim, spare, pages * PAGE_BYTES), 0xa5, pages * PAGE_BYTES);
	for (unsigned step = 0; step < 60; step++) {
		unsigned page = random_next(&random) % pages;

		inflate(spare / PAGE_BYTES + page);
		given[page] = true;
		if (random_next(&random) % 2)
			driver_kick(&balloon_queues[0]);
		if (random_next(&random) % 8 == 0) {
			sim_save(&sim);
			sim_change_process(&sim);
			add_balloon();
			ck_assert_int_eq(sim_restore(&sim), 0);
		}
		driver_kick(&balloon_queues[0]);
		driver_wait(&balloon_queues[0]);
	}
	for (unsigned i = 0; i < pages; i++)
		ck_assert_uint_eq(*(uint8_t *)sim_at(&sim, spare + i * PAGE_BYTES, 1), given[i] ? 0 : 0xa5);
}
END_TEST

/* --- The entropy source. */

START_TEST(rng_fills_the_same_with_snapshots)
{
	uint64_t random = 1 + _i;
	unsigned published = 0, filled = 0;

	for (unsigned step = 0; step < 100; step++) {
		if (published - filled < QUEUE_SIZE) {
			publish();
			published++;
		}
		if (random_next(&random) % 3 == 0)
			driver_kick(&queue);
		if (random_next(&random) % 16 == 0) {
			sim_save(&sim);
			restore();
		}
		for (; driver_used(&queue); filled++)
			ck_assert_uint_eq(driver_wait(&queue).len, 16);
	}
	driver_kick(&queue);
	for (; filled < published; filled++)
		ck_assert_uint_eq(driver_wait(&queue).len, 16);
	ck_assert_uint_eq(driver_used(&queue), 0);
}
END_TEST

Suite *device_state_suite(void)
{
	const TTest *const rng_tests[] = {
		driver_goes_on_with_its_queue,
		saved_device_goes_on_as_well,
		chain_that_waits_is_served_after_the_start,
		queue_that_is_broken_stays_so_until_a_reset,
		device_without_a_driver_gets_one_afterwards,
		negotiation_goes_on_where_it_was,
		events_that_wait_come_again_with_their_interrupt,
		no_event_is_no_interrupt,
		what_the_guest_has_said_is_told_again,
		guest_that_is_not_ready_is_not_up,
		guest_that_was_watched_is_watched_if_there_is_a_watchdog,
		every_wrong_number_is_refused_or_harmless,
		device_that_is_missing_is_named,
		device_that_is_one_more_is_named,
		device_of_another_kind_is_named,
		other_number_of_queues_is_told,
		features_that_are_missing_are_named,
		rings_outside_of_memory_are_refused,
	};
	const TTest *const own_tests[] = {
		configuration_that_differs_is_told,
		device_that_cannot_be_saved_says_why,
	};
	const TTest *const balloon_tests[] = {
		balloon_keeps_its_size,
		balloon_with_any_wrong_number_is_refused_or_harmless,
	};
	Suite *suite = suite_create("device_state");
	TCase *rng = add_case(suite, "machine", setup, teardown, 30, rng_tests, ARRAY_SIZE(rng_tests));
	TCase *balloon =
		add_case(suite, "balloon", start_balloon, teardown, 30, balloon_tests, ARRAY_SIZE(balloon_tests));

	add_case(suite, "own", setup_test_device, teardown, 30, own_tests, ARRAY_SIZE(own_tests));
	tcase_add_loop_test(rng, rng_fills_the_same_with_snapshots, 0, 4);
	tcase_add_loop_test(balloon, balloon_frees_the_same_with_snapshots, 0, 4);
	state_blk_tests(suite);
	state_console_tests(suite);
	state_net_tests(suite);
	state_vsock_tests(suite);
	state_vhost_tests(suite);
	return suite;
}
