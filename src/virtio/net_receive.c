// SPDX-License-Identifier: GPL-2.0-only
/* The network device's way in: frames straight into the guest's buffers. */
#include <errno.h>
#include <string.h>

#include "net.h"

#define SPARE_BYTES (NET_HEADER_BYTES + NET_FRAME_MAX)
/* What is enough for a frame, of a common size or of the largest; more if that was too little. */
#define PLAIN_BYTES (NET_HEADER_BYTES + ETH_FRAME_LEN + 4u)
#define LARGE_BYTES SPARE_BYTES

enum outcome {
	DONE,		/* with a frame */
	NO_FRAME,
	NO_BUFFERS,
	LIMITED,
	ENDED,		/* no frames any more, or the queue is broken */
};

static bool merges(const struct receiver *receiver)
{
	return net_accepted(receiver->device, VIRTIO_NET_F_MRG_RXBUF);
}

/* Make room behind what is held. */
static void compact(struct receiver *receiver)
{
	if (receiver->first + receiver->count == NET_QUEUE_SIZE) {
		memmove(receiver->chains, receiver->chains + receiver->first,
			receiver->count * sizeof(receiver->chains[0]));
		receiver->first = 0;
	}
	if (receiver->iov_first + receiver->iov_count > NET_BUFFERS) {
		memmove(receiver->iov, receiver->iov + receiver->iov_first,
			receiver->iov_count * sizeof(receiver->iov[0]));
		receiver->iov_first = 0;
	}
}

static bool is_full(const struct receiver *receiver)
{
	return receiver->count == NET_QUEUE_SIZE || receiver->iov_count > NET_BUFFERS;
}

/* Take one more chain; false if there is none, or can't be. */
static bool hold_chain(struct receiver *receiver)
{
	struct virtq_chain chain;
	struct iovec *to;

	if (is_full(receiver))
		return false;
	compact(receiver);
	to = receiver->iov + receiver->iov_first + receiver->iov_count;
	if (!virtio_pop(&receiver->device->device, receiver->queue, to, NET_BUFFERS, &chain))
		return false;
	/* What the device reads means nothing in here. */
	if (chain.out_count)
		memmove(to, to + chain.out_count, chain.in_count * sizeof(*to));
	receiver->chains[receiver->first + receiver->count++] = (struct held_chain){
		.head = chain.head,
		.buffers = chain.in_count,
		.bytes = chain.in_bytes,
	};
	receiver->iov_count += chain.in_count;
	receiver->bytes += chain.in_bytes;
	return true;
}

static bool hold_bytes(struct receiver *receiver, size_t wanted)
{
	while (receiver->bytes < wanted) {
		if (!hold_chain(receiver))
			return false;
	}
	return true;
}

/* Buffers for a frame: as many as it may need, or all that there are. */
static bool hold_buffers(struct receiver *receiver)
{
	const struct net_device *device = receiver->device;
	bool large = device->offloads || device->config.mtu > ETH_DATA_LEN;

	if (!merges(receiver))
		return receiver->count || hold_chain(receiver);
	hold_bytes(receiver, large ? LARGE_BYTES : PLAIN_BYTES);
	return receiver->count;
}

static void forget_first(struct receiver *receiver)
{
	const struct held_chain *chain = &receiver->chains[receiver->first];

	receiver->iov_first += chain->buffers;
	receiver->iov_count -= chain->buffers;
	receiver->bytes -= chain->bytes;
	receiver->first++;
	receiver->count--;
	if (receiver->count == 0)
		receiver->first = receiver->iov_first = receiver->iov_count = 0;
}

static struct iovec *buffers(struct receiver *receiver)
{
	return receiver->iov + receiver->iov_first;
}

/* A frame from before the driver chose its features may have what it does not know. */
static bool is_welcome(struct receiver *receiver)
{
	const uint64_t offloads = receiver->device->offloads;
	struct virtio_net_hdr header = { 0 };
	uint64_t needed;

	iov_read(buffers(receiver), receiver->iov_count, 0, &header, sizeof(header));
	if ((header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) &&
		!(offloads & 1ull << VIRTIO_NET_F_GUEST_CSUM))
		return false;
	switch (header.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return true;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		needed = 1ull << VIRTIO_NET_F_GUEST_TSO4;
		break;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		needed = 1ull << VIRTIO_NET_F_GUEST_TSO6;
		break;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		needed = 1ull << VIRTIO_NET_F_GUEST_USO4 | 1ull << VIRTIO_NET_F_GUEST_USO6;
		break;
	default:
		return false;
	}
	return offloads & needed;
}

