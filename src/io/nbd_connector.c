// SPDX-License-Identifier: GPL-2.0-only
/* NBD: connections that the supervisor makes for the guest's process. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "karma/log.h"
#include "karma/nbd_connector.h"
#include "karma/util.h"

static struct nbd_connector *servers[NBD_CONNECTORS_MAX];
static unsigned server_count;

void nbd_connector_init(struct nbd_connector *server)
{
	server->link.fd = server->sockets[0] = server->sockets[1] = -1;
}

int nbd_connector_register(struct nbd_connector *server)
{
	if (server_count == NBD_CONNECTORS_MAX)
		return -ENOSPC;
	servers[server_count++] = server;
	return 0;
}

static void close_calls(struct nbd_connector *server)
{
	for (unsigned i = 0; i < ARRAY_SIZE(server->sockets); i++) {
		close_fd(&server->sockets[i]);
		server->sockets[i] = -1;
	}
}

void nbd_connector_release(struct nbd_connector *server)
{
	nbd_connection_close(&server->link);
	close_calls(server);
	for (unsigned i = 0; i < server_count; i++) {
		if (servers[i] == server)
			servers[i--] = servers[--server_count];
	}
}

/* --- Connections, in the supervisor. */

/* The first address is the one that answered last. */
static void start(struct nbd_connector *server)
{
	server->tries = server->address.count;
	server->until = nanoseconds() + server->limit;
}

static void next_address(struct nbd_connector *server)
{
	server->index = (server->index + 1) % server->address.count;
	server->tries--;
}

/* 1 there is a connection, 0 wait for the link's events, or a negative errno: no address has one. */
static int go_on(struct nbd_connector *server)
{
	struct nbd_connection *link = &server->link;
	int result;

	do {
		result = link->fd < 0 ? nbd_connection_open(link, &server->address, server->index) :
					nbd_connection_step(link);
		if (result < 0)
			next_address(server);
	} while (result < 0 && server->tries);
	if (result != 0 || nanoseconds() < server->until)
		return result;
	nbd_connection_close(link);
	next_address(server);
	snprintf(link->greeting.problem, sizeof(link->greeting.problem),
		"the server does not answer: see whether it hangs");
	return -ETIMEDOUT;
}

static int milliseconds_left(const struct nbd_connector *server)
{
	int64_t left = server->until - nanoseconds();

	return left < 0 ? 0 : left / 1000000 + 1;
}

int nbd_connector_connect(struct nbd_connector *server)
{
	int result;

	start(server);
	while ((result = go_on(server)) == 0) {
		struct pollfd ready = { .fd = server->link.fd, .events = server->link.events };

		poll(&ready, 1, milliseconds_left(server));
	}
	return result < 0 ? result : 0;
}

/* Why the export is not what the guest knows; NULL: it is. */
static const char *what_is_wrong(const struct nbd_connector *server, const struct nbd_export *export)
{
	const struct nbd_export *known = &server->export;
	uint16_t missing = known->flags & ~export->flags &
		(NBD_SEND_FLUSH | NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES);

	if (export->size < known->size)
		return "its export is smaller now";
	if (export->block_min > known->block_min)
		return "its export has larger blocks now";
	if ((export->flags & NBD_READ_ONLY) && !server->read_only)
		return "its export can't be written any more";
	return missing ? "it can do less with its export now" : NULL;
}

/* --- Calls and their answers. */

union control {
	struct cmsghdr head;
	char bytes[CMSG_SPACE(sizeof(int))];
};

int nbd_connectors_open(void)
{
	const int type = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;

	for (unsigned i = 0; i < server_count; i++) {
		if (socketpair(AF_UNIX, type, 0, servers[i]->sockets) < 0)
			return fail(-errno, "socketpair: %s: raise the limit of open files (ulimit -n)",
				strerror(errno));
	}
	return 0;
}

void nbd_connectors_close(void)
{
	for (unsigned i = 0; i < server_count; i++) {
		nbd_connection_close(&servers[i]->link);
		close_calls(servers[i]);
	}
}

