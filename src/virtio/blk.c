// SPDX-License-Identifier: GPL-2.0-only
/* The block device: the guest's requests, checked, for a disk's backend. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <sys/mman.h>

#include "karma/devices.h"
#include "karma/rate_limiter.h"
#include "karma/log.h"
#include "karma/queue_scheduler.h"
#include "karma/snapshot.h"
#include "karma/util.h"

#define SECTOR_BYTES 512u
#define SEGMENTS_MAX 254		/* of data, behind the header and before the status */
#define CHAIN_BUFFERS (SEGMENTS_MAX + 2)
#define SEGMENT_BYTES_MAX (1 * MIB)	/* bounds how much one request can be */
#define ERRORS_LOGGED_MAX 8			/* lines in the log for one disk */

/* A request, one for each entry of a queue: its index is the head of its chain. */
struct blk_request {
	struct disk_request disk;
	struct blk *blk;
	struct virtq *queue;
	uint16_t head;
	bool busy;
	uint8_t *status;		/* in guest memory */
	uint32_t written;		/* bytes, with the status */
	uint64_t bytes;			/* of the disk */
	int64_t started_at;		/* ns */
	struct iovec iov[CHAIN_BUFFERS];
};

/* What is done with the disk, as enum disk_operation has it. */
#define OPERATIONS (DISK_WRITE_ZEROES + 1)

/* LIMITED is the last, since it is there with a limit only. */
enum {
	ERRORS,
	REQUESTS,
	BYTES = REQUESTS + OPERATIONS,
	LIMITED = BYTES + OPERATIONS,
	COUNTERS
};

/* Of one queue, under its lock. */
struct blk_statistics {
	struct latency latencies[OPERATIONS];
	uint64_t bytes[OPERATIONS];
};

struct blk {
	struct virtio_device device;
	struct queue_scheduler *schedulers;	/* one for each queue, under its lock */
	struct virtio_blk_config config;
	struct disk *disk;
	char serial[VIRTIO_BLK_ID_BYTES];
	struct rate_limiter *limit;		/* NULL: none */
	struct blk_statistics *statistics;		/* one for each queue */
	unsigned errors_logged;
	int last_error[OPERATIONS];	/* that was logged, of each */
	struct virtio_counter counters[COUNTERS];	/* of all; added to atomically, or by update_counters() */
	struct virtio_latency latencies[OPERATIONS];
	unsigned queue_size;
	struct blk_request *requests;	/* queue_size of them for each queue; not there until used */
};

static void finish(struct blk_request *request, uint8_t status)
{
	*request->status = status;
	request->busy = false;
	/* Only a request that could be done has written its data. */
	virtq_push(request->queue, request->head,
		status == VIRTIO_BLK_S_OK ? request->written : sizeof(status));
}

static const char *operation_name(enum disk_operation operation)
{
	static const char *const names[] = {
		[DISK_READ] = "read",
		[DISK_WRITE] = "write",
		[DISK_FLUSH] = "flush",
		[DISK_DISCARD] = "discard",
		[DISK_WRITE_ZEROES] = "write of zeroes",
	};

	return names[operation];
}

static void report_error(struct blk *blk, const struct disk_request *request, int error)
{
	int *last_error = &blk->last_error[request->operation];

	__atomic_fetch_add(&blk->counters[ERRORS].value, 1, __ATOMIC_RELAXED);
	/* A full disk fails each write: an error that repeats is logged once. */
	if (__atomic_exchange_n(last_error, error, __ATOMIC_RELAXED) == error)
		return;
	if (__atomic_fetch_add(&blk->errors_logged, 1, __ATOMIC_RELAXED) < ERRORS_LOGGED_MAX)
		note("disk %s: %s at byte %llu failed: %s: the guest is told of an I/O error, and more "
		     "of them are only counted (karma stats)",
			blk->device.name, operation_name(request->operation),
			(unsigned long long)request->offset, strerror(-error));
}

static void count_request(const struct blk_request *request)
{
	struct blk_statistics *statistics = &request->blk->statistics[request->queue->index];
	enum disk_operation operation = request->disk.operation;

	latency_add(&statistics->latencies[operation], io_ring_now() - request->started_at);
	count_up(&statistics->bytes[operation], request->bytes);
}

