// SPDX-License-Identifier: GPL-2.0-only
/* Kernels at random addresses: where they go, what is relocated, and what relocations may not do. */
#include <check.h>
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "../../src/boot/internal.h"
#include "guest.h"

#define KERNEL_MAP 0xffffffff80000000ull
#define LINKED_AT 0x1000000u
#define ALIGN 0x200000u
#define TEXT_OFFSET 0x1000u
#define TEXT_BYTES 0x2000u
#define DATA_AT (LINKED_AT + 0x400000u)	/* behind a gap */
#define DATA_OFFSET 0x3000u
#define DATA_BYTES 0x1000u
#define KERNEL_BYTES (0x400000u + DATA_BYTES)
#define ENTRY (LINKED_AT + 0x40)
#define SECTIONS_OFFSET 0x4000u
#define ELF_BYTES (SECTIONS_OFFSET + 2 * sizeof(Elf64_Shdr))
#define GUEST_BYTES (64 * MIB)

/* Of what is relocated: the address as the relocation has it, and what is there before. */
#define WORD(at) ((uint32_t)(KERNEL_MAP + (at)))
#define AT_64 (LINKED_AT + 0x101)	/* aligned or not */
#define AT_32 (DATA_AT + 0x204)
#define AT_INVERSE (LINKED_AT + 0x305)
#define VALUE_64 (KERNEL_MAP + 0x1234567)
#define VALUE_32 0x81234567u

static _Alignas(8) uint8_t file_bytes[ELF_BYTES + 4096];
static size_t file_size;
static struct guest_memory memory;
static struct boot_image image;

/* What getrandom() gives to two numbers, if it is not to be random; by --wrap. */
static const uint64_t *numbers;
ssize_t __real_getrandom(void *to, size_t size, unsigned flags);
ssize_t __wrap_getrandom(void *to, size_t size, unsigned flags);

ssize_t __wrap_getrandom(void *to, size_t size, unsigned flags)
{
	if (!numbers)
		return __real_getrandom(to, size, flags);
	ck_assert_uint_eq(size, 2 * sizeof(*numbers));
	memcpy(to, numbers, size);
	return size;
}

static uint8_t *in_file(uint32_t at)
{
	return file_bytes + (at < DATA_AT ? at - LINKED_AT + TEXT_OFFSET : at - DATA_AT + DATA_OFFSET);
}

static void make_kernel(const uint32_t *relocations, size_t count)
{
	const uint64_t value_64 = VALUE_64;
	const uint32_t value_32 = VALUE_32;
	Elf64_Ehdr elf = kernel_header(ENTRY, 2);
	const Elf64_Phdr segments[2] = {
		{ .p_type = PT_LOAD, .p_offset = TEXT_OFFSET, .p_paddr = LINKED_AT, .p_filesz = TEXT_BYTES,
			.p_memsz = TEXT_BYTES },
		{ .p_type = PT_LOAD, .p_offset = DATA_OFFSET, .p_paddr = DATA_AT, .p_filesz = DATA_BYTES,
			.p_memsz = DATA_BYTES },
	};

	elf.e_shoff = SECTIONS_OFFSET;
	elf.e_shnum = 2;
	memset(file_bytes, 0x90, sizeof(file_bytes));
	memcpy(file_bytes, &elf, sizeof(elf));
	memcpy(file_bytes + sizeof(elf), segments, sizeof(segments));
	memcpy(in_file(AT_64), &value_64, sizeof(value_64));
	memcpy(in_file(AT_32), &value_32, sizeof(value_32));
	memcpy(in_file(AT_INVERSE), &value_32, sizeof(value_32));
	memcpy(file_bytes + ELF_BYTES, relocations, count * sizeof(*relocations));
	file_size = ELF_BYTES + count * sizeof(*relocations);
}

#define MAKE_KERNEL(...) make_kernel((const uint32_t[]){ __VA_ARGS__ }, \
	sizeof((const uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t))

