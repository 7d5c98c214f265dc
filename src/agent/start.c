// SPDX-License-Identifier: GPL-2.0-only
#include "start.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "karma/status.h"
#include "karma/util.h"

#define CANNOT_RUN 126		/* as of a shell */
#define NOT_FOUND 127
#define SIGNALS 64

static int open_terminal(struct ends *ends, const struct exec_request *request, const struct user *user)
{
	struct winsize size = { .ws_row = request->rows, .ws_col = request->columns };
	int master, slave;

	if (openpty(&master, &slave, NULL, NULL, &size) < 0)
		return -errno;
	fcntl(master, F_SETFD, FD_CLOEXEC);
	fcntl(slave, F_SETFD, FD_CLOEXEC);
	fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
	ends->input = ends->outputs[0] = master;
	for (unsigned i = 0; i < 3; i++)
		ends->theirs[i] = slave;
	/* Whoever runs there may open it by its name.  Not on all file systems. */
	if (fchown(slave, user->uid, -1) < 0)
		return errno == EROFS || errno == EPERM ? 0 : -errno;
	/* A process of a container's has a session of its own. */
	return !request->process && ioctl(slave, TIOCSCTTY, 0) < 0 ? -errno : 0;
}

static int open_pipes(struct ends *ends, bool input)
{
	int fds[2];

	if (input) {
		if (pipe2(fds, O_CLOEXEC) < 0)
			return -errno;
		ends->theirs[0] = fds[0];
		ends->input = fds[1];
		fcntl(ends->input, F_SETFL, O_WRONLY | O_NONBLOCK);
	} else {
		ends->theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (ends->theirs[0] < 0)
			return -errno;
	}
	for (unsigned i = 0; i < 2; i++) {
		if (pipe2(fds, O_CLOEXEC) < 0)
			return -errno;
		ends->outputs[i] = fds[0];
		ends->theirs[1 + i] = fds[1];
		fcntl(ends->outputs[i], F_SETFL, O_RDONLY | O_NONBLOCK);
	}
	return 0;
}

int start_open(struct ends *ends, const struct exec_request *request, const struct user *user)
{
	return request->flags & AGENT_EXEC_TERMINAL ? open_terminal(ends, request, user) :
						      open_pipes(ends, request->flags & AGENT_EXEC_INPUT);
}

