/* SPDX-License-Identifier: GPL-2.0-only */
/* Helpers for every part: cleanup attributes, time, system calls, counters, checked arithmetic. */
#ifndef KARMA_UTIL_H
#define KARMA_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(pointer, type, member) \
	((type *)((char *)(pointer) - offsetof(type, member)))

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define PAGE_BYTES 4096u

static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void free_pointer(void *pointer)
{
	free(*(void **)pointer);
}

#define cleanup_fd __attribute__((cleanup(close_fd)))
#define cleanup_free __attribute__((cleanup(free_pointer)))

/*
 * Functions in which an idle process waits.  The linker puts them side by side, so that few pages
 * are resident.
 */
#define idle_path __attribute__((hot))

/* CLOCK_MONOTONIC, in nanoseconds. */
static inline int64_t nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/*
 * readv(), writev(), read() and write() by preadv2(2) and pwritev2(2), which the sandbox allows
 * instead of these (karma/sandbox.h).  For a non-blocking socket they also replace recv() and
 * send().
 */
#ifdef RWF_NOWAIT	/* the agent's C library has neither */
static inline ssize_t read_list(int fd, const struct iovec *iov, unsigned count)
{
	return preadv2(fd, iov, count, -1, 0);
}

static inline ssize_t write_list(int fd, const struct iovec *iov, unsigned count)
{
	return pwritev2(fd, iov, count, -1, 0);
}

static inline ssize_t read_bytes(int fd, void *to, size_t length)
{
	const struct iovec iov = { to, length };

	return read_list(fd, &iov, 1);
}

static inline ssize_t write_bytes(int fd, const void *from, size_t length)
{
	const struct iovec iov = { (void *)from, length };

	return write_list(fd, &iov, 1);
}
#endif

/*
 * Add to a counter that only one thread changes at a time; others may read it meanwhile, by
 * count_of().
 */
static inline void count_up(uint64_t *counter, uint64_t by)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + by, __ATOMIC_RELAXED);
}

static inline uint64_t count_of(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Round up to a multiple of align, a power of 2.  Returns false on overflow. */
static inline bool align_up(uint64_t value, uint64_t align, uint64_t *result)
{
	if (__builtin_add_overflow(value, align - 1, result))
		return false;
	*result &= ~(align - 1);
	return true;
}

static inline uint64_t align_down(uint64_t value, uint64_t align)
{
	return value & ~(align - 1);
}

/* length: 1 or more. */
static inline bool is_zero(const void *bytes, size_t length)
{
	return *(const uint8_t *)bytes == 0 && memcmp(bytes, (const uint8_t *)bytes + 1, length - 1) == 0;
}

#endif
