/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The transmission phase of NBD: disk requests on their way to a server and back.
 *
 * Requests may be sent by any thread; one thread, the I/O thread, receives replies, and begins and
 * breaks connections.  Nothing here waits.
 *
 * A request that had no reply when its connection broke is sent again on the next one.
 */
#ifndef KARMA_NBD_TRANSMISSION_H
#define KARMA_NBD_TRANSMISSION_H

#include <pthread.h>

#include "karma/disk.h"
#include "karma/nbd.h"

#define NBD_SLOTS 128u	/* commands that a server has at a time */

/* A command that the server has, or is being sent. */
struct nbd_slot {
	struct disk_request *request;	/* NULL: free */
	uint64_t cookie;
	bool sent;
};

struct nbd_transmission {
	pthread_mutex_t lock;	/* of all that follows, but for what is the I/O thread's own */
	int fd;			/* -1: no connection; the I/O thread's to change, as is the export */
	struct nbd_export export;

	unsigned waiting;	/* requests that have not been taken as ended */
	uint64_t answers;	/* replies that the server gave */

	struct disk_request *first, **last;	/* to be sent */
	size_t sent;		/* bytes of the first one */
	bool blocked;		/* the socket is full: send again when it is not */
	struct disk_request *ended;

	struct nbd_slot slots[NBD_SLOTS];
	unsigned slots_used;
	uint32_t cookies;

	/* Writes that the server acknowledged, and those of them that a flush covers. */
	uint64_t acknowledged, flushed;
	bool lost_writes;	/* some may be lost, and the guest doesn't know yet */
	bool telling;		/* it is being told */

	/* The I/O thread's own: what is being received. */
	uint8_t head[NBD_REPLY_BYTES];
	size_t head_got;
	struct disk_request *reading;	/* the one whose data comes next */
	size_t data_got;
};

void nbd_transmission_init(struct nbd_transmission *transmission);
void nbd_transmission_release(struct nbd_transmission *transmission);

/* With the lock held. */

/* There is a connection, non-blocking, whose server has that export; the caller's until it broke it. */
void nbd_begin(struct nbd_transmission *transmission, int fd, const struct nbd_export *export);
void nbd_break(struct nbd_transmission *transmission);

void nbd_queue(struct nbd_transmission *transmission, struct disk_request *request);
/* Send what is queued, as far as there is room. */
void nbd_send(struct nbd_transmission *transmission);
/* End all requests with an error; while there is no connection. */
void nbd_fail_all(struct nbd_transmission *transmission, int error);

/*
 * The list of requests that have ended, linked by next; the caller calls their done() with their
 * error, without the lock.
 */
struct disk_request *nbd_take_ended(struct nbd_transmission *transmission);

/*
 * The I/O thread, without the lock: take what the server has said.  NULL, or, in words, why the
 * connection is to be broken.
 */
const char *nbd_receive(struct nbd_transmission *transmission);

#endif