/* The frame is in the buffers: give those back that it fills, all at once. */
static void deliver(struct receiver *receiver, size_t length)
{
	struct vring_used_elem elements[NET_QUEUE_SIZE];
	struct iovec *iov = buffers(receiver);
	unsigned iov_count = receiver->iov_count;
	size_t left = length;
	uint16_t count = 0;

	while (left > 0 && count < receiver->count) {
		const struct held_chain *chain = &receiver->chains[receiver->first + count];
		uint32_t part = left < chain->bytes ? left : chain->bytes;

		elements[count++] = (struct vring_used_elem){ .id = chain->head, .len = part };
		left -= part;
	}
	iov_write(iov, iov_count, offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers), &count,
		sizeof(count));
	virtq_push_all(receiver->queue, elements, count);
	while (count--)
		forget_first(receiver);
	receiver->bulk = length > NET_BULK_BYTES;
	if (receiver->bulk)
		receiver->device->transmitters[receiver->pair].bulk_until =
			nanoseconds() + NET_BULK_NANOSECONDS;
	net_count(receiver->device, NET_RECEIVED, 1);
	net_count(receiver->device, NET_RECEIVED_BYTES, length - NET_HEADER_BYTES);
}

static enum outcome drop(struct receiver *receiver)
{
	receiver->unfinished = 0;
	net_count(receiver->device, NET_RECEIVE_DROPPED, 1);
	return DONE;
}

/* A frame is there, of which a part may lie in the spare. */
static enum outcome place(struct receiver *receiver)
{
	size_t length = receiver->unfinished;

	if (length > receiver->bytes && length <= receiver->filled + SPARE_BYTES &&
		merges(receiver) && !hold_bytes(receiver, length)) {
		/* The guest has no more to give, or we must wait until it has. */
		if (is_full(receiver) || receiver->count >= receiver->queue->size)
			return drop(receiver);
		return receiver->queue->broken ? ENDED : NO_BUFFERS;
	}
	if (length > receiver->bytes || length < NET_HEADER_BYTES + ETH_HLEN || !is_welcome(receiver))
		return drop(receiver);
	if (length > receiver->filled)
		iov_write(buffers(receiver), receiver->iov_count, receiver->filled,
			receiver->spare, length - receiver->filled);
	receiver->unfinished = 0;
	deliver(receiver, length);
	return DONE;
}

static bool may_start(struct receiver *receiver)
{
	struct rate_limiter *limit = receiver->device->receive_limit;
	int64_t wait = limit ? rate_limiter_admit(limit, &receiver->turn) : 0;

	receiver->delay.tv_nsec = wait;
	return wait == 0;
}

static enum outcome take_frame(struct receiver *receiver)
{
	struct net_device *device = receiver->device;
	struct net *net = device->net;
	unsigned count;
	ssize_t got;

	if (receiver->unfinished)
		return place(receiver);
	if (!hold_buffers(receiver))
		return receiver->queue->broken ? ENDED : NO_BUFFERS;
	if (!may_start(receiver))
		return LIMITED;
	count = merges(receiver) ? receiver->iov_count : receiver->chains[receiver->first].buffers;
	receiver->filled = receiver->bytes;
	buffers(receiver)[count] = (struct iovec){ receiver->spare, SPARE_BYTES };
	got = net->ops->receive(net, receiver->pair, buffers(receiver), count + 1);
	if (got < 0)
		return got == -EAGAIN ? NO_FRAME : ENDED;
	if (device->receive_limit)
		rate_limiter_consume(device->receive_limit, got);
	receiver->unfinished = got;
	return place(receiver);
}

static void limit_passed(struct io_op *op, int result);

static void hold(struct receiver *receiver)
{
	struct virtio_device *device = &receiver->device->device;

	/* What is held back when the guest has ended is nobody's any more. */
	if (receiver->waits || device->ending)
		return;
	net_count(receiver->device, NET_LIMITED, 1);
	receiver->waits = true;
	receiver->limit_op.done = limit_passed;
	virtio_request_started(device);
	io_ring_timeout(device->ring, &receiver->limit_op, &receiver->delay);
	io_ring_submit(device->ring);
}

