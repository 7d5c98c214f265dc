// SPDX-License-Identifier: GPL-2.0-only
/* Unpacking the kernel in a bzImage, in a process of its own. */
#include <lz4.h>
#include <lzma.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <zstd.h>

#include "unpack_fixture.h"

void (*instead)(void);
enum unpack_end __real_boot_unpack(struct unpacking *unpacking);
enum unpack_end __wrap_boot_unpack(struct unpacking *unpacking);

enum unpack_end __wrap_boot_unpack(struct unpacking *unpacking)
{
	if (instead)
		instead();
	return __real_boot_unpack(unpacking);
}

static void pack_xz(void)
{
	packed_size = 0;
	ck_assert_int_eq(lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, NULL, kernel, sizeof(kernel),
				 packed, &packed_size, sizeof(packed)),
		LZMA_OK);
}

static void pack_zstd(void)
{
	ZSTD_CCtx *context = ZSTD_createCCtx();

	ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
	packed_size = ZSTD_compress2(context, packed, sizeof(packed), kernel, sizeof(kernel));
	ck_assert(!ZSTD_isError(packed_size));
	ZSTD_freeCCtx(context);
}

/* As `lz4 -l` does, but in blocks that are smaller. */
static void pack_lz4(void)
{
	static const uint8_t magic[] = { 0x02, 0x21, 0x4c, 0x18 };
	const size_t block_bytes = KERNEL_BYTES / 3;

	memcpy(packed, magic, sizeof(magic));
	packed_size = sizeof(magic);
	for (size_t at = 0; at < sizeof(kernel); at += block_bytes) {
		uint8_t *to = packed + packed_size;
		int32_t bytes = LZ4_compress_default((char *)kernel + at, (char *)to + sizeof(bytes),
			block_bytes, sizeof(packed) - packed_size - sizeof(bytes));

		ck_assert_int_gt(bytes, 0);
		memcpy(to, &bytes, sizeof(bytes));
		packed_size += sizeof(bytes) + bytes;
	}
}

static void expect_failure(const char *message)
{
	int result;

	boot_kernel_close(&guest.kernel);
	messages_begin();
	result = guest_open_kernel(&guest);
	ck_assert_ptr_nonnull(strstr(messages_so_far(), message));
	ck_assert_ptr_nonnull(strstr(messages_end(), bzimage_path));
	ck_assert_int_eq(result, -ENOEXEC);
	ck_assert_int_eq(unpacked->fd, -1);
}

START_TEST(kernels_are_unpacked)
{
	void (*const packers[])(void) = { pack_gzip, pack_xz, pack_zstd, pack_lz4 };

	packers[_i]();
	write_bzimage();
	ck_assert(take());
	assert_whole();
}
END_TEST

START_TEST(zeroes_are_holes_in_the_file)
{
	void (*const packers[])(void) = { pack_gzip, pack_xz, pack_zstd, pack_lz4 };
	struct stat status;

	memset(kernel + 0x10000, 0, 0x20000);
	memset(kernel + 0x40000, 0, KERNEL_BYTES - 0x40000);
	packers[_i]();
	write_bzimage();
	ck_assert(take());
	assert_whole();
	ck_assert_int_eq(fstat(unpacked->fd, &status), 0);
	/* With its sums. */
	ck_assert_int_le(status.st_blocks * 512, 0x21000);
}
END_TEST

static void crash(void)
{
	*(volatile char *)(uintptr_t)instead = 0;
}

static void open_file(void)
{
	open("/", O_RDONLY | O_CLOEXEC);
}

START_TEST(the_second_time_it_comes_from_the_cache)
{
	ck_assert(take());
	instead = crash;
	ck_assert(take());
	assert_whole();
	cached(1);
}
END_TEST

START_TEST(a_changed_kernel_does_not_find_the_old)
{
	ck_assert(take());
	kernel[0x5000] ^= 1;
	pack_gzip();
	write_bzimage();
	ck_assert(take());
	assert_whole();
	cached(2);
}
END_TEST

START_TEST(a_damaged_kernel_is_told)
{
	void (*const packers[])(void) = { pack_gzip, pack_xz, pack_zstd };

	packers[_i]();
	packed[packed_size / 2] ^= 0xff;
	write_bzimage();
	expect_failure("can't be unpacked");
	cached(0);
}
END_TEST

