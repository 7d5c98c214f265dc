// SPDX-License-Identifier: GPL-2.0-only
/* What the other ends of network devices have in common: waiting for frames and for room. */
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

bool net_query_link(struct net *net, int links_fd, enum net_link *link)
{
	enum net_link known = net->ended ? NET_LINK_GONE : net->up ? NET_LINK_UP : NET_LINK_DOWN;

	*link = net->ops->query_link && !net->ended ? net->ops->query_link(net, links_fd) : known;
	return *link != known;
}

void net_set_known_link(struct net *net, enum net_link link)
{
	net->up = link == NET_LINK_UP;
	net->ended = link == NET_LINK_GONE;
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

static void has_ended(struct io_op *op, int result)
{
	struct net *net = container_of(op, struct net, ended_op);

	(void)result;
	net_set_link(net, false);
	net->ops->gone(net);
}

/* Who notices may hold a lock of the device. */
void net_set_gone(struct net *net)
{
	if (atomic_exchange(&net->ended, true))
		return;
	net->ended_op.done = has_ended;
	io_ring_nop(net->ring, &net->ended_op);
	io_ring_submit(net->ring);
}

static void follow(struct io_op *op, int result)
{
	struct net *net = container_of(op, struct net, told_op);

	(void)result;
	net->telling = false;
	if (!net->ended)
		net_set_link(net, net->told_up);
}

void net_update_link(struct net *net, enum net_link link)
{
	if (link == NET_LINK_GONE) {
		net_set_gone(net);
		return;
	}
	net->told_up = link == NET_LINK_UP;
	if (atomic_exchange(&net->telling, true))
		return;
	net->told_op.done = follow;
	io_ring_nop(net->ring, &net->told_op);
	io_ring_submit(net->ring);
}

/* An error, too: who asked looks for itself, and it may be that the thread ended that had asked. */
static void tell_readable(struct net_queue *queue)
{
	struct net *net = queue->net;

	if (net->events)
		net->events->readable(net->context, queue->index);
}

static void is_readable(struct io_op *op, int result)
{
	struct net_queue *queue = container_of(op, struct net_queue, readable_op);

	(void)result;
	queue->reading = false;
	tell_readable(queue);
}

static void is_readable_here(struct io_op *op, int result)
{
	struct net_queue *queue = container_of(op, struct net_queue, readable_here_op);

	(void)result;
	queue->reading_here = false;
	tell_readable(queue);
}

static void is_writable(struct io_op *op, int result)
{
	struct net_queue *queue = container_of(op, struct net_queue, writable_op);
	struct net *net = queue->net;

	(void)result;
	queue->writing = false;
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

	if (atomic_exchange(&queue->reading, true))
		return;
	queue->readable_op.done = is_readable;
	if (net_pending(net, index))
		io_ring_nop(net->ring, &queue->readable_op);
	else
		io_ring_poll(net->ring, &queue->readable_op, queue->fd, POLLIN);
	io_ring_submit(net->ring);
}

void net_wait_readable_on_vcpu(struct net *net, unsigned index)
{
	struct net_queue *queue = &net->queues[index];

	if (atomic_exchange(&queue->reading_here, true))
		return;
	queue->readable_here_op.done = is_readable_here;
	io_ring_poll_current(&queue->readable_here_op, queue->fd, POLLIN);
	io_ring_submit(io_ring_current(net->ring));
}

bool net_waits_on_vcpu(const struct net *net, unsigned index)
{
	return net->queues[index].reading_here;
}

void net_wait_writable(struct net *net, unsigned index)
{
	struct net_queue *queue = &net->queues[index];

	if (atomic_exchange(&queue->writing, true))
		return;
	queue->writable_op.done = is_writable;
	io_ring_poll(net->ring, &queue->writable_op, queue->fd, POLLOUT);
	io_ring_submit(net->ring);
}
