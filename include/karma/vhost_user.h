/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vhost-user devices: virtio devices whose queues a server in another process serves (QEMU's
 * docs/interop/vhost-user.rst is the protocol).  This is the front: it negotiates with the server, and tells
 * it of guest memory and of the queues that the guest's driver has set up.  From then on the guest's
 * notifications go to the server by an eventfd, and the server's interrupts to the guest by another
 * (karma/irqfd.h), without a thread of the monitor's between.
 *
 * The server has all of guest memory, and what it says on its socket is checked as if it were hostile.  Each
 * wait for it is bounded.  A server that ends, is silent or breaks the protocol is lost: one message says so,
 * the device needs a reset, and no reset brings the server back; the guest goes on without it.
 */
#ifndef KARMA_VHOST_USER_H
#define KARMA_VHOST_USER_H

#include <stdint.h>

#include "karma/irqfd.h"
#include "karma/virtio.h"

#define VHOST_USERS_MAX 16u

enum vhost_user_type {
	VHOST_USER_FS,
	VHOST_USER_BLK,
	VHOST_USER_NET,
};

/* --vhost-user.  Strings are the options'. */
struct vhost_user_options {
	const char *path;	/* of the server's Unix socket */
	int type;		/* enum vhost_user_type */
	const char *tag;	/* of VHOST_USER_FS; else NULL */
};

/* What a device is made of. */
struct vhost_user_setup {
	enum vhost_user_type type;
	const char *name;	/* "share0", for statistics */
	const char *server;	/* "--share /srv/data: its server", for messages; outlives it */
	int socket;		/* connected to the server; the device takes it over */
	const char *tag;	/* VHOST_USER_FS */
	const uint8_t *mac;	/* VHOST_USER_NET, for a server that names none: 6 bytes */
	unsigned cpus;		/* no more queues than that for requests */
	struct irqfds *irqfds;	/* outlive it */
};

/* io_uring operations that a device may have under way at a time. */
#define VHOST_USER_IN_FLIGHT 1u

/*
 * Negotiate with the server, and make a device of what it offers.  Guest memory has to be shared.  NULL,
 * with a message printed, if the server can't be had.  Before the sandbox closes.
 */
struct virtio_device *vhost_user_create(
	const struct virtio_environment *environment, const struct vhost_user_setup *setup);

#endif
