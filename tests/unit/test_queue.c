// SPDX-License-Identifier: GPL-2.0-only
/* Split queues: the chains that a guest makes available. */
#include <errno.h>

#include "queue_fixture.h"

/* The queue is broken, says so with this word, and stays so whatever comes. */
static void assert_broken(const char *word)
{
	ck_assert_int_eq(pop(), -EPROTO);
	ck_assert_ptr_nonnull(queue.broken);
	ck_assert_msg(strstr(queue.broken, word), "\"%s\" has no \"%s\"", queue.broken, word);
	avail->idx = queue.next_avail;
	ck_assert_int_eq(pop(), -EPROTO);
	ck_assert_uint_eq(used->idx, 0);
}

static void assert_single_is_broken(uint64_t gpa, uint32_t length, uint16_t flags, const char *word)
{
	enable(FEATURES_INDIRECT);
	describe(&descriptors[0], gpa, length, flags, 0);
	publish(0);
	assert_broken(word);
}

START_TEST(chain_is_readable_parts_then_writable_parts)
{
	describe(&descriptors[3], BUFFER, 16, NEXT, 7);
	describe(&descriptors[7], BUFFER + 64, 100, NEXT, 1);
	describe(&descriptors[1], BUFFER + 256, 512, WRITE | NEXT, 0);
	describe(&descriptors[0], BUFFER + 1024, 1, WRITE, 99);
	publish(3);
	ck_assert_int_eq(pop(), 1);
	ck_assert_uint_eq(chain.head, 3);
	ck_assert_uint_eq(chain.out_count, 2);
	ck_assert_uint_eq(chain.in_count, 2);
	ck_assert_uint_eq(chain.out_bytes, 116);
	ck_assert_uint_eq(chain.in_bytes, 513);
	ck_assert_ptr_eq(iov[0].iov_base, memory.base + BUFFER);
	ck_assert_ptr_eq(iov[3].iov_base, memory.base + BUFFER + 1024);
	ck_assert_uint_eq(iov[1].iov_len, 100);
	ck_assert_int_eq(pop(), 0);
}
END_TEST

START_TEST(chains_come_in_order_of_the_ring_and_go_back_with_lengths)
{
	for (unsigned round = 0; round < 5 * QUEUE_SIZE; round++) {
		uint16_t head = (round * 5) % QUEUE_SIZE;

		describe(&descriptors[head], BUFFER + round, round + 1, WRITE, 0);
		publish(head);
		ck_assert_int_eq(pop(), 1);
		ck_assert_uint_eq(chain.head, head);
		ck_assert_uint_eq(chain.in_bytes, round + 1);
		virtq_push(&queue, chain.head, round);
		ck_assert_uint_eq(used->idx, round + 1);
		ck_assert_uint_eq(used->ring[round % QUEUE_SIZE].id, head);
		ck_assert_uint_eq(used->ring[round % QUEUE_SIZE].len, round);
	}
	ck_assert_uint_eq(queue.chains, 5 * QUEUE_SIZE);
}
END_TEST

START_TEST(queue_that_is_not_enabled_has_no_chains)
{
	describe(&descriptors[0], BUFFER, 1, 0, 0);
	publish(0);
	virtq_reset(&queue);
	ck_assert_int_eq(pop(), 0);
	virtq_push(&queue, 0, 0);
	virtq_interrupt(&queue);
	virtq_disable_notify(&queue);
	ck_assert(!virtq_enable_notify(&queue));
	ck_assert_uint_eq(used->idx, 0);
}
END_TEST

START_TEST(parts_without_length_are_left_out)
{
	describe(&descriptors[0], BUFFER, 0, NEXT, 1);
	describe(&descriptors[1], BUFFER, 8, NEXT, 2);
	describe(&descriptors[2], BUFFER, 0, WRITE, 0);
	publish(0);
	ck_assert_int_eq(pop(), 1);
	ck_assert_uint_eq(chain.out_count, 1);
	ck_assert_uint_eq(chain.in_count, 0);
	describe(&descriptors[4], BUFFER, 0, 0, 0);
	publish(4);
	ck_assert_int_eq(pop(), 1);
	ck_assert_uint_eq(chain.out_count + chain.in_count, 0);
}
END_TEST

