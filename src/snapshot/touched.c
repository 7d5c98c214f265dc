// SPDX-License-Identifier: GPL-2.0-only
/* Which pages of a snapshot's memory a restored guest touches first. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

#include "internal.h"
#include "karma/copy_file.h"
#include "karma/snapshot_touched.h"
#include "karma/util.h"

#define BATCH_PAGES 4096u

/* False if there is no room. */
static bool add_page(struct touched *touched, uint64_t page, uint64_t gap)
{
	struct page_range *last = touched->count ? &touched->ranges[touched->count - 1] : NULL;

	if (last && page - last->first - last->count <= gap) {
		last->count = page + 1 - last->first;
		return true;
	}
	if (touched->count == TOUCHED_RANGES_MAX)
		return false;
	touched->ranges[touched->count++] = (struct page_range){ page, 1 };
	return true;
}

/* Pages in which the file has data.  -ENOSPC if there are too many ranges. */
static int find_in_extent(struct touched *touched, int pagemap, uint64_t address, uint64_t first, uint64_t end, uint64_t gap)
{
	uint64_t entries[BATCH_PAGES];

	for (; first < end; first += BATCH_PAGES) {
		const uint64_t count = end - first < BATCH_PAGES ? end - first : BATCH_PAGES;
		int result = read_all_at(pagemap, entries, count * sizeof(entries[0]),
			(address / PAGE_BYTES + first) * sizeof(entries[0]));

		if (result < 0)
			return result;
		for (uint64_t i = 0; i < count; i++) {
			if (entries[i] & (PAGE_PRESENT | PAGE_SWAPPED) && !add_page(touched, first + i, gap))
				return -ENOSPC;
		}
	}
	return 0;
}

static int find(struct touched *touched, int pagemap, uint64_t address, const struct memory_options *options, uint64_t gap)
{
	touched->count = 0;
	for (off_t end = 0; (uint64_t)end < options->size;) {
		off_t data = lseek(options->file, end, SEEK_DATA);
		int result;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		end = lseek(options->file, data, SEEK_HOLE);
		if (end < 0)
			return -errno;
		result = find_in_extent(touched, pagemap, address, data / PAGE_BYTES, end / PAGE_BYTES, gap);
		if (result < 0)
			return result;
	}
	return 0;
}

int touched_find(struct touched *touched, pid_t pid, uint64_t address, const struct memory_options *options)
{
	char path[32];
	cleanup_fd int pagemap = -1;
	int result = -ENOSPC;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		return -errno;
	for (uint64_t gap = TOUCHED_GAP; result == -ENOSPC; gap *= 4)
		result = find(touched, pagemap, address, options, gap);
	return result;
}

int touched_write(const struct touched *touched, int fd)
{
	uint32_t numbers[2 * TOUCHED_RANGES_MAX];

	for (unsigned i = 0; i < touched->count; i++) {
		numbers[2 * i] = htole32(touched->ranges[i].first);
		numbers[2 * i + 1] = htole32(touched->ranges[i].count);
	}
	return write_all_at(fd, numbers, touched->count * sizeof(touched->ranges[0]), 0);
}

void touched_read(struct touched *touched, int fd)
{
	uint32_t numbers[2 * TOUCHED_RANGES_MAX];
	struct stat status;

	touched->count = 0;
	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || (uint64_t)status.st_size > sizeof(numbers) ||
		status.st_size % sizeof(touched->ranges[0]) ||
		read_all_at(fd, numbers, status.st_size, 0) < 0)
		return;
	touched->count = status.st_size / sizeof(touched->ranges[0]);
	for (unsigned i = 0; i < touched->count; i++)
		touched->ranges[i] = (struct page_range){ le32toh(numbers[2 * i]), le32toh(numbers[2 * i + 1]) };
}