/* lz4 has no sum: what is seen is a size that can't be. */
START_TEST(a_damaged_block_of_lz4_is_told)
{
	static const int64_t changes[] = { 1, -1, 5, 0x7fffffff, -0x80000000ll };
	uint32_t bytes;

	pack_lz4();
	memcpy(&bytes, packed + 4, sizeof(bytes));
	bytes += changes[_i];
	memcpy(packed + 4, &bytes, sizeof(bytes));
	write_bzimage();
	expect_failure("can't be unpacked");
	cached(0);
}
END_TEST

START_TEST(what_an_lz4_kernel_lacks_or_has_too_much_is_told)
{
	static const int changes[] = { -1, -4, -1000, 1, 4, 8, 1000 };

	pack_lz4();
	packed_size += changes[_i];
	write_bzimage();
	expect_failure("can't be unpacked");
	cached(0);
}
END_TEST

/* Its magic number, and no more than the size or less. */
START_TEST(an_lz4_kernel_of_nothing_is_told)
{
	pack_lz4();
	packed_size = 4 + _i;
	write_bzimage();
	expect_failure("can't be unpacked");
}
END_TEST

START_TEST(more_than_the_size_that_it_tells_is_not_unpacked)
{
	void (*const packers[])(void) = { pack_gzip, pack_xz, pack_zstd, pack_lz4 };
	const uint32_t size = KERNEL_BYTES / 2;

	packers[_i]();
	if (packers[_i] == pack_gzip)
		packed_size -= sizeof(size);
	memcpy(packed + packed_size, &size, sizeof(size));
	packed_size += sizeof(size);
	write_file();
	expect_failure("can't be unpacked");
}
END_TEST

START_TEST(what_is_larger_than_the_guest_is_left_to_it)
{
	guest.options.memory.size = KERNEL_BYTES - 1;
	ck_assert(!take());
	guest.options.memory.size = KERNEL_BYTES;
	ck_assert(take());
	assert_whole();
}
END_TEST

START_TEST(who_crashes_the_unpacking_is_told)
{
	instead = crash;
	expect_failure("was ended by signal");
	cached(0);
	instead = NULL;
	ck_assert(take());
}
END_TEST

static void hang(void)
{
	for (;;)
		;
}

START_TEST(an_unpacking_is_ended_by_the_timeout)
{
	instead = hang;
	guest.timeout_at = milliseconds() + 1;
	ck_assert_int_eq(guest_open_kernel(&guest), -ECANCELED);
	cached(0);
}
END_TEST

START_TEST(an_unpacking_is_ended_by_a_signal)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	ck_assert_int_eq(sigprocmask(SIG_BLOCK, &set, NULL), 0);
	guest.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	ck_assert_int_eq(raise(SIGTERM), 0);
	instead = hang;
	ck_assert_int_eq(guest_open_kernel(&guest), -ECANCELED);
	ck_assert(guest.stop_requested);
	ck_assert_int_eq(guest.stop_signal, SIGTERM);
	cached(0);
	close(guest.signal_fd);
}
END_TEST

START_TEST(who_takes_over_the_unpacking_may_open_nothing)
{
	instead = open_file;
	expect_failure("was ended by signal 31 (Bad system call)");
	cached(0);
}
END_TEST

START_TEST(a_cache_without_room_is_no_fault_of_the_kernel)
{
	const struct rlimit small = { 0x10000, RLIM_INFINITY }, large = { RLIM_INFINITY, RLIM_INFINITY };

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	ck_assert(!take());
	cached(0);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &large), 0);
	ck_assert(take());
	assert_whole();
}
END_TEST

START_TEST(what_is_no_elf_file_is_left_to_the_guest)
{
	kernel[1] = 'e';
	pack_gzip();
	write_bzimage();
	ck_assert(!take());
}
END_TEST

static int load_unpacked(struct guest_memory *memory, struct boot_image *image)
{
	ck_assert(take());
	ck_assert_int_eq(guest_memory_init(memory, &(struct memory_options){ .size = GUEST_BYTES }), 0);
	return elf_load_unpacked(memory, unpacked, image);
}

START_TEST(what_is_unpacked_is_entered_where_it_says)
{
	struct boot_image image = { 0 };
	struct guest_memory memory;

	ck_assert_int_eq(load_unpacked(&memory, &image), 0);
	ck_assert_uint_eq(image.entry, ENTRY);
	ck_assert_uint_eq(image.end, SEGMENT + SEGMENT_BYTES);
	ck_assert_mem_eq(guest_memory_at(&memory, GPA(SEGMENT), SEGMENT_BYTES), kernel + SEGMENT_OFFSET,
		SEGMENT_BYTES);
	guest_memory_release(&memory);
}
END_TEST

