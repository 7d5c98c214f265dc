// SPDX-License-Identifier: GPL-2.0-only
/*
 * passt, a program that gives a guest the network of an ordinary user of the host: the backend.
 * Karma starts it with one end of a socket pair; it ends when the other end is closed, however
 * Karma ends.
 *
 * On the socket each frame follows its length, of 4 bytes, most significant first.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "karma/iov.h"
#include "karma/log.h"
#include "passt.h"

#define BATCHED_BYTES 2048u		/* frames up to that are buffered, to be sent together */

static struct passt *passt_of(struct net *net)
{
	return container_of(net, struct passt, net);
}

/* --- Receiving. */

/* The length of the next frame, 0 if the buffer does not have all of it, or -EPROTO. */
static ssize_t next_frame(const struct passt *passt)
{
	size_t have = passt->shared->in_end - passt->shared->in_start;
	uint32_t length;

	if (have < PASST_LENGTH_BYTES)
		return 0;
	memcpy(&length, passt->shared->in + passt->shared->in_start, PASST_LENGTH_BYTES);
	length = ntohl(length);
	if (length < ETH_HLEN || length > NET_FRAME_MAX)
		return -EPROTO;
	return have - PASST_LENGTH_BYTES >= length ? length : 0;
}

static bool passt_pending(const struct net *net, unsigned queue)
{
	(void)queue;
	return next_frame(container_of(net, struct passt, net)) > 0;
}

/* Move what is left to the buffer's front, and read more from the socket. */
static ssize_t fill_buffer(struct passt *passt)
{
	ssize_t got;

	passt->shared->in_end -= passt->shared->in_start;
	memmove(passt->shared->in, passt->shared->in + passt->shared->in_start, passt->shared->in_end);
	passt->shared->in_start = 0;
	got = read_bytes(passt->net.queues[0].fd, passt->shared->in + passt->shared->in_end,
		PASST_BUFFER_BYTES - passt->shared->in_end);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -errno;
	passt->shared->in_end += got;
	return got ? got : -EPIPE;
}

static ssize_t passt_receive(
	struct net *net, unsigned queue, const struct iovec *iov, unsigned count)
{
	/* No offloads: its frames have their checksums, and are no longer than the MTU. */
	static const uint8_t header[NET_HEADER_BYTES];
	struct passt *passt = passt_of(net);
	ssize_t length, got = 0;

	(void)queue;
	while ((length = next_frame(passt)) == 0 && (got = fill_buffer(passt)) > 0)
		;
	if (length == 0 && got == -EAGAIN)
		return -EAGAIN;
	if (length <= 0) {
		net_set_gone(net);
		return -EPIPE;
	}
	iov_write(iov, count, 0, header, sizeof(header));
	iov_write(iov, count, sizeof(header), passt->shared->in + passt->shared->in_start + PASST_LENGTH_BYTES, length);
	passt->shared->in_start += PASST_LENGTH_BYTES + length;
	return sizeof(header) + length;
}

/* --- Sending. */

static size_t unsent(const struct passt *passt)
{
	return passt->shared->out_end - passt->shared->out_start;
}

static int send_error(struct net *net, int error)
{
	if (error == EAGAIN || error == EINTR)
		return -EAGAIN;
	net_set_gone(net);
	return -error;
}

static int passt_flush(struct net *net, unsigned queue)
{
	struct passt *passt = passt_of(net);

	(void)queue;
	while (unsent(passt)) {
		ssize_t sent = write_bytes(net->queues[0].fd, passt->shared->out + passt->shared->out_start, unsent(passt));

		if (sent < 0)
			return send_error(net, errno);
		passt->shared->out_start += sent;
	}
	passt->shared->out_start = passt->shared->out_end = 0;
	return 0;
}

static void append_out(struct passt *passt, const struct iovec *iov, unsigned count, size_t length)
{
	passt->shared->out_end += iov_read(iov, count, 0, passt->shared->out + passt->shared->out_end, length);
}

