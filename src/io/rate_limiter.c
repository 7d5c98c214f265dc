// SPDX-License-Identifier: GPL-2.0-only
/* Rate limiters: token buckets, and the turns of those that wait for tokens. */
#include "karma/rate_limiter.h"
#include "karma/util.h"

#define TOKEN 1000000000ll	/* in a balance */

/* More than a request of any length can overdraw; it keeps all sums within 128 bits. */
#define DEBT_MAX ((__int128)1 << 120)

/* --- Buckets. */

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

static void consume(struct token_bucket *bucket, uint64_t tokens)
{
	if (!bucket->rate)
		return;
	bucket->balance -= (__int128)tokens * TOKEN;
	if (bucket->balance < -DEBT_MAX)
		bucket->balance = -DEBT_MAX;
}

/* The time until there is a token, rounded up, and RATE_LIMIT_WAIT_MAX at most. */
static int64_t until_token(const struct token_bucket *bucket)
{
	__int128 missing = TOKEN - bucket->balance, wait;

	if (!bucket->rate || missing <= 0)
		return 0;
	wait = (missing + bucket->rate - 1) / bucket->rate;
	return wait < RATE_LIMIT_WAIT_MAX ? wait : RATE_LIMIT_WAIT_MAX;
}

/* --- The limiter, with the lock held. */

static void fill_all(struct rate_limiter *limiter)
{
	int64_t now = nanoseconds(), elapsed = now - limiter->filled_at;

	if (elapsed <= 0)
		return;
	fill(&limiter->requests, limiter->burst, elapsed);
	fill(&limiter->bytes, limiter->burst, elapsed);
	limiter->filled_at = now;
}

static void remove_waiter(struct rate_limiter *limiter, struct rate_limit_waiter *waiter)
{
	struct rate_limit_waiter **at = &limiter->first;

	while (*at && *at != waiter)
		at = &(*at)->next;
	if (*at)
		*at = waiter->next;
	waiter->waits = waiter->admitted = false;
}

/* One that was admitted goes behind the others; one that was not keeps its place. */
static void enqueue(struct rate_limiter *limiter, struct rate_limit_waiter *waiter)
{
	struct rate_limit_waiter **at = &limiter->first;

	if (waiter->waits && !waiter->admitted)
		return;
	remove_waiter(limiter, waiter);
	while (*at)
		at = &(*at)->next;
	waiter->next = NULL;
	waiter->waits = true;
	*at = waiter;
}

/* --- What devices call. */

int64_t rate_limiter_admit(struct rate_limiter *limiter, struct rate_limit_waiter *waiter)
{
	int64_t wait, wait_bytes;

	pthread_mutex_lock(&limiter->lock);
	fill_all(limiter);
	wait = until_token(&limiter->requests);
	wait_bytes = until_token(&limiter->bytes);
	if (wait_bytes > wait)
		wait = wait_bytes;
	if (wait == 0 && (!limiter->first || limiter->first == waiter)) {
		waiter->admitted = waiter->waits;
	} else {
		enqueue(limiter, waiter);
		if (wait < RATE_LIMIT_WAIT_MIN)
			wait = RATE_LIMIT_WAIT_MIN;
	}
	pthread_mutex_unlock(&limiter->lock);
	return wait;
}

void rate_limiter_consume(struct rate_limiter *limiter, uint64_t bytes)
{
	pthread_mutex_lock(&limiter->lock);
	fill_all(limiter);
	consume(&limiter->requests, 1);
	consume(&limiter->bytes, bytes);
	pthread_mutex_unlock(&limiter->lock);
}

void rate_limiter_withdraw(struct rate_limiter *limiter, struct rate_limit_waiter *waiter)
{
	pthread_mutex_lock(&limiter->lock);
	remove_waiter(limiter, waiter);
	pthread_mutex_unlock(&limiter->lock);
}

/* --- The life cycle. */

void rate_limiter_init(struct rate_limiter *limiter, const struct rate_limit_options *options)
{
	*limiter = (struct rate_limiter){
		.requests.rate = options->requests,
		.bytes.rate = options->bytes,
		.burst = options->burst,
		.filled_at = nanoseconds(),
	};
	limiter->requests.balance = capacity(&limiter->requests, limiter->burst);
	limiter->bytes.balance = capacity(&limiter->bytes, limiter->burst);
	pthread_mutex_init(&limiter->lock, NULL);
}

static __int128 clamp(__int128 least, __int128 value, __int128 most)
{
	return value < least ? least : value > most ? most : value;
}

void rate_limiter_start(struct rate_limiter *limiter, const struct rate_limit_options *options)
{
	const struct rate_limiter left = *limiter;
	int64_t now = nanoseconds();

	rate_limiter_init(limiter, options);
	limiter->requests.balance = clamp(-DEBT_MAX, left.requests.balance, limiter->requests.balance);
	limiter->bytes.balance = clamp(-DEBT_MAX, left.bytes.balance, limiter->bytes.balance);
	/* A time in the future would keep the buckets from filling until then. */
	limiter->filled_at = left.filled_at > 0 && left.filled_at < now ? left.filled_at : now;
}

void rate_limiter_release(struct rate_limiter *limiter)
{
	pthread_mutex_destroy(&limiter->lock);
}
