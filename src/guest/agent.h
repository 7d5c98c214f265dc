/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The command by the guest's agent: it connects to the supervisor, and a process that the supervisor forks joins the
 * command to our standard streams.  All in the supervisor.
 */
#ifndef KARMA_GUEST_AGENT_H
#define KARMA_GUEST_AGENT_H

#include <stdint.h>
#include <sys/types.h>

struct guest;

struct agent_client {
	pid_t pid;		/* -1: none */
	int pidfd;
	uint64_t pending;	/* signals for a container that came before it: bit 0 is number 1 */
};

#define AGENT_CLIENT_NONE ((struct agent_client){ .pid = -1, .pidfd = -1 })

/*
 * Once, before the console is opened: whether the agent is to run the command, and where the console is.  If so, the
 * guest has a vsock device, whose connector this serves.  0, or a negative errno with a message printed.
 */
int agent_choose(struct guest *guest);

/* Pass on a signal to a container's first process, now or when it is there. */
void agent_signal(struct agent_client *client, int number);

/* After the end of the guest's process: wait until all that the command has printed is written, and not for long. */
void agent_end(struct agent_client *client);

#endif
