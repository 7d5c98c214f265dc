// SPDX-License-Identifier: GPL-2.0-only
/*
 * Timers for fuzzers: each has expired when it is set.  A reset waits for the timers of its device, up to
 * 4 ms for one that batches notifications, which would be most of a fuzzer's time.
 */
#include "karma/io.h"

/* The linker puts this in the place of io_ring_timeout(): see mk/fuzz.mk. */
void __real_io_ring_timeout(
	struct io_ring *ring, struct io_op *op, const struct __kernel_timespec *delay);
void __wrap_io_ring_timeout(
	struct io_ring *ring, struct io_op *op, const struct __kernel_timespec *delay);

void __wrap_io_ring_timeout(
	struct io_ring *ring, struct io_op *op, const struct __kernel_timespec *delay)
{
	static const struct __kernel_timespec none;

	(void)delay;
	__real_io_ring_timeout(ring, op, &none);
}
