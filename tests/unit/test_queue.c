// SPDX-License-Identifier: GPL-2.0-only
/* Split virtqueues with rings that are right, wrong, and changing while they are read. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "guest.h"

#define QUEUE_SIZE 16u
#define DESCRIPTORS 0x10000ull
#define AVAIL 0x20000ull
#define USED 0x30000ull
#define TABLE 0x40000ull /* of indirect descriptors */
#define BUFFER 0x50000ull
#define FLIP_MS 200

#define NEXT VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT
#define FEATURES_ALL (FEATURES_INDIRECT | FEATURES_EVENT)

static struct guest_memory memory;
static void *area;
static size_t area_size;
static struct virtq queue;
static unsigned sent;	/* interrupts */
static struct iovec iov[64];
static struct virtq_chain chain;
static struct vring_desc *descriptors, *table;
static struct vring_avail *avail;
static struct vring_used *used;

static struct karma_queue_setup setup_of(uint32_t size)
{
	return (struct karma_queue_setup){ DESCRIPTORS, AVAIL, USED, size, 0 };
}

static void enable(uint64_t features)
{
	struct karma_queue_setup setup = setup_of(QUEUE_SIZE);

	virtq_reset(&queue);
	queue.interrupt = (struct karma_interrupt){ 0xfee00000, 33, 0 };
	memset(used, 0, PAGE_BYTES);
	memset(avail, 0, PAGE_BYTES);
	ck_assert_int_eq(virtq_enable(&queue, &setup, features), 0);
}

static void count_interrupt(void *context, const struct karma_interrupt *interrupt)
{
	ck_assert_uint_eq(interrupt->data, 33);
	++*(unsigned *)context;
}

static void make_memory(uint64_t size)
{
	guarded_memory_init(&memory, size, &area, &area_size);
	sent = 0;
	queue = (struct virtq){
		.memory = &memory,
		.size_max = 1024,
		.send = count_interrupt,
		.send_context = &sent,
	};
	descriptors = guest_memory_at(&memory, GPA(DESCRIPTORS), PAGE_BYTES);
	table = guest_memory_at(&memory, GPA(TABLE), PAGE_BYTES);
	avail = guest_memory_at(&memory, GPA(AVAIL), PAGE_BYTES);
	used = guest_memory_at(&memory, GPA(USED), PAGE_BYTES);
}

static void setup(void)
{
	make_memory(SIM_MEMORY);
	enable(FEATURES_INDIRECT);
}

static void setup_5_gib(void)
{
	make_memory(5 * GIB);
	enable(FEATURES_INDIRECT);
}

static void teardown(void)
{
	guarded_memory_release(&memory, area, area_size);
}

static void describe(
	struct vring_desc *descriptor, uint64_t gpa, uint32_t length, uint16_t flags, uint16_t next)
{
	*descriptor = (struct vring_desc){ gpa, length, flags, next };
}

static void publish(uint16_t head)
{
	avail->ring[avail->idx % QUEUE_SIZE] = head;
	avail->idx++;
}

static int pop(void)
{
	return virtq_pop(&queue, iov, ARRAY_SIZE(iov), &chain);
}

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

static int enable_with(struct karma_queue_setup setup)
{
	virtq_reset(&queue);
	return virtq_enable(&queue, &setup, FEATURES_PLAIN);
}

