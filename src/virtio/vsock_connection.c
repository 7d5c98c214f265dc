// SPDX-License-Identifier: GPL-2.0-only
/*
 * The socket device's connections: from a port of the guest's to a socket of the host's, which may be full, be
 * ready again, and end.
 */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "vsock.h"

/* The guest is told of so much new credit at the latest. */
#define CREDIT_STEP (VSOCK_BUFFER_BYTES / 4)

/* Between two tries to write to a socket that poll can't wait for: see wait_writable(). */
static const struct __kernel_timespec retry_time = { .tv_nsec = 10 * 1000 * 1000 };

struct vsock_connection *vsock_find_connection(
	struct vsock *vsock, uint32_t guest_port, uint32_t host_port)
{
	for (unsigned i = 0; i < vsock->used; i++) {
		struct vsock_connection *connection = &vsock->connections[i];

		if (vsock_is_known(connection) && connection->guest_port == guest_port &&
			connection->host_port == host_port)
			return connection;
	}
	return NULL;
}

struct vsock_connection *vsock_new_connection(
	struct vsock *vsock, enum vsock_connection_state state, uint32_t guest_port, uint32_t host_port)
{
	for (unsigned i = 0; i < VSOCK_CONNECTIONS_MAX; i++) {
		struct vsock_connection *connection = &vsock->connections[i];

		if (connection->state != VSOCK_FREE)
			continue;
		*connection = (struct vsock_connection){
			.vsock = vsock,
			.state = state,
			.fd = -1,
			.guest_port = guest_port,
			.host_port = host_port,
			.buffer = vsock->buffers + (size_t)i * VSOCK_BUFFER_BYTES,
		};
		if (i >= vsock->used)
			vsock->used = i + 1;
		return connection;
	}
	return NULL;
}

/* On the I/O thread, with nothing in flight. */
static void free_connection(struct vsock_connection *connection)
{
	close_fd(&connection->fd);
	if (connection->buffer_used)
		madvise(connection->buffer, VSOCK_BUFFER_BYTES, MADV_DONTNEED);
	connection->state = VSOCK_FREE;
}

static void operation_started(struct vsock_connection *connection)
{
	connection->operations++;
}

static bool on_vcpu(const struct vsock_connection *connection)
{
	struct io_ring *main = connection->vsock->device.ring;

	return io_ring_current(main) != main;
}

static void close_done(struct io_op *op, int result);

static void close_on_io_thread(struct vsock_connection *connection)
{
	struct io_ring *ring = connection->vsock->device.ring;

	connection->close_op.done = close_done;
	operation_started(connection);
	io_ring_nop(ring, &connection->close_op);
	io_ring_submit(ring);
}

/* In done(), with the lock held.  False if the connection is no more. */
static bool operation_done(struct vsock_connection *connection)
{
	connection->operations--;
	if (connection->state != VSOCK_CLOSING)
		return true;
	if (connection->operations == 0 && on_vcpu(connection))
		close_on_io_thread(connection);
	else if (connection->operations == 0)
		free_connection(connection);
	return false;
}

static void close_done(struct io_op *op, int result)
{
	struct vsock_connection *connection = container_of(op, struct vsock_connection, close_op);
	struct vsock *vsock = connection->vsock;

	(void)result;
	pthread_mutex_lock(&vsock->device.lock);
	operation_done(connection);
	pthread_mutex_unlock(&vsock->device.lock);
}

/* The shutdown ends polls that are in flight. */
static void close_connection(struct vsock_connection *connection)
{
	connection->state = VSOCK_CLOSING;
	if (connection->fd >= 0)
		shutdown(connection->fd, SHUT_RDWR);
	close_on_io_thread(connection);
}

void vsock_answer_offer(struct vsock *vsock, uint32_t id, int result)
{
	const struct vsock_message answer = { .kind = VSOCK_CONNECTED, .id = id, .result = result };

	/* It has ended, if that fails. */
	vsock_connector_send(vsock->connector, &answer);
}

void vsock_drop_connection(struct vsock_connection *connection, int why)
{
	if (connection->state == VSOCK_OFFERED)
		vsock_answer_offer(connection->vsock, connection->id, why);
	close_connection(connection);
}

