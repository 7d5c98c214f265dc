// SPDX-License-Identifier: GPL-2.0-only
/* What CPUID tells the guest: KVM's answer, the topology, and Karma's own leaves. */
#include <string.h>

#include "karma/util.h"
#include "karma/vm.h"

/* Intel SDM volume 2, CPUID; AMD64 APM volume 3, appendix E. */
#define LEAF1_ECX_DTES64 (1u << 2)
#define LEAF1_ECX_VMX (1u << 5)
#define LEAF1_ECX_PDCM (1u << 15)
#define LEAF1_ECX_X2APIC (1u << 21)
#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_ECX_HYPERVISOR (1u << 31)
#define LEAF1_EDX_MACHINE_CHECKS (1u << 7 | 1u << 14)	/* exception, architecture; in 80000001 likewise */
#define LEAF1_EDX_DS (1u << 21)
#define LEAF1_EDX_HTT (1u << 28)
#define LEAF7_EDX_ARCH_LBR (1u << 19)
#define LEAF_PERFMON 0xau
#define LEAF_LBR 0x1cu
#define LEAF_AMD_PERFMON 0x80000022u
#define EXTENDED1_ECX_SVM (1u << 2)
#define EXTENDED1_ECX_IBS (1u << 10)
#define EXTENDED1_ECX_PERFCTR (1u << 23 | 1u << 24 | 1u << 28)	/* core, north bridge, L3 */
#define LEVEL_SMT 1u
#define LEVEL_CORE 2u

static unsigned bits_for(unsigned count)
{
	unsigned bits = 0;

	while ((1u << bits) < count)
		bits++;
	return bits;
}

/*
 * Every vCPU is a core of its own, in one package.  No machine check of the host's is passed on, so a guest need
 * not set up KVM's 32 banks for them, one exit a register, and look at each every five minutes.
 */
static void adjust_entry(struct kvm_cpuid_entry2 *entry, unsigned vcpu, unsigned count)
{
	switch (entry->function) {
	case 1:
		entry->ebx = (entry->ebx & 0xffff) | (count > 255 ? 255 : count) << 16 | vcpu << 24;
		entry->ecx |= LEAF1_ECX_HYPERVISOR | LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_X2APIC;
		entry->ecx &= ~LEAF1_ECX_VMX;
		entry->edx &= ~LEAF1_EDX_MACHINE_CHECKS;
		if (count > 1)
			entry->edx |= LEAF1_EDX_HTT;
		break;
	case 4:
		/* Caches: cores in the package, and no thread shares one. */
		entry->eax = (entry->eax & 0x3fff) | ((1u << bits_for(count)) - 1) << 26;
		break;
	case 0x80000001:
		entry->ecx &= ~EXTENDED1_ECX_SVM;
		entry->edx &= ~LEAF1_EDX_MACHINE_CHECKS;
		break;
	case 0x80000008:
		entry->ecx = bits_for(count) << 12 | (count - 1);
		break;
	case 0x8000001e:
		entry->eax = vcpu;
		entry->ebx = vcpu & 0xff;
		entry->ecx = 0;
		break;
	}
}

static bool is_topology(uint32_t function)
{
	return function == 0xb || function == 0x1f;
}

static void append(struct kvm_cpuid2 *cpuid, struct kvm_cpuid_entry2 entry)
{
	cpuid->entries[cpuid->nent++] = entry;
}

static void append_topology(struct kvm_cpuid2 *cpuid, unsigned vcpu, unsigned count)
{
	append(cpuid, (struct kvm_cpuid_entry2){
		.function = 0xb,
		.index = 0,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.ebx = 1,
		.ecx = LEVEL_SMT << 8,
		.edx = vcpu,
	});
	append(cpuid, (struct kvm_cpuid_entry2){
		.function = 0xb,
		.index = 1,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.eax = bits_for(count),
		.ebx = count,
		.ecx = LEVEL_CORE << 8 | 1,
		.edx = vcpu,
	});
}

static void append_karma(struct kvm_cpuid2 *cpuid, uint32_t features)
{
	append(cpuid, (struct kvm_cpuid_entry2){
		.function = KARMA_CPUID_BASE,
		.eax = KARMA_CPUID_ABI,
		.ebx = KARMA_CPUID_EBX,
		.ecx = KARMA_CPUID_ECX,
		.edx = KARMA_CPUID_EDX,
	});
	append(cpuid, (struct kvm_cpuid_entry2){
		.function = KARMA_CPUID_ABI,
		.eax = KARMA_ABI_VERSION,
		.ebx = features,
		.ecx = KARMA_WINDOW_BASE,
	});
}

void cpuid_hide_pmu(struct kvm_cpuid2 *cpuid)
{
	for (unsigned i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		switch (entry->function) {
		case 1:
			entry->ecx &= ~(LEAF1_ECX_DTES64 | LEAF1_ECX_PDCM);
			entry->edx &= ~LEAF1_EDX_DS;
			break;
		case 7:
			if (entry->index == 0)
				entry->edx &= ~LEAF7_EDX_ARCH_LBR;
			break;
		case 0x80000001:
			entry->ecx &= ~(EXTENDED1_ECX_IBS | EXTENDED1_ECX_PERFCTR);
			break;
		case LEAF_PERFMON:
		case LEAF_LBR:
		case LEAF_AMD_PERFMON:
			entry->eax = entry->ebx = entry->ecx = entry->edx = 0;
			break;
		}
	}
}

void cpuid_adjust(struct kvm_cpuid2 *cpuid, unsigned vcpu, unsigned count, uint32_t features)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 entry = cpuid->entries[i];

		if (is_topology(entry.function))
			continue;
		adjust_entry(&entry, vcpu, count);
		cpuid->entries[kept++] = entry;
	}
	cpuid->nent = kept;
	append_topology(cpuid, vcpu, count);
	append_karma(cpuid, features);
}
