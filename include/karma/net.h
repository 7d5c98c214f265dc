/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The other end of a network device: a TAP of the host, or passt.  It lives on when the guest is
 * started anew; the next device attaches to it then.
 *
 * A frame has a header in front of it, in both directions: struct virtio_net_hdr_mrg_rxbuf, whose
 * num_buffers is the device's alone (virtio 1.2, section 5.1.6).  No frame is longer than
 * NET_FRAME_MAX; an Ethernet frame without its checksum.
 *
 * Each queue is used by one thread at a time: the device holds a lock of its own around that.
 * Different queues, and all the rest, by any thread.
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
	struct rate_limit_options limit;		/* for who makes the device; of each direction */
};

struct net;

/* Whether an interface of the host is there, and up. */
enum net_link { NET_LINK_DOWN, NET_LINK_UP, NET_LINK_GONE };

struct net_ops {
	/*
	 * The next frame, with its header, into a list of buffers: its length with the header, which
	 * is larger than the list if the rest was lost; -EAGAIN if there is none.  Other errors are for
	 * ever: the other end is gone.
	 */
	ssize_t (*receive)(
		struct net *net, unsigned queue, const struct iovec *iov, unsigned count);
	/* There is a frame, though the file descriptor may have nothing to read.  May be NULL. */
	bool (*pending)(const struct net *net, unsigned queue);
	/*
	 * Send a frame, whose header is iov[0]; the list is changed.  0; -EAGAIN if there is no room,
	 * with nothing of it sent; any other error: it is lost.
	 */
	int (*send)(struct net *net, unsigned queue, struct iovec *iov, unsigned count);
	/* Let frames out that send() kept to send several at once: 0 or -EAGAIN.  May be NULL. */
	int (*flush)(struct net *net, unsigned queue);
	/* Which of the offloads (TUN_F_*) the guest takes in frames that it receives.  May be NULL. */
	int (*set_offloads)(struct net *net, unsigned offloads);
	/* Spread received frames over the first queues.  May be NULL. */
	int (*use_queues)(struct net *net, unsigned queues);
	/* net_query_link().  May be NULL: it never changes by itself. */
	enum net_link (*query_link)(struct net *net, int links_fd);
	/* net_start().  May be NULL. */
	int (*start)(struct net *net, bool again);
	/* After net_set_gone(), once, on the I/O thread: tell the user. */
	void (*gone)(struct net *net);
	/* Free what it owns, itself included. */
	void (*close)(struct net *net);
};

struct net_queue {
	struct net *net;
	unsigned index;
	int fd;
	_Atomic bool reading, reading_here, writing;	/* an operation waits for that */
	struct io_op readable_op, readable_here_op, writable_op;
};

/*
 * What a device wants to know.  Called without a lock, on the I/O thread, or, after
 * net_wait_readable_on_vcpu(), on the thread that waits.
 */
struct net_events {
	void (*readable)(void *context, unsigned queue);
	void (*writable)(void *context, unsigned queue);
	void (*link_changed)(void *context, bool up);
};

struct net {
	const struct net_ops *ops;
	struct io_ring *ring;
	char name[32];			/* "tap tap0", "passt", for messages */
	unsigned queue_count;
	unsigned offloads;		/* TUN_F_* that it can do, in both directions */
	unsigned mtu;			/* that it is best used with; 0: the guest's choice */
	_Atomic bool up;
	_Atomic bool ended;
	_Atomic bool told_up, telling;	/* net_update_link(), on its way to the I/O thread */
	struct io_op ended_op, told_op;
	struct net_queue queues[NET_QUEUES_MAX];
	const struct net_events *events;	/* NULL: nobody is attached */
	void *context;
};

/* Open what the options name.  0, or a negative errno with a message printed. */
int net_open(struct net **net, const struct net_options *options, struct io_ring *ring);

/*
 * For the supervisor, which alone sees the host's network: a socket that can be read when an interface
 * has changed, or a negative errno with a message printed; empty it; how a link is by now, and whether
 * that is new to the guest's process.
 */
int net_monitor_open(void);
void net_monitor_drain(int links_fd);
bool net_query_link(struct net *net, int links_fd, enum net_link *link);
/* The guest's process was told, and so the next one knows from the start. */
void net_set_known_link(struct net *net, enum net_link link);

/* In the guest's process: do as it was told.  Any thread. */
void net_update_link(struct net *net, enum net_link link);

/*
 * The ring is there, and runs soon: to be called by the process that has opened it, or one that was
 * forked since; again if that is not the first.  0, or a negative errno with a message printed.
 */
int net_start(struct net *net, bool again);

/* The ring's thread has ended. */
void net_close(struct net *net);

/* Attach or detach a device, when no other thread is at work. */
void net_attach(struct net *net, const struct net_events *events, void *context);
void net_detach(struct net *net);

/* Call readable() once there is a frame, or at once if one may be there; writable() likewise. */
void net_wait_readable(struct net *net, unsigned queue);
void net_wait_writable(struct net *net, unsigned queue);
/* There is a frame, though the file descriptor may have nothing to read. */
bool net_pending(const struct net *net, unsigned queue);
/*
 * Call readable() on the calling thread, which is a vCPU's and leaves the guest for it: for who has
 * to wait for that frame anyhow.  If the I/O thread waits as well, both are called.  For frames that
 * are pending that is no wait.
 */
void net_wait_readable_on_vcpu(struct net *net, unsigned queue);
/* Whether a vCPU's thread waits. */
bool net_waits_on_vcpu(const struct net *net, unsigned queue);

/* For backends. */
void net_init(struct net *net, const struct net_ops *ops, struct io_ring *ring);
/* On the I/O thread, or before anybody is attached. */
void net_set_link(struct net *net, bool up);
/* The other end is gone for good: the link is taken down, and gone() called.  Any thread. */
void net_set_gone(struct net *net);
int tap_open(struct net **net, const struct net_options *options, struct io_ring *ring);
int passt_open(struct net **net, const struct net_options *options, struct io_ring *ring);

#endif
