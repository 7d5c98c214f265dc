// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz what a kernel or initrd file holds: boot_load() takes any bytes and never crashes.
 *
 * The first byte says what the rest is, or is made to look like: a file of any kind, a bzImage, an
 * ELF file; or what is packed in a bzImage, or would be when that is unpacked, of x86-64 or of i386, with its
 * relocations.  Every rejected file costs a message: run it with -close_fd_mask=2.
 */
#include <dirent.h>
#include <elf.h>
#include <libdeflate.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <zstd.h>

#include "../../src/boot/internal.h"
#include "script.h"

#define GUEST_BYTES (64 * MIB)
#define CMDLINE "console=hvc0"
#define FILE_BYTES_MAX MIB

/* Of the bzImage that has a payload. */
#define SETUP_BYTES 1024u
#define LOAD_ADDRESS 0x1000000u
#define PAYLOAD_OFFSET 0x400u

enum kind {
	KIND_ANY,
	KIND_BZIMAGE,
	KIND_ELF,
	KIND_PAYLOAD,
	KIND_PACKED_ELF,
	KIND_PACKED_ELF32,
	KINDS,
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In memory: what is unpacked is synchronized with the disk. */
static char cache[] = "/dev/shm/karma-fuzz-XXXXXX";

/* The magics that a fuzzer takes long to find, put over what it has found. */
static const uint8_t elf_magic[EI_NIDENT] = {
	0x7f,
	'E',
	'L',
	'F',
	ELFCLASS64,
	ELFDATA2LSB,
	EV_CURRENT,
};

/* The same for the same input; by --wrap. */
static uint64_t next_number;
ssize_t __wrap_getrandom(void *to, size_t size, unsigned flags);

ssize_t __wrap_getrandom(void *to, size_t size, unsigned flags)
{
	(void)flags;
	for (size_t i = 0; i < size / sizeof(next_number); i++, next_number++)
		memcpy((uint8_t *)to + i * sizeof(next_number), &next_number, sizeof(next_number));
	return size;
}

static void write_at(int fd, uint64_t offset, const void *from, size_t size)
{
	check(pwrite(fd, from, size, offset) == (ssize_t)size);
}

static void write_payload(int fd, const void *payload, size_t size, bool i386)
{
	const struct setup_header header = {
		.setup_sects = SETUP_BYTES / 512 - 1,
		.syssize = (PAYLOAD_OFFSET + size + 15) / 16,
		.boot_flag = 0xaa55,
		.jump = 0xeb | (0x6a << 8),
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 2 * MIB,
		.relocatable_kernel = 1,
		.xloadflags = i386 ? 0 : XLF_KERNEL_64,
		.cmdline_size = 2047,
		.payload_offset = PAYLOAD_OFFSET,
		.payload_length = size,
		.pref_address = LOAD_ADDRESS,
		.init_size = MIB,
	};

	write_at(fd, 0x1f1, &header, sizeof(header));
	write_at(fd, SETUP_BYTES + PAYLOAD_OFFSET, payload, size);
	check(ftruncate(fd, SETUP_BYTES + header.syssize * 16) == 0);
}

/* By gzip, stored as it is. */
static void write_packed_elf(int fd, const uint8_t *data, size_t size, bool i386)
{
	static uint8_t elf[FILE_BYTES_MAX + EI_NIDENT], packed[sizeof(elf) + 4 * KIB];
	static struct libdeflate_compressor *compressor;

	if (!compressor)
		compressor = libdeflate_alloc_compressor(0);
	memcpy(elf, data, size);
	memcpy(elf, elf_magic, EI_NIDENT);
	if (i386)
		elf[EI_CLASS] = ELFCLASS32;
	size = libdeflate_gzip_compress(
		compressor, elf, size < EI_NIDENT ? EI_NIDENT : size, packed, sizeof(packed));
	check(size > 0);
	write_payload(fd, packed, size, i386);
}

static void write_file(int fd, enum kind kind, const uint8_t *data, size_t size)
{
	if (kind == KIND_PACKED_ELF || kind == KIND_PACKED_ELF32) {
		write_packed_elf(fd, data, size, kind == KIND_PACKED_ELF32);
	} else if (kind == KIND_PAYLOAD) {
		write_payload(fd, data, size, false);
	} else {
		write_at(fd, 0, data, size);
		if (kind == KIND_BZIMAGE)
			write_at(fd, 0x202, "HdrS\x0f\x02", 6);
		if (kind == KIND_ELF)
			write_at(fd, 0, elf_magic, sizeof(elf_magic));
	}
}

static void empty_cache(void)
{
	DIR *directory = opendir(cache);
	struct dirent *entry;

	while (directory && (entry = readdir(directory)))
		unlinkat(dirfd(directory), entry->d_name, 0);
	closedir(directory);
}

static void remove_cache(void)
{
	rmdir(cache);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	/* A huge page takes longer to clear than all the rest. */
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	check(mkdtemp(cache) && setenv("KARMA_CACHE_DIR", cache, 1) == 0 &&
		atexit(remove_cache) == 0);
	return 0;
}

/* What takes a process of its own elsewhere, so that a sanitizer sees it. */
static void unpack(struct boot_kernel *kernel)
{
	char unfinished[BOOT_CACHE_NAME];
	cleanup_fd int out = boot_cache_begin(kernel, unfinished);
	struct unpacking unpacking;
	bool whole;
	size_t room;

	check(out >= 0);
	whole = boot_unpack_begin(&unpacking, kernel, out, GUEST_BYTES);
	room = unpacking.size;
	whole = whole && boot_unpack(&unpacking) == UNPACK_DONE;
	if (unpacking.memory)
		munmap(unpacking.memory, XZ_MEMORY_MAX);
	if (unpacking.bytes)
		munmap(unpacking.bytes, room);
	free(unpacking.packed);
	free(unpacking.sums);
	libdeflate_free_decompressor(unpacking.gzip);
	ZSTD_freeDCtx(unpacking.zstd);
	boot_cache_end(kernel, unfinished, out, whole);
}

static void load(const struct guest_memory *memory, const char *path)
{
	cleanup_boot_kernel struct boot_kernel kernel = BOOT_KERNEL_NONE;
	const char *initrds[] = { path };
	const struct boot_options options = {
		.kernel = &kernel,
		.initrds = initrds,
		.initrd_count = 1,
		.cmdline = CMDLINE,
		.cpus = 1,
	};
	struct guest_memory loaded = *memory;
	struct boot_entry entry;

	if (boot_kernel_open(&kernel, path) < 0)
		return;
	if (kernel.cache >= 0 && boot_unpack_can(&kernel))
		unpack(&kernel);
	if (boot_load(&loaded, &options, &entry) == 0)
		check(guest_memory_at(&loaded, entry.entry, 1) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_fd int fd = memfd_create("kernel", MFD_CLOEXEC);
	struct guest_memory memory;
	char path[32], release[64];

	if (size > FILE_BYTES_MAX)
		return 0;
	next_number = size;
	check(fd >= 0 &&
		guest_memory_init(&memory, &(struct memory_options){ .size = GUEST_BYTES }) == 0);
	if (size > 0)
		write_file(fd, data[0] % KINDS, data + 1, size - 1);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	load(&memory, path);
	boot_kernel_release(path, release, sizeof(release));
	guest_memory_release(&memory);
	empty_cache();
	return 0;
}
