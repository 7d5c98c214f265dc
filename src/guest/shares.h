/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The servers of the guest's vhost-user devices, and a device for each at each start: of shared directories
 * (karma/share.h), which Karma serves itself in processes below the supervisor, and of others, to which the
 * supervisor connects.
 *
 * A server has one front-end: each start of the guest has servers, or connections to servers, of its own.  A
 * process of Karma's ends when the guest's process does, which has the other end of its socket.
 *
 * Functions that return int return 0, or a negative errno with a message printed.  One thread calls.
 */
#ifndef KARMA_GUEST_SHARES_H
#define KARMA_GUEST_SHARES_H

#include "karma/guest.h"
#include "karma/machine.h"
#include "karma/vhost_user.h"

struct share_server {
	char name[256];		/* "--share /srv/data: its server", for messages */
	int socket;		/* our end; -1: none */
	pid_t pid;		/* of a process of Karma's; 0: none */
};

struct shares {
	const struct guest_options *options;
	struct share_server *list;	/* those of --share, and behind them those of --vhost-user */
	size_t count;
};

/* --- In the supervisor. */

/* Once: check the directories.  shares_close() in any case. */
int shares_open(struct shares *shares, const struct guest_options *options);
void shares_close(struct shares *shares);

/* Before each start of the guest's process: start the servers, or connect to them.  Forks. */
int shares_start(struct shares *shares);
/* The guest's process has the sockets. */
void shares_started(struct shares *shares);
/* The guest's process has ended, or did not start: wait for the servers of Karma's, for a moment. */
void shares_stop(struct shares *shares);

/* --- In the guest's process. */

/* Make a device for each, and add it to the machine. */
int shares_add(struct shares *shares, struct machine *machine, const struct virtio_environment *environment,
	struct irqfds *irqfds);

#endif
