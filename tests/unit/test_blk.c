// SPDX-License-Identifier: GPL-2.0-only
/* The block device: requests and their chains. */
#include <sys/mman.h>

#include "blk_fixture.h"

static void setup_read_only(void)
{
	setup_memory();
	add_disk(descriptor_path(file), true, false, NULL);
	start();
}

static off_t file_size(void)
{
	struct stat status;

	ck_assert_int_eq(fstat(file, &status), 0);
	return status.st_size;
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
	};
	const TTest *const reading[] = { read_only_disk_is_read_and_not_changed };
	const TTest *const opening[] = {
		read_only_holds_even_where_the_file_can_be_written,
		segments_are_as_large_as_promised,
	};
	Suite *suite = suite_create("blk");

	add_case(suite, "requests", setup, teardown, 30, writable, ARRAY_SIZE(writable));
	add_case(suite, "read only", setup_read_only, teardown, 30, reading, ARRAY_SIZE(reading));
	add_case(suite, "opening", setup_memory, teardown, 30, opening, ARRAY_SIZE(opening));
	blk_queues_tests(suite);
	blk_limits_tests(suite);
	blk_files_tests(suite);
	return suite;
}
