// SPDX-License-Identifier: GPL-2.0-only
/* Initramfs: where it goes. */
#include "boot_fixture.h"

START_TEST(initrds_are_joined)
{
	const char *initrds[] = { initrd_path, second_path };
	struct boot_options options = {
		.initrds = initrds,
		.initrd_count = 2,
	};
	struct boot_entry entry;
	uint64_t address;

	write_file(kernel_path, image, make_bzimage());
	write_file(initrd_path, "first", 5);
	write_file(second_path, "second.", 7);
	ck_assert_int_eq(load(&options, &entry), 0);
	address = zero_page()->hdr.ramdisk_image;
	ck_assert_uint_eq(address, GUEST_BYTES - PAGE_BYTES);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_size, 16);
	ck_assert_mem_eq(guest(address, 16), "first\0\0\0second.", 16);
}
END_TEST

/* A guest of which neither has place is told once how much both need. */
START_TEST(memory_for_the_kernel_counts_the_initrds)
{
	const char *initrds[] = { initrd_path, initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 2 };

	write_sparse(initrd_path, 4 * MIB);
	make_bzimage();
	poke(HDR(init_size), 17 << 20);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	expect_failure(&options, -ENOMEM, kernel_path, "give --memory 84M or more");
}
END_TEST

START_TEST(initrd_fills_what_is_left)
{
	const char *initrds[] = { initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 1 };
	uint64_t room = GUEST_BYTES - LOAD_ADDRESS - INIT_SIZE;
	struct boot_entry entry;

	write_file(kernel_path, image, make_bzimage());
	write_sparse(initrd_path, room);
	ck_assert_int_eq(load(&options, &entry), 0);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_image, LOAD_ADDRESS + INIT_SIZE);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_size, room);

	write_sparse(initrd_path, room + 1);
	expect_failure(&options, -ENOMEM, initrd_path,
		"needs 16 MiB, but 15 MiB are free behind the kernel: give "
		"--memory 96M or more");
	write_sparse(initrd_path, GIB);
	expect_failure(&options, -ENOMEM, initrd_path, "give --memory 4132M");
	write_sparse(initrd_path, 3 * GIB);
	expect_failure(&options, -EFBIG, initrd_path, "give a smaller one");
}
END_TEST

/* A file of that size that begins and ends as an archive does. */
static void write_archive(const char *magic, uint64_t size, uint32_t told)
{
	cleanup_fd int fd = -1;

	write_sparse(initrd_path, size);
	fd = open(initrd_path, O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(pwrite(fd, magic, strlen(magic), 0), (ssize_t)strlen(magic));
	ck_assert_int_eq(pwrite(fd, &told, sizeof(told), size - sizeof(told)), sizeof(told));
}

/* A tmpfs takes half of the memory that kernel and initrds leave, a ramfs all of it. */
START_TEST(initrd_that_has_no_room_unpacked)
{
	static const char *const packed[] = { "\xfd" "7zXZ", "\x28\xb5\x2f\xfd", "\x02\x21\x4c\x18",
		"BZh9", "\x89LZO", "\x5d" };
	const char *initrds[] = { initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 1 };
	struct boot_entry entry;

	resize_guest(64 * MIB);
	write_file(kernel_path, image, make_bzimage());
	/* As large as itself: a third of the memory is the most. */
	write_archive("070701", 21 * MIB, 0);
	ck_assert_int_eq(load(&options, &entry), 0);
	write_archive("070701", 22 * MIB, 0);
	expect_failure(&options, -ENOMEM, initrd_path,
		"takes 22 MiB or more when it is unpacked, but a guest of 64 MiB has room for 21 MiB of that: "
		"give --memory 84M");
	for (size_t i = 0; i < ARRAY_SIZE(packed); i++) {
		write_archive(packed[i], 22 * MIB, 0);
		expect_failure(&options, -ENOMEM, initrd_path, "when it is unpacked");
	}
	/* gzip tells its size, if that can be. */
	write_archive("\x1f\x8b", MIB, 31 * MIB);
	ck_assert_int_eq(load(&options, &entry), 0);
	write_archive("\x1f\x8b", MIB, 32 * MIB);
	expect_failure(&options, -ENOMEM, initrd_path, "takes 32 MiB or more");
	write_archive("\x1f\x8b", 64 * KIB, 1024 * MIB);
	ck_assert_int_eq(load(&options, &entry), 0);
	/* All of memory. */
	options.cmdline = "root=/dev/vda";
	write_archive("\x1f\x8b", MIB, 62 * MIB);
	ck_assert_int_eq(load(&options, &entry), 0);
	write_archive("\x1f\x8b", MIB, 64 * MIB);
	expect_failure(&options, -ENOMEM, initrd_path, "takes 64 MiB or more");
	/* What is no archive goes nowhere. */
	options.cmdline = NULL;
	write_archive("nothing", 30 * MIB, 0);
	ck_assert_int_eq(load(&options, &entry), 0);
}
END_TEST

START_TEST(initrd_address_limit)
{
	const char *initrds[] = { initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 1 };
	struct boot_entry entry;

	make_bzimage();
	poke(HDR(initrd_addr_max), 0x17fffff);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	write_file(initrd_path, "initrd", 6);
	ck_assert_int_eq(load(&options, &entry), 0);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_image, 0x1800000 - PAGE_BYTES);

	write_sparse(initrd_path, 8 * MIB);
	expect_failure(&options, -EFBIG, initrd_path,
		"7 MiB are free between the kernel and "
		"0x1800000: give a smaller one");
	poke(HDR(initrd_addr_max), 0);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	expect_failure(&options, -EFBIG, initrd_path, "give a smaller one");
}
END_TEST

