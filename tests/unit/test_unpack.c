// SPDX-License-Identifier: GPL-2.0-only
/* The cache of unpacked kernels: what goes in, what is taken from it, whom it does not trust. */
#include <check.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <libdeflate.h>
#include <lzma.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <zstd.h>

#include "../../src/boot/internal.h"
#include "guest.h"

/* Where the payload lies in the file that stands for a bzImage. */
#define PAYLOAD_OFFSET 1000u
#define KERNEL_BYTES 300000u
#define SEGMENT 0x1000000u
#define SEGMENT_OFFSET 0x1000u
#define SEGMENT_BYTES 0x1000u
#define ENTRY (SEGMENT + 0x40)

static char directory[] = "/tmp/karma-unpack-XXXXXX";
static char cache[64], bzimage_path[64];
static uint8_t kernel[KERNEL_BYTES];
static uint8_t packed[2 * KERNEL_BYTES];
static size_t packed_size;
static struct boot_file bzimage, unpacked;

/* An ELF file with one segment, and much that does not pack well behind. */
static void make_kernel(void)
{
	Elf64_Ehdr elf = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_entry = ENTRY,
		.e_phoff = sizeof(elf),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 1,
	};
	Elf64_Phdr segment = { .p_type = PT_LOAD, .p_offset = SEGMENT_OFFSET, .p_paddr = SEGMENT,
		.p_filesz = SEGMENT_BYTES, .p_memsz = SEGMENT_BYTES };

	for (size_t i = 0; i < sizeof(kernel); i++)
		kernel[i] = i * i >> 5;
	memcpy(kernel, &elf, sizeof(elf));
	memcpy(kernel + sizeof(elf), &segment, sizeof(segment));
}

static void pack_gzip(void)
{
	struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(1);

	ck_assert_ptr_nonnull(compressor);
	packed_size = libdeflate_gzip_compress(compressor, kernel, sizeof(kernel), packed,
		sizeof(packed));
	ck_assert_uint_gt(packed_size, 0);
	libdeflate_free_compressor(compressor);
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
	packed_size = ZSTD_compress(packed, sizeof(packed), kernel, sizeof(kernel), 1);
	ck_assert(!ZSTD_isError(packed_size));
}

