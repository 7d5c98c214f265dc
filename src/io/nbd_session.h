/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the two sources of NBD disks share: a disk and its session, that is its connection over
 * time.
 *
 * nbd.c          the backend
 * nbd_session.c  the session: events, loss of the server, reconnection, timeouts
 */
#ifndef KARMA_IO_NBD_SESSION_H
#define KARMA_IO_NBD_SESSION_H

#include "karma/disk.h"
#include "karma/nbd_connector.h"
#include "karma/nbd_transmission.h"

#define SECOND 1000000000ll

enum nbd_state {
	DISCONNECTED,	/* the next attempt is at retry_at */
	CONNECTING,	/* a connection was requested from the supervisor */
	CONNECTED,
};

/* An operation on the main ring, whose completion makes the I/O thread serve the session. */
struct nbd_event {
	struct io_op op;
	struct nbd *nbd;
	bool armed;	/* in flight */
};

struct nbd {
	struct disk disk;
	struct nbd_connector connector;
	const char *path;	/* the options' */
	int64_t timeout;	/* ns that a request waits for the server */

	struct nbd_transmission transmission;	/* its lock guards all that follows */
	enum nbd_state state;
	int64_t retry_at;	/* CLOCK_MONOTONIC, ns */
	int64_t retry_delay;	/* ns */

	int64_t replied_at;	/* of the last reply, or of the first request in flight */
	uint64_t replies;	/* transmission.replies by then */
	bool ending;		/* the guest has ended */
	bool timed_out;		/* requests fail at once until the server is back */
	bool loss_noted, refusal_noted;	/* what the user was told */

	struct nbd_event readable, writable, scheduled, tick;
	struct __kernel_timespec tick_time;
};

/* Set up the events.  Before anything else. */
void nbd_session_init(struct nbd *nbd);

/* --- With the lock held, or before there is another thread. */

/* A connection was made: the session owns fd. */
void nbd_session_connect(struct nbd *nbd, int fd, const struct nbd_export *export);
void nbd_session_disconnect(struct nbd *nbd);

/* Arm the events that the session waits for in its state. */
void nbd_session_arm_events(struct nbd *nbd);
/* Have the I/O thread check the time, again and again while there are requests in flight. */
void nbd_session_start_tick(struct nbd *nbd);
/* Have the I/O thread serve the session. */
void nbd_session_schedule(struct nbd *nbd);

#endif
