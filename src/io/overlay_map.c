// SPDX-License-Identifier: GPL-2.0-only
/* Overlays: the file, with its header and its allocation bitmap. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "karma/copy_file.h"
#include "karma/file_kind.h"
#include "karma/log.h"
#include "karma/util.h"
#include "overlay.h"

#define MAGIC "KARMAOVL"
#define VERSION 1u

/* At the start of the file, little endian; the rest of its 4096 bytes is 0. */
struct header {
	char magic[8];
	uint32_t version;
	uint32_t cluster;	/* bytes: OVERLAY_CLUSTER */
	uint64_t size;		/* bytes of the disk, and of its base */
	uint64_t map_start, data_start;		/* bytes */
	int64_t base_seconds;	/* the time of the base's last change; 0 if it is no file */
	uint32_t base_nanoseconds;
	uint32_t reserved;
};

struct header_block {
	struct header header;
	uint8_t rest[OVERLAY_MAP_START - sizeof(struct header)];
};

#define REFUSE(error, options, text, ...) \
	fail(error, "disk %s: overlay %s: " text, (options)->path, name_of(options), ##__VA_ARGS__)

static const char *name_of(const struct disk_options *options)
{
	return options->overlay ? options->overlay : options->from;
}

/* By words of the bitmap: a discard may be for millions of clusters. */
uint64_t overlay_extent_end(const struct overlay_map *map, uint64_t first, uint64_t last)
{
	uint64_t same = overlay_is_allocated(map, first) ? 0 : UINT64_MAX, end = first;

	while (end <= last) {
		uint64_t word = __atomic_load_n(&map->allocated[end / 64], __ATOMIC_ACQUIRE);
		uint64_t others = ~(word ^ same) >> end % 64;

		if (others) {
			end += __builtin_ctzll(others);
			break;
		}
		end += 64 - end % 64;
	}
	return end <= last ? end : last + 1;
}

void overlay_set_allocated(struct overlay_map *map, uint64_t first, uint64_t last)
{
	/* Dirty before the bits are set; the release below keeps the order. */
	for (uint64_t block = first / OVERLAY_BLOCK_CLUSTERS;
		block <= last / OVERLAY_BLOCK_CLUSTERS; block++)
		map->block_states[block] = BLOCK_DIRTY;
	for (uint64_t word = first / 64; word <= last / 64; word++) {
		uint64_t bits = UINT64_MAX;

		if (word == first / 64)
			bits &= UINT64_MAX << first % 64;
		if (word == last / 64)
			bits &= UINT64_MAX >> (63 - last % 64);
		__atomic_fetch_or(&map->allocated[word], bits, __ATOMIC_RELEASE);
	}
}

static struct header make_header(
	const struct overlay_map *map, const struct disk_options *options)
{
	struct header header = {
		.magic = MAGIC,
		.version = VERSION,
		.cluster = OVERLAY_CLUSTER,
		.size = map->size,
		.map_start = OVERLAY_MAP_START,
		.data_start = map->data_start,
	};
	struct stat status;

	/* Of a block device, the time is that of its node, and says nothing about its data. */
	if (stat(options->path, &status) == 0 && S_ISREG(status.st_mode)) {
		header.base_seconds = status.st_mtim.tv_sec;
		header.base_nanoseconds = status.st_mtim.tv_nsec;
	}
	return header;
}

static bool is_base(const struct disk_options *options)
{
	struct stat base, overlay;

	return stat(options->path, &base) == 0 && stat(options->overlay, &overlay) == 0 &&
		base.st_dev == overlay.st_dev && base.st_ino == overlay.st_ino;
}

static int open_file(const struct disk_options *options, struct stat *status)
{
	int flags = O_CLOEXEC | O_NONBLOCK | (options->read_only ? O_RDONLY : O_RDWR | O_CREAT);
	int fd;

	/* Open nothing but a file: to open a device may have effects. */
	if (stat(options->overlay, status) == 0 && !S_ISREG(status->st_mode))
		return REFUSE(-EINVAL, options, "is %s: give a file, or a name for a new one",
			file_kind(status->st_mode));
	if (is_base(options))
		return REFUSE(-EINVAL, options, "is the disk itself: give another name");
	fd = open(options->overlay, flags, 0600);
	if (fd < 0)
		return REFUSE(-errno, options, "%s: give the path of a file that can be %s",
			strerror(errno), options->read_only ? "read" : "written");
	/*
	 * O_NONBLOCK was there in case a FIFO took its place; io_uring would return -EAGAIN for it.
	 */
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	if (flock(fd, (options->read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0) {
		int error = errno == EWOULDBLOCK ? EBUSY : errno;

		close(fd);
		return REFUSE(-error, options, "%s",
			error == EBUSY ? "in use by another guest: give each its own" :
					 "can't lock it: put it on a file system with locks");
	}
	/* Only now, with the lock: another guest may just have created it. */
	if (fstat(fd, status) < 0 || !S_ISREG(status->st_mode)) {
		close(fd);
		return REFUSE(-EINVAL, options, "changed while it was opened: try again");
	}
	return fd;
}

/* The directory entry of a new file must be on the disk as well. */
static void sync_directory(const char *path)
{
	cleanup_free char *copy = strdup(path);
	cleanup_fd int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd >= 0)
		fsync(fd);
}

/*
 * The header is written last: a file without one is not complete, and is_new() takes it for new.
 * The bitmap's space is allocated in advance, so that it can be written back even when the data
 * have filled the file system.
 */
static int create(const struct overlay_map *map, const struct disk_options *options,
	const struct header *header)
{
	struct header_block block = { .header = *header };

	if (ftruncate(map->fd, map->data_start + map->size) < 0)
		return REFUSE(-errno, options,
			"can't make it: %s: put it on a file system for files so large",
			strerror(errno));
	if ((fallocate(map->fd, FALLOC_FL_KEEP_SIZE, 0, map->data_start) < 0 && errno == ENOSPC) ||
		pwrite(map->fd, &block, sizeof(block), 0) != sizeof(block) || fsync(map->fd) < 0)
		return REFUSE(-errno, options, "can't make it: %s: make room for it", strerror(errno));
	sync_directory(options->overlay);
	return 0;
}

/* Whether no byte was written yet: an empty file, or one that create() did not complete. */
static bool is_new(const struct overlay_map *map, uint64_t file_size)
{
	return file_size == 0 || (lseek(map->fd, 0, SEEK_DATA) < 0 && errno == ENXIO);
}

static int check_base(const struct disk_options *options, const struct header *found,
	const struct header *expected)
{
	if (found->size != expected->size)
		return REFUSE(-ESTALE, options,
			"was made for a base of %" PRIu64 " bytes, and this one has %" PRIu64
			": bring that one back, or begin a new overlay",
			found->size, expected->size);
	if (found->base_seconds != expected->base_seconds ||
		found->base_nanoseconds != expected->base_nanoseconds)
		return REFUSE(-ESTALE, options,
			"the base was changed since, so that the two no longer fit: bring back the base "
			"as it was at @%" PRIi64 ".%09u (date -d), or begin a new overlay",
			found->base_seconds, found->base_nanoseconds);
	return 0;
}

static int check_header(const struct overlay_map *map, const struct disk_options *options,
	const struct header *expected, uint64_t file_size)
{
	struct header_block found;
	ssize_t result = pread(map->fd, &found, sizeof(found), 0);
	const struct header *header = &found.header;

	if (result < 0)
		return REFUSE(-errno, options, "can't read it: %s", strerror(errno));
	if (result < (ssize_t)sizeof(found) || memcmp(header->magic, MAGIC, sizeof(header->magic)))
		return REFUSE(-EINVAL, options,
			"is no overlay: give one, or the name of a file that is not there");
	if (header->version != VERSION)
		return REFUSE(-EINVAL, options, "is of version %u: use the Karma that made it",
			header->version);
	result = check_base(options, header, expected);
	if (result < 0)
		return result;
	if (memcmp(header, expected, sizeof(*header)))
		return REFUSE(-EINVAL, options, "its header is damaged: begin a new overlay");
	if (file_size < map->data_start + map->size)
		return REFUSE(-EINVAL, options, "was cut to %" PRIu64 " bytes of %" PRIu64
						": bring it back from a copy",
			file_size, map->data_start + map->size);
	return 0;
}

/* Skips holes and blocks of zeroes, so that they take no memory. */
static int load_bitmap(struct overlay_map *map, const struct disk_options *options)
{
	uint8_t block[OVERLAY_BLOCK];
	uint64_t end = OVERLAY_MAP_START + map->blocks * OVERLAY_BLOCK;

	for (uint64_t at = OVERLAY_MAP_START; at < end; at += OVERLAY_BLOCK) {
		off_t data = lseek(map->fd, at, SEEK_DATA);

		if (data < 0 && errno == ENXIO)
			break;
		if (data > 0)
			at = align_down(data, OVERLAY_BLOCK);
		if (at >= end)
			break;
		if (pread(map->fd, block, sizeof(block), at) != sizeof(block))
			return REFUSE(-EIO, options, "can't read its map: bring it back from a copy");
		if (!is_zero(block, sizeof(block)))
			memcpy((uint8_t *)map->allocated + (at - OVERLAY_MAP_START), block, sizeof(block));
	}
	return 0;
}

/* Shared memory: it is still there when the guest's process has ended. */
static void *allocate_shared(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static int allocate(struct overlay_map *map, const struct disk_options *options)
{
	map->allocated = allocate_shared(map->blocks * OVERLAY_BLOCK);
	map->block_states = allocate_shared(map->blocks);
	return map->allocated && map->block_states ? 0 : REFUSE(-ENOMEM, options, "out of memory");
}

/* --- Overlays that begin as a copy. */

/* A file without a name in the directory of that path. */
static int open_unnamed(const char *path)
{
	cleanup_free char *copy = strdup(path);

	return copy ? open(dirname(copy), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1;
}

/* The same where temporary files are, on any file system. */
static int open_temporary(void)
{
	char path[] = "/var/tmp/karma-overlay-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);

	if (fd >= 0)
		unlink(path);
	return fd;
}

/* A copy of the overlay `from`, without a name, where `beside` is, or else where temporary files are. */
static int make_copy(const struct disk_options *options, const char *beside)
{
	cleanup_fd int from = open(options->from, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	struct stat status;
	int to, result;

	if (from < 0 || fstat(from, &status) < 0 || !S_ISREG(status.st_mode))
		return REFUSE(from < 0 ? -errno : -EINVAL, options, "%s: %s: bring it back from a copy", options->from,
			from < 0 ? strerror(errno) : "is no file");
	to = open_unnamed(beside);
	if (to < 0 && !options->overlay)
		to = open_temporary();
	if (to < 0)
		return REFUSE(-errno, options, "can't make a copy of %s: %s: make it by `cp`, or give overlay=FILE on another "
					       "file system",
			options->from, strerror(errno));
	result = copy_file(from, to);
	if (result == 0)
		return to;
	close(to);
	return REFUSE(result, options, "can't copy %s: %s: make room for it", options->from, strerror(-result));
}

/* It gets its name once it is complete, and on the disk. */
static int make_named_copy(const struct disk_options *options)
{
	cleanup_fd int fd = make_copy(options, options->overlay);
	char path[32];

	if (fd < 0)
		return fd;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fsync(fd) < 0 || (linkat(AT_FDCWD, path, AT_FDCWD, options->overlay, AT_SYMLINK_FOLLOW) < 0 && errno != EEXIST))
		return REFUSE(-errno, options, "can't make it: %s: make room for it", strerror(errno));
	sync_directory(options->overlay);
	return 0;
}

int overlay_map_copy(const struct overlay_map *map, int to)
{
	int result = copy_file(map->fd, to);

	/* As in the file itself: the bitmap's space is there in advance. */
	if (result == 0 && fallocate(to, FALLOC_FL_KEEP_SIZE, 0, map->data_start) < 0 && errno == ENOSPC)
		result = -errno;
	for (size_t i = 0; i < map->blocks && result == 0; i++) {
		if (map->block_states[i] != BLOCK_CLEAN)
			result = write_all_at(to, (uint8_t *)map->allocated + i * OVERLAY_BLOCK, OVERLAY_BLOCK,
				OVERLAY_MAP_START + i * OVERLAY_BLOCK);
	}
	return result;
}

/* --- Opening. */

static int open_map(struct overlay_map *map, const struct disk_options *options)
{
	struct header header = make_header(map, options);
	struct stat status;
	int result;

	if (options->from && options->overlay && access(options->overlay, F_OK) < 0) {
		result = make_named_copy(options);
		if (result < 0)
			return result;
	}
	map->fd = options->overlay ? open_file(options, &status) : make_copy(options, options->from);
	if (map->fd < 0)
		return map->fd;
	if (!options->overlay && fstat(map->fd, &status) < 0)
		return REFUSE(-errno, options, "%s", strerror(errno));
	if (is_new(map, status.st_size) && !options->read_only)
		result = create(map, options, &header);
	else
		result = check_header(map, options, &header, status.st_size);
	if (result == 0)
		result = allocate(map, options);
	return result == 0 ? load_bitmap(map, options) : result;
}

static void release(struct overlay_map *map)
{
	close_fd(&map->fd);
	if (map->block_states)
		munmap(map->block_states, map->blocks);
	if (map->allocated)
		munmap(map->allocated, map->blocks * OVERLAY_BLOCK);
	*map = (struct overlay_map){ .fd = -1 };
}

int overlay_map_open(
	struct overlay_map *map, const struct disk_options *options, const struct disk *base)
{
	uint64_t clusters = (base->size + OVERLAY_CLUSTER - 1) / OVERLAY_CLUSTER;
	int result;

	*map = (struct overlay_map){
		.fd = -1,
		.size = base->size,
		.blocks = (clusters + OVERLAY_BLOCK_CLUSTERS - 1) / OVERLAY_BLOCK_CLUSTERS,
	};
	map->data_start = OVERLAY_MAP_START + map->blocks * OVERLAY_BLOCK;
	result = open_map(map, options);
	if (result < 0)
		release(map);
	return result;
}

/* As overlay_flush.c does, by plain system calls: data first. */
static int write_back(struct overlay_map *map)
{
	bool synced = false;

	for (size_t i = 0; i < map->blocks; i++) {
		if (map->block_states[i] == BLOCK_CLEAN)
			continue;
		if (!synced && fdatasync(map->fd) < 0)
			return -errno;
		synced = true;
		if (pwrite(map->fd, (uint8_t *)map->allocated + i * OVERLAY_BLOCK, OVERLAY_BLOCK,
			    OVERLAY_MAP_START + i * OVERLAY_BLOCK) != OVERLAY_BLOCK)
			return -EIO;
	}
	return synced && fdatasync(map->fd) < 0 ? -errno : 0;
}

void overlay_map_close(struct overlay_map *map)
{
	int result = write_back(map);

	if (result < 0)
		note("overlay: what was not flushed is lost, since it can't be written: %s",
			strerror(-result));
	release(map);
}
