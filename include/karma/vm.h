/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A virtual machine on KVM: its vCPUs, its interrupts, its end.
 *
 * One thread makes, starts, waits for and releases it.  Each vCPU has a thread, which serves
 * its exits; one more thread, the I/O thread, runs the io_uring.
 */
#ifndef KARMA_VM_H
#define KARMA_VM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "karma/boot.h"
#include "karma/hypercall.h"
#include "karma/io.h"
#include "karma/irqfd.h"
#include "karma/machine.h"
#include "karma/memory.h"
#include "karma/sandbox.h"
#include "karma/snapshot.h"
#include "karma/terminal.h"

#define VCPUS_MAX 64u
#define KVM_EXIT_KINDS 64u	/* exit reasons that are counted one by one */
/* Three pages in the hole, of which KVM makes a TSS for real mode on VT-x without unrestricted guest. */
#define VM_TSS_ADDRESS 0xfffbd000ul

/* Why a guest came to its end; the first reason counts. */
enum vm_end {
	VM_RUNNING,
	VM_EXIT,		/* the guest's command ended, with vm->end_status */
	VM_POWER_OFF,
	VM_RESET,
	VM_PANIC,
	VM_HANG,		/* the watchdog was not fed */
	VM_CRASH,		/* triple fault, or an exit that Karma does not serve */
	VM_FAILURE,		/* the monitor's own, or KVM's */
	VM_STOPPED,		/* by the user, or a time that has passed */
};

struct vcpu {
	struct vm *vm;
	unsigned id;
	int fd;
	int stats_fd;			/* -1: none are wanted, or KVM has none */
	struct kvm_run *run;
	_Atomic(pid_t) tid;		/* of its thread; 0: it has not come up yet */
	struct io_ring ring;		/* its own, if a device has use for one */
	bool has_ring;
	uint64_t stopped_at;		/* where it was when it was halted */

	/* Statistics: the vCPU thread counts, and any may read them (count_of()). */
	uint64_t exits[KVM_EXIT_KINDS];
	uint64_t acpi_accesses;		/* port exits on the ACPI registers */
	struct hypercall_counters hypercalls;
};

/* A file that is guest memory (src/vm/file_memory.c). */
struct file_memory {
	const char *path;	/* for messages; stays the caller's while the VM is there */
	int fd;
	uint64_t bytes;
	bool writable;		/* what the guest writes goes to the file, of whole GUEST_HUGE_PAGEs */
	bool read_only;		/* the guest can't write; with neither, it has its own copy of what it writes */
};

/* Its irqfds (src/vm/irqfd.c). */
struct vm_irqfds {
	struct irqfds irqfds;
	int vm_fd;
	unsigned count;
	pthread_mutex_t lock;		/* guards the table */
	struct kvm_irq_routing *table;	/* with room for count entries; NULL while there are none */
};

struct vm {
	pid_t pid;			/* ours */
	int kvm_fd, vm_fd;
	struct guest_memory memory;
	struct memory_region file_regions[KARMA_DEVICES_MAX];	/* those of memory */
	const char *file_names[KARMA_DEVICES_MAX];
	atomic_bool memory_lost;	/* the host has no page any more for what a vCPU touched */
	struct machine machine;
	struct vm_irqfds irqfds;
	struct io_ring *ring;		/* the caller's, as is the terminal */
	struct terminal *terminal;
	int up_fd;			/* eventfd of the caller's, written when the guest is up; or -1 */
	bool pmu;			/* the guest has performance counters */
	bool strict;			/* end the guest at an access to what is absent */
	bool stats;			/* stats_print() will be called */
	bool known;			/* it was restored, and had made a call before */
	bool confined;			/* threads are, by sandbox_filter() */

	struct vcpu *vcpus;
	unsigned vcpu_count;
	unsigned started;		/* of the vCPUs' threads */
	unsigned unconfined;		/* threads without their filter yet: no vCPU runs before 0; under the park_lock */

