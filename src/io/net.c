// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the backends of network devices have in common: life cycle, links, waiting for frames and
 * for room.
 */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>

#include "karma/net.h"
#include "karma/util.h"

int net_open(struct net **net, const struct net_options *options, struct io_ring *ring)
{
	return options->kind == NET_USER ? passt_open(net, options, ring) :
					   tap_open(net, options, ring);
}

int net_start(struct net *net, bool again)
{
	return net->ops->start ? net->ops->start(net, again) : 0;
}

bool net_query_link(struct net *net, int monitor_fd, enum net_link *link)
{
	enum net_link known = net->gone ? NET_LINK_GONE : net->up ? NET_LINK_UP : NET_LINK_DOWN;

	*link = net->ops->query_link && !net->gone ? net->ops->query_link(net, monitor_fd) : known;
	return *link != known;
}

void net_set_known_link(struct net *net, enum net_link link)
{
	net->up = link == NET_LINK_UP;
	net->gone = link == NET_LINK_GONE;
}

void net_close(struct net *net)
{
	net->ops->close(net);
}

void net_init(struct net *net, const struct net_ops *ops, struct io_ring *ring)
{
	net->ops = ops;
	net->ring = ring;
	for (unsigned i = 0; i < NET_QUEUES_MAX; i++) {
		net->queues[i].net = net;
		net->queues[i].index = i;
		net->queues[i].fd = -1;
	}
}

void net_attach(struct net *net, const struct net_events *events, void *context)
{
	net->events = events;
	net->context = context;
}

void net_detach(struct net *net)
{
	net->events = NULL;
	net->context = NULL;
}

void net_set_link(struct net *net, bool up)
{
	if (atomic_exchange(&net->up, up) != up && net->events)
		net->events->link_changed(net->context, up);
}

static void gone_done(struct io_op *op, int result)
{
	struct net *net = container_of(op, struct net, gone_op);

	(void)result;
	net_set_link(net, false);
	net->ops->gone(net);
}

/* On the I/O thread, since the caller may hold a lock of the device. */
void net_set_gone(struct net *net)
{
	if (atomic_exchange(&net->gone, true))
		return;
	net->gone_op.done = gone_done;
	io_ring_nop(net->ring, &net->gone_op);
	io_ring_submit(net->ring);
}

static void update_done(struct io_op *op, int result)
{
	struct net *net = container_of(op, struct net, update_op);

	(void)result;
	net->update_armed = false;
	if (!net->gone)
		net_set_link(net, net->new_up);
}

void net_update_link(struct net *net, enum net_link link)
{
	if (link == NET_LINK_GONE) {
		net_set_gone(net);
		return;
	}
	net->new_up = link == NET_LINK_UP;
	if (atomic_exchange(&net->update_armed, true))
		return;
	net->update_op.done = update_done;
	io_ring_nop(net->ring, &net->update_op);
	io_ring_submit(net->ring);
}

/*
 * After an error as well: the device tries to receive, and sees for itself.  The poll is cancelled
 * when the thread that submitted it ends.
 */
static void call_readable(struct net_queue *queue)
{
	struct net *net = queue->net;

	if (net->events)
		net->events->readable(net->context, queue->index);
}

static void readable_done(struct io_op *op, int result)
{
	struct net_queue *queue = container_of(op, struct net_queue, readable_op);

	(void)result;
	queue->readable_armed = false;
	call_readable(queue);
}

static void vcpu_readable_done(struct io_op *op, int result)
{
	struct net_queue *queue = container_of(op, struct net_queue, vcpu_readable_op);

	(void)result;
	queue->vcpu_readable_armed = false;
	call_readable(queue);
}

static void writable_done(struct io_op *op, int result)
{
	struct net_queue *queue = container_of(op, struct net_queue, writable_op);
	struct net *net = queue->net;

	(void)result;
	queue->writable_armed = false;
	if (net->events)
		net->events->writable(net->context, queue->index);
}

bool net_pending(const struct net *net, unsigned index)
{
	return net->ops->pending && net->ops->pending(net, index);
}

void net_wait_readable(struct net *net, unsigned index)
{
	struct net_queue *queue = &net->queues[index];

	if (atomic_exchange(&queue->readable_armed, true))
		return;
	queue->readable_op.done = readable_done;
	if (net_pending(net, index))
		io_ring_nop(net->ring, &queue->readable_op);
	else
		io_ring_poll(net->ring, &queue->readable_op, queue->fd, POLLIN);
	io_ring_submit(net->ring);
}

void net_wait_readable_on_vcpu(struct net *net, unsigned index)
{
	struct net_queue *queue = &net->queues[index];

	if (atomic_exchange(&queue->vcpu_readable_armed, true))
		return;
	queue->vcpu_readable_op.done = vcpu_readable_done;
	io_ring_poll_current(&queue->vcpu_readable_op, queue->fd, POLLIN);
	io_ring_submit(io_ring_current(net->ring));
}

bool net_waits_on_vcpu(const struct net *net, unsigned index)
{
	return net->queues[index].vcpu_readable_armed;
}

void net_wait_writable(struct net *net, unsigned index)
{
	struct net_queue *queue = &net->queues[index];

	if (atomic_exchange(&queue->writable_armed, true))
		return;
	queue->writable_op.done = writable_done;
	io_ring_poll(net->ring, &queue->writable_op, queue->fd, POLLOUT);
	io_ring_submit(net->ring);
}
