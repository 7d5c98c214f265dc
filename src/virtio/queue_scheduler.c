// SPDX-License-Identifier: GPL-2.0-only
/* When a queue is served: at once, in batches, by polling, or when its rate limiter allows. */
#include "karma/queue_scheduler.h"
#include "karma/util.h"

/* --- Adaptive batching. */

/* The batch window in mean intervals between notifications, and its bounds. */
#define BATCH_INTERVALS 4
#define BATCH_WINDOW_MIN 50000ll	/* ns: time enough for the guest to add as many chains */
#define BATCH_WINDOW_MAX 4000000ll
/* Chains that make the first batch pay, and each that follows. */
#define BATCH_MIN_FIRST 6u
#define BATCH_MIN 3u
/* Batches that do not pay, one after the other, before notifications are enabled again. */
#define BATCH_EMPTY_MAX 3u
/* A batch of fewer chains makes the window longer, one of more than the threshold shorter. */
#define BATCH_SMALL 12u
/* So many chains end the window: the guest may have no more to add until they are done. */
#define BATCH_THRESHOLD 24u
/* ns: a queue whose mean interval between notifications is longer is served at once. */
#define BUSY_INTERVAL_MAX 2000000ll
/* Notifications from one trial of a batch to the next, which doubles when the trial did not pay. */
#define PROBE_INTERVAL_MIN 64u
#define PROBE_INTERVAL_MAX 4096u

/* --- Interrupt coalescing. */

#define INTERRUPT_DELAY 10000000ll	/* ns: the longest time that an interrupt is delayed */

/* --- Polling. */

/* ns: the next poll comes after half of the time that the last one took, later if it was empty. */
#define POLL_INTERVAL_MIN 50000ll
#define POLL_INTERVAL_MAX 1000000ll
#define POLL_EMPTY_MAX 5u		/* empty polls before notifications are enabled again */

/* Where submissions are slow: the part of their time after which an empty poll is repeated. */
#define SLOW_POLL_SHARE 8
#define SLOW_POLL_EMPTY_MAX 2u

/* Whether the rate limiter lets one more request start; if not, limit_wait is for how long. */
static bool limit_allows(struct queue_scheduler *scheduler)
{
	scheduler->limit_wait = scheduler->limit ? rate_limiter_admit(scheduler->limit, &scheduler->turn) : 0;
	return scheduler->limit_wait == 0;
}

/* Start chains, at most so many, while there are some and the rate limiter allows; returns how many. */
static unsigned start_chains(struct queue_scheduler *scheduler, unsigned most)
{
	unsigned started = 0;

	while (started < most && limit_allows(scheduler)) {
		enum chain_result result = scheduler->ops->start_next(scheduler->queue);

		scheduler->blocked = result == CHAIN_BLOCKED;
		if (result == CHAIN_NONE || result == CHAIN_BLOCKED)
			break;
		scheduler->slow = result == CHAIN_STARTED_SLOW;
		scheduler->bulk = scheduler->slow || result == CHAIN_STARTED_BULK;
		/* The guest makes the next chain while the device is busy with this one. */
		if (scheduler->bulk)
			virtq_interrupt(scheduler->queue);
		started++;
		if (scheduler->slow)
			break;
	}
	return started;
}

/* At a notification: whether to batch, by the mean interval and the probe countdown. */
static bool is_time_to_batch(struct queue_scheduler *scheduler)
{
	int64_t now = nanoseconds(), interval = now - scheduler->last_notification;

	scheduler->now = now;
	/* One long interval, however long, must not hide that the queue is busy. */
	if (interval > 2 * BUSY_INTERVAL_MAX)
		interval = 2 * BUSY_INTERVAL_MAX;
	if (interval > 2 * scheduler->mean_interval)
		interval = 2 * scheduler->mean_interval;
	/* No interval is known after a batch or a poll: notifications were suppressed. */
	if (scheduler->last_notification)
		scheduler->mean_interval += (interval - scheduler->mean_interval) / 8;
	scheduler->last_notification = now;
	if (scheduler->probe_countdown > 0)
		scheduler->probe_countdown--;
	return scheduler->probe_countdown == 0 && scheduler->mean_interval < BUSY_INTERVAL_MAX;
}

static void timer_expired(struct io_op *op, int result);

