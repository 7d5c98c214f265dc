// SPDX-License-Identifier: GPL-2.0-only
/* karma-agent run: the command of `karma run`, joined to its standard streams by the host. */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
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

int agent_run(int argc, char **argv)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (argc < 2)
		return refuse("there is none", "give a command");
	if (fd < 0)
		return refuse("the kernel has no vsock", "build it with CONFIG_VSOCKETS and CONFIG_VIRTIO_VSOCKETS");
	if (connect(fd, (const struct sockaddr *)&host, sizeof(host)) < 0)
		return errno == ENODEV ? refuse("the kernel has no driver of vsock",
						 "build it with CONFIG_VIRTIO_VSOCKETS") :
					 refuse(strerror(errno), "see the messages of karma");
	return agent_serve_program(fd, argv + 1);
}
