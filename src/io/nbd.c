// SPDX-License-Identifier: GPL-2.0-only
/*
 * Disks that an NBD server has.
 *
 * Whoever starts requests sends them, without waiting; the I/O thread sends what found no room then,
 * takes the replies, and looks after the connection.  All of its work is in serve(), which does what
 * can be done, whatever it was called for.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "karma/disk.h"
#include "karma/log.h"
#include "karma/nbd_connector.h"
#include "karma/nbd_transmission.h"
#include "karma/util.h"

#define SECOND 1000000000ll
#define TIMEOUT_DEFAULT 60u		/* seconds */
#define GREETING_LIMIT (10 * SECOND)
#define HURRY_LIMIT (2 * SECOND)
#define TICK_NANOSECONDS 250000000ll	/* while there is something to wait for */
#define DELAY_MIN (SECOND / 4)		/* from one try to connect to the next */
#define DELAY_MAX (5 * SECOND)

enum nbd_state {
	AWAY,		/* no connection: the next try is at retry_at */
	CALLING,	/* the supervisor was asked for one */
	UP,
};

/* What the I/O thread is called for; armed has the lock. */
struct nbd_event {
	struct io_op op;
	struct nbd *nbd;
	bool armed;
};

struct nbd {
	struct disk disk;
	struct nbd_connector server;
	const char *path;	/* the options' */
	int64_t timeout;	/* ns */

	struct nbd_transmission transmission;	/* its lock is that of all that follows */
	enum nbd_state state;
	int64_t retry_at, delay;

	int64_t answered_at;	/* the last answer, or when there was the first request to answer */
	uint64_t answers;	/* by then */
	bool hurry, given_up;
	bool told_lost, told_refused;

	struct nbd_event readable, writable, woken, tick;
	struct __kernel_timespec tick_time;
};

static struct nbd *nbd_of(struct disk *disk)
{
	return container_of(disk, struct nbd, disk);
}

static void lock(struct nbd *nbd)
{
	pthread_mutex_lock(&nbd->transmission.lock);
}

static void unlock(struct nbd *nbd)
{
	pthread_mutex_unlock(&nbd->transmission.lock);
}

/* --- The connection, on the I/O thread, with the lock held. */

static unsigned timeout_seconds(const struct nbd *nbd)
{
	return nbd->timeout / SECOND;
}

static void try_later(struct nbd *nbd)
{
	nbd->state = AWAY;
	nbd->retry_at = nanoseconds() + nbd->delay;
	nbd->delay = nbd->delay * 2 < DELAY_MAX ? nbd->delay * 2 : DELAY_MAX;
}

/* Whoever polls it still learns of its end. */
static void end_connection(struct nbd *nbd)
{
	int fd = nbd->transmission.fd;

	if (fd < 0)
		return;
	nbd_break(&nbd->transmission);
	shutdown(fd, SHUT_RDWR);
	close(fd);
}

static void lose(struct nbd *nbd, const char *why)
{
	end_connection(nbd);
	try_later(nbd);
	if (!nbd->told_lost)
		note("disk %s: the server is lost (%s): requests wait for it, up to %u s", nbd->path,
			why, timeout_seconds(nbd));
	nbd->told_lost = true;
}

static void begin(struct nbd *nbd, int fd, const struct nbd_export *export)
{
	nbd_begin(&nbd->transmission, fd, export);
	nbd->state = UP;
	nbd->given_up = nbd->told_refused = false;
}

static void call(struct nbd *nbd)
{
	if (nanoseconds() < nbd->retry_at)
		return;
	nbd->state = CALLING;
	if (nbd_connector_request(&nbd->server) < 0)
		try_later(nbd);
}

static void hear(struct nbd *nbd)
{
	struct nbd_connection_reply answer;
	int result = nbd_connector_receive(&nbd->server, &answer);

	if (result == -EAGAIN)
		return;
	if (result >= 0) {
		begin(nbd, result, &answer.export);
		return;
	}
	if (result == -ESTALE && !nbd->told_refused)
		note("disk %s: the server is not taken back, since %s: have it served as it was",
			nbd->path, answer.problem);
	nbd->told_refused = nbd->told_refused || result == -ESTALE;
	try_later(nbd);
}

/* It is back when it has answered: one that closes each connection at once is not. */
static void look_at_answers(struct nbd *nbd)
{
	if (nbd->answers == nbd->transmission.answers)
		return;
	nbd->answers = nbd->transmission.answers;
	nbd->answered_at = nanoseconds();
	nbd->delay = DELAY_MIN;
	if (nbd->told_lost)
		note("disk %s: the server is back", nbd->path);
	nbd->told_lost = false;
}

static void tell_of_lost_writes(const struct nbd *nbd)
{
	if (nbd->transmission.telling)
		note("disk %s: what the lost server had acknowledged and not flushed may be gone: the "
		     "guest's flush fails",
			nbd->path);
}

