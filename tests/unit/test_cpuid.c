// SPDX-License-Identifier: GPL-2.0-only
/* CPUID as the guest sees it: Karma's leaves, the topology, and no virtualization of its own. */
#include <asm/kvm_para.h>
#include <stdio.h>

#include "guest.h"
#include "karma/vm.h"

#define LEAF_KVM 0x40000000u
#define LEAF_KVM_FEATURES 0x40000001u
/* All that KVM of Linux 6.1 has. */
#define KVM_OFFERS 0x01007efbu

static struct {
	struct kvm_cpuid2 header;
	struct kvm_cpuid_entry2 entries[CPUID_ENTRIES_MAX];
} cpuid;

/* What KVM says on a host with everything, in as far as Karma changes it. */
static void setup(void)
{
	const struct kvm_cpuid_entry2 host[] = {
		{ .function = 0, .eax = 0x1f },
		{ .function = 1,
			.eax = 0x800f12,
			.ebx = 0x07080800,
			.ecx = 0x7efafbff & ~(1u << 21),
			.edx = 0x0789fbff },
		{ .function = 4,
			.index = 0,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = 0xfc004121 },
		{ .function = 4,
			.index = 3,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = 0xfc1fc163 },
		{ .function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ebx = 0x219c97a9, .edx = ~0u },
		{ .function = 0xa, .eax = 0x08300805, .ecx = 0xf, .edx = 0x8604 },
		{ .function = 0xb,
			.index = 0,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.edx = 77 },
		{ .function = 0xb,
			.index = 1,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.edx = 77 },
		{ .function = 0x1f,
			.index = 0,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.edx = 77 },
		{ .function = 0x1c, .eax = 0x4000000b, .ebx = 7, .ecx = 7 },
		{ .function = LEAF_KVM, .eax = LEAF_KVM_FEATURES, .ebx = 0x4b4d564b },
		{ .function = LEAF_KVM_FEATURES, .eax = KVM_OFFERS },
		{ .function = 0x80000001, .ecx = 0xffffffff, .edx = 0x2fd3fbff },
		{ .function = 0x80000008, .eax = 0x3030, .ecx = 0x7007 },
		{ .function = 0x8000001e, .eax = 9, .ebx = 0x0104, .ecx = 0x0303 },
		{ .function = 0x80000022, .eax = 1, .ebx = 6 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(host); i++)
		cpuid.header.entries[i] = host[i];
	cpuid.header.nent = ARRAY_SIZE(host);
}

static void adjust(unsigned vcpu, unsigned count)
{
	setup();
	cpuid_adjust(&cpuid.header, vcpu, count, KARMA_FEATURES);
}

/* The one entry for a leaf. */
static const struct kvm_cpuid_entry2 *find(uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *found = NULL;

	for (unsigned i = 0; i < cpuid.header.nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid.header.entries[i];

		if (entry->function != function || entry->index != index)
			continue;
		ck_assert_msg(!found, "leaf %#x is there twice", function);
		found = entry;
	}
	return found;
}

START_TEST(karma_is_found)
{
	const struct kvm_cpuid_entry2 *base, *abi;
	char signature[13];

	adjust(0, 1);
	base = find(KARMA_CPUID_BASE, 0);
	abi = find(KARMA_CPUID_ABI, 0);
	ck_assert_ptr_nonnull(base);
	ck_assert_ptr_nonnull(abi);
	snprintf(signature, sizeof(signature), "%.4s%.4s%.4s", (const char *)&base->ebx,
		(const char *)&base->ecx, (const char *)&base->edx);
	ck_assert_str_eq(signature, "KarmaKarmaKa");
	ck_assert_uint_eq(base->eax, KARMA_CPUID_ABI);
	ck_assert_uint_eq(abi->eax, 1);
	ck_assert_uint_eq(abi->ecx, KARMA_WINDOW_BASE);
	ck_assert_uint_eq(abi->ebx, KARMA_FEATURES);
	setup();
	cpuid_adjust(&cpuid.header, 0, 1, KARMA_FEATURES | KARMA_FEATURE_CHECKPOINT);
	ck_assert_uint_eq(find(KARMA_CPUID_ABI, 0)->ebx, KARMA_FEATURES | KARMA_FEATURE_CHECKPOINT);
}
END_TEST

START_TEST(kvm_is_found_too)
{
	adjust(0, 1);
	ck_assert_ptr_nonnull(find(LEAF_KVM, 0));
	ck_assert_uint_eq(find(LEAF_KVM, 0)->ebx, 0x4b4d564b);
}
END_TEST

START_TEST(kvms_paravirtual_features_are_the_guests)
{
	const unsigned wanted[] = { KVM_FEATURE_CLOCKSOURCE2, KVM_FEATURE_STEAL_TIME,
		KVM_FEATURE_PV_UNHALT, KVM_FEATURE_PV_TLB_FLUSH, KVM_FEATURE_PV_SEND_IPI,
		KVM_FEATURE_PV_SCHED_YIELD, KVM_FEATURE_ASYNC_PF_INT };

	for (unsigned count = 1; count <= VCPUS_MAX; count *= 4) {
		adjust(count - 1, count);
		ck_assert_ptr_nonnull(find(LEAF_KVM_FEATURES, 0));
		ck_assert_uint_eq(find(LEAF_KVM_FEATURES, 0)->eax, KVM_OFFERS);
		/* No hint: vCPUs share CPUs, so Linux is to use its paravirtual spinlocks. */
		ck_assert_uint_eq(find(LEAF_KVM_FEATURES, 0)->edx, 0);
		for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
			ck_assert_msg(find(LEAF_KVM_FEATURES, 0)->eax >> wanted[i] & 1, "no feature %u",
				wanted[i]);
	}
}
END_TEST

START_TEST(what_linux_needs_is_set)
{
	adjust(0, 1);
	/* Hypervisor, TSC deadline timer, x2APIC. */
	ck_assert_uint_eq(
		find(1, 0)->ecx & (1u << 31 | 1u << 24 | 1u << 21), 1u << 31 | 1u << 24 | 1u << 21);
}
END_TEST

START_TEST(guest_has_neither_vmx_nor_svm)
{
	adjust(0, 1);
	ck_assert_uint_eq(find(1, 0)->ecx & 1u << 5, 0);
	ck_assert_uint_eq(find(0x80000001, 0)->ecx & 1u << 2, 0);
	/* All else stays. */
	ck_assert_uint_eq(find(0x80000001, 0)->ecx, 0xffffffff & ~(1u << 2));
	ck_assert_uint_eq(find(1, 0)->eax, 0x800f12);
}
END_TEST

static void assert_zero(uint32_t function)
{
	const struct kvm_cpuid_entry2 *entry = find(function, 0);

	ck_assert_ptr_nonnull(entry);
	ck_assert_msg(!(entry->eax | entry->ebx | entry->ecx | entry->edx), "leaf %#x", function);
}

START_TEST(guest_has_no_machine_checks)
{
	const uint32_t bits = 1u << 7 | 1u << 14;

	adjust(0, 1);
	ck_assert_uint_eq(find(1, 0)->edx, 0x0789fbff & ~bits);
	ck_assert_uint_eq(find(0x80000001, 0)->edx, 0x2fd3fbff & ~bits);
}
END_TEST

START_TEST(hidden_pmu_is_in_no_leaf)
{
	setup();
	cpuid_hide_pmu(&cpuid.header);
	assert_zero(0xa);
	assert_zero(0x1c);
	assert_zero(0x80000022);
	/* PDCM and the 64-bit debug store, the debug store, last branch records; all else stays. */
	ck_assert_uint_eq(find(1, 0)->ecx, 0x7efafbff & ~(1u << 21 | 1u << 15 | 1u << 2));
	ck_assert_uint_eq(find(1, 0)->edx, 0x0789fbff & ~(1u << 21));
	ck_assert_uint_eq(find(7, 0)->edx, ~(1u << 19));
	ck_assert_uint_eq(find(7, 0)->ebx, 0x219c97a9);
	/* AMD's: IBS, and counters of the core, the north bridge and L3. */
	ck_assert_uint_eq(find(0x80000001, 0)->ecx, ~(1u << 10 | 1u << 23 | 1u << 24 | 1u << 28));
}
END_TEST

START_TEST(pmu_is_left_alone_otherwise)
{
	adjust(0, 1);
	ck_assert_uint_eq(find(0xa, 0)->eax, 0x08300805);
	ck_assert_uint_eq(find(0x80000022, 0)->ebx, 6);
	ck_assert_uint_eq(find(0x80000001, 0)->ecx & 1u << 23, 1u << 23);
}
END_TEST

START_TEST(every_vcpu_has_its_apic_id)
{
	for (unsigned vcpu = 0; vcpu < VCPUS_MAX; vcpu++) {
		adjust(vcpu, VCPUS_MAX);
		ck_assert_uint_eq(find(1, 0)->ebx >> 24, vcpu);
		ck_assert_uint_eq(find(1, 0)->ebx & 0xffff, 0x0800);
		ck_assert_uint_eq(find(0xb, 0)->edx, vcpu);
		ck_assert_uint_eq(find(0xb, 1)->edx, vcpu);
		ck_assert_uint_eq(find(0x8000001e, 0)->eax, vcpu);
	}
}
END_TEST

START_TEST(vcpus_are_cores_of_one_package)
{
	const unsigned counts[] = { 1, 2, 3, 4, 5, 8, 33, 64 };
	const unsigned bits[] = { 0, 1, 2, 2, 3, 3, 6, 6 };

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		unsigned count = counts[i];

		adjust(0, count);
		ck_assert_uint_eq(find(1, 0)->ebx >> 16 & 0xff, count);
		ck_assert_uint_eq(find(0xb, 0)->eax, 0);
		ck_assert_uint_eq(find(0xb, 0)->ebx, 1);
		ck_assert_uint_eq(find(0xb, 0)->ecx, 1 << 8);
		ck_assert_uint_eq(find(0xb, 1)->eax, bits[i]);
		ck_assert_uint_eq(find(0xb, 1)->ebx, count);
		ck_assert_uint_eq(find(0xb, 1)->ecx, 2 << 8 | 1);
		ck_assert_uint_eq(find(4, 0)->eax >> 26, (1u << bits[i]) - 1);
		ck_assert_uint_eq(find(4, 0)->eax & 0x3fff, 0x0121);
		ck_assert_uint_eq(find(4, 3)->eax >> 14 & 0xfff, 0);
		ck_assert_uint_eq(find(0x80000008, 0)->ecx & 0xff, count - 1);
		ck_assert_uint_eq(find(0x80000008, 0)->ecx >> 12 & 0xf, bits[i]);
		/* One thread a core. */
		ck_assert_uint_eq(find(0x8000001e, 0)->ebx >> 8 & 0xff, 0);
	}
}
END_TEST