START_TEST(initrd_above_4g)
{
	const char *initrds[] = { initrd_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 1 };
	uint64_t address = GUEST_HOLE_END + 2 * GIB - PAGE_BYTES;
	struct boot_entry entry;

	resize_guest(5 * GIB);
	make_bzimage();
	poke(HDR(initrd_addr_max), LOAD_ADDRESS);
	poke(HDR(xloadflags), XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	write_file(initrd_path, "initrd", 6);
	ck_assert_int_eq(load(&options, &entry), 0);
	ck_assert_uint_eq(zero_page()->hdr.ramdisk_image, (uint32_t)address);
	ck_assert_uint_eq(zero_page()->ext_ramdisk_image, address >> 32);
	ck_assert_mem_eq(guest(address, 6), "initrd", 6);

	poke(HDR(xloadflags), XLF_KERNEL_64);
	write_file(kernel_path, image, BZIMAGE_BYTES);
	expect_failure(&options, -EFBIG, initrd_path, "give a smaller one");
}
END_TEST

START_TEST(initrds_that_are_none)
{
	const char *initrds[] = { initrd_path, second_path };
	struct boot_options options = { .initrds = initrds, .initrd_count = 2 };

	write_file(kernel_path, image, make_bzimage());
	write_file(initrd_path, "first", 5);
	expect_failure(&options, -ENOENT, second_path, "cannot open");
	write_file(second_path, "", 0);
	expect_failure(&options, -EINVAL, second_path, "is empty");
	ck_assert_int_eq(unlink(second_path), 0);
	ck_assert_int_eq(mkfifo(second_path, 0600), 0);
	expect_failure(&options, -EINVAL, second_path, "is a FIFO");
}
END_TEST

START_TEST(initrd_sizes_that_wrap)
{
	cleanup_fd int fd = memfd_create("initrd", MFD_CLOEXEC);
	char path[32];
	const char *initrds[] = { path, path, path };
	struct boot_options options = { .initrds = initrds };

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ck_assert_int_eq(ftruncate(fd, INT64_MAX), 0);
	write_file(kernel_path, image, make_bzimage());
	for (options.initrd_count = 1; options.initrd_count <= 3; options.initrd_count++)
		expect_failure(&options, -EFBIG, path, "give a smaller one");
}
END_TEST

void boot_initrd_tests(Suite *suite)
{
	const TTest *const tests[] = {
		initrds_are_joined,
		memory_for_the_kernel_counts_the_initrds,
		initrd_that_has_no_room_unpacked,
		initrd_fills_what_is_left,
		initrd_address_limit,
		initrd_above_4g,
		initrds_that_are_none,
		initrd_sizes_that_wrap,
	};

	add_case(suite, "boot", setup, teardown, 60, tests, ARRAY_SIZE(tests));
}
