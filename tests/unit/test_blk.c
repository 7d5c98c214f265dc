// SPDX-License-Identifier: GPL-2.0-only
/* The block device on files: what the guest asks for, and what it must not get. */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "guest.h"

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

static void add_disk(const char *path, bool read_only, bool direct, const char *serial)
{
	struct disk_options options = { .path = path, .read_only = read_only, .direct = direct };
	struct disk *disk;

	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), 0);
	blk = blk_create(&sim.environment, "vda", disk, serial, 1);
	ck_assert_uint_eq(sim_add(&sim, blk), 0);
}

static void start(void)
{
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | (blk->offered & 0xffffff),
		&queue, 1, QUEUE_SIZE);
}

static void setup_memory(void)
{
	sim_init(&sim, SIM_MEMORY);
	file = temporary_file(DISK_BYTES);
	data = sim_alloc(&sim, DATA_BYTES, 4096);
}

static void setup(void)
{
	setup_memory();
	add_disk(descriptor_path(file), false, false, "serial-0123456789abc");
	start();
}

static void setup_read_only(void)
{
	setup_memory();
	add_disk(descriptor_path(file), true, false, NULL);
	start();
}

static void teardown(void)
{
	sim_run_clock();
	sim_release(&sim);
	close(file);
}

static uint64_t header(uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr bytes = { .type = type, .sector = sector };

	return sim_text(&sim, &bytes, sizeof(bytes));
}

static uint64_t status_place(void)
{
	const uint8_t untouched = STATUS_UNTOUCHED;

	return sim_text(&sim, &untouched, 1);
}

static uint8_t status_at(uint64_t gpa)
{
	return *(uint8_t *)sim_at(&sim, gpa, 1);
}

static uint32_t last_length;

/* A chain, sent and waited for; the bytes that the device says it wrote are last_length. */
static uint8_t send_chain(uint16_t head, uint64_t status)
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
static uint8_t request(uint32_t type, uint64_t sector, uint64_t buffer, uint32_t length)
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

static uint8_t clear_request(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes range = { sector, sectors, flags };

	return request(type, 0, sim_text(&sim, &range, sizeof(range)), sizeof(range));
}

/* Bytes of their own for every place of the disk. */
static uint8_t pattern(uint64_t offset)
{
	return (offset / SECTOR) * 7 + offset * 13 + 1;
}

static void fill_file(uint64_t offset, uint64_t length)
{
	uint8_t *bytes = malloc(length);

	ck_assert_ptr_nonnull(bytes);
	for (uint64_t i = 0; i < length; i++)
		bytes[i] = pattern(offset + i);
	ck_assert_int_eq(pwrite(file, bytes, length, offset), (ssize_t)length);
	free(bytes);
}

/* One assertion for all bytes: each costs time. */
static void assert_bytes_are(const uint8_t *bytes, uint64_t offset, uint64_t length, bool zero)
{
	uint64_t i = 0;

	while (i < length && bytes[i] == (zero ? 0 : pattern(offset + i)))
		i++;
	ck_assert_msg(i == length, "byte %llu is %u", (unsigned long long)(offset + i),
		i < length ? bytes[i] : 0);
}

static void assert_file_is(uint64_t offset, uint64_t length, bool zero)
{
	uint8_t *bytes = malloc(length);

	ck_assert_ptr_nonnull(bytes);
	ck_assert_int_eq(pread(file, bytes, length, offset), (ssize_t)length);
	assert_bytes_are(bytes, offset, length, zero);
	free(bytes);
}

static void fill_data(uint64_t offset, uint64_t length)
{
	uint8_t *bytes = sim_at(&sim, data, length);

	for (uint64_t i = 0; i < length; i++)
		bytes[i] = pattern(offset + i);
}

static void assert_data_is(uint64_t offset, uint64_t length)
{
	assert_bytes_are(sim_at(&sim, data, length), offset, length, false);
}

static off_t file_size(void)
{
	struct stat status;

	ck_assert_int_eq(fstat(file, &status), 0);
	return status.st_size;
}

static void assert_needs_reset(void)
{
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	ck_assert_uint_eq(driver_used(&queue), 0);
	sim_reset(&sim, 0);
	start();
	ck_assert_uint_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
}

START_TEST(what_is_written_is_in_the_file)
{
	fill_data(3 * SECTOR, 8 * SECTOR);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 3, data, 8 * SECTOR), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(last_length, 1);
	assert_file_is(0, 3 * SECTOR, true);
	assert_file_is(3 * SECTOR, 8 * SECTOR, false);
	assert_file_is(11 * SECTOR, DISK_BYTES - 11 * SECTOR, true);
	ck_assert_int_eq(file_size(), DISK_BYTES);
}
END_TEST

START_TEST(what_is_in_the_file_is_read)
{
	fill_file(0, DISK_BYTES);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 5, data, 4 * SECTOR), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(last_length, 4 * SECTOR + 1);
	assert_data_is(5 * SECTOR, 4 * SECTOR);
	ck_assert_uint_eq(*(uint8_t *)sim_at(&sim, data + 4 * SECTOR, 1), 0);
}
END_TEST

START_TEST(flush_succeeds)
{
	ck_assert_uint_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(last_length, 1);
}
END_TEST

START_TEST(id_is_the_serial)
{
	ck_assert_uint_eq(request(VIRTIO_BLK_T_GET_ID, 0, data, 20), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(last_length, 21);
	ck_assert_mem_eq(sim_at(&sim, data, 20), "serial-0123456789abc", 20);
	/* Less room gets less, more gets no more. */
	memset(sim_at(&sim, data, 64), 0xcc, 64);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_GET_ID, 0, data, 4), VIRTIO_BLK_S_OK);
	ck_assert_mem_eq(sim_at(&sim, data, 5), "seri\xcc", 5);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_GET_ID, 0, data, 64), VIRTIO_BLK_S_OK);
	ck_assert_mem_eq(sim_at(&sim, data, 21), "serial-0123456789abc\xcc", 21);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_GET_ID, 0, 0, 0), VIRTIO_BLK_S_OK);
}
END_TEST

static uint64_t file_blocks(void)
{
	struct stat status;

	fsync(file);
	ck_assert_int_eq(fstat(file, &status), 0);
	return status.st_blocks;
}

START_TEST(discard_punches_a_hole)
{
	uint64_t before;

	fill_file(0, DISK_BYTES);
	before = file_blocks();
	ck_assert_uint_eq(clear_request(VIRTIO_BLK_T_DISCARD, 512, 1024, 0), VIRTIO_BLK_S_OK);
	ck_assert_uint_lt(file_blocks(), before);
	ck_assert_int_eq(file_size(), DISK_BYTES);
	assert_file_is(0, 512 * SECTOR, false);
	assert_file_is(512 * SECTOR, 1024 * SECTOR, true);
	assert_file_is(1536 * SECTOR, 512 * SECTOR, false);
}
END_TEST

START_TEST(zeroes_are_written_with_and_without_unmap)
{
	const uint32_t flags[] = { 0, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP };

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		fill_file(0, DISK_BYTES);
		ck_assert_uint_eq(clear_request(VIRTIO_BLK_T_WRITE_ZEROES, 9, 101, flags[i]),
			VIRTIO_BLK_S_OK);
		assert_file_is(0, 9 * SECTOR, false);
		assert_file_is(9 * SECTOR, 101 * SECTOR, true);
		assert_file_is(110 * SECTOR, SECTOR, false);
		ck_assert_int_eq(file_size(), DISK_BYTES);
	}
}
END_TEST

