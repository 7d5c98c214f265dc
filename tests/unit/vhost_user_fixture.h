/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A vhost-user device, with this test as its guest and as KVM, and a thread of its as the server at the other end of
 * the socket: that notes what it is told, and answers as the protocol says, or with the one lie that a test wants.
 * Each file of tests that includes this has a device of its own.
 */
#ifndef KARMA_TESTS_VHOST_USER_FIXTURE_H
#define KARMA_TESTS_VHOST_USER_FIXTURE_H

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_net.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "guest.h"
#include "karma/vhost_user.h"
#include "karma/vhost_user_protocol.h"

/* The other part of the suite. */
void vhost_user_hostile_tests(Suite *suite);

#define QUEUE_SIZE 64
#define QUEUES_MAX 5
#define NOTES_MAX 200
#define FDS_MAX 3u
#define FEATURE_PROTOCOL FEATURE(VHOST_USER_F_PROTOCOL_FEATURES)
#define ALL_PROTOCOL \
	(FEATURE(VHOST_USER_PROTOCOL_F_MQ) | FEATURE(VHOST_USER_PROTOCOL_F_REPLY_ACK) | \
		FEATURE(VHOST_USER_PROTOCOL_F_CONFIG))
#define FEATURES_ALL (FEATURES_INDIRECT | FEATURES_EVENT)

struct packet {
	struct vhost_user_head head;
	union vhost_user_payload payload;
} __attribute__((packed));

enum lie {
	HONEST,
	OTHER_REQUEST,	/* in the reply */
	OTHER_SIZE,
	OTHER_VERSION,
	NO_REPLY,	/* as the reply's flags have it */
	OTHER_QUEUE,
	FAR_BASE,
	CUT,		/* in the middle of the payload, and then its end */
	SILENCE,
	END,		/* instead of a reply */
	REFUSAL,
	NO_QUEUES,
	EXTRA_FD,	/* with a reply that is right */
};

/* What the server was told. */
struct note_of {
	struct packet packet;
	unsigned fds;
};

struct backend {
	/* Set before it runs. */
	uint64_t features, protocol;
	unsigned queues;
	uint8_t config[VHOST_USER_CONFIG_MAX];
	/* The lie, and where; any time. */
	_Atomic int lie;
	_Atomic unsigned lie_at;

	int socket;
	pthread_t thread;
	pthread_mutex_t lock;	/* guards what is below */
	struct note_of notes[NOTES_MAX];
	unsigned note_count;
	int kick[QUEUES_MAX], call[QUEUES_MAX];
	uint16_t base[QUEUES_MAX];
};

static struct sim sim;
static struct driver_queue queues[QUEUES_MAX];
static struct backend backend;
static struct virtio_device *device;
static int front_socket;	/* a duplicate of the front's end */

/* --- KVM. */

static int bound[QUEUES_MAX];
static unsigned bound_count;
static struct karma_interrupt routes[QUEUES_MAX];

static int bind_simulated(struct irqfds *irqfds, int fd)
{
	(void)irqfds;
	bound[bound_count] = fd;
	return bound_count++;
}

static void route_simulated(struct irqfds *irqfds, unsigned number, const struct karma_interrupt *interrupt)
{
	(void)irqfds;
	routes[number] = *interrupt;
}

static struct irqfds irqfds = { bind_simulated, route_simulated };

/* --- The server. */

static bool receive_all(int socket, void *to, size_t size)
{
	return size == 0 || recv(socket, to, size, MSG_WAITALL) == (ssize_t)size;
}

/* The head and the descriptors that come with it. */
static bool receive_head(int socket, struct packet *packet, int fds[FDS_MAX], unsigned *fd_count)
{
	struct iovec iov = { packet, sizeof(packet->head) };
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes) };
	ssize_t got = recvmsg(socket, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC);
	struct cmsghdr *first = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;

	*fd_count = first ? (first->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
	if (first)
		memcpy(fds, CMSG_DATA(first), *fd_count * sizeof(int));
	return got == sizeof(packet->head);
}

