// SPDX-License-Identifier: GPL-2.0-only
/*
 * The socket device (virtio 1.2, section 5.10): stream connections between ports of the guest and Unix
 * sockets of the host.
 *
 * Payload goes straight between guest memory and a connection's socket, which is non-blocking, on the
 * thread that finds both ready.  What a socket does not take at once is copied to the connection's
 * buffer, so that a slow reader holds up no queue: its guest has credit for as much as the buffer holds.
 */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <linux/vm_sockets.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "karma/devices.h"
#include "karma/util.h"

#define GUEST_CID 3u	/* the same for all guests: the host has no namespace of CIDs for them */
#define QUEUE_SIZE 128u
#define CHAIN_BUFFERS QUEUE_SIZE
#define HEADER_BYTES sizeof(struct virtio_vsock_hdr)

/* The guest's credit for a connection, a power of 2: its buffer has room for all of it. */
#define BUFFER_BYTES (256 * 1024u)
/* The guest is told of so much new credit at the latest. */
#define CREDIT_STEP (BUFFER_BYTES / 4)

/*
 * Resets that wait for a buffer of the receive queue.  At RESETS_HELD no chain is taken that may cause
 * another; each connection may add one by itself.
 */
#define RESETS_HELD 64u
#define RESETS_MAX (RESETS_HELD + VSOCK_CONNECTIONS_MAX)

/* Between two tries to write to a socket that poll can't wait for: see wait_writable(). */
static const struct __kernel_timespec retry_time = { .tv_nsec = 10 * 1000 * 1000 };

#define MESSAGES_AT_A_TIME 64u

/* Section 5.10.2. */
enum { RECEIVE, TRANSMIT, EVENT, QUEUES };

enum { CONNECTIONS, RESETS, RECEIVED_BYTES, TRANSMITTED_BYTES, COUNTERS };

enum connection_state {
	FREE,
	CONNECTING,	/* the guest asked for it, and the supervisor has not answered */
	OFFERED,	/* the supervisor asked for it, and the guest has not answered */
	ESTABLISHED,
	LINGERING,	/* over, as the guest sees it: the buffer goes to the socket first */
	CLOSING,	/* the I/O thread is going to close the socket */
};

/* Packets without payload that are due to the guest. */
enum {
	DUE_REQUEST = 1u << 0,
	DUE_RESPONSE = 1u << 1,
	DUE_SHUTDOWN = 1u << 2,
	DUE_CREDIT_UPDATE = 1u << 3,
	DUE_CREDIT_REQUEST = 1u << 4,
};

struct connection {
	struct vsock *vsock;
	enum connection_state state;
	uint32_t id;		/* between the connector's two ends */
	int fd;			/* -1: none */
	uint32_t guest_port, host_port;
	unsigned due;		/* DUE_* */

	unsigned guest_shutdown, host_shutdown;	/* VIRTIO_VSOCK_SHUTDOWN_*, of what each does no more */
	bool write_ended;	/* the socket's other end was told that nothing more comes */

	/* From the guest.  All counts are of bytes and wrap (section 5.10.6.3). */
	uint32_t received, forwarded, forwarded_told;
	uint8_t *buffer;	/* a ring of BUFFER_BYTES; received - forwarded bytes wait in it */
	bool buffer_used;

	/* To the guest. */
	uint32_t sent, guest_room, guest_forwarded;
	bool credit_requested;
	bool readable;		/* as far as is known */
	bool hung_up;		/* poll can't wait for it to be writable */

	unsigned operations;	/* of these, in flight */
	bool readable_armed, writable_armed;
	struct io_op readable_op, writable_op, close_op;
};

/* The two ends of a connection that is reset. */
struct reset {
	uint64_t host_cid;
	uint32_t host_port, guest_port;
	uint16_t type;
};

struct vsock {
	struct virtio_device device;
	struct virtio_vsock_config config;
	struct virtio_counter counters[COUNTERS];
	struct vsock_connector *connector;
	struct io_op connector_op;
	bool connector_armed;
	bool resumed;		/* and go_on() is due */

