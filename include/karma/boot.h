/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Boot: put a kernel, its initrds, its command line and the tables that it wants into guest
 * memory, and say where a vCPU starts.
 *
 * Everything runs on one thread before the first vCPU.  Files are hostile: whatever they hold,
 * these functions print a message that names the file, the cause and the cure, and return a
 * negative errno.
 */
#ifndef KARMA_BOOT_H
#define KARMA_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "karma/memory.h"

/* Low memory, in guest-physical addresses; the kernel gets all but what the e820 map reserves. */
#define BOOT_GDT 0x1000ull
#define BOOT_PARAMS 0x2000ull		/* struct boot_params, or hvm_start_info and its lists */
#define BOOT_STACK 0x8000ull		/* the top of a page of stack */
#define BOOT_PAGE_TABLES 0x10000ull	/* six pages: PML4, PDPT, four PDs: 4 GiB in 2 MiB pages */
#define BOOT_CMDLINE 0x20000ull		/* up to BOOT_CMDLINE_MAX bytes with the NUL */
#define BOOT_CMDLINE_MAX 0x10000ull
#define BOOT_LOW_END 0x9f000ull		/* end of the RAM below 640 KiB in the e820 map */
#define BOOT_ACPI 0xe0000ull		/* RSDP first, then the tables */
#define BOOT_ACPI_END 0x100000ull
#define BOOT_KERNEL_MIN 0x100000ull	/* kernels are loaded at 1 MiB or above */

/* Code, data and TSS selectors of the GDT at BOOT_GDT: Linux's. */
#define BOOT_CS 0x10
#define BOOT_DS 0x18
#define BOOT_TSS 0x20

enum boot_protocol {
	BOOT_LINUX64,	/* 64-bit entry (Linux Documentation/arch/x86/boot.rst) */
	BOOT_LINUX32,	/* 32-bit entry, paging off (same place) */
	BOOT_PVH,	/* 32-bit entry, paging off (Xen docs/misc/pvh.pandoc) */
};

struct boot_entry {
	enum boot_protocol protocol;
	gpa_t entry;	/* first instruction */
	gpa_t params;	/* RSI for Linux, EBX for BOOT_PVH */
};

/* A regular, not empty file, open for reading. */
struct boot_file {
	const char *what; /* "kernel" or "initrd", for messages */
	const char *path;
	int fd;
	uint64_t size;
	uint32_t *sums;	/* malloc'ed, of its blocks, each of which is checked when it is read; or NULL */
};

#define BOOT_FILE_NONE ((struct boot_file){ .fd = -1 })
#define BOOT_CACHE_NAME 160

/* A kernel's file, and what is packed in it. */
struct boot_kernel {
	struct boot_file file;			/* bzImage or ELF vmlinux */
	uint64_t payload, payload_bytes;	/* where a bzImage has what is packed in it; 0: nowhere */
	int cache;				/* the user's cache of unpacked kernels, or -1 */
	char cache_name[BOOT_CACHE_NAME];	/* this kernel's file there */
	bool cached;				/* to the cache */
	struct boot_file unpacked;		/* what it has, of an fd of -1 if that is nothing */
};

#define BOOT_KERNEL_NONE ((struct boot_kernel){ .file = BOOT_FILE_NONE, .cache = -1, .unpacked = BOOT_FILE_NONE })
#define cleanup_boot_kernel __attribute__((cleanup(boot_kernel_close)))

/*
 * Open the kernel and what the user's cache has of it.  In the supervisor: in a user namespace nobody can
 * tell whose the cache is.  0, or a negative errno; boot_kernel_close() in any case.
 */
int boot_kernel_open(struct boot_kernel *kernel, const char *path);
void boot_kernel_close(struct boot_kernel *kernel);

/*
 * Unpack a kernel that the cache does not know: begin a file there, whose name comes to unfinished, and
 * which is the caller's to close; have it written by boot_unpack() in a process of its own; end it, which
 * opens it if it is whole.
 */
bool boot_unpack_can(const struct boot_kernel *kernel);
int boot_cache_begin(const struct boot_kernel *kernel, char unfinished[BOOT_CACHE_NAME]);
void boot_cache_end(struct boot_kernel *kernel, const char *unfinished, int out, bool whole);

#define BOOT_UNPACKED_MAX (512ull << 20)	/* the kernel's own KERNEL_IMAGE_SIZE, without KASLR */

struct unpacking {
	const struct boot_kernel *kernel;
	int out;
	uint8_t *packed, *bytes, *memory;
	size_t packed_size, size, taken;
	uint32_t *sums;
	void *gzip, *zstd;
};

enum unpack_end {
	UNPACK_DONE,
	UNPACK_DAMAGED,
	UNPACK_UNSUPPORTED,		/* by a form that only the guest may know */
	UNPACK_NO_SPACE,		/* in the cache, or in memory */
};

/*
 * Take all memory that it needs, no more than most for what is unpacked, and read what is packed: false if
 * that can't be.  From then on boot_unpack() makes no system call but pwrite64() to out.
 */
bool boot_unpack_begin(struct unpacking *unpacking, const struct boot_kernel *kernel, int out,
	uint64_t most);
enum unpack_end boot_unpack(struct unpacking *unpacking);

struct boot_options {
	const struct boot_kernel *kernel;
	const char *const *initrds;	/* concatenated in order, each padded to 4 bytes */
	size_t initrd_count;
	const void *extra_cpio;		/* appended as a last initrd, if extra_cpio_size > 0 */
	size_t extra_cpio_size;
	const char *cmdline;
	unsigned cpus;
};

/* Load everything; fills entry.  0 or a negative errno. */
int boot_load(
	struct guest_memory *memory, const struct boot_options *options, struct boot_entry *entry);

/* Whether a kernel's command line has a word, or, if name ends with =, one that begins like that. */
bool boot_has_option(const char *cmdline, const char *name);

/* What a release may consist of, since it becomes part of a path; it doesn't begin with a dot. */
#define BOOT_RELEASE_CHARACTERS \
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+~-"

/*
 * The release that a bzImage names in its header ("6.1.0-56-amd64"), or an ELF file in the banner that
 * Linux prints, into release.  -ENOENT if it names none, any other negative errno with a message printed.
 */
int boot_kernel_release(const char *path, char *release, size_t size);

/*
 * A newc cpio archive in memory that holds one directory and one file in it; for passing
 * COMMAND to the initramfs.  *archive is malloc'ed and the caller's.  0 or -ENOMEM or -E2BIG.
 */
int boot_cpio_file(const char *directory, const char *name, const void *contents, size_t size,
	void **archive, size_t *archive_size);

/* ACPI 6.4, hardware-reduced: written to [BOOT_ACPI, BOOT_ACPI_END).  0 or -ENOSPC. */
int acpi_write(struct guest_memory *memory, unsigned cpus);

/*
 * The only registers of Karma's own, for guests without its driver, since ACPI has no other way
 * to power off or reset (ACPI 6.4, section 4.8.3.7 and 4.8.3.6); I/O ports, a byte each.
 */
#define ACPI_SLEEP_CONTROL_PORT 0x600
#define ACPI_SLEEP_STATUS_PORT 0x601
#define ACPI_RESET_PORT 0x602
#define ACPI_SLEEP_S5_VALUE 0x34	/* SLP_TYP 5, SLP_EN */
#define ACPI_RESET_VALUE 0x01

/* Where local APICs are, until they are switched to x2APIC mode; and messages to them go, always. */
#define LAPIC_ADDRESS 0xfee00000u

#endif
