// SPDX-License-Identifier: GPL-2.0-only
/* Guest memory: one mapping, and the only way from a guest address to a pointer. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "karma/copy_file.h"
#include "karma/log.h"
#include "karma/memory.h"
#include "karma/status.h"
#include "karma/util.h"

/* At most so many mappings of a file: the host allows a process 65,530 (vm.max_map_count). */
#define FILE_MAPPINGS_MAX 1024u

/* Where the kernel tells about its pool of huge pages. */
#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"

/* Address space aligned to huge pages, so that the guest's and the host's coincide. */
static uint8_t *reserve(uint64_t size)
{
	uint8_t *area, *base;
	size_t before;

	area = mmap(NULL, size + GUEST_HUGE_PAGE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)area % GUEST_HUGE_PAGE;
	base = area + before;
	if (before)
		munmap(area, before);
	munmap(base + size, GUEST_HUGE_PAGE - before);
	return base;
}

static uint64_t pool_number(const char *path)
{
	unsigned long long number = 0;
	FILE *file = fopen(path, "re");

	if (!file)
		return 0;
	if (fscanf(file, "%llu", &number) != 1)
		number = 0;
	fclose(file);
	return number;
}

static int pool_is_small(uint64_t size)
{
	uint64_t all = pool_number(POOL "nr_hugepages");
	uint64_t unused = pool_number(POOL "free_hugepages") - pool_number(POOL "resv_hugepages");
	uint64_t needed = size / GUEST_HUGE_PAGE;

	return fail(-ENOMEM,
		"guest memory: needs %" PRIu64 " huge pages of 2 MiB, of which the host has %" PRIu64
		" to spare: run `sysctl vm.nr_hugepages=%" PRIu64 "` as root, or leave out hugepages=on",
		needed, unused, all - unused + needed);
}

/* What errno says. */
static int cannot_map(const struct memory_options *options)
{
	int error = errno;

	if (options->huge_pages && access(POOL, F_OK) < 0)
		return fail(-ENOTSUP, "guest memory: the host's kernel has no huge pages of 2 MiB: leave "
				      "out hugepages=on");
	if (options->huge_pages && error == ENOMEM)
		return pool_is_small(options->size);
	return fail(-error,
		"guest memory: can't map %llu MiB: %s: give a smaller --memory, or raise the "
		"limits of address space and open files (ulimit -v, -n)",
		options->size / MIB, strerror(error));
}

/* Nobody who has the file can take memory from under the guest by changing its size. */
static int make_file(const struct memory_options *options)
{
	unsigned huge = options->huge_pages ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
	int fd = memfd_create("karma-guest", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge);

	if (fd < 0)
		return cannot_map(options);
	if (ftruncate(fd, options->size) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		int result = cannot_map(options);

		close(fd);
		return result;
	}
	return fd;
}

static int map(struct guest_memory *memory, const struct memory_options *options)
{
	int flags = options->shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	uint8_t *base = reserve(options->size);

	if (!base)
		return cannot_map(options);
	flags |= options->huge_pages ? MAP_HUGETLB | MAP_HUGE_2MB : MAP_NORESERVE;
	if (mmap(base, options->size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, memory->fd, 0) ==
		MAP_FAILED) {
		int result = cannot_map(options);

		munmap(base, options->size);
		return result;
	}
	memory->base = base;
	return 0;
}

/* --- The contents of a file. */

/* SIGBUS, for a page of the file that is no longer there. */
static void file_was_cut(int signal)
{
	(void)signal;
	fail(-EIO, "guest memory: the file that it was restored from was cut, or can't be read: ended: the files of a "
		   "snapshot have to stay as they are while guests run that were restored from it");
	syscall(SYS_exit_group, STATUS_FAILURE);
}

static int map_extent(const struct guest_memory *memory, int file, uint64_t start, uint64_t end)
{
	void *at = mmap(memory->base + start, end - start, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, file, start);

	return at == MAP_FAILED ? fail(-errno, "guest memory: can't map the file that it is restored from: %s",
					  strerror(errno)) :
				  0;
}

