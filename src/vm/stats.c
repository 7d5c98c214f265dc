// SPDX-License-Identifier: GPL-2.0-only
/* Counters for --stats: exits, hypercalls and devices from the monitor, the rest from KVM. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "karma/log.h"
#include "karma/util.h"
#include "karma/vm.h"

#define KVM_STATS_MAX 256u

/* KVM_EXIT_*, by number (linux/kvm.h); the rest is printed by its number. */
static const char *const exit_names[KVM_EXIT_KINDS] = {
	[KVM_EXIT_UNKNOWN] = "unknown",
	[KVM_EXIT_EXCEPTION] = "exception",
	[KVM_EXIT_IO] = "io",
	[KVM_EXIT_HYPERCALL] = "hypercall",
	[KVM_EXIT_DEBUG] = "debug",
	[KVM_EXIT_HLT] = "hlt",
	[KVM_EXIT_MMIO] = "mmio",
	[KVM_EXIT_IRQ_WINDOW_OPEN] = "irq_window_open",
	[KVM_EXIT_SHUTDOWN] = "shutdown",
	[KVM_EXIT_FAIL_ENTRY] = "fail_entry",
	[KVM_EXIT_INTR] = "intr",
	[KVM_EXIT_INTERNAL_ERROR] = "internal_error",
	[KVM_EXIT_SYSTEM_EVENT] = "system_event",
};

static void print_counter(const char *group, const char *name, uint64_t value)
{
	tell("stats %s.%s %" PRIu64, group, name, value);
}

static void print_exits(const struct vm *vm)
{
	uint64_t acpi = 0;

	for (unsigned kind = 0; kind < KVM_EXIT_KINDS; kind++) {
		uint64_t sum = 0;
		char number[16];

		for (unsigned i = 0; i < vm->vcpu_count; i++)
			sum += vm->vcpus[i].exits[kind];
		snprintf(number, sizeof(number), "%u", kind);
		/* These three are always told, so that a script can rely on them. */
		if (sum || kind == KVM_EXIT_HYPERCALL || kind == KVM_EXIT_IO ||
			kind == KVM_EXIT_MMIO)
			print_counter("exit", exit_names[kind] ? exit_names[kind] : number, sum);
	}
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		acpi += vm->vcpus[i].acpi_accesses;
	print_counter("exit", "io_acpi", acpi);
}

static void print_hypercalls(const struct vm *vm)
{
	uint64_t unknown = 0, refused = 0;

	for (unsigned number = 0; number < KARMA_WINDOW_CALLS; number++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < vm->vcpu_count; i++)
			sum += vm->vcpus[i].hypercalls.calls[number];
		if (sum)
			print_counter("hypercall", hypercall_name(number), sum);
	}
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		unknown += vm->vcpus[i].hypercalls.unknown;
		refused += vm->vcpus[i].hypercalls.refused;
	}
	print_counter("hypercall", "unknown", unknown);
	print_counter("hypercall", "refused", refused);
}

/* The queues of one name, if this is the first of them. */
static void print_queues(const struct virtio_device *device, unsigned first)
{
	uint64_t chains = 0, notifications = 0, interrupts = 0;
	const char *name = device->queues[first].name;
	char group[48];

	for (unsigned i = 0; i < device->queue_count; i++) {
		if (device->queues[i].name != name)
			continue;
		if (i < first)
			return;
		chains += device->queues[i].chains;
		notifications += device->queues[i].notifications;
		interrupts += device->queues[i].interrupts;
	}
	snprintf(group, sizeof(group), "%s.%s", device->name, name);
	print_counter(group, "chains", chains);
	print_counter(group, "notifications", notifications);
	print_counter(group, "interrupts", interrupts);
}

static void print_devices(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->machine.device_count; i++) {
		const struct virtio_device *device = vm->machine.devices[i];

		for (unsigned j = 0; j < device->queue_count; j++)
			print_queues(device, j);
		for (unsigned j = 0; j < device->counter_count; j++)
			print_counter(device->name, device->counters[j].name,
				device->counters[j].value);
	}
}

static void print_rings(const struct vm *vm)
{
	uint64_t operations = vm->ring->operations, submissions = vm->ring->submissions;

	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		operations += vm->vcpus[i].ring.operations;
		submissions += vm->vcpus[i].ring.submissions;
	}
	print_counter("io_uring", "operations", operations);
	print_counter("io_uring", "submissions", submissions);
}

/* KVM's own counters of a vCPU that say what the guest did to the host. */
static bool is_wanted(const char *name)
{
	static const char *const wanted[] = {
		"exits", "io_exits", "mmio_exits", "irq_exits", "halt_exits", "hypercalls",
		"insn_emulation", "irq_injections", "signal_exits", "host_state_reload",
		"pf_taken",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(wanted); i++) {
		if (strcmp(name, wanted[i]) == 0)
			return true;
	}
	return false;
}

struct kvm_counter {
	char name[48];
	uint64_t value;
};

/* Add a vCPU's binary statistics (Linux Documentation/virt/kvm/api.rst, 4.133) to the sums. */
static unsigned add_kvm_counters(const struct vcpu *vcpu, struct kvm_counter *counters,
	unsigned count)
{
	const int fd = vcpu->stats_fd;
	struct kvm_stats_header header;
	unsigned filled = 0;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != sizeof(header))
		return 0;
	for (unsigned i = 0; i < header.num_desc && filled < count; i++) {
		struct {
			struct kvm_stats_desc head;
			char name[48];
		} desc;
		size_t size = sizeof(desc.head) + header.name_size;
		uint64_t value;

		if (header.name_size > sizeof(desc.name) ||
			pread(fd, &desc, size, header.desc_offset + i * size) != (ssize_t)size ||
			pread(fd, &value, sizeof(value), header.data_offset + desc.head.offset) !=
				sizeof(value))
			return filled;
		desc.name[sizeof(desc.name) - 1] = '\0';
		if (!is_wanted(desc.name))
			continue;
		memcpy(counters[filled].name, desc.name, sizeof(desc.name));
		counters[filled++].value += value;
	}
	return filled;
}

static void print_kvm(const struct vm *vm)
{
	struct kvm_counter counters[16] = { 0 };
	unsigned count = 0;

	for (unsigned i = 0; i < vm->vcpu_count; i++)
		count = add_kvm_counters(&vm->vcpus[i], counters, ARRAY_SIZE(counters));
	for (unsigned i = 0; i < count; i++)
		print_counter("kvm", counters[i].name, counters[i].value);
}

void stats_print(struct vm *vm)
{
	print_exits(vm);
	print_hypercalls(vm);
	print_devices(vm);
	print_rings(vm);
	print_kvm(vm);
}
