// SPDX-License-Identifier: GPL-2.0-only
/* The monitor's io_uring. */
#include <errno.h>
#include <string.h>

#include "karma/io.h"
#include "karma/log.h"
#include "karma/util.h"

/* The kernel orders what is before a submission and behind its completion: TSan can't know. */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#else
#define __tsan_acquire(address) ((void)(address))
#define __tsan_release(address) ((void)(address))
#endif

#define COMPLETIONS 8192

int io_ring_init(struct io_ring *ring, unsigned entries)
{
	/* Room for all that can be in flight, so that a submission never waits for completions. */
	struct io_uring_params parameters = {
		.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
		.cq_entries = COMPLETIONS,
	};
	int result = io_uring_queue_init_params(entries, &ring->uring, &parameters);

	if (result < 0)
		return fail(result,
			"io_uring: %s: Karma needs Linux 5.15 or later with io_uring allowed: see "
			"`sysctl kernel.io_uring_disabled` and the limit of locked memory (ulimit -l)",
			strerror(-result));
	pthread_mutex_init(&ring->lock, NULL);
	return 0;
}

void io_ring_release(struct io_ring *ring)
{
	io_uring_queue_exit(&ring->uring);
	pthread_mutex_destroy(&ring->lock);
}

static void submit_locked(struct io_ring *ring)
{
	int result;

	/* One that the kernel refuses to take ends the batch: go on behind it. */
	do {
		result = io_uring_submit(&ring->uring);
		ring->submissions++;
	} while (result == -EINTR || result == -EAGAIN || result == -EBUSY ||
		(result > 0 && io_uring_sq_ready(&ring->uring)));
}

/* With the lock held, which finish_op() releases. */
static struct io_uring_sqe *start_op(struct io_ring *ring)
{
	struct io_uring_sqe *sqe;

	pthread_mutex_lock(&ring->lock);
	while (!(sqe = io_uring_get_sqe(&ring->uring)))
		submit_locked(ring);
	return sqe;
}

static void finish_op(struct io_ring *ring, struct io_uring_sqe *sqe, struct io_op *op)
{
	io_uring_sqe_set_data(sqe, op);
	__tsan_release(op);
	ring->operations++;
	pthread_mutex_unlock(&ring->lock);
}

void io_ring_readv(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset)
{
	struct io_uring_sqe *sqe = start_op(ring);

	io_uring_prep_readv(sqe, fd, iov, count, offset);
	finish_op(ring, sqe, op);
}

void io_ring_writev(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset)
{
	struct io_uring_sqe *sqe = start_op(ring);

	io_uring_prep_writev(sqe, fd, iov, count, offset);
	finish_op(ring, sqe, op);
}

void io_ring_datasync(struct io_ring *ring, struct io_op *op, int fd)
{
	struct io_uring_sqe *sqe = start_op(ring);

	io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	finish_op(ring, sqe, op);
}

void io_ring_fallocate(
	struct io_ring *ring, struct io_op *op, int fd, int mode, uint64_t offset, uint64_t length)
{
	struct io_uring_sqe *sqe = start_op(ring);

	io_uring_prep_fallocate(sqe, fd, mode, offset, length);
	finish_op(ring, sqe, op);
}

void io_ring_poll(struct io_ring *ring, struct io_op *op, int fd, unsigned events)
{
	struct io_uring_sqe *sqe = start_op(ring);

	io_uring_prep_poll_add(sqe, fd, events);
	finish_op(ring, sqe, op);
}

void io_ring_wake(struct io_ring *ring, struct io_op *op)
{
	struct io_uring_sqe *sqe = start_op(ring);

	io_uring_prep_nop(sqe);
	finish_op(ring, sqe, op);
}

void io_ring_submit(struct io_ring *ring)
{
	pthread_mutex_lock(&ring->lock);
	if (io_uring_sq_ready(&ring->uring))
		submit_locked(ring);
	pthread_mutex_unlock(&ring->lock);
}

unsigned io_ring_run(struct io_ring *ring, bool wait)
{
	struct io_uring_cqe *cqe;
	unsigned count = 0;

	if (wait && io_uring_wait_cqe(&ring->uring, &cqe) < 0)
		return 0;
	while (io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
		struct io_op *op = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&ring->uring, cqe);
		count++;
		__tsan_acquire(op);
		if (op)
			op->done(op, result);
	}
	/* What the functions queued. */
	io_ring_submit(ring);
	return count;
}

static void stop_done(struct io_op *op, int result)
{
	struct io_ring *ring = container_of(op, struct io_ring, stop_op);

	(void)result;
	ring->stopping = true;
}

void io_ring_loop(struct io_ring *ring)
{
	ring->stopping = false;
	while (!ring->stopping)
		io_ring_run(ring, true);
}

void io_ring_stop(struct io_ring *ring)
{
	ring->stop_op.done = stop_done;
	io_ring_wake(ring, &ring->stop_op);
	io_ring_submit(ring);
}
