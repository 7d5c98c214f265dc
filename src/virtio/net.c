// SPDX-License-Identifier: GPL-2.0-only
/* The network device: its features, its configuration, its control queue; its life. */
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <string.h>

#include "karma/log.h"
#include "karma/snapshot.h"
#include "net.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

/* What of the configuration there is, up to the MTU (virtio 1.2, section 5.1.4). */
#define CONFIG_BYTES offsetof(struct virtio_net_config, speed)

/* What the guest takes in received frames, and how the other end calls it. */
static const struct {
	unsigned feature, offload;
} offloads_received[] = {
	{ VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM },
	{ VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4 },
	{ VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6 },
	{ VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN },
	{ VIRTIO_NET_F_GUEST_USO4, TUN_F_USO4 },
	{ VIRTIO_NET_F_GUEST_USO6, TUN_F_USO6 },
};

/* What the other end takes of the guest, if it can do the same itself. */
static const struct {
	unsigned feature, offloads;
} offloads_sent[] = {
	{ VIRTIO_NET_F_CSUM, TUN_F_CSUM },
	{ VIRTIO_NET_F_HOST_TSO4, TUN_F_TSO4 },
	{ VIRTIO_NET_F_HOST_TSO6, TUN_F_TSO6 },
	{ VIRTIO_NET_F_HOST_ECN, TUN_F_TSO_ECN },
	{ VIRTIO_NET_F_HOST_USO, TUN_F_USO4 | TUN_F_USO6 },
};

static struct net_device *device_of(struct virtio_device *device)
{
	return container_of(device, struct net_device, device);
}

static uint64_t possible_offloads(const struct net *net)
{
	uint64_t features = 0;

	for (size_t i = 0; i < ARRAY_SIZE(offloads_received); i++) {
		if (net->offloads & offloads_received[i].offload)
			features |= 1ull << offloads_received[i].feature;
	}
	return features;
}

/* A set of VIRTIO_NET_F_GUEST_*; all need the first (virtio 1.2, section 5.1.3.1). */
static int set_offloads(struct net_device *device, uint64_t features)
{
	unsigned offloads = 0;

	if (!device->net->ops->set_offloads)
		return 0;
	if (!(features & 1ull << VIRTIO_NET_F_GUEST_CSUM))
		features = 0;
	for (size_t i = 0; i < ARRAY_SIZE(offloads_received); i++) {
		if (features & 1ull << offloads_received[i].feature)
			offloads |= offloads_received[i].offload;
	}
	device->offloads = features;
	return device->net->ops->set_offloads(device->net, offloads);
}

/* The other pairs wait until they are used. */
static int use_pairs(struct net_device *device, unsigned pairs)
{
	struct net *net = device->net;
	int result = net->ops->use_queues ? net->ops->use_queues(net, pairs) : 0;

	if (result == 0)
		device->pairs_used = pairs;
	return result;
}

/* --- The control queue (virtio 1.2, section 5.1.6.5). */

static bool control_pairs(struct net_device *device, const struct virtq_chain *chain, size_t length)
{
	uint16_t pairs;

	if (length != sizeof(pairs) || !net_accepted(device, VIRTIO_NET_F_MQ))
		return false;
	iov_read(chain->iov, chain->out_count, sizeof(struct virtio_net_ctrl_hdr), &pairs,
		sizeof(pairs));
	if (pairs < 1 || pairs > device->pairs || use_pairs(device, pairs) < 0)
		return false;
	/* Their locks are not ours to take in here: the I/O thread looks at them. */
	for (unsigned i = 0; i < pairs; i++)
		net_wait_readable(device->net, i);
	return true;
}

static bool control_offloads(
	struct net_device *device, const struct virtq_chain *chain, size_t length)
{
	uint64_t features;

