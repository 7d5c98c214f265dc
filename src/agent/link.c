// SPDX-License-Identifier: GPL-2.0-only
/* Frames of karma-agent(7) on a socket. */
#include "karma/agent_link.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "karma/util.h"

_Static_assert(sizeof(struct agent_header) == AGENT_HEADER_BYTES, "as it is on the socket");

void agent_link_init(struct agent_link *link, int fd)
{
	int flags = fcntl(fd, F_GETFL);

	link->fd = fd;
	link->in_start = link->in_end = link->out_start = link->out_end = 0;
	if (flags >= 0)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static size_t move_to_front(uint8_t *bytes, size_t *start, size_t *end)
{
	if (*start > 0) {
		memmove(bytes, bytes + *start, *end - *start);
		*end -= *start;
		*start = 0;
	}
	return AGENT_FRAME_MAX - *end;
}

int agent_link_receive(struct agent_link *link)
{
	size_t room = move_to_front(link->in, &link->in_start, &link->in_end);
	ssize_t got = recv(link->fd, link->in + link->in_end, room, MSG_DONTWAIT);

	if (got < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	link->in_end += got;
	return got;
}

int agent_link_next(struct agent_link *link, struct agent_frame *frame)
{
	size_t used = link->in_end - link->in_start;
	struct agent_header header;

	if (used < AGENT_HEADER_BYTES)
		return 0;
	memcpy(&header, link->in + link->in_start, sizeof(header));
	frame->length = le32toh(header.length);
	if (frame->length > AGENT_PAYLOAD_MAX)
		return -EPROTO;
	if (used - AGENT_HEADER_BYTES < frame->length)
		return 0;
	frame->type = header.type;
	frame->stream = header.stream;
	frame->payload = link->in + link->in_start + AGENT_HEADER_BYTES;
	link->in_start += AGENT_HEADER_BYTES + frame->length;
	return 1;
}

size_t agent_link_room(const struct agent_link *link)
{
	size_t used = link->out_end - link->out_start + AGENT_HEADER_BYTES;

	return used < AGENT_FRAME_MAX ? AGENT_FRAME_MAX - used : 0;
}

uint8_t *agent_link_reserve(struct agent_link *link, size_t length)
{
	if (AGENT_FRAME_MAX - (link->out_end - link->out_start) < AGENT_HEADER_BYTES ||
		agent_link_room(link) < length)
		return NULL;
	if (AGENT_FRAME_MAX - link->out_end < AGENT_HEADER_BYTES + length)
		move_to_front(link->out, &link->out_start, &link->out_end);
	return link->out + link->out_end + AGENT_HEADER_BYTES;
}

void agent_link_commit(struct agent_link *link, unsigned type, unsigned stream, size_t length)
{
	struct agent_header header = { .length = htole32(length), .type = type, .stream = stream };

	memcpy(link->out + link->out_end, &header, sizeof(header));
	link->out_end += AGENT_HEADER_BYTES + length;
}

bool agent_link_put(struct agent_link *link, unsigned type, unsigned stream, const void *payload, size_t length)
{
	uint8_t *room = agent_link_reserve(link, length);

	if (!room)
		return false;
	if (length)
		memcpy(room, payload, length);
	agent_link_commit(link, type, stream, length);
	return true;
}

bool agent_link_put_number(struct agent_link *link, unsigned type, unsigned stream, uint32_t number)
{
	number = htole32(number);
	return agent_link_put(link, type, stream, &number, sizeof(number));
}

void agent_link_put_error(struct agent_link *link, unsigned status, int error, const char *text)
{
	uint32_t numbers[2] = { htole32(status), htole32(error < 0 ? -error : error) };
	size_t length = strlen(text);
	uint8_t *room = agent_link_reserve(link, sizeof(numbers) + length);

	if (!room)
		return;
	memcpy(room, numbers, sizeof(numbers));
	memcpy(room + sizeof(numbers), text, length);
	agent_link_commit(link, AGENT_ERROR, 0, sizeof(numbers) + length);
}

int agent_link_send(struct agent_link *link)
{
	ssize_t sent;

	if (!agent_link_has_output(link))
		return 0;
	sent = send(link->fd, link->out + link->out_start, link->out_end - link->out_start,
		MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	link->out_start += sent;
	if (link->out_start == link->out_end)
		link->out_start = link->out_end = 0;
	return 0;
}

/* What of the events has happened, or an error. */
static int wait_for(const struct agent_link *link, short events)
{
	struct pollfd watched = { .fd = link->fd, .events = events };

	while (poll(&watched, 1, -1) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return watched.revents;
}

int agent_link_await(struct agent_link *link, struct agent_frame *frame)
{
	for (;;) {
		int result = agent_link_next(link, frame);

		if (result != 0)
			return result;
		result = agent_link_receive(link);
		if (result == -EAGAIN)
			result = wait_for(link, POLLIN);
		if (result <= 0)
			return result;
	}
}

int agent_link_flush(struct agent_link *link)
{
	while (agent_link_has_output(link)) {
		int result = agent_link_send(link);

		if (result == 0 && agent_link_has_output(link))
			result = wait_for(link, POLLIN | POLLOUT);
		if (result < 0)
			return result;
		if (result & POLLIN)
			return -ECANCELED;
	}
	return 0;
}

void agent_link_settle(struct agent_link *link, bool end)
{
	bool ended = false;

	while (agent_link_has_output(link) || end) {
		int result = agent_link_send(link);

		if (result == 0 && !agent_link_has_output(link)) {
			if (!end)
				return;
			if (!ended)
				ended = shutdown(link->fd, SHUT_WR) == 0;
		}
		if (result == 0)
			result = wait_for(link, POLLIN | (agent_link_has_output(link) ? POLLOUT : 0));
		if (result > 0 && result & ~POLLOUT) {
			link->in_start = link->in_end = 0;
			result = agent_link_receive(link);
			if (result == 0)
				return;
		}
		if (result < 0 && result != -EAGAIN)
			return;
	}
}

int agent_link_check_hello(const struct agent_frame *frame, const char **text)
{
	*text = "the other side does not speak the protocol of karma-agent(7)";
	if (frame->type != AGENT_HELLO || frame->length < sizeof(uint32_t))
		return -EPROTO;
	*text = "karma and the guest's karma-agent speak other versions of their protocol: use those of one release";
	return agent_number(frame->payload) == AGENT_VERSION ? 0 : -EPROTONOSUPPORT;
}

uint32_t agent_number(const uint8_t *bytes)
{
	uint32_t number;

	memcpy(&number, bytes, sizeof(number));
	return le32toh(number);
}

const char *agent_string(const uint8_t **payload, size_t *length)
{
	const char *string = (const char *)*payload;
	const uint8_t *end = *length ? memchr(*payload, '\0', *length) : NULL;

	if (!end)
		return NULL;
	*length -= end + 1 - *payload;
	*payload = end + 1;
	return string;
}
