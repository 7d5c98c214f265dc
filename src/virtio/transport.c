// SPDX-License-Identifier: GPL-2.0-only
/* The device's side of the virtio transport: features, status, configuration, queues, reset; its state. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "karma/debug.h"
#include "karma/log.h"
#include "karma/snapshot.h"
#include "karma/util.h"
#include "karma/virtio.h"

#define STATUS_KNOWN \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
		VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)

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
	if ((new_bits & VIRTIO_CONFIG_S_DRIVER_OK) && device->ops->driver_ok)
		device->ops->driver_ok(device);
	return 0;
}

int64_t virtio_set_status(struct virtio_device *device, uint32_t status)
{
	int64_t result = 0;

	if (status & ~(uint32_t)STATUS_KNOWN)
		return -EINVAL;
	virtio_lock(device);
	debug_assert(device->state == VIRTIO_RUNNING || (device->state == VIRTIO_PAUSED && status == 0));
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
	if (device->ops->set_interrupt)
		device->ops->set_interrupt(device, queue);
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
		virtio_notify(queue);
	}
	pthread_mutex_unlock(queue->lock);
	return result;
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

/* --- The state in a snapshot. */

#define STATE_VERSION 1u

int virtio_save(struct virtio_device *device, unsigned number, struct snapshot_writer *to)
{
	const char *why;

	virtio_lock(device);
	debug_assert(device->state == VIRTIO_PAUSED && device->in_flight == 0 && !device->resetting);
	why = device->ops->unsavable ? device->ops->unsavable(device) : NULL;
	if (!why) {
		snapshot_begin(to, SNAPSHOT_DEVICE, number, STATE_VERSION);
		snapshot_put_number(to, device->status);
		snapshot_put_number(to, device->accepted);
		snapshot_put_number(to, device->generation);
		for (unsigned i = 0; i < device->queue_count; i++)
			virtq_save(&device->queues[i], to);
		snapshot_put_number(to, device->config_size);
		if (device->config_size)
			snapshot_put(to, device->config, device->config_size);
		snapshot_end(to);
	}
	if (!why && device->ops->save) {
		snapshot_begin(to, SNAPSHOT_DEVICE_OWN, number, STATE_VERSION);
		device->ops->save(device, to);
		snapshot_end(to);
	}
	virtio_unlock(device);
	return why ? fail(-ENOTSUP, "device %s: can't be in a snapshot, since %s", device->name, why) : 0;
}

int virtio_state_damaged(const struct virtio_device *device, const char *what)
{
	return fail(-EINVAL, "snapshot: device %s: %s: the state is damaged: make the snapshot anew", device->name, what);
}

static int restore_status(struct virtio_device *device, struct snapshot_reader *from)
{
	uint64_t status = snapshot_get_number(from), missing;

	device->accepted = snapshot_get_number(from);
	device->generation = snapshot_get_number(from);
	if ((status & ~(uint64_t)STATUS_KNOWN) ||
		((status & VIRTIO_CONFIG_S_DRIVER_OK) && !(status & VIRTIO_CONFIG_S_FEATURES_OK)))
		return virtio_state_damaged(device, "it has a status that no driver can have set");
	device->status = status;
	missing = device->accepted & ~device->offered;
	if (!(status & VIRTIO_CONFIG_S_FEATURES_OK) || features_acceptable(device))
		return 0;
	if (!missing)
		return virtio_state_damaged(device, "its driver has not accepted VIRTIO_F_VERSION_1");
	return fail(-ENOTSUP,
		"snapshot: device %s: lacks the features 0x%llx here, which its guest uses: give what is behind it as "
		"when the snapshot was made, with the same options",
		device->name, (unsigned long long)missing);
}

static int queue_damaged(const struct virtq *queue, const char *wrong)
{
	char what[120];

	snprintf(what, sizeof(what), "its %s queue %s", queue->name, wrong);
	return virtio_state_damaged(queue->device, what);
}

static int restore_queues(struct virtio_device *device, struct snapshot_reader *from)
{
	for (unsigned i = 0; i < device->queue_count; i++) {
		struct virtq *queue = &device->queues[i];
		const char *wrong = virtq_restore(queue, device->accepted, from);

		if (!wrong && queue->size && !(device->status & VIRTIO_CONFIG_S_FEATURES_OK))
			wrong = "is set up before its features are accepted";
		if (wrong)
			return queue_damaged(queue, wrong);
		if (device->ops->set_interrupt)
			device->ops->set_interrupt(device, i);
	}
	return 0;
}

/* What the guest knows of the configuration, which is as long as it was when the guest's driver started. */
struct known_config {
	size_t size;
	uint8_t bytes[KARMA_CONFIG_MAX];
};

static int restore_config(
	struct virtio_device *device, struct snapshot_reader *from, struct known_config *known)
{
	known->size = snapshot_get_number(from);
	if (known->size > sizeof(known->bytes))
		return virtio_state_damaged(device, "its configuration is longer than a guest can read");
	snapshot_get(from, known->bytes, known->size);
	return 0;
}

static bool is_known(const struct virtio_device *device, const struct known_config *known)
{
	size_t length = known->size < device->config_size ? known->size : device->config_size;

	return length == 0 || memcmp(device->config, known->bytes, length) == 0;
}

static int restore_transport(struct virtio_device *device, unsigned number, struct snapshot_reader *from,
	struct known_config *known)
{
	int result = snapshot_open(from, SNAPSHOT_DEVICE, number, STATE_VERSION);

	if (result < 0)
		return result;
	result = restore_status(device, from);
	if (result == 0)
		result = restore_queues(device, from);
	if (result == 0)
		result = restore_config(device, from, known);
	return result == 0 ? snapshot_close(from) : result;
}

static int restore_own(struct virtio_device *device, unsigned number, struct snapshot_reader *from)
{
	int result = 0;

	if (device->ops->restore)
		result = snapshot_open(from, SNAPSHOT_DEVICE_OWN, number, STATE_VERSION);
	if (!device->ops->restore || result < 0)
		return result;
	result = device->ops->restore(device, from);
	return result < 0 ? result : snapshot_close(from);
}

int virtio_restore(struct virtio_device *device, unsigned number, struct snapshot_reader *from)
{
	struct known_config known;
	int result;

	virtio_lock(device);
	debug_assert(device->state == VIRTIO_CREATED);
	result = restore_transport(device, number, from, &known);
	if (result == 0)
		result = restore_own(device, number, from);
	if (result == 0 && !is_known(device, &known))
		virtio_config_changed(device);
	virtio_unlock(device);
	return result;
}
