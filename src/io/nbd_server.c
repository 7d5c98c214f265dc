// SPDX-License-Identifier: GPL-2.0-only
/* NBD: connections that the supervisor makes for the guest's process. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "karma/log.h"
#include "karma/nbd_server.h"
#include "karma/util.h"

static struct nbd_server *servers[NBD_SERVERS_MAX];
static unsigned server_count;

void nbd_server_init(struct nbd_server *server)
{
	server->link.fd = server->calls[0] = server->calls[1] = -1;
}

int nbd_server_add(struct nbd_server *server)
{
	if (server_count == NBD_SERVERS_MAX)
		return -ENOSPC;
	servers[server_count++] = server;
	return 0;
}

static void close_calls(struct nbd_server *server)
{
	for (unsigned i = 0; i < ARRAY_SIZE(server->calls); i++) {
		close_fd(&server->calls[i]);
		server->calls[i] = -1;
	}
}

void nbd_server_release(struct nbd_server *server)
{
	nbd_link_close(&server->link);
	close_calls(server);
	for (unsigned i = 0; i < server_count; i++) {
		if (servers[i] == server)
			servers[i--] = servers[--server_count];
	}
}

/* --- Connections, in the supervisor. */

/* The first address is the one that answered last. */
static void start(struct nbd_server *server)
{
	server->tries = server->address.count;
	server->until = nanoseconds() + server->limit;
}

static void next_address(struct nbd_server *server)
{
	server->index = (server->index + 1) % server->address.count;
	server->tries--;
}

/* 1 there is a connection, 0 wait for the link's events, or a negative errno: no address has one. */
static int go_on(struct nbd_server *server)
{
	struct nbd_link *link = &server->link;
	int result;

	do {
		result = link->fd < 0 ? nbd_link_open(link, &server->address, server->index) :
					nbd_link_go_on(link);
		if (result < 0)
			next_address(server);
	} while (result < 0 && server->tries);
	if (result != 0 || nanoseconds() < server->until)
		return result;
	nbd_link_close(link);
	next_address(server);
	snprintf(link->greeting.problem, sizeof(link->greeting.problem),
		"the server does not answer: see whether it hangs");
	return -ETIMEDOUT;
}

static int milliseconds_left(const struct nbd_server *server)
{
	int64_t left = server->until - nanoseconds();

	return left < 0 ? 0 : left / 1000000 + 1;
}

int nbd_server_connect(struct nbd_server *server)
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
static const char *what_is_wrong(const struct nbd_server *server, const struct nbd_export *export)
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

int nbd_servers_open(void)
{
	const int type = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;

	for (unsigned i = 0; i < server_count; i++) {
		if (socketpair(AF_UNIX, type, 0, servers[i]->calls) < 0)
			return fail(-errno, "socketpair: %s: raise the limit of open files (ulimit -n)",
				strerror(errno));
	}
	return 0;
}

void nbd_servers_close(void)
{
	for (unsigned i = 0; i < server_count; i++) {
		nbd_link_close(&servers[i]->link);
		close_calls(servers[i]);
	}
}

void nbd_servers_watch(struct pollfd polls[NBD_SERVERS_MAX])
{
	for (unsigned i = 0; i < NBD_SERVERS_MAX; i++) {
		const struct nbd_server *server = i < server_count ? servers[i] : NULL;

		polls[i] = (struct pollfd){ .fd = -1 };
		if (server && server->link.fd >= 0)
			polls[i] = (struct pollfd){ server->link.fd, server->link.events, 0 };
		else if (server)
			polls[i] = (struct pollfd){ server->calls[0], POLLIN, 0 };
	}
}

int nbd_servers_timeout(void)
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
static void send_answer(struct nbd_server *server, struct nbd_answer *answer, int fd)
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
	if (sendmsg(server->calls[0], &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

static void answer(struct nbd_server *server, int result)
{
	const struct nbd_export *export = &server->link.greeting.export;
	struct nbd_answer said = { .result = result };
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
static bool take_call(struct nbd_server *server)
{
	uint8_t byte;
	ssize_t count = recv(server->calls[0], &byte, sizeof(byte), MSG_DONTWAIT);

	/* Nobody can call any more, and no poll() is to end for that. */
	if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) {
		close_fd(&server->calls[0]);
		server->calls[0] = -1;
	}
	return count > 0;
}

void nbd_servers_serve(const struct pollfd polls[NBD_SERVERS_MAX])
{
	for (unsigned i = 0; i < server_count; i++) {
		struct nbd_server *server = servers[i];
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

void nbd_servers_hand_on(void)
{
	for (unsigned i = 0; i < server_count; i++) {
		close_fd(&servers[i]->calls[0]);
		servers[i]->calls[0] = -1;
	}
}

int nbd_server_ask(const struct nbd_server *server)
{
	const uint8_t byte = 0;

	return write_bytes(server->calls[1], &byte, sizeof(byte)) < 0 ? -errno : 0;
}

int nbd_server_hear(const struct nbd_server *server, struct nbd_answer *answer)
{
	struct iovec iov = { answer, sizeof(*answer) };
	union control control;
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes) };
	ssize_t count;
	int fd;

	*answer = (struct nbd_answer){ 0 };
	count = recvmsg(server->calls[1], &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
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
