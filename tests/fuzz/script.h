/* SPDX-License-Identifier: GPL-2.0-only */
/* A fuzzer's input as a script: numbers that are taken from it, one after the other. */
#ifndef KARMA_TESTS_SCRIPT_H
#define KARMA_TESTS_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct script {
	const uint8_t *at, *end;
};

/* What must hold whatever the input is; not inline, so that a crash tells the line. */
static __attribute__((noinline, unused)) void check(bool fine)
{
	if (!fine)
		abort();
}

/* The least significant byte comes first; 0s behind the end. */
static inline uint64_t take(struct script *script, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes && script->at < script->end; i++)
		value |= (uint64_t)*script->at++ << (8 * i);
	return value;
}

/* Up to so many bytes as they are, in *bytes; how many there are. */
static inline size_t take_bytes(struct script *script, size_t most, const uint8_t **bytes)
{
	size_t left = script->end - script->at, count = most < left ? most : left;

	*bytes = script->at;
	script->at += count;
	return count;
}

static inline bool script_over(const struct script *script)
{
	return script->at == script->end;
}

#endif
