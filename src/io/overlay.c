// SPDX-License-Identifier: GPL-2.0-only
/*
 * Disks with an overlay: what was never written is read from a base, which nobody changes, and all
 * else is in a file.
 *
 * Most requests are passed on as they are: those for clusters that are all in the file, and reads of
 * clusters none of which is.  A read over both is cut in parts.  A write to a cluster that is not
 * there yet is a change: the rest of the cluster is copied from the base, then the data are written,
 * and then the cluster is there, for reads from now on.  Changes of the same clusters wait for each
 * other; all other requests wait for nothing.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "karma/iov.h"
#include "karma/log.h"
#include "karma/util.h"
#include "overlay.h"

/* A request over clusters of both kinds, a part at a time. */
struct walk {
	struct disk_request part;
	struct overlay *overlay;
	struct disk_request *request;
	uint64_t at, part_end, end;	/* bytes */
	struct iovec *iov;		/* of what is left, for a read */
	unsigned iov_count;
	unsigned part_count;
	struct iovec rest;		/* of the entry that the part's end cuts in two */
};

/* A part of a cluster that a change leaves as it is in the base, in bytes. */
struct gap {
	uint64_t start, end;
};

struct change {
	struct disk_request part;
	struct overlay *overlay;
	struct disk_request *request;
	struct change *next, *follower;
	uint64_t first, last;		/* clusters */
	struct gap gaps[2];		/* before the data, and behind */
	unsigned gap, gap_count;
	struct iovec iov;
	void *buffer;			/* of a cluster; NULL without gaps */
};

static struct overlay *overlay_of(struct disk *disk)
{
	return container_of(disk, struct overlay, disk);
}

static void end_request(struct io_op *op, int result)
{
	struct disk_request *request = container_of(op, struct disk_request, op);

	request->done(request, result);
}

/* Not from within disk_submit(). */
static void end_soon(struct disk_request *request, int error)
{
	request->op.done = end_request;
	io_ring_complete(&request->op, error);
}

/* --- Reads and discards of clusters of both kinds. */

static void walk_on(struct walk *walk);

static void end_walk(struct walk *walk, int error)
{
	struct disk_request *request = walk->request;

	if (error)
		request->offset = walk->part.offset;
	free(walk);
	request->done(request, error);
}

static void part_done(struct disk_request *part, int error)
{
	struct walk *walk = container_of(part, struct walk, part);

	if (error) {
		end_walk(walk, error);
		return;
	}
	walk->at = walk->part_end;
	walk->iov += walk->part_count;
	walk->iov_count -= walk->part_count;
	if (walk->rest.iov_len) {
		*--walk->iov = walk->rest;
		walk->iov_count++;
	}
	walk_on(walk);
}

static void pass_part(struct walk *walk, struct disk *disk)
{
	walk->part = (struct disk_request){
		.operation = walk->request->operation,
		.offset = walk->at,
		.length = walk->part_end - walk->at,
		.done = part_done,
	};
	if (walk->part.operation == DISK_READ) {
		walk->part_count =
			iov_cut(walk->iov, walk->iov_count, walk->part.length, &walk->rest);
		walk->part.iov = walk->iov;
		walk->part.iov_count = walk->part_count;
	}
	overlay_pass(disk, &walk->part);
}

/* A discard leaves alone what is not there: the data are the base's, and nothing is to be freed. */
static void walk_on(struct walk *walk)
{
	struct overlay *overlay = walk->overlay;

	while (walk->at < walk->end) {
		uint64_t first = walk->at / OVERLAY_CLUSTER;
		uint64_t last = (walk->end - 1) / OVERLAY_CLUSTER;
		bool there = overlay_is_allocated(&overlay->map, first);

		walk->part_end = overlay_extent_end(&overlay->map, first, last) * OVERLAY_CLUSTER;
		if (walk->part_end > walk->end)
			walk->part_end = walk->end;
		if (there || walk->request->operation == DISK_READ) {
			pass_part(walk, there ? overlay->data : overlay->base);
			return;
		}
		walk->at = walk->part_end;
	}
	end_walk(walk, 0);
}

/* One of the clusters at least is in the file. */
static void start_walk(struct overlay *overlay, struct disk_request *request)
{
	struct walk *walk = calloc(1, sizeof(*walk));

	if (!walk) {
		end_soon(request, -ENOMEM);
		return;
	}
	walk->overlay = overlay;
	walk->request = request;
	walk->at = request->offset;
	walk->end = request->offset + request->length;
	walk->iov = request->iov;
	walk->iov_count = request->iov_count;
	walk_on(walk);
}

