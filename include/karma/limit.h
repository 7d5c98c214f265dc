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
#ifndef KARMA_LIMIT_H
#define KARMA_LIMIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define LIMIT_BURST_MAX 3600u
/* One wait, in ns: each costs a timer, and a reset has to wait for its end. */
#define LIMIT_WAIT_MIN 1000000ll
#define LIMIT_WAIT_MAX 100000000ll

struct limit_options {
	uint64_t requests, bytes;	/* a second; 0: no limit */
	unsigned burst;			/* seconds' worth in a bucket: 1 to LIMIT_BURST_MAX */
};

struct limit_bucket {
	uint64_t rate;		/* tokens a second; 0: no limit */
	__int128 balance;	/* in billionths of a token: a nanosecond brings rate of them */
};

/* A queue's place among those that wait.  Zeroed at first; must stay while it waits. */
struct limit_turn {
	struct limit_turn *next;
	bool waits;
	bool went;	/* it was its turn, and it took what there was */
};

struct limit {
	pthread_mutex_t lock;
	struct limit_bucket requests, bytes;
	unsigned burst;
	int64_t filled_at;	/* CLOCK_MONOTONIC, ns */
	struct limit_turn *first;
};

void limit_init(struct limit *limit, const struct limit_options *options);
void limit_release(struct limit *limit);

/*
 * Before the guest is started anew: what its process has left there, in shared memory, decides
 * nothing but how many tokens there are, and those are never more than a bucket holds.
 */
void limit_hand_on(struct limit *limit, const struct limit_options *options);

/*
 * Whether the next request may start: 0, or in how many nanoseconds to ask again, LIMIT_WAIT_MIN
 * to LIMIT_WAIT_MAX.  Who is told to wait either asks again then, or calls limit_leave(): others
 * may wait behind it.
 */
int64_t limit_ask(struct limit *limit, struct limit_turn *turn);

/* A request of so many bytes starts. */
void limit_take(struct limit *limit, uint64_t bytes);

/* There is nothing more to ask for. */
void limit_leave(struct limit *limit, struct limit_turn *turn);

static inline bool limit_is_set(const struct limit_options *options)
{
	return options->requests || options->bytes;
}

#endif
