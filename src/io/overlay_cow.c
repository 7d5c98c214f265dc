// SPDX-License-Identifier: GPL-2.0-only
/*
 * Overlays: copy-on-write.  A write, or write of zeroes, that touches a cluster which is not
 * allocated yet does these steps, one after the other:
 *
 *   1. copy the edges, that is what it leaves of its first and of its last cluster, from the base into the file
 *   2. write the data into the file
 *   3. mark the clusters as allocated: from now on they are read from the file
 *
 * Of such writes that share a cluster, one is in flight at a time.
 */
#include <errno.h>
#include <pthread.h>

#include "karma/util.h"
#include "overlay.h"

/* A part of a cluster that is copied from the base, in bytes of the disk. */
struct edge {
	uint64_t start, end;
};

struct cow_write {
	struct disk_request part;	/* the step under way */
	struct overlay *overlay;
	struct disk_request *request;
	struct cow_write *next;		/* in the overlay's lists */
	struct cow_write *next_admitted;
	uint64_t first, last;		/* clusters */
	struct edge edges[2];		/* before the data, and behind */
	unsigned edge, edge_count;	/* the one that is being copied */
	struct iovec iov;
	void *buffer;			/* of a cluster; NULL without edges */
};

/* --- The lists of the overlay, with its lock held. */

static bool shares_cluster(const struct cow_write *list, const struct cow_write *cow)
{
	for (; list; list = list->next) {
		if (list->first <= cow->last && cow->first <= list->last)
			return true;
	}
	return false;
}

static void append(struct cow_write **list, struct cow_write *cow)
{
	while (*list)
		list = &(*list)->next;
	cow->next = NULL;
	*list = cow;
}

static void remove_from(struct cow_write **list, struct cow_write *cow)
{
	while (*list != cow)
		list = &(*list)->next;
	*list = cow->next;
}

/* Take what need not wait any more into flight; returns a list, by next_admitted. */
static struct cow_write *admit(struct overlay *overlay)
{
	struct cow_write *admitted = NULL, **end = &admitted;
	struct cow_write **at = &overlay->cow_waiting;

	while (*at) {
		struct cow_write *cow = *at;

		if (shares_cluster(overlay->cow_writes, cow)) {
			at = &cow->next;
			continue;
		}
		*at = cow->next;
		append(&overlay->cow_writes, cow);
		cow->next_admitted = NULL;
		*end = cow;
		end = &cow->next_admitted;
	}
	return admitted;
}

/* --- The steps. */

static void start_all(struct cow_write *admitted);

static void complete(struct cow_write *cow, int error)
{
	struct overlay *overlay = cow->overlay;
	struct disk_request *request = cow->request;
	struct cow_write *admitted;

	if (error)
		request->offset = cow->part.offset;
	pthread_mutex_lock(&overlay->lock);
	if (!error)
		overlay_set_allocated(&overlay->map, cow->first, cow->last);
	remove_from(&overlay->cow_writes, cow);
	admitted = admit(overlay);
	pthread_mutex_unlock(&overlay->lock);
	free(cow->buffer);
	free(cow);
	request->done(request, error);
	start_all(admitted);
}

static void data_written(struct disk_request *part, int error)
{
	complete(container_of(part, struct cow_write, part), error);
}

static void next_step(struct cow_write *cow);

static void edge_written(struct disk_request *part, int error)
{
	struct cow_write *cow = container_of(part, struct cow_write, part);

	if (error) {
		complete(cow, error);
		return;
	}
	cow->edge++;
	next_step(cow);
}

static void submit_edge(struct cow_write *cow, enum disk_operation operation, struct disk *disk,
	void (*done)(struct disk_request *part, int error))
{
	const struct edge *edge = &cow->edges[cow->edge];

	cow->iov = (struct iovec){ cow->buffer, edge->end - edge->start };
	cow->part = (struct disk_request){
		.operation = operation,
		.iov = &cow->iov,
		.iov_count = 1,
		.offset = edge->start,
		.length = edge->end - edge->start,
		.done = done,
	};
	overlay_submit_part(disk, &cow->part);
}

static void edge_read(struct disk_request *part, int error)
{
	struct cow_write *cow = container_of(part, struct cow_write, part);

	if (error)
		complete(cow, error);
	else
		submit_edge(cow, DISK_WRITE, cow->overlay->data, edge_written);
}

static void next_step(struct cow_write *cow)
{
	const struct disk_request *request = cow->request;

	if (cow->edge < cow->edge_count) {
		submit_edge(cow, DISK_READ, cow->overlay->base, edge_read);
		return;
	}
	cow->part = (struct disk_request){
		.operation = request->operation,
		.iov = request->iov,
		.iov_count = request->iov_count,
		.offset = request->offset,
		.length = request->length,
		.unmap = request->unmap,
		.done = data_written,
	};
	overlay_submit_part(cow->overlay->data, &cow->part);
}

/* --- The start. */

/* An edge of an allocated cluster is in the file already. */
static void add_edge(struct cow_write *cow, uint64_t cluster, uint64_t start, uint64_t end)
{
	if (end > cow->overlay->disk.size)
		end = cow->overlay->disk.size;
	if (start < end && !overlay_is_allocated(&cow->overlay->map, cluster))
		cow->edges[cow->edge_count++] = (struct edge){ start, end };
}

static void no_memory(struct io_op *op, int result)
{
	complete(container_of(op, struct cow_write, part.op), result);
}

static void start(struct cow_write *cow)
{
	const struct disk_request *request = cow->request;

	add_edge(cow, cow->first, cow->first * OVERLAY_CLUSTER, request->offset);
	add_edge(cow, cow->last, request->offset + request->length,
		(cow->last + 1) * OVERLAY_CLUSTER);
	/*
	 * O_DIRECT wants it aligned.  The edges are aligned, since the request is of whole blocks.
	 */
	if (cow->edge_count)
		cow->buffer = aligned_alloc(OVERLAY_CLUSTER, OVERLAY_CLUSTER);
	if (cow->edge_count && !cow->buffer) {
		cow->part.offset = request->offset;
		cow->part.op.done = no_memory;
		io_ring_complete(&cow->part.op, -ENOMEM);
		return;
	}
	next_step(cow);
}

static void start_all(struct cow_write *admitted)
{
	while (admitted) {
		struct cow_write *next = admitted->next_admitted;

		start(admitted);
		admitted = next;
	}
}

void overlay_submit_cow(struct overlay *overlay, struct disk_request *request)
{
	struct cow_write *cow = calloc(1, sizeof(*cow));
	bool waits;

	if (!cow) {
		overlay_complete(request, -ENOMEM);
		return;
	}
	cow->overlay = overlay;
	cow->request = request;
	cow->first = request->offset / OVERLAY_CLUSTER;
	cow->last = (request->offset + request->length - 1) / OVERLAY_CLUSTER;
	pthread_mutex_lock(&overlay->lock);
	waits = shares_cluster(overlay->cow_writes, cow);
	append(waits ? &overlay->cow_waiting : &overlay->cow_writes, cow);
	pthread_mutex_unlock(&overlay->lock);
	if (!waits)
		start(cow);
}
