// SPDX-License-Identifier: GPL-2.0-only
/* The socket device: packets to the guest. */
#include <endian.h>
#include <errno.h>
#include <linux/vm_sockets.h>

#include "vsock.h"

static void put_header(struct vsock *vsock, const struct virtio_vsock_hdr *header)
{
	iov_write(vsock->iov + vsock->chain.out_count, vsock->chain.in_count, 0, header, sizeof(*header));
	virtq_push(&vsock->device.queues[VSOCK_RECEIVE], vsock->chain.head,
		VSOCK_HEADER_BYTES + le32toh(header->len));
	vsock->has_chain = false;
}

static void put_packet(
	struct vsock_connection *connection, unsigned operation, uint32_t flags, uint32_t length)
{
	put_header(connection->vsock,
		&(struct virtio_vsock_hdr){
			.src_cid = htole64(VMADDR_CID_HOST),
			.dst_cid = htole64(VSOCK_GUEST_CID),
			.src_port = htole32(connection->host_port),
			.dst_port = htole32(connection->guest_port),
			.len = htole32(length),
			.type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
			.op = htole16(operation),
			.flags = htole32(flags),
			.buf_alloc = htole32(VSOCK_BUFFER_BYTES),
			.fwd_cnt = htole32(connection->forwarded),
		});
	connection->forwarded_told = connection->forwarded;
	connection->due &= ~VSOCK_DUE_CREDIT_UPDATE;
}

static bool put_reset(struct vsock *vsock)
{
	const struct vsock_reset_packet *reset = &vsock->resets[vsock->first_reset];

	if (!vsock->reset_count)
		return false;
	put_header(vsock,
		&(struct virtio_vsock_hdr){
			.src_cid = htole64(reset->host_cid),
			.dst_cid = htole64(VSOCK_GUEST_CID),
			.src_port = htole32(reset->host_port),
			.dst_port = htole32(reset->guest_port),
			.type = htole16(reset->type),
			.op = htole16(VIRTIO_VSOCK_OP_RST),
		});
	vsock->first_reset = (vsock->first_reset + 1) % VSOCK_RESETS_MAX;
	vsock->reset_count--;
	return true;
}

static bool put_due(struct vsock_connection *connection)
{
	static const struct {
		unsigned due, operation;
	} packets[] = {
		{ VSOCK_DUE_REQUEST, VIRTIO_VSOCK_OP_REQUEST },
		{ VSOCK_DUE_RESPONSE, VIRTIO_VSOCK_OP_RESPONSE },
		{ VSOCK_DUE_SHUTDOWN, VIRTIO_VSOCK_OP_SHUTDOWN },
		{ VSOCK_DUE_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_UPDATE },
		{ VSOCK_DUE_CREDIT_REQUEST, VIRTIO_VSOCK_OP_CREDIT_REQUEST },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(packets); i++) {
		if (!(connection->due & packets[i].due))
			continue;
		connection->due &= ~packets[i].due;
		put_packet(connection, packets[i].operation,
			packets[i].due == VSOCK_DUE_SHUTDOWN ? connection->host_shutdown : 0, 0);
		return true;
	}
	return false;
}

static bool may_read(const struct vsock_connection *connection)
{
	return connection->state == VSOCK_ESTABLISHED && connection->readable &&
		!(connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) &&
		!(connection->host_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND);
}

/* Read into the chain at hand, behind the header.  True if a packet went. */
static bool put_payload(struct vsock_connection *connection)
{
	struct vsock *vsock = connection->vsock;
	struct iovec part[VSOCK_CHAIN_BUFFERS];
	uint32_t credit = vsock_guest_credit(connection);
	size_t room = vsock->chain.in_bytes - VSOCK_HEADER_BYTES;
	unsigned parts;
	ssize_t got;

	if (!credit) {
		if (!connection->credit_requested)
			connection->due |= VSOCK_DUE_CREDIT_REQUEST;
		connection->credit_requested = true;
		return put_due(connection);
	}
	parts = iov_slice(vsock->iov + vsock->chain.out_count, vsock->chain.in_count, VSOCK_HEADER_BYTES,
		credit < room ? credit : room, part, ARRAY_SIZE(part));
	got = read_list(connection->fd, part, parts);
	if (got > 0) {
		connection->sent += got;
		vsock_count(vsock, VSOCK_RECEIVED_BYTES, got);
		put_packet(connection, VIRTIO_VSOCK_OP_RW, 0, got);
		return true;
	}
	if (got == 0) {
		connection->host_shutdown |= VIRTIO_VSOCK_SHUTDOWN_SEND;
		connection->due |= VSOCK_DUE_SHUTDOWN;
		return put_due(connection);
	}
	if (errno != EAGAIN && errno != EINTR) {
		vsock_reset_connection(connection);
		return put_reset(vsock);
	}
	vsock_wait_readable(connection);
	return false;
}

static bool has_packets(const struct vsock *vsock)
{
	for (unsigned i = 0; i < vsock->used; i++) {
		const struct vsock_connection *connection = &vsock->connections[i];

		if (vsock_is_known(connection) && (connection->due || may_read(connection)))
			return true;
	}
	return vsock->reset_count;
}

/* The chain at hand, or else the next one. */
static bool take_chain(struct vsock *vsock)
{
	struct virtq *queue = &vsock->device.queues[VSOCK_RECEIVE];

	if (!vsock->has_chain)
		vsock->has_chain = virtio_pop(&vsock->device, queue, vsock->iov,
			ARRAY_SIZE(vsock->iov), &vsock->chain);
	return vsock->has_chain;
}

/* Connections have their turns, a packet each. */
static bool put_any(struct vsock *vsock)
{
	if (put_reset(vsock))
		return true;
	for (unsigned i = 0; i < vsock->used; i++) {
		struct vsock_connection *connection = &vsock->connections[vsock->turn++ % vsock->used];

		if (vsock_is_known(connection) &&
			(put_due(connection) || (may_read(connection) && put_payload(connection))))
			return true;
	}
	return false;
}

static enum virtio_step receive_step(struct virtq *queue)
{
	struct vsock *vsock = container_of(queue->device, struct vsock, device);

	if (!has_packets(vsock))
		return VIRTIO_BLOCKED;
	if (!take_chain(vsock))
		return VIRTIO_NO_CHAIN;
	/* Without room for a header and some payload it is of no use. */
	if (vsock->chain.in_bytes <= VSOCK_HEADER_BYTES) {
		vsock->has_chain = false;
		virtq_push(queue, vsock->chain.head, 0);
		return VIRTIO_SERVED;
	}
	return put_any(vsock) ? VIRTIO_SERVED : VIRTIO_BLOCKED;
}

void vsock_receive(struct vsock *vsock)
{
	virtio_serve_chains(&vsock->device.queues[VSOCK_RECEIVE], receive_step);
	if (vsock->transmit_blocked && vsock->reset_count < VSOCK_RESETS_HELD) {
		vsock->transmit_blocked = false;
		virtio_reschedule(&vsock->device.queues[VSOCK_TRANSMIT]);
	}
}