	if (length != sizeof(features) || !net_accepted(device, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
		return false;
	iov_read(chain->iov, chain->out_count, sizeof(struct virtio_net_ctrl_hdr), &features,
		sizeof(features));
	if (features & ~(possible_offloads(device->net) & device->device.accepted))
		return false;
	return set_offloads(device, features) == 0;
}

static bool execute(struct net_device *device, const struct virtq_chain *chain)
{
	struct virtio_net_ctrl_hdr header;
	size_t length;

	if (iov_read(chain->iov, chain->out_count, 0, &header, sizeof(header)) < sizeof(header))
		return false;
	length = chain->out_bytes - sizeof(header);
	if (header.class == VIRTIO_NET_CTRL_MQ && header.cmd == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET)
		return control_pairs(device, chain, length);
	if (header.class == VIRTIO_NET_CTRL_GUEST_OFFLOADS &&
		header.cmd == VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET)
		return control_offloads(device, chain, length);
	return false;
}

static uint32_t control(struct virtio_device *virtio, unsigned index, const struct virtq_chain *chain)
{
	struct net_device *device = device_of(virtio);
	virtio_net_ctrl_ack ack = VIRTIO_NET_OK;

	(void)index;
	/* A command whose answer has no place is none. */
	if (chain->in_bytes < sizeof(ack) || !execute(device, chain)) {
		net_count(device, NET_CONTROL_REFUSED, 1);
		ack = VIRTIO_NET_ERR;
	}
	return iov_write(chain->iov + chain->out_count, chain->in_count, 0, &ack, sizeof(ack));
}

/* --- Its life. */

/* Behind the pairs that the driver knows of: without the feature, that is one. */
static bool is_control(const struct net_device *device, unsigned queue)
{
	return queue == 2 * (net_accepted(device, VIRTIO_NET_F_MQ) ? device->pairs : 1);
}

static void net_notify(struct virtio_device *virtio, unsigned queue)
{
	struct net_device *device = device_of(virtio);

	if (is_control(device, queue))
		virtio_serve_queue(&virtio->queues[queue]);
	else if (queue >= 2 * device->pairs)
		return;
	else if (queue % 2 == 0)
		receiver_notify(&device->receivers[queue / 2]);
	else
		queue_scheduler_notify(&device->transmitters[queue / 2].scheduler);
}

static void net_driver_ok(struct virtio_device *virtio)
{
	struct net_device *device = device_of(virtio);

	set_offloads(device, virtio->accepted & possible_offloads(device->net));
	use_pairs(device, 1);
	receiver_serve(&device->receivers[0]);
}

/* The backend may have told of frames, or of room for them, while the device was paused. */
static void net_resume(struct virtio_device *virtio)
{
	struct net_device *device = device_of(virtio);

	for (unsigned i = 0; i < device->pairs; i++) {
		if (virtio_running(virtio) && i < device->pairs_used)
			net_wait_readable(device->net, i);
		if (device->transmitters[i].scheduler.blocked)
			net_wait_writable(device->net, i);
	}
}

static void net_reset(struct virtio_device *virtio)
{
	struct net_device *device = device_of(virtio);

	for (unsigned i = 0; i < device->pairs; i++) {
		receiver_reset(&device->receivers[i]);
		transmitter_reset(&device->transmitters[i]);
	}
	use_pairs(device, 1);
	set_offloads(device, 0);
}

/*
 * A frame that waits for buffers, or for room at the other end's, stays the saved guest's: a network may lose it.
 */
static void net_save(const struct virtio_device *virtio, struct snapshot_writer *to)
{
	const struct net_device *device = container_of(virtio, struct net_device, device);

	snapshot_put_number(to, device->pairs_used);
	snapshot_put_number(to, device->offloads);
}

static int net_restore(struct virtio_device *virtio, struct snapshot_reader *from)
{
	struct net_device *device = device_of(virtio);
	uint64_t pairs = snapshot_get_number(from), offloads = snapshot_get_number(from);
	int result;

	if (pairs < 1 || pairs > (net_accepted(device, VIRTIO_NET_F_MQ) ? device->pairs : 1) ||
		(offloads & ~(possible_offloads(device->net) & virtio->accepted)))
		return virtio_state_damaged(virtio, "it uses queues or offloads that its driver has not accepted");
	if (!(virtio->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return 0;
	result = set_offloads(device, offloads);
	if (result == 0)
		result = use_pairs(device, pairs);
	return result < 0 ? fail(result, "snapshot: device %s: can't set up %s as it was: %s: give the same --net",
				    virtio->name, device->net->name, strerror(-result)) : 0;
}

static void readable(void *context, unsigned pair)
{
	struct net_device *device = context;
	struct receiver *receiver = &device->receivers[pair];

	pthread_mutex_lock(receiver->queue->lock);
	if (virtio_running(&device->device))
		receiver_serve(receiver);
	pthread_mutex_unlock(receiver->queue->lock);
}

static void writable(void *context, unsigned pair)
{
	struct net_device *device = context;
	struct virtq *queue = device->transmitters[pair].scheduler.queue;

	pthread_mutex_lock(queue->lock);
	if (device->net->ops->flush && device->net->ops->flush(device->net, pair) == -EAGAIN)
		net_wait_writable(device->net, pair);
	else if (virtio_running(&device->device))
		queue_scheduler_unblock(&device->transmitters[pair].scheduler);
	pthread_mutex_unlock(queue->lock);
}

static void link_changed(void *context, bool up)
{
	struct net_device *device = context;

	pthread_mutex_lock(&device->device.lock);
	device->config.status = up ? VIRTIO_NET_S_LINK_UP : 0;
	virtio_config_changed(&device->device);
	pthread_mutex_unlock(&device->device.lock);
}

static const struct net_events events = {
	.readable = readable,
	.writable = writable,
	.link_changed = link_changed,
};

static void free_device(struct net_device *device)
{
	for (unsigned i = 0; device->receivers && i < device->pairs; i++)
		receiver_release(&device->receivers[i]);
	free(device->receivers);
	free(device->transmitters);
	virtio_device_free(&device->device);
}

static void net_release(struct virtio_device *virtio)
{
	struct net_device *device = device_of(virtio);

	net_detach(device->net);
	free_device(device);
}

static const struct virtio_device_ops net_device_ops = {
	.device_id = VIRTIO_ID_NET,
	.driver_ok = net_driver_ok,
	.notify = net_notify,
	.serve = control,
	.resume = net_resume,
	.save = net_save,
	.restore = net_restore,
	.reset = net_reset,
	.release = net_release,
};

static uint64_t choose_features(const struct net *net, unsigned mtu)
{
	uint64_t features = 1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS |
		1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_CTRL_VQ;

	features |= possible_offloads(net);
	if (features & 1ull << VIRTIO_NET_F_GUEST_CSUM)
		features |= 1ull << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
	for (size_t i = 0; i < ARRAY_SIZE(offloads_sent); i++) {
		if ((net->offloads & offloads_sent[i].offloads) == offloads_sent[i].offloads)
			features |= 1ull << offloads_sent[i].feature;
	}
	if (net->queue_count > 1)
		features |= 1ull << VIRTIO_NET_F_MQ;
	if (mtu)
		features |= 1ull << VIRTIO_NET_F_MTU;
	return features;
}

static int make_pairs(struct net_device *device)
{
	unsigned pairs = device->pairs;

	device->receivers = calloc(pairs, sizeof(*device->receivers));
	device->transmitters = calloc(pairs, sizeof(*device->transmitters));
	if (!device->receivers || !device->transmitters)
		return -ENOMEM;
	for (unsigned i = 0; i < pairs; i++) {
		if (receiver_init(&device->receivers[i], device, i) < 0)
			return -ENOMEM;
		transmitter_init(&device->transmitters[i], device, i);
		device->device.queues[2 * i].name = "receive";
		device->device.queues[2 * i + 1].name = "transmit";
	}
	device->device.queues[2 * pairs].name = "control";
	return 0;
}

void net_device_limit(
	struct virtio_device *virtio, struct rate_limiter *receive_limit, struct rate_limiter *transmit_limit)
{
	struct net_device *device = device_of(virtio);

	device->receive_limit = receive_limit;
	device->transmit_limit = transmit_limit;
	for (unsigned i = 0; i < device->pairs; i++)
		queue_scheduler_set_limit(&device->transmitters[i].scheduler, transmit_limit,
			&device->counters[NET_LIMITED].value);
}

struct virtio_device *net_create(const struct virtio_environment *environment, const char *name,
	struct net *net, const uint8_t mac[ETH_ALEN], unsigned mtu)
{
	static const char *const counters[NET_COUNTERS] = {
		[NET_RECEIVED] = "receive.frames",
		[NET_RECEIVED_BYTES] = "receive.bytes",
		[NET_RECEIVE_DROPPED] = "receive.dropped",
		[NET_SENT] = "transmit.frames",
		[NET_SENT_BYTES] = "transmit.bytes",
		[NET_SEND_REFUSED] = "transmit.refused",
		[NET_SEND_DROPPED] = "transmit.dropped",
		[NET_CONTROL_REFUSED] = "control.refused",
		[NET_LIMITED] = "limited",
	};
	unsigned pairs = net->queue_count;
	struct net_device *device;

	if (!mtu)
		mtu = net->mtu;
	device = virtio_device_create(sizeof(*device), &net_device_ops, name,
		choose_features(net, mtu), 2 * pairs + 1, NET_QUEUE_SIZE, environment);
	if (!device)
		return NULL;
	virtio_separate_queues(&device->device);
	device->net = net;
	device->pairs = pairs;
	device->pairs_used = 1;
	if (make_pairs(device) < 0) {
		free_device(device);
		return NULL;
	}
	device->config = (struct virtio_net_config){
		.status = net->up ? VIRTIO_NET_S_LINK_UP : 0,
		.max_virtqueue_pairs = pairs,
		.mtu = mtu,
	};
	memcpy(device->config.mac, mac, ETH_ALEN);
	/* A wait of each transmit queue. */
	device->device.in_flight_max = pairs;
	device->device.config = &device->config;
	device->device.config_size = CONFIG_BYTES;
	virtio_set_counters(&device->device, device->counters, counters, NET_COUNTERS);
	net_attach(net, &events, device);
	return &device->device;
}
