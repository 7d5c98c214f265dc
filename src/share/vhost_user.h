/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The back end of vhost-user: takes the messages of one front, maps its guest's memory, and serves the queues
 * of a virtio-fs device (virtio 1.2, section 5.11), all on one thread.  The front, the guest's memory and its
 * rings are hostile; what they can harm is this process.
 *
 * Functions that return int give 0 or a negative errno; a message is printed where they say so.
 */
#ifndef KARMA_SHARE_VHOST_USER_H
#define KARMA_SHARE_VHOST_USER_H

#include <sys/uio.h>

#include "karma/memory.h"
#include "karma/vhost_user_protocol.h"
#include "karma/virtq.h"

/* The queue for what must not wait behind other requests, and one for those (section 5.11.2). */
#define VHOST_QUEUES 2u
#define VHOST_QUEUE_SIZE_MAX 1024u

/* Serve a chain; the number of bytes that were written to it. */
typedef uint32_t vhost_serve(void *context, const struct virtq_chain *chain);

struct vhost_queue {
	struct virtq virtq;
	struct vhost_user_vring_address address;
	uint16_t base;		/* the next entry of its rings when it starts */
	uint32_t size;		/* as the front sets it, unchecked */
	bool started, enabled;
	bool waiting;		/* more chains than were served in its turn */
	int kick, call, error;	/* eventfds, or -1 */
};

struct vhost_backend {
	int socket;		/* the caller's */
	int events;		/* epoll: the socket, and the queues' kicks */
	uint64_t features, protocol_features;
	const void *config;	/* the device's configuration */
	uint32_t config_size;
	vhost_serve *serve;
	void *context;
	struct guest_memory memory;
	struct memory_region regions[VHOST_USER_REGIONS_MAX];
	uint64_t addresses[VHOST_USER_REGIONS_MAX];	/* of these in the front */
	struct iovec mappings[VHOST_USER_REGIONS_MAX];	/* what was mapped for these */
	struct vhost_queue queues[VHOST_QUEUES];
	struct iovec iov[VHOST_QUEUE_SIZE_MAX];		/* of the chain that is served */
};

/* The socket blocks, and stays the caller's. */
int vhost_backend_init(struct vhost_backend *backend, int socket);
void vhost_backend_release(struct vhost_backend *backend);

/* Serve until the front closes its socket: 0.  -EPROTO for a front that breaks the protocol, with a message. */
int vhost_backend_run(struct vhost_backend *backend);

/* Wait, and serve what comes: 0, 1 if the front is gone, or an error as above. */
int vhost_backend_step(struct vhost_backend *backend);

/* Take a message from the socket and do what it says.  As vhost_backend_step(). */
int vhost_user_take(struct vhost_backend *backend);

/* Replace the regions by those of a message, with its descriptors, which stay the caller's. */
int vhost_memory_map(struct vhost_backend *backend, const struct vhost_user_memory *table, const int *fds);
void vhost_memory_unmap(struct vhost_backend *backend);
/* The guest's address for one of the front's; UINT64_MAX, where no memory is, if that is in no region. */
uint64_t vhost_memory_gpa(const struct vhost_backend *backend, uint64_t address);

/* Start a queue with what the front has said of it. */
int vhost_queue_start(struct vhost_backend *backend, struct vhost_queue *queue);
void vhost_queue_stop(struct vhost_queue *queue);

#endif