START_TEST(part_without_length_outside_of_memory_breaks)
{
	assert_single_is_broken(SIM_MEMORY + 1, 0, 0, "outside");
	assert_single_is_broken(UINT64_MAX, 0, WRITE, "outside");
}
END_TEST

START_TEST(loop_of_descriptors_ends)
{
	describe(&descriptors[0], BUFFER, 8, NEXT, 0);
	publish(0);
	assert_broken("loop");

	enable(FEATURES_INDIRECT);
	describe(&descriptors[0], BUFFER, 8, NEXT, 1);
	describe(&descriptors[1], BUFFER, 0, NEXT, 0);
	publish(0);
	assert_broken("loop");
}
END_TEST

START_TEST(loop_in_an_indirect_table_ends)
{
	describe(&descriptors[0], TABLE, 32, INDIRECT, 0);
	describe(&table[0], BUFFER, 8, NEXT, 1);
	describe(&table[1], BUFFER, 0, NEXT, 0);
	publish(0);
	assert_broken("loop");
}
END_TEST

START_TEST(chain_as_long_as_the_queue_is_taken)
{
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		describe(&descriptors[i], BUFFER, 1, i + 1 < QUEUE_SIZE ? NEXT : 0, i + 1);
	publish(0);
	ck_assert_int_eq(pop(), 1);
	ck_assert_uint_eq(chain.out_count, QUEUE_SIZE);
}
END_TEST

START_TEST(indirect_chain_as_long_as_the_queue_is_taken_and_not_longer)
{
	for (unsigned i = 0; i <= QUEUE_SIZE; i++)
		describe(&table[i], BUFFER, 1, i + 1 < QUEUE_SIZE ? NEXT : 0, i + 1);
	describe(&descriptors[0], TABLE, 16 * (QUEUE_SIZE + 1), INDIRECT, 0);
	publish(0);
	ck_assert_int_eq(pop(), 1);
	ck_assert_uint_eq(chain.out_count, QUEUE_SIZE);

	table[QUEUE_SIZE - 1].flags = NEXT;
	publish(0);
	assert_broken("longer");
}
END_TEST

START_TEST(chain_with_more_parts_than_the_device_takes_breaks)
{
	for (unsigned i = 0; i < 4; i++)
		describe(&descriptors[i], BUFFER, 1, i < 3 ? NEXT : 0, i + 1);
	publish(0);
	ck_assert_int_eq(virtq_pop(&queue, iov, 4, &chain), 1);
	publish(0);
	ck_assert_int_eq(virtq_pop(&queue, iov, 3, &chain), -EPROTO);
	ck_assert_ptr_nonnull(strstr(queue.broken, "more buffers"));
}
END_TEST

START_TEST(head_out_of_range_breaks)
{
	const uint16_t heads[] = { QUEUE_SIZE, QUEUE_SIZE + 1, 0x7fff, 0xffff };

	for (size_t i = 0; i < ARRAY_SIZE(heads); i++) {
		enable(FEATURES_INDIRECT);
		publish(heads[i]);
		assert_broken("out of range");
	}
}
END_TEST

START_TEST(next_out_of_range_breaks)
{
	const uint16_t nexts[] = { QUEUE_SIZE, 0x8000, 0xffff };

	for (size_t i = 0; i < ARRAY_SIZE(nexts); i++) {
		enable(FEATURES_INDIRECT);
		describe(&descriptors[0], BUFFER, 8, NEXT, nexts[i]);
		publish(0);
		assert_broken("out of range");
	}
}
END_TEST

START_TEST(next_out_of_an_indirect_table_breaks)
{
	/* In range for the queue, but not for the table. */
	describe(&descriptors[0], TABLE, 32, INDIRECT, 0);
	describe(&table[0], BUFFER, 8, NEXT, 2);
	describe(&table[2], BUFFER, 8, 0, 0);
	publish(0);
	assert_broken("out of range");
}
END_TEST

