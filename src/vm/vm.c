// SPDX-License-Identifier: GPL-2.0-only
/* A virtual machine on KVM: memory, interrupts, vCPUs and their threads, start and end. */
#include <cpuid.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>

#include "karma/log.h"
#include "karma/util.h"
#include "karma/vm.h"

/* Far less than the default, which the host may back by a huge page. */
#define STACK_BYTES (256 * KIB)
/* Of io_uring, for operations of no device's: the console's, and its manager. */
#define IO_THREADS_MORE 32u
/* Below the TSS, for VT-x without unrestricted guest, too: one page. */
#define IDENTITY_MAP_ADDRESS 0xfffbc000ull

static int kvm_failed(const char *what)
{
	return fail(-errno, "KVM: can't %s: %s: see `karma check`, and the kernel's log (dmesg)",
		what, strerror(errno));
}

static int check_needs(int kvm_fd)
{
	for (unsigned i = 0; i < kvm_need_count; i++) {
		const struct kvm_need *need = &kvm_needs[i];
		int have = ioctl(kvm_fd, KVM_CHECK_EXTENSION, need->capability);

		if (have < need->at_least)
			return fail(-ENOTSUP, "KVM: lacks %s, which is for %s: see `karma check`",
				need->name, need->purpose);
	}
	return 0;
}

unsigned vm_physical_address_bits(void)
{
	unsigned eax, ebx, ecx, edx;

	/* AMD64 APM volume 3, appendix E: a CPU without the leaf has as many as PAE brought. */
	return __get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx) ? eax & 0xff : 36;
}

int vm_check_memory(uint64_t size, unsigned bits)
{
	const uint64_t hole = GUEST_HOLE_END - GUEST_HOLE_START, reach = 1ull << bits;

	if (size <= GUEST_HOLE_START || size + hole <= reach)
		return 0;
	return fail(-EINVAL,
		"--memory %lluM: is more than this host's CPU reaches by its %u-bit physical addresses: "
		"give %lluG or less",
		size / MIB, bits, (reach - hole) / GIB);
}

static int map_memory(struct vm *vm)
{
	struct kvm_userspace_memory_region low = {
		.slot = 0,
		.memory_size = vm->memory.low_size,
		.userspace_addr = (uintptr_t)vm->memory.base,
	};
	struct kvm_userspace_memory_region high = {
		.slot = 1,
		.guest_phys_addr = GUEST_HOLE_END,
		.memory_size = vm->memory.high_size,
		.userspace_addr = (uintptr_t)vm->memory.base + vm->memory.low_size,
	};

	if (ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &low) < 0)
		return kvm_failed("map guest memory");
	if (high.memory_size && ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &high) < 0)
		return kvm_failed("map guest memory above 4 GiB");
	return 0;
}

/* KVM knows how to since Linux 5.18; before, what CPUID does not tell of is all that can be had. */
static int turn_pmu_off(struct vm *vm)
{
	struct kvm_enable_cap pmu = {
		.cap = KVM_CAP_PMU_CAPABILITY,
		.args = { KVM_PMU_CAP_DISABLE },
	};

	if (vm->pmu ||
		!(ioctl(vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_PMU_CAPABILITY) & KVM_PMU_CAP_DISABLE))
		return 0;
	return ioctl(vm->vm_fd, KVM_ENABLE_CAP, &pmu) < 0 ?
		kvm_failed("turn the performance counters off") : 0;
}

static int set_up_vm(struct vm *vm)
{
	struct kvm_enable_cap hypercalls = {
		.cap = KVM_CAP_EXIT_HYPERCALL,
		.args = { 1 << KARMA_HYPERCALL },
	};
	/* Local APICs only: no PIC, and an I/O APIC with no pins, which would be ours to emulate. */
	struct kvm_enable_cap local_apics = { .cap = KVM_CAP_SPLIT_IRQCHIP };
	uint64_t identity_map = IDENTITY_MAP_ADDRESS;

	if (ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, VM_TSS_ADDRESS) < 0 ||
		ioctl(vm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0)
		return kvm_failed("place its own pages");
	if (ioctl(vm->vm_fd, KVM_ENABLE_CAP, &local_apics) < 0)
		return kvm_failed("give the vCPUs local APICs");
	if (ioctl(vm->vm_fd, KVM_ENABLE_CAP, &hypercalls) < 0)
		return kvm_failed("hand on hypercalls");
	return turn_pmu_off(vm);
}

/* Not zeroed, since most of it is never touched. */
static struct kvm_cpuid2 *make_cpuid(void)
{
	struct kvm_cpuid2 *cpuid =
		malloc(sizeof(*cpuid) + CPUID_ENTRIES_MAX * sizeof(cpuid->entries[0]));