/* ns: less than a second; 0: after the completions that this ring has by now. */
static void arm_timer(struct queue_scheduler *scheduler, int64_t ns, struct io_ring *ring)
{
	struct virtio_device *device = scheduler->queue->device;

	scheduler->timer_armed = true;
	scheduler->timer_delay.tv_nsec = ns;
	scheduler->timer_op.done = timer_expired;
	virtio_request_started(device);
	if (ns)
		io_ring_timeout(ring, &scheduler->timer_op, &scheduler->timer_delay);
	else
		io_ring_nop(ring, &scheduler->timer_op);
	io_ring_submit(ring);
}

/* In a batch window: if the threshold is reached, serve the queue; the window goes on. */
static void serve_at_threshold(struct queue_scheduler *scheduler)
{
	unsigned started = 0, most = scheduler->queue->size_max, last;

	do {
		last = start_chains(scheduler, most - started);
		started += last;
	} while (virtq_notify_at(scheduler->queue, BATCH_THRESHOLD) && last && started < most &&
		scheduler->limit_wait == 0);
	scheduler->threshold_reached |= started >= BATCH_THRESHOLD;
	scheduler->ops->submit(scheduler->queue);
	virtq_interrupt(scheduler->queue);
}

/* Open a batch window: the queue is served when it ends, or when the threshold is reached before. */
static void begin_batch(struct queue_scheduler *scheduler)
{
	int64_t longest = BATCH_INTERVALS * scheduler->mean_interval;

	if (longest < BATCH_WINDOW_MIN)
		longest = BATCH_WINDOW_MIN;
	if (longest > BATCH_WINDOW_MAX)
		longest = BATCH_WINDOW_MAX;
	if (!scheduler->batch_window || scheduler->batch_window > longest)
		scheduler->batch_window = longest;
	scheduler->last_notification = 0;
	scheduler->round_began = scheduler->now;
	scheduler->threshold_reached = false;
	arm_timer(scheduler, scheduler->batch_window, io_ring_current(scheduler->queue->device->ring));
	if (!scheduler->ops->coalesce_interrupts && virtq_notify_at(scheduler->queue, BATCH_THRESHOLD))
		serve_at_threshold(scheduler);
}

/* Chains wait for the limiter: ask it again later, with notifications suppressed. */
static void wait_for_limit(struct queue_scheduler *scheduler, bool first)
{
	if (first)
		__atomic_fetch_add(scheduler->limited_count, 1, __ATOMIC_RELAXED);
	scheduler->rate_limited = true;
	virtq_disable_notify(scheduler->queue);
	arm_timer(scheduler, scheduler->limit_wait, io_ring_current(scheduler->queue->device->ring));
}

/* Nothing waits for the limiter: queues that wait behind this one have their turn. */
static void leave_limit(struct queue_scheduler *scheduler)
{
	scheduler->rate_limited = false;
	if (scheduler->limit)
		rate_limiter_withdraw(scheduler->limit, &scheduler->turn);
}

/* A trial did not pay: the next one comes after twice as many notifications. */
static void back_off_probing(struct queue_scheduler *scheduler)
{
	scheduler->batch_window = 0;
	scheduler->probe_interval *= 2;
	if (scheduler->probe_interval < PROBE_INTERVAL_MIN)
		scheduler->probe_interval = PROBE_INTERVAL_MIN;
	if (scheduler->probe_interval > PROBE_INTERVAL_MAX)
		scheduler->probe_interval = PROBE_INTERVAL_MAX;
	scheduler->probe_countdown = scheduler->probe_interval;
}

/*
 * Notifications stay suppressed.  The I/O thread polls, since a timer in a vCPU's own ring would make the
 * vCPU leave the guest for each poll.
 */
static void arm_poll_timer(struct queue_scheduler *scheduler, int64_t wait)
{
	scheduler->polling = true;
	scheduler->last_notification = 0;
	arm_timer(scheduler, wait < POLL_INTERVAL_MAX ? wait : POLL_INTERVAL_MAX,
		scheduler->queue->device->ring);
}

static void poll_bulk_again(struct queue_scheduler *scheduler, int64_t wait)
{
	arm_poll_timer(scheduler, wait > POLL_INTERVAL_MIN ? wait : POLL_INTERVAL_MIN);
}