	/* A chain of the receive queue that nothing was written to yet. */
	struct iovec iov[CHAIN_BUFFERS];
	struct virtq_chain chain;
	bool has_chain;

	struct reset resets[RESETS_MAX];	/* a ring */
	unsigned first_reset, reset_count;
	bool transmit_blocked;	/* by resets that wait */

	uint32_t next_id;
	unsigned asked;		/* of the supervisor, and not answered */
	unsigned used, turn;	/* connections that ever were in use; whose turn it is to send */
	struct connection connections[VSOCK_CONNECTIONS_MAX];
	uint8_t *buffers;
};

static void count(struct vsock *vsock, unsigned counter, uint64_t by)
{
	count_up(&vsock->counters[counter].value, by);
}

/* --- Connections. */

/* Whether the guest knows it, and may be told of it. */
static bool is_known(const struct connection *connection)
{
	return connection->state >= CONNECTING && connection->state <= ESTABLISHED;
}

static struct connection *find_connection(
	struct vsock *vsock, uint32_t guest_port, uint32_t host_port)
{
	for (unsigned i = 0; i < vsock->used; i++) {
		struct connection *connection = &vsock->connections[i];

		if (is_known(connection) && connection->guest_port == guest_port &&
			connection->host_port == host_port)
			return connection;
	}
	return NULL;
}

static struct connection *new_connection(
	struct vsock *vsock, enum connection_state state, uint32_t guest_port, uint32_t host_port)
{
	for (unsigned i = 0; i < VSOCK_CONNECTIONS_MAX; i++) {
		struct connection *connection = &vsock->connections[i];

		if (connection->state != FREE)
			continue;
		*connection = (struct connection){
			.vsock = vsock,
			.state = state,
			.fd = -1,
			.guest_port = guest_port,
			.host_port = host_port,
			.buffer = vsock->buffers + (size_t)i * BUFFER_BYTES,
		};
		if (i >= vsock->used)
			vsock->used = i + 1;
		return connection;
	}
	return NULL;
}

/* On the I/O thread, with nothing in flight. */
static void free_connection(struct connection *connection)
{
	close_fd(&connection->fd);
	if (connection->buffer_used)
		madvise(connection->buffer, BUFFER_BYTES, MADV_DONTNEED);
	connection->state = FREE;
}

static void operation_started(struct connection *connection)
{
	connection->operations++;
}

/* In done(), with the lock held.  False if the connection is no more. */
static bool operation_done(struct connection *connection)
{
	connection->operations--;
	if (connection->state != CLOSING)
		return true;
	if (connection->operations == 0)
		free_connection(connection);
	return false;
}

static void close_done(struct io_op *op, int result)
{
	struct connection *connection = container_of(op, struct connection, close_op);
	struct vsock *vsock = connection->vsock;

	(void)result;
	pthread_mutex_lock(&vsock->device.lock);
	operation_done(connection);
	pthread_mutex_unlock(&vsock->device.lock);
}

/* The shutdown ends polls that are in flight. */
static void close_connection(struct connection *connection)
{
	struct io_ring *ring = connection->vsock->device.ring;

	connection->state = CLOSING;
	if (connection->fd >= 0)
		shutdown(connection->fd, SHUT_RDWR);
	connection->close_op.done = close_done;
	operation_started(connection);
	io_ring_nop(ring, &connection->close_op);
	io_ring_submit(ring);
}

/* Answer the supervisor, whose `karma connect` waits. */
static void answer_offer(struct vsock *vsock, uint32_t id, int result)
{
	const struct vsock_message answer = { .kind = VSOCK_CONNECTED, .id = id, .result = result };

	/* It has ended, if that fails. */
	vsock_connector_send(vsock->connector, &answer);
}

/* The guest ends the connection, or nobody will tell it of the end. */
static void drop_connection(struct connection *connection, int why)
{
	if (connection->state == OFFERED)
		answer_offer(connection->vsock, connection->id, why);
	close_connection(connection);
}

static void add_reset(struct vsock *vsock, struct reset reset)
{
	unsigned at = (vsock->first_reset + vsock->reset_count) % RESETS_MAX;

	vsock->resets[at] = reset;
	vsock->reset_count++;
	count(vsock, RESETS, 1);
}