static int read_extent(const struct guest_memory *memory, int file, uint64_t start, uint64_t end)
{
	int result = read_all_at(file, memory->base + start, end - start, start);

	return result < 0 ? fail(result, "guest memory: can't read the file that it is restored from: %s",
				    strerror(-result)) :
			    0;
}

/*
 * Where the file has data: in whole blocks, so that there are not too many.  All else stays as it is, zeroes: of a
 * hole in a file, the host would have a page of zeroes in its page cache, and no huge pages for what the guest writes.
 */
static int for_each_extent(const struct guest_memory *memory, const struct memory_options *options,
	int (*take)(const struct guest_memory *memory, int file, uint64_t start, uint64_t end))
{
	uint64_t block = GUEST_HUGE_PAGE;
	int result = 0;

	while (options->size / block > FILE_MAPPINGS_MAX)
		block *= 2;
	for (uint64_t start, end = 0; end < options->size && result == 0;) {
		off_t data = lseek(options->file, end, SEEK_DATA), hole;

		/* What follows is a hole; or the file has grown meanwhile. */
		if (data < 0 ? errno == ENXIO : (uint64_t)data >= options->size)
			break;
		hole = data < 0 ? data : lseek(options->file, data, SEEK_HOLE);
		if (hole < 0)
			return fail(-errno, "guest memory: can't find the data of the file that it is restored from: %s",
				strerror(errno));
		start = align_down(data, block) > end ? align_down(data, block) : end;
		if (!align_up(hole, block, &end) || end > options->size)
			end = options->size;
		result = take(memory, options->file, start, end);
	}
	return result;
}

/* All are asked for before the first is waited for.  What fails, the guest's faults do. */
static void read_ahead(const struct guest_memory *memory, const struct memory_options *options)
{
	const uint64_t pages = options->size / PAGE_BYTES;

	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < options->ahead_count; i++) {
			const struct page_range *range = &options->ahead[i];
			const uint64_t start = (uint64_t)range->first * PAGE_BYTES, length = (uint64_t)range->count * PAGE_BYTES;

			if (range->first >= pages || range->count > pages - range->first)
				continue;
			if (pass == 0)
				posix_fadvise(options->file, start, length, POSIX_FADV_WILLNEED);
			else
				madvise(memory->base + start, length, range->written ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
		}
	}
}

static int restore(const struct guest_memory *memory, const struct memory_options *options)
{
	const struct sigaction action = { .sa_handler = file_was_cut };
	struct stat status;
	int result;

	if (fstat(options->file, &status) < 0 || !S_ISREG(status.st_mode) || (uint64_t)status.st_size != options->size)
		return fail(-EINVAL,
			"guest memory: the file that it is restored from does not have its size, %" PRIu64 " bytes: it "
			"was cut, or belongs to another snapshot: bring it back from a copy",
			options->size);
	if (!memory_is_mapped_from_file(options))
		return for_each_extent(memory, options, read_extent);
	if (sigaction(SIGBUS, &action, NULL) < 0)
		return -errno;
	result = for_each_extent(memory, options, map_extent);
	if (result == 0)
		read_ahead(memory, options);
	return result;
}

int guest_memory_init(struct guest_memory *memory, const struct memory_options *options)
{
	uint64_t size = options->size;
	int result;

	*memory = (struct guest_memory){ .shared = options->shared, .fd = -1 };
	if (options->shared) {
		memory->fd = make_file(options);
		if (memory->fd < 0)
			return memory->fd;
	}
	result = map(memory, options);
	if (result == 0 && options->restored && (result = restore(memory, options)) < 0)
		munmap(memory->base, size);
	if (result < 0) {
		close_fd(&memory->fd);
		memory->base = NULL;
		return result;
	}
	/* A guest's secrets do not belong into the monitor's core dump. */
	madvise(memory->base, size, MADV_DONTDUMP);
	/*
	 * Without, a boot takes some 28,000 page faults more (doc/decisions/23-start-up-time.md).  The
	 * lowest ones have a few pages of what the guest is told, for which 2 MiB would be zeroed.
	 */
	if (size > GUEST_HUGE_PAGE)
		madvise(memory->base + GUEST_HUGE_PAGE, size - GUEST_HUGE_PAGE, MADV_HUGEPAGE);
	memory->size = size;
	memory->low_size = size < GUEST_HOLE_START ? size : GUEST_HOLE_START;
	memory->high_size = size - memory->low_size;
	return 0;
}