START_TEST(zeroes_are_written_to_files_that_know_no_zero_range)
{
	/* Of the host's file systems, tmpfs is one. */
	teardown();
	sim_init(&sim, SIM_MEMORY);
	data = sim_alloc(&sim, DATA_BYTES, 4096);
	file = memfd_create("disk", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(file, DISK_BYTES), 0);
	add_disk(descriptor_path(file), false, false, NULL);
	start();
	fill_file(0, DISK_BYTES);
	ck_assert_uint_eq(clear_request(VIRTIO_BLK_T_WRITE_ZEROES, 1, 20, 0), VIRTIO_BLK_S_OK);
	assert_file_is(SECTOR, 20 * SECTOR, true);
	assert_file_is(21 * SECTOR, SECTOR, false);
}
END_TEST

START_TEST(bad_ranges_are_not_cleared)
{
	const uint32_t types[] = { VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES };

	fill_file(0, DISK_BYTES);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		uint32_t type = types[i];

		ck_assert_uint_eq(clear_request(type, 0, 0, 0), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(clear_request(type, DISK_SECTORS, 1, 0), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(clear_request(type, DISK_SECTORS - 1, 2, 0), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(clear_request(type, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(clear_request(type, UINT64_MAX, 1, 0), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(clear_request(type, 1ull << 55, 1, 0), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(clear_request(type, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
		ck_assert_uint_eq(clear_request(type, 0, 1, 0x80000000), VIRTIO_BLK_S_UNSUPP);
		/* Less than a segment, more than one. */
		ck_assert_uint_eq(request(type, 0, data, 15), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(request(type, 0, data, 32), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(request(type, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	}
	/* Virtio 1.2, section 5.2.6.2: unmap is for zeroes only. */
	ck_assert_uint_eq(
		clear_request(VIRTIO_BLK_T_DISCARD, 0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
		VIRTIO_BLK_S_UNSUPP);
	assert_file_is(0, DISK_BYTES, false);
}
END_TEST

START_TEST(read_only_disk_is_read_and_not_changed)
{
	ck_assert(blk->offered & FEATURE(VIRTIO_BLK_F_RO));
	ck_assert(!(blk->offered &
		    (FEATURE(VIRTIO_BLK_F_DISCARD) | FEATURE(VIRTIO_BLK_F_WRITE_ZEROES))));
	fill_file(0, DISK_BYTES);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, data, SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(clear_request(VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(clear_request(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_file_is(0, DISK_BYTES, false);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	assert_data_is(0, SECTOR);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(read_only_holds_even_where_the_file_can_be_written)
{
	struct disk_options options = { .path = descriptor_path(file) };
	struct disk *disk;

	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), 0);
	disk->read_only = true;
	blk = blk_create(&sim.environment, "vda", disk, NULL, 1);
	sim_add(&sim, blk);
	start();
	fill_file(0, DISK_BYTES);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, data, SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(clear_request(VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(clear_request(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_file_is(0, DISK_BYTES, false);
}
END_TEST

START_TEST(nothing_is_read_or_written_past_the_end)
{
	const uint32_t types[] = { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT };

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		ck_assert_uint_eq(
			request(types[i], DISK_SECTORS - 1, data, SECTOR), VIRTIO_BLK_S_OK);
		ck_assert_uint_eq(
			request(types[i], DISK_SECTORS, data, SECTOR), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(last_length, 1);
		ck_assert_uint_eq(
			request(types[i], DISK_SECTORS - 1, data, 2 * SECTOR), VIRTIO_BLK_S_IOERR);
		ck_assert_int_eq(file_size(), DISK_BYTES);
	}
}
END_TEST

START_TEST(sectors_that_wrap_are_refused)
{
	/* Times 512 these are 0 or little, modulo 2^64. */
	const uint64_t sectors[] = { UINT64_MAX, UINT64_MAX / SECTOR, UINT64_MAX / SECTOR + 1,
		1ull << 55, 1ull << 63, (1ull << 55) + 1, INT64_MAX / SECTOR };

	fill_file(0, DISK_BYTES);
	for (size_t i = 0; i < ARRAY_SIZE(sectors); i++) {
		ck_assert_uint_eq(
			request(VIRTIO_BLK_T_IN, sectors[i], data, SECTOR), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(
			request(VIRTIO_BLK_T_OUT, sectors[i], data, SECTOR), VIRTIO_BLK_S_IOERR);
	}
	assert_file_is(0, DISK_BYTES, false);
}
END_TEST

START_TEST(lengths_that_are_no_whole_sectors_are_refused)
{
	const uint32_t lengths[] = { 1, 15, 511, 513, 1023, 4095 };

	fill_file(0, DISK_BYTES);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		ck_assert_uint_eq(
			request(VIRTIO_BLK_T_IN, 0, data, lengths[i]), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(
			request(VIRTIO_BLK_T_OUT, 0, data, lengths[i]), VIRTIO_BLK_S_IOERR);
	}
	assert_file_is(0, DISK_BYTES, false);
}
END_TEST

START_TEST(transfers_without_data_are_refused)
{
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, 0, 0), VIRTIO_BLK_S_IOERR);
}
END_TEST

START_TEST(header_may_be_split_anywhere)
{
	/* Virtio 1.2, section 2.7.4: no assumption about framing. */
	for (unsigned cut = 1; cut < 16; cut++) {
		uint64_t at = header(VIRTIO_BLK_T_OUT, cut), status = status_place();
		struct part parts[] = { { at, cut, false }, { at + cut, 16 - cut, false },
			{ data, SECTOR, false }, { status, 1, true } };

		fill_data(cut * SECTOR, SECTOR);
		ck_assert_uint_eq(
			send_chain(driver_chain(&queue, parts, 4), status), VIRTIO_BLK_S_OK);
		assert_file_is(cut * SECTOR, SECTOR, false);
	}
}
END_TEST

START_TEST(header_byte_by_byte_and_data_behind_it_in_one_buffer)
{
	struct virtio_blk_outhdr bytes = { .type = VIRTIO_BLK_T_OUT, .sector = 2 };
	uint64_t status = status_place();
	struct part parts[18];

	fill_data(2 * SECTOR, 2 * SECTOR);
	memmove(sim_at(&sim, data + 16, 2 * SECTOR), sim_at(&sim, data, 2 * SECTOR), 2 * SECTOR);
	memcpy(sim_at(&sim, data, 16), &bytes, 16);
	for (unsigned i = 0; i < 15; i++)
		parts[i] = (struct part){ data + i, 1, false };
	parts[15] = (struct part){ data + 15, 1 + SECTOR + 100, false };
	parts[16] = (struct part){ data + 16 + SECTOR + 100, SECTOR - 100, false };
	parts[17] = (struct part){ status, 1, true };
	ck_assert_uint_eq(send_chain(driver_chain(&queue, parts, 18), status), VIRTIO_BLK_S_OK);
	assert_file_is(2 * SECTOR, 2 * SECTOR, false);
}
END_TEST

START_TEST(status_is_the_last_byte_wherever_it_is)
{
	fill_file(0, DISK_BYTES);
	/* In one buffer with the data. */
	ck_assert_uint_eq(
		send_chain(driver_chain(&queue,
				   (struct part[]){ { header(VIRTIO_BLK_T_IN, 4), 16, false },
					   { data, SECTOR + 1, true } },
				   2),
			data + SECTOR),
		VIRTIO_BLK_S_OK);
	assert_data_is(4 * SECTOR, SECTOR);
	ck_assert_uint_eq(last_length, SECTOR + 1);
	/* With only the end of the data. */
	ck_assert_uint_eq(
		send_chain(driver_chain(&queue,
				   (struct part[]){ { header(VIRTIO_BLK_T_IN, 6), 16, false },
					   { data, 100, true },
					   { data + 100, SECTOR - 100 + 1, true } },
				   3),
			data + SECTOR),
		VIRTIO_BLK_S_OK);
	assert_data_is(6 * SECTOR, SECTOR);
}
END_TEST

START_TEST(request_without_status_needs_reset)
{
	driver_publish(&queue, driver_chain(&queue,
				       (struct part[]){ { header(VIRTIO_BLK_T_OUT, 0), 16, false },
					       { data, SECTOR, false } },
				       2));
	driver_kick(&queue);
	assert_needs_reset();
	driver_publish(
		&queue, driver_chain(&queue,
				(struct part[]){ { header(VIRTIO_BLK_T_FLUSH, 0), 16, false },
					{ data, 0, true } },
				2));
	driver_kick(&queue);
	assert_needs_reset();
}
END_TEST

START_TEST(request_without_a_whole_header_needs_reset)
{
	const uint32_t lengths[] = { 0, 1, 8, 15 };

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		uint64_t status = status_place();

		driver_publish(&queue, driver_chain(&queue,
					       (struct part[]){ { header(VIRTIO_BLK_T_FLUSH, 0),
									lengths[i], false },
						       { status, 1, true } },
					       2));
		driver_kick(&queue);
		ck_assert_uint_eq(status_at(status), STATUS_UNTOUCHED);
		assert_needs_reset();
	}
}
END_TEST

START_TEST(unknown_types_are_unsupported)
{
	const uint32_t types[] = { 2, 3, 5, 7, 9, 10, 12, 14, 15, 16, 0x80000000, UINT32_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		ck_assert_uint_eq(request(types[i], 0, 0, 0), VIRTIO_BLK_S_UNSUPP);
		ck_assert_uint_eq(request(types[i], 0, data, SECTOR), VIRTIO_BLK_S_UNSUPP);
		ck_assert_uint_eq(last_length, 1);
	}
}
END_TEST

/* count segments of one sector, in an order of their own, by an indirect table. */
static uint16_t segments_chain(uint32_t type, unsigned count, uint64_t status)
{
	static struct part parts[SEGMENTS_MAX + 3];

	parts[0] = (struct part){ header(type, 0), 16, false };
	for (unsigned i = 0; i < count; i++)
		parts[i + 1] = (struct part){ data + i * SECTOR, SECTOR, type == VIRTIO_BLK_T_IN };
	parts[count + 1] = (struct part){ status, 1, true };
	return driver_chain_indirect(&queue, parts, count + 2);
}

START_TEST(as_many_segments_as_promised_work)
{
	uint64_t status = status_place();

	fill_data(0, SEGMENTS_MAX * SECTOR);
	ck_assert_uint_eq(
		send_chain(segments_chain(VIRTIO_BLK_T_OUT, SEGMENTS_MAX, status), status),
		VIRTIO_BLK_S_OK);
	assert_file_is(0, SEGMENTS_MAX * SECTOR, false);
	memset(sim_at(&sim, data, SEGMENTS_MAX * SECTOR), 0, SEGMENTS_MAX * SECTOR);
	ck_assert_uint_eq(send_chain(segments_chain(VIRTIO_BLK_T_IN, SEGMENTS_MAX, status), status),
		VIRTIO_BLK_S_OK);
	assert_data_is(0, SEGMENTS_MAX * SECTOR);
	ck_assert_uint_eq(((const struct virtio_blk_config *)blk->config)->seg_max, SEGMENTS_MAX);
}
END_TEST

START_TEST(more_segments_need_reset)
{
	driver_publish(&queue, segments_chain(VIRTIO_BLK_T_OUT, SEGMENTS_MAX + 1, status_place()));
	driver_kick(&queue);
	assert_needs_reset();
}
END_TEST

/* Of a read: its data in two buffers. */
static uint8_t read_in_two(uint64_t to, uint32_t first, uint32_t second)
{
	uint64_t status = status_place();
	struct part parts[] = { { header(VIRTIO_BLK_T_IN, 0), 16, false }, { to, first, true },
		{ to + first, second, true }, { status, 1, true } };

	return send_chain(driver_chain(&queue, parts, ARRAY_SIZE(parts)), status);
}

START_TEST(segments_are_as_large_as_promised)
{
	uint64_t large = sim_alloc(&sim, 2 * SEGMENT_BYTES_MAX, 4096);
	const struct virtio_blk_config *config;

	ck_assert_int_eq(ftruncate(file, 2 * SEGMENT_BYTES_MAX), 0);
	add_disk(descriptor_path(file), false, false, NULL);
	start();
	config = blk->config;
	ck_assert(blk->offered & FEATURE(VIRTIO_BLK_F_SIZE_MAX));
	ck_assert_uint_eq(config->size_max, SEGMENT_BYTES_MAX);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, large, SEGMENT_BYTES_MAX), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(read_in_two(large, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MAX), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(
		read_in_two(large, SECTOR, SEGMENT_BYTES_MAX + SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(last_length, 1);
}
END_TEST

START_TEST(descriptor_available_twice_in_flight_needs_reset)
{
	uint64_t status = status_place();
	uint16_t head = driver_chain(&queue,
		(struct part[]){ { header(VIRTIO_BLK_T_IN, 0), 16, false }, { data, SECTOR, true },
			{ status, 1, true } },
		3);

	fill_file(0, DISK_BYTES);
	driver_publish(&queue, head);
	driver_publish(&queue, head);
	driver_kick(&queue);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	/* The first of the two is a good request. */
	ck_assert_uint_eq(driver_wait(&queue).id, head);
	ck_assert_uint_eq(status_at(status), VIRTIO_BLK_S_OK);
	assert_data_is(0, SECTOR);
	assert_needs_reset();
}
END_TEST

START_TEST(queue_full_of_requests_is_served)
{
	/* More than the io_uring has entries. */
	uint64_t statuses = sim_alloc(&sim, QUEUE_SIZE, 1);
	uint64_t headers = sim_alloc(&sim, 16 * QUEUE_SIZE, 16);
	bool seen[QUEUE_SIZE] = { false };

	fill_data(0, QUEUE_SIZE * SECTOR);
	for (unsigned i = 0; i < QUEUE_SIZE; i++) {
		struct virtio_blk_outhdr *out = sim_at(&sim, headers + 16 * i, 16);

		out->type = VIRTIO_BLK_T_OUT;
		out->sector = i;
		*(uint8_t *)sim_at(&sim, statuses + i, 1) = STATUS_UNTOUCHED;
		driver_publish(&queue, driver_chain_indirect(&queue,
					       (struct part[]){ { headers + 16 * i, 16, false },
						       { data + i * SECTOR, SECTOR, false },
						       { statuses + i, 1, true } },
					       3));
	}
	driver_kick(&queue);
	for (unsigned i = 0; i < QUEUE_SIZE; i++) {
		struct vring_used_elem element = driver_wait(&queue);

		ck_assert(!seen[element.id]);
		seen[element.id] = true;
	}
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		ck_assert_uint_eq(status_at(statuses + i), VIRTIO_BLK_S_OK);
	assert_file_is(0, QUEUE_SIZE * SECTOR, false);
	sim_run_moment(&sim);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
}
END_TEST

/* Publish a read of a sector; where its status will be. */
static uint64_t publish_read(struct driver_queue *to, uint64_t sector)
{
	uint64_t status = status_place();

	driver_publish(to, driver_chain(to,
				   (struct part[]){ { header(VIRTIO_BLK_T_IN, sector), 16, false },
					   { data, SECTOR, true }, { status, 1, true } },
				   3));
	return status;
}

static bool wants_notification(void)
{
	return *driver_avail_event(&queue) == queue.avail->idx;
}

/* Requests so many ns apart, each done before the next: until the device no longer serves at once. */
static bool notify_until_it_waits(int64_t ns, unsigned times)
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

START_TEST(busy_queue_is_served_many_at_a_time)
{
	uint64_t notifications;

	ck_assert(notify_until_it_waits(10000, 1000));
	/* What comes while it waits needs no notification, and all is told by one interrupt. */
	notifications = blk->queues[0].notifications;
	driver_interrupts(&queue);
	*driver_used_event(&queue) = queue.last_used;
	for (unsigned i = 1; i < 20; i++)
		publish_read(&queue, i);
	for (unsigned i = 0; i < 20; i++)
		driver_wait(&queue);
	ck_assert_uint_eq(blk->queues[0].notifications, notifications);
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
	/* It was worth it, so it looks some more by itself, and then asks to be notified. */
	sim_run_moment(&sim);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
	/* The next one begins such a wait at once. */
	publish_read(&queue, 0);
	driver_kick(&queue);
	ck_assert(!wants_notification());
	driver_wait(&queue);
	sim_run_clock();
}
END_TEST

START_TEST(wait_for_more_is_over_when_many_have_come)
{
	const unsigned plenty = 24;

	/* The waits are long, so that none is over before we look. */
	ck_assert(notify_until_it_waits(1900000, 1000));
	driver_interrupts(&queue);
	for (unsigned round = 0; round < 3; round++) {
		*driver_used_event(&queue) = queue.last_used;
		while (blk->queues[0].next_avail + plenty - 1 != queue.avail->idx) {
			ck_assert(!wants_notification());
			publish_read(&queue, 1);
		}
		ck_assert(wants_notification());
		publish_read(&queue, 1);
		driver_kick(&queue);
		ck_assert_uint_eq(blk->queues[0].next_avail, queue.avail->idx);
		for (unsigned i = 0; i < plenty; i++)
			driver_wait(&queue);
		ck_assert_uint_eq(driver_interrupts(&queue), 1);
	}
	/* A guest that notifies at any time is served at once. */
	publish_read(&queue, 1);
	virtio_queue_notify(blk, 0);
	ck_assert_uint_eq(blk->queues[0].next_avail, queue.avail->idx);
	driver_wait(&queue);
	/* Then it looks in vain, and asks to be notified. */
	sim_run_moment(&sim);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
	sim_run_clock();
}
END_TEST

static bool has_looked(void *context)
{
	(void)context;
	return io_ring_reap(&sim.ring, false) > 0;
}

START_TEST(pause_between_two_bursts_needs_no_notification)
{
	/* The waits are long, so that we can stop after one. */
	ck_assert(notify_until_it_waits(1900000, 1000));
	for (unsigned i = 1; i < 20; i++)
		publish_read(&queue, i);
	for (unsigned i = 0; i < 20; i++)
		driver_wait(&queue);
	/* The guest is busy with what was done for it, and a look is in vain. */
	ck_assert(sim_run_until(&sim, has_looked, NULL));
	ck_assert(!wants_notification());
	publish_read(&queue, 0);
	driver_wait(&queue);
	sim_run_moment(&sim);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
	sim_run_clock();
}
END_TEST

static void publish_large_read(uint64_t to)
{
	driver_publish(&queue, driver_chain(&queue,
				       (struct part[]){ { header(VIRTIO_BLK_T_IN, 0), 16, false },
					       { to, SEGMENT_BYTES_MAX, true }, { status_place(), 1, true } },
				       3));
}

START_TEST(large_requests_are_served_one_after_the_other_without_notifications)
{
	uint64_t large = sim_alloc(&sim, SEGMENT_BYTES_MAX, 4096);
	uint64_t notifications;

	ck_assert_int_eq(ftruncate(file, SEGMENT_BYTES_MAX), 0);
	add_disk(descriptor_path(file), false, false, NULL);
	start();
	notifications = blk->queues[0].notifications;
	publish_large_read(large);
	driver_kick(&queue);
	ck_assert(!wants_notification());
	for (unsigned i = 1; i < 4; i++)
		publish_large_read(large);
	for (unsigned i = 0; i < 4; i++)
		driver_wait(&queue);
	ck_assert_uint_eq(blk->queues[0].notifications, notifications + 1);
	sim_run_moment(&sim);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
}
END_TEST

/* Interrupts for so many that were there at once, in a guest that asks to be told of each. */
static unsigned interrupts_of_large_reads(uint64_t to, unsigned count)
{
	driver_interrupts(&queue);
	for (unsigned i = 0; i < count; i++)
		publish_large_read(to);
	driver_kick(&queue);
	for (unsigned i = 0; i < count; i++)
		driver_wait(&queue);
	sim_run_moment(&sim);
	ck_assert_uint_eq(blk->queues[0].signalled_used, blk->queues[0].next_used);
	ck_assert(!blk->queues[0].steady);
	return driver_interrupts(&queue);
}

START_TEST(large_requests_are_told_of_together_while_many_more_wait)
{
	uint64_t large = sim_alloc(&sim, SEGMENT_BYTES_MAX, 4096);

	ck_assert_int_eq(ftruncate(file, SEGMENT_BYTES_MAX), 0);
	add_disk(descriptor_path(file), false, false, NULL);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | (blk->offered & 0xffffff), &queue, 1, QUEUE_SIZE);
	/* Few: each as soon as it is done. */
	ck_assert_uint_eq(interrupts_of_large_reads(large, 8), 8);
	/* After 4, 8, 11, 14, 16, 18, 20, 22, 24, and then each; or one less. */
	ck_assert_uint_le(interrupts_of_large_reads(large, 32), 17);
}
END_TEST

START_TEST(guest_that_waits_for_each_request_is_not_kept_waiting_for_long)
{
	unsigned waits = 0;

	for (unsigned i = 1; i <= 5000; i++) {
		sim_set_clock(1000000000 + i * 10000ll);
		publish_read(&queue, 0);
		driver_kick(&queue);
		waits += !wants_notification();
		driver_wait(&queue);
	}
	/* Tries: after 64, 128, 256 ... requests. */
	ck_assert_uint_ge(waits, 3);
	ck_assert_uint_le(waits, 7);
	sim_run_clock();
}
END_TEST

START_TEST(queue_that_is_not_busy_is_served_at_once)
{
	ck_assert(!notify_until_it_waits(5000000, 500));
	sim_run_clock();
}
END_TEST

START_TEST(reset_ends_a_wait)
{
	ck_assert(notify_until_it_waits(10000, 1000));
	sim_reset(&sim, 0);
	ck_assert_uint_eq(blk->in_flight, 0);
	start();
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	sim_run_clock();
}
END_TEST

#define SECOND 1000000000ll
#define LIMIT_START (1000 * SECOND)

static struct rate_limiter disk_limit;

static void set_limit(struct virtio_device *device, uint64_t iops, uint64_t bps)
{
	sim_set_clock(LIMIT_START);
	rate_limiter_init(&disk_limit, &(struct rate_limit_options){ iops, bps, 1 });
	blk_limit(device, &disk_limit);
}

/* Ten requests a second. */
static void start_limited(void)
{
	add_disk(descriptor_path(file), false, false, NULL);
	set_limit(blk, 10, 0);
	start();
}

static uint64_t limited(void)
{
	const struct virtio_counter *last = &blk->counters[blk->counter_count - 1];

	ck_assert_str_eq(last->name, "limited");
	return last->value;
}

/* The requests that are done after a while, longer than which no wait is. */
static unsigned done_in_a_while(const struct driver_queue *of)
{
	for (int64_t ns = 0; ns <= RATE_LIMIT_WAIT_MAX; ns += SIM_MOMENT_MS * 1000000ll)
		sim_run_moment(&sim);
	return driver_used(of);
}

START_TEST(limit_lets_so_many_requests_pass_at_once)
{
	uint64_t notifications;

	start_limited();
	for (unsigned i = 0; i < 25; i++)
		publish_read(&queue, i);
	driver_kick(&queue);
	notifications = blk->queues[0].notifications;
	ck_assert(!wants_notification());
	ck_assert_uint_eq(done_in_a_while(&queue), 10);
	ck_assert_uint_eq(limited(), 1);
	sim_set_clock(LIMIT_START + SECOND / 2);
	ck_assert_uint_eq(done_in_a_while(&queue), 15);
	ck_assert_uint_eq(limited(), 2);
	/* Who notifies without need changes nothing. */
	driver_kick(&queue);
	ck_assert_uint_eq(done_in_a_while(&queue), 15);
	sim_set_clock(LIMIT_START + 10 * SECOND);
	ck_assert_uint_eq(done_in_a_while(&queue), 25);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_uint_eq(blk->queues[0].notifications, notifications + 1);
	/* It asks for notifications again, and none is lost. */
	ck_assert(wants_notification());
	queue.last_used += 25;
	sim_set_clock(LIMIT_START + 20 * SECOND);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(limited(), 2);
	sim_run_clock();
}
END_TEST

START_TEST(queue_that_is_empty_waits_for_no_tokens)
{
	start_limited();
	for (unsigned i = 0; i < 10; i++)
		ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, i, data, SECTOR), VIRTIO_BLK_S_OK);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_uint_eq(limited(), 0);
	sim_run_clock();
}
END_TEST

/* With a bucket that is empty behind the first one. */
static bool takes_a_request(uint32_t type)
{
	struct virtio_blk_discard_write_zeroes range = { 0, 8, 0 };
	bool clears = type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES;
	uint64_t from = clears ? sim_text(&sim, &range, sizeof(range)) : data;
	uint32_t length = clears ? sizeof(range) : type == VIRTIO_BLK_T_FLUSH ? 0 : SECTOR;
	__int128 before;

	sim_set_clock(LIMIT_START);
	rate_limiter_release(&disk_limit);
	rate_limiter_init(&disk_limit, &(struct rate_limit_options){ 10, MIB, 1 });
	before = disk_limit.bytes.balance;
	ck_assert_uint_eq(request(type, 0, from, length), VIRTIO_BLK_S_OK);
	length = clears ? 8 * SECTOR : type == VIRTIO_BLK_T_GET_ID ? 0 : length;
	ck_assert(before - disk_limit.bytes.balance == (__int128)length * SECOND);
	return disk_limit.requests.balance < 10 * SECOND;
}

START_TEST(requests_take_what_they_are)
{
	start_limited();
	ck_assert(takes_a_request(VIRTIO_BLK_T_OUT));
	ck_assert(takes_a_request(VIRTIO_BLK_T_FLUSH));
	ck_assert(takes_a_request(VIRTIO_BLK_T_IN));
	ck_assert(takes_a_request(VIRTIO_BLK_T_DISCARD));
	ck_assert(takes_a_request(VIRTIO_BLK_T_FLUSH));
	ck_assert(takes_a_request(VIRTIO_BLK_T_WRITE_ZEROES));
	ck_assert(!takes_a_request(VIRTIO_BLK_T_GET_ID));
	sim_run_clock();
}
END_TEST

START_TEST(limit_of_bytes_holds_back_what_follows)
{
	add_disk(descriptor_path(file), false, false, NULL);
	set_limit(blk, 0, 2 * SECTOR);
	start();
	/* More than the whole bucket passes, and is paid back. */
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, data, 8 * SECTOR), VIRTIO_BLK_S_OK);
	publish_read(&queue, 0);
	driver_kick(&queue);
	sim_set_clock(LIMIT_START + 3 * SECOND);
	ck_assert_uint_eq(done_in_a_while(&queue), 0);
	sim_set_clock(LIMIT_START + 4 * SECOND);
	ck_assert_uint_eq(done_in_a_while(&queue), 1);
	ck_assert_uint_eq(limited(), 1);
	sim_run_clock();
}
END_TEST

START_TEST(reset_while_a_limit_holds_requests_back)
{
	start_limited();
	for (unsigned i = 0; i < 25; i++)
		publish_read(&queue, i);
	driver_kick(&queue);
	ck_assert_uint_eq(done_in_a_while(&queue), 10);
	sim_reset(&sim, 0);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_ptr_null(disk_limit.first);
	start();
	/* A reset brings no tokens. */
	publish_read(&queue, 0);
	driver_kick(&queue);
	ck_assert_uint_eq(done_in_a_while(&queue), 0);
	sim_set_clock(LIMIT_START + SECOND);
	driver_wait(&queue);
	sim_run_clock();
}
END_TEST

START_TEST(broken_queue_waits_no_more)
{
	start_limited();
	for (unsigned i = 0; i < 11; i++)
		publish_read(&queue, i);
	driver_kick(&queue);
	ck_assert_uint_eq(done_in_a_while(&queue), 10);
	queue.last_used += 10;
	queue.avail->idx += QUEUE_SIZE + 1;
	sim_set_clock(LIMIT_START + SECOND);
	sim_run_moment(&sim);
	done_in_a_while(&queue);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_ptr_null(disk_limit.first);
	assert_needs_reset();
	sim_run_clock();
}
END_TEST

static void *run_io_thread(void *unused);

START_TEST(end_does_not_wait_for_the_limit)
{
	pthread_t io_thread;
	int64_t before;

	start_limited();
	for (unsigned i = 0; i < 25; i++)
		publish_read(&queue, i);
	driver_kick(&queue);
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_io_thread, NULL), 0);
	before = now_ms();
	virtio_wait_idle(blk);
	ck_assert_int_lt(now_ms() - before, SIM_PATIENCE_MS);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_uint_eq(driver_used(&queue), 10);
	ck_assert_ptr_null(disk_limit.first);
	sim_run_clock();
}
END_TEST

START_TEST(limit_that_does_not_bite_changes_nothing)
{
	unsigned done = 0;

	add_disk(descriptor_path(file), false, false, NULL);
	set_limit(blk, 1000000000, 1024 * GIB);
	start();
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < 80; i++)
			publish_read(&queue, i);
		driver_kick(&queue);
		for (; done < 80 * (round + 1); done++)
			driver_wait(&queue);
	}
	ck_assert_uint_eq(limited(), 0);
	/* Busy queues are still served many at a time. */
	ck_assert(notify_until_it_waits(10000, 1000));
	ck_assert_ptr_null(disk_limit.first);
	driver_wait(&queue);
	sim_run_clock();
}
END_TEST

START_TEST(busy_queue_that_meets_its_limit_waits_for_that_alone)
{
	add_disk(descriptor_path(file), false, false, NULL);
	set_limit(blk, 200, 0);
	start();
	/* No time passes, and one of these is the first that is to wait for more. */
	for (unsigned i = 0; i < 65; i++) {
		publish_read(&queue, 0);
		driver_kick(&queue);
		if (!wants_notification())
			break;
		driver_wait(&queue);
	}
	ck_assert(!wants_notification());
	ck_assert_uint_eq(limited(), 0);
	while ((uint16_t)(queue.avail->idx - queue.last_used) < 60)
		publish_read(&queue, 0);
	for (unsigned i = 0; i < 60; i++)
		driver_wait(&queue);
	while ((uint16_t)(queue.avail->idx - queue.last_used) < 85)
		publish_read(&queue, 0);
	driver_kick(&queue);
	done_in_a_while(&queue);
	ck_assert_uint_eq(blk->queues[0].chains, 200);
	ck_assert_uint_eq(limited(), 1);
	ck_assert_uint_eq(blk->in_flight, 1);
	sim_set_clock(LIMIT_START + SECOND);
	ck_assert_uint_eq(done_in_a_while(&queue), 85);
	ck_assert(wants_notification());
	ck_assert_uint_eq(blk->in_flight, 0);
	sim_run_clock();
}
END_TEST

#define QUEUES 4
#define QUEUES_SIZE 256
#define THREAD_REQUESTS 300

static struct driver_queue queues[QUEUES];

static void add_disk_of_queues(void)
{
	struct disk_options options = { .path = descriptor_path(file) };
	struct disk *disk;

	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), 0);
	blk = blk_create(&sim.environment, "vda", disk, NULL, QUEUES);
	ck_assert_uint_eq(sim_add(&sim, blk), 0);
}

START_TEST(disk_has_the_queues_it_tells_of)
{
	struct virtio_blk_config config;

	add_disk_of_queues();
	ck_assert(blk->offered & FEATURE(VIRTIO_BLK_F_MQ));
	ck_assert_int_eq(virtio_config_read(blk, 0, &config, sizeof(config)), 0);
	ck_assert_uint_eq(config.num_queues, QUEUES);
	sim_start_device(
		&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | blk->offered, queues, QUEUES, QUEUES_SIZE);
	for (unsigned i = 0; i < QUEUES; i++) {
		uint64_t status = publish_read(&queues[i], i);

		driver_kick(&queues[i]);
		driver_wait(&queues[i]);
		ck_assert_uint_eq(status_at(status), VIRTIO_BLK_S_OK);
		ck_assert_uint_eq(driver_interrupts(&queues[i]), 1);
	}
}
END_TEST

/* A vCPU with a ring of its own, which notifies a queue of its own and takes completions. */
struct vcpu_like {
	pthread_t thread;
	struct io_ring ring;
	unsigned index;
	uint64_t parts[3];	/* header, data, status */
};

static void *notify_as_a_vcpu(void *argument)
{
	struct vcpu_like *vcpu = argument;
	struct driver_queue *mine = &queues[vcpu->index];
	const struct part chain[] = { { vcpu->parts[0], 16, false }, { vcpu->parts[1], SECTOR, true },
		{ vcpu->parts[2], 1, true } };

	io_ring_bind(&vcpu->ring);
	for (unsigned i = 0; i < THREAD_REQUESTS; i++) {
		int64_t end = now_ms() + SIM_PATIENCE_MS;

		driver_publish(mine, driver_chain(mine, chain, 3));
		driver_kick(mine);
		while (!driver_used(mine) && now_ms() < end)
			io_ring_reap(&vcpu->ring, false);
		ck_assert_uint_eq(driver_used(mine), 1);
		mine->last_used++;
	}
	io_ring_unbind(&vcpu->ring);
	return NULL;
}

static void *run_io_thread(void *unused)
{
	(void)unused;
	io_ring_loop(&sim.ring);
	return NULL;
}

/* All requests of all vCPUs, each of which works on the next when one is done. */
static void run_vcpus(void)
{
	struct vcpu_like vcpus[QUEUES];
	pthread_t io_thread;

	sim_start_device(
		&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | blk->offered, queues, QUEUES, QUEUES_SIZE);
	for (unsigned i = 0; i < QUEUES; i++) {
		vcpus[i].index = i;
		/* What the vCPU itself takes, and what a worker completes. */
		vcpus[i].parts[0] = header(i % 2 ? VIRTIO_BLK_T_FLUSH : VIRTIO_BLK_T_IN, 0);
		vcpus[i].parts[1] = sim_alloc(&sim, SECTOR, 16);
		vcpus[i].parts[2] = status_place();
		ck_assert_int_eq(
			io_ring_init_thread(&vcpus[i].ring, &sim.ring, QUEUES * QUEUES_SIZE, NULL), 0);
	}
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_io_thread, NULL), 0);
	for (unsigned i = 0; i < QUEUES; i++)
		ck_assert_int_eq(
			pthread_create(&vcpus[i].thread, NULL, notify_as_a_vcpu, &vcpus[i]), 0);
	for (unsigned i = 0; i < QUEUES; i++)
		pthread_join(vcpus[i].thread, NULL);
	virtio_wait_idle(blk);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
	for (unsigned i = 0; i < QUEUES; i++) {
		ck_assert_uint_eq(status_at(vcpus[i].parts[2]), VIRTIO_BLK_S_OK);
		io_ring_release_thread(&vcpus[i].ring);
	}
}

START_TEST(vcpus_with_rings_of_their_own_share_a_disk)
{
	add_disk_of_queues();
	run_vcpus();
}
END_TEST

START_TEST(queues_share_one_limit)
{
	unsigned sum = 0;

	add_disk_of_queues();
	set_limit(blk, 100, 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | blk->offered, queues,
		QUEUES, QUEUES_SIZE);
	for (unsigned i = 0; i < QUEUES; i++) {
		for (unsigned j = 0; j < 70; j++)
			publish_read(&queues[i], j);
		driver_kick(&queues[i]);
	}
	ck_assert_uint_eq(done_in_a_while(&queues[0]), 70);
	ck_assert_uint_eq(driver_used(&queues[1]), 30);
	ck_assert_uint_eq(driver_used(&queues[2]), 0);
	/* They have their turns in order. */
	sim_set_clock(LIMIT_START + SECOND);
	done_in_a_while(&queues[0]);
	done_in_a_while(&queues[0]);
	ck_assert_uint_eq(driver_used(&queues[1]), 70);
	ck_assert_uint_eq(driver_used(&queues[2]), 60);
	sim_set_clock(LIMIT_START + 2 * SECOND);
	done_in_a_while(&queues[0]);
	done_in_a_while(&queues[0]);
	for (unsigned i = 0; i < QUEUES; i++)
		sum += driver_used(&queues[i]);
	ck_assert_uint_eq(sum, QUEUES * 70);
	ck_assert_uint_ge(limited(), 3);
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_ptr_null(disk_limit.first);
	sim_run_clock();
}
END_TEST

START_TEST(vcpus_with_rings_of_their_own_share_a_limit)
{
	int64_t before = now_ms();

	add_disk_of_queues();
	rate_limiter_init(&disk_limit, &(struct rate_limit_options){ QUEUES * THREAD_REQUESTS / 4, 0, 1 });
	blk_limit(blk, &disk_limit);
	run_vcpus();
	ck_assert_uint_gt(limited(), 0);
	ck_assert_int_ge(now_ms() - before, 2900);
	ck_assert_ptr_null(disk_limit.first);
}
END_TEST

START_TEST(request_in_flight_raises_no_interrupt_before_its_end)
{
	uint64_t status = status_place();

	driver_publish(&queue, driver_chain(&queue,
				       (struct part[]){ { header(VIRTIO_BLK_T_IN, 0), 16, false },
					       { data, SECTOR, true }, { status, 1, true } },
				       3));
	driver_kick(&queue);
	ck_assert_uint_eq(driver_interrupts(&queue), 0);
	driver_wait(&queue);
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
}
END_TEST

static uint64_t capacity(void)
{
	struct virtio_blk_config config;

	ck_assert_int_eq(virtio_config_read(blk, 0, &config, sizeof(config)), 0);
	return config.capacity;
}

START_TEST(disk_that_grows_tells_its_guest)
{
	uint64_t size = 2 * DISK_BYTES + 100;

	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	machine_measure(&sim.machine, -1);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
	ck_assert_int_eq(virtio_generation(blk), 0);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_IN, DISK_SECTORS, data, SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_int_eq(ftruncate(file, size), 0);
	machine_measure(&sim.machine, -1);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_uint_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG | 0 << 8);
	ck_assert_int_eq(virtio_generation(blk), 1);
	/* In whole blocks. */
	ck_assert_uint_eq(capacity(), 2 * DISK_SECTORS);
	fill_data(DISK_BYTES, 8 * SECTOR);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_OUT, DISK_SECTORS, data, 8 * SECTOR), VIRTIO_BLK_S_OK);
	assert_file_is(DISK_BYTES, 8 * SECTOR, false);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_IN, 2 * DISK_SECTORS, data, SECTOR), VIRTIO_BLK_S_IOERR);
	machine_measure(&sim.machine, -1);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
}
END_TEST

START_TEST(disk_that_shrinks_keeps_its_size)
{
	fill_file(0, DISK_BYTES);
	ck_assert_int_eq(ftruncate(file, DISK_BYTES / 2), 0);
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	messages_begin();
	machine_measure(&sim.machine, -1);
	ck_assert_ptr_nonnull(strstr(messages_end(), "disk vda: has only 524288 bytes of 1048576"));
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
	ck_assert_uint_eq(capacity(), DISK_SECTORS);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_IN, DISK_SECTORS - 1, data, SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_IN, DISK_SECTORS / 2 - 1, data, SECTOR), VIRTIO_BLK_S_OK);
	/* As long as it was, all is as before. */
	ck_assert_int_eq(ftruncate(file, DISK_BYTES), 0);
	messages_begin();
	machine_measure(&sim.machine, -1);
	ck_assert_str_eq(messages_end(), "");
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_IN, DISK_SECTORS - 1, data, SECTOR), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(file_cut_under_us_is_an_error_and_the_device_goes_on)
{
	fill_file(0, DISK_BYTES);
	ck_assert_int_eq(ftruncate(file, 16 * SECTOR), 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 100, data, SECTOR), VIRTIO_BLK_S_IOERR);
	/* Part of it is still there. */
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 15, data, 2 * SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(last_length, 1);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 2, data, SECTOR), VIRTIO_BLK_S_OK);
	assert_data_is(2 * SECTOR, SECTOR);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

