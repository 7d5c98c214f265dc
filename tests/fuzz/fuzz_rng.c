// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the entropy source as a hostile guest does: its one ring, and memory that changes meanwhile
 * if the first byte says so.
 */
#include "device.h"
#include "karma/devices.h"

static struct virtio_device *create(uint8_t kind)
{
	const struct virtio_environment environment = { &memory, &ring };

	(void)kind;
	return rng_create(&environment);
}

static void release(void)
{
	driver.device->ops->release(driver.device);
}

const struct device_fuzzer fuzzer = {
	.ring_entries = 64,
	.create = create,
	.release = release,
};
