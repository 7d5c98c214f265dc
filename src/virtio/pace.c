// SPDX-License-Identifier: GPL-2.0-only
/* When to serve a queue: at once, or many requests at a time, or when a limit lets it. */
#include "karma/pace.h"
#include "karma/util.h"

#define PACE_WAIT_GAPS 4		/* so many notifications would come while we wait */
#define PACE_PAYS 6u			/* requests that came instead, for which it was worth it */
#define PACE_PAYS_STILL 3u		/* to go on, once it was */
#define PACE_EMPTY 3u			/* looks in vain, once it was, before the guest has to notify again */
#define PACE_FEW 12u			/* a longer wait would do better */
#define PACE_PLENTY 24u			/* the guest may have to wait for us: it is to notify */
#define PACE_WAIT_MIN 50000ll		/* ns: enough to make as many */
#define PACE_WAIT_MAX 4000000ll
#define PACE_GAP_MAX 2000000ll		/* ns: a queue that is less busy is served at once */
#define PACE_INTERVAL_MIN 64u
#define PACE_INTERVAL_MAX 4096u

/* At most so long after a lone request the driver is told that it is done. */
#define PACE_TELL_LATE 10000000ll	/* ns */

/* Between two looks at a bulk transfer: half of what the last one took, and longer if in vain. */
#define PACE_POLL_MIN 50000ll		/* ns */
#define PACE_POLL_MAX 1000000ll
#define PACE_POLL_EMPTY 5u		/* looks in vain before the guest has to notify again */

/* Between what keeps us long: of the time that the last one took, so much for the guest to make the next. */
#define PACE_LONG_SHARE 8
#define PACE_LONG_EMPTY 2u

/* Whether the limit lets one more request start. */
static bool may_start(struct pace *pace)
{
	pace->limit_wait = pace->limit ? rate_limiter_admit(pace->limit, &pace->turn) : 0;
	return pace->limit_wait == 0;
}

/* Take what is there and may start, of so many at most; how many. */
static unsigned take(struct pace *pace, unsigned most)
{
	unsigned taken = 0;

	while (taken < most && may_start(pace)) {
		enum pace_taken result = pace->ops->take(pace->queue);

		pace->blocked = result == PACE_BLOCKED;
		if (result == PACE_NONE || result == PACE_BLOCKED)
			break;
		pace->lengthy = result == PACE_TOOK_LONG;
		pace->bulk = pace->lengthy || result == PACE_TOOK_BULK;
		/* The guest makes the next while we are at this one. */
		if (pace->bulk)
			virtq_interrupt(pace->queue);
		taken++;
		if (pace->lengthy)
			break;
	}
	return taken;
}

/* A guest has notified; whether to wait for more before it is served. */
static bool worth_waiting(struct pace *pace)
{
	int64_t now = nanoseconds(), gap = now - pace->notified;

	pace->now = now;
	/* How long a pause is says nothing about the time between requests, nor does a single gap. */
	if (gap > 2 * PACE_GAP_MAX)
		gap = 2 * PACE_GAP_MAX;
	if (gap > 2 * pace->gap)
		gap = 2 * pace->gap;
	/* Nor does the time since a wait, in which there were requests and no notifications. */
	if (pace->notified)
		pace->gap += (gap - pace->gap) / 8;
	pace->notified = now;
	if (pace->left > 0)
		pace->left--;
	return pace->left == 0 && pace->gap < PACE_GAP_MAX;
}

static void look(struct io_op *op, int result);

/* ns: less than a second; 0: when all is done that this ring has to do by now */
static void look_after(struct pace *pace, int64_t ns, struct io_ring *ring)
{
	struct virtio_device *device = pace->queue->device;

	pace->waiting = true;
	pace->delay.tv_nsec = ns;
	pace->look_op.done = look;
	virtio_request_started(device);
	if (ns)
		io_ring_timeout(ring, &pace->look_op, &pace->delay);
	else
		io_ring_nop(ring, &pace->look_op);
	io_ring_submit(ring);
}

/* So much has come that the wait, which goes on, has paid by now. */
static void serve_early(struct pace *pace)
{
	unsigned taken = 0, most = pace->queue->size_max, last;

	do {
		last = take(pace, most - taken);
		taken += last;
	} while (virtq_notify_at(pace->queue, PACE_PLENTY) && last && taken < most && pace->limit_wait == 0);
	pace->early |= taken >= PACE_PLENTY;
	pace->ops->start(pace->queue);
	virtq_interrupt(pace->queue);
}

