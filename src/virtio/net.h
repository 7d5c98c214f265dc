/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The parts of the network device: net.c is the device itself and its control queue, net_receive.c
 * and net_transmit.c are the two directions.
 */
#ifndef KARMA_VIRTIO_NET_H
#define KARMA_VIRTIO_NET_H

#include <linux/virtio_net.h>

#include "karma/devices.h"
#include "karma/pace.h"
#include "karma/util.h"

/* Of virtio 1.2 and later, which Debian 12's headers lack. */
#ifndef VIRTIO_NET_F_HOST_USO
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#define VIRTIO_NET_F_HOST_USO 56
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define NET_BUFFERS NET_QUEUE_SIZE	/* of one frame, at most */
/* A frame of a bulk transfer, in one direction or the other. */
#define NET_BULK_BYTES (8 * KIB)
#define NET_BULK_NANOSECONDS 10000000ll

enum net_counter {
	NET_RECEIVED,		/* frames, and bytes of them */
	NET_RECEIVED_BYTES,
	NET_RECEIVE_DROPPED,	/* did not fit, or the guest can't take its like */
	NET_SENT,
	NET_SENT_BYTES,
	NET_SEND_REFUSED,	/* the guest's header or length is wrong */
	NET_SEND_DROPPED,	/* the other end did not take it */
	NET_CONTROL_REFUSED,
	NET_LIMITED,
	NET_COUNTERS,
};

struct net_device;

/* Chains that were taken and hold no frame yet, in order. */
struct held_chain {
	uint16_t head;
	uint16_t buffers;
	uint32_t bytes;			/* VIRTQ_CHAIN_BYTES_MAX at most */
};

struct receiver {
	struct net_device *device;
	struct virtq *queue;
	unsigned pair;
	struct rate_limit_waiter turn;
	bool starved;			/* of buffers */
	/*
	 * One frame comes in for each that goes out: the vCPU that sends waits for the next one by
	 * itself.  The ring of the thread that has sent something since the last one, or NULL.
	 */
	_Atomic bool in_turns;
	struct io_ring *_Atomic answered;
	bool bulk;			/* the last frame was large */
	bool waits;			/* for the limit */
	struct io_op limit_op;
	struct __kernel_timespec delay;

	struct held_chain chains[NET_QUEUE_SIZE];
	unsigned first, count;		/* in chains[] */
	/* Their buffers; there is always room for those of one more chain, and for the spare. */
	struct iovec iov[2 * NET_BUFFERS + 1];
	unsigned iov_first, iov_count;
	size_t bytes;

	/* A frame for which there were too few buffers: its length, and how much they hold of it. */
	size_t unfinished, filled;
	uint8_t *spare;			/* the rest of it: NET_SPARE_BYTES */
};

struct transmitter {
	struct net_device *device;
	struct pace pace;
	_Atomic int64_t bulk_until;	/* CLOCK_MONOTONIC, ns: what is sent now acknowledges that */
	/* A frame that the other end has no room for yet. */
	bool held;
	uint16_t head;
	struct virtio_net_hdr_mrg_rxbuf header;
	struct iovec iov[NET_BUFFERS + 1];	/* the header, checked, and what is behind it */
	unsigned iov_count;
	size_t bytes;
};

struct net_device {
	struct virtio_device device;
	struct net *net;
	struct virtio_net_config config;
	unsigned pairs;			/* that there are */
	_Atomic unsigned pairs_used;
	_Atomic uint64_t offloads;	/* VIRTIO_NET_F_GUEST_* that frames may make use of */
	struct rate_limiter *receive_limit, *transmit_limit;	/* NULL: none */
	struct virtq *queues;		/* receive, transmit, receive, ..., control */
	struct receiver *receivers;
	struct transmitter *transmitters;
	struct virtio_counter counters[NET_COUNTERS];	/* added to atomically */
};

static inline bool net_accepted(const struct net_device *device, unsigned feature)
{
	return device->device.accepted & (1ull << feature);
}

static inline void net_count(struct net_device *device, enum net_counter counter, uint64_t number)
{
	__atomic_fetch_add(&device->counters[counter].value, number, __ATOMIC_RELAXED);
}

/* With the lock of the queue held. */
int receiver_init(struct receiver *receiver, struct net_device *device, unsigned pair);
void receiver_release(struct receiver *receiver);
void receiver_reset(struct receiver *receiver);
/* Take frames as long as there are some, and buffers for them. */
void receiver_serve(struct receiver *receiver);
/* The thread that calls has sent a frame that is no part of a bulk transfer. */
void receiver_answered(struct receiver *receiver);
/* There are new buffers. */
void receiver_notify(struct receiver *receiver);

void transmitter_init(struct transmitter *transmitter, struct net_device *device, unsigned pair);
void transmitter_reset(struct transmitter *transmitter);

#endif
