// SPDX-License-Identifier: GPL-2.0-only
/*
 * Disks with an overlay: clusters that were written are in the overlay's file, all others are read
 * from a base, which nobody changes.
 *
 * Most requests are passed on as they are: those for clusters that are all allocated, and reads of
 * clusters none of which is.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "karma/log.h"
#include "karma/util.h"
#include "overlay.h"

static struct overlay *overlay_of(struct disk *disk)
{
	return container_of(disk, struct overlay, disk);
}

static void complete(struct io_op *op, int result)
{
	struct disk_request *request = container_of(op, struct disk_request, op);

	request->done(request, result);
}

void overlay_complete(struct disk_request *request, int error)
{
	request->op.done = complete;
	io_ring_complete(&request->op, error);
}

static void overlay_submit(struct disk *disk, struct disk_request *request)
{
	struct overlay *overlay = overlay_of(disk);
	uint64_t first = request->offset / OVERLAY_CLUSTER, last;
	bool allocated, all_alike;

	if (request->operation == DISK_FLUSH) {
		overlay_submit_flush(overlay, request);
		return;
	}
	last = (request->offset + request->length - 1) / OVERLAY_CLUSTER;
	allocated = overlay_is_allocated(&overlay->map, first);
	all_alike = overlay_extent_end(&overlay->map, first, last) > last;
	if (allocated && all_alike)
		disk_submit(overlay->data, request);
	else if (request->operation == DISK_WRITE || request->operation == DISK_WRITE_ZEROES)
		overlay_submit_cow(overlay, request);
	else if (!all_alike)
		overlay_submit_split(overlay, request);
	else if (request->operation == DISK_READ)
		disk_submit(overlay->base, request);
	else
		overlay_complete(request, 0);	/* a discard of clusters that have no space to free */
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
	if (overlay->metadata)
		disk_close(overlay->metadata);
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

static int overlay_file(const struct disk *disk)
{
	return container_of(disk, struct overlay, disk)->map.fd;
}

static int overlay_copy(const struct disk *disk, int to)
{
	return overlay_map_copy(&container_of(disk, struct overlay, disk)->map, to);
}

static const struct disk_backend overlay_backend = {
	.start = overlay_start,
	.submit = overlay_submit,
	.kick = overlay_kick,
	.file = overlay_file,
	.copy = overlay_copy,
	.close = overlay_close,
};

static int open_parts(
	struct overlay *overlay, const struct disk_options *options, struct io_ring *ring)
{
	struct disk_options base = *options;
	int result;

	base.overlay = base.from = NULL;
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
		&overlay->metadata, overlay->map.fd, 0, overlay->map.data_start, false, ring);
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
