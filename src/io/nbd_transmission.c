// SPDX-License-Identifier: GPL-2.0-only
/*
 * NBD: the transmission phase.  A request is one command, or several in turn if it is larger than
 * the server takes; each command in flight has a slot.
 */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "karma/iov.h"
#include "karma/nbd_transmission.h"
#include "karma/util.h"

#define BATCH_REQUESTS 32u		/* that one system call sends, at most */
#define BATCH_BUFFERS 128u

/* --- Requests, commands and slots. */

static bool has_data(const struct disk_request *request)
{
	return request->operation == DISK_READ || request->operation == DISK_WRITE;
}

static uint32_t command_length(const struct nbd_transmission *nbd, const struct disk_request *request)
{
	return request->length < nbd->export.request_max ? request->length
							 : nbd->export.request_max;
}

static size_t message_length(const struct nbd_transmission *nbd, const struct disk_request *request)
{
	return NBD_REQUEST_BYTES +
		(request->operation == DISK_WRITE ? command_length(nbd, request) : 0);
}

static void append(struct nbd_transmission *nbd, struct disk_request *request)
{
	request->next = NULL;
	request->slot = NBD_SLOTS;
	*nbd->last = request;
	nbd->last = &request->next;
}

void nbd_queue(struct nbd_transmission *nbd, struct disk_request *request)
{
	nbd->in_flight++;
	append(nbd, request);
}

static struct disk_request *take_first(struct nbd_transmission *nbd)
{
	struct disk_request *request = nbd->first;

	nbd->first = request->next;
	if (!nbd->first)
		nbd->last = &nbd->first;
	nbd->sent = 0;
	return request;
}

static void complete(struct nbd_transmission *nbd, struct disk_request *request, int error)
{
	request->error = error;
	request->next = nbd->completed;
	nbd->completed = request;
}

void nbd_fail_all(struct nbd_transmission *nbd, int error)
{
	while (nbd->first)
		complete(nbd, take_first(nbd), error);
}

struct disk_request *nbd_take_completed(struct nbd_transmission *nbd)
{
	struct disk_request *completed = nbd->completed;

	nbd->completed = NULL;
	for (struct disk_request *request = completed; request; request = request->next)
		nbd->in_flight--;
	/* All flushes that were queued by now have failed for it. */
	if (nbd->reporting_loss)
		nbd->lost_writes = nbd->reporting_loss = false;
	return completed;
}

static void release_slot(struct nbd_transmission *nbd, struct disk_request *request)
{
	if (request->slot == NBD_SLOTS)
		return;
	nbd->slots[request->slot].request = NULL;
	nbd->slots_used--;
	request->slot = NBD_SLOTS;
}

static bool allocate_slot(struct nbd_transmission *nbd, struct disk_request *request)
{
	if (request->slot < NBD_SLOTS)
		return true;
	if (nbd->slots_used == NBD_SLOTS)
		return false;
	for (unsigned i = 0; i < NBD_SLOTS; i++) {
		/* The slot behind the last one that was taken is mostly free. */
		unsigned slot = (nbd->cookies + 1 + i) % NBD_SLOTS;

		if (nbd->slots[slot].request)
			continue;
		nbd->cookies++;
		nbd->slots[slot] = (struct nbd_slot){ request, (uint64_t)nbd->cookies << 32 | slot, false };
		nbd->slots_used++;
		request->slot = slot;
		return true;
	}
	return false;
}

/* --- Sending. */

/*
 * Whether a request completes without the server, and with which error.  A flush must fail if
 * acknowledged writes may be lost, since their server was lost before it had flushed them: so all
 * flushes do that are queued by then, once.  A request that the server does not support is not
 * sent.
 */
static bool completes_locally(
	const struct nbd_transmission *nbd, const struct disk_request *request, int *error)
{
	*error = -EOPNOTSUPP;
	switch (request->operation) {
	case DISK_FLUSH:
		*error = nbd->lost_writes ? -EIO : 0;
		return nbd->lost_writes || !(nbd->export.flags & NBD_SEND_FLUSH);
	case DISK_DISCARD:
		return !(nbd->export.flags & NBD_SEND_TRIM);
	case DISK_WRITE_ZEROES:
		return !(nbd->export.flags & NBD_SEND_WRITE_ZEROES);
	default:
		return false;
	}
}

