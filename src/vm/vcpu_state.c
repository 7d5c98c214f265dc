// SPDX-License-Identifier: GPL-2.0-only
/*
 * A vCPU's state: all that KVM tells of it, in the order in which it is to be set.
 *
 * That order is: the TSC's frequency and CPUID before all that depends on them; MP_STATE, whose reading takes an INIT
 * or SIPI that has come, before registers; the local APIC behind its mode, in SREGS, and before MSRs, of which the TSC's
 * deadline comes last; pending events at the end.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>

#include "karma/log.h"
#include "karma/snapshot.h"
#include "karma/util.h"
#include "karma/vm.h"

#define VCPU_VERSION 1u
#define XSAVE_BYTES_MAX (16 * KIB)	/* with AMX it has 11 */
#define MSRS_MAX 1024u
#define MSRS_AT_ONCE 255u		/* KVM takes no more */

#define MSR_TSC 0x10u
#define MSR_TSC_DEADLINE 0x6e0u
#define TSC_FAR_OFF (1ull << 40)	/* more than a second's cycles */
/* Hyper-V's, of which no guest of Karma's is told. */
#define MSR_HYPERV_FIRST 0x40000000u
#define MSR_HYPERV_LAST 0x400001ffu

/* What KVM tells and takes as one structure. */
struct item {
	unsigned long get, set;
	size_t bytes;
	const char *name;
};

#define ITEM(what, type, name) { KVM_GET_##what, KVM_SET_##what, sizeof(type), name }

static const struct item before_xsave[] = {
	ITEM(MP_STATE, struct kvm_mp_state, "run state"),
	ITEM(REGS, struct kvm_regs, "registers"),
	ITEM(SREGS2, struct kvm_sregs2, "system registers"),
};

static const struct item before_msrs[] = {
	ITEM(XCRS, struct kvm_xcrs, "extended control registers"),
	ITEM(DEBUGREGS, struct kvm_debugregs, "debug registers"),
	ITEM(LAPIC, struct kvm_lapic_state, "local APIC"),
};

static const struct item behind_msrs[] = {
	ITEM(VCPU_EVENTS, struct kvm_vcpu_events, "pending events"),
};

/*
 * One vCPU at a time is saved or restored, on the main thread.  Static, since no memory can be allocated behind the
 * sandbox; no page of it is there before a guest is saved.
 */
static struct {
	union {
		uint8_t bytes[XSAVE_BYTES_MAX];
		struct kvm_xcrs xcrs;
	} item;
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[CPUID_ENTRIES_MAX];
	} cpuid, own_cpuid;
	struct {
		struct kvm_msr_list head;
		uint32_t indices[MSRS_MAX];
	} list;
	struct kvm_msr_entry msrs[MSRS_MAX];
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[MSRS_AT_ONCE];
	} some;
} scratch;

static int vcpu_failed(const struct vcpu *vcpu, const char *what, const char *name)
{
	return fail(-errno, "KVM: vCPU %u: can't %s its %s: %s", vcpu->id, what, name, strerror(errno));
}

static int impossible(const struct vcpu *vcpu, const char *what)
{
	return fail(-EINVAL, "snapshot: state: vCPU %u has impossible %s: make the snapshot anew", vcpu->id, what);
}

static int save_items(struct vcpu *vcpu, struct snapshot_writer *to, const struct item *items, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		memset(scratch.item.bytes, 0, items[i].bytes);
		if (ioctl(vcpu->fd, items[i].get, scratch.item.bytes) < 0)
			return vcpu_failed(vcpu, "tell", items[i].name);
		snapshot_put(to, scratch.item.bytes, items[i].bytes);
	}
	return 0;
}

/* A CPU without XSAVE has none of these, and KVM refuses to set them. */
static bool is_absent(const struct item *item)
{
	return item->set == KVM_SET_XCRS && scratch.item.xcrs.nr_xcrs == 0;
}

static int restore_items(struct vcpu *vcpu, struct snapshot_reader *from, const struct item *items, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		snapshot_get(from, scratch.item.bytes, items[i].bytes);
		if (!from->failed && !is_absent(&items[i]) && ioctl(vcpu->fd, items[i].set, scratch.item.bytes) < 0)
			return vcpu_failed(vcpu, "set", items[i].name);
	}
	return 0;
}

