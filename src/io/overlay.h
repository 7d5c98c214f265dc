/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the sources of overlays share: the file of an overlay, and the disk that is made of it and
 * its base.
 *
 * overlay.c        the backend; passes requests to the base or to the file, whichever has the data
 * overlay_split.c  requests over clusters of both kinds, split in parts
 * overlay_cow.c    writes to clusters that are not allocated yet: copy-on-write
 * overlay_flush.c  flushes, and the writeback of the allocation bitmap
 * overlay_map.c    the file: header and allocation bitmap
 *
 * The file, described in karma-overlay(5), holds a header, the allocation bitmap (there called the
 * map), and a place for each cluster of the disk.  An allocated cluster is read from there, any
 * other from the base.
 *
 * A bit of the bitmap in memory is set after the cluster's data were written, and never cleared.
 * The file may have a bit only once these data are on the disk, so a writeback flushes the data
 * before it writes the bitmap.
 *
 * The bitmap in memory outlives a process of a guest that is killed at any instruction.  So a block
 * of it is marked dirty before its bits are set, and is clean only while all of its bits are on the
 * disk.
 */
#ifndef KARMA_IO_OVERLAY_H
#define KARMA_IO_OVERLAY_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "karma/disk.h"

#define OVERLAY_CLUSTER 4096u		/* bytes: the unit of allocation */
#define OVERLAY_MAP_START 4096u		/* bytes: where the bitmap begins in the file, behind the header */
#define OVERLAY_BLOCK 4096u		/* bytes: the unit of the bitmap's writeback */
#define OVERLAY_BLOCK_CLUSTERS (OVERLAY_BLOCK * 8)

enum overlay_block {
	BLOCK_CLEAN,	/* the file has all of its bits, on the disk; what new memory has */
	BLOCK_DIRTY,
	BLOCK_WRITEBACK,	/* the writeback under way writes it, and no bit was set since that began */
};

struct overlay_map {
	int fd;			/* of the file, locked */
	uint64_t size;		/* of the disk, in bytes */
	uint64_t data_start;	/* the disk's byte 0 in the file */
	/* Shared by the processes of guests, one after the other. */
	uint64_t *allocated;	/* bitmap of clusters; read by any thread without a lock */
	uint8_t *block_states;	/* enum overlay_block of each block; under the overlay's lock */
	size_t blocks;
};

/*
 * Open the overlay that the options name, or create it, for a base.  In the supervisor.  Returns 0,
 * or a negative errno with a message printed.
 */
int overlay_map_open(
	struct overlay_map *map, const struct disk_options *options, const struct disk *base);

/* Write back what the file lacks, waiting for it, and close the file. */
void overlay_map_close(struct overlay_map *map);

/* Copy the file, and what it lacks of the bitmap, into an empty one.  0, or a negative errno. */
int overlay_map_copy(const struct overlay_map *map, int to);

static inline bool overlay_is_allocated(const struct overlay_map *map, uint64_t cluster)
{
	return __atomic_load_n(&map->allocated[cluster / 64], __ATOMIC_ACQUIRE) >> cluster % 64 & 1;
}

/*
 * The end of the extent of clusters from first on, up to last, that are all allocated or all not.
 */
uint64_t overlay_extent_end(const struct overlay_map *map, uint64_t first, uint64_t last);

/* Mark the clusters first to last as allocated.  With the overlay's lock held. */
void overlay_set_allocated(struct overlay_map *map, uint64_t first, uint64_t last);

/* A writeback of the bitmap, which serves the flushes that were queued when it began. */
struct overlay_writeback {
	struct io_op *flushes;		/* of their requests, by next */
	struct disk_request part;	/* the step under way */
	struct iovec iov;
	uint8_t *copy;			/* of the blocks that were dirty, one after the other */
	size_t *blocks;			/* their indexes */
	size_t count, next;		/* of blocks: all, and the first that is not written yet */
};

struct overlay {
	struct disk disk;
	struct disk *base;
	struct disk *data, *metadata;	/* parts of the overlay's file: clusters; header and bitmap */
	pthread_mutex_t lock;		/* guards all that follows; no other is taken inside */
	struct overlay_map map;		/* to read bits takes no lock */
	struct cow_write *cow_writes;	/* in flight: no two of them share a cluster */
	struct cow_write *cow_waiting;	/* for one of these, in order */
	struct overlay_writeback writeback;
	bool writeback_active;
	struct io_op *queued_flushes;	/* of requests for the next writeback */
};

/* Submit a part of a request, and start it. */
static inline void overlay_submit_part(struct disk *disk, struct disk_request *part)
{
	disk_submit(disk, part);
	disk_kick(disk);
}

/*
 * Complete a request that was not passed on: done() is called later, not from within disk_submit().
 */
void overlay_complete(struct disk_request *request, int error);

/* Requests of the kinds that the files above serve. */
void overlay_submit_split(struct overlay *overlay, struct disk_request *request);
void overlay_submit_cow(struct overlay *overlay, struct disk_request *request);
void overlay_submit_flush(struct overlay *overlay, struct disk_request *request);

#endif