static void make_usual_kernel(void)
{
	MAKE_KERNEL(0, WORD(AT_64), 0, WORD(AT_INVERSE), 0, WORD(AT_32));
}

static int load(const char *cmdline)
{
	cleanup_boot_file struct boot_file file = { "kernel", "path", memfd_create("kernel", MFD_CLOEXEC),
		file_size, NULL };

	ck_assert_int_eq(pwrite(file.fd, file_bytes, file_size, 0), (ssize_t)file_size);
	guest_memory_release(&memory);
	ck_assert_int_eq(guest_memory_init(&memory, &(struct memory_options){ .size = GUEST_BYTES }), 0);
	image.cmdline = cmdline;
	return elf_load_unpacked(&memory, &file, &image);
}

/* How far it was moved in physical memory. */
static uint64_t moved_by(void)
{
	return image.entry - ENTRY;
}

static uint64_t value(uint32_t at, size_t size)
{
	uint64_t result = 0;

	ck_assert_int_eq(guest_memory_read(&memory, GPA(at + moved_by()), &result, size), 0);
	return result;
}

/* How far all that is relocated was moved in virtual memory. */
static uint64_t shift_of_values(void)
{
	uint64_t shift = value(AT_64, 8) - VALUE_64;

	ck_assert_uint_eq(value(AT_32, 4), (uint32_t)(VALUE_32 + shift));
	return shift;
}

static void setup(void)
{
	numbers = NULL;
	ck_assert_int_eq(guest_memory_init(&memory, &(struct memory_options){ .size = GUEST_BYTES }), 0);
	image = (struct boot_image){
		.initrd_max = 0x7fffffff,
		.header = { .relocatable_kernel = 1, .kernel_alignment = ALIGN, .loadflags = LOADED_HIGH },
	};
	make_usual_kernel();
}

static void teardown(void)
{
	guest_memory_release(&memory);
}

START_TEST(what_relocations_name_is_moved_and_nothing_else)
{
	const uint64_t chosen[2] = { 3, 5 };
	uint8_t text[TEXT_BYTES];

	numbers = chosen;
	ck_assert_int_eq(load("quiet"), 0);
	ck_assert_uint_eq(moved_by(), 3 * ALIGN);
	ck_assert_uint_eq(image.end, LINKED_AT + KERNEL_BYTES + 3 * ALIGN);
	ck_assert_uint_eq(shift_of_values(), 5 * ALIGN);
	ck_assert_uint_eq(value(AT_INVERSE, 4), VALUE_32 - 5 * ALIGN);
	ck_assert_uint_eq(image.header.loadflags, LOADED_HIGH | KASLR_FLAG);
	ck_assert_int_eq(guest_memory_read(&memory, GPA(LINKED_AT + moved_by()), text, sizeof(text)), 0);
	memcpy(text + AT_64 - LINKED_AT, in_file(AT_64), 8);
	memcpy(text + AT_INVERSE - LINKED_AT, in_file(AT_INVERSE), 4);
	ck_assert_mem_eq(text, file_bytes + TEXT_OFFSET, sizeof(text));
}
END_TEST

/* As from Linux 6.15 on. */
START_TEST(two_tables_have_no_inverse_relocations)
{
	const uint64_t chosen[2] = { 3, 5 };

	numbers = chosen;
	MAKE_KERNEL(0, WORD(AT_64), 0, WORD(AT_32));
	ck_assert_int_eq(load("quiet"), 0);
	ck_assert_uint_eq(shift_of_values(), 5 * ALIGN);
	ck_assert_uint_eq(value(AT_INVERSE, 4), VALUE_32);
}
END_TEST

