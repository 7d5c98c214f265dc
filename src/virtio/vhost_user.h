/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The front-end's side of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst): messages to one
 * server, and its replies, which are hostile.
 *
 * No message is sent before the reply to the one before has come, and none is awaited for longer than
 * VHOST_USER_WAIT_SECONDS.  With the first failure the server is lost: its socket is shut down, and every
 * later call fails at once.  Functions that return int return 0, or a negative errno without a message; `why`
 * says what happened.  One thread at a time.
 */
#ifndef KARMA_VIRTIO_VHOST_USER_H
#define KARMA_VIRTIO_VHOST_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "karma/virtq.h"

#define VHOST_USER_WAIT_SECONDS 10

struct vhost_user {
	int fd;			/* a stream socket, which blocks */
	const char *why;	/* of a server that is lost, such as "has ended"; else NULL */
	uint64_t features;	/* what it offers, VHOST_USER_F_PROTOCOL_FEATURES and all */
	uint64_t protocol;	/* protocol features in use */
	unsigned queues;	/* as many as it serves, as far as it says so; at least 1 */
};

/* The eventfds of a queue: what the guest's notifications raise, and what interrupts the guest. */
struct vhost_user_eventfds {
	int kick, call;
};

/* Take over a socket, and negotiate protocol features.  vhost_user_close() in any case. */
int vhost_user_open(struct vhost_user *server, int socket);
void vhost_user_close(struct vhost_user *server);

/* It has ended, or broken the protocol: it is lost.  Only the first reason counts. */
int vhost_user_lose(struct vhost_user *server, int error, const char *why);

/* The first bytes of the device's configuration.  -ENOTSUP without losing it, if it does not tell any. */
int vhost_user_get_config(struct vhost_user *server, void *config, size_t size);

/* What the driver has accepted, and guest memory, which is shared: before any queue is started. */
int vhost_user_set_up(struct vhost_user *server, uint64_t features, const struct guest_memory *memory);

/* Have it serve a queue, from that available index on. */
int vhost_user_start_queue(struct vhost_user *server, const struct virtq *queue, uint16_t base,
	const struct vhost_user_eventfds *eventfds);
/* Have it stop, with no request of the queue in flight.  *base: where it would go on; hostile, any value. */
int vhost_user_stop_queue(struct vhost_user *server, unsigned queue, uint16_t *base);

#endif