int memory_region_map(struct memory_region *region, int fd, uint64_t bytes, bool shared)
{
	const int protection = PROT_READ | PROT_WRITE;
	uint64_t size, end = align_down(bytes + PAGE_BYTES - 1, PAGE_BYTES);
	uint8_t *base;

	if (!align_up(bytes, GUEST_HUGE_PAGE, &size))
		return -EFBIG;
	base = reserve(size);
	if (!base)
		return -errno;
	if (mmap(base, bytes, protection, MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE), fd,
		    0) == MAP_FAILED ||
		(end < size &&
			mmap(base + end, size - end, protection,
				MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)) {
		int result = -errno;

		munmap(base, size);
		return result;
	}
	madvise(base, size, MADV_DONTDUMP);
	region->base = base;
	region->size = size;
	return 0;
}

void guest_memory_release(struct guest_memory *memory)
{
	if (memory->base) {
		munmap(memory->base, memory->size);
		close_fd(&memory->fd);
	}
	*memory = (struct guest_memory){ 0 };
}

void *guest_memory_at(const struct guest_memory *memory, gpa_t gpa, uint64_t length)
{
	uint64_t end;

	if (__builtin_add_overflow(gpa.value, length, &end))
		return NULL;
	if (end <= memory->low_size)
		return memory->base + gpa.value;
	if (gpa.value >= GUEST_HOLE_END && end - GUEST_HOLE_END <= memory->high_size)
		return memory->base + memory->low_size + (gpa.value - GUEST_HOLE_END);
	for (unsigned i = 0; i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];

		if (gpa.value >= region->gpa && end <= region->gpa + region->size)
			return region->base + (gpa.value - region->gpa);
	}
	return NULL;
}

gpa_t guest_memory_gpa(const struct guest_memory *memory, const void *at)
{
	const uint64_t offset = (const uint8_t *)at - memory->base;

	for (unsigned i = 0; i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];

		if ((uint64_t)((const uint8_t *)at - region->base) < region->size)
			return GPA(region->gpa + ((const uint8_t *)at - region->base));
	}
	return GPA(offset < memory->low_size ? offset : offset - memory->low_size + GUEST_HOLE_END);
}

int guest_memory_read(const struct guest_memory *memory, gpa_t gpa, void *to, size_t length)
{
	const void *from = guest_memory_at(memory, gpa, length);

	if (!from)
		return -EFAULT;
	memcpy(to, from, length);
	return 0;
}

int guest_memory_write(
	const struct guest_memory *memory, gpa_t gpa, const void *from, size_t length)
{
	void *to = guest_memory_at(memory, gpa, length);

	if (!to)
		return -EFAULT;
	memcpy(to, from, length);
	return 0;
}

int64_t guest_memory_discard(const struct guest_memory *memory, void *at, uint64_t length)
{
	uint64_t start, end = align_down((uintptr_t)at + length, PAGE_BYTES);

	if ((uint64_t)((uint8_t *)at - memory->base) >= memory->size)
		return -EINVAL;
	if (!align_up((uintptr_t)at, PAGE_BYTES, &start) || start >= end)
		return 0;
	if (madvise((void *)start, end - start, memory->shared ? MADV_REMOVE : MADV_DONTNEED) < 0)
		return -errno;
	return end - start;
}
