// SPDX-License-Identifier: GPL-2.0-only
/* A vCPU: its first registers, and its thread, which runs it and serves its exits. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "karma/log.h"
#include "karma/util.h"
#include "karma/vm.h"

/* Interrupts KVM_RUN; the handler does nothing. */
#define KICK_SIGNAL SIGUSR1

#define CR0_PE (1u << 0)
#define CR0_ET (1u << 4)
#define CR0_PG (1u << 31)
#define CR4_PAE (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)

/* Intel SDM volume 3, sections 11.4.4 and 11.12.1 */
#define MSR_APIC_BASE 0x1b
#define APIC_BASE_FIRST_CPU (1u << 8)
#define APIC_BASE_X2APIC (1u << 10)
#define APIC_BASE_ENABLE (1u << 11)
#define MSR_MISC_ENABLE 0x1a0
#define MISC_ENABLE_FAST_STRING 1
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MTRR_ENABLE_WRITE_BACK 0x806

static int vcpu_failed(const struct vcpu *vcpu, const char *what)
{
	return fail(-errno, "KVM: vCPU %u: can't %s: %s: see `karma check`", vcpu->id, what,
		strerror(errno));
}

/*
 * In x2APIC mode an access to the local APIC is to an MSR, which the CPU tells KVM; one to memory KVM would
 * have to make out by interpreting the instruction.  But i386 Linux has no x2APIC, nor a way out of it.
 */
static uint64_t apic_base(const struct vcpu *vcpu, enum boot_protocol protocol)
{
	return LAPIC_ADDRESS | APIC_BASE_ENABLE | (protocol == BOOT_LINUX32 ? 0 : APIC_BASE_X2APIC) |
		(vcpu->id == 0 ? APIC_BASE_FIRST_CPU : 0);
}

/* What firmware would have left behind; a CPU that lacks one of the latter two needs it not. */
static int set_msrs(struct vcpu *vcpu, enum boot_protocol protocol)
{
	const struct kvm_msr_entry wanted[] = {
		{ .index = MSR_APIC_BASE, .data = apic_base(vcpu, protocol) },
		{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE_WRITE_BACK },
		{ .index = MSR_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING },
	};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[ARRAY_SIZE(wanted)];
	} msrs;
	unsigned next = 0;

	/* KVM tells how many it has set: up to the first that the CPU lacks. */
	while (next < ARRAY_SIZE(wanted)) {
		int done;

		msrs.head = (struct kvm_msrs){ .nmsrs = ARRAY_SIZE(wanted) - next };
		memcpy(msrs.entries, wanted + next, msrs.head.nmsrs * sizeof(wanted[0]));
		done = ioctl(vcpu->fd, KVM_SET_MSRS, &msrs);
		if (next == 0 && done < 1)
			return vcpu_failed(vcpu, "set its local APIC's mode");
		next += done < 0 ? 1 : done + 1;
	}
	return 0;
}

int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned id, const struct kvm_cpuid2 *cpuid)
{
	int size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	*vcpu = (struct vcpu){ .vm = vm, .id = id, .stats_fd = -1 };
	vcpu->fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, (unsigned long)id);
	if (vcpu->fd < 0 || size < 0)
		return vcpu_failed(vcpu, "make it");
	vcpu->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		return vcpu_failed(vcpu, "map it");
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
		return vcpu_failed(vcpu, "set its features");
	return 0;
}

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
	};
}

/* The segments of the GDT that boot_load() wrote. */
static void set_segments(struct kvm_sregs *sregs, enum boot_protocol protocol)
{
	struct kvm_segment data = flat_segment(BOOT_DS, 3);

	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
	sregs->cs = flat_segment(BOOT_CS, 11);
	if (protocol == BOOT_LINUX64) {
		sregs->cs.db = 0;
		sregs->cs.l = 1;
	}
	sregs->tr = (struct kvm_segment){
		.selector = BOOT_TSS, .limit = 0x67, .type = 11, .present = 1
	};
	sregs->ldt = (struct kvm_segment){ .limit = 0xffff, .type = 2, .present = 1 };
	sregs->gdt = (struct kvm_dtable){ .base = BOOT_GDT, .limit = BOOT_TSS + 15 };
}

