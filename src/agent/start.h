/* SPDX-License-Identifier: GPL-2.0-only */
/* The start of a command: its streams, its process, and what that does up to the program. */
#ifndef KARMA_AGENT_START_H
#define KARMA_AGENT_START_H

#include "agent.h"

/* Where it failed, in its process. */
enum stage { STAGE_NONE, STAGE_USER, STAGE_DIRECTORY, STAGE_SETUP, STAGE_RUN };

struct failure {
	enum stage stage;
	int error;	/* an errno */
};

/* The command's ends, in its process, which become 0, 1 and 2; and ours. */
struct ends {
	int theirs[3];
	int input, outputs[2];
};

/* A terminal, or pipes.  0 or a negative errno. */
int start_open(struct ends *ends, const struct exec_request *request, const struct user *user);
/* Fork it: STAGE_NONE once it is the program. */
struct failure start_fork(pid_t *pid, const struct exec_request *request, const struct user *user, const struct ends *ends);
/* Tell the host why not: the exit status that it has. */
unsigned start_refuse(struct agent_link *link, const struct exec_request *request, const struct failure *failure);

#endif