START_TEST(queue_sizes)
{
	const uint32_t bad[] = { 0, 3, 5, 6, 7, 12, 1000, 1023, 1025, 2048, 32768, 65536, 65537,
		65552, 0x80000000, 0xffffffff };

	for (uint32_t size = 1; size <= 1024; size *= 2)
		ck_assert_int_eq(enable_with(setup_of(size)), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_int_eq(enable_with(setup_of(bad[i])), -EINVAL);
	queue.size_max = 64;
	ck_assert_int_eq(enable_with(setup_of(64)), 0);
	ck_assert_int_eq(enable_with(setup_of(128)), -EINVAL);
}
END_TEST

START_TEST(rings_that_are_not_aligned_are_refused)
{
	struct karma_queue_setup good = setup_of(QUEUE_SIZE), bad;

	for (unsigned offset = 1; offset < 16; offset++) {
		bad = good;
		bad.descriptors += offset;
		ck_assert_int_eq(enable_with(bad), -EINVAL);
		bad = good;
		bad.driver += offset;
		ck_assert_int_eq(enable_with(bad), offset % 2 ? -EINVAL : 0);
		bad = good;
		bad.device += offset;
		ck_assert_int_eq(enable_with(bad), offset % 4 ? -EINVAL : 0);
	}
}
END_TEST

START_TEST(reserved_field_of_the_setup_must_be_0)
{
	struct karma_queue_setup setup = setup_of(QUEUE_SIZE);

	setup.reserved = 1;
	ck_assert_int_eq(enable_with(setup), -EINVAL);
}
END_TEST

START_TEST(queue_is_set_up_once)
{
	struct karma_queue_setup setup = setup_of(QUEUE_SIZE);

	ck_assert_int_eq(enable_with(setup), 0);
	ck_assert_int_eq(virtq_enable(&queue, &setup, FEATURES_PLAIN), -EINVAL);
}
END_TEST

START_TEST(rings_outside_of_memory_are_refused)
{
	const uint64_t outside[] = { SIM_MEMORY, SIM_MEMORY + 16, GUEST_HOLE_START,
		KARMA_WINDOW_BASE, GUEST_HOLE_END, UINT64_MAX - 15, UINT64_MAX - 255, 1ull << 63 };

	for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
		struct karma_queue_setup setup = setup_of(QUEUE_SIZE);

		setup.descriptors = outside[i];
		ck_assert_int_eq(enable_with(setup), -EFAULT);
		setup = setup_of(QUEUE_SIZE);
		setup.driver = outside[i];
		ck_assert_int_eq(enable_with(setup), -EFAULT);
		setup = setup_of(QUEUE_SIZE);
		setup.device = outside[i];
		ck_assert_int_eq(enable_with(setup), -EFAULT);
	}
}
END_TEST

START_TEST(rings_that_overlap_are_refused)
{
	const uint64_t avail_bytes = 4 + 2 * QUEUE_SIZE + 2, used_bytes = 4 + 8 * QUEUE_SIZE + 2;
	struct karma_queue_setup setup = setup_of(QUEUE_SIZE);

	setup.driver = DESCRIPTORS;
	ck_assert_int_eq(enable_with(setup), -EINVAL);
	setup.driver = DESCRIPTORS + 16 * QUEUE_SIZE - 2;
	ck_assert_int_eq(enable_with(setup), -EINVAL);
	setup.driver = DESCRIPTORS - avail_bytes + 2;
	ck_assert_int_eq(enable_with(setup), -EINVAL);
	setup.driver = DESCRIPTORS + 16 * QUEUE_SIZE;
	ck_assert_int_eq(enable_with(setup), 0);

	setup = setup_of(QUEUE_SIZE);
	setup.device = DESCRIPTORS + 16 * QUEUE_SIZE - 4;
	ck_assert_int_eq(enable_with(setup), -EINVAL);
	setup.device = AVAIL + 4;
	ck_assert_int_eq(enable_with(setup), -EINVAL);
	/* The event indexes belong to the rings. */
	setup.device = USED;
	setup.driver = USED - avail_bytes + 2;
	ck_assert_int_eq(enable_with(setup), -EINVAL);
	setup.driver = USED - avail_bytes;
	ck_assert_int_eq(enable_with(setup), 0);
	setup.driver = USED + used_bytes - 2;
	ck_assert_int_eq(enable_with(setup), -EINVAL);
	setup.driver = USED + used_bytes;
	ck_assert_int_eq(enable_with(setup), 0);
}
END_TEST

START_TEST(rings_at_the_end_of_memory_are_used_to_the_last_byte)
{
	struct karma_queue_setup setup = setup_of(2);

	/* 4 + 8 * 2 + 2 bytes, aligned to 4: the last address that has room. */
	setup.device = SIM_MEMORY - 24;
	ck_assert_int_eq(enable_with(setup), 0);
	virtq_push(&queue, 0, 1);
	virtq_push(&queue, 1, 2);
	virtq_enable_notify(&queue);
	ck_assert_uint_eq(queue.used->ring[1].len, 2);
	setup.device = SIM_MEMORY - 20;
	ck_assert_int_eq(enable_with(setup), -EFAULT);

	setup = setup_of(2);
	setup.driver = SIM_MEMORY - 10;
	ck_assert_int_eq(enable_with(setup), 0);
	virtq_interrupt(&queue);
	setup.driver = SIM_MEMORY - 8;
	ck_assert_int_eq(enable_with(setup), -EFAULT);

	setup = setup_of(2);
	setup.descriptors = SIM_MEMORY - 32;
	ck_assert_int_eq(enable_with(setup), 0);
	setup.descriptors = SIM_MEMORY - 16;
	ck_assert_int_eq(enable_with(setup), -EFAULT);
}
END_TEST

