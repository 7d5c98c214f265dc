// SPDX-License-Identifier: GPL-2.0-only
/* Guest memory: which addresses become pointers, and where the hole is. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "guest.h"
#include "karma/vm.h"

#define HIGH_BYTES (2 * GIB)

static struct guest_memory memory;

static void *at(uint64_t gpa, uint64_t length)
{
	return guest_memory_at(&memory, GPA(gpa), length);
}

static void map(uint64_t size)
{
	ck_assert_int_eq(guest_memory_init(&memory, &(struct memory_options){ .size = size }), 0);
}

static void map_shared(uint64_t size)
{
	const struct memory_options options = { .size = size, .shared = true };

	ck_assert_int_eq(guest_memory_init(&memory, &options), 0);
}

static void teardown(void)
{
	guest_memory_release(&memory);
}

START_TEST(memory_starts_at_0_and_is_zero)
{
	map(SIM_MEMORY);
	ck_assert_ptr_eq(at(0, 1), memory.base);
	ck_assert_ptr_eq(at(0, SIM_MEMORY), memory.base);
	for (uint64_t i = 0; i < SIM_MEMORY; i += 509)
		ck_assert_uint_eq(*(uint8_t *)at(i, 1), 0);
}
END_TEST

START_TEST(what_reaches_over_the_end_is_refused)
{
	map(SIM_MEMORY);
	ck_assert_ptr_eq(at(SIM_MEMORY - 1, 1), memory.base + SIM_MEMORY - 1);
	ck_assert_ptr_null(at(SIM_MEMORY - 1, 2));
	ck_assert_ptr_null(at(SIM_MEMORY, 1));
	ck_assert_ptr_null(at(0, SIM_MEMORY + 1));
	ck_assert_ptr_null(at(SIM_MEMORY / 2, SIM_MEMORY));
}
END_TEST

START_TEST(addresses_and_lengths_that_wrap_are_refused)
{
	map(5 * GIB);
	ck_assert_ptr_null(at(UINT64_MAX, 1));
	ck_assert_ptr_null(at(UINT64_MAX, 2));
	ck_assert_ptr_null(at(UINT64_MAX, UINT64_MAX));
	ck_assert_ptr_null(at(0, UINT64_MAX));
	ck_assert_ptr_null(at(1, UINT64_MAX));
	ck_assert_ptr_null(at(PAGE_BYTES, UINT64_MAX - PAGE_BYTES + 1));
	ck_assert_ptr_null(at(PAGE_BYTES, UINT64_MAX - PAGE_BYTES + 2));
	ck_assert_ptr_null(at(GUEST_HOLE_END, UINT64_MAX - GUEST_HOLE_END + 2));
	ck_assert_ptr_null(at(1ull << 63, 1ull << 63));
	ck_assert_ptr_null(at(UINT64_MAX - 4095, 4096));
}
END_TEST

START_TEST(without_high_memory_nothing_is_at_4_gib)
{
	map(SIM_MEMORY);
	ck_assert_ptr_null(at(GUEST_HOLE_START, 1));
	ck_assert_ptr_null(at(GUEST_HOLE_END - 1, 1));
	ck_assert_ptr_null(at(GUEST_HOLE_END, 1));
	ck_assert_ptr_null(at(KARMA_WINDOW_BASE, 1));
}
END_TEST

START_TEST(memory_of_3_gib_ends_at_the_hole)
{
	map(GUEST_HOLE_START);
	ck_assert_uint_eq(memory.low_size, GUEST_HOLE_START);
	ck_assert_uint_eq(memory.high_size, 0);
	ck_assert_ptr_nonnull(at(GUEST_HOLE_START - 1, 1));
	ck_assert_ptr_null(at(GUEST_HOLE_END, 1));
}
END_TEST

START_TEST(one_page_over_3_gib_is_at_4_gib)
{
	map(GUEST_HOLE_START + PAGE_BYTES);
	ck_assert_ptr_nonnull(at(GUEST_HOLE_END, PAGE_BYTES));
	ck_assert_ptr_null(at(GUEST_HOLE_END, PAGE_BYTES + 1));
	ck_assert_ptr_null(at(GUEST_HOLE_END + PAGE_BYTES, 1));
}
END_TEST

START_TEST(the_hole_splits_memory_of_5_gib)
{
	map(5 * GIB);
	ck_assert_uint_eq(memory.low_size, 3 * GIB);
	ck_assert_uint_eq(memory.high_size, HIGH_BYTES);
	ck_assert_uint_eq(memory.size, 5 * GIB);
	ck_assert_ptr_eq(at(GUEST_HOLE_START - 1, 1), memory.base + 3 * GIB - 1);
	ck_assert_ptr_null(at(GUEST_HOLE_START, 1));
	ck_assert_ptr_null(at(GUEST_HOLE_END - 1, 1));
	ck_assert_ptr_eq(at(GUEST_HOLE_END, 1), memory.base + 3 * GIB);
	ck_assert_ptr_eq(at(GUEST_HOLE_END + HIGH_BYTES - 1, 1), memory.base + 5 * GIB - 1);
	ck_assert_ptr_null(at(GUEST_HOLE_END + HIGH_BYTES, 1));
	/* And back. */
	ck_assert_uint_eq(guest_memory_gpa(&memory, memory.base).value, 0);
	ck_assert_uint_eq(guest_memory_gpa(&memory, at(GUEST_HOLE_START - 1, 1)).value, GUEST_HOLE_START - 1);
	ck_assert_uint_eq(guest_memory_gpa(&memory, at(GUEST_HOLE_END, 1)).value, GUEST_HOLE_END);
	ck_assert_uint_eq(guest_memory_gpa(&memory, at(GUEST_HOLE_END + 5, 1)).value, GUEST_HOLE_END + 5);
}
END_TEST

