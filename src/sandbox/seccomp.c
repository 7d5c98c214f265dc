// SPDX-License-Identifier: GPL-2.0-only
/* Load the seccomp filter for a kind of thread. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "filters.h"
#include "internal.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/util.h"
#include "tables/tables.h"

#define FILTER_MAX 128u

struct filter {
	const char *name;
	const struct sock_filter *instructions;
	unsigned count;
};

static const struct filter filters[] = {
	[SANDBOX_MAIN] = { "main", main_filter, ARRAY_SIZE(main_filter) },
	[SANDBOX_IO] = { "I/O", io_filter, ARRAY_SIZE(io_filter) },
	[SANDBOX_VCPU] = { "vCPU", vcpu_filter, ARRAY_SIZE(vcpu_filter) },
	[SANDBOX_UNPACKER] = { "unpacking", unpacker_filter, ARRAY_SIZE(unpacker_filter) },
	[SANDBOX_SHARE] = { "file server's", share_filter, ARRAY_SIZE(share_filter) },
};

/* With vhost-user devices; a kind that needs nothing more has none. */
static const struct filter vhost_user_filters[] = {
	[SANDBOX_MAIN] = { "main", main_vhost_user_filter, ARRAY_SIZE(main_vhost_user_filter) },
	[SANDBOX_VCPU] = { "vCPU", vcpu_vhost_user_filter, ARRAY_SIZE(vcpu_vhost_user_filter) },
};

static _Thread_local const char *own_name = "unknown";

/*
 * SIGSYS.  A guest that has broken out controls the thread, and so this handler too.  It gains nothing: the handler
 * has no right beyond the filter's, and does not return.
 */
static void forbidden_call(int signal, siginfo_t *info, void *context)
{
	unsigned number = info->si_syscall;

	(void)signal;
	(void)context;
	fail(-EPERM,
		"sandbox: the %s thread made a system call that it may not make: %s (%u): ended, since "
		"the guest may have broken out: please report it as SECURITY.md says",
		own_name,
		number < ARRAY_SIZE(call_names) && call_names[number][0] ? call_names[number] : "unknown",
		number);
	syscall(SYS_exit_group, STATUS_FAILURE);
}

static uint32_t number_for(uint32_t placeholder, const struct sandbox_descriptors *descriptors)
{
	switch (placeholder) {
	case SANDBOX_VCPU_FD:
		return descriptors->vcpu;
	case SANDBOX_VM_FD:
		return descriptors->vm;
	case SANDBOX_TERMINAL_FD:
		return descriptors->terminal;
	case SANDBOX_OWN_PID:
		return getpid();
	default:
		return placeholder;
	}
}

static int load(const struct filter *filter, const struct sandbox_descriptors *descriptors)
{
	struct sock_filter instructions[FILTER_MAX];
	struct sock_fprog program = { filter->count, instructions };

	_Static_assert(ARRAY_SIZE(main_filter) <= FILTER_MAX && ARRAY_SIZE(io_filter) <= FILTER_MAX &&
			ARRAY_SIZE(vcpu_vhost_user_filter) <= FILTER_MAX &&
			ARRAY_SIZE(main_vhost_user_filter) <= FILTER_MAX &&
			ARRAY_SIZE(share_filter) <= FILTER_MAX,
		"raise FILTER_MAX");
	memcpy(instructions, filter->instructions, filter->count * sizeof(instructions[0]));
	for (unsigned i = 0; i < filter->count; i++) {
		if (BPF_CLASS(instructions[i].code) == BPF_JMP)
			instructions[i].k = number_for(instructions[i].k, descriptors);
	}
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? -errno : 0;
}

int sandbox_filter(enum sandbox_thread thread, const struct sandbox_descriptors *descriptors)
{
	struct sigaction action = { .sa_sigaction = forbidden_call, .sa_flags = SA_SIGINFO };
	const struct filter *filter = &filters[thread];
	int result = 0;

	if (descriptors->vhost_user && thread < ARRAY_SIZE(vhost_user_filters) && vhost_user_filters[thread].count)
		filter = &vhost_user_filters[thread];
	own_name = filter->name;
	if (sigaction(SIGSYS, &action, NULL) < 0)
		result = -errno;
	if (result == 0)
		result = load(filter, descriptors);
	if (result < 0)
		return fail(result, "sandbox: can't filter system calls: %s: use a kernel with seccomp, or "
				    "give --no-sandbox",
			strerror(-result));
	return 0;
}
