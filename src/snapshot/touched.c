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
#define WRITTEN (1u << 31)	/* in a range's count */

/* What is looked for, and how ranges are joined. */
struct search {
	int pagemap;
	uint64_t address;	/* of the memory in the process */
	bool written;		/* only what the guest has written */
	uint64_t gap;
	unsigned begin, limit;	/* of the ranges */
	uint64_t pages;		/* found */
};

/* False if there is no room. */
static bool add_page(struct touched *touched, struct search *search, uint64_t page)
{
	struct page_range *last =
		touched->count > search->begin ? &touched->ranges[touched->count - 1] : NULL;

	search->pages++;
	if (last && page - last->first - last->count <= search->gap) {
		last->count = page + 1 - last->first;
		return true;
	}
	if (touched->count == search->limit)
		return false;
	touched->ranges[touched->count++] = (struct page_range){ page, 1, search->written };
	return true;
}

static bool is_wanted(const struct search *search, uint64_t entry)
{
	return entry & (PAGE_PRESENT | PAGE_SWAPPED) && !(search->written && entry & PAGE_OF_FILE);
}

/* Pages in which the file has data.  -ENOSPC if there are too many ranges. */
static int find_in_extent(
	struct touched *touched, struct search *search, uint64_t first, uint64_t end)
{
	uint64_t entries[BATCH_PAGES];

	for (; first < end; first += BATCH_PAGES) {
		const uint64_t count = end - first < BATCH_PAGES ? end - first : BATCH_PAGES;
		int result = read_all_at(search->pagemap, entries, count * sizeof(entries[0]),
			(search->address / PAGE_BYTES + first) * sizeof(entries[0]));

		if (result < 0)
			return result;
		for (uint64_t i = 0; i < count; i++) {
			if (is_wanted(search, entries[i]) && !add_page(touched, search, first + i))
				return -ENOSPC;
		}
	}
	return 0;
}

static int find_at_once(
	struct touched *touched, struct search *search, const struct memory_options *options)
{
	touched->count = search->begin;
	search->pages = 0;
	for (off_t end = 0; (uint64_t)end < options->size;) {
		off_t data = lseek(options->file, end, SEEK_DATA);
		int result;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		end = lseek(options->file, data, SEEK_HOLE);
		if (end < 0)
			return -errno;
		result = find_in_extent(touched, search, data / PAGE_BYTES, end / PAGE_BYTES);
		if (result < 0)
			return result;
	}
	return 0;
}

/* With gaps as large as the ranges need them. */
static int find(
	struct touched *touched, struct search *search, const struct memory_options *options)
{
	int result = -ENOSPC;

	for (uint64_t gap = TOUCHED_GAP; result == -ENOSPC; gap *= 4) {
		/* What is between two pages that were written would be copied for nothing. */
		search->gap = search->written ? gap - TOUCHED_GAP : gap;
		result = find_at_once(touched, search, options);
	}
	return result;
}

int touched_find(
	struct touched *touched, pid_t pid, uint64_t address, const struct memory_options *options)
{
	char path[32];
	cleanup_fd int pagemap = -1;
	struct search search;
	int result;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		return -errno;
	search = (struct search){ .pagemap = pagemap,
		.address = address,
		.written = true,
		.limit = TOUCHED_RANGES_MAX / 2 };
	result = find(touched, &search, options);
	if (result < 0)
		return result;
	if (search.pages > TOUCHED_WRITTEN_MAX)
		touched->count = 0;
	search = (struct search){ .pagemap = pagemap,
		.address = address,
		.begin = touched->count,
		.limit = TOUCHED_RANGES_MAX };
	return find(touched, &search, options);
}

int touched_write(const struct touched *touched, int fd)
{
	uint32_t numbers[2 * TOUCHED_RANGES_MAX];

	for (unsigned i = 0; i < touched->count; i++) {
		numbers[2 * i] = htole32(touched->ranges[i].first);
		numbers[2 * i + 1] = htole32(
			touched->ranges[i].count | (touched->ranges[i].written ? WRITTEN : 0));
	}
	return write_all_at(fd, numbers, touched->count * sizeof(touched->ranges[0]), 0);
}

void touched_read(struct touched *touched, int fd)
{
	uint32_t numbers[2 * TOUCHED_RANGES_MAX];
	struct stat status;

	touched->count = 0;
	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) ||
		(uint64_t)status.st_size > sizeof(numbers) ||
		status.st_size % sizeof(touched->ranges[0]) ||
		read_all_at(fd, numbers, status.st_size, 0) < 0)
		return;
	touched->count = status.st_size / sizeof(touched->ranges[0]);
	for (unsigned i = 0; i < touched->count; i++) {
		const uint32_t count = le32toh(numbers[2 * i + 1]);

		touched->ranges[i] = (struct page_range){ le32toh(numbers[2 * i]), count & ~WRITTEN,
			!!(count & WRITTEN) };
	}
}
