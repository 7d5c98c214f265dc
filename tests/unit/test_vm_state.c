// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state of a VM and its vCPUs, on a stand-in for KVM that keeps what it is told: what is saved is set again, in the
 * order that KVM needs, and what this host lacks is named.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>

#include "guest.h"
#include "karma/snapshot.h"
#include "karma/vm.h"

#define KVM_FD 1000
#define VM_FD 1001
#define VCPU_FD 1010		/* and the vCPU's number */
#define VCPUS 2u
#define MSRS 600u		/* more than KVM takes at once */
#define ITEM_BYTES 4608u
#define ORDER_MAX 64u

#define MSR_TSC 0x10u
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_HYPERV 0x40000000u

/* What KVM tells and takes as a whole. */
static const struct {
	unsigned long set, get;
} items[] = {
	{ KVM_SET_MP_STATE, KVM_GET_MP_STATE },
	{ KVM_SET_REGS, KVM_GET_REGS },
	{ KVM_SET_SREGS2, KVM_GET_SREGS2 },
	{ KVM_SET_XSAVE, KVM_GET_XSAVE2 },
	{ KVM_SET_XCRS, KVM_GET_XCRS },
	{ KVM_SET_DEBUGREGS, KVM_GET_DEBUGREGS },
	{ KVM_SET_LAPIC, KVM_GET_LAPIC },
	{ KVM_SET_VCPU_EVENTS, KVM_GET_VCPU_EVENTS },
};
#define ITEMS ARRAY_SIZE(items)

/* What KVM keeps of a vCPU. */
struct kept {
	uint8_t items[ITEMS][ITEM_BYTES];
	uint64_t msrs[MSRS];
	unsigned khz;
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[8];
	} cpuid;
};

static struct kvm_state {
	struct kept vcpus[VCPUS];
	uint64_t clock;
	int xsave_bytes;
	uint32_t indices[MSRS];
	uint32_t absent, read_only;	/* MSRs; 0: none */
	bool scales;			/* the TSC */
	unsigned long order[ORDER_MAX];	/* requests that set something of vCPU 0 */
	unsigned ordered;
	bool tsc_was_far_off;		/* as KVM has to see it, or it would be that of the new VM */
} kvm, before;

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

static int refuse(int error)
{
	errno = error;
	return -1;
}

static int list_msrs(struct kvm_msr_list *list)
{
	if (list->nmsrs < MSRS)
		return refuse(E2BIG);
	list->nmsrs = MSRS;
	memcpy(list->indices, kvm.indices, sizeof(kvm.indices));
	return 0;
}

static int transfer_msrs(struct kept *kept, struct kvm_msrs *msrs, bool set)
{
	if (msrs->nmsrs > 255)
		return refuse(E2BIG);
	for (unsigned i = 0; i < msrs->nmsrs; i++) {
		struct kvm_msr_entry *entry = &msrs->entries[i];
		unsigned at = 0;

		while (at < MSRS && kvm.indices[at] != entry->index)
			at++;
		if (at == MSRS || entry->index == kvm.absent || (set && entry->index == kvm.read_only))
			return i;
		if (set)
			kept->msrs[at] = entry->data;
		if (set && entry->index == MSR_TSC)
			kvm.tsc_was_far_off |= kept == kvm.vcpus && entry->data > 0x1234567 + (1ull << 36);
		else
			entry->data = kept->msrs[at];
		/* The deadline means nothing without the time that it is of. */
		if (set && entry->index == MSR_TSC_DEADLINE)
			ck_assert_uint_eq(kept->msrs[1], 0x1234567);
	}
	return msrs->nmsrs;
}

static int transfer_item(struct kept *kept, unsigned long request, void *at)
{
	for (size_t i = 0; i < ITEMS; i++) {
		size_t bytes = items[i].get == KVM_GET_XSAVE2 ? (size_t)kvm.xsave_bytes : _IOC_SIZE(items[i].get);

		if (request == items[i].get)
			memcpy(at, kept->items[i], bytes);
		else if (request == KVM_SET_XCRS && ((struct kvm_xcrs *)at)->nr_xcrs == 0)
			return refuse(EINVAL);
		else if (request == items[i].set)
			memcpy(kept->items[i], at, bytes);
		else
			continue;
		return 0;
	}
	ck_abort_msg("request %#lx", request);
}

