// SPDX-License-Identifier: GPL-2.0-only
/*
 * Let one system call of a command fail: inject NUMBER COMMAND [ARGUMENT]...
 *
 * Calls are counted over all its processes and threads, in the order in which they come, from the first
 * getppid() on, which is Karma's first of its own.  That with the NUMBER isn't made, and gives the error
 * that it most likely would.  Some can't fail, or their failure is no news: these are not counted.
 *
 * Prints the call, or "none" if there were fewer; with 0 for the NUMBER, how many there were.  The exit
 * status is the command's, or 128 and a signal's number.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | \
	PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)
#define TASKS_MAX 256

static struct task {
	pid_t pid;
	bool inside;	/* between the entry to a call and its return */
	long failed;	/* that call */
	int error;	/* what it is to give, or 0 */
} tasks[TASKS_MAX];

static bool counting;
static unsigned long wanted, count;
static long chosen = -1;

static struct task *task_of(pid_t pid)
{
	struct task *free_one = NULL;

	for (size_t i = 0; i < TASKS_MAX; i++) {
		if (tasks[i].pid == pid)
			return &tasks[i];
		if (!tasks[i].pid && !free_one)
			free_one = &tasks[i];
	}
	if (!free_one) {
		fputs("inject: too many threads\n", stderr);
		exit(125);
	}
	*free_one = (struct task){ .pid = pid };
	return free_one;
}

static bool counts(long number)
{
	switch (number) {
	case SYS_exit:
	case SYS_exit_group:
	case SYS_rt_sigreturn:
	case SYS_restart_syscall:
	case SYS_futex:		/* the C library takes a failure of these for a bug, and aborts */
	case SYS_rseq:
	case SYS_close:		/* the descriptor would stay */
	case SYS_getpid:
	case SYS_gettid:
	case SYS_getppid:
	case SYS_geteuid:
	case SYS_wait4:
	case SYS_clock_gettime:
	case SYS_clock_nanosleep:
		return false;
	default:
		return true;
	}
}

static int error_of(long number)
{
	switch (number) {
	case SYS_openat:
	case SYS_pipe2:
	case SYS_eventfd2:
	case SYS_signalfd4:
	case SYS_dup:
	case SYS_fcntl:
		return EMFILE;
	case SYS_mmap:
	case SYS_munmap:
	case SYS_mprotect:
	case SYS_brk:
	case SYS_memfd_create:
	case SYS_io_uring_register:
		return ENOMEM;
	case SYS_clone:
	case SYS_clone3:
		return EAGAIN;
	case SYS_read:
	case SYS_pread64:
	case SYS_ioctl:
		return EIO;
	case SYS_write:
		return ENOSPC;
	case SYS_poll:
		return EINTR;
	default:
		return EPERM;
	}
}

static void at_entry(struct task *task, struct user_regs_struct *registers)
{
	long number = registers->orig_rax;

	if (number == SYS_getppid)
		counting = true;
	/* To ask where the break is can't fail. */
	if (number == SYS_brk && !registers->rdi)
		return;
	if (!counting || !counts(number) || ++count != wanted)
		return;
	chosen = task->failed = number;
	task->error = error_of(number);
	registers->orig_rax = -1;
	ptrace(PTRACE_SETREGS, task->pid, NULL, registers);
}

static void at_return(struct task *task, struct user_regs_struct *registers)
{
	if (!task->error)
		return;
	/* The break stays where it was, below what was asked for. */
	registers->rax = task->failed == SYS_brk ? 0 : -task->error;
	ptrace(PTRACE_SETREGS, task->pid, NULL, registers);
	task->error = 0;
}

static void at_call(struct task *task)
{
	struct user_regs_struct registers;

	if (ptrace(PTRACE_GETREGS, task->pid, NULL, &registers) < 0)
		return;
	task->inside = !task->inside;
	if (task->inside)
		at_entry(task, &registers);
	else
		at_return(task, &registers);
}

static pid_t start(char **command)
{
	pid_t child = fork();

	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		execvp(command[0], command);
		_exit(127);
	}
	if (child < 0 || waitpid(child, NULL, 0) != child ||
		ptrace(PTRACE_SETOPTIONS, child, NULL, OPTIONS) < 0 ||
		ptrace(PTRACE_SYSCALL, child, NULL, NULL) < 0) {
		perror("inject");
		exit(125);
	}
	return child;
}

/* What stopped, and the signal that it is to get when it goes on. */
static int serve_stop(struct task *task, int status)
{
	int signal = WSTOPSIG(status);

	if (signal == (SIGTRAP | 0x80)) {
		at_call(task);
		return 0;
	}
	/* New ones stop at first, and a fork() is told of. */
	if (status >> 16 || (signal == SIGSTOP && !task->inside))
		return 0;
	return signal;
}

static int follow(pid_t first)
{
	int status, result = 125;
	pid_t pid;

	while ((pid = waitpid(-1, &status, __WALL)) > 0) {
		struct task *task = task_of(pid);

		if (WIFSTOPPED(status)) {
			int signal = serve_stop(task, status);

			ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(long)signal);
			continue;
		}
		*task = (struct task){ 0 };
		if (pid == first)
			result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	return result;
}

int main(int argc, char **argv)
{
	int status;

	if (argc < 3) {
		fputs("usage: inject NUMBER COMMAND [ARGUMENT]...\n", stderr);
		return 125;
	}
	wanted = strtoul(argv[1], NULL, 10);
	status = follow(start(argv + 2));
	if (!wanted)
		printf("%lu\n", count);
	else if (chosen < 0)
		puts("none");
	else
		printf("%ld %s\n", chosen, strerror(error_of(chosen)));
	return status;
}
