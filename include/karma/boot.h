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

/* Code, data and TSS selectors of the GDT at BOOT_GDT, for 64-bit and 32-bit entry. */
#define BOOT_CS64 0x10
#define BOOT_DS 0x18
#define BOOT_CS32 0x20
#define BOOT_TSS 0x28

enum boot_protocol {
	BOOT_LINUX64,	/* 64-bit entry (Linux Documentation/arch/x86/boot.rst) */
	BOOT_PVH,	/* 32-bit entry, paging off (Xen docs/misc/pvh.pandoc) */
};

struct boot_entry {
	enum boot_protocol protocol;
	gpa_t entry;	/* first instruction */
	gpa_t params;	/* RSI for BOOT_LINUX64, EBX for BOOT_PVH */
};

struct boot_options {
	const char *kernel;		/* bzImage or ELF vmlinux */
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
