// SPDX-License-Identifier: GPL-2.0-only
/* karma-agent run and contain: the command of `karma run`, joined to its standard streams by the host. */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"
#include "command_of_init.h"
#include "karma/status.h"

static const struct sockaddr_vm host = {
	.svm_family = AF_VSOCK,
	.svm_cid = VMADDR_CID_HOST,
	.svm_port = AGENT_PORT,
};

static int refuse(const char *what, const char *cure)
{
	fprintf(stderr, "karma-init: the command can't be run by the agent: %s: %s, or give --console stdio\n", what, cure);
	return STATUS_GUEST_MAX;
}

/* Standard error, which stays open for as long as the command runs: what that writes to the console comes out as it is. */
static void keep_console_exact(void)
{
	struct termios settings;

	if (tcgetattr(STDERR_FILENO, &settings) < 0)
		return;
	settings.c_oflag &= ~OPOST;
	tcsetattr(STDERR_FILENO, TCSANOW, &settings);
}

/* A connected socket; or -1 after a message. */
static int connect_host(void)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0) {
		refuse("the kernel has no vsock", "build it with CONFIG_VSOCKETS and CONFIG_VIRTIO_VSOCKETS");
		return -1;
	}
	if (connect(fd, (const struct sockaddr *)&host, sizeof(host)) == 0)
		return fd;
	if (errno == ENODEV)
		refuse("the kernel has no driver of vsock", "build it with CONFIG_VIRTIO_VSOCKETS");
	else
		refuse(strerror(errno), "see the messages of karma");
	close(fd);
	return -1;
}

int agent_run(int argc, char **argv)
{
	struct generation generation;
	int fd;

	if (argc < 2)
		return refuse("there is none", "give a command");
	keep_console_exact();
	generation_open(&generation);
	fd = connect_host();
	return fd < 0 ? STATUS_GUEST_MAX : agent_serve_program(fd, argv + 1, &generation);
}

int agent_contain(int argc, char **argv)
{
	struct container container;
	int fd;

	if (argc != 2)
		return refuse("the container has no root", "give one");
	container.root = argv[1];
	keep_console_exact();
	fd = connect_host();
	return fd < 0 ? STATUS_GUEST_MAX : agent_serve_container(fd, &container);
}
