/* SPDX-License-Identifier: GPL-2.0-only */
/* Lists of buffers (struct iovec): copy at an offset, cut at either end. */
#ifndef KARMA_IOV_H
#define KARMA_IOV_H

#include <stddef.h>
#include <sys/uio.h>

/* Copy between a buffer and an iovec list at an offset; how many bytes there were. */
size_t iov_read(const struct iovec *iov, unsigned count, size_t offset, void *to, size_t length);
size_t iov_write(
	const struct iovec *iov, unsigned count, size_t offset, const void *from, size_t length);

/*
 * What of a list lies in [offset, offset + length), as a list of at most so many entries; how many
 * it has.
 */
unsigned iov_slice(const struct iovec *iov, unsigned count, size_t offset, size_t length,
	struct iovec *slice, unsigned most);

/* Cut bytes off the front; returns the new count, *iov moves on.  The list is changed. */
unsigned iov_skip(struct iovec **iov, unsigned count, size_t bytes);
/*
 * Keep the first bytes of a list that has more of them, or as many; returns the new count.  The last
 * entry kept is cut, and *rest is what was cut off it, of no length if it was left whole.
 */
unsigned iov_cut(struct iovec *iov, unsigned count, size_t bytes, struct iovec *rest);
/* Keep only the first bytes; returns the new count. */
unsigned iov_truncate(struct iovec *iov, unsigned count, size_t bytes);

#endif
