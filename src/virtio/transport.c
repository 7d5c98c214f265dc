// SPDX-License-Identifier: GPL-2.0-only
/* The device's side of the virtio transport: features, status, configuration, queues, reset. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "karma/log.h"
#include "karma/util.h"
#include "karma/virtio.h"

#define FEATURES_TRANSPORT \
	((1ull << VIRTIO_F_VERSION_1) | (1ull << VIRTIO_RING_F_INDIRECT_DESC) | \
		(1ull << VIRTIO_RING_F_EVENT_IDX))

#define STATUS_KNOWN \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
		VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)

/* Lines in the log for one device: a guest must not fill it. */
#define COMPLAINTS_MAX 8

#define SERVE_BUFFERS 32u

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

static void finish_reset(struct virtio_device *device)
{
	for (unsigned i = 0; i < device->queue_count; i++)
		virtq_reset(&device->queues[i]);
	device->accepted = 0;
	device->status = 0;
	device->resetting = false;
}

static void start_reset(struct virtio_device *device)
{
	if (device->resetting)
		return;
	device->resetting = true;
	if (device->ops->reset)
		device->ops->reset(device);
	if (device->in_flight == 0)
		finish_reset(device);
}

int64_t virtio_accept(struct virtio_device *device, unsigned half, uint32_t bits)
{
	int64_t result = 0;

	if (half > 1)
		return -EINVAL;
	virtio_lock(device);
	if (device->status & VIRTIO_CONFIG_S_FEATURES_OK)
		result = -EBUSY;
	else if (half == 0)
		device->accepted = (device->accepted & ~0xffffffffull) | bits;
	else
		device->accepted = (device->accepted & 0xffffffffull) | (uint64_t)bits << 32;
	virtio_unlock(device);
	return result;
}

int64_t virtio_get_status(struct virtio_device *device)
{
	return device->status;
}

static bool features_acceptable(const struct virtio_device *device)
{
	return !(device->accepted & ~device->offered) &&
		(device->accepted & (1ull << VIRTIO_F_VERSION_1));
}

static int64_t raise_status(struct virtio_device *device, uint8_t status)
{
	uint8_t new_bits = status & ~device->status;

	/* The driver never clears a bit but by a reset (virtio 1.2, section 2.1.1). */
	if (device->resetting || (device->status & ~status & ~VIRTIO_CONFIG_S_NEEDS_RESET))
		return -EINVAL;
	/* Features that can't be: the bit stays clear, which the driver reads back (3.1.1). */
	if ((new_bits & VIRTIO_CONFIG_S_FEATURES_OK) && !features_acceptable(device))
		status &= ~VIRTIO_CONFIG_S_FEATURES_OK;
	if ((status & VIRTIO_CONFIG_S_DRIVER_OK) && !(status & VIRTIO_CONFIG_S_FEATURES_OK))
		return -EINVAL;
	device->status =
		(status & ~VIRTIO_CONFIG_S_NEEDS_RESET) | (device->status & VIRTIO_CONFIG_S_NEEDS_RESET);
	if ((new_bits & VIRTIO_CONFIG_S_DRIVER_OK) && device->ops->start)
		device->ops->start(device);
	return 0;
}

int64_t virtio_set_status(struct virtio_device *device, uint32_t status)
{
	int64_t result = 0;

	if (status & ~(uint32_t)STATUS_KNOWN)
		return -EINVAL;
	virtio_lock(device);
	if (status == 0)
		start_reset(device);
	else
		result = raise_status(device, status);
	virtio_unlock(device);
	return result;
}

static bool config_range_valid(const struct virtio_device *device, size_t offset, size_t length)
{
	return offset <= device->config_size && length <= device->config_size - offset;
}

int64_t virtio_config_read(struct virtio_device *device, size_t offset, void *to, size_t length)
{
	if (!config_range_valid(device, offset, length))
		return -EINVAL;
	virtio_lock(device);
	memcpy(to, (const uint8_t *)device->config + offset, length);
	virtio_unlock(device);
	return 0;
}

int64_t virtio_config_write(
	struct virtio_device *device, size_t offset, const void *from, size_t length)
{
	int64_t result;

	if (!config_range_valid(device, offset, length))
		return -EINVAL;
	if (!device->ops->write_config)
		return -EPERM;
	virtio_lock(device);
	result = device->ops->write_config(device, offset, from, length);
	virtio_unlock(device);
	return result;
}

int64_t virtio_generation(struct virtio_device *device)
{
	return device->generation;
}

int64_t virtio_queue_setup(
	struct virtio_device *device, unsigned queue, const struct karma_queue_setup *setup)
{
	int64_t result = -EINVAL;

	if (queue >= device->queue_count)
		return -EINVAL;
	virtio_lock(device);
	if ((device->status & VIRTIO_CONFIG_S_FEATURES_OK) && !device->resetting)
		result = virtq_enable(&device->queues[queue], setup, device->accepted);
	virtio_unlock(device);
	return result;
}