static void add_reset_of(const struct connection *connection)
{
	add_reset(connection->vsock,
		(struct reset){ VMADDR_CID_HOST, connection->host_port, connection->guest_port,
			VIRTIO_VSOCK_TYPE_STREAM });
}

/* End it at once, and tell the guest. */
static void reset_connection(struct connection *connection)
{
	add_reset_of(connection);
	drop_connection(connection, -ECONNRESET);
}

/* --- From the guest to a socket. */

static uint32_t buffered(const struct connection *connection)
{
	return connection->received - connection->forwarded;
}

static void count_forwarded(struct connection *connection, uint32_t bytes)
{
	connection->forwarded += bytes;
	if (connection->forwarded - connection->forwarded_told >= CREDIT_STEP)
		connection->due |= DUE_CREDIT_UPDATE;
}

/* The other end reads no more: the guest is told so, and what it has sent already is lost. */
static void refuse_payload(struct connection *connection)
{
	connection->host_shutdown |= VIRTIO_VSOCK_SHUTDOWN_RCV;
	connection->due |= DUE_SHUTDOWN;
	count_forwarded(connection, buffered(connection));
}

/* How many bytes the socket took; with 0 it is full, or refuse_payload() has taken all. */
static uint32_t write_socket(struct connection *connection, const struct iovec *iov, unsigned iov_count)
{
	ssize_t written = write_list(connection->fd, iov, iov_count);

	if (written > 0) {
		count_forwarded(connection, written);
		return written;
	}
	if (written < 0 && errno != EAGAIN && errno != EINTR)
		refuse_payload(connection);
	return 0;
}

/* The part of the buffer from that count on, as one or two entries. */
static unsigned buffer_part(
	const struct connection *connection, uint32_t from, uint32_t bytes, struct iovec part[2])
{
	uint32_t at = from % BUFFER_BYTES;
	uint32_t first = bytes < BUFFER_BYTES - at ? bytes : BUFFER_BYTES - at;

	part[0] = (struct iovec){ connection->buffer + at, first };
	part[1] = (struct iovec){ connection->buffer, bytes - first };
	return bytes > first ? 2 : 1;
}

static void writable_done(struct io_op *op, int result);

/*
 * Once either end has ended the other direction, io_uring's poll completes at once (POLLRDHUP), whether
 * the socket takes anything or not: then try again after a while.
 */
static void wait_writable(struct connection *connection)
{
	struct io_ring *ring = connection->vsock->device.ring;

	if (connection->writable_armed)
		return;
	connection->writable_armed = true;
	connection->writable_op.done = writable_done;
	operation_started(connection);
	if (connection->hung_up)
		io_ring_timeout(ring, &connection->writable_op, &retry_time);
	else
		io_ring_poll(ring, &connection->writable_op, connection->fd, POLLOUT);
	io_ring_submit(ring);
}

/* After the last byte: pass on that the guest sends no more, or has closed. */
static void end_writing(struct connection *connection)
{
	if (connection->state == LINGERING) {
		close_connection(connection);
	} else if ((connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) && !connection->write_ended) {
		connection->write_ended = true;
		shutdown(connection->fd, SHUT_WR);
	}
}

/* Write what is buffered, as far as the socket takes it. */
static void flush_buffer(struct connection *connection)
{
	struct iovec part[2];

	while (buffered(connection)) {
		unsigned parts = buffer_part(
			connection, connection->forwarded, buffered(connection), part);

		if (!write_socket(connection, part, parts) && buffered(connection)) {
			wait_writable(connection);
			return;
		}
	}
	end_writing(connection);
}

static void append_to_buffer(
	struct connection *connection, const struct iovec *iov, unsigned iov_count, size_t bytes)
{
	struct iovec part[2];
	unsigned parts = buffer_part(connection, connection->received, bytes, part);

	connection->buffer_used = true;
	for (unsigned i = 0, done = 0; i < parts; done += part[i++].iov_len)
		iov_read(iov, iov_count, done, part[i].iov_base, part[i].iov_len);
	connection->received += bytes;
}

