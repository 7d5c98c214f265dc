// SPDX-License-Identifier: GPL-2.0-only
/* The monitor's io_urings: submission, completion, the I/O thread. */
#include "karma/io.h"
#include "karma/util.h"

/*
 * The kernel orders what precedes a submission before its completion.  TSan is told, since it
 * cannot see that.
 */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#else
#define __tsan_acquire(address) ((void)(address))
#define __tsan_release(address) ((void)(address))
#endif

/* Completions reaped at a time, with the lock held. */
#define REAP_MAX 32u

/* Of the calling thread. */
static _Thread_local struct io_ring *bound_ring;
static _Thread_local struct io_deferred *until_reaped, *until_submit;
static _Thread_local struct io_op *completed, **completed_end;	/* by io_ring_complete() */
static _Thread_local bool completing;			/* io_ring_reap() calls done() functions */
static _Thread_local int64_t completed_at;		/* io_ring_now(); 0: the clock was not read yet */

/* As io_uring_cq_ready(), for a head that another thread may move. */
static unsigned completions(const struct io_ring *ring)
{
	const struct io_uring_cq *queue = &ring->uring.cq;
	unsigned head = __atomic_load_n(queue->khead, __ATOMIC_ACQUIRE);

	return __atomic_load_n(queue->ktail, __ATOMIC_ACQUIRE) - head;
}

bool io_ring_ready(const struct io_ring *ring)
{
	return completed || completions(ring);
}

/* --- Thread rings: who reaps them. */

static void arm_eventfd(struct io_ring *ring)
{
	__atomic_fetch_and(ring->uring.cq.kflags, ~IORING_CQ_EVENTFD_DISABLED, __ATOMIC_SEQ_CST);
}

void io_ring_disarm_eventfd(struct io_ring *ring)
{
	__atomic_fetch_or(ring->uring.cq.kflags, IORING_CQ_EVENTFD_DISABLED, __ATOMIC_RELAXED);
}

bool io_ring_arm_eventfd(struct io_ring *ring)
{
	if (__atomic_load_n(&ring->eventfd_in_flight, __ATOMIC_RELAXED))
		arm_eventfd(ring);
	/* What completed before the kernel saw the flag has not raised the eventfd. */
	if (!io_ring_ready(ring))
		return true;
	io_ring_disarm_eventfd(ring);
	return false;
}

void io_ring_bind(struct io_ring *ring)
{
	bound_ring = ring;
	io_ring_disarm_eventfd(ring);
}

void io_ring_unbind(struct io_ring *ring)
{
	const uint64_t one = 1;

	bound_ring = NULL;
	arm_eventfd(ring);
	/* Fails only if the counter is full: then the eventfd is raised already. */
	if (write_bytes(ring->main->completion_eventfd, &one, sizeof(one)) < 0)
		return;
}

struct io_ring *io_ring_current(struct io_ring *main)
{
	return bound_ring ? bound_ring : main;
}

/* --- Submission. */

static void submit_locked(struct io_ring *ring)
{
	int result;

	/* The kernel stops behind an operation that it refuses: submit the others. */
	do {
		result = io_uring_submit(&ring->uring);
		count_up(&ring->submissions, 1);
	} while (result == -EINTR || result == -EAGAIN || result == -EBUSY ||
		(result > 0 && io_uring_sq_ready(&ring->uring)));
}

/* A free submission queue entry.  Takes the lock, which queue_op_unlock() releases. */
static struct io_uring_sqe *get_sqe_lock(struct io_ring *ring)
{
	struct io_uring_sqe *sqe;

	pthread_mutex_lock(&ring->lock);
	while (!(sqe = io_uring_get_sqe(&ring->uring)))
		submit_locked(ring);
	return sqe;
}

static void queue_op_unlock(struct io_ring *ring, struct io_uring_sqe *sqe, struct io_op *op)
{
	io_uring_sqe_set_data(sqe, op);
	op->kicks_vcpu = false;
	__tsan_release(op);
	count_up(&ring->operations, 1);
	__atomic_fetch_add(&ring->eventfd_in_flight, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&ring->lock);
}

void io_ring_readv(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async)
{
	struct io_uring_sqe *sqe = get_sqe_lock(ring);

	io_uring_prep_readv(sqe, fd, iov, count, offset);
	sqe->flags |= async ? IOSQE_ASYNC : 0;
	queue_op_unlock(ring, sqe, op);
}

