/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of src/boot share: a checked input file, a kernel image, the memory map. */
#ifndef KARMA_BOOT_INTERNAL_H
#define KARMA_BOOT_INTERNAL_H

#include <asm/bootparam.h>

#include "karma/boot.h"
#include "karma/util.h"

/* A regular, not empty file, open for reading. */
struct boot_file {
	const char *what; /* "kernel" or "initrd", for messages */
	const char *path;
	int fd;
	uint64_t size;
};

#define BOOT_FILE_NONE ((struct boot_file){ .fd = -1 })
#define cleanup_boot_file __attribute__((cleanup(boot_file_close)))

/* 0, or a negative errno with a message printed; never blocks on what the path names. */
int boot_file_open(struct boot_file *file, const char *what, const char *path);
void boot_file_close(struct boot_file *file);

/* Read exactly length bytes; 0, or a negative errno with a message printed. */
int boot_file_read(const struct boot_file *file, uint64_t offset, void *to, uint64_t length);

/*
 * Like boot_file_read, into guest memory at address, which boot_check_range() has let pass.  It is zero
 * still, so holes in the file are not read.
 */
int boot_file_load(const struct boot_file *file, uint64_t offset, const struct guest_memory *memory,
	uint64_t address, uint64_t length);

/* A kernel that was put into guest memory, and what its format says about the rest. */
struct boot_image {
	enum boot_protocol protocol;
	uint64_t entry;
	uint64_t end;               /* the first address behind what the kernel takes */
	uint64_t initrd_max;        /* the last address that an initrd may take in low RAM */
	bool initrd_above_4g;       /* or it may lie in high RAM */
	uint64_t cmdline_max;       /* bytes, without the NUL */
	struct setup_header header; /* of BOOT_LINUX64 only */
};

/* All initrds, one after the other; size is 0 if there are none. */
struct boot_initrd {
	uint64_t address;
	uint64_t size;
};

/* 0, or a negative errno with a message printed, as for all functions below. */
int boot_check_range(const struct boot_file *file, const struct guest_memory *memory,
	uint64_t address, uint64_t size);
int boot_write(const struct guest_memory *memory, uint64_t address, const void *from, size_t size);

/*
 * The kernel that is packed at [offset, offset + length) of a bzImage, as an ELF file from the user's
 * cache; false if it can't be had that way.  The caller closes unpacked.
 */
bool boot_unpack(const struct boot_file *bzimage, uint64_t offset, uint64_t length,
	struct boot_file *unpacked);

bool bzimage_is(const void *head, size_t size);
/* Unpacked where that can be, since a guest takes long to unpack itself. */
int bzimage_load(
	const struct guest_memory *memory, const struct boot_file *file, struct boot_image *image);
int bzimage_write_params(const struct guest_memory *memory, const struct boot_image *image,
	const struct boot_initrd *initrd);

/* As boot_kernel_release(). */
int bzimage_release(const struct boot_file *file, char *release, size_t size);
bool boot_release_is_sane(const char *release);

bool elf_is(const void *head, size_t size);
/* To be entered by PVH; fills all of image that PVH needs. */
int elf_load(
	const struct guest_memory *memory, const struct boot_file *file, struct boot_image *image);
/* What a bzImage unpacks itself to, with that one's 64-bit entry; fills image's entry and end. */
int elf_load_unpacked(
	const struct guest_memory *memory, const struct boot_file *file, struct boot_image *image);
int elf_write_params(const struct guest_memory *memory, const struct boot_initrd *initrd);

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

/* A --memory in MiB to suggest when the guest needs more than bytes: it also has to run. */
uint64_t boot_memory_hint(uint64_t bytes);

#endif