	if (cpuid)
		*cpuid = (struct kvm_cpuid2){ .nent = CPUID_ENTRIES_MAX - CPUID_ENTRIES_ADDED };
	return cpuid;
}

static int make_vcpus(struct vm *vm, unsigned cpus)
{
	cleanup_free struct kvm_cpuid2 *supported = make_cpuid();
	cleanup_free struct kvm_cpuid2 *cpuid = make_cpuid();

	vm->vcpus = calloc(cpus, sizeof(*vm->vcpus));
	if (!vm->vcpus || !supported || !cpuid)
		return fail(-ENOMEM, "vCPUs: out of memory");
	if (ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, supported) < 0)
		return kvm_failed("tell which CPU features it supports");
	if (!vm->pmu)
		cpuid_hide_pmu(supported);
	for (unsigned i = 0; i < cpus; i++) {
		int result;

		memcpy(cpuid, supported,
			sizeof(*cpuid) + supported->nent * sizeof(cpuid->entries[0]));
		cpuid_adjust(cpuid, i, cpus, machine_features(&vm->machine));
		result = vcpu_init(&vm->vcpus[i], vm, i, cpuid);
		if (result < 0)
			return result;
		vm->vcpu_count++;
	}
	return 0;
}

static size_t console_write(struct machine *machine, const void *text, size_t length)
{
	struct vm *vm = container_of(machine, struct vm, machine);

	return vm->terminal ? terminal_write(vm->terminal, text, length) : length;
}

static void machine_ended(struct machine *machine, enum machine_end how, unsigned status)
{
	static const enum vm_end ends[] = {
		[MACHINE_EXIT] = VM_EXIT,
		[MACHINE_POWER_OFF] = VM_POWER_OFF,
		[MACHINE_RESET] = VM_RESET,
		[MACHINE_PANIC] = VM_PANIC,
	};

	vm_end(container_of(machine, struct vm, machine), ends[how], status);
}

static void machine_ready(struct machine *machine, uint32_t ready)
{
	struct vm *vm = container_of(machine, struct vm, machine);

	if (!vm->terminal)
		return;
	if (ready == KARMA_READY_NOT_YET)
		terminal_hold_input(vm->terminal);
	else
		terminal_release_input(vm->terminal, ready == KARMA_READY_QUOTED);
}

static void machine_up(struct machine *machine)
{
	struct vm *vm = container_of(machine, struct vm, machine);
	const uint64_t one = 1;

	/* Once is enough, so a full one may stay as it is. */
	if (vm->up_fd >= 0 && write_bytes(vm->up_fd, &one, sizeof(one)) < 0)
		return;
}

/* The vCPU pauses as it leaves the call; the others do when who is told has them pause. */
static void pause_at_checkpoint(struct machine *machine)
{
	struct vm *vm = container_of(machine, struct vm, machine);

	if (!vm->checkpoint)
		return;
	atomic_store(&vm->at_checkpoint, true);
	atomic_store(&vm->paused, true);
	vm->checkpoint(vm);
}

static void interrupt_guest(struct machine *machine, const struct karma_interrupt *interrupt)
{
	struct vm *vm = container_of(machine, struct vm, machine);
	struct kvm_msi message = {
		.address_lo = interrupt->address,
		.address_hi = interrupt->address >> 32,
		.data = interrupt->data,
	};

	/* A message to no CPU is the guest's own fault. */
	ioctl(vm->vm_fd, KVM_SIGNAL_MSI, &message);
}

static const struct machine_ops machine_ops = {
	.console_write = console_write,
	.end = machine_ended,
	.ready = machine_ready,
	.up = machine_up,
	.checkpoint = pause_at_checkpoint,
	.interrupt = interrupt_guest,
};

static int make_vm(struct vm *vm)
{
	int result = kvm_open();

	if (result < 0)
		return result;
	vm->kvm_fd = result;
	result = check_needs(vm->kvm_fd);
	if (result < 0)
		return result;
	do {
		vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	} while (vm->vm_fd < 0 && errno == EINTR);
	if (vm->vm_fd < 0)
		return kvm_failed("make a virtual machine");
	vm_irqfds_init(&vm->irqfds, vm->vm_fd);
	return set_up_vm(vm);
}

