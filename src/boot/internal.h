/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of src/boot share: a checked input file, a kernel image, the memory map. */
#ifndef KARMA_BOOT_INTERNAL_H
#define KARMA_BOOT_INTERNAL_H

#include <asm/bootparam.h>

#include "karma/boot.h"
#include "karma/util.h"

#define cleanup_boot_file __attribute__((cleanup(boot_file_close)))

/* 0, or a negative errno with a message printed; never blocks on what the path names. */
int boot_file_open(struct boot_file *file, const char *what, const char *path);
void boot_file_close(struct boot_file *file);

/* Read exactly length bytes; 0, or a negative errno with a message printed, but for -EBADMSG of a file with sums. */
int boot_file_read(const struct boot_file *file, uint64_t offset, void *to, uint64_t length);

/*
 * Like boot_file_read, into guest memory at address, which boot_check_range() has let pass.  It is zero
 * still, so holes in the file are not read.
 */
int boot_file_load(const struct boot_file *file, uint64_t offset, const struct guest_memory *memory,
	uint64_t address, uint64_t length);

/* A kernel that was put into guest memory, and what its format says about the rest. */
struct boot_image {
	const char *cmdline;        /* given, as initrd_bytes */
	enum boot_protocol protocol;
	uint64_t entry;
	uint64_t bytes;             /* that it keeps, if that is known */
	uint64_t end;               /* the first address behind what the kernel takes */
	uint64_t initrd_bytes;      /* what is to come behind it */
	uint64_t initrd_max;        /* the last address that an initrd may take in low RAM */
	bool initrd_above_4g;       /* or it may lie in high RAM */
	uint64_t cmdline_max;       /* bytes, without the NUL */
	struct setup_header header; /* of a bzImage only */
};

/* All initrds, one after the other; size is 0 if there are none. */
struct boot_initrd {
	uint64_t address;
	uint64_t size;
	struct boot_file *files;
	size_t count;
};

/* Whether a kernel can be there at all: 0, or a negative errno with a message printed, as for all below. */
int boot_check_range(const struct boot_file *file, uint64_t address, uint64_t size);
/* The same for what a kernel takes up to its end, all of it, once all its ranges have been let pass. */
int boot_check_memory(const struct boot_file *file, const struct guest_memory *memory,
	const struct boot_image *image, uint64_t end);
int boot_write(const struct guest_memory *memory, uint64_t address, const void *from, size_t size);

/* The cache's part of boot_kernel_open(): whether it knows the kernel. */
bool boot_cache_find(struct boot_kernel *kernel);
void boot_cache_discard(const struct boot_kernel *kernel);

/* What boot_unpack_begin() maps for xz: its dictionary, 64 MiB at most by xz's own presets, and more. */
#define XZ_MEMORY_MAX (256 * MIB)
#define BOOT_CACHE_BLOCK (64 * KIB)

static inline uint64_t boot_cache_blocks(uint64_t size)
{
	return (size + BOOT_CACHE_BLOCK - 1) / BOOT_CACHE_BLOCK;
}

/* Write size bytes to out in the form of the cache; sums has room for its blocks. */
bool boot_cache_write(const struct boot_kernel *kernel, int out, const uint8_t *bytes, uint64_t size,
	uint32_t *sums);

/* Read from a file that has sums; -EBADMSG, without a message, if it is damaged. */
int boot_cache_read(const struct boot_file *file, uint64_t offset, uint8_t *to, uint64_t length,
	bool is_zeroed);

bool bzimage_is(const void *head, size_t size);
/* Where its payload is; 0 bytes if it has none that could be. */
int bzimage_find_payload(const struct boot_file *file, uint64_t *offset, uint64_t *bytes);
/* Unpacked where that can be, since a guest takes long to unpack itself. */
int bzimage_load(const struct guest_memory *memory, const struct boot_kernel *kernel,
	struct boot_image *image);
int bzimage_write_params(const struct guest_memory *memory, const struct boot_image *image,
	const struct boot_initrd *initrd);

/* As boot_kernel_release(). */
int bzimage_release(const struct boot_file *file, char *release, size_t size);
bool boot_release_is_valid(const char *release);

bool elf_is(const void *head, size_t size);
/* To be entered by PVH; fills all of image that PVH needs. */
int elf_load(
	const struct guest_memory *memory, const struct boot_file *file, struct boot_image *image);
/*
 * What a bzImage unpacks itself to, with that one's protocol; fills image's entry and end.  -EBADMSG,
 * without a message and with guest memory zero as before, if the cache's file is damaged.
 */
int elf_load_unpacked(
	const struct guest_memory *memory, const struct boot_file *file, struct boot_image *image);
/* A kernel that is moved to a random address (kaslr.c), and the relocations that this takes. */
struct kaslr {
	uint64_t start, size;		/* where it is linked to be, in physical memory */
	uint64_t physical, shift;	/* how far it is moved there, and in virtual memory */
	uint32_t *words;		/* malloc'ed */
	size_t count;
};

/*
 * How far to move a kernel whose start and size are set and whose relocations are in file from offset on;
 * nowhere without such.  -EBADMSG as elf_load_unpacked().
 */
int kaslr_choose(struct kaslr *kaslr, const struct guest_memory *memory, const struct boot_file *file,
	uint64_t offset, struct boot_image *image);
/* With the kernel in guest memory. */
int kaslr_relocate(const struct kaslr *kaslr, const struct guest_memory *memory,
	const struct boot_file *file);

int elf_write_params(const struct guest_memory *memory, const struct boot_initrd *initrd);

/* Open all before any is read: where they and the kernel go depends on the size of all. */
int initrd_open(const struct boot_options *options, struct boot_initrd *initrd);
void initrd_close(struct boot_initrd *initrd);
/* Where initrds end at most in low RAM. */
uint64_t initrd_ceiling(const struct guest_memory *memory, const struct boot_image *image);
int initrd_load(const struct guest_memory *memory, const struct boot_options *options,
	const struct boot_image *image, struct boot_initrd *initrd);

/* The guest's memory map, in e820 types; returns the number of entries. */
#define BOOT_E820_MAX 8
unsigned boot_e820(
	const struct guest_memory *memory, struct boot_e820_entry entries[BOOT_E820_MAX]);

/* Bytes as whole MiB, rounded up. */
static inline uint64_t to_mib(uint64_t bytes)
{
	return bytes / MIB + (bytes % MIB != 0);
}

/* A --memory in MiB that is enough for a kernel up to that end, and initrds: it also has to run. */
uint64_t boot_memory_hint(uint64_t end, uint64_t initrd_bytes);

#endif
