// SPDX-License-Identifier: GPL-2.0-only
/* The socket device: packets from the guest. */
#include <endian.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <sys/socket.h>

#include "vsock.h"

static void note_credit(struct vsock_connection *connection, const struct virtio_vsock_hdr *header)
{
	connection->guest_room = le32toh(header->buf_alloc);
	connection->guest_forwarded = le32toh(header->fwd_cnt);
	if (vsock_guest_credit(connection))
		connection->credit_requested = false;
}

/* The supervisor is asked; until it answers, so many are bounded as connections are. */
static bool ask_supervisor(struct vsock *vsock, struct vsock_connection *connection)
{
	const struct vsock_message request = {
		.kind = VSOCK_CONNECT,
		.id = connection->id = vsock->next_id++,
		.port = connection->host_port,
	};

	if (vsock->asked >= VSOCK_CONNECTIONS_MAX ||
		vsock_connector_send(vsock->connector, &request) < 0)
		return false;
	vsock->asked++;
	return true;
}

static void serve_request(
	struct vsock *vsock, const struct virtio_vsock_hdr *header, struct vsock_reset_packet refusal)
{
	struct vsock_connection *connection = NULL;

	if (vsock_connector_serves(vsock->connector, refusal.host_port))
		connection = vsock_new_connection(vsock, VSOCK_CONNECTING, refusal.guest_port, refusal.host_port);
	if (!connection) {
		vsock_add_reset(vsock, refusal);
		return;
	}
	note_credit(connection, header);
	if (!ask_supervisor(vsock, connection))
		vsock_reset_connection(connection);
}

static void serve_shutdown(struct vsock_connection *connection, uint32_t flags)
{
	const unsigned both = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;

	connection->guest_shutdown |= flags & both;
	/* The guest has closed: that is answered by a reset (section 5.10.6.6). */
	if (connection->guest_shutdown == both) {
		vsock_add_reset_of(connection);
		connection->state = VSOCK_LINGERING;
	} else if (connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) {
		shutdown(connection->fd, SHUT_RD);
	}
	if (vsock_buffered(connection) == 0)
		vsock_end_writing(connection);
}

static void serve_payload(
	struct vsock_connection *connection, struct iovec *iov, unsigned iov_count, uint32_t bytes)
{
	if ((connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) ||
		bytes > VSOCK_BUFFER_BYTES - vsock_buffered(connection)) {
		vsock_reset_connection(connection);
		return;
	}
	vsock_forward_payload(connection, iov, iov_count, bytes);
	vsock_note_request(connection);
}

/* A packet of a connection; its payload, of the length in the header, is in iov. */
static void serve_connection(struct vsock_connection *connection, const struct virtio_vsock_hdr *header,
	struct iovec *iov, unsigned iov_count)
{
	unsigned operation = le16toh(header->op);

	note_credit(connection, header);
	if (operation == VIRTIO_VSOCK_OP_RST) {
		vsock_drop_connection(connection, -ECONNREFUSED);
	} else if (connection->state == VSOCK_OFFERED && operation == VIRTIO_VSOCK_OP_RESPONSE) {
		vsock_answer_offer(connection->vsock, connection->id, 0);
		vsock_establish(connection);
	} else if (connection->state != VSOCK_ESTABLISHED) {
		vsock_reset_connection(connection);
	} else if (operation == VIRTIO_VSOCK_OP_RW) {
		serve_payload(connection, iov, iov_count, le32toh(header->len));
	} else if (operation == VIRTIO_VSOCK_OP_SHUTDOWN) {
		serve_shutdown(connection, le32toh(header->flags));
	} else if (operation == VIRTIO_VSOCK_OP_CREDIT_REQUEST) {
		connection->due |= VSOCK_DUE_CREDIT_UPDATE;
	} else if (operation != VIRTIO_VSOCK_OP_CREDIT_UPDATE) {
		vsock_reset_connection(connection);
	}
}

/* Causes one reset at most. */
static void serve_packet(struct vsock *vsock, const struct virtio_vsock_hdr *header,
	struct iovec *iov, unsigned iov_count)
{
	const struct vsock_reset_packet refusal = { le64toh(header->dst_cid), le32toh(header->dst_port),
		le32toh(header->src_port), le16toh(header->type) };
	unsigned operation = le16toh(header->op);
	struct vsock_connection *connection = NULL;
	bool known = refusal.host_cid == VMADDR_CID_HOST &&
		refusal.type == VIRTIO_VSOCK_TYPE_STREAM;

	if (known)
		connection = vsock_find_connection(vsock, refusal.guest_port, refusal.host_port);
	if (connection)
		serve_connection(connection, header, iov, iov_count);
	else if (known && operation == VIRTIO_VSOCK_OP_REQUEST)
		serve_request(vsock, header, refusal);
	else if (operation != VIRTIO_VSOCK_OP_RST)
		vsock_add_reset(vsock, refusal);
}

/* Packets that are cut short, or are another's, are dropped (section 5.10.6.4.2). */
enum virtio_step vsock_transmit_step(struct virtq *queue)
{
	struct vsock *vsock = container_of(queue->device, struct vsock, device);
	struct iovec buffers[VSOCK_CHAIN_BUFFERS], *iov = buffers;
	struct virtio_vsock_hdr header;
	struct virtq_chain chain;

	vsock->transmit_blocked = vsock->reset_count >= VSOCK_RESETS_HELD;
	if (vsock->transmit_blocked)
		return VIRTIO_BLOCKED;
	if (!virtio_pop(&vsock->device, queue, iov, ARRAY_SIZE(buffers), &chain))
		return VIRTIO_NO_CHAIN;
	if (iov_read(iov, chain.out_count, 0, &header, sizeof(header)) == sizeof(header) &&
		le64toh(header.src_cid) == VSOCK_GUEST_CID &&
		le32toh(header.len) <= chain.out_bytes - VSOCK_HEADER_BYTES) {
		unsigned iov_count = iov_skip(&iov, chain.out_count, VSOCK_HEADER_BYTES);

		iov_count = iov_truncate(iov, iov_count, le32toh(header.len));
		serve_packet(vsock, &header, iov, iov_count);
	}
	virtq_push(queue, chain.head, 0);
	return VIRTIO_SERVED;
}
