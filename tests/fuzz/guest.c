// SPDX-License-Identifier: GPL-2.0-only
/* The hostile guest that the fuzzers of devices share. */
#include <linux/virtio_config.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "guest.h"
#include "karma/snapshot.h"
#include "karma/util.h"

struct guest_memory memory;

void memory_make(size_t bytes)
{
	uint8_t *area = mmap(NULL, bytes + 2 * PAGE_BYTES, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	check(guest_memory_init(&memory, &(struct memory_options){ .size = bytes }) == 0);
	check(area != MAP_FAILED && mremap(memory.base, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
					    area + PAGE_BYTES) == area + PAGE_BYTES);
	memory.base = area + PAGE_BYTES;
	/* What is touched is cleared after each input. */
	madvise(memory.base, bytes, MADV_NOHUGEPAGE);
}

void memory_clear(void)
{
	check(madvise(memory.base, memory.size, MADV_DONTNEED) == 0);
}

void *memory_at(uint64_t gpa, size_t length)
{
	return guest_memory_at(&memory, GPA(gpa), length);
}

void memory_store(uint64_t gpa, uint8_t value)
{
	uint8_t *place = memory_at(gpa, 1);

	if (place)
		__atomic_store_n(place, value, __ATOMIC_RELAXED);
}

static void store16(uint64_t gpa, uint16_t value)
{
	memory_store(gpa, value);
	memory_store(gpa + 1, value >> 8);
}

void limit_init_short(struct rate_limiter *limit)
{
	const struct rate_limit_options options = { .bytes = 64 * MIB, .burst = 1 };

	rate_limiter_init(limit, &options);
	rate_limiter_consume(limit, options.bytes);
}

/* --- Snapshots. */

#define STATE_BYTES (64 * KIB)
#define CHANGES_MAX 4u

static uint8_t state[STATE_BYTES], changed_state[STATE_BYTES];
static size_t state_size;

void state_save(struct virtio_device *device, struct io_ring *ring)
{
	struct snapshot_writer writer;
	int64_t size;

	virtio_pause(device);
	while (!virtio_drain_within(device, 0))
		io_ring_reap(ring, false);
	snapshot_writer_init(&writer, state, sizeof(state));
	check(virtio_save(device, 0, &writer) == 0);
	size = snapshot_finish(&writer);
	check(size > 0);
	state_size = size;
}

/* Not each device has a part of its own. */
static void change_part(
	struct snapshot_reader *from, struct snapshot_writer *to, enum snapshot_kind kind, struct script *script)
{
	static uint8_t contents[STATE_BYTES];
	const unsigned changes = take(script, 1) % (CHANGES_MAX + 1);
	size_t size;

	if (!snapshot_count(from, kind))
		return;
	check(snapshot_open(from, kind, 0, UINT32_MAX) > 0);
	size = snapshot_left(from);
	snapshot_get(from, contents, size);
	for (unsigned i = 0; i < changes; i++) {
		uint64_t at = take(script, 2) * sizeof(uint64_t), value = take(script, take(script, 1) % 9);

		if (at + sizeof(value) <= size)
			memcpy(contents + at, &value, sizeof(value));
		else
			size = size < at ? size : at;
	}
	snapshot_begin(to, kind, 0, 1);
	snapshot_put(to, contents, size);
	snapshot_end(to);
}

void state_change(struct script *script)
{
	struct snapshot_reader reader;
	struct snapshot_writer writer;

	check(snapshot_reader_init(&reader, state, state_size) == 0);
	snapshot_writer_init(&writer, changed_state, sizeof(changed_state));
	change_part(&reader, &writer, SNAPSHOT_DEVICE, script);
	change_part(&reader, &writer, SNAPSHOT_DEVICE_OWN, script);
	state_size = snapshot_finish(&writer);
	memcpy(state, changed_state, state_size);
}

static void send_nowhere(void *context, const struct karma_interrupt *interrupt)
{
	(void)context;
	check(virtq_interrupt_valid(interrupt) && interrupt->address);
}

bool state_restore(struct virtio_device *device)
{
	struct snapshot_reader reader;

	for (unsigned i = 0; i < device->queue_count; i++)
		device->queues[i].send = send_nowhere;
	check(snapshot_reader_init(&reader, state, state_size) == 0);
	if (virtio_restore(device, 0, &reader) < 0)
		return false;
	virtio_start(device);
	return true;
}

/* --- Memory that changes. */

/* Bytes from the start of each place, which are changed more often than what is behind. */
#define HOT_BYTES 128u
/* Where rings and headers are. */
#define MEDDLED_BYTES (512 * KIB)

static atomic_bool meddling;
static pthread_t meddler;
static size_t meddling_stride;

static void *meddle(void *seed)
{
	uint64_t random = (uintptr_t)seed;

	while (atomic_load(&meddling)) {
		uint64_t at;

		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		at = (random >> 8) % (memory.size < MEDDLED_BYTES ? memory.size : MEDDLED_BYTES);
		if (random & 3)
			at = at - at % meddling_stride + at % HOT_BYTES;
		__atomic_fetch_xor(memory.base + at, 1u << (random >> 61), __ATOMIC_RELAXED);
	}
	return NULL;
}

void meddling_start(uint8_t choice, size_t stride)
{
	if (!(choice & 1))
		return;
	meddling_stride = stride;
	atomic_store(&meddling, true);
	check(pthread_create(&meddler, NULL, meddle, (void *)(uintptr_t)choice) == 0);
}

void meddling_stop(void)
{
	if (atomic_exchange(&meddling, false))
		pthread_join(meddler, NULL);
}

/* --- The driver. */

uint64_t take_address(struct script *script)
{
	uint64_t value = take(script, 3);

	if ((value >> 20) == 0xf)
		return take(script, 8);
	return value % (DRIVER_MEMORY + 64);
}

uint32_t take_length(struct script *script)
{
	uint8_t kind = take(script, 1);

	return kind < 0xe0 ? (kind % 17) * 512u : take(script, kind < 0xf8 ? 2 : 4);
}

void driver_init(struct driver *driver, struct virtio_device *device, struct io_ring *ring)
{
	*driver = (struct driver){ .device = device, .ring = ring };
	check(device && device->queue_count <= DRIVER_QUEUES_MAX);
	for (unsigned i = 0; i < device->queue_count; i++)
		driver->sizes[i] = 1;
	virtio_start(device);
}

static void set_up_queue(struct driver *driver, unsigned queue, struct script *script)
{
	bool good = take(script, 1) < 0xf0;
	struct karma_queue_setup setup = {
		.size = 1u << (good ? take(script, 1) % 10 : take(script, 1) % 16),
		.descriptors = good ? QUEUE_AT(queue) + DESCRIPTORS : take_address(script) & ~15ull,
		.driver = good ? QUEUE_AT(queue) + AVAIL : take_address(script) & ~1ull,
		.device = good ? QUEUE_AT(queue) + USED : take_address(script) & ~3ull,
	};

	if (good && setup.size > driver->device->queues[queue].size_max)
		setup.size = driver->device->queues[queue].size_max;
	if (virtio_queue_setup(driver->device, queue, &setup) == 0)
		driver->sizes[queue] = setup.size;
}

void driver_start(struct driver *driver, struct script *script)
{
	struct virtio_device *device = driver->device;
	const uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	uint8_t choice = take(script, 1);
	uint64_t ring_features = (choice & 1 ? 1ull << VIRTIO_RING_F_INDIRECT_DESC : 0) |
				 (choice & 2 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0);
	uint64_t accepted =
		1ull << VIRTIO_F_VERSION_1 | ring_features | (device->offered & 0xffffff);

	virtio_set_status(device, status);
	virtio_accept(device, 0, accepted);
	virtio_accept(device, 1, accepted >> 32);
	virtio_set_status(device, status | VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned i = 0; i < device->queue_count; i++) {
		memset(memory_at(QUEUE_AT(i), QUEUE_BYTES), 0, QUEUE_BYTES);
		driver->published[i] = 0;
		set_up_queue(driver, i, script);
	}
	virtio_set_status(device, status | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

void driver_reset(struct driver *driver)
{
	virtio_set_status(driver->device, 0);
	while (virtio_get_status(driver->device))
		io_ring_reap(driver->ring, false);
	check(driver->device->in_flight == 0);
}

static void publish(struct driver *driver, unsigned queue, uint16_t head)
{
	uint64_t avail = QUEUE_AT(queue) + AVAIL;

	store16(avail + 4 + 2 * (driver->published[queue] % driver->sizes[queue]), head);
	store16(avail + 2, ++driver->published[queue]);
}

void driver_chain(struct driver *driver, unsigned queue, uint16_t head, bool indirect,
	const struct segment *segments, unsigned count)
{
	uint64_t table = QUEUE_AT(queue) + (indirect ? TABLE : DESCRIPTORS);
	unsigned index = indirect ? 0 : head, limit = indirect ? 256 : driver->sizes[queue];
	struct vring_desc *descriptors = memory_at(table, sizeof(*descriptors) * limit);
	struct vring_desc *direct = memory_at(QUEUE_AT(queue) + DESCRIPTORS, 16 * (head + 1u));

	for (unsigned i = 0; i < count; i++) {
		bool last = i + 1 == count;

		descriptors[index] = (struct vring_desc){
			.addr = segments[i].address,
			.len = segments[i].length,
			.flags = (segments[i].in ? VRING_DESC_F_WRITE : 0) |
				 (last ? 0 : VRING_DESC_F_NEXT),
			.next = (index + 1) % limit,
		};
		index = (index + 1) % limit;
	}
	if (indirect)
		direct[head] = (struct vring_desc){ table, 16 * count, VRING_DESC_F_INDIRECT, 0 };
	publish(driver, queue, head);
}

void driver_any_chain(struct driver *driver, unsigned queue, struct script *script)
{
	uint16_t head = take(script, 1) % driver->sizes[queue];
	uint8_t flags = take(script, 1), in = take(script, 1);
	struct segment segments[8];
	unsigned count = 1 + flags % 8;

	for (unsigned i = 0; i < count; i++)
		segments[i] = (struct segment){
			.address = DATA_AT + take(script, 2),
			.length = flags & 0x40 ? take_length(script) : take(script, 1),
			.in = in >> i & 1,
		};
	driver_chain(driver, queue, head, flags & 0x80, segments, count);
}

/* However much is there, one notification has the device take a ring of chains at most. */
void notify_device(struct virtio_device *device, unsigned queue)
{
	struct virtq *virtq = &device->queues[queue];
	uint64_t before = virtq->chains;

	/* Only one that takes an answer gets it. */
	check(virtio_queue_notify(device, queue, before % 2) <= (int64_t)(before % 2));
	check(virtq->chains - before <= virtq->size_max);
	/* Nothing is given back that was not taken, whatever the rings say. */
	check((uint16_t)(virtq->next_avail - virtq->next_used) <= virtq->size);
}

static void write_descriptor(uint64_t table, struct script *script)
{
	struct vring_desc descriptor = { 0 };
	uint16_t index = take(script, 1);

	descriptor.addr = take_address(script);
	descriptor.len = take_length(script);
	descriptor.flags = take(script, 1);
	descriptor.next = take(script, 1);
	memcpy(memory_at(table + sizeof(descriptor) * index, sizeof(descriptor)), &descriptor,
		sizeof(descriptor));
}

unsigned driver_queue(const struct driver *driver, uint8_t operation)
{
	return (operation >> 4) % driver->device->queue_count;
}

bool driver_step(struct driver *driver, uint8_t operation, struct script *script)
{
	unsigned queue = driver_queue(driver, operation);
	uint64_t at;

	switch (operation & 0xf) {
	case 3:
	case 4:
		notify_device(driver->device, queue);
		return true;
	case 5:
		io_ring_reap(driver->ring, false);
		return true;
	case 6:
		write_descriptor(QUEUE_AT(queue) + DESCRIPTORS, script);
		return true;
	case 7:
		write_descriptor(QUEUE_AT(queue) + TABLE, script);
		return true;
	case 8:
		publish(driver, queue, take(script, 2));
		return true;
	case 9:
		driver->published[queue] = take(script, 2);
		store16(QUEUE_AT(queue) + AVAIL + 2, driver->published[queue]);
		return true;
	case 10:
		at = take_address(script);
		memory_store(at, take(script, 1));
		return true;
	case 11:
		driver_reset(driver);
		driver_start(driver, script);
		return true;
	case 12:
		/* With requests in flight; the next step may use the device meanwhile. */
		virtio_set_status(driver->device, 0);
		return true;
	case 13:
		driver_start(driver, script);
		return true;
	case 15:
		set_up_queue(driver, queue, script);
		return true;
	default:
		return false;
	}
}
