// SPDX-License-Identifier: GPL-2.0-only
/* Disks that are files or block devices. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "direct.h"
#include "karma/disk.h"
#include "karma/file_kind.h"
#include "karma/iov.h"
#include "karma/log.h"
#include "karma/util.h"

#define SECTOR_BYTES 512u

#define LOCK_RETRIES 50u
#define LOCK_RETRY_MILLISECONDS 20

/* A write to the page cache that takes so long has waited, and the next ones may. */
#define SLOW_NANOSECONDS 4000000ll
#define SLOW_PAUSE_NANOSECONDS 1000000000ll

/* To copy so much takes longer than to hand it to the I/O thread, and the guest runs on meanwhile. */
#define LARGE_BYTES (128 * KIB)

/* So many writes at a time are quicker in one go by a worker thread of io_uring. */
#define CHAIN_LEAST 8u

struct file {
	struct disk disk;
	int fd;
	bool direct;
	struct direct blocks;
	bool in_memory;			/* tmpfs */
	bool may_wait;			/* for more than a device, such as a server, where others don't */
	_Atomic bool waits;		/* in io_uring: see file_kick() */
	_Atomic int64_t slow_until;	/* CLOCK_MONOTONIC, nanoseconds: see write_at_once() */
};

/* Writes of one file that the calling thread starts together when it submits. */
static _Thread_local struct batch {
	struct io_deferred after;
	struct file *file;
	struct disk_request *writes[IO_RING_LINK_MAX];
	unsigned count;
} batch;

/* The calling thread queued such a read since it last submitted. */
static _Thread_local bool read_from_memory;

static struct file *file_of(struct disk *disk)
{
	return container_of(disk, struct file, disk);
}

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
	/* On a block device O_EXCL means: not while it is mounted. */
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
	/* O_NONBLOCK was for a FIFO put in its place; io_uring would give up with EAGAIN for it. */
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	return fd;
}

