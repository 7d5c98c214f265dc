// SPDX-License-Identifier: GPL-2.0-only
/* What disks of all backends have in common: which backend it is, and who has the disk. */
#include "karma/disk.h"

int disk_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring)
{
	int result = options->overlay ? overlay_open(disk, options, ring)
				      : file_open(disk, options, ring);

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
