/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The monitor's io_urings.  Any thread queues and submits operations on the main one; a thread of
 * its own, the I/O thread, takes what is complete and calls its functions.
 *
 * A vCPU thread has a ring of its own beside, for requests that are complete, or nearly, when
 * io_uring has taken them: it takes these itself, with no other thread involved.  Before it enters
 * the guest it rests from its ring, and the I/O thread takes what is completed meanwhile, unless
 * that made the vCPU leave the guest: then the first of the two takes it.  For what it waits with
 * io_ring_poll_current() it always leaves the guest, and no other thread is woken for that.
 */
#ifndef KARMA_IO_H
#define KARMA_IO_H

#include <liburing.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/* Embedded in what the operation is for; must stay in place until done() is called. */
struct io_op {
	/*
	 * result: as the system call gives it, or a negative errno.  On the thread that takes it
	 * from the ring, without a lock.
	 */
	void (*done)(struct io_op *op, int result);

	struct io_op *next;	/* io_ring_complete(), and whose it is before it is queued */
	int result;
	bool own;		/* io_ring_poll_current() */
};

struct io_write {
	struct io_op *op;
	const struct iovec *iov;
	unsigned iov_count;
	uint64_t offset;
};

struct io_ring {
	struct io_uring uring;
	pthread_mutex_t lock;	/* of both queues, and of the list */
	uint64_t operations, submissions;	/* statistics; any thread may read them (count_of()) */

	/* Of the main ring. */
	struct io_op stop_op;
	bool stopping;		/* the I/O thread's own, as are the next three */
	struct io_op wake_op;
	bool wake_armed;
	uint64_t wakes;
	int wake_fd;		/* eventfd: something is complete on a ring whose owner rests */
	struct io_ring *threads;	/* the list of the others */
	int ones_fd;		/* eventfd: each read gives a 1, for ever */

	/* Of a thread's own ring. */
	struct io_ring *main, *next;
	unsigned left_alone;	/* operations that may end without making the thread leave the guest */
	struct iovec leave[2];	/* where the 1 goes: the thread's `leave` flag, and nowhere */
	uint8_t nowhere[7];
	struct io_op leave_op;
};

/*
 * The main ring, for at most so many operations under way at a time.  0, or a negative errno with
 * a message printed.  The caller releases.
 */
int io_ring_init(struct io_ring *ring, unsigned in_flight);
void io_ring_release(struct io_ring *ring);

/*
 * A thread's own ring: made before the I/O thread runs, released after it has ended, by any thread.
 * Statistics go to the main ring.  leave: a flag that becomes 1 to make the thread leave the guest, or
 * not enter it: immediate_exit of its struct kvm_run; NULL: there is no guest.
 */
int io_ring_init_thread(
	struct io_ring *ring, struct io_ring *main, unsigned in_flight, uint8_t *leave);
void io_ring_release_thread(struct io_ring *ring);

/* The calling thread has this ring from now on, and looks after it. */
void io_ring_bind(struct io_ring *own);

/*
 * The owner is not going to look at its ring for a while, until io_ring_disarm_eventfd(); false if there is
 * something to take before.  Neither costs a system call.
 */
bool io_ring_arm_eventfd(struct io_ring *own);
void io_ring_disarm_eventfd(struct io_ring *own);

/* It no longer looks at its ring: the I/O thread does. */
void io_ring_unbind(struct io_ring *own);

/* The calling thread's own ring, or the main one. */
struct io_ring *io_ring_current(struct io_ring *main);

/* Whether io_ring_reap() of the calling thread's ring has something to do; costs no system call. */
bool io_ring_ready(const struct io_ring *ring);

/*
 * Queue an operation; the kernel sees it at the next io_ring_submit(), or before.  The iovec
 * list and what it points to must stay until the operation is done.
 *
 * async: a worker of io_uring does it, for what may wait where the kernel takes it for what does not: there
 * it waits in io_uring_enter(2), with the ring locked, for as long as it likes.  Linux 6.9 and later so write
 * to a terminal that has room for a byte, and 6.1 reads from any file.
 */
void io_ring_readv(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async);
void io_ring_writev(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset, bool async);
/*
 * One write after the other, for one completion: done() of the last one is called if all are whole, or
 * else that of the first which is not; then those behind it have not been tried.  Up to
 * IO_RING_LINK_MAX of them, and only if io_ring_can_link(): Linux 5.17, and a ring that large.
 */
#define IO_RING_LINK_MAX 32u
bool io_ring_can_link(const struct io_ring *ring, unsigned count);
void io_ring_write_linked(
	struct io_ring *ring, int fd, const struct io_write *writes, unsigned count);
void io_ring_fdatasync(struct io_ring *ring, struct io_op *op, int fd);
void io_ring_fallocate(struct io_ring *ring, struct io_op *op, int fd, int mode, uint64_t offset,
	uint64_t length);
/* Wait until fd can be read (POLLIN) or written, once. */
void io_ring_poll(struct io_ring *ring, struct io_op *op, int fd, unsigned events);
/* The same on the calling thread's own ring, which it has: the thread leaves the guest for that. */
void io_ring_poll_current(struct io_op *op, int fd, unsigned events);
/* Wait for so long, which must stay until then; the result is -ETIME. */
void io_ring_timeout(struct io_ring *ring, struct io_op *op, const struct __kernel_timespec *time);
/* Let done() be called on the I/O thread. */
void io_ring_nop(struct io_ring *ring, struct io_op *op);
void io_ring_submit(struct io_ring *ring);

/* No operation any more: the result is here, and the calling thread's next io_ring_reap() calls done(). */
void io_ring_complete(struct io_op *op, int result);

/*
 * The time in nanoseconds, as nanoseconds() has it.  In a done() function it is read once for all
 * operations that were complete together.
 */
int64_t io_ring_now(void);

/*
 * Take what is complete when it is called, waiting for one at least if wait is set; how many there were.
 * What is completed or finished meanwhile is left to the next run (io_ring_ready()).
 */
unsigned io_ring_reap(struct io_ring *ring, bool wait);

/*
 * What is to be done once for several completions.  Called by a done() function: run() follows on the
 * same thread, without a lock, when those that came with this one have been served.
 */
struct io_deferred {
	void (*run)(struct io_deferred *after);
	struct io_deferred *next;
};
void io_ring_defer_until_reaped(struct io_deferred *after);

/* The same at the calling thread's next io_ring_submit(), which then submits what run() queues, too. */
void io_ring_defer_until_submit(struct io_deferred *after);

/*
 * The I/O thread: run until io_ring_stop(), which any thread may call.  Another may follow it.  What
 * a thread submitted ends with that thread, by -ECANCELED or -EINTR if it was still waiting.
 */
void io_ring_loop(struct io_ring *ring);
void io_ring_stop(struct io_ring *ring);

#endif