/* Payload, which the guest has credit for: to the socket, and what that does not take to the buffer. */
static void forward_payload(struct connection *connection, struct iovec *iov, unsigned iov_count, uint32_t bytes)
{
	uint32_t written = 0;

	count(connection->vsock, TRANSMITTED_BYTES, bytes);
	if (!bytes || (connection->host_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV)) {
		connection->received += bytes;
		count_forwarded(connection, bytes);
		return;
	}
	if (buffered(connection) == 0) {
		written = write_socket(connection, iov, iov_count);
		connection->received += written;
	}
	if (written == bytes)
		return;
	iov_count = iov_skip(&iov, iov_count, written);
	append_to_buffer(connection, iov, iov_count, bytes - written);
	flush_buffer(connection);
}

/* --- Packets to the guest. */

static void put_header(struct vsock *vsock, const struct virtio_vsock_hdr *header)
{
	iov_write(vsock->iov + vsock->chain.out_count, vsock->chain.in_count, 0, header, sizeof(*header));
	virtq_push(&vsock->device.queues[RECEIVE], vsock->chain.head,
		HEADER_BYTES + le32toh(header->len));
	vsock->has_chain = false;
}

static void put_packet(
	struct connection *connection, unsigned operation, uint32_t flags, uint32_t length)
{
	put_header(connection->vsock,
		&(struct virtio_vsock_hdr){
			.src_cid = htole64(VMADDR_CID_HOST),
			.dst_cid = htole64(GUEST_CID),
			.src_port = htole32(connection->host_port),
			.dst_port = htole32(connection->guest_port),
			.len = htole32(length),
			.type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
			.op = htole16(operation),
			.flags = htole32(flags),
			.buf_alloc = htole32(BUFFER_BYTES),
			.fwd_cnt = htole32(connection->forwarded),
		});
	connection->forwarded_told = connection->forwarded;
	connection->due &= ~DUE_CREDIT_UPDATE;
}

static bool put_reset(struct vsock *vsock)
{
	const struct reset *reset = &vsock->resets[vsock->first_reset];

	if (!vsock->reset_count)
		return false;
	put_header(vsock,
		&(struct virtio_vsock_hdr){
			.src_cid = htole64(reset->host_cid),
			.dst_cid = htole64(GUEST_CID),
			.src_port = htole32(reset->host_port),
			.dst_port = htole32(reset->guest_port),
			.type = htole16(reset->type),
			.op = htole16(VIRTIO_VSOCK_OP_RST),
		});
	vsock->first_reset = (vsock->first_reset + 1) % RESETS_MAX;
	vsock->reset_count--;
	return true;
}

static bool put_due(struct connection *connection)
{
	static const struct {
		unsigned due, operation;
	} packets[] = {
		{ DUE_REQUEST, VIRTIO_VSOCK_OP_REQUEST },
		{ DUE_RESPONSE, VIRTIO_VSOCK_OP_RESPONSE },
		{ DUE_SHUTDOWN, VIRTIO_VSOCK_OP_SHUTDOWN },
		{ DUE_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_UPDATE },
		{ DUE_CREDIT_REQUEST, VIRTIO_VSOCK_OP_CREDIT_REQUEST },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(packets); i++) {
		if (!(connection->due & packets[i].due))
			continue;
		connection->due &= ~packets[i].due;
		put_packet(connection, packets[i].operation,
			packets[i].due == DUE_SHUTDOWN ? connection->host_shutdown : 0, 0);
		return true;
	}
	return false;
}

/* What the guest has room for, by its own account; any lie is only about its own memory. */
static uint32_t guest_credit(const struct connection *connection)
{
	uint32_t under_way = connection->sent - connection->guest_forwarded;

	return under_way < connection->guest_room ? connection->guest_room - under_way : 0;
}

static bool may_read(const struct connection *connection)
{
	return connection->state == ESTABLISHED && connection->readable &&
		!(connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) &&
		!(connection->host_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND);
}

static void readable_done(struct io_op *op, int result);

