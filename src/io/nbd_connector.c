// SPDX-License-Identifier: GPL-2.0-only
/* NBD: connectors, by which the supervisor makes connections for the guest's process. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "karma/log.h"
#include "karma/nbd_connector.h"
#include "karma/pass_fd.h"
#include "karma/util.h"

static struct nbd_connector *connectors[NBD_CONNECTORS_MAX];
static unsigned connector_count;

void nbd_connector_init(struct nbd_connector *connector)
{
	connector->connection.fd = connector->sockets[0] = connector->sockets[1] = -1;
}

int nbd_connector_register(struct nbd_connector *connector)
{
	if (connector_count == NBD_CONNECTORS_MAX)
		return -ENOSPC;
	connectors[connector_count++] = connector;
	return 0;
}

static void close_sockets(struct nbd_connector *connector)
{
	for (unsigned i = 0; i < ARRAY_SIZE(connector->sockets); i++) {
		close_fd(&connector->sockets[i]);
		connector->sockets[i] = -1;
	}
}

void nbd_connector_release(struct nbd_connector *connector)
{
	nbd_connection_close(&connector->connection);
	close_sockets(connector);
	for (unsigned i = 0; i < connector_count; i++) {
		if (connectors[i] == connector)
			connectors[i--] = connectors[--connector_count];
	}
}

/* --- Connections, in the supervisor. */

/* Each address is tried, beginning with the one that answered last. */
static void start(struct nbd_connector *connector)
{
	connector->tries = connector->address.count;
	connector->deadline = nanoseconds() + connector->limit;
}

static void next_address(struct nbd_connector *connector)
{
	connector->index = (connector->index + 1) % connector->address.count;
	connector->tries--;
}

/* 1: there is a connection; 0: poll for its events; or a negative errno: no address has one. */
static int step(struct nbd_connector *connector)
{
	struct nbd_connection *connection = &connector->connection;
	int result;

	do {
		result = connection->fd < 0 ? nbd_connection_open(connection, &connector->address, connector->index) :
					nbd_connection_step(connection);
		if (result < 0)
			next_address(connector);
	} while (result < 0 && connector->tries);
	if (result != 0 || nanoseconds() < connector->deadline)
		return result;
	nbd_connection_close(connection);
	next_address(connector);
	snprintf(connection->handshake.problem, sizeof(connection->handshake.problem),
		"the server does not answer: see whether it hangs");
	return -ETIMEDOUT;
}

static int milliseconds_left(const struct nbd_connector *connector)
{
	int64_t left = connector->deadline - nanoseconds();

	return left < 0 ? 0 : left / 1000000 + 1;
}

int nbd_connector_connect(struct nbd_connector *connector)
{
	int result;

	start(connector);
	while ((result = step(connector)) == 0) {
		struct pollfd ready = { connector->connection.fd, connector->connection.events, 0 };

		poll(&ready, 1, milliseconds_left(connector));
	}
	return result < 0 ? result : 0;
}

/* Why the export is not the one that the guest knows; NULL: it is. */
static const char *export_mismatch(const struct nbd_connector *connector, const struct nbd_export *export)
{
	const struct nbd_export *known = &connector->export;
	uint16_t missing = known->flags & ~export->flags &
		(NBD_SEND_FLUSH | NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES);

	if (export->size < known->size)
		return "its export is smaller now";
	if (export->block_min > known->block_min)
		return "its export has larger blocks now";
	if ((export->flags & NBD_READ_ONLY) && !connector->read_only)
		return "its export can't be written any more";
	return missing ? "it can do less with its export now" : NULL;
}

/* --- Requests for a connection, and their replies. */

int nbd_connectors_open(void)
{
	const int type = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;

	for (unsigned i = 0; i < connector_count; i++) {
		if (socketpair(AF_UNIX, type, 0, connectors[i]->sockets) < 0)
			return fail(-errno, "socketpair: %s: raise the limit of open files (ulimit -n)",
				strerror(errno));
	}
	return 0;
}