/* Of the FPU's state, or a negative errno with a message printed. */
static int xsave_bytes(const struct vcpu *vcpu)
{
	int bytes = ioctl(vcpu->vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	if (bytes <= 0)
		return fail(-ENOTSUP, "snapshot: KVM lacks KVM_CAP_XSAVE2: use Linux 5.17 or later on the host");
	if ((size_t)bytes > sizeof(scratch.item.bytes))
		return fail(-ENOTSUP, "snapshot: the FPU's state has %d bytes on this CPU, and Karma takes %zu", bytes,
			sizeof(scratch.item.bytes));
	return bytes;
}

static int save_xsave(struct vcpu *vcpu, struct snapshot_writer *to)
{
	int bytes = xsave_bytes(vcpu);

	if (bytes < 0)
		return bytes;
	memset(scratch.item.bytes, 0, bytes);
	if (ioctl(vcpu->fd, KVM_GET_XSAVE2, scratch.item.bytes) < 0)
		return vcpu_failed(vcpu, "tell", "FPU's state");
	snapshot_put_number(to, bytes);
	snapshot_put(to, scratch.item.bytes, bytes);
	return 0;
}

/* KVM takes as many bytes as it has itself: what it has more is as in a new vCPU. */
static int restore_xsave(struct vcpu *vcpu, struct snapshot_reader *from)
{
	uint64_t saved = snapshot_get_number(from);
	int bytes = xsave_bytes(vcpu);

	if (bytes < 0)
		return bytes;
	if (saved > (unsigned)bytes)
		return fail(-ENOTSUP,
			"snapshot: the FPU's state has %" PRIu64 " bytes, and this host's CPU takes %d: restore it on "
			"a host with the same CPU",
			saved, bytes);
	memset(scratch.item.bytes, 0, bytes);
	snapshot_get(from, scratch.item.bytes, saved);
	return from->failed || ioctl(vcpu->fd, KVM_SET_XSAVE, scratch.item.bytes) == 0 ?
		0 : vcpu_failed(vcpu, "set", "FPU's state");
}

static int get_cpuid(struct vcpu *vcpu, struct kvm_cpuid2 *cpuid)
{
	cpuid->nent = CPUID_ENTRIES_MAX;
	return ioctl(vcpu->fd, KVM_GET_CPUID2, cpuid) < 0 ? vcpu_failed(vcpu, "tell", "features") : 0;
}

static int save_cpuid(struct vcpu *vcpu, struct snapshot_writer *to)
{
	int result = get_cpuid(vcpu, &scratch.cpuid.head);

	if (result < 0)
		return result;
	snapshot_put_number(to, scratch.cpuid.head.nent);
	snapshot_put(to, scratch.cpuid.entries, scratch.cpuid.head.nent * sizeof(scratch.cpuid.entries[0]));
	return 0;
}

/* A new vCPU has all features that this host and this Karma can give it. */
static int check_features(struct vcpu *vcpu)
{
	char names[512];
	int result = get_cpuid(vcpu, &scratch.own_cpuid.head);

	if (result < 0)
		return result;
	if (!cpuid_same_vendor(&scratch.cpuid.head, &scratch.own_cpuid.head))
		return fail(-ENOTSUP, "snapshot: was made on a CPU of another vendor: restore it on a host with such a CPU");
	if (cpuid_missing(&scratch.cpuid.head, &scratch.own_cpuid.head, names, sizeof(names)))
		return fail(-ENOTSUP,
			"snapshot: this host lacks CPU features that the guest was told of: %s: restore it on a host "
			"whose CPU, kernel and Karma have them",
			names);
	return 0;
}

static int restore_cpuid(struct vcpu *vcpu, struct snapshot_reader *from)
{
	uint64_t count = snapshot_get_number(from);
	int result;

	if (count > CPUID_ENTRIES_MAX)
		return impossible(vcpu, "features");
	scratch.cpuid.head = (struct kvm_cpuid2){ .nent = count };
	snapshot_get(from, scratch.cpuid.entries, count * sizeof(scratch.cpuid.entries[0]));
	if (from->failed)
		return 0;
	result = check_features(vcpu);
	if (result < 0)
		return result;
	return ioctl(vcpu->fd, KVM_SET_CPUID2, &scratch.cpuid) < 0 ? vcpu_failed(vcpu, "set", "features") : 0;
}

/* 0 where the host's TSC is not to be relied on. */
static uint64_t tsc_khz(const struct vcpu *vcpu)
{
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

	return khz > 0 ? khz : 0;
}

static int restore_tsc_khz(struct vcpu *vcpu, struct snapshot_reader *from)
{
	uint64_t khz = snapshot_get_number(from), own = tsc_khz(vcpu);

	if (khz == own || khz == 0)
		return 0;
	/* KVM takes a small difference for none. */
	if (khz > UINT32_MAX || ioctl(vcpu->fd, KVM_SET_TSC_KHZ, khz) < 0)
		return fail(-ENOTSUP,
			"snapshot: the guest's clock (TSC) runs at %" PRIu64 " kHz, this host's at %" PRIu64
			", and its CPU can't scale it: restore it on a host with the same CPU",
			khz, own);
	return 0;
}

static int list_msrs(const struct vm *vm)
{
	scratch.list.head.nmsrs = MSRS_MAX;
	return ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, &scratch.list) < 0 ?
		fail(-errno, "KVM: can't list the MSRs that it saves: %s", strerror(errno)) : 0;
}