static int vcpu_request(struct kept *kept, unsigned long request, void *at)
{
	switch (request) {
	case KVM_GET_TSC_KHZ:
		return kept->khz;
	case KVM_SET_TSC_KHZ:
		kept->khz = (uintptr_t)at;
		return kvm.scales ? 0 : refuse(EINVAL);
	case KVM_KVMCLOCK_CTRL:
		return refuse(EINVAL);
	case KVM_GET_CPUID2:
		memcpy(at, &kept->cpuid, sizeof(kept->cpuid));
		return 0;
	case KVM_SET_CPUID2:
		memcpy(&kept->cpuid, at, sizeof(kept->cpuid));
		return 0;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return transfer_msrs(kept, at, request == KVM_SET_MSRS);
	default:
		return transfer_item(kept, request, at);
	}
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	void *at;

	va_start(arguments, request);
	at = va_arg(arguments, void *);
	va_end(arguments);
	if (fd < KVM_FD || fd >= VCPU_FD + (int)VCPUS)
		return __real_ioctl(fd, request, at);
	if (fd == KVM_FD)
		return list_msrs(at);
	if (request == KVM_CHECK_EXTENSION)
		return kvm.xsave_bytes;
	if (request == KVM_GET_CLOCK)
		((struct kvm_clock_data *)at)->clock = kvm.clock;
	if (request == KVM_SET_CLOCK)
		kvm.clock = ((struct kvm_clock_data *)at)->clock;
	if (fd == VM_FD)
		return 0;
	if (fd == VCPU_FD && (_IOC_DIR(request) == _IOC_WRITE || request == KVM_SET_TSC_KHZ) && kvm.ordered < ORDER_MAX)
		kvm.order[kvm.ordered++] = request;
	return vcpu_request(&kvm.vcpus[fd - VCPU_FD], request, at);
}

static struct vm vm;
static struct vcpu vcpus[VCPUS];
static uint8_t state[128 * 1024];
static struct snapshot_reader reader;

static void set_cpuid(struct kept *kept)
{
	const struct kvm_cpuid_entry2 entries[] = {
		{ .function = 0, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69 },
		{ .function = 1, .ecx = 1u << 27 | 1, .edx = 1 },
		{ .function = 7, .index = 0, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ebx = 1u << 5 },
		{ .function = 7, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 1u << 4 },
		{ .function = KARMA_CPUID_ABI, .ebx = KARMA_FEATURES },
	};

	kept->cpuid.head.nent = ARRAY_SIZE(entries);
	memcpy(kept->cpuid.entries, entries, sizeof(entries));
}

/* A host with a VM whose state is all different bytes. */
static void setup(void)
{
	memset(&kvm, 0, sizeof(kvm));
	kvm.clock = 0x11223344;
	kvm.xsave_bytes = 4096;
	for (unsigned i = 0; i < MSRS; i++)
		kvm.indices[i] = 0xc0000000 + i;
	kvm.indices[0] = MSR_TSC_DEADLINE;
	kvm.indices[1] = MSR_TSC;
	kvm.indices[2] = MSR_HYPERV;
	for (unsigned i = 0; i < VCPUS; i++) {
		struct kept *kept = &kvm.vcpus[i];

		for (size_t j = 0; j < sizeof(kept->items); j++)
			kept->items[j / ITEM_BYTES][j % ITEM_BYTES] = j * 7 + i;
		for (unsigned j = 0; j < MSRS; j++)
			kept->msrs[j] = j * 3 + i;
		kept->msrs[1] = 0x1234567;
		kept->khz = 2000000;
		set_cpuid(kept);
		vcpus[i] = (struct vcpu){ .vm = &vm, .id = i, .fd = VCPU_FD + i };
	}
	vm = (struct vm){ .kvm_fd = KVM_FD, .vm_fd = VM_FD, .vcpus = vcpus, .vcpu_count = VCPUS, .known = true };
	vm.memory.size = 64 * MIB;
	machine_init(&vm.machine, &vm.memory, NULL);
}

