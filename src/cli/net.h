/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guest's networks: their other ends, which live on when the guest is started anew, and a device
 * for each at each start.
 */
#ifndef KARMA_CLI_NET_H
#define KARMA_CLI_NET_H

#include "karma/cli.h"
#include "karma/machine.h"

struct network {
	struct net *net;
	struct limit receive_limit, transmit_limit;	/* a restart brings no new burst */
	uint8_t mac[ETH_ALEN];
};

struct networks {
	const struct run_options *options;
	struct network *list;
	size_t count;
};

/* Operations of io_uring that they may have under way at a time. */
unsigned networks_in_flight(const struct run_options *options);

/* 0, or a negative errno with a message printed; the caller closes.  Forks. */
int networks_open(
	struct networks *networks, const struct run_options *options, struct io_ring *ring);
/* After the ring has been released. */
void networks_close(struct networks *networks);

int networks_add(struct networks *networks, struct machine *machine,
	const struct virtio_environment *environment);

#endif
