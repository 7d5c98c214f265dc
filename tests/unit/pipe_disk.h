/* SPDX-License-Identifier: GPL-2.0-only */
/* A disk whose reads are those of a pipe: they end when the test says so. */
#ifndef KARMA_TESTS_PIPE_DISK_H
#define KARMA_TESTS_PIPE_DISK_H

#include <string.h>

#include "guest.h"

#define PIPE_DISK_BYTES (64 * KIB)

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

static struct disk pipe_disk;

/* Its device is `vda`; pipe_disk_close() before the guest is released. */
static inline struct virtio_device *pipe_disk_create(struct sim *sim)
{
	pipe_disk = (struct disk){
		.backend = &pipe_backend,
		.ring = &sim->ring,
		.size = PIPE_DISK_BYTES,
		.block_size = 512,
		.physical_block_size = 4096,
		.references = 1,
	};
	ck_assert_int_eq(pipe(pipe_ends), 0);
	return blk_create(&sim->environment, "vda", &pipe_disk, NULL, 1);
}

/* What still waits for the pipe ends with it. */
static inline void pipe_disk_close(void)
{
	close(pipe_ends[1]);
}

/* End so many reads of 512 bytes. */
static inline void end_reads(unsigned count)
{
	uint8_t sector[512];

	memset(sector, 0xa5, sizeof(sector));
	while (count--)
		ck_assert_int_eq(write(pipe_ends[1], sector, sizeof(sector)), sizeof(sector));
}

#endif