START_TEST(rings_at_the_hole)
{
	struct karma_queue_setup setup = setup_of(QUEUE_SIZE);

	setup.device = GUEST_HOLE_START - 136;
	ck_assert_int_eq(enable_with(setup), 0);
	setup.device = GUEST_HOLE_START - 132;
	ck_assert_int_eq(enable_with(setup), -EFAULT);
	setup.device = GUEST_HOLE_END - 4;
	ck_assert_int_eq(enable_with(setup), -EFAULT);
	/* Back to back in the monitor, apart in the guest: no overlap. */
	setup.device = GUEST_HOLE_END;
	setup.descriptors = GUEST_HOLE_START - 16 * QUEUE_SIZE;
	ck_assert_int_eq(enable_with(setup), 0);
}
END_TEST

static unsigned interrupts(void)
{
	unsigned count = sent;

	sent = 0;
	return count;
}

START_TEST(no_interrupt_flag_is_heeded)
{
	enable(FEATURES_PLAIN);
	virtq_push(&queue, 0, 0);
	virtq_interrupt(&queue);
	ck_assert_uint_eq(interrupts(), 1);
	avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	virtq_push(&queue, 0, 0);
	virtq_interrupt(&queue);
	ck_assert_uint_eq(interrupts(), 0);
	avail->flags = 0;
	virtq_push(&queue, 0, 0);
	virtq_interrupt(&queue);
	ck_assert_uint_eq(interrupts(), 1);
	ck_assert_uint_eq(queue.interrupts, 2);
}
END_TEST

START_TEST(nothing_pushed_is_no_interrupt)
{
	const uint64_t features[] = { FEATURES_PLAIN, FEATURES_EVENT };

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		enable(features[i]);
		virtq_interrupt(&queue);
		ck_assert_uint_eq(interrupts(), 0);
		virtq_push(&queue, 0, 0);
		virtq_interrupt(&queue);
		virtq_interrupt(&queue);
		ck_assert_uint_eq(interrupts(), 1);
	}
}
END_TEST

START_TEST(event_index_suppresses_interrupts_until_it_is_passed)
{
	enable(FEATURES_EVENT);
	avail->flags = VRING_AVAIL_F_NO_INTERRUPT; /* not looked at */
	avail->ring[QUEUE_SIZE] = 3;
	for (unsigned i = 0; i < 8; i++) {
		virtq_push(&queue, 0, 0);
		virtq_interrupt(&queue);
		ck_assert_uint_eq(interrupts(), i == 3);
	}
	/* Two at once, the event among them. */
	avail->ring[QUEUE_SIZE] = 8;
	virtq_push(&queue, 0, 0);
	virtq_push(&queue, 0, 0);
	virtq_interrupt(&queue);
	ck_assert_uint_eq(interrupts(), 1);
}
END_TEST

START_TEST(event_index_works_over_its_wrap)
{
	unsigned raised = 0;

	enable(FEATURES_EVENT);
	avail->ring[QUEUE_SIZE] = 0xffff;
	for (unsigned i = 0; i < 0x10000 - 2; i++)
		virtq_push(&queue, 0, 0);
	virtq_interrupt(&queue);
	interrupts();
	/* The index goes from 0xfffe over 0xffff to 0. */
	for (unsigned i = 0; i < 4; i++) {
		virtq_push(&queue, 0, 0);
		virtq_interrupt(&queue);
		raised += interrupts();
		ck_assert_uint_eq(raised, i >= 1);
	}
	ck_assert_uint_eq(used->idx, 2);
	/* The event lies behind the wrap. */
	avail->ring[QUEUE_SIZE] = 4;
	for (unsigned i = 0; i < 4; i++) {
		virtq_push(&queue, 0, 0);
		virtq_interrupt(&queue);
		ck_assert_uint_eq(interrupts(), i == 2);
	}
}
END_TEST

START_TEST(chains_are_taken_over_the_wrap_of_the_index)
{
	describe(&descriptors[2], BUFFER, 8, 0, 0);
	for (unsigned i = 0; i < 0x10000 + 40; i++) {
		publish(2);
		ck_assert_int_eq(pop(), 1);
		virtq_push(&queue, 2, 0);
	}
	ck_assert_uint_eq(used->idx, 40);
	ck_assert_int_eq(pop(), 0);
	ck_assert_uint_eq(queue.chains, 0x10000 + 40);
}
END_TEST