int vm_init(struct vm *vm, const struct memory_options *memory, unsigned cpus, bool pmu, bool checkpoints)
{
	int result;

	*vm = (struct vm){
		.pid = getpid(),
		.kvm_fd = -1,
		.vm_fd = -1,
		.up_fd = -1,
		.end_fd = -1,
		.pmu = pmu,
	};
	pthread_mutex_init(&vm->park_lock, NULL);
	pthread_cond_init(&vm->park_changed, NULL);
	machine_init(&vm->machine, &vm->memory, &machine_ops);
	vm->machine.checkpoints = checkpoints;
	result = make_vm(vm);
	if (result < 0)
		return result;
	result = vm_check_memory(memory->size, vm_physical_address_bits());
	if (result == 0)
		result = guest_memory_init(&vm->memory, memory);
	if (result == 0)
		result = map_memory(vm);
	if (result == 0)
		result = make_vcpus(vm, cpus);
	if (result < 0)
		return result;
	vm->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->end_fd < 0)
		return fail(-errno, "eventfd: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	return 0;
}

bool vm_confine(struct vm *vm, enum sandbox_thread kind, struct vcpu *vcpu)
{
	const struct sandbox_descriptors descriptors = {
		.vm = vm->vm_fd,
		.vcpu = vcpu ? vcpu->fd : -1,
		.terminal = vm->terminal->out_fd,
		.vhost_user = vm->irqfds.count > 0,
	};

	if (vm->confined && sandbox_filter(kind, &descriptors) < 0)
		vm_end(vm, VM_FAILURE, 0);
	pthread_mutex_lock(&vm->park_lock);
	if (--vm->unconfined == 0)
		pthread_cond_broadcast(&vm->park_changed);
	/* Only a vCPU has to wait for the others. */
	while (vcpu && vm->unconfined)
		pthread_cond_wait(&vm->park_changed, &vm->park_lock);
	pthread_mutex_unlock(&vm->park_lock);
	return atomic_load(&vm->end) != VM_FAILURE;
}

_Noreturn void vm_park(struct vm *vm, bool io)
{
	pthread_mutex_lock(&vm->park_lock);
	if (io)
		vm->io_parked = true;
	else
		vm->parked++;
	pthread_cond_broadcast(&vm->park_changed);
	for (;;)
		pthread_cond_wait(&vm->park_changed, &vm->park_lock);
}

void vm_wait_while_paused(struct vm *vm)
{
	pthread_mutex_lock(&vm->park_lock);
	vm->paused_vcpus++;
	pthread_cond_broadcast(&vm->park_changed);
	while (atomic_load(&vm->paused) && !atomic_load(&vm->stopping))
		pthread_cond_wait(&vm->park_changed, &vm->park_lock);
	vm->paused_vcpus--;
	pthread_cond_broadcast(&vm->park_changed);
	pthread_mutex_unlock(&vm->park_lock);
}

static void *io_thread(void *argument)
{
	struct vm *vm = argument;

	pthread_setname_np(pthread_self(), "io");
	if (vm_confine(vm, SANDBOX_IO, NULL))
		io_ring_loop(vm->ring);
	vm_park(vm, true);
}

/* It never ends, so nobody joins it. */
static int start_thread(void *(*run)(void *), void *argument)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int result = -pthread_attr_init(&attributes);

	if (result < 0)
		return result;
	result = -pthread_attr_setstacksize(&attributes, STACK_BYTES);
	if (result == 0)
		result = -pthread_create(&thread, &attributes, run, argument);
	pthread_attr_destroy(&attributes);
	return result;
}

/* A ring for each vCPU, in which all that a guest can have under way at a time has room. */
static int make_rings(struct vm *vm)
{
	unsigned in_flight = 0;
	int result = 0;

	for (unsigned i = 0; i < vm->machine.device_count; i++)
		in_flight += vm->machine.devices[i]->in_flight_max;
	if (!in_flight)
		return 0;
	for (unsigned i = 0; i < vm->vcpu_count && result == 0; i++) {
		struct vcpu *vcpu = &vm->vcpus[i];

		result = io_ring_init_thread(
			&vcpu->ring, vm->ring, in_flight, &vcpu->run->immediate_exit);
		vcpu->has_ring = result == 0;
	}
	return result;
}

int vm_prepare(struct vm *vm, const struct boot_entry *entry)
{
	int result = make_rings(vm);

	for (unsigned i = 0; entry && i < vm->vcpu_count && result == 0; i++)
		result = vcpu_set_entry(&vm->vcpus[i], entry);
	for (unsigned i = 0; i < vm->vcpu_count && vm->stats; i++)
		vm->vcpus[i].stats_fd = ioctl(vm->vcpus[i].fd, KVM_GET_STATS_FD, NULL);
	return result;
}

