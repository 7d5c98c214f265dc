// SPDX-License-Identifier: GPL-2.0-only
/* The transport: status, features, configuration, queues, and reset. */
#include <errno.h>

#include "transport_fixture.h"

static int64_t accept_features(uint64_t features)
{
	int64_t result =
		sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(0, 0), features & 0xffffffff);

	return result ? result
		      : sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(0, 1), features >> 32);
}

static void break_queue(void)
{
	driver_publish(&queue, QUEUE_SIZE + 7);
	driver_kick(&queue);
}

START_TEST(new_device_has_status_0)
{
	ck_assert_int_eq(sim_status(&sim, 0), 0);
	ck_assert_int_eq(sim_status(&sim, 1), 0);
}
END_TEST

START_TEST(status_is_raised_step_by_step)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_FEATURES);
	sim_driver_ok(&sim, 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
	ck_assert_int_eq(sim_status(&sim, 1), 0);
}
END_TEST

START_TEST(status_bits_are_cleared_by_reset_only)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(set_status(STATUS_DRIVER), -EINVAL);
	ck_assert_int_eq(set_status(VIRTIO_CONFIG_S_FEATURES_OK), -EINVAL);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_FEATURES);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(set_status(0), 0);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
}
END_TEST

START_TEST(unknown_status_bits_are_refused)
{
	const uint64_t values[] = { 0x10, 0x20, 0x30, 0x100, 0x101, 1ull << 32, UINT64_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		ck_assert_int_eq(set_status(values[i]), -EINVAL);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
}
END_TEST

START_TEST(driver_may_give_up)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(set_status(STATUS_FEATURES | VIRTIO_CONFIG_S_FAILED), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_FEATURES | VIRTIO_CONFIG_S_FAILED);
}
END_TEST

START_TEST(driver_can_not_set_needs_reset)
{
	start(FEATURES_PLAIN);
	ck_assert_int_eq(set_status(STATUS_BROKEN), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

START_TEST(driver_ok_needs_features_ok)
{
	ck_assert_int_eq(set_status(STATUS_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK), -EINVAL);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
	/* In one go, with features that can't be. */
	ck_assert_int_eq(set_status(STATUS_RUNNING), -EINVAL);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
}
END_TEST

START_TEST(features_ok_is_refused_without_version_1)
{
	ck_assert_int_eq(set_status(STATUS_DRIVER), 0);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_DRIVER);
	ck_assert_int_eq(accept_features(FEATURE(VIRTIO_BLK_F_FLUSH)), 0);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_DRIVER);
	/* The driver may try again with better ones. */
	ck_assert_int_eq(accept_features(FEATURES_PLAIN), 0);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_FEATURES);
}
END_TEST

START_TEST(features_ok_is_refused_for_every_bit_not_offered)
{
	for (unsigned bit = 0; bit < 64; bit++) {
		bool offered = blk->offered & FEATURE(bit);

		ck_assert_int_eq(set_status(STATUS_DRIVER), 0);
		ck_assert_int_eq(accept_features(FEATURES_PLAIN | FEATURE(bit)), 0);
		ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
		ck_assert_int_eq(sim_status(&sim, 0), offered ? STATUS_FEATURES : STATUS_DRIVER);
		sim_reset(&sim, 0);
	}
}
END_TEST

START_TEST(features_are_fixed_by_features_ok)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(accept_features(FEATURES_EVENT), -EBUSY);
	sim_reset(&sim, 0);
	ck_assert_int_eq(accept_features(FEATURES_EVENT), 0);
}
END_TEST

START_TEST(reset_forgets_features)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	sim_reset(&sim, 0);
	ck_assert_int_eq(set_status(STATUS_DRIVER), 0);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_DRIVER);
}
END_TEST

START_TEST(there_are_two_halves_of_features)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(0, 2), 0), -EINVAL);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(0, 0xffff), 0), -EINVAL);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(0, 0), 1ull << 32), -EINVAL);
}
END_TEST

START_TEST(every_piece_of_the_configuration_can_be_read_and_nothing_else)
{
	size_t size = blk->config_size;
	uint64_t to = sim_alloc(&sim, KARMA_CONFIG_MAX + 1, 1);
	uint8_t *bytes = sim_at(&sim, to, KARMA_CONFIG_MAX + 1);

	for (size_t offset = 0; offset <= size + 2; offset++) {
		for (size_t length = 1; length <= size + 2; length++) {
			bool fits = offset + length <= size;

			memset(bytes, 0xcc, length + 1);
			ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_read,
						 KARMA_ARG_CONFIG(0, offset, length), to),
				fits ? 0 : -EINVAL);
			ck_assert_uint_eq(bytes[length], 0xcc);
			if (fits)
				ck_assert_mem_eq(
					bytes, (const uint8_t *)blk->config + offset, length);
			else
				ck_assert_uint_eq(bytes[0], 0xcc);
		}
	}
}
END_TEST

