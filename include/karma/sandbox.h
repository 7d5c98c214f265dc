/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sandbox confines the guest's process, in case the guest breaks out into it.  SECURITY.md describes the
 * whole of it.
 *
 * Rights are dropped in steps, each where the last need for them ends:
 *   sandbox_prepare(), once: the control group is entered, the user to become is looked up.
 *   sandbox_fork(), for each start: a process with namespaces of its own, which then opens and allocates all
 *     that it needs.
 *   sandbox_enter(), there: no file system, no capabilities, Landlock, resource limits.
 *   sandbox_filter(), on each of its threads: only the system calls of the table for that kind of thread
 *     (src/sandbox/tables/tables.h).
 *
 * Threads share their memory, so a guest that has taken over one of them has all.  Hence no vCPU may run
 * before each thread has called sandbox_filter().
 */
#ifndef KARMA_SANDBOX_H
#define KARMA_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sandbox_options {
	bool off;		/* --no-sandbox: a process of its own, and nothing else */
	const char *user;	/* to become; NULL: none */
	const char *cgroup;	/* the directory of a control group to enter; NULL: none */
};

struct sandbox {
	struct sandbox_options options;
	uid_t uid;
	gid_t gid;
	bool namespaces;	/* the process has its own */
	bool user_namespace;	/* a user namespace too, which an unprivileged user needs to make the others */
	bool warned;		/* the user was told what this host lacks */
};

/* Look up the user, enter the control group.  0, or a negative errno with a message printed. */
int sandbox_prepare(struct sandbox *sandbox, const struct sandbox_options *options);

/*
 * As fork(), with new namespaces as far as this host allows them; the child is killed when its parent ends.  The
 * parent closes *pidfd.  The calling process must have one thread.  A negative errno without a message if it
 * fails.
 */
pid_t sandbox_fork(struct sandbox *sandbox, int *pidfd);

/* Resource limits that sandbox_enter() sets. */
struct sandbox_bounds {
	uint64_t file_bytes;	/* RLIMIT_FSIZE, the soft limit; 0: unchanged */
	unsigned files;		/* descriptors that may still be opened (RLIMIT_NOFILE) */
	uint64_t threads;	/* RLIMIT_NPROC, with io_uring's workers; set in a user namespace only */
};

/*
 * In the child, with all descriptors open and before its second thread.  0, or a negative errno with a message
 * printed.
 */
int sandbox_enter(const struct sandbox *sandbox, const struct sandbox_bounds *bounds);

/*
 * For a server of files: no access to files by Landlock but to those below the directory, reading only or what
 * needs no privilege.  0, or a negative errno without a message, such as -ENOTSUP of a kernel without it.
 */
int sandbox_keep_directory(int directory, bool read_only);

enum sandbox_thread {
	SANDBOX_MAIN,
	SANDBOX_IO,
	SANDBOX_VCPU,
	SANDBOX_UNPACKER,	/* the one thread of the process that unpacks a kernel */
	SANDBOX_SHARE,		/* the one thread of a server of files */
};

/* The descriptors that the filter allows ioctls on; -1: none. */
struct sandbox_descriptors {
	int vm, vcpu, terminal;
	bool vhost_user;	/* there are vhost-user devices: allow what these need */
};

/*
 * Confine the calling thread to the system calls of its table, for good.  Any other call ends the process with a
 * message and STATUS_FAILURE.  0, or a negative errno with a message printed.
 */
int sandbox_filter(enum sandbox_thread thread, const struct sandbox_descriptors *descriptors);

/* What this host supports, for `karma check`.  Forks. */
struct sandbox_support {
	bool namespaces, landlock;
};
struct sandbox_support sandbox_probe(void);

#endif
