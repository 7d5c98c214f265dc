// SPDX-License-Identifier: GPL-2.0-only
/* The balloon: what the guest gives is freed, zero afterwards, and nothing else is touched. */
#include <endian.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "guest.h"

#define QUEUE_SIZE 32
#define CHAIN_PFNS 4096u
/* Pages of the guest that its driver does not use itself. */
#define SPARE (8 * MIB)
#define SPARE_PAGES 16u
#define PFN(gpa) ((uint32_t)((gpa) / PAGE_BYTES))

enum { INFLATE, DEFLATE, REPORTING, QUEUES };

static struct sim sim;
static struct driver_queue queues[QUEUES];

static void start(uint64_t memory)
{
	sim_init(&sim, memory);
	sim_add(&sim, balloon_create(&sim.environment, 0));
	sim_start_device(&sim, 0,
		FEATURES_INDIRECT | FEATURES_EVENT | FEATURE(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
			FEATURE(VIRTIO_BALLOON_F_REPORTING),
		queues, QUEUES, QUEUE_SIZE);
}

static void setup(void)
{
	/* Where small pages were freed, khugepaged may make a huge one at any time. */
	ck_assert_int_eq(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
	start(SIM_MEMORY);
	memset(sim_at(&sim, SPARE, SPARE_PAGES * PAGE_BYTES), 0xa5, SPARE_PAGES * PAGE_BYTES);
}

static void teardown(void)
{
	sim_release(&sim);
}

static uint64_t spare(unsigned page)
{
	return SPARE + (uint64_t)page * PAGE_BYTES;
}

static bool resident(uint64_t gpa)
{
	unsigned char there;

	ck_assert_int_eq(mincore(sim_at(&sim, gpa, PAGE_BYTES), PAGE_BYTES, &there), 0);
	return there & 1;
}

static bool all_are(uint64_t gpa, size_t length, uint8_t value)
{
	const uint8_t *bytes = sim_at(&sim, gpa, length);

	for (size_t i = 0; i < length; i++) {
		if (bytes[i] != value)
			return false;
	}
	return true;
}

/* Of the spare pages, these are freed and the others as they were; a bit a page.  Touches all. */
static void assert_freed(uint32_t freed)
{
	for (unsigned i = 0; i < SPARE_PAGES; i++) {
		bool gone = freed & (1u << i);

		ck_assert_msg(resident(spare(i)) != gone, "page %u", i);
		ck_assert_msg(all_are(spare(i), PAGE_BYTES, gone ? 0 : 0xa5), "page %u", i);
	}
}

static void give(unsigned queue, const struct part *parts, unsigned count)
{
	uint16_t head = count > 2 ? driver_chain_indirect(&queues[queue], parts, count) :
				    driver_chain(&queues[queue], parts, count);
	struct vring_used_elem used;

	driver_publish(&queues[queue], head);
	driver_kick(&queues[queue]);
	used = driver_wait(&queues[queue]);
	ck_assert_uint_eq(used.id, head);
	ck_assert_uint_eq(used.len, 0);
}

static void inflate(const uint32_t *pfns, size_t count)
{
	uint64_t gpa = sim_alloc(&sim, count * sizeof(*pfns), 4);
	uint32_t *list = sim_at(&sim, gpa, count * sizeof(*pfns));

	for (size_t i = 0; i < count; i++)
		list[i] = htole32(pfns[i]);
	give(INFLATE, &(struct part){ gpa, count * sizeof(*pfns), false }, 1);
}

#define INFLATE(...) \
	inflate((const uint32_t[]){ __VA_ARGS__ }, \
		sizeof((const uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t))

static uint64_t freed_bytes(void)
{
	return sim.machine.devices[0]->counters[0].value;
}

START_TEST(pages_in_the_balloon_are_freed)
{
	INFLATE(PFN(spare(1)), PFN(spare(2)), PFN(spare(3)), PFN(spare(9)));
	assert_freed(1 << 1 | 1 << 2 | 1 << 3 | 1 << 9);
	ck_assert_uint_eq(freed_bytes(), 4 * PAGE_BYTES);
	ck_assert_str_eq(sim.machine.devices[0]->counters[0].name, "freed_bytes");
}
END_TEST

START_TEST(its_size_is_told_to_the_guest)
{
	struct virtio_device *balloon = sim.machine.devices[0];
	uint32_t generation = balloon->generation, pages, actual = htole32(7);

	balloon_set(balloon, 10 * PAGE_BYTES);
	ck_assert_uint_ne(balloon->generation, generation);
	ck_assert_int_eq(virtio_config_read(balloon,
		offsetof(struct virtio_balloon_config, num_pages), &pages, sizeof(pages)), 0);
	ck_assert_uint_eq(le32toh(pages), 10);
	ck_assert_int_eq(virtio_config_write(balloon,
		offsetof(struct virtio_balloon_config, actual), &actual, sizeof(actual)), 0);
	ck_assert_str_eq(balloon->counters[1].name, "target_bytes");
	ck_assert_uint_eq(balloon->counters[1].value, 10 * PAGE_BYTES);
	ck_assert_str_eq(balloon->counters[2].name, "actual_bytes");
	ck_assert_uint_eq(balloon->counters[2].value, 7 * PAGE_BYTES);
}
END_TEST

START_TEST(pages_may_come_in_any_order_and_twice)
{
	INFLATE(PFN(spare(7)), PFN(spare(6)), PFN(spare(5)), PFN(spare(0)), PFN(spare(6)),
		PFN(spare(15)), PFN(spare(15)));
	assert_freed(1 << 7 | 1 << 6 | 1 << 5 | 1 << 0 | 1 << 15);
}
END_TEST

START_TEST(page_is_there_again_when_it_is_touched)
{
	INFLATE(PFN(spare(1)));
	memset(sim_at(&sim, spare(1), PAGE_BYTES), 0x11, PAGE_BYTES);
	ck_assert(resident(spare(1)));
	give(DEFLATE, &(struct part){ sim_text(&sim, &(uint32_t){ PFN(spare(1)) }, 4), 4, false }, 1);
	ck_assert(all_are(spare(1), PAGE_BYTES, 0x11));
}
END_TEST

START_TEST(page_numbers_of_no_memory_are_passed_over)
{
	INFLATE(PFN(SIM_MEMORY), PFN(SIM_MEMORY) + 1, PFN(GUEST_HOLE_START), PFN(KARMA_WINDOW_BASE),
		PFN(GUEST_HOLE_END) - 1, PFN(GUEST_HOLE_END), UINT32_MAX, UINT32_MAX - 1, 1u << 31,
		PFN(spare(4)), UINT32_MAX);
	assert_freed(1 << 4);
	ck_assert_uint_eq(freed_bytes(), PAGE_BYTES);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

START_TEST(pages_beside_the_hole_are_freed_and_those_in_it_passed_over)
{
	const uint64_t below = GUEST_HOLE_START - PAGE_BYTES, last = 6 * GIB - PAGE_BYTES;

	teardown();
	start(5 * GIB);
	memset(sim_at(&sim, below - PAGE_BYTES, 2 * PAGE_BYTES), 0xa5, 2 * PAGE_BYTES);
	memset(sim_at(&sim, GUEST_HOLE_END, 2 * PAGE_BYTES), 0xa5, 2 * PAGE_BYTES);
	memset(sim_at(&sim, last, PAGE_BYTES), 0xa5, PAGE_BYTES);
	/* In the monitor, the first and the third are side by side. */
	INFLATE(PFN(below), PFN(GUEST_HOLE_START), PFN(GUEST_HOLE_END), PFN(last), PFN(last) + 1);
	ck_assert(!resident(below) && !resident(GUEST_HOLE_END) && !resident(last));
	ck_assert(all_are(below - PAGE_BYTES, PAGE_BYTES, 0xa5));
	ck_assert(all_are(GUEST_HOLE_END + PAGE_BYTES, PAGE_BYTES, 0xa5));
	ck_assert_uint_eq(freed_bytes(), 3 * PAGE_BYTES);
}
END_TEST

START_TEST(lists_of_odd_lengths_lose_their_rest)
{
	const uint32_t pfns[] = { PFN(spare(1)), PFN(spare(2)) };
	uint64_t gpa = sim_text(&sim, pfns, sizeof(pfns));

	for (uint32_t length = 0; length < 4; length++)
		give(INFLATE, &(struct part){ gpa, length, false }, 1);
	assert_freed(0);
	give(INFLATE, &(struct part){ gpa, 7, false }, 1);
	assert_freed(1 << 1);
}
END_TEST

START_TEST(list_may_lie_in_pieces)
{
	const uint32_t pfns[] = { PFN(spare(1)), PFN(spare(2)), PFN(spare(3)) };
	uint64_t gpa = sim_text(&sim, pfns, sizeof(pfns));

	give(INFLATE,
		(struct part[]){ { gpa, 3, false }, { gpa + 3, 2, false }, { gpa + 5, 7, false } },
		3);
	assert_freed(1 << 1 | 1 << 2 | 1 << 3);
}
END_TEST

START_TEST(list_is_only_read_where_the_device_may_read)
{
	uint64_t gpa = sim_text(&sim, &(uint32_t){ PFN(spare(1)) }, 4);

	give(INFLATE, &(struct part){ gpa, 4, true }, 1);
	assert_freed(0);
}
END_TEST

START_TEST(long_list_ends_at_its_bound)
{
	static uint32_t pfns[CHAIN_PFNS + 1];

	for (unsigned i = 0; i <= CHAIN_PFNS; i++)
		pfns[i] = UINT32_MAX;
	pfns[CHAIN_PFNS - 1] = PFN(spare(1));
	pfns[CHAIN_PFNS] = PFN(spare(2));
	inflate(pfns, ARRAY_SIZE(pfns));
	assert_freed(1 << 1);
}
END_TEST

START_TEST(list_of_all_memory_does_no_harm)
{
	/* Page numbers out of whatever there is, the rings and the list included. */
	give(INFLATE, (struct part[]){ { 0, SIM_MEMORY, false }, { 0, SIM_MEMORY, false } }, 2);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

START_TEST(reported_memory_is_freed)
{
	give(REPORTING,
		(struct part[]){ { spare(2), 3 * PAGE_BYTES, true }, { spare(8), PAGE_BYTES, true } },
		2);
	assert_freed(1 << 2 | 1 << 3 | 1 << 4 | 1 << 8);
	ck_assert_uint_eq(freed_bytes(), 4 * PAGE_BYTES);
	ck_assert_uint_eq(driver_interrupts(&queues[REPORTING]), 1);
}
END_TEST

START_TEST(reported_memory_may_be_read_only)
{
	give(REPORTING,
		(struct part[]){ { spare(2), PAGE_BYTES, false }, { spare(4), PAGE_BYTES, true } },
		2);
	assert_freed(1 << 2 | 1 << 4);
}
END_TEST

START_TEST(pages_that_are_reported_in_part_are_kept)
{
	give(REPORTING, &(struct part){ spare(1) + 1, 3 * PAGE_BYTES - 2, true }, 1);
	give(REPORTING, &(struct part){ spare(5) + 1, PAGE_BYTES - 1, true }, 1);
	give(REPORTING, &(struct part){ spare(6), PAGE_BYTES - 1, true }, 1);
	give(REPORTING, &(struct part){ spare(7) + 16, 1, true }, 1);
	give(REPORTING, &(struct part){ spare(8), 0, true }, 1);
	assert_freed(1 << 2);
}
END_TEST

START_TEST(as_many_blocks_as_linux_reports_fit)
{
	struct part parts[QUEUE_SIZE];

	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		parts[i] = (struct part){ spare(i % 8 * 2), PAGE_BYTES, true };
	give(REPORTING, parts, QUEUE_SIZE);
	assert_freed(0x5555);
}
END_TEST

START_TEST(report_of_more_than_there_is_is_ignored)
{
	give(REPORTING,
		(struct part[]){ { spare(0), PAGE_BYTES, false }, { 0, SIM_MEMORY, true } }, 2);
	assert_freed(0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

START_TEST(report_outside_of_memory_breaks_the_queue)
{
	const struct part parts[] = { { SIM_MEMORY - PAGE_BYTES, 2 * PAGE_BYTES, true },
		{ GUEST_HOLE_START, PAGE_BYTES, true }, { UINT64_MAX - 4095, PAGE_BYTES, true },
		{ 1ull << 63, UINT32_MAX, true } };
	const struct part good = { spare(1), PAGE_BYTES, true };

	driver_publish(&queues[REPORTING],
		driver_chain(&queues[REPORTING], (struct part[]){ good, parts[_i] }, 2));
	driver_kick(&queues[REPORTING]);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	assert_freed(0);
}
END_TEST

START_TEST(guest_that_frees_its_rings_hurts_only_itself)
{
	driver_publish(&queues[REPORTING],
		driver_chain(&queues[REPORTING], &(struct part){ 0, SIM_MEMORY, true }, 1));
	driver_kick(&queues[REPORTING]);
	ck_assert_uint_eq(freed_bytes(), SIM_MEMORY);
	sim_reset(&sim, 0);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
}
END_TEST

START_TEST(full_queue_is_served_with_one_kick)
{
	struct driver_queue *queue = &queues[REPORTING];

	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		driver_publish(queue,
			driver_chain(queue, &(struct part){ spare(i % 16), PAGE_BYTES, true }, 1));
	driver_kick(queue);
	ck_assert_uint_eq(driver_used(queue), QUEUE_SIZE);
	ck_assert_uint_eq(driver_interrupts(queue), 1);
	assert_freed(0xffff);
}
END_TEST

START_TEST(memory_that_the_host_keeps_is_told_once)
{
	const char *said;

	/* Sanitizers make mlock() do nothing. */
	ck_assert_int_eq(syscall(SYS_mlock, sim_at(&sim, spare(1), PAGE_BYTES), PAGE_BYTES), 0);
	messages_begin();
	INFLATE(PFN(spare(1)));
	INFLATE(PFN(spare(1)), PFN(spare(3)));
	said = messages_end();
	ck_assert_ptr_nonnull(strstr(said, "--balloon off"));
	ck_assert_ptr_eq(strchr(said, '\n'), said + strlen(said) - 1);
	assert_freed(1 << 3);
	ck_assert_uint_eq(freed_bytes(), PAGE_BYTES);
}
END_TEST

START_TEST(device_is_a_balloon_of_no_size)
{
	uint64_t gpa = sim_alloc(&sim, sizeof(struct karma_device_info), 8);
	const struct karma_device_info *info = sim_at(&sim, gpa, sizeof(*info));
	uint64_t config = sim_alloc(&sim, 8, 8);

	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_info, 0, gpa), 0);
	ck_assert_uint_eq(info->device_id, VIRTIO_ID_BALLOON);
	ck_assert_uint_eq(info->queues, QUEUES);
	ck_assert_uint_eq(info->config_size, 8);
	/* Features with a queue of their own would move the one for reports. */
	ck_assert_uint_eq(info->features & (FEATURE(VIRTIO_BALLOON_F_STATS_VQ) |
						   FEATURE(VIRTIO_BALLOON_F_FREE_PAGE_HINT)),
		0);
	memset(sim_at(&sim, config, 8), 0xff, 8);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 8), config), 0);
	ck_assert(all_are(config, 8, 0));
}
END_TEST

START_TEST(driver_may_write_the_actual_size_alone)
{
	uint64_t four = sim_text(&sim, "\1\2\3\4\5\6\7", 8), back = sim_alloc(&sim, 8, 8);

	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 4, 4), four), 0);
	ck_assert_int_lt(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 0, 4), four), 0);
	ck_assert_int_lt(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 0, 8), four), 0);
	ck_assert_int_lt(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 6, 2), four), 0);
	ck_assert_int_lt(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 8, 4), four), 0);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 8), back), 0);
	ck_assert_mem_eq(sim_at(&sim, back, 8), "\0\0\0\0\1\2\3\4", 8);
}
END_TEST

