// SPDX-License-Identifier: GPL-2.0-only
/* The command by the guest's agent, and the process that joins it to our standard streams. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "internal.h"
#include "karma/agent_client.h"
#include "karma/agent_protocol.h"
#include "karma/log.h"

#define END_MILLISECONDS 500

_Static_assert(VSOCK_COMMAND_PORT == AGENT_PORT, "the agent connects where it listens");

/* Input, output and error output. */
static bool are_one_terminal(void)
{
	struct stat first, other;

	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (!isatty(fd) || fstat(fd, &other) < 0)
			return false;
		if (fd == STDIN_FILENO)
			first = other;
		else if (other.st_rdev != first.st_rdev)
			return false;
	}
	return true;
}

/* A console that one types on is the command's.  Unknown ones are refused later. */
static bool has_input(const char *console)
{
	return strcmp(console, "stdio") == 0 || strcmp(console, "pty") == 0 || strncmp(console, "unix:", 5) == 0;
}

static bool has_agent(const struct guest *guest)
{
	const struct guest_options *options = &guest->options;

	if (guest->initramfs)
		return boot_initrd_has_agent(guest->initramfs);
	for (size_t i = 0; i < options->initrd_count; i++) {
		if (boot_initrd_has_agent(options->initrds[i]))
			return true;
	}
	return false;
}

/* In the background the terminal's input is another process group's. */
static bool takes_input(void)
{
	return !isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) == getpgrp();
}

/* In the process of the client. */
static void run_client(const struct guest *guest, int socket)
{
	const struct agent_command *container = guest->options.container.command;
	const struct agent_command command = {
		/* Init knows all of it; the name is for messages. */
		.arguments = (const char *const *)guest->options.command,
		.argument_count = 1,
		.guest_ends_it = true,
		.input = takes_input(),
		.fds = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO },
	};

	prctl(PR_SET_NAME, "karma-command");
	/* Keys that make signals are the supervisor's; or the container's, whose terminal this serves. */
	if (!container)
		setsid();
	if (dup2(socket, STDERR_FILENO + 1) < 0 || close_range(STDERR_FILENO + 2, ~0u, 0) < 0)
		_exit(1);
	_exit(agent_run_command(STDERR_FILENO + 1, container ? NULL : guest->name, container ? container : &command));
}

/* Signals for a container are blocked in both processes, and its client takes them. */
static void send_pending(struct agent_client *client)
{
	for (int number = 1; client->pid > 0 && number <= 64; number++) {
		if (client->pending >> (number - 1) & 1)
			kill(client->pid, number);
	}
	client->pending = 0;
}

void agent_signal(struct agent_client *client, int number)
{
	if (client->pid > 0)
		kill(client->pid, number);
	else
		client->pending |= 1ull << (number - 1);
}

/* For the connector: the guest's end, once for each start. */
static int connect_command(void *context)
{
	struct guest *guest = context;
	struct agent_client *client = &guest->agent;
	int ends[2], result;

	if (client->pid >= 0)
		return -ECONNREFUSED;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return -errno;
	client->pid = fork();
	if (client->pid == 0)
		run_client(guest, ends[0]);
	send_pending(client);
	result = client->pid < 0 ? -errno : ends[1];
	close(ends[0]);
	if (result < 0) {
		fail(result, "can't start the process that joins the command to standard input and output: %s: raise the "
			     "limit of processes (ulimit -u)", strerror(-result));
		close(ends[1]);
		return result;
	}
	client->pidfd = syscall(SYS_pidfd_open, client->pid, 0);
	return result;
}

int agent_choose(struct guest *guest)
{
	struct guest_options *options = &guest->options;
	/* A command that goes on does so on the console that it had. */
	bool there = options->command && !guest_restores(guest) && has_agent(guest);

	if (options->container.command && !there)
		return fail(-ENOENT, "the initramfs has no karma-agent, which runs the container's process: build it anew "
				     "with `make guest`");
	if (options->root.directory && !there)
		return fail(-ENOENT, "--root: the initramfs has no karma-agent, which runs the command there: build it "
				     "anew with `make guest`");
	options->agent = options->container.command ||
		(there && !(options->console && has_input(options->console)) && !are_one_terminal());
	if (!options->console)
		options->console = options->agent ? "stderr" : "stdio";
	if (!options->agent)
		return 0;
	options->vsock.on = true;
	guest->vsock.connect_command = connect_command;
	guest->vsock.context = guest;
	return 0;
}

void agent_end(struct agent_client *client)
{
	struct pollfd ended = { .fd = client->pidfd, .events = POLLIN };

	if (client->pid < 0)
		return;
	/* Without the guest its connection is at its end; what remains is a reader that does not read. */
	if (client->pidfd < 0 || poll(&ended, 1, END_MILLISECONDS) <= 0)
		kill(client->pid, SIGKILL);
	while (waitpid(client->pid, NULL, 0) < 0 && errno == EINTR)
		;
	close_fd(&client->pidfd);
	*client = AGENT_CLIENT_NONE;
}
