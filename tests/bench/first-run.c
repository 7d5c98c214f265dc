// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tell the CPU time that a monitor takes before its first KVM_RUN, by standing in for ioctl().
 *
 * At the first KVM_RUN the CPU time of the whole process so far, and of the one that Karma starts it
 * from, in microseconds, is written to the file that FIRST_RUN_FILE names.  For Karma three more follow
 * on the line: how much of it went into loading the kernel, into loading the initramfs, and the rest.
 * If FIRST_RUN_END is set, the process ends there.  So it can be measured wherever KVM makes VMs and
 * vCPUs, even if it can't run them.
 *
 * Where there is no KVM at all, FIRST_RUN_NO_KVM has Karma start with a stand-in, whose calls do next to
 * nothing: what is told then is Karma's own part, and KVM's is missing.
 *
 * There are two ways in.  As a shared library in LD_PRELOAD, for any monitor that is linked
 * dynamically.  Linked with Karma's own objects by --wrap for each function that has __wrap_ before
 * its name below (compile it with FIRST_RUN_WRAP then), however those are linked; with FIRST_RUN_END,
 * Karma takes the CPU for one with SVM or VT-x, so that it starts as it does there.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "karma/util.h"

#define VCPU_BYTES 12288	/* of struct kvm_run and what KVM has behind it */

/* Opened at the start: later, the monitor may have given up the right to open files. */
static int report = -1;
static bool ends, no_kvm;
static long long kernel_time, initramfs_time;
static _Atomic long long *parent_time;	/* what Karma has taken until its guest's process was there */

static void __attribute__((constructor)) open_file(void)
{
	const char *path = getenv("FIRST_RUN_FILE");

	if (path)
		report = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	parent_time = mmap(NULL, sizeof(*parent_time), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (parent_time == MAP_FAILED)
		_exit(EXIT_FAILURE);
	ends = getenv("FIRST_RUN_END") != NULL;
	no_kvm = getenv("FIRST_RUN_NO_KVM") != NULL;
}

static long long cpu_time(void)
{
	struct timespec spent;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
	return spent.tv_sec * 1000000ll + spent.tv_nsec / 1000;
}

static void tell_cpu_time(void)
{
	long long all = cpu_time() + *parent_time;
	char text[96];
	int length = snprintf(text, sizeof(text), "%lld %lld %lld %lld\n", all, kernel_time,
		initramfs_time, all - kernel_time - initramfs_time);

	if (write_bytes(report, text, length) != length)
		_exit(EXIT_FAILURE);
}

#ifdef FIRST_RUN_WRAP
#define ioctl __wrap_ioctl

bool __real_cpu_has_virtualization(void);
bool __wrap_cpu_has_virtualization(void);

bool __wrap_cpu_has_virtualization(void)
{
	return ends || __real_cpu_has_virtualization();
}

int __real_kvm_open(void);
int __wrap_kvm_open(void);

int __wrap_kvm_open(void)
{
	return no_kvm ? memfd_create("kvm", MFD_CLOEXEC) : __real_kvm_open();
}

/* Files in the place of the VM and its vCPUs, and all is well. */
static int stand_in(unsigned long request, void *argument)
{
	int fd;

	switch (request) {
	case KVM_CHECK_EXTENSION:
		return INT_MAX;
	case KVM_GET_VCPU_MMAP_SIZE:
		return VCPU_BYTES;
	case KVM_CREATE_VM:
		return memfd_create("vm", MFD_CLOEXEC);
	case KVM_CREATE_VCPU:
		fd = memfd_create("vcpu", MFD_CLOEXEC);
		return ftruncate(fd, VCPU_BYTES) < 0 ? -1 : fd;
	case KVM_GET_SUPPORTED_CPUID:
		((struct kvm_cpuid2 *)argument)->nent = 0;
		return 0;
	case KVM_SET_MSRS:
		return ((struct kvm_msrs *)argument)->nmsrs;
	default:
		return 0;
	}
}

pid_t __real_sandbox_fork(void *sandbox, int *pidfd);
pid_t __wrap_sandbox_fork(void *sandbox, int *pidfd);

pid_t __wrap_sandbox_fork(void *sandbox, int *pidfd)
{
	pid_t pid = __real_sandbox_fork(sandbox, pidfd);

	if (pid > 0)
		*parent_time += cpu_time();
	return pid;
}

int __real_elf_load(const void *memory, const void *file, void *image);
int __wrap_elf_load(const void *memory, const void *file, void *image);

int __wrap_elf_load(const void *memory, const void *file, void *image)
{
	long long start = cpu_time();
	int result = __real_elf_load(memory, file, image);

	kernel_time += cpu_time() - start;
	return result;
}

int __real_bzimage_load(const void *memory, const void *file, void *image);
int __wrap_bzimage_load(const void *memory, const void *file, void *image);

int __wrap_bzimage_load(const void *memory, const void *file, void *image)
{
	long long start = cpu_time();
	int result = __real_bzimage_load(memory, file, image);

	kernel_time += cpu_time() - start;
	return result;
}

int __real_initrd_load(const void *memory, const void *options, const void *image, void *initrd);
int __wrap_initrd_load(const void *memory, const void *options, const void *image, void *initrd);

int __wrap_initrd_load(const void *memory, const void *options, const void *image, void *initrd)
{
	long long start = cpu_time();
	int result = __real_initrd_load(memory, options, image, initrd);

	initramfs_time += cpu_time() - start;
	return result;
}
#endif

int ioctl(int fd, unsigned long request, ...);

int ioctl(int fd, unsigned long request, ...)
{
	static atomic_flag seen = ATOMIC_FLAG_INIT;
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request == KVM_RUN && report >= 0 && !atomic_flag_test_and_set(&seen)) {
		tell_cpu_time();
		if (ends)
			_exit(EXIT_SUCCESS);
	}
#ifdef FIRST_RUN_WRAP
	if (no_kvm && _IOC_TYPE(request) == KVMIO)
		return stand_in(request, argument);
#endif
	return syscall(SYS_ioctl, fd, request, argument);
}
