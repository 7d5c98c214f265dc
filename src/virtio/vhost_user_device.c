// SPDX-License-Identifier: GPL-2.0-only
/* vhost-user devices: the front of a virtio device whose queues a server in another process serves. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "karma/log.h"
#include "karma/util.h"
#include "karma/vhost_user.h"
#include "vhost_user.h"

/*
 * A request of virtio-fs has a descriptor for each page, and Linux limits requests by the size of
 * the queue: this one has room for those of 1 MiB.
 */
#define FS_QUEUE_SIZE 1024u
#define QUEUE_SIZE 256u

/* Of virtio_blk_config, up to what discards and writes of zeroes need (virtio 1.2, section 5.2.4). */
#define BLK_CONFIG_BYTES offsetof(struct virtio_blk_config, max_secure_erase_sectors)
/* Of virtio_net_config, the MAC address (section 5.1.4). */
#define NET_CONFIG_BYTES ETH_ALEN

#define BIT(number) (1ull << (number))

/* The features of rings that a guest may have; all others are of the device's type. */
#define RING_FEATURES \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX))

/* Without those that make the configuration writable. */
#define BLK_FEATURES \
	(BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_GEOMETRY) | \
		BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) | \
		BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_BLK_F_DISCARD) | \
		BIT(VIRTIO_BLK_F_WRITE_ZEROES))

/* Without those of a control queue, which no server has. */
#define NET_FEATURES \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | \
		BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN) | \
		BIT(VIRTIO_NET_F_GUEST_UFO) | BIT(VIRTIO_NET_F_HOST_TSO4) | \
		BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_HOST_ECN) | \
		BIT(VIRTIO_NET_F_HOST_UFO) | BIT(VIRTIO_NET_F_MRG_RXBUF))

enum { STARTS, COUNTERS };

/* A queue, beside its struct virtq: what passes between the guest and the server. */
struct passage {
	struct vhost_user_eventfds eventfds;
	unsigned irqfd;		/* the number of eventfds.call */
	uint16_t base;		/* where the server goes on */
	bool started;
};

union device_config {
	struct virtio_fs_config fs;
	struct virtio_blk_config blk;
	struct virtio_net_config net;
};

struct front {
	struct virtio_device device;
	struct vhost_user server;
	const char *name;	/* of the server, for messages */
	struct irqfds *irqfds;
	union device_config config;
	struct virtio_counter counters[COUNTERS];
	struct io_op hang_up_op;
	struct passage passages[];
};

static struct front *front_of(struct virtio_device *device)
{
	return container_of(device, struct front, device);
}

/* --- Loss of the server. */

