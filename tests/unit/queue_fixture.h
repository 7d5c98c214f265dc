/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A split queue, whose rings and chains the test writes. Each file of tests that includes this has
 * one of its own.
 */
#ifndef KARMA_TESTS_QUEUE_FIXTURE_H
#define KARMA_TESTS_QUEUE_FIXTURE_H

#include <string.h>

#include "guest.h"

/* The parts of the suite. */
void queue_rings_tests(Suite *suite);

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

static inline struct karma_queue_setup setup_of(uint32_t size)
{
	return (struct karma_queue_setup){ DESCRIPTORS, AVAIL, USED, size, 0 };
}

static inline void enable(uint64_t features)
{
	struct karma_queue_setup setup = setup_of(QUEUE_SIZE);

	virtq_reset(&queue);
	queue.interrupt = (struct karma_interrupt){ 0xfee00000, 33, 0 };
	memset(used, 0, PAGE_BYTES);
	memset(avail, 0, PAGE_BYTES);
	ck_assert_int_eq(virtq_enable(&queue, &setup, features), 0);
}

static inline void count_interrupt(void *context, const struct karma_interrupt *interrupt)
{
	ck_assert_uint_eq(interrupt->data, 33);
	++*(unsigned *)context;
}

static inline void make_memory(uint64_t size)
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

static inline void setup(void)
{
	make_memory(SIM_MEMORY);
	enable(FEATURES_INDIRECT);
}

static inline void setup_5_gib(void)
{
	make_memory(5 * GIB);
	enable(FEATURES_INDIRECT);
}

static inline void teardown(void)
{
	guarded_memory_release(&memory, area, area_size);
}

static inline void describe(
	struct vring_desc *descriptor, uint64_t gpa, uint32_t length, uint16_t flags, uint16_t next)
{
	*descriptor = (struct vring_desc){ gpa, length, flags, next };
}

static inline void publish(uint16_t head)
{
	avail->ring[avail->idx % QUEUE_SIZE] = head;
	avail->idx++;
}

static inline int pop(void)
{
	return virtq_pop(&queue, iov, ARRAY_SIZE(iov), &chain);
}

#endif