static bool is_listed(uint32_t index)
{
	for (uint32_t i = 0; i < scratch.list.head.nmsrs; i++) {
		if (scratch.list.indices[i] == index)
			return true;
	}
	return false;
}

/*
 * Get or set MSRs from the first one on, as many as KVM takes at once.  How many were, up to the first that the vCPU
 * lacks or refuses.
 */
static int transfer_msrs(struct vcpu *vcpu, unsigned long request, struct kvm_msr_entry *msrs, unsigned count)
{
	int done;

	scratch.some.head = (struct kvm_msrs){ .nmsrs = count < MSRS_AT_ONCE ? count : MSRS_AT_ONCE };
	memcpy(scratch.some.entries, msrs, scratch.some.head.nmsrs * sizeof(msrs[0]));
	done = ioctl(vcpu->fd, request, &scratch.some);
	if (done > 0 && request == KVM_GET_MSRS)
		memcpy(msrs, scratch.some.entries, done * sizeof(msrs[0]));
	return done < 0 ? vcpu_failed(vcpu, request == KVM_GET_MSRS ? "tell" : "set", "MSRs") : done;
}

/* All that are to be saved, the TSC's deadline last.  How many. */
static unsigned choose_msrs(void)
{
	unsigned count = 0;

	for (uint32_t i = 0; i < scratch.list.head.nmsrs; i++) {
		uint32_t index = scratch.list.indices[i];

		if (index != MSR_TSC_DEADLINE && (index < MSR_HYPERV_FIRST || index > MSR_HYPERV_LAST))
			scratch.msrs[count++] = (struct kvm_msr_entry){ .index = index };
	}
	if (is_listed(MSR_TSC_DEADLINE))
		scratch.msrs[count++] = (struct kvm_msr_entry){ .index = MSR_TSC_DEADLINE };
	return count;
}

static int save_msrs(struct vcpu *vcpu, struct snapshot_writer *to)
{
	unsigned count = choose_msrs(), kept = 0, next = 0;

	while (next < count) {
		int done = transfer_msrs(vcpu, KVM_GET_MSRS, scratch.msrs + next, count - next);

		if (done < 0)
			return done;
		memmove(scratch.msrs + kept, scratch.msrs + next, done * sizeof(scratch.msrs[0]));
		kept += done;
		/* One that this vCPU has not is left out. */
		next += done + (done < (int)scratch.some.head.nmsrs);
	}
	snapshot_put_number(to, kept);
	snapshot_put(to, scratch.msrs, kept * sizeof(scratch.msrs[0]));
	return 0;
}

/* KVM has refused to set it, which does not matter if it has the value. */
static int check_refused_msr(struct vcpu *vcpu, const struct kvm_msr_entry *msr)
{
	struct kvm_msr_entry own = { .index = msr->index };

	if (transfer_msrs(vcpu, KVM_GET_MSRS, &own, 1) == 1 && own.data == msr->data)
		return 0;
	return fail(-ENOTSUP,
		"snapshot: vCPU %u: KVM does not take 0x%" PRIx64 " for MSR 0x%" PRIx32 ": restore it on a host with the "
		"same CPU and kernel",
		vcpu->id, (uint64_t)msr->data, msr->index);
}