START_TEST(configuration_far_outside_is_refused)
{
	uint64_t to = sim_alloc(&sim, KARMA_CONFIG_MAX, 1);

	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0xfff, 1), to), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_read,
				 KARMA_ARG_CONFIG(0, 0, KARMA_CONFIG_MAX), to),
		-EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_read,
				 KARMA_ARG_CONFIG(0, 0xfff, KARMA_CONFIG_MAX), to),
		-EINVAL);
	/* The entropy device has none. */
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(1, 0, 1), to), -EINVAL);
}
END_TEST

START_TEST(configuration_is_not_written_outside_of_memory)
{
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 8), SIM_MEMORY - 7),
		-EFAULT);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 8), UINT64_MAX - 3),
		-EFAULT);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 8), SIM_MEMORY - 8),
		0);
}
END_TEST

START_TEST(configuration_of_these_devices_is_read_only)
{
	struct virtio_blk_config before;
	uint64_t from = sim_text(&sim, "\xff\xff\xff\xff", 4);

	memcpy(&before, blk->config, sizeof(before));
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 0, 4), from), -EPERM);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_write,
				 KARMA_ARG_CONFIG(0, sizeof(before) - 3, 4), from),
		-EINVAL);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 0, 4), SIM_MEMORY - 3),
		-EFAULT);
	ck_assert_mem_eq(&before, blk->config, sizeof(before));
}
END_TEST

static int64_t setup_queue(unsigned index, uint32_t size)
{
	struct karma_queue_setup wanted = {
		.descriptors = sim_alloc(&sim, 16 * 1024, 16),
		.driver = sim_alloc(&sim, 4096, 2),
		.device = sim_alloc(&sim, 16384, 4),
		.size = size,
	};

	return sim_call(&sim, KARMA_CALL_queue_setup, KARMA_ARG(0, index),
		sim_text(&sim, &wanted, sizeof(wanted)));
}

START_TEST(queue_setup_before_features_ok_is_refused)
{
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE), -EINVAL);
	ck_assert_int_eq(set_status(STATUS_DRIVER), 0);
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE), -EINVAL);
	ck_assert_int_eq(accept_features(FEATURES_PLAIN), 0);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE), 0);
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE), -EINVAL);
}
END_TEST

START_TEST(queue_setup_with_a_bad_queue_or_size_is_refused)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(setup_queue(1, QUEUE_SIZE), -EINVAL);
	ck_assert_int_eq(setup_queue(0xffff, QUEUE_SIZE), -EINVAL);
	ck_assert_int_eq(setup_queue(0, 0), -EINVAL);
	ck_assert_int_eq(setup_queue(0, 7), -EINVAL);
	ck_assert_int_eq(setup_queue(0, 2 * QUEUE_SIZE_MAX), -EINVAL);
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE_MAX), 0);
}
END_TEST

START_TEST(queue_info_gives_size)
{
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_queue_info, KARMA_ARG(0, 0), 0), QUEUE_SIZE_MAX);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_info, KARMA_ARG(0, 1), 0), -EINVAL);
}
END_TEST

START_TEST(machine_takes_so_many_devices_and_no_more)
{
	while (sim.machine.device_count < KARMA_DEVICES_MAX)
		sim_add(&sim, rng_create(&sim.environment));
	ck_assert_int_eq(machine_add(&sim.machine, rng_create(&sim.environment)), -ENOSPC);
	ck_assert_uint_eq(sim.machine.device_count, KARMA_DEVICES_MAX);
}
END_TEST

START_TEST(notify_before_driver_ok_starts_nothing)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_notify, ARG_BLK, 0), -EINVAL);
	driver_queue_setup(&queue, &sim, 0, 0, QUEUE_SIZE);
	start_read();
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_uint_eq(blk->queues[0].chains, 0);
	sim_driver_ok(&sim, 0);
	driver_kick(&queue);
	ck_assert_uint_eq(blk->in_flight, 1);
	end_reads(1);
	driver_wait(&queue);
}
END_TEST

START_TEST(broken_ring_needs_reset_and_raises_an_event)
{
	int64_t generation;

	start(FEATURES_PLAIN);
	generation = sim_call(&sim, KARMA_CALL_config_generation, 0, 0);
	messages_begin();
	break_queue();
	ck_assert_ptr_nonnull(strstr(messages_end(), "vda"));
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG | 0 << 8);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), 0);
	ck_assert_int_ne(sim_call(&sim, KARMA_CALL_config_generation, 0, 0), generation);
	/* The other device goes on. */
	ck_assert_int_eq(sim_status(&sim, 1), 0);
}
END_TEST

