// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cache of unpacked kernels: a guest that unpacks its kernel by itself spends half of its boot on that.
 *
 * It is a directory of the user's own, which the supervisor opens.  The name of an entry has the device, inode,
 * size and times of the bzImage, so that a changed bzImage never gets the old entry.  An entry is linked under that
 * name once it is complete and synced.  It is valid only if we own it and nobody else can write it.  One of size 0
 * says that the kernel can't be booted unpacked.
 *
 * The format: the unpacked kernel, in which blocks of zeroes, half of it, are holes; a CRC-32 for each block, 0 for a
 * hole; a trailer.  A block is checked as it is read into guest memory, when it is in the CPU's cache anyway.  A
 * damaged entry is deleted.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libdeflate.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "internal.h"
#include "karma/own_file.h"

#define PREFIX "vmlinux-"
#define UNFINISHED_PREFIX "unpacking-"
#define TOUCH_SECONDS (24 * 3600)
#define UNUSED_SECONDS (31 * 24 * 3600)
#define UNFINISHED_SECONDS 3600
#define BLOCK BOOT_CACHE_BLOCK
#define MAGIC "karma1\n"

/* At the end of each file. */
struct trailer {
	char magic[8];
	char name[BOOT_CACHE_NAME];	/* of the entry */
	uint64_t size;			/* of the unpacked kernel, at the start of the file */
	uint32_t sum;			/* of the blocks' sums, and of the trailer with 0 here */
	uint32_t reserved;
};

static size_t block_bytes(uint64_t size, uint64_t block)
{
	return size - block * BLOCK < BLOCK ? size - block * BLOCK : BLOCK;
}

/* Of a block that is not all zeroes. */
static uint32_t sum_of(const uint8_t *bytes, size_t size)
{
	uint32_t sum = libdeflate_crc32(0, bytes, size);

	return sum ? sum : 1;
}

static uint32_t trailer_sum(const struct trailer *trailer, const uint32_t *sums)
{
	struct trailer summed = *trailer;
	uint32_t sum = libdeflate_crc32(0, sums, boot_cache_blocks(trailer->size) * sizeof(*sums));

	summed.sum = 0;
	return libdeflate_crc32(sum, &summed, sizeof(summed));
}

/* The path of the cache, which is made if need be; malloc'ed.  NULL: there is none. */
static char *cache_directory(void)
{
	const char *own = getenv("KARMA_CACHE_DIR");
	const char *xdg = getenv("XDG_CACHE_HOME");
	const char *home = getenv("HOME");
	char *parent = NULL, *directory = NULL;

	if (own)
		return own[0] ? strdup(own) : NULL;
	if (xdg && xdg[0] == '/')
		parent = strdup(xdg);
	else if (!home || home[0] != '/' || asprintf(&parent, "%s/.cache", home) < 0)
		return NULL;
	if (parent && asprintf(&directory, "%s/karma", parent) >= 0) {
		/* Errors show when it is opened. */
		mkdir(parent, 0700);
		mkdir(directory, 0700);
	}
	free(parent);
	return directory;
}

/* The directory at *path, or -1 with that freed and NULL. */
static int open_directory(char **path)
{
	struct stat status;
	int fd;

	*path = cache_directory();
	if (!*path)
		return -1;
	fd = open(*path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &status) == 0 && is_own_file(&status))
		return fd;
	close_fd(&fd);
	free(*path);
	*path = NULL;
	return -1;
}

char *boot_cache_path(void)
{
	char *path;
	cleanup_fd int fd = open_directory(&path);

	return path;
}

static void name_of(const struct stat *status, char name[BOOT_CACHE_NAME])
{
	snprintf(name, BOOT_CACHE_NAME, PREFIX "%jx-%jx-%jx-%jx.%lx-%jx.%lx",
		(uintmax_t)status->st_dev, (uintmax_t)status->st_ino, (uintmax_t)status->st_size,
		(uintmax_t)status->st_mtim.tv_sec, (unsigned long)status->st_mtim.tv_nsec,
		(uintmax_t)status->st_ctim.tv_sec, (unsigned long)status->st_ctim.tv_nsec);
}

static void touch(int fd, const struct stat *status)
{
	if (status->st_mtime < time(NULL) - TOUCH_SECONDS)
		futimens(fd, NULL);
}

/* Read and verify the trailer and the blocks' sums, malloc'ed in *sums, which the caller frees in any case. */
static bool read_trailer(int fd, uint64_t file_bytes, const char *name, struct trailer *trailer,
	uint32_t **sums)
{
	uint64_t bytes;

	if (file_bytes < sizeof(*trailer) ||
		pread(fd, trailer, sizeof(*trailer), file_bytes - sizeof(*trailer)) != sizeof(*trailer) ||
		memcmp(trailer->magic, MAGIC, sizeof(trailer->magic)) != 0 ||
		strncmp(trailer->name, name, sizeof(trailer->name)) != 0 ||
		trailer->size > BOOT_UNPACKED_MAX)
		return false;
	bytes = boot_cache_blocks(trailer->size) * sizeof(**sums);
	if (file_bytes != trailer->size + bytes + sizeof(*trailer))
		return false;
	*sums = malloc(bytes + 1);
	return *sums && pread(fd, *sums, bytes, trailer->size) == (ssize_t)bytes &&
		trailer_sum(trailer, *sums) == trailer->sum;
}

