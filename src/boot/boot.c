// SPDX-License-Identifier: GPL-2.0-only
/* Load a kernel of any known format, and write what a vCPU needs to start in it. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "karma/log.h"
#include "internal.h"

/* Page table entries: AMD64 Architecture Programmer's Manual, volume 2, section 5.3. */
#define PTE_PRESENT 0x01ull
#define PTE_WRITE 0x02ull
#define PTE_LARGE 0x80ull
#define PTE_COUNT 512u
#define DIRECTORIES 4u

/* e820 types: ACPI 6.4, table 15.5. */
#define E820_RAM 1
#define E820_RESERVED 2
#define E820_ACPI 3

/* Memory that Linux needs beside its image to run a shell, and the granularity of suggestions. */
#define RUN_BYTES (16 * MIB)
#define HINT_STEP (4 * MIB)

struct signature {
	size_t offset;
	const char *bytes;
	size_t length;
	const char *name;
};

#define SIGNATURE(at, text, meaning) \
	{ \
		(at), (text), sizeof(text) - 1, (meaning) \
	}

/* Other files that users give as a kernel; the first match is named. */
static const struct signature foreign[] = {
	SIGNATURE(0x38, "ARMd", "an arm64 Image"),
	SIGNATURE(0x38, "RSC\x05", "a RISC-V Image"),
	SIGNATURE(0x24, "\x18\x28\x6f\x01", "a 32-bit ARM zImage"),
	SIGNATURE(4, "zimg", "a compressed EFI kernel of another machine"),
	SIGNATURE(0, "\x1f\x8b", "compressed with gzip"),
	SIGNATURE(0, "BZh", "compressed with bzip2"),
	SIGNATURE(0, "\xfd\x37zXZ", "compressed with xz"),
	SIGNATURE(0, "\x28\xb5\x2f\xfd", "compressed with zstd"),
	SIGNATURE(0, "\x02\x21\x4c\x18", "compressed with lz4"),
	SIGNATURE(0, "\x04\x22\x4d\x18", "compressed with lz4"),
	SIGNATURE(0, "\x89LZO", "compressed with lzo"),
	SIGNATURE(0, "\x5d\x00\x00", "compressed with lzma"),
	SIGNATURE(0, "\x27\x05\x19\x56", "a U-Boot image"),
	SIGNATURE(0, "MZ", "a PE (EFI) program without Linux's setup header"),
	SIGNATURE(0, "07070", "a cpio archive, as --initrd takes"),
	SIGNATURE(0, "!<arch>\n", "an ar archive or a Debian package"),
	SIGNATURE(0, "#!", "a script"),
	SIGNATURE(0, "QFI\xfb", "a qcow2 image"),
	SIGNATURE(0x1fe, "\x55\xaa", "a disk's image or another boot sector"),
};

static int fail_foreign(const struct boot_file *file, const uint8_t *head, size_t size)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreign); i++) {
		const struct signature *s = &foreign[i];

		if (s->offset + s->length <= size && !memcmp(head + s->offset, s->bytes, s->length))
			return fail(-ENOEXEC,
				"kernel %s: is %s: give an x86 bzImage or x86-64 ELF vmlinux",
				file->path, s->name);
	}
	return fail(-ENOEXEC,
		"kernel %s: is neither bzImage nor ELF: give an x86 bzImage or x86-64 "
		"ELF vmlinux",
		file->path);
}

static int read_head(const struct boot_file *file, uint8_t head[HEAD_BYTES], size_t *size)
{
	*size = file->size < HEAD_BYTES ? file->size : HEAD_BYTES;
	return boot_file_read(file, 0, head, *size);
}

int boot_kernel_open(struct boot_kernel *kernel, const char *path)
{
	uint8_t head[HEAD_BYTES];
	size_t size = 0;
	int result;

	*kernel = BOOT_KERNEL_NONE;
	result = boot_file_open(&kernel->file, "kernel", path);
	if (result == 0)
		result = read_head(&kernel->file, head, &size);
	if (result < 0 || !bzimage_is(head, size))
		return result;
	kernel->unpacked.what = kernel->file.what;
	kernel->unpacked.path = kernel->file.path;
	result = bzimage_find_payload(&kernel->file, &kernel->payload, &kernel->payload_bytes);
	if (result == 0 && kernel->payload_bytes)
		kernel->cached = boot_cache_find(kernel);
	return result;
}

