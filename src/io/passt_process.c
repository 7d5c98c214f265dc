// SPDX-License-Identifier: GPL-2.0-only
/* passt: its process. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "karma/log.h"
#include "passt.h"

#define SOCKET_BYTES (4 * MIB)		/* of each buffer; the host may give less */
#define START_SECONDS 30
#define MESSAGES_MAX 4096u		/* bytes */
#define ARGUMENTS_MAX (16 + 2 * NET_PUBLISH_MAX)

#define CHILD_SOCKET 3			/* the only descriptor that it gets beside stdio */

/* The last line, except those that complain that there is no system log. */
void passt_last_message(struct passt *passt, char *message, size_t size)
{
	char text[MESSAGES_MAX + 1];
	ssize_t got;

	snprintf(message, size, "it said nothing");
	while ((got = read_bytes(passt->stderr_fd, text, MESSAGES_MAX)) > 0) {
		char *rest = text, *line;

		text[got] = '\0';
		while ((line = strsep(&rest, "\n"))) {
			if (*line && strncmp(line, "Failed to send ", 15) != 0)
				snprintf(message, size, "%s", line);
		}
	}
	for (char *c = message; *c; c++) {
		if ((unsigned char)*c < ' ')
			*c = ' ';
	}
}

void passt_reap(struct passt *passt, char *how, size_t size)
{
	int status = 0;

	kill(passt->pid, SIGTERM);
	for (int i = 0; waitpid(passt->pid, &status, WNOHANG) == 0; i++) {
		poll(NULL, 0, 10);
		if (i == 100)
			kill(passt->pid, SIGKILL);
	}
	passt->pid = 0;
	if (WIFSIGNALED(status))
		snprintf(how, size, "by signal %d", WTERMSIG(status));
	else
		snprintf(how, size, "with status %d", WEXITSTATUS(status));
}

struct arguments {
	char *argv[ARGUMENTS_MAX + 1];
	char ports[NET_PUBLISH_MAX][80];
	unsigned count;
};

static void add(struct arguments *arguments, const char *argument)
{
	arguments->argv[arguments->count++] = (char *)argument;
}

static void make_arguments(struct arguments *arguments, const struct net_options *options)
{
	static const char *const fixed[] = {
		"passt", "--foreground", "--quiet", "--fd", "3",
	};

	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
		add(arguments, fixed[i]);
	for (unsigned i = 0; i < options->publish_count; i++) {
		const struct net_publish *publish = &options->publish[i];
		const char *address = publish->address ? publish->address : "";

		snprintf(arguments->ports[i], sizeof(arguments->ports[i]), "%s%s%u:%u", address,
			*address ? "/" : "", publish->host, publish->guest);
		add(arguments, publish->udp ? "--udp-ports" : "--tcp-ports");
		add(arguments, arguments->ports[i]);
	}
}

/* It gets no descriptor but these two, and no signal is blocked or ignored in it. */
static int spawn(struct passt *passt, struct arguments *arguments, int socket, int stderr_fd)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	int result;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, stderr_fd, STDERR_FILENO);
	posix_spawn_file_actions_adddup2(&actions, socket, CHILD_SOCKET);
	result = -posix_spawnp(
		&passt->pid, "passt", &actions, &attributes, arguments->argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	if (result < 0)
		passt->pid = 0;
	return result;
}

/*
 * passt reads the socket once all ports are open and its own sandbox is closed; if a port can't be
 * opened, it only ends.  So this queues a frame of a protocol that nobody uses, and sets a send
 * buffer that has no room for more: the socket becomes writable when passt has read the frame, and
 * so is ready.
 */
static int send_probe(int fd)
{
	const uint32_t length = htonl(ETH_FRAME_LEN);
	const struct ethhdr header = {
		.h_dest = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
		.h_source = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },	/* as it has it before the guest's first frame */
		.h_proto = htons(ETH_P_802_EX1),
	};
	uint8_t probe[PASST_LENGTH_BYTES + ETH_FRAME_LEN] = { 0 };
	int least = 0;

	memcpy(probe, &length, PASST_LENGTH_BYTES);
	memcpy(probe + PASST_LENGTH_BYTES, &header, sizeof(header));
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)) < 0)
		return -errno;
	return write_bytes(fd, probe, sizeof(probe)) == sizeof(probe) ? 0 : -EIO;
}

static int wait_until_ready(struct passt *passt)
{
	struct pollfd watched = { .fd = passt->net.queues[0].fd, .events = POLLOUT };
	char how[32], message[256];

	if (poll(&watched, 1, START_SECONDS * 1000) > 0 && !(watched.revents & (POLLHUP | POLLERR))) {
		/* Drop the messages of its start: they are not the reason of its end. */
		passt_last_message(passt, message, sizeof(message));
		return 0;
	}
	passt_reap(passt, how, sizeof(how));
	passt_last_message(passt, message, sizeof(message));
	return fail(-ECONNREFUSED,
		"--net user: passt did not start, and ended %s: %s: see passt(1), and whether the ports to "
		"publish are free",
		how, message);
}

/*
 * Move a descriptor above CHILD_SOCKET: dup2() in the child must not overwrite it before it has
 * used it.
 */
static int move_up(int *fd)
{
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, CHILD_SOCKET + 1);

	if (moved < 0)
		return -errno;
	close(*fd);
	*fd = moved;
	return 0;
}

int passt_spawn(struct passt *passt, const struct net_options *options)
{
	cleanup_fd int socket = -1, child_stderr = -1;
	struct arguments arguments = { 0 };
	int pair[2], pipes[2], result, size = SOCKET_BYTES;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	passt->net.queues[0].fd = pair[0];
	socket = pair[1];
	/* Only our end. */
	if (fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	/* Non-blocking: passt must not wait for room, since we only read the pipe at its end. */
	if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	passt->stderr_fd = pipes[0];
	child_stderr = pipes[1];
	if (move_up(&socket) < 0 || move_up(&child_stderr) < 0)
		return -errno;
	make_arguments(&arguments, options);
	result = send_probe(pair[0]);
	if (result == 0)
		result = spawn(passt, &arguments, socket, child_stderr);
	if (result < 0)
		return result;
	/* Now only passt has the other end. */
	close_fd(&socket);
	socket = -1;
	result = wait_until_ready(passt);
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return result;
}