START_TEST(no_notify_flag_without_event_index)
{
	enable(FEATURES_PLAIN);
	virtq_disable_notify(&queue);
	ck_assert_uint_eq(used->flags, VRING_USED_F_NO_NOTIFY);
	ck_assert(!virtq_enable_notify(&queue));
	ck_assert_uint_eq(used->flags, 0);
	describe(&descriptors[0], BUFFER, 8, 0, 0);
	publish(0);
	ck_assert(virtq_enable_notify(&queue));
}
END_TEST

START_TEST(avail_event_follows_what_was_taken)
{
	const uint16_t *event = (uint16_t *)&used->ring[QUEUE_SIZE];

	enable(FEATURES_EVENT);
	describe(&descriptors[0], BUFFER, 8, 0, 0);
	publish(0);
	publish(0);
	virtq_disable_notify(&queue);
	ck_assert_uint_eq(used->flags, 0);
	ck_assert_int_eq(pop(), 1);
	ck_assert(virtq_enable_notify(&queue));
	ck_assert_uint_eq(*event, 1);
	ck_assert_int_eq(pop(), 1);
	ck_assert(!virtq_enable_notify(&queue));
	ck_assert_uint_eq(*event, 2);
}
END_TEST

START_TEST(broken_queue_asks_for_no_more)
{
	publish(999);
	ck_assert_int_eq(pop(), -EPROTO);
	publish(1);
	ck_assert(!virtq_enable_notify(&queue));
}
END_TEST

/* A guest's other CPU: changes rings and descriptors while the device reads them. */
static atomic_bool flipping;

static void store(volatile void *to, const void *from, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		__atomic_store_n((uint8_t *)to + i, ((const uint8_t *)from)[i], __ATOMIC_RELAXED);
}

static struct vring_desc random_descriptor(uint64_t *state)
{
	const uint64_t addresses[] = { BUFFER, TABLE, TABLE + 16, SIM_MEMORY - 16, SIM_MEMORY,
		DESCRIPTORS, USED, UINT64_MAX - 7, GUEST_HOLE_END, random_next(state) };
	const uint32_t lengths[] = { 0, 1, 8, 16, 32, 64, 256, 0xfffffff0, random_next(state) };
	uint64_t dice = random_next(state);

	return (struct vring_desc){
		.addr = addresses[dice % ARRAY_SIZE(addresses)],
		.len = lengths[(dice >> 16) % ARRAY_SIZE(lengths)],
		.flags = (dice >> 32) & 7,
		.next = (dice >> 40) % (QUEUE_SIZE + 1),
	};
}

static void *flip(void *seed)
{
	uint64_t state = (uintptr_t)seed;

	while (atomic_load(&flipping)) {
		uint64_t dice = random_next(&state);
		struct vring_desc descriptor = random_descriptor(&state);
		struct vring_desc *base = dice & 1 ? table : descriptors;
		uint16_t head = (dice >> 20) % (QUEUE_SIZE + 1);
		uint16_t index = dice >> 40;

		store(&base[(dice >> 8) % QUEUE_SIZE], &descriptor, sizeof(descriptor));
		store(&avail->ring[(dice >> 16) % QUEUE_SIZE], &head, sizeof(head));
		/* Mostly a little ahead of the device, sometimes anywhere. */
		if (dice % 64)
			index = __atomic_load_n(&used->idx, __ATOMIC_RELAXED) + index % 4;
		store(&avail->idx, &index, sizeof(index));
	}
	return NULL;
}

static bool inside(const struct iovec *part)
{
	uint8_t *start = part->iov_base;

	return start >= memory.base && part->iov_len <= memory.size &&
	       start + part->iov_len <= memory.base + memory.size;
}

/* What a pop gave is what it counted, and inside of memory. */
static void assert_chain_is_sound(void)
{
	size_t out = 0, in = 0;

	ck_assert_uint_lt(chain.head, QUEUE_SIZE);
	ck_assert_uint_le(chain.out_count + chain.in_count, QUEUE_SIZE);
	for (unsigned i = 0; i < chain.out_count + chain.in_count; i++) {
		ck_assert(inside(&iov[i]));
		ck_assert_uint_gt(iov[i].iov_len, 0);
		*(i < chain.out_count ? &out : &in) += iov[i].iov_len;
	}
	ck_assert_uint_eq(out, chain.out_bytes);
	ck_assert_uint_eq(in, chain.in_bytes);
}

