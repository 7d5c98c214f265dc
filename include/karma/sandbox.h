/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sandbox: what is left to the process that runs a guest, should the guest break out into it.
 *
 * It closes in steps.  sandbox_prepare(), once: the control group, and the user to become.
 * sandbox_fork(), for each start: a process of its own, with namespaces of its own.  That process
 * opens and makes all it needs, and calls sandbox_enter(): no file system, no capabilities, bounds
 * for resources.  Then it starts its threads, and each of them calls sandbox_filter() before the
 * guest runs: from then on it may only make the system calls of its kind's table
 * (src/sandbox/tables/tables.h).  SECURITY.md is about the whole of it.
 *
 * Threads share their memory, so a guest that has taken over one has them all: the first
 * instruction of a guest has to wait until each thread has called sandbox_filter().
 */
#ifndef KARMA_SANDBOX_H
#define KARMA_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sandbox_options {
	bool off;		/* --no-sandbox: only a process of its own */
	const char *user;	/* to become; NULL: stay who we are */
	const char *cgroup;	/* a control group's directory; NULL: stay in ours */
};

struct sandbox {
	struct sandbox_options options;
	uid_t uid;
	gid_t gid;
	bool namespaces;	/* we have our own */
	bool user_namespace;	/* ... of users too, since we had not the right to make the others */
	bool warned;		/* the user knows what this host lacks */
};

/* Look up the user, enter the control group.  0, or a negative errno with a message printed. */
int sandbox_prepare(struct sandbox *sandbox, const struct sandbox_options *options);

/*
 * As fork(), with namespaces as this host allows them; the new process is killed when this one
 * ends.  *pidfd is for the parent, and closed by it.  No other thread may be there.  A negative
 * errno, without a message, if it fails.
 */
pid_t sandbox_fork(struct sandbox *sandbox, int *pidfd);

/* What sandbox_enter() leaves to the process. */
struct sandbox_bounds {
	uint64_t file_bytes;	/* no file may grow beyond; 0: no bound */
	unsigned files;		/* descriptors that may still be made */
	uint64_t threads;	/* with io_uring's own; only kept in a user namespace */
};

/*
 * In the new process, with all descriptors open and before its first thread.  0, or a negative
 * errno with a message printed.
 */
int sandbox_enter(const struct sandbox *sandbox, const struct sandbox_bounds *bounds);

enum sandbox_thread {
	SANDBOX_MAIN,
	SANDBOX_IO,
	SANDBOX_VCPU,
	SANDBOX_UNPACKER,	/* the only one of a process of its own: it unpacks a kernel */
};

/* The descriptors on which a thread may make ioctls; -1 for what it has not. */
struct sandbox_descriptors {
	int vm, vcpu, terminal;
};

/*
 * The calling thread is confined from here on: to its table, for ever.  A call that is not in there
 * ends the process with STATUS_FAILURE and a message.  0, or a negative errno with a message printed.
 */
int sandbox_filter(enum sandbox_thread thread, const struct sandbox_descriptors *descriptors);

/* What this host has of it, for `karma check`; forks. */
struct sandbox_support {
	bool namespaces, landlock;
};
struct sandbox_support sandbox_probe(void);

#endif
