// SPDX-License-Identifier: GPL-2.0-only
/* The process that runs a guest, and what its supervisor does with it. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "karma/log.h"
#include "karma/process.h"
#include "karma/util.h"

pid_t process_start(struct process *process, struct sandbox *sandbox)
{
	pid_t pid;

	if (pipe2(process->signals, O_CLOEXEC | O_NONBLOCK) < 0)
		return fail(-errno, "pipe: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	pid = sandbox_fork(sandbox, &process->pidfd);
	if (pid < 0) {
		close(process->signals[0]);
		close(process->signals[1]);
		return fail(pid, "can't start the guest's process: %s: raise the limits of processes and "
				 "open files (ulimit -u, -n)",
			strerror(-pid));
	}
	process->pid = pid;
	return pid;
}

void process_signal(const struct process *process, int number)
{
	uint8_t byte = number;

	/* Full only if thousands came and none was taken. */
	if (write(process->signals[1], &byte, 1) < 0)
		return;
}

int process_take_signal(const struct process *process)
{
	uint8_t byte;

	return read(process->signals[0], &byte, 1) == 1 ? byte : 0;
}

void process_allow(const struct process *process, uint64_t file_bytes)
{
	struct rlimit limit;

	/* It may have ended. */
	if (!file_bytes || prlimit(process->pid, RLIMIT_FSIZE, NULL, &limit) < 0)
		return;
	limit.rlim_cur = file_bytes < limit.rlim_max ? file_bytes : limit.rlim_max;
	if (prlimit(process->pid, RLIMIT_FSIZE, &limit, NULL) < 0)
		note("a disk that has grown can't be written to beyond its first size: %s",
			strerror(errno));
}

int process_wait(struct process *process, int failure)
{
	int status;

	while (waitpid(process->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(process->pidfd);
	close(process->signals[0]);
	close(process->signals[1]);
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	fail(-EIO, "the guest's process was killed by signal %d (%s): see the kernel's log (dmesg)",
		WTERMSIG(status), strsignal(WTERMSIG(status)));
	return failure;
}
