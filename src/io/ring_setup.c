// SPDX-License-Identifier: GPL-2.0-only
/* The monitor's io_urings: set up, restrict, release. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "karma/io.h"
#include "karma/log.h"
#include "karma/util.h"

/* Operations that one system call submits, at most; a completion queue has no fewer entries. */
#define SUBMIT_MAX 256u
/* The largest value of an eventfd: no reader uses it up. */
#define EVENTFD_MAX 0xfffffffffffffffeull

static int make_uring(struct io_uring *uring, unsigned in_flight)
{
	/*
	 * The completion queue has room for all that is in flight: a submission never waits for it.
	 */
	struct io_uring_params parameters = {
		.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED,
		.cq_entries = in_flight < SUBMIT_MAX ? SUBMIT_MAX : in_flight,
	};
	int result = io_uring_queue_init_params(
		in_flight < SUBMIT_MAX ? in_flight : SUBMIT_MAX, uring, &parameters);

	if (result < 0)
		return fail(result,
			"io_uring: %s: Karma needs Linux 5.15 or later with io_uring allowed: see "
			"`sysctl kernel.io_uring_disabled` and the limits of locked memory and open "
			"files (ulimit -l, -n)",
			strerror(-result));
	return 0;
}

/*
 * Restrict the ring to the operations that Karma queues: seccomp filters cannot see them.  Of the
 * flags, only those for linked operations and for a worker thread are allowed; later registrations
 * are refused.
 */
static int restrict_and_enable(struct io_uring *uring)
{
	static const uint8_t allowed[] = { IORING_OP_NOP, IORING_OP_READV, IORING_OP_WRITEV,
		IORING_OP_READ, IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_POLL_ADD,
		IORING_OP_TIMEOUT };
	struct io_uring_restriction restrictions[ARRAY_SIZE(allowed) + 1] = {
		[ARRAY_SIZE(allowed)] = {
			.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
			.sqe_flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS | IOSQE_ASYNC,
		},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(allowed); i++) {
		restrictions[i].opcode = IORING_RESTRICTION_SQE_OP;
		restrictions[i].sqe_op = allowed[i];
	}
	/* liburing has functions for both, but Debian's 2.3 does not export them. */
	if (syscall(SYS_io_uring_register, uring->ring_fd, IORING_REGISTER_RESTRICTIONS,
		    restrictions, ARRAY_SIZE(restrictions)) < 0 ||
		syscall(SYS_io_uring_register, uring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
		return fail(-errno, "io_uring: can't restrict it: %s: use Linux 5.15 or later",
			strerror(errno));
	return 0;
}

static int open_eventfds(struct io_ring *ring)
{
	const uint64_t ones = EVENTFD_MAX;

	ring->completion_eventfd = eventfd(0, EFD_CLOEXEC);
	ring->one_eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	if (ring->completion_eventfd < 0 || ring->one_eventfd < 0)
		return fail(-errno, "eventfd: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	if (write_bytes(ring->one_eventfd, &ones, sizeof(ones)) < 0)
		return fail(-errno, "eventfd: can't write to it: %s: see `karma check`", strerror(errno));
	return 0;
}

static void close_eventfds(struct io_ring *ring)
{
	close_fd(&ring->completion_eventfd);
	close_fd(&ring->one_eventfd);
}

int io_ring_init(struct io_ring *ring, unsigned in_flight)
{
	int result;

	*ring = (struct io_ring){ .completion_eventfd = -1, .one_eventfd = -1 };
	result = open_eventfds(ring);
	/* Two more: stop_op and eventfd_op. */
	if (result == 0)
		result = make_uring(&ring->uring, in_flight + 2);
	if (result < 0) {
		close_eventfds(ring);
		return result;
	}
	result = restrict_and_enable(&ring->uring);
	if (result < 0) {
		io_uring_queue_exit(&ring->uring);
		close_eventfds(ring);
		return result;
	}
	pthread_mutex_init(&ring->lock, NULL);
	return 0;
}

void io_ring_release(struct io_ring *ring)
{
	io_uring_queue_exit(&ring->uring);
	close_eventfds(ring);
	pthread_mutex_destroy(&ring->lock);
}

/* The operation itself has made the vCPU leave the guest. */
static void kick_done(struct io_op *op, int result)
{
	(void)op;
	(void)result;
}

int io_ring_init_thread(
	struct io_ring *ring, struct io_ring *main, unsigned in_flight, uint8_t *immediate_exit)
{
	int result;

	*ring = (struct io_ring){
		.main = main,
		.completion_eventfd = -1,
		.one_eventfd = -1,
		.kick_iov = { { immediate_exit, 1 }, { ring->kick_unused, sizeof(ring->kick_unused) } },
		.kick_op.done = kick_done,
		.kick_op.kicks_vcpu = true,
	};
	/* One more: io_ring_poll_current() queues two operations. */
	result = make_uring(&ring->uring, in_flight + 1);
	if (result < 0)
		return result;
	result = io_uring_register_eventfd(&ring->uring, main->completion_eventfd);
	if (result < 0)
		fail(result, "io_uring: can't tell of completions: %s: use Linux 5.15 or later",
			strerror(-result));
	else
		result = restrict_and_enable(&ring->uring);
	if (result < 0) {
		io_uring_queue_exit(&ring->uring);
		return result;
	}
	pthread_mutex_init(&ring->lock, NULL);
	ring->next = main->thread_rings;
	main->thread_rings = ring;
	return 0;
}

void io_ring_release_thread(struct io_ring *ring)
{
	struct io_ring **at = &ring->main->thread_rings;

	while (*at != ring)
		at = &(*at)->next;
	*at = ring->next;
	ring->main->operations += ring->operations;
	ring->main->submissions += ring->submissions;
	io_uring_queue_exit(&ring->uring);
	pthread_mutex_destroy(&ring->lock);
}