int64_t virtio_queue_interrupt(
	struct virtio_device *device, unsigned queue, const struct karma_interrupt *interrupt)
{
	if (queue >= device->queue_count)
		return -EINVAL;
	pthread_mutex_lock(device->queues[queue].lock);
	device->queues[queue].interrupt = *interrupt;
	pthread_mutex_unlock(device->queues[queue].lock);
	return 0;
}

int64_t virtio_queue_notify(struct virtio_device *device, unsigned index)
{
	struct virtq *queue;
	int64_t result = 0;

	if (index >= device->queue_count)
		return -EINVAL;
	queue = &device->queues[index];
	pthread_mutex_lock(queue->lock);
	if (!queue->size) {
		result = -EINVAL;
	} else {
		count_up(&queue->notifications, 1);
		if (virtio_running(device))
			device->ops->notify(device, index);
	}
	pthread_mutex_unlock(queue->lock);
	return result;
}

bool virtio_running(const struct virtio_device *device)
{
	return (device->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
		!(device->status & VIRTIO_CONFIG_S_NEEDS_RESET) && !device->resetting;
}

void virtio_needs_reset(struct virtio_device *device, const struct virtq *queue)
{
	if (atomic_fetch_or(&device->status, VIRTIO_CONFIG_S_NEEDS_RESET) &
		VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	if (device->complaints++ < COMPLAINTS_MAX)
		note("device %s: its driver broke the %s queue (%s): it is stopped until the guest "
		     "resets it",
			device->name, queue->name, queue->broken);
	virtio_config_changed(device);
}

bool virtio_pop(struct virtio_device *device, struct virtq *queue, struct iovec *iov,
	unsigned capacity, struct virtq_chain *chain)
{
	int result = virtq_pop(queue, iov, capacity, chain);

	if (result < 0)
		virtio_needs_reset(device, queue);
	return result == 1;
}

void virtio_request_started(struct virtio_device *device)
{
	device->in_flight++;
}

static void reset_done(struct io_op *op, int result)
{
	struct virtio_device *device = container_of(op, struct virtio_device, reset_op);

	(void)result;
	virtio_lock(device);
	finish_reset(device);
	virtio_unlock(device);
}

/* The last one of a device that resets: finish that where all locks can be had. */
void virtio_request_done(struct virtio_device *device)
{
	if (atomic_fetch_sub(&device->in_flight, 1) > 1 || !device->resetting)
		return;
	device->reset_op.done = reset_done;
	io_ring_nop(device->ring, &device->reset_op);
	io_ring_submit(device->ring);
}

static void send_interrupt(struct io_deferred *after)
{
	struct virtq *queue = container_of(after, struct virtq, interrupt_after);

	pthread_mutex_lock(queue->lock);
	queue->interrupt_due = false;
	virtq_interrupt(queue);
	pthread_mutex_unlock(queue->lock);
}

void virtio_interrupt_after(struct virtq *queue)
{
	if (queue->interrupt_due)
		return;
	queue->interrupt_due = true;
	queue->interrupt_after.run = send_interrupt;
	io_ring_defer_until_reaped(&queue->interrupt_after);
}

static void run_again(struct io_op *op, int result)
{
	struct virtq *queue = container_of(op, struct virtq, again_op);
	struct virtio_device *device = queue->device;

	(void)result;
	pthread_mutex_lock(queue->lock);
	queue->again = false;
	if (virtio_running(device))
		device->ops->notify(device, queue->index);
	virtio_request_done(device);
	pthread_mutex_unlock(queue->lock);
}

void virtio_again(struct virtq *queue)
{
	struct virtio_device *device = queue->device;

	if (queue->again)
		return;
	queue->again = true;
	virtio_request_started(device);
	queue->again_op.done = run_again;
	io_ring_nop(device->ring, &queue->again_op);
	io_ring_submit(device->ring);
}

void virtio_serve_queue(struct virtio_device *device, unsigned index,
	uint32_t (*serve)(struct virtio_device *device, unsigned queue,
		const struct virtq_chain *chain))
{
	struct virtq *queue = &device->queues[index];
	unsigned most = queue->size_max;
	unsigned capacity = most < SERVE_BUFFERS ? most : SERVE_BUFFERS;
	struct iovec iov[SERVE_BUFFERS];
	struct virtq_chain chain;
	unsigned taken = 0;

	do {
		while (taken < most && virtio_pop(device, queue, iov, capacity, &chain)) {
			virtq_push(queue, chain.head, serve(device, index, &chain));
			taken++;
		}
	} while (virtq_enable_notify(queue) && taken < most);
	if (taken == most)
		virtio_again(queue);
	virtq_interrupt(queue);
}

void virtio_config_changed(struct virtio_device *device)
{
	device->generation++;
	if (device->changed)
		device->changed(device->changed_context, device);
}

static bool is_idle(struct virtio_device *device)
{
	bool idle;

	virtio_lock(device);
	idle = device->in_flight == 0 && !device->resetting;
	virtio_unlock(device);
	return idle;
}

void virtio_wait_idle(struct virtio_device *device)
{
	const struct timespec moment = { .tv_nsec = 1000 * 1000 };

	device->ending = true;
	if (device->ops->end)
		device->ops->end(device);
	while (!is_idle(device))
		nanosleep(&moment, NULL);
}
