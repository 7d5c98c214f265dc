// SPDX-License-Identifier: GPL-2.0-only
/* The state of a VM: saved while it is paused, restored in one that was never run. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>

#include "karma/log.h"
#include "karma/snapshot.h"
#include "karma/util.h"
#include "karma/vm.h"

#define VM_VERSION 1u

static int save_clock(const struct vm *vm, struct snapshot_writer *to)
{
	struct kvm_clock_data clock = { 0 };

	if (ioctl(vm->vm_fd, KVM_GET_CLOCK, &clock) < 0)
		return fail(-errno, "KVM: can't tell the guest's clock: %s", strerror(errno));
	snapshot_put_number(to, clock.clock);
	return 0;
}

int vm_save(struct vm *vm, struct snapshot_writer *to, bool with_devices)
{
	int result;

	snapshot_begin(to, SNAPSHOT_VM, 0, VM_VERSION);
	snapshot_put_number(to, vm->memory.size);
	snapshot_put_number(to, vm->vcpu_count);
	snapshot_put_number(to, vm_guest_knows_karma(vm));
	result = save_clock(vm, to);
	snapshot_end(to);
	if (result == 0)
		result = machine_save(&vm->machine, to, with_devices);
	/* Behind the devices, whose last interrupts are in the local APICs by now. */
	for (unsigned i = 0; i < vm->vcpu_count && result == 0; i++)
		result = vcpu_save(&vm->vcpus[i], to);
	return result;
}

/* What must be the same, or vCPUs and devices would not be those of the guest's memory. */
static int check_machine(const struct vm *vm, uint64_t memory, uint64_t cpus)
{
	if (memory != vm->memory.size)
		return fail(-EINVAL, "--memory: the snapshot is of a guest with %" PRIu64 " MiB, not %" PRIu64
				     ": leave it out",
			memory / (uint64_t)MIB, vm->memory.size / (uint64_t)MIB);
	if (cpus != vm->vcpu_count)
		return fail(-EINVAL, "--cpus: the snapshot is of a guest with %" PRIu64 ", not %u: leave it out", cpus,
			vm->vcpu_count);
	return 0;
}

/* It goes on from where it was, as the TSC does: to the guest no time has passed. */
static int restore_clock(const struct vm *vm, uint64_t nanoseconds_up)
{
	const struct kvm_clock_data clock = { .clock = nanoseconds_up };

	if (ioctl(vm->vm_fd, KVM_SET_CLOCK, &clock) < 0)
		return fail(-errno, "KVM: can't set the guest's clock: %s", strerror(errno));
	return 0;
}

static int restore_vcpus(struct vm *vm, struct snapshot_reader *from, uint64_t clock)
{
	int result = 0;

	for (unsigned i = 0; i < vm->vcpu_count && result == 0; i++)
		result = vcpu_restore(&vm->vcpus[i], from);
	if (result == 0)
		result = restore_clock(vm, clock);
	/* As after a pause; a guest without KVM's clock has no use for it. */
	for (unsigned i = 0; i < vm->vcpu_count && result == 0; i++)
		ioctl(vm->vcpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
	return result;
}

int vm_restore(struct vm *vm, struct snapshot_reader *from)
{
	uint64_t memory, cpus, clock;
	int result = snapshot_open(from, SNAPSHOT_VM, 0, VM_VERSION);

	if (result < 0)
		return result;
	memory = snapshot_get_number(from);
	cpus = snapshot_get_number(from);
	vm->known = snapshot_get_number(from);
	clock = snapshot_get_number(from);
	result = snapshot_close(from);
	if (result == 0)
		result = check_machine(vm, memory, cpus);
	if (result == 0)
		result = restore_vcpus(vm, from, clock);
	return result == 0 ? machine_restore(&vm->machine, from) : result;
}