START_TEST(broken_device_takes_nothing_until_it_is_reset)
{
	start(FEATURES_PLAIN);
	break_queue();
	start_read();
	ck_assert_uint_eq(blk->in_flight, 0);
	/* No status but 0 brings it back. */
	ck_assert_int_eq(set_status(STATUS_RUNNING), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	sim_reset(&sim, 0);
	start(FEATURES_PLAIN);
	start_read();
	end_reads(1);
	ck_assert_uint_eq(driver_wait(&queue).len, 513);
	ck_assert_uint_eq(*(uint8_t *)sim_at(&sim, status_gpa, 1), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(what_was_in_flight_when_the_ring_broke_still_ends)
{
	uint16_t head;

	start(FEATURES_PLAIN);
	head = start_read();
	break_queue();
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	end_reads(1);
	ck_assert_uint_eq(driver_wait(&queue).id, head);
	ck_assert_uint_eq(blk->in_flight, 0);
}
END_TEST

START_TEST(log_of_a_guest_that_breaks_rings_all_day_is_short)
{
	unsigned lines = 0;

	messages_begin();
	for (unsigned i = 0; i < 100; i++) {
		start(FEATURES_PLAIN);
		break_queue();
		sim_reset(&sim, 0);
	}
	for (const char *c = messages_end(); *c; c++)
		lines += *c == '\n';
	ck_assert_uint_ge(lines, 1);
	ck_assert_uint_le(lines, 10);
}
END_TEST

START_TEST(reset_waits_for_requests_in_flight)
{
	start(FEATURES_PLAIN);
	start_read();
	start_read();
	ck_assert_uint_eq(blk->in_flight, 2);
	ck_assert_int_eq(set_status(0), 0);
	ck_assert_int_ne(sim_status(&sim, 0), 0);
	sim_run_moment(&sim);
	ck_assert_int_ne(sim_status(&sim, 0), 0);
	end_reads(1);
	sim_run_moment(&sim);
	ck_assert_int_ne(sim_status(&sim, 0), 0);
	end_reads(1);
	sim_reset(&sim, 0);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
}
END_TEST

START_TEST(device_in_reset_takes_no_orders)
{
	start(FEATURES_PLAIN);
	start_read();
	ck_assert_int_eq(set_status(0), 0);
	ck_assert_int_eq(set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE), -EINVAL);
	ck_assert_int_eq(set_status(STATUS_RUNNING), -EINVAL);
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE), -EINVAL);
	ck_assert_int_eq(set_status(0), 0);
	start_read();
	ck_assert_uint_eq(blk->in_flight, 1);
	end_reads(1);
	sim_reset(&sim, 0);
}
END_TEST

START_TEST(memory_is_the_guests_again_after_reset)
{
	void *after = malloc(SIM_MEMORY);

	ck_assert_ptr_nonnull(after);
	start(FEATURES_PLAIN);
	start_read();
	ck_assert_int_eq(set_status(0), 0);
	end_reads(1);
	sim_reset(&sim, 0);
	/* The request ended in the reset: nobody is told. */
	ck_assert_uint_eq(driver_used(&queue), 0);
	ck_assert_uint_eq(*(uint8_t *)sim_at(&sim, status_gpa, 1), 0xee);
	ck_assert_uint_eq(driver_interrupts(&queue), 0);
	memcpy(after, sim.memory.base, SIM_MEMORY);
	end_reads(1);
	sim_run_moment(&sim);
	ck_assert(memcmp(after, sim.memory.base, SIM_MEMORY) == 0);
	free(after);
}
END_TEST

START_TEST(request_slots_are_free_after_reset)
{
	start(FEATURES_PLAIN);
	for (unsigned round = 0; round < 3; round++) {
		start_read();
		ck_assert_int_eq(set_status(0), 0);
		end_reads(1);
		sim_reset(&sim, 0);
		start(FEATURES_PLAIN);
		ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
	}
	start_read();
	end_reads(1);
	ck_assert_uint_eq(driver_wait(&queue).len, 513);
}
END_TEST

START_TEST(queue_is_gone_after_reset)
{
	start(FEATURES_PLAIN);
	sim_reset(&sim, 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_notify, ARG_BLK, 0), -EINVAL);
}
END_TEST

Suite *transport_suite(void)
{
	const TTest *const tests[] = {
		new_device_has_status_0,
		status_is_raised_step_by_step,
		status_bits_are_cleared_by_reset_only,
		unknown_status_bits_are_refused,
		driver_may_give_up,
		driver_can_not_set_needs_reset,
		driver_ok_needs_features_ok,
		features_ok_is_refused_without_version_1,
		features_ok_is_refused_for_every_bit_not_offered,
		features_are_fixed_by_features_ok,
		reset_forgets_features,
		there_are_two_halves_of_features,
		every_piece_of_the_configuration_can_be_read_and_nothing_else,
		configuration_far_outside_is_refused,
		configuration_is_not_written_outside_of_memory,
		configuration_of_these_devices_is_read_only,
		queue_setup_before_features_ok_is_refused,
		queue_setup_with_a_bad_queue_or_size_is_refused,
		queue_info_gives_size,
		machine_takes_so_many_devices_and_no_more,
		notify_before_driver_ok_starts_nothing,
		broken_ring_needs_reset_and_raises_an_event,
		broken_device_takes_nothing_until_it_is_reset,
		what_was_in_flight_when_the_ring_broke_still_ends,
		log_of_a_guest_that_breaks_rings_all_day_is_short,
		reset_waits_for_requests_in_flight,
		device_in_reset_takes_no_orders,
		memory_is_the_guests_again_after_reset,
		request_slots_are_free_after_reset,
		queue_is_gone_after_reset,
	};
	Suite *suite = suite_create("transport");

	add_case(suite, "transport", setup, teardown, 30, tests, ARRAY_SIZE(tests));
	transport_device_tests(suite);
	return suite;
}
