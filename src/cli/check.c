// SPDX-License-Identifier: GPL-2.0-only
/* karma check: can this host run guests?  One line a finding, each with its cure. */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "karma/cli.h"
#include "karma/io.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/sandbox.h"
#include "karma/util.h"
#include "karma/vm.h"

#define OPEN_FILES_LEAST 256

enum finding { OK, WARNING, FAILURE };

struct report {
	bool colour;
	unsigned failures;
};

__attribute__((format(printf, 3, 4))) static void find(
	struct report *report, enum finding finding, const char *format, ...)
{
	static const char *const words[] = { "ok     ", "warning", "FAIL   " };
	static const char *const colours[] = { "\033[32m", "\033[33m", "\033[31m" };
	va_list arguments;

	printf("%s%s%s  ", report->colour ? colours[finding] : "", words[finding],
		report->colour ? "\033[0m" : "");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	report->failures += finding == FAILURE;
}

static void check_cpu(struct report *report)
{
	if (cpu_has_virtualization())
		find(report, OK, "CPU: has SVM or VT-x");
	else
		find(report, WARNING,
			"CPU: tells of neither svm nor vmx: turn it on in the firmware, or, in a virtual "
			"machine, ask for nested virtualization; `scripts/soft-host` works without");
}

static void check_capabilities(struct report *report, int kvm)
{
	for (unsigned i = 0; i < kvm_need_count; i++) {
		const struct kvm_need *need = &kvm_needs[i];

		if (ioctl(kvm, KVM_CHECK_EXTENSION, need->capability) < need->at_least)
			find(report, FAILURE, "KVM: lacks %s, for %s: use Linux 5.15 or later, with a "
					      "KVM that runs on SVM or VT-x",
				need->name, need->purpose);
	}
}

static void check_probe(struct report *report)
{
	int result = kvm_probe();

	if (result == 0)
		find(report, OK, "hypercalls: a probe guest's call reached Karma");
	else
		find(report, FAILURE, "hypercalls: %s", kvm_probe_message(result));
}

static void check_kvm(struct report *report)
{
	/* Prints a message on stderr if it fails. */
	cleanup_fd int kvm = kvm_open();
	unsigned failures = report->failures;

	if (kvm < 0) {
		find(report, FAILURE, "/dev/kvm: can't be used: see the message above");
		return;
	}
	find(report, OK, "/dev/kvm: opened");
	check_capabilities(report, kvm);
	if (report->failures == failures)
		find(report, OK, "KVM: has all %u capabilities that Karma needs", kvm_need_count);
	check_probe(report);
}

static void check_io_uring(struct report *report)
{
	static const int needed[] = { IORING_OP_NOP, IORING_OP_READV, IORING_OP_WRITEV,
		IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_POLL_ADD };
	struct io_uring uring;
	struct io_uring_probe *probe;
	int result = io_uring_queue_init(8, &uring, 0);
	unsigned failures;

	if (result < 0) {
		find(report, FAILURE,
			"io_uring: %s: allow it (sysctl kernel.io_uring_disabled=0; ulimit -l), and use "
			"Linux 5.15 or later",
			strerror(-result));
		return;
	}
	failures = report->failures;
	probe = io_uring_get_probe_ring(&uring);
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		if (!probe || !io_uring_opcode_supported(probe, needed[i]))
			find(report, FAILURE, "io_uring: lacks operation %d: use Linux 5.15 or later",
				needed[i]);
	}
	if (probe)
		io_uring_free_probe(probe);
	io_uring_queue_exit(&uring);
	if (report->failures == failures)
		find(report, OK, "io_uring: works");
}

static void check_sandbox(struct report *report)
{
	const struct sandbox_support support = sandbox_probe();

	if (support.namespaces)
		find(report, OK, "sandbox: namespaces work");
	else
		find(report, WARNING, "sandbox: this host allows you no namespaces, so guests run without: "
				      "allow user namespaces (sysctl user.max_user_namespaces, "
				      "kernel.unprivileged_userns_clone)");
	if (support.landlock)
		find(report, OK, "sandbox: Landlock works");
	else
		find(report, WARNING, "sandbox: the kernel has no Landlock, so guests run without: boot it "
				      "with lsm=landlock,... on its command line");
}

static void check_limits(struct report *report)
{
	struct rlimit files, space;

	getrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_cur < OPEN_FILES_LEAST)
		find(report, WARNING, "limits: %llu open files are few for a guest with many "
				      "devices: `ulimit -n %d`",
			(unsigned long long)files.rlim_cur, OPEN_FILES_LEAST);
	else
		find(report, OK, "limits: %llu open files", (unsigned long long)files.rlim_cur);
	getrlimit(RLIMIT_AS, &space);
	if (space.rlim_cur != RLIM_INFINITY)
		find(report, WARNING, "limits: %llu MiB of address space bound guest memory: "
				      "`ulimit -v unlimited`",
			(unsigned long long)space.rlim_cur / MIB);
}

static const char help[] =
	"usage: karma check\n\nSay whether this host can run guests: a line a finding, each with its cure.\n"
	"Exit status: 0 if guests can run, 1 if not.\n";

int command_check(int argc, char **argv)
{
	struct report report = { .colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR") };

	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		fputs(help, stdout);
		return 0;
	}
	if (argc > 1) {
		fail(-EINVAL, "%s: is one argument too many: see `karma check --help`", argv[1]);
		return STATUS_FAILURE;
	}
	check_cpu(&report);
	check_kvm(&report);
	check_io_uring(&report);
	check_sandbox(&report);
	check_limits(&report);
	if (report.failures)
		puts("This host can't run guests.");
	else
		puts("This host can run guests.");
	return report.failures ? 1 : 0;
}
