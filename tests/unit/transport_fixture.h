/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A disk whose requests end when the test wants it. Each file of tests that includes this has one
 * of its own.
 */
#ifndef KARMA_TESTS_TRANSPORT_FIXTURE_H
#define KARMA_TESTS_TRANSPORT_FIXTURE_H

#include <linux/virtio_blk.h>
#include <string.h>

#include "guest.h"

/* The parts of the suite. */
void transport_device_tests(Suite *suite);

#define DISK_BYTES (64 * KIB)
#define QUEUE_SIZE 8
#define QUEUE_SIZE_MAX BLK_QUEUE_SIZE_MAX
#define ARG_BLK KARMA_ARG(0, 0)
#define THREAD_REQUESTS 2000u
#define TOY_QUEUE_SIZE 16
#define TOY_CHAINS 40

static struct sim sim;
static struct driver_queue queue;
static struct virtio_device *blk;
static int pipe_ends[2];

static inline void pipe_done(struct io_op *op, int result)
{
	struct disk_request *request = container_of(op, struct disk_request, op);

	request->done(request, result < 0 ? result : 0);
}

static inline void pipe_submit(struct disk *disk, struct disk_request *request)
{
	request->op.done = pipe_done;
	io_ring_readv(io_ring_current(disk->ring), &request->op, pipe_ends[0], request->iov,
		request->iov_count, 0, false);
}

static inline void pipe_kick(struct disk *disk)
{
	io_ring_submit(io_ring_current(disk->ring));
}

static inline void pipe_close(struct disk *disk)
{
	(void)disk;
	close(pipe_ends[0]);
}

static const struct disk_backend pipe_backend = {
	.submit = pipe_submit,
	.kick = pipe_kick,
	.close = pipe_close,
};

/* A disk whose reads end when the test says so: they are those of a pipe. */
static struct disk disk;

static inline void setup(void)
{
	disk = (struct disk){
		.backend = &pipe_backend,
		.ring = &sim.ring,
		.size = DISK_BYTES,
		.block_size = 512,
		.physical_block_size = 4096,
		.references = 1,
	};
	sim_init(&sim, SIM_MEMORY);
	ck_assert_int_eq(pipe(pipe_ends), 0);
	blk = blk_create(&sim.environment, "vda", &disk, NULL, 1);
	ck_assert_uint_eq(sim_add(&sim, blk), 0);
	ck_assert_uint_eq(sim_add(&sim, rng_create(&sim.environment)), 1);
}

static inline void teardown(void)
{
	/* What still waits for the pipe ends with it. */
	close(pipe_ends[1]);
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

static inline void end_reads(unsigned count)
{
	uint8_t sector[512];

	memset(sector, 0xa5, sizeof(sector));
	while (count--)
		ck_assert_int_eq(write(pipe_ends[1], sector, sizeof(sector)), sizeof(sector));
}

#endif
