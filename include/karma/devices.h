/* SPDX-License-Identifier: GPL-2.0-only */
/* The virtio devices: how to make each.  A device is freed by its release operation. */
#ifndef KARMA_DEVICES_H
#define KARMA_DEVICES_H

#include "karma/disk.h"
#include "karma/rate_limiter.h"
#include "karma/net.h"
#include "karma/terminal.h"
#include "karma/virtio.h"
#include "karma/vsock_connector.h"

/*
 * The entries of each of a disk's queues, and so the requests that it may have under way: a disk
 * with few queues has long ones, so that each disk takes BLK_QUEUE_SIZE_MAX at least.
 */
#define BLK_QUEUE_SIZE_MIN 256u
#define BLK_QUEUE_SIZE_MAX 1024u
unsigned blk_queue_size(unsigned queues);

/*
 * A block device (virtio 1.2, section 5.2), with so many queues.  It takes the disk over, and closes
 * it.  serial: up to 20 bytes, or NULL.  NULL if memory is short.
 */
struct virtio_device *blk_create(const struct virtio_environment *environment, const char *name,
	struct disk *disk, const char *serial, unsigned queues);

/*
 * Limit the I/O of a block device; before its driver starts.  All of its queues share the limit,
 * which stays the caller's and must outlive it.
 */
void blk_limit(struct virtio_device *device, struct rate_limiter *limit);

#define PMEM_QUEUE_SIZE 64u	/* entries, and so the flushes under way */

/*
 * Persistent memory (virtio 1.2, section 5.19): the disk is guest memory at that place, and the device does
 * what flushes ask for.  It takes the disk over, and closes it.  flushes: what is written goes to the
 * disk; else a flush has nothing to do.  NULL if memory is short.
 */
struct virtio_device *pmem_create(const struct virtio_environment *environment, const char *name,
	struct disk *disk, const struct memory_region *place, bool flushes);

#define NET_QUEUE_SIZE 256u	/* entries */

/*
 * A network device (virtio 1.2, section 5.1), with as many pairs of queues as the other end has; that
 * stays the caller's, and outlives it.  mtu: 0 for the one that suits the other end.  NULL if memory
 * is short.
 */
struct virtio_device *net_create(const struct virtio_environment *environment, const char *name,
	struct net *net, const uint8_t mac[ETH_ALEN], unsigned mtu);

/* Limit each direction of a network device, as blk_limit() does. */
void net_device_limit(
	struct virtio_device *device, struct rate_limiter *receive_limit, struct rate_limiter *transmit_limit);

/* A console (virtio 1.2, section 5.3), of one port.  The terminal stays the caller's. */
struct virtio_device *console_create(
	const struct virtio_environment *environment, struct terminal *terminal);
/* The terminal's size may have changed. */
void console_resized(struct virtio_device *device);

/* An entropy source (virtio 1.2, section 5.4). */
struct virtio_device *rng_create(const struct virtio_environment *environment);

/*
 * A memory balloon (virtio 1.2, section 5.5), which the guest is asked to fill with so many bytes: what
 * it reports as free, or puts into it, goes back to the host.  Not for memory of huge pages.
 */
struct virtio_device *balloon_create(const struct virtio_environment *environment, uint64_t bytes);
/* Ask for another size.  Any thread. */
void balloon_set(struct virtio_device *device, uint64_t bytes);

/*
 * A socket device (virtio 1.2, section 5.10) of streams, whose sockets come by the connector; that stays the
 * caller's, is open, and outlives it.  NULL if memory is short.
 */
#define VSOCK_IN_FLIGHT (3 * VSOCK_CONNECTIONS_MAX + 1)	/* of io_uring's operations, at most */
struct virtio_device *vsock_create(
	const struct virtio_environment *environment, struct vsock_connector *connector);

#endif
