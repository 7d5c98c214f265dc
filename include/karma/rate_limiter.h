/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A limit for the I/O of a device: so many requests and bytes a second, by a token bucket for
 * each.  A bucket holds what may be used at once after a pause, and is full at first.
 *
 * How large a request is can't be seen before it is taken from its queue.  So one may start as
 * soon as there is a token of each kind, and then takes all that it needs: the balance may fall
 * below zero, and those that follow wait until that is paid back.  A request larger than a bucket
 * passes so, and queues that ask at the same moment overdraw by a request each at most.
 *
 * Queues that have to wait have their turns in order, so that none of them waits for ever.
 *
 * Any thread may call these; there is a lock in it, inside of which no other is taken.
 */
#ifndef KARMA_RATE_LIMITER_H
#define KARMA_RATE_LIMITER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define RATE_LIMIT_BURST_MAX 3600u
/* One wait, in ns: each costs a timer, and a reset has to wait for its end. */
#define RATE_LIMIT_WAIT_MIN 1000000ll
#define RATE_LIMIT_WAIT_MAX 100000000ll

struct rate_limit_options {
	uint64_t requests, bytes;	/* a second; 0: no limit */
	unsigned burst;			/* seconds' worth in a bucket: 1 to RATE_LIMIT_BURST_MAX */
};

struct token_bucket {
	uint64_t rate;		/* tokens a second; 0: no limit */
	__int128 balance;	/* in billionths of a token: a nanosecond brings rate of them */
};

/* A queue's place among those that wait.  Zeroed at first; must stay while it waits. */
struct rate_limit_waiter {
	struct rate_limit_waiter *next;
	bool waits;
	bool went;	/* it was its turn, and it took what there was */
};

struct rate_limiter {
	pthread_mutex_t lock;
	struct token_bucket requests, bytes;
	unsigned burst;
	int64_t filled_at;	/* CLOCK_MONOTONIC, ns */
	struct rate_limit_waiter *first;
};

void rate_limiter_init(struct rate_limiter *limit, const struct rate_limit_options *options);
void rate_limiter_release(struct rate_limiter *limit);

/*
 * Before the guest is started anew: what its process has left there, in shared memory, decides
 * nothing but how many tokens there are, and those are never more than a bucket holds.
 */
void rate_limiter_start(struct rate_limiter *limit, const struct rate_limit_options *options);

/*
 * Whether the next request may start: 0, or in how many nanoseconds to ask again, RATE_LIMIT_WAIT_MIN
 * to RATE_LIMIT_WAIT_MAX.  Who is told to wait either asks again then, or calls rate_limiter_withdraw(): others
 * may wait behind it.
 */
int64_t rate_limiter_admit(struct rate_limiter *limit, struct rate_limit_waiter *turn);

/* A request of so many bytes starts. */
void rate_limiter_consume(struct rate_limiter *limit, uint64_t bytes);

/* There is nothing more to ask for. */
void rate_limiter_withdraw(struct rate_limiter *limit, struct rate_limit_waiter *turn);

static inline bool rate_limit_is_set(const struct rate_limit_options *options)
{
	return options->requests || options->bytes;
}

#endif