void io_ring_writev(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async)
{
	struct io_uring_sqe *sqe = get_sqe_lock(ring);

	io_uring_prep_writev(sqe, fd, iov, count, offset);
	sqe->flags |= async ? IOSQE_ASYNC : 0;
	queue_op_unlock(ring, sqe, op);
}

bool io_ring_can_link(const struct io_ring *ring, unsigned count)
{
	return (ring->uring.features & IORING_FEAT_CQE_SKIP) && count <= ring->uring.sq.ring_entries;
}

/* io_uring_enter(2): IOSQE_IO_LINK and IOSQE_CQE_SKIP_SUCCESS. */
void io_ring_write_linked(
	struct io_ring *ring, int fd, const struct io_write *writes, unsigned count)
{
	pthread_mutex_lock(&ring->lock);
	/* The end of a submission also ends the linked operations, so all must fit into one. */
	while (io_uring_sq_space_left(&ring->uring) < count)
		submit_locked(ring);
	for (unsigned i = 0; i < count; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

		io_uring_prep_writev(sqe, fd, writes[i].iov, writes[i].iov_count, writes[i].offset);
		if (i + 1 < count)
			sqe->flags |= IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
		io_uring_sqe_set_data(sqe, writes[i].op);
		writes[i].op->kicks_vcpu = false;
		__tsan_release(writes[i].op);
	}
	count_up(&ring->operations, count);
	/* They have one completion. */
	__atomic_fetch_add(&ring->eventfd_in_flight, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&ring->lock);
}

void io_ring_fdatasync(struct io_ring *ring, struct io_op *op, int fd)
{
	struct io_uring_sqe *sqe = get_sqe_lock(ring);

	io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	queue_op_unlock(ring, sqe, op);
}

void io_ring_fallocate(
	struct io_ring *ring, struct io_op *op, int fd, int mode, uint64_t offset, uint64_t length)
{
	struct io_uring_sqe *sqe = get_sqe_lock(ring);

	io_uring_prep_fallocate(sqe, fd, mode, offset, length);
	queue_op_unlock(ring, sqe, op);
}

void io_ring_poll(struct io_ring *ring, struct io_op *op, int fd, unsigned events)
{
	struct io_uring_sqe *sqe = get_sqe_lock(ring);

	io_uring_prep_poll_add(sqe, fd, events);
	queue_op_unlock(ring, sqe, op);
}

/*
 * The completion interrupts KVM_RUN, but not if it comes just before the thread enters the guest.
 * So a linked read then sets immediate_exit, which KVM_RUN looks at when it begins.
 */
