// SPDX-License-Identifier: GPL-2.0-only
/* Give back what only the start needed of the program and its libraries. */
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>

#include "karma/cli.h"
#include "karma/util.h"

#define SEGMENTS_MAX 32

/*
 * Pages of a segment that is never written are the file's, and come back when they are touched.
 * The loader has written to some that are read-only by now (RELRO), but those lie in a segment
 * that is writable by its header.
 */
static int trim_object(struct dl_phdr_info *object, size_t size, void *unused)
{
	/* A copy, since the table lies in such a segment. */
	ElfW(Phdr) segments[SEGMENTS_MAX];
	unsigned count = object->dlpi_phnum < SEGMENTS_MAX ? object->dlpi_phnum : SEGMENTS_MAX;

	(void)size;
	(void)unused;
	memcpy(segments, object->dlpi_phdr, count * sizeof(segments[0]));
	for (unsigned i = 0; i < count; i++) {
		uintptr_t at = object->dlpi_addr + segments[i].p_vaddr;
		uintptr_t start = align_down(at, PAGE_BYTES);

		if (segments[i].p_type == PT_LOAD && !(segments[i].p_flags & PF_W))
			madvise((void *)start, at + segments[i].p_memsz - start, MADV_DONTNEED);
	}
	return 0;
}

void trim_program(void)
{
	dl_iterate_phdr(trim_object, NULL);
}