START_TEST(no_range_goes_over_the_hole)
{
	map(5 * GIB);
	/* The two parts touch in the monitor, but not in the guest. */
	ck_assert_ptr_null(at(GUEST_HOLE_START - 1, 2));
	ck_assert_ptr_null(at(GUEST_HOLE_END - 1, 2));
	ck_assert_ptr_null(at(GUEST_HOLE_START - 1, GIB + 2));
	ck_assert_ptr_null(at(0, 5 * GIB));
	ck_assert_ptr_null(at(0, 6 * GIB));
}
END_TEST

START_TEST(memory_beyond_physical_addresses_is_refused)
{
	ck_assert_int_eq(vm_check_memory(3 * GIB, 32), 0);
	ck_assert_int_eq(vm_check_memory(1023 * GIB, 40), 0);
	ck_assert_int_eq(vm_check_memory(1024 * GIB, 41), 0);
	messages_begin();
	ck_assert_int_eq(vm_check_memory(1023 * GIB + PAGE_BYTES, 40), -EINVAL);
	ck_assert_int_eq(vm_check_memory(64 * GIB, 36), -EINVAL);
	ck_assert_ptr_nonnull(strstr(messages_so_far(), "40-bit physical addresses: give 1023G or less"));
	ck_assert_ptr_nonnull(strstr(messages_end(), "36-bit physical addresses: give 63G or less"));
}
END_TEST

START_TEST(memory_is_not_reserved)
{
	/* Far more than there is; only what is touched costs. */
	map(256 * GIB);
	*(uint8_t *)at(GUEST_HOLE_END + 252 * GIB, 1) = 1;
	ck_assert_uint_eq(memory.high_size, 253 * GIB);
}
END_TEST