static void wait_readable(struct connection *connection)
{
	struct io_ring *ring = connection->vsock->device.ring;

	connection->readable = false;
	if (connection->readable_armed)
		return;
	connection->readable_armed = true;
	connection->readable_op.done = readable_done;
	operation_started(connection);
	io_ring_poll(ring, &connection->readable_op, connection->fd, POLLIN);
	io_ring_submit(ring);
}

/* Read into the chain at hand, behind the header.  True if a packet went. */
static bool put_payload(struct connection *connection)
{
	struct vsock *vsock = connection->vsock;
	struct iovec part[CHAIN_BUFFERS];
	uint32_t credit = guest_credit(connection);
	size_t room = vsock->chain.in_bytes - HEADER_BYTES;
	unsigned parts;
	ssize_t got;

	if (!credit) {
		if (!connection->credit_requested)
			connection->due |= DUE_CREDIT_REQUEST;
		connection->credit_requested = true;
		return put_due(connection);
	}
	parts = iov_slice(vsock->iov + vsock->chain.out_count, vsock->chain.in_count, HEADER_BYTES,
		credit < room ? credit : room, part, ARRAY_SIZE(part));
	got = read_list(connection->fd, part, parts);
	if (got > 0) {
		connection->sent += got;
		count(vsock, RECEIVED_BYTES, got);
		put_packet(connection, VIRTIO_VSOCK_OP_RW, 0, got);
		return true;
	}
	if (got == 0) {
		connection->host_shutdown |= VIRTIO_VSOCK_SHUTDOWN_SEND;
		connection->due |= DUE_SHUTDOWN;
		return put_due(connection);
	}
	if (errno != EAGAIN && errno != EINTR) {
		reset_connection(connection);
		return put_reset(vsock);
	}
	wait_readable(connection);
	return false;
}

static bool has_packets(const struct vsock *vsock)
{
	for (unsigned i = 0; i < vsock->used; i++) {
		const struct connection *connection = &vsock->connections[i];

		if (is_known(connection) && (connection->due || may_read(connection)))
			return true;
	}
	return vsock->reset_count;
}

/* The chain at hand, or else the next one. */
static bool take_chain(struct vsock *vsock)
{
	struct virtq *queue = &vsock->device.queues[RECEIVE];

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
		struct connection *connection = &vsock->connections[vsock->turn++ % vsock->used];

		if (is_known(connection) &&
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
	if (vsock->chain.in_bytes <= HEADER_BYTES) {
		vsock->has_chain = false;
		virtq_push(queue, vsock->chain.head, 0);
		return VIRTIO_SERVED;
	}
	return put_any(vsock) ? VIRTIO_SERVED : VIRTIO_BLOCKED;
}

static void receive(struct vsock *vsock)
{
	virtio_serve_chains(&vsock->device.queues[RECEIVE], receive_step);
	if (vsock->transmit_blocked && vsock->reset_count < RESETS_HELD) {
		vsock->transmit_blocked = false;
		virtio_reschedule(&vsock->device.queues[TRANSMIT]);
	}
}

/* --- Packets from the guest. */

/* The socket is the connection's now. */
static void establish(struct connection *connection)
{
	connection->state = ESTABLISHED;
	connection->readable = true;
	count(connection->vsock, CONNECTIONS, 1);
}

static void note_credit(struct connection *connection, const struct virtio_vsock_hdr *header)
{
	connection->guest_room = le32toh(header->buf_alloc);
	connection->guest_forwarded = le32toh(header->fwd_cnt);
	if (guest_credit(connection))
		connection->credit_requested = false;
}

/* The supervisor is asked; until it answers, so many are bounded as connections are. */
static bool ask_supervisor(struct vsock *vsock, struct connection *connection)
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
	struct vsock *vsock, const struct virtio_vsock_hdr *header, struct reset refusal)
{
	struct connection *connection = NULL;

	if (vsock_find_service(vsock->connector->options, refusal.host_port))
		connection = new_connection(vsock, CONNECTING, refusal.guest_port, refusal.host_port);
	if (!connection) {
		add_reset(vsock, refusal);
		return;
	}
	note_credit(connection, header);
	if (!ask_supervisor(vsock, connection))
		reset_connection(connection);
}

