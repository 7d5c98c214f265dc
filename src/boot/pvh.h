/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * PVH: how a kernel is entered whose ELF notes name a 32-bit entry, and what it is told (Xen docs/misc/pvh.pandoc).
 */
#ifndef KARMA_PVH_H
#define KARMA_PVH_H

#include <stdint.h>

/* Xen's public elfnote.h: the physical address of a 32-bit entry. */
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define XEN_NAME "Xen"

/* Xen's public arch-x86/hvm/start_info.h, version 1. */
#define HVM_START_MAGIC 0x336ec578u
#define HVM_START_VERSION 1u

struct hvm_start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist_paddr;
	uint64_t cmdline_paddr;
	uint64_t rsdp_paddr;
	uint64_t memmap_paddr;
	uint32_t memmap_entries;
	uint32_t reserved;
};

struct hvm_modlist_entry {
	uint64_t paddr;
	uint64_t size;
	uint64_t cmdline_paddr;
	uint64_t reserved;
};

struct hvm_memmap_entry {
	uint64_t addr;
	uint64_t size;
	uint32_t type;
	uint32_t reserved;
};

#endif
