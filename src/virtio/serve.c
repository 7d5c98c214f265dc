// SPDX-License-Identifier: GPL-2.0-only
/* How a device serves its queues: chains, interrupts, whose turn it is, and broken queues. */
#include <linux/virtio_config.h>
#include <stdatomic.h>

#include "karma/log.h"
#include "karma/util.h"
#include "karma/virtio.h"

/* Lines in the log for one device: a guest must not fill it. */
#define ERRORS_LOGGED_MAX 8

#define SERVE_BUFFERS 32u

bool virtio_running(const struct virtio_device *device)
{
	return (device->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
		!(device->status & VIRTIO_CONFIG_S_NEEDS_RESET) && !device->resetting &&
		device->state != VIRTIO_PAUSED;
}

bool virtio_request_reset(struct virtio_device *device)
{
	if (atomic_fetch_or(&device->status, VIRTIO_CONFIG_S_NEEDS_RESET) &
		VIRTIO_CONFIG_S_NEEDS_RESET)
		return false;
	virtio_config_changed(device);
	return true;
}

static void ask_for_reset(struct virtio_device *device, const struct virtq *queue)
{
	if (virtio_request_reset(device) && device->errors_logged++ < ERRORS_LOGGED_MAX)
		note("device %s: its driver broke the %s queue (%s): it is stopped until the guest "
		     "resets it",
			device->name, queue->name, queue->broken);
}

void virtio_break_queue(struct virtq *queue, const char *why)
{
	queue->broken = why;
	ask_for_reset(queue->device, queue);
}

bool virtio_pop(struct virtio_device *device, struct virtq *queue, struct iovec *iov,
	unsigned capacity, struct virtq_chain *chain)
{
	int result = virtq_pop(queue, iov, capacity, chain);

	if (result < 0)
		ask_for_reset(device, queue);
	return result == 1;
}

static void send_deferred_interrupt(struct io_deferred *after)
{
	struct virtq *queue = container_of(after, struct virtq, deferred_interrupt);

	pthread_mutex_lock(queue->lock);
	queue->interrupt_deferred = false;
	virtq_interrupt(queue);
	pthread_mutex_unlock(queue->lock);
}

void virtio_defer_interrupt(struct virtq *queue)
{
	if (queue->interrupt_deferred)
		return;
	queue->interrupt_deferred = true;
	queue->deferred_interrupt.run = send_deferred_interrupt;
	io_ring_defer_until_reaped(&queue->deferred_interrupt);
}

void virtio_notify(struct virtq *queue)
{
	struct virtio_device *device = queue->device;

	if (!virtio_running(device))
		return;
	if (device->ops->notify)
		device->ops->notify(device, queue->index);
	else
		virtio_serve_queue(queue);
}

static void serve_rescheduled(struct io_op *op, int result)
{
	struct virtq *queue = container_of(op, struct virtq, reschedule_op);
	struct virtio_device *device = queue->device;

	(void)result;
	pthread_mutex_lock(queue->lock);
	queue->rescheduled = false;
	virtio_notify(queue);
	virtio_request_done(device);
	pthread_mutex_unlock(queue->lock);
}

void virtio_reschedule(struct virtq *queue)
{
	struct virtio_device *device = queue->device;

	if (queue->rescheduled)
		return;
	queue->rescheduled = true;
	virtio_request_started(device);
	queue->reschedule_op.done = serve_rescheduled;
	io_ring_nop(device->ring, &queue->reschedule_op);
	io_ring_submit(device->ring);
}

unsigned virtio_serve_chains(struct virtq *queue, enum virtio_step (*step)(struct virtq *queue))
{
	enum virtio_step result;
	unsigned served = 0;
	bool more;

	do {
		do {
			result = step(queue);
			served += result == VIRTIO_SERVED;
		} while (result == VIRTIO_SERVED && served < queue->size_max);
		more = virtq_enable_notify(queue) && result != VIRTIO_BLOCKED;
	} while (more && served < queue->size_max);
	if (served == queue->size_max)
		virtio_reschedule(queue);
	virtq_interrupt(queue);
	return served;
}

static enum virtio_step serve_chain(struct virtq *queue)
{
	struct virtio_device *device = queue->device;
	struct iovec iov[SERVE_BUFFERS];
	unsigned capacity = queue->size_max < SERVE_BUFFERS ? queue->size_max : SERVE_BUFFERS;
	struct virtq_chain chain;

	if (!virtio_pop(device, queue, iov, capacity, &chain))
		return VIRTIO_NO_CHAIN;
	virtq_push(queue, chain.head, device->ops->serve(device, queue->index, &chain));
	return VIRTIO_SERVED;
}

void virtio_serve_queue(struct virtq *queue)
{
	virtio_serve_chains(queue, serve_chain);
}

void virtio_config_changed(struct virtio_device *device)
{
	device->generation++;
	if (device->changed)
		device->changed(device->changed_context, device);
}
