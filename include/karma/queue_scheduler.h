/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * When a queue is served: the scheduler of a block device's queues and of a network's transmit queues.
 * It decides at each notification, by what it has measured of the queue, between
 *
 * - serving at once, on the vCPU that notifies: best if the guest waits for each request (depth 1), at
 *   one exit and one interrupt a request;
 * - adaptive batching with notification suppression: if the guest has many requests under way and adds
 *   them one by one, each would still cost an exit and an interrupt, since it is done before the next
 *   one comes.  So a batch window is opened, in which the event index asks for no notification but at
 *   a threshold of chains, and all that has come is served at its end.  The measurement is the mean
 *   interval between notifications, which sets the length of the window, and the number of chains in
 *   a batch.  Whether batches pay can't be told but by a trial, one each so many notifications: the
 *   number doubles with each trial that did not pay;
 * - polling, for bulk transfers, by the I/O thread, with notifications suppressed until several
 *   polls were empty.  The device tells what is bulk (enum chain_result); the time that a poll took
 *   sets when the next one comes.  Where the submission itself keeps the thread busy, one request
 *   follows the other, and the guest is interrupted for each before the next is submitted;
 * - waiting for the rate limiter (karma/rate_limiter.h), or for a backend that has no room (back-pressure).
 *
 * It also does the interrupt coalescing of queues whose driver does not wait for completions
 * (coalesce_interrupts).
 *
 * The queue's lock is held in every call here, and when an operation is called.
 */
#ifndef KARMA_QUEUE_SCHEDULER_H
#define KARMA_QUEUE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "karma/rate_limiter.h"
#include "karma/virtio.h"

enum chain_result {
	CHAIN_NONE,		/* there is no chain, or the queue is broken */
	CHAIN_STARTED,
	CHAIN_STARTED_BULK,	/* of a bulk transfer: more such chains are to come */
	CHAIN_STARTED_SLOW,	/* the same, and its submission keeps the thread busy */
	CHAIN_BLOCKED,		/* the backend has no room; queue_scheduler_unblock() follows */
};

struct queue_scheduler_ops {
	/* Pop a chain and queue the request that it is. */
	enum chain_result (*start_next)(struct virtq *queue);
	/* Submit to the backend what was queued. */
	void (*submit)(struct virtq *queue);
	/*
	 * The driver does not wait for completions, and reclaims buffers whenever it has another reason
	 * to: the interrupt for a single request is delayed, and not sent if the driver has seen the
	 * completion by then; and a batch window has no threshold.
	 */
	bool coalesce_interrupts;
};

struct queue_scheduler {
	const struct queue_scheduler_ops *ops;
	struct virtq *queue;
	struct rate_limiter *limit;		/* NULL: none */
	uint64_t *limited_count;	/* how often it had to wait for the limit; added to atomically */

	/* The timer of a batch window, of the next poll, or of the limiter. */
	bool timer_armed;
	struct io_op timer_op;
	struct __kernel_timespec timer_delay;

	bool rate_limited;		/* it waits for the limiter */
	int64_t limit_wait;		/* ns: what the limiter said last; 0: go on */
	struct rate_limit_waiter turn;
	bool blocked;			/* by the backend */

	bool batching;			/* a batch has paid since the guest last notified */
	bool threshold_reached;		/* in this batch window */
	bool bulk, slow;		/* the last chain was CHAIN_STARTED_BULK, or _SLOW */
	bool polling;			/* by the I/O thread, without notifications */
	unsigned empty_rounds;		/* polls, or batches that did not pay, one after the other */
	int64_t round_began;		/* ns: the batch window, or the last submission that was slow */

	int64_t now;			/* ns: when the queue was last looked at, for start_next() */
	int64_t last_notification;	/* ns; 0: notifications were suppressed since */
	int64_t mean_interval;		/* ns: between notifications, a moving average */
	int64_t batch_window;		/* ns; 0: not chosen yet */
	unsigned probe_countdown, probe_interval;	/* notifications until the next trial, and between two */

	bool interrupt_pending;		/* the interrupt of the last completion is delayed */
	bool interrupt_timer_armed;
	struct io_op interrupt_timer_op;
	struct __kernel_timespec interrupt_delay;
};

/* For a queue of a device; the scheduler stays in place as long as that. */
void queue_scheduler_init(struct queue_scheduler *scheduler, struct virtq *queue,
	const struct queue_scheduler_ops *ops);

/* Limit the queue's rate, and count in *limited_count how often it waits; before its driver starts. */
void queue_scheduler_set_limit(
	struct queue_scheduler *scheduler, struct rate_limiter *limit, uint64_t *limited_count);

/* All of the device's notify() for this queue. */
void queue_scheduler_notify(struct queue_scheduler *scheduler);

/* The backend has room again. */
void queue_scheduler_unblock(struct queue_scheduler *scheduler);

/* The device resets. */
void queue_scheduler_reset(struct queue_scheduler *scheduler);

#endif
