// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the front of vhost-user devices from both sides: as a hostile server, whose reply to each request is
 * right, nearly right, cut, or any bytes, and as a hostile guest, which sets queues up, notifies and resets at
 * any time, with pauses between.  What the front sends is whole and within its bounds, and no device comes of
 * it that is out of its own.
 */
#include <linux/virtio_config.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "guest.h"
#include "karma/log.h"
#include "karma/util.h"
#include "karma/vhost_user.h"
#include "karma/vhost_user_protocol.h"

#define STEPS_MAX 100u
#define RING_ENTRIES 16u
#define IRQFDS_MAX (DRIVER_QUEUES_MAX + 1)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct io_ring ring;
static struct driver driver;
static struct script *script;	/* of the input that runs */
static int server;		/* the other end of the front's socket */
static unsigned irqfd_count;

struct packet {
	struct vhost_user_head head;
	union vhost_user_payload payload;
} __attribute__((packed));

/* --- KVM. */

static int bind_irqfd(struct irqfds *irqfds, int eventfd)
{
	(void)irqfds;
	check(eventfd >= 0 && irqfd_count < IRQFDS_MAX);
	return irqfd_count++;
}

static void route(struct irqfds *irqfds, unsigned number, const struct karma_interrupt *interrupt)
{
	(void)irqfds;
	check(number < irqfd_count && interrupt);
}

static struct irqfds irqfds = { bind_irqfd, route };

/* --- The server. */

static size_t honest_size(const struct packet *request)
{
	switch (request->head.request) {
	case VHOST_USER_GET_VRING_BASE:
		return sizeof(request->payload.state);
	case VHOST_USER_GET_CONFIG:
		return request->head.size;
	default:
		return sizeof(request->payload.number);
	}
}

static bool wants_reply(const struct packet *request)
{
	switch (request->head.request) {
	case VHOST_USER_GET_FEATURES:
	case VHOST_USER_GET_PROTOCOL_FEATURES:
	case VHOST_USER_GET_QUEUE_NUM:
	case VHOST_USER_GET_VRING_BASE:
	case VHOST_USER_GET_CONFIG:
		return true;
	default:
		return request->head.flags & VHOST_USER_NEED_REPLY;
	}
}

/* Mostly what leads on: all features, a few queues, the queue's own index, and no refusal. */
static void fill_payload(struct packet *reply, const struct packet *request, uint8_t kind)
{
	switch (request->head.request) {
	case VHOST_USER_GET_FEATURES:
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		reply->payload.number = kind & 1 ? ~take(script, 2) : take(script, 8);
		break;
	case VHOST_USER_GET_QUEUE_NUM:
		reply->payload.number = take(script, kind & 1 ? 1 : 8);
		break;
	case VHOST_USER_GET_VRING_BASE:
		reply->payload.state.index = request->payload.state.index;
		reply->payload.state.number = take(script, kind & 1 ? 2 : 4);
		break;
	case VHOST_USER_GET_CONFIG:
		for (unsigned i = 0; i < sizeof(reply->payload.config.bytes); i += 4)
			reply->payload.config.bytes[i] = take(script, 1);
		break;
	default:
		reply->payload.number = kind & 1 ? 0 : take(script, 8);
	}
}

static void send_reply(const struct packet *request)
{
	struct packet reply = { .head = { request->head.request, VHOST_USER_VERSION | VHOST_USER_REPLY,
					honest_size(request) } };
	size_t size = sizeof(reply.head) + reply.head.size;
	uint8_t kind = take(script, 1);
	const uint8_t *bytes;

	fill_payload(&reply, request, kind);
	if (kind >= 0xf8) {
		reply.head.request = take(script, 1);
		reply.head.flags = take(script, 1);
		reply.head.size = take(script, 4);
	} else if (kind >= 0xf0) {
		size = take(script, 1) % size;
	} else if (kind >= 0xe8) {
		size = take_bytes(script, sizeof(reply), &bytes);
		memcpy(&reply, bytes, size);
	}
	/* It may have said its last word before. */
	if (size)
		send(server, &reply, size, MSG_NOSIGNAL | MSG_DONTWAIT);
	/* What else the front waits for does not come: it is not to wait for that. */
	if (kind >= 0xe8 || script_over(script))
		shutdown(server, SHUT_WR);
}

ssize_t __wrap_send_with_fds(int socket, const void *bytes, size_t length, const int *fds, unsigned count);

ssize_t __wrap_send_with_fds(int socket, const void *bytes, size_t length, const int *fds, unsigned count)
{
	struct packet request = { 0 };

	check(socket >= 0 && length >= sizeof(request.head) && length <= sizeof(request));
	check(count == 0 || fds);
	memcpy(&request, bytes, length);
	check(length == sizeof(request.head) + request.head.size);
	check((request.head.flags & VHOST_USER_VERSION_MASK) == VHOST_USER_VERSION);
	if (wants_reply(&request))
		send_reply(&request);
	return length;
}

/* --- Both. */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	memory_make(DRIVER_MEMORY);
	check(io_ring_init(&ring, RING_ENTRIES) == 0);
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

static struct virtio_device *create(uint8_t kind)
{
	static const uint8_t mac[6] = { 2 };
	const struct virtio_environment environment = { &memory, &ring };
	struct vhost_user_setup setup = {
		.type = kind % 3,
		.name = "fuzz",
		.server = "its server",
		.tag = "tag",
		.mac = mac,
		.cpus = 1 + kind / 3 % 2,
		.irqfds = &irqfds,
	};
	int ends[2];

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	setup.socket = ends[0];
	server = ends[1];
	irqfd_count = 0;
	return vhost_user_create(&environment, &setup);
}

static void check_device(const struct virtio_device *device, uint8_t kind)
{
	const unsigned cpus = 1 + kind / 3 % 2;

	check(device->queue_count >= 1 && device->queue_count <= (kind % 3 ? 2 : 1 + cpus));
	check(device->queue_count == irqfd_count);
	check(device->config_size >= 6 && device->config_size <= KARMA_CONFIG_MAX);
	check(device->offered >> VIRTIO_F_VERSION_1 & 1);
	check(!(device->offered & (1ull << VHOST_USER_F_PROTOCOL_FEATURES)));
}

static void step(uint8_t operation)
{
	struct virtio_device *device = driver.device;

	if (driver_step(&driver, operation, script))
		return;
	switch (operation & 0xf) {
	case 0:
		virtio_pause(device);
		virtio_resume(device);
		break;
	case 1:
		virtio_queue_interrupt(device, driver_queue(&driver, operation),
			&(struct karma_interrupt){ .address = 0xfee00000, .data = operation });
		break;
	default:
		shutdown(server, SHUT_RDWR);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script input = { data, data + size };
	struct virtio_device *device;
	uint8_t kind;

	script = &input;
	kind = take(script, 1);
	device = create(kind);
	if (device) {
		check_device(device, kind);
		driver_init(&driver, device, &ring);
		driver_start(&driver, script);
		for (unsigned i = 0; i < STEPS_MAX && !script_over(script); i++)
			step(take(script, 1));
		driver_reset(&driver);
	}
	/* Ends the poll that is in flight. */
	close(server);
	while (ring.eventfd_in_flight)
		io_ring_reap(&ring, true);
	if (device)
		device->ops->release(device);
	memory_clear();
	return 0;
}
