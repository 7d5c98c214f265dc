// SPDX-License-Identifier: GPL-2.0-only
/* The monitor's io_urings. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

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

/* Submitted in one system call at most. */
#define BATCH_MAX 256u
/* As many as an eventfd counts: nobody reads them all. */
#define ONES 0xfffffffffffffffeull
/* Completions taken under the lock at a time. */
#define TAKE_MAX 32u

static _Thread_local struct io_ring *own_ring;
static _Thread_local struct io_deferred *afters, *put_off;
static _Thread_local struct io_op *finished, **finished_end;
static _Thread_local bool completing;
static _Thread_local int64_t completed_at;	/* 0: nobody has asked yet */

static int make_uring(struct io_uring *uring, unsigned in_flight)
{
	/* Room for all that can be in flight, so that a submission never waits for completions. */
	struct io_uring_params parameters = {
		.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED,
		.cq_entries = in_flight < BATCH_MAX ? BATCH_MAX : in_flight,
	};
	int result = io_uring_queue_init_params(
		in_flight < BATCH_MAX ? in_flight : BATCH_MAX, uring, &parameters);

	if (result < 0)
		return fail(result,
			"io_uring: %s: Karma needs Linux 5.15 or later with io_uring allowed: see "
			"`sysctl kernel.io_uring_disabled` and the limits of locked memory and open "
			"files (ulimit -l, -n)",
			strerror(-result));
	return 0;
}

/*
 * All that may ever be asked of a ring: filters of system calls don't see it.  Of the flags, only
 * those of a chain and that for a worker, and with no change to the ring itself.
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

static int open_events(struct io_ring *ring)
{
	const uint64_t ones = ONES;

	ring->wake_fd = eventfd(0, EFD_CLOEXEC);
	ring->ones_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	if (ring->wake_fd < 0 || ring->ones_fd < 0)
		return fail(-errno, "eventfd: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	if (write_bytes(ring->ones_fd, &ones, sizeof(ones)) < 0)
		return fail(-errno, "eventfd: can't write to it: %s: see `karma check`", strerror(errno));
	return 0;
}

static void close_events(struct io_ring *ring)
{
	close_fd(&ring->wake_fd);
	close_fd(&ring->ones_fd);
}

int io_ring_init(struct io_ring *ring, unsigned in_flight)
{
	int result;

	*ring = (struct io_ring){ .wake_fd = -1, .ones_fd = -1 };
	result = open_events(ring);
	/* Two more: for the end, and for wake_fd. */
	if (result == 0)
		result = make_uring(&ring->uring, in_flight + 2);
	if (result < 0) {
		close_events(ring);
		return result;
	}
	result = restrict_and_enable(&ring->uring);
	if (result < 0) {
		io_uring_queue_exit(&ring->uring);
		close_events(ring);
		return result;
	}
	pthread_mutex_init(&ring->lock, NULL);
	return 0;
}

void io_ring_release(struct io_ring *ring)
{
	io_uring_queue_exit(&ring->uring);
	close_events(ring);
	pthread_mutex_destroy(&ring->lock);
}

static void left(struct io_op *op, int result)
{
	(void)op;
	(void)result;
}

int io_ring_init_thread(
	struct io_ring *ring, struct io_ring *main, unsigned in_flight, uint8_t *leave)
{
	int result;

	*ring = (struct io_ring){
		.main = main,
		.wake_fd = -1,
		.ones_fd = -1,
		.leave = { { leave, 1 }, { ring->nowhere, sizeof(ring->nowhere) } },
		.leave_op.done = left,
		.leave_op.own = true,
	};
	/* One more: io_ring_poll_current() takes two at a time. */
	result = make_uring(&ring->uring, in_flight + 1);
	if (result < 0)
		return result;
	result = io_uring_register_eventfd(&ring->uring, main->wake_fd);
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
	ring->next = main->threads;
	main->threads = ring;
	return 0;
}

void io_ring_release_thread(struct io_ring *ring)
{
	struct io_ring **at = &ring->main->threads;

	while (*at != ring)
		at = &(*at)->next;
	*at = ring->next;
	ring->main->operations += ring->operations;
	ring->main->submissions += ring->submissions;
	io_uring_queue_exit(&ring->uring);
	pthread_mutex_destroy(&ring->lock);
}

/* As io_uring_cq_ready() has it, but for a head that another thread may move. */
static unsigned completions(const struct io_ring *ring)
{
	const struct io_uring_cq *queue = &ring->uring.cq;
	unsigned head = __atomic_load_n(queue->khead, __ATOMIC_ACQUIRE);

	return __atomic_load_n(queue->ktail, __ATOMIC_ACQUIRE) - head;
}

bool io_ring_ready(const struct io_ring *ring)
{
	return finished || completions(ring);
}

void io_ring_bind(struct io_ring *own)
{
	own_ring = own;
	io_ring_disarm_eventfd(own);
}

