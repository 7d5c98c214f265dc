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

struct visitor {
	void (*visit)(void *context, const struct stats_counter *counter);
	void *context;
};

static void visit_counter(const struct visitor *visitor, enum stats_kind kind, const char *name, uint64_t value)
{
	visitor->visit(visitor->context,
		&(struct stats_counter){ .kind = kind, .name = name, .value = value });
}

static void visit_device_counter(const struct visitor *visitor, const char *device, const char *name, uint64_t value)
{
	visitor->visit(visitor->context,
		&(struct stats_counter){ .kind = STATS_DEVICE, .device = device, .name = name, .value = value });
}

static void visit_exits(const struct vm *vm, const struct visitor *visitor)
{
	uint64_t acpi = 0;

	for (unsigned kind = 0; kind < KVM_EXIT_KINDS; kind++) {
		uint64_t sum = 0;
		char number[16];

		for (unsigned i = 0; i < vm->vcpu_count; i++)
			sum += count_of(&vm->vcpus[i].exits[kind]);
		snprintf(number, sizeof(number), "%u", kind);
		/* These three are always told, so that a script can rely on them. */
		if (sum || kind == KVM_EXIT_HYPERCALL || kind == KVM_EXIT_IO ||
			kind == KVM_EXIT_MMIO)
			visit_counter(visitor, STATS_EXIT, exit_names[kind] ? exit_names[kind] : number, sum);
	}
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		acpi += count_of(&vm->vcpus[i].acpi_accesses);
	visit_counter(visitor, STATS_EXIT, "io_acpi", acpi);
}

static void visit_hypercalls(const struct vm *vm, const struct visitor *visitor)
{
	uint64_t unknown = 0, refused = 0;

	for (unsigned number = 0; number < KARMA_WINDOW_CALLS; number++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < vm->vcpu_count; i++)
			sum += count_of(&vm->vcpus[i].hypercalls.calls[number]);
		if (sum)
			visit_counter(visitor, STATS_HYPERCALL, hypercall_name(number), sum);
	}
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		unknown += count_of(&vm->vcpus[i].hypercalls.unknown);
		refused += count_of(&vm->vcpus[i].hypercalls.refused);
	}
	visit_counter(visitor, STATS_HYPERCALL, "unknown", unknown);
	visit_counter(visitor, STATS_HYPERCALL, "refused", refused);
}

static void visit_queue_counter(const struct virtio_device *device, const char *queue, const char *what,
	uint64_t value, const struct visitor *visitor)
{
	char name[32];

	snprintf(name, sizeof(name), "%s.%s", queue, what);
	visit_device_counter(visitor, device->name, name, value);
}

/* The queues of one name, if this is the first of them. */
static void visit_queues(
	const struct virtio_device *device, unsigned first, const struct visitor *visitor)
{
	uint64_t chains = 0, notifications = 0, interrupts = 0, answers = 0;
	const char *name = device->queues[first].name;

	for (unsigned i = 0; i < device->queue_count; i++) {
		if (device->queues[i].name != name)
			continue;
		if (i < first)
			return;
		chains += count_of(&device->queues[i].chains);
		notifications += count_of(&device->queues[i].notifications);
		interrupts += count_of(&device->queues[i].interrupts);
		answers += count_of(&device->queues[i].answers);
	}
	visit_queue_counter(device, name, "chains", chains, visitor);
	visit_queue_counter(device, name, "notifications", notifications, visitor);
	visit_queue_counter(device, name, "interrupts", interrupts, visitor);
	visit_queue_counter(device, name, "answers", answers, visitor);
}

static void visit_latency(const struct virtio_device *device, const struct virtio_latency *kind,
	const struct visitor *visitor)
{
	struct stats_counter counter = {
		.kind = STATS_LATENCY,
		.device = device->name,
		.name = kind->name,
	};

	for (unsigned i = 0; i <= LATENCY_BUCKETS; i++) {
		counter.bucket = i;
		counter.value = count_of(&kind->latency.buckets[i]);
		if (counter.value)
			visitor->visit(visitor->context, &counter);
	}
	counter.kind = STATS_LATENCY_SUM;
	counter.bucket = 0;
	counter.value = count_of(&kind->latency.nanoseconds);
	if (counter.value)
		visitor->visit(visitor->context, &counter);
}

static void visit_device(struct virtio_device *device, const struct visitor *visitor)
{
	if (device->ops->update_counters)
		device->ops->update_counters(device);
	for (unsigned i = 0; i < device->queue_count; i++)
		visit_queues(device, i, visitor);
	for (unsigned i = 0; i < device->counter_count; i++) {
		if (device->counters[i].name)
			visit_device_counter(visitor, device->name, device->counters[i].name,
				count_of(&device->counters[i].value));
	}
	for (unsigned i = 0; i < device->latency_count; i++)
		visit_latency(device, &device->latencies[i], visitor);
}

static void visit_rings(const struct vm *vm, const struct visitor *visitor)
{
	uint64_t operations = count_of(&vm->ring->operations);
	uint64_t submissions = count_of(&vm->ring->submissions);

	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		operations += count_of(&vm->vcpus[i].ring.operations);
		submissions += count_of(&vm->vcpus[i].ring.submissions);
	}
	visit_counter(visitor, STATS_IO_URING, "operations", operations);
	visit_counter(visitor, STATS_IO_URING, "submissions", submissions);
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

static void visit_kvm(const struct vm *vm, const struct visitor *visitor)
{
	struct kvm_counter counters[16] = { 0 };
	unsigned count = 0;

	for (unsigned i = 0; i < vm->vcpu_count; i++)
		count = add_kvm_counters(&vm->vcpus[i], counters, ARRAY_SIZE(counters));
	for (unsigned i = 0; i < count; i++)
		visit_counter(visitor, STATS_KVM, counters[i].name, counters[i].value);
}

void stats_visit(struct vm *vm, void (*visit)(void *context, const struct stats_counter *counter),
	void *context)
{
	const struct visitor visitor = { visit, context };

	visit_exits(vm, &visitor);
	visit_hypercalls(vm, &visitor);
	for (unsigned i = 0; i < vm->machine.device_count; i++)
		visit_device(vm->machine.devices[i], &visitor);
	visit_rings(vm, &visitor);
	visit_kvm(vm, &visitor);
}

static void print_counter(void *context, const struct stats_counter *counter)
{
	static const char *const groups[STATS_KINDS] = {
		[STATS_EXIT] = "exit",
		[STATS_HYPERCALL] = "hypercall",
		[STATS_IO_URING] = "io_uring",
		[STATS_KVM] = "kvm",
	};
	const char *group = counter->device ? counter->device : groups[counter->kind];

	(void)context;
	/* A line for each bucket would bury the rest: `karma stats` shows them. */
	if (counter->kind != STATS_LATENCY && counter->kind != STATS_LATENCY_SUM)
		print_line("stats %s.%s %" PRIu64, group, counter->name, counter->value);
}

void stats_print(struct vm *vm)
{
	stats_visit(vm, print_counter, NULL);
}
