// SPDX-License-Identifier: GPL-2.0-only
/* The life cycle of a device, from its creation to its release, and its locks. */
#include <linux/virtio_config.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "karma/debug.h"
#include "karma/util.h"
#include "karma/virtio.h"

#define FEATURES_TRANSPORT \
	((1ull << VIRTIO_F_VERSION_1) | (1ull << VIRTIO_RING_F_INDIRECT_DESC) | \
		(1ull << VIRTIO_RING_F_EVENT_IDX))

void virtio_device_init(struct virtio_device *device, const struct virtio_device_ops *ops,
	const char *name, uint64_t features, struct virtq *queues, unsigned queue_count,
	uint16_t queue_size, const struct virtio_environment *environment)
{
	device->ops = ops;
	snprintf(device->name, sizeof(device->name), "%s", name);
	device->offered = features | FEATURES_TRANSPORT;
	device->queues = queues;
	device->queue_count = queue_count;
	device->ring = environment->ring;
	pthread_mutex_init(&device->lock, NULL);
	for (unsigned i = 0; i < queue_count; i++) {
		queues[i].device = device;
		queues[i].index = i;
		queues[i].lock = &device->lock;
		queues[i].memory = environment->memory;
		queues[i].size_max = queue_size;
	}
}

void *virtio_device_create(size_t bytes, const struct virtio_device_ops *ops, const char *name,
	uint64_t features, unsigned queue_count, uint16_t queue_size,
	const struct virtio_environment *environment)
{
	size_t queues_at = bytes + -bytes % _Alignof(struct virtq);
	uint8_t *memory = calloc(1, queues_at + queue_count * sizeof(struct virtq));

	if (memory)
		virtio_device_init((struct virtio_device *)memory, ops, name, features,
			(struct virtq *)(memory + queues_at), queue_count, queue_size, environment);
	return memory;
}

void virtio_set_counters(struct virtio_device *device, struct virtio_counter *counters,
	const char *const *names, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		counters[i].name = names[i];
	device->counters = counters;
	device->counter_count = count;
}

void virtio_separate_queues(struct virtio_device *device)
{
	for (unsigned i = 0; i < device->queue_count; i++) {
		pthread_mutex_init(&device->queues[i].own_lock, NULL);
		device->queues[i].lock = &device->queues[i].own_lock;
	}
}

static bool has_own_lock(const struct virtq *queue)
{
	return queue->lock == &queue->own_lock;
}

void virtio_device_destroy(struct virtio_device *device)
{
	for (unsigned i = 0; i < device->queue_count; i++) {
		if (has_own_lock(&device->queues[i]))
			pthread_mutex_destroy(&device->queues[i].own_lock);
	}
	pthread_mutex_destroy(&device->lock);
}

void virtio_device_free(struct virtio_device *device)
{
	virtio_device_destroy(device);
	free(device);
}

void virtio_lock(struct virtio_device *device)
{
	pthread_mutex_lock(&device->lock);
	for (unsigned i = 0; i < device->queue_count; i++) {
		if (has_own_lock(&device->queues[i]))
			pthread_mutex_lock(&device->queues[i].own_lock);
	}
}

void virtio_unlock(struct virtio_device *device)
{
	for (unsigned i = 0; i < device->queue_count; i++) {
		if (has_own_lock(&device->queues[i]))
			pthread_mutex_unlock(&device->queues[i].own_lock);
	}
	pthread_mutex_unlock(&device->lock);
}

/* What the driver, a timer or the backend told of before or during the pause was put aside. */
static void go_on(struct virtio_device *device)
{
	if (device->ops->resume)
		device->ops->resume(device);
	for (unsigned i = 0; i < device->queue_count && virtio_running(device); i++) {
		if (device->queues[i].size)
			virtio_reschedule(&device->queues[i]);
	}
}

void virtio_start(struct virtio_device *device)
{
	virtio_lock(device);
	debug_assert(device->state == VIRTIO_CREATED);
	device->state = VIRTIO_RUNNING;
	if (device->ops->start)
		device->ops->start(device);
	/* It is restored, then. */
	if (device->status & VIRTIO_CONFIG_S_DRIVER_OK)
		go_on(device);
	virtio_unlock(device);
}

void virtio_pause(struct virtio_device *device)
{
	virtio_lock(device);
	debug_assert(device->state == VIRTIO_RUNNING);
	device->state = VIRTIO_PAUSED;
	if (device->ops->pause)
		device->ops->pause(device);
	/* During a reset the rings are not ours any more. */
	for (unsigned i = 0; i < device->queue_count && !device->resetting; i++) {
		device->queues[i].coalescing = false;
		virtq_interrupt(&device->queues[i]);
	}
	virtio_unlock(device);
}

void virtio_resume(struct virtio_device *device)
{
	virtio_lock(device);
	debug_assert(device->state == VIRTIO_PAUSED);
	device->state = VIRTIO_RUNNING;
	go_on(device);
	virtio_unlock(device);
}

static bool is_drained(struct virtio_device *device)
{
	bool drained;

	virtio_lock(device);
	drained = device->in_flight == 0 && !device->resetting;
	for (unsigned i = 0; i < device->queue_count; i++)
		drained &= !device->queues[i].interrupt_deferred;
	virtio_unlock(device);
	return drained;
}

bool virtio_drain_within(struct virtio_device *device, unsigned milliseconds)
{
	const struct timespec interval = { .tv_nsec = 1000 * 1000 };
	int64_t end = nanoseconds() + milliseconds * 1000000ll;
	bool drained;

	debug_assert(device->state == VIRTIO_PAUSED || device->state == VIRTIO_ENDING);
	while (!(drained = is_drained(device)) && nanoseconds() < end)
		nanosleep(&interval, NULL);
	return drained;
}

void virtio_drain(struct virtio_device *device)
{
	while (!virtio_drain_within(device, UINT32_MAX))
		;
}

/* The state is changed without a lock: who holds one may wait for what end() is to hurry. */
void virtio_end(struct virtio_device *device)
{
	debug_assert(device->state == VIRTIO_RUNNING || device->state == VIRTIO_PAUSED);
	device->state = VIRTIO_ENDING;
	if (device->ops->end)
		device->ops->end(device);
	virtio_drain(device);
}