void io_ring_disarm_eventfd(struct io_ring *own)
{
	__atomic_fetch_or(own->uring.cq.kflags, IORING_CQ_EVENTFD_DISABLED, __ATOMIC_RELAXED);
}

bool io_ring_arm_eventfd(struct io_ring *own)
{
	/* What was completed before the kernel sees this has not woken the I/O thread. */
	if (__atomic_load_n(&own->left_alone, __ATOMIC_RELAXED))
		__atomic_fetch_and(
			own->uring.cq.kflags, ~IORING_CQ_EVENTFD_DISABLED, __ATOMIC_SEQ_CST);
	if (!io_ring_ready(own))
		return true;
	io_ring_disarm_eventfd(own);
	return false;
}

void io_ring_unbind(struct io_ring *own)
{
	const uint64_t one = 1;

	own_ring = NULL;
	__atomic_fetch_and(own->uring.cq.kflags, ~IORING_CQ_EVENTFD_DISABLED, __ATOMIC_SEQ_CST);
	/* An eventfd takes a write unless its counter is full, and then it is raised anyway. */
	if (write_bytes(own->main->wake_fd, &one, sizeof(one)) < 0)
		return;
}

struct io_ring *io_ring_current(struct io_ring *main)
{
	return own_ring ? own_ring : main;
}

