// SPDX-License-Identifier: GPL-2.0-only
/* Limits of I/O: token buckets, and turns for those that wait for tokens. */
#include "karma/limit.h"
#include "karma/util.h"

#define TOKEN 1000000000ll	/* in a balance */

/* More than a request of any length can owe; it keeps all sums within 128 bits. */
#define DEBT_MAX ((__int128)1 << 120)

static __int128 capacity(const struct limit_bucket *bucket, unsigned burst)
{
	return (__int128)bucket->rate * burst * TOKEN;
}

static void fill(struct limit_bucket *bucket, unsigned burst, int64_t elapsed)
{
	__int128 full = capacity(bucket, burst);
	unsigned __int128 missing = full - bucket->balance;
	unsigned __int128 gain = (unsigned __int128)bucket->rate * (uint64_t)elapsed;

	if (gain >= missing)
		bucket->balance = full;
	else
		bucket->balance += gain;
}

static void fill_all(struct limit *limit)
{
	int64_t now = nanoseconds(), elapsed = now - limit->filled_at;

	if (elapsed <= 0)
		return;
	fill(&limit->requests, limit->burst, elapsed);
	fill(&limit->bytes, limit->burst, elapsed);
	limit->filled_at = now;
}

static void take(struct limit_bucket *bucket, uint64_t tokens)
{
	if (!bucket->rate)
		return;
	bucket->balance -= (__int128)tokens * TOKEN;
	if (bucket->balance < -DEBT_MAX)
		bucket->balance = -DEBT_MAX;
}

/* How long until there is a token, rounded up; LIMIT_WAIT_MAX if that is longer. */
static int64_t until_token(const struct limit_bucket *bucket)
{
	__int128 missing = TOKEN - bucket->balance, wait;

	if (!bucket->rate || missing <= 0)
		return 0;
	wait = (missing + bucket->rate - 1) / bucket->rate;
	return wait < LIMIT_WAIT_MAX ? wait : LIMIT_WAIT_MAX;
}

static void remove_turn(struct limit *limit, struct limit_turn *turn)
{
	struct limit_turn **at = &limit->first;

	while (*at && *at != turn)
		at = &(*at)->next;
	if (*at)
		*at = turn->next;
	turn->waits = turn->went = false;
}

/* Who had its turn goes behind the others; who is still waiting for it keeps its place. */
static void line_up(struct limit *limit, struct limit_turn *turn)
{
	struct limit_turn **at = &limit->first;

	if (turn->waits && !turn->went)
		return;
	remove_turn(limit, turn);
	while (*at)
		at = &(*at)->next;
	turn->next = NULL;
	turn->waits = true;
	*at = turn;
}

int64_t limit_ask(struct limit *limit, struct limit_turn *turn)
{
	int64_t wait, wait_bytes;

	pthread_mutex_lock(&limit->lock);
	fill_all(limit);
	wait = until_token(&limit->requests);
	wait_bytes = until_token(&limit->bytes);
	if (wait_bytes > wait)
		wait = wait_bytes;
	if (wait == 0 && (!limit->first || limit->first == turn)) {
		turn->went = turn->waits;
	} else {
		line_up(limit, turn);
		if (wait < LIMIT_WAIT_MIN)
			wait = LIMIT_WAIT_MIN;
	}
	pthread_mutex_unlock(&limit->lock);
	return wait;
}

void limit_take(struct limit *limit, uint64_t bytes)
{
	pthread_mutex_lock(&limit->lock);
	fill_all(limit);
	take(&limit->requests, 1);
	take(&limit->bytes, bytes);
	pthread_mutex_unlock(&limit->lock);
}

void limit_leave(struct limit *limit, struct limit_turn *turn)
{
	pthread_mutex_lock(&limit->lock);
	remove_turn(limit, turn);
	pthread_mutex_unlock(&limit->lock);
}

void limit_init(struct limit *limit, const struct limit_options *options)
{
	*limit = (struct limit){
		.requests.rate = options->requests,
		.bytes.rate = options->bytes,
		.burst = options->burst,
		.filled_at = nanoseconds(),
	};
	limit->requests.balance = capacity(&limit->requests, limit->burst);
	limit->bytes.balance = capacity(&limit->bytes, limit->burst);
	pthread_mutex_init(&limit->lock, NULL);
}

static __int128 between(__int128 least, __int128 value, __int128 most)
{
	return value < least ? least : value > most ? most : value;
}

void limit_hand_on(struct limit *limit, const struct limit_options *options)
{
	const struct limit left = *limit;
	int64_t now = nanoseconds();

	limit_init(limit, options);
	limit->requests.balance = between(-DEBT_MAX, left.requests.balance, limit->requests.balance);
	limit->bytes.balance = between(-DEBT_MAX, left.bytes.balance, limit->bytes.balance);
	/* In the future, it would give nothing for as long. */
	limit->filled_at = left.filled_at > 0 && left.filled_at < now ? left.filled_at : now;
}

void limit_release(struct limit *limit)
{
	pthread_mutex_destroy(&limit->lock);
}