	_Atomic(enum vm_end) end;
	unsigned end_status;
	atomic_bool stopping;
	atomic_bool paused;		/* vCPUs are to leave the guest and wait */
	bool devices_paused;		/* they are, and so are the devices; the main thread's own */
	/*
	 * The guest has made its call `checkpoint`, and is paused until vm_resume(): called on its vCPU's thread.
	 * NULL: nobody wants to copy it there.
	 */
	void (*checkpoint)(struct vm *vm);
	atomic_bool at_checkpoint;
	int end_fd;			/* eventfd: readable once there is an end */

	/*
	 * Threads stay here at their end, and never return: a vCPU's requests would die with it,
	 * and it takes more system calls to end a thread than all else that it does.
	 */
	pthread_mutex_t park_lock;
	pthread_cond_t park_changed;
	unsigned parked;		/* of the vCPUs */
	unsigned paused_vcpus;		/* in vm_wait_while_paused() */
	bool io_parked;
};

/*
 * Open KVM and make the VM, its memory, interrupt controller and vCPUs.  0, or a negative
 * errno with a message printed.  They are there until the process ends: each start of a guest has
 * one of its own.  Devices are added to vm->machine (machine_add()) before vm_prepare().  CPUID has the
 * machine's features, so checkpoints (struct machine) are decided here.
 */
int vm_init(struct vm *vm, const struct memory_options *memory, unsigned cpus, bool pmu, bool checkpoints);

/*
 * Have the guest see a file as memory, at *place; before vm_prepare().  If the file is cut meanwhile, or
 * can't be read, KVM_RUN fails (memory_lost), or a thread that touches it ends the process with a message
 * and status 125.  0, or a negative errno with a message printed.
 */
int vm_add_file_memory(struct vm *vm, const struct file_memory *file, struct memory_region *place);

/*
 * Make all that the threads need, with the devices there and before the sandbox closes.  entry: NULL if vm_restore()
 * follows.
 */
int vm_prepare(struct vm *vm, const struct boot_entry *entry);

/*
 * Save the state of a VM that is paused: vCPUs, clock, machine.  0, or a negative errno with a message printed, such as
 * -ENOTSUP: a device or KVM can't.  with_devices as for machine_save().  The main thread, within the sandbox.
 */
int vm_save(struct vm *vm, struct snapshot_writer *to, bool with_devices);
/*
 * In the place of the entry to a kernel, before vm_start(): have the VM go on from there.  Its memory is that of the
 * snapshot, vCPUs and devices are as many and of the same kinds.  The state is hostile.  0, or a negative errno with a
 * message printed.
 */
int vm_restore(struct vm *vm, struct snapshot_reader *from);

/* Start the threads, which confine themselves, as the calling one then is. */
int vm_start(struct vm *vm);

/* How many threads that takes, the calling one and those of io_uring among them. */
unsigned vm_threads_max(const struct vm *vm);

/* Record the end; the first call counts.  Any thread. */
void vm_end(struct vm *vm, enum vm_end end, unsigned status);

/* Whether the guest has made a call, before it was saved or since: one that resets before that panicked early. */
bool vm_guest_knows_karma(const struct vm *vm);

/* After vm_halt(): print where each vCPU was. */
void vm_log_positions(struct vm *vm);

/*
 * Have the vCPUs leave the guest and wait for vm_resume(), then pause the devices (virtio_pause()); what
 * these have in flight completes, and the terminal goes on.  Returns when all that is so, or the guest
 * has come to its end.  The guest's clocks don't stand still: to the guest it is as if all of its CPUs
 * had been held up.
 */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);

/* Stop the vCPUs, paused or not; devices and the terminal go on, paused devices again. */
void vm_halt(struct vm *vm);

/* After vm_halt(): let what devices have begun come to its end, and halt the I/O thread too. */
void vm_stop(struct vm *vm);

/* KVM's own file descriptor, and what it can do: see src/vm/kvm.c. */
int kvm_open(void);

/* The capabilities that Karma needs, with words for the user. */
struct kvm_need {
	int capability;
	int at_least;
	const char *name;
	const char *purpose;
};
extern const struct kvm_need kvm_needs[];
extern const unsigned kvm_need_count;

