// SPDX-License-Identifier: GPL-2.0-only
/* Files that are guest memory: where they lie, and what becomes of a guest that loses one. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "karma/log.h"
#include "karma/status.h"
#include "karma/util.h"
#include "karma/vm.h"

/* Slots 0 and 1 are RAM. */
#define FIRST_SLOT 2u

/* For the handler of SIGBUS. */
static const struct vm *the_vm;

/* Above RAM, each in whole GiB, which a guest maps by its largest pages. */
static bool find_place(const struct vm *vm, struct memory_region *region)
{
	uint64_t after = GUEST_HOLE_END + vm->memory.high_size;

	if (vm->memory.region_count) {
		const struct memory_region *last = &vm->file_regions[vm->memory.region_count - 1];

		after = last->gpa + last->size;
	}
	return align_up(after, GIB, &region->gpa) && region->size <= UINT64_MAX - region->gpa &&
		region->gpa + region->size <= 1ull << vm_physical_address_bits();
}

static int map_slot(const struct vm *vm, const struct memory_region *region, bool read_only)
{
	struct kvm_userspace_memory_region slot = {
		.slot = FIRST_SLOT + vm->memory.region_count,
		.flags = read_only ? KVM_MEM_READONLY : 0,
		.guest_phys_addr = region->gpa,
		.memory_size = region->size,
		.userspace_addr = (uintptr_t)region->base,
	};

	return ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0 ? -errno : 0;
}

/*
 * A thread of the monitor has touched a page that is not there any more, by a device's request, and can't go
 * on: it may hold any lock.
 */
static void memory_is_lost(int number, siginfo_t *info, void *context)
{
	(void)context;
	for (unsigned i = 0; i < the_vm->memory.region_count; i++) {
		const struct memory_region *region = &the_vm->file_regions[i];

		if ((uint64_t)((uint8_t *)info->si_addr - region->base) >= region->size)
			continue;
		fail(-EIO, "disk %s: is its guest's memory and was cut, or can't be read any more: the guest ends: "
			   "give it its size again, or see the kernel's log (dmesg)",
			the_vm->file_names[i]);
		_exit(STATUS_FAILURE);
	}
	signal(number, SIG_DFL);
}

int vm_add_file_memory(struct vm *vm, const struct file_memory *file, struct memory_region *place)
{
	const struct sigaction action = { .sa_sigaction = memory_is_lost, .sa_flags = SA_SIGINFO };
	struct memory_region *region = &vm->file_regions[vm->memory.region_count];
	int result;

	if (vm->memory.region_count == ARRAY_SIZE(vm->file_regions))
		return fail(-ENOSPC, "disk %s: a guest has at most %u as its memory: leave `pmem` out", file->path,
			KARMA_DEVICES_MAX);
	if (file->writable && file->bytes % GUEST_HUGE_PAGE)
		return fail(-EINVAL,
			"disk %s: has %" PRIu64 " bytes, and what is written as memory is whole 2 MiB: make it so with "
			"`truncate -s %%2M %s`, or add `,ro` or `,private`",
			file->path, file->bytes, file->path);
	result = memory_region_map(region, file->fd, file->bytes, file->writable);
	if (result == 0 && !find_place(vm, region)) {
		munmap(region->base, region->size);
		return fail(-EFBIG,
			"disk %s: does not fit above the guest's memory into the %u-bit physical addresses of this "
			"host's CPU: leave `pmem` out",
			file->path, vm_physical_address_bits());
	}
	if (result == 0)
		result = map_slot(vm, region, file->read_only);
	if (result < 0)
		return fail(result, "disk %s: can't be memory: %s: leave `pmem` out", file->path, strerror(-result));
	vm->file_names[vm->memory.region_count++] = file->path;
	vm->memory.regions = vm->file_regions;
	*place = *region;
	the_vm = vm;
	sigaction(SIGBUS, &action, NULL);
	return 0;
}
