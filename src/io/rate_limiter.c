// SPDX-License-Identifier: GPL-2.0-only
/* Limits of I/O: token buckets, and turns for those that wait for tokens. */
#include "karma/rate_limiter.h"
#include "karma/util.h"

#define TOKEN 1000000000ll	/* in a balance */

/* More than a request of any length can owe; it keeps all sums within 128 bits. */
#define DEBT_MAX ((__int128)1 << 120)

static __int128 capacity(const struct token_bucket *bucket, unsigned burst)
{
	return (__int128)bucket->rate * burst * TOKEN;
}

static void fill(struct token_bucket *bucket, unsigned burst, int64_t elapsed)
{
	__int128 full = capacity(bucket, burst);
	unsigned __int128 missing = full - bucket->balance;
	unsigned __int128 gain = (unsigned __int128)bucket->rate * (uint64_t)elapsed;

	if (gain >= missing)
		bucket->balance = full;
	else
		bucket->balance += gain;
}

static void fill_all(struct rate_limiter *limit)
{
	int64_t now = nanoseconds(), elapsed = now - limit->filled_at;

	if (elapsed <= 0)
		return;
	fill(&limit->requests, limit->burst, elapsed);
	fill(&limit->bytes, limit->burst, elapsed);
	limit->filled_at = now;
}

static void take(struct token_bucket *bucket, uint64_t tokens)
{
	if (!bucket->rate)
		return;
	bucket->balance -= (__int128)tokens * TOKEN;
	if (bucket->balance < -DEBT_MAX)
		bucket->balance = -DEBT_MAX;
}

/* How long until there is a token, rounded up; RATE_LIMIT_WAIT_MAX if that is longer. */
static int64_t until_token(const struct token_bucket *bucket)
{
	__int128 missing = TOKEN - bucket->balance, wait;

	if (!bucket->rate || missing <= 0)
		return 0;
	wait = (missing + bucket->rate - 1) / bucket->rate;
	return wait < RATE_LIMIT_WAIT_MAX ? wait : RATE_LIMIT_WAIT_MAX;
}

static void remove_turn(struct rate_limiter *limit, struct rate_limit_waiter *turn)
{
	struct rate_limit_waiter **at = &limit->first;

	while (*at && *at != turn)
		at = &(*at)->next;
	if (*at)
		*at = turn->next;
	turn->waits = turn->went = false;
}

/* Who had its turn goes behind the others; who is still waiting for it keeps its place. */
static void line_up(struct rate_limiter *limit, struct rate_limit_waiter *turn)
{
	struct rate_limit_waiter **at = &limit->first;

	if (turn->waits && !turn->went)
		return;
	remove_turn(limit, turn);
	while (*at)
		at = &(*at)->next;
	turn->next = NULL;
	turn->waits = true;
	*at = turn;
}

int64_t rate_limiter_admit(struct rate_limiter *limit, struct rate_limit_waiter *turn)
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
		if (wait < RATE_LIMIT_WAIT_MIN)
			wait = RATE_LIMIT_WAIT_MIN;
	}
	pthread_mutex_unlock(&limit->lock);
	return wait;
}

void rate_limiter_consume(struct rate_limiter *limit, uint64_t bytes)
{
	pthread_mutex_lock(&limit->lock);
	fill_all(limit);
	take(&limit->requests, 1);
	take(&limit->bytes, bytes);
	pthread_mutex_unlock(&limit->lock);
}

void rate_limiter_withdraw(struct rate_limiter *limit, struct rate_limit_waiter *turn)
{
	pthread_mutex_lock(&limit->lock);
	remove_turn(limit, turn);
	pthread_mutex_unlock(&limit->lock);
}

void rate_limiter_init(struct rate_limiter *limit, const struct rate_limit_options *options)
{
	*limit = (struct rate_limiter){
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

void rate_limiter_start(struct rate_limiter *limit, const struct rate_limit_options *options)
{
	const struct rate_limiter left = *limit;
	int64_t now = nanoseconds();

	rate_limiter_init(limit, options);
	limit->requests.balance = between(-DEBT_MAX, left.requests.balance, limit->requests.balance);
	limit->bytes.balance = between(-DEBT_MAX, left.bytes.balance, limit->bytes.balance);
	/* In the future, it would give nothing for as long. */
	limit->filled_at = left.filled_at > 0 && left.filled_at < now ? left.filled_at : now;
}

void rate_limiter_release(struct rate_limiter *limit)
{
	pthread_mutex_destroy(&limit->lock);
}
