// SPDX-License-Identifier: GPL-2.0-only
/* Files with O_DIRECT whose blocks are larger than a sector. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "direct.h"
#include "karma/util.h"

/*
 * For Linux before 6.1, which does not tell: every file system takes this, and most devices nothing
 * smaller.
 */
#define BLOCK_UNKNOWN 4096u

int open_again(int fd, int flags)
{
	char path[32];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, (fcntl(fd, F_GETFL) & O_ACCMODE) | O_CLOEXEC | flags);
	return again < 0 ? -errno : again;
}

static void read_alignment(struct direct *direct, int fd)
{
	struct statx status;

	direct->block_bytes = BLOCK_UNKNOWN;
	direct->memory_align = SECTOR_BYTES;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0 ||
		!(status.stx_mask & STATX_DIOALIGN) || !status.stx_dio_offset_align ||
		!status.stx_dio_mem_align)
		return;
	direct->block_bytes = status.stx_dio_offset_align;
	direct->memory_align = status.stx_dio_mem_align;
}

int direct_init(struct direct *direct, int fd, uint64_t start, bool is_direct)
{
	*direct = (struct direct){ .buffered_fd = -1, .block_bytes = SECTOR_BYTES, .start = start };
	pthread_mutex_init(&direct->lock, NULL);
	if (!is_direct)
		return 0;
	read_alignment(direct, fd);
	if (direct->block_bytes <= SECTOR_BYTES)
		return 0;
	direct->buffered_fd = open_again(fd, 0);
	return direct->buffered_fd < 0 ? direct->buffered_fd : 0;
}

void direct_release(struct direct *direct)
{
	close_fd(&direct->buffered_fd);
	pthread_mutex_destroy(&direct->lock);
}

bool direct_is_aligned(const struct direct *direct, const struct disk_request *request)
{
	if (direct->buffered_fd < 0)
		return true;
	if ((request->offset + direct->start) % direct->block_bytes)
		return false;
	for (unsigned i = 0; i < request->iov_count; i++) {
		const struct iovec *iov = &request->iov[i];

		if (iov->iov_len % direct->block_bytes || (uintptr_t)iov->iov_base % direct->memory_align)
			return false;
	}
	return true;
}

/* --- The order of writes. */

static bool is_ordered(const struct direct *direct, const struct disk_request *request)
{
	return direct->buffered_fd >= 0 && request->operation != DISK_READ && request->operation != DISK_FLUSH;
}

static uint64_t first_block(const struct direct *direct, const struct disk_request *request)
{
	return (request->start + direct->start) / direct->block_bytes;
}

static uint64_t last_block(const struct direct *direct, const struct disk_request *request)
{
	return (request->start + direct->start + request->length - 1) / direct->block_bytes;
}

/* Whether it shares a block with one of the list before end. */
static bool overlaps(const struct direct *direct, const struct disk_request *request,
	const struct disk_request *list, const struct disk_request *end)
{
	for (; list != end; list = list->next) {
		if (first_block(direct, list) <= last_block(direct, request) &&
			first_block(direct, request) <= last_block(direct, list))
			return true;
	}
	return false;
}

static void append(struct disk_request **list, struct disk_request *request)
{
	while (*list)
		list = &(*list)->next;
	request->next = NULL;
	*list = request;
}

static void add(struct disk_request **list, struct disk_request *request)
{
	request->next = *list;
	*list = request;
}

bool direct_begin(struct direct *direct, struct disk_request *request)
{
	bool waits;

	if (!is_ordered(direct, request))
		return true;
	request->start = request->offset;
	pthread_mutex_lock(&direct->lock);
	waits = overlaps(direct, request, direct->in_flight, NULL) ||
		overlaps(direct, request, direct->waiting, NULL);
	if (waits)
		append(&direct->waiting, request);
	else
		add(&direct->in_flight, request);
	pthread_mutex_unlock(&direct->lock);
	return !waits;
}

struct disk_request *direct_end(struct direct *direct, struct disk_request *request)
{
	struct disk_request *admitted = NULL, **at = &direct->in_flight;

	if (!is_ordered(direct, request))
		return NULL;
	pthread_mutex_lock(&direct->lock);
	while (*at != request)
		at = &(*at)->next;
	*at = request->next;
	for (at = &direct->waiting; *at;) {
		struct disk_request *next = *at;

		if (overlaps(direct, next, direct->in_flight, NULL) ||
			overlaps(direct, next, direct->waiting, next)) {
			at = &next->next;
			continue;
		}
		*at = next->next;
		add(&direct->in_flight, next);
		next->linked = admitted;
		admitted = next;
	}
	pthread_mutex_unlock(&direct->lock);
	return admitted;
}