static uint64_t counted(const char *name)
{
	blk->ops->gather(blk);
	for (unsigned i = 0; i < blk->counter_count; i++) {
		if (blk->counters[i].name && strcmp(blk->counters[i].name, name) == 0)
			return blk->counters[i].value;
	}
	ck_abort_msg("no counter %s", name);
}

START_TEST(requests_bytes_and_latencies_are_counted)
{
	uint64_t before = counted("read.requests"), bytes = counted("read.bytes");

	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, data, 2 * SECTOR), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 1, data, SECTOR), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 3, data, SECTOR), VIRTIO_BLK_S_OK);
	/* What never got to the disk is not counted. */
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, DISK_BYTES, data, SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(counted("read.requests"), before + 2);
	ck_assert_uint_eq(counted("read.bytes"), bytes + 3 * SECTOR);
	ck_assert_uint_eq(counted("write.requests"), 1);
	ck_assert_uint_eq(counted("write.bytes"), SECTOR);
	ck_assert_str_eq(blk->latencies[DISK_WRITE].name, "write");
	ck_assert_uint_eq(latency_count(&blk->latencies[DISK_WRITE].latency), 1);
	ck_assert_uint_gt(blk->latencies[DISK_READ].latency.nanoseconds, 0);
}
END_TEST

START_TEST(log_of_a_failing_disk_is_short)
{
	unsigned lines = 0;

	ck_assert_int_eq(ftruncate(file, 0), 0);
	messages_begin();
	for (unsigned i = 0; i < 100; i++)
		ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, i, data, SECTOR), VIRTIO_BLK_S_IOERR);
	for (const char *c = messages_end(); *c; c++)
		lines += *c == '\n';
	ck_assert_uint_eq(lines, 1);
	ck_assert_str_eq(blk->counters[0].name, "errors");
	ck_assert_uint_eq(blk->counters[0].value, 100);
}
END_TEST

