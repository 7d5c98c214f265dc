// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cache of unpacked kernels: what goes in, what is taken from it, whom it does not trust; and the process
 * that unpacks.
 */
#include <check.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <libdeflate.h>
#include <lzma.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <zstd.h>

#include "../../src/boot/internal.h"
#include "../../src/guest/internal.h"
#include "guest.h"

#define SETUP_BYTES 1024u
#define PAYLOAD_OFFSET 0x400u	/* in the code behind that */
#define PACKED_AT 0x1200000u
#define GUEST_BYTES (32 * MIB)
#define KERNEL_BYTES 300000u
#define BLOCK 0x10000u
#define SEGMENT 0x1000000u
#define SEGMENT_OFFSET 0x1000u
#define SEGMENT_BYTES 0x30000u	/* several blocks */
#define ENTRY (SEGMENT + 0x40)

static char directory[] = "/tmp/karma-unpack-XXXXXX";
static char cache[64], bzimage_path[64];
static uint8_t kernel[KERNEL_BYTES];
static uint8_t packed[2 * KERNEL_BYTES];
static size_t packed_size;
static struct guest guest;
static struct guest_shared shared;
static struct boot_file *const unpacked = &guest.kernel.unpacked;

/* Called in the process that unpacks, when it may do nothing else any more; by --wrap. */
static void (*instead)(void);
enum unpack_end __real_boot_unpack(struct unpacking *unpacking);
enum unpack_end __wrap_boot_unpack(struct unpacking *unpacking);

enum unpack_end __wrap_boot_unpack(struct unpacking *unpacking)
{
	if (instead)
		instead();
	return __real_boot_unpack(unpacking);
}

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
	ZSTD_CCtx *context = ZSTD_createCCtx();

	ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
	packed_size = ZSTD_compress2(context, packed, sizeof(packed), kernel, sizeof(kernel));
	ck_assert(!ZSTD_isError(packed_size));
	ZSTD_freeCCtx(context);
}

static void write_file(void)
{
	const struct setup_header header = {
		.setup_sects = SETUP_BYTES / 512 - 1,
		.syssize = (PAYLOAD_OFFSET + packed_size + 15) / 16,
		.jump = 0xeb | (0x6a << 8),
		.header = 0x53726448,
		.version = 0x020f,
		.initrd_addr_max = 0x7fffffff,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.payload_offset = PAYLOAD_OFFSET,
		.payload_length = packed_size,
		.pref_address = PACKED_AT,
		.init_size = MIB,
	};
	cleanup_fd int fd = -1;

	unlink(bzimage_path);
	fd = open(bzimage_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, SETUP_BYTES + header.syssize * 16), 0);
	ck_assert_int_eq(pwrite(fd, &header, sizeof(header), 0x1f1), sizeof(header));
	ck_assert_int_eq(pwrite(fd, packed, packed_size, SETUP_BYTES + PAYLOAD_OFFSET),
		(ssize_t)packed_size);
}

/* As Linux's build does, the size comes behind what is packed. */
static void write_bzimage(void)
{
	const uint32_t size = KERNEL_BYTES;

	memcpy(packed + packed_size, &size, sizeof(size));
	packed_size += sizeof(size);
	write_file();
}

