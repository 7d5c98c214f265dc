// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the block device as a hostile guest does: by what is in guest memory.
 *
 * The bytes are a script of steps, each an operation and what it takes: they write descriptors,
 * tables, headers and rings, right ones and any others, notify, let the backend go on, change what
 * the device has been told of, reset, and resize the file below.  If the first byte says so, a
 * second thread changes guest memory all the time, so that whatever is read twice differs.
 *
 * Guest memory lies between pages without any access.  In the end the device must come to rest and
 * be reset, whatever happened, and the file must have the size that it had.  Broken rings cost
 * messages: run it with -close_fd_mask=2.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "karma/devices.h"
#include "karma/util.h"

#define MEMORY_BYTES (256 * KIB)
#define DISK_BYTES (64 * KIB)
#define DISK_BYTES_MAX (2 * DISK_BYTES)
#define QUEUES 2u
#define STEPS_MAX 200u
#define PATIENCE 10000000000ll /* ns for a reset */

/* Where a queue's rings and data are if its driver is a good one; all within MEMORY_BYTES. */
#define QUEUE_BYTES (64 * KIB)
#define QUEUE_AT(index) (QUEUE_BYTES * (index))
#define DESCRIPTORS 0u
#define AVAIL (16 * KIB)
#define USED (20 * KIB)
#define TABLE (32 * KIB)
#define HEADERS (36 * KIB)
#define DATA_AT (128 * KIB)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct guest_memory memory;
static struct io_ring ring;
static int file;

struct script {
	const uint8_t *at, *end;
};

static struct virtio_device *blk;
static uint16_t sizes[QUEUES], published[QUEUES];
static uint64_t disk_bytes;

static void check(bool fine)
{
	if (!fine)
		abort();
}

/* 0s behind the end. */
static uint64_t take(struct script *script, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes && script->at < script->end; i++)
		value |= (uint64_t)*script->at++ << (8 * i);
	return value;
}

static void *guest_at(uint64_t gpa, size_t length)
{
	return guest_memory_at(&memory, GPA(gpa), length);
}

static void store16(uint64_t gpa, uint16_t value)
{
	uint16_t *place = guest_at(gpa & ~1ull, sizeof(value));

	if (place)
		__atomic_store_n(place, value, __ATOMIC_RELAXED);
}

/* An address: mostly one that a driver would give, at times any. */
static uint64_t take_address(struct script *script)
{
	uint64_t value = take(script, 3);

	if ((value >> 20) == 0xf)
		return take(script, 8);
	return value % (MEMORY_BYTES + 64);
}

/* A segment's length: some whole sectors, or anything. */
static uint32_t take_length(struct script *script)
{
	uint8_t kind = take(script, 1);

	return kind < 0xe0 ? (kind % 17) * 512u : take(script, kind < 0xf8 ? 2 : 4);
}

static void write_descriptor(uint64_t table, struct script *script)
{
	struct vring_desc descriptor = { 0 };
	uint16_t index = take(script, 1);
	void *place = guest_at(table + sizeof(descriptor) * index, sizeof(descriptor));

	descriptor.addr = take_address(script);
	descriptor.len = take_length(script);
	descriptor.flags = take(script, 1);
	descriptor.next = take(script, 1);
	memcpy(place, &descriptor, sizeof(descriptor));
}

static void publish(unsigned queue, uint16_t head)
{
	uint64_t avail = QUEUE_AT(queue) + AVAIL;

	store16(avail + 4 + 2 * (published[queue] % sizes[queue]), head);
	store16(avail + 2, ++published[queue]);
}

/* One that a good driver could make, but for what is wrong with it: type, place, segments. */
static void make_request(unsigned queue, struct script *script)
{
	uint16_t head = take(script, 1) % sizes[queue];
	uint8_t flags = take(script, 1), type = take(script, 1) % 16;
	uint64_t header = QUEUE_AT(queue) + HEADERS + 32 * (head % 256);
	uint64_t table = flags & 0x80 ? QUEUE_AT(queue) + TABLE : QUEUE_AT(queue) + DESCRIPTORS;
	uint16_t index = flags & 0x80 ? 0 : head, start = index;
	unsigned segments = flags % 8, limit = flags & 0x80 ? 256 : sizes[queue];
	struct virtio_blk_outhdr *out = guest_at(header, sizeof(*out));
	struct vring_desc *descriptors = guest_at(table, 16 * limit);
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;

	out->type = type;
	out->sector = take(script, 1) % (DISK_BYTES_MAX / 512 + 2);
	descriptors[index] = (struct vring_desc){ header, 16, VRING_DESC_F_NEXT, 0 };
	for (unsigned i = 0; i <= segments; i++) {
		uint16_t next = (index + 1) % limit;
		bool last = i == segments;

		descriptors[index].next = next;
		descriptors[next] = (struct vring_desc){
			.addr = last ? header + 31 : DATA_AT + take(script, 2),
			.len = last           ? 1
			       : flags & 0x40 ? take_length(script)
					      : 512,
			.flags = (last || in ? VRING_DESC_F_WRITE : 0) |
				 (last ? 0 : VRING_DESC_F_NEXT),
		};
		index = next;
	}
	if (flags & 0x80) {
		struct vring_desc *direct =
			guest_at(QUEUE_AT(queue) + DESCRIPTORS, 16 * sizes[queue]);

		direct[head] = (struct vring_desc){ table + 16 * start, 16 * (segments + 2),
			VRING_DESC_F_INDIRECT, 0 };
	}
	publish(queue, head);
}

