// SPDX-License-Identifier: GPL-2.0-only
/*
 * Disks on NBD servers: the backend.  A thread that starts requests sends them without blocking;
 * all else is done by the session (nbd_session.c), on the I/O thread.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "karma/log.h"
#include "karma/util.h"
#include "nbd_session.h"

#define TIMEOUT_DEFAULT 60u			/* seconds */
#define HANDSHAKE_TIMEOUT (10 * SECOND)

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

/* --- Requests. */

static void nbd_submit(struct disk *disk, struct disk_request *request)
{
	struct nbd *nbd = nbd_of(disk);

	lock(nbd);
	if (!nbd->transmission.in_flight)
		nbd->replied_at = nanoseconds();
	nbd_queue(&nbd->transmission, request);
	unlock(nbd);
}

static void nbd_kick(struct disk *disk)
{
	struct nbd *nbd = nbd_of(disk);
	struct nbd_transmission *transmission = &nbd->transmission;

	lock(nbd);
	/* While the socket is full, the I/O thread waits for room, and then sends. */
	if (transmission->first && !nbd->writable.armed) {
		nbd_send(transmission);
		nbd_session_start_tick(nbd);
		if (transmission->completed || transmission->blocked || nbd->timed_out)
			nbd_session_schedule(nbd);
	}
	unlock(nbd);
	io_ring_submit(disk->ring);
}

/* --- The life cycle. */

/* The size by the last handshake: a server does not tell of a change. */
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
	nbd->ending = true;
	nbd_session_schedule(nbd);
	unlock(nbd);
	io_ring_submit(disk->ring);
}

static void nbd_close(struct disk *disk)
{
	struct nbd *nbd = nbd_of(disk);

	nbd_session_disconnect(nbd);
	nbd_connector_release(&nbd->connector);
	nbd_transmission_release(&nbd->transmission);
	free(nbd);
}

/*
 * The earlier guest's process may have lost its connection, and made another that ended with it.
 * Whether writes were lost then is not known here, and does not matter to the next guest.
 */
static int reconnect(struct nbd *nbd)
{
	struct pollfd replied = { .fd = nbd->connector.sockets[1], .events = POLLIN };
	struct nbd_connection_reply reply;
	int result = nbd_connector_request(&nbd->connector);

	if (result == 0)
		result = -EAGAIN;
	while (result == -EAGAIN) {
		poll(&replied, 1, -1);
		result = nbd_connector_receive(&nbd->connector, &reply);
	}
	if (result < 0)
		return fail(result, "disk %s: %s%s", nbd->path,
			reply.problem[0] ? reply.problem : strerror(-result),
			result == -ESTALE ? ": have it served as it was" : "");
	nbd_session_connect(nbd, result, &reply.export);
	return 0;
}

static int nbd_start(struct disk *disk, bool again)
{
	struct nbd *nbd = nbd_of(disk);
	int result;

	if (again) {
		nbd_session_disconnect(nbd);
		result = reconnect(nbd);
		if (result < 0)
			return result;
	}
	/* Not only with the first request: the server may be lost by then. */
	nbd_session_arm_events(nbd);
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

/* --- Opening. */

static int set_geometry(struct nbd *nbd, const struct disk_options *options)
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
	nbd->connector.export = *export;
	nbd->connector.read_only = options->read_only;
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

static int connect_first(struct nbd *nbd)
{
	struct nbd_connection *connection = &nbd->connector.connection;
	int result = nbd_connector_connect(&nbd->connector);

	if (result < 0)
		return fail(result, "disk %s: %s", nbd->path, connection->handshake.problem);
	nbd_session_connect(nbd, connection->fd, &connection->handshake.export);
	connection->fd = -1;
	return 0;
}

static struct nbd *create(const struct disk_options *options, struct io_ring *ring)
{
	struct nbd *nbd = calloc(1, sizeof(*nbd));

	if (!nbd)
		return NULL;
	nbd_session_init(nbd);
	nbd->disk.backend = &nbd_backend;
	nbd->disk.ring = ring;
	nbd->path = options->path;
	nbd->timeout = (options->timeout ? options->timeout : TIMEOUT_DEFAULT) * SECOND;
	nbd->connector.limit = nbd->timeout < HANDSHAKE_TIMEOUT ? nbd->timeout : HANDSHAKE_TIMEOUT;
	nbd_connector_init(&nbd->connector);
	nbd_transmission_init(&nbd->transmission);
	return nbd;
}

int nbd_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring)
{
	struct nbd *nbd = create(options, ring);
	int result;

	if (!nbd)
		return fail(-ENOMEM, "disk %s: out of memory", options->path);
	result = nbd_parse_address(options->path, &nbd->connector.address);
	if (result == 0)
		result = nbd_connector_register(&nbd->connector);
	if (result == 0)
		result = connect_first(nbd);
	if (result == 0)
		result = set_geometry(nbd, options);
	if (result < 0) {
		nbd_close(&nbd->disk);
		return result;
	}
	*disk = &nbd->disk;
	return 0;
}
