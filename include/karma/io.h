/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The monitor's io_uring: any thread queues and submits operations; one thread, the I/O
 * thread, takes completions and calls their functions.
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
	/* result: as the system call gives it, or a negative errno.  On the I/O thread. */
	void (*done)(struct io_op *op, int result);
};

struct io_ring {
	struct io_uring uring;
	pthread_mutex_t lock;	/* of the submission queue */
	struct io_op stop_op;
	bool stopping;		/* the I/O thread's own */
	uint64_t operations, submissions;	/* statistics, under the lock */
};

/* 0, or a negative errno with a message printed.  The caller releases. */
int io_ring_init(struct io_ring *ring, unsigned entries);
void io_ring_release(struct io_ring *ring);

/*
 * Queue an operation; the kernel sees it at the next io_ring_submit(), or before.  The iovec
 * list and what it points to must stay until the operation is done.
 */
void io_ring_readv(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset);
void io_ring_writev(struct io_ring *ring, struct io_op *op, int fd, const struct iovec *iov,
	unsigned count, uint64_t offset);
void io_ring_datasync(struct io_ring *ring, struct io_op *op, int fd);
void io_ring_fallocate(struct io_ring *ring, struct io_op *op, int fd, int mode, uint64_t offset,
	uint64_t length);
/* Wait until fd can be read (POLLIN) or written, once. */
void io_ring_poll(struct io_ring *ring, struct io_op *op, int fd, unsigned events);
/* Let done() be called on the I/O thread. */
void io_ring_wake(struct io_ring *ring, struct io_op *op);
void io_ring_submit(struct io_ring *ring);

/* Take what is complete, waiting for one at least if wait is set; how many there were. */
unsigned io_ring_run(struct io_ring *ring, bool wait);

/*
 * The I/O thread: run until io_ring_stop(), which any thread may call.  Another may follow it.  What
 * a thread submitted ends with that thread, by -ECANCELED or -EINTR if it was still waiting.
 */
void io_ring_loop(struct io_ring *ring);
void io_ring_stop(struct io_ring *ring);

#endif
