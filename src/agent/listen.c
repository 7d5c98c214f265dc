// SPDX-License-Identifier: GPL-2.0-only
/* Listens for the host, and has a process serve each connection. */
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"
#include "karma/util.h"

#define WAITING 256	/* more than a guest of Karma's has connections */

static int fail(const char *what)
{
	const int error = -errno;

	fprintf(stderr, "karma-agent: %s: %s\n", what, strerror(-error));
	return error;
}

/* Such as those of a command that runs, whose input would have no end here. */
static void close_others(int listener, const struct agent_place *place)
{
	const int one = listener, other = place->pid_namespace;
	const int kept[] = { one < other ? one : other, one < other ? other : one };
	int from = STDERR_FILENO + 1;

	/* musl has no close_range(). */
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		if (kept[i] > from)
			syscall(SYS_close_range, from, kept[i] - 1, 0);
		if (kept[i] >= from)
			from = kept[i] + 1;
	}
	syscall(SYS_close_range, from, ~0u, 0);
}

/* Descriptors 0 to 2 are there for whoever is started. */
static void detach(int listener, const struct agent_place *place)
{
	int null;

	close_others(listener, place);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3 && null >= 0; fd++) {
		if (fd != listener)
			dup2(null, fd);
	}
	setsid();
	/* What commands leave running is ours, and none of it stays a zombie. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGCHLD, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
}

/* Without end: for PID 1, and for systemd to end. */
static _Noreturn void serve(int listener, const struct agent_place *place)
{
	for (;;) {
		struct sockaddr_vm peer;
		socklen_t length = sizeof(peer);
		int fd = accept4(listener, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC);

		if (fd < 0 && errno != EINTR && errno != ECONNABORTED)
			sleep(1);
		/* Processes of the guest connect by its own CID, or as CID 1. */
		if (fd >= 0 && peer.svm_cid == VMADDR_CID_HOST && fork() == 0) {
			close(listener);
			_exit(agent_serve(fd, place));
		}
		if (fd >= 0)
			close(fd);
	}
}

int agent_listen(void)
{
	const struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY,
		.svm_port = AGENT_PORT };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error;

	if (fd < 0)
		return fail("no vsock: the guest needs a vsock device, and its driver");
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 && listen(fd, WAITING) == 0)
		return fd;
	error = errno == EADDRINUSE ? -EADDRINUSE : fail("can't listen on the agent's port");
	close(fd);
	return error;
}

int agent_serve_all(int listener, const struct agent_place *place)
{
	pid_t pid = fork();

	if (pid < 0)
		return fail("can't start");
	if (pid > 0)
		return 0;
	detach(listener, place);
	serve(listener, place);
}
