// SPDX-License-Identifier: GPL-2.0-only
/* NBD: from a server's address to a connection in transmission phase. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "karma/nbd.h"
#include "karma/util.h"

/* Seconds: a host that vanished is noticed after the idle time and the unanswered probes. */
#define KEEPALIVE_IDLE 10
#define KEEPALIVE_INTERVAL 5
#define KEEPALIVE_COUNT 3

static const char *connect_cure(int error)
{
	switch (error) {
	case ECONNREFUSED:
	case ENOENT:
		return "start the server, or correct its address";
	case EACCES:
	case EPERM:
		return "give yourself the right to use that socket";
	case EAGAIN:
		return "the server takes no more connections: let another one go";
	default:
		return "see whether the server runs and can be reached";
	}
}

static int give_up(struct nbd_connection *connection, int error)
{
	if (!connection->handshake.problem[0])
		snprintf(connection->handshake.problem, sizeof(connection->handshake.problem), "%s: %s",
			strerror(-error), connect_cure(-error));
	nbd_connection_close(connection);
	return error;
}

static void set_options(int fd, int family)
{
	const struct {
		int level, name, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE },
		{ IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL },
		{ IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT,
			1000 * (KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_COUNT) },
	};

	/* Without an option it is slower, or notices a loss later: no error. */
	for (size_t i = 0; i < ARRAY_SIZE(options) && family != AF_UNIX; i++)
		setsockopt(fd, options[i].level, options[i].name, &options[i].value,
			sizeof(options[i].value));
}

static int connect_to(const struct nbd_address *address, unsigned index)
{
	const struct sockaddr *to = (const struct sockaddr *)&address->addresses[index];
	int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int result;

	if (fd < 0)
		return -errno;
	set_options(fd, to->sa_family);
	if (connect(fd, to, address->lengths[index]) == 0 || errno == EINPROGRESS || errno == EINTR)
		return fd;
	result = -errno;
	close(fd);
	return result;
}

int nbd_connection_open(struct nbd_connection *connection, const struct nbd_address *address, unsigned index)
{
	nbd_handshake_start(&connection->handshake, address->export_name);
	connection->connected = false;
	connection->events = POLLOUT;
	connection->fd = connect_to(address, index);
	if (connection->fd < 0) {
		int result = connection->fd;

		connection->fd = -1;
		return give_up(connection, result);
	}
	return 0;
}

void nbd_connection_close(struct nbd_connection *connection)
{
	if (connection->fd < 0)
		return;
	/* Ends a poll of it that is in progress. */
	shutdown(connection->fd, SHUT_RDWR);
	close(connection->fd);
	connection->fd = -1;
}

static int finish_connect(struct nbd_connection *connection)
{
	struct pollfd ready = { .fd = connection->fd, .events = POLLOUT };
	socklen_t size = sizeof(int);
	int error = 0;

	if (poll(&ready, 1, 0) <= 0)
		return 0;
	if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
		error = errno;
	connection->connected = error == 0;
	return -error;
}

/*
 * Send or receive some of what the handshake has to.  1: go on; 0: poll for the events; or a
 * negative errno.
 */
static int exchange(struct nbd_connection *connection)
{
	struct nbd_handshake *handshake = &connection->handshake;
	ssize_t count = 0;

	if (handshake->sent < handshake->out_length) {
		connection->events = POLLOUT;
		count = write_bytes(connection->fd, handshake->out + handshake->sent,
			handshake->out_length - handshake->sent);
		if (count > 0)
			handshake->sent += count;
	} else if (handshake->got < handshake->want) {
		connection->events = POLLIN;
		count = read_bytes(connection->fd, handshake->in + handshake->got,
			handshake->want - handshake->got);
		if (count == 0)
			return -ECONNRESET;
		if (count > 0)
			handshake->got += count;
	}
	if (count < 0)
		return errno == EAGAIN ? 0 : errno == EINTR ? 1 : -errno;
	return 1;
}

int nbd_connection_step(struct nbd_connection *connection)
{
	struct nbd_handshake *handshake = &connection->handshake;
	int result = 0;

	if (!connection->connected)
		result = finish_connect(connection);
	while (connection->connected && result == 0) {
		result = exchange(connection);
		if (result == 0)
			return 0;
		if (result > 0)
			result = 0;
		if (result == 0 && handshake->sent == handshake->out_length &&
			handshake->got == handshake->want)
			result = nbd_handshake_step(handshake);
	}
	return result < 0 ? give_up(connection, result) : result;
}
