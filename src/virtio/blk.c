// SPDX-License-Identifier: GPL-2.0-only
/* The block device: the guest's requests, checked, for a disk's backend. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <sys/mman.h>

#include "karma/devices.h"
#include "karma/limit.h"
#include "karma/log.h"
#include "karma/util.h"

#define SECTOR_BYTES 512u
#define SEGMENTS_MAX 254		/* of data, behind the header and before the status */
#define CHAIN_BUFFERS (SEGMENTS_MAX + 2)
#define SEGMENT_BYTES_MAX (1 * MIB)	/* bounds how much one request can be */
#define FAULTS_MAX 8			/* lines in the log for one disk */

/* A request in flight: one for each entry of a queue, found by its chain's head. */
struct blk_request {
	struct disk_request disk;
	struct blk *blk;
	struct virtq *queue;
	uint16_t head;
	bool busy;
	uint8_t *status;		/* in guest memory */
	uint32_t written;		/* bytes, with the status */
	struct iovec iov[CHAIN_BUFFERS];
};

/*
 * When to serve a queue.  At once, on the vCPU that notifies, is best if the guest waits for each
 * request: one exit and one interrupt.  If it has many under way and adds them one by one, each would
 * still cost an exit and an interrupt, since each is done by the time that the next one comes.  Then
 * it is better to wait a little and to take many at a time; while we wait, the guest notifies nobody.
 * Which it is can't be seen but by trying: from time to time, the more rarely the more often it was
 * in vain.
 *
 * A queue that is held back by its disk's limit waits for that alone, and then is served at once.
 */
struct pace {
	struct blk *blk;
	struct virtq *queue;
	bool waiting;			/* for look_op */
	bool paid;			/* since the guest last notified */
	bool held;			/* it waits for the limit */
	int64_t limit_wait;		/* what the limit said last: 0, or ns */
	struct limit_turn turn;
	struct io_op look_op;
	struct __kernel_timespec delay;
	int64_t notified, gap;		/* ns: the last notification, the mean time between two */
	int64_t wait;			/* ns; 0: not chosen yet */
	unsigned left, interval;	/* notifications until the next try */
};

#define PACE_WAIT_GAPS 4		/* so many notifications would come while we wait */
#define PACE_PAYS 6u			/* requests that came instead, for which it was worth it */
#define PACE_PAYS_STILL 3u		/* to go on, once it was */
#define PACE_FEW 12u			/* a longer wait would do better */
#define PACE_PLENTY 24u			/* the guest may have to wait for us */
#define PACE_WAIT_MAX 4000000ll		/* ns */
#define PACE_GAP_MAX 2000000ll		/* ns: a queue that is less busy is served at once */
#define PACE_INTERVAL_MIN 64u
#define PACE_INTERVAL_MAX 4096u

enum { LIMITED, COUNTERS };