START_TEST(addresses_are_random_and_in_bounds)
{
	const uint64_t slots = (GUEST_BYTES - MIB - LINKED_AT - KERNEL_BYTES) / ALIGN + 1;
	uint64_t physical = 0, virtual = 0;

	image.initrd_bytes = MIB;
	for (unsigned i = 0; i < 100; i++) {
		ck_assert_int_eq(load("quiet"), 0);
		ck_assert_uint_eq(moved_by() % ALIGN, 0);
		ck_assert_uint_lt(moved_by() / ALIGN, slots);
		ck_assert_uint_eq(shift_of_values() % ALIGN, 0);
		ck_assert_uint_le(LINKED_AT + KERNEL_BYTES + shift_of_values(), GIB);
		physical |= 1ull << (moved_by() / ALIGN % 64);
		virtual |= 1ull << (shift_of_values() / ALIGN % 64);
	}
	ck_assert_int_gt(__builtin_popcountll(physical), 10);
	ck_assert_int_gt(__builtin_popcountll(virtual), 20);
}
END_TEST

START_TEST(the_last_place_is_right_below_the_initrd)
{
	const uint64_t room = GUEST_BYTES - LINKED_AT - KERNEL_BYTES;
	const uint64_t chosen[2] = { room / ALIGN, (GIB - LINKED_AT - KERNEL_BYTES) / ALIGN };
	const uint64_t none[2] = { 7, 0 };

	numbers = chosen;
	ck_assert_int_eq(load("quiet"), 0);
	ck_assert_uint_eq(moved_by(), align_down(room, ALIGN));
	ck_assert_uint_eq(shift_of_values(), align_down(GIB - LINKED_AT - KERNEL_BYTES, ALIGN));
	/* A page more, and that place is none. */
	image.initrd_bytes = room % ALIGN + 1;
	ck_assert_int_eq(load("quiet"), 0);
	ck_assert_uint_eq(moved_by(), 0);
	numbers = none;
	image.initrd_bytes = room;
	ck_assert_int_eq(load("quiet"), 0);
	ck_assert_uint_eq(moved_by(), 0);
	image.initrd_bytes = GUEST_BYTES + 1;
	ck_assert_int_eq(load("quiet"), 0);
	ck_assert_uint_eq(moved_by(), 0);
}
END_TEST

static void expect_unmoved(const char *cmdline)
{
	ck_assert_int_eq(load(cmdline), 0);
	ck_assert_uint_eq(moved_by(), 0);
	ck_assert_uint_eq(shift_of_values(), 0);
	ck_assert_uint_eq(image.header.loadflags, LOADED_HIGH);
}

START_TEST(nokaslr_is_honoured)
{
	static const char *const with[] = { "nokaslr", "quiet nokaslr", "nokaslr quiet", "a\tnokaslr\tb",
		"xnokaslr nokaslr" };
	static const char *const without[] = { "", "xnokaslr", "nokaslrx", "nokaslr=1", "a=nokaslr" };
	const uint64_t chosen[2] = { 3, 5 };

	numbers = chosen;
	for (size_t i = 0; i < ARRAY_SIZE(with); i++)
		expect_unmoved(with[i]);
	for (size_t i = 0; i < ARRAY_SIZE(without); i++) {
		ck_assert_int_eq(load(without[i]), 0);
		ck_assert_uint_eq(moved_by(), 3 * ALIGN);
	}
}
END_TEST

START_TEST(who_names_places_in_memory_gets_the_kernel_where_it_is_linked)
{
	static const char *const cmdlines[] = { "mem=32M", "quiet memmap=1M$32M", "crashkernel=16M" };
	const uint64_t chosen[2] = { 3, 5 };

	numbers = chosen;
	for (size_t i = 0; i < ARRAY_SIZE(cmdlines); i++) {
		ck_assert_int_eq(load(cmdlines[i]), 0);
		ck_assert_uint_eq(moved_by(), 0);
		ck_assert_uint_eq(shift_of_values(), 5 * ALIGN);
	}
	ck_assert_int_eq(load("xmem=32M mem"), 0);
	ck_assert_uint_eq(moved_by(), 3 * ALIGN);
}
END_TEST

