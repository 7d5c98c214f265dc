// SPDX-License-Identifier: GPL-2.0-only
/* Disks that are files or block devices: opening, locking, geometry. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include "file.h"
#include "karma/file_kind.h"
#include "karma/log.h"

#define LOCK_RETRIES 50u
#define LOCK_RETRY_MILLISECONDS 20

/* --- Opening and locking. */

static const char *open_cure(int error)
{
	switch (error) {
	case ENOENT:
		return "create it with `truncate -s 1G FILE`, or correct the path";
	case EACCES:
	case EPERM:
		return "give yourself the right to read and write it, or add `,ro`";
	case EROFS:
		return "add `,ro`";
	case EBUSY:
		return "unmount it first: a disk in use by the host would be destroyed";
	case EINVAL:
		return "this file system has no O_DIRECT: leave `,direct` out";
	default:
		return "give a file or block device that can be opened";
	}
}

static int open_path(const struct disk_options *options, struct stat *status)
{
	int flags = O_CLOEXEC | O_NONBLOCK | (options->direct ? O_DIRECT : 0);
	int fd;

	if (stat(options->path, status) < 0)
		return fail(-errno, "disk %s: %s: %s", options->path, strerror(errno),
			open_cure(errno));
	if (!S_ISREG(status->st_mode) && !S_ISBLK(status->st_mode))
		return fail(-EINVAL, "disk %s: is %s: give a file or a block device",
			options->path, file_kind(status->st_mode));
	/* O_EXCL refuses a block device that is mounted. */
	if (S_ISBLK(status->st_mode) && !options->read_only)
		flags |= O_EXCL;
	fd = open(options->path, flags | (options->read_only ? O_RDONLY : O_RDWR));
	if (fd < 0)
		return fail(-errno, "disk %s: can't open for %s: %s: %s", options->path,
			options->read_only ? "reading" : "writing", strerror(errno),
			open_cure(errno));
	if (fstat(fd, status) < 0 || (!S_ISREG(status->st_mode) && !S_ISBLK(status->st_mode))) {
		close(fd);
		return fail(-EINVAL, "disk %s: changed while it was opened: try again",
			options->path);
	}
	/*
	 * O_NONBLOCK was there in case a FIFO took its place; io_uring would return -EAGAIN for it.
	 */
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	return fd;
}

