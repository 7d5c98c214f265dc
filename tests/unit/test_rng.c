// SPDX-License-Identifier: GPL-2.0-only
/* The entropy device: buffers come back filled, and only as far as it says. */
#include <linux/virtio_ids.h>
#include <string.h>

#include "guest.h"

#define QUEUE_SIZE 16
#define CHAIN_BYTES 4096u

static struct sim sim;
static struct driver_queue queue;

static void setup(void)
{
	sim_init(&sim, SIM_MEMORY);
	sim_add(&sim, rng_create(&sim.environment));
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT, &queue, 1, QUEUE_SIZE);
}

static void teardown(void)
{
	sim_release(&sim);
}

static uint32_t fill(const struct part *parts, unsigned count)
{
	driver_publish(&queue, driver_chain(&queue, parts, count));
	driver_kick(&queue);
	return driver_wait(&queue).len;
}

static bool all_zero(uint64_t gpa, size_t length)
{
	const uint8_t *bytes = sim_at(&sim, gpa, length);

	for (size_t i = 0; i < length; i++) {
		if (bytes[i])
			return false;
	}
	return true;
}

START_TEST(buffers_are_filled_and_differ)
{
	uint64_t first = sim_alloc(&sim, 64, 1), second = sim_alloc(&sim, 64, 1);

	ck_assert_uint_eq(fill(&(struct part){ first, 64, true }, 1), 64);
	ck_assert_uint_eq(fill(&(struct part){ second, 64, true }, 1), 64);
	ck_assert(!all_zero(first, 64));
	ck_assert_mem_ne(sim_at(&sim, first, 64), sim_at(&sim, second, 64), 64);
}
END_TEST

START_TEST(nothing_is_written_behind_a_buffer)
{
	uint64_t gpa = sim_alloc(&sim, 128, 1);

	ck_assert_uint_eq(fill(&(struct part){ gpa + 32, 33, true }, 1), 33);
	ck_assert(all_zero(gpa, 32));
	ck_assert(all_zero(gpa + 65, 63));
}
END_TEST

START_TEST(large_buffer_gets_what_the_device_gives_at_once)
{
	uint64_t gpa = sim_alloc(&sim, 64 * KIB, 1);
	uint32_t length = fill(&(struct part){ gpa, 64 * KIB, true }, 1);

	ck_assert_uint_gt(length, 0);
	ck_assert_uint_le(length, CHAIN_BYTES);
	ck_assert(all_zero(gpa + length, 64 * KIB - length));
}
END_TEST

START_TEST(parts_of_a_chain_are_filled_in_order)
{
	uint64_t gpa = sim_alloc(&sim, 256, 1);

	ck_assert_uint_eq(
		fill((struct part[]){ { gpa, 64, true }, { gpa + 128, 64, true } }, 2), 128);
	ck_assert(!all_zero(gpa, 64));
	ck_assert(all_zero(gpa + 64, 64));
	ck_assert(!all_zero(gpa + 128, 64));
}
END_TEST

START_TEST(chain_without_room_comes_back_empty)
{
	uint64_t gpa = sim_alloc(&sim, 64, 1);

	ck_assert_uint_eq(fill(&(struct part){ gpa, 64, false }, 1), 0);
	ck_assert(all_zero(gpa, 64));
	ck_assert_uint_eq(fill(&(struct part){ gpa, 0, true }, 1), 0);
	ck_assert_uint_eq(fill((struct part[]){ { gpa, 8, false }, { gpa + 8, 8, true } }, 2), 8);
	ck_assert(all_zero(gpa, 8));
}
END_TEST

static bool all_used(void *unused)
{
	(void)unused;
	return driver_used(&queue) == QUEUE_SIZE;
}

START_TEST(full_queue_is_served_with_one_kick_and_one_interrupt)
{
	uint64_t gpa = sim_alloc(&sim, QUEUE_SIZE * 16, 1);

	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		driver_publish(
			&queue, driver_chain(&queue, &(struct part){ gpa + i * 16, 16, true }, 1));
	driver_kick(&queue);
	ck_assert(sim_run_until(&sim, all_used, NULL));
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
	/* It asks to be told of the next one. */
	ck_assert_uint_eq(*driver_avail_event(&queue), QUEUE_SIZE);
}
END_TEST

START_TEST(guest_that_never_stops_does_not_keep_the_vcpu)
{
	/* An index far ahead ends at once; one that is in range, after a ring of chains. */
	uint64_t gpa = sim_alloc(&sim, 16, 1);

	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		queue.descriptors[i] = (struct vring_desc){ gpa, 16, VRING_DESC_F_WRITE, 0 };
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		driver_publish(&queue, i);
	driver_kick(&queue);
	ck_assert_uint_eq(driver_used(&queue), QUEUE_SIZE);
	queue.avail->idx += QUEUE_SIZE + 1;
	driver_kick(&queue);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
}
END_TEST

START_TEST(device_is_an_entropy_source)
{
	uint64_t gpa = sim_alloc(&sim, sizeof(struct karma_device_info), 8);
	struct karma_device_info *info = sim_at(&sim, gpa, sizeof(*info));

	memset(info, 0xff, sizeof(*info));
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_info, 0, gpa), 0);
	ck_assert_uint_eq(info->device_id, VIRTIO_ID_RNG);
	ck_assert_uint_eq(info->queues, 1);
	ck_assert_uint_eq(info->config_size, 0);
	ck_assert_uint_eq(info->reserved, 0);
}
END_TEST

Suite *rng_suite(void)
{
	const TTest *const tests[] = {
		buffers_are_filled_and_differ,
		nothing_is_written_behind_a_buffer,
		large_buffer_gets_what_the_device_gives_at_once,
		parts_of_a_chain_are_filled_in_order,
		chain_without_room_comes_back_empty,
		full_queue_is_served_with_one_kick_and_one_interrupt,
		guest_that_never_stops_does_not_keep_the_vcpu,
		device_is_an_entropy_source,
	};
	Suite *suite = suite_create("rng");
	TCase *rng = tcase_create("rng");

	tcase_add_checked_fixture(rng, setup, teardown);
	tcase_set_timeout(rng, 20);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(rng, tests[i]);
	suite_add_tcase(suite, rng);
	return suite;
}