START_TEST(without_relocations_it_stays)
{
	const uint64_t chosen[2] = { 3, 5 };

	numbers = chosen;
	make_kernel((const uint32_t[]){ 0 }, 0);
	expect_unmoved("quiet");
	/* Not words, not tables, too few, too many. */
	make_usual_kernel();
	file_size--;
	expect_unmoved("quiet");
	MAKE_KERNEL(WORD(AT_64), 0, 0, WORD(AT_32));
	expect_unmoved("quiet");
	MAKE_KERNEL(0, WORD(AT_64), WORD(AT_32));
	expect_unmoved("quiet");
	MAKE_KERNEL(0, WORD(AT_64), 0, 0, 0, WORD(AT_32));
	expect_unmoved("quiet");
	/* Section headers that are nowhere. */
	make_usual_kernel();
	((Elf64_Ehdr *)file_bytes)->e_shoff = UINT64_MAX - 4;
	expect_unmoved("quiet");
}
END_TEST

START_TEST(what_the_header_does_not_allow_is_not_moved)
{
	const uint32_t aligns[] = { 0, 1, 3, ALIGN / 2, ALIGN + 1, ALIGN * 3 };
	const uint64_t chosen[2] = { 1, 1 };

	numbers = chosen;
	for (size_t i = 0; i < ARRAY_SIZE(aligns); i++) {
		image.header.kernel_alignment = aligns[i];
		expect_unmoved("quiet");
	}
	image.header.kernel_alignment = ALIGN;
	image.header.relocatable_kernel = 0;
	expect_unmoved("quiet");
	/* Larger than it could ever be moved by. */
	image.header.relocatable_kernel = 1;
	image.header.kernel_alignment = 1u << 31;
	ck_assert_int_eq(load("quiet"), 0);
	ck_assert_uint_eq(moved_by(), 0);
	ck_assert_uint_eq(shift_of_values(), 0);
}
END_TEST

START_TEST(relocations_outside_of_the_kernel_are_refused)
{
	const uint32_t last = LINKED_AT + KERNEL_BYTES;
	const uint32_t outside[][3] = {
		{ WORD(LINKED_AT - 1), WORD(AT_INVERSE), WORD(AT_32) },
		{ WORD(last - 7), WORD(AT_INVERSE), WORD(AT_32) },
		{ WORD(AT_64), WORD(last - 3), WORD(AT_32) },
		{ WORD(AT_64), WORD(AT_INVERSE), WORD(last - 3) },
		{ WORD(AT_64), WORD(AT_INVERSE), WORD(LINKED_AT - 1) },
		{ WORD(AT_64), WORD(AT_INVERSE), UINT32_MAX },
		{ WORD(AT_64), 0x7fffffff, WORD(AT_32) },
		{ 1, WORD(AT_INVERSE), WORD(AT_32) },
	};
	const uint64_t chosen[2] = { 0, 1 };

	numbers = chosen;
	for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
		MAKE_KERNEL(0, outside[i][0], 0, outside[i][1], 0, outside[i][2]);
		messages_begin();
		ck_assert_int_eq(load("quiet"), -ENOEXEC);
		ck_assert_ptr_nonnull(strstr(messages_end(), "kernel path: has a relocation outside"));
	}
	MAKE_KERNEL(0, WORD(last - 8), 0, WORD(last - 4), 0, WORD(LINKED_AT));
	ck_assert_int_eq(load("quiet"), 0);
}
END_TEST

Suite *kaslr_suite(void)
{
	const TTest *const tests[] = {
		what_relocations_name_is_moved_and_nothing_else,
		two_tables_have_no_inverse_relocations,
		addresses_are_random_and_in_bounds,
		the_last_place_is_right_below_the_initrd,
		nokaslr_is_honoured,
		who_names_places_in_memory_gets_the_kernel_where_it_is_linked,
		without_relocations_it_stays,
		what_the_header_does_not_allow_is_not_moved,
		relocations_outside_of_the_kernel_are_refused,
	};
	Suite *suite = suite_create("kaslr");
	TCase *kaslr = tcase_create("kaslr");

	tcase_add_checked_fixture(kaslr, setup, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(kaslr, tests[i]);
	suite_add_tcase(suite, kaslr);
	return suite;
}