/* As Linux's build does, the size comes behind what is packed. */
static void write_bzimage(void)
{
	const uint32_t size = KERNEL_BYTES;
	int fd = open(bzimage_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	memcpy(packed + packed_size, &size, sizeof(size));
	packed_size += sizeof(size);
	ck_assert_int_eq(pwrite(fd, packed, packed_size, PAYLOAD_OFFSET), (ssize_t)packed_size);
	boot_file_close(&bzimage);
	bzimage = (struct boot_file){ "kernel", bzimage_path, fd, PAYLOAD_OFFSET + packed_size };
}

static bool take(void)
{
	boot_file_close(&unpacked);
	return boot_unpack(&bzimage, PAYLOAD_OFFSET, packed_size, &unpacked);
}

static void assert_whole(void)
{
	uint8_t got[KERNEL_BYTES];

	ck_assert_uint_eq(unpacked.size, KERNEL_BYTES);
	ck_assert_int_eq(boot_file_read(&unpacked, 0, got, sizeof(got)), 0);
	ck_assert_mem_eq(got, kernel, sizeof(got));
}

/* The path of what is in the cache, of which there is to be that many. */
static const char *cached(size_t count)
{
	static char path[256];
	char pattern[80];
	glob_t found;

	snprintf(pattern, sizeof(pattern), "%s/vmlinux-*", cache);
	ck_assert_int_eq(glob(pattern, 0, NULL, &found), count ? 0 : GLOB_NOMATCH);
	ck_assert_uint_eq(found.gl_pathc, count);
	snprintf(path, sizeof(path), "%s", count ? found.gl_pathv[0] : "");
	globfree(&found);
	return path;
}

static void setup(void)
{
	bzimage = unpacked = BOOT_FILE_NONE;
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(cache, sizeof(cache), "%s/cache", directory);
	snprintf(bzimage_path, sizeof(bzimage_path), "%s/bzImage", directory);
	ck_assert_int_eq(mkdir(cache, 0700), 0);
	setenv("KARMA_CACHE_DIR", cache, 1);
	make_kernel();
	pack_gzip();
	write_bzimage();
}

static void teardown(void)
{
	char command[128];

	boot_file_close(&bzimage);
	boot_file_close(&unpacked);
	snprintf(command, sizeof(command), "rm -rf '%s'", directory);
	ck_assert_int_eq(system(command), 0);
}

START_TEST(kernels_are_unpacked)
{
	void (*const packers[])(void) = { pack_gzip, pack_xz, pack_zstd };

	packers[_i]();
	write_bzimage();
	ck_assert(take());
	assert_whole();
}
END_TEST

START_TEST(zeroes_are_holes_in_the_file)
{
	void (*const packers[])(void) = { pack_gzip, pack_xz, pack_zstd };
	struct stat status;

	memset(kernel + 0x10000, 0, 0x20000);
	memset(kernel + 0x40000, 0, KERNEL_BYTES - 0x40000);
	packers[_i]();
	write_bzimage();
	ck_assert(take());
	assert_whole();
	ck_assert_int_eq(fstat(unpacked.fd, &status), 0);
	ck_assert_int_le(status.st_blocks * 512, 0x20000);
}
END_TEST

START_TEST(the_second_time_it_comes_from_the_cache)
{
	static const char mark[] = "taken from the cache";
	char got[sizeof(mark)];
	const char *path;
	int fd;

	ck_assert(take());
	path = cached(1);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(pwrite(fd, mark, sizeof(mark), 0x3000), sizeof(mark));
	close(fd);
	ck_assert(take());
	ck_assert_int_eq(boot_file_read(&unpacked, 0x3000, got, sizeof(got)), 0);
	ck_assert_mem_eq(got, mark, sizeof(mark));
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

START_TEST(a_damaged_kernel_is_left_to_the_guest)
{
	packed[packed_size / 2] ^= 0xff;
	packed_size -= sizeof(uint32_t);
	write_bzimage();
	ck_assert(!take());
	/* And is not tried again. */
	cached(1);
	ck_assert(!take());
}
END_TEST

START_TEST(a_kernel_cut_short_is_left_to_the_guest)
{
	packed_size /= 2;
	write_bzimage();
	ck_assert(!take());
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
	ck_assert_int_eq(guest_memory_init(memory, &(struct memory_options){ .size = 32 * MIB }), 0);
	return elf_load_unpacked(memory, &unpacked, image);
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
	ck_assert(!boot_unpack(&bzimage, PAYLOAD_OFFSET, packed_size + 1, &unpacked));
	ck_assert(!boot_unpack(&bzimage, UINT64_MAX, packed_size, &unpacked));
	ck_assert(!boot_unpack(&bzimage, PAYLOAD_OFFSET, UINT64_MAX, &unpacked));
	ck_assert(!boot_unpack(&bzimage, PAYLOAD_OFFSET, 0, &unpacked));
	cached(0);
}
END_TEST

START_TEST(a_cache_that_others_may_write_is_not_used)
{
	ck_assert_int_eq(chmod(cache, 0770), 0);
	ck_assert(!take());
	ck_assert_int_eq(chmod(cache, 0707), 0);
	ck_assert(!take());
	cached(0);
}
END_TEST

START_TEST(a_file_that_others_may_write_is_not_used)
{
	ck_assert(take());
	ck_assert_int_eq(chmod(cached(1), 0620), 0);
	ck_assert(!take());
}
END_TEST

START_TEST(a_link_in_the_cache_is_not_followed)
{
	char path[256], target[128];

	ck_assert(take());
	snprintf(path, sizeof(path), "%s", cached(1));
	snprintf(target, sizeof(target), "%s/elsewhere", directory);
	ck_assert_int_eq(rename(path, target), 0);
	ck_assert_int_eq(symlink(target, path), 0);
	ck_assert(!take());
}
END_TEST

START_TEST(without_a_cache_nothing_is_unpacked)
{
	setenv("KARMA_CACHE_DIR", "", 1);
	ck_assert(!take());
	setenv("KARMA_CACHE_DIR", "/nonexistent", 1);
	ck_assert(!take());
}
END_TEST

START_TEST(what_was_not_used_for_long_is_cleaned_away)
{
	struct timespec times[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000 } };
	struct stat status;
	const char *path;

	ck_assert(take());
	path = cached(1);
	/* Old, but used: it is touched. */
	ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
	ck_assert(take());
	ck_assert_int_eq(stat(path, &status), 0);
	ck_assert_int_gt(status.st_mtime, 1000000000);
	/* Old and not used when another comes: it goes. */
	ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
	kernel[0x5000] ^= 1;
	pack_gzip();
	write_bzimage();
	ck_assert(take());
	cached(1);
}
END_TEST

static void leave_unfinished(const char *name, time_t age)
{
	struct timespec times[2] = { { .tv_sec = time(NULL) - age }, { .tv_sec = time(NULL) - age } };
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", cache, name);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(futimens(fd, times), 0);
	close(fd);
}

static bool is_left(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", cache, name);
	return access(path, F_OK) == 0;
}

START_TEST(what_a_killed_guest_left_unfinished_stops_nobody_and_is_cleaned_away)
{
	leave_unfinished("unpacking-0000000000000001", 2 * 3600);
	leave_unfinished("unpacking-0000000000000002", 10);
	leave_unfinished("somebody-elses", 1000 * 24 * 3600);
	ck_assert(take());
	assert_whole();
	ck_assert(!is_left("unpacking-0000000000000001"));
	ck_assert(is_left("unpacking-0000000000000002"));
	ck_assert(is_left("somebody-elses"));
}
END_TEST

Suite *unpack_suite(void)
{
	const TTest *const tests[] = {
		the_second_time_it_comes_from_the_cache,
		a_changed_kernel_does_not_find_the_old,
		a_damaged_kernel_is_left_to_the_guest,
		a_kernel_cut_short_is_left_to_the_guest,
		a_cache_without_room_is_no_fault_of_the_kernel,
		what_is_no_elf_file_is_left_to_the_guest,
		what_is_unpacked_is_entered_where_it_says,
		an_entry_outside_of_what_is_loaded_is_refused,
		a_payload_outside_of_the_file_is_refused,
		a_cache_that_others_may_write_is_not_used,
		a_file_that_others_may_write_is_not_used,
		a_link_in_the_cache_is_not_followed,
		without_a_cache_nothing_is_unpacked,
		what_was_not_used_for_long_is_cleaned_away,
		what_a_killed_guest_left_unfinished_stops_nobody_and_is_cleaned_away,
	};
	Suite *suite = suite_create("unpack");
	TCase *unpack = tcase_create("unpack");

	tcase_add_checked_fixture(unpack, setup, teardown);
	tcase_set_timeout(unpack, 60);
	tcase_add_loop_test(unpack, kernels_are_unpacked, 0, 3);
	tcase_add_loop_test(unpack, zeroes_are_holes_in_the_file, 0, 3);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(unpack, tests[i]);
	suite_add_tcase(suite, unpack);
	return suite;
}