/* Verify an entry, and set what it has of the kernel.  False if it is invalid. */
static bool load_entry(struct boot_kernel *kernel, int fd)
{
	struct trailer trailer;
	struct stat status;
	uint32_t *sums = NULL;

	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || !is_own_file(&status) ||
		!read_trailer(fd, status.st_size, kernel->cache_name, &trailer, &sums)) {
		free(sums);
		return false;
	}
	touch(fd, &status);
	kernel->unpacked.size = trailer.size;
	kernel->unpacked.sums = sums;
	return true;
}

void boot_cache_discard(const struct boot_kernel *kernel)
{
	unlinkat(kernel->cache, kernel->cache_name, 0);
}

/* Open the kernel's entry.  True if there is a valid one, even if it says that it can't be booted unpacked. */
static bool find(struct boot_kernel *kernel)
{
	int fd = openat(kernel->cache, kernel->cache_name,
		O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return false;
	if (fd < 0 || !load_entry(kernel, fd)) {
		close_fd(&fd);
		boot_cache_discard(kernel);
		return false;
	}
	kernel->unpacked.fd = fd;
	if (kernel->unpacked.size == 0)
		boot_file_close(&kernel->unpacked);
	return true;
}

bool boot_cache_find(struct boot_kernel *kernel)
{
	cleanup_free char *path = NULL;
	struct stat status;

	if (fstat(kernel->file.fd, &status) < 0)
		return false;
	kernel->cache = open_directory(&path);
	if (kernel->cache < 0)
		return false;
	name_of(&status, kernel->cache_name);
	return find(kernel);
}

/*
 * An entry that was not touched for a month, while one in use is touched once a day; or a temporary file after an
 * hour, whose writer was killed.
 */
static bool is_unused(int cache, const char *name)
{
	time_t seconds;
	struct stat status;

	if (strncmp(name, PREFIX, strlen(PREFIX)) == 0)
		seconds = UNUSED_SECONDS;
	else if (strncmp(name, UNFINISHED_PREFIX, strlen(UNFINISHED_PREFIX)) == 0)
		seconds = UNFINISHED_SECONDS;
	else
		return false;
	return fstatat(cache, name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
		status.st_mtime < time(NULL) - seconds;
}

static void clean(int cache)
{
	int fd = openat(cache, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!directory) {
		close_fd(&fd);
		return;
	}
	while ((entry = readdir(directory))) {
		if (is_unused(cache, entry->d_name))
			unlinkat(cache, entry->d_name, 0);
	}
	closedir(directory);
}

int boot_cache_begin(const struct boot_kernel *kernel, char unfinished[BOOT_CACHE_NAME])
{
	uint64_t number;

	clean(kernel->cache);
	/* A name, since not every file system supports O_TMPFILE. */
	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return -1;
	snprintf(unfinished, BOOT_CACHE_NAME, UNFINISHED_PREFIX "%016" PRIx64, number);
	return openat(kernel->cache, unfinished, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0600);
}

void boot_cache_end(struct boot_kernel *kernel, const char *unfinished, int out, bool complete)
{
	/* If another guest was faster, its entry stays: it is as good, and may be in use. */
	if (complete && fdatasync(out) == 0 &&
		(linkat(kernel->cache, unfinished, kernel->cache, kernel->cache_name, 0) == 0 ||
			errno == EEXIST))
		find(kernel);
	unlinkat(kernel->cache, unfinished, 0);
}

static bool write_at(int out, const void *bytes, size_t size, uint64_t offset)
{
	return pwrite(out, bytes, size, (off_t)offset) == (ssize_t)size;
}

bool boot_cache_write(const struct boot_kernel *kernel, int out, const uint8_t *bytes, uint64_t size,
	uint32_t *sums)
{
	struct trailer trailer = { .magic = MAGIC, .size = size };
	uint64_t blocks = boot_cache_blocks(size), table = blocks * sizeof(*sums);

	for (uint64_t i = 0; i < blocks; i++) {
		const uint8_t *block = bytes + i * BLOCK;
		size_t length = block_bytes(size, i);

		sums[i] = is_zero(block, length) ? 0 : sum_of(block, length);
		if (sums[i] && !write_at(out, block, length, i * BLOCK))
			return false;
	}
	memcpy(trailer.name, kernel->cache_name, sizeof(trailer.name));
	trailer.sum = trailer_sum(&trailer, sums);
	return write_at(out, sums, table, size) && write_at(out, &trailer, sizeof(trailer), size + table);
}

/* False if it is damaged, be it a read error, a short read or a wrong sum. */
static bool read_block(const struct boot_file *file, uint64_t block, uint8_t *to)
{
	size_t length = block_bytes(file->size, block);

	return pread(file->fd, to, length, (off_t)(block * BLOCK)) == (ssize_t)length &&
		sum_of(to, length) == file->sums[block];
}

int boot_cache_read(const struct boot_file *file, uint64_t offset, uint8_t *to, uint64_t length,
	bool is_zeroed)
{
	uint8_t spare[BLOCK];
	uint64_t end;

	if (__builtin_add_overflow(offset, length, &end) || end > file->size)
		return -EBADMSG;
	while (offset < end) {
		uint64_t block = offset / BLOCK, skip = offset % BLOCK;
		size_t whole = block_bytes(file->size, block);
		size_t part = whole - skip < end - offset ? whole - skip : end - offset;

		if (file->sums[block] == 0) {
			if (!is_zeroed)
				memset(to, 0, part);
		} else if (!read_block(file, block, part == whole ? to : spare)) {
			return -EBADMSG;
		} else if (part < whole) {
			memcpy(to, spare + skip, part);
		}
		offset += part;
		to += part;
	}
	return 0;
}
