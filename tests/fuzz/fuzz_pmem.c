// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz persistent memory as a hostile guest does: its one ring, requests for flushes, and memory that
 * changes meanwhile if the first byte says so.
 */
#include <stdio.h>
#include <sys/mman.h>

#include "device.h"
#include "karma/devices.h"

static int file;

static void prepare(void)
{
	file = memfd_create("pmem", MFD_CLOEXEC);
	check(file >= 0 && ftruncate(file, GUEST_HUGE_PAGE) == 0);
}

/* One whose flushes go to the file, or not. */
static struct virtio_device *create(uint8_t kind)
{
	const struct virtio_environment environment = { &memory, &ring };
	const struct memory_region place = { .gpa = GUEST_HOLE_END, .size = GUEST_HUGE_PAGE };
	struct disk_options options = { .raw = true };
	char path[32];
	struct disk *disk;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	options.path = path;
	check(disk_open(&disk, &options, &ring) == 0);
	return pmem_create(&environment, "pmem0", disk, &place, kind & 1);
}

static void release(void)
{
	driver.device->ops->release(driver.device);
}

const struct device_fuzzer fuzzer = {
	.ring_entries = 64,
	.prepare = prepare,
	.create = create,
	.release = release,
};