static void keep_fd(int *place, int fd)
{
	close_fd(place);
	*place = fd;
}

static void take_note(const struct packet *packet, const int *fds, unsigned fd_count)
{
	const unsigned queue = packet->payload.number & VHOST_USER_VRING_INDEX;

	pthread_mutex_lock(&backend.lock);
	if (backend.note_count < NOTES_MAX)
		backend.notes[backend.note_count++] = (struct note_of){ *packet, fd_count };
	for (unsigned i = 0; i < fd_count; i++) {
		if (packet->head.request == VHOST_USER_SET_VRING_KICK && queue < QUEUES_MAX)
			keep_fd(&backend.kick[queue], fds[i]);
		else if (packet->head.request == VHOST_USER_SET_VRING_CALL && queue < QUEUES_MAX)
			keep_fd(&backend.call[queue], fds[i]);
		else
			close(fds[i]);
	}
	pthread_mutex_unlock(&backend.lock);
}

/* Into the packet; false if there is none. */
static bool make_reply(struct packet *packet)
{
	struct packet reply = { .head = { packet->head.request, VHOST_USER_VERSION | VHOST_USER_REPLY, 8 } };

	switch (packet->head.request) {
	case VHOST_USER_GET_FEATURES:
		reply.payload.number = backend.features;
		break;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		reply.payload.number = backend.protocol;
		break;
	case VHOST_USER_GET_QUEUE_NUM:
		reply.payload.number = backend.queues;
		break;
	case VHOST_USER_GET_VRING_BASE:
		reply.payload.state.index = packet->payload.state.index;
		reply.payload.state.number = backend.base[packet->payload.state.index % QUEUES_MAX];
		break;
	case VHOST_USER_GET_CONFIG:
		reply.head.size = packet->head.size;
		reply.payload.config.size = packet->payload.config.size;
		memcpy(reply.payload.config.bytes, backend.config, sizeof(backend.config));
		break;
	default:
		if (!(packet->head.flags & VHOST_USER_NEED_REPLY))
			return false;
	}
	*packet = reply;
	return true;
}

static void tell_lie(enum lie lie, struct packet *reply, size_t *size)
{
	switch (lie) {
	case OTHER_REQUEST:
		reply->head.request++;
		break;
	case OTHER_SIZE:
		reply->head.size += 8;
		*size += 8;
		break;
	case OTHER_VERSION:
		reply->head.flags++;
		break;
	case NO_REPLY:
		reply->head.flags &= ~VHOST_USER_REPLY;
		break;
	case OTHER_QUEUE:
		reply->payload.state.index++;
		break;
	case FAR_BASE:
		reply->payload.state.number = 0x10000;
		break;
	case CUT:
		*size -= 4;
		break;
	case SILENCE:
	case END:
		*size = 0;
		break;
	case REFUSAL:
		reply->payload.number = 1;
		break;
	case NO_QUEUES:
		reply->payload.number = 0;
		break;
	default:
		break;
	}
}

static void send_reply(const struct packet *reply, size_t size, bool with_fd)
{
	struct iovec iov = { (void *)reply, size };
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .head = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (with_fd) {
		memcpy(CMSG_DATA(&control.head), &backend.socket, sizeof(int));
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
	}
	/* The front may have ended meanwhile. */
	if (size && sendmsg(backend.socket, &message, MSG_NOSIGNAL) < 0)
		return;
}

static void *serve(void *unused)
{
	struct packet packet = { 0 };
	int fds[FDS_MAX];
	unsigned fd_count;

	while (receive_head(backend.socket, &packet, fds, &fd_count) &&
		packet.head.size <= sizeof(packet.payload) &&
		receive_all(backend.socket, &packet.payload, packet.head.size)) {
		const unsigned request = packet.head.request;
		enum lie lie = request == backend.lie_at ? backend.lie : HONEST;
		size_t size;

		take_note(&packet, fds, fd_count);
		if (!make_reply(&packet))
			continue;
		size = sizeof(packet.head) + packet.head.size;
		tell_lie(lie, &packet, &size);
		send_reply(&packet, size, lie == EXTRA_FD);
		if (lie == CUT || lie == END)
			break;
	}
	shutdown(backend.socket, SHUT_RDWR);
	return unused;
}

