// SPDX-License-Identifier: GPL-2.0-only
/*
 * Unpack the kernel that is in a bzImage, once, into a cache: a guest that unpacks it by itself
 * spends half of its boot on that.
 *
 * The cache is a directory of the user's own.  A file in it is named by what identifies the bzImage
 * (device, inode, size, times), so that a changed one never finds the old; it appears when it is
 * whole and on the disk, and counts only if it is ours and nobody else can write it.  An empty one
 * says that this kernel can't be booted unpacked.  Whatever goes wrong here, the guest can still
 * unpack the kernel by itself: no message, no error.
 *
 * Half of a kernel is zeroes, between its parts and where its variables are.  They are holes in the file,
 * which boot_file_load() passes over.
 */
#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libdeflate.h>
#include <lzma.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <zstd.h>

#include "internal.h"

#define PREFIX "vmlinux-"
#define UNFINISHED_PREFIX "unpacking-"
#define NAME_BYTES 160
#define TOUCH_SECONDS (24 * 3600)
#define UNUSED_SECONDS (31 * 24 * 3600)
#define UNFINISHED_SECONDS 3600
#define UNPACKED_MAX (1 * GIB)
#define CHUNK (256 * KIB)
#define HOLE (64 * KIB)		/* divides CHUNK */
#define XZ_MEMORY_MAX (256 * MIB)

/* What is packed, and the file into which it comes, with as many bytes as there are so far. */
struct job {
	const uint8_t *packed;
	size_t packed_size;
	int out;
	uint64_t written;
	bool out_failed;
	uint8_t chunk[CHUNK];
};

static bool is_zero(const uint8_t *bytes, size_t size)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static bool put(struct job *job, const uint8_t *bytes, size_t size)
{
	while (size) {
		size_t part = HOLE - job->written % HOLE;

		if (part > size)
			part = size;
		if (job->written + part > UNPACKED_MAX)
			return false;
		job->out_failed = !is_zero(bytes, part) &&
			pwrite(job->out, bytes, part, job->written) != (ssize_t)part;
		if (job->out_failed)
			return false;
		job->written += part;
		bytes += part;
		size -= part;
	}
	return true;
}

static bool unpack_xz(struct job *job)
{
	lzma_stream stream = LZMA_STREAM_INIT;
	lzma_ret result;
	bool good = true;

	if (lzma_stream_decoder(&stream, XZ_MEMORY_MAX, 0) != LZMA_OK)
		return false;
	stream.next_in = job->packed;
	stream.avail_in = job->packed_size;
	do {
		stream.next_out = job->chunk;
		stream.avail_out = sizeof(job->chunk);
		result = lzma_code(&stream, LZMA_RUN);
		good = put(job, job->chunk, sizeof(job->chunk) - stream.avail_out);
	} while (good && result == LZMA_OK);
	lzma_end(&stream);
	return good && result == LZMA_STREAM_END;
}

/* RFC 1952, section 2.3.1: a gzip file ends with the size of what is in it. */
static uint64_t gzip_size(const struct job *job)
{
	uint32_t size;

	memcpy(&size, job->packed + job->packed_size - sizeof(size), sizeof(size));
	return le32toh(size);
}

static bool unpack_gzip(struct job *job)
{
	uint64_t size = gzip_size(job);
	struct libdeflate_decompressor *decompressor = libdeflate_alloc_decompressor();
	uint8_t *unpacked = size <= UNPACKED_MAX ? malloc(size) : NULL;
	bool good = decompressor && unpacked &&
		libdeflate_gzip_decompress(decompressor, job->packed, job->packed_size, unpacked,
			size, NULL) == LIBDEFLATE_SUCCESS &&
		put(job, unpacked, size);

	free(unpacked);
	libdeflate_free_decompressor(decompressor);
	return good;
}

static bool unpack_zstd(struct job *job)
{
	ZSTD_DCtx *context = ZSTD_createDCtx();
	ZSTD_inBuffer in = { job->packed, job->packed_size, 0 };
	bool good = context != NULL;
	size_t left = 1;

	/* Zero left: the frame is whole.  Behind it lies the size that Linux's build adds. */
	while (good && left) {
		ZSTD_outBuffer out = { job->chunk, sizeof(job->chunk), 0 };
		size_t before = in.pos;

		left = ZSTD_decompressStream(context, &out, &in);
		good = !ZSTD_isError(left) && (out.pos || in.pos > before) &&
			put(job, job->chunk, out.pos);
	}
	ZSTD_freeDCtx(context);
	return good;
}

static bool starts_with(const struct job *job, const char *magic, size_t length)
{
	return job->packed_size > length && memcmp(job->packed, magic, length) == 0;
}

static bool unpack(struct job *job)
{
	if (starts_with(job, "\xfd" "7zXZ", 6))
		return unpack_xz(job);
	if (starts_with(job, "\x1f\x8b\x08", 3))
		return unpack_gzip(job);
	if (starts_with(job, "\x28\xb5\x2f\xfd", 4))
		return unpack_zstd(job);
	return false;
}