/* Completion, by the backend. */
static void request_done(struct disk_request *disk_request, int error)
{
	struct blk_request *request = container_of(disk_request, struct blk_request, disk);
	struct blk *blk = request->blk;
	uint8_t status = VIRTIO_BLK_S_OK;

	if (error == -EOPNOTSUPP)
		status = VIRTIO_BLK_S_UNSUPP;
	else if (error)
		status = VIRTIO_BLK_S_IOERR;
	pthread_mutex_lock(request->queue->lock);
	count_request(request);
	if (status == VIRTIO_BLK_S_IOERR)
		report_error(blk, disk_request, error);
	if (blk->device.resetting) {
		/* The memory is the guest's again, and the rings too. */
		request->busy = false;
	} else {
		finish(request, status);
		virtio_defer_interrupt(request->queue);
	}
	virtio_request_done(&blk->device);
	pthread_mutex_unlock(request->queue->lock);
}

/* Whether [sector, sector + bytes) is on the disk, in whole blocks. */
static bool on_disk(const struct blk *blk, uint64_t sector, uint64_t bytes)
{
	uint64_t offset, end;

	if (__builtin_mul_overflow(sector, (uint64_t)SECTOR_BYTES, &offset) ||
		__builtin_add_overflow(offset, bytes, &end))
		return false;
	return end <= blk->disk->size && offset % blk->disk->block_size == 0 &&
		bytes % blk->disk->block_size == 0;
}

static bool segments_fit(const struct iovec *iov, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (iov[i].iov_len > SEGMENT_BYTES_MAX)
			return false;
	}
	return true;
}

static void submit(struct blk_request *request)
{
	struct blk *blk = request->blk;

	request->bytes = request->disk.length;
	if (blk->limit)
		rate_limiter_consume(blk->limit, request->disk.length);
	virtio_request_started(&blk->device);
	disk_submit(blk->disk, &request->disk);
}

/* The data of a chain lies between its header and its status byte. */
static void transfer(struct blk_request *request, const struct virtq_chain *chain,
	enum disk_operation operation, uint64_t sector)
{
	struct disk_request *disk = &request->disk;

	if (operation == DISK_WRITE) {
		disk->iov = chain->iov;
		disk->iov_count = iov_skip(&disk->iov, chain->out_count,
			sizeof(struct virtio_blk_outhdr));
		disk->length = chain->out_bytes - sizeof(struct virtio_blk_outhdr);
	} else {
		disk->iov = chain->iov + chain->out_count;
		disk->iov_count = iov_truncate(disk->iov, chain->in_count, chain->in_bytes - 1);
		disk->length = chain->in_bytes - 1;
		request->written = chain->in_bytes;
	}
	if (disk->length == 0 || !on_disk(request->blk, sector, disk->length) ||
		!segments_fit(disk->iov, disk->iov_count) ||
		(operation == DISK_WRITE && request->blk->disk->read_only)) {
		finish(request, VIRTIO_BLK_S_IOERR);
		return;
	}
	disk->operation = operation;
	disk->offset = sector * SECTOR_BYTES;
	submit(request);
}

static void get_id(struct blk_request *request, const struct virtq_chain *chain)
{
	size_t room = chain->in_bytes - 1;
	size_t length = room < VIRTIO_BLK_ID_BYTES ? room : VIRTIO_BLK_ID_BYTES;

	iov_write(chain->iov + chain->out_count, chain->in_count, 0, request->blk->serial, length);
	request->written = length + 1;
	finish(request, VIRTIO_BLK_S_OK);
}

/* Discard and write zeroes: one segment a request, as the configuration says. */
static void clear_range(struct blk_request *request, const struct virtq_chain *chain,
	enum disk_operation operation)
{
	struct disk_request *disk = &request->disk;
	struct virtio_blk_discard_write_zeroes segment;
	const uint32_t unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	uint32_t allowed = operation == DISK_WRITE_ZEROES ? unmap : 0;
	uint64_t bytes;