/* --- Both. */

static inline void setup(void)
{
	sim_init(&sim, SIM_MEMORY);
	/* What the server would map. */
	sim.memory.fd = memfd_create("guest", MFD_CLOEXEC);
	sim.memory.shared = true;
	backend = (struct backend){
		.features = FEATURES_ALL | FEATURE_PROTOCOL,
		.protocol = ALL_PROTOCOL,
		.queues = QUEUES_MAX,
		.kick = { -1, -1, -1, -1, -1 },
		.call = { -1, -1, -1, -1, -1 },
	};
	pthread_mutex_init(&backend.lock, NULL);
	device = NULL;
	bound_count = 0;
}

static inline struct virtio_device *create(enum vhost_user_type type, unsigned cpus)
{
	static const uint8_t mac[] = { 2, 0, 0, 0, 0, 9 };
	struct vhost_user_setup setup = {
		.type = type,
		.name = "share0",
		.server = "--share /srv/data: its server",
		.tag = "data",
		.mac = mac,
		.cpus = cpus,
		.irqfds = &irqfds,
	};
	int ends[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	front_socket = dup(ends[0]);
	backend.socket = ends[1];
	ck_assert_int_eq(pthread_create(&backend.thread, NULL, serve, NULL), 0);
	setup.socket = ends[0];
	return vhost_user_create(&sim.environment, &setup);
}

/* With its driver: a file system of one request queue. */
static inline void start_device(enum vhost_user_type type)
{
	device = create(type, 1);
	ck_assert_uint_eq(sim_add(&sim, device), 0);
	sim_start_device(&sim, 0, device->offered, queues, device->queue_count, QUEUE_SIZE);
}

static inline void teardown(void)
{
	shutdown(backend.socket, SHUT_RDWR);
	pthread_join(backend.thread, NULL);
	sim_release(&sim);
	close(front_socket);
	close(backend.socket);
	for (unsigned i = 0; i < QUEUES_MAX; i++) {
		close_fd(&backend.kick[i]);
		close_fd(&backend.call[i]);
	}
}

/* Messages of a kind that the server has got so far. */
static inline unsigned told(enum vhost_user_request request)
{
	unsigned count = 0;

	pthread_mutex_lock(&backend.lock);
	for (unsigned i = 0; i < backend.note_count; i++)
		count += backend.notes[i].packet.head.request == request;
	pthread_mutex_unlock(&backend.lock);
	return count;
}

/* The last one, which is there. */
static inline struct note_of last(enum vhost_user_request request)
{
	struct note_of found = { 0 };

	pthread_mutex_lock(&backend.lock);
	for (unsigned i = 0; i < backend.note_count; i++) {
		if (backend.notes[i].packet.head.request == request)
			found = backend.notes[i];
	}
	pthread_mutex_unlock(&backend.lock);
	ck_assert_uint_eq(found.packet.head.request, request);
	return found;
}

/* How often an eventfd was raised since the last call. */
static inline uint64_t raised(int fd)
{
	uint64_t count = 0;

	ck_assert_int_ge(fd, 0);
	return eventfd_read(fd, &count) == 0 ? count : 0;
}

/* One of backend.kick or backend.call, which the server's thread has written. */
static inline int fd_at(const int *place)
{
	int fd;

	pthread_mutex_lock(&backend.lock);
	fd = *place;
	pthread_mutex_unlock(&backend.lock);
	return fd;
}

static inline int kick_of(unsigned queue)
{
	return fd_at(&backend.kick[queue]);
}

static inline uint64_t counted(const char *name)
{
	for (unsigned i = 0; i < device->counter_count; i++) {
		if (strcmp(device->counters[i].name, name) == 0)
			return count_of(&device->counters[i].value);
	}
	ck_abort_msg("no counter %s", name);
}

#endif