static void serve_shutdown(struct connection *connection, uint32_t flags)
{
	const unsigned both = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;

	connection->guest_shutdown |= flags & both;
	/* The guest has closed: that is answered by a reset (section 5.10.6.6). */
	if (connection->guest_shutdown == both) {
		add_reset_of(connection);
		connection->state = LINGERING;
	} else if (connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) {
		shutdown(connection->fd, SHUT_RD);
	}
	if (buffered(connection) == 0)
		end_writing(connection);
}

static void serve_payload(
	struct connection *connection, struct iovec *iov, unsigned iov_count, uint32_t bytes)
{
	if ((connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) ||
		bytes > BUFFER_BYTES - buffered(connection))
		reset_connection(connection);
	else
		forward_payload(connection, iov, iov_count, bytes);
}

/* A packet of a connection; its payload, of the length in the header, is in iov. */
static void serve_connection(struct connection *connection, const struct virtio_vsock_hdr *header,
	struct iovec *iov, unsigned iov_count)
{
	unsigned operation = le16toh(header->op);

	note_credit(connection, header);
	if (operation == VIRTIO_VSOCK_OP_RST) {
		drop_connection(connection, -ECONNREFUSED);
	} else if (connection->state == OFFERED && operation == VIRTIO_VSOCK_OP_RESPONSE) {
		answer_offer(connection->vsock, connection->id, 0);
		establish(connection);
	} else if (connection->state != ESTABLISHED) {
		reset_connection(connection);
	} else if (operation == VIRTIO_VSOCK_OP_RW) {
		serve_payload(connection, iov, iov_count, le32toh(header->len));
	} else if (operation == VIRTIO_VSOCK_OP_SHUTDOWN) {
		serve_shutdown(connection, le32toh(header->flags));
	} else if (operation == VIRTIO_VSOCK_OP_CREDIT_REQUEST) {
		connection->due |= DUE_CREDIT_UPDATE;
	} else if (operation != VIRTIO_VSOCK_OP_CREDIT_UPDATE) {
		reset_connection(connection);
	}
}

/* Causes one reset at most. */
static void serve_packet(struct vsock *vsock, const struct virtio_vsock_hdr *header,
	struct iovec *iov, unsigned iov_count)
{
	const struct reset refusal = { le64toh(header->dst_cid), le32toh(header->dst_port),
		le32toh(header->src_port), le16toh(header->type) };
	unsigned operation = le16toh(header->op);
	struct connection *connection = NULL;
	bool known = refusal.host_cid == VMADDR_CID_HOST &&
		refusal.type == VIRTIO_VSOCK_TYPE_STREAM;

	if (known)
		connection = find_connection(vsock, refusal.guest_port, refusal.host_port);
	if (connection)
		serve_connection(connection, header, iov, iov_count);
	else if (known && operation == VIRTIO_VSOCK_OP_REQUEST)
		serve_request(vsock, header, refusal);
	else if (operation != VIRTIO_VSOCK_OP_RST)
		add_reset(vsock, refusal);
}

/* Packets that are cut short, or are another's, are dropped (section 5.10.6.4.2). */
static enum virtio_step transmit_step(struct virtq *queue)
{
	struct vsock *vsock = container_of(queue->device, struct vsock, device);
	struct iovec buffers[CHAIN_BUFFERS], *iov = buffers;
	struct virtio_vsock_hdr header;
	struct virtq_chain chain;

	vsock->transmit_blocked = vsock->reset_count >= RESETS_HELD;
	if (vsock->transmit_blocked)
		return VIRTIO_BLOCKED;
	if (!virtio_pop(&vsock->device, queue, iov, ARRAY_SIZE(buffers), &chain))
		return VIRTIO_NO_CHAIN;
	if (iov_read(iov, chain.out_count, 0, &header, sizeof(header)) == sizeof(header) &&
		le64toh(header.src_cid) == GUEST_CID &&
		le32toh(header.len) <= chain.out_bytes - HEADER_BYTES) {
		unsigned iov_count = iov_skip(&iov, chain.out_count, HEADER_BYTES);

		iov_count = iov_truncate(iov, iov_count, le32toh(header.len));
		serve_packet(vsock, &header, iov, iov_count);
	}
	virtq_push(queue, chain.head, 0);
	return VIRTIO_SERVED;
}