START_TEST(limit_of_file_size_is_an_error)
{
	struct rlimit limit = { DISK_BYTES / 2, DISK_BYTES / 2 };

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_OUT, DISK_SECTORS - 8, data, 8 * SECTOR), VIRTIO_BLK_S_IOERR);
	fill_data(0, SECTOR);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	assert_file_is(0, SECTOR, false);
}
END_TEST

START_TEST(full_file_system_is_an_error_and_the_device_goes_on)
{
	uint8_t status = VIRTIO_BLK_S_OK;
	unsigned written = 0;
	int full;

	/* In a mount name space of our own, which goes with this process. */
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("none", "/mnt", "tmpfs", 0, "size=64k") < 0) {
		printf("skipped: a full file system: needs the right to mount\n");
		return;
	}
	full = open("/mnt/disk", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ck_assert_int_ge(full, 0);
	ck_assert_int_eq(ftruncate(full, DISK_BYTES), 0);
	close(file);
	file = full;
	add_disk("/mnt/disk", false, false, NULL);
	start();
	fill_data(0, 64 * SECTOR);
	for (uint64_t sector = 0; sector < DISK_SECTORS && status == VIRTIO_BLK_S_OK; sector += 8) {
		status = request(VIRTIO_BLK_T_OUT, sector, data, 8 * SECTOR);
		written += status == VIRTIO_BLK_S_OK;
	}
	ck_assert_uint_eq(status, VIRTIO_BLK_S_IOERR);
	ck_assert_uint_gt(written, 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	/* Room again: what failed works. */
	ck_assert_uint_eq(clear_request(VIRTIO_BLK_T_DISCARD, 0, 64, 0), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 1024, data, 8 * SECTOR), VIRTIO_BLK_S_OK);
}
END_TEST

