// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the block device as a hostile guest does: by what is in guest memory.
 *
 * The bytes are a script of steps, each an operation and what it takes: they write descriptors,
 * tables, headers and rings, right ones and any others, notify, let the backend go on, change what
 * the device has been told of, reset, and resize the file below.  If the first byte says so, a
 * second thread changes guest memory all the time, so that whatever is read twice differs, and the
 * disk has a limit.
 *
 * In the end the device must come to rest and be reset, whatever happened, and the file must have
 * the size that it had.  Broken rings cost messages: run it with -close_fd_mask=2.
 */
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "device.h"
#include "karma/devices.h"
#include "karma/util.h"

#define DISK_BYTES (64 * KIB)
#define DISK_BYTES_MAX (2 * DISK_BYTES)
#define QUEUES 2u
/* Of the first byte; rarely, since a limit's waits take time. */
#define KIND_LIMITED(kind) (((kind)&0x1e) == 0x02)

static struct rate_limiter limit;
static int file;
static uint64_t disk_bytes;

/* One that a good driver could make, but for what is wrong with it: type, place, segments. */
static void make_request(unsigned queue, struct script *script)
{
	uint16_t head = take(script, 1) % driver.sizes[queue];
	uint8_t flags = take(script, 1), type = take(script, 1) % 16;
	uint64_t header = QUEUE_AT(queue) + HEADERS + 32 * (head % 256);
	struct virtio_blk_outhdr *out = memory_at(header, sizeof(*out));
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct segment segments[9] = { { header, 16, false } };
	unsigned data = flags % 8;

	out->type = type;
	out->sector = take(script, 1) % (DISK_BYTES_MAX / 512 + 2);
	for (unsigned i = 1; i <= data; i++)
		segments[i] = (struct segment){
			.address = DATA_AT + take(script, 2),
			.length = flags & 0x40 ? take_length(script) : 512,
			.in = in,
		};
	segments[data + 1] = (struct segment){ header + 31, 1, true };
	driver_chain(&driver, queue, head, flags & 0x80, segments, data + 2);
}

static void resize(struct script *script)
{
	uint64_t bytes = take(script, 1) % (DISK_BYTES_MAX / 512 + 1) * 512;

	check(ftruncate(file, bytes) == 0);
	driver.device->ops->measure(driver.device);
	if (bytes > disk_bytes)
		disk_bytes = bytes;
}

static void step(uint8_t operation, struct script *script)
{
	if ((operation & 0xf) == 14)
		resize(script);
	else
		make_request(driver_queue(&driver, operation), script);
}

static struct virtio_device *create(uint8_t kind)
{
	const struct virtio_environment environment = { &memory, &ring };
	char path[32];
	struct disk_options options = { .path = path };
	struct virtio_device *device;
	struct disk *disk;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	check(ftruncate(file, 0) == 0 && ftruncate(file, DISK_BYTES) == 0);
	check(disk_open(&disk, &options, &ring) == 0);
	device = blk_create(&environment, "vda", disk, "serial", QUEUES);
	check(device);
	disk_bytes = DISK_BYTES;
	limit_init_short(&limit);
	if (KIND_LIMITED(kind))
		blk_limit(device, &limit);
	return device;
}

static void release(void)
{
	struct stat status;

	check(fstat(file, &status) == 0 && (uint64_t)status.st_size <= disk_bytes);
	driver.device->ops->release(driver.device);
	rate_limiter_release(&limit);
}

static void prepare(void)
{
	file = memfd_create("disk", MFD_CLOEXEC);
	check(file >= 0);
}

const struct device_fuzzer fuzzer = {
	.ring_entries = 1024,
	.prepare = prepare,
	.create = create,
	.step = step,
	.release = release,
};