static void put_header(struct nbd_transmission *nbd, struct disk_request *request, uint8_t *header)
{
	static const uint16_t commands[] = {
		[DISK_READ] = NBD_READ,
		[DISK_WRITE] = NBD_WRITE,
		[DISK_FLUSH] = NBD_FLUSH,
		[DISK_DISCARD] = NBD_TRIM,
		[DISK_WRITE_ZEROES] = NBD_WRITE_ZEROES,
	};
	bool keep = request->operation == DISK_WRITE_ZEROES && !request->unmap;

	/* It covers the writes that were acknowledged by now. */
	if (request->operation == DISK_FLUSH)
		request->covers = nbd->acknowledged;
	nbd_put_request(header,
		&(struct nbd_request){
			.flags = keep ? NBD_NO_HOLE : 0,
			.command = commands[request->operation],
			.cookie = nbd->slots[request->slot].cookie,
			.offset = request->offset,
			.length = command_length(nbd, request),
		});
}

struct batch {
	uint8_t headers[BATCH_REQUESTS][NBD_REQUEST_BYTES];
	struct iovec iov[BATCH_BUFFERS];
	unsigned count;
};

/*
 * From the front of the queue: what is not sent of the first request, and the next ones, as far as
 * there is room.
 */
static void fill_batch(struct nbd_transmission *nbd, struct batch *batch)
{
	struct disk_request *request = nbd->first;
	size_t skip = nbd->sent;
	int error;

	batch->count = 0;
	for (unsigned i = 0; request && i < BATCH_REQUESTS && batch->count < BATCH_BUFFERS; i++) {
		size_t header_left = skip < NBD_REQUEST_BYTES ? NBD_REQUEST_BYTES - skip : 0;

		if (completes_locally(nbd, request, &error) || !allocate_slot(nbd, request))
			return;
		if (header_left) {
			put_header(nbd, request, batch->headers[i]);
			batch->iov[batch->count++] =
				(struct iovec){ batch->headers[i] + skip, header_left };
			skip = 0;
		} else {
			skip -= NBD_REQUEST_BYTES;
		}
		if (request->operation == DISK_WRITE)
			batch->count += iov_slice(request->iov, request->iov_count, skip,
				command_length(nbd, request) - skip, batch->iov + batch->count,
				BATCH_BUFFERS - batch->count);
		skip = 0;
		request = request->next;
	}
}

static void account_sent(struct nbd_transmission *nbd, size_t bytes)
{
	nbd->sent += bytes;
	while (nbd->first && nbd->sent >= message_length(nbd, nbd->first)) {
		size_t rest = nbd->sent - message_length(nbd, nbd->first);

		nbd->slots[take_first(nbd)->slot].sent = true;
		nbd->sent = rest;
	}
}

static void complete_locally(struct nbd_transmission *nbd)
{
	int error;

	while (nbd->first && nbd->sent == 0 && completes_locally(nbd, nbd->first, &error)) {
		struct disk_request *request = take_first(nbd);

		release_slot(nbd, request);
		complete(nbd, request, error);
		if (request->operation == DISK_FLUSH && error)
			nbd->reporting_loss = true;
	}
}

void nbd_send(struct nbd_transmission *nbd)
{
	struct batch batch;

	nbd->blocked = false;
	while (nbd->fd >= 0) {
		ssize_t count;

		complete_locally(nbd);
		fill_batch(nbd, &batch);
		if (!batch.count)
			return;
		count = write_list(nbd->fd, batch.iov, batch.count);
		if (count >= 0) {
			account_sent(nbd, count);
		} else if (errno == EAGAIN) {
			nbd->blocked = true;
			return;
		} else if (errno != EINTR) {
			/*
			 * The I/O thread disconnects, after it has received what the server still
			 * sent.
			 */
			shutdown(nbd->fd, SHUT_RDWR);
			return;
		}
	}
}

/* --- Connections. */

void nbd_transmission_init(struct nbd_transmission *nbd)
{
	*nbd = (struct nbd_transmission){ .fd = -1 };
	nbd->last = &nbd->first;
	pthread_mutex_init(&nbd->lock, NULL);
}

void nbd_transmission_release(struct nbd_transmission *nbd)
{
	pthread_mutex_destroy(&nbd->lock);
}

void nbd_transmission_connect(
	struct nbd_transmission *nbd, int fd, const struct nbd_export *export)
{
	nbd->fd = fd;
	nbd->export = *export;
}

/* Queue the requests that were sent again, in front of those that were not. */
static void requeue(struct nbd_transmission *nbd)
{
	struct disk_request *unsent = nbd->first;

	for (struct disk_request *request = unsent; request; request = request->next)
		release_slot(nbd, request);
	nbd->first = NULL;
	nbd->last = &nbd->first;
	for (unsigned i = 0; i < NBD_SLOTS; i++) {
		struct disk_request *request = nbd->slots[i].request;

		if (!request)
			continue;
		release_slot(nbd, request);
		append(nbd, request);
	}
	*nbd->last = unsent;
	while (*nbd->last)
		nbd->last = &(*nbd->last)->next;
}