static int open_result(const char *path, bool read_only, struct disk **disk)
{
	struct disk_options options = { .path = path, .read_only = read_only };

	return disk_open(disk, &options, &sim.ring);
}

static void assert_open_fails(const char *path, int error, const char *word)
{
	struct disk *disk = NULL;
	const char *text;

	messages_begin();
	ck_assert_int_eq(open_result(path, false, &disk), error);
	text = messages_end();
	ck_assert_msg(strstr(text, word) && strstr(text, path), "the message is: %s", text);
	ck_assert_ptr_null(disk);
}

START_TEST(images_that_are_not_raw_are_refused_unless_said_so)
{
	static const struct {
		const char *name, *magic;
		unsigned offset;
	} images[] = {
		{ "qcow2", "QFI\xfb", 0 },
		{ "VMDK", "KDMV", 0 },
		{ "VDI", "\x7f\x10\xda\xbe", 64 },
		{ "VHDX", "vhdxfile", 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(images); i++) {
		int image = temporary_file(65536);
		struct disk_options raw = { .path = descriptor_path(image), .raw = true };
		struct disk *disk;

		ck_assert_int_gt(pwrite(image, images[i].magic, strlen(images[i].magic), images[i].offset), 0);
		assert_open_fails(descriptor_path(image), -EINVAL, images[i].name);
		assert_open_fails(descriptor_path(image), -EINVAL, "qemu-img convert -O raw");
		ck_assert_int_eq(disk_open(&disk, &raw, &sim.ring), 0);
		disk_close(disk);
		close(image);
	}
}
END_TEST

START_TEST(paths_that_are_no_disk_are_refused_with_a_cure)
{
	char directory[] = "/tmp/karma-disk-XXXXXX", fifo[64];
	int empty = temporary_file(0), tiny = temporary_file(100);

	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(fifo, sizeof(fifo), "%s/fifo", directory);
	ck_assert_int_eq(mkfifo(fifo, 0600), 0);
	assert_open_fails("/nowhere/disk.img", -ENOENT, "truncate");
	assert_open_fails(directory, -EINVAL, "is a directory: give a file or a block device");
	/* Nobody has its other end: an open() that waits would wait for ever. */
	assert_open_fails(fifo, -EINVAL, "is a FIFO or pipe");
	assert_open_fails(socket_path(), -EINVAL, "is a socket");
	assert_open_fails("/dev/null", -EINVAL, "is a character device");
	assert_open_fails(descriptor_path(empty), -EINVAL, "empty");
	assert_open_fails(descriptor_path(tiny), -EINVAL, "has 100 bytes, less than a sector of 512");
	unlink(fifo);
	rmdir(directory);
	close(empty);
	close(tiny);
}
END_TEST

START_TEST(disk_in_use_is_refused)
{
	const char *path = descriptor_path(file);
	struct disk *writer, *other, *readers[2];

	ck_assert_int_eq(open_result(path, false, &writer), 0);
	assert_open_fails(path, -EBUSY, "in use");
	ck_assert_int_eq(open_result(path, true, &other), -EBUSY);
	/* The lock lasts as long as the last who shares it. */
	other = disk_share(writer);
	disk_close(other);
	assert_open_fails(path, -EBUSY, "in use");
	other = disk_share(writer);
	disk_close(writer);
	assert_open_fails(path, -EBUSY, "in use");
	disk_close(other);
	ck_assert_int_eq(open_result(path, true, &readers[0]), 0);
	ck_assert_int_eq(open_result(path, true, &readers[1]), 0);
	ck_assert_int_eq(open_result(path, false, &writer), -EBUSY);
	disk_close(readers[0]);
	disk_close(readers[1]);
	ck_assert_int_eq(open_result(path, false, &writer), 0);
	disk_close(writer);
}
END_TEST

START_TEST(file_is_opened_so_that_io_uring_waits_for_it)
{
	struct disk *disk;
	/* The next free descriptor is the disk's. */
	int fd = dup(file);

	close(fd);
	/* With O_NONBLOCK io_uring gives up with EAGAIN on some file systems. */
	ck_assert_int_eq(open_result(descriptor_path(file), false, &disk), 0);
	ck_assert_int_eq(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
	ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	disk_close(disk);
}
END_TEST

START_TEST(few_queues_are_long_ones)
{
	ck_assert_uint_eq(blk_queue_size(1), 1024);
	ck_assert_uint_eq(blk_queue_size(2), 512);
	ck_assert_uint_eq(blk_queue_size(3), 256);
	ck_assert_uint_eq(blk_queue_size(4), 256);
	ck_assert_uint_eq(blk_queue_size(64), 256);
}
END_TEST

START_TEST(topology_is_the_backends)
{
	struct disk_options options = { .path = descriptor_path(file) };
	const struct virtio_blk_config *config;
	struct disk *disk;

	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), 0);
	disk->block_size = 1024;
	disk->physical_block_size = 4096;
	disk->alignment_offset = 3072;
	disk->io_min = 64 * KIB;
	disk->io_opt = 1 * MIB;
	disk->discard_alignment = 32 * KIB;
	disk->discard = false;
	blk = blk_create(&sim.environment, "vda", disk, NULL, 1);
	sim_add(&sim, blk);
	config = blk->config;
	/* In logical blocks, but for discards: virtio 1.2, section 5.2.4. */
	ck_assert_uint_eq(config->blk_size, 1024);
	ck_assert_uint_eq(config->physical_block_exp, 2);
	ck_assert_uint_eq(config->alignment_offset, 3);
	ck_assert_uint_eq(config->min_io_size, 64);
	ck_assert_uint_eq(config->opt_io_size, 1024);
	ck_assert_uint_eq(config->discard_sector_alignment, 64);
	ck_assert(!(blk->offered & FEATURE(VIRTIO_BLK_F_DISCARD)));
	ck_assert(blk->offered & FEATURE(VIRTIO_BLK_F_WRITE_ZEROES));
}
END_TEST

