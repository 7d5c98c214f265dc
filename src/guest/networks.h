/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guest's networks, from options to devices: their other ends (karma/net.h), which live on over
 * restarts, and a device for each at each start.
 *
 * The supervisor sees the host's links; the guest's process, in a network namespace of its own, does not,
 * and learns of changes by orders.  One thread calls.
 */
#ifndef KARMA_GUEST_NETWORKS_H
#define KARMA_GUEST_NETWORKS_H

#include "karma/guest.h"
#include "karma/machine.h"
#include "process.h"

/* In memory that all of the guest's processes share: a restart brings no new burst. */
struct network_limits {
	struct rate_limiter receive, transmit;
};

struct network {
	struct net *net;
	struct network_limits *limits;
	uint8_t mac[ETH_ALEN];
};

struct networks {
	const struct guest_options *options;
	struct network *list;
	struct network_limits *limits;	/* an array, as list */
	size_t count;
	int links_fd;	/* in the supervisor, if there are TAPs: readable when a link changes; else -1 */
};

/* io_uring operations that they may have under way at a time. */
unsigned networks_in_flight(const struct guest_options *options);

/*
 * The address of a network that has none of its own, the same at each start: derived from the guest's name,
 * which is unique in its network, or else from the host's machine-id and the TAP's name, which is unique on
 * the host.  index: its number; those of other devices come behind the networks'.
 */
void networks_derive_mac(const struct guest_options *options, size_t index, uint8_t *mac);

/*
 * Open all, for a ring that may still be uninitialized.  0, or a negative errno with a message printed;
 * networks_close() in any case.  Forks, for passt.
 */
int networks_open(
	struct networks *networks, const struct guest_options *options, struct io_ring *ring);
/* After the ring has been released. */
void networks_close(struct networks *networks);

/* In the supervisor, when links_fd is readable: send ORDER_LINK for each link that has changed. */
void networks_send_links(struct networks *networks, const struct process *process);

/* --- In the guest's process. */

/* Right after the fork: check the limits that the process before has left. */
void networks_after_fork(struct networks *networks);

/*
 * Make a device for each, and add it to the machine.  restarted: an earlier process had them.  0, or a
 * negative errno with a message printed.
 */
int networks_add(struct networks *networks, struct machine *machine,
	const struct virtio_environment *environment, bool restarted);

/* Serve ORDER_LINK with that value.  0, or -EINVAL: there is no such network. */
int networks_set_link(struct networks *networks, uint64_t value);

#endif