static void set_default_signals(void)
{
	sigset_t none;

	for (int number = 1; number < SIGNALS; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int enter_directory(const struct exec_request *request, const struct user *user)
{
	if (request->directory[0])
		return chdir(request->directory) < 0 ? -errno : 0;
	/* As a login does where the home is missing. */
	return chdir(user->home) < 0 && chdir("/") < 0 ? -errno : 0;
}

static int lead_group(const struct exec_request *request, const struct ends *ends)
{
	/* To take the terminal as a background process would stop us. */
	signal(SIGTTOU, SIG_IGN);
	if (setpgid(0, 0) < 0 ||
		(request->flags & AGENT_EXEC_TERMINAL && tcsetpgrp(ends->theirs[0], getpid()) < 0))
		return -errno;
	return 0;
}

static int lead_session(const struct exec_request *request, const struct ends *ends)
{
	if (setsid() < 0 || (request->flags & AGENT_EXEC_TERMINAL && ioctl(ends->theirs[0], TIOCSCTTY, 0) < 0))
		return -errno;
	return 0;
}

/* A login, or a process as a container's runtime wants it.  0 or a negative errno. */
static int become_user(const struct exec_request *request, const struct user *user)
{
	int result;

	if (request->process)
		return process_become(request->process);
	umask(022);
	result = user_set_environment(user);
	return result == 0 ? user_become(user) : result;
}

/* As other runtimes do where it is not told. */
static int set_home(const struct process *process)
{
	struct user user = { .home = "/" };
	char number[16];

	snprintf(number, sizeof(number), "%u", process->uid);
	if (user_find(&user, number) < 0)
		strcpy(user.home, "/");
	return setenv("HOME", user.home, 0) ? -ENOMEM : 0;
}

static int set_environment(const struct exec_request *request)
{
	int result = request->process && clearenv() ? -ENOMEM : 0;

	for (char **variable = request->environment; result == 0 && *variable; variable++)
		result = putenv(*variable) ? -ENOMEM : 0;
	return result == 0 && request->process ? set_home(request->process) : result;
}

/* In the command's process, up to the program.  Returns if that fails. */
static struct failure become_command(const struct exec_request *request, const struct user *user,
	const struct ends *ends)
{
	int result;

	result = request->process ? lead_session(request, ends) : lead_group(request, ends);
	if (result < 0)
		return (struct failure){ STAGE_SETUP, -result };
	for (int fd = 0; fd < 3; fd++) {
		if (dup2(ends->theirs[fd], fd) < 0)
			return (struct failure){ STAGE_SETUP, errno };
	}
	set_default_signals();
	if (request->program) {
		execvp(request->program[0], request->program);
		return (struct failure){ STAGE_RUN, errno };
	}
	result = request->container ? container_enter(request->container) : 0;
	if (result < 0)
		return (struct failure){ STAGE_SETUP, -result };
	/* A process's directory need not be open to its user. */
	if (request->process)
		result = enter_directory(request, user);
	if (result < 0)
		return (struct failure){ STAGE_DIRECTORY, -result };
	result = become_user(request, user);
	if (result == 0)
		result = set_environment(request);
	if (result < 0)
		return (struct failure){ STAGE_USER, -result };
	if (!request->process)
		result = enter_directory(request, user);
	if (result < 0)
		return (struct failure){ STAGE_DIRECTORY, -result };
	execvp(request->arguments[0], request->arguments);
	return (struct failure){ STAGE_RUN, errno };
}

unsigned start_refuse(struct agent_link *link, const struct exec_request *request, const struct failure *failure)
{
	const char *what = failure->stage == STAGE_DIRECTORY ? request->directory :
		failure->stage == STAGE_RUN && request->program ? request->program[0] :
		failure->stage == STAGE_RUN		     ? request->arguments[0] :
		failure->stage == STAGE_USER && request->user[0] ? request->user :
								   "can't start a command";
	unsigned status = failure->stage != STAGE_RUN ? STATUS_FAILURE :
		failure->error == ENOENT	      ? NOT_FOUND :
							CANNOT_RUN;
	char text[AGENT_TEXT_MAX];

	if (failure->stage == STAGE_USER && failure->error == ENOENT)
		snprintf(text, sizeof(text), "%s: no such user in /etc/passwd", what);
	else
		snprintf(text, sizeof(text), "%s: %s", what, strerror(failure->error));
	agent_link_put_error(link, status, failure->error, text);
	return status;
}

/* What the process says before it is the program; nothing if it is. */
static struct failure hear(int fd)
{
	struct failure failure = { STAGE_NONE, 0 };

	while (read(fd, &failure, sizeof(failure)) < 0 && errno == EINTR)
		;
	return failure;
}

struct failure start_fork(pid_t *pid, const struct exec_request *request, const struct user *user, const struct ends *ends)
{
	struct failure failure;
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return (struct failure){ STAGE_SETUP, errno };
	*pid = request->container ? syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, 0ul) : fork();
	if (*pid == 0) {
		failure = become_command(request, user, ends);
		_exit(write(fds[1], &failure, sizeof(failure)) < 0);
	}
	failure = *pid < 0 ? (struct failure){ STAGE_SETUP, errno } : (struct failure){ STAGE_NONE, 0 };
	close(fds[1]);
	if (*pid > 0)
		failure = hear(fds[0]);
	close(fds[0]);
	if (*pid > 0 && failure.stage != STAGE_NONE)
		waitpid(*pid, NULL, 0);
	return failure;
}
