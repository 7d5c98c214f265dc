// SPDX-License-Identifier: GPL-2.0-only
/* The front-end's side of the vhost-user protocol. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "karma/pass_fd.h"
#include "karma/util.h"
#include "karma/vhost_user_protocol.h"
#include "vhost_user.h"

#define FEATURE_PROTOCOL (1ull << VHOST_USER_F_PROTOCOL_FEATURES)
#define PROTOCOL_MQ (1ull << VHOST_USER_PROTOCOL_F_MQ)
#define PROTOCOL_REPLY_ACK (1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK)
#define PROTOCOL_CONFIG (1ull << VHOST_USER_PROTOCOL_F_CONFIG)

#define REPLY_CHECKED (VHOST_USER_VERSION_MASK | VHOST_USER_REPLY)	/* of a reply's flags */
#define REGIONS 2u		/* of guest memory: below the hole, and above */
#define CONFIG_HEAD_BYTES offsetof(struct vhost_user_config, bytes)

struct message {
	struct vhost_user_head head;
	union vhost_user_payload payload;
} __attribute__((packed));

int vhost_user_lose(struct vhost_user *server, int error, const char *why)
{
	if (!server->why) {
		server->why = why;
		shutdown(server->fd, SHUT_RDWR);
	}
	return error;
}

static int broke_protocol(struct vhost_user *server)
{
	return vhost_user_lose(server, -EPROTO, "has broken the vhost-user protocol");
}

static int has_ended(struct vhost_user *server)
{
	return vhost_user_lose(server, -EPIPE, "has ended");
}

static int is_silent(struct vhost_user *server)
{
	return vhost_user_lose(server, -ETIMEDOUT, "does not answer");
}

/* A message is small, so that a socket without room for it has a server that reads no more. */
static int send_message(
	struct vhost_user *server, const struct message *message, const int *fds, unsigned fd_count)
{
	const size_t size = sizeof(message->head) + message->head.size;
	ssize_t sent;

	if (server->why)
		return -EPIPE;
	sent = send_with_fds(server->fd, message, size, fds, fd_count);
	if (sent == (ssize_t)size)
		return 0;
	return sent >= 0 || errno == EAGAIN ? is_silent(server) : has_ended(server);
}

/* The socket has a timeout of its own, for one wait; the deadline is for all that a message takes. */
static int receive(struct vhost_user *server, void *to, size_t size, int64_t deadline)
{
	for (size_t have = 0; have < size;) {
		ssize_t got = read_bytes(server->fd, (uint8_t *)to + have, size - have);

		if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN))
			return has_ended(server);
		if ((got < 0 && errno == EAGAIN) || nanoseconds() > deadline)
			return is_silent(server);
		if (got > 0)
			have += got;
	}
	return 0;
}

/* The reply to a request, with a payload of that size, into the message. */
static int receive_reply(struct vhost_user *server, struct message *message, size_t size)
{
	const int64_t deadline = nanoseconds() + VHOST_USER_WAIT_SECONDS * 1000000000ll;
	const uint32_t request = message->head.request;
	int result = receive(server, &message->head, sizeof(message->head), deadline);

	if (result < 0)
		return result;
	if (message->head.request != request || message->head.size != size ||
		(message->head.flags & REPLY_CHECKED) != (VHOST_USER_VERSION | VHOST_USER_REPLY))
		return broke_protocol(server);
	return receive(server, &message->payload, size, deadline);
}

/* A request that has a reply of its own, with a payload of that size. */
static int ask(struct vhost_user *server, struct message *message, size_t reply_size)
{
	int result = send_message(server, message, NULL, 0);

	return result < 0 ? result : receive_reply(server, message, reply_size);
}

/* One that has none: with REPLY_ACK the server says whether it did what was asked. */
static int tell_with_fds(
	struct vhost_user *server, struct message *message, const int *fds, unsigned fd_count)
{
	const bool acknowledged = server->protocol & PROTOCOL_REPLY_ACK;
	int result;

	if (acknowledged)
		message->head.flags |= VHOST_USER_NEED_REPLY;
	result = send_message(server, message, fds, fd_count);
	if (result < 0 || !acknowledged)
		return result;
	result = receive_reply(server, message, sizeof(message->payload.number));
	if (result == 0 && message->payload.number)
		return vhost_user_lose(server, -EREMOTEIO, "refuses what it is asked for");
	return result;
}

static int tell(struct vhost_user *server, struct message *message)
{
	return tell_with_fds(server, message, NULL, 0);
}

static struct message new_message(enum vhost_user_request request, size_t size)
{
	return (struct message){ .head = { request, VHOST_USER_VERSION, size } };
}

static struct message number_message(enum vhost_user_request request, uint64_t number)
{
	struct message message = new_message(request, sizeof(number));

	message.payload.number = number;
	return message;
}

static struct message state_message(enum vhost_user_request request, unsigned queue, unsigned number)
{
	struct message message = new_message(request, sizeof(message.payload.state));

	message.payload.state = (struct vhost_user_vring_state){ queue, number };
	return message;
}

static int get_number(struct vhost_user *server, enum vhost_user_request request, uint64_t *number)
{
	struct message message = new_message(request, 0);
	int result = ask(server, &message, sizeof(*number));

	if (result == 0)
		*number = message.payload.number;
	return result;
}

