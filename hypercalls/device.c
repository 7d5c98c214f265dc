// SPDX-License-Identifier: GPL-2.0-only
/* Calls on devices: discovery, and the virtio transport. */
#include <errno.h>

#include "internal.h"

/* The fields of an argument beside the device's number; bits without a meaning are 0. */
#define ONLY_DEVICE(argument) ((argument) <= 0xffu)
#define ONLY_DEVICE_AND_INDEX(argument) ((argument) <= 0xffffffu)

static struct virtio_device *find_device(struct machine *machine, uint32_t argument)
{
	uint32_t number = KARMA_ARG_DEVICE(argument);

	return number < machine->device_count ? machine->devices[number] : NULL;
}

int64_t call_device_info(struct machine *machine, uint32_t argument, uint64_t address)
{
	struct virtio_device *device = find_device(machine, argument);
	struct karma_device_info info;

	if (!device)
		return -ENODEV;
	if (!ONLY_DEVICE(argument))
		return -EINVAL;
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
	struct virtio_device *device = find_device(machine, argument);

	if (!device)
		return -ENODEV;
	if (!ONLY_DEVICE_AND_INDEX(argument))
		return -EINVAL;
	if (bits > UINT32_MAX)
		return -EINVAL;
	return virtio_accept(device, KARMA_ARG_INDEX(argument), bits);
}

int64_t call_device_status(struct machine *machine, uint32_t argument, uint64_t value)
{
	struct virtio_device *device = find_device(machine, argument);

	if (!device)
		return -ENODEV;
	if (!ONLY_DEVICE(argument))
		return -EINVAL;
	return value ? -EINVAL : virtio_get_status(device);
}

int64_t call_device_set_status(struct machine *machine, uint32_t argument, uint64_t status)
{
	struct virtio_device *device = find_device(machine, argument);

	if (!device)
		return -ENODEV;
	if (!ONLY_DEVICE(argument))
		return -EINVAL;
	return status > UINT8_MAX ? -EINVAL : virtio_set_status(device, status);
}

int64_t call_config_generation(struct machine *machine, uint32_t argument, uint64_t value)
{
	struct virtio_device *device = find_device(machine, argument);

	if (!device)
		return -ENODEV;
	if (!ONLY_DEVICE(argument))
		return -EINVAL;
	return value ? -EINVAL : virtio_generation(device);
}

int64_t call_config_read(struct machine *machine, uint32_t argument, uint64_t address)
{
	struct virtio_device *device = find_device(machine, argument);
	uint8_t buffer[KARMA_CONFIG_MAX];
	uint32_t length = KARMA_ARG_LENGTH(argument);
	int64_t result;

	if (!device)
		return -ENODEV;
	result = virtio_config_read(device, KARMA_ARG_OFFSET(argument), buffer, length);
	if (result < 0)
		return result;
	return guest_memory_write(machine->memory, GPA(address), buffer, length);
}

int64_t call_config_write(struct machine *machine, uint32_t argument, uint64_t address)
{
	struct virtio_device *device = find_device(machine, argument);
	uint8_t buffer[KARMA_CONFIG_MAX];
	uint32_t length = KARMA_ARG_LENGTH(argument);
	int64_t result;

	if (!device)
		return -ENODEV;
	result = guest_memory_read(machine->memory, GPA(address), buffer, length);
	if (result < 0)
		return result;
	return virtio_config_write(device, KARMA_ARG_OFFSET(argument), buffer, length);
}

int64_t call_queue_info(struct machine *machine, uint32_t argument, uint64_t value)
{
	struct virtio_device *device = find_device(machine, argument);
	uint32_t index = KARMA_ARG_INDEX(argument);

	if (!device)
		return -ENODEV;
	if (!ONLY_DEVICE_AND_INDEX(argument))
		return -EINVAL;
	if (index >= device->queue_count || value)
		return -EINVAL;
	return device->queues[index].size_max | (int64_t)device->queues[index].gsi << 16;
}

int64_t call_queue_setup(struct machine *machine, uint32_t argument, uint64_t address)
{
	struct virtio_device *device = find_device(machine, argument);
	struct karma_queue_setup setup;
	int result;

	if (!device)
		return -ENODEV;
	if (!ONLY_DEVICE_AND_INDEX(argument))
		return -EINVAL;
	result = guest_memory_read(machine->memory, GPA(address), &setup, sizeof(setup));
	if (result < 0)
		return result;
	return virtio_queue_setup(device, KARMA_ARG_INDEX(argument), &setup);
}

int64_t call_queue_notify(struct machine *machine, uint32_t argument, uint64_t value)
{
	struct virtio_device *device = find_device(machine, argument);

	if (!device)
		return -ENODEV;
	if (!ONLY_DEVICE_AND_INDEX(argument))
		return -EINVAL;
	return value ? -EINVAL : virtio_queue_notify(device, KARMA_ARG_INDEX(argument));
}