void vsock_add_reset(struct vsock *vsock, struct vsock_reset_packet reset)
{
	unsigned at = (vsock->first_reset + vsock->reset_count) % VSOCK_RESETS_MAX;

	vsock->resets[at] = reset;
	vsock->reset_count++;
	vsock_count(vsock, VSOCK_RESETS, 1);
}

struct vsock_reset_packet vsock_reset_of(const struct vsock_connection *connection)
{
	return (struct vsock_reset_packet){ VMADDR_CID_HOST, connection->host_port, connection->guest_port,
		VIRTIO_VSOCK_TYPE_STREAM };
}

void vsock_add_reset_of(const struct vsock_connection *connection)
{
	vsock_add_reset(connection->vsock, vsock_reset_of(connection));
}

void vsock_reset_connection(struct vsock_connection *connection)
{
	vsock_add_reset_of(connection);
	vsock_drop_connection(connection, -ECONNRESET);
}

/* --- From the guest to a socket. */

static void count_forwarded(struct vsock_connection *connection, uint32_t bytes)
{
	connection->forwarded += bytes;
	if (connection->forwarded - connection->forwarded_told >= CREDIT_STEP)
		connection->due |= VSOCK_DUE_CREDIT_UPDATE;
}

/* The other end reads no more: the guest is told so, and what it has sent already is lost. */
static void refuse_payload(struct vsock_connection *connection)
{
	connection->host_shutdown |= VIRTIO_VSOCK_SHUTDOWN_RCV;
	connection->due |= VSOCK_DUE_SHUTDOWN;
	count_forwarded(connection, vsock_buffered(connection));
}

/* How many bytes the socket took; with 0 it is full, or refuse_payload() has taken all. */
static uint32_t write_socket(struct vsock_connection *connection, const struct iovec *iov, unsigned iov_count)
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
	const struct vsock_connection *connection, uint32_t from, uint32_t bytes, struct iovec part[2])
{
	uint32_t at = from % VSOCK_BUFFER_BYTES;
	uint32_t first = bytes < VSOCK_BUFFER_BYTES - at ? bytes : VSOCK_BUFFER_BYTES - at;

	part[0] = (struct iovec){ connection->buffer + at, first };
	part[1] = (struct iovec){ connection->buffer, bytes - first };
	return bytes > first ? 2 : 1;
}

static void writable_done(struct io_op *op, int result);

/*
 * Once either end has ended the other direction, io_uring's poll completes at once (POLLRDHUP), whether
 * the socket takes anything or not: then try again after a while.
 */
static void wait_writable(struct vsock_connection *connection)
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

void vsock_end_writing(struct vsock_connection *connection)
{
	if (connection->state == VSOCK_LINGERING) {
		close_connection(connection);
	} else if ((connection->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) && !connection->write_ended) {
		connection->write_ended = true;
		shutdown(connection->fd, SHUT_WR);
	}
}

void vsock_flush_buffer(struct vsock_connection *connection)
{
	struct iovec part[2];

	while (vsock_buffered(connection)) {
		unsigned parts = buffer_part(
			connection, connection->forwarded, vsock_buffered(connection), part);

		if (!write_socket(connection, part, parts) && vsock_buffered(connection)) {
			wait_writable(connection);
			return;
		}
	}
	vsock_end_writing(connection);
}

static void append_to_buffer(
	struct vsock_connection *connection, const struct iovec *iov, unsigned iov_count, size_t bytes)
{
	struct iovec part[2];
	unsigned parts = buffer_part(connection, connection->received, bytes, part);

	connection->buffer_used = true;
	for (unsigned i = 0, done = 0; i < parts; done += part[i++].iov_len)
		iov_read(iov, iov_count, done, part[i].iov_base, part[i].iov_len);
	connection->received += bytes;
}

void vsock_forward_payload(
	struct vsock_connection *connection, struct iovec *iov, unsigned iov_count, uint32_t bytes)
{
	uint32_t written = 0;

