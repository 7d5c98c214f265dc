// SPDX-License-Identifier: GPL-2.0-only
/* The messages of vhost-user: what a front says and asks. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "karma/log.h"
#include "karma/util.h"
#include "vhost_user.h"

#define FEATURES (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC | \
	1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VHOST_USER_F_PROTOCOL_FEATURES)
#define PROTOCOL_FEATURES (1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | \
	1ull << VHOST_USER_PROTOCOL_F_CONFIG | 1ull << VHOST_USER_PROTOCOL_F_RESET_DEVICE)

#define CONFIG_HEAD offsetof(struct vhost_user_config, bytes)

struct message {
	struct vhost_user_head head;
	union vhost_user_payload payload;
	int fds[VHOST_USER_REGIONS_MAX];
	unsigned fd_count;
	uint32_t reply_size;	/* of what is in payload by then; 0: none */
};

/* --- What the messages do: 0, or a negative errno. */

static int get_number(struct message *message, uint64_t number)
{
	message->payload.number = number;
	message->reply_size = sizeof(number);
	return 0;
}

/* Bits that were not offered are a front's mistake. */
static int set_bits(uint64_t *bits, uint64_t value, uint64_t offered)
{
	if (value & ~offered)
		return -EINVAL;
	*bits = value;
	return 0;
}

static int set_features(struct vhost_backend *backend, struct message *message)
{
	int result = set_bits(&backend->features, message->payload.number, FEATURES);

	/* A front without this bit does not know of SET_VRING_ENABLE (section "Ring states"). */
	if (!(backend->features & 1ull << VHOST_USER_F_PROTOCOL_FEATURES)) {
		for (unsigned i = 0; i < VHOST_QUEUES; i++)
			backend->queues[i].enabled = true;
	}
	return result;
}

/* The guest's memory may change while queues run: they go on where they were. */
static int set_memory(struct vhost_backend *backend, struct message *message)
{
	const struct vhost_user_memory *table = &message->payload.memory;
	size_t size = offsetof(struct vhost_user_memory, regions) + table->count * sizeof(table->regions[0]);
	bool started[VHOST_QUEUES];
	int result;

	if (table->count > VHOST_USER_REGIONS_MAX || table->count != message->fd_count ||
		message->head.size < size)
		return -EINVAL;
	for (unsigned i = 0; i < VHOST_QUEUES; i++) {
		started[i] = backend->queues[i].started;
		vhost_queue_stop(&backend->queues[i]);
	}
	result = vhost_memory_map(backend, table, message->fds);
	for (unsigned i = 0; result == 0 && i < VHOST_QUEUES; i++) {
		if (started[i])
			result = vhost_queue_start(backend, &backend->queues[i]);
	}
	return result;
}

/* Of a queue's state or address, both of which begin with its index. */
static struct vhost_queue *find_queue(struct vhost_backend *backend, uint32_t index)
{
	return index < VHOST_QUEUES ? &backend->queues[index] : NULL;
}

static int set_state(struct vhost_backend *backend, struct message *message)
{
	const struct vhost_user_vring_state *state = &message->payload.state;
	struct vhost_queue *queue = find_queue(backend, state->index);

	if (!queue)
		return -EINVAL;
	switch (message->head.request) {
	case VHOST_USER_SET_VRING_NUM:
		queue->size = state->number;
		return 0;
	case VHOST_USER_SET_VRING_BASE:
		queue->base = state->number;
		return 0;
	default:
		queue->enabled = queue->waiting = state->number;
		return 0;
	}
}

static int set_address(struct vhost_backend *backend, struct message *message)
{
	struct vhost_queue *queue = find_queue(backend, message->payload.address.index);

	if (!queue)
		return -EINVAL;
	queue->address = message->payload.address;
	return 0;
}

static int get_base(struct vhost_backend *backend, struct message *message)
{
	struct vhost_user_vring_state *state = &message->payload.state;
	struct vhost_queue *queue = find_queue(backend, state->index);

	if (!queue)
		return -EINVAL;
	vhost_queue_stop(queue);
	state->number = queue->base;
	message->reply_size = sizeof(*state);
	return 0;
}

