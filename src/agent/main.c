// SPDX-License-Identifier: GPL-2.0-only
/* karma-agent: listens in a guest for the host, and has a process serve each connection (karma-agent(7)). */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"
#include "command_of_init.h"

#define WAITING 256	/* more than a guest of Karma's has connections */

static const char help[] =
	"usage: karma-agent [--root DIR]\n"
	"\n"
	"In a guest of Karma's: listen on vsock for the host, in the background, and run what it asks\n"
	"for, as any user; see karma-agent(7).  If there is an agent already, this one ends, with\n"
	"status 0.\n"
	"\n"
	"  --root DIR   the root directory of what is run; without it, the topmost mount on our own,\n"
	"               which is the disk's once an initramfs has switched to that\n";

static int fail(const char *what)
{
	fprintf(stderr, "karma-agent: %s: %s\n", what, strerror(errno));
	return 1;
}

/* Descriptors 0 to 2 are there for whoever is started. */
static void detach(int listener)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

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
static void serve(int listener, const char *root)
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
			_exit(agent_serve(fd, root));
		}
		if (fd >= 0)
			close(fd);
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "root", required_argument, NULL, 'r' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	const struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY,
		.svm_port = AGENT_PORT };
	const char *root = "/..";
	int code, listener;
	pid_t pid;

	if (argc > 1 && strcmp(argv[1], "run") == 0)
		return agent_run(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "enter") == 0)
		return agent_enter(argc - 1, argv + 1);
	while ((code = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (code == 'r')
			root = optarg;
		else
			return code == 'h' ? fputs(help, stdout) < 0 : 1;
	}
	listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0)
		return fail("no vsock: the guest needs a vsock device, and its driver");
	if (bind(listener, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return errno == EADDRINUSE ? 0 : fail("can't bind the agent's port");
	if (listen(listener, WAITING) < 0)
		return fail("can't listen");
	pid = fork();
	if (pid != 0)
		return pid < 0 ? fail("can't start") : 0;
	detach(listener);
	serve(listener, root);
}
