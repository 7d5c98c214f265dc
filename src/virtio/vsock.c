// SPDX-License-Identifier: GPL-2.0-only
/*
 * The socket device (virtio 1.2, section 5.10): stream connections between ports of the guest and Unix
 * sockets of the host.
 *
 * Payload goes straight between guest memory and a connection's socket, which is non-blocking, on the
 * thread that finds both ready.  What a socket does not take at once is copied to the connection's
 * buffer, so that a slow reader holds up no queue: its guest has credit for as much as the buffer holds.
 */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <linux/vm_sockets.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "karma/snapshot.h"
#include "vsock.h"

#define MESSAGES_AT_A_TIME 64u

/*
 * After a pause, on a thread that may shut sockets down, which the one that resumes may not: what was
 * ready meanwhile, and was left alone.
 */
static void go_on(struct vsock *vsock)
{
	vsock->resumed = false;
	for (unsigned i = 0; i < vsock->used; i++) {
		struct vsock_connection *connection = &vsock->connections[i];

		vsock_end_lost_offer(connection);
		if (connection->state == VSOCK_ESTABLISHED || connection->state == VSOCK_LINGERING)
			vsock_flush_buffer(connection);
	}
}

/* --- The event queue (section 5.10.6.7), for a guest that is restored. */

static void arm_connector(struct vsock *vsock);

static enum virtio_step put_event(struct virtq *queue)
{
	struct vsock *vsock = container_of(queue->device, struct vsock, device);
	const struct virtio_vsock_event event = { .id = htole32(VIRTIO_VSOCK_EVENT_TRANSPORT_RESET) };
	struct iovec iov[VSOCK_CHAIN_BUFFERS];
	struct virtq_chain chain;

	if (!vsock->event_due)
		return VIRTIO_BLOCKED;
	if (!virtio_pop(&vsock->device, queue, iov, ARRAY_SIZE(iov), &chain))
		return VIRTIO_NO_CHAIN;
	virtq_push(queue, chain.head, iov_write(iov + chain.out_count, chain.in_count, 0, &event, sizeof(event)));
	vsock->event_due = false;
	return VIRTIO_SERVED;
}

/* Ask for a notification of the next buffer, however many there are. */
static void wait_for_buffer(struct virtq *queue)
{
	unsigned waiting = 1;

	while (waiting <= queue->size && virtq_notify_at(queue, waiting))
		waiting++;
}

/* The guest has taken note when it offers the buffer again, behind the event; one without buffers never does. */
static void serve_event_queue(struct vsock *vsock)
{
	struct virtq *queue = &vsock->device.queues[VSOCK_EVENT];
	bool was_due = vsock->event_due;

	virtio_serve_chains(queue, put_event);
	if (was_due && !vsock->event_due) {
		wait_for_buffer(queue);
	} else if (vsock->connections_held) {
		vsock->connections_held = false;
		arm_connector(vsock);
	}
}

static void vsock_notify(struct virtio_device *device, unsigned queue)
{
	struct vsock *vsock = container_of(device, struct vsock, device);

	if (vsock->resumed)
		go_on(vsock);
	if (queue == VSOCK_EVENT && (vsock->event_due || vsock->connections_held))
		serve_event_queue(vsock);
	if (queue == VSOCK_TRANSMIT)
		virtio_serve_chains(&device->queues[VSOCK_TRANSMIT], vsock_transmit_step);
	if (queue != VSOCK_EVENT)
		vsock_receive(vsock);
}

/* The supervisor's answer; a socket for a connection that is no more is closed. */
static void serve_answer(struct vsock *vsock, const struct vsock_message *answer, int fd)
{
	vsock->asked--;
	for (unsigned i = 0; i < vsock->used; i++) {
		struct vsock_connection *connection = &vsock->connections[i];

		if (connection->state != VSOCK_CONNECTING || connection->id != answer->id)
			continue;
		connection->fd = fd;
		if (fd < 0) {
			vsock_reset_connection(connection);
		} else {
			connection->due |= VSOCK_DUE_RESPONSE;
			vsock_establish(connection);
		}
		return;
	}
	close_fd(&fd);
}

