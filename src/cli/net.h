/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guest's networks: their other ends, which live on when the guest is started anew, and a device
 * for each at each start.
 */
#ifndef KARMA_CLI_NET_H
#define KARMA_CLI_NET_H

#include "karma/cli.h"
#include "karma/machine.h"
#include "karma/process.h"

/* In memory that the processes of guests share: a restart brings no new burst. */
struct network_limits {
	struct rate_limiter receive, transmit;
};

struct network {
	struct net *net;
	struct network_limits *limits;
	uint8_t mac[ETH_ALEN];
};

struct networks {
	const struct run_options *options;
	struct network *list;
	struct network_limits *limits;
	size_t count;
	int links_fd;	/* the supervisor's, if there are TAPs; -1 otherwise */
};

/* Operations of io_uring that they may have under way at a time. */
unsigned networks_in_flight(const struct run_options *options);

/* 0, or a negative errno with a message printed; the caller closes.  Forks. */
int networks_open(
	struct networks *networks, const struct run_options *options, struct io_ring *ring);
/* After the ring has been released. */
void networks_close(struct networks *networks);

/* In the supervisor, when links_fd can be read: tell the guest's process of what has changed. */
void networks_look(struct networks *networks, const struct process *process);
/* In the process of a guest: do what ORDER_LINK says. */
int networks_follow(struct networks *networks, uint64_t value);

/* In the process of a guest: check what the one before has left. */
void networks_hand_on(struct networks *networks);

/* again: there was a guest before. */
int networks_add(struct networks *networks, struct machine *machine,
	const struct virtio_environment *environment, bool again);

#endif