static int set_msrs(struct vcpu *vcpu, unsigned count)
{
	unsigned next = 0;

	while (next < count) {
		int done = transfer_msrs(vcpu, KVM_SET_MSRS, scratch.msrs + next, count - next);
		int result = 0;

		if (done < 0)
			return done;
		next += done;
		if (done < (int)scratch.some.head.nmsrs)
			result = check_refused_msr(vcpu, &scratch.msrs[next++]);
		if (result < 0)
			return result;
	}
	return 0;
}

/*
 * KVM takes a TSC that is within a second of the last one that was set for the same, and a new VM's was set when it was
 * made: one of a guest that is younger would go back.  So KVM first hears of another.  Those of the other vCPUs are to be
 * the same as the first's, and are.
 */
static int part_from_new_tsc(struct vcpu *vcpu, unsigned count)
{
	int result = 0;

	for (unsigned i = 0; vcpu->id == 0 && i < count && result >= 0; i++) {
		struct kvm_msr_entry other = scratch.msrs[i];

		other.data += TSC_FAR_OFF;
		if (other.index == MSR_TSC)
			result = transfer_msrs(vcpu, KVM_SET_MSRS, &other, 1);
	}
	return result < 0 ? result : 0;
}

static int restore_msrs(struct vcpu *vcpu, struct snapshot_reader *from)
{
	uint64_t count = snapshot_get_number(from);
	int result;

	if (count > MSRS_MAX)
		return impossible(vcpu, "MSRs");
	snapshot_get(from, scratch.msrs, count * sizeof(scratch.msrs[0]));
	if (from->failed)
		return 0;
	for (uint64_t i = 0; i < count; i++) {
		if (!is_listed(scratch.msrs[i].index))
			return fail(-ENOTSUP,
				"snapshot: vCPU %u: this KVM has no MSR 0x%" PRIx32 ": restore it on a host with the same "
				"CPU and kernel",
				vcpu->id, scratch.msrs[i].index);
	}
	result = part_from_new_tsc(vcpu, count);
	return result == 0 ? set_msrs(vcpu, count) : result;
}

int vcpu_save(struct vcpu *vcpu, struct snapshot_writer *to)
{
	int result = list_msrs(vcpu->vm);

	snapshot_begin(to, SNAPSHOT_VCPU, vcpu->id, VCPU_VERSION);
	snapshot_put_number(to, tsc_khz(vcpu));
	if (result == 0)
		result = save_cpuid(vcpu, to);
	if (result == 0)
		result = save_items(vcpu, to, before_xsave, ARRAY_SIZE(before_xsave));
	if (result == 0)
		result = save_xsave(vcpu, to);
	if (result == 0)
		result = save_items(vcpu, to, before_msrs, ARRAY_SIZE(before_msrs));
	if (result == 0)
		result = save_msrs(vcpu, to);
	if (result == 0)
		result = save_items(vcpu, to, behind_msrs, ARRAY_SIZE(behind_msrs));
	snapshot_end(to);
	return result;
}

int vcpu_restore(struct vcpu *vcpu, struct snapshot_reader *from)
{
	int result = snapshot_open(from, SNAPSHOT_VCPU, vcpu->id, VCPU_VERSION);

	if (result < 0)
		return result;
	result = list_msrs(vcpu->vm);
	if (result == 0)
		result = restore_tsc_khz(vcpu, from);
	if (result == 0)
		result = restore_cpuid(vcpu, from);
	if (result == 0)
		result = restore_items(vcpu, from, before_xsave, ARRAY_SIZE(before_xsave));
	if (result == 0)
		result = restore_xsave(vcpu, from);
	if (result == 0)
		result = restore_items(vcpu, from, before_msrs, ARRAY_SIZE(before_msrs));
	if (result == 0)
		result = restore_msrs(vcpu, from);
	if (result == 0)
		result = restore_items(vcpu, from, behind_msrs, ARRAY_SIZE(behind_msrs));
	return result == 0 ? snapshot_close(from) : result;
}
