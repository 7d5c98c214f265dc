/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * When to serve a queue.  At once, on the vCPU that notifies, is best if the guest waits for each
 * request: one exit and one interrupt.  If it has many under way and adds them one by one, each would
 * still cost an exit and an interrupt, since each is done by the time that the next one comes.  Then
 * it is better to wait a little and to take many at a time; while we wait, the guest notifies only if
 * there are so many that it may have no more to do before they are done.
 * Which it is can't be seen but by trying: from time to time, the more rarely the more often it was
 * in vain.
 *
 * What belongs to a bulk transfer needs no try: nobody waits for each part of it.  After the first,
 * the I/O thread looks at the queue from time to time, while the guest runs on.  If it is busy with each,
 * it takes one after the other, and tells of each before it takes the next.
 *
 * A queue that is held back by a limit waits for that alone, and then is served at once.
 *
 * The queue's lock is held in every call here, and when an operation is called.
 */
#ifndef KARMA_PACE_H
#define KARMA_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "karma/rate_limiter.h"
#include "karma/virtio.h"

enum pace_taken {
	PACE_NONE,	/* there is no chain, or the queue is broken */
	PACE_TOOK,
	PACE_TOOK_BULK,	/* and more like it is to come */
	PACE_TOOK_LONG,	/* the same, and the thread that starts it has to do for a while with it */
	PACE_BLOCKED,	/* the backend takes none now; pace_resume() follows */
};

struct pace_ops {
	/* Take a chain from the queue and begin what it asks for. */
	enum pace_taken (*take)(struct virtq *queue);
	/* Let the backend start what was begun. */
	void (*start)(struct virtq *queue);
	/*
	 * Nobody waits for the end of a request: the driver looks for it whenever it has another reason
	 * to.  So if one is alone, it is told a little later, and only if it has not seen by then; and no
	 * number of them makes it notify during a wait.
	 */
	bool patient;
};

struct pace {
	const struct pace_ops *ops;
	struct virtq *queue;
	struct rate_limiter *limit;		/* NULL: none */
	uint64_t *limited;		/* how often it was held back; added to atomically */

	bool waiting;			/* for look_op */
	bool paid;			/* since the guest last notified */
	bool early;			/* so many came during the wait that the guest told of it */
	bool held;			/* it waits for the limit */
	bool blocked;			/* by the backend */
	bool bulk, lengthy;		/* the last chain was PACE_TOOK_BULK, or _LONG */
	bool polled;			/* by the I/O thread, without notifications */
	unsigned empty;			/* looks in vain, since the last that was not */
	int64_t began;			/* ns: when the last PACE_TOOK_LONG was taken, or the wait began */
	int64_t limit_wait;		/* what the limit said last: 0, or ns */
	struct rate_limit_waiter turn;
	struct io_op look_op;
	struct __kernel_timespec delay;
	bool untold;			/* the driver was not told of the last request */
	bool telling;			/* tell_op is under way */
	struct io_op tell_op;
	struct __kernel_timespec tell_delay;
	int64_t now;			/* ns: when it was last looked at, for who takes chains */
	int64_t notified, gap;		/* ns: the last notification, the mean time between two */
	int64_t wait;			/* ns; 0: not chosen yet */
	unsigned left, interval;	/* notifications until the next try */
};

/* For a queue of a device; the pace stays in place as long as that. */
void pace_init(struct pace *pace, struct virtq *queue, const struct pace_ops *ops);

/* Limit the queue, and count in *limited; before its driver starts. */
void pace_limit(struct pace *pace, struct rate_limiter *limit, uint64_t *limited);

/* All of the device's notify() for this queue. */
void pace_notify(struct pace *pace);

/* The backend takes chains again. */
void pace_resume(struct pace *pace);

/* The device resets. */
void pace_reset(struct pace *pace);

#endif
