// SPDX-License-Identifier: GPL-2.0-only
/* The network device's transmit queues: the guest's frames, checked, for the backend. */
#include <errno.h>
#include <string.h>

#include "net.h"

#define TCP_CHECKSUM_AT 16	/* in the header: RFC 9293, section 3.1 */
#define UDP_CHECKSUM_AT 6	/* RFC 768 */

/* Which feature a kind of segmentation needs; false if it is none that there is. */
static bool segmentation_feature(uint8_t type, unsigned *feature, unsigned *checksum_at)
{
	switch (type) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		*feature = VIRTIO_NET_F_HOST_TSO4;
		*checksum_at = TCP_CHECKSUM_AT;
		return true;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		*feature = VIRTIO_NET_F_HOST_TSO6;
		*checksum_at = TCP_CHECKSUM_AT;
		return true;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		*feature = VIRTIO_NET_F_HOST_USO;
		*checksum_at = UDP_CHECKSUM_AT;
		return true;
	default:
		return false;
	}
}

/*
 * The header of a frame to be cut into segments (virtio 1.2, section 5.1.6.2): of what the driver
 * accepted, with a checksum to be filled in, and with all that it tells of within the frame.
 */
static bool segmentation_valid(
	const struct net_device *device, const struct virtio_net_hdr *header, size_t length)
{
	uint8_t type = header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;
	unsigned feature, checksum_at;

	if (!segmentation_feature(type, &feature, &checksum_at) || !net_accepted(device, feature))
		return false;
	if ((header->gso_type & VIRTIO_NET_HDR_GSO_ECN) &&
		(type == VIRTIO_NET_HDR_GSO_UDP_L4 || !net_accepted(device, VIRTIO_NET_F_HOST_ECN)))
		return false;
	return (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && header->gso_size &&
		header->csum_offset == checksum_at && header->hdr_len <= length;
}

/* Check and clean what the guest says of a frame; the copy is what the other end gets. */
static bool check_header(
	const struct net_device *device, struct virtio_net_hdr_mrg_rxbuf *copy, size_t length)
{
	struct virtio_net_hdr *header = &copy->hdr;

	if (length < ETH_HLEN || length > NET_FRAME_MAX)
		return false;
	header->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	copy->num_buffers = 0;
	if (!header->flags) {
		header->csum_start = header->csum_offset = 0;
	} else if (!net_accepted(device, VIRTIO_NET_F_CSUM) || header->csum_start < ETH_HLEN ||
		(size_t)header->csum_start + header->csum_offset + sizeof(uint16_t) > length) {
		return false;
	}
	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE)
		return segmentation_valid(device, header, length);
	header->hdr_len = header->gso_size = 0;
	return true;
}

static void finish(struct transmitter *transmitter, int result)
{
	struct net_device *device = transmitter->device;

	if (result == 0) {
		net_count(device, NET_SENT, 1);
		net_count(device, NET_SENT_BYTES, transmitter->bytes);
	} else {
		net_count(device, NET_SEND_DROPPED, 1);
	}
	virtq_push(transmitter->scheduler.queue, transmitter->head, 0);
}

static bool is_bulk(const struct transmitter *transmitter)
{
	return transmitter->bytes > NET_BULK_BYTES ||
		(transmitter->bulk_until && nanoseconds() < transmitter->bulk_until);
}

static enum chain_result send_frame(struct transmitter *transmitter)
{
	struct net *net = transmitter->device->net;
	unsigned pair = transmitter - transmitter->device->transmitters;
	int result = net->up ?
		net->ops->send(net, pair, transmitter->iov, transmitter->iov_count) : -ENETDOWN;

	transmitter->frame_pending = result == -EAGAIN;
	if (transmitter->frame_pending) {
		net_wait_writable(net, pair);
		return CHAIN_BLOCKED;
	}
	finish(transmitter, result);
	if (is_bulk(transmitter))
		return CHAIN_STARTED_BULK;
	receiver_note_reply(&transmitter->device->receivers[pair]);
	return CHAIN_STARTED;
}

static struct transmitter *transmitter_of(struct virtq *queue)
{
	struct net_device *device = container_of(queue->device, struct net_device, device);

	return &device->transmitters[queue->index / 2];
}

static enum chain_result start_next(struct virtq *queue)
{
	struct transmitter *transmitter = transmitter_of(queue);
	struct net_device *device = transmitter->device;
	struct iovec *frame = transmitter->iov + 1;
	struct virtq_chain chain;

	if (transmitter->frame_pending)
		return send_frame(transmitter);
	if (!virtio_pop(&device->device, queue, frame, NET_BUFFERS, &chain))
		return CHAIN_NONE;
	transmitter->head = chain.head;
	if (iov_read(frame, chain.out_count, 0, &transmitter->header, NET_HEADER_BYTES) <
			NET_HEADER_BYTES ||
		!check_header(device, &transmitter->header, chain.out_bytes - NET_HEADER_BYTES)) {
		net_count(device, NET_SEND_REFUSED, 1);
		virtq_push(queue, chain.head, 0);
		return CHAIN_STARTED;
	}
	transmitter->bytes = chain.out_bytes - NET_HEADER_BYTES;
	if (device->transmit_limit)
		rate_limiter_consume(device->transmit_limit, transmitter->bytes);
	transmitter->iov_count = 1 + iov_skip(&frame, chain.out_count, NET_HEADER_BYTES);
	/* The checked header goes in front of the frame's data, into the place of the guest's own. */
	frame[-1] = (struct iovec){ &transmitter->header, NET_HEADER_BYTES };
	if (frame - 1 != transmitter->iov)
		memmove(transmitter->iov, frame - 1,
			transmitter->iov_count * sizeof(transmitter->iov[0]));
	return send_frame(transmitter);
}

static void submit_frames(struct virtq *queue)
{
	struct transmitter *transmitter = transmitter_of(queue);
	struct net *net = transmitter->device->net;
	unsigned pair = transmitter - transmitter->device->transmitters;

	if (net->ops->flush && net->ops->flush(net, pair) == -EAGAIN)
		net_wait_writable(net, pair);
}

static const struct queue_scheduler_ops scheduler_ops = {
	.start_next = start_next,
	.submit = submit_frames,
	.coalesce_interrupts = true,
};

void transmitter_init(struct transmitter *transmitter, struct net_device *device, unsigned pair)
{
	transmitter->device = device;
	queue_scheduler_init(
		&transmitter->scheduler, &device->device.queues[2 * pair + 1], &scheduler_ops);
}

void transmitter_reset(struct transmitter *transmitter)
{
	transmitter->frame_pending = false;
	queue_scheduler_reset(&transmitter->scheduler);
}
