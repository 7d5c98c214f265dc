// SPDX-License-Identifier: GPL-2.0-only
/* What the disks of all backends have in common: the choice of the backend, references, size. */
#include "karma/disk.h"
#include "karma/log.h"
#include "karma/nbd.h"

int disk_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring)
{
	int result;

	if (nbd_is_address(options->path))
		result = nbd_open(disk, options, ring);
	else if (options->overlay)
		result = overlay_open(disk, options, ring);
	else
		result = file_open(disk, options, ring);

	if (result == 0)
		(*disk)->references = 1;
	return result;
}

struct disk *disk_share(struct disk *disk)
{
	disk->references++;
	return disk;
}

int disk_measure(struct disk *disk, uint64_t *size)
{
	int result = 0;

	*size = disk->size;
	if (disk->backend->measure)
		result = disk->backend->measure(disk, size);
	*size -= *size % disk->block_size;
	return result;
}

void disk_close(struct disk *disk)
{
	if (--disk->references == 0)
		disk->backend->close(disk);
}

static atomic_uint own_counter, *blocking_calls = &own_counter;

void disk_set_blocking_counter(atomic_uint *counter)
{
	blocking_calls = counter;
}

void disk_blocking_call_begin(void)
{
	atomic_fetch_add(blocking_calls, 1);
}

void disk_blocking_call_end(void)
{
	atomic_fetch_sub(blocking_calls, 1);
}

void disk_truncate_to_blocks(struct disk *disk, const char *path)
{
	uint64_t rest = disk->size % disk->block_size;

	if (rest)
		note("disk %s: its last %llu bytes are no whole block of %u: the guest won't see them",
			path, (unsigned long long)rest, disk->block_size);
	disk->size -= rest;
}
