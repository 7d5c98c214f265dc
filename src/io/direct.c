// SPDX-License-Identifier: GPL-2.0-only
/* Files with O_DIRECT whose blocks are larger than a sector. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "direct.h"
#include "karma/util.h"

#define SECTOR_BYTES 512u
/* Linux tells the units since 6.1; before, every file system takes these, and most devices nothing smaller. */
#define UNIT_UNKNOWN 4096u

int open_again(int fd, int flags)
{
	char path[32];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, (fcntl(fd, F_GETFL) & O_ACCMODE) | O_CLOEXEC | flags);
	return again < 0 ? -errno : again;
}

static void find_units(struct direct *direct, int fd)
{
	struct statx status;

	direct->unit = UNIT_UNKNOWN;
	direct->memory_unit = SECTOR_BYTES;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0 ||
		!(status.stx_mask & STATX_DIOALIGN) || !status.stx_dio_offset_align ||
		!status.stx_dio_mem_align)
		return;
	direct->unit = status.stx_dio_offset_align;
	direct->memory_unit = status.stx_dio_mem_align;
}

int direct_init(struct direct *direct, int fd, uint64_t start, bool is_direct)
{
	*direct = (struct direct){ .fd = -1, .unit = SECTOR_BYTES, .start = start };
	pthread_mutex_init(&direct->lock, NULL);
	if (!is_direct)
		return 0;
	find_units(direct, fd);
	if (direct->unit <= SECTOR_BYTES)
		return 0;
	direct->fd = open_again(fd, 0);
	return direct->fd < 0 ? direct->fd : 0;
}

void direct_release(struct direct *direct)
{
	close_fd(&direct->fd);
	pthread_mutex_destroy(&direct->lock);
}

bool direct_takes(const struct direct *direct, const struct disk_request *request)
{
	if (direct->fd < 0)
		return true;
	if ((request->offset + direct->start) % direct->unit)
		return false;
	for (unsigned i = 0; i < request->iov_count; i++) {
		const struct iovec *iov = &request->iov[i];

		if (iov->iov_len % direct->unit || (uintptr_t)iov->iov_base % direct->memory_unit)
			return false;
	}
	return true;
}

/* --- The order of writes.  Where a request began is its mark. */

static bool is_ordered(const struct direct *direct, const struct disk_request *request)
{
	return direct->fd >= 0 && request->operation != DISK_READ && request->operation != DISK_FLUSH;
}

static uint64_t first_block(const struct direct *direct, const struct disk_request *request)
{
	return (request->mark + direct->start) / direct->unit;
}

static uint64_t last_block(const struct direct *direct, const struct disk_request *request)
{
	return (request->mark + direct->start + request->length - 1) / direct->unit;
}

/* With one of the list, up to an end. */
static bool has_block_in_common(const struct direct *direct, const struct disk_request *request,
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
	request->mark = request->offset;
	pthread_mutex_lock(&direct->lock);
	waits = has_block_in_common(direct, request, direct->writes, NULL) ||
		has_block_in_common(direct, request, direct->waiting, NULL);
	if (waits)
		append(&direct->waiting, request);
	else
		add(&direct->writes, request);
	pthread_mutex_unlock(&direct->lock);
	return !waits;
}

struct disk_request *direct_end(struct direct *direct, struct disk_request *request)
{
	struct disk_request *begun = NULL, **at = &direct->writes;

	if (!is_ordered(direct, request))
		return NULL;
	pthread_mutex_lock(&direct->lock);
	while (*at != request)
		at = &(*at)->next;
	*at = request->next;
	for (at = &direct->waiting; *at;) {
		struct disk_request *next = *at;

		if (has_block_in_common(direct, next, direct->writes, NULL) ||
			has_block_in_common(direct, next, direct->waiting, next)) {
			at = &next->next;
			continue;
		}
		*at = next->next;
		add(&direct->writes, next);
		next->chain = begun;
		begun = next;
	}
	pthread_mutex_unlock(&direct->lock);
	return begun;
}