/* For a look by and by, or until so much has come that the guest may have nothing left to do. */
static void wait_for_more(struct pace *pace)
{
	int64_t most = PACE_WAIT_GAPS * pace->gap;

	if (most < PACE_WAIT_MIN)
		most = PACE_WAIT_MIN;
	if (most > PACE_WAIT_MAX)
		most = PACE_WAIT_MAX;
	if (!pace->wait || pace->wait > most)
		pace->wait = most;
	pace->notified = 0;
	pace->began = pace->now;
	pace->early = false;
	look_after(pace, pace->wait, io_ring_current(pace->queue->device->ring));
	if (!pace->ops->patient && virtq_notify_at(pace->queue, PACE_PLENTY))
		serve_early(pace);
}

/* Requests are there and may not start yet.  The guest need not tell of more. */
static void hold(struct pace *pace, bool anew)
{
	if (anew)
		__atomic_fetch_add(pace->limited, 1, __ATOMIC_RELAXED);
	pace->held = true;
	virtq_disable_notify(pace->queue);
	look_after(pace, pace->limit_wait, io_ring_current(pace->queue->device->ring));
}

static void let_go(struct pace *pace)
{
	pace->held = false;
	if (pace->limit)
		rate_limiter_withdraw(pace->limit, &pace->turn);
}

static void in_vain(struct pace *pace)
{
	pace->wait = 0;
	pace->interval *= 2;
	if (pace->interval < PACE_INTERVAL_MIN)
		pace->interval = PACE_INTERVAL_MIN;
	if (pace->interval > PACE_INTERVAL_MAX)
		pace->interval = PACE_INTERVAL_MAX;
	pace->left = pace->interval;
}

/* Notifications stay off.  A vCPU's own ring would make it leave the guest for each look. */
static void look_polled(struct pace *pace, int64_t wait)
{
	pace->polled = true;
	pace->notified = 0;
	look_after(pace, wait < PACE_POLL_MAX ? wait : PACE_POLL_MAX, pace->queue->device->ring);
}

static void poll_again(struct pace *pace, int64_t wait)
{
	look_polled(pace, wait > PACE_POLL_MIN ? wait : PACE_POLL_MIN);
}

/* When this one is done; or, if there was none, when the guest has had some time to make it. */
static void look_again(struct pace *pace, bool taken, int64_t now)
{
	pace->queue->steady = taken;
	look_polled(pace, taken ? 0 : (now - pace->began) / PACE_LONG_SHARE);
	if (taken)
		pace->began = now;
}

static void tell_late(struct io_op *op, int result)
{
	struct pace *pace = container_of(op, struct pace, tell_op);
	struct virtio_device *device = pace->queue->device;

	(void)result;
	pthread_mutex_lock(pace->queue->lock);
	pace->telling = false;
	if (pace->untold && virtio_running(device))
		virtq_interrupt(pace->queue);
	pace->untold = false;
	virtio_request_done(device);
	pthread_mutex_unlock(pace->queue->lock);
}

/* One request alone, of a queue for which that is no hurry: more often than not the driver sees by itself. */
static void tell(struct pace *pace, unsigned taken)
{
	struct virtio_device *device = pace->queue->device;

	if (!pace->ops->patient || taken != 1 || pace->untold || device->ending) {
		pace->untold = false;
		virtq_interrupt(pace->queue);
		return;
	}
	pace->untold = true;
	if (pace->telling)
		return;
	pace->telling = true;
	pace->tell_op.done = tell_late;
	pace->tell_delay.tv_nsec = PACE_TELL_LATE;
	virtio_request_started(device);
	io_ring_timeout(device->ring, &pace->tell_op, &pace->tell_delay);
	io_ring_submit(device->ring);
}

/* Take what is there and may start, and what comes meanwhile; a ring of requests at most. */
static void serve(struct pace *pace)
{
	struct virtq *queue = pace->queue;
	unsigned most = queue->size_max, taken;
	bool more;

	queue->steady = false;
	taken = take(pace, most);
	if (taken && pace->bulk && !pace->blocked && !pace->limit_wait && !queue->device->ending) {
		pace->empty = 0;
		let_go(pace);
		if (pace->lengthy)
			look_again(pace, true, nanoseconds());
		else
			poll_again(pace, 0);
		pace->ops->start(queue);
		virtq_interrupt(queue);
		return;
	}
	do {
		taken += take(pace, most - taken);
		more = !pace->blocked && virtq_enable_notify(queue);
	} while (more && taken < most && pace->limit_wait == 0);
	/* What is held back when the guest has ended stays undone: nobody is to wait for that. */
	if (more && taken < most && !queue->device->ending)
		hold(pace, taken > 0 || !pace->held);
	else
		let_go(pace);
	if (taken >= most)
		virtio_again(queue);
	pace->ops->start(queue);
	tell(pace, taken);
}