START_TEST(capacity_is_in_whole_sectors)
{
	const struct virtio_blk_config *config;

	ck_assert_int_eq(ftruncate(file, 10 * SECTOR + 511), 0);
	messages_begin();
	add_disk(descriptor_path(file), false, false, NULL);
	ck_assert_ptr_nonnull(strstr(messages_end(), "511"));
	config = blk->config;
	ck_assert_uint_eq(config->capacity, 10);
	ck_assert_uint_eq(config->blk_size, SECTOR);
	start();
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 9, data, SECTOR), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 10, data, SECTOR), VIRTIO_BLK_S_IOERR);
}
END_TEST

START_TEST(configuration_tells_of_the_disk)
{
	const struct virtio_blk_config *config;

	add_disk(descriptor_path(file), false, false, NULL);
	config = blk->config;
	ck_assert_uint_eq(config->capacity, DISK_SECTORS);
	ck_assert_uint_eq(config->physical_block_exp, 3);
	ck_assert_uint_eq(config->discard_sector_alignment, 8);
	ck_assert_uint_eq(config->max_discard_seg, 1);
	ck_assert_uint_eq(config->max_write_zeroes_seg, 1);
	ck_assert_uint_eq(config->write_zeroes_may_unmap, 1);
}
END_TEST

static TCase *make_case(
	const char *name, void (*set_up)(void), const TTest *const *tests, size_t count)
{
	TCase *tcase = tcase_create(name);

	tcase_add_checked_fixture(tcase, set_up, teardown);
	tcase_set_timeout(tcase, 30);
	for (size_t i = 0; i < count; i++)
		tcase_add_test(tcase, tests[i]);
	return tcase;
}

