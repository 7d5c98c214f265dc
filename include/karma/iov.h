/* SPDX-License-Identifier: GPL-2.0-only */
/* Lists of buffers (struct iovec): copy at an offset, cut at either end. */
#ifndef KARMA_IOV_H
#define KARMA_IOV_H

#include <stddef.h>
#include <sys/uio.h>

/*
 * Copy from a list, or to it, at an offset of the list.  Returns how many bytes: fewer if the list
 * ends before.
 */
size_t iov_read(const struct iovec *iov, unsigned count, size_t offset, void *to, size_t length);
size_t iov_write(
	const struct iovec *iov, unsigned count, size_t offset, const void *from, size_t length);

/*
 * The part [offset, offset + length) of a list, as a list of at most `most` entries.  Returns how
 * many it has.
 */
unsigned iov_slice(const struct iovec *iov, unsigned count, size_t offset, size_t length,
	struct iovec *slice, unsigned most);

/* Drop bytes at the front: *iov moves on, and its first entry is cut.  Returns the new count. */
unsigned iov_skip(struct iovec **iov, unsigned count, size_t bytes);
/*
 * Keep the first bytes of a list, which has at least so many.  Returns the new count.  *rest is
 * what was cut off the last entry, of length 0 if that is whole.
 */
unsigned iov_cut(struct iovec *iov, unsigned count, size_t bytes, struct iovec *rest);
/* Keep the first bytes of a list, which may have fewer.  Returns the new count. */
unsigned iov_truncate(struct iovec *iov, unsigned count, size_t bytes);

#endif