static bool take(void)
{
	boot_kernel_close(&guest.kernel);
	ck_assert_int_eq(guest_open_kernel(&guest), 0);
	return unpacked->fd >= 0;
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

static void assert_whole(void)
{
	uint8_t got[KERNEL_BYTES];

	ck_assert_uint_eq(unpacked->size, KERNEL_BYTES);
	ck_assert_int_eq(boot_file_read(unpacked, 0, got, sizeof(got)), 0);
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
	instead = NULL;
	guest_init(&guest);
	guest.shared = &shared;
	guest.options.kernel = bzimage_path;
	guest.options.memory.size = GUEST_BYTES;
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

	boot_kernel_close(&guest.kernel);
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

START_TEST(more_than_the_size_that_it_tells_is_not_unpacked)
{
	void (*const packers[])(void) = { pack_gzip, pack_xz, pack_zstd };
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

/* In place, so that the name in the cache stays. */
static void change_cached(uint64_t offset, size_t length)
{
	cleanup_fd int fd = open(cached(1), O_RDWR | O_CLOEXEC);
	uint8_t bytes[BLOCK];

	ck_assert_int_eq(pread(fd, bytes, length, (off_t)offset), (ssize_t)length);
	for (size_t i = 0; i < length; i++)
		bytes[i] ^= 0x10;
	ck_assert_int_eq(pwrite(fd, bytes, length, (off_t)offset), (ssize_t)length);
}

static bool is_zeroed(const struct guest_memory *memory, uint64_t address, size_t length)
{
	const uint8_t *at = guest_memory_at(memory, GPA(address), length);

	return at[0] == 0 && memcmp(at, at + 1, length - 1) == 0;
}

/* In the first block of the segment, in its last, in a hole, and in the head of the file. */
START_TEST(a_damaged_block_is_noticed_and_thrown_away)
{
	const uint64_t damage[] = { 0x2000, SEGMENT_OFFSET + SEGMENT_BYTES - 1, 0x14000, 0x3f };
	struct boot_image image = { 0 };
	struct guest_memory memory;

	memset(kernel + BLOCK, 0, BLOCK);
	pack_gzip();
	write_bzimage();
	ck_assert(take());
	change_cached(damage[_i], 1);
	ck_assert(take());
	ck_assert_int_eq(guest_memory_init(&memory, &(struct memory_options){ .size = GUEST_BYTES }), 0);
	messages_begin();
	ck_assert_int_eq(bzimage_load(&memory, &guest.kernel, &image), 0);
	/* A hole that has something in it is still read as one. */
	if (_i == 2) {
		messages_end();
		ck_assert_uint_eq(image.entry, ENTRY);
		ck_assert(is_zeroed(&memory, SEGMENT + BLOCK - SEGMENT_OFFSET, BLOCK));
	} else {
		ck_assert_ptr_nonnull(strstr(messages_end(), "is damaged"));
		ck_assert_uint_eq(image.entry, PACKED_AT + 0x200);
		ck_assert(is_zeroed(&memory, SEGMENT, SEGMENT_BYTES));
		cached(0);
		ck_assert(take());
		assert_whole();
	}
	guest_memory_release(&memory);
}
END_TEST

static void cut(off_t bytes)
{
	struct stat status;

	ck_assert_int_eq(stat(cached(1), &status), 0);
	ck_assert_int_eq(truncate(cached(1), bytes <= 0 ? status.st_size + bytes : bytes), 0);
}

static void damage_cached(int kind)
{
	const uint64_t sums = KERNEL_BYTES;
	char name[256], other[256];

	switch (kind) {
	case 0:	/* all zeroes, of the same length */
		cut(1);
		cut(KERNEL_BYTES + 200);
		break;
	case 1:
		cut(-1);
		break;
	case 2:
		cut(KERNEL_BYTES / 2);
		break;
	case 3:
		cut(1);
		break;
	case 4:
		change_cached(sums, 1);
		break;
	case 5: /* the trailer's magic */
		change_cached(sums + 5 * sizeof(uint32_t), 1);
		break;
	case 6: /* what another kernel unpacks to, under this one's name */
		snprintf(name, sizeof(name), "%s", cached(1));
		kernel[0x5000] ^= 1;
		pack_gzip();
		write_bzimage();
		ck_assert(take());
		snprintf(other, sizeof(other), "%s/%s", cache, guest.kernel.cache_name);
		ck_assert_int_eq(rename(name, other), 0);
		break;
	default: /* a file of an earlier version, without sums */
		cut(KERNEL_BYTES);
	}
}

START_TEST(a_damaged_file_is_thrown_away)
{
	ck_assert(take());
	damage_cached(_i);
	ck_assert(take());
	assert_whole();
	cached(1);
}
END_TEST

/* Where all users look the same, nobody can tell whose it is. */
START_TEST(a_cache_that_may_be_anothers_is_not_used)
{
	/* Not with a thread of a sanitizer's, or on a host without user namespaces. */
	if (unshare(CLONE_NEWUSER) < 0)
		return;
	ck_assert(!take());
	cached(0);
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

START_TEST(a_cache_that_others_may_write_is_not_used)
{
	ck_assert_int_eq(chmod(cache, 0770), 0);
	ck_assert(!take());
	ck_assert_int_eq(chmod(cache, 0707), 0);
	ck_assert(!take());
	cached(0);
}
END_TEST

START_TEST(a_file_that_others_may_write_is_thrown_away)
{
	struct stat status;

	ck_assert(take());
	ck_assert_int_eq(chmod(cached(1), 0620), 0);
	ck_assert(take());
	assert_whole();
	ck_assert_int_eq(stat(cached(1), &status), 0);
	ck_assert_uint_eq(status.st_mode & 0777, 0600);
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
	ck_assert(take());
	assert_whole();
	ck_assert_int_eq(readlink(path, target, sizeof(target)), -1);
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
		a_cache_that_others_may_write_is_not_used,
		a_file_that_others_may_write_is_thrown_away,
		a_cache_that_may_be_anothers_is_not_used,
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
	tcase_add_loop_test(unpack, a_damaged_kernel_is_told, 0, 3);
	tcase_add_loop_test(unpack, more_than_the_size_that_it_tells_is_not_unpacked, 0, 3);
	tcase_add_loop_test(unpack, a_damaged_block_is_noticed_and_thrown_away, 0, 4);
	tcase_add_loop_test(unpack, a_damaged_file_is_thrown_away, 0, 8);
	tcase_add_loop_test(unpack, zeroes_are_holes_in_the_file, 0, 3);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(unpack, tests[i]);
	suite_add_tcase(suite, unpack);
	return suite;
}