void boot_kernel_close(struct boot_kernel *kernel)
{
	boot_file_close(&kernel->file);
	boot_file_close(&kernel->unpacked);
	close_fd(&kernel->cache);
	kernel->cache = -1;
}

static int load_kernel(const struct guest_memory *memory, const struct boot_kernel *kernel,
	struct boot_image *image)
{
	uint8_t head[HEAD_BYTES];
	size_t size = 0;
	int result = read_head(&kernel->file, head, &size);

	if (result < 0)
		return result;
	if (elf_is(head, size))
		return elf_load(memory, &kernel->file, image);
	if (bzimage_is(head, size))
		return bzimage_load(memory, kernel, image);
	return fail_foreign(&kernel->file, head, size);
}

/* As the kernel's own cmdline_find_option_bool(). */
bool boot_has_option(const char *cmdline, const char *name)
{
	size_t length = strlen(name);
	bool has_value = name[length - 1] == '=';

	for (const char *at = cmdline; (at = strstr(at, name)); at += length) {
		if ((at == cmdline || (uint8_t)at[-1] <= ' ') &&
			(has_value || (uint8_t)at[length] <= ' '))
			return true;
	}
	return false;
}

uint64_t boot_memory_hint(uint64_t end, uint64_t initrd_bytes)
{
	/* Packed and unpacked initrds are in memory at once; most are packed to a third or so. */
	uint64_t bytes = end + RUN_BYTES, needed = bytes + 4 * initrd_bytes;

	if (initrd_bytes > GUEST_MEMORY_MAX / 4 || needed > GUEST_MEMORY_MAX)
		needed = GUEST_MEMORY_MAX;
	return align_down(needed + HINT_STEP - 1, HINT_STEP) / MIB;
}

int boot_check_range(const struct boot_file *file, uint64_t address, uint64_t size)
{
	uint64_t end;

	if (address < BOOT_KERNEL_MIN)
		return fail(-ENOEXEC,
			"%s %s: wants to be at 0x%" PRIx64
			", in the first MiB, which Karma needs: give a kernel linked higher",
			file->what, file->path, address);
	if (__builtin_add_overflow(address, size, &end) || end > GUEST_HOLE_START)
		return fail(-ENOEXEC,
			"%s %s: needs 0x%" PRIx64 " bytes from 0x%" PRIx64
			", but kernels go below 3 GiB: give a kernel linked lower, or a whole one",
			file->what, file->path, size, address);
	return 0;
}

int boot_check_memory(const struct boot_file *file, const struct guest_memory *memory,
	const struct boot_image *image, uint64_t end)
{
	if (end <= memory->low_size)
		return 0;
	return fail(-ENOMEM,
		"%s %s: takes memory up to %" PRIu64 " MiB, but the guest has %" PRIu64
		" MiB: give --memory %" PRIu64 "M or more",
		file->what, file->path, to_mib(end), to_mib(memory->size),
		boot_memory_hint(end, image->initrd_bytes));
}

int boot_write(const struct guest_memory *memory, uint64_t address, const void *from, size_t size)
{
	int result = guest_memory_write(memory, GPA(address), from, size);

	if (result < 0)
		return fail(result,
			"guest memory: no RAM at 0x%" PRIx64 " for boot data: give more --memory",
			address);
	return 0;
}

unsigned boot_e820(const struct guest_memory *memory, struct boot_e820_entry entries[BOOT_E820_MAX])
{
	unsigned count = 0;

	/*
	 * The tables below 1 MiB lie in plain RAM: Linux copies boot_params and its command line
	 * before it allocates, and has page tables and a GDT of its own by then.
	 */
	entries[count++] = (struct boot_e820_entry){ 0, BOOT_LOW_END, E820_RAM };
	entries[count++] =
		(struct boot_e820_entry){ BOOT_LOW_END, BOOT_ACPI - BOOT_LOW_END, E820_RESERVED };
	entries[count++] =
		(struct boot_e820_entry){ BOOT_ACPI, BOOT_ACPI_END - BOOT_ACPI, E820_ACPI };
	entries[count++] = (struct boot_e820_entry){ BOOT_KERNEL_MIN,
		memory->low_size - BOOT_KERNEL_MIN, E820_RAM };
	if (memory->high_size)
		entries[count++] =
			(struct boot_e820_entry){ GUEST_HOLE_END, memory->high_size, E820_RAM };
	return count;
}

