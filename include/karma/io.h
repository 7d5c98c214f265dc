/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The monitor's io_urings.
 *
 * The main ring: any thread queues and submits operations on it.  One thread, the I/O thread, reaps
 * its completions (io_ring_loop()) and calls each operation's done().
 *
 * A thread ring belongs to one vCPU thread, which submits to it and reaps it without another
 * thread.  It is for requests that complete during the submission or soon after.  Before the vCPU
 * enters the guest it arms the ring's eventfd (io_ring_arm_eventfd()): from then on each completion
 * wakes the I/O thread, which reaps the ring.  A completion may also make the vCPU leave the guest;
 * then the first of the two threads reaps it.  An operation queued by io_ring_poll_current() always
 * makes the vCPU leave the guest, and does not need the eventfd.
 *
 * All functions can be called by any thread, unless they say otherwise.  A ring's lock is taken
 * inside of all others, and is not held while done() runs.
 */
#ifndef KARMA_IO_H
#define KARMA_IO_H

#include <liburing.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/*
 * An operation.  Embedded in the request that it serves; must stay in place until done() is called.
 */
struct io_op {
	/*
	 * result: that of the system call, or a negative errno.  Called without a lock, on the
	 * thread that reaps the completion.
	 */
	void (*done)(struct io_op *op, int result);

	struct io_op *next;	/* list of io_ring_complete(); free for its owner before it is queued */
	int result;		/* of io_ring_complete() */
	bool kicks_vcpu;	/* queued by io_ring_poll_current() */
};

/* One write of io_ring_write_linked(). */
struct io_write {
	struct io_op *op;
	const struct iovec *iov;
	unsigned iov_count;
	uint64_t offset;	/* bytes */
};

struct io_ring {
	struct io_uring uring;
	pthread_mutex_t lock;	/* guards both queues of uring, and thread_rings */
	uint64_t operations, submissions;	/* statistics; any thread may read them by count_of() */

	/* Of the main ring. */
	int completion_eventfd;	/* raised by a completion on a thread ring whose eventfd is armed */
	struct io_ring *thread_rings;	/* list, by next */
	int one_eventfd;	/* a semaphore: each read returns the value 1, without end */
	struct io_op stop_op;
	/* Only the I/O thread uses these. */
	bool stopping;
	struct io_op eventfd_op;	/* the read of completion_eventfd */
	bool eventfd_read_queued;
	uint64_t eventfd_value;

	/* Of a thread ring. */
	struct io_ring *main, *next;
	unsigned eventfd_in_flight;	/* operations in flight whose completion needs the eventfd */
	/*
	 * The read that kicks the vCPU: a byte 1 into immediate_exit, the value's other bytes to
	 * nowhere.
	 */
	struct iovec kick_iov[2];
	uint8_t kick_unused[7];
	struct io_op kick_op;
};

/*
 * Set up the main ring for at most in_flight operations at a time.  Returns 0, or a negative errno
 * with a message printed.  The caller releases it, after the I/O thread has ended.
 */
int io_ring_init(struct io_ring *ring, unsigned in_flight);
void io_ring_release(struct io_ring *ring);

/*
 * Set up a thread ring.  Call it before the I/O thread runs; release it after that has ended, from
 * any thread.  The main ring keeps its statistics after its release.
 *
 * immediate_exit: the flag of that name in the vCPU's struct kvm_run, which is set to 1 to make the
 * vCPU leave the guest, or not enter it.  NULL: the thread runs no guest.
 */
int io_ring_init_thread(
	struct io_ring *ring, struct io_ring *main, unsigned in_flight, uint8_t *immediate_exit);
void io_ring_release_thread(struct io_ring *ring);

/*
 * Bind a thread ring to the calling thread, which reaps it from now on.  Its eventfd is disarmed.
 */
void io_ring_bind(struct io_ring *ring);

/*
 * The bound thread is about to enter the guest: arm the eventfd, so that completions wake the I/O
 * thread until io_ring_disarm_eventfd().  Returns false, with the eventfd disarmed, if there are
 * completions to reap first.  Neither function makes a system call.
 */
bool io_ring_arm_eventfd(struct io_ring *ring);
void io_ring_disarm_eventfd(struct io_ring *ring);