START_TEST(rings_that_change_while_they_are_read_lead_nowhere)
{
	uint64_t taken = 0, broken = 0;
	int64_t start = now_ms(), now;
	pthread_t thread;

	atomic_store(&flipping, true);
	ck_assert_int_eq(pthread_create(&thread, NULL, flip, (void *)0x1234567ul), 0);
	do {
		for (unsigned i = 0; i < 1000; i++) {
			int result = pop();

			if (result == 1) {
				taken++;
				assert_chain_is_sound();
				virtq_push(&queue, chain.head, 0);
				virtq_interrupt(&queue);
				virtq_enable_notify(&queue);
			} else if (result < 0) {
				struct karma_queue_setup setup = setup_of(QUEUE_SIZE);
				uint16_t index = 0;

				broken++;
				virtq_reset(&queue);
				store(&used->idx, &index, sizeof(index));
				ck_assert_int_eq(virtq_enable(&queue, &setup, FEATURES_ALL), 0);
			}
		}
		now = now_ms();
		/* Both must happen often, or the test shows nothing. */
	} while (now < start + FLIP_MS ||
		 ((taken < 100 || broken < 100) && now < start + SIM_PATIENCE_MS));
	atomic_store(&flipping, false);
	pthread_join(thread, NULL);
	ck_assert_uint_ge(taken, 100);
	ck_assert_uint_ge(broken, 100);
}
END_TEST

START_TEST(lists_of_buffers_are_copied_and_cut)
{
	char text[] = "abcdefghij", out[16] = { 0 };
	struct iovec list[3] = { { text, 3 }, { text + 3, 3 }, { text + 6, 4 } };
	struct iovec *rest = list;

	ck_assert_uint_eq(iov_read(list, 3, 2, out, 5), 5);
	ck_assert_str_eq(out, "cdefg");
	ck_assert_uint_eq(iov_read(list, 3, 8, out, 16), 2);
	ck_assert_uint_eq(iov_read(list, 3, 10, out, 16), 0);
	ck_assert_uint_eq(iov_read(list, 3, SIZE_MAX, out, 16), 0);
	ck_assert_uint_eq(iov_write(list, 3, 9, "XYZ", 3), 1);
	ck_assert_str_eq(text, "abcdefghiX");
	ck_assert_uint_eq(iov_truncate(list, 3, 6), 2);
	ck_assert_uint_eq(iov_skip(&rest, 2, 4), 1);
	ck_assert_ptr_eq(rest, list + 1);
	ck_assert_ptr_eq(rest->iov_base, text + 4);
	ck_assert_uint_eq(rest->iov_len, 2);
	ck_assert_uint_eq(iov_skip(&rest, 1, 2), 0);
	ck_assert_uint_eq(iov_truncate(list, 3, 0), 0);
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
		queue_sizes,
		rings_that_are_not_aligned_are_refused,
		reserved_field_of_the_setup_must_be_0,
		queue_is_set_up_once,
		rings_outside_of_memory_are_refused,
		rings_that_overlap_are_refused,
		rings_at_the_end_of_memory_are_used_to_the_last_byte,
		no_interrupt_flag_is_heeded,
		nothing_pushed_is_no_interrupt,
		event_index_suppresses_interrupts_until_it_is_passed,
		event_index_works_over_its_wrap,
		chains_are_taken_over_the_wrap_of_the_index,
		no_notify_flag_without_event_index,
		avail_event_follows_what_was_taken,
		broken_queue_asks_for_no_more,
		rings_that_change_while_they_are_read_lead_nowhere,
		lists_of_buffers_are_copied_and_cut,
	};
	Suite *suite = suite_create("queue");
	TCase *small = tcase_create("16 MiB"), *large = tcase_create("5 GiB");

	tcase_add_checked_fixture(small, setup, teardown);
	tcase_set_timeout(small, 20);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(small, tests[i]);
	suite_add_tcase(suite, small);
	tcase_add_checked_fixture(large, setup_5_gib, teardown);
	tcase_set_timeout(large, 20);
	tcase_add_test(large, buffers_at_the_edges_of_the_hole);
	tcase_add_test(large, rings_at_the_hole);
	tcase_add_test(large, chain_of_4_gib_breaks);
	tcase_add_test(large, chain_of_a_byte_less_than_4_gib_is_taken);
	suite_add_tcase(suite, large);
	return suite;
}
