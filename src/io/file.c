// SPDX-License-Identifier: GPL-2.0-only
/*
 * Disks that are files or block devices: the backend, and all of its requests but reads and writes.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "file.h"

/* --- The end of a request, or of an attempt at one. */

static void retry_now(struct io_op *op, int result)
{
	(void)result;
	request_of(op)->retry(request_of(op));
}

bool file_retries(struct disk_request *request, int result, void (*retry)(struct disk_request *request))
{
	static const struct __kernel_timespec moment = { .tv_nsec = 10 * 1000 * 1000 };

	if (result == -EINTR || result == -EAGAIN) {
		retry(request);
		return true;
	}
	if (result != -ECANCELED)
		return false;
	/* io_uring had no worker thread for it, and could not make one: there may be one later. */
	request->retry = retry;
	request->op.done = retry_now;
	io_ring_timeout(io_ring_current(request->disk->ring), &request->op, &moment);
	return true;
}

void file_complete(struct disk_request *request, int error)
{
	struct disk_request *admitted = direct_end(&file_of(request->disk)->blocks, request);

	request->done(request, error);
	while (admitted) {
		struct disk_request *next = admitted->linked;

		file_submit_request(admitted);
		admitted = next;
	}
}

/* --- Flush: an fdatasync(2). */

static void flush(struct disk_request *request);

static void flush_done(struct io_op *op, int result)
{
	struct disk_request *request = request_of(op);

	if (!file_retries(request, result, flush))
		file_complete(request, result);
}

static void flush(struct disk_request *request)
{
	request->op.done = flush_done;
	io_ring_fdatasync(io_ring_current(request->disk->ring), &request->op,
		file_of(request->disk)->fd);
}

/* --- Discard and write zeroes: fallocate(2). */

static void queue_fallocate(struct disk_request *request, int mode)
{
	const struct file *file = file_of(request->disk);

	io_ring_fallocate(io_ring_current(file->disk.ring), &request->op, file->fd,
		mode | FALLOC_FL_KEEP_SIZE, request->offset + file->blocks.start, request->length);
}

static void punch_hole(struct disk_request *request);
static void zero_range(struct disk_request *request);

static void punch_hole_done(struct io_op *op, int result)
{
	struct disk_request *request = request_of(op);

	if (file_retries(request, result, punch_hole))
		return;
	if (result == -EOPNOTSUPP && request->operation == DISK_DISCARD) {
		/* A discard is advice: it succeeds where the host cannot free space. */
		result = 0;
	} else if (result == -EOPNOTSUPP && request->unmap) {
		/* The zeroes are needed, the free space is not. */
		zero_range(request);
		return;
	}
	file_complete(request, result);
}

static void punch_hole(struct disk_request *request)
{
	request->op.done = punch_hole_done;
	queue_fallocate(request, FALLOC_FL_PUNCH_HOLE);
}

static void zero_range_done(struct io_op *op, int result)
{
	struct disk_request *request = request_of(op);

	if (file_retries(request, result, zero_range))
		return;
	/* tmpfs, for one, has no FALLOC_FL_ZERO_RANGE, but punches holes. */
	if (result == -EOPNOTSUPP && !request->unmap)
		punch_hole(request);
	else
		file_complete(request, result);
}

static void zero_range(struct disk_request *request)
{
	request->op.done = zero_range_done;
	queue_fallocate(request, FALLOC_FL_ZERO_RANGE);
}

/* --- The backend. */

void file_submit_request(struct disk_request *request)
{
	switch (request->operation) {
	case DISK_READ:
	case DISK_WRITE:
		file_submit_transfer(request);
		break;
	case DISK_FLUSH:
		flush(request);
		break;
	case DISK_WRITE_ZEROES:
		if (!request->unmap) {
			zero_range(request);
			break;
		}
		/* Fall through. */
	case DISK_DISCARD:
		punch_hole(request);
		break;
	}
}

static void file_submit(struct disk *disk, struct disk_request *request)
{
	if (direct_begin(&file_of(disk)->blocks, request))
		file_submit_request(request);
}

static void file_kick(struct disk *disk)
{
	io_ring_submit(io_ring_current(disk->ring));
	file_transfers_submitted(disk);
}

static int file_measure(struct disk *disk, uint64_t *size)
{
	/*
	 * lseek(2) works for files and block devices, and the sandbox allows it.  The position is
	 * not used.
	 */
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

static int file_descriptor(const struct disk *disk)
{
	return container_of(disk, struct file, disk)->fd;
}

const struct disk_backend file_backend = {
	.submit = file_submit,
	.kick = file_kick,
	.measure = file_measure,
	.file = file_descriptor,
	.close = file_close,
};