/* The same segment, told of by headers of 32 bits. */
START_TEST(an_i386_kernel_is_entered_where_it_says)
{
	const Elf32_Ehdr elf = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_386,
		.e_entry = ENTRY,
		.e_phoff = sizeof(elf),
		.e_phentsize = sizeof(Elf32_Phdr),
		.e_phnum = 1,
	};
	const Elf32_Phdr segment = { .p_type = PT_LOAD, .p_offset = SEGMENT_OFFSET, .p_paddr = SEGMENT,
		.p_filesz = SEGMENT_BYTES, .p_memsz = SEGMENT_BYTES };
	struct boot_image image = { .protocol = BOOT_LINUX32 }, wrong = { .protocol = BOOT_LINUX64 };
	struct guest_memory memory;

	memcpy(kernel, &elf, sizeof(elf));
	memcpy(kernel + sizeof(elf), &segment, sizeof(segment));
	pack_gzip();
	write_bzimage();
	ck_assert_int_eq(load_unpacked(&memory, &image), 0);
	ck_assert_uint_eq(image.entry, ENTRY);
	ck_assert_uint_eq(image.end, SEGMENT + SEGMENT_BYTES);
	ck_assert_mem_eq(guest_memory_at(&memory, GPA(SEGMENT), SEGMENT_BYTES), kernel + SEGMENT_OFFSET,
		SEGMENT_BYTES);
	ck_assert_int_eq(elf_load_unpacked(&memory, unpacked, &wrong), -ENOEXEC);
	guest_memory_release(&memory);
}
END_TEST

START_TEST(an_entry_outside_of_what_is_loaded_is_refused)
{
	struct boot_image image = { 0 };
	struct guest_memory memory;

	((Elf64_Ehdr *)kernel)->e_entry = SEGMENT + SEGMENT_BYTES;
	pack_gzip();
	write_bzimage();
	ck_assert_int_eq(load_unpacked(&memory, &image), -ENOEXEC);
	guest_memory_release(&memory);
}
END_TEST

START_TEST(a_payload_outside_of_the_file_is_refused)
{
	const uint32_t length = packed_size + 1024;
	cleanup_fd int fd = open(bzimage_path, O_RDWR | O_CLOEXEC);

	ck_assert_int_eq(pwrite(fd, &length, sizeof(length),
				 0x1f1 + offsetof(struct setup_header, payload_length)),
		sizeof(length));
	ck_assert(!take());
	cached(0);
}
END_TEST

Suite *unpack_suite(void)
{
	const TTest *const tests[] = {
		the_second_time_it_comes_from_the_cache,
		a_changed_kernel_does_not_find_the_old,
		what_is_larger_than_the_guest_is_left_to_it,
		who_crashes_the_unpacking_is_told,
		an_unpacking_is_ended_by_the_timeout,
		an_unpacking_is_ended_by_a_signal,
		who_takes_over_the_unpacking_may_open_nothing,
		a_cache_without_room_is_no_fault_of_the_kernel,
		what_is_no_elf_file_is_left_to_the_guest,
		what_is_unpacked_is_entered_where_it_says,
		an_i386_kernel_is_entered_where_it_says,
		an_entry_outside_of_what_is_loaded_is_refused,
		a_payload_outside_of_the_file_is_refused,
	};
	TCase *unpack_case;
	Suite *suite = suite_create("unpack");

	add_case(suite, "unpack", setup, teardown, 60, tests, ARRAY_SIZE(tests));
	unpack_case = add_case(suite, "unpack", setup, teardown, 60, NULL, 0);
	tcase_add_loop_test(unpack_case, kernels_are_unpacked, 0, 4);
	tcase_add_loop_test(unpack_case, a_damaged_kernel_is_told, 0, 3);
	tcase_add_loop_test(unpack_case, a_damaged_block_of_lz4_is_told, 0, 5);
	tcase_add_loop_test(unpack_case, what_an_lz4_kernel_lacks_or_has_too_much_is_told, 0, 7);
	tcase_add_loop_test(unpack_case, an_lz4_kernel_of_nothing_is_told, 0, 5);
	tcase_add_loop_test(unpack_case, more_than_the_size_that_it_tells_is_not_unpacked, 0, 4);
	tcase_add_loop_test(unpack_case, zeroes_are_holes_in_the_file, 0, 4);
	unpack_cache_tests(suite);
	return suite;
}