/* The cache directory, made if need be; malloc'ed, or NULL if there is to be none. */
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
		/* What can't be made can't be opened either. */
		mkdir(parent, 0700);
		mkdir(directory, 0700);
	}
	free(parent);
	return directory;
}

/* A directory that only we write, or -1. */
static int open_cache(void)
{
	cleanup_free char *path = cache_directory();
	struct stat status;
	int fd;

	if (!path)
		return -1;
	fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &status) == 0 && status.st_uid == geteuid() &&
		!(status.st_mode & (S_IWGRP | S_IWOTH)))
		return fd;
	close_fd(&fd);
	return -1;
}

static void name_of(const struct stat *status, char *name, size_t size)
{
	snprintf(name, size, PREFIX "%jx-%jx-%jx-%jx.%lx-%jx.%lx", (uintmax_t)status->st_dev,
		(uintmax_t)status->st_ino, (uintmax_t)status->st_size,
		(uintmax_t)status->st_mtim.tv_sec, (unsigned long)status->st_mtim.tv_nsec,
		(uintmax_t)status->st_ctim.tv_sec, (unsigned long)status->st_ctim.tv_nsec);
}

/* What the cache has under that name, if it is ours: false if there is nothing. */
static bool find_unpacked(int cache, const char *name, struct boot_file *unpacked)
{
	struct stat status;

	unpacked->fd = openat(cache, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (unpacked->fd < 0)
		return false;
	if (fstat(unpacked->fd, &status) == 0 && S_ISREG(status.st_mode) &&
		status.st_uid == geteuid() && !(status.st_mode & (S_IWGRP | S_IWOTH))) {
		unpacked->size = status.st_size;
		return true;
	}
	boot_file_close(unpacked);
	return false;
}

/*
 * Unused for a month: its kernel is gone.  A kernel in use is touched once a day.  Unfinished for an hour:
 * who was unpacking it was killed.
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

static void clean_cache(int cache)
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

static void touch(const struct boot_file *unpacked)
{
	struct stat status;

	if (fstat(unpacked->fd, &status) == 0 && status.st_mtime < time(NULL) - TOUCH_SECONDS)
		futimens(unpacked->fd, NULL);
}

static bool is_elf(const struct boot_file *file)
{
	uint8_t head[4];

	return file->size > sizeof(head) && boot_file_read(file, 0, head, sizeof(head)) == 0 &&
		elf_is(head, sizeof(head));
}

/* Into a file of another name, which gets its own when all is well. */
static void fill_cache(int cache, const char *unfinished, const char *name, struct job *job)
{
	struct boot_file file = { .what = "kernel", .path = name, .fd = job->out };
	bool good = unpack(job) && ftruncate(job->out, job->written) == 0;

	/* That the disk is full, say, is not the kernel's fault. */
	if (job->out_failed)
		return;
	file.size = job->written;
	if (!good || !is_elf(&file))
		good = ftruncate(job->out, 0) == 0;
	/* If another guest was faster, its file is as good, and may be in use. */
	if (good && fdatasync(job->out) == 0 && linkat(cache, unfinished, cache, name, 0) < 0)
		return;
}

static void unpack_into_cache(int cache, const char *name, const struct boot_file *bzimage,
	uint64_t offset, uint64_t length)
{
	cleanup_free struct job *job = calloc(1, sizeof(*job));
	cleanup_free uint8_t *packed = malloc(length);
	char unfinished[sizeof(UNFINISHED_PREFIX) + 16];
	uint64_t number = 0;
	cleanup_fd int out = -1;

	clean_cache(cache);
	if (!job || !packed || pread(bzimage->fd, packed, length, offset) != (ssize_t)length)
		return;
	/* Not every file system has O_TMPFILE, and all guests' processes have the same number, 1. */
	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return;
	snprintf(unfinished, sizeof(unfinished), UNFINISHED_PREFIX "%016" PRIx64, number);
	out = openat(cache, unfinished, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0600);
	if (out < 0)
		return;
	job->packed = packed;
	job->packed_size = length;
	job->out = out;
	fill_cache(cache, unfinished, name, job);
	unlinkat(cache, unfinished, 0);
}

bool boot_unpack(const struct boot_file *bzimage, uint64_t offset, uint64_t length,
	struct boot_file *unpacked)
{
	cleanup_fd int cache = open_cache();
	struct stat status;
	char name[NAME_BYTES];

	if (cache < 0 || fstat(bzimage->fd, &status) < 0 || length == 0 ||
		offset > bzimage->size || length > bzimage->size - offset)
		return false;
	name_of(&status, name, sizeof(name));
	*unpacked = (struct boot_file){ .what = bzimage->what, .path = bzimage->path, .fd = -1 };
	if (!find_unpacked(cache, name, unpacked)) {
		unpack_into_cache(cache, name, bzimage, offset, length);
		if (!find_unpacked(cache, name, unpacked))
			return false;
	}
	touch(unpacked);
	return unpacked->size > 0;
}