START_TEST(avail_index_that_runs_ahead_breaks)
{
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		describe(&descriptors[i], BUFFER, 8, 0, 0);
	avail->idx = QUEUE_SIZE;
	ck_assert_int_eq(pop(), 1);
	/* All the others are waiting, and the first has not been given back. */
	avail->idx = QUEUE_SIZE + 1;
	assert_broken("ahead");

	enable(FEATURES_INDIRECT);
	avail->idx = 0xffff;
	assert_broken("ahead");
}
END_TEST

START_TEST(avail_index_that_goes_back_breaks)
{
	describe(&descriptors[0], BUFFER, 8, 0, 0);
	publish(0);
	ck_assert_int_eq(pop(), 1);
	avail->idx = 0;
	ck_assert_int_eq(pop(), -EPROTO);
	ck_assert_ptr_nonnull(strstr(queue.broken, "ahead"));
}
END_TEST

START_TEST(buffer_outside_of_memory_breaks)
{
	const uint16_t flags[] = { 0, WRITE };

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		assert_single_is_broken(SIM_MEMORY, 1, flags[i], "outside");
		assert_single_is_broken(SIM_MEMORY - 1, 2, flags[i], "outside");
		assert_single_is_broken(0, UINT32_MAX, flags[i], "outside");
		assert_single_is_broken(GUEST_HOLE_START, 1, flags[i], "outside");
		assert_single_is_broken(KARMA_WINDOW_BASE, 4096, flags[i], "outside");
		assert_single_is_broken(GUEST_HOLE_END, 1, flags[i], "outside");
	}
}
END_TEST

START_TEST(buffer_up_to_the_end_of_memory_is_taken)
{
	describe(&descriptors[0], SIM_MEMORY - 1, 1, WRITE, 0);
	publish(0);
	ck_assert_int_eq(pop(), 1);
	ck_assert_ptr_eq(iov[0].iov_base, memory.base + SIM_MEMORY - 1);
	describe(&descriptors[0], 0, SIM_MEMORY, 0, 0);
	publish(0);
	ck_assert_int_eq(pop(), 1);
	ck_assert_uint_eq(chain.out_bytes, SIM_MEMORY);
}
END_TEST

START_TEST(buffer_that_wraps_breaks)
{
	assert_single_is_broken(UINT64_MAX, 1, 0, "outside");
	assert_single_is_broken(UINT64_MAX, 2, WRITE, "outside");
	assert_single_is_broken(UINT64_MAX - 15, 16, WRITE, "outside");
	assert_single_is_broken(UINT64_MAX - 15, 17, WRITE, "outside");
	assert_single_is_broken(UINT64_MAX - UINT32_MAX + 1, UINT32_MAX, 0, "outside");
	assert_single_is_broken(0xffffffff00001000, 0xffffffff, 0, "outside");
}
END_TEST

START_TEST(buffers_at_the_edges_of_the_hole)
{
	assert_single_is_broken(GUEST_HOLE_START, 1, 0, "outside");
	assert_single_is_broken(GUEST_HOLE_START - 1, 2, WRITE, "outside");
	assert_single_is_broken(GUEST_HOLE_END - 1, 1, 0, "outside");
	assert_single_is_broken(GUEST_HOLE_END - 1, 2, WRITE, "outside");
	assert_single_is_broken(GUEST_HOLE_END + 2 * GIB, 1, 0, "outside");
	assert_single_is_broken(GUEST_HOLE_END + 2 * GIB - 1, 2, 0, "outside");
	assert_single_is_broken(GUEST_HOLE_START - 0x1000, 0x40002000, 0, "outside");

	enable(FEATURES_INDIRECT);
	describe(&descriptors[0], GUEST_HOLE_START - 8, 8, NEXT, 1);
	describe(&descriptors[1], GUEST_HOLE_END, 8, NEXT | WRITE, 2);
	describe(&descriptors[2], GUEST_HOLE_END + 2 * GIB - 8, 8, WRITE, 0);
	publish(0);
	ck_assert_int_eq(pop(), 1);
	ck_assert_ptr_eq(iov[0].iov_base, memory.base + GUEST_HOLE_START - 8);
	ck_assert_ptr_eq(iov[1].iov_base, memory.base + GUEST_HOLE_START);
	ck_assert_ptr_eq(iov[2].iov_base, memory.base + 5 * GIB - 8);
}
END_TEST