void nbd_connectors_close(void)
{
	for (unsigned i = 0; i < connector_count; i++) {
		nbd_connection_close(&connectors[i]->connection);
		close_sockets(connectors[i]);
	}
}

void nbd_connectors_watch(struct pollfd polls[NBD_CONNECTORS_MAX])
{
	for (unsigned i = 0; i < NBD_CONNECTORS_MAX; i++) {
		const struct nbd_connector *connector = i < connector_count ? connectors[i] : NULL;

		polls[i] = (struct pollfd){ .fd = -1 };
		if (connector && connector->connection.fd >= 0)
			polls[i] = (struct pollfd){ connector->connection.fd, connector->connection.events, 0 };
		else if (connector)
			polls[i] = (struct pollfd){ connector->sockets[0], POLLIN, 0 };
	}
}

int nbd_connectors_timeout(void)
{
	int first = -1;

	for (unsigned i = 0; i < connector_count; i++) {
		int left = milliseconds_left(connectors[i]);

		if (connectors[i]->connection.fd >= 0 && (first < 0 || left < first))
			first = left;
	}
	return first;
}

static void reply_with(struct nbd_connector *connector, int result)
{
	const struct nbd_export *export = &connector->connection.handshake.export;
	struct nbd_connection_reply reply = { .result = result };
	int passed_fd = -1;
	const char *why = connector->connection.handshake.problem;

	if (result > 0) {
		why = export_mismatch(connector, export);
		reply.result = why ? -ESTALE : 0;
	}
	if (reply.result < 0) {
		snprintf(reply.problem, sizeof(reply.problem), "%s", why);
	} else {
		reply.export = *export;
		connector->export.size = export->size;
		passed_fd = connector->connection.fd;
	}
	/* It fails if the socket is full, since nobody receives: the reply is dropped. */
	(void)!send_with_fd(connector->sockets[0], &reply, sizeof(reply), passed_fd);
	close_fd(&connector->connection.fd);
	connector->connection.fd = -1;
}

/* A request is one byte, whose value does not matter. */
static bool receive_request(struct nbd_connector *connector)
{
	uint8_t byte;
	ssize_t count = recv(connector->sockets[0], &byte, sizeof(byte), MSG_DONTWAIT);

	/* The other end is closed: poll() is not to report that for ever. */
	if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) {
		close_fd(&connector->sockets[0]);
		connector->sockets[0] = -1;
	}
	return count > 0;
}

void nbd_connectors_serve(const struct pollfd polls[NBD_CONNECTORS_MAX])
{
	for (unsigned i = 0; i < connector_count; i++) {
		struct nbd_connector *connector = connectors[i];
		int result = 0;

		if (connector->connection.fd < 0) {
			if (!polls[i].revents || !receive_request(connector))
				continue;
			start(connector);
		} else if (!polls[i].revents && nanoseconds() < connector->deadline) {
			continue;
		}
		result = step(connector);
		if (result != 0)
			reply_with(connector, result);
	}
}

/* --- The guest's process. */

void nbd_connectors_after_fork(void)
{
	for (unsigned i = 0; i < connector_count; i++) {
		close_fd(&connectors[i]->sockets[0]);
		connectors[i]->sockets[0] = -1;
	}
}

int nbd_connector_request(const struct nbd_connector *connector)
{
	const uint8_t byte = 0;

	return write_bytes(connector->sockets[1], &byte, sizeof(byte)) < 0 ? -errno : 0;
}

int nbd_connector_receive(const struct nbd_connector *connector, struct nbd_connection_reply *reply)
{
	int fd;
	ssize_t count;

	*reply = (struct nbd_connection_reply){ 0 };
	count = receive_with_fd(connector->sockets[1], reply, sizeof(*reply), &fd);
	if (count < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	if (count == sizeof(*reply) && reply->result >= 0)
		return fd >= 0 ? fd : -EMFILE;
	close_fd(&fd);
	return count == sizeof(*reply) ? reply->result : -EPIPE;
}
