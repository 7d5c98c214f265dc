// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the balloon as a hostile guest does: rings, lists of pages and reports, and memory that
 * changes meanwhile if the first byte says so.  No chain gives back more than the device says it
 * may, and of the configuration the guest changes its own field alone.
 */
#include <linux/virtio_balloon.h>
#include <string.h>

#include "guest.h"
#include "karma/devices.h"
#include "karma/util.h"

#define STEPS_MAX 200u
/* What one chain may give back: 4,096 pages. */
#define CHAIN_BYTES (4096ull * PAGE_BYTES)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct io_ring ring;

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

static void do_step(struct driver *driver, struct script *script)
{
	uint8_t operation = take(script, 1);

	if (driver_step(driver, operation, script))
		return;
	switch (operation & 0xf) {
	case 0:
	case 1:
		driver_any_chain(driver, driver_queue(driver, operation), script);
		break;
	case 2:
		write_pfn(script);
		break;
	default:
		write_config(driver->device, script);
	}
}

static uint64_t chains(const struct virtio_device *device)
{
	uint64_t count = 0;

	for (unsigned i = 0; i < device->queue_count; i++)
		count += device->queues[i].chains;
	return count;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	memory_make(DRIVER_MEMORY);
	check(io_ring_init(&ring, 64) == 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct virtio_environment environment = { &memory, &ring };
	struct script script = { data, data + size };
	uint8_t kind = take(&script, 1);
	struct driver driver;

	driver_init(&driver, balloon_create(&environment, 0), &ring);
	driver_start(&driver, &script);
	meddling_start(kind, QUEUE_BYTES / 16);
	for (unsigned i = 0; i < STEPS_MAX && !script_over(&script); i++)
		do_step(&driver, &script);
	meddling_stop();
	check(driver.device->counters[0].value <= chains(driver.device) * CHAIN_BYTES);
	driver_reset(&driver);
	driver.device->ops->release(driver.device);
	memory_clear();
	return 0;
}
