// SPDX-License-Identifier: GPL-2.0-only
/*
 * NBD: the session of a disk.  The I/O thread receives replies, sends what found no room in the
 * socket, and reconnects when the server was lost.  It does all of that in serve(), whichever event
 * it was called for: each step does what can be done now, without blocking.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "karma/log.h"
#include "karma/util.h"
#include "nbd_session.h"

#define END_TIMEOUT (2 * SECOND)
#define TICK_NANOSECONDS 250000000ll
#define RETRY_DELAY_MIN (SECOND / 4)
#define RETRY_DELAY_MAX (5 * SECOND)

static void lock(struct nbd *nbd)
{
	pthread_mutex_lock(&nbd->transmission.lock);
}

static void unlock(struct nbd *nbd)
{
	pthread_mutex_unlock(&nbd->transmission.lock);
}

static unsigned timeout_seconds(const struct nbd *nbd)
{
	return nbd->timeout / SECOND;
}

/* --- The connection.  With the lock held, as all functions below but serve(). */

void nbd_session_connect(struct nbd *nbd, int fd, const struct nbd_export *export)
{
	nbd_transmission_connect(&nbd->transmission, fd, export);
	nbd->state = CONNECTED;
	nbd->timed_out = nbd->refusal_noted = false;
}

void nbd_session_disconnect(struct nbd *nbd)
{
	int fd = nbd->transmission.fd;

	if (fd < 0)
		return;
	nbd_transmission_disconnect(&nbd->transmission);
	/* Completes polls of it that are in flight. */
	shutdown(fd, SHUT_RDWR);
	close(fd);
}

static void schedule_retry(struct nbd *nbd)
{
	nbd->state = DISCONNECTED;
	nbd->retry_at = nanoseconds() + nbd->retry_delay;
	nbd->retry_delay = nbd->retry_delay * 2 < RETRY_DELAY_MAX ? nbd->retry_delay * 2 : RETRY_DELAY_MAX;
}

static void lose_server(struct nbd *nbd, const char *why)
{
	nbd_session_disconnect(nbd);
	schedule_retry(nbd);
	if (!nbd->loss_noted)
		note("disk %s: the server is lost (%s): requests wait for it, up to %u s", nbd->path,
			why, timeout_seconds(nbd));
	nbd->loss_noted = true;
}

static void request_connection(struct nbd *nbd)
{
	if (nanoseconds() < nbd->retry_at)
		return;
	nbd->state = CONNECTING;
	if (nbd_connector_request(&nbd->connector) < 0)
		schedule_retry(nbd);
}

static void receive_connection(struct nbd *nbd)
{
	struct nbd_connection_reply reply;
	int result = nbd_connector_receive(&nbd->connector, &reply);

	if (result == -EAGAIN)
		return;
	if (result >= 0) {
		nbd_session_connect(nbd, result, &reply.export);
		return;
	}
	if (result == -ESTALE && !nbd->refusal_noted)
		note("disk %s: the server is not taken back, since %s: have it served as it was",
			nbd->path, reply.problem);
	nbd->refusal_noted = nbd->refusal_noted || result == -ESTALE;
	schedule_retry(nbd);
}

/* The first reply shows that the server is back: one that closes each connection at once is not. */
static void note_replies(struct nbd *nbd)
{
	if (nbd->replies == nbd->transmission.replies)
		return;
	nbd->replies = nbd->transmission.replies;
	nbd->replied_at = nanoseconds();
	nbd->retry_delay = RETRY_DELAY_MIN;
	if (nbd->loss_noted)
		note("disk %s: the server is back", nbd->path);
	nbd->loss_noted = false;
}

static void note_lost_writes(const struct nbd *nbd)
{
	if (nbd->transmission.reporting_loss)
		note("disk %s: what the lost server had acknowledged and not flushed may be gone: the "
		     "guest's flush fails",
			nbd->path);
}

/* --- Timeouts, and the guest's end. */

static void fail_requests(struct nbd *nbd)
{
	bool noted = nbd->timed_out || nbd->ending;

	/* The message below is the one for this loss. */
	nbd->loss_noted = true;
	/* At the guest's end the server need not be at fault: the next guest waits for it again. */
	nbd->timed_out = nbd->timed_out || !nbd->ending;
	if (nbd->state == CONNECTED)
		lose_server(nbd, "");
	if (!noted)
		note("disk %s: no answer from the server for %u s: requests fail until it is back",
			nbd->path, timeout_seconds(nbd));
	nbd_fail_all(&nbd->transmission, -ETIMEDOUT);
}