static void set_up_queue(unsigned queue, struct script *script)
{
	bool good = take(script, 1) < 0xf0;
	struct karma_queue_setup setup = {
		.size = 1u << (good ? take(script, 1) % 10 : take(script, 1) % 16),
		.descriptors = good ? QUEUE_AT(queue) + DESCRIPTORS : take_address(script) & ~15ull,
		.driver = good ? QUEUE_AT(queue) + AVAIL : take_address(script) & ~1ull,
		.device = good ? QUEUE_AT(queue) + USED : take_address(script) & ~3ull,
	};

	if (virtio_queue_setup(blk, queue, &setup) == 0)
		sizes[queue] = setup.size;
}

static void start_driver(struct script *script)
{
	uint8_t choice = take(script, 1);
	uint64_t ring_features = (choice & 1 ? 1ull << VIRTIO_RING_F_INDIRECT_DESC : 0) |
				 (choice & 2 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0);
	uint64_t accepted = 1ull << VIRTIO_F_VERSION_1 | ring_features | (blk->offered & 0xffffff);

	virtio_set_status(blk, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	virtio_accept(blk, 0, accepted);
	virtio_accept(blk, 1, accepted >> 32);
	virtio_set_status(blk,
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned i = 0; i < QUEUES; i++) {
		memset(guest_at(QUEUE_AT(i), QUEUE_BYTES), 0, QUEUE_BYTES);
		published[i] = 0;
		set_up_queue(i, script);
	}
	virtio_set_status(blk, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
				       VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void finish_reset(void)
{
	int64_t end = nanoseconds() + PATIENCE;

	virtio_set_status(blk, 0);
	while (virtio_get_status(blk)) {
		check(nanoseconds() < end);
		io_ring_run(&ring, false);
	}
	check(blk->in_flight == 0);
}

static void resize(struct script *script)
{
	uint64_t bytes = take(script, 1) % (DISK_BYTES_MAX / 512 + 1) * 512;

	check(ftruncate(file, bytes) == 0);
	blk->ops->measure(blk);
	if (bytes > disk_bytes)
		disk_bytes = bytes;
}

static void do_step(struct script *script)
{
	uint8_t operation = take(script, 1);
	unsigned queue = operation >> 7;
	uint8_t *byte;

	switch (operation & 0xf) {
	case 0:
	case 1:
	case 2:
		make_request(queue, script);
		break;
	case 3:
	case 4:
		virtio_queue_notify(blk, queue);
		break;
	case 5:
		io_ring_run(&ring, false);
		break;
	case 6:
		write_descriptor(QUEUE_AT(queue) + DESCRIPTORS, script);
		break;
	case 7:
		write_descriptor(QUEUE_AT(queue) + TABLE, script);
		break;
	case 8:
		publish(queue, take(script, 2));
		break;
	case 9:
		published[queue] = take(script, 2);
		store16(QUEUE_AT(queue) + AVAIL + 2, published[queue]);
		break;
	case 10:
		byte = guest_at(take_address(script), 1);
		if (byte)
			__atomic_store_n(byte, take(script, 1), __ATOMIC_RELAXED);
		break;
	case 11:
		finish_reset();
		start_driver(script);
		break;
	case 12:
		/* A reset with requests in flight; the next step may use the device meanwhile. */
		virtio_set_status(blk, 0);
		break;
	case 13:
		start_driver(script);
		break;
	case 14:
		resize(script);
		break;
	default:
		set_up_queue(queue, script);
	}
}

static atomic_bool meddling;

static void *meddle(void *seed)
{
	uint64_t random = (uintptr_t)seed | 1;

	while (atomic_load(&meddling)) {
		uint8_t *byte;

		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		byte = guest_at(random % MEMORY_BYTES, 1);
		__atomic_fetch_xor(byte, 1u << (random >> 61), __ATOMIC_RELAXED);
	}
	return NULL;
}

static void make_device(void)
{
	const struct virtio_environment environment = { &memory, &ring };
	char path[32];
	struct disk_options options = { .path = path };
	struct disk *disk;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	check(ftruncate(file, 0) == 0 && ftruncate(file, DISK_BYTES) == 0);
	check(disk_open(&disk, &options, &ring) == 0);
	blk = blk_create(&environment, "vda", disk, "serial", QUEUES);
	check(blk);
	disk_bytes = DISK_BYTES;
	for (unsigned i = 0; i < QUEUES; i++)
		sizes[i] = 1;
}

/* Between two pages without any access. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	uint8_t *area = mmap(NULL, MEMORY_BYTES + 2 * PAGE_BYTES, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	(void)argc;
	(void)argv;
	check(guest_memory_init(&memory, &(struct memory_options){ .size = MEMORY_BYTES }) == 0);
	check(area != MAP_FAILED &&
		mremap(memory.base, MEMORY_BYTES, MEMORY_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
			area + PAGE_BYTES) == area + PAGE_BYTES);
	memory.base = area + PAGE_BYTES;
	file = memfd_create("disk", MFD_CLOEXEC);
	check(file >= 0 && io_ring_init(&ring, 1024) == 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	uint8_t kind = take(&script, 1);
	pthread_t meddler;
	struct stat status;

	make_device();
	start_driver(&script);
	atomic_store(&meddling, kind & 1);
	if (kind & 1)
		check(pthread_create(&meddler, NULL, meddle, (void *)(uintptr_t)(kind + size)) ==
			0);
	for (unsigned i = 0; i < STEPS_MAX && script.at < script.end; i++)
		do_step(&script);
	atomic_store(&meddling, false);
	if (kind & 1)
		pthread_join(meddler, NULL);
	finish_reset();
	check(fstat(file, &status) == 0 && (uint64_t)status.st_size <= disk_bytes);
	blk->ops->release(blk);
	memset(memory.base, 0, MEMORY_BYTES);
	return 0;
}