static void give_up(struct nbd *nbd)
{
	bool told = nbd->given_up || nbd->hurry;

	/* The words below are those for it. */
	nbd->told_lost = true;
	/* In a hurry, the server need not be at fault: the next guest may wait for it again. */
	nbd->given_up = nbd->given_up || !nbd->hurry;
	if (nbd->state == UP)
		lose(nbd, "");
	if (!told)
		note("disk %s: no answer from the server for %u s: requests fail until it is back",
			nbd->path, timeout_seconds(nbd));
	nbd_fail_all(&nbd->transmission, -ETIMEDOUT);
}

static void look_at_clock(struct nbd *nbd)
{
	int64_t limit = nbd->hurry && HURRY_LIMIT < nbd->timeout ? HURRY_LIMIT : nbd->timeout;

	if (!nbd->transmission.waiting)
		return;
	if (nanoseconds() - nbd->answered_at > limit ||
		(nbd->state != UP && (nbd->given_up || nbd->hurry)))
		give_up(nbd);
}

/* If there is no room for it, the server does without. */
static void send_farewell(int fd)
{
	uint8_t bytes[NBD_REQUEST_BYTES];

	nbd_put_request(bytes, &(struct nbd_request){ .command = NBD_DISCONNECT });
	if (write_bytes(fd, bytes, sizeof(bytes)) < 0)
		return;
}

/* The guest has ended.  Only this process knows that no request was sent in part, since none waits. */
static void leave(struct nbd *nbd)
{
	nbd->hurry = false;
	if (nbd->state != UP)
		return;
	send_farewell(nbd->transmission.fd);
	end_connection(nbd);
	nbd->state = AWAY;
	nbd->retry_at = INT64_MAX;
}

/* --- Events. */

static void poll_for(struct nbd *nbd, struct nbd_event *event, int fd, unsigned events)
{
	if (event->armed)
		return;
	event->armed = true;
	io_ring_poll(nbd->disk.ring, &event->op, fd, events);
}

static void start_tick(struct nbd *nbd)
{
	if (nbd->tick.armed)
		return;
	nbd->tick.armed = true;
	nbd->tick_time.tv_nsec = TICK_NANOSECONDS;
	io_ring_timeout(nbd->disk.ring, &nbd->tick.op, &nbd->tick_time);
}

/* Have the I/O thread look. */
static void wake(struct nbd *nbd)
{
	if (nbd->woken.armed)
		return;
	nbd->woken.armed = true;
	io_ring_nop(nbd->disk.ring, &nbd->woken.op);
}

/* A poll that still is for a connection that was closed ends at once: see end_connection(). */
static void wait_for_events(struct nbd *nbd)
{
	int fd = nbd->transmission.fd;

	if (nbd->state != AWAY)
		poll_for(nbd, &nbd->readable, nbd->state == UP ? fd : nbd->server.sockets[1], POLLIN);
	if (nbd->transmission.blocked)
		poll_for(nbd, &nbd->writable, fd, POLLOUT);
	if (nbd->transmission.waiting || nbd->state != UP)
		start_tick(nbd);
}

static void serve(struct nbd *nbd)
{
	const char *why = nbd->state == UP ? nbd_receive(&nbd->transmission) : NULL;
	struct disk_request *ended;

	lock(nbd);
	look_at_answers(nbd);
	if (why)
		lose(nbd, why);
	if (nbd->state == AWAY)
		call(nbd);
	if (nbd->state == CALLING)
		hear(nbd);
	nbd_send(&nbd->transmission);
	look_at_clock(nbd);
	tell_of_lost_writes(nbd);
	ended = nbd_take_ended(&nbd->transmission);
	if (nbd->hurry && !nbd->transmission.waiting)
		leave(nbd);
	wait_for_events(nbd);
	unlock(nbd);
	while (ended) {
		struct disk_request *next = ended->next;

		ended->done(ended, ended->error);
		ended = next;
	}
}

static void serve_event(struct io_op *op, int result)
{
	struct nbd_event *event = container_of(op, struct nbd_event, op);

	(void)result;
	lock(event->nbd);
	event->armed = false;
	unlock(event->nbd);
	serve(event->nbd);
}

/* --- The backend's functions. */

static void nbd_submit(struct disk *disk, struct disk_request *request)
{
	struct nbd *nbd = nbd_of(disk);

	lock(nbd);
	if (!nbd->transmission.waiting)
		nbd->answered_at = nanoseconds();
	nbd_queue(&nbd->transmission, request);
	unlock(nbd);
}

static void nbd_kick(struct disk *disk)
{
	struct nbd *nbd = nbd_of(disk);
	struct nbd_transmission *transmission = &nbd->transmission;

	lock(nbd);
	/* If the socket is full, the I/O thread goes on as soon as it is not. */
	if (transmission->first && !nbd->writable.armed) {
		nbd_send(transmission);
		start_tick(nbd);
		if (transmission->ended || transmission->blocked || nbd->given_up)
			wake(nbd);
	}
	unlock(nbd);
	io_ring_submit(disk->ring);
}

/* That of the last connection: a server tells it once only. */
static int nbd_measure(struct disk *disk, uint64_t *size)
{
	struct nbd *nbd = nbd_of(disk);

	lock(nbd);
	*size = nbd->transmission.export.size;
	unlock(nbd);
	return 0;
}

