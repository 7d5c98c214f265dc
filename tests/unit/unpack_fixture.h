/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernels that are packed, and a cache for them. Each file of tests that includes this has its own.
 */
#ifndef KARMA_TESTS_UNPACK_FIXTURE_H
#define KARMA_TESTS_UNPACK_FIXTURE_H

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <libdeflate.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "../../src/boot/internal.h"
#include "../../src/guest/internal.h"
#include "guest.h"

/* The parts of the suite. */
void unpack_cache_tests(Suite *suite);

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
extern void (*instead)(void);

/* An ELF file with one segment, and much that does not pack well behind. */
static inline void make_kernel(void)
{
	const Elf64_Ehdr elf = kernel_header(ENTRY, 1);
	const Elf64_Phdr segment = { .p_type = PT_LOAD, .p_offset = SEGMENT_OFFSET, .p_paddr = SEGMENT,
		.p_filesz = SEGMENT_BYTES, .p_memsz = SEGMENT_BYTES };

	for (size_t i = 0; i < sizeof(kernel); i++)
		kernel[i] = i * i >> 5;
	memcpy(kernel, &elf, sizeof(elf));
	memcpy(kernel + sizeof(elf), &segment, sizeof(segment));
}

static inline void pack_gzip(void)
{
	struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(1);

	ck_assert_ptr_nonnull(compressor);
	packed_size = libdeflate_gzip_compress(compressor, kernel, sizeof(kernel), packed,
		sizeof(packed));
	ck_assert_uint_gt(packed_size, 0);
	libdeflate_free_compressor(compressor);
}

static inline void write_file(void)
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
static inline void write_bzimage(void)
{
	const uint32_t size = KERNEL_BYTES;

	memcpy(packed + packed_size, &size, sizeof(size));
	packed_size += sizeof(size);
	write_file();
}

static inline bool take(void)
{
	boot_kernel_close(&guest.kernel);
	ck_assert_int_eq(guest_open_kernel(&guest), 0);
	return unpacked->fd >= 0;
}

static inline void assert_whole(void)
{
	uint8_t got[KERNEL_BYTES];

	ck_assert_uint_eq(unpacked->size, KERNEL_BYTES);
	ck_assert_int_eq(boot_file_read(unpacked, 0, got, sizeof(got)), 0);
	ck_assert_mem_eq(got, kernel, sizeof(got));
}

/* The path of what is in the cache, of which there is to be that many. */
static inline const char *cached(size_t count)
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

static inline void setup(void)
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

static inline void teardown(void)
{
	char command[128];

	boot_kernel_close(&guest.kernel);
	snprintf(command, sizeof(command), "rm -rf '%s'", directory);
	ck_assert_int_eq(system(command), 0);
}

#endif
