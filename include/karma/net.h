/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The backend of a network device: a TAP of the host, or passt.
 *
 * A frame is an Ethernet frame without its checksum, with a header in front of it, in both
 * directions: struct virtio_net_hdr_mrg_rxbuf, whose num_buffers only the device uses (virtio 1.2,
 * section 5.1.6).  No frame is longer than NET_FRAME_MAX.
 *
 * The life cycle is that of the device in front of it (karma/virtio.h):
 *
 *   open     net_open(), in the supervisor, once
 *   start    net_start(), in the guest's process, at each start of a guest
 *   attach   net_attach(), by the device that is created, and net_detach() when that is released
 *   release  net_close(), in the supervisor
 *
 * There is no pause or resume: a device that is paused receives and sends nothing, and frames wait
 * in the host's queue.  There is no end either: no call here waits, and what is in the host's queue
 * then is left to the next guest.
 *
 * Each queue is used by one thread at a time: the device holds its queue's lock around receive(),
 * send() and what belongs to them.  Any thread may call the other functions that say nothing else.
 */
#ifndef KARMA_NET_H
#define KARMA_NET_H

#include <linux/if_ether.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "karma/abi.h"
#include "karma/io.h"
#include "karma/rate_limiter.h"

#define NET_QUEUES_MAX ((KARMA_QUEUES_MAX - 1) / 2)	/* pairs, beside the control queue */
#define NET_HEADER_BYTES 12u
#define NET_FRAME_MAX (ETH_HLEN + 4u + 65535u)		/* with a VLAN tag */
#define NET_MTU_MIN 68u
#define NET_MTU_MAX 65535u
#define NET_PUBLISH_MAX 32u

enum net_kind { NET_NONE, NET_TAP, NET_FDS, NET_USER };

/* A port of the host that leads to one of the guest. */
struct net_publish {
	const char *address;	/* of the host; NULL: all of them */
	unsigned host, guest;
	bool udp;
};

struct net_options {
	enum net_kind kind;
	const char *tap;			/* NET_TAP: its name */
	int fds[NET_QUEUES_MAX];		/* NET_FDS: one for each queue */
	unsigned fd_count;
	unsigned queues;			/* pairs */
	bool has_mac;
	uint8_t mac[ETH_ALEN];
	unsigned mtu;				/* 0: the guest's choice */
	struct net_publish publish[NET_PUBLISH_MAX];	/* NET_USER */
	unsigned publish_count;
	struct rate_limit_options limit;	/* of each direction; for whoever makes the device */
};

struct net;

/* The state of the host's interface. */
enum net_link { NET_LINK_DOWN, NET_LINK_UP, NET_LINK_GONE };

/* What a backend does.  A function that may be NULL says so; then there is nothing to do. */
struct net_ops {
	/* Its contract is at net_start().  May be NULL. */
	int (*start)(struct net *net, bool again);
	/*
	 * Receive the next frame, with its header, into a list of buffers.  Returns its length with
	 * the header, which is larger than the list if the rest was lost; -EAGAIN if there is none;
	 * or another negative errno: the backend is gone, for ever.
	 */
	ssize_t (*receive)(
		struct net *net, unsigned queue, const struct iovec *iov, unsigned count);
	/*
	 * Whether a received frame is buffered here, so that the file descriptor need not be
	 * readable.  May be NULL.
	 */
	bool (*pending)(const struct net *net, unsigned queue);
	/*
	 * Send a frame, whose header is iov[0]; the list may be changed.  Returns 0; -EAGAIN if
	 * there is no room, and nothing was sent; or another negative errno: the frame is lost.
	 */
	int (*send)(struct net *net, unsigned queue, struct iovec *iov, unsigned count);
	/*
	 * Send the frames that send() buffered to send several at once.  Returns 0 or -EAGAIN.  May
	 * be NULL.
	 */
	int (*flush)(struct net *net, unsigned queue);
	/*
	 * Which offloads (TUN_F_*) the guest takes in frames that it receives: 0, or a negative
	 * errno.  May be NULL.
	 */
	int (*set_offloads)(struct net *net, unsigned offloads);
	/* Spread received frames over the first queues: 0, or a negative errno.  May be NULL. */
	int (*use_queues)(struct net *net, unsigned queues);
	/*
	 * The link by now, in the supervisor: net_query_link().  NULL: it never changes by itself.
	 */
	enum net_link (*query_link)(struct net *net, int monitor_fd);
	/*
	 * After net_set_gone(), once, on the I/O thread of the guest's process: say so to the user.
	 */
	void (*gone)(struct net *net);
	/* Free what it owns, itself included. */
	void (*close)(struct net *net);
};