START_TEST(one_vcpu_has_no_siblings)
{
	setup();
	cpuid.header.entries[1].edx &= ~(1u << 28);
	cpuid_adjust(&cpuid.header, 0, 1, KARMA_FEATURES);
	ck_assert_uint_eq(find(1, 0)->edx & 1u << 28, 0);
	setup();
	cpuid.header.entries[1].edx &= ~(1u << 28);
	cpuid_adjust(&cpuid.header, 0, 2, KARMA_FEATURES);
	ck_assert_uint_eq(find(1, 0)->edx & 1u << 28, 1u << 28);
}
END_TEST

START_TEST(topology_of_the_host_is_gone)
{
	adjust(3, 4);
	ck_assert_ptr_null(find(0x1f, 0));
	ck_assert_uint_ne(find(0xb, 0)->edx, 77);
}
END_TEST

START_TEST(entries_added_are_as_many_as_announced)
{
	cpuid.header.nent = 0;
	cpuid_adjust(&cpuid.header, 0, 1, KARMA_FEATURES);
	ck_assert_uint_eq(cpuid.header.nent, CPUID_ENTRIES_ADDED);
}
END_TEST

Suite *cpuid_suite(void)
{
	const TTest *const tests[] = {
		karma_is_found,
		kvm_is_found_too,
		kvms_paravirtual_features_are_the_guests,
		what_linux_needs_is_set,
		guest_has_neither_vmx_nor_svm,
		guest_has_no_machine_checks,
		hidden_pmu_is_in_no_leaf,
		pmu_is_left_alone_otherwise,
		every_vcpu_has_its_apic_id,
		vcpus_are_cores_of_one_package,
		one_vcpu_has_no_siblings,
		topology_of_the_host_is_gone,
		entries_added_are_as_many_as_announced,
	};
	Suite *suite = suite_create("cpuid");
	TCase *tcase = tcase_create("cpuid");

	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
