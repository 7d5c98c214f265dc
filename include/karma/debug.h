/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Assertions about the monitor's own code: active in builds with a sanitizer, as all tests and fuzzers
 * are, or with -DKARMA_DEBUG; in others the condition is compiled and never evaluated.
 */
#ifndef KARMA_DEBUG_H
#define KARMA_DEBUG_H

#include <assert.h>

#ifdef __has_feature
#define DEBUG_HAS_FEATURE(name) __has_feature(name)
#else
#define DEBUG_HAS_FEATURE(name) 0
#endif

#if defined(KARMA_DEBUG) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
	DEBUG_HAS_FEATURE(address_sanitizer) || DEBUG_HAS_FEATURE(thread_sanitizer)
#define debug_assert(condition) assert(condition)
#else
#define debug_assert(condition) ((void)sizeof(!(condition)))
#endif

#endif
