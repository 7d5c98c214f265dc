// SPDX-License-Identifier: GPL-2.0-only
/* The back end of vhost-user: queues that start, are served and stop. */
#include <errno.h>
#include <sys/epoll.h>

#include "karma/log.h"
#include "karma/util.h"
#include "vhost_user.h"

static void signal_event(int fd)
{
	const uint64_t one = 1;

	/* An eventfd that takes no more is signalled, too. */
	if (fd >= 0)
		write_bytes(fd, &one, sizeof(one));
}

static void send_interrupt(void *context, const struct karma_interrupt *interrupt)
{
	const struct vhost_queue *queue = context;

	(void)interrupt;
	signal_event(queue->call);
}

int vhost_backend_init(struct vhost_backend *backend, int socket)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };

	*backend = (struct vhost_backend){ .socket = socket, .memory = { .fd = -1 } };
	for (unsigned i = 0; i < VHOST_QUEUES; i++) {
		struct vhost_queue *queue = &backend->queues[i];

		queue->kick = queue->call = queue->error = -1;
		queue->virtq = (struct virtq){
			.index = i,
			.memory = &backend->memory,
			.size_max = VHOST_QUEUE_SIZE_MAX,
			.send = send_interrupt,
			.send_context = queue,
		};
	}
	backend->events = epoll_create1(EPOLL_CLOEXEC);
	if (backend->events < 0)
		return -errno;
	return epoll_ctl(backend->events, EPOLL_CTL_ADD, socket, &event) < 0 ? -errno : 0;
}

void vhost_backend_release(struct vhost_backend *backend)
{
	for (unsigned i = 0; i < VHOST_QUEUES; i++) {
		close_fd(&backend->queues[i].kick);
		close_fd(&backend->queues[i].call);
		close_fd(&backend->queues[i].error);
	}
	vhost_memory_unmap(backend);
	close_fd(&backend->events);
}

int vhost_queue_start(struct vhost_backend *backend, struct vhost_queue *queue)
{
	struct virtq *virtq = &queue->virtq;
	const struct karma_queue_setup setup = {
		.descriptors = vhost_memory_gpa(backend, queue->address.descriptors),
		.driver = vhost_memory_gpa(backend, queue->address.avail),
		.device = vhost_memory_gpa(backend, queue->address.used),
		.size = queue->size,
	};
	int result = virtq_enable(virtq, &setup, backend->features);

	if (result < 0)
		return result;
	/* All chains that were taken were given back, too, when the queue stopped. */
	virtq->next_avail = virtq->next_used = virtq->signalled_used = queue->base;
	/* The message is the call eventfd's, and never 0, which would be none. */
	virtq->interrupt.address = 1;
	queue->started = queue->waiting = true;
	return 0;
}

void vhost_queue_stop(struct vhost_queue *queue)
{
	if (!queue->started)
		return;
	queue->base = queue->virtq.next_avail;
	queue->started = queue->waiting = false;
	virtq_reset(&queue->virtq);
}

static void serve_chains(struct vhost_backend *backend, struct virtq *virtq)
{
	struct virtq_chain chain;
	unsigned left = virtq->size;

	while (left-- && virtq_pop(virtq, backend->iov, VHOST_QUEUE_SIZE_MAX, &chain) == 1) {
		virtq_push(virtq, chain.head, backend->serve(backend->context, &chain));
		virtq_interrupt(virtq);
	}
}

/* What a guest breaks stays so until its driver sets the queue up again. */
static void report_broken(struct vhost_queue *queue)
{
	static bool told;

	if (!told)
		note("shared directory: the guest's driver broke its queue (%s): it is served no more until "
		     "the guest resets it",
			queue->virtq.broken);
	told = true;
	signal_event(queue->error);
}

/* A ring of chains at most, so that a guest that feeds it for ever does not hold up the front. */
static void serve_queue(struct vhost_backend *backend, struct vhost_queue *queue)
{
	bool was_broken = queue->virtq.broken;

	queue->waiting = false;
	if (!queue->started || !queue->enabled)
		return;
	virtq_disable_notify(&queue->virtq);
	serve_chains(backend, &queue->virtq);
	queue->waiting = virtq_enable_notify(&queue->virtq);
	if (queue->virtq.broken && !was_broken)
		report_broken(queue);
}

int vhost_backend_step(struct vhost_backend *backend)
{
	struct epoll_event events[VHOST_QUEUES + 1];
	bool waiting = false;
	int count, result = 0;

	for (unsigned i = 0; i < VHOST_QUEUES; i++)
		waiting |= backend->queues[i].waiting;
	count = epoll_wait(backend->events, events, ARRAY_SIZE(events), waiting ? 0 : -1);
	if (count < 0 && errno != EINTR)
		return fail(-errno, "shared directory: epoll_wait: error %d: the server ends", errno);
	for (int i = 0; i < count; i++) {
		struct vhost_queue *queue = events[i].data.ptr;

		if (queue)
			queue->waiting = true;
		else
			result = vhost_user_take(backend);
	}
	for (unsigned i = 0; i < VHOST_QUEUES; i++) {
		if (backend->queues[i].waiting)
			serve_queue(backend, &backend->queues[i]);
	}
	return result;
}

int vhost_backend_run(struct vhost_backend *backend)
{
	int result;

	do
		result = vhost_backend_step(backend);
	while (result == 0);
	return result < 0 ? result : 0;
}