static void submit_locked(struct io_ring *ring)
{
	int result;

	/* One that the kernel refuses to take ends the batch: go on behind it. */
	do {
		result = io_uring_submit(&ring->uring);
		count_up(&ring->submissions, 1);
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
	op->own = false;
	__tsan_release(op);
	count_up(&ring->operations, 1);
	__atomic_fetch_add(&ring->left_alone, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&ring->lock);
}

void io_ring_readv(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async)
{
	struct io_uring_sqe *sqe = start_op(ring);

	io_uring_prep_readv(sqe, fd, iov, count, offset);
	sqe->flags |= async ? IOSQE_ASYNC : 0;
	finish_op(ring, sqe, op);
}

void io_ring_writev(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async)
{
	struct io_uring_sqe *sqe = start_op(ring);

	io_uring_prep_writev(sqe, fd, iov, count, offset);
	sqe->flags |= async ? IOSQE_ASYNC : 0;
	finish_op(ring, sqe, op);
}

bool io_ring_can_link(const struct io_ring *ring, unsigned count)
{
	return (ring->uring.features & IORING_FEAT_CQE_SKIP) && count <= ring->uring.sq.ring_entries;
}

/* Linked entries: io_uring_enter(2), IOSQE_IO_LINK and IOSQE_CQE_SKIP_SUCCESS. */
void io_ring_write_linked(
	struct io_ring *ring, int fd, const struct io_write *writes, unsigned count)
{
	pthread_mutex_lock(&ring->lock);
	/* A submission ends a chain, so all of it has to fit into one. */
	while (io_uring_sq_space_left(&ring->uring) < count)
		submit_locked(ring);
	for (unsigned i = 0; i < count; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

		io_uring_prep_writev(sqe, fd, writes[i].iov, writes[i].iov_count, writes[i].offset);
		if (i + 1 < count)
			sqe->flags |= IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
		io_uring_sqe_set_data(sqe, writes[i].op);
		writes[i].op->own = false;
		__tsan_release(writes[i].op);
	}
	count_up(&ring->operations, count);
	/* They end as one. */
	__atomic_fetch_add(&ring->left_alone, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&ring->lock);
}

void io_ring_fdatasync(struct io_ring *ring, struct io_op *op, int fd)
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

/*
 * That it is complete makes the thread leave the guest, but not if it comes just before it enters: so
 * the kernel then sets the thread's flag, too.
 */
void io_ring_poll_current(struct io_op *op, int fd, unsigned events)
{
	struct io_ring *ring = own_ring;
	struct io_uring_sqe *sqe;

	if (!ring->leave[0].iov_base) {
		io_ring_poll(ring, op, fd, events);
		return;
	}
	pthread_mutex_lock(&ring->lock);
	while (io_uring_sq_space_left(&ring->uring) < 2)
		submit_locked(ring);
	sqe = io_uring_get_sqe(&ring->uring);
	io_uring_prep_poll_add(sqe, fd, events);
	sqe->flags |= IOSQE_IO_LINK;
	io_uring_sqe_set_data(sqe, op);
	op->own = true;
	__tsan_release(op);
	sqe = io_uring_get_sqe(&ring->uring);
	io_uring_prep_readv(sqe, ring->main->ones_fd, ring->leave, ARRAY_SIZE(ring->leave), 0);
	io_uring_sqe_set_data(sqe, &ring->leave_op);
	__tsan_release(&ring->leave_op);
	count_up(&ring->operations, 2);
	pthread_mutex_unlock(&ring->lock);
}

void io_ring_timeout(struct io_ring *ring, struct io_op *op, const struct __kernel_timespec *time)
{
	struct io_uring_sqe *sqe = start_op(ring);

	io_uring_prep_timeout(sqe, (struct __kernel_timespec *)time, 0, 0);
	finish_op(ring, sqe, op);
}

void io_ring_nop(struct io_ring *ring, struct io_op *op)
{
	struct io_uring_sqe *sqe = start_op(ring);

	io_uring_prep_nop(sqe);
	finish_op(ring, sqe, op);
}

static void run_all(struct io_deferred **list)
{
	while (*list) {
		struct io_deferred *after = *list;

		*list = after->next;
		after->run(after);
	}
}

void io_ring_defer_until_submit(struct io_deferred *after)
{
	after->next = put_off;
	put_off = after;
}

void io_ring_submit(struct io_ring *ring)
{
	run_all(&put_off);
	/* Nobody else queues anything on a thread's own. */
	if (ring == own_ring && !io_uring_sq_ready(&ring->uring))
		return;
	pthread_mutex_lock(&ring->lock);
	if (io_uring_sq_ready(&ring->uring))
		submit_locked(ring);
	pthread_mutex_unlock(&ring->lock);
}

struct completion {
	struct io_op *op;
	int result;
};

static unsigned take_completions(struct io_ring *ring, struct completion *taken, unsigned most)
{
	struct io_uring_cqe *cqes[TAKE_MAX];
	unsigned count;

	if (most == 0)
		return 0;
	pthread_mutex_lock(&ring->lock);
	count = io_uring_peek_batch_cqe(&ring->uring, cqes, most < TAKE_MAX ? most : TAKE_MAX);
	for (unsigned i = 0; i < count; i++) {
		taken[i] = (struct completion){ io_uring_cqe_get_data(cqes[i]), cqes[i]->res };
		if (!taken[i].op->own)
			__atomic_fetch_sub(&ring->left_alone, 1, __ATOMIC_RELAXED);
	}
	io_uring_cq_advance(&ring->uring, count);
	pthread_mutex_unlock(&ring->lock);
	return count;
}

void io_ring_complete(struct io_op *op, int result)
{
	op->result = result;
	op->next = NULL;
	if (!finished)
		finished_end = &finished;
	*finished_end = op;
	finished_end = &op->next;
}

static unsigned run_finished(void)
{
	struct io_op *op = finished;
	unsigned count = 0;

	finished = NULL;
	for (struct io_op *next; op; op = next, count++) {
		next = op->next;
		op->done(op, op->result);
	}
	return count;
}

void io_ring_defer_until_reaped(struct io_deferred *after)
{
	after->next = afters;
	afters = after;
}

int64_t io_ring_now(void)
{
	if (!completing)
		return nanoseconds();
	if (!completed_at)
		completed_at = nanoseconds();
	return completed_at;
}

idle_path unsigned io_ring_reap(struct io_ring *ring, bool wait)
{
	struct completion taken[TAKE_MAX];
	struct io_uring_cqe *first;
	unsigned left, count, all = 0;

	if (wait && !finished && io_uring_wait_cqe(&ring->uring, &first) < 0)
		return 0;
	/* Not what is completed meanwhile: operations that queue the next would hold up the caller. */
	left = completions(ring);
	do {
		count = take_completions(ring, taken, left);
		left -= count;
		completing = true;
		completed_at = 0;
		for (unsigned i = 0; i < count; i++) {
			__tsan_acquire(taken[i].op);
			taken[i].op->done(taken[i].op, taken[i].result);
		}
		all += count + run_finished();
		completing = false;
		run_all(&afters);
	} while (count > 0 && left > 0);
	/* What the functions queued: this thread's ring is not always the one that it took from. */
	io_ring_submit(io_ring_current(ring->main ? ring->main : ring));
	return all;
}

static void wake_done(struct io_op *op, int result)
{
	struct io_ring *main = container_of(op, struct io_ring, wake_op);

	(void)result;
	main->wake_armed = false;
	for (struct io_ring *ring = main->threads; ring; ring = ring->next) {
		if (completions(ring))
			io_ring_reap(ring, false);
	}
}

/* Be woken by what is completed on the other rings while their owners rest. */
idle_path static void arm_wake(struct io_ring *main)
{
	struct io_uring_sqe *sqe;

	if (main->wake_armed || !main->threads)
		return;
	main->wake_armed = true;
	main->wake_op.done = wake_done;
	sqe = start_op(main);
	io_uring_prep_read(sqe, main->wake_fd, &main->wakes, sizeof(main->wakes), 0);
	finish_op(main, sqe, &main->wake_op);
	io_ring_submit(main);
}

static void stop_done(struct io_op *op, int result)
{
	struct io_ring *ring = container_of(op, struct io_ring, stop_op);

	(void)result;
	ring->stopping = true;
}

idle_path void io_ring_loop(struct io_ring *ring)
{
	ring->stopping = false;
	while (!ring->stopping) {
		arm_wake(ring);
		io_ring_reap(ring, true);
	}
}

void io_ring_stop(struct io_ring *ring)
{
	ring->stop_op.done = stop_done;
	io_ring_nop(ring, &ring->stop_op);
	io_ring_submit(ring);
}
