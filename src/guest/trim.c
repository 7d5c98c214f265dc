// SPDX-License-Identifier: GPL-2.0-only
/* Unmap the program's pages that only the start needed, to keep an idle process small. */
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "internal.h"

#define SEGMENTS_MAX 64u

struct segments {
	struct {
		uintptr_t start;
		size_t length;
	} at[SEGMENTS_MAX];
	unsigned count;
};

/*
 * Collect the segments that are never written: their pages come from the file again when they are touched.
 * Pages that relocation has written and RELRO has made read-only lie in a segment whose header says writable.
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

/*
 * madvise(MADV_DONTNEED), without the C library's function: to return to it would map its page again, and
 * fifteen around that.
 */
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
