// SPDX-License-Identifier: GPL-2.0-only
/* Give back what only the start needed of the program. */
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "karma/cli.h"
#include "karma/util.h"

#define SEGMENTS_MAX 64u

struct segments {
	struct {
		uintptr_t start;
		size_t length;
	} at[SEGMENTS_MAX];
	unsigned count;
};

/*
 * Pages of a segment that is never written are the file's, and come back when they are touched.
 * Relocation has written to some that are read-only by now (RELRO), but those lie in a segment
 * that is writable by its header.
 */
idle_path static int collect(struct dl_phdr_info *object, size_t size, void *context)
{
	struct segments *segments = context;

	(void)size;
	for (unsigned i = 0; i < object->dlpi_phnum && segments->count < SEGMENTS_MAX; i++) {
		const ElfW(Phdr) *header = &object->dlpi_phdr[i];
		uintptr_t at = object->dlpi_addr + header->p_vaddr;
		uintptr_t start = align_down(at, PAGE_BYTES);

		if (header->p_type != PT_LOAD || header->p_flags & PF_W)
			continue;
		segments->at[segments->count].start = start;
		segments->at[segments->count++].length = at + header->p_memsz - start;
	}
	return 0;
}

/* Not by madvise(), whose pages would come back for it, sixteen at a time. */
idle_path static void unmap(uintptr_t start, size_t length)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(SYS_madvise), "D"(start), "S"(length), "d"(MADV_DONTNEED)
			 : "rcx", "r11", "memory");
	(void)result;
}

idle_path void trim_program(void)
{
	struct segments segments = { .count = 0 };

	dl_iterate_phdr(collect, &segments);
	for (unsigned i = 0; i < segments.count; i++)
		unmap(segments.at[i].start, segments.at[i].length);
}