/* All servers of today have protocol features; how rings are enabled depends on them. */
static int negotiate_protocol(struct vhost_user *server)
{
	struct message message;
	uint64_t offered;
	int result;

	if (!(server->features & FEATURE_PROTOCOL))
		return vhost_user_lose(
			server, -ENOTSUP, "is too old: it lacks VHOST_USER_F_PROTOCOL_FEATURES");
	result = get_number(server, VHOST_USER_GET_PROTOCOL_FEATURES, &offered);
	if (result < 0)
		return result;
	offered &= PROTOCOL_MQ | PROTOCOL_REPLY_ACK | PROTOCOL_CONFIG;
	message = number_message(VHOST_USER_SET_PROTOCOL_FEATURES, offered);
	result = tell(server, &message);
	server->protocol = offered;
	return result;
}

static int get_queue_count(struct vhost_user *server)
{
	uint64_t count;
	int result;

	server->queues = 1;
	if (!(server->protocol & PROTOCOL_MQ))
		return 0;
	result = get_number(server, VHOST_USER_GET_QUEUE_NUM, &count);
	if (result == 0 && (count == 0 || count > UINT16_MAX))
		return broke_protocol(server);
	if (result == 0)
		server->queues = count;
	return result;
}

int vhost_user_open(struct vhost_user *server, int socket)
{
	const struct timeval wait = { .tv_sec = VHOST_USER_WAIT_SECONDS };
	struct message message = new_message(VHOST_USER_SET_OWNER, 0);
	int result;

	*server = (struct vhost_user){ .fd = socket };
	if (setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0)
		return vhost_user_lose(server, -errno, "is behind no socket that can wait");
	result = tell(server, &message);
	if (result == 0)
		result = get_number(server, VHOST_USER_GET_FEATURES, &server->features);
	if (result == 0)
		result = negotiate_protocol(server);
	return result == 0 ? get_queue_count(server) : result;
}

void vhost_user_close(struct vhost_user *server)
{
	close_fd(&server->fd);
	server->fd = -1;
}

int vhost_user_get_config(struct vhost_user *server, void *config, size_t size)
{
	struct message message = new_message(VHOST_USER_GET_CONFIG, CONFIG_HEAD_BYTES + size);
	int result;

	if (!(server->protocol & PROTOCOL_CONFIG))
		return -ENOTSUP;
	message.payload.config.size = size;
	result = ask(server, &message, CONFIG_HEAD_BYTES + size);
	if (result == 0)
		memcpy(config, message.payload.config.bytes, size);
	return result;
}

/*
 * A user address is any number by which both sides mean the same place: guest-physical addresses
 * will do, and tell the server nothing of where the monitor has its memory.
 */
static int set_memory(struct vhost_user *server, const struct guest_memory *memory)
{
	struct message message;
	const int fds[REGIONS] = { memory->fd, memory->fd };
	const struct vhost_user_region low = { .size = memory->low_size }, high = {
		.gpa = GUEST_HOLE_END,
		.size = memory->high_size,
		.address = GUEST_HOLE_END,
		.offset = memory->low_size,
	};
	const unsigned count = memory->high_size ? 2 : 1;

	message = new_message(VHOST_USER_SET_MEM_TABLE,
		offsetof(struct vhost_user_memory, regions) + count * sizeof(low));
	message.payload.memory = (struct vhost_user_memory){ .count = count, .regions = { low, high } };
	return tell_with_fds(server, &message, fds, count);
}

int vhost_user_set_up(struct vhost_user *server, uint64_t features, const struct guest_memory *memory)
{
	struct message message = number_message(VHOST_USER_SET_FEATURES, features | FEATURE_PROTOCOL);
	int result = tell(server, &message);

	return result == 0 ? set_memory(server, memory) : result;
}

static int set_state(struct vhost_user *server, enum vhost_user_request request, unsigned queue,
	unsigned number)
{
	struct message message = state_message(request, queue, number);

	return tell(server, &message);
}

static int set_address(struct vhost_user *server, const struct virtq *queue)
{
	struct message message = new_message(VHOST_USER_SET_VRING_ADDR, sizeof(message.payload.address));

	message.payload.address = (struct vhost_user_vring_address){
		.index = queue->index,
		.descriptors = guest_memory_gpa(queue->memory, queue->descriptors).value,
		.used = guest_memory_gpa(queue->memory, queue->used).value,
		.avail = guest_memory_gpa(queue->memory, queue->avail).value,
	};
	return tell(server, &message);
}

static int set_eventfd(struct vhost_user *server, enum vhost_user_request request, unsigned queue, int fd)
{
	struct message message = number_message(request, queue);

	return tell_with_fds(server, &message, &fd, 1);
}

int vhost_user_start_queue(struct vhost_user *server, const struct virtq *queue, uint16_t base,
	const struct vhost_user_eventfds *eventfds)
{
	int result = set_state(server, VHOST_USER_SET_VRING_NUM, queue->index, queue->size);

	if (result == 0)
		result = set_state(server, VHOST_USER_SET_VRING_BASE, queue->index, base);
	if (result == 0)
		result = set_address(server, queue);
	if (result == 0)
		result = set_eventfd(server, VHOST_USER_SET_VRING_CALL, queue->index, eventfds->call);
	if (result == 0)
		result = set_eventfd(server, VHOST_USER_SET_VRING_KICK, queue->index, eventfds->kick);
	return result == 0 ? set_state(server, VHOST_USER_SET_VRING_ENABLE, queue->index, 1) : result;
}

int vhost_user_stop_queue(struct vhost_user *server, unsigned queue, uint16_t *base)
{
	struct message message = state_message(VHOST_USER_GET_VRING_BASE, queue, 0);
	int result = ask(server, &message, sizeof(message.payload.state));

	if (result < 0)
		return result;
	if (message.payload.state.index != queue || message.payload.state.number > UINT16_MAX)
		return broke_protocol(server);
	*base = message.payload.state.number;
	return 0;
}
