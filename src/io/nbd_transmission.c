// SPDX-License-Identifier: GPL-2.0-only
/* NBD: disk requests on their way to a server and back. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "karma/iov.h"
#include "karma/nbd_transmission.h"
#include "karma/util.h"

#define BATCH_REQUESTS 32u		/* sent by one system call */
#define BATCH_BUFFERS 128u

/* --- Requests and their commands.  A request is one command, or several in turn if it is large. */

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
	nbd->waiting++;
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

static void end(struct nbd_transmission *nbd, struct disk_request *request, int error)
{
	request->error = error;
	request->next = nbd->ended;
	nbd->ended = request;
}

void nbd_fail_all(struct nbd_transmission *nbd, int error)
{
	while (nbd->first)
		end(nbd, take_first(nbd), error);
}

struct disk_request *nbd_take_ended(struct nbd_transmission *nbd)
{
	struct disk_request *ended = nbd->ended;

	nbd->ended = NULL;
	for (struct disk_request *request = ended; request; request = request->next)
		nbd->waiting--;
	/* All who asked by now are told. */
	if (nbd->telling)
		nbd->lost_writes = nbd->telling = false;
	return ended;
}

static void free_slot(struct nbd_transmission *nbd, struct disk_request *request)
{
	if (request->slot == NBD_SLOTS)
		return;
	nbd->slots[request->slot].request = NULL;
	nbd->slots_used--;
	request->slot = NBD_SLOTS;
}

static bool take_slot(struct nbd_transmission *nbd, struct disk_request *request)
{
	if (request->slot < NBD_SLOTS)
		return true;
	if (nbd->slots_used == NBD_SLOTS)
		return false;
	for (unsigned i = 0; i < NBD_SLOTS; i++) {
		/* The next one after the last that was taken, which most often is free. */
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
 * What needs no server, or must not get to it; true: with this error, or 0.  A flush is the guest's
 * question whether all that was written is safe.  If acknowledged writes may have gone with a server
 * that had not flushed them, the answer is no, once, to all who ask by then.
 */
static bool answers_itself(
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

	/* It covers what was acknowledged by now. */
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

/* What is left of the queue's front, as far as there is room for it. */
static void fill_batch(struct nbd_transmission *nbd, struct batch *batch)
{
	struct disk_request *request = nbd->first;
	size_t skip = nbd->sent;
	int error;

	batch->count = 0;
	for (unsigned i = 0; request && i < BATCH_REQUESTS && batch->count < BATCH_BUFFERS; i++) {
		size_t header_left = skip < NBD_REQUEST_BYTES ? NBD_REQUEST_BYTES - skip : 0;

		if (answers_itself(nbd, request, &error) || !take_slot(nbd, request))
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

static void answer_ourselves(struct nbd_transmission *nbd)
{
	int error;

	while (nbd->first && nbd->sent == 0 && answers_itself(nbd, nbd->first, &error)) {
		struct disk_request *request = take_first(nbd);

		free_slot(nbd, request);
		end(nbd, request, error);
		if (request->operation == DISK_FLUSH && error)
			nbd->telling = true;
	}
}

void nbd_send(struct nbd_transmission *nbd)
{
	struct batch batch;

	nbd->blocked = false;
	while (nbd->fd >= 0) {
		ssize_t count;

		answer_ourselves(nbd);
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
			/* The I/O thread finds out, when it has taken what the server still said. */
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

void nbd_begin(struct nbd_transmission *nbd, int fd, const struct nbd_export *export)
{
	nbd->fd = fd;
	nbd->export = *export;
}

/* What the server had is to be sent again, before what it had not yet. */
static void queue_again(struct nbd_transmission *nbd)
{
	struct disk_request *unsent = nbd->first;

	for (struct disk_request *request = unsent; request; request = request->next)
		free_slot(nbd, request);
	nbd->first = NULL;
	nbd->last = &nbd->first;
	for (unsigned i = 0; i < NBD_SLOTS; i++) {
		struct disk_request *request = nbd->slots[i].request;

		if (!request)
			continue;
		free_slot(nbd, request);
		append(nbd, request);
	}
	*nbd->last = unsent;
	while (*nbd->last)
		nbd->last = &(*nbd->last)->next;
}

void nbd_break(struct nbd_transmission *nbd)
{
	nbd->fd = -1;
	nbd->head_got = 0;
	nbd->reading = NULL;
	nbd->sent = 0;
	nbd->blocked = false;
	queue_again(nbd);
	/* The server may have had them in a cache, and nobody can tell how it ended. */
	if (nbd->acknowledged != nbd->flushed) {
		nbd->lost_writes = true;
		nbd->telling = false;
	}
	nbd->flushed = nbd->acknowledged;
}

/* --- Replies. */

/* With the lock held. */
static void complete(struct nbd_transmission *nbd, struct disk_request *request, int error)
{
	uint32_t length = command_length(nbd, request);

	free_slot(nbd, request);
	nbd->answers++;
	if (error == -EOPNOTSUPP && (has_data(request) || request->operation == DISK_FLUSH))
		error = -EIO;
	if (error) {
		end(nbd, request, error);
		return;
	}
	if (request->operation == DISK_FLUSH) {
		/* Replies to several may come in any order. */
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
		end(nbd, request, 0);
}

static const char *take_reply(struct nbd_transmission *nbd)
{
	struct nbd_reply reply;
	struct disk_request *request = NULL;
	struct nbd_slot *slot;

	nbd->head_got = 0;
	if (!nbd_get_reply(nbd->head, &reply))
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
		complete(nbd, request, nbd_errno(reply.error));
	}
	pthread_mutex_unlock(&nbd->lock);
	return request ? NULL : "it replied to what it was not asked";
}

/* Where the next bytes belong: the rest of a read's data, and the head of the reply behind it. */
static unsigned make_room(struct nbd_transmission *nbd, struct iovec *iov, unsigned most, size_t *data)
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
	iov[count++] = (struct iovec){ nbd->head + nbd->head_got, NBD_REPLY_BYTES - nbd->head_got };
	return count;
}

/* So many bytes came, of which as many as these are data if there are that many. */
static const char *account_received(struct nbd_transmission *nbd, size_t bytes, size_t data)
{
	if (data > bytes)
		data = bytes;
	nbd->data_got += data;
	nbd->head_got += bytes - data;
	if (nbd->reading && nbd->data_got == command_length(nbd, nbd->reading)) {
		struct disk_request *request = nbd->reading;

		nbd->reading = NULL;
		pthread_mutex_lock(&nbd->lock);
		complete(nbd, request, 0);
		pthread_mutex_unlock(&nbd->lock);
	}
	return nbd->head_got == NBD_REPLY_BYTES ? take_reply(nbd) : NULL;
}

const char *nbd_receive(struct nbd_transmission *nbd)
{
	struct iovec iov[BATCH_BUFFERS];
	const char *why = NULL;

	while (!why) {
		size_t data;
		ssize_t count = read_list(nbd->fd, iov, make_room(nbd, iov, BATCH_BUFFERS, &data));

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

