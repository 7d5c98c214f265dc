// SPDX-License-Identifier: GPL-2.0-only
/*
 * Overlays: reads and discards over clusters of both kinds.  Each is split into extents of clusters
 * that are all allocated or all not, which are served one after the other.
 */
#include <errno.h>

#include "karma/iov.h"
#include "karma/util.h"
#include "overlay.h"

struct split {
	struct disk_request part;	/* the extent that is being served */
	struct overlay *overlay;
	struct disk_request *request;
	uint64_t at, part_end, end;	/* bytes of the disk */
	/*
	 * Of a read: the buffers from `at` on, how many of them the part has, and the rest of its
	 * last one.
	 */
	struct iovec *iov;
	unsigned iov_count;
	unsigned part_count;
	struct iovec rest;
};

static void next_part(struct split *split);

static void complete(struct split *split, int error)
{
	struct disk_request *request = split->request;

	if (error)
		request->offset = split->part.offset;
	free(split);
	request->done(request, error);
}

static void part_done(struct disk_request *part, int error)
{
	struct split *split = container_of(part, struct split, part);

	if (error) {
		complete(split, error);
		return;
	}
	split->at = split->part_end;
	split->iov += split->part_count;
	split->iov_count -= split->part_count;
	/* The part ended within a buffer, whose rest goes in front of the next one. */
	if (split->rest.iov_len) {
		*--split->iov = split->rest;
		split->iov_count++;
	}
	next_part(split);
}

static void submit_part(struct split *split, struct disk *disk)
{
	split->part = (struct disk_request){
		.operation = split->request->operation,
		.offset = split->at,
		.length = split->part_end - split->at,
		.done = part_done,
	};
	if (split->part.operation == DISK_READ) {
		split->part_count =
			iov_cut(split->iov, split->iov_count, split->part.length, &split->rest);
		split->part.iov = split->iov;
		split->part.iov_count = split->part_count;
	}
	overlay_submit_part(disk, &split->part);
}

/*
 * A discard skips clusters that are not allocated: there is nothing to free, and the base has their
 * data.
 */
static void next_part(struct split *split)
{
	struct overlay *overlay = split->overlay;

	while (split->at < split->end) {
		uint64_t first = split->at / OVERLAY_CLUSTER;
		uint64_t last = (split->end - 1) / OVERLAY_CLUSTER;
		bool allocated = overlay_is_allocated(&overlay->map, first);

		split->part_end = overlay_extent_end(&overlay->map, first, last) * OVERLAY_CLUSTER;
		if (split->part_end > split->end)
			split->part_end = split->end;
		if (allocated || split->request->operation == DISK_READ) {
			submit_part(split, allocated ? overlay->data : overlay->base);
			return;
		}
		split->at = split->part_end;
	}
	complete(split, 0);
}

/*
 * At least one of the clusters is allocated, so that a part is submitted: done() is not called from
 * within disk_submit().
 */
void overlay_submit_split(struct overlay *overlay, struct disk_request *request)
{
	struct split *split = calloc(1, sizeof(*split));

	if (!split) {
		overlay_complete(request, -ENOMEM);
		return;
	}
	split->overlay = overlay;
	split->request = request;
	split->at = request->offset;
	split->end = request->offset + request->length;
	split->iov = request->iov;
	split->iov_count = request->iov_count;
	next_part(split);
}
