// SPDX-License-Identifier: GPL-2.0-only
/* The guest's memory, as the front of vhost-user gives it: files, mapped. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "karma/util.h"
#include "vhost_user.h"

void vhost_memory_unmap(struct vhost_backend *backend)
{
	for (unsigned i = 0; i < backend->memory.region_count; i++)
		munmap(backend->mappings[i].iov_base, backend->mappings[i].iov_len);
	backend->memory.region_count = 0;
}

/*
 * From the start of the file, whose pages may be huge, so that no offset has to be a multiple of theirs.  Who
 * makes the file smaller later ends this process by SIGBUS, and nothing else.
 */
static int map(struct iovec *mapping, const struct vhost_user_region *region, int fd)
{
	uint64_t end, length;
	struct stat status;

	if (fstat(fd, &status) < 0)
		return -errno;
	if (!S_ISREG(status.st_mode) || __builtin_add_overflow(region->offset, region->size, &end) ||
		end > (uint64_t)status.st_size || !align_up(end, status.st_blksize, &length))
		return -EINVAL;
	mapping->iov_len = length;
	mapping->iov_base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	return mapping->iov_base == MAP_FAILED ? -errno : 0;
}

static int add(struct vhost_backend *backend, const struct vhost_user_region *region, int fd)
{
	unsigned index = backend->memory.region_count;
	uint64_t end;
	int result;

	/* Whole pages, so that what is aligned in the guest is aligned here. */
	if (region->size == 0 || (region->gpa | region->size | region->offset) % PAGE_BYTES ||
		__builtin_add_overflow(region->gpa, region->size, &end) ||
		__builtin_add_overflow(region->address, region->size, &end))
		return -EINVAL;
	result = map(&backend->mappings[index], region, fd);
	if (result < 0)
		return result;
	backend->regions[index] = (struct memory_region){ region->gpa, region->size,
		(uint8_t *)backend->mappings[index].iov_base + region->offset };
	backend->addresses[index] = region->address;
	backend->memory.region_count++;
	return 0;
}

int vhost_memory_map(struct vhost_backend *backend, const struct vhost_user_memory *table, const int *fds)
{
	int result = 0;

	vhost_memory_unmap(backend);
	backend->memory.regions = backend->regions;
	for (unsigned i = 0; result == 0 && i < table->count; i++)
		result = add(backend, &table->regions[i], fds[i]);
	return result;
}

uint64_t vhost_memory_gpa(const struct vhost_backend *backend, uint64_t address)
{
	for (unsigned i = 0; i < backend->memory.region_count; i++) {
		uint64_t offset = address - backend->addresses[i];

		if (offset < backend->regions[i].size)
			return backend->regions[i].gpa + offset;
	}
	return UINT64_MAX;
}