Suite *balloon_suite(void)
{
	const TTest *const tests[] = {
		pages_in_the_balloon_are_freed,
		its_size_is_told_to_the_guest,
		pages_may_come_in_any_order_and_twice,
		page_is_there_again_when_it_is_touched,
		page_numbers_of_no_memory_are_passed_over,
		pages_beside_the_hole_are_freed_and_those_in_it_passed_over,
		lists_of_odd_lengths_lose_their_rest,
		list_may_lie_in_pieces,
		list_is_only_read_where_the_device_may_read,
		long_list_ends_at_its_bound,
		list_of_all_memory_does_no_harm,
		reported_memory_is_freed,
		reported_memory_may_be_read_only,
		pages_that_are_reported_in_part_are_kept,
		as_many_blocks_as_linux_reports_fit,
		report_of_more_than_there_is_is_ignored,
		guest_that_frees_its_rings_hurts_only_itself,
		full_queue_is_served_with_one_kick,
		memory_that_the_host_keeps_is_told_once,
		device_is_a_balloon_of_no_size,
		driver_may_write_the_actual_size_alone,
	};
	Suite *suite = suite_create("balloon");
	TCase *balloon = tcase_create("balloon");

	tcase_add_checked_fixture(balloon, setup, teardown);
	tcase_set_timeout(balloon, 20);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(balloon, tests[i]);
	tcase_add_loop_test(balloon, report_outside_of_memory_breaks_the_queue, 0, 4);
	suite_add_tcase(suite, balloon);
	return suite;
}
