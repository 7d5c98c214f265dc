// SPDX-License-Identifier: GPL-2.0-only
/* The network device's receive queues: frames are read straight into the guest's buffers. */
#include <errno.h>
#include <string.h>

#include "net.h"

#define OVERFLOW_BYTES (NET_HEADER_BYTES + NET_FRAME_MAX)
/* Buffers that are popped for a frame: enough for one of a common size or of the largest. */
#define PLAIN_BYTES (NET_HEADER_BYTES + ETH_FRAME_LEN + 4u)
#define LARGE_BYTES OVERFLOW_BYTES

enum outcome {
	DONE,		/* a frame was received, or dropped */
	NO_FRAME,
	NO_BUFFERS,
	LIMITED,	/* the rate limiter lets none start now */
	ENDED,		/* the backend is gone, or the queue is broken */
};

static bool merges(const struct receiver *receiver)
{
	return net_accepted(receiver->device, VIRTIO_NET_F_MRG_RXBUF);
}

/* Move the popped chains to the front of their arrays. */
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

/* Pop one more chain; false if there is none, or no room for it. */
static bool pop_chain(struct receiver *receiver)
{
	struct virtq_chain chain;
	struct iovec *to;

	if (is_full(receiver))
		return false;
	compact(receiver);
	to = receiver->iov + receiver->iov_first + receiver->iov_count;
	if (!virtio_pop(&receiver->device->device, receiver->queue, to, NET_BUFFERS, &chain))
		return false;
	/* Buffers that the device may only read are of no use in a receive queue. */
	if (chain.out_count)
		memmove(to, to + chain.out_count, chain.in_count * sizeof(*to));
	receiver->chains[receiver->first + receiver->count++] = (struct receive_chain){
		.head = chain.head,
		.buffers = chain.in_count,
		.bytes = chain.in_bytes,
	};
	receiver->iov_count += chain.in_count;
	receiver->bytes += chain.in_bytes;
	return true;
}

static bool pop_bytes(struct receiver *receiver, size_t wanted)
{
	while (receiver->bytes < wanted) {
		if (!pop_chain(receiver))
			return false;
	}
	return true;
}

/* Buffers for a frame: as many as it may need, or all that there are. */
static bool pop_buffers(struct receiver *receiver)
{
	const struct net_device *device = receiver->device;
	bool large = device->offloads || device->config.mtu > ETH_DATA_LEN;

	if (!merges(receiver))
		return receiver->count || pop_chain(receiver);
	pop_bytes(receiver, large ? LARGE_BYTES : PLAIN_BYTES);
	return receiver->count;
}

static void remove_first(struct receiver *receiver)
{
	const struct receive_chain *chain = &receiver->chains[receiver->first];

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

/* A frame that the backend had before the driver chose its features may need an offload that is not accepted. */
static bool offloads_accepted(struct receiver *receiver)
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

/* The frame is in the buffers: push the chains that it fills, all at once. */
static void deliver(struct receiver *receiver, size_t length)
{
	struct vring_used_elem elements[NET_QUEUE_SIZE];
	struct iovec *iov = buffers(receiver);
	unsigned iov_count = receiver->iov_count;
	size_t left = length;
	uint16_t count = 0;

	while (left > 0 && count < receiver->count) {
		const struct receive_chain *chain = &receiver->chains[receiver->first + count];
		uint32_t part = left < chain->bytes ? left : chain->bytes;

		elements[count++] = (struct vring_used_elem){ .id = chain->head, .len = part };
		left -= part;
	}
	iov_write(iov, iov_count, offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers), &count,
		sizeof(count));
	virtq_push_all(receiver->queue, elements, count);
	while (count--)
		remove_first(receiver);
	receiver->bulk = length > NET_BULK_BYTES;
	if (receiver->bulk)
		receiver->device->transmitters[receiver->pair].bulk_until =
			nanoseconds() + NET_BULK_NANOSECONDS;
	net_count(receiver->device, NET_RECEIVED, 1);
	net_count(receiver->device, NET_RECEIVED_BYTES, length - NET_HEADER_BYTES);
}

