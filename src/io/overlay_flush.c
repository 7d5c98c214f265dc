// SPDX-License-Identifier: GPL-2.0-only
/*
 * Overlays: flushes, which alone write back the allocation bitmap.  A writeback does these steps:
 *
 *   1. copy the blocks of the bitmap that are dirty
 *   2. flush the data
 *   3. write the copies to the file
 *   4. flush the bitmap
 *
 * So the file never has the bit of a cluster whose data are not on the disk, and a flush that
 * completed covers both.  One writeback is under way at a time; it serves all flushes that were
 * queued when it began.
 */
#include <errno.h>
#include <string.h>

#include "karma/util.h"
#include "overlay.h"

/* With the lock held. */
static int copy_dirty_blocks(struct overlay *overlay)
{
	struct overlay_map *map = &overlay->map;
	struct overlay_writeback *writeback = &overlay->writeback;
	size_t count = 0;

	for (size_t i = 0; i < map->blocks; i++)
		count += map->block_states[i] != BLOCK_CLEAN;
	writeback->count = writeback->next = 0;
	if (!count)
		return 0;
	writeback->copy = malloc(count * OVERLAY_BLOCK);
	writeback->blocks = malloc(count * sizeof(*writeback->blocks));
	if (!writeback->copy || !writeback->blocks)
		return -ENOMEM;
	for (size_t i = 0; i < map->blocks; i++) {
		if (map->block_states[i] == BLOCK_CLEAN)
			continue;
		memcpy(writeback->copy + writeback->count * OVERLAY_BLOCK,
			(uint8_t *)map->allocated + i * OVERLAY_BLOCK, OVERLAY_BLOCK);
		writeback->blocks[writeback->count++] = i;
		map->block_states[i] = BLOCK_WRITEBACK;
	}
	return 0;
}

static void start_writeback(struct overlay *overlay);

static void end_writeback(struct overlay *overlay, int error)
{
	struct overlay_writeback *writeback = &overlay->writeback;
	struct io_op *op = writeback->flushes;
	bool again;

	pthread_mutex_lock(&overlay->lock);
	/* After an error all stay dirty; otherwise those do in which a bit was set meanwhile. */
	for (size_t i = 0; !error && i < writeback->count; i++) {
		uint8_t *state = &overlay->map.block_states[writeback->blocks[i]];

		if (*state == BLOCK_WRITEBACK)
			*state = BLOCK_CLEAN;
	}
	free(writeback->copy);
	free(writeback->blocks);
	*writeback = (struct overlay_writeback){ 0 };
	again = overlay->queued_flushes;
	overlay->writeback_active = again;
	pthread_mutex_unlock(&overlay->lock);
	for (struct io_op *next; op; op = next) {
		struct disk_request *request = container_of(op, struct disk_request, op);

		next = op->next;
		request->done(request, error);
	}
	if (again)
		start_writeback(overlay);
}

static void submit_flush(struct overlay *overlay, struct disk *disk,
	void (*done)(struct disk_request *part, int error))
{
	overlay->writeback.part = (struct disk_request){ .operation = DISK_FLUSH, .done = done };
	overlay_submit_part(disk, &overlay->writeback.part);
}

static struct overlay *overlay_of_part(struct disk_request *part)
{
	return container_of(part, struct overlay, writeback.part);
}

static void bitmap_flushed(struct disk_request *part, int error)
{
	end_writeback(overlay_of_part(part), error);
}

/*
 * The data are flushed, or some blocks of the bitmap written: write the next adjacent ones, or
 * flush them all.
 */
static void write_bitmap(struct disk_request *part, int error)
{
	struct overlay *overlay = overlay_of_part(part);
	struct overlay_writeback *writeback = &overlay->writeback;
	size_t first = writeback->next, count = 1;

	if (error || !writeback->count) {
		end_writeback(overlay, error);
		return;
	}
	if (first == writeback->count) {
		submit_flush(overlay, overlay->metadata, bitmap_flushed);
		return;
	}
	while (first + count < writeback->count &&
		writeback->blocks[first + count] == writeback->blocks[first] + count)
		count++;
	writeback->next += count;
	writeback->iov = (struct iovec){ writeback->copy + first * OVERLAY_BLOCK, count * OVERLAY_BLOCK };
	writeback->part = (struct disk_request){
		.operation = DISK_WRITE,
		.iov = &writeback->iov,
		.iov_count = 1,
		.offset = OVERLAY_MAP_START + writeback->blocks[first] * OVERLAY_BLOCK,
		.length = count * OVERLAY_BLOCK,
		.done = write_bitmap,
	};
	overlay_submit_part(overlay->metadata, &writeback->part);
}

static void no_memory(struct io_op *op, int result)
{
	end_writeback(overlay_of_part(container_of(op, struct disk_request, op)), result);
}

static void start_writeback(struct overlay *overlay)
{
	struct overlay_writeback *writeback = &overlay->writeback;
	int result;

	pthread_mutex_lock(&overlay->lock);
	writeback->flushes = overlay->queued_flushes;
	overlay->queued_flushes = NULL;
	result = copy_dirty_blocks(overlay);
	pthread_mutex_unlock(&overlay->lock);
	if (result < 0) {
		writeback->part.op.done = no_memory;
		io_ring_complete(&writeback->part.op, result);
		return;
	}
	submit_flush(overlay, overlay->data, write_bitmap);
}

/* A flush that is queued during a writeback waits for that, and for one of its own. */
void overlay_submit_flush(struct overlay *overlay, struct disk_request *request)
{
	bool start;

	pthread_mutex_lock(&overlay->lock);
	request->op.next = overlay->queued_flushes;
	overlay->queued_flushes = &request->op;
	start = !overlay->writeback_active;
	overlay->writeback_active = true;
	pthread_mutex_unlock(&overlay->lock);
	if (start)
		start_writeback(overlay);
}
