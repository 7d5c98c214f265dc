// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the restore of a VM: whatever the contents of its parts are, KVM is told of features that this host has, of MSRs
 * that it lists, and of as many as there is room for.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>

#include "karma/snapshot.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "script.h"

#define KVM_FD 1000
#define VM_FD 1001
#define VCPU_FD 1002
#define VCPUS 2u
#define OWN_EBX 0x219c97a9u	/* CPUID 7 */
#define MSRS 300u
#define FIRST_MSR 0xc0000000u
#define XSAVE_BYTES 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

static uint8_t state[256 * 1024];
/* What KVM answers where it may refuse. */
static struct script answers;

static int answer(void)
{
	errno = EINVAL;
	return take(&answers, 1) == 0xff ? -1 : 0;
}

static int list_msrs(struct kvm_msr_list *list)
{
	check(list->nmsrs >= MSRS);
	list->nmsrs = MSRS;
	for (unsigned i = 0; i < MSRS; i++)
		list->indices[i] = FIRST_MSR + i;
	return 0;
}

static int get_cpuid(struct kvm_cpuid2 *cpuid)
{
	cpuid->nent = 1;
	cpuid->entries[0] = (struct kvm_cpuid_entry2){ .function = 7, .ebx = OWN_EBX };
	return 0;
}

static void check_cpuid(const struct kvm_cpuid2 *cpuid)
{
	check(cpuid->nent <= CPUID_ENTRIES_MAX);
	for (unsigned i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function != 7)
			continue;
		check((cpuid->entries[i].ebx & ~OWN_EBX) == 0 || cpuid->entries[i].index ||
			cpuid->entries[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
		/* The first that counts is what KVM takes. */
		return;
	}
}

static int set_msrs(const struct kvm_msrs *msrs)
{
	check(msrs->nmsrs <= 255);
	for (unsigned i = 0; i < msrs->nmsrs; i++)
		check(msrs->entries[i].index - FIRST_MSR < MSRS);
	return answer() < 0 ? take(&answers, 1) % (msrs->nmsrs + 1) : msrs->nmsrs;
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
	switch (request) {
	case KVM_GET_MSR_INDEX_LIST:
		return list_msrs(at);
	case KVM_CHECK_EXTENSION:
		return XSAVE_BYTES;
	case KVM_GET_CPUID2:
		return get_cpuid(at);
	case KVM_SET_CPUID2:
		check_cpuid(at);
		return answer();
	case KVM_GET_MSRS:
		((struct kvm_msrs *)at)->entries[0].data = take(&answers, 1);
		return 1;
	case KVM_SET_MSRS:
		return set_msrs(at);
	case KVM_GET_TSC_KHZ:
		return 2000000;
	default:
		return answer();
	}
}

static void put_bytes(struct snapshot_writer *writer, struct script *script, size_t most)
{
	static const uint8_t zeroes[XSAVE_BYTES];
	const uint8_t *bytes;
	size_t length = take_bytes(script, take(script, 1) % 16, &bytes);

	snapshot_put(writer, bytes, length < most ? length : most);
	snapshot_put(writer, zeroes, length < most ? most - length : 0);
}

/* Features that this host has or not, a number of them that is right or not. */
static void write_cpuid(struct snapshot_writer *writer, struct script *script)
{
	unsigned count = take(script, 1) % 4;

	snapshot_put_number(writer, take(script, 1) ? count : take(script, 8));
	for (unsigned i = 0; i < count; i++) {
		const struct kvm_cpuid_entry2 entry = {
			.function = take(script, 1) ? 7 : take(script, 4),
			.index = take(script, 1) % 4,
			.flags = take(script, 1) % 2,
			.ebx = take(script, 4) & (take(script, 1) ? OWN_EBX : ~0u),
		};

		snapshot_put(writer, &entry, sizeof(entry));
	}
}

static void write_msrs(struct snapshot_writer *writer, struct script *script)
{
	unsigned count = take(script, 2) % 1100;

	snapshot_put_number(writer, take(script, 1) ? count : take(script, 8));
	for (unsigned i = 0; i < count; i++) {
		const struct kvm_msr_entry entry = { .index = FIRST_MSR + i % (MSRS + (take(script, 1) == 0xff)), .data = i };

		snapshot_put(writer, &entry, sizeof(entry));
	}
}

static void write_vcpu(struct snapshot_writer *writer, struct script *script, unsigned number)
{
	snapshot_begin(writer, SNAPSHOT_VCPU, number, 1);
	snapshot_put_number(writer, take(script, 1) ? 2000000 : take(script, 8));
	write_cpuid(writer, script);
	put_bytes(writer, script,
		sizeof(struct kvm_mp_state) + sizeof(struct kvm_regs) + sizeof(struct kvm_sregs2));
	snapshot_put_number(writer, take(script, 1) ? XSAVE_BYTES : take(script, 8));
	put_bytes(writer, script, XSAVE_BYTES);
	put_bytes(writer, script,
		sizeof(struct kvm_xcrs) + sizeof(struct kvm_debugregs) + sizeof(struct kvm_lapic_state));
	write_msrs(writer, script);
	put_bytes(writer, script, sizeof(struct kvm_vcpu_events) + (take(script, 1) == 0xff));
	snapshot_end(writer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	struct vcpu vcpus[VCPUS];
	struct vm vm = { .kvm_fd = KVM_FD, .vm_fd = VM_FD, .vcpus = vcpus, .vcpu_count = VCPUS };
	struct snapshot_writer writer;
	struct snapshot_reader reader;

	machine_init(&vm.machine, &vm.memory, NULL);
	vm.memory.size = 64 * MIB;
	snapshot_writer_init(&writer, state, sizeof(state));
	snapshot_begin(&writer, SNAPSHOT_VM, 0, 1);
	snapshot_put_number(&writer, take(&script, 1) ? vm.memory.size : take(&script, 8));
	snapshot_put_number(&writer, take(&script, 1) ? VCPUS : take(&script, 8));
	snapshot_put_number(&writer, take(&script, 8));
	snapshot_put_number(&writer, take(&script, 8));
	snapshot_end(&writer);
	for (unsigned i = 0; i < VCPUS; i++) {
		vcpus[i] = (struct vcpu){ .vm = &vm, .id = i, .fd = VCPU_FD + i };
		write_vcpu(&writer, &script, i);
	}
	answers = script;
	check(snapshot_reader_init(&reader, state, snapshot_finish(&writer)) == 0);
	vm_restore(&vm, &reader);
	machine_release(&vm.machine);
	return 0;
}