struct blk {
	struct virtio_device device;
	struct virtq *queues;
	struct pace *paces;		/* one for each queue, under its lock */
	struct virtio_blk_config config;
	struct disk *disk;
	char serial[VIRTIO_BLK_ID_BYTES];
	struct limit *limit;		/* NULL: none */
	struct virtio_counter counters[COUNTERS];	/* added to atomically */
	_Atomic unsigned faults;
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

static void report_fault(struct blk *blk, const struct disk_request *request, int error)
{
	if (blk->faults++ < FAULTS_MAX)
		note("disk %s: %s at byte %llu failed: %s: the guest is told of an I/O error",
			blk->device.name, operation_name(request->operation),
			(unsigned long long)request->offset, strerror(-error));
}

/* From the backend. */
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
	if (status == VIRTIO_BLK_S_IOERR)
		report_fault(blk, disk_request, error);
	if (blk->device.resetting) {
		/* The memory is the guest's again, and the rings too. */
		request->busy = false;
	} else {
		finish(request, status);
		virtio_interrupt_after(request->queue);
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

	if (blk->limit)
		limit_take(blk->limit, request->disk.length);
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

static void give_id(struct blk_request *request, const struct virtq_chain *chain)
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
		give_id(request, chain);
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

/* Take a chain apart.  One without a place for its status can't even be refused. */
static void start_request(struct blk *blk, struct virtq *queue, struct blk_request *request,
	const struct virtq_chain *chain)
{
	struct virtio_blk_outhdr header;
	const struct iovec *last;

	if (iov_read(chain->iov, chain->out_count, 0, &header, sizeof(header)) < sizeof(header) ||
		chain->in_bytes == 0) {
		queue->broken = "a request without header or status";
		virtio_needs_reset(&blk->device, queue);
		return;
	}
	last = &chain->iov[chain->out_count + chain->in_count - 1];
	request->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	request->blk = blk;
	request->disk.done = request_done;
	request->head = chain->head;
	request->queue = queue;
	request->written = sizeof(*request->status);
	request->busy = true;
	execute(request, chain, &header);
}

static struct blk_request *find_request(struct blk *blk, struct virtq *queue, uint16_t head)
{
	struct blk_request *request = &blk->requests[queue->index * blk->queue_size + head];

	if (!request->busy)
		return request;
	queue->broken = "a descriptor made available again while in use";
	virtio_needs_reset(&blk->device, queue);
	return NULL;
}

/* Whether the limit lets one more request start. */
static bool may_start(struct pace *pace)
{
	struct limit *limit = pace->blk->limit;

	pace->limit_wait = limit ? limit_ask(limit, &pace->turn) : 0;
	return pace->limit_wait == 0;
}

/* Take what is there and may start, but no more than a ring of it in one go; how many. */
static unsigned take(struct blk *blk, struct virtq *queue)
{
	struct pace *pace = &blk->paces[queue->index];
	struct iovec iov[CHAIN_BUFFERS];
	struct virtq_chain chain;
	unsigned taken = 0;

	while (taken < blk->queue_size && may_start(pace) &&
		virtio_pop(&blk->device, queue, iov, ARRAY_SIZE(iov), &chain)) {
		struct blk_request *request = find_request(blk, queue, chain.head);
		unsigned count = chain.out_count + chain.in_count;

		taken++;
		if (!request)
			break;
		memcpy(request->iov, iov, count * sizeof(iov[0]));
		chain.iov = request->iov;
		start_request(blk, queue, request, &chain);
	}
	return taken;
}

/* A guest has notified; whether to wait for more before it is served. */
static bool worth_waiting(struct pace *pace)
{
	int64_t now = nanoseconds(), gap = now - pace->notified;

	/* How long a pause is says nothing about the time between requests. */
	if (gap > 2 * PACE_GAP_MAX)
		gap = 2 * PACE_GAP_MAX;
	/* Nor does the time since a wait, in which there were requests and no notifications. */
	if (pace->notified)
		pace->gap += (gap - pace->gap) / 8;
	pace->notified = now;
	if (pace->left > 0)
		pace->left--;
	return pace->left == 0 && pace->gap < PACE_GAP_MAX;
}

static void look(struct io_op *op, int result);

/* ns: less than a second */
static void look_after(struct pace *pace, int64_t ns)
{
	struct io_ring *ring = io_ring_here(pace->blk->device.ring);

	pace->waiting = true;
	pace->delay.tv_nsec = ns;
	pace->look_op.done = look;
	virtio_request_started(&pace->blk->device);
	io_ring_timeout(ring, &pace->look_op, &pace->delay);
	io_ring_submit(ring);
}

static void wait_for_more(struct pace *pace)
{
	int64_t most = PACE_WAIT_GAPS * pace->gap;

	if (most > PACE_WAIT_MAX)
		most = PACE_WAIT_MAX;
	if (!pace->wait || pace->wait > most)
		pace->wait = most;
	pace->notified = 0;
	look_after(pace, pace->wait);
}

/* Requests are there and may not start yet.  The guest need not tell of more. */
static void hold(struct pace *pace, bool anew)
{
	if (anew)
		__atomic_fetch_add(&pace->blk->counters[LIMITED].value, 1, __ATOMIC_RELAXED);
	pace->held = true;
	virtq_disable_notify(pace->queue);
	look_after(pace, pace->limit_wait);
}

static void let_go(struct pace *pace)
{
	pace->held = false;
	if (pace->blk->limit)
		limit_leave(pace->blk->limit, &pace->turn);
}

static void in_vain(struct pace *pace)
{
	pace->wait = 0;
	pace->interval *= 2;
	if (pace->interval < PACE_INTERVAL_MIN)
		pace->interval = PACE_INTERVAL_MIN;
	if (pace->interval > PACE_INTERVAL_MAX)
		pace->interval = PACE_INTERVAL_MAX;
	pace->left = pace->interval;
}

/* Take what is there and may start, and what comes meanwhile; a ring of requests at most. */
static void serve(struct blk *blk, struct virtq *queue)
{
	struct pace *pace = &blk->paces[queue->index];
	unsigned taken = 0;
	bool more;

	do {
		taken += take(blk, queue);
		more = virtq_enable_notify(queue);
	} while (more && taken < blk->queue_size && pace->limit_wait == 0);
	/* What is held back when the guest has ended stays undone: nobody is to wait for that. */
	if (more && taken < blk->queue_size && !blk->device.ending)
		hold(pace, taken > 0 || !pace->held);
	else
		let_go(pace);
	if (taken >= blk->queue_size)
		virtio_again(queue);
	disk_start(blk->disk);
	virtq_interrupt(queue);
}

/* What came while we waited for it.  If it was worth it, another wait follows. */
static void serve_paced(struct pace *pace)
{
	unsigned taken = take(pace->blk, pace->queue);
	bool pays = taken >= (pace->paid ? PACE_PAYS_STILL : PACE_PAYS);

	if (taken >= PACE_PLENTY)
		pace->wait -= pace->wait / 4;
	else if (taken < PACE_FEW)
		pace->wait += pace->wait / 4;
	if (!pays && !pace->paid)
		in_vain(pace);
	if (!pays || pace->limit_wait) {
		serve(pace->blk, pace->queue);
		return;
	}
	pace->paid = true;
	pace->interval = 0;
	wait_for_more(pace);
	disk_start(pace->blk->disk);
	virtq_interrupt(pace->queue);
}

/* The wait is over. */
static void look(struct io_op *op, int result)
{
	struct pace *pace = container_of(op, struct pace, look_op);
	struct virtq *queue = pace->queue;
	struct blk *blk = pace->blk;

	(void)result;
	pthread_mutex_lock(queue->lock);
	pace->waiting = false;
	if (!virtio_running(&blk->device))
		let_go(pace);
	else if (pace->held)
		serve(blk, queue);
	else
		serve_paced(pace);
	virtio_request_done(&blk->device);
	pthread_mutex_unlock(queue->lock);
}

static void blk_notify(struct virtio_device *device, unsigned index)
{
	struct blk *blk = container_of(device, struct blk, device);
	struct virtq *queue = &device->queues[index];
	struct pace *pace = &blk->paces[index];

	/* Somebody is going to look. */
	if (queue->again || pace->waiting)
		return;
	virtq_disable_notify(queue);
	pace->paid = false;
	if (worth_waiting(pace))
		wait_for_more(pace);
	else
		serve(blk, queue);
}

static void blk_reset(struct virtio_device *device)
{
	struct blk *blk = container_of(device, struct blk, device);

	/* A look that is under way finds that the device does not run. */
	for (unsigned i = 0; i < device->queue_count; i++) {
		blk->paces[i].gap = 2 * PACE_GAP_MAX;
		blk->paces[i].notified = blk->paces[i].wait = 0;
		blk->paces[i].interval = 0;
		blk->paces[i].left = PACE_INTERVAL_MIN;
	}
}

void blk_limit(struct virtio_device *device, struct limit *limit)
{
	struct blk *blk = container_of(device, struct blk, device);

	blk->limit = limit;
	blk->counters[LIMITED].name = "limited";
	device->counters = blk->counters;
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

/* A guest would be at a loss with a disk that shrinks: what it uses at the end is gone. */
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
static struct blk_request *map_requests(struct blk *blk, unsigned queues)
{
	size_t bytes = sizeof(struct blk_request) * queues * blk->queue_size;
	void *requests = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return requests == MAP_FAILED ? NULL : requests;
}

static void unmap_requests(struct blk *blk, unsigned queues)
{
	if (blk->requests)
		munmap(blk->requests, sizeof(struct blk_request) * queues * blk->queue_size);
}

static void blk_release(struct virtio_device *device)
{
	struct blk *blk = container_of(device, struct blk, device);

	disk_close(blk->disk);
	virtio_device_destroy(device);
	unmap_requests(blk, device->queue_count);
	free(blk->paces);
	free(blk->queues);
	free(blk);
}

static const struct virtio_device_ops blk_ops = {
	.device_id = VIRTIO_ID_BLOCK,
	.notify = blk_notify,
	.reset = blk_reset,
	.measure = blk_measure,
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
	else
		features |= 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	if (!disk->read_only && disk->discard)
		features |= 1ull << VIRTIO_BLK_F_DISCARD;
	if (queues > 1)
		features |= 1ull << VIRTIO_BLK_F_MQ;
	return features;
}

struct virtio_device *blk_create(const struct virtio_environment *environment, const char *name,
	struct disk *disk, const char *serial, unsigned queues)
{
	struct blk *blk = calloc(1, sizeof(*blk));

	if (!blk)
		return NULL;
	blk->queue_size = blk_queue_size(queues);
	blk->queues = calloc(queues, sizeof(*blk->queues));
	blk->paces = calloc(queues, sizeof(*blk->paces));
	blk->requests = map_requests(blk, queues);
	if (!blk->queues || !blk->paces || !blk->requests) {
		unmap_requests(blk, queues);
		free(blk->paces);
		free(blk->queues);
		free(blk);
		return NULL;
	}
	blk->disk = disk;
	if (serial)
		memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
	virtio_device_init(&blk->device, &blk_ops, name, choose_features(disk, queues), blk->queues,
		queues, blk->queue_size, environment);
	virtio_separate_queues(&blk->device);
	blk->device.in_flight_max = queues * blk->queue_size;
	fill_config(blk);
	blk->device.config = &blk->config;
	blk->device.config_size = sizeof(blk->config);
	for (unsigned i = 0; i < queues; i++) {
		blk->queues[i].name = "request";
		blk->paces[i].blk = blk;
		blk->paces[i].queue = &blk->queues[i];
	}
	blk_reset(&blk->device);
	return &blk->device;
}
