// SPDX-License-Identifier: GPL-2.0-only
/* Guest memory: one mapping, and the only way from a guest address to a pointer. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "karma/log.h"
#include "karma/memory.h"
#include "karma/util.h"

int guest_memory_init(struct guest_memory *memory, uint64_t size)
{
	void *base;

	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		-1, 0);
	if (base == MAP_FAILED)
		return fail(-errno,
			"guest memory: can't map %llu MiB: %s: give a smaller --memory, or raise "
			"the limit of address space (ulimit -v)",
			(unsigned long long)(size / MIB), strerror(errno));
	/* A guest's secrets do not belong into the monitor's core dump. */
	madvise(base, size, MADV_DONTDUMP);
	memory->base = base;
	memory->size = size;
	memory->low_size = size < GUEST_HOLE_START ? size : GUEST_HOLE_START;
	memory->high_size = size - memory->low_size;
	return 0;
}

void guest_memory_release(struct guest_memory *memory)
{
	if (memory->base)
		munmap(memory->base, memory->size);
	*memory = (struct guest_memory){ 0 };
}

void *guest_memory_at(const struct guest_memory *memory, gpa_t gpa, uint64_t length)
{
	uint64_t end;

	if (__builtin_add_overflow(gpa.value, length, &end))
		return NULL;
	if (end <= memory->low_size)
		return memory->base + gpa.value;
	if (gpa.value >= GUEST_HOLE_END && end - GUEST_HOLE_END <= memory->high_size)
		return memory->base + memory->low_size + (gpa.value - GUEST_HOLE_END);
	return NULL;
}

int guest_memory_read(const struct guest_memory *memory, gpa_t gpa, void *to, size_t length)
{
	const void *from = guest_memory_at(memory, gpa, length);

	if (!from)
		return -EFAULT;
	memcpy(to, from, length);
	return 0;
}

int guest_memory_write(
	const struct guest_memory *memory, gpa_t gpa, const void *from, size_t length)
{
	void *to = guest_memory_at(memory, gpa, length);

	if (!to)
		return -EFAULT;
	memcpy(to, from, length);
	return 0;
}