void io_ring_poll_current(struct io_op *op, int fd, unsigned events)
{
	struct io_ring *ring = bound_ring;
	struct io_uring_sqe *sqe;

	if (!ring->kick_iov[0].iov_base) {
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
	op->kicks_vcpu = true;
	__tsan_release(op);
	sqe = io_uring_get_sqe(&ring->uring);
	io_uring_prep_readv(sqe, ring->main->one_eventfd, ring->kick_iov, ARRAY_SIZE(ring->kick_iov), 0);
	io_uring_sqe_set_data(sqe, &ring->kick_op);
	__tsan_release(&ring->kick_op);
	count_up(&ring->operations, 2);
	pthread_mutex_unlock(&ring->lock);
}

void io_ring_timeout(struct io_ring *ring, struct io_op *op, const struct __kernel_timespec *time)
{
	struct io_uring_sqe *sqe = get_sqe_lock(ring);

	io_uring_prep_timeout(sqe, (struct __kernel_timespec *)time, 0, 0);
	queue_op_unlock(ring, sqe, op);
}

void io_ring_nop(struct io_ring *ring, struct io_op *op)
{
	struct io_uring_sqe *sqe = get_sqe_lock(ring);

	io_uring_prep_nop(sqe);
	queue_op_unlock(ring, sqe, op);
}

static void run_deferred(struct io_deferred **list)
{
	while (*list) {
		struct io_deferred *deferred = *list;

		*list = deferred->next;
		deferred->run(deferred);
	}
}

void io_ring_defer_until_submit(struct io_deferred *deferred)
{
	deferred->next = until_submit;
	until_submit = deferred;
}

void io_ring_submit(struct io_ring *ring)
{
	run_deferred(&until_submit);
	/*
	 * Only the bound thread queues on a thread ring, so it needs no lock to see that nothing is
	 * queued.
	 */
	if (ring == bound_ring && !io_uring_sq_ready(&ring->uring))
		return;
	pthread_mutex_lock(&ring->lock);
	if (io_uring_sq_ready(&ring->uring))
		submit_locked(ring);
	pthread_mutex_unlock(&ring->lock);
}

/* --- Completion. */

struct completion {
	struct io_op *op;
	int result;
};

/* Copy up to most completions out of the queue, and free their entries. */
static unsigned copy_completions(struct io_ring *ring, struct completion *batch, unsigned most)
{
	struct io_uring_cqe *cqes[REAP_MAX];
	unsigned count;

	if (most == 0)
		return 0;
	pthread_mutex_lock(&ring->lock);
	count = io_uring_peek_batch_cqe(&ring->uring, cqes, most < REAP_MAX ? most : REAP_MAX);
	for (unsigned i = 0; i < count; i++) {
		batch[i] = (struct completion){ io_uring_cqe_get_data(cqes[i]), cqes[i]->res };
		if (!batch[i].op->kicks_vcpu)
			__atomic_fetch_sub(&ring->eventfd_in_flight, 1, __ATOMIC_RELAXED);
	}
	io_uring_cq_advance(&ring->uring, count);
	pthread_mutex_unlock(&ring->lock);
	return count;
}

void io_ring_complete(struct io_op *op, int result)
{
	op->result = result;
	op->next = NULL;
	if (!completed)
		completed_end = &completed;
	*completed_end = op;
	completed_end = &op->next;
}

/* Call done() for what io_ring_complete() has listed by now. */
static unsigned reap_completed(void)
{
	struct io_op *op = completed;
	unsigned count = 0;

	completed = NULL;
	for (struct io_op *next; op; op = next, count++) {
		next = op->next;
		op->done(op, op->result);
	}
	return count;
}

void io_ring_defer_until_reaped(struct io_deferred *deferred)
{
	deferred->next = until_reaped;
	until_reaped = deferred;
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
	struct completion batch[REAP_MAX];
	struct io_uring_cqe *first;
	unsigned left, count, all = 0;

	if (wait && !completed && io_uring_wait_cqe(&ring->uring, &first) < 0)
		return 0;
	/*
	 * Only as many as there are now: operations that queue the next would hold up the caller.
	 */
	left = completions(ring);
	do {
		count = copy_completions(ring, batch, left);
		left -= count;
		completing = true;
		completed_at = 0;
		for (unsigned i = 0; i < count; i++) {
			__tsan_acquire(batch[i].op);
			batch[i].op->done(batch[i].op, batch[i].result);
		}
		all += count + reap_completed();
		completing = false;
		run_deferred(&until_reaped);
	} while (count > 0 && left > 0);
	/*
	 * The done() functions queue on the ring that is bound to this thread, which may be another
	 * one.
	 */
	io_ring_submit(io_ring_current(ring->main ? ring->main : ring));
	return all;
}

void io_ring_reap_bound(void)
{
	if (bound_ring && io_ring_ready(bound_ring))
		io_ring_reap(bound_ring, false);
}

/* --- The I/O thread. */

static void eventfd_raised(struct io_op *op, int result)
{
	struct io_ring *main = container_of(op, struct io_ring, eventfd_op);

	(void)result;
	main->eventfd_read_queued = false;
	for (struct io_ring *ring = main->thread_rings; ring; ring = ring->next) {
		if (completions(ring))
			io_ring_reap(ring, false);
	}
}

/* Wait for completions on thread rings whose eventfd is armed. */
idle_path static void queue_eventfd_read(struct io_ring *main)
{
	struct io_uring_sqe *sqe;

	if (main->eventfd_read_queued || !main->thread_rings)
		return;
	main->eventfd_read_queued = true;
	main->eventfd_op.done = eventfd_raised;
	sqe = get_sqe_lock(main);
	io_uring_prep_read(
		sqe, main->completion_eventfd, &main->eventfd_value, sizeof(main->eventfd_value), 0);
	queue_op_unlock(main, sqe, &main->eventfd_op);
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
		queue_eventfd_read(ring);
		io_ring_reap(ring, true);
	}
}

void io_ring_stop(struct io_ring *ring)
{
	ring->stop_op.done = stop_done;
	io_ring_nop(ring, &ring->stop_op);
	io_ring_submit(ring);
}
