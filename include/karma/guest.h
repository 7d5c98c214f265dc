/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest from its start to its end, with all restarts between.
 *
 * The calling process is its supervisor: it opens what lives on over restarts (console, disks, networks,
 * control socket), serves signals and clients, and forks a process for each start of the guest, which
 * alone touches KVM and guest memory.
 */
#ifndef KARMA_GUEST_H
#define KARMA_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

#include "karma/agent_client.h"
#include "karma/disk.h"
#include "karma/memory.h"
#include "karma/net.h"
#include "karma/sandbox.h"
#include "karma/share.h"
#include "karma/snapshot_directory.h"
#include "karma/vhost_user.h"
#include "karma/vsock_connector.h"

/* What follows when a guest resets, or its kernel panics or hangs. */
enum end_policy {
	END_EXIT,
	END_RESTART,
	END_WAIT,	/* keep it, halted, until the user ends it */
};

/* The tag of the share that is the guest's root. */
#define GUEST_ROOT_TAG "karma-root"

/*
 * A directory of the host's as the guest's root, whose command runs there as its caller would here.  The
 * directory, and what may be written, are shares too: root_complete() (karma/cli.h) adds these.
 */
struct root_options {
	const char *directory;		/* NULL: none */
	const char **writable;		/* ends with NULL; or NULL */
	size_t writable_count;
	const char *user;		/* the caller: UID:GID:GROUP,... */
	const char *working_directory;	/* the caller's, as the guest sees it */
};

/*
 * A container as what the guest is for: a share with the tag GUEST_ROOT_TAG is its root, and may be written as far as the
 * host lets it; the agent runs its first process there, whose exit status is guest_run()'s, with no number kept for Karma;
 * and signals to the supervisor are that process's.
 */
struct container_options {
	const struct agent_command *command;	/* NULL: there is no container */
	const char *setup;		/* a script for the guest's init, which runs before the process starts */
};

/*
 * A saved guest to go on from, in the place of booting a kernel.  Its memory is that of memory_options, and it has as
 * many CPUs and devices, of the same kinds and in the same order, as the options give it.
 */
struct restore_options {
	const char *directory;		/* of the snapshot, for messages; NULL: there is none */
	const void *state;		/* the file `state` of a snapshot, karma-snapshot(5), unchecked; NULL: none */
	size_t state_bytes;
	const char *notes_touched;	/* a directory which does not have the file `touched` yet; NULL: none */
};

/* All that a guest is to have.  Strings and arrays are the caller's, and stay until guest_run() returns. */
struct guest_options {
	const char *name;		/* NULL: karma-PID */
	struct restore_options restore;	/* the first start only */
	const char *kernel;		/* NULL: none, to restore only */
	const char **initrds;		/* ends with NULL */
	size_t initrd_count;		/* 0: Karma's own, by the kernel's release */
	const char *cmdline;		/* added to Karma's own; never NULL */
	bool warm;			/* with a command: go on from a warm image, or make it */
	bool agent;			/* guest_run()'s: the guest's agent runs the command */
	char **command;			/* to run in the initramfs or on the disk's root; ends with NULL; or NULL */
	struct disk_options *disks;
	size_t disk_count;
	struct net_options *nets;
	size_t net_count;
	struct share_options *shares;
	size_t share_count;
	struct root_options root;
	struct container_options container;
	const char *modules;		/* a directory with those of the kernel; NULL: the initramfs has them */
	struct vhost_user_options *vhost_users;
	size_t vhost_user_count;
	unsigned cpus;
	struct memory_options memory;
	bool balloon;
	struct vsock_options vsock;
	bool pmu;			/* with the CPU's performance counters */
	const char *console;		/* terminal_open(); NULL: stdio, or stderr if the agent runs
					 * the command */
	unsigned timeout;		/* seconds; 0: none */
	unsigned grace;			/* seconds from SIGTERM to the end by force; 0: at once */
	enum end_policy reboot, on_panic;
	unsigned watchdog;		/* seconds; 0: none */
	bool die_with_parent;
	pid_t parent;			/* for that: getppid(), as of the start of the program */
	bool strict;			/* end it at an access to absent ports or memory */
	bool stats;			/* print counters on stderr at its end */
	struct sandbox_options sandbox;
	/*
	 * Print the configuration of a snapshot, karma-snapshot(5), of these options as they have become; copies: for guests beside
	 * this one.  0, or a negative errno with a message printed.
	 */
	int (*print_snapshot)(const struct guest_options *options, bool copies, FILE *file);
};

/*
 * Run a guest.  Returns the exit status for the process (karma/status.h), after a message on stderr where
 * it is Karma's own.  Once a process, before it has other threads: blocks signals, and forks.
 */
int guest_run(const struct guest_options *options);

/* Have the guest go on from the files of a snapshot, in a directory of that path; both stay the caller's. */
void guest_restore_from(struct guest_options *options, const char *path, const struct snapshot_files *files);

/* Print a text as one word of a script for the guest's init. */
void guest_print_word(FILE *file, const char *text);

#endif
