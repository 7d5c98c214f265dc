/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The latency of requests: a histogram.  One thread at a time adds to it; any thread may read it
 * meanwhile.
 */
#ifndef KARMA_LATENCY_H
#define KARMA_LATENCY_H

#include <stdint.h>

#include "karma/util.h"

/* Bucket i counts requests that took less than 1024 << i ns, and at least 1024 << (i - 1). */
#define LATENCY_BUCKETS 24u
#define LATENCY_BUCKET_BITS 10u

struct latency {
	uint64_t buckets[LATENCY_BUCKETS + 1];	/* the last: all others */
	uint64_t nanoseconds;			/* the sum */
};

/* The end of a bucket in ns, exclusive; the last one has none. */
static inline uint64_t latency_bound(unsigned bucket)
{
	return 1ull << (LATENCY_BUCKET_BITS + bucket);
}

static inline void latency_add(struct latency *latency, int64_t ns)
{
	uint64_t units = ns > 0 ? (uint64_t)ns >> LATENCY_BUCKET_BITS : 0;
	unsigned bucket = units ? 64 - __builtin_clzll(units) : 0;

	count_up(&latency->buckets[bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS], 1);
	count_up(&latency->nanoseconds, ns > 0 ? ns : 0);
}

/* Add another histogram, to which another thread may add meanwhile. */
static inline void latency_sum(struct latency *sum, const struct latency *latency)
{
	for (unsigned i = 0; i <= LATENCY_BUCKETS; i++)
		sum->buckets[i] += count_of(&latency->buckets[i]);
	sum->nanoseconds += count_of(&latency->nanoseconds);
}

static inline uint64_t latency_count(const struct latency *latency)
{
	uint64_t count = 0;

	for (unsigned i = 0; i <= LATENCY_BUCKETS; i++)
		count += count_of(&latency->buckets[i]);
	return count;
}

#endif
