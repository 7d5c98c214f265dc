// SPDX-License-Identifier: GPL-2.0-only
/* The guest's process, as its supervisor holds it: fork, orders, end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "karma/log.h"
#include "karma/util.h"
#include "process.h"

static void close_all(struct process *process)
{
	int *const fds[] = { &process->pidfd, &process->orders[0], &process->orders[1], &process->replies };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close_fd(fds[i]);
	*process = PROCESS_NONE;
}

static int open_all(struct process *process)
{
	*process = PROCESS_NONE;
	if (pipe2(process->orders, O_CLOEXEC | O_NONBLOCK) < 0)
		return fail(-errno, "pipe: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	process->replies = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (process->replies < 0)
		return fail(-errno, "eventfd: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	return 0;
}

pid_t process_start(struct process *process, struct sandbox *sandbox)
{
	pid_t pid = open_all(process);

	if (pid == 0) {
		pid = sandbox_fork(sandbox, &process->pidfd);
		if (pid < 0)
			fail(pid, "can't start the guest's process: %s: raise the limits of processes and "
				  "open files (ulimit -u, -n)",
				strerror(-pid));
	}
	if (pid < 0)
		close_all(process);
	else
		process->pid = pid;
	return pid;
}

int process_send_order(const struct process *process, const struct order *order)
{
	/* No more than PIPE_BUF, so it is written whole or not at all (pipe(7)). */
	return write_bytes(process->orders[1], order, sizeof(*order)) < 0 ? -errno : 0;
}

void process_signal(const struct process *process, int number)
{
	process_send_order(process, &(struct order){ .kind = ORDER_SIGNAL, .value = number });
}

void process_notify_reply(const struct process *process)
{
	const uint64_t one = 1;

	/* It fails only if the counter is at its maximum, and then the eventfd is raised already. */
	if (write_bytes(process->replies, &one, sizeof(one)) < 0)
		return;
}

void process_clear_replies(const struct process *process)
{
	uint64_t count;

	/* Without a reply there is nothing to reset: the descriptor is non-blocking. */
	if (read_bytes(process->replies, &count, sizeof(count)) < 0)
		return;
}

struct order process_receive_order(const struct process *process)
{
	struct order order;

	if (read_bytes(process->orders[0], &order, sizeof(order)) != sizeof(order))
		order.kind = ORDER_NONE;
	return order;
}

void process_set_file_limit(const struct process *process, uint64_t file_bytes)
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

void process_kill(const struct process *process)
{
	syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
}

int process_wait(struct process *process, int failure)
{
	int status;

	while (waitpid(process->pid, &status, 0) < 0 && errno == EINTR)
		;
	close_all(process);
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	fail(-EIO, "the guest's process was killed by signal %d (%s): see the kernel's log (dmesg)",
		WTERMSIG(status), strsignal(WTERMSIG(status)));
	return failure;
}
