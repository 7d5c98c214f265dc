// SPDX-License-Identifier: GPL-2.0-only
/* The socket device: packets to the guest. */
#include <endian.h>
#include <errno.h>
#include <linux/vm_sockets.h>

#include "vsock.h"

/* The next of the chains at hand. */
static const struct virtq_chain *next_chain(const struct vsock *vsock)
{
	return &vsock->chains[vsock->first_chain];
}

/* What of the payload fits into a chain, behind the header. */
static size_t payload_room(const struct virtq_chain *chain)
{
	return chain->in_bytes > VSOCK_HEADER_BYTES ? chain->in_bytes - VSOCK_HEADER_BYTES : 0;
}

/* One packet or, with payload of that length in the chains at hand, as many as it takes. */
static void put_packets(struct vsock *vsock, struct virtio_vsock_hdr header, uint32_t length)
{
	struct vring_used_elem elements[VSOCK_CHAINS];
	unsigned count = 0;

	do {
		const struct virtq_chain *chain = next_chain(vsock);
		uint32_t part = length < payload_room(chain) ? length : payload_room(chain);

		header.len = htole32(part);
		iov_write(chain->iov + chain->out_count, chain->in_count, 0, &header, sizeof(header));
		elements[count++] = (struct vring_used_elem){ chain->head, VSOCK_HEADER_BYTES + part };
		vsock->first_chain++;
		vsock->chain_count--;
		length -= part;
	} while (length);
	virtq_push_all(&vsock->device.queues[VSOCK_RECEIVE], elements, count);
}

static void put_packet(
	struct vsock_connection *connection, unsigned operation, uint32_t flags, uint32_t length)
{
	put_packets(connection->vsock,
		(struct virtio_vsock_hdr){
			.src_cid = htole64(VMADDR_CID_HOST),
			.dst_cid = htole64(VSOCK_GUEST_CID),
			.src_port = htole32(connection->host_port),
			.dst_port = htole32(connection->guest_port),
			.type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
			.op = htole16(operation),
			.flags = htole32(flags),
			.buf_alloc = htole32(VSOCK_BUFFER_BYTES),
			.fwd_cnt = htole32(connection->forwarded),
		},
		length);
	connection->forwarded_told = connection->forwarded;
	connection->due &= ~VSOCK_DUE_CREDIT_UPDATE;
}

static bool put_reset(struct vsock *vsock)
{
	const struct vsock_reset_packet *reset = &vsock->resets[vsock->first_reset];

	if (!vsock->reset_count)
		return false;
	put_packets(vsock,
		(struct virtio_vsock_hdr){
			.src_cid = htole64(reset->host_cid),
			.dst_cid = htole64(VSOCK_GUEST_CID),
			.src_port = htole32(reset->host_port),
			.dst_port = htole32(reset->guest_port),
			.type = htole16(reset->type),
			.op = htole16(VIRTIO_VSOCK_OP_RST),
		},
		0);
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

/*
 * The payload's places in the chains at hand, of so many bytes at most, as one list.  Returns how many entries it
 * has, and sets *room to its bytes.
 */
static unsigned payload_places(
	const struct vsock *vsock, size_t most, struct iovec places[VSOCK_CHAINS_BUFFERS], size_t *room)
{
	unsigned count = 0;

	*room = 0;
	for (unsigned i = 0; i < vsock->chain_count && *room < most; i++) {
		const struct virtq_chain *chain = next_chain(vsock) + i;
		size_t part = payload_room(chain);

		if (!part)
			break;
		if (part > most - *room)
			part = most - *room;
		count += iov_slice(chain->iov + chain->out_count, chain->in_count, VSOCK_HEADER_BYTES, part,
			places + count, VSOCK_CHAINS_BUFFERS - count);
		*room += part;
	}
	return count;
}

/* Read into the chains at hand, behind the headers.  True if a packet went. */
static bool put_payload(struct vsock_connection *connection)
{
	struct vsock *vsock = connection->vsock;
	struct iovec places[VSOCK_CHAINS_BUFFERS];
	uint32_t credit = vsock_guest_credit(connection);
	unsigned count;
	size_t room;
	ssize_t got;

	if (!credit) {
		if (!connection->credit_requested)
			connection->due |= VSOCK_DUE_CREDIT_REQUEST;
		connection->credit_requested = true;
		return put_due(connection);
	}
	count = payload_places(vsock, credit, places, &room);
	got = read_list(connection->fd, places, count);
	if (got > 0) {
		connection->sent += got;
		vsock_count(vsock, VSOCK_RECEIVED_BYTES, got);
		put_packet(connection, VIRTIO_VSOCK_OP_RW, 0, got);
		vsock_note_answer(connection, (size_t)got == room);
		/* There was no more. */
		if ((size_t)got < room)
			vsock_wait_readable(connection);
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

/* The chains at hand, or else the next ones. */
static bool take_chains(struct vsock *vsock)
{
	struct virtq *queue = &vsock->device.queues[VSOCK_RECEIVE];
	unsigned used = 0;

	if (vsock->chain_count)
		return true;
	vsock->first_chain = 0;
	while (vsock->chain_count < VSOCK_CHAINS && used <= VSOCK_CHAINS_BUFFERS - VSOCK_CHAIN_BUFFERS) {
		struct virtq_chain *chain = &vsock->chains[vsock->chain_count];

		if (!virtio_pop(&vsock->device, queue, vsock->iov + used, VSOCK_CHAIN_BUFFERS, chain))
			break;
		used += chain->out_count + chain->in_count;
		vsock->chain_count++;
	}
	return vsock->chain_count;
}

/* Connections have their turns, a packet or a read each. */
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
	if (!take_chains(vsock))
		return VIRTIO_NO_CHAIN;
	/* Without room for a header and some payload it is of no use. */
	if (!payload_room(next_chain(vsock))) {
		virtq_push(queue, next_chain(vsock)->head, 0);
		vsock->first_chain++;
		vsock->chain_count--;
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