/* The host's ports from here on are for connections to the guest: no two of them to one port are the same. */
#define OFFER_PORTS 0x40000000u

static void serve_offer(struct vsock *vsock, const struct vsock_message *offer, int fd)
{
	struct vsock_connection *connection = NULL;
	int why = -ENOTCONN;

	if (virtio_running(&vsock->device)) {
		/* Without a socket: this process has as many descriptors as it may. */
		why = -EBUSY;
		if (fd >= 0 && vsock->reset_count < VSOCK_RESETS_HELD)
			connection = vsock_new_connection(vsock, VSOCK_OFFERED, offer->port,
				OFFER_PORTS | (vsock->next_id++ & (OFFER_PORTS - 1)));
	}
	if (!connection) {
		vsock_answer_offer(vsock, offer->id, why);
		close_fd(&fd);
		return;
	}
	connection->id = offer->id;
	connection->fd = fd;
	connection->due = VSOCK_DUE_REQUEST;
	vsock_wait_readable(connection);
}

/* The supervisor's messages, as many at a time as there may be. */
static void serve_connector(struct vsock *vsock)
{
	struct vsock_message message;
	int fd, result = 0;

	for (unsigned i = 0; i < MESSAGES_AT_A_TIME && result == 0; i++) {
		result = vsock_connector_receive(vsock->connector, &message, &fd);
		if (result == 0 && message.kind == VSOCK_CONNECT)
			serve_offer(vsock, &message, fd);
		else if (result == 0)
			serve_answer(vsock, &message, fd);
	}
	/* Otherwise the supervisor has gone, and this process ends. */
	if (result == 0 || result == -EAGAIN)
		arm_connector(vsock);
	if (virtio_running(&vsock->device))
		vsock_receive(vsock);
}

static void connector_done(struct io_op *op, int result)
{
	struct vsock *vsock = container_of(op, struct vsock, connector_op);

	(void)result;
	pthread_mutex_lock(&vsock->device.lock);
	vsock->connector_armed = false;
	if (vsock->device.state != VIRTIO_PAUSED)
		serve_connector(vsock);
	pthread_mutex_unlock(&vsock->device.lock);
}

static void arm_connector(struct vsock *vsock)
{
	if (vsock->connector_armed || vsock->connections_held)
		return;
	vsock->connector_armed = true;
	vsock->connector_op.done = connector_done;
	io_ring_poll(vsock->device.ring, &vsock->connector_op, vsock->connector->sockets[1], POLLIN);
	io_ring_submit(vsock->device.ring);
}

/* --- The life cycle. */

static void vsock_start(struct virtio_device *device)
{
	arm_connector(container_of(device, struct vsock, device));
}

static void vsock_resume(struct virtio_device *device)
{
	struct vsock *vsock = container_of(device, struct vsock, device);

	arm_connector(vsock);
	vsock->resumed = true;
}

static void vsock_reset(struct virtio_device *device)
{
	struct vsock *vsock = container_of(device, struct vsock, device);

	for (unsigned i = 0; i < vsock->used; i++) {
		struct vsock_connection *connection = &vsock->connections[i];

		if (connection->state != VSOCK_FREE && connection->state != VSOCK_CLOSING)
			vsock_drop_connection(connection, -ECONNRESET);
	}
	vsock->reset_count = 0;
	vsock->chain_count = 0;
	vsock->transmit_blocked = false;
	vsock->event_due = vsock->connections_held = false;
	arm_connector(vsock);
}

/* --- Snapshots: the connections stay the saved guest's, and the restored one has them reset. */

static void save_reset(struct snapshot_writer *to, struct vsock_reset_packet reset)
{
	snapshot_put_number(to, reset.host_cid);
	snapshot_put_number(to, reset.host_port);
	snapshot_put_number(to, reset.guest_port);
	snapshot_put_number(to, reset.type);
}

