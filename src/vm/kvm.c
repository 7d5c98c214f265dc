// SPDX-License-Identifier: GPL-2.0-only
/* KVM itself: opening it, what Karma needs of it, and whether a guest's hypercall reaches us. */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "karma/log.h"
#include "karma/util.h"
#include "karma/vm.h"

/* CPUID 1, ECX (Intel SDM) and CPUID 0x80000001, ECX (AMD64 APM). */
#define CPUID_VMX (1u << 5)
#define CPUID_SVM (1u << 2)

#define PROBE_MILLISECONDS 1000
#define PROBE_CODE 0x1000u
#define PROBE_MEMORY 0x2000u

const struct kvm_need kvm_needs[] = {
	{ KVM_CAP_USER_MEMORY, 1, "KVM_CAP_USER_MEMORY", "guest memory" },
	{ KVM_CAP_NR_MEMSLOTS, 2, "KVM_CAP_NR_MEMSLOTS", "memory below and above 4 GiB" },
	{ KVM_CAP_SPLIT_IRQCHIP, 1, "KVM_CAP_SPLIT_IRQCHIP", "interrupts" },
	{ KVM_CAP_SIGNAL_MSI, 1, "KVM_CAP_SIGNAL_MSI", "the devices' interrupts" },
	{ KVM_CAP_EXT_CPUID, 1, "KVM_CAP_EXT_CPUID", "telling the guest of Karma" },
	{ KVM_CAP_TSC_DEADLINE_TIMER, 1, "KVM_CAP_TSC_DEADLINE_TIMER", "the guest's timer" },
	{ KVM_CAP_ADJUST_CLOCK, 1, "KVM_CAP_ADJUST_CLOCK", "the guest's clock" },
	{ KVM_CAP_SYNC_REGS, KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS, "KVM_CAP_SYNC_REGS",
		"the first registers" },
	{ KVM_CAP_IMMEDIATE_EXIT, 1, "KVM_CAP_IMMEDIATE_EXIT", "stopping vCPUs" },
	{ KVM_CAP_EXIT_HYPERCALL, 1 << KARMA_HYPERCALL, "KVM_CAP_EXIT_HYPERCALL",
		"hypercalls (Linux 5.15 or later)" },
};
const unsigned kvm_need_count = ARRAY_SIZE(kvm_needs);

static const char *open_cure(int error)
{
	switch (error) {
	case ENOENT:
		return "load kvm-amd or kvm-intel (modprobe), and turn on SVM or VT-x in the firmware";
	case EACCES:
	case EPERM:
		return "join the group kvm: `sudo usermod -aG kvm $USER`, then log in again";
	case ENODEV:
	case ENXIO:
		return "this CPU has no SVM or VT-x, or the firmware has turned it off";
	default:
		return "see `karma check`";
	}
}

int kvm_open(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version;

	if (fd < 0)
		return fail(-errno, "/dev/kvm: %s: %s", strerror(errno), open_cure(errno));
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		close(fd);
		return fail(-ENOTSUP, "/dev/kvm: speaks version %d of its API, Karma %d: use "
				      "Linux 5.15 or later",
			version, KVM_API_VERSION);
	}
	return fd;
}

bool cpu_has_virtualization(void)
{
	unsigned eax, ebx, ecx, edx;

	if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & CPUID_VMX))
		return true;
	return __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && (ecx & CPUID_SVM);
}

static bool cpu_is_intel(void)
{
	unsigned eax, ebx, ecx, edx;

	return __get_cpuid(0, &eax, &ebx, &ecx, &edx) && ebx == signature_INTEL_ebx;
}

/* The probe's guest: one hypercall in real mode, then a halt. */
static void *make_probe_memory(void)
{
	static const uint8_t vmcall[] = { 0x0f, 0x01, 0xc1, 0xf4 };
	static const uint8_t vmmcall[] = { 0x0f, 0x01, 0xd9, 0xf4 };
	uint8_t *memory = mmap(NULL, PROBE_MEMORY, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	memcpy(memory + PROBE_CODE, cpu_is_intel() ? vmcall : vmmcall, sizeof(vmcall));
	return memory;
}

static int make_probe_vcpu(int kvm, void *memory)
{
	struct kvm_userspace_memory_region region = {
		.memory_size = PROBE_MEMORY,
		.userspace_addr = (uintptr_t)memory,
	};
	struct kvm_enable_cap hypercalls = {
		.cap = KVM_CAP_EXIT_HYPERCALL,
		.args = { 1 << KARMA_HYPERCALL },
	};
	struct kvm_enable_cap local_apics = { .cap = KVM_CAP_SPLIT_IRQCHIP };
	struct kvm_regs registers = {
		.rip = PROBE_CODE,
		.rflags = 2,
		.rax = KARMA_HYPERCALL,
		.rbx = KARMA_WINDOW_BASE,
		.rcx = KARMA_TAG,
	};
	struct kvm_sregs sregs;
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	int vcpu;

	if (vm < 0 || ioctl(vm, KVM_SET_TSS_ADDR, VM_TSS_ADDRESS) < 0 ||
		ioctl(vm, KVM_ENABLE_CAP, &local_apics) < 0 ||
		ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ||
		ioctl(vm, KVM_ENABLE_CAP, &hypercalls) < 0)
		return -errno;
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0 || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.cs.base = sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &registers) < 0)
		return -errno;
	return vcpu;
}

/* In a process of its own, which ends with all it made; the status is an errno, or 0. */
static int run_probe(void)
{
	cleanup_fd int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	void *memory = make_probe_memory();
	struct kvm_run *run;
	int size, vcpu;

	if (kvm < 0)
		return errno;
	if (!memory)
		return ENOMEM;
	vcpu = make_probe_vcpu(kvm, memory);
	if (vcpu < 0)
		return -vcpu;
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = size < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED || ioctl(vcpu, KVM_RUN, 0) < 0)
		return errno;
	return run->exit_reason == KVM_EXIT_HYPERCALL && run->hypercall.nr == KARMA_HYPERCALL &&
			run->hypercall.args[0] == KARMA_WINDOW_BASE ?
		0 :
		ENOTSUP;
}

static int wait_for_probe(pid_t child)
{
	cleanup_fd int pidfd = syscall(SYS_pidfd_open, child, 0);
	struct pollfd watched = { .fd = pidfd, .events = POLLIN };
	int status;

	if (pidfd < 0)
		return -errno;
	while (poll(&watched, 1, PROBE_MILLISECONDS) < 0 && errno == EINTR)
		;
	if (!(watched.revents & POLLIN)) {
		/* If even that can't end it, it ends as an orphan of ours: don't wait. */
		kill(child, SIGKILL);
		poll(&watched, 1, 100);
		waitpid(child, NULL, WNOHANG);
		return -ETIMEDOUT;
	}
	if (waitpid(child, &status, 0) < 0)
		return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

int kvm_probe(void)
{
	pid_t child = fork();

	if (child < 0)
		return -errno;
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(run_probe());
	}
	return wait_for_probe(child);
}

const char *kvm_probe_message(int result)
{
	switch (result) {
	case -ETIMEDOUT:
		return "this KVM forwards no hypercall: it hangs in a guest's VMCALL: use a machine "
		       "whose CPU has SVM or VT-x, or run Karma in `scripts/soft-host`";
	case -ENOTSUP:
		return "this KVM forwards no hypercall: use Linux 5.15 or later on a CPU with SVM or "
		       "VT-x, or run Karma in `scripts/soft-host`";
	default:
		return "this KVM could not run a probe guest: see the kernel's log (dmesg), or run "
		       "Karma in `scripts/soft-host`";
	}
}