/* The calling thread reaps its ring no more: the I/O thread does. */
void io_ring_unbind(struct io_ring *ring);

/* The ring that is bound to the calling thread, or else the main one. */
struct io_ring *io_ring_current(struct io_ring *main);

/*
 * Whether io_ring_reap() of the calling thread's ring would find anything.  Makes no system call.
 */
bool io_ring_ready(const struct io_ring *ring);

/*
 * Queue an operation.  The kernel sees it at the next io_ring_submit(), or earlier if the
 * submission queue is full.  The iovec list and its buffers must stay until done() is called.
 *
 * async: always have a worker thread of io_uring do it (IOSQE_ASYNC).  For a file whose read or
 * write may block though the kernel takes it for one that does not: it would block in
 * io_uring_enter(2), with the ring's lock held.  Linux 6.9 and later block so on a terminal that
 * has room for one byte, and 6.1 on reads from any file.
 */
void io_ring_readv(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async);
void io_ring_writev(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async);
/*
 * Queue up to IO_RING_LINK_MAX linked writes (IOSQE_IO_LINK), which one worker does one after the
 * other.  There is one completion for all: that of the last write if all are whole, or else that of
 * the first which is not whole; those behind it were not tried.  Only if io_ring_can_link(): it
 * needs Linux 5.17 and a submission queue of that size.
 */
#define IO_RING_LINK_MAX 32u
bool io_ring_can_link(const struct io_ring *ring, unsigned count);
void io_ring_write_linked(
	struct io_ring *ring, int fd, const struct io_write *writes, unsigned count);
void io_ring_fdatasync(struct io_ring *ring, struct io_op *op, int fd);
void io_ring_fallocate(struct io_ring *ring, struct io_op *op, int fd, int mode, uint64_t offset,
	uint64_t length);
/* Poll fd once, for POLLIN or POLLOUT. */
void io_ring_poll(struct io_ring *ring, struct io_op *op, int fd, unsigned events);
/*
 * The same on the ring that is bound to the calling thread; its completion makes the vCPU leave the
 * guest.
 */
void io_ring_poll_current(struct io_op *op, int fd, unsigned events);
/* Complete with -ETIME after that time; the structure must stay until then. */
void io_ring_timeout(struct io_ring *ring, struct io_op *op, const struct __kernel_timespec *time);
/* An operation that completes at once: on the main ring, it has the I/O thread call done(). */
void io_ring_nop(struct io_ring *ring, struct io_op *op);

/* Submit what is queued, in one system call; none if nothing is queued. */
void io_ring_submit(struct io_ring *ring);

/*
 * Complete an operation without the kernel: done() is called with that result, by the calling
 * thread's next io_ring_reap().
 */
void io_ring_complete(struct io_op *op, int result);

/*
 * CLOCK_MONOTONIC in nanoseconds.  Within done() the clock is read once for all operations that
 * were reaped together.
 */
int64_t io_ring_now(void);

/*
 * Reap the completions that are there now, after waiting for one if wait is set; call done() for
 * each, and submit what they queued.  Returns how many there were.  What completes meanwhile is
 * left to the next call (io_ring_ready()), so a done() that queues another operation cannot hold up
 * the caller.
 */
unsigned io_ring_reap(struct io_ring *ring, bool wait);

/* The same for the ring that is bound to the calling thread, without a wait; nothing if there is none. */
void io_ring_reap_bound(void);

/*
 * Work that is deferred so that it is done once for several operations.  run() is called without a
 * lock.
 */
struct io_deferred {
	void (*run)(struct io_deferred *deferred);
	struct io_deferred *next;
};

/*
 * From a done() function: call run() on this thread, after the done() of all that were reaped with
 * this one.
 */
void io_ring_defer_until_reaped(struct io_deferred *deferred);

/*
 * Call run() at the calling thread's next io_ring_submit(), which then submits what run() queues as
 * well.
 */
void io_ring_defer_until_submit(struct io_deferred *deferred);

/*
 * The I/O thread: reap the main ring until io_ring_stop(), which any thread may call.  May be
 * called again later, by another thread.  When a thread ends, the kernel cancels what it had
 * submitted and still waits: such an operation completes with -ECANCELED or -EINTR.
 */
void io_ring_loop(struct io_ring *ring);
void io_ring_stop(struct io_ring *ring);

#endif