/* A chain of four buffers of 1 GiB, of which the last one is shorter by so much. */
static void publish_long_chain(unsigned readable, uint32_t less)
{
	enable(FEATURES_INDIRECT);
	for (unsigned i = 0; i < 4; i++)
		describe(&descriptors[i], 0, i < 3 ? GIB : GIB - less,
			(i < readable ? 0 : WRITE) | (i < 3 ? NEXT : 0), i + 1);
	publish(0);
}

START_TEST(chain_of_4_gib_breaks)
{
	for (unsigned readable = 0; readable <= 4; readable++) {
		publish_long_chain(readable, 0);
		assert_broken("4 GiB");
	}
}
END_TEST

START_TEST(chain_of_a_byte_less_than_4_gib_is_taken)
{
	for (unsigned readable = 0; readable <= 4; readable++) {
		publish_long_chain(readable, 1);
		ck_assert_int_eq(pop(), 1);
		ck_assert_uint_eq(chain.out_bytes + chain.in_bytes, UINT32_MAX);
	}
}
END_TEST

START_TEST(indirect_chain_is_taken)
{
	describe(&descriptors[5], TABLE, 48, INDIRECT, 0);
	describe(&table[0], BUFFER, 16, NEXT, 2);
	describe(&table[2], BUFFER + 64, 32, NEXT | WRITE, 1);
	describe(&table[1], BUFFER + 128, 1, WRITE, 0);
	publish(5);
	ck_assert_int_eq(pop(), 1);
	ck_assert_uint_eq(chain.head, 5);
	ck_assert_uint_eq(chain.out_bytes, 16);
	ck_assert_uint_eq(chain.in_bytes, 33);
}
END_TEST

START_TEST(indirect_table_behind_direct_parts_is_taken)
{
	describe(&descriptors[0], BUFFER, 16, NEXT, 1);
	describe(&descriptors[1], TABLE, 16, INDIRECT, 0);
	describe(&table[0], BUFFER + 64, 32, WRITE, 0);
	publish(0);
	ck_assert_int_eq(pop(), 1);
	ck_assert_uint_eq(chain.out_bytes, 16);
	ck_assert_uint_eq(chain.in_bytes, 32);
}
END_TEST

START_TEST(indirect_table_that_is_not_aligned_is_taken)
{
	struct vring_desc entry = { BUFFER, 8, WRITE, 0 };

	for (unsigned offset = 1; offset < 16; offset++) {
		ck_assert_int_eq(
			guest_memory_write(&memory, GPA(TABLE + offset), &entry, sizeof(entry)), 0);
		describe(&descriptors[0], TABLE + offset, 16, INDIRECT, 0);
		publish(0);
		ck_assert_int_eq(pop(), 1);
		ck_assert_uint_eq(chain.in_bytes, 8);
	}
	/* The last bytes that there are. */
	ck_assert_int_eq(guest_memory_write(&memory, GPA(SIM_MEMORY - 16), &entry, 16), 0);
	describe(&descriptors[0], SIM_MEMORY - 16, 16, INDIRECT, 0);
	publish(0);
	ck_assert_int_eq(pop(), 1);
}
END_TEST

START_TEST(indirect_table_of_a_bad_length_breaks)
{
	const uint32_t lengths[] = { 0, 1, 15, 17, 31, 0xffffffff };

	describe(&table[0], BUFFER, 8, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++)
		assert_single_is_broken(TABLE, lengths[i], INDIRECT, "length");
}
END_TEST

START_TEST(indirect_table_outside_of_memory_breaks)
{
	assert_single_is_broken(SIM_MEMORY, 16, INDIRECT, "outside");
	assert_single_is_broken(SIM_MEMORY - 15, 16, INDIRECT, "outside");
	assert_single_is_broken(TABLE, 0xfffffff0, INDIRECT, "outside");
	assert_single_is_broken(UINT64_MAX - 15, 16, INDIRECT, "outside");
	assert_single_is_broken(UINT64_MAX - 15, 32, INDIRECT, "outside");
	assert_single_is_broken(GUEST_HOLE_START, 16, INDIRECT, "outside");
}
END_TEST