static void set_registers(struct vcpu *vcpu, const struct boot_entry *entry)
{
	struct kvm_regs *registers = &vcpu->run->s.regs.regs;
	struct kvm_sregs *sregs = &vcpu->run->s.regs.sregs;

	*registers = (struct kvm_regs){
		.rip = entry->entry.value,
		.rsp = BOOT_STACK,
		.rflags = 2,
	};
	*sregs = (struct kvm_sregs){ .apic_base = apic_base(vcpu, entry->protocol) };
	set_segments(sregs, entry->protocol);
	sregs->cr0 = CR0_PE | CR0_ET;
	if (entry->protocol == BOOT_PVH)
		registers->rbx = entry->params.value;
	else
		registers->rsi = entry->params.value;
	if (entry->protocol == BOOT_LINUX64) {
		sregs->cr0 |= CR0_PG;
		sregs->cr3 = BOOT_PAGE_TABLES;
		sregs->cr4 = CR4_PAE;
		sregs->efer = EFER_LME | EFER_LMA;
	}
	/* The first KVM_RUN takes them from there, which saves three system calls and what each loads. */
	vcpu->run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
}

int vcpu_set_entry(struct vcpu *vcpu, const struct boot_entry *entry)
{
	if (vcpu->id == 0)
		set_registers(vcpu, entry);
	return set_msrs(vcpu, entry->protocol);
}

static uint64_t instruction_pointer(struct vcpu *vcpu)
{
	struct kvm_regs registers = { 0 };

	ioctl(vcpu->fd, KVM_GET_REGS, &registers);
	return registers.rip;
}

static void crashed(struct vcpu *vcpu, const char *what)
{
	note("guest crashed: vCPU %u at 0x%" PRIx64 ": %s", vcpu->id, instruction_pointer(vcpu),
		what);
	vm_end(vcpu->vm, VM_CRASH, 0);
}

static void handle_hypercall(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	run->hypercall.ret = hypercall(&vcpu->vm->machine, &vcpu->hypercalls,
		run->hypercall.args[0], run->hypercall.args[1], run->hypercall.args[2]);
}

/* The registers of hardware-reduced ACPI: true if the access was to one of them. */
static bool handle_acpi(struct vcpu *vcpu, uint16_t port, bool out, uint8_t *data)
{
	if (port < ACPI_SLEEP_CONTROL_PORT || port > ACPI_RESET_PORT)
		return false;
	count_up(&vcpu->acpi_accesses, 1);
	if (!out)
		*data = 0;
	else if (port == ACPI_SLEEP_CONTROL_PORT && *data == ACPI_SLEEP_S5_VALUE)
		vm_end(vcpu->vm, VM_POWER_OFF, 0);
	else if (port == ACPI_RESET_PORT && *data == ACPI_RESET_VALUE)
		vm_end(vcpu->vm, VM_RESET, 0);
	return true;
}

/* As on an empty bus: reads give all ones, writes go nowhere.  kind is that of the place. */
static void handle_absent(
	struct vcpu *vcpu, const char *kind, uint64_t place, bool write, void *data, size_t length)
{
	char what[120];

	if (!write)
		memset(data, 0xff, length);
	if (!vcpu->vm->strict)
		return;
	snprintf(what, sizeof(what),
		"it %s %s 0x%" PRIx64 ", where there is nothing, and --strict forbids that",
		write ? "wrote to" : "read from", kind, place);
	crashed(vcpu, what);
}

static void handle_port(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	size_t length = (size_t)run->io.size * run->io.count;
	bool out = run->io.direction == KVM_EXIT_IO_OUT;

	if (length == 1 && handle_acpi(vcpu, run->io.port, out, data))
		return;
	handle_absent(vcpu, "I/O port", run->io.port, out, data, length);
}

static void handle_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	handle_absent(vcpu, "address", run->mmio.phys_addr, run->mmio.is_write, run->mmio.data,
		sizeof(run->mmio.data));
}

static void handle_internal_error(struct vcpu *vcpu)
{
	char what[120];

	snprintf(what, sizeof(what), "KVM can't go on (internal error %u): see the kernel's log",
		vcpu->run->internal.suberror);
	crashed(vcpu, what);
}

