// SPDX-License-Identifier: GPL-2.0-only
/*
 * KASLR: move an unpacked kernel to random addresses, as the decompressor in a guest would
 * (Linux arch/x86/boot/compressed/kaslr.c).  The kernel determines its physical address itself; for another virtual
 * address, its relocations have to be applied.
 *
 * They follow its ELF file (handle_relocations() in misc.c there): 32-bit words, each the sign-extended virtual
 * address of a value to adjust.  There are two or three tables, each after a word of 0: 64-bit values to add to;
 * until Linux 6.14, 32-bit values to subtract from; 32-bit values to add to.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#include "karma/log.h"
#include "internal.h"

#define KERNEL_MAP 0xffffffff80000000ull	/* __START_KERNEL_map */
#define KERNEL_IMAGE_BYTES GIB			/* KERNEL_IMAGE_SIZE of a kernel with relocations */
#define ALIGN_MIN (2 * MIB)			/* MIN_KERNEL_ALIGN */
#define RELOCATIONS_MAX (64 * MIB)
#define TABLES_MAX 3u

/* Options with physical addresses, at which the kernel must not be. */
static bool has_fixed_memory(const char *cmdline)
{
	return boot_has_option(cmdline, "mem=") || boot_has_option(cmdline, "memmap=") ||
		boot_has_option(cmdline, "crashkernel=");
}

/*
 * By the setup header (boot.rst, "kernel_alignment").  i386 kernels are left alone: their relocation table differs,
 * and physical and virtual addresses move together.
 */
static bool may_be_moved(const struct boot_image *image)
{
	const struct setup_header *header = &image->header;
	uint64_t align = header->kernel_alignment;

	return image->protocol == BOOT_LINUX64 && header->relocatable_kernel && align >= ALIGN_MIN &&
		(align & (align - 1)) == 0 && !boot_has_option(image->cmdline, "nokaslr");
}

static int read_words(struct kaslr *kaslr, const struct boot_file *file, uint64_t offset)
{
	uint64_t bytes = offset < file->size ? file->size - offset : 0;

	if (bytes < sizeof(uint32_t) || bytes > RELOCATIONS_MAX || bytes % sizeof(uint32_t))
		return 0;
	kaslr->words = malloc(bytes);
	if (!kaslr->words)
		return fail(-ENOMEM, "kernel %s: no memory for its relocations: free some on the host",
			file->path);
	kaslr->count = bytes / sizeof(uint32_t);
	return boot_file_read(file, offset, kaslr->words, bytes);
}

/* Find where each table begins.  The number of tables; 0 if the words are no relocations. */
static unsigned find_tables(const struct kaslr *kaslr, size_t tables[TABLES_MAX])
{
	unsigned count = 0;

	if (kaslr->count == 0 || kaslr->words[0] != 0)
		return 0;
	for (size_t i = 0; i < kaslr->count; i++) {
		if (kaslr->words[i] != 0)
			continue;
		if (count == TABLES_MAX)
			return 0;
		tables[count++] = i + 1;
	}
	return count >= 2 ? count : 0;
}

/* A random multiple of align to move [start, start + size) by, so that it ends at end or before. */
static uint64_t choose(uint64_t random, uint64_t start, uint64_t size, uint64_t end, uint64_t align)
{
	return end < start || end - start < size ? 0 : random % (1 + (end - start - size) / align) * align;
}

int kaslr_choose(struct kaslr *kaslr, const struct guest_memory *memory, const struct boot_file *file,
	uint64_t offset, struct boot_image *image)
{
	uint64_t align = image->header.kernel_alignment, random[2], end;
	size_t tables[TABLES_MAX];
	int result;

	if (!may_be_moved(image))
		return 0;
	result = read_words(kaslr, file, offset);
	if (result < 0 || find_tables(kaslr, tables) == 0)
		return result;
	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return fail(-EIO, "kernel %s: the host has no random numbers for its address: give --cmdline "
				  "nokaslr",
			file->path);
	/* Below the initrd, if that goes into low RAM. */
	end = initrd_ceiling(memory, image);
	end = end > image->initrd_bytes ? align_down(end - image->initrd_bytes, PAGE_BYTES) : 0;
	if (!has_fixed_memory(image->cmdline))
		kaslr->physical = choose(random[0], kaslr->start, kaslr->size, end, align);
	kaslr->shift = choose(random[1], kaslr->start, kaslr->size, KERNEL_IMAGE_BYTES, align);
	/* Tells the kernel that KASLR is on, for its other random addresses (boot.rst, "loadflags"). */
	image->header.loadflags |= KASLR_FLAG;
	return 0;
}

/* Add shift to each value of a table, [from, to) of the words.  False if one lies outside of the kernel. */
static bool apply(const struct kaslr *kaslr, uint8_t *kernel, size_t from, size_t to, size_t width,
	uint64_t shift)
{
	for (size_t i = from; i < to; i++) {
		uint64_t at = (uint64_t)(int32_t)kaslr->words[i] - KERNEL_MAP - kaslr->start, value = 0;

		if (kaslr->size < width || at > kaslr->size - width)
			return false;
		memcpy(&value, kernel + at, width);
		value += shift;
		memcpy(kernel + at, &value, width);
	}
	return true;
}

int kaslr_relocate(const struct kaslr *kaslr, const struct guest_memory *memory,
	const struct boot_file *file)
{
	size_t tables[TABLES_MAX];
	unsigned count = kaslr->shift ? find_tables(kaslr, tables) : 0;
	uint8_t *kernel;
	bool good;

	if (count == 0)
		return 0;
	kernel = guest_memory_at(memory, GPA(kaslr->start + kaslr->physical), kaslr->size);
	good = kernel && apply(kaslr, kernel, tables[0], tables[1] - 1, sizeof(uint64_t), kaslr->shift) &&
		apply(kaslr, kernel, tables[count - 1], kaslr->count, sizeof(uint32_t), kaslr->shift);
	if (good && count == TABLES_MAX)
		good = apply(kaslr, kernel, tables[1], tables[2] - 1, sizeof(uint32_t), -kaslr->shift);
	if (!good)
		return fail(-ENOEXEC, "kernel %s: has a relocation outside of itself: the file is damaged; copy "
				      "it again",
			file->path);
	return 0;
}