struct net_queue {
	struct net *net;
	unsigned index;
	int fd;			/* -1: none */
	_Atomic bool readable_armed, vcpu_readable_armed, writable_armed;	/* the operation is in flight */
	struct io_op readable_op, vcpu_readable_op, writable_op;
};

/*
 * What the backend tells its device.  Called without a lock, on the I/O thread; readable() of
 * net_wait_readable_on_vcpu() on the vCPU's.
 */
struct net_events {
	void (*readable)(void *context, unsigned queue);
	void (*writable)(void *context, unsigned queue);
	void (*link_changed)(void *context, bool up);
};

struct net {
	const struct net_ops *ops;
	struct io_ring *ring;		/* the main one */
	char name[32];			/* "tap tap0", "passt", for messages */
	unsigned queue_count;
	unsigned offloads;		/* TUN_F_* that it supports, in both directions */
	unsigned mtu;			/* the best one for it; 0: the guest's choice */
	_Atomic bool up;
	_Atomic bool gone;		/* the link is down for ever */
	_Atomic bool new_up, update_armed;	/* net_update_link(): its link, and its operation in flight */
	struct io_op gone_op, update_op;
	struct net_queue queues[NET_QUEUES_MAX];
	const struct net_events *events;	/* NULL: no device is attached */
	void *context;
};

/* --- Life cycle. */

/*
 * Open what the options name.  In the supervisor; ring need not be set up yet.  Returns 0, or a
 * negative errno with a message printed.
 */
int net_open(struct net **net, const struct net_options *options, struct io_ring *ring);

/*
 * A guest starts.  In the guest's process, or in the process that opened it, before the sandbox is
 * entered and before there are other threads; the ring is set up.  again: there was an earlier
 * guest, and what its process left in shared memory is not trusted.  Returns 0, or a negative errno
 * with a message printed.
 */
int net_start(struct net *net, bool again);

/* Attach or detach a device; no other thread uses the backend. */
void net_attach(struct net *net, const struct net_events *events, void *context);
void net_detach(struct net *net);

/* In the process that opened it, or after the I/O thread has ended. */
void net_close(struct net *net);

/* --- Waiting for frames and for room.  Each call is for one event. */

/* Call readable() once there is a frame; soon if one is buffered.  writable() likewise. */
void net_wait_readable(struct net *net, unsigned queue);
void net_wait_writable(struct net *net, unsigned queue);
/* Whether a received frame is buffered, so that the file descriptor need not be readable. */
bool net_pending(const struct net *net, unsigned queue);
/*
 * Call readable() on the calling thread, which is a vCPU's with a ring of its own, and leaves the
 * guest for it: for a guest that would only wait for that frame.  If the I/O thread waits as well,
 * both call.  Buffered frames are not waited for.
 */
void net_wait_readable_on_vcpu(struct net *net, unsigned queue);
/* Whether a vCPU waits. */
bool net_waits_on_vcpu(const struct net *net, unsigned queue);

/* --- Links.  Only the supervisor sees the host's interfaces; it tells the guest's process. */

/*
 * A socket that is readable when an interface has changed, or a negative errno with a message
 * printed.
 */
int net_monitor_open(void);
/* Take what it has received. */
void net_monitor_drain(int monitor_fd);
/* The link by now; true if that is not what the guest's process knows. */
bool net_query_link(struct net *net, int monitor_fd, enum net_link *link);
/* The guest's process was told: the next one starts with that. */
void net_set_known_link(struct net *net, enum net_link link);

/* In the guest's process: the supervisor has told it. */
void net_update_link(struct net *net, enum net_link link);

/* --- For backends. */

void net_init(struct net *net, const struct net_ops *ops, struct io_ring *ring);
/* On the I/O thread, or while no device is attached. */
void net_set_link(struct net *net, bool up);
/*
 * The backend is gone for ever: the link goes down, and gone() is called.  Locks of the device may
 * be held.
 */
void net_set_gone(struct net *net);
int tap_open(struct net **net, const struct net_options *options, struct io_ring *ring);
int passt_open(struct net **net, const struct net_options *options, struct io_ring *ring);

#endif