/* --- Changes: writes to clusters that are not there yet. */

static bool overlaps(const struct change *list, const struct change *change)
{
	for (; list; list = list->next) {
		if (list->first <= change->last && change->first <= list->last)
			return true;
	}
	return false;
}

static void append(struct change **list, struct change *change)
{
	while (*list)
		list = &(*list)->next;
	change->next = NULL;
	*list = change;
}

static void remove_change(struct change **list, struct change *change)
{
	while (*list != change)
		list = &(*list)->next;
	*list = change->next;
}

/* Those that need wait no more are under way from now on; a list of them, by follower. */
static struct change *admit(struct overlay *overlay)
{
	struct change *admitted = NULL, **end = &admitted;
	struct change **at = &overlay->waiting;

	while (*at) {
		struct change *change = *at;

		if (overlaps(overlay->changes, change)) {
			at = &change->next;
			continue;
		}
		*at = change->next;
		append(&overlay->changes, change);
		change->follower = NULL;
		*end = change;
		end = &change->follower;
	}
	return admitted;
}

static void start_changes(struct change *change);

static void end_change(struct change *change, int error)
{
	struct overlay *overlay = change->overlay;
	struct disk_request *request = change->request;
	struct change *followers;

	if (error)
		request->offset = change->part.offset;
	pthread_mutex_lock(&overlay->lock);
	if (!error)
		overlay_set_allocated(&overlay->map, change->first, change->last);
	remove_change(&overlay->changes, change);
	followers = admit(overlay);
	pthread_mutex_unlock(&overlay->lock);
	free(change->buffer);
	free(change);
	request->done(request, error);
	start_changes(followers);
}

static void data_done(struct disk_request *part, int error)
{
	end_change(container_of(part, struct change, part), error);
}

static void change_on(struct change *change);

static void gap_written(struct disk_request *part, int error)
{
	struct change *change = container_of(part, struct change, part);

	if (error) {
		end_change(change, error);
		return;
	}
	change->gap++;
	change_on(change);
}

static void pass_gap(struct change *change, enum disk_operation operation, struct disk *disk,
	void (*done)(struct disk_request *part, int error))
{
	const struct gap *gap = &change->gaps[change->gap];

	change->iov = (struct iovec){ change->buffer, gap->end - gap->start };
	change->part = (struct disk_request){
		.operation = operation,
		.iov = &change->iov,
		.iov_count = 1,
		.offset = gap->start,
		.length = gap->end - gap->start,
		.done = done,
	};
	overlay_pass(disk, &change->part);
}

static void gap_read(struct disk_request *part, int error)
{
	struct change *change = container_of(part, struct change, part);

	if (error)
		end_change(change, error);
	else
		pass_gap(change, DISK_WRITE, change->overlay->data, gap_written);
}

static void change_on(struct change *change)
{
	const struct disk_request *request = change->request;

	if (change->gap < change->gap_count) {
		pass_gap(change, DISK_READ, change->overlay->base, gap_read);
		return;
	}
	change->part = (struct disk_request){
		.operation = request->operation,
		.iov = request->iov,
		.iov_count = request->iov_count,
		.offset = request->offset,
		.length = request->length,
		.unmap = request->unmap,
		.done = data_done,
	};
	overlay_pass(change->overlay->data, &change->part);
}

static void add_gap(struct change *change, uint64_t cluster, uint64_t start, uint64_t end)
{
	if (end > change->overlay->disk.size)
		end = change->overlay->disk.size;
	if (start < end && !overlay_is_allocated(&change->overlay->map, cluster))
		change->gaps[change->gap_count++] = (struct gap){ start, end };
}

static void no_memory(struct io_op *op, int result)
{
	end_change(container_of(op, struct change, part.op), result);
}

static void start_change(struct change *change)
{
	const struct disk_request *request = change->request;

	add_gap(change, change->first, change->first * OVERLAY_CLUSTER, request->offset);
	add_gap(change, change->last, request->offset + request->length,
		(change->last + 1) * OVERLAY_CLUSTER);
	/* Aligned for O_DIRECT, as are the gaps, since the request is of whole blocks. */
	if (change->gap_count)
		change->buffer = aligned_alloc(OVERLAY_CLUSTER, OVERLAY_CLUSTER);
	if (change->gap_count && !change->buffer) {
		change->part.offset = request->offset;
		change->part.op.done = no_memory;
		io_ring_complete(&change->part.op, -ENOMEM);
		return;
	}
	change_on(change);
}

static void start_changes(struct change *change)
{
	while (change) {
		struct change *follower = change->follower;

		start_change(change);
		change = follower;
	}
}