	vsock_count(connection->vsock, VSOCK_TRANSMITTED_BYTES, bytes);
	if (!bytes || (connection->host_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV)) {
		connection->received += bytes;
		count_forwarded(connection, bytes);
		return;
	}
	if (vsock_buffered(connection) == 0) {
		written = write_socket(connection, iov, iov_count);
		connection->received += written;
	}
	if (written == bytes)
		return;
	iov_count = iov_skip(&iov, iov_count, written);
	append_to_buffer(connection, iov, iov_count, bytes - written);
	vsock_flush_buffer(connection);
}

/* --- From a socket to the guest. */

static void readable_done(struct io_op *op, int result);
static void vcpu_readable_done(struct io_op *op, int result);

/* This vCPU leaves the guest for the answer. */
static void wait_on_vcpu(struct vsock_connection *connection)
{
	if (connection->vcpu_readable_armed)
		return;
	connection->vcpu_readable_armed = true;
	connection->vcpu_readable_op.done = vcpu_readable_done;
	operation_started(connection);
	io_ring_poll_current(&connection->vcpu_readable_op, connection->fd, POLLIN);
	io_ring_submit(io_ring_current(connection->vsock->device.ring));
}

void vsock_wait_readable(struct vsock_connection *connection)
{
	struct io_ring *ring = connection->vsock->device.ring;

	connection->readable = false;
	if (connection->exchanging && on_vcpu(connection))
		wait_on_vcpu(connection);
	if (connection->readable_armed || (connection->exchanging && connection->vcpu_readable_armed))
		return;
	connection->readable_armed = true;
	connection->readable_op.done = readable_done;
	operation_started(connection);
	io_ring_poll(ring, &connection->readable_op, connection->fd, POLLIN);
	io_ring_submit(ring);
}

void vsock_note_request(struct vsock_connection *connection)
{
	connection->requested = true;
	if (connection->exchanging && connection->state == VSOCK_ESTABLISHED && !connection->readable &&
		on_vcpu(connection))
		wait_on_vcpu(connection);
}

void vsock_note_answer(struct vsock_connection *connection, bool more)
{
	connection->exchanging = connection->requested && !more;
	connection->requested = false;
}

void vsock_establish(struct vsock_connection *connection)
{
	connection->state = VSOCK_ESTABLISHED;
	connection->readable = true;
	vsock_count(connection->vsock, VSOCK_CONNECTIONS, 1);
}

/* Nobody writes before the guest has answered: the client has gone. */
void vsock_end_lost_offer(struct vsock_connection *connection)
{
	if (connection->state == VSOCK_OFFERED && connection->readable)
		vsock_reset_connection(connection);
}

/* A poll is over; *armed says so of it.  One that its thread's end has cancelled is followed by another. */
static void socket_is_readable(struct vsock_connection *connection, bool *armed)
{
	struct vsock *vsock = connection->vsock;

	pthread_mutex_lock(&vsock->device.lock);
	*armed = false;
	if (operation_done(connection)) {
		connection->readable = true;
		if (virtio_running(&vsock->device)) {
			vsock_end_lost_offer(connection);
			vsock_receive(vsock);
		}
	}
	pthread_mutex_unlock(&vsock->device.lock);
}

static void readable_done(struct io_op *op, int result)
{
	struct vsock_connection *connection = container_of(op, struct vsock_connection, readable_op);

	(void)result;
	socket_is_readable(connection, &connection->readable_armed);
}

static void vcpu_readable_done(struct io_op *op, int result)
{
	struct vsock_connection *connection = container_of(op, struct vsock_connection, vcpu_readable_op);

	(void)result;
	socket_is_readable(connection, &connection->vcpu_readable_armed);
}

static void writable_done(struct io_op *op, int result)
{
	struct vsock_connection *connection = container_of(op, struct vsock_connection, writable_op);
	struct vsock *vsock = connection->vsock;

	pthread_mutex_lock(&vsock->device.lock);
	connection->writable_armed = false;
	connection->hung_up |= result > 0 && !(result & POLLOUT);
	if (operation_done(connection) && virtio_running(&vsock->device)) {
		vsock_flush_buffer(connection);
		vsock_receive(vsock);
	}
	pthread_mutex_unlock(&vsock->device.lock);
}
