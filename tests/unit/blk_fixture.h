/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A disk in a file, as its guest's driver sees it. Each file of tests that includes this has a disk
 * of its own.
 */
#ifndef KARMA_TESTS_BLK_FIXTURE_H
#define KARMA_TESTS_BLK_FIXTURE_H

#include <linux/virtio_blk.h>
#include <string.h>
#include <sys/stat.h>

#include "guest.h"

/* The parts of the suite. */
void blk_queues_tests(Suite *suite);
void blk_limits_tests(Suite *suite);
void blk_files_tests(Suite *suite);

#define SECTOR 512u
#define DISK_SECTORS 2048ull
#define DISK_BYTES (DISK_SECTORS * SECTOR)
#define QUEUE_SIZE BLK_QUEUE_SIZE_MAX
#define SEGMENT_BYTES_MAX (1 * MIB)
#define SEGMENTS_MAX 254u
#define STATUS_UNTOUCHED 0xee
#define DATA_BYTES (512 * KIB)

static struct sim sim;
static struct driver_queue queue;
static struct virtio_device *blk;
static int file;
static uint64_t data; /* guest-physical, of DATA_BYTES for the tests */

static inline void add_disk(const char *path, bool read_only, bool direct, const char *serial)
{
	struct disk_options options = { .path = path, .read_only = read_only, .direct = direct };
	struct disk *disk;

	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), 0);
	blk = blk_create(&sim.environment, "vda", disk, serial, 1);
	ck_assert_uint_eq(sim_add(&sim, blk), 0);
}

static inline void start(void)
{
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | (blk->offered & 0xffffff),
		&queue, 1, QUEUE_SIZE);
}

static inline void setup_memory(void)
{
	sim_init(&sim, SIM_MEMORY);
	file = temporary_file(DISK_BYTES);
	data = sim_alloc(&sim, DATA_BYTES, 4096);
}

static inline void setup(void)
{
	setup_memory();
	add_disk(descriptor_path(file), false, false, "serial-0123456789abc");
	start();
}

static inline void teardown(void)
{
	sim_run_clock();
	sim_release(&sim);
	close(file);
}

static inline uint64_t header(uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr bytes = { .type = type, .sector = sector };

	return sim_text(&sim, &bytes, sizeof(bytes));
}

static inline uint64_t status_place(void)
{
	const uint8_t untouched = STATUS_UNTOUCHED;

	return sim_text(&sim, &untouched, 1);
}

static inline uint8_t status_at(uint64_t gpa)
{
	return *(uint8_t *)sim_at(&sim, gpa, 1);
}

static uint32_t last_length;

/* A chain, sent and waited for; the bytes that the device says it wrote are last_length. */
static inline uint8_t send_chain(uint16_t head, uint64_t status)
{
	struct vring_used_elem element;

	driver_publish(&queue, head);
	driver_kick(&queue);
	element = driver_wait(&queue);
	ck_assert_uint_eq(element.id, head);
	last_length = element.len;
	return status_at(status);
}

/* A request with one buffer, or none. */
static inline uint8_t request(uint32_t type, uint64_t sector, uint64_t buffer, uint32_t length)
{
	uint64_t status = status_place();
	bool write = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct part parts[3] = { { header(type, sector), 16, false } };
	unsigned count = 1;

	if (length)
		parts[count++] = (struct part){ buffer, length, write };
	parts[count++] = (struct part){ status, 1, true };
	return send_chain(driver_chain(&queue, parts, count), status);
}

static inline uint8_t clear_request(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes range = { sector, sectors, flags };

	return request(type, 0, sim_text(&sim, &range, sizeof(range)), sizeof(range));
}

/* Bytes of their own for every place of the disk. */
static inline uint8_t pattern(uint64_t offset)
{
	return (offset / SECTOR) * 7 + offset * 13 + 1;
}

