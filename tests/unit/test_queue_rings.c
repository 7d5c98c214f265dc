// SPDX-License-Identifier: GPL-2.0-only
/* Split queues: where rings may be, who is notified, and rings that change while they are read. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "queue_fixture.h"

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

void queue_rings_tests(Suite *suite)
{
	const TTest *const tests[] = {
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
	const TTest *const large[] = { rings_at_the_hole };

	add_case(suite, "16 MiB", setup, teardown, 20, tests, ARRAY_SIZE(tests));
	add_case(suite, "5 GiB", setup_5_gib, teardown, 20, large, ARRAY_SIZE(large));
}