unsigned vm_threads_max(const struct vm *vm)
{
	unsigned in_flight = 0;

	for (unsigned i = 0; i < vm->machine.device_count; i++)
		in_flight += vm->machine.devices[i]->in_flight_max;
	/* Each operation may wait in a thread of io_uring. */
	return 2 + vm->vcpu_count + in_flight + IO_THREADS_MORE;
}

int vm_start(struct vm *vm)
{
	int result;

	vm->unconfined = 2 + vm->vcpu_count;
	machine_start_devices(&vm->machine);
	vcpu_prepare_kicks();
	result = start_thread(io_thread, vm);
	while (vm->started < vm->vcpu_count && result == 0) {
		result = start_thread(vcpu_thread, &vm->vcpus[vm->started]);
		vm->started += result == 0;
	}
	if (result < 0)
		return fail(result, "threads: %s: raise the limit of processes (ulimit -u)",
			strerror(-result));
	return vm_confine(vm, SANDBOX_MAIN, NULL) ? 0 : -EPERM;
}

void vm_end(struct vm *vm, enum vm_end end, unsigned status)
{
	enum vm_end running = VM_RUNNING;
	const uint64_t one = 1;

	if (!atomic_compare_exchange_strong(&vm->end, &running, end))
		return;
	vm->end_status = status;
	atomic_store(&vm->stopping, true);
	/* The first write to an eventfd always fits. */
	if (write_bytes(vm->end_fd, &one, sizeof(one)) < 0)
		fail(-errno, "eventfd: can't tell of the guest's end: %s", strerror(errno));
}

bool vm_guest_knows_karma(const struct vm *vm)
{
	if (vm->known)
		return true;
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		const struct hypercall_counters *counters = &vm->vcpus[i].hypercalls;

		for (unsigned number = 0; number < KARMA_WINDOW_CALLS; number++) {
			if (__atomic_load_n(&counters->calls[number], __ATOMIC_RELAXED))
				return true;
		}
	}
	return false;
}

/* For 10 ms at most, with the park_lock held. */
static void wait_for_park(struct vm *vm)
{
	struct timespec deadline;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_nsec += 10 * 1000 * 1000;
	deadline.tv_sec += deadline.tv_nsec / 1000000000;
	deadline.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&vm->park_changed, &vm->park_lock, &deadline);
}

/* With the park_lock held.  Repeated until all have stopped: a thread may not have come to its loop yet. */
static void kick_all(struct vm *vm)
{
	for (unsigned i = 0; i < vm->started; i++)
		vcpu_kick(&vm->vcpus[i]);
	wait_for_park(vm);
}

void vm_pause(struct vm *vm)
{
	atomic_store(&vm->paused, true);
	pthread_mutex_lock(&vm->park_lock);
	while (vm->paused_vcpus + vm->parked < vm->started && !atomic_load(&vm->stopping))
		kick_all(vm);
	pthread_mutex_unlock(&vm->park_lock);
	/* A guest that ends meanwhile has vCPUs that still run. */
	if (atomic_load(&vm->stopping) || vm->devices_paused)
		return;
	machine_pause_devices(&vm->machine);
	vm->devices_paused = true;
}

static void resume_devices(struct vm *vm)
{
	if (vm->devices_paused)
		machine_resume_devices(&vm->machine);
	vm->devices_paused = false;
}

void vm_resume(struct vm *vm)
{
	resume_devices(vm);
	pthread_mutex_lock(&vm->park_lock);
	atomic_store(&vm->at_checkpoint, false);
	atomic_store(&vm->paused, false);
	pthread_cond_broadcast(&vm->park_changed);
	/* The next pause must not count a vCPU that has not left this one yet; one has come to its checkpoint already. */
	while (vm->paused_vcpus && !atomic_load(&vm->paused) && !atomic_load(&vm->stopping))
		wait_for_park(vm);
	pthread_mutex_unlock(&vm->park_lock);
}

void vm_halt(struct vm *vm)
{
	atomic_store(&vm->stopping, true);
	pthread_mutex_lock(&vm->park_lock);
	pthread_cond_broadcast(&vm->park_changed);
	while (vm->parked < vm->started)
		kick_all(vm);
	pthread_mutex_unlock(&vm->park_lock);
	resume_devices(vm);
}

void vm_log_positions(struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		note("vCPU %u is at 0x%" PRIx64, i, vm->vcpus[i].stopped_at);
}

void vm_stop(struct vm *vm)
{
	machine_end_devices(&vm->machine);
	io_ring_stop(vm->ring);
	pthread_mutex_lock(&vm->park_lock);
	while (!vm->io_parked)
		pthread_cond_wait(&vm->park_changed, &vm->park_lock);
	pthread_mutex_unlock(&vm->park_lock);
}