static inline void fill_file(uint64_t offset, uint64_t length)
{
	uint8_t *bytes = malloc(length);

	ck_assert_ptr_nonnull(bytes);
	for (uint64_t i = 0; i < length; i++)
		bytes[i] = pattern(offset + i);
	ck_assert_int_eq(pwrite(file, bytes, length, offset), (ssize_t)length);
	free(bytes);
}

/* One assertion for all bytes: each costs time. */
static inline void assert_bytes_are(const uint8_t *bytes, uint64_t offset, uint64_t length, bool zero)
{
	uint64_t i = 0;

	while (i < length && bytes[i] == (zero ? 0 : pattern(offset + i)))
		i++;
	ck_assert_msg(i == length, "byte %llu is %u", (unsigned long long)(offset + i),
		i < length ? bytes[i] : 0);
}

static inline void assert_file_is(uint64_t offset, uint64_t length, bool zero)
{
	uint8_t *bytes = malloc(length);

	ck_assert_ptr_nonnull(bytes);
	ck_assert_int_eq(pread(file, bytes, length, offset), (ssize_t)length);
	assert_bytes_are(bytes, offset, length, zero);
	free(bytes);
}

static inline void fill_data(uint64_t offset, uint64_t length)
{
	uint8_t *bytes = sim_at(&sim, data, length);

	for (uint64_t i = 0; i < length; i++)
		bytes[i] = pattern(offset + i);
}

static inline void assert_data_is(uint64_t offset, uint64_t length)
{
	assert_bytes_are(sim_at(&sim, data, length), offset, length, false);
}

static inline void assert_needs_reset(void)
{
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	ck_assert_uint_eq(driver_used(&queue), 0);
	sim_reset(&sim, 0);
	start();
	ck_assert_uint_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
}

/* Publish a read of a sector; where its status will be. */
static inline uint64_t publish_read(struct driver_queue *to, uint64_t sector)
{
	uint64_t status = status_place();

	driver_publish(to, driver_chain(to,
				   (struct part[]){ { header(VIRTIO_BLK_T_IN, sector), 16, false },
					   { data, SECTOR, true }, { status, 1, true } },
				   3));
	return status;
}

static inline bool wants_notification(void)
{
	return *driver_avail_event(&queue) == queue.avail->idx;
}

/* Requests so many ns apart, each done before the next: until the device no longer serves at once. */
static inline bool notify_until_it_waits(int64_t ns, unsigned times)
{
	for (unsigned i = 1; i <= times; i++) {
		sim_set_clock(1000000000 + i * ns);
		publish_read(&queue, 0);
		driver_kick(&queue);
		if (!wants_notification())
			return true;
		driver_wait(&queue);
	}
	return false;
}

#define SECOND 1000000000ll
#define LIMIT_START (1000 * SECOND)

static struct rate_limiter disk_limit;

static inline void set_limit(struct virtio_device *device, uint64_t iops, uint64_t bps)
{
	sim_set_clock(LIMIT_START);
	rate_limiter_init(&disk_limit, &(struct rate_limit_options){ iops, bps, 1 });
	blk_limit(device, &disk_limit);
}

static inline uint64_t limited(void)
{
	const struct virtio_counter *last = &blk->counters[blk->counter_count - 1];

	ck_assert_str_eq(last->name, "limited");
	return last->value;
}

/* The requests that are done after a while, longer than which no wait is. */
static inline unsigned done_in_a_while(const struct driver_queue *of)
{
	for (int64_t ns = 0; ns <= RATE_LIMIT_WAIT_MAX; ns += SIM_MOMENT_MS * 1000000ll)
		sim_run_moment(&sim);
	return driver_used(of);
}

#define QUEUES 4
#define QUEUES_SIZE 256
#define THREAD_REQUESTS 300

static inline void *run_io_thread(void *unused)
{
	(void)unused;
	io_ring_loop(&sim.ring);
	return NULL;
}

#endif
