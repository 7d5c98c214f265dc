/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The way to a disk's NBD server: connections that are in transmission phase.
 *
 * A guest's process can't connect, nor does it speak the greeting, since that names an export: who has taken
 * it over could name any.  Its supervisor does both, checks that the export still is what the disk was
 * made for, and passes the socket on.  It is asked by a pair of sockets for each server.
 */
#ifndef KARMA_NBD_CONNECTOR_H
#define KARMA_NBD_CONNECTOR_H

#include <poll.h>

#include "karma/nbd.h"

struct nbd_connector {
	struct nbd_address address;
	int64_t limit;		/* ns, for a connection with its greeting */
	struct nbd_export export;	/* what the disk was made for, and its last size */
	bool read_only;		/* the disk */

	/* The supervisor's. */
	struct nbd_connection link;	/* on its way through the greeting, or fd is -1 */
	unsigned index, tries;	/* of addresses: the next one, and how many are left */
	int64_t until;

	int sockets[2];		/* sockets: the supervisor's, and that of the guest's process; or -1 */
};

/* Nothing is there yet but what a user named. */
void nbd_connector_init(struct nbd_connector *server);
void nbd_connector_release(struct nbd_connector *server);

/*
 * In the supervisor, before there is a guest's process: connect, and wait for it.  The caller has
 * link.fd from then on, and what is there is in link.greeting.export.  0, or a negative errno; why is in
 * link.greeting.problem.
 */
int nbd_connector_connect(struct nbd_connector *server);

/* All servers for which a guest's process may ask; before its start, and after its end. */
#define NBD_CONNECTORS_MAX 64u
int nbd_connector_register(struct nbd_connector *server);
int nbd_connectors_open(void);
void nbd_connectors_close(void);

/* In the supervisor's loop: what to wait for, and for how long (-1: for ever); then serve it. */
void nbd_connectors_watch(struct pollfd polls[NBD_CONNECTORS_MAX]);
int nbd_connectors_timeout(void);
void nbd_connectors_serve(const struct pollfd polls[NBD_CONNECTORS_MAX]);

/* In the guest's process, right after its start. */
void nbd_connectors_after_fork(void);

/* The supervisor's answer to a call. */
struct nbd_connection_reply {
	int result;		/* 0, and a connection comes with it, or a negative errno */
	struct nbd_export export;
	char problem[sizeof(((struct nbd_handshake *)NULL)->problem)];
};

/*
 * In the guest's process: ask for a connection, one at a time; 0, or a negative errno.  The answer comes
 * when sockets[1] can be read: a socket, or a negative errno; -EAGAIN: it is not there yet.
 */
int nbd_connector_request(const struct nbd_connector *server);
int nbd_connector_receive(const struct nbd_connector *server, struct nbd_connection_reply *answer);

#endif
