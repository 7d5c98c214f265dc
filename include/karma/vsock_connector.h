/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The vsock connector: how the sockets of vsock connections reach the guest's process, which can
 * neither make nor accept one.
 *
 * The supervisor and the guest's process have a pair of sockets that keep messages apart.  Either asks
 * the other for a connection, and the other answers: the guest's process asks for one to a service of the
 * host's, which the supervisor makes, if the user named the port by --vsock listen=; the supervisor asks
 * for one to a port of the guest's, with a connected socket, for `karma connect`.
 *
 * The guest's process may have been taken over.  All that it gains are connections to those services.
 */
#ifndef KARMA_VSOCK_CONNECTOR_H
#define KARMA_VSOCK_CONNECTOR_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#define VSOCK_SERVICES_MAX 32u
/* Connections of a guest at a time, and so descriptors that its process may need for them. */
#define VSOCK_CONNECTIONS_MAX 128u

/* Where the guest's agent, which runs the COMMAND, reaches who has started the guest; no service can be there. */
#define VSOCK_COMMAND_PORT 842u

/* A service of the host's: a Unix socket, which the guest reaches by a port. */
struct vsock_service {
	uint32_t port;
	const char *path;	/* the options' */
};

struct vsock_options {
	bool on;
	unsigned service_count;
	struct vsock_service services[VSOCK_SERVICES_MAX];
};

/* The service at that port; NULL if there is none. */
const struct vsock_service *vsock_find_service(const struct vsock_options *options, uint32_t port);

enum vsock_message_kind {
	VSOCK_CONNECT,		/* asks for a connection to that port */
	VSOCK_CONNECTED,	/* answers, with the id of what asked */
};

struct vsock_message {
	uint32_t kind;		/* enum vsock_message_kind */
	uint32_t id;		/* chosen by who asks */
	uint32_t port;		/* of VSOCK_CONNECT */
	int32_t result;		/* of VSOCK_CONNECTED: 0 or a negative errno */
};

struct vsock_connector {
	const struct vsock_options *options;	/* stay the caller's */
	int sockets[2];		/* the supervisor's, and that of the guest's process; or -1 */
	/*
	 * What serves VSOCK_COMMAND_PORT, in the supervisor: the other end of a connection, which becomes the caller's,
	 * or a negative errno.  NULL: nothing is there.
	 */
	int (*connect_command)(void *context);
	void *context;
};

/* Whether something is to be had at that port of the host's.  Either process. */
bool vsock_connector_serves(const struct vsock_connector *connector, uint32_t port);

/* Nothing is open at first. */
void vsock_connector_init(struct vsock_connector *connector, const struct vsock_options *options);

/* --- In the supervisor. */

/*
 * Before the start of a guest's process, if vsock is on, and after its end.  0, or a negative errno with a
 * message printed.
 */
int vsock_connector_open(struct vsock_connector *connector);
void vsock_connector_close(struct vsock_connector *connector);

/* For poll(). */
struct pollfd vsock_connector_watch(const struct vsock_connector *connector);
/*
 * Serve one message of the guest's process, without blocking.  True if it is an answer to
 * vsock_connector_offer(): any id and result, which the caller checks.
 */
bool vsock_connector_serve(struct vsock_connector *connector, struct vsock_message *answer);

/*
 * Ask for a connection to a port of the guest's, which is to use this socket; it stays the caller's.
 * 0, or a negative errno; -EAGAIN: too many at a time.
 */
int vsock_connector_offer(
	const struct vsock_connector *connector, uint32_t id, uint32_t port, int fd);

/* --- In the guest's process. */

/* Right after the fork: close what is the supervisor's. */
void vsock_connector_after_fork(struct vsock_connector *connector);

/* Send a message, without blocking.  0 or a negative errno.  Any thread. */
int vsock_connector_send(
	const struct vsock_connector *connector, const struct vsock_message *message);
/*
 * Receive one, once sockets[1] is readable, on the I/O thread.  *fd is its socket, non-blocking, which the
 * caller owns, or -1.  0 or a negative errno; -EAGAIN: there is none.
 */
int vsock_connector_receive(
	const struct vsock_connector *connector, struct vsock_message *message, int *fd);

#endif
