// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads and writes of disks that are files or block devices.
 *
 * A read, and a write with O_DIRECT, is an operation of io_uring.  A write to the page cache is a
 * plain pwritev2(2), since io_uring would leave it to a worker thread; or one of several linked
 * operations, if the thread has LINKED_MIN of them to start.
 */
#include <errno.h>
#include <sys/uio.h>

#include "file.h"
#include "karma/iov.h"

/* A write to the page cache that took so long was blocked, and the next ones may be. */
#define SLOW_NANOSECONDS 4000000ll
#define SLOW_PAUSE_NANOSECONDS 1000000000ll

/*
 * From so many writes at a time on, one worker thread of io_uring is quicker than the calling
 * thread.
 */
#define LINKED_MIN 8u

/* Writes to the page cache of one file that the calling thread starts together when it submits. */
static _Thread_local struct write_batch {
	struct io_deferred deferred;
	struct file *file;
	struct disk_request *writes[IO_RING_LINK_MAX];
	unsigned count;
} batch;

/* The calling thread has queued a read of a file in memory since it last submitted. */
static _Thread_local bool memory_read_queued;

/* --- By io_uring. */

static void transfer_done(struct io_op *op, int result);

static void queue_transfer(struct disk_request *request)
{
	struct file *file = file_of(request->disk);
	struct io_ring *ring = io_ring_current(file->disk.ring);
	int fd = direct_is_aligned(&file->blocks, request) ? file->fd : file->blocks.buffered_fd;

	request->op.done = transfer_done;
	if (request->operation == DISK_READ)
		io_ring_readv(ring, &request->op, fd, request->iov, request->iov_count,
			request->offset + file->blocks.start, file->ignores_nowait);
	else
		io_ring_writev(ring, &request->op, fd, request->iov, request->iov_count,
			request->offset + file->blocks.start, file->ignores_nowait);
}

static void transfer_done(struct io_op *op, int result)
{
	struct disk_request *request = request_of(op);

	if (file_retries(request, result, queue_transfer))
		return;
	/* The end of the file: it became shorter than the disk. */
	if (result == 0)
		result = -EIO;
	if (result < 0) {
		file_complete(request, result);
		return;
	}
	request->offset += result;
	request->iov_count = iov_skip(&request->iov, request->iov_count, result);
	if (request->iov_count)
		queue_transfer(request);
	else
		file_complete(request, 0);
}

/* --- By a plain system call. */

static void transfer_in_place(struct disk_request *request)
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
 * io_uring leaves a write to the page cache to a worker thread, since it may block: on memory, or
 * on the file system's journal.  It rarely does, and otherwise takes less time than the way to the
 * worker and back.  So this thread writes by itself, until one write blocks; then workers write for
 * a second.  tmpfs never blocks.
 */
static void write_in_place(struct disk_request *request)
{
	struct file *file = file_of(request->disk);
	int64_t start, end;

	if (file->in_memory) {
		transfer_in_place(request);
		return;
	}
	start = nanoseconds();
	if (file->ignores_nowait || start < file->slow_until) {
		queue_transfer(request);
		return;
	}
	transfer_in_place(request);
	end = nanoseconds();
	if (end - start > SLOW_NANOSECONDS)
		file->slow_until = end + SLOW_PAUSE_NANOSECONDS;
}

/* --- Linked writes, by one worker thread. */

/* Writes before this one are whole; those behind it were not tried, unless this is the last. */
static void linked_done(struct io_op *op, int result)
{
	struct disk_request *last = request_of(op);
	struct disk_request *at = last->linked, *next;

	for (; at != last; at = next) {
		next = request_of(at->op.next);
		file_complete(at, 0);
	}
	for (op = op->next; op; op = op->next)
		queue_transfer(request_of(op));
	/* Queues the rest of this one if it was written in part. */
	transfer_done(&last->op, result);
}

static void queue_linked(struct file *file, struct disk_request *const *requests, unsigned count)
{
	struct io_write writes[IO_RING_LINK_MAX];

	for (unsigned i = 0; i < count; i++) {
		struct disk_request *request = requests[i];

		request->linked = requests[0];
		request->op.done = linked_done;
		request->op.next = i + 1 < count ? &requests[i + 1]->op : NULL;
		writes[i] = (struct io_write){ &request->op, request->iov, request->iov_count,
			request->offset + file->blocks.start };
	}
	io_ring_write_linked(io_ring_current(file->disk.ring), file->fd, writes, count);
}

/* --- Batches of writes to the page cache. */

static void start_batch(struct io_deferred *deferred)
{
	unsigned count = batch.count;

	(void)deferred;
	batch.count = 0;
	if (count >= LINKED_MIN && !batch.file->ignores_nowait &&
		io_ring_can_link(io_ring_current(batch.file->disk.ring), count)) {
		queue_linked(batch.file, batch.writes, count);
		return;
	}
	for (unsigned i = 0; i < count; i++)
		write_in_place(batch.writes[i]);
}

static void add_to_batch(struct disk_request *request)
{
	struct file *file = file_of(request->disk);

	if (batch.count == 0) {
		batch.deferred.run = start_batch;
		io_ring_defer_until_submit(&batch.deferred);
	} else if (batch.count == IO_RING_LINK_MAX || batch.file != file) {
		start_batch(&batch.deferred);
	}
	batch.file = file;
	batch.writes[batch.count++] = request;
}

/* --- The choice between these. */

static void start_transfer(struct disk_request *request)
{
	struct file *file = file_of(request->disk);

	if (file->reads_block) {
		transfer_in_place(request);
	} else if (request->operation == DISK_READ || file->direct) {
		queue_transfer(request);
		memory_read_queued = file->in_memory && request->operation == DISK_READ;
	} else {
		add_to_batch(request);
	}
}

static void start_large_transfer(struct io_op *op, int result)
{
	(void)result;
	start_transfer(request_of(op));
}

void file_submit_transfer(struct disk_request *request)
{
	struct disk *disk = request->disk;

	/* O_DIRECT does not copy. */
	if (request->length < LARGE_BYTES || file_of(disk)->direct ||
		io_ring_current(disk->ring) == disk->ring) {
		start_transfer(request);
		return;
	}
	request->op.done = start_large_transfer;
	io_ring_nop(disk->ring, &request->op);
	io_ring_submit(disk->ring);
}

/*
 * Some versions of Linux read tmpfs during the submission; others leave that to a worker thread, as
 * they do with writes.  In that case this file is read and written by plain system calls from now
 * on.
 */
void file_transfers_submitted(struct disk *disk)
{
	if (memory_read_queued && !io_ring_ready(io_ring_current(disk->ring)))
		file_of(disk)->reads_block = true;
	memory_read_queued = false;
}
