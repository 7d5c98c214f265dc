// SPDX-License-Identifier: GPL-2.0-only
/* Runs all unit tests: messages of the code under test are shown with KARMA_TEST_VERBOSE set. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#include "guest.h"

/* There only in builds with a sanitizer. */
void __sanitizer_set_report_fd(void *fd) __attribute__((weak));

static int saved_stderr = -1;

/* What a sanitizer finds is not to be silenced; it forgets its file in every new process. */
static void keep_reports(void)
{
	if (__sanitizer_set_report_fd)
		__sanitizer_set_report_fd((void *)(intptr_t)saved_stderr);
}

static void silence_messages(void)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	saved_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100);
	if (null < 0 || saved_stderr < 0)
		return;
	keep_reports();
	pthread_atfork(NULL, NULL, keep_reports);
	dup2(null, STDERR_FILENO);
	close(null);
}

int main(void)
{
	Suite *(*const suites[])(void) = {
		memory_suite,
		queue_suite,
		transport_suite,
		life_cycle_suite,
		device_state_suite,
		ring_suite,
		blk_suite,
		console_suite,
		rng_suite,
		pmem_suite,
		balloon_suite,
		hypercall_suite,
		generation_suite,
		kernel_log_suite,
		options_suite,
		root_suite,
		modules_suite,
		options_share_suite,
		config_suite,
		log_suite,
		getent_suite,
		cpuid_suite,
		boot_suite,
		load_suite,
		watchdog_suite,
		notify_suite,
		unpack_suite, kaslr_suite,
		limit_suite,
		file_suite,
		direct_suite,
		overlay_suite,
		overlay_death_suite,
		net_suite,
		nbd_suite,
		passt_suite,
		control_suite,
		vsock_suite,
		agent_suite,
		oci_suite,
		share_suite,
		vhost_user_suite,
		state_suite,
		snapshot_memory_suite,
		vm_state_suite,
		restore_suite,
		saved_disks_suite,
	};
	SRunner *runner = srunner_create(NULL);
	int failed;

	if (!getenv("KARMA_TEST_VERBOSE"))
		silence_messages();
	/* Kernels of tests do not belong into the user's cache. */
	setenv("KARMA_CACHE_DIR", "", 1);
	/* The tests' limits end one that hangs; a busy machine shall not fail one. */
	setenv("CK_TIMEOUT_MULTIPLIER", "5", 0);
	/* As the monitor does: what can't be written is an error, not an end. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	for (size_t i = 0; i < ARRAY_SIZE(suites); i++)
		srunner_add_suite(runner, suites[i]());
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
