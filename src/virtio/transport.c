// SPDX-License-Identifier: GPL-2.0-only
/* The device's side of the virtio transport: features, status, configuration, queues, reset. */
#include <errno.h>
#include <linux/virtio_config.h>
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
		queues[i].memory = environment->memory;
		queues[i].size_max = queue_size;
		queues[i].irq_fd = -1;
	}
}

void virtio_device_destroy(struct virtio_device *device)
{
	pthread_mutex_destroy(&device->lock);
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
	pthread_mutex_lock(&device->lock);
	if (device->status & VIRTIO_CONFIG_S_FEATURES_OK)
		result = -EBUSY;
	else if (half == 0)
		device->accepted = (device->accepted & ~0xffffffffull) | bits;
	else
		device->accepted = (device->accepted & 0xffffffffull) | (uint64_t)bits << 32;
	pthread_mutex_unlock(&device->lock);
	return result;
}

int64_t virtio_get_status(struct virtio_device *device)
{
	int64_t status;

	pthread_mutex_lock(&device->lock);
	status = device->status;
	pthread_mutex_unlock(&device->lock);
	return status;
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
	pthread_mutex_lock(&device->lock);
	if (status == 0)
		start_reset(device);
	else
		result = raise_status(device, status);
	pthread_mutex_unlock(&device->lock);
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
	pthread_mutex_lock(&device->lock);
	memcpy(to, (const uint8_t *)device->config + offset, length);
	pthread_mutex_unlock(&device->lock);
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
	pthread_mutex_lock(&device->lock);
	result = device->ops->write_config(device, offset, from, length);
	pthread_mutex_unlock(&device->lock);
	return result;
}

int64_t virtio_generation(struct virtio_device *device)
{
	int64_t generation;

	pthread_mutex_lock(&device->lock);
	generation = device->generation;
	pthread_mutex_unlock(&device->lock);
	return generation;
}

int64_t virtio_queue_setup(
	struct virtio_device *device, unsigned queue, const struct karma_queue_setup *setup)
{
	int64_t result = -EINVAL;

	if (queue >= device->queue_count)
		return -EINVAL;
	pthread_mutex_lock(&device->lock);
	if ((device->status & VIRTIO_CONFIG_S_FEATURES_OK) && !device->resetting)
		result = virtq_enable(&device->queues[queue], setup, device->accepted);
	pthread_mutex_unlock(&device->lock);
	return result;
}

int64_t virtio_queue_notify(struct virtio_device *device, unsigned queue)
{
	int64_t result = 0;

	if (queue >= device->queue_count)
		return -EINVAL;
	pthread_mutex_lock(&device->lock);
	if (!device->queues[queue].size) {
		result = -EINVAL;
	} else {
		device->queues[queue].notifications++;
		if (virtio_running(device))
			device->ops->notify(device, queue);
	}
	pthread_mutex_unlock(&device->lock);
	return result;
}

bool virtio_running(const struct virtio_device *device)
{
	return (device->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
		!(device->status & VIRTIO_CONFIG_S_NEEDS_RESET) && !device->resetting;
}

void virtio_needs_reset(struct virtio_device *device, const struct virtq *queue)
{
	if (device->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	if (device->complaints++ < COMPLAINTS_MAX)
		note("device %s: its driver broke the %s queue (%s): it is stopped until the guest "
		     "resets it",
			device->name, queue->name, queue->broken);
	device->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
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

void virtio_request_done(struct virtio_device *device)
{
	device->in_flight--;
	if (device->in_flight == 0 && device->resetting)
		finish_reset(device);
}

static void run_again(struct io_op *op, int result)
{
	struct virtio_device *device = container_of(op, struct virtio_device, again_op);
	uint64_t queues;

	(void)result;
	pthread_mutex_lock(&device->lock);
	queues = device->again_queues;
	device->again_queues = 0;
	for (unsigned i = 0; i < device->queue_count; i++) {
		if ((queues & (1ull << i)) && virtio_running(device))
			device->ops->notify(device, i);
	}
	virtio_request_done(device);
	pthread_mutex_unlock(&device->lock);
}

void virtio_again(struct virtio_device *device, unsigned queue)
{
	bool pending = device->again_queues != 0;

	device->again_queues |= 1ull << queue;
	if (pending)
		return;
	virtio_request_started(device);
	device->again_op.done = run_again;
	io_ring_wake(device->ring, &device->again_op);
	io_ring_submit(device->ring);
}

void virtio_config_changed(struct virtio_device *device)
{
	device->generation++;
	if (device->changed)
		device->changed(device->changed_context, device);
}

void virtio_wait_idle(struct virtio_device *device)
{
	const struct timespec moment = { .tv_nsec = 1000 * 1000 };

	for (;;) {
		unsigned in_flight;

		pthread_mutex_lock(&device->lock);
		in_flight = device->in_flight;
		pthread_mutex_unlock(&device->lock);
		if (in_flight == 0)
			return;
		nanosleep(&moment, NULL);
	}
}
