// SPDX-License-Identifier: GPL-2.0-only
/* vsock: the connector, by which the supervisor passes sockets to the guest's process. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "karma/log.h"
#include "karma/pass_fd.h"
#include "karma/unix_connect.h"
#include "karma/util.h"
#include "karma/vsock_connector.h"

const struct vsock_service *vsock_find_service(const struct vsock_options *options, uint32_t port)
{
	for (unsigned i = 0; i < options->service_count; i++) {
		if (options->services[i].port == port)
			return &options->services[i];
	}
	return NULL;
}

void vsock_connector_init(struct vsock_connector *connector, const struct vsock_options *options)
{
	*connector = (struct vsock_connector){ .options = options, .sockets = { -1, -1 } };
}

static bool is_for_command(const struct vsock_connector *connector, uint32_t port)
{
	return port == VSOCK_COMMAND_PORT && connector->connect_command;
}

bool vsock_connector_serves(const struct vsock_connector *connector, uint32_t port)
{
	return is_for_command(connector, port) || vsock_find_service(connector->options, port);
}

/* --- The supervisor. */

int vsock_connector_open(struct vsock_connector *connector)
{
	const int type = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;

	if (!connector->options->on || socketpair(AF_UNIX, type, 0, connector->sockets) == 0)
		return 0;
	return fail(-errno, "socketpair: %s: raise the limit of open files (ulimit -n)", strerror(errno));
}

static void close_socket(struct vsock_connector *connector, unsigned index)
{
	close_fd(&connector->sockets[index]);
	connector->sockets[index] = -1;
}

void vsock_connector_close(struct vsock_connector *connector)
{
	close_socket(connector, 0);
	close_socket(connector, 1);
}

struct pollfd vsock_connector_watch(const struct vsock_connector *connector)
{
	return (struct pollfd){ .fd = connector->sockets[0], .events = POLLIN };
}

/* With a descriptor, unless fd is -1. */
static int send_message(
	const struct vsock_connector *connector, const struct vsock_message *message, int fd)
{
	return send_with_fd(connector->sockets[0], message, sizeof(*message), fd) < 0 ? -errno : 0;
}

static int connect_service(const struct vsock_service *service)
{
	return service ? unix_connect(service->path) : -ECONNREFUSED;
}

/*
 * An answer that finds no room is lost: a guest's process that keeps to its number of connections always
 * leaves some.
 */
static void connect_guest(const struct vsock_connector *connector, const struct vsock_message *request)
{
	cleanup_fd int fd = is_for_command(connector, request->port) ? connector->connect_command(connector->context) :
		connect_service(vsock_find_service(connector->options, request->port));
	const struct vsock_message answer = {
		.kind = VSOCK_CONNECTED,
		.id = request->id,
		.result = fd < 0 ? fd : 0,
	};

	send_message(connector, &answer, fd);
}

bool vsock_connector_serve(struct vsock_connector *connector, struct vsock_message *answer)
{
	ssize_t count = recv(connector->sockets[0], answer, sizeof(*answer), MSG_DONTWAIT);

	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	/* Its end, or what is no message. */
	if (count != sizeof(*answer)) {
		close_socket(connector, 0);
		return false;
	}
	if (answer->kind == VSOCK_CONNECT)
		connect_guest(connector, answer);
	return answer->kind == VSOCK_CONNECTED;
}

int vsock_connector_offer(
	const struct vsock_connector *connector, uint32_t id, uint32_t port, int fd)
{
	const struct vsock_message request = { .kind = VSOCK_CONNECT, .id = id, .port = port };

	return send_message(connector, &request, fd);
}

/* --- The guest's process. */

void vsock_connector_after_fork(struct vsock_connector *connector)
{
	close_socket(connector, 0);
}

int vsock_connector_send(
	const struct vsock_connector *connector, const struct vsock_message *message)
{
	return write_bytes(connector->sockets[1], message, sizeof(*message)) < 0 ? -errno : 0;
}

int vsock_connector_receive(
	const struct vsock_connector *connector, struct vsock_message *message, int *fd)
{
	ssize_t count = receive_with_fd(connector->sockets[1], message, sizeof(*message), fd);

	if (count < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	return count == sizeof(*message) ? 0 : -EPIPE;
}