/* Two guests that write to one image destroy it. */
static int lock_image(const struct disk_options *options, int fd)
{
	const struct timespec moment = { .tv_nsec = LOCK_RETRY_MILLISECONDS * 1000 * 1000 };

	/* The process of a guest that was just killed may still be at its end. */
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

/* A guest that writes such bytes to its own disk gets no more by them than a start that is refused. */
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

/* A number that the kernel tells of a block device's queue; a partition has its disk's. */
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

/* What only makes requests faster: a device that does not tell is as good. */
static void find_topology(struct disk *disk, int fd, dev_t device)
{
	unsigned least = 0, best = 0;
	int offset = 0;

	if (ioctl(fd, BLKIOMIN, &least) == 0)
		disk->io_min = least;
	if (ioctl(fd, BLKIOOPT, &best) == 0)
		disk->io_opt = best;
	/* -1 for a device that is put together of others which don't fit. */
	if (ioctl(fd, BLKALIGNOFF, &offset) == 0 && offset > 0)
		disk->alignment_offset = offset;
	disk->discard_alignment =
		queue_limit(device, "discard_granularity", disk->physical_block_size);
	/* A hole is punched by zeroes that free: see blkdev_issue_zeroout() in Linux. */
	disk->discard = queue_limit(device, "write_zeroes_max_bytes", 1) > 0;
}

static int measure_block_device(
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
	find_topology(disk, fd, status->st_rdev);
	return 0;
}

static void measure_file(struct disk *disk, const struct stat *status, uint32_t unit)
{
	disk->size = status->st_size;
	disk->block_size = SECTOR_BYTES;
	disk->physical_block_size = unit < 4096 ? 4096 : unit;
	disk->discard_alignment = disk->physical_block_size;
	disk->discard = true;
}

static int measure(
	struct file *file, int fd, const struct stat *status, const struct disk_options *options)
{
	struct disk *disk = &file->disk;
	int result = 0;

	if (S_ISBLK(status->st_mode))
		result = measure_block_device(disk, fd, status, options->path);
	else
		measure_file(disk, status, file->blocks.unit);
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

static struct disk_request *request_of(struct io_op *op)
{
	return container_of(op, struct disk_request, op);
}

static void try_again(struct io_op *op, int result)
{
	(void)result;
	request_of(op)->again(request_of(op));
}

/*
 * Whether an operation ended without having been done, so that it is done again.  io_uring cancels what it has
 * no worker thread for, and can't make one now.
 */
static bool goes_again(
	struct disk_request *request, int result, void (*again)(struct disk_request *request))
{
	static const struct __kernel_timespec moment = { .tv_nsec = 10 * 1000 * 1000 };

	if (result == -EINTR || result == -EAGAIN) {
		again(request);
		return true;
	}
	if (result != -ECANCELED)
		return false;
	request->again = again;
	request->op.done = try_again;
	io_ring_timeout(io_ring_current(request->disk->ring), &request->op, &moment);
	return true;
}

static void submit(struct disk_request *request);

static void end(struct disk_request *request, int error)
{
	struct disk_request *begun = direct_end(&file_of(request->disk)->blocks, request);

	request->done(request, error);
	while (begun) {
		struct disk_request *next = begun->chain;

		submit(begun);
		begun = next;
	}
}

static void transfer_done(struct io_op *op, int result);

static void queue_transfer(struct disk_request *request)
{
	struct file *file = file_of(request->disk);
	struct io_ring *ring = io_ring_current(file->disk.ring);
	int fd = direct_takes(&file->blocks, request) ? file->fd : file->blocks.fd;

	request->op.done = transfer_done;
	if (request->operation == DISK_READ)
		io_ring_readv(ring, &request->op, fd, request->iov, request->iov_count,
			request->offset + file->blocks.start, file->may_wait);
	else
		io_ring_writev(ring, &request->op, fd, request->iov, request->iov_count,
			request->offset + file->blocks.start, file->may_wait);
}

static void transfer_done(struct io_op *op, int result)
{
	struct disk_request *request = request_of(op);

	if (goes_again(request, result, queue_transfer))
		return;
	/* Nothing more to read or write: the file became shorter than the disk. */
	if (result == 0)
		result = -EIO;
	if (result < 0) {
		end(request, result);
		return;
	}
	request->offset += result;
	request->iov_count = iov_skip(&request->iov, request->iov_count, result);
	if (request->iov_count)
		queue_transfer(request);
	else
		end(request, 0);
}

static void transfer_here(struct disk_request *request)
{
	struct file *file = file_of(request->disk);
	uint64_t offset = request->offset + file->blocks.start;
	ssize_t result;

	request->op.done = transfer_done;
	disk_blocking_call_begin();
	result = request->operation == DISK_READ ?
		preadv2(file->fd, request->iov, request->iov_count, offset, 0) :
		pwritev2(file->fd, request->iov, request->iov_count, offset, 0);
	disk_blocking_call_end();
	io_ring_complete(&request->op, result < 0 ? -errno : (int)result);
}

/*
 * io_uring leaves a write to a file's page cache to a worker thread, since it may wait: for memory,
 * for the file system's journal.  It hardly ever does, and then takes less time than the way to the
 * worker and back; so we write by ourselves, until that takes long for once.  In memory, nothing does.
 */
static void write_at_once(struct disk_request *request)
{
	struct file *file = file_of(request->disk);
	int64_t start, end;

	if (file->in_memory) {
		transfer_here(request);
		return;
	}
	start = nanoseconds();
	if (file->may_wait || start < file->slow_until) {
		queue_transfer(request);
		return;
	}
	transfer_here(request);
	end = nanoseconds();
	if (end - start > SLOW_NANOSECONDS)
		file->slow_until = end + SLOW_PAUSE_NANOSECONDS;
}

/* Those before this one are whole; those behind it were not tried, unless it is the last. */
static void chain_done(struct io_op *op, int result)
{
	struct disk_request *last = request_of(op);
	struct disk_request *at = last->chain, *next;

	for (; at != last; at = next) {
		next = request_of(at->op.next);
		end(at, 0);
	}
	for (op = op->next; op; op = op->next)
		queue_transfer(request_of(op));
	/* If it was only a part of a write, the rest comes back alone. */
	transfer_done(&last->op, result);
}

static void queue_chain(struct file *file, struct disk_request *const *requests, unsigned count)
{
	struct io_write writes[IO_RING_LINK_MAX];

	for (unsigned i = 0; i < count; i++) {
		struct disk_request *request = requests[i];

		request->chain = requests[0];
		request->op.done = chain_done;
		request->op.next = i + 1 < count ? &requests[i + 1]->op : NULL;
		writes[i] = (struct io_write){ &request->op, request->iov, request->iov_count,
			request->offset + file->blocks.start };
	}
	io_ring_write_linked(io_ring_current(file->disk.ring), file->fd, writes, count);
}

static void start_batch(struct io_deferred *after)
{
	unsigned count = batch.count;

	(void)after;
	batch.count = 0;
	if (count >= CHAIN_LEAST && !batch.file->may_wait &&
		io_ring_can_link(io_ring_current(batch.file->disk.ring), count)) {
		queue_chain(batch.file, batch.writes, count);
		return;
	}
	for (unsigned i = 0; i < count; i++)
		write_at_once(batch.writes[i]);
}

static void add_to_batch(struct disk_request *request)
{
	struct file *file = file_of(request->disk);

	if (batch.count == 0) {
		batch.after.run = start_batch;
		io_ring_defer_until_submit(&batch.after);
	} else if (batch.count == IO_RING_LINK_MAX || batch.file != file) {
		start_batch(&batch.after);
	}
	batch.file = file;
	batch.writes[batch.count++] = request;
}

static void start_transfer(struct disk_request *request)
{
	struct file *file = file_of(request->disk);

	if (file->waits) {
		transfer_here(request);
	} else if (request->operation == DISK_READ || file->direct) {
		queue_transfer(request);
		read_from_memory = file->in_memory && request->operation == DISK_READ;
	} else {
		add_to_batch(request);
	}
}

static void start_large(struct io_op *op, int result)
{
	(void)result;
	start_transfer(request_of(op));
}

/* Large ones go to the I/O thread, but if they need no copy. */
static void submit_transfer(struct disk_request *request)
{
	struct disk *disk = request->disk;

	if (request->length < LARGE_BYTES || file_of(disk)->direct ||
		io_ring_current(disk->ring) == disk->ring) {
		start_transfer(request);
		return;
	}
	request->op.done = start_large;
	io_ring_nop(disk->ring, &request->op);
	io_ring_submit(disk->ring);
}

static void queue_flush(struct disk_request *request);

static void flush_done(struct io_op *op, int result)
{
	struct disk_request *request = request_of(op);

	if (!goes_again(request, result, queue_flush))
		end(request, result);
}

static void queue_flush(struct disk_request *request)
{
	request->op.done = flush_done;
	io_ring_fdatasync(io_ring_current(request->disk->ring), &request->op,
		file_of(request->disk)->fd);
}

static void queue_fallocate(struct disk_request *request, int mode)
{
	const struct file *file = file_of(request->disk);

	io_ring_fallocate(io_ring_current(file->disk.ring), &request->op, file->fd,
		mode | FALLOC_FL_KEEP_SIZE, request->offset + file->blocks.start, request->length);
}

static void queue_punch(struct disk_request *request);
static void queue_zeroes(struct disk_request *request);

static void punch_done(struct io_op *op, int result)
{
	struct disk_request *request = request_of(op);

	if (goes_again(request, result, queue_punch))
		return;
	if (result == -EOPNOTSUPP && request->operation == DISK_DISCARD) {
		/* It is advice: where the host can't follow, nothing is wrong. */
		result = 0;
	} else if (result == -EOPNOTSUPP && request->unmap) {
		/* Zeroes matter, and that they free space does not. */
		queue_zeroes(request);
		return;
	}
	end(request, result);
}

static void queue_punch(struct disk_request *request)
{
	request->op.done = punch_done;
	queue_fallocate(request, FALLOC_FL_PUNCH_HOLE);
}

static void zero_done(struct io_op *op, int result)
{
	struct disk_request *request = request_of(op);

	if (goes_again(request, result, queue_zeroes))
		return;
	/* tmpfs, for one, knows no zero range, but punches holes. */
	if (result == -EOPNOTSUPP && !request->unmap)
		queue_punch(request);
	else
		end(request, result);
}

static void queue_zeroes(struct disk_request *request)
{
	request->op.done = zero_done;
	queue_fallocate(request, FALLOC_FL_ZERO_RANGE);
}

static void submit(struct disk_request *request)
{
	switch (request->operation) {
	case DISK_READ:
	case DISK_WRITE:
		submit_transfer(request);
		break;
	case DISK_FLUSH:
		queue_flush(request);
		break;
	case DISK_WRITE_ZEROES:
		if (!request->unmap) {
			queue_zeroes(request);
			break;
		}
		/* Fall through. */
	case DISK_DISCARD:
		queue_punch(request);
		break;
	}
}

static void file_submit(struct disk *disk, struct disk_request *request)
{
	if (direct_begin(&file_of(disk)->blocks, request))
		submit(request);
}

/* Of Linux's versions, some read tmpfs when they are asked, and others leave it to a worker, as writes. */
static void file_kick(struct disk *disk)
{
	struct io_ring *ring = io_ring_current(disk->ring);

	io_ring_submit(ring);
	if (read_from_memory && !io_ring_ready(ring))
		file_of(disk)->waits = true;
	read_from_memory = false;
}

static int file_measure(struct disk *disk, uint64_t *size)
{
	/* A call that the sandbox allows, and the same for files and devices; nobody uses the position. */
	off_t end;

	disk_blocking_call_begin();
	end = lseek(file_of(disk)->fd, 0, SEEK_END);
	disk_blocking_call_end();
	if (end < 0)
		return -errno;
	*size = end;
	return 0;
}

static void file_close(struct disk *disk)
{
	struct file *file = file_of(disk);

	direct_release(&file->blocks);
	close(file->fd);
	free(file);
}

static const struct disk_backend file_backend = {
	.submit = file_submit,
	.kick = file_kick,
	.measure = file_measure,
	.close = file_close,
};

/*
 * A file system that does not know RWF_NOWAIT (preadv2(2)), such as NFS.  overlayfs passes that on to the one
 * below it, though it says no for itself.
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
	/* A device tells its own blocks. */
	result = direct_init(&file->blocks, fd, 0, options->direct && S_ISREG(status.st_mode));
	if (result < 0)
		return fail(result, "disk %s: can't open it again: %s", options->path, strerror(-result));
	result = measure(file, fd, &status, options);
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
		file->may_wait = !file->in_memory && ignores_nowait(fd, system.f_type);
	}
	file->fd = fd;
	fd = -1;
	*disk = &file->disk;
	file = NULL;
	return 0;
}

int file_part(struct disk **disk, int fd, uint64_t start, uint64_t size, bool direct,
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
