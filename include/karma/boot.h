/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Boot: load a kernel, its initrds and its command line into guest memory, write the tables that it needs, and
 * determine where the first vCPU starts.
 *
 * All of this runs on one thread, before the first vCPU.  Files are untrusted.  Functions that return int return
 * 0, or a negative errno after a message that names the file, the cause and the cure, unless said otherwise.
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
	uint32_t *sums;	/* malloc'ed: CRC-32 of each block, checked when it is read; NULL: not a file of the cache */
};

#define BOOT_FILE_NONE ((struct boot_file){ .fd = -1 })
#define BOOT_CACHE_NAME 160

/* A kernel's file, and its unpacked form in the user's cache. */
struct boot_kernel {
	struct boot_file file;			/* bzImage or ELF vmlinux */
	uint64_t payload, payload_bytes;	/* a bzImage's compressed payload in the file; 0: none */
	int cache;				/* the directory of unpacked kernels, or -1 */
	char cache_name[BOOT_CACHE_NAME];	/* this kernel's file there */
	bool cached;				/* it has an entry, which may say that it can't be booted unpacked */
	struct boot_file unpacked;		/* that entry; its fd is -1 if there is nothing to load */
};

#define BOOT_KERNEL_NONE ((struct boot_kernel){ .file = BOOT_FILE_NONE, .cache = -1, .unpacked = BOOT_FILE_NONE })
#define cleanup_boot_kernel __attribute__((cleanup(boot_kernel_close)))

/*
 * Open the kernel and its entry in the user's cache.  In the supervisor, since within a user namespace the owner of
 * the cache can't be verified.  boot_kernel_close() in any case.
 */
int boot_kernel_open(struct boot_kernel *kernel, const char *path);
void boot_kernel_close(struct boot_kernel *kernel);

/*
 * To unpack a kernel that is not cached: boot_cache_begin() creates a temporary file in the cache, a process of its
 * own writes it by boot_unpack(), and boot_cache_end() publishes and opens it if it is complete.
 */

/* Whether the payload's compression is supported. */
bool boot_unpack_can(const struct boot_kernel *kernel);
/* The descriptor, which the caller closes, with the file's name in unfinished; -1 without a message. */
int boot_cache_begin(const struct boot_kernel *kernel, char unfinished[BOOT_CACHE_NAME]);
void boot_cache_end(struct boot_kernel *kernel, const char *unfinished, int out, bool complete);

#define BOOT_UNPACKED_MAX (512ull << 20)	/* Linux's KERNEL_IMAGE_SIZE without KASLR */

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
	UNPACK_UNSUPPORTED,		/* compressed in a way that only the guest can unpack */
	UNPACK_NO_SPACE,		/* in the cache or in memory */
};

/*
 * Allocate all memory, for at most max bytes of unpacked kernel, and read the payload.  False, without a message,
 * if that fails.  Afterwards boot_unpack() makes no system call but pwrite64() to out, for the filter's sake.
 */
bool boot_unpack_begin(struct unpacking *unpacking, const struct boot_kernel *kernel, int out,
	uint64_t max);
enum unpack_end boot_unpack(struct unpacking *unpacking);

struct boot_options {
	const struct boot_kernel *kernel;
	const char *const *initrds;	/* concatenated in order, each padded to 4 bytes */
	size_t initrd_count;
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

/* The directory with Karma's own initramfs for each release, and what makes more of them. */
const char *boot_guest_directory(void);

/* The user's cache, malloc'ed; NULL if there is none, or others may write to it. */
char *boot_cache_path(void);

/*
 * Whether an initrd begins with what scripts/mkinitramfs puts there if the guest's agent is in it.  No message: a file
 * that can't be read is told when it is loaded.
 */
bool boot_initrd_has_agent(const char *path);

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
