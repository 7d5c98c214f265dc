// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz CPUID, as hosts have it: whatever KVM says, each vCPU finds its own number, the topology,
 * Karma, no virtualization and no machine checks, every leaf once, and all else as it was.
 */
#include <string.h>

#include "karma/util.h"
#include "karma/vm.h"
#include "script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define EDX_MACHINE_CHECKS (1u << 7 | 1u << 14)	/* MCE and MCA, in leaf 1 and in 0x80000001 */
#define EDX_HTT (1u << 28)

static struct {
	struct kvm_cpuid2 header;
	struct kvm_cpuid_entry2 entries[CPUID_ENTRIES_MAX];
} before, after;

/* The leaves that KVM may tell of, and up to how many of each, in this order. */
static const struct {
	uint32_t function, count;
} leaves[] = {
	{ 0, 1 },
	{ 1, 1 },
	{ 2, 1 },
	{ 4, 4 },
	{ 6, 1 },
	{ 7, 2 },
	{ 0xa, 1 },
	{ 0xb, 3 },
	{ 0xd, 8 },
	{ 0x1f, 5 },
	{ 0x40000000, 1 },
	{ 0x40000001, 1 },
	{ 0x80000000, 1 },
	{ 0x80000001, 1 },
	{ 0x80000008, 1 },
	{ 0x8000001d, 4 },
	{ 0x8000001e, 1 },
};

static void make_entries(struct script *script)
{
	memset(&before, 0, sizeof(before));
	for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
		unsigned count = take(script, 1) % (leaves[i].count + 1);

		for (unsigned j = 0; j < count; j++)
			before.header.entries[before.header.nent++] = (struct kvm_cpuid_entry2){
				.function = leaves[i].function,
				.index = j,
				.flags = leaves[i].count > 1 ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
				.eax = take(script, 4),
				.ebx = take(script, 4),
				.ecx = take(script, 4),
				.edx = take(script, 4),
			};
	}
}

static const struct kvm_cpuid_entry2 *find(
	const struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *found = NULL;

	for (unsigned i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		if (entry->function != function || entry->index != index)
			continue;
		check(!found);
		found = entry;
	}
	return found;
}

/* Levels of the topology: one thread a core, and enough bits for all cores. */
static void check_topology(unsigned vcpu, unsigned count)
{
	const struct kvm_cpuid_entry2 *thread = find(&after.header, 0xb, 0);
	const struct kvm_cpuid_entry2 *core = find(&after.header, 0xb, 1);

	check(thread && core && !find(&after.header, 0xb, 2) && !find(&after.header, 0x1f, 0));
	check(thread->eax == 0 && thread->ebx == 1 && thread->edx == vcpu);
	check(core->ebx == count && core->edx == vcpu);
	check(1u << core->eax >= count && (core->eax == 0 || 1u << (core->eax - 1) < count));
}

static void check_entry(const struct kvm_cpuid_entry2 *was, unsigned vcpu, unsigned count)
{
	const struct kvm_cpuid_entry2 *is = find(&after.header, was->function, was->index);

	check(!!is && is->flags == was->flags);
	switch (was->function) {
	case 1:
		check(is->ebx >> 24 == vcpu && (is->ebx >> 16 & 0xff) == count);
		check((uint16_t)is->ebx == (uint16_t)was->ebx && is->eax == was->eax);
		check((is->ecx & (1u << 31 | 1u << 24 | 1u << 21 | 1u << 5)) ==
			(1u << 31 | 1u << 24 | 1u << 21));
		check(is->edx == ((was->edx & ~EDX_MACHINE_CHECKS) | (count > 1 ? EDX_HTT : 0)));
		break;
	case 4:
		check((is->eax & 0x3fff) == (was->eax & 0x3fff) && is->ebx == was->ebx);
		check(((is->eax >> 26) + 1) >= count && (is->eax >> 14 & 0xfff) == 0);
		break;
	case 0x80000001:
		check(is->ecx == (was->ecx & ~(1u << 2)) && is->edx == (was->edx & ~EDX_MACHINE_CHECKS));
		break;
	case 0x80000008:
		check((is->ecx & 0xff) == count - 1 && is->eax == was->eax);
		break;
	case 0x8000001e:
		check(is->eax == vcpu && is->edx == was->edx);
		break;
	default:
		check(memcmp(is, was, sizeof(*is)) == 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	unsigned count = 1 + take(&script, 1) % VCPUS_MAX, vcpu = take(&script, 1) % count;

	make_entries(&script);
	after = before;
	cpuid_adjust(&after.header, vcpu, count, KARMA_FEATURES);
	check(after.header.nent <= before.header.nent + CPUID_ENTRIES_ADDED);
	for (unsigned i = 0; i < before.header.nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &before.header.entries[i];

		if (entry->function != 0xb && entry->function != 0x1f)
			check_entry(entry, vcpu, count);
	}
	check_topology(vcpu, count);
	check(find(&after.header, KARMA_CPUID_BASE, 0) && find(&after.header, KARMA_CPUID_ABI, 0));
	return 0;
}