static void teardown(void)
{
	machine_release(&vm.machine);
}

static size_t save(void)
{
	struct snapshot_writer writer;
	int64_t size;

	snapshot_writer_init(&writer, state, sizeof(state));
	ck_assert_int_eq(vm_save(&vm, &writer, true), 0);
	size = snapshot_finish(&writer);
	ck_assert_int_gt(size, 0);
	return size;
}

/* Save, and find another host with a new VM: zeroes, and the same features. */
static void save_and_start_anew(void)
{
	size_t size = save();

	before = kvm;
	for (unsigned i = 0; i < VCPUS; i++) {
		memset(kvm.vcpus[i].items, 0, sizeof(kvm.vcpus[i].items));
		memset(kvm.vcpus[i].msrs, 0, sizeof(kvm.vcpus[i].msrs));
	}
	kvm.clock = kvm.ordered = 0;
	vm.known = false;
	ck_assert_int_eq(snapshot_reader_init(&reader, state, size), 0);
}

static void assert_refused(int error, const char *words)
{
	const char *messages;

	messages_begin();
	ck_assert_int_eq(vm_restore(&vm, &reader), error);
	messages = messages_end();
	ck_assert_msg(strstr(messages, words), "%s", messages);
}

START_TEST(what_is_saved_is_set_again)
{
	save_and_start_anew();
	ck_assert_int_eq(vm_restore(&vm, &reader), 0);
	ck_assert_uint_eq(kvm.clock, before.clock);
	ck_assert(kvm.tsc_was_far_off);
	ck_assert(vm.known);
	for (unsigned i = 0; i < VCPUS; i++) {
		struct kept *is = &kvm.vcpus[i], *was = &before.vcpus[i];

		for (size_t j = 0; j < ITEMS; j++)
			ck_assert_mem_eq(is->items[j], was->items[j],
				items[j].get == KVM_GET_XSAVE2 ? 4096 : _IOC_SIZE(items[j].get));
		/* But for Hyper-V's. */
		was->msrs[2] = 0;
		ck_assert_mem_eq(is->msrs, was->msrs, sizeof(is->msrs));
		ck_assert_mem_eq(&is->cpuid, &was->cpuid, sizeof(is->cpuid));
	}
}
END_TEST

START_TEST(order_is_that_which_kvm_needs)
{
	static const unsigned long order[] = { KVM_SET_TSC_KHZ, KVM_SET_CPUID2, KVM_SET_MP_STATE, KVM_SET_REGS,
		KVM_SET_SREGS2, KVM_SET_XSAVE, KVM_SET_XCRS, KVM_SET_DEBUGREGS, KVM_SET_LAPIC, KVM_SET_MSRS,
		KVM_SET_MSRS, KVM_SET_MSRS, KVM_SET_MSRS, KVM_SET_VCPU_EVENTS };

	save_and_start_anew();
	kvm.scales = true;
	kvm.vcpus[0].khz = kvm.vcpus[1].khz = 3000000;
	ck_assert_int_eq(vm_restore(&vm, &reader), 0);
	ck_assert_uint_eq(kvm.vcpus[0].khz, 2000000);
	ck_assert_uint_eq(kvm.ordered, ARRAY_SIZE(order));
	ck_assert_mem_eq(kvm.order, order, sizeof(order));
}
END_TEST

START_TEST(msr_that_a_vcpu_lacks_is_left_out)
{
	kvm.absent = 0xc0000000 + 300;
	save_and_start_anew();
	kvm.absent = 0;
	ck_assert_int_eq(vm_restore(&vm, &reader), 0);
	ck_assert_uint_eq(kvm.vcpus[0].msrs[299], before.vcpus[0].msrs[299]);
	ck_assert_uint_eq(kvm.vcpus[0].msrs[300], 0);
	ck_assert_uint_eq(kvm.vcpus[0].msrs[301], before.vcpus[0].msrs[301]);
}
END_TEST