static void submit_change(struct overlay *overlay, struct disk_request *request)
{
	struct change *change = calloc(1, sizeof(*change));
	bool waits;

	if (!change) {
		end_soon(request, -ENOMEM);
		return;
	}
	change->overlay = overlay;
	change->request = request;
	change->first = request->offset / OVERLAY_CLUSTER;
	change->last = (request->offset + request->length - 1) / OVERLAY_CLUSTER;
	pthread_mutex_lock(&overlay->lock);
	waits = overlaps(overlay->changes, change);
	append(waits ? &overlay->waiting : &overlay->changes, change);
	pthread_mutex_unlock(&overlay->lock);
	if (!waits)
		start_change(change);
}

/* --- The backend. */

static void overlay_submit(struct disk *disk, struct disk_request *request)
{
	struct overlay *overlay = overlay_of(disk);
	uint64_t first = request->offset / OVERLAY_CLUSTER, last;
	bool there, all;

	if (request->operation == DISK_FLUSH) {
		overlay_flush(overlay, request);
		return;
	}
	last = (request->offset + request->length - 1) / OVERLAY_CLUSTER;
	there = overlay_is_allocated(&overlay->map, first);
	all = overlay_extent_end(&overlay->map, first, last) > last;
	if (there && all)
		disk_submit(overlay->data, request);
	else if (request->operation == DISK_WRITE || request->operation == DISK_WRITE_ZEROES)
		submit_change(overlay, request);
	else if (!all)
		start_walk(overlay, request);
	else if (request->operation == DISK_READ)
		disk_submit(overlay->base, request);
	else
		end_soon(request, 0);
}

static void overlay_kick(struct disk *disk)
{
	disk_kick(overlay_of(disk)->base);
	disk_kick(overlay_of(disk)->data);
}

static void overlay_close(struct disk *disk)
{
	struct overlay *overlay = overlay_of(disk);

	if (overlay->map.allocated)
		overlay_map_close(&overlay->map);
	if (overlay->marks)
		disk_close(overlay->marks);
	if (overlay->data)
		disk_close(overlay->data);
	if (overlay->base)
		disk_close(overlay->base);
	pthread_mutex_destroy(&overlay->lock);
	free(overlay);
}

static int overlay_start(struct disk *disk, bool again)
{
	return disk_start(overlay_of(disk)->base, again);
}

static const struct disk_backend overlay_backend = {
	.start = overlay_start,
	.submit = overlay_submit,
	.kick = overlay_kick,
	.close = overlay_close,
};

static int open_parts(
	struct overlay *overlay, const struct disk_options *options, struct io_ring *ring)
{
	struct disk_options base = *options;
	int result;

	base.overlay = NULL;
	base.read_only = true;
	result = disk_open(&overlay->base, &base, ring);
	if (result < 0)
		return result;
	if (overlay->base->block_size > OVERLAY_CLUSTER)
		return fail(-EINVAL, "disk %s: has blocks of %u bytes: leave out `,overlay`",
			options->path, overlay->base->block_size);
	result = overlay_map_open(&overlay->map, options, overlay->base);
	if (result < 0)
		return result;
	result = file_open_part(
		&overlay->marks, overlay->map.fd, 0, overlay->map.data_start, false, ring);
	if (result == 0)
		result = file_open_part(&overlay->data, overlay->map.fd, overlay->map.data_start,
			overlay->map.size, options->direct, ring);
	return result == 0 ? 0 : fail(result, "disk %s: overlay %s: can't open it again%s: %s",
					 options->path, options->overlay,
					 options->direct ? " as `,direct` has it" : "",
					 strerror(-result));
}

static uint32_t larger(uint32_t one, uint32_t other)
{
	return one > other ? one : other;
}

int overlay_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring)
{
	struct overlay *overlay = calloc(1, sizeof(*overlay));
	int result;

	if (!overlay)
		return fail(-ENOMEM, "disk %s: out of memory", options->path);
	pthread_mutex_init(&overlay->lock, NULL);
	result = open_parts(overlay, options, ring);
	if (result < 0) {
		overlay_close(&overlay->disk);
		return result;
	}
	overlay->disk = (struct disk){
		.backend = &overlay_backend,
		.ring = ring,
		.size = overlay->map.size,
		.block_size = larger(overlay->data->block_size, overlay->base->block_size),
		.physical_block_size = OVERLAY_CLUSTER,
		.discard_alignment = OVERLAY_CLUSTER,
		.discard = true,
		.write_zeroes = true,
		.read_only = options->read_only,
	};
	*disk = &overlay->disk;
	return 0;
}
