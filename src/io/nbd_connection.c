// SPDX-License-Identifier: GPL-2.0-only
/* NBD: from a server's address to a connection that is ready for requests. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "karma/nbd.h"
#include "karma/util.h"

/* Seconds until a host that vanished is noticed: a first question, two more, and what was sent. */
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

static int give_up(struct nbd_connection *link, int error)
{
	if (!link->greeting.problem[0])
		snprintf(link->greeting.problem, sizeof(link->greeting.problem), "%s: %s",
			strerror(-error), connect_cure(-error));
	nbd_connection_close(link);
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

	/* Without them it only is slower, or notices later. */
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

int nbd_connection_open(struct nbd_connection *link, const struct nbd_address *address, unsigned index)
{
	nbd_handshake_start(&link->greeting, address->export_name);
	link->connected = false;
	link->events = POLLOUT;
	link->fd = connect_to(address, index);
	if (link->fd < 0) {
		int result = link->fd;

		link->fd = -1;
		return give_up(link, result);
	}
	return 0;
}

void nbd_connection_close(struct nbd_connection *link)
{
	if (link->fd < 0)
		return;
	/* Whoever polls it still learns of its end. */
	shutdown(link->fd, SHUT_RDWR);
	close(link->fd);
	link->fd = -1;
}

static int finish_connect(struct nbd_connection *link)
{
	struct pollfd ready = { .fd = link->fd, .events = POLLOUT };
	socklen_t size = sizeof(int);
	int error = 0;

	if (poll(&ready, 1, 0) <= 0)
		return 0;
	if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
		error = errno;
	link->connected = error == 0;
	return -error;
}

/* Send what is to be sent, and receive what is wanted: 1 all is done, 0 not yet, or an error. */
static int exchange(struct nbd_connection *link)
{
	struct nbd_handshake *greeting = &link->greeting;
	ssize_t count = 0;

	if (greeting->sent < greeting->out_length) {
		link->events = POLLOUT;
		count = write_bytes(link->fd, greeting->out + greeting->sent,
			greeting->out_length - greeting->sent);
		if (count > 0)
			greeting->sent += count;
	} else if (greeting->got < greeting->want) {
		link->events = POLLIN;
		count = read_bytes(link->fd, greeting->in + greeting->got,
			greeting->want - greeting->got);
		if (count == 0)
			return -ECONNRESET;
		if (count > 0)
			greeting->got += count;
	}
	if (count < 0)
		return errno == EAGAIN ? 0 : errno == EINTR ? 1 : -errno;
	return 1;
}

int nbd_connection_step(struct nbd_connection *link)
{
	struct nbd_handshake *greeting = &link->greeting;
	int result = 0;

	if (!link->connected)
		result = finish_connect(link);
	while (link->connected && result == 0) {
		result = exchange(link);
		if (result == 0)
			return 0;
		if (result > 0)
			result = 0;
		if (result == 0 && greeting->sent == greeting->out_length &&
			greeting->got == greeting->want)
			result = nbd_handshake_step(greeting);
	}
	return result < 0 ? give_up(link, result) : result;
}