static int watch(struct vhost_backend *backend, struct vhost_queue *queue)
{
	/* Edges, so that the counter need not be read. */
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = queue };

	if (queue->kick < 0)
		return -EINVAL;
	return epoll_ctl(backend->events, EPOLL_CTL_ADD, queue->kick, &event) < 0 ? -errno : 0;
}

/* With a queue's eventfd, or without. */
static int set_eventfd(struct vhost_backend *backend, struct message *message)
{
	struct vhost_queue *queue = find_queue(backend, message->payload.number & VHOST_USER_VRING_INDEX);
	bool none = message->payload.number & VHOST_USER_VRING_NO_FD;
	bool kick = message->head.request == VHOST_USER_SET_VRING_KICK;
	int *fd, result;

	if (!queue || message->fd_count != !none)
		return -EINVAL;
	fd = kick ? &queue->kick : message->head.request == VHOST_USER_SET_VRING_CALL ? &queue->call : &queue->error;
	/* To close it would not take it out of the epoll: the front has the same file. */
	if (kick && queue->kick >= 0)
		epoll_ctl(backend->events, EPOLL_CTL_DEL, queue->kick, NULL);
	close_fd(fd);
	*fd = none ? -1 : message->fds[0];
	message->fd_count = 0;
	if (!kick)
		return 0;
	result = watch(backend, queue);
	return result == 0 && !queue->started ? vhost_queue_start(backend, queue) : result;
}

static int get_config(struct vhost_backend *backend, struct message *message)
{
	struct vhost_user_config *config = &message->payload.config;

	if (config->offset > backend->config_size || config->size > backend->config_size - config->offset)
		return -EINVAL;
	memcpy(config->bytes, (const uint8_t *)backend->config + config->offset, config->size);
	message->reply_size = CONFIG_HEAD + config->size;
	return 0;
}

static int reset(struct vhost_backend *backend, struct message *message)
{
	(void)message;
	for (unsigned i = 0; i < VHOST_QUEUES; i++) {
		vhost_queue_stop(&backend->queues[i]);
		backend->queues[i].enabled = false;
		backend->queues[i].base = 0;
	}
	return 0;
}

static int get_features(struct vhost_backend *backend, struct message *message)
{
	(void)backend;
	return get_number(message, FEATURES);
}

static int get_protocol_features(struct vhost_backend *backend, struct message *message)
{
	(void)backend;
	return get_number(message, PROTOCOL_FEATURES);
}

static int set_protocol_features(struct vhost_backend *backend, struct message *message)
{
	return set_bits(&backend->protocol_features, message->payload.number, PROTOCOL_FEATURES);
}

static int get_queue_number(struct vhost_backend *backend, struct message *message)
{
	(void)backend;
	return get_number(message, VHOST_QUEUES);
}

/* There is one front only. */
static int set_owner(struct vhost_backend *backend, struct message *message)
{
	(void)backend;
	(void)message;
	return 0;
}

struct row {
	int (*run)(struct vhost_backend *backend, struct message *message);
	uint32_t payload;	/* bytes that it has at least */
};

#define STATE sizeof(struct vhost_user_vring_state)

static const struct row rows[] = {
	[VHOST_USER_GET_FEATURES] = { get_features, 0 },
	[VHOST_USER_SET_FEATURES] = { set_features, sizeof(uint64_t) },
	[VHOST_USER_SET_OWNER] = { set_owner, 0 },
	[VHOST_USER_RESET_OWNER] = { reset, 0 },
	[VHOST_USER_SET_MEM_TABLE] = { set_memory, offsetof(struct vhost_user_memory, regions) },
	[VHOST_USER_SET_VRING_NUM] = { set_state, STATE },
	[VHOST_USER_SET_VRING_ADDR] = { set_address, sizeof(struct vhost_user_vring_address) },
	[VHOST_USER_SET_VRING_BASE] = { set_state, STATE },
	[VHOST_USER_GET_VRING_BASE] = { get_base, STATE },
	[VHOST_USER_SET_VRING_KICK] = { set_eventfd, sizeof(uint64_t) },
	[VHOST_USER_SET_VRING_CALL] = { set_eventfd, sizeof(uint64_t) },
	[VHOST_USER_SET_VRING_ERR] = { set_eventfd, sizeof(uint64_t) },
	[VHOST_USER_GET_PROTOCOL_FEATURES] = { get_protocol_features, 0 },
	[VHOST_USER_SET_PROTOCOL_FEATURES] = { set_protocol_features, sizeof(uint64_t) },
	[VHOST_USER_GET_QUEUE_NUM] = { get_queue_number, 0 },
	[VHOST_USER_SET_VRING_ENABLE] = { set_state, STATE },
	[VHOST_USER_GET_CONFIG] = { get_config, CONFIG_HEAD },
	[VHOST_USER_RESET_DEVICE] = { reset, 0 },
};