Suite *blk_suite(void)
{
	const TTest *const writable[] = {
		what_is_written_is_in_the_file,
		what_is_in_the_file_is_read,
		flush_succeeds,
		id_is_the_serial,
		discard_punches_a_hole,
		zeroes_are_written_with_and_without_unmap,
		zeroes_are_written_to_files_that_know_no_zero_range,
		bad_ranges_are_not_cleared,
		nothing_is_read_or_written_past_the_end,
		sectors_that_wrap_are_refused,
		lengths_that_are_no_whole_sectors_are_refused,
		transfers_without_data_are_refused,
		header_may_be_split_anywhere,
		header_byte_by_byte_and_data_behind_it_in_one_buffer,
		status_is_the_last_byte_wherever_it_is,
		request_without_status_needs_reset,
		request_without_a_whole_header_needs_reset,
		unknown_types_are_unsupported,
		as_many_segments_as_promised_work,
		more_segments_need_reset,
		descriptor_available_twice_in_flight_needs_reset,
		queue_full_of_requests_is_served,
		request_in_flight_raises_no_interrupt_before_its_end,
		busy_queue_is_served_many_at_a_time,
		wait_for_more_is_over_when_many_have_come,
		pause_between_two_bursts_needs_no_notification,
		guest_that_waits_for_each_request_is_not_kept_waiting_for_long,
		queue_that_is_not_busy_is_served_at_once,
		reset_ends_a_wait,
		disk_that_grows_tells_its_guest,
		disk_that_shrinks_keeps_its_size,
		file_cut_under_us_is_an_error_and_the_device_goes_on,
		requests_bytes_and_latencies_are_counted,
		log_of_a_failing_disk_is_short,
		limit_of_file_size_is_an_error,
	};
	const TTest *const opening[] = {
		full_file_system_is_an_error_and_the_device_goes_on,
		read_only_holds_even_where_the_file_can_be_written,
		paths_that_are_no_disk_are_refused_with_a_cure,
		images_that_are_not_raw_are_refused_unless_said_so,
		disk_in_use_is_refused,
		file_is_opened_so_that_io_uring_waits_for_it,
		capacity_is_in_whole_sectors,
		configuration_tells_of_the_disk,
		few_queues_are_long_ones,
		topology_is_the_backends,
		segments_are_as_large_as_promised,
		large_requests_are_served_one_after_the_other_without_notifications,
		large_requests_are_told_of_together_while_many_more_wait,
		disk_has_the_queues_it_tells_of,
		vcpus_with_rings_of_their_own_share_a_disk,
		queues_share_one_limit,
		vcpus_with_rings_of_their_own_share_a_limit,
		limit_of_bytes_holds_back_what_follows,
		limit_that_does_not_bite_changes_nothing,
		busy_queue_that_meets_its_limit_waits_for_that_alone,
	};
	const TTest *const limiting[] = {
		limit_lets_so_many_requests_pass_at_once,
		queue_that_is_empty_waits_for_no_tokens,
		requests_take_what_they_are,
		reset_while_a_limit_holds_requests_back,
		broken_queue_waits_no_more,
		end_does_not_wait_for_the_limit,
	};
	const TTest *const reading[] = { read_only_disk_is_read_and_not_changed };
	Suite *suite = suite_create("blk");

	suite_add_tcase(suite, make_case("requests", setup, writable, ARRAY_SIZE(writable)));
	suite_add_tcase(
		suite, make_case("read only", setup_read_only, reading, ARRAY_SIZE(reading)));
	suite_add_tcase(suite, make_case("limits", setup_memory, limiting, ARRAY_SIZE(limiting)));
	suite_add_tcase(suite, make_case("opening", setup_memory, opening, ARRAY_SIZE(opening)));
	return suite;
}
