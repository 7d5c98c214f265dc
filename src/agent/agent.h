/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * karma-agent, the program in the guest: a process that listens, and one for each connection, which serves one
 * operation of karma-agent(7) and ends.
 */
#ifndef KARMA_AGENT_H
#define KARMA_AGENT_H

#include <sys/types.h>

#include "karma/agent_link.h"

#define AGENT_TEXT_MAX 512u	/* bytes of a message, with its NUL */

/*
 * Serve the host at a connected socket, in a process of its own that leads no process group, with root as its root
 * directory (NULL: as it is).  The exit status.
 */
int agent_serve(int socket, const char *root);

/*
 * Serve one EXEC there, but run this program, which ends with NULL, as we are: user, directory and environment.  Its
 * exit status as a shell tells it; STATUS_FAILURE if it was not run, which the host has heard.
 */
int agent_serve_program(int socket, char **program);

/* --- request.c */

/* What EXEC asks for.  Strings are in the frame; the arrays are malloc'ed, and end in NULL. */
struct exec_request {
	uint32_t flags;
	uint16_t rows, columns;
	const char *user, *directory;	/* empty: root; its home */
	char **arguments, **environment;
	char **program;		/* instead, as we are; or NULL */
};

/* 0, -EPROTO or -ENOMEM.  exec_request_release() in any case. */
int exec_request_parse(struct exec_request *request, const struct agent_frame *frame);
void exec_request_release(struct exec_request *request);

/* --- command.c */

/*
 * Run it, or the program instead as for agent_serve_program() unless that is NULL, from its start until the host knows
 * its end, or has gone.  The exit status, likewise.
 */
int command_serve(struct agent_link *link, const struct agent_frame *frame, char **program);

/* --- user.c */

struct user {
	uid_t uid;
	gid_t gid;
	char name[256], home[1024], shell[1024];
};

/* By a name or a number of /etc/passwd; "" is root, who need not be there.  0, or a negative errno; -ENOENT. */
int user_find(struct user *user, const char *name);
/* Become that user, with the groups of /etc/group.  0 or a negative errno. */
int user_become(const struct user *user);
/* Set this process's environment to that of a login. */
int user_set_environment(const struct user *user);

#endif