static int serve(struct vhost_backend *backend, struct message *message)
{
	const uint32_t request = message->head.request;

	if (request >= ARRAY_SIZE(rows) || !rows[request].run || message->head.size < rows[request].payload)
		return -EINVAL;
	return rows[request].run(backend, message);
}

/* --- The socket. */

/* 0, 1 at the end of the stream, or a negative errno. */
static int receive(struct vhost_backend *backend, void *to, size_t length, struct message *message)
{
	struct iovec iov = { to, length };
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(message->fds))];
	} control;

	while (iov.iov_len) {
		struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
			.msg_controllen = message->fd_count ? 0 : sizeof(control) };
		ssize_t count = recvmsg(backend->socket, &head, MSG_CMSG_CLOEXEC);

		if (count <= 0)
			return count == 0 || errno == ECONNRESET ? 1 : -errno;
		/* More than VHOST_USER_REGIONS_MAX do not fit; the kernel closes these. */
		if (head.msg_controllen >= CMSG_LEN(sizeof(int)) && control.head.cmsg_type == SCM_RIGHTS) {
			message->fd_count = (control.head.cmsg_len - CMSG_LEN(0)) / sizeof(int);
			memcpy(message->fds, CMSG_DATA(&control.head), message->fd_count * sizeof(int));
		}
		iov.iov_base = (uint8_t *)iov.iov_base + count;
		iov.iov_len -= count;
	}
	return 0;
}

static int receive_message(struct vhost_backend *backend, struct message *message)
{
	int result = receive(backend, &message->head, sizeof(message->head), message);

	if (result != 0)
		return result;
	if ((message->head.flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION ||
		message->head.size > sizeof(message->payload))
		return -EPROTO;
	return receive(backend, &message->payload, message->head.size, message);
}

static int send_reply(struct vhost_backend *backend, struct message *message)
{
	struct iovec iov[2] = { { &message->head, sizeof(message->head) },
		{ &message->payload, message->reply_size } };
	struct msghdr head = { .msg_iov = iov, .msg_iovlen = 2 };

	message->head.flags = VHOST_USER_VERSION | VHOST_USER_REPLY;
	message->head.size = message->reply_size;
	return sendmsg(backend->socket, &head, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int answer(struct vhost_backend *backend, struct message *message, int result)
{
	bool wants_ack = message->head.flags & VHOST_USER_NEED_REPLY &&
			 backend->protocol_features & 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK;

	/* An empty configuration says that it could not be read. */
	if (result < 0 && message->head.request == VHOST_USER_GET_CONFIG) {
		message->payload.config.size = 0;
		message->reply_size = CONFIG_HEAD;
		return send_reply(backend, message);
	}
	if (message->reply_size == 0 && wants_ack) {
		get_number(message, result < 0);
		result = 0;
	}
	return result == 0 && message->reply_size ? send_reply(backend, message) : result;
}

int vhost_user_take(struct vhost_backend *backend)
{
	struct message message = { .fd_count = 0 };
	int result = receive_message(backend, &message);

	if (result == 0)
		result = answer(backend, &message, serve(backend, &message));
	while (message.fd_count)
		close(message.fds[--message.fd_count]);
	if (result == -EPIPE)
		return 1;
	if (result < 0)
		return fail(-EPROTO, "shared directory: the vhost-user front sent what its server can't take, "
				     "request %u: %s: the server ends",
			message.head.request, strerror(-result));
	return result;
}