static void check_timeout(struct nbd *nbd)
{
	int64_t limit = nbd->ending && END_TIMEOUT < nbd->timeout ? END_TIMEOUT : nbd->timeout;

	if (!nbd->transmission.in_flight)
		return;
	if (nanoseconds() - nbd->replied_at > limit ||
		(nbd->state != CONNECTED && (nbd->timed_out || nbd->ending)))
		fail_requests(nbd);
}

/* If the socket has no room for it, the server sees the connection close instead. */
static void send_disconnect(int fd)
{
	uint8_t bytes[NBD_REQUEST_BYTES];

	nbd_put_request(bytes, &(struct nbd_request){ .command = NBD_DISCONNECT });
	if (write_bytes(fd, bytes, sizeof(bytes)) < 0)
		return;
}

/*
 * The guest has ended and no request is in flight.  Only this process knows that no request was
 * sent in part, so that a command may follow.
 */
static void end_session(struct nbd *nbd)
{
	nbd->ending = false;
	if (nbd->state != CONNECTED)
		return;
	send_disconnect(nbd->transmission.fd);
	nbd_session_disconnect(nbd);
	nbd->state = DISCONNECTED;
	nbd->retry_at = INT64_MAX;
}

/* --- Events. */

static void arm_poll(struct nbd *nbd, struct nbd_event *event, int fd, unsigned events)
{
	if (event->armed)
		return;
	event->armed = true;
	io_ring_poll(nbd->disk.ring, &event->op, fd, events);
}

void nbd_session_start_tick(struct nbd *nbd)
{
	if (nbd->tick.armed)
		return;
	nbd->tick.armed = true;
	nbd->tick_time.tv_nsec = TICK_NANOSECONDS;
	io_ring_timeout(nbd->disk.ring, &nbd->tick.op, &nbd->tick_time);
}

void nbd_session_schedule(struct nbd *nbd)
{
	if (nbd->scheduled.armed)
		return;
	nbd->scheduled.armed = true;
	io_ring_nop(nbd->disk.ring, &nbd->scheduled.op);
}

/*
 * A poll of an earlier connection that is still armed completes at once: see
 * nbd_session_disconnect().
 */
void nbd_session_arm_events(struct nbd *nbd)
{
	int fd = nbd->transmission.fd;

	if (nbd->state != DISCONNECTED)
		arm_poll(nbd, &nbd->readable, nbd->state == CONNECTED ? fd : nbd->connector.sockets[1],
			POLLIN);
	if (nbd->transmission.blocked)
		arm_poll(nbd, &nbd->writable, fd, POLLOUT);
	if (nbd->transmission.in_flight || nbd->state != CONNECTED)
		nbd_session_start_tick(nbd);
}

/* On the I/O thread, without the lock. */
static void serve(struct nbd *nbd)
{
	const char *why = nbd->state == CONNECTED ? nbd_receive(&nbd->transmission) : NULL;
	struct disk_request *completed;

	lock(nbd);
	note_replies(nbd);
	if (why)
		lose_server(nbd, why);
	if (nbd->state == DISCONNECTED)
		request_connection(nbd);
	if (nbd->state == CONNECTING)
		receive_connection(nbd);
	nbd_send(&nbd->transmission);
	check_timeout(nbd);
	note_lost_writes(nbd);
	completed = nbd_take_completed(&nbd->transmission);
	if (nbd->ending && !nbd->transmission.in_flight)
		end_session(nbd);
	nbd_session_arm_events(nbd);
	unlock(nbd);
	while (completed) {
		struct disk_request *next = completed->next;

		completed->done(completed, completed->error);
		completed = next;
	}
}

static void event_done(struct io_op *op, int result)
{
	struct nbd_event *event = container_of(op, struct nbd_event, op);

	(void)result;
	lock(event->nbd);
	event->armed = false;
	unlock(event->nbd);
	serve(event->nbd);
}

void nbd_session_init(struct nbd *nbd)
{
	struct nbd_event *events[] = { &nbd->readable, &nbd->writable, &nbd->scheduled, &nbd->tick };

	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		events[i]->op.done = event_done;
		events[i]->nbd = nbd;
	}
	nbd->retry_delay = RETRY_DELAY_MIN;
}