void nbd_transmission_disconnect(struct nbd_transmission *nbd)
{
	nbd->fd = -1;
	nbd->header_got = 0;
	nbd->reading = NULL;
	nbd->sent = 0;
	nbd->blocked = false;
	requeue(nbd);
	/* The server may have had them in a volatile cache, and how it ended is not known. */
	if (nbd->acknowledged != nbd->flushed) {
		nbd->lost_writes = true;
		nbd->reporting_loss = false;
	}
	nbd->flushed = nbd->acknowledged;
}

/* --- Replies. */

/*
 * The reply to a command: the request goes on with the next one, or completes.  With the lock held.
 */
static void command_done(struct nbd_transmission *nbd, struct disk_request *request, int error)
{
	uint32_t length = command_length(nbd, request);

	release_slot(nbd, request);
	nbd->replies++;
	if (error == -EOPNOTSUPP && (has_data(request) || request->operation == DISK_FLUSH))
		error = -EIO;
	if (error) {
		complete(nbd, request, error);
		return;
	}
	if (request->operation == DISK_FLUSH) {
		/* Replies to several flushes come in any order. */
		if (request->covers > nbd->flushed)
			nbd->flushed = request->covers;
	} else if (request->operation != DISK_READ && (nbd->export.flags & NBD_SEND_FLUSH)) {
		nbd->acknowledged++;
	}
	if (has_data(request))
		request->iov_count = iov_skip(&request->iov, request->iov_count, length);
	request->offset += length;
	request->length -= length;
	if (request->length)
		append(nbd, request);
	else
		complete(nbd, request, 0);
}

static const char *parse_reply(struct nbd_transmission *nbd)
{
	struct nbd_reply reply;
	struct disk_request *request = NULL;
	struct nbd_slot *slot;

	nbd->header_got = 0;
	if (!nbd_get_reply(nbd->header, &reply))
		return "its reply is none";
	if (reply.error == NBD_ESHUTDOWN)
		return "it is about to end";
	slot = &nbd->slots[reply.cookie % NBD_SLOTS];
	pthread_mutex_lock(&nbd->lock);
	if (slot->request && slot->sent && slot->cookie == reply.cookie)
		request = slot->request;
	if (request && request->operation == DISK_READ && !reply.error) {
		nbd->reading = request;
		nbd->data_got = 0;
	} else if (request) {
		command_done(nbd, request, nbd_errno(reply.error));
	}
	pthread_mutex_unlock(&nbd->lock);
	return request ? NULL : "it replied to what it was not asked";
}

/*
 * Buffers for the next bytes: the rest of a read's data, and the header of the reply behind them.
 */
static unsigned receive_buffers(struct nbd_transmission *nbd, struct iovec *iov, unsigned most, size_t *data)
{
	unsigned count = 0;

	*data = 0;
	if (nbd->reading) {
		size_t left = command_length(nbd, nbd->reading) - nbd->data_got;

		count = iov_slice(nbd->reading->iov, nbd->reading->iov_count, nbd->data_got, left, iov,
			most - 1);
		for (unsigned i = 0; i < count; i++)
			*data += iov[i].iov_len;
		if (*data < left)
			return count;
	}
	iov[count++] = (struct iovec){ nbd->header + nbd->header_got, NBD_REPLY_BYTES - nbd->header_got };
	return count;
}

/* So many bytes came.  The first ones are data, up to as many as receive_buffers() said. */
static const char *account_received(struct nbd_transmission *nbd, size_t bytes, size_t data)
{
	if (data > bytes)
		data = bytes;
	nbd->data_got += data;
	nbd->header_got += bytes - data;
	if (nbd->reading && nbd->data_got == command_length(nbd, nbd->reading)) {
		struct disk_request *request = nbd->reading;

		nbd->reading = NULL;
		pthread_mutex_lock(&nbd->lock);
		command_done(nbd, request, 0);
		pthread_mutex_unlock(&nbd->lock);
	}
	return nbd->header_got == NBD_REPLY_BYTES ? parse_reply(nbd) : NULL;
}

const char *nbd_receive(struct nbd_transmission *nbd)
{
	struct iovec iov[BATCH_BUFFERS];
	const char *why = NULL;

	while (!why) {
		size_t data;
		ssize_t count = read_list(nbd->fd, iov, receive_buffers(nbd, iov, BATCH_BUFFERS, &data));

		if (count > 0)
			why = account_received(nbd, count, data);
		else if (count == 0)
			return "it closed the connection";
		else if (errno == EAGAIN)
			return NULL;
		else if (errno != EINTR)
			return strerror(errno);
	}
	return why;
}
