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
	/* Those of what several threads share, or what depends on the clock, are run under TSan, too. */
	static const struct {
		Suite *(*make)(void);
		bool threads;
	} suites[] = {
		{ memory_suite, false },
		{ queue_suite, true },
		{ transport_suite, true },
		{ life_cycle_suite, true },
		{ device_state_suite, false },
		{ ring_suite, true },
		{ blk_suite, true },
		{ console_suite, true },
		{ rng_suite, false },
		{ pmem_suite, false },
		{ balloon_suite, true },
		{ hypercall_suite, true },
		{ generation_suite, false },
		{ kernel_log_suite, false },
		{ options_suite, false },
		{ root_suite, false },
		{ modules_suite, false },
		{ options_share_suite, false },
		{ config_suite, false },
		{ log_suite, false },
		{ getent_suite, false },
		{ cpuid_suite, false },
		{ boot_suite, false },
		{ load_suite, false },
		{ watchdog_suite, true },
		{ notify_suite, false },
		{ unpack_suite, false },
		{ kaslr_suite, false },
		{ limit_suite, true },
		{ file_suite, true },
		{ direct_suite, true },
		{ overlay_suite, true },
		{ overlay_death_suite, false },
		{ net_suite, true },
		{ nbd_suite, true },
		{ passt_suite, false },
		{ control_suite, false },
		{ vsock_suite, true },
		{ agent_suite, false },
		{ oci_suite, false },
		{ share_suite, true },
		{ vhost_user_suite, true },
		{ state_suite, false },
		{ snapshot_memory_suite, false },
		{ vm_state_suite, false },
		{ restore_suite, false },
		{ saved_disks_suite, false },
		{ warm_images_suite, false },
	};
	const bool threads_only = getenv("KARMA_TEST_THREADS");
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
	for (size_t i = 0; i < ARRAY_SIZE(suites); i++) {
		if (suites[i].threads || !threads_only)
			srunner_add_suite(runner, suites[i].make());
	}
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