/* After this submission; if the poll was empty, when the guest has had time for the next chain. */
static void poll_slow_again(struct queue_scheduler *scheduler, bool started, int64_t now)
{
	scheduler->queue->coalescing = started;
	arm_poll_timer(scheduler, started ? 0 : (now - scheduler->round_began) / SLOW_POLL_SHARE);
	if (started)
		scheduler->round_began = now;
}

static void interrupt_timer_expired(struct io_op *op, int result)
{
	struct queue_scheduler *scheduler =
		container_of(op, struct queue_scheduler, interrupt_timer_op);
	struct virtio_device *device = scheduler->queue->device;

	(void)result;
	pthread_mutex_lock(scheduler->queue->lock);
	scheduler->interrupt_timer_armed = false;
	if (scheduler->interrupt_pending && virtio_running(device))
		virtq_interrupt(scheduler->queue);
	scheduler->interrupt_pending = false;
	virtio_request_done(device);
	pthread_mutex_unlock(scheduler->queue->lock);
}

/* Interrupt coalescing: that of a single request is delayed, and dropped if the driver looks meanwhile. */
static void interrupt_or_delay(struct queue_scheduler *scheduler, unsigned started)
{
	struct virtio_device *device = scheduler->queue->device;

	if (!scheduler->ops->coalesce_interrupts || started != 1 || scheduler->interrupt_pending ||
		virtio_ending(device)) {
		scheduler->interrupt_pending = false;
		virtq_interrupt(scheduler->queue);
		return;
	}
	scheduler->interrupt_pending = true;
	if (scheduler->interrupt_timer_armed)
		return;
	scheduler->interrupt_timer_armed = true;
	scheduler->interrupt_timer_op.done = interrupt_timer_expired;
	scheduler->interrupt_delay.tv_nsec = INTERRUPT_DELAY;
	virtio_request_started(device);
	io_ring_timeout(device->ring, &scheduler->interrupt_timer_op, &scheduler->interrupt_delay);
	io_ring_submit(device->ring);
}

/*
 * Start what is there and what comes meanwhile, a ring of requests at most, and enable notifications; or
 * go on by polling, if it is a bulk transfer.
 */
static void serve_now(struct queue_scheduler *scheduler)
{
	struct virtq *queue = scheduler->queue;
	unsigned most = queue->size_max, started;
	bool more;

	queue->coalescing = false;
	started = start_chains(scheduler, most);
	if (started && scheduler->bulk && !scheduler->blocked && !scheduler->limit_wait &&
		!virtio_ending(queue->device)) {
		scheduler->empty_rounds = 0;
		leave_limit(scheduler);
		if (scheduler->slow)
			poll_slow_again(scheduler, true, nanoseconds());
		else
			poll_bulk_again(scheduler, 0);
		scheduler->ops->submit(queue);
		virtq_interrupt(queue);
		return;
	}
	do {
		started += start_chains(scheduler, most - started);
		more = !scheduler->blocked && virtq_enable_notify(queue);
	} while (more && started < most && scheduler->limit_wait == 0);
	/* Once the guest has ended nobody waits for the limiter: these requests stay undone. */
	if (more && started < most && !virtio_ending(queue->device))
		wait_for_limit(scheduler, started > 0 || !scheduler->rate_limited);
	else
		leave_limit(scheduler);
	if (started >= most)
		virtio_reschedule(queue);
	scheduler->ops->submit(queue);
	interrupt_or_delay(scheduler, started);
}

/* The batch window has ended: start the batch, and open another window if it paid. */
static void serve_batch(struct queue_scheduler *scheduler)
{
	unsigned started = start_chains(scheduler, scheduler->queue->size_max);
	/* Enough chains, in less time than as many notifications would have taken. */
	bool pays = started >= (scheduler->batching ? BATCH_MIN : BATCH_MIN_FIRST) &&
		scheduler->now - scheduler->round_began < started * scheduler->mean_interval;

	if (scheduler->threshold_reached)
		pays = true;
	else if (started >= BATCH_THRESHOLD)
		scheduler->batch_window -= scheduler->batch_window / 4;
	else if (started < BATCH_SMALL)
		scheduler->batch_window += scheduler->batch_window / 4;
	/* After batches that paid, one may be small: the guest is busy with what was completed at once. */
	scheduler->empty_rounds = pays ? 0 : scheduler->empty_rounds + 1;
	if (!pays && !scheduler->batching)
		back_off_probing(scheduler);
	if ((!pays && (!scheduler->batching || scheduler->empty_rounds == BATCH_EMPTY_MAX)) ||
		scheduler->limit_wait || scheduler->blocked) {
		serve_now(scheduler);
		return;
	}
	scheduler->batching = true;
	scheduler->probe_interval = 0;
	begin_batch(scheduler);
	scheduler->ops->submit(scheduler->queue);
	virtq_interrupt(scheduler->queue);
}

