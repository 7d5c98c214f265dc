// SPDX-License-Identifier: GPL-2.0-only
/*
 * Karma whose guests never run: what operates them can be tested with many at once, wherever KVM makes
 * VMs and vCPUs, even if it can't run them.
 *
 * Linked with Karma's own objects by --wrap for each function that has __wrap_ before its name here.
 */
#include <errno.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

bool __wrap_cpu_has_virtualization(void);
int __wrap_ioctl(int fd, unsigned long request, ...);

/* It need not: the test guest of kvm_probe() is not to run, either. */
bool __wrap_cpu_has_virtualization(void)
{
	return true;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	static uint32_t never;
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request != KVM_RUN)
		return syscall(SYS_ioctl, fd, request, argument);
	/* As a guest that is halted: until a signal.  A system call that a vCPU's thread may make. */
	syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, NULL);
	errno = EINTR;
	return -1;
}