static int write_cmdline(
	const struct guest_memory *memory, const char *cmdline, const struct boot_image *image)
{
	size_t length = strlen(cmdline);
	uint64_t max = BOOT_CMDLINE_MAX - 1;

	if (image->cmdline_max < max)
		max = image->cmdline_max;
	if (length > max)
		return fail(-E2BIG,
			"kernel command line: has %zu bytes, but this kernel takes %" PRIu64
			": shorten --cmdline",
			length, max);
	return boot_write(memory, BOOT_CMDLINE, cmdline, length + 1);
}

static int write_gdt(const struct guest_memory *memory, enum boot_protocol protocol)
{
	/* Flat, accessed segments: AMD64 APM volume 2, sections 4.7 and 4.8. */
	const uint64_t gdt[] = {
		[BOOT_CS / 8] = protocol == BOOT_LINUX64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff,
		[BOOT_DS / 8] = 0x00cf93000000ffff,
		/* A busy TSS at 0 of 0x68 bytes; in long mode it takes two entries. */
		[BOOT_TSS / 8] = 0x00008b0000000067,
		[BOOT_TSS / 8 + 1] = 0,
	};

	return boot_write(memory, BOOT_GDT, gdt, sizeof(gdt));
}

/* Linux's 64-bit entry requires an identity mapping of itself, boot_params and the command line. */
static int write_page_tables(const struct guest_memory *memory)
{
	uint64_t table[PTE_COUNT] = { (BOOT_PAGE_TABLES + PAGE_BYTES) | PTE_PRESENT | PTE_WRITE };
	uint64_t address = BOOT_PAGE_TABLES;
	uint64_t physical = 0;
	int result;

	result = boot_write(memory, address, table, sizeof(table));
	address += PAGE_BYTES;
	for (unsigned i = 0; i < DIRECTORIES; i++)
		table[i] = (address + (i + 1ull) * PAGE_BYTES) | PTE_PRESENT | PTE_WRITE;
	if (result == 0)
		result = boot_write(memory, address, table, sizeof(table));
	for (unsigned i = 0; i < DIRECTORIES && result == 0; i++) {
		address += PAGE_BYTES;
		for (unsigned j = 0; j < PTE_COUNT; j++, physical += 2 * MIB)
			table[j] = physical | PTE_PRESENT | PTE_WRITE | PTE_LARGE;
		result = boot_write(memory, address, table, sizeof(table));
	}
	return result;
}

static int write_acpi(struct guest_memory *memory, unsigned cpus)
{
	int result = acpi_write(memory, cpus);

	if (result < 0)
		return fail(result,
			"--cpus %u: the ACPI tables have no room for so many: give fewer", cpus);
	return 0;
}

static int write_params(const struct guest_memory *memory, const struct boot_image *image,
	const struct boot_initrd *initrd)
{
	if (image->protocol == BOOT_PVH)
		return elf_write_params(memory, initrd);
	return bzimage_write_params(memory, image, initrd);
}

int boot_load(
	struct guest_memory *memory, const struct boot_options *options, struct boot_entry *entry)
{
	__attribute__((cleanup(initrd_close))) struct boot_initrd initrd = { 0 };
	struct boot_image image = { .cmdline = options->cmdline };
	int result;

	result = initrd_open(options, &initrd);
	image.initrd_bytes = initrd.size;
	if (result == 0)
		result = load_kernel(memory, options->kernel, &image);
	if (result == 0)
		result = initrd_load(memory, &image, &initrd);
	if (result == 0)
		result = write_cmdline(memory, options->cmdline, &image);
	if (result == 0)
		result = write_gdt(memory, image.protocol);
	if (result == 0)
		result = write_page_tables(memory);
	if (result == 0)
		result = write_acpi(memory, options->cpus);
	if (result == 0)
		result = write_params(memory, &image, &initrd);
	if (result < 0)
		return result;
	*entry = (struct boot_entry){
		.protocol = image.protocol,
		.entry = GPA(image.entry),
		.params = GPA(BOOT_PARAMS),
	};
	return 0;
}