void nbd_connectors_watch(struct pollfd polls[NBD_CONNECTORS_MAX])
{
	for (unsigned i = 0; i < NBD_CONNECTORS_MAX; i++) {
		const struct nbd_connector *server = i < server_count ? servers[i] : NULL;

		polls[i] = (struct pollfd){ .fd = -1 };
		if (server && server->link.fd >= 0)
			polls[i] = (struct pollfd){ server->link.fd, server->link.events, 0 };
		else if (server)
			polls[i] = (struct pollfd){ server->sockets[0], POLLIN, 0 };
	}
}

int nbd_connectors_timeout(void)
{
	int first = -1;

	for (unsigned i = 0; i < server_count; i++) {
		int left = milliseconds_left(servers[i]);

		if (servers[i]->link.fd >= 0 && (first < 0 || left < first))
			first = left;
	}
	return first;
}

/* With a descriptor if that is one.  Who does not take its answers gets none. */
static void send_answer(struct nbd_connector *server, struct nbd_connection_reply *answer, int fd)
{
	struct iovec iov = { answer, sizeof(*answer) };
	union control control = { .head = {
		.cmsg_len = CMSG_LEN(sizeof(fd)),
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS,
	} };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
	}
	if (sendmsg(server->sockets[0], &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

static void answer(struct nbd_connector *server, int result)
{
	const struct nbd_export *export = &server->link.greeting.export;
	struct nbd_connection_reply said = { .result = result };
	const char *why = server->link.greeting.problem;

	if (result > 0) {
		why = what_is_wrong(server, export);
		said.result = why ? -ESTALE : 0;
	}
	if (said.result < 0) {
		snprintf(said.problem, sizeof(said.problem), "%s", why);
		send_answer(server, &said, -1);
	} else {
		said.export = *export;
		server->export.size = export->size;
		send_answer(server, &said, server->link.fd);
	}
	close_fd(&server->link.fd);
	server->link.fd = -1;
}

/* What a call says is for nobody: it can only be one for this server. */
static bool take_call(struct nbd_connector *server)
{
	uint8_t byte;
	ssize_t count = recv(server->sockets[0], &byte, sizeof(byte), MSG_DONTWAIT);

	/* Nobody can call any more, and no poll() is to end for that. */
	if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) {
		close_fd(&server->sockets[0]);
		server->sockets[0] = -1;
	}
	return count > 0;
}

void nbd_connectors_serve(const struct pollfd polls[NBD_CONNECTORS_MAX])
{
	for (unsigned i = 0; i < server_count; i++) {
		struct nbd_connector *server = servers[i];
		int result = 0;

		if (server->link.fd < 0) {
			if (!polls[i].revents || !take_call(server))
				continue;
			start(server);
		} else if (!polls[i].revents && nanoseconds() < server->until) {
			continue;
		}
		result = go_on(server);
		if (result != 0)
			answer(server, result);
	}
}

/* --- The guest's process. */

void nbd_connectors_after_fork(void)
{
	for (unsigned i = 0; i < server_count; i++) {
		close_fd(&servers[i]->sockets[0]);
		servers[i]->sockets[0] = -1;
	}
}

int nbd_connector_request(const struct nbd_connector *server)
{
	const uint8_t byte = 0;

	return write_bytes(server->sockets[1], &byte, sizeof(byte)) < 0 ? -errno : 0;
}

int nbd_connector_receive(const struct nbd_connector *server, struct nbd_connection_reply *answer)
{
	struct iovec iov = { answer, sizeof(*answer) };
	union control control;
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes) };
	ssize_t count;
	int fd;

	*answer = (struct nbd_connection_reply){ 0 };
	count = recvmsg(server->sockets[1], &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (count < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	if (count != sizeof(*answer))
		return -EPIPE;
	if (answer->result < 0)
		return answer->result;
	if (message.msg_controllen < CMSG_LEN(sizeof(fd)))
		return -EMFILE;
	memcpy(&fd, CMSG_DATA(&control.head), sizeof(fd));
	return fd;
}
