/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A disk whose requests end when the test wants it. Each file of tests that includes this has one
 * of its own.
 */
#ifndef KARMA_TESTS_TRANSPORT_FIXTURE_H
#define KARMA_TESTS_TRANSPORT_FIXTURE_H

#include <linux/virtio_blk.h>

#include "pipe_disk.h"

/* The parts of the suite. */
void transport_device_tests(Suite *suite);

#define QUEUE_SIZE 8
#define QUEUE_SIZE_MAX BLK_QUEUE_SIZE_MAX
#define ARG_BLK KARMA_ARG(0, 0)
#define THREAD_REQUESTS 2000u
#define TOY_QUEUE_SIZE 16
#define TOY_CHAINS 40

static struct sim sim;
static struct driver_queue queue;
static struct virtio_device *blk;

static inline void setup(void)
{
	sim_init(&sim, SIM_MEMORY);
	blk = pipe_disk_create(&sim);
	ck_assert_uint_eq(sim_add(&sim, blk), 0);
	ck_assert_uint_eq(sim_add(&sim, rng_create(&sim.environment)), 1);
}

static inline void teardown(void)
{
	pipe_disk_close();
	sim_release(&sim);
}

static inline void start(uint64_t features)
{
	sim_start_device(&sim, 0, features, &queue, 1, QUEUE_SIZE);
}

static inline int64_t set_status(uint64_t status)
{
	return sim_call(&sim, KARMA_CALL_device_set_status, 0, status);
}

static uint64_t data_gpa, status_gpa;

/* A read of one sector, kicked: it stays in flight until the pipe gives its data. */
static inline uint16_t start_read(void)
{
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN };
	uint16_t head;

	data_gpa = sim_alloc(&sim, 512, 512);
	status_gpa = sim_alloc(&sim, 1, 1);
	*(uint8_t *)sim_at(&sim, status_gpa, 1) = 0xee;
	head = driver_chain(&queue,
		(struct part[]){ { sim_text(&sim, &header, sizeof(header)), sizeof(header), false },
			{ data_gpa, 512, true }, { status_gpa, 1, true } },
		3);
	driver_publish(&queue, head);
	driver_kick(&queue);
	return head;
}

#endif