/* What came while we waited for it.  If it was worth it, another wait follows. */
static void serve_paced(struct pace *pace)
{
	unsigned taken = take(pace, pace->queue->size_max);
	/* Many, and in less time than one by one. */
	bool pays = taken >= (pace->paid ? PACE_PAYS_STILL : PACE_PAYS) &&
		pace->now - pace->began < taken * pace->gap;

	if (pace->early)
		pays = true;
	else if (taken >= PACE_PLENTY)
		pace->wait -= pace->wait / 4;
	else if (taken < PACE_FEW)
		pace->wait += pace->wait / 4;
	/* Once it has paid: the guest may be busy with all that was done for it at once. */
	pace->empty = pays ? 0 : pace->empty + 1;
	if (!pays && !pace->paid)
		in_vain(pace);
	if ((!pays && (!pace->paid || pace->empty == PACE_EMPTY)) || pace->limit_wait || pace->blocked) {
		serve(pace);
		return;
	}
	pace->paid = true;
	pace->interval = 0;
	wait_for_more(pace);
	pace->ops->start(pace->queue);
	virtq_interrupt(pace->queue);
}

/* Of a bulk transfer, until there is nothing more for a while. */
static void serve_polled(struct pace *pace)
{
	int64_t start = nanoseconds();
	unsigned taken = take(pace, pace->queue->size_max);

	pace->empty = taken ? 0 : pace->empty + 1;
	if (pace->empty == (pace->lengthy ? PACE_LONG_EMPTY : PACE_POLL_EMPTY) || pace->limit_wait ||
		pace->blocked) {
		serve(pace);
		return;
	}
	pace->ops->start(pace->queue);
	virtq_interrupt(pace->queue);
	if (pace->lengthy)
		look_again(pace, taken, start);
	else
		poll_again(pace, taken ? (nanoseconds() - start) / 2 : PACE_POLL_MIN << pace->empty);
}

/* The wait is over. */
static void look(struct io_op *op, int result)
{
	struct pace *pace = container_of(op, struct pace, look_op);
	struct virtq *queue = pace->queue;
	struct virtio_device *device = queue->device;
	bool polled;

	(void)result;
	pthread_mutex_lock(queue->lock);
	pace->now = nanoseconds();
	polled = pace->polled;
	pace->waiting = pace->polled = false;
	if (!virtio_running(device))
		let_go(pace);
	else if (pace->held)
		serve(pace);
	else if (polled)
		serve_polled(pace);
	else
		serve_paced(pace);
	virtio_request_done(device);
	pthread_mutex_unlock(queue->lock);
}

void pace_notify(struct pace *pace)
{
	/* Somebody is going to look. */
	if (pace->queue->again || pace->blocked)
		return;
	if (pace->waiting) {
		if (!pace->ops->patient && !pace->held && !pace->polled) {
			pace->now = nanoseconds();
			serve_early(pace);
		}
		return;
	}
	virtq_disable_notify(pace->queue);
	if (pace->untold && !virtq_wants_interrupt(pace->queue))
		pace->untold = false;
	pace->paid = false;
	pace->empty = 0;
	if (worth_waiting(pace))
		wait_for_more(pace);
	else
		serve(pace);
}

void pace_resume(struct pace *pace)
{
	if (!pace->blocked)
		return;
	pace->blocked = false;
	serve(pace);
}

void pace_reset(struct pace *pace)
{
	/* A look that is under way finds that the device does not run. */
	pace->gap = 2 * PACE_GAP_MAX;
	pace->notified = pace->wait = 0;
	pace->interval = 0;
	pace->left = PACE_INTERVAL_MIN;
	pace->blocked = pace->untold = false;
}

void pace_init(struct pace *pace, struct virtq *queue, const struct pace_ops *ops)
{
	*pace = (struct pace){ .ops = ops, .queue = queue };
	pace_reset(pace);
}

void pace_limit(struct pace *pace, struct rate_limiter *limit, uint64_t *limited)
{
	pace->limit = limit;
	pace->limited = limited;
}