/* Exclusive for a writer: two guests that write to one image destroy it. */
static int lock_image(const struct disk_options *options, int fd)
{
	const struct timespec moment = { .tv_nsec = LOCK_RETRY_MILLISECONDS * 1000 * 1000 };

	/* The process of a guest that was just killed may still hold the lock. */
	for (unsigned i = 0; i <= LOCK_RETRIES; i++) {
		if (flock(fd, (options->read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK)
			break;
		nanosleep(&moment, NULL);
	}
	if (errno != EWOULDBLOCK)
		return fail(-errno, "disk %s: can't lock it: %s: put it on a file system with locks",
			options->path, strerror(errno));
	return fail(-EBUSY,
		"disk %s: in use by another guest: stop that, or give both `,ro`", options->path);
}

/*
 * A guest that writes the magic bytes of a format to its raw disk only has its next start refused.
 */
static int check_format(const struct disk_options *options, int fd)
{
	const char *format = options->raw ? NULL : disk_image_format(fd);

	if (!format)
		return 0;
	return fail(-EINVAL,
		"disk %s: is a %s image, and Karma takes raw ones: make one of it with `qemu-img convert "
		"-O raw %s NEW`, have it served by qemu-nbd, or add `,raw` if the guest is to see its bytes",
		options->path, format, options->path);
}

/* --- Geometry. */

/*
 * A limit of a block device's queue, from sysfs; a partition has its disk's.  unknown: if it is not
 * there.
 */
static uint64_t queue_limit(dev_t device, const char *name, uint64_t unknown)
{
	static const char *const places[] = { "queue", "../queue" };

	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		char path[96], text[32] = "";
		cleanup_fd int fd = -1;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(device),
			minor(device), places[i], name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
			return strtoull(text, NULL, 10);
	}
	return unknown;
}

/* Hints that make requests faster; a device need not give any. */
static void read_topology(struct disk *disk, int fd, dev_t device)
{
	unsigned least = 0, best = 0;
	int offset = 0;

	if (ioctl(fd, BLKIOMIN, &least) == 0)
		disk->io_min = least;
	if (ioctl(fd, BLKIOOPT, &best) == 0)
		disk->io_opt = best;
	/* -1: a device made of others whose alignments differ. */
	if (ioctl(fd, BLKALIGNOFF, &offset) == 0 && offset > 0)
		disk->alignment_offset = offset;
	disk->discard_alignment =
		queue_limit(device, "discard_granularity", disk->physical_block_size);
	/*
	 * Linux punches a hole in a block device by write zeroes with unmap
	 * (blkdev_issue_zeroout()).
	 */
	disk->discard = queue_limit(device, "write_zeroes_max_bytes", 1) > 0;
}

static int read_device_geometry(
	struct disk *disk, int fd, const struct stat *status, const char *path)
{
	int logical = 0;
	unsigned physical = 0;

	if (ioctl(fd, BLKGETSIZE64, &disk->size) < 0 ||
		ioctl(fd, BLKSSZGET, &logical) < 0 ||
		ioctl(fd, BLKPBSZGET, &physical) < 0)
		return fail(-errno, "disk %s: can't tell its size: %s: give another device", path,
			strerror(errno));
	disk->block_size = logical;
	disk->physical_block_size = physical < disk->block_size ? disk->block_size : physical;
	read_topology(disk, fd, status->st_rdev);
	return 0;
}

static void set_file_geometry(struct disk *disk, const struct stat *status, uint32_t block_bytes)
{
	disk->size = status->st_size;
	disk->block_size = SECTOR_BYTES;
	disk->physical_block_size = block_bytes < 4096 ? 4096 : block_bytes;
	disk->discard_alignment = disk->physical_block_size;
	disk->discard = true;
}

static int set_geometry(
	struct file *file, int fd, const struct stat *status, const struct disk_options *options)
{
	struct disk *disk = &file->disk;
	int result = 0;

	if (S_ISBLK(status->st_mode))
		result = read_device_geometry(disk, fd, status, options->path);
	else
		set_file_geometry(disk, status, file->blocks.block_bytes);
	if (result < 0)
		return result;
	if (!disk->size)
		return fail(-EINVAL, "disk %s: is empty: give it a size with `truncate -s 1G %s`",
			options->path, options->path);
	if (disk->size < disk->block_size)
		return fail(-EINVAL,
			"disk %s: has %llu bytes, less than a sector of %u: give it a size with `truncate "
			"-s 1G %s`, or correct the path",
			options->path, (unsigned long long)disk->size, disk->block_size, options->path);
	disk_truncate_to_blocks(disk, options->path);
	return 0;
}

/* --- The disk. */

/*
 * Whether the file system does not support RWF_NOWAIT (preadv2(2)), as NFS does not.  overlayfs
 * passes the flag on to the file system below it, though its own answer is no.
 */
static bool ignores_nowait(int fd, long type)
{
	char byte;
	const struct iovec iov = { &byte, 1 };

	return type != OVERLAYFS_SUPER_MAGIC && preadv2(fd, &iov, 1, 0, RWF_NOWAIT) < 0 &&
		errno == EOPNOTSUPP;
}

int file_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring)
{
	cleanup_free struct file *file = calloc(1, sizeof(*file));
	cleanup_fd int fd = -1;
	struct stat status;
	struct statfs system;
	int result;

	if (!file)
		return fail(-ENOMEM, "disk %s: out of memory", options->path);
	fd = open_path(options, &status);
	if (fd < 0)
		return fd;
	result = lock_image(options, fd);
	if (result == 0)
		result = check_format(options, fd);
	if (result < 0)
		return result;
	/*
	 * The sectors of a block device's disk are as large as its own, so all requests are
	 * aligned.
	 */
	result = direct_init(&file->blocks, fd, 0, options->direct && S_ISREG(status.st_mode));
	if (result < 0)
		return fail(result, "disk %s: can't open it again: %s", options->path, strerror(-result));
	result = set_geometry(file, fd, &status, options);
	if (result < 0) {
		direct_release(&file->blocks);
		return result;
	}
	file->disk.backend = &file_backend;
	file->disk.ring = ring;
	file->disk.read_only = options->read_only;
	file->disk.write_zeroes = true;
	file->disk.large_transfer = options->direct ? 0 : LARGE_BYTES;
	file->direct = options->direct;
	if (fstatfs(fd, &system) == 0) {
		file->in_memory = !options->direct && system.f_type == TMPFS_MAGIC;
		file->ignores_nowait = !file->in_memory && ignores_nowait(fd, system.f_type);
	}
	file->fd = fd;
	fd = -1;
	*disk = &file->disk;
	file = NULL;
	return 0;
}

int file_open_part(struct disk **disk, int fd, uint64_t start, uint64_t size, bool direct,
	struct io_ring *ring)
{
	struct file *file = calloc(1, sizeof(*file));
	int result;

	if (!file)
		return -ENOMEM;
	file->fd = open_again(fd, direct ? O_DIRECT : 0);
	result = file->fd < 0 ? file->fd : direct_init(&file->blocks, file->fd, start, direct);
	if (result < 0) {
		close_fd(&file->fd);
		free(file);
		return result;
	}
	file->direct = direct;
	file->disk = (struct disk){
		.backend = &file_backend,
		.ring = ring,
		.size = size,
		.block_size = SECTOR_BYTES,
		.physical_block_size = 4096,
		.references = 1,
	};
	*disk = &file->disk;
	return 0;
}