static void let_go(struct receiver *receiver)
{
	if (receiver->device->receive_limit)
		rate_limiter_withdraw(receiver->device->receive_limit, &receiver->turn);
}

static void limit_passed(struct io_op *op, int result)
{
	struct receiver *receiver = container_of(op, struct receiver, limit_op);
	struct virtio_device *device = &receiver->device->device;

	(void)result;
	pthread_mutex_lock(receiver->queue->lock);
	receiver->waits = false;
	if (virtio_running(device))
		receiver_serve(receiver);
	else
		let_go(receiver);
	virtio_request_done(device);
	pthread_mutex_unlock(receiver->queue->lock);
}

static bool is_vcpu(const struct receiver *receiver)
{
	struct io_ring *main = receiver->device->device.ring;

	return io_ring_current(main) != main;
}

/* So many frames were there.  Who waits for the next? */
static void wait_for_next(struct receiver *receiver, unsigned taken)
{
	struct net *net = receiver->device->net;
	struct io_ring *here = io_ring_current(receiver->device->device.ring);

	if (taken > 0) {
		struct io_ring *answered = atomic_exchange(&receiver->answered, NULL);

		receiver->in_turns = taken == 1 && answered && !receiver->bulk;
		/* The guest sends on another vCPU by now: the I/O thread waits until that one does. */
		if (is_vcpu(receiver) && answered != here)
			receiver->in_turns = false;
	}
	if (!receiver->in_turns || net_pending(net, receiver->pair))
		net_wait_readable(net, receiver->pair);
	else if (is_vcpu(receiver))
		net_wait_readable_on_vcpu(net, receiver->pair);
	else if (!net_waits_on_vcpu(net, receiver->pair))
		net_wait_readable(net, receiver->pair);
}

void receiver_answered(struct receiver *receiver)
{
	receiver->answered = io_ring_current(receiver->device->device.ring);
	if (receiver->in_turns && is_vcpu(receiver))
		net_wait_readable_on_vcpu(receiver->device->net, receiver->pair);
}

void receiver_serve(struct receiver *receiver)
{
	struct net_device *device = receiver->device;
	struct virtq *queue = receiver->queue;
	enum outcome outcome = DONE;
	unsigned taken = 0;

	if (receiver->waits || receiver->pair >= device->pairs_used || !queue->size)
		return;
	receiver->starved = false;
	/* No more than a ring of them in one go: others want their turn, too. */
	for (unsigned i = 0; i < queue->size_max && outcome == DONE; i++) {
		/* If one more is there, the wait for it ends at once. */
		if (taken && receiver->in_turns)
			break;
		outcome = take_frame(receiver);
		taken += outcome == DONE;
		if (outcome == NO_BUFFERS && virtq_enable_notify(queue))
			outcome = DONE;
	}
	if (outcome == LIMITED)
		hold(receiver);
	else
		let_go(receiver);
	if (outcome == DONE || outcome == NO_FRAME)
		wait_for_next(receiver, taken);
	receiver->starved = outcome == NO_BUFFERS;
	virtq_interrupt(queue);
}

/* The I/O thread reads, while the guest goes on. */
void receiver_notify(struct receiver *receiver)
{
	if (!receiver->starved || receiver->pair >= receiver->device->pairs_used)
		return;
	receiver->starved = false;
	if (receiver->unfinished)
		receiver_serve(receiver);
	else
		net_wait_readable(receiver->device->net, receiver->pair);
}

void receiver_reset(struct receiver *receiver)
{
	receiver->first = receiver->count = receiver->iov_first = receiver->iov_count = 0;
	receiver->bytes = receiver->unfinished = receiver->filled = 0;
	receiver->starved = false;
	receiver->in_turns = false;
	receiver->answered = NULL;
}

int receiver_init(struct receiver *receiver, struct net_device *device, unsigned pair)
{
	receiver->device = device;
	receiver->queue = &device->queues[2 * pair];
	receiver->pair = pair;
	/* Not touched, and so not there, before a frame is too long for its buffers. */
	receiver->spare = malloc(SPARE_BYTES);
	return receiver->spare ? 0 : -ENOMEM;
}

void receiver_release(struct receiver *receiver)
{
	free(receiver->spare);
}