static enum outcome drop(struct receiver *receiver)
{
	receiver->frame_length = 0;
	net_count(receiver->device, NET_RECEIVE_DROPPED, 1);
	return DONE;
}

/* A frame was read, maybe with its end in the overflow buffer: pop chains for that, and deliver it. */
static enum outcome place_frame(struct receiver *receiver)
{
	size_t length = receiver->frame_length;

	if (length > receiver->bytes && length <= receiver->frame_in_buffers + OVERFLOW_BYTES &&
		merges(receiver) && !pop_bytes(receiver, length)) {
		/* No more chains fit, or the frame waits until the guest adds some. */
		if (is_full(receiver) || receiver->count >= receiver->queue->size)
			return drop(receiver);
		return receiver->queue->broken ? ENDED : NO_BUFFERS;
	}
	if (length > receiver->bytes || length < NET_HEADER_BYTES + ETH_HLEN || !offloads_accepted(receiver))
		return drop(receiver);
	if (length > receiver->frame_in_buffers)
		iov_write(buffers(receiver), receiver->iov_count, receiver->frame_in_buffers,
			receiver->overflow, length - receiver->frame_in_buffers);
	receiver->frame_length = 0;
	deliver(receiver, length);
	return DONE;
}

static bool limit_allows(struct receiver *receiver)
{
	struct rate_limiter *limit = receiver->device->receive_limit;
	int64_t wait = limit ? rate_limiter_admit(limit, &receiver->turn) : 0;

	receiver->limit_delay.tv_nsec = wait;
	return wait == 0;
}

static enum outcome receive_frame(struct receiver *receiver)
{
	struct net_device *device = receiver->device;
	struct net *net = device->net;
	unsigned count;
	ssize_t got;

	if (receiver->frame_length)
		return place_frame(receiver);
	if (!pop_buffers(receiver))
		return receiver->queue->broken ? ENDED : NO_BUFFERS;
	if (!limit_allows(receiver))
		return LIMITED;
	count = merges(receiver) ? receiver->iov_count : receiver->chains[receiver->first].buffers;
	receiver->frame_in_buffers = receiver->bytes;
	buffers(receiver)[count] = (struct iovec){ receiver->overflow, OVERFLOW_BYTES };
	got = net->ops->receive(net, receiver->pair, buffers(receiver), count + 1);
	if (got < 0)
		return got == -EAGAIN ? NO_FRAME : ENDED;
	if (device->receive_limit)
		rate_limiter_consume(device->receive_limit, got);
	receiver->frame_length = got;
	return place_frame(receiver);
}

static void limit_timer_expired(struct io_op *op, int result);

static void wait_for_limit(struct receiver *receiver)
{
	struct virtio_device *device = &receiver->device->device;

	/* Once the guest has ended nobody waits for the limiter. */
	if (receiver->rate_limited || virtio_ending(device))
		return;
	net_count(receiver->device, NET_LIMITED, 1);
	receiver->rate_limited = true;
	receiver->limit_timer_op.done = limit_timer_expired;
	virtio_request_started(device);
	io_ring_timeout(device->ring, &receiver->limit_timer_op, &receiver->limit_delay);
	io_ring_submit(device->ring);
}

static void leave_limit(struct receiver *receiver)
{
	if (receiver->device->receive_limit)
		rate_limiter_withdraw(receiver->device->receive_limit, &receiver->turn);
}

static void limit_timer_expired(struct io_op *op, int result)
{
	struct receiver *receiver = container_of(op, struct receiver, limit_timer_op);
	struct virtio_device *device = &receiver->device->device;

	(void)result;
	pthread_mutex_lock(receiver->queue->lock);
	receiver->rate_limited = false;
	if (virtio_running(device))
		receiver_serve(receiver);
	else
		leave_limit(receiver);
	virtio_request_done(device);
	pthread_mutex_unlock(receiver->queue->lock);
}