/* Send a list that begins with a frame's length.  What the socket has no room for is buffered. */
static int send_now(struct passt *passt, struct iovec *iov, unsigned count, size_t length)
{
	ssize_t sent = write_list(passt->net.queues[0].fd, iov, count);

	if (sent < 0)
		return send_error(&passt->net, errno);
	if ((size_t)sent < length) {
		count = iov_skip(&iov, count, sent);
		append_out(passt, iov, count, length - sent);
	}
	return 0;
}

static int passt_send(struct net *net, unsigned queue, struct iovec *iov, unsigned count)
{
	struct passt *passt = passt_of(net);
	const struct iovec header = iov[0];
	size_t length = PASST_LENGTH_BYTES;
	uint32_t prefix;
	int result;

	for (unsigned i = 1; i < count; i++)
		length += iov[i].iov_len;
	prefix = htonl(length - PASST_LENGTH_BYTES);
	/* In place of the header, which is empty without offloads. */
	iov[0] = (struct iovec){ &prefix, PASST_LENGTH_BYTES };
	if (length <= BATCHED_BYTES && PASST_BUFFER_BYTES - passt->shared->out_end >= length) {
		append_out(passt, iov, count, length);
		result = 0;
	} else {
		result = passt_flush(net, queue);
		if (result == 0)
			result = send_now(passt, iov, count, length);
	}
	iov[0] = header;
	return result;
}

/* --- The life cycle. */

/* In the guest's process.  passt is the supervisor's child, which reaps it at the end. */
static void passt_gone(struct net *net)
{
	char message[256];

	passt_last_message(passt_of(net), message, sizeof(message));
	note("passt has ended (%s): the guest's link is down until it is started anew by another karma run",
		message);
}

/*
 * Positions that cannot be come from a guest that has broken out: drop the buffers, and with them
 * the stream.
 */
static int passt_start(struct net *net, bool again)
{
	struct passt_shared *shared = passt_of(net)->shared;

	(void)again;
	if (shared->in_start > shared->in_end || shared->in_end > PASST_BUFFER_BYTES)
		shared->in_start = shared->in_end = 0;
	if (shared->out_start > shared->out_end || shared->out_end > PASST_BUFFER_BYTES)
		shared->out_start = shared->out_end = 0;
	return 0;
}

static void passt_close(struct net *net)
{
	struct passt *passt = passt_of(net);
	char how[32];

	close_fd(&net->queues[0].fd);
	if (passt->pid)
		passt_reap(passt, how, sizeof(how));
	close_fd(&passt->stderr_fd);
	if (passt->shared)
		munmap(passt->shared, sizeof(*passt->shared));
	free(passt);
}

static const struct net_ops passt_ops = {
	.start = passt_start,
	.receive = passt_receive,
	.pending = passt_pending,
	.send = passt_send,
	.flush = passt_flush,
	.gone = passt_gone,
	.close = passt_close,
};

int passt_open(struct net **net, const struct net_options *options, struct io_ring *ring)
{
	struct passt *passt = calloc(1, sizeof(*passt));
	int result;

	if (!passt)
		return fail(-ENOMEM, "--net user: out of memory");
	net_init(&passt->net, &passt_ops, ring);
	passt->net.queue_count = 1;
	snprintf(passt->net.name, sizeof(passt->net.name), "passt");
	passt->stderr_fd = -1;
	passt->shared = mmap(NULL, sizeof(*passt->shared), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (passt->shared == MAP_FAILED)
		passt->shared = NULL;
	result = passt->shared ? passt_spawn(passt, options) : -ENOMEM;
	if (result < 0) {
		passt_close(&passt->net);
		if (result == -ENOENT)
			return fail(result, "--net user: there is no passt: `apt-get install passt`, or give "
					    "--net tap=NAME");
		if (result == -ECONNREFUSED)
			return result;
		return fail(result, "--net user: can't start passt: %s", strerror(-result));
	}
	passt->net.mtu = 65520;	/* what passt tells guests by DHCP */
	passt->net.up = true;
	*net = &passt->net;
	return 0;
}