START_TEST(msr_that_kvm_refuses_matters_if_it_differs)
{
	kvm.read_only = 0xc0000000 + 400;
	save_and_start_anew();
	kvm.vcpus[0].msrs[400] = before.vcpus[0].msrs[400];
	kvm.vcpus[1].msrs[400] = before.vcpus[1].msrs[400];
	ck_assert_int_eq(vm_restore(&vm, &reader), 0);
	ck_assert_uint_eq(kvm.vcpus[0].msrs[401], before.vcpus[0].msrs[401]);
	kvm.vcpus[0].msrs[400]++;
	assert_refused(-ENOTSUP, "KVM does not take 0x4b0 for MSR 0xc0000190");
}
END_TEST

START_TEST(msr_that_kvm_does_not_list_is_refused)
{
	save_and_start_anew();
	kvm.indices[500] = 0xc0001000;
	assert_refused(-ENOTSUP, "this KVM has no MSR 0xc00001f4");
}
END_TEST

START_TEST(missing_features_are_named)
{
	kvm.vcpus[0].cpuid.entries[2].ebx |= 1u << 16 | 1u << 31;
	kvm.vcpus[0].cpuid.entries[3].edx |= 1u << 0;
	save_and_start_anew();
	set_cpuid(&kvm.vcpus[0]);
	assert_refused(-ENOTSUP, "told of: avx512f, avx512vl, bit 0 of EDX of CPUID 0x7.1: restore");
	/* Not even its registers were set. */
	ck_assert_uint_eq(kvm.ordered, 0);
}
END_TEST

START_TEST(more_features_are_no_harm)
{
	save_and_start_anew();
	/* Of the guest itself is OSXSAVE, which a new vCPU lacks. */
	kvm.vcpus[0].cpuid.entries[1].ecx = 1u << 31 | 1;
	kvm.vcpus[0].cpuid.entries[2].ebx = ~0u;
	ck_assert_int_eq(vm_restore(&vm, &reader), 0);
	ck_assert_uint_eq(kvm.vcpus[0].cpuid.entries[2].ebx, 1u << 5);
}
END_TEST

/* One that a warm start began is restored by what wants no checkpoint. */
START_TEST(wanted_checkpoint_is_no_feature_of_the_host)
{
	kvm.vcpus[0].cpuid.entries[4].ebx |= KARMA_FEATURE_CHECKPOINT;
	save_and_start_anew();
	set_cpuid(&kvm.vcpus[0]);
	ck_assert_int_eq(vm_restore(&vm, &reader), 0);
}
END_TEST

START_TEST(many_missing_features_end_in_dots)
{
	kvm.vcpus[0].cpuid.entries[1].ecx = kvm.vcpus[0].cpuid.entries[1].edx = ~0u;
	kvm.vcpus[0].cpuid.entries[2].ebx = kvm.vcpus[0].cpuid.entries[2].ecx = ~0u;
	kvm.vcpus[0].cpuid.entries[2].edx = ~0u;
	save_and_start_anew();
	set_cpuid(&kvm.vcpus[0]);
	assert_refused(-ENOTSUP, ", ...: restore");
}
END_TEST

START_TEST(cpu_of_another_vendor_is_refused)
{
	save_and_start_anew();
	kvm.vcpus[0].cpuid.entries[0].ecx++;
	assert_refused(-ENOTSUP, "of another vendor");
}
END_TEST

START_TEST(tsc_that_can_not_be_scaled_is_told)
{
	save_and_start_anew();
	kvm.vcpus[0].khz = 3000000;
	assert_refused(-ENOTSUP, "runs at 2000000 kHz, this host's at 3000000");
}
END_TEST

START_TEST(larger_fpu_state_is_refused_and_a_smaller_one_is_padded)
{
	save_and_start_anew();
	kvm.xsave_bytes = 4352;
	memset(kvm.vcpus[0].items[3] + 4096, 0xff, 256);
	ck_assert_int_eq(vm_restore(&vm, &reader), 0);
	ck_assert_mem_eq(kvm.vcpus[0].items[3], before.vcpus[0].items[3], 4096);
	for (unsigned i = 4096; i < 4352; i++)
		ck_assert_uint_eq(kvm.vcpus[0].items[3][i], 0);
	save_and_start_anew();
	kvm.xsave_bytes = 4096;
	assert_refused(-ENOTSUP, "has 4352 bytes, and this host's CPU takes 4096");
}
END_TEST