/*
 * Whether a tiny guest's VMCALL reaches us, within a second even if KVM hangs in it: 0;
 * -ETIMEDOUT where it hangs; -ENOTSUP where something else came of it; another negative errno
 * where the guest could not be made.
 */
int kvm_probe(void);

/* The CPU itself tells of SVM or VMX. */
bool cpu_has_virtualization(void);

/* Of this CPU. */
unsigned vm_physical_address_bits(void);

/* Whether a guest's memory of that size fits below physical addresses of so many bits: 0 or -EINVAL. */
int vm_check_memory(uint64_t size, unsigned bits);

/* One line for a kvm_probe() result below 0: what was found, and the cure. */
const char *kvm_probe_message(int result);

/* Counters on stderr, for --stats. */
void stats_print(struct vm *vm);

/* Counters one by one, as of now.  One thread at a time. */
enum stats_kind {
	STATS_EXIT,
	STATS_HYPERCALL,
	STATS_DEVICE,
	STATS_LATENCY,		/* a bucket of a histogram (karma/latency.h), if it has any */
	STATS_LATENCY_SUM,	/* nanoseconds, if there are any */
	STATS_IO_URING,
	STATS_KVM,
	STATS_KINDS
};

struct stats_counter {
	enum stats_kind kind;
	unsigned bucket;	/* STATS_LATENCY */
	const char *device;	/* STATS_DEVICE and STATS_LATENCY, else NULL */
	const char *name;
	uint64_t value;
};

void stats_visit(struct vm *vm, void (*visit)(void *context, const struct stats_counter *counter),
	void *context);

/*
 * CPUID for a vCPU: KVM's, with what Karma adds, and KARMA_FEATURE_* as the machine has them.  cpuid has
 * room for CPUID_ENTRIES_ADDED more entries.
 */
#define CPUID_ENTRIES_MAX 256
#define CPUID_ENTRIES_ADDED 4
void cpuid_adjust(struct kvm_cpuid2 *cpuid, unsigned vcpu, unsigned vcpu_count, uint32_t features);
/* Take the performance counters out. */
void cpuid_hide_pmu(struct kvm_cpuid2 *cpuid);
/*
 * How many features the first one tells of that the second lacks.  Their names are listed in names, as far as there
 * is room.
 */
unsigned cpuid_missing(const struct kvm_cpuid2 *wanted, const struct kvm_cpuid2 *have, char *names, size_t size);
/* Both are of CPUs of one vendor: these differ in more than features. */
bool cpuid_same_vendor(const struct kvm_cpuid2 *wanted, const struct kvm_cpuid2 *have);

/*
 * Save what KVM tells of a vCPU that is paused; set it in one that was never run.  0, or a negative errno with a message
 * printed.  The main thread.
 */
int vcpu_save(struct vcpu *vcpu, struct snapshot_writer *to);
int vcpu_restore(struct vcpu *vcpu, struct snapshot_reader *from);

/* None at first; they last as long as the process. */
void vm_irqfds_init(struct vm_irqfds *irqfds, int vm_fd);

/* A vCPU's part, for vm.c. */
int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned id, const struct kvm_cpuid2 *cpuid);
/* Before its first KVM_RUN; the first vCPU starts at the entry, the others wait for it. */
int vcpu_set_entry(struct vcpu *vcpu, const struct boot_entry *entry);
void *vcpu_thread(void *vcpu);
/* Before the first vCPU thread: a kick is a signal, which must have its handler by then. */
void vcpu_prepare_kicks(void);
void vcpu_kick(struct vcpu *vcpu);

/*
 * The calling thread's part of vm_start(); false if it can't be confined, or another can't that came
 * before it.  A vCPU's waits for all.
 */
bool vm_confine(struct vm *vm, enum sandbox_thread kind, struct vcpu *vcpu);
/* A vCPU's thread waits until the guest is resumed, or ends. */
void vm_wait_while_paused(struct vm *vm);
/* The calling thread has come to its end.  It doesn't return. */
_Noreturn void vm_park(struct vm *vm, bool io);

#endif
