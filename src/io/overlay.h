/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the sources of overlays share: the file, and the disk that is made of it and its base.
 *
 * The file: karma-overlay(5) has its form.  It holds a header, a map with a bit for each
 * cluster, and the clusters themselves, each at its own place.
 *
 * In memory the map tells which clusters are in the file.  A bit is set when the cluster's data have
 * been written, and never cleared.  In the file it may be set only when these are on the disk: who
 * writes the map has to see to that.
 *
 * The map in memory outlives a process that is killed, at any instruction.  So a block's state is
 * changed before its bits are, and it is BLOCK_CLEAN only while all of them are on the disk.
 */
#ifndef KARMA_IO_OVERLAY_H
#define KARMA_IO_OVERLAY_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "karma/disk.h"

#define OVERLAY_CLUSTER 4096u		/* bytes */
#define OVERLAY_MAP_START 4096u		/* in the file, behind the header */
#define OVERLAY_BLOCK 4096u		/* bytes of the map, which are written together */
#define OVERLAY_BLOCK_CLUSTERS (OVERLAY_BLOCK * 8)

enum overlay_block {
	BLOCK_CLEAN,	/* what new memory has: the file has all of its bits, on the disk */
	BLOCK_DIRTY,
	BLOCK_WRITEBACK,	/* by the round of flushes that is under way, and none was set since */
};

struct overlay_map {
	int fd;			/* of the file, locked */
	uint64_t size;		/* of the disk, in bytes */
	uint64_t data_start;	/* where the disk's byte 0 is in the file */
	/* In memory that the processes of guests share, one after the other. */
	uint64_t *allocated;	/* a bit for each cluster; read by any thread */
	uint8_t *block_states;	/* of each block: enum overlay_block */
	size_t blocks;
};

/*
 * Open the overlay that the options name, or make it, for a base.  0, or a negative errno with a message
 * printed.
 */
int overlay_map_open(
	struct overlay_map *map, const struct disk_options *options, const struct disk *base);

/* Write what the file does not have, and close it. */
void overlay_map_close(struct overlay_map *map);

static inline bool overlay_is_allocated(const struct overlay_map *map, uint64_t cluster)
{
	return __atomic_load_n(&map->allocated[cluster / 64], __ATOMIC_ACQUIRE) >> cluster % 64 & 1;
}

/* Behind the clusters from first on, up to last, that are all there, or all not. */
uint64_t overlay_extent_end(const struct overlay_map *map, uint64_t first, uint64_t last);

/* One thread at a time. */
void overlay_set_allocated(struct overlay_map *map, uint64_t first, uint64_t last);

/* Flushes that are done together, and what they write of the map. */
struct round {
	struct io_op *flushes;		/* of their requests */
	struct disk_request part;
	struct iovec iov;
	uint8_t *copy;			/* of the blocks that were dirty, one after the other */
	size_t *blocks;			/* which these are */
	size_t count, next;
};

struct overlay {
	struct disk disk;
	struct disk *base;
	struct disk *data, *marks;	/* parts of the overlay's file: clusters; header and map */
	pthread_mutex_t lock;		/* of all that follows; no other is taken inside */
	struct overlay_map map;		/* reading bits takes no lock */
	struct change *changes;		/* under way: no two of them have a cluster in common */
	struct change *waiting;		/* for one of these; in order */
	struct round round;
	bool flushing;			/* there is a round */
	struct io_op *next_flushes;	/* requests for the next one */
};

/* Submit a part of a request, and start it. */
static inline void overlay_pass(struct disk *disk, struct disk_request *part)
{
	disk_submit(disk, part);
	disk_kick(disk);
}

/* A request for a flush. */
void overlay_flush(struct overlay *overlay, struct disk_request *request);

#endif