	if (chain->out_bytes != sizeof(struct virtio_blk_outhdr) + sizeof(segment)) {
		finish(request, VIRTIO_BLK_S_IOERR);
		return;
	}
	iov_read(chain->iov, chain->out_count, sizeof(struct virtio_blk_outhdr), &segment,
		sizeof(segment));
	if (segment.flags & ~allowed) {
		finish(request, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	bytes = (uint64_t)segment.num_sectors * SECTOR_BYTES;
	if (bytes == 0 || !on_disk(request->blk, segment.sector, bytes) ||
		request->blk->disk->read_only) {
		finish(request, VIRTIO_BLK_S_IOERR);
		return;
	}
	disk->operation = operation;
	disk->offset = segment.sector * SECTOR_BYTES;
	disk->length = bytes;
	disk->unmap = segment.flags & unmap;
	submit(request);
}

static void flush(struct blk_request *request)
{
	request->disk.operation = DISK_FLUSH;
	request->disk.offset = request->disk.length = 0;
	submit(request);
}

static void execute(struct blk_request *request, const struct virtq_chain *chain,
	const struct virtio_blk_outhdr *header)
{
	switch (header->type) {
	case VIRTIO_BLK_T_IN:
		transfer(request, chain, DISK_READ, header->sector);
		break;
	case VIRTIO_BLK_T_OUT:
		transfer(request, chain, DISK_WRITE, header->sector);
		break;
	case VIRTIO_BLK_T_FLUSH:
		flush(request);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(request, chain);
		break;
	case VIRTIO_BLK_T_DISCARD:
		clear_range(request, chain, DISK_DISCARD);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		clear_range(request, chain, DISK_WRITE_ZEROES);
		break;
	default:
		finish(request, VIRTIO_BLK_S_UNSUPP);
	}
}

/* Check a chain and start its request.  One without room for a status breaks the queue. */
static void start_request(struct blk *blk, struct virtq *queue, struct blk_request *request,
	const struct virtq_chain *chain)
{
	struct virtio_blk_outhdr header;
	const struct iovec *last;

	if (iov_read(chain->iov, chain->out_count, 0, &header, sizeof(header)) < sizeof(header) ||
		chain->in_bytes == 0) {
		virtio_break_queue(queue, "a request without header or status");
		return;
	}
	last = &chain->iov[chain->out_count + chain->in_count - 1];
	request->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	request->blk = blk;
	request->disk.done = request_done;
	request->head = chain->head;
	request->queue = queue;
	request->started_at = blk->schedulers[queue->index].now;
	request->written = sizeof(*request->status);
	request->busy = true;
	execute(request, chain, &header);
}

static struct blk_request *find_request(struct blk *blk, struct virtq *queue, uint16_t head)
{
	struct blk_request *request = &blk->requests[queue->index * blk->queue_size + head];

	if (!request->busy)
		return request;
	virtio_break_queue(queue, "a descriptor made available again while in use");
	return NULL;
}

static bool submission_is_slow(const struct blk *blk, const struct disk_request *request)
{
	return blk->disk->large_transfer && request->length >= blk->disk->large_transfer &&
		(request->operation == DISK_READ || request->operation == DISK_WRITE);
}

static enum chain_result start_next(struct virtq *queue)
{
	struct blk *blk = container_of(queue->device, struct blk, device);
	struct blk_request *request;
	struct iovec iov[CHAIN_BUFFERS];
	struct virtq_chain chain;

	if (!virtio_pop(&blk->device, queue, iov, ARRAY_SIZE(iov), &chain))
		return CHAIN_NONE;
	request = find_request(blk, queue, chain.head);
	if (!request)
		return CHAIN_NONE;
	memcpy(request->iov, iov, (chain.out_count + chain.in_count) * sizeof(iov[0]));
	chain.iov = request->iov;
	request->disk.length = 0;
	start_request(blk, queue, request, &chain);
	return submission_is_slow(blk, &request->disk) ? CHAIN_STARTED_SLOW : CHAIN_STARTED;
}

static void submit_requests(struct virtq *queue)
{
	disk_kick(container_of(queue->device, struct blk, device)->disk);
}

static const struct queue_scheduler_ops scheduler_ops = {
	.start_next = start_next,
	.submit = submit_requests,
};

static void blk_notify(struct virtio_device *device, unsigned index)
{
	queue_scheduler_notify(&container_of(device, struct blk, device)->schedulers[index]);
}

static void blk_reset(struct virtio_device *device)
{
	struct blk *blk = container_of(device, struct blk, device);

	for (unsigned i = 0; i < device->queue_count; i++)
		queue_scheduler_reset(&blk->schedulers[i]);
}

void blk_limit(struct virtio_device *device, struct rate_limiter *limit)
{
	struct blk *blk = container_of(device, struct blk, device);

	blk->limit = limit;
	for (unsigned i = 0; i < device->queue_count; i++)
		queue_scheduler_set_limit(&blk->schedulers[i], limit, &blk->counters[LIMITED].value);
	device->counter_count = COUNTERS;
}

static void grow(struct blk *blk, uint64_t size)
{
	virtio_lock(&blk->device);
	blk->disk->size = size;
	blk->config.capacity = size / SECTOR_BYTES;
	virtio_unlock(&blk->device);
	note("disk %s: has %llu bytes now, and its guest is told", blk->device.name,
		(unsigned long long)size);
	virtio_config_changed(&blk->device);
}

/* No guest can use a disk that shrinks, so only growth is told. */
static void blk_measure(struct virtio_device *device)
{
	struct blk *blk = container_of(device, struct blk, device);
	uint64_t size, was = blk->disk->size;
	int result = disk_measure(blk->disk, &size);

	if (result < 0)
		note("disk %s: can't tell its size: %s: the guest still sees %llu bytes",
			device->name, strerror(-result), (unsigned long long)was);
	else if (size < was)
		note("disk %s: has only %llu bytes of %llu any more: the guest still sees all of them, "
		     "and reads beyond fail: make it as large as it was",
			device->name, (unsigned long long)size, (unsigned long long)was);
	else if (size > was)
		grow(blk, size);
}

/* By mmap(), so that it takes memory only where a request was. */
static struct blk_request *map_requests(const struct blk *blk)
{
	size_t bytes = sizeof(struct blk_request) * blk->device.queue_count * blk->queue_size;
	void *requests = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return requests == MAP_FAILED ? NULL : requests;
}

static void free_blk(struct blk *blk)
{
	if (blk->requests)
		munmap(blk->requests,
			sizeof(struct blk_request) * blk->device.queue_count * blk->queue_size);
	free(blk->statistics);
	free(blk->schedulers);
	virtio_device_free(&blk->device);
}

static void blk_update_counters(struct virtio_device *device)
{
	struct blk *blk = container_of(device, struct blk, device);

	for (unsigned i = 0; i < OPERATIONS; i++) {
		struct latency sum = { 0 };
		uint64_t bytes = 0;

		for (unsigned j = 0; j < device->queue_count; j++) {
			latency_sum(&sum, &blk->statistics[j].latencies[i]);
			bytes += count_of(&blk->statistics[j].bytes[i]);
		}
		blk->latencies[i].latency = sum;
		blk->counters[REQUESTS + i].value = latency_count(&sum);
		blk->counters[BYTES + i].value = bytes;
	}
}

/* No request is in flight, and none was taken that waits: what a limit holds back is in the ring. */
static void blk_save(const struct virtio_device *device, struct snapshot_writer *to)
{
	const struct disk *disk = container_of(device, struct blk, device)->disk;

	snapshot_put_number(to, disk->size);
	snapshot_put_number(to, disk->block_size);
	snapshot_put_number(to, disk->read_only);
}

/* The guest's driver asks for the size again, when it is told so, and for nothing else. */
static int blk_restore(struct virtio_device *device, struct snapshot_reader *from)
{
	const struct disk *disk = container_of(device, struct blk, device)->disk;
	uint64_t size = snapshot_get_number(from), block_size = snapshot_get_number(from);
	bool read_only = snapshot_get_number(from);

	if (disk->size < size)
		return fail(-EINVAL,
			"snapshot: disk %s: has only %llu bytes of the %llu that it had: give one that is as large",
			device->name, (unsigned long long)disk->size, (unsigned long long)size);
	if (disk->block_size != block_size)
		return fail(-EINVAL,
			"snapshot: disk %s: has blocks of %u bytes, and had blocks of %llu: give one of the same kind",
			device->name, disk->block_size, (unsigned long long)block_size);
	if (disk->read_only && !read_only)
		return fail(-EINVAL, "snapshot: disk %s: is read-only, and was not: give it without ,ro",
			device->name);
	return 0;
}

static void blk_end(struct virtio_device *device)
{
	disk_end(container_of(device, struct blk, device)->disk);
}

static void blk_release(struct virtio_device *device)
{
	struct blk *blk = container_of(device, struct blk, device);

	disk_close(blk->disk);
	free_blk(blk);
}

static const struct virtio_device_ops blk_ops = {
	.device_id = VIRTIO_ID_BLOCK,
	.notify = blk_notify,
	.reset = blk_reset,
	.measure = blk_measure,
	.update_counters = blk_update_counters,
	.save = blk_save,
	.restore = blk_restore,
	.end = blk_end,
	.release = blk_release,
};

unsigned blk_queue_size(unsigned queues)
{
	unsigned size = BLK_QUEUE_SIZE_MAX;

	while (size > BLK_QUEUE_SIZE_MIN && size * queues > BLK_QUEUE_SIZE_MAX)
		size /= 2;
	return size;
}

/* The configuration (virtio 1.2, section 5.2.4), with the limits of what one request can be. */
static void fill_config(struct blk *blk)
{
	const struct disk *disk = blk->disk;
	uint32_t range_sectors = UINT32_MAX / disk->block_size * (disk->block_size / SECTOR_BYTES);
	uint32_t io_min = disk->io_min / disk->block_size;

	blk->config = (struct virtio_blk_config){
		.capacity = disk->size / SECTOR_BYTES,
		.size_max = SEGMENT_BYTES_MAX,
		.seg_max = SEGMENTS_MAX,
		.blk_size = disk->block_size,
		.physical_block_exp =
			__builtin_ctz(disk->physical_block_size / disk->block_size),
		.alignment_offset = disk->alignment_offset / disk->block_size,
		.min_io_size = io_min < 1 ? 1 : io_min > UINT16_MAX ? UINT16_MAX : io_min,
		.opt_io_size = disk->io_opt / disk->block_size,
		.num_queues = blk->device.queue_count,
		.max_discard_sectors = range_sectors,
		.max_discard_seg = 1,
		.discard_sector_alignment = disk->discard_alignment / SECTOR_BYTES,
		.max_write_zeroes_sectors = range_sectors,
		.max_write_zeroes_seg = 1,
		.write_zeroes_may_unmap = 1,
	};
}

static uint64_t choose_features(const struct disk *disk, unsigned queues)
{
	uint64_t features = 1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX |
		1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY |
		1ull << VIRTIO_BLK_F_FLUSH;

	if (disk->read_only)
		features |= 1ull << VIRTIO_BLK_F_RO;
	if (disk->discard && !disk->read_only)
		features |= 1ull << VIRTIO_BLK_F_DISCARD;
	if (disk->write_zeroes && !disk->read_only)
		features |= 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	if (queues > 1)
		features |= 1ull << VIRTIO_BLK_F_MQ;
	return features;
}

static void name_counters(struct blk *blk)
{
	/* A flush has no bytes. */
	static const char *const counters[COUNTERS] = {
		[ERRORS] = "errors",
		[REQUESTS + DISK_READ] = "read.requests",
		[REQUESTS + DISK_WRITE] = "write.requests",
		[REQUESTS + DISK_FLUSH] = "flush.requests",
		[REQUESTS + DISK_DISCARD] = "discard.requests",
		[REQUESTS + DISK_WRITE_ZEROES] = "write_zeroes.requests",
		[BYTES + DISK_READ] = "read.bytes",
		[BYTES + DISK_WRITE] = "write.bytes",
		[BYTES + DISK_DISCARD] = "discard.bytes",
		[BYTES + DISK_WRITE_ZEROES] = "write_zeroes.bytes",
		[LIMITED] = "limited",
	};
	static const char *const operations[OPERATIONS] = {
		[DISK_READ] = "read",
		[DISK_WRITE] = "write",
		[DISK_FLUSH] = "flush",
		[DISK_DISCARD] = "discard",
		[DISK_WRITE_ZEROES] = "write_zeroes",
	};

	virtio_set_counters(&blk->device, blk->counters, counters, COUNTERS);
	blk->device.counter_count = LIMITED;
	for (unsigned i = 0; i < OPERATIONS; i++)
		blk->latencies[i].name = operations[i];
	blk->device.latencies = blk->latencies;
	blk->device.latency_count = OPERATIONS;
}

struct virtio_device *blk_create(const struct virtio_environment *environment, const char *name,
	struct disk *disk, const char *serial, unsigned queues)
{
	struct blk *blk = virtio_device_create(sizeof(*blk), &blk_ops, name,
		choose_features(disk, queues), queues, blk_queue_size(queues), environment);

	if (!blk)
		return NULL;
	virtio_separate_queues(&blk->device);
	blk->queue_size = blk_queue_size(queues);
	blk->device.in_flight_max = queues * blk->queue_size;
	blk->schedulers = calloc(queues, sizeof(*blk->schedulers));
	blk->statistics = calloc(queues, sizeof(*blk->statistics));
	blk->requests = map_requests(blk);
	if (!blk->schedulers || !blk->statistics || !blk->requests) {
		free_blk(blk);
		return NULL;
	}
	blk->disk = disk;
	if (serial)
		memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
	fill_config(blk);
	blk->device.config = &blk->config;
	blk->device.config_size = sizeof(blk->config);
	name_counters(blk);
	for (unsigned i = 0; i < queues; i++) {
		blk->device.queues[i].name = "request";
		queue_scheduler_init(&blk->schedulers[i], &blk->device.queues[i], &scheduler_ops);
	}
	return &blk->device;
}
