// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the balloon as a hostile guest does: rings, lists of pages and reports, and memory that
 * changes meanwhile if the first byte says so.  No chain gives back more than the device says it
 * may, and of the configuration the guest changes its own field alone.
 */
#include <linux/virtio_balloon.h>
#include <string.h>

#include "device.h"
#include "karma/devices.h"
#include "karma/util.h"

/* What one chain may give back: 4,096 pages. */
#define CHAIN_BYTES (4096ull * PAGE_BYTES)

/* A page's number, mostly of one that there is, where lists of them are. */
static void write_pfn(struct script *script)
{
	uint64_t at = DATA_AT + take(script, 2);
	uint8_t kind = take(script, 1);
	uint32_t pfn = kind < 0xf0 ? kind % (DRIVER_MEMORY / PAGE_BYTES + 1) : take(script, 4);

	for (unsigned i = 0; i < sizeof(pfn); i++)
		memory_store(at + i, pfn >> (8 * i));
}

static void write_config(struct virtio_device *device, struct script *script)
{
	size_t offset = take(script, 1), length = 1 + take(script, 1) % 16;
	bool own = offset == offsetof(struct virtio_balloon_config, actual) && length == 4;
	uint8_t before[sizeof(struct virtio_balloon_config)], after[sizeof(before)];
	const uint8_t bytes[16] = { take(script, 1), 1, 2, 3 };

	memcpy(before, device->config, device->config_size);
	check((virtio_config_write(device, offset, bytes, length) == 0) == own);
	check(virtio_config_read(device, 0, after, device->config_size) == 0);
	if (own)
		memcpy(before + offset, bytes, length);
	check(memcmp(before, after, device->config_size) == 0);
}

static void step(uint8_t operation, struct script *script)
{
	switch (operation & 0xf) {
	case 0:
	case 1:
		driver_any_chain(&driver, driver_queue(&driver, operation), script);
		break;
	case 2:
		write_pfn(script);
		break;
	default:
		write_config(driver.device, script);
	}
}

static uint64_t chains(const struct virtio_device *device)
{
	uint64_t count = 0;

	for (unsigned i = 0; i < device->queue_count; i++)
		count += device->queues[i].chains;
	return count;
}

static void check_given_back(void)
{
	check(driver.device->counters[0].value <= chains(driver.device) * CHAIN_BYTES);
}

static struct virtio_device *create(uint8_t kind)
{
	const struct virtio_environment environment = { &memory, &ring };

	(void)kind;
	return balloon_create(&environment, 0);
}

static void release(void)
{
	driver.device->ops->release(driver.device);
}

const struct device_fuzzer fuzzer = {
	.ring_entries = 64,
	.create = create,
	.step = step,
	.check = check_given_back,
	.release = release,
};