/* With all locks held.  Once: what the guest asks for from now on is answered by nobody. */
static void give_up(struct front *front)
{
	for (unsigned i = 0; i < front->device.queue_count; i++)
		front->passages[i].started = false;
	if (front->device.errors_logged++ == 0)
		note("%s %s: device %s answers the guest no more: start the guest anew, and see what the "
		     "server says",
			front->name, front->server.why, front->device.name);
	if (front->device.status & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_request_reset(&front->device);
}

/* On the I/O thread: nothing but its end makes the socket tell of itself. */
static void hung_up(struct io_op *op, int result)
{
	struct front *front = container_of(op, struct front, hang_up_op);

	if (result < 0)
		return;
	virtio_lock(&front->device);
	if (!front->server.why) {
		vhost_user_lose(&front->server, -EPIPE, "has ended");
		give_up(front);
	}
	virtio_unlock(&front->device);
}

/* --- Queues. */

static void kick(struct front *front, unsigned queue)
{
	const uint64_t one = 1;

	/* It fails only if the counter is at its maximum, and then the eventfd is raised already. */
	if (write_bytes(front->passages[queue].eventfds.kick, &one, sizeof(one)) < 0)
		return;
}

/* With a kick, since the guest may have notified before, and some servers start a queue by it. */
static int start_queue(struct front *front, unsigned index)
{
	struct passage *passage = &front->passages[index];
	int result = vhost_user_start_queue(
		&front->server, &front->device.queues[index], passage->base, &passage->eventfds);

	if (result < 0)
		return result;
	passage->started = true;
	count_up(&front->counters[STARTS].value, 1);
	kick(front, index);
	return 0;
}

static void start_queues(struct front *front)
{
	struct virtio_device *device = &front->device;
	int result = vhost_user_set_up(&front->server, device->accepted, device->queues[0].memory);

	for (unsigned i = 0; i < device->queue_count && result == 0; i++) {
		if (device->queues[i].size)
			result = start_queue(front, i);
	}
	if (result < 0)
		give_up(front);
}

static void stop_queues(struct front *front)
{
	for (unsigned i = 0; i < front->device.queue_count; i++) {
		struct passage *passage = &front->passages[i];

		if (!passage->started)
			continue;
		if (vhost_user_stop_queue(&front->server, i, &passage->base) < 0) {
			give_up(front);
			return;
		}
		passage->started = false;
	}
}

/* --- The device's operations. */

static void driver_ok(struct virtio_device *device)
{
	struct front *front = front_of(device);

	for (unsigned i = 0; i < device->queue_count; i++)
		front->passages[i].base = 0;
	start_queues(front);
}

static void notify(struct virtio_device *device, unsigned queue)
{
	struct front *front = front_of(device);

	if (front->passages[queue].started)
		kick(front, queue);
}

static void set_interrupt(struct virtio_device *device, unsigned queue)
{
	struct front *front = front_of(device);

	front->irqfds->route(
		front->irqfds, front->passages[queue].irqfd, &device->queues[queue].interrupt);
}

/* The transport forgets the messages of all interrupts. */
static void reset(struct virtio_device *device)
{
	struct front *front = front_of(device);
	const struct karma_interrupt none = { 0 };

	stop_queues(front);
	for (unsigned i = 0; i < device->queue_count; i++)
		front->irqfds->route(front->irqfds, front->passages[i].irqfd, &none);
}

/* The operation is none that a drain waits for. */
static void start(struct virtio_device *device)
{
	struct front *front = front_of(device);

	front->hang_up_op.done = hung_up;
	io_ring_poll(device->ring, &front->hang_up_op, front->server.fd, POLLRDHUP);
	io_ring_submit(device->ring);
}

static void pause_device(struct virtio_device *device)
{
	stop_queues(front_of(device));
}

/*
 * What a server has of a guest is out of reach; it has nothing before the first chain.  So another can serve a
 * device that had none: a file system that is not mounted yet.
 */
static const char *unsavable(const struct virtio_device *device)
{
	const struct front *front = container_of(device, struct front, device);

	if (!(device->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return NULL;
	if (device->ops->device_id != VIRTIO_ID_FS)
		return "its server has a state of its own: start the guest without it";
	if (front->server.why)
		return "its server has ended: start the guest anew";
	for (unsigned i = 0; i < device->queue_count; i++) {
		if (front->passages[i].base)
			return "its server has files open for the guest: make the snapshot before it is mounted";
	}
	return NULL;
}

static void resume(struct virtio_device *device)
{
	if (virtio_running(device))
		start_queues(front_of(device));
}

/* So that what the guest was told is done when its process ends. */
static void end(struct virtio_device *device)
{
	virtio_lock(device);
	stop_queues(front_of(device));
	virtio_unlock(device);
}

static void release(struct virtio_device *device)
{
	struct front *front = front_of(device);

	vhost_user_close(&front->server);
	for (unsigned i = 0; i < device->queue_count; i++) {
		close_fd(&front->passages[i].eventfds.kick);
		close_fd(&front->passages[i].eventfds.call);
	}
	virtio_device_free(device);
}

#define OPS(id) \
	{ \
		.device_id = id, .driver_ok = driver_ok, .notify = notify, \
		.set_interrupt = set_interrupt, .reset = reset, .start = start, \
		.pause = pause_device, .resume = resume, .unsavable = unsavable, .end = end, .release = release, \
	}

static const struct virtio_device_ops fs_ops = OPS(VIRTIO_ID_FS), blk_ops = OPS(VIRTIO_ID_BLOCK),
				      net_ops = OPS(VIRTIO_ID_NET);

/* --- Creation. */

/* What there is to be offered to a driver, before there is a device. */
struct offer {
	const struct virtio_device_ops *ops;
	uint64_t features;
	unsigned queues;
	uint16_t queue_size;
	size_t config_size;
	union device_config config;
};

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static int offer_fs(const struct vhost_user *server, const struct vhost_user_setup *setup,
	struct offer *offer)
{
	struct virtio_fs_config *config = &offer->config.fs;
	/* The first queue is for what must not wait behind requests (section 5.11.2). */
	const unsigned requests = least(setup->cpus, server->queues > 1 ? server->queues - 1 : 1);

	memcpy(config->tag, setup->tag, strnlen(setup->tag, sizeof(config->tag)));
	config->num_request_queues = requests;
	offer->ops = &fs_ops;
	offer->queues = 1 + requests;
	offer->queue_size = FS_QUEUE_SIZE;
	offer->config_size = sizeof(*config);
	return 0;
}

static int offer_blk(struct vhost_user *server, const struct vhost_user_setup *setup, struct offer *offer)
{
	struct virtio_blk_config *config = &offer->config.blk;
	int result = vhost_user_get_config(server, config, BLK_CONFIG_BYTES);
	unsigned queues = 1;

	if (result == -ENOTSUP)
		return vhost_user_lose(server, result, "tells no configuration, as one of disks does");
	if (result < 0)
		return result;
	if ((server->features & BIT(VIRTIO_BLK_F_MQ)) && config->num_queues)
		queues = least(setup->cpus, least(config->num_queues, server->queues));
	config->num_queues = queues;
	offer->ops = &blk_ops;
	offer->features |= server->features & BLK_FEATURES;
	offer->queues = queues;
	offer->queue_size = QUEUE_SIZE;
	offer->config_size = BLK_CONFIG_BYTES;
	return 0;
}

static int offer_net(struct vhost_user *server, const struct vhost_user_setup *setup, struct offer *offer)
{
	struct virtio_net_config *config = &offer->config.net;
	int result = -ENOTSUP;

	if (server->features & BIT(VIRTIO_NET_F_MAC))
		result = vhost_user_get_config(server, config, NET_CONFIG_BYTES);
	if (result < 0 && result != -ENOTSUP)
		return result;
	if (result < 0)
		memcpy(config->mac, setup->mac, NET_CONFIG_BYTES);
	offer->ops = &net_ops;
	offer->features |= (server->features & NET_FEATURES) | BIT(VIRTIO_NET_F_MAC);
	offer->queues = 2;
	offer->queue_size = QUEUE_SIZE;
	offer->config_size = NET_CONFIG_BYTES;
	return 0;
}

static int negotiate(struct vhost_user *server, const struct vhost_user_setup *setup, struct offer *offer)
{
	int result = vhost_user_open(server, setup->socket);

	if (result == 0 && !(server->features & BIT(VIRTIO_F_VERSION_1)))
		return vhost_user_lose(server, -ENOTSUP, "is too old: it lacks VIRTIO_F_VERSION_1");
	if (result < 0)
		return result;
	offer->features = server->features & RING_FEATURES;
	switch (setup->type) {
	case VHOST_USER_FS:
		return offer_fs(server, setup, offer);
	case VHOST_USER_BLK:
		return offer_blk(server, setup, offer);
	default:
		return offer_net(server, setup, offer);
	}
}

static const char *queue_name(enum vhost_user_type type, unsigned index)
{
	if (type == VHOST_USER_NET)
		return index ? "transmit" : "receive";
	return type == VHOST_USER_FS && index == 0 ? "hiprio" : "request";
}

static int make_passage(struct front *front, unsigned index)
{
	struct passage *passage = &front->passages[index];
	int result;

	passage->eventfds.kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	passage->eventfds.call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (passage->eventfds.kick < 0 || passage->eventfds.call < 0)
		return fail(-errno, "eventfd: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	result = front->irqfds->bind(front->irqfds, passage->eventfds.call);
	if (result >= 0)
		passage->irqfd = result;
	return result < 0 ? result : 0;
}

static int make_passages(struct front *front, enum vhost_user_type type)
{
	int result = 0;

	for (unsigned i = 0; i < front->device.queue_count; i++) {
		front->device.queues[i].name = queue_name(type, i);
		front->passages[i].eventfds = (struct vhost_user_eventfds){ -1, -1 };
	}
	for (unsigned i = 0; i < front->device.queue_count && result == 0; i++)
		result = make_passage(front, i);
	return result;
}

static struct front *make_front(const struct virtio_environment *environment,
	const struct vhost_user_setup *setup, const struct offer *offer)
{
	static const char *const counters[COUNTERS] = { [STARTS] = "starts" };
	struct front *front = virtio_device_create(
		sizeof(*front) + offer->queues * sizeof(front->passages[0]), offer->ops, setup->name, 0,
		offer->queues, offer->queue_size, environment);

	if (!front) {
		fail(-ENOMEM, "%s: out of memory", setup->name);
		return NULL;
	}
	front->device.offered = offer->features;
	front->name = setup->server;
	front->irqfds = setup->irqfds;
	front->config = offer->config;
	front->device.config = &front->config;
	front->device.config_size = offer->config_size;
	virtio_separate_queues(&front->device);
	virtio_set_counters(&front->device, front->counters, counters, COUNTERS);
	return front;
}

struct virtio_device *vhost_user_create(
	const struct virtio_environment *environment, const struct vhost_user_setup *setup)
{
	static const char *const kinds[] = { "file systems", "disks", "networks" };
	struct vhost_user server;
	struct offer offer = { 0 };
	struct front *front = NULL;
	int result = negotiate(&server, setup, &offer);

	if (result < 0)
		fail(result, "%s %s: see what it says, and whether it is one of %s", setup->server,
			server.why, kinds[setup->type]);
	else
		front = make_front(environment, setup, &offer);
	if (!front) {
		vhost_user_close(&server);
		return NULL;
	}
	front->server = server;
	if (make_passages(front, setup->type) < 0) {
		release(&front->device);
		return NULL;
	}
	return &front->device;
}
