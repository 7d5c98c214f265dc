/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Connectors: how the guest's process gets a connection to a disk's NBD server.
 *
 * The guest's process cannot connect.  Nor does it do the handshake, since that names an export:
 * whoever has taken the process over could name any.  The supervisor does both, checks that the
 * export is still the one that the disk was made for, and passes the socket on, which then is in
 * transmission phase.  The guest's process requests it by a pair of sockets, one pair for each
 * connector.
 */
#ifndef KARMA_NBD_CONNECTOR_H
#define KARMA_NBD_CONNECTOR_H

#include <poll.h>

#include "karma/nbd.h"

struct nbd_connector {
	struct nbd_address address;
	int64_t limit;		/* ns, for a connection with its handshake */
	struct nbd_export export;	/* what the disk was made for, and its last size */
	bool read_only;		/* the disk */

	/* The supervisor's. */
	struct nbd_connection connection;	/* that is being made, or fd is -1 */
	unsigned index, tries;	/* of addresses: the next one, and how many are left */
	int64_t deadline;	/* CLOCK_MONOTONIC, ns */

	int sockets[2];		/* the supervisor's, and that of the guest's process; or -1 */
};

/* All descriptors are -1 at first.  Release it in the supervisor. */
void nbd_connector_init(struct nbd_connector *connector);
void nbd_connector_release(struct nbd_connector *connector);

/*
 * The first connection: in the supervisor, before there is a guest's process.  Blocks, up to the
 * limit.  Then the caller owns connection.fd, and the export is in connection.handshake.  Returns
 * 0, or a negative errno, whose reason is in connection.handshake.problem.
 */
int nbd_connector_connect(struct nbd_connector *connector);

/*
 * The supervisor's list of connectors: register each when its disk is opened; open the sockets
 * before the start of a guest's process, and close them after its end.  Returns 0, or a negative
 * errno; with a message from nbd_connectors_open().
 */
#define NBD_CONNECTORS_MAX 64u
int nbd_connector_register(struct nbd_connector *connector);
int nbd_connectors_open(void);
void nbd_connectors_close(void);

/*
 * In the supervisor's loop: what to poll for, for how many milliseconds (-1: for ever), and serve
 * what came.
 */
void nbd_connectors_watch(struct pollfd polls[NBD_CONNECTORS_MAX]);
int nbd_connectors_timeout(void);
void nbd_connectors_serve(const struct pollfd polls[NBD_CONNECTORS_MAX]);

/* In the guest's process, right after the fork: close what is the supervisor's. */
void nbd_connectors_after_fork(void);

/* What the supervisor replies. */
struct nbd_connection_reply {
	int result;		/* 0, and a socket comes with it, or a negative errno */
	struct nbd_export export;
	char problem[sizeof(((struct nbd_handshake *)NULL)->problem)];
};

/*
 * In the guest's process: request a connection, one at a time.  Returns 0, or a negative errno.
 *
 * Receive the reply, once sockets[1] is readable.  Returns the connected socket, which the caller
 * owns, or a negative errno; -EAGAIN: there is no reply yet.
 */
int nbd_connector_request(const struct nbd_connector *connector);
int nbd_connector_receive(
	const struct nbd_connector *connector, struct nbd_connection_reply *reply);

#endif