START_TEST(indirect_table_in_an_indirect_table_breaks)
{
	describe(&descriptors[0], TABLE, 32, INDIRECT, 0);
	describe(&table[0], TABLE, 32, INDIRECT, 0);
	publish(0);
	assert_broken("in an indirect table");
}
END_TEST

START_TEST(indirect_descriptor_with_next_breaks)
{
	describe(&table[0], BUFFER, 8, 0, 0);
	assert_single_is_broken(TABLE, 16, INDIRECT | NEXT, "next");
}
END_TEST

START_TEST(indirect_descriptor_without_the_feature_breaks)
{
	enable(FEATURES_PLAIN);
	describe(&descriptors[0], TABLE, 16, INDIRECT, 0);
	describe(&table[0], BUFFER, 8, 0, 0);
	publish(0);
	assert_broken("without the feature");
}
END_TEST

START_TEST(write_flag_of_an_indirect_descriptor_is_ignored)
{
	/* Virtio 1.2, section 2.7.5.3.2. */
	describe(&descriptors[0], TABLE, 16, INDIRECT | WRITE, 0);
	describe(&table[0], BUFFER, 8, 0, 0);
	publish(0);
	ck_assert_int_eq(pop(), 1);
	ck_assert_uint_eq(chain.out_bytes, 8);
}
END_TEST

START_TEST(readable_part_behind_a_writable_one_breaks)
{
	describe(&descriptors[0], BUFFER, 8, WRITE | NEXT, 1);
	describe(&descriptors[1], BUFFER, 8, 0, 0);
	publish(0);
	assert_broken("readable");
}
END_TEST

START_TEST(broken_queue_works_again_after_reset)
{
	publish(999);
	assert_broken("out of range");
	enable(FEATURES_INDIRECT);
	describe(&descriptors[0], BUFFER, 8, 0, 0);
	publish(0);
	ck_assert_int_eq(pop(), 1);
	virtq_push(&queue, 0, 0);
	ck_assert_uint_eq(used->idx, 1);
}
END_TEST

Suite *queue_suite(void)
{
	const TTest *const tests[] = {
		chain_is_readable_parts_then_writable_parts,
		chains_come_in_order_of_the_ring_and_go_back_with_lengths,
		queue_that_is_not_enabled_has_no_chains,
		parts_without_length_are_left_out,
		part_without_length_outside_of_memory_breaks,
		loop_of_descriptors_ends,
		loop_in_an_indirect_table_ends,
		chain_as_long_as_the_queue_is_taken,
		indirect_chain_as_long_as_the_queue_is_taken_and_not_longer,
		chain_with_more_parts_than_the_device_takes_breaks,
		head_out_of_range_breaks,
		next_out_of_range_breaks,
		next_out_of_an_indirect_table_breaks,
		avail_index_that_runs_ahead_breaks,
		avail_index_that_goes_back_breaks,
		buffer_outside_of_memory_breaks,
		buffer_up_to_the_end_of_memory_is_taken,
		buffer_that_wraps_breaks,
		indirect_chain_is_taken,
		indirect_table_behind_direct_parts_is_taken,
		indirect_table_that_is_not_aligned_is_taken,
		indirect_table_of_a_bad_length_breaks,
		indirect_table_outside_of_memory_breaks,
		indirect_table_in_an_indirect_table_breaks,
		indirect_descriptor_with_next_breaks,
		indirect_descriptor_without_the_feature_breaks,
		write_flag_of_an_indirect_descriptor_is_ignored,
		readable_part_behind_a_writable_one_breaks,
		broken_queue_works_again_after_reset,
	};
	const TTest *const large[] = {
		buffers_at_the_edges_of_the_hole,
		chain_of_4_gib_breaks,
		chain_of_a_byte_less_than_4_gib_is_taken,
	};
	Suite *suite = suite_create("queue");

	add_case(suite, "16 MiB", setup, teardown, 20, tests, ARRAY_SIZE(tests));
	add_case(suite, "5 GiB", setup_5_gib, teardown, 20, large, ARRAY_SIZE(large));
	queue_rings_tests(suite);
	return suite;
}
