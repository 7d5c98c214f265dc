// SPDX-License-Identifier: GPL-2.0-only
/* Persistent memory: where it is, and flushes of it. */
#include <endian.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pmem.h>
#include <string.h>

#include "karma/devices.h"
#include "karma/log.h"
#include "karma/util.h"

/* A request and its result, each in up to two parts. */
#define CHAIN_BUFFERS 4

/* The results (virtio 1.2, section 5.19.6.2). */
#define RESULT_OK 0u
#define RESULT_EIO 1u

struct pmem;

/* A flush, one for each entry of the queue: its index is the head of its chain. */
struct pmem_request {
	struct disk_request disk;
	struct pmem *pmem;
	uint16_t head;
	bool busy;
	struct iovec iov[CHAIN_BUFFERS];	/* where the result goes */
	unsigned iov_count;
};

enum { ERRORS, FLUSHES, COUNTERS };

struct pmem {
	struct virtio_device device;
	struct virtio_pmem_config config;
	struct disk *disk;
	bool flushes;
	struct virtio_counter counters[COUNTERS];	/* under the device's lock */
	struct pmem_request requests[PMEM_QUEUE_SIZE];
};

static void finish(struct pmem_request *request, uint32_t result)
{
	struct virtio_pmem_resp response = { .ret = htole32(result) };

	iov_write(request->iov, request->iov_count, 0, &response, sizeof(response));
	request->busy = false;
	virtq_push(&request->pmem->device.queues[0], request->head, sizeof(response));
}

static void report_error(struct pmem *pmem, int error)
{
	if (count_of(&pmem->counters[ERRORS].value) == 0)
		note("disk %s: flush failed: %s: the guest is told of an I/O error, and more of them are only "
		     "counted (karma stats)",
			pmem->device.name, strerror(-error));
	count_up(&pmem->counters[ERRORS].value, 1);
}

/* By the backend. */
static void flush_done(struct disk_request *disk_request, int error)
{
	struct pmem_request *request = container_of(disk_request, struct pmem_request, disk);
	struct pmem *pmem = request->pmem;

	pthread_mutex_lock(&pmem->device.lock);
	if (error)
		report_error(pmem, error);
	if (pmem->device.resetting) {
		/* The memory is the guest's again, and the ring too. */
		request->busy = false;
	} else {
		finish(request, error ? RESULT_EIO : RESULT_OK);
		virtio_defer_interrupt(&pmem->device.queues[0]);
	}
	virtio_request_done(&pmem->device);
	pthread_mutex_unlock(&pmem->device.lock);
}

static void flush(struct pmem_request *request)
{
	struct pmem *pmem = request->pmem;

	count_up(&pmem->counters[FLUSHES].value, 1);
	if (!pmem->flushes) {
		finish(request, RESULT_OK);
		return;
	}
	request->disk = (struct disk_request){ .operation = DISK_FLUSH, .done = flush_done };
	virtio_request_started(&pmem->device);
	disk_submit(pmem->disk, &request->disk);
}

static void start_request(struct pmem *pmem, struct virtq *queue, const struct virtq_chain *chain)
{
	struct pmem_request *request = &pmem->requests[chain->head];
	struct virtio_pmem_req type;

	if (request->busy) {
		virtio_break_queue(queue, "a descriptor made available again while in use");
		return;
	}
	if (iov_read(chain->iov, chain->out_count, 0, &type, sizeof(type)) < sizeof(type) ||
		chain->in_bytes < sizeof(struct virtio_pmem_resp)) {
		virtio_break_queue(queue, "a request without type or room for its result");
		return;
	}
	request->pmem = pmem;
	request->head = chain->head;
	request->busy = true;
	request->iov_count = chain->in_count;
	memcpy(request->iov, chain->iov + chain->out_count, chain->in_count * sizeof(chain->iov[0]));
	if (type.type == htole32(VIRTIO_PMEM_REQ_TYPE_FLUSH))
		flush(request);
	else
		finish(request, RESULT_EIO);
}

static enum virtio_step take_chain(struct virtq *queue)
{
	struct pmem *pmem = container_of(queue->device, struct pmem, device);
	struct iovec iov[CHAIN_BUFFERS];
	struct virtq_chain chain;

	if (!virtio_pop(&pmem->device, queue, iov, ARRAY_SIZE(iov), &chain))
		return VIRTIO_NO_CHAIN;
	start_request(pmem, queue, &chain);
	return VIRTIO_SERVED;
}

static void pmem_notify(struct virtio_device *device, unsigned index)
{
	virtio_serve_chains(&device->queues[index], take_chain);
	disk_kick(container_of(device, struct pmem, device)->disk);
}

static void pmem_end(struct virtio_device *device)
{
	disk_end(container_of(device, struct pmem, device)->disk);
}

static void pmem_release(struct virtio_device *device)
{
	disk_close(container_of(device, struct pmem, device)->disk);
	virtio_device_free(device);
}

/* Without save and restore: a snapshot would need the file as it was. */
static const char *pmem_unsavable(const struct virtio_device *device)
{
	(void)device;
	return "its file is the guest's memory: give it as a disk without `pmem`";
}

static const struct virtio_device_ops pmem_ops = {
	.device_id = VIRTIO_ID_PMEM,
	.notify = pmem_notify,
	.unsavable = pmem_unsavable,
	.end = pmem_end,
	.release = pmem_release,
};

struct virtio_device *pmem_create(const struct virtio_environment *environment, const char *name,
	struct disk *disk, const struct memory_region *place, bool flushes)
{
	static const char *const counters[COUNTERS] = {
		[ERRORS] = "errors",
		[FLUSHES] = "flush.requests",
	};
	struct pmem *pmem =
		virtio_device_create(sizeof(*pmem), &pmem_ops, name, 0, 1, PMEM_QUEUE_SIZE, environment);

	if (!pmem)
		return NULL;
	pmem->disk = disk;
	pmem->flushes = flushes;
	pmem->config = (struct virtio_pmem_config){ htole64(place->gpa), htole64(place->size) };
	pmem->device.config = &pmem->config;
	pmem->device.config_size = sizeof(pmem->config);
	pmem->device.in_flight_max = PMEM_QUEUE_SIZE;
	pmem->device.queues[0].name = "flush";
	virtio_set_counters(&pmem->device, pmem->counters, counters, COUNTERS);
	return &pmem->device;
}