/* Poll, until several polls one after the other were empty. */
static void serve_poll(struct queue_scheduler *scheduler)
{
	int64_t start = nanoseconds();
	unsigned started = start_chains(scheduler, scheduler->queue->size_max);

	scheduler->empty_rounds = started ? 0 : scheduler->empty_rounds + 1;
	if (scheduler->empty_rounds == (scheduler->slow ? SLOW_POLL_EMPTY_MAX : POLL_EMPTY_MAX) ||
		scheduler->limit_wait || scheduler->blocked) {
		serve_now(scheduler);
		return;
	}
	scheduler->ops->submit(scheduler->queue);
	virtq_interrupt(scheduler->queue);
	if (scheduler->slow)
		poll_slow_again(scheduler, started, start);
	else
		poll_bulk_again(scheduler, started ? (nanoseconds() - start) / 2 :
						     POLL_INTERVAL_MIN << scheduler->empty_rounds);
}

/* The end of a batch window, the next poll, or the moment to ask the limiter again. */
static void timer_expired(struct io_op *op, int result)
{
	struct queue_scheduler *scheduler = container_of(op, struct queue_scheduler, timer_op);
	struct virtq *queue = scheduler->queue;
	struct virtio_device *device = queue->device;
	bool polling;

	(void)result;
	pthread_mutex_lock(queue->lock);
	scheduler->now = nanoseconds();
	polling = scheduler->polling;
	scheduler->timer_armed = scheduler->polling = false;
	if (!virtio_running(device))
		leave_limit(scheduler);
	else if (scheduler->rate_limited)
		serve_now(scheduler);
	else if (polling)
		serve_poll(scheduler);
	else
		serve_batch(scheduler);
	virtio_request_done(device);
	pthread_mutex_unlock(queue->lock);
}

void queue_scheduler_notify(struct queue_scheduler *scheduler)
{
	/* The I/O thread, or the backend, is going to have the queue served. */
	if (scheduler->queue->rescheduled || scheduler->blocked)
		return;
	if (scheduler->timer_armed) {
		if (!scheduler->ops->coalesce_interrupts && !scheduler->rate_limited &&
			!scheduler->polling) {
			scheduler->now = nanoseconds();
			serve_at_threshold(scheduler);
		}
		return;
	}
	virtq_disable_notify(scheduler->queue);
	if (scheduler->interrupt_pending && !virtq_wants_interrupt(scheduler->queue))
		scheduler->interrupt_pending = false;
	scheduler->batching = false;
	scheduler->empty_rounds = 0;
	if (is_time_to_batch(scheduler))
		begin_batch(scheduler);
	else
		serve_now(scheduler);
}

void queue_scheduler_unblock(struct queue_scheduler *scheduler)
{
	if (!scheduler->blocked)
		return;
	scheduler->blocked = false;
	serve_now(scheduler);
}

void queue_scheduler_reset(struct queue_scheduler *scheduler)
{
	/* A timer that is armed finds that the device does not run. */
	scheduler->mean_interval = 2 * BUSY_INTERVAL_MAX;
	scheduler->last_notification = scheduler->batch_window = 0;
	scheduler->probe_interval = 0;
	scheduler->probe_countdown = PROBE_INTERVAL_MIN;
	scheduler->blocked = scheduler->interrupt_pending = false;
}

void queue_scheduler_init(struct queue_scheduler *scheduler, struct virtq *queue,
	const struct queue_scheduler_ops *ops)
{
	*scheduler = (struct queue_scheduler){ .ops = ops, .queue = queue };
	queue_scheduler_reset(scheduler);
}

void queue_scheduler_set_limit(
	struct queue_scheduler *scheduler, struct rate_limiter *limit, uint64_t *limited_count)
{
	scheduler->limit = limit;
	scheduler->limited_count = limited_count;
}
