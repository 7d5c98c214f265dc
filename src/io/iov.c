// SPDX-License-Identifier: GPL-2.0-only
/* Lists of buffers (struct iovec). */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "karma/iov.h"

static size_t iov_copy(const struct iovec *iov, unsigned count, size_t offset, uint8_t *buffer,
	size_t length, bool to_iov)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < length; i++) {
		size_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		part = iov[i].iov_len - offset;
		if (part > length - done)
			part = length - done;
		if (to_iov)
			memcpy((uint8_t *)iov[i].iov_base + offset, buffer + done, part);
		else
			memcpy(buffer + done, (uint8_t *)iov[i].iov_base + offset, part);
		done += part;
		offset = 0;
	}
	return done;
}

size_t iov_read(const struct iovec *iov, unsigned count, size_t offset, void *to, size_t length)
{
	return iov_copy(iov, count, offset, to, length, false);
}

size_t iov_write(
	const struct iovec *iov, unsigned count, size_t offset, const void *from, size_t length)
{
	return iov_copy(iov, count, offset, (uint8_t *)from, length, true);
}

unsigned iov_slice(const struct iovec *iov, unsigned count, size_t offset, size_t length,
	struct iovec *slice, unsigned most)
{
	unsigned used = 0;

	for (unsigned i = 0; i < count && length && used < most; i++) {
		size_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		part = iov[i].iov_len - offset;
		if (part > length)
			part = length;
		slice[used++] = (struct iovec){ (uint8_t *)iov[i].iov_base + offset, part };
		length -= part;
		offset = 0;
	}
	return used;
}

unsigned iov_skip(struct iovec **iov, unsigned count, size_t bytes)
{
	while (count && bytes >= (*iov)->iov_len) {
		bytes -= (*iov)->iov_len;
		(*iov)++;
		count--;
	}
	if (count) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + bytes;
		(*iov)->iov_len -= bytes;
	}
	return count;
}

unsigned iov_truncate(struct iovec *iov, unsigned count, size_t bytes)
{
	for (unsigned i = 0; i < count; i++) {
		if (iov[i].iov_len >= bytes) {
			iov[i].iov_len = bytes;
			return bytes ? i + 1 : i;
		}
		bytes -= iov[i].iov_len;
	}
	return count;
}

unsigned iov_cut(struct iovec *iov, unsigned count, size_t bytes, struct iovec *rest)
{
	unsigned last = 0;

	while (last + 1 < count && bytes > iov[last].iov_len)
		bytes -= iov[last++].iov_len;
	*rest = (struct iovec){ (uint8_t *)iov[last].iov_base + bytes, iov[last].iov_len - bytes };
	iov[last].iov_len = bytes;
	return last + 1;
}