START_TEST(copies_stay_inside)
{
	uint8_t bytes[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, back[8] = { 0 };

	map(SIM_MEMORY);
	ck_assert_int_eq(guest_memory_write(&memory, GPA(SIM_MEMORY - 8), bytes, 8), 0);
	ck_assert_int_eq(guest_memory_read(&memory, GPA(SIM_MEMORY - 8), back, 8), 0);
	ck_assert_mem_eq(bytes, back, 8);
	memset(back, 0x55, sizeof(back));
	ck_assert_int_eq(guest_memory_read(&memory, GPA(SIM_MEMORY - 7), back, 8), -EFAULT);
	ck_assert_uint_eq(back[0], 0x55);
	ck_assert_int_eq(guest_memory_write(&memory, GPA(SIM_MEMORY - 7), back, 8), -EFAULT);
	ck_assert_mem_eq(memory.base + SIM_MEMORY - 8, bytes, 8);
	ck_assert_int_eq(guest_memory_read(&memory, GPA(UINT64_MAX - 3), back, 8), -EFAULT);
}
END_TEST

START_TEST(no_address_space_is_an_error_with_a_cure)
{
	messages_begin();
	ck_assert_int_lt(
		guest_memory_init(&memory, &(struct memory_options){ .size = 1ull << 52 }), 0);
	ck_assert_ptr_nonnull(strstr(messages_end(), "--memory"));
	ck_assert_ptr_null(memory.base);
	messages_begin();
	ck_assert_int_lt(guest_memory_init(&memory,
				 &(struct memory_options){ .size = 1ull << 52, .shared = true }),
		0);
	ck_assert_ptr_nonnull(strstr(messages_end(), "--memory"));
	ck_assert_ptr_null(memory.base);
}
END_TEST

START_TEST(huge_pages_of_guest_and_host_coincide)
{
	map(SIM_MEMORY + PAGE_BYTES);
	ck_assert_uint_eq((uintptr_t)memory.base % GUEST_HUGE_PAGE, 0);
	guest_memory_release(&memory);
	map_shared(5 * GIB);
	ck_assert_uint_eq((uintptr_t)memory.base % GUEST_HUGE_PAGE, 0);
	ck_assert_uint_eq((uintptr_t)at(GUEST_HOLE_END, 1) % GUEST_HUGE_PAGE, 0);
}
END_TEST

START_TEST(shared_memory_is_a_file_of_fixed_size)
{
	char name[64] = "";
	uint8_t *other;

	map_shared(SIM_MEMORY);
	ck_assert_int_gt(readlink(descriptor_path(memory.fd), name, sizeof(name) - 1), 0);
	ck_assert_ptr_nonnull(strstr(name, "karma-guest"));
	ck_assert_int_lt(ftruncate(memory.fd, 0), 0);
	ck_assert_int_lt(ftruncate(memory.fd, 2 * SIM_MEMORY), 0);
	ck_assert_int_lt(fcntl(memory.fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	other = mmap(NULL, SIM_MEMORY, PROT_READ, MAP_SHARED, memory.fd, 0);
	ck_assert_ptr_ne(other, MAP_FAILED);
	*(uint8_t *)at(SIM_MEMORY - 1, 1) = 7;
	ck_assert_uint_eq(other[SIM_MEMORY - 1], 7);
	munmap(other, SIM_MEMORY);
}
END_TEST

START_TEST(release_closes_the_file)
{
	int fd;

	map_shared(SIM_MEMORY);
	fd = memory.fd;
	guest_memory_release(&memory);
	ck_assert_int_lt(fcntl(fd, F_GETFD), 0);
	ck_assert_ptr_null(memory.base);
	/* What never was mapped has nothing to close. */
	guest_memory_release(&memory);
	ck_assert_int_ge(fcntl(STDIN_FILENO, F_GETFD), 0);
}
END_TEST

static uint64_t file_bytes(void)
{
	struct stat status;

	ck_assert_int_eq(fstat(memory.fd, &status), 0);
	return status.st_blocks * 512ull;
}

START_TEST(discarded_shared_memory_leaves_the_file)
{
	map_shared(SIM_MEMORY);
	memset(at(0, SIM_MEMORY), 0xa5, SIM_MEMORY);
	ck_assert_uint_eq(file_bytes(), SIM_MEMORY);
	ck_assert_int_eq(guest_memory_discard(&memory, at(2 * MIB, 2 * MIB), 2 * MIB), 2 * MIB);
	ck_assert_uint_eq(file_bytes(), SIM_MEMORY - 2 * MIB);
	ck_assert_uint_eq(*(uint8_t *)at(2 * MIB, 1), 0);
	ck_assert_uint_eq(*(uint8_t *)at(4 * MIB - 1, 1), 0);
	ck_assert_uint_eq(*(uint8_t *)at(2 * MIB - 1, 1), 0xa5);
	ck_assert_uint_eq(*(uint8_t *)at(4 * MIB, 1), 0xa5);
}
END_TEST

START_TEST(whole_pages_are_discarded)
{
	map(SIM_MEMORY);
	memset(at(0, MIB), 0xa5, MIB);
	ck_assert_int_eq(guest_memory_discard(&memory, at(1, 2 * PAGE_BYTES), 2 * PAGE_BYTES),
		PAGE_BYTES);
	ck_assert_uint_eq(*(uint8_t *)at(PAGE_BYTES - 1, 1), 0xa5);
	ck_assert_uint_eq(*(uint8_t *)at(PAGE_BYTES, 1), 0);
	ck_assert_uint_eq(*(uint8_t *)at(2 * PAGE_BYTES, 1), 0xa5);
	ck_assert_int_eq(guest_memory_discard(&memory, at(1, 1), PAGE_BYTES - 1), 0);
	ck_assert_int_eq(guest_memory_discard(&memory, at(0, 0), 0), 0);
	ck_assert_int_eq(guest_memory_discard(&memory, at(0, SIM_MEMORY), SIM_MEMORY), SIM_MEMORY);
	ck_assert_uint_eq(*(uint8_t *)at(0, 1), 0);
}
END_TEST

START_TEST(too_few_huge_pages_are_an_error_with_a_cure)
{
	/* More than any host that runs this has. */
	const struct memory_options options = {
		.size = GUEST_MEMORY_MAX, .huge_pages = true, .shared = _i
	};
	const char *said;

	messages_begin();
	ck_assert_int_lt(guest_memory_init(&memory, &options), 0);
	said = messages_end();
	ck_assert_msg(strstr(said, "leave out hugepages=on"), "%s", said);
	if (access("/sys/kernel/mm/hugepages/hugepages-2048kB", F_OK) == 0)
		ck_assert_msg(strstr(said, "vm.nr_hugepages=52"), "%s", said);
	ck_assert_ptr_null(memory.base);
}
END_TEST

Suite *memory_suite(void)
{
	const TTest *const tests[] = {
		memory_starts_at_0_and_is_zero,
		what_reaches_over_the_end_is_refused,
		addresses_and_lengths_that_wrap_are_refused,
		without_high_memory_nothing_is_at_4_gib,
		memory_of_3_gib_ends_at_the_hole,
		one_page_over_3_gib_is_at_4_gib,
		the_hole_splits_memory_of_5_gib,
		no_range_goes_over_the_hole,
		memory_beyond_physical_addresses_is_refused,
		memory_is_not_reserved,
		copies_stay_inside,
		no_address_space_is_an_error_with_a_cure,
		huge_pages_of_guest_and_host_coincide,
		shared_memory_is_a_file_of_fixed_size,
		release_closes_the_file,
		discarded_shared_memory_leaves_the_file,
		whole_pages_are_discarded,
	};
	Suite *suite = suite_create("memory");
	TCase *memory_case = tcase_create("memory");

	tcase_add_checked_fixture(memory_case, NULL, teardown);
	tcase_set_timeout(memory_case, 20);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(memory_case, tests[i]);
	tcase_add_loop_test(memory_case, too_few_huge_pages_are_an_error_with_a_cure, 0, 2);
	suite_add_tcase(suite, memory_case);
	return suite;
}
