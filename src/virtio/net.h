/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The parts of the network device: net.c is the device itself and its control queue, net_receive.c
 * and net_transmit.c are the two directions.
 */
#ifndef KARMA_VIRTIO_NET_H
#define KARMA_VIRTIO_NET_H

#include <linux/virtio_net.h>

#include "karma/devices.h"
#include "karma/queue_scheduler.h"
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

/* A chain of the receive queue that was popped and has no frame yet. */
struct receive_chain {
	uint16_t head;
	uint16_t buffers;
	uint32_t bytes;			/* VIRTQ_CHAIN_BYTES_MAX at most */
};

struct receiver {
	struct net_device *device;
	struct virtq *queue;
	unsigned pair;
	struct rate_limit_waiter turn;
	bool out_of_buffers;		/* the guest's next notification is for more of them */
	/*
	 * Request-response traffic, in which one frame comes in for each that goes out: the vCPU that has
	 * sent polls for the next one on its own ring.  last_sender: the ring of the thread that has sent
	 * a frame since the last one came, or NULL.
	 */
	_Atomic bool request_response;
	struct io_ring *_Atomic last_sender;
	bool bulk;			/* the last frame was large */
	bool rate_limited;		/* it waits for the limiter */
	struct io_op limit_timer_op;
	struct __kernel_timespec limit_delay;

	struct receive_chain chains[NET_QUEUE_SIZE];	/* popped, in order */
	unsigned first, count;		/* in chains[] */
	/* Their buffers; there is always room for those of one more chain, and for the overflow. */
	struct iovec iov[2 * NET_BUFFERS + 1];
	unsigned iov_first, iov_count;
	size_t bytes;

	/* A frame for which there were too few buffers: its length, and how much they hold of it. */
	size_t frame_length, frame_in_buffers;
	uint8_t *overflow;		/* the rest of it: OVERFLOW_BYTES */
};

struct transmitter {
	struct net_device *device;
	struct queue_scheduler scheduler;
	_Atomic int64_t bulk_until;	/* CLOCK_MONOTONIC, ns: what is sent now acknowledges that */
	/* Back-pressure: a frame that the backend has no room for yet. */
	bool frame_pending;
	uint16_t head;
	struct virtio_net_hdr_mrg_rxbuf header;
	struct iovec iov[NET_BUFFERS + 1];	/* the header, checked, and what is behind it */
	unsigned iov_count;
	size_t bytes;
};

struct net_device {
	struct virtio_device device;	/* its queues: receive, transmit, receive, ..., control */
	struct net *net;
	struct virtio_net_config config;
	unsigned pairs;			/* that there are */
	_Atomic unsigned pairs_used;
	_Atomic uint64_t offloads;	/* VIRTIO_NET_F_GUEST_* that frames may make use of */
	struct rate_limiter *receive_limit, *transmit_limit;	/* NULL: none */
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

/* In all of these the lock of the queue is held. */
int receiver_init(struct receiver *receiver, struct net_device *device, unsigned pair);
void receiver_release(struct receiver *receiver);
void receiver_reset(struct receiver *receiver);
/* Receive frames as long as there are some, and buffers for them. */
void receiver_serve(struct receiver *receiver);
/* The calling thread has sent a frame that is no part of a bulk transfer. */
void receiver_note_reply(struct receiver *receiver);
/* There are new buffers. */
void receiver_notify(struct receiver *receiver);

void transmitter_init(struct transmitter *transmitter, struct net_device *device, unsigned pair);
void transmitter_reset(struct transmitter *transmitter);

#endif
