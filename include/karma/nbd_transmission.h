/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The transmission phase of NBD: disk requests on their way to a server and back.
 *
 * Any thread queues and sends requests, with the lock held.  One thread, the I/O thread, receives
 * replies, and connects and disconnects.  Nothing here blocks.  A request that had no reply when
 * its connection broke is sent again on the next one.
 */
#ifndef KARMA_NBD_TRANSMISSION_H
#define KARMA_NBD_TRANSMISSION_H

#include <pthread.h>

#include "karma/disk.h"
#include "karma/nbd.h"

#define NBD_SLOTS 128u	/* commands in flight at a time */

/* A command that was sent, or is being sent, and has no reply yet. */
struct nbd_slot {
	struct disk_request *request;	/* NULL: free */
	uint64_t cookie;
	bool sent;
};

struct nbd_transmission {
	pthread_mutex_t lock;	/* guards all that follows, but what is the I/O thread's own */
	int fd;			/* -1: not connected; only the I/O thread changes this and the export */
	struct nbd_export export;

	unsigned in_flight;	/* requests that were queued and not returned by nbd_take_completed() */
	uint64_t replies;	/* statistics: from the server */

	struct disk_request *first, **last;	/* queue of requests to send */
	size_t sent;		/* bytes of the first one */
	bool blocked;		/* the socket is full: send again when it is writable */
	struct disk_request *completed;		/* list, by next */

	struct nbd_slot slots[NBD_SLOTS];
	unsigned slots_used;
	uint32_t cookies;	/* the last one */

	/*
	 * Counts of writes that the server acknowledged, and of those of them that a flush covers.
	 */
	uint64_t acknowledged, flushed;
	bool lost_writes;	/* acknowledged writes may be lost, and no flush has failed for that yet */
	bool reporting_loss;	/* flushes that fail for it are among completed */

	/* The I/O thread's own: what is being received. */
	uint8_t header[NBD_REPLY_BYTES];
	size_t header_got;
	struct disk_request *reading;	/* the request whose data come next */
	size_t data_got;
};

void nbd_transmission_init(struct nbd_transmission *transmission);
void nbd_transmission_release(struct nbd_transmission *transmission);

/* --- With the lock held. */

/*
 * The I/O thread has a connection: fd is non-blocking, in transmission phase, and stays the
 * caller's, who closes it after nbd_transmission_disconnect().
 */
void nbd_transmission_connect(
	struct nbd_transmission *transmission, int fd, const struct nbd_export *export);
/* The I/O thread gives it up: requests in flight are queued again, in front of the others. */
void nbd_transmission_disconnect(struct nbd_transmission *transmission);

void nbd_queue(struct nbd_transmission *transmission, struct disk_request *request);
/* Send what is queued, as far as the socket has room. */
void nbd_send(struct nbd_transmission *transmission);
/* Complete all requests with an error; only while not connected. */
void nbd_fail_all(struct nbd_transmission *transmission, int error);

/*
 * The list of requests that completed, by next.  The caller calls done() of each with its error,
 * without the lock.
 */
struct disk_request *nbd_take_completed(struct nbd_transmission *transmission);

/* --- Without the lock. */

/*
 * The I/O thread receives what is there.  Returns NULL, or the reason, in words, why it has to
 * disconnect.
 */
const char *nbd_receive(struct nbd_transmission *transmission);

#endif
