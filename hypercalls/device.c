// SPDX-License-Identifier: GPL-2.0-only
/* Calls on devices: discovery, and the virtio transport. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <stdatomic.h>

#include "internal.h"

/* The bits of an argument that mean something; the others are 0. */
#define DEVICE_ONLY 0xffu
#define DEVICE_AND_INDEX 0xffffffu
#define DEVICE_AND_RANGE KARMA_ARGUMENT_MASK
#define NOTIFICATION (DEVICE_AND_INDEX | KARMA_NOTIFY_ANSWER)

/* The device that an argument names: 0, -ENODEV, or -EINVAL for bits that are not valid. */
static int find_device(struct machine *machine, uint32_t argument, uint32_t valid_bits,
	struct virtio_device **device)
{
	uint32_t number = KARMA_ARG_DEVICE(argument);

	if (number >= machine->device_count)
		return -ENODEV;
	if (argument & ~valid_bits)
		return -EINVAL;
	if (!atomic_load(&machine->individual))
		atomic_store(&machine->individual, true);
	*device = machine->devices[number];
	return 0;
}

int64_t call_device_info(struct machine *machine, uint32_t argument, uint64_t address)
{
	struct virtio_device *device;
	struct karma_device_info info;
	int64_t result = find_device(machine, argument, DEVICE_ONLY, &device);

	if (result < 0)
		return result;
	info = (struct karma_device_info){
		.device_id = device->ops->device_id,
		.queues = device->queue_count,
		.config_size = device->config_size,
		.features = device->offered,
	};
	return guest_memory_write(machine->memory, GPA(address), &info, sizeof(info));
}

int64_t call_device_accept(struct machine *machine, uint32_t argument, uint64_t bits)
{
	struct virtio_device *device;
	int64_t result = find_device(machine, argument, DEVICE_AND_INDEX, &device);

	if (result < 0)
		return result;
	if (bits > UINT32_MAX)
		return -EINVAL;
	return virtio_accept(device, KARMA_ARG_INDEX(argument), bits);
}

int64_t call_device_status(struct machine *machine, uint32_t argument, uint64_t value)
{
	struct virtio_device *device;
	int64_t result = find_device(machine, argument, DEVICE_ONLY, &device);

	if (result < 0)
		return result;
	return value ? -EINVAL : virtio_get_status(device);
}

int64_t call_device_set_status(struct machine *machine, uint32_t argument, uint64_t status)
{
	struct virtio_device *device;
	int64_t result = find_device(machine, argument, DEVICE_ONLY, &device);

	if (result < 0)
		return result;
	if (status > UINT8_MAX)
		return -EINVAL;
	result = virtio_set_status(device, status);
	if (result == 0 && (status & VIRTIO_CONFIG_S_DRIVER_OK))
		machine_driver_ready(machine, device);
	return result;
}

int64_t call_config_generation(struct machine *machine, uint32_t argument, uint64_t value)
{
	struct virtio_device *device;
	int64_t result = find_device(machine, argument, DEVICE_ONLY, &device);

	if (result < 0)
		return result;
	return value ? -EINVAL : virtio_generation(device);
}

int64_t call_config_read(struct machine *machine, uint32_t argument, uint64_t address)
{
	struct virtio_device *device;
	uint8_t buffer[KARMA_CONFIG_MAX];
	uint32_t length = KARMA_ARG_LENGTH(argument);
	int64_t result = find_device(machine, argument, DEVICE_AND_RANGE, &device);

	if (result < 0)
		return result;
	result = virtio_config_read(device, KARMA_ARG_OFFSET(argument), buffer, length);
	if (result < 0)
		return result;
	return guest_memory_write(machine->memory, GPA(address), buffer, length);
}

int64_t call_config_write(struct machine *machine, uint32_t argument, uint64_t address)
{
	struct virtio_device *device;
	uint8_t buffer[KARMA_CONFIG_MAX];
	uint32_t length = KARMA_ARG_LENGTH(argument);
	int64_t result = find_device(machine, argument, DEVICE_AND_RANGE, &device);

	if (result < 0)
		return result;
	result = guest_memory_read(machine->memory, GPA(address), buffer, length);
	if (result < 0)
		return result;
	return virtio_config_write(device, KARMA_ARG_OFFSET(argument), buffer, length);
}

int64_t call_queue_info(struct machine *machine, uint32_t argument, uint64_t value)
{
	struct virtio_device *device;
	uint32_t index = KARMA_ARG_INDEX(argument);
	int64_t result = find_device(machine, argument, DEVICE_AND_INDEX, &device);

	if (result < 0)
		return result;
	if (index >= device->queue_count || value)
		return -EINVAL;
	return device->queues[index].size_max;
}

int64_t call_queue_setup(struct machine *machine, uint32_t argument, uint64_t address)
{
	struct virtio_device *device;
	struct karma_queue_setup setup;
	int64_t result = find_device(machine, argument, DEVICE_AND_INDEX, &device);

	if (result < 0)
		return result;
	result = guest_memory_read(machine->memory, GPA(address), &setup, sizeof(setup));
	if (result < 0)
		return result;
	return virtio_queue_setup(device, KARMA_ARG_INDEX(argument), &setup);
}

int64_t call_queue_notify(struct machine *machine, uint32_t argument, uint64_t value)
{
	struct virtio_device *device;
	int64_t result = find_device(machine, argument, NOTIFICATION, &device);

	if (result < 0)
		return result;
	if (value)
		return -EINVAL;
	return virtio_queue_notify(device, KARMA_ARG_INDEX(argument), argument & KARMA_NOTIFY_ANSWER);
}

int64_t call_interrupt(struct machine *machine, uint32_t argument, uint64_t address)
{
	struct virtio_device *device = NULL;
	struct karma_interrupt interrupt;
	int64_t result = 0;

	if (argument != KARMA_EVENTS)
		result = find_device(machine, argument, DEVICE_AND_INDEX, &device);
	if (result == 0)
		result = guest_memory_read(machine->memory, GPA(address), &interrupt, sizeof(interrupt));
	if (result < 0)
		return result;
	if (!virtq_interrupt_valid(&interrupt))
		return -EINVAL;
	if (device)
		return virtio_queue_interrupt(device, KARMA_ARG_INDEX(argument), &interrupt);
	machine_set_event_interrupt(machine, &interrupt);
	return 0;
}