static void handle_exit(struct vcpu *vcpu)
{
	uint32_t reason = vcpu->run->exit_reason;
	char what[80];

	count_up(&vcpu->exits[reason < KVM_EXIT_KINDS ? reason : KVM_EXIT_UNKNOWN], 1);
	switch (reason) {
	case KVM_EXIT_HYPERCALL:
		handle_hypercall(vcpu);
		break;
	case KVM_EXIT_IO:
		handle_port(vcpu);
		break;
	case KVM_EXIT_MMIO:
		handle_mmio(vcpu);
		break;
	case KVM_EXIT_INTR:
		break;
	case KVM_EXIT_SHUTDOWN:
		crashed(vcpu, "triple fault");
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		handle_internal_error(vcpu);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		fail(-EIO, "KVM: vCPU %u: the CPU refused to enter the guest (reason 0x%" PRIx64
			   "): see the kernel's log (dmesg)",
			vcpu->id, (uint64_t)vcpu->run->fail_entry.hardware_entry_failure_reason);
		vm_end(vcpu->vm, VM_FAILURE, 0);
		break;
	default:
		snprintf(what, sizeof(what), "it asks for what Karma does not offer (KVM exit %u)",
			reason);
		crashed(vcpu, what);
	}
}

/*
 * Take the completions of the vCPU's own ring before it enters the guest.  A completion, or a kick, that
 * comes after immediate_exit was cleared sets it again, and KVM_RUN returns at once.
 */
static void before_entry(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	while (vcpu->has_ring && !io_ring_arm_eventfd(&vcpu->ring)) {
		io_ring_reap(&vcpu->ring, false);
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	}
}

static void after_exit(struct vcpu *vcpu)
{
	if (vcpu->has_ring)
		io_ring_disarm_eventfd(&vcpu->ring);
}

/* Until its next exit, which is served; false if there was none. */
idle_path static bool run_once(struct vcpu *vcpu)
{
	int result = ioctl(vcpu->fd, KVM_RUN, 0);

	after_exit(vcpu);
	if (result == 0) {
		handle_exit(vcpu);
	} else if (errno != EINTR && errno != EAGAIN) {
		vcpu_failed(vcpu, "run it");
		vm_end(vcpu->vm, VM_FAILURE, 0);
	}
	return result == 0;
}

/*
 * Have KVM take the result of the last exit, and all that follows of the same instruction, without entering the guest:
 * registers are those between two instructions then, which can be saved.
 */
static void complete_exit(struct vcpu *vcpu)
{
	do {
		__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	} while (!atomic_load(&vcpu->vm->stopping) && run_once(vcpu));
}

static void wait_while_paused(struct vcpu *vcpu)
{
	complete_exit(vcpu);
	before_entry(vcpu);
	vm_wait_while_paused(vcpu->vm);
	after_exit(vcpu);
	/* Linux's watchdogs do not take the pause for a lockup then, if its clock is kvm-clock. */
	ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
}

idle_path static void run_vcpu(struct vcpu *vcpu)
{
	for (;;) {
		before_entry(vcpu);
		if (atomic_load(&vcpu->vm->stopping))
			return;
		if (atomic_load(&vcpu->vm->paused)) {
			wait_while_paused(vcpu);
			continue;
		}
		run_once(vcpu);
	}
}

static void ignore_signal(int number)
{
	(void)number;
}

static sigset_t kick_set(void)
{
	sigset_t kick;

	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	return kick;
}

void vcpu_prepare_kicks(void)
{
	/* Without SA_RESTART, so that KVM_RUN returns. */
	struct sigaction action = { .sa_handler = ignore_signal };
	sigset_t kick = kick_set();

	sigaction(KICK_SIGNAL, &action, NULL);
	pthread_sigmask(SIG_BLOCK, &kick, NULL);
}

void *vcpu_thread(void *argument)
{
	struct vcpu *vcpu = argument;
	sigset_t kick = kick_set();
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", vcpu->id);
	pthread_setname_np(pthread_self(), name);
	vcpu->tid = gettid();
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	if (vcpu->has_ring)
		io_ring_bind(&vcpu->ring);
	if (vm_confine(vcpu->vm, SANDBOX_VCPU, vcpu))
		run_vcpu(vcpu);
	vcpu->stopped_at = instruction_pointer(vcpu);
	if (vcpu->has_ring)
		io_ring_unbind(&vcpu->ring);
	vm_park(vcpu->vm, false);
}

void vcpu_kick(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	/* By itself: pthread_kill() makes four system calls of it. */
	if (vcpu->tid)
		syscall(SYS_tgkill, vcpu->vm->pid, vcpu->tid, KICK_SIGNAL);
}