/* --- What the host does. */

/* Nobody writes before the guest has answered: the client has gone. */
static void end_lost_offer(struct connection *connection)
{
	if (connection->state == OFFERED && connection->readable)
		reset_connection(connection);
}

/*
 * After a pause, on a thread that may shut sockets down, which the one that resumes may not: what was
 * ready meanwhile, and was left alone.
 */
static void go_on(struct vsock *vsock)
{
	vsock->resumed = false;
	for (unsigned i = 0; i < vsock->used; i++) {
		struct connection *connection = &vsock->connections[i];

		end_lost_offer(connection);
		if (connection->state == ESTABLISHED || connection->state == LINGERING)
			flush_buffer(connection);
	}
}

static void vsock_notify(struct virtio_device *device, unsigned queue)
{
	struct vsock *vsock = container_of(device, struct vsock, device);

	if (vsock->resumed)
		go_on(vsock);
	/* The event queue is for guests that have moved to another host. */
	if (queue == TRANSMIT)
		virtio_serve_chains(&device->queues[TRANSMIT], transmit_step);
	if (queue != EVENT)
		receive(vsock);
}

static void readable_done(struct io_op *op, int result)
{
	struct connection *connection = container_of(op, struct connection, readable_op);
	struct vsock *vsock = connection->vsock;

	(void)result;
	pthread_mutex_lock(&vsock->device.lock);
	connection->readable_armed = false;
	if (operation_done(connection)) {
		connection->readable = true;
		if (virtio_running(&vsock->device)) {
			end_lost_offer(connection);
			receive(vsock);
		}
	}
	pthread_mutex_unlock(&vsock->device.lock);
}

static void writable_done(struct io_op *op, int result)
{
	struct connection *connection = container_of(op, struct connection, writable_op);
	struct vsock *vsock = connection->vsock;

	pthread_mutex_lock(&vsock->device.lock);
	connection->writable_armed = false;
	connection->hung_up |= result > 0 && !(result & POLLOUT);
	if (operation_done(connection) && virtio_running(&vsock->device)) {
		flush_buffer(connection);
		receive(vsock);
	}
	pthread_mutex_unlock(&vsock->device.lock);
}

/* The supervisor's answer; a socket for a connection that is no more is closed. */
static void serve_answer(struct vsock *vsock, const struct vsock_message *answer, int fd)
{
	vsock->asked--;
	for (unsigned i = 0; i < vsock->used; i++) {
		struct connection *connection = &vsock->connections[i];

		if (connection->state != CONNECTING || connection->id != answer->id)
			continue;
		connection->fd = fd;
		if (fd < 0) {
			reset_connection(connection);
		} else {
			connection->due |= DUE_RESPONSE;
			establish(connection);
		}
		return;
	}
	close_fd(&fd);
}

/* The host's ports from here on are for connections to the guest: no two of them to one port are the same. */
#define OFFER_PORTS 0x40000000u

static void serve_offer(struct vsock *vsock, const struct vsock_message *offer, int fd)
{
	struct connection *connection = NULL;
	int why = -ENOTCONN;

	if (virtio_running(&vsock->device) && fd >= 0) {
		why = -EBUSY;
		if (vsock->reset_count < RESETS_HELD)
			connection = new_connection(vsock, OFFERED, offer->port,
				OFFER_PORTS | (vsock->next_id++ & (OFFER_PORTS - 1)));
	}
	if (!connection) {
		answer_offer(vsock, offer->id, why);
		close_fd(&fd);
		return;
	}
	connection->id = offer->id;
	connection->fd = fd;
	connection->due = DUE_REQUEST;
	wait_readable(connection);
}

static void arm_connector(struct vsock *vsock);

