/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * karma-agent, the program in the guest: a process that listens, and one for each connection, which serves one
 * operation of karma-agent(7) and ends.
 */
#ifndef KARMA_AGENT_H
#define KARMA_AGENT_H

#include <stdbool.h>
#include <sys/types.h>

#include "karma/agent_link.h"

#define AGENT_TEXT_MAX 512u	/* bytes of a message, with its NUL */

/* A container, which is a guest's whole purpose. */
struct container {
	const char *root;	/* its root directory */
};

/* Where the agent serves, and for whom. */
struct agent_place {
	const char *root;	/* the root directory of what is run; NULL: as it is */
	int pid_namespace;	/* the container's, which what is run joins; or -1 */
};

/*
 * Listen on the agent's port: a descriptor; -EADDRINUSE if somebody does, or another negative errno, with a message
 * printed but for that.
 */
int agent_listen(void);
/* Serve there in the background, by a process of its own.  0, or a negative errno with a message printed. */
int agent_serve_all(int listener, const struct agent_place *place);

/* Serve the host at a connected socket, in a process of its own that leads no process group.  The exit status. */
int agent_serve(int socket, const struct agent_place *place);

/* --- generation.c */

#define GENERATION_BYTES 24u

/* Which copy of the guest this is: /sys/kernel/karma/generation. */
struct generation {
	int fd;		/* that file; -1: there is none */
	char text[GENERATION_BYTES];	/* what it said when it was opened */
};

void generation_open(struct generation *generation);
/* Whether this is another copy by now; waits a second for that. */
bool generation_is_another(const struct generation *generation);

/*
 * Serve one EXEC there, but run this program, which ends with NULL, as we are: user, directory and environment.  In a
 * copy of the guest, which that host knows nothing of, it goes on: without input, and with its output on standard error.
 * Its exit status as a shell tells it; STATUS_FAILURE if it was not run, which the host has heard.
 */
int agent_serve_program(int socket, char **program, const struct generation *generation);

/*
 * Serve one EXEC with its PROCESS there: the first process of the container.  When it runs, the agent listens, for others
 * in there.  Its exit status, or 125, 126 or 127 if it was not run, which the host has heard.
 */
int agent_serve_container(int socket, const struct container *container);

/* --- request.c */

/* What EXEC asks for.  Strings are in the frame; the arrays are malloc'ed, and end in NULL. */
struct exec_request {
	uint32_t flags;
	uint16_t rows, columns;
	const char *user, *directory;	/* empty: root; its home */
	char **arguments, **environment;
	char **program;		/* instead, as we are; or NULL */
	const struct generation *generation;	/* in another, the program goes on; or NULL */
	const struct process *process;	/* instead of the user and what a login gives; or NULL */
	const struct container *container;	/* to be its first process; or NULL */
};

/* 0, -EPROTO or -ENOMEM.  exec_request_release() in any case. */
int exec_request_parse(struct exec_request *request, const struct agent_frame *frame);
void exec_request_release(struct exec_request *request);

/* --- command.c */

/*
 * Run what the frame asks for, from its start until the host knows its end, or has gone.  The request has what the frame
 * does not: the program, the process, the container.  The exit status as a shell tells it; 125, 126 or 127 if it was not
 * run, which the host has heard.
 */
int command_serve(struct agent_link *link, const struct agent_frame *frame, struct exec_request *request);

/* --- process.c */

#define PROCESS_GROUPS_MAX 1024u
#define PROCESS_LIMITS_MAX 16u

/* What PROCESS says. */
struct process {
	bool no_new_privileges;
	uid_t uid;
	gid_t gid;
	mode_t umask;
	uint64_t bounding, effective, inheritable, permitted, ambient;
	gid_t groups[PROCESS_GROUPS_MAX];
	size_t group_count;
	struct agent_limit limits[PROCESS_LIMITS_MAX];
	size_t limit_count;
};

/* 0 or -EPROTO. */
int process_parse(struct process *process, const struct agent_frame *frame);
/* Be that user, with these rights and limits, and no others.  0 or a negative errno. */
int process_become(const struct process *process);
/* In the container's first process: its root, with the /proc of its own process IDs.  0 or a negative errno. */
int container_enter(const struct container *container);
/* It runs: have the agent listen for what else is to run in there. */
void container_started(const struct container *container, pid_t pid);

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