START_TEST(cpu_without_xsave_has_no_xcrs)
{
	for (unsigned i = 0; i < VCPUS; i++)
		memset(kvm.vcpus[i].items[4], 0, sizeof(struct kvm_xcrs));
	save_and_start_anew();
	ck_assert_int_eq(vm_restore(&vm, &reader), 0);
}
END_TEST

START_TEST(old_kvm_is_told)
{
	struct snapshot_writer writer;

	kvm.xsave_bytes = 0;
	snapshot_writer_init(&writer, state, sizeof(state));
	ck_assert_int_eq(vm_save(&vm, &writer, true), -ENOTSUP);
}
END_TEST

START_TEST(memory_and_cpus_must_be_the_same)
{
	save_and_start_anew();
	vm.memory.size = 128 * MIB;
	assert_refused(-EINVAL, "--memory: the snapshot is of a guest with 64 MiB, not 128");
	vm.memory.size = 64 * MIB;
	vm.vcpu_count = 1;
	assert_refused(-EINVAL, "--cpus: the snapshot is of a guest with 2, not 1");
	vm.vcpu_count = 2;
}
END_TEST

/* A vCPU's part of its own, with a number in front of so many bytes. */
static void write_vcpu(uint64_t khz, uint64_t cpuid_entries, size_t bytes)
{
	struct snapshot_writer writer;

	snapshot_writer_init(&writer, state, sizeof(state));
	snapshot_begin(&writer, SNAPSHOT_VCPU, 0, 1);
	snapshot_put_number(&writer, khz);
	snapshot_put_number(&writer, cpuid_entries);
	snapshot_put(&writer, kvm.vcpus[0].cpuid.entries, bytes);
	snapshot_end(&writer);
	ck_assert_int_eq(snapshot_reader_init(&reader, state, snapshot_finish(&writer)), 0);
}

START_TEST(impossible_numbers_are_refused)
{
	write_vcpu(0, CPUID_ENTRIES_MAX + 1, 0);
	ck_assert_int_eq(vcpu_restore(&vcpus[0], &reader), -EINVAL);
	write_vcpu(0, UINT64_MAX, 0);
	ck_assert_int_eq(vcpu_restore(&vcpus[0], &reader), -EINVAL);
	write_vcpu(1ull << 32 | 2000000, 0, 0);
	ck_assert_int_eq(vcpu_restore(&vcpus[0], &reader), -ENOTSUP);
	ck_assert_uint_eq(kvm.ordered, 0);
}
END_TEST

START_TEST(part_that_is_cut_sets_no_half)
{
	write_vcpu(0, 4, 3 * sizeof(struct kvm_cpuid_entry2));
	ck_assert_int_eq(vcpu_restore(&vcpus[0], &reader), -EINVAL);
	ck_assert_uint_eq(kvm.ordered, 0);
}
END_TEST

Suite *vm_state_suite(void)
{
	const TTest *const tests[] = {
		what_is_saved_is_set_again,
		order_is_that_which_kvm_needs,
		msr_that_a_vcpu_lacks_is_left_out,
		msr_that_kvm_refuses_matters_if_it_differs,
		msr_that_kvm_does_not_list_is_refused,
		missing_features_are_named,
		more_features_are_no_harm,
		wanted_checkpoint_is_no_feature_of_the_host,
		many_missing_features_end_in_dots,
		cpu_of_another_vendor_is_refused,
		tsc_that_can_not_be_scaled_is_told,
		larger_fpu_state_is_refused_and_a_smaller_one_is_padded,
		cpu_without_xsave_has_no_xcrs,
		old_kvm_is_told,
		memory_and_cpus_must_be_the_same,
		impossible_numbers_are_refused,
		part_that_is_cut_sets_no_half,
	};
	Suite *suite = suite_create("vm_state");
	TCase *tcase = tcase_create("vm_state");

	tcase_add_checked_fixture(tcase, setup, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
