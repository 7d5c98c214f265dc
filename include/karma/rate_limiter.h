/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A rate limiter for the I/O of a device: requests and bytes a second, by a token bucket for each.
 * A bucket is full at first, and a full one holds the burst that is possible after a pause.
 *
 * The length of a request is known only when it is taken from its queue.  So a request is admitted
 * when each bucket has at least one token, and then consumes all that it needs: the balance may
 * become negative, and the next requests wait until it is positive again.  So a request larger than
 * a bucket passes, and queues that ask at the same time overdraw the buckets by at most a request
 * each.
 *
 * Queues that wait are admitted in turns, so that none waits for ever.
 *
 * Any thread may call these functions.  There is a lock in it, inside of which no other is taken.
 */
#ifndef KARMA_RATE_LIMITER_H
#define KARMA_RATE_LIMITER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define RATE_LIMIT_BURST_MAX 3600u
/* Limits of one wait, in ns: each costs a timer, and a reset waits for the end of it. */
#define RATE_LIMIT_WAIT_MIN 1000000ll
#define RATE_LIMIT_WAIT_MAX 100000000ll

struct rate_limit_options {
	uint64_t requests, bytes;	/* a second; 0: no limit */
	unsigned burst;			/* capacity of a bucket in seconds: 1 to RATE_LIMIT_BURST_MAX */
};

struct token_bucket {
	uint64_t rate;		/* tokens a second; 0: no limit */
	__int128 balance;	/* in billionths of a token: each nanosecond adds rate of them */
};

/* A queue that asks.  Zeroed at first; stays in place while it waits. */
struct rate_limit_waiter {
	struct rate_limit_waiter *next;
	bool waits;	/* is in the list */
	bool admitted;	/* since it is in the list: its next wait is behind the others */
};

struct rate_limiter {
	pthread_mutex_t lock;
	struct token_bucket requests, bytes;
	unsigned burst;			/* seconds */
	int64_t filled_at;		/* CLOCK_MONOTONIC, ns */
	struct rate_limit_waiter *first;	/* list of those that wait, in turns */
};

/*
 * In the supervisor, once; in memory that the guests' processes share, so that a restart brings no
 * new burst.
 */
void rate_limiter_init(struct rate_limiter *limiter, const struct rate_limit_options *options);
void rate_limiter_release(struct rate_limiter *limiter);

/*
 * A guest starts.  In its process, before there is another thread.  Of what an earlier guest's
 * process left there, which is not trusted, only the balances are taken over, up to a full bucket.
 */
void rate_limiter_start(struct rate_limiter *limiter, const struct rate_limit_options *options);

/*
 * Whether the next request may start.  Returns 0, or the time in ns after which to ask again:
 * RATE_LIMIT_WAIT_MIN to RATE_LIMIT_WAIT_MAX.  A waiter that was told to wait has to ask again
 * then, or to withdraw: others may wait behind it.
 */
int64_t rate_limiter_admit(struct rate_limiter *limiter, struct rate_limit_waiter *waiter);

/* A request of so many bytes was admitted, and starts. */
void rate_limiter_consume(struct rate_limiter *limiter, uint64_t bytes);

/* The waiter has no request any more. */
void rate_limiter_withdraw(struct rate_limiter *limiter, struct rate_limit_waiter *waiter);

static inline bool rate_limit_is_set(const struct rate_limit_options *options)
{
	return options->requests || options->bytes;
}

#endif
