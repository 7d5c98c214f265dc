// SPDX-License-Identifier: GPL-2.0-only
/* Persistent memory: files as guest memory, and the device that flushes them. */
#include <errno.h>
#include <linux/virtio_pmem.h>
#include <string.h>
#include <sys/mman.h>

#include "guest.h"

#define FILE_BYTES (3 * MIB)
#define PLACE 0x140000000ull
#define RESULT_UNTOUCHED 0xeeeeeeeeu

static struct sim sim;
static struct driver_queue queue;
static struct virtio_device *pmem;
static struct memory_region region;
static int file;

static void add_device(bool flushes)
{
	struct disk_options options = { .path = descriptor_path(file) };
	struct disk *disk;

	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), 0);
	pmem = pmem_create(&sim.environment, "pmem0", disk, &region, flushes);
	ck_assert_uint_eq(sim_add(&sim, pmem), 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT, &queue, 1, PMEM_QUEUE_SIZE);
}

static void setup_memory(void)
{
	sim_init(&sim, SIM_MEMORY);
	file = temporary_file(FILE_BYTES);
	ck_assert_int_eq(memory_region_map(&region, file, FILE_BYTES, false), 0);
	region.gpa = PLACE;
	sim.memory.regions = &region;
	sim.memory.region_count = 1;
}

static void setup(void)
{
	setup_memory();
	add_device(true);
}

static void teardown(void)
{
	sim_release(&sim);
	munmap(region.base, region.size);
	close(file);
}

static uint64_t result_place(void)
{
	const uint32_t untouched = RESULT_UNTOUCHED;

	return sim_text(&sim, &untouched, sizeof(untouched));
}

static uint32_t result_at(uint64_t gpa)
{
	uint32_t result;

	memcpy(&result, sim_at(&sim, gpa, sizeof(result)), sizeof(result));
	return result;
}

static uint16_t publish(uint32_t type, uint64_t result)
{
	uint16_t head = driver_chain(&queue,
		(struct part[]){ { sim_text(&sim, &type, sizeof(type)), 4, false }, { result, 4, true } }, 2);

	driver_publish(&queue, head);
	return head;
}

static uint32_t request(uint32_t type)
{
	uint64_t result = result_place();
	uint16_t head = publish(type, result);
	struct vring_used_elem element;

	driver_kick(&queue);
	element = driver_wait(&queue);
	ck_assert_uint_eq(element.id, head);
	ck_assert_uint_eq(element.len, sizeof(struct virtio_pmem_resp));
	return result_at(result);
}

static uint64_t flushes(void)
{
	ck_assert_str_eq(pmem->counters[1].name, "flush.requests");
	return pmem->counters[1].value;
}

START_TEST(device_tells_where_the_memory_is)
{
	struct virtio_pmem_config config;

	ck_assert_int_eq(virtio_config_read(pmem, 0, &config, sizeof(config)), 0);
	ck_assert_uint_eq(config.start, PLACE);
	ck_assert_uint_eq(config.size, 4 * MIB);
	ck_assert_ptr_nonnull(pmem->ops->unsavable(pmem));
}
END_TEST

