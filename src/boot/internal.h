/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of src/boot share: a checked input file, a kernel image, the memory map. */
#ifndef KARMA_BOOT_INTERNAL_H
#define KARMA_BOOT_INTERNAL_H

#include <asm/bootparam.h>

#include "karma/boot.h"
#include "karma/util.h"

#define cleanup_boot_file __attribute__((cleanup(boot_file_close)))

/* A regular file only; never blocks, whatever the path names. */
int boot_file_open(struct boot_file *file, const char *what, const char *path);
void boot_file_close(struct boot_file *file);

/* Read exactly length bytes.  -EBADMSG, without a message, if a block does not match its sum. */
int boot_file_read(const struct boot_file *file, uint64_t offset, void *to, uint64_t length);

/*
 * Like boot_file_read(), into guest memory at an address that boot_check_range() has accepted.  Guest memory
 * must still be zero there: holes in the file are skipped.
 */
int boot_file_load(const struct boot_file *file, uint64_t offset, const struct guest_memory *memory,
	uint64_t address, uint64_t length);

/* A kernel that was loaded, and what its format demands of the rest. */
struct boot_image {
	const char *cmdline;        /* set by the caller, as is initrd_bytes */
	enum boot_protocol protocol;
	uint64_t entry;
	uint64_t bytes;             /* of memory that it keeps for itself; 0: unknown */
	uint64_t end;               /* the first address behind it */
	uint64_t initrd_bytes;      /* the size of all initrds */
	uint64_t initrd_max;        /* the last address that an initrd may take in low RAM */
	bool initrd_above_4g;       /* the initrd may also be in high RAM */
	uint64_t cmdline_max;       /* bytes, without the NUL */
	struct setup_header header; /* of a bzImage only */
};

/* All initrds, concatenated; size is 0 if there are none. */
struct boot_initrd {
	uint64_t address;
	uint64_t size;
	struct boot_file *files;
	size_t count;
};

/* Check that a kernel may be loaded to that range of addresses. */
int boot_check_range(const struct boot_file *file, uint64_t address, uint64_t size);
/* Check that the guest has memory up to the kernel's end, after all its ranges were checked. */
int boot_check_memory(const struct boot_file *file, const struct guest_memory *memory,
	const struct boot_image *image, uint64_t end);
int boot_write(const struct guest_memory *memory, uint64_t address, const void *from, size_t size);

/* Set the cache's members of a kernel, and open its entry.  True if there is a valid one. */
bool boot_cache_find(struct boot_kernel *kernel);
void boot_cache_discard(const struct boot_kernel *kernel);

/* For xz: its presets have dictionaries of 64 MiB at most; other data comes on top. */
#define XZ_MEMORY_MAX (256 * MIB)
#define BOOT_CACHE_BLOCK (64 * KIB)

static inline uint64_t boot_cache_blocks(uint64_t size)
{
	return (size + BOOT_CACHE_BLOCK - 1) / BOOT_CACHE_BLOCK;
}

/* Write an unpacked kernel to out in the cache's format; sums is scratch space for all blocks. */
bool boot_cache_write(const struct boot_kernel *kernel, int out, const uint8_t *bytes, uint64_t size,
	uint32_t *sums);

/* Read from a file of the cache.  -EBADMSG, without a message, if it is damaged.  is_zeroed: `to` is zero. */
int boot_cache_read(const struct boot_file *file, uint64_t offset, uint8_t *to, uint64_t length,
	bool is_zeroed);

/* Enough of a file to identify its format: bzImage's magic ends there. */
#define HEAD_BYTES 0x206u

bool bzimage_is(const void *head, size_t size);
/* Find its payload; *bytes is 0 if it has none, or one beyond the file's end. */
int bzimage_find_payload(const struct boot_file *file, uint64_t *offset, uint64_t *bytes);
/* Load it unpacked if the cache has it, since a guest takes long to unpack itself. */
int bzimage_load(const struct guest_memory *memory, const struct boot_kernel *kernel,
	struct boot_image *image);
int bzimage_write_params(const struct guest_memory *memory, const struct boot_image *image,
	const struct boot_initrd *initrd);

/* As boot_kernel_release(). */
int bzimage_release(const struct boot_file *file, char *release, size_t size);
bool boot_release_is_valid(const char *release);

bool elf_is(const void *head, size_t size);
/* For an entry by PVH. */
int elf_load(
	const struct guest_memory *memory, const struct boot_file *file, struct boot_image *image);
/*
 * Load an unpacked kernel of the cache, for the boot protocol of its bzImage; fills image's entry and end.  -EBADMSG,
 * without a message and with guest memory zero again, if the file is damaged.
 */
int elf_load_unpacked(
	const struct guest_memory *memory, const struct boot_file *file, struct boot_image *image);

/* A kernel that is moved to a random address (kaslr.c), and its relocations. */
struct kaslr {
	uint64_t start, size;		/* the physical addresses that it is linked for */
	uint64_t physical, shift;	/* by how much it is moved in physical and in virtual memory */
	uint32_t *words;		/* malloc'ed: the relocations, as in the file */
	size_t count;
};

/*
 * Choose physical and shift for a kernel whose start and size are set, and whose relocations begin at offset of
 * the file; 0 if it has none.  -EBADMSG as for elf_load_unpacked().
 */
int kaslr_choose(struct kaslr *kaslr, const struct guest_memory *memory, const struct boot_file *file,
	uint64_t offset, struct boot_image *image);
/* Apply the relocations to the kernel in guest memory. */
int kaslr_relocate(const struct kaslr *kaslr, const struct guest_memory *memory,
	const struct boot_file *file);

int elf_write_params(const struct guest_memory *memory, const struct boot_initrd *initrd);

/* Open all first: the addresses of initrds and kernel depend on the total size.  initrd_close() in any case. */
int initrd_open(const struct boot_options *options, struct boot_initrd *initrd);
void initrd_close(struct boot_initrd *initrd);
/* The highest address that initrds may end at in low RAM. */
uint64_t initrd_ceiling(const struct guest_memory *memory, const struct boot_image *image);
int initrd_load(const struct guest_memory *memory, const struct boot_image *image, struct boot_initrd *initrd);

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