/* The supervisor's messages, as many at a time as there may be. */
static void serve_connector(struct vsock *vsock)
{
	struct vsock_message message;
	int fd, result = 0;

	for (unsigned i = 0; i < MESSAGES_AT_A_TIME && result == 0; i++) {
		result = vsock_connector_receive(vsock->connector, &message, &fd);
		if (result == 0 && message.kind == VSOCK_CONNECT)
			serve_offer(vsock, &message, fd);
		else if (result == 0)
			serve_answer(vsock, &message, fd);
	}
	/* Otherwise the supervisor has gone, and this process ends. */
	if (result == 0 || result == -EAGAIN)
		arm_connector(vsock);
	if (virtio_running(&vsock->device))
		receive(vsock);
}

static void connector_done(struct io_op *op, int result)
{
	struct vsock *vsock = container_of(op, struct vsock, connector_op);

	(void)result;
	pthread_mutex_lock(&vsock->device.lock);
	vsock->connector_armed = false;
	if (vsock->device.state != VIRTIO_PAUSED)
		serve_connector(vsock);
	pthread_mutex_unlock(&vsock->device.lock);
}

static void arm_connector(struct vsock *vsock)
{
	if (vsock->connector_armed)
		return;
	vsock->connector_armed = true;
	vsock->connector_op.done = connector_done;
	io_ring_poll(vsock->device.ring, &vsock->connector_op, vsock->connector->sockets[1], POLLIN);
	io_ring_submit(vsock->device.ring);
}

/* --- The life cycle. */

static void vsock_start(struct virtio_device *device)
{
	arm_connector(container_of(device, struct vsock, device));
}

static void vsock_resume(struct virtio_device *device)
{
	struct vsock *vsock = container_of(device, struct vsock, device);

	arm_connector(vsock);
	vsock->resumed = true;
}

static void vsock_reset(struct virtio_device *device)
{
	struct vsock *vsock = container_of(device, struct vsock, device);

	for (unsigned i = 0; i < vsock->used; i++) {
		struct connection *connection = &vsock->connections[i];

		if (connection->state != FREE && connection->state != CLOSING)
			drop_connection(connection, -ECONNRESET);
	}
	vsock->reset_count = 0;
	vsock->has_chain = vsock->transmit_blocked = false;
}

static void vsock_release(struct virtio_device *device)
{
	struct vsock *vsock = container_of(device, struct vsock, device);

	for (unsigned i = 0; i < vsock->used; i++) {
		if (vsock->connections[i].state != FREE)
			close_fd(&vsock->connections[i].fd);
	}
	munmap(vsock->buffers, (size_t)VSOCK_CONNECTIONS_MAX * BUFFER_BYTES);
	virtio_device_free(device);
}

static const struct virtio_device_ops vsock_ops = {
	.device_id = VIRTIO_ID_VSOCK,
	.notify = vsock_notify,
	.reset = vsock_reset,
	.start = vsock_start,
	.resume = vsock_resume,
	.release = vsock_release,
};

struct virtio_device *vsock_create(
	const struct virtio_environment *environment, struct vsock_connector *connector)
{
	static const char *const counters[COUNTERS] = {
		[CONNECTIONS] = "connections",
		[RESETS] = "resets",
		[RECEIVED_BYTES] = "receive.bytes",
		[TRANSMITTED_BYTES] = "transmit.bytes",
	};
	struct vsock *vsock = virtio_device_create(sizeof(*vsock), &vsock_ops, "vsock", 0, QUEUES,
		QUEUE_SIZE, environment);

	if (!vsock)
		return NULL;
	/* Takes memory only where a connection's socket was full. */
	vsock->buffers = mmap(NULL, (size_t)VSOCK_CONNECTIONS_MAX * BUFFER_BYTES,
		PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vsock->buffers == MAP_FAILED) {
		virtio_device_free(&vsock->device);
		return NULL;
	}
	vsock->connector = connector;
	vsock->config.guest_cid = htole64(GUEST_CID);
	vsock->device.config = &vsock->config;
	vsock->device.config_size = sizeof(vsock->config);
	vsock->device.queues[RECEIVE].name = "receive";
	vsock->device.queues[TRANSMIT].name = "transmit";
	vsock->device.queues[EVENT].name = "event";
	virtio_set_counters(&vsock->device, vsock->counters, counters, COUNTERS);
	return &vsock->device;
}