START_TEST(flush_is_done_by_the_file)
{
	uint64_t operations = sim.ring.operations;

	ck_assert_uint_eq(request(VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
	ck_assert_uint_eq(sim.ring.operations, operations + 1);
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
	ck_assert_uint_eq(flushes(), 1);
}
END_TEST

START_TEST(flush_of_what_is_no_files_is_done_at_once)
{
	uint64_t operations;

	add_device(false);
	operations = sim.ring.operations;
	ck_assert_uint_eq(request(VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
	ck_assert_uint_eq(sim.ring.operations, operations);
}
END_TEST

START_TEST(unknown_request_is_an_error)
{
	ck_assert_uint_eq(request(VIRTIO_PMEM_REQ_TYPE_FLUSH + 1), 1);
	ck_assert_uint_eq(flushes(), 0);
	ck_assert_uint_eq(request(VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
}
END_TEST

static void assert_breaks(const struct part *parts, unsigned count)
{
	messages_begin();
	driver_publish(&queue, driver_chain(&queue, parts, count));
	driver_kick(&queue);
	ck_assert_ptr_nonnull(strstr(messages_end(), "pmem0: its driver broke the flush queue"));
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	ck_assert_uint_eq(driver_used(&queue), 0);
	sim_reset(&sim, 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT, &queue, 1, PMEM_QUEUE_SIZE);
	ck_assert_uint_eq(request(VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
}

START_TEST(request_without_type_or_room_breaks_the_queue)
{
	uint64_t place = sim_alloc(&sim, 64, 4);
	const struct part short_type[] = { { place, 3, false }, { place + 8, 4, true } };
	const struct part short_result[] = { { place, 4, false }, { place + 8, 3, true } };
	const struct part many[] = { { place, 1, false }, { place + 1, 1, false }, { place + 2, 2, false },
		{ place + 8, 2, true }, { place + 10, 2, true } };

	assert_breaks(short_type, 2);
	assert_breaks(short_result, 2);
	assert_breaks(short_type, 1);
	assert_breaks(many, 5);
}
END_TEST

START_TEST(request_in_parts_is_served)
{
	uint64_t place = sim_alloc(&sim, 64, 4);

	memset(sim_at(&sim, place + 8, 4), 0xee, 4);
	driver_publish(&queue, driver_chain(&queue,
				       (struct part[]){ { place, 1, false }, { place + 1, 3, false },
					       { place + 8, 3, true }, { place + 11, 9, true } },
				       4));
	driver_kick(&queue);
	driver_wait(&queue);
	ck_assert_uint_eq(result_at(place + 8), 0);
}
END_TEST

START_TEST(descriptor_in_use_breaks_the_queue)
{
	uint16_t head = publish(VIRTIO_PMEM_REQ_TYPE_FLUSH, result_place());

	messages_begin();
	driver_publish(&queue, head);
	driver_kick(&queue);
	ck_assert_ptr_nonnull(strstr(messages_end(), "while in use"));
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	sim_reset(&sim, 0);
	ck_assert_uint_eq(pmem->in_flight, 0);
}
END_TEST

START_TEST(reset_waits_for_a_flush_and_writes_no_result)
{
	uint64_t result = result_place();

	publish(VIRTIO_PMEM_REQ_TYPE_FLUSH, result);
	driver_kick(&queue);
	ck_assert_uint_eq(pmem->in_flight, 1);
	sim_reset(&sim, 0);
	ck_assert_uint_eq(pmem->in_flight, 0);
	ck_assert_uint_eq(result_at(result), RESULT_UNTOUCHED);
}
END_TEST

START_TEST(file_is_memory_with_zeroes_behind_it)
{
	ck_assert_uint_eq(region.size, 4 * MIB);
	ck_assert_uint_eq((uintptr_t)region.base % GUEST_HUGE_PAGE, 0);
	ck_assert_int_eq(pwrite(file, "x", 1, FILE_BYTES - 1), 1);
	ck_assert_int_eq(*(uint8_t *)sim_at(&sim, PLACE + FILE_BYTES - 1, 1), 'x');
	ck_assert_int_eq(*(uint8_t *)sim_at(&sim, PLACE + FILE_BYTES, MIB), 0);
	*(uint8_t *)sim_at(&sim, PLACE + 4 * MIB - 1, 1) = 1;
	ck_assert_ptr_null(guest_memory_at(&sim.memory, GPA(PLACE + 4 * MIB - 1), 2));
	ck_assert_ptr_null(guest_memory_at(&sim.memory, GPA(PLACE - 1), 2));
	ck_assert_uint_eq(guest_memory_gpa(&sim.memory, region.base + 5).value, PLACE + 5);
}
END_TEST

/* A device's write, say, into memory that the guest may only read. */
START_TEST(write_to_private_memory_is_not_the_files)
{
	char byte = 0;

	*(uint8_t *)sim_at(&sim, PLACE, 1) = 'x';
	ck_assert_int_eq(pread(file, &byte, 1, 0), 1);
	ck_assert_int_eq(byte, 0);
}
END_TEST

START_TEST(write_to_shared_memory_is_the_files)
{
	struct memory_region shared;
	char byte = 0;

	ck_assert_int_eq(ftruncate(file, 2 * MIB), 0);
	ck_assert_int_eq(memory_region_map(&shared, file, 2 * MIB, true), 0);
	shared.base[2 * MIB - 1] = 'x';
	ck_assert_int_eq(pread(file, &byte, 1, 2 * MIB - 1), 1);
	ck_assert_int_eq(byte, 'x');
	munmap(shared.base, shared.size);
}
END_TEST

START_TEST(balloon_can_not_have_a_file)
{
	ck_assert_int_eq(guest_memory_discard(&sim.memory, region.base, region.size), -EINVAL);
	ck_assert_int_eq(guest_memory_discard(&sim.memory, sim_at(&sim, 0, PAGE_BYTES), PAGE_BYTES), PAGE_BYTES);
}
END_TEST

START_TEST(no_memory_of_what_can_not_be_mapped)
{
	struct memory_region none;

	ck_assert_int_lt(memory_region_map(&none, -1, MIB, true), 0);
	ck_assert_int_eq(memory_region_map(&none, file, UINT64_MAX, false), -EFBIG);
}
END_TEST

Suite *pmem_suite(void)
{
	Suite *suite = suite_create("pmem");
	const TTest *const requests[] = {
		device_tells_where_the_memory_is,
		flush_is_done_by_the_file,
		unknown_request_is_an_error,
		request_without_type_or_room_breaks_the_queue,
		request_in_parts_is_served,
		descriptor_in_use_breaks_the_queue,
		reset_waits_for_a_flush_and_writes_no_result,
	};
	const TTest *const memory[] = {
		flush_of_what_is_no_files_is_done_at_once,
		file_is_memory_with_zeroes_behind_it,
		write_to_private_memory_is_not_the_files,
		write_to_shared_memory_is_the_files,
		balloon_can_not_have_a_file,
		no_memory_of_what_can_not_be_mapped,
	};

	add_case(suite, "requests", setup, teardown, 30, requests, ARRAY_SIZE(requests));
	add_case(suite, "memory", setup_memory, teardown, 30, memory, ARRAY_SIZE(memory));
	return suite;
}
