// SPDX-License-Identifier: GPL-2.0-only
/*
 * Flushes of an overlay, which alone write the map in its file: data first, and when these are on
 * the disk, the bits that were set before.  So the file's map never tells of a cluster whose data
 * are not on the disk, and a flush that is done covers both.
 */
#include <errno.h>
#include <string.h>

#include "karma/util.h"
#include "overlay.h"

/* With the lock held: what the map's file lacks, which is in the round's hands from now on. */
static int take_dirty(struct overlay *overlay)
{
	struct overlay_map *map = &overlay->map;
	struct round *round = &overlay->round;
	size_t count = 0;

	for (size_t i = 0; i < map->blocks; i++)
		count += map->block_states[i] != BLOCK_CLEAN;
	round->count = round->next = 0;
	if (!count)
		return 0;
	round->copy = malloc(count * OVERLAY_BLOCK);
	round->blocks = malloc(count * sizeof(*round->blocks));
	if (!round->copy || !round->blocks)
		return -ENOMEM;
	for (size_t i = 0; i < map->blocks; i++) {
		if (map->block_states[i] == BLOCK_CLEAN)
			continue;
		memcpy(round->copy + round->count * OVERLAY_BLOCK,
			(uint8_t *)map->allocated + i * OVERLAY_BLOCK, OVERLAY_BLOCK);
		round->blocks[round->count++] = i;
		map->block_states[i] = BLOCK_WRITEBACK;
	}
	return 0;
}

static void start_round(struct overlay *overlay);

static void end_round(struct overlay *overlay, int error)
{
	struct round *round = &overlay->round;
	struct io_op *op = round->flushes;
	bool again;

	pthread_mutex_lock(&overlay->lock);
	/* What is not known to be in the file has to be written again, and what was set meanwhile. */
	for (size_t i = 0; !error && i < round->count; i++) {
		uint8_t *state = &overlay->map.block_states[round->blocks[i]];

		if (*state == BLOCK_WRITEBACK)
			*state = BLOCK_CLEAN;
	}
	free(round->copy);
	free(round->blocks);
	*round = (struct round){ 0 };
	again = overlay->next_flushes;
	overlay->flushing = again;
	pthread_mutex_unlock(&overlay->lock);
	for (struct io_op *next; op; op = next) {
		struct disk_request *request = container_of(op, struct disk_request, op);

		next = op->next;
		request->done(request, error);
	}
	if (again)
		start_round(overlay);
}

static void pass_flush(struct overlay *overlay, struct disk *disk,
	void (*done)(struct disk_request *part, int error))
{
	overlay->round.part = (struct disk_request){ .operation = DISK_FLUSH, .done = done };
	overlay_pass(disk, &overlay->round.part);
}

static struct overlay *of_round(struct disk_request *part)
{
	return container_of(part, struct overlay, round.part);
}

static void marks_flushed(struct disk_request *part, int error)
{
	end_round(of_round(part), error);
}

/* The next blocks of the map that are neighbours; behind the last ones, all are made durable. */
static void write_marks(struct disk_request *part, int error)
{
	struct overlay *overlay = of_round(part);
	struct round *round = &overlay->round;
	size_t first = round->next, count = 1;

	if (error || !round->count) {
		end_round(overlay, error);
		return;
	}
	if (first == round->count) {
		pass_flush(overlay, overlay->marks, marks_flushed);
		return;
	}
	while (first + count < round->count &&
		round->blocks[first + count] == round->blocks[first] + count)
		count++;
	round->next += count;
	round->iov = (struct iovec){ round->copy + first * OVERLAY_BLOCK, count * OVERLAY_BLOCK };
	round->part = (struct disk_request){
		.operation = DISK_WRITE,
		.iov = &round->iov,
		.iov_count = 1,
		.offset = OVERLAY_MAP_START + round->blocks[first] * OVERLAY_BLOCK,
		.length = count * OVERLAY_BLOCK,
		.done = write_marks,
	};
	overlay_pass(overlay->marks, &round->part);
}

static void round_failed(struct io_op *op, int result)
{
	end_round(of_round(container_of(op, struct disk_request, op)), result);
}

static void start_round(struct overlay *overlay)
{
	struct round *round = &overlay->round;
	int result;

	pthread_mutex_lock(&overlay->lock);
	round->flushes = overlay->next_flushes;
	overlay->next_flushes = NULL;
	result = take_dirty(overlay);
	pthread_mutex_unlock(&overlay->lock);
	if (result < 0) {
		round->part.op.done = round_failed;
		io_ring_complete(&round->part.op, result);
		return;
	}
	pass_flush(overlay, overlay->data, write_marks);
}

/* One that comes while another is under way may find nothing to write; still it waits for that. */
void overlay_flush(struct overlay *overlay, struct disk_request *request)
{
	bool first;

	pthread_mutex_lock(&overlay->lock);
	request->op.next = overlay->next_flushes;
	overlay->next_flushes = &request->op;
	first = !overlay->flushing;
	overlay->flushing = true;
	pthread_mutex_unlock(&overlay->lock);
	if (first)
		start_round(overlay);
}