static void vsock_save(const struct virtio_device *device, struct snapshot_writer *to)
{
	const struct vsock *vsock = container_of(device, struct vsock, device);
	unsigned known = 0;

	for (unsigned i = 0; i < vsock->used; i++)
		known += vsock_is_known(&vsock->connections[i]);
	snapshot_put_number(to, vsock->next_id);
	snapshot_put_number(to, known || vsock->event_due || vsock->connections_held);
	snapshot_put_number(to, vsock->reset_count + known);
	for (unsigned i = 0; i < vsock->reset_count; i++)
		save_reset(to, vsock->resets[(vsock->first_reset + i) % VSOCK_RESETS_MAX]);
	for (unsigned i = 0; i < vsock->used; i++) {
		if (vsock_is_known(&vsock->connections[i]))
			save_reset(to, vsock_reset_of(&vsock->connections[i]));
	}
}

static void restore_reset(struct vsock *vsock, struct snapshot_reader *from)
{
	struct vsock_reset_packet reset = { .host_cid = snapshot_get_number(from) };

	reset.host_port = snapshot_get_number(from);
	reset.guest_port = snapshot_get_number(from);
	reset.type = snapshot_get_number(from);
	vsock_add_reset(vsock, reset);
}

static int vsock_restore(struct virtio_device *device, struct snapshot_reader *from)
{
	struct vsock *vsock = container_of(device, struct vsock, device);
	uint64_t resets;

	/* So that no connection is taken for one that the guest knew. */
	vsock->next_id = snapshot_get_number(from);
	vsock->event_due = snapshot_get_number(from);
	vsock->connections_held = vsock->event_due && device->queues[VSOCK_EVENT].size;
	resets = snapshot_get_number(from);
	if (resets > VSOCK_RESETS_MAX)
		return virtio_state_damaged(device, "it has more resets than there can be");
	for (uint64_t i = 0; i < resets; i++)
		restore_reset(vsock, from);
	return 0;
}

static void vsock_release(struct virtio_device *device)
{
	struct vsock *vsock = container_of(device, struct vsock, device);

	for (unsigned i = 0; i < vsock->used; i++) {
		if (vsock->connections[i].state != VSOCK_FREE)
			close_fd(&vsock->connections[i].fd);
	}
	munmap(vsock->buffers, (size_t)VSOCK_CONNECTIONS_MAX * VSOCK_BUFFER_BYTES);
	virtio_device_free(device);
}

static const struct virtio_device_ops vsock_ops = {
	.device_id = VIRTIO_ID_VSOCK,
	.notify = vsock_notify,
	.reset = vsock_reset,
	.start = vsock_start,
	.resume = vsock_resume,
	.save = vsock_save,
	.restore = vsock_restore,
	.release = vsock_release,
};

struct virtio_device *vsock_create(
	const struct virtio_environment *environment, struct vsock_connector *connector)
{
	static const char *const counters[VSOCK_COUNTERS] = {
		[VSOCK_CONNECTIONS] = "connections",
		[VSOCK_RESETS] = "resets",
		[VSOCK_RECEIVED_BYTES] = "receive.bytes",
		[VSOCK_TRANSMITTED_BYTES] = "transmit.bytes",
	};
	struct vsock *vsock = virtio_device_create(sizeof(*vsock), &vsock_ops, "vsock", 0, VSOCK_QUEUES,
		VSOCK_QUEUE_SIZE, environment);

	if (!vsock)
		return NULL;
	/* Takes memory only where a connection's socket was full. */
	vsock->buffers = mmap(NULL, (size_t)VSOCK_CONNECTIONS_MAX * VSOCK_BUFFER_BYTES,
		PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vsock->buffers == MAP_FAILED) {
		virtio_device_free(&vsock->device);
		return NULL;
	}
	/* Answers that vCPUs wait for. */
	vsock->device.in_flight_max = VSOCK_CONNECTIONS_MAX;
	vsock->connector = connector;
	vsock->config.guest_cid = htole64(VSOCK_GUEST_CID);
	vsock->device.config = &vsock->config;
	vsock->device.config_size = sizeof(vsock->config);
	vsock->device.queues[VSOCK_RECEIVE].name = "receive";
	vsock->device.queues[VSOCK_TRANSMIT].name = "transmit";
	vsock->device.queues[VSOCK_EVENT].name = "event";
	virtio_set_counters(&vsock->device, vsock->counters, counters, VSOCK_COUNTERS);
	return &vsock->device;
}
