/* SPDX-License-Identifier: GPL-2.0-only */
/* A guest's agent, as it is, in a process of its own, at the other end of a socket. */
#ifndef KARMA_TESTS_AGENT_H
#define KARMA_TESTS_AGENT_H

#include <sys/socket.h>
#include <sys/wait.h>

#include "../../src/agent/agent.h"
#include "guest.h"
#include "karma/agent_tree.h"

/* Of this process to it; -1: closed. */
static int agent_socket;
static pid_t agent_pid;

/* test_agent_copy.c: add the cases to the suite. */
void agent_add_copies(Suite *suite);

static inline void agent_setup(void)
{
	agent_socket = -1;
}

static inline void agent_teardown(void)
{
	close_fd(&agent_socket);
}

static inline void start_agent(void)
{
	int ends[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	agent_pid = fork();
	ck_assert_int_ge(agent_pid, 0);
	if (agent_pid == 0) {
		close(ends[0]);
		_exit(agent_serve(ends[1], &(struct agent_place){ .pid_namespace = -1 }));
	}
	close(ends[1]);
	agent_socket = ends[0];
}

/* It ends by itself when we have closed. */
static inline void end_agent(void)
{
	int status;

	close_fd(&agent_socket);
	agent_socket = -1;
	ck_assert_int_eq(waitpid(agent_pid, &status, 0), agent_pid);
	ck_assert_int_eq(status, 0);
}

#endif