static bool is_vcpu(const struct receiver *receiver)
{
	struct io_ring *main = receiver->device->device.ring;

	return io_ring_current(main) != main;
}

/* So many frames were received.  Have the I/O thread, or the vCPU that sends, poll for the next. */
static void wait_for_next(struct receiver *receiver, unsigned taken)
{
	struct net *net = receiver->device->net;
	struct io_ring *here = io_ring_current(receiver->device->device.ring);

	if (taken > 0) {
		struct io_ring *last_sender = atomic_exchange(&receiver->last_sender, NULL);

		receiver->request_response = taken == 1 && last_sender && !receiver->bulk;
		/* Another vCPU sends by now: the I/O thread polls until that one has sent again. */
		if (is_vcpu(receiver) && last_sender != here)
			receiver->request_response = false;
	}
	if (!receiver->request_response || net_pending(net, receiver->pair))
		net_wait_readable(net, receiver->pair);
	else if (is_vcpu(receiver))
		net_wait_readable_on_vcpu(net, receiver->pair);
	else if (!net_waits_on_vcpu(net, receiver->pair))
		net_wait_readable(net, receiver->pair);
}

void receiver_note_reply(struct receiver *receiver)
{
	receiver->last_sender = io_ring_current(receiver->device->device.ring);
	if (receiver->request_response && is_vcpu(receiver))
		net_wait_readable_on_vcpu(receiver->device->net, receiver->pair);
}

void receiver_serve(struct receiver *receiver)
{
	struct net_device *device = receiver->device;
	struct virtq *queue = receiver->queue;
	enum outcome outcome = DONE;
	unsigned taken = 0;

	if (receiver->rate_limited || receiver->pair >= device->pairs_used || !queue->size)
		return;
	receiver->out_of_buffers = false;
	/* A ring of frames at most in one go: other queues are to have their turn. */
	for (unsigned i = 0; i < queue->size_max && outcome == DONE; i++) {
		/* In request-response traffic there is seldom a second one; if there is, the poll ends at once. */
		if (taken && receiver->request_response)
			break;
		outcome = receive_frame(receiver);
		taken += outcome == DONE;
		if (outcome == NO_BUFFERS && virtq_enable_notify(queue))
			outcome = DONE;
	}
	if (outcome == LIMITED)
		wait_for_limit(receiver);
	else
		leave_limit(receiver);
	if (outcome == DONE || outcome == NO_FRAME)
		wait_for_next(receiver, taken);
	receiver->out_of_buffers = outcome == NO_BUFFERS;
	virtq_interrupt(queue);
}

/* The I/O thread receives, while the guest goes on. */
void receiver_notify(struct receiver *receiver)
{
	if (!receiver->out_of_buffers || receiver->pair >= receiver->device->pairs_used)
		return;
	receiver->out_of_buffers = false;
	if (receiver->frame_length)
		receiver_serve(receiver);
	else
		net_wait_readable(receiver->device->net, receiver->pair);
}

void receiver_reset(struct receiver *receiver)
{
	receiver->first = receiver->count = receiver->iov_first = receiver->iov_count = 0;
	receiver->bytes = receiver->frame_length = receiver->frame_in_buffers = 0;
	receiver->out_of_buffers = false;
	receiver->request_response = false;
	receiver->last_sender = NULL;
}

int receiver_init(struct receiver *receiver, struct net_device *device, unsigned pair)
{
	receiver->device = device;
	receiver->queue = &device->device.queues[2 * pair];
	receiver->pair = pair;
	/* It takes no memory before a frame is too long for its buffers. */
	receiver->overflow = malloc(OVERFLOW_BYTES);
	return receiver->overflow ? 0 : -ENOMEM;
}

void receiver_release(struct receiver *receiver)
{
	free(receiver->overflow);
}