static void nbd_end(struct disk *disk)
{
	struct nbd *nbd = nbd_of(disk);

	lock(nbd);
	nbd->hurry = true;
	wake(nbd);
	unlock(nbd);
	io_ring_submit(disk->ring);
}

static void nbd_close(struct disk *disk)
{
	struct nbd *nbd = nbd_of(disk);

	end_connection(nbd);
	nbd_connector_release(&nbd->server);
	nbd_transmission_release(&nbd->transmission);
	free(nbd);
}

/* --- The start, on its thread alone. */

static int take_export(struct nbd *nbd, const struct disk_options *options)
{
	const struct nbd_export *export = &nbd->transmission.export;
	struct disk *disk = &nbd->disk;

	if ((export->flags & NBD_READ_ONLY) && !options->read_only)
		return fail(-EROFS, "disk %s: the server lets nobody write to it: add `,ro`",
			options->path);
	if (!export->size)
		return fail(-EINVAL, "disk %s: is empty: give the server's export a size", options->path);
	if (export->size < export->block_min)
		return fail(-EINVAL, "disk %s: has %llu bytes, less than a block of %u: give the server's "
				     "export a size",
			options->path, (unsigned long long)export->size, export->block_min);
	nbd->server.export = *export;
	nbd->server.read_only = options->read_only;
	disk->size = export->size;
	disk->block_size = export->block_min;
	disk->physical_block_size = export->block_preferred;
	disk->read_only = options->read_only;
	disk->discard_alignment = disk->physical_block_size;
	disk->discard = export->flags & NBD_SEND_TRIM;
	disk->write_zeroes = export->flags & NBD_SEND_WRITE_ZEROES;
	disk_truncate_to_blocks(disk, options->path);
	return 0;
}

/*
 * The process that had the connection may have lost it, and found another that ended with it.  What it
 * had been told and not flushed, nobody knows any more; its guest has ended.
 */
static int connect_again(struct nbd *nbd)
{
	struct pollfd answered = { .fd = nbd->server.sockets[1], .events = POLLIN };
	struct nbd_connection_reply answer;
	int result = nbd_connector_request(&nbd->server);

	if (result == 0)
		result = -EAGAIN;
	while (result == -EAGAIN) {
		poll(&answered, 1, -1);
		result = nbd_connector_receive(&nbd->server, &answer);
	}
	if (result < 0)
		return fail(result, "disk %s: %s%s", nbd->path,
			answer.problem[0] ? answer.problem : strerror(-result),
			result == -ESTALE ? ": have it served as it was" : "");
	begin(nbd, result, &answer.export);
	return 0;
}

static int nbd_start(struct disk *disk, bool again)
{
	struct nbd *nbd = nbd_of(disk);
	int result;

	if (again) {
		end_connection(nbd);
		result = connect_again(nbd);
		if (result < 0)
			return result;
	}
	/* Before there is a request: the server may be lost by then. */
	wait_for_events(nbd);
	io_ring_submit(disk->ring);
	return 0;
}

static const struct disk_backend nbd_backend = {
	.start = nbd_start,
	.submit = nbd_submit,
	.kick = nbd_kick,
	.measure = nbd_measure,
	.end = nbd_end,
	.close = nbd_close,
};

static int connect_first(struct nbd *nbd)
{
	struct nbd_connection *link = &nbd->server.link;
	int result = nbd_connector_connect(&nbd->server);

	if (result < 0)
		return fail(result, "disk %s: %s", nbd->path, link->greeting.problem);
	begin(nbd, link->fd, &link->greeting.export);
	link->fd = -1;
	return 0;
}

static struct nbd *make(const struct disk_options *options, struct io_ring *ring)
{
	struct nbd *nbd = calloc(1, sizeof(*nbd));
	struct nbd_event *events[] = { &nbd->readable, &nbd->writable, &nbd->woken, &nbd->tick };

	if (!nbd)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		events[i]->op.done = serve_event;
		events[i]->nbd = nbd;
	}
	nbd->disk.backend = &nbd_backend;
	nbd->disk.ring = ring;
	nbd->path = options->path;
	nbd->timeout = (options->timeout ? options->timeout : TIMEOUT_DEFAULT) * SECOND;
	nbd->delay = DELAY_MIN;
	nbd->server.limit = nbd->timeout < GREETING_LIMIT ? nbd->timeout : GREETING_LIMIT;
	nbd_connector_init(&nbd->server);
	nbd_transmission_init(&nbd->transmission);
	return nbd;
}

int nbd_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring)
{
	struct nbd *nbd = make(options, ring);
	int result;

	if (!nbd)
		return fail(-ENOMEM, "disk %s: out of memory", options->path);
	result = nbd_parse_address(options->path, &nbd->server.address);
	if (result == 0)
		result = nbd_connector_register(&nbd->server);
	if (result == 0)
		result = connect_first(nbd);
	if (result == 0)
		result = take_export(nbd, options);
	if (result < 0) {
		nbd_close(&nbd->disk);
		return result;
	}
	*disk = &nbd->disk;
	return 0;
}
