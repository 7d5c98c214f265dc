// SPDX-License-Identifier: GPL-2.0-only
/* The copy of a guest's memory into a sparse file, from outside of the guest's process. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "internal.h"
#include "karma/copy_file.h"
#include "karma/log.h"
#include "karma/snapshot_memory.h"
#include "karma/util.h"

#define CLEAR_SOFT_DIRTY "4"		/* proc(5), /proc/PID/clear_refs */

#define BATCH_PAGES 4096u		/* whose entries are read at a time */
#define BUFFER_PAGES 256u
#define ADDRESS_END (1ull << 47)	/* of a process: x86, four levels of page tables */

/* Another round does not pay for its pause below this, nor unless it is half of the last one. */
#define ROUND_BYTES_MIN (16 * MIB)
#define ROUNDS_MAX 8u

#define MEMFD_LINK "/memfd:karma-guest (deleted)"	/* guest_memory_init() */

static bool has(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> page % 64 & 1;
}

static void set_all(uint64_t *bits, uint64_t first, uint64_t count, bool value)
{
	for (uint64_t page = first; page < first + count; page++) {
		const uint64_t bit = 1ull << page % 64;

		bits[page / 64] = value ? bits[page / 64] | bit : bits[page / 64] & ~bit;
	}
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* --- Opening. */

static int open_in_proc(pid_t pid, const char *name, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? fail(-errno, "snapshot: can't open %s: %s: run karma as a user who may trace processes "
				     "of his own (sysctl kernel.yama.ptrace_scope, up to 2), with /proc mounted",
				path, strerror(errno)) :
			fd;
}

/*
 * The file that a process has its guest's memory in.  It may have another in its place, but nothing that has any
 * effect when it is opened.
 */
static int open_memfd(pid_t pid, uint64_t size)
{
	for (int fd = 0; fd < 1024; fd++) {
		char path[64], link[sizeof(MEMFD_LINK)] = "";
		cleanup_fd int found = -1;
		struct stat status;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
		if (readlink(path, link, sizeof(link)) != sizeof(link) - 1 ||
			memcmp(link, MEMFD_LINK, sizeof(link) - 1) != 0)
			continue;
		found = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (found >= 0 && fstat(found, &status) == 0 && S_ISREG(status.st_mode) &&
			(uint64_t)status.st_size == size) {
			fd = found;
			found = -1;
			return fd;
		}
	}
	return fail(-ENOENT, "snapshot: the guest's process has no file for shared memory of %llu bytes",
		(unsigned long long)size);
}

static int read_entries(int pagemap, uint64_t address, uint64_t count, uint64_t *entries)
{
	int result = read_all_at(pagemap, entries, count * sizeof(*entries), address / PAGE_BYTES * sizeof(*entries));

	return result < 0 ? fail(result, "snapshot: can't read what memory the guest's process has: %s: it has "
					 "ended, most likely",
				    strerror(-result)) :
			    0;
}

/* A page that was just written is soft-dirty, if the kernel has such bits. */
static bool kernel_tracks(void)
{
	cleanup_fd int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t entry = 0;
	int result = -1;

	if (page == MAP_FAILED)
		return false;
	*(volatile uint8_t *)page = 1;
	if (pagemap >= 0)
		result = read_all_at(pagemap, &entry, sizeof(entry), (uintptr_t)page / PAGE_BYTES * sizeof(entry));
	munmap(page, PAGE_BYTES);
	return result == 0 && entry & PAGE_SOFT_DIRTY;
}

static int allocate(struct snapshot_memory *copy)
{
	const uint64_t words = (copy->pages + 63) / 64;

	copy->changed = calloc(words, sizeof(*copy->changed));
	copy->differs = calloc(words, sizeof(*copy->differs));
	copy->buffer = malloc((size_t)BUFFER_PAGES * PAGE_BYTES);
	copy->entries = malloc(BATCH_PAGES * sizeof(*copy->entries));
	return copy->changed && copy->differs && copy->buffer && copy->entries ? 0 :
										fail(-ENOMEM, "snapshot: out of memory");
}

static int open_process(struct snapshot_memory *copy, pid_t pid, const struct memory_options *options)
{
	copy->mem = open_in_proc(pid, "mem", O_RDONLY);
	if (copy->mem < 0)
		return copy->mem;
	copy->pagemap = open_in_proc(pid, "pagemap", O_RDONLY);
	if (copy->pagemap < 0)
		return copy->pagemap;
	if (options->shared) {
		copy->memfd = open_memfd(pid, options->size);
		return copy->memfd < 0 ? copy->memfd : 0;
	}
	if (options->huge_pages || !kernel_tracks())
		return 0;
	copy->clear_refs = open_in_proc(pid, "clear_refs", O_WRONLY);
	if (copy->clear_refs < 0)
		return copy->clear_refs;
	copy->tracks = copy->again = true;
	return 0;
}

int snapshot_memory_open(struct snapshot_memory *copy, pid_t pid, uint64_t address, const struct memory_options *options,
	int to, struct snapshot_progress *progress)
{
	int result;

	*copy = (struct snapshot_memory){
		.mem = -1,
		.pagemap = -1,
		.clear_refs = -1,
		.memfd = -1,
		.to = to,
		.file = memory_is_mapped_from_file(options) ? options->file : -1,
		.address = address,
		.pages = options->size / PAGE_BYTES,
		.progress = progress,
	};
	if (address % PAGE_BYTES || address >= ADDRESS_END || options->size > ADDRESS_END - address)
		return fail(-EFAULT, "snapshot: the guest's process has its memory at no address: it is broken");
	result = open_process(copy, pid, options);
	if (result == 0)
		result = allocate(copy);
	if (result == 0 && ftruncate(to, options->size) < 0)
		result = fail(-errno, "snapshot: memory: %s: put it on a file system for files of %llu bytes",
			strerror(errno), (unsigned long long)options->size);
	return result;
}

void snapshot_memory_close(struct snapshot_memory *copy)
{
	close_fd(&copy->mem);
	close_fd(&copy->pagemap);
	close_fd(&copy->clear_refs);
	close_fd(&copy->memfd);
	free(copy->changed);
	free(copy->differs);
	free(copy->buffer);
	free(copy->entries);
}

/* --- What has changed. */

/* Whether the page has contents of its own: else they are those of the file, or zeroes. */
static bool is_private(uint64_t entry)
{
	return entry & (PAGE_PRESENT | PAGE_SWAPPED) && !(entry & PAGE_OF_FILE);
}

static bool has_changed(const struct snapshot_memory *copy, uint64_t page, uint64_t entry)
{
	/* Given back to the host; or never touched, and not in `to` either. */
	if (!is_private(entry))
		return has(copy->differs, page);
	/* A page that was given back, and then read, is the page of zeroes, which is not soft-dirty. */
	return !copy->begun || !copy->tracks || entry & PAGE_SOFT_DIRTY || (entry & (PAGE_PRESENT | PAGE_EXCLUSIVE)) == PAGE_PRESENT;
}

/* How many pages; and if note is set, note them. */
static int find_changes(struct snapshot_memory *copy, bool note_them, uint64_t *found)
{
	*found = 0;
	for (uint64_t first = 0; first < copy->pages; first += BATCH_PAGES) {
		const uint64_t count = smaller(BATCH_PAGES, copy->pages - first);
		int result = read_entries(copy->pagemap, copy->address + first * PAGE_BYTES, count, copy->entries);

		if (result < 0)
			return result;
		for (uint64_t i = 0; i < count; i++) {
			if (!has_changed(copy, first + i, copy->entries[i]))
				continue;
			++*found;
			if (note_them)
				set_all(copy->changed, first + i, 1, true);
		}
	}
	return 0;
}

/* --- Copying. */

static int cannot_write(int error)
{
	return fail(error, "snapshot: memory: can't write it: %s: make room for it", strerror(-error));
}

static bool page_is_zero(const struct snapshot_memory *copy, uint64_t index)
{
	return is_zero(copy->buffer + index * PAGE_BYTES, PAGE_BYTES);
}

/* Pages as they are in the buffer; those of zeroes become holes. */
static int write_pages(struct snapshot_memory *copy, uint64_t first, uint64_t count)
{
	int result = 0;

	for (uint64_t at = 0, end; at < count && result == 0; at = end) {
		const bool zero = page_is_zero(copy, at);
		uint64_t length, offset = (first + at) * PAGE_BYTES;
		bool hole = copy->file < 0;

		for (end = at + 1; end < count && page_is_zero(copy, end) == zero; end++)
			;
		length = (end - at) * PAGE_BYTES;
		for (uint64_t i = at; i < end && hole; i++)
			hole = !has(copy->differs, first + i);
		if (!zero)
			result = write_all_at(copy->to, copy->buffer + at * PAGE_BYTES, length, offset);
		else if (!hole)
			result = punch_hole(copy->to, offset, length);
		set_all(copy->differs, first + at, end - at, !zero || copy->file >= 0);
	}
	return result < 0 ? cannot_write(result) : 0;
}

static int copy_private(struct snapshot_memory *copy, uint64_t first, uint64_t count)
{
	int result = snapshot_memory_read(copy, copy->address + first * PAGE_BYTES, copy->buffer, count * PAGE_BYTES);

	return result == 0 ? write_pages(copy, first, count) : result;
}

/* They have become again what they are in the file. */
static int copy_from_file(struct snapshot_memory *copy, uint64_t first, uint64_t count)
{
	int result;

	if (copy->file < 0)
		memset(copy->buffer, 0, count * PAGE_BYTES);
	else if ((result = read_all_at(copy->file, copy->buffer, count * PAGE_BYTES, first * PAGE_BYTES)) < 0)
		return fail(result, "snapshot: can't read the memory that the guest was restored from: %s",
			strerror(-result));
	result = write_pages(copy, first, count);
	set_all(copy->differs, first, count, false);
	return result;
}

/* Pages that have changed, and are all private or all not. */
static uint64_t run_length(const struct snapshot_memory *copy, uint64_t first, uint64_t at, uint64_t count)
{
	const bool private = is_private(copy->entries[at]);
	uint64_t end = at + 1;

	while (end < count && end - at < BUFFER_PAGES && has(copy->changed, first + end) &&
		is_private(copy->entries[end]) == private)
		end++;
	return end - at;
}

static int copy_batch(struct snapshot_memory *copy, uint64_t first, uint64_t count)
{
	/* By now, a page may have been given back: to read it would allocate it anew. */
	int result = read_entries(copy->pagemap, copy->address + first * PAGE_BYTES, count, copy->entries);

	for (uint64_t at = 0, run; at < count && result == 0; at += run) {
		run = 1;
		if (!has(copy->changed, first + at))
			continue;
		run = run_length(copy, first, at, count);
		result = is_private(copy->entries[at]) ? copy_private(copy, first + at, run) :
							 copy_from_file(copy, first + at, run);
		set_all(copy->changed, first + at, run, false);
		copy->progress->round_done += run * PAGE_BYTES;
	}
	return result;
}

static bool any_changed(const struct snapshot_memory *copy, uint64_t first, uint64_t count)
{
	bool any = false;

	for (uint64_t word = first / 64; word < (first + count + 63) / 64; word++)
		any |= copy->changed[word] != 0;
	return any;
}

static int copy_changed(struct snapshot_memory *copy)
{
	int result = 0;

	/* A restored guest's: most of it is the file's still. */
	if (!copy->begun && copy->file >= 0 && (result = copy_file(copy->file, copy->to)) < 0)
		return cannot_write(result);
	for (uint64_t first = 0; first < copy->pages && result == 0; first += BATCH_PAGES) {
		const uint64_t count = smaller(BATCH_PAGES, copy->pages - first);

		if (any_changed(copy, first, count))
			result = copy_batch(copy, first, count);
	}
	copy->begun = true;
	copy->progress->rounds++;
	copy->progress->bytes += copy->progress->round_done;
	return result;
}

static int begin_round(struct snapshot_memory *copy)
{
	uint64_t found;
	int result = find_changes(copy, true, &found);

	copy->progress->round_bytes = found * PAGE_BYTES;
	copy->progress->round_done = 0;
	return result;
}

int snapshot_memory_arm(struct snapshot_memory *copy)
{
	int result = begin_round(copy);

	if (result == 0 && write(copy->clear_refs, CLEAR_SOFT_DIRTY, 1) != 1)
		result = fail(-errno, "snapshot: can't have the host's kernel note what the guest writes: %s",
			strerror(errno));
	return result;
}

int snapshot_memory_copy(struct snapshot_memory *copy)
{
	const uint64_t last = copy->progress->round_bytes;
	uint64_t found;
	int result = copy_changed(copy);

	if (result == 0)
		result = find_changes(copy, false, &found);
	copy->again = result == 0 && copy->progress->rounds < ROUNDS_MAX &&
		found * PAGE_BYTES >= ROUND_BYTES_MIN && found * PAGE_BYTES <= last / 2;
	return result;
}

int snapshot_memory_last(struct snapshot_memory *copy)
{
	int result;

	if (copy->memfd < 0) {
		result = begin_round(copy);
		return result == 0 ? copy_changed(copy) : result;
	}
	result = copy_file(copy->memfd, copy->to);
	copy->progress->rounds++;
	return result < 0 ? cannot_write(result) : 0;
}

int snapshot_memory_read(const struct snapshot_memory *copy, uint64_t address, void *to, uint64_t length)
{
	int result = address > ADDRESS_END || length > ADDRESS_END - address ?
		-EFAULT :
		read_all_at(copy->mem, to, length, address);

	return result < 0 ? fail(result, "snapshot: can't read the memory of the guest's process: %s: it has ended, or "
					 "is broken",
				    strerror(-result)) :
			    0;
}
