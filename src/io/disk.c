// SPDX-License-Identifier: GPL-2.0-only
/* What the disks of all backends have in common: the choice of the backend, references, size, generation. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "karma/disk.h"
#include "karma/log.h"
#include "karma/nbd.h"

void disk_generation(const struct disk *disk, char text[DISK_GENERATION_BYTES])
{
	const int fd = disk_descriptor(disk);
	struct stat status;

	if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
		snprintf(text, DISK_GENERATION_BYTES, "file-%" PRIu64 "-%" PRIu64 "-%" PRIi64 ".%09ld", (uint64_t)status.st_ino,
			disk->size, (int64_t)status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
	else if (disk->read_only)
		snprintf(text, DISK_GENERATION_BYTES, "device-%" PRIu64, disk->size);
	else
		snprintf(text, DISK_GENERATION_BYTES, DISK_GENERATION_UNKNOWN);
}

static int check_generation(const struct disk *disk, const struct disk_options *options)
{
	char text[DISK_GENERATION_BYTES];

	/* Of an overlay, its base was checked. */
	if (!options->generation || disk->backend->copy)
		return 0;
	disk_generation(disk, text);
	if (strcmp(options->generation, DISK_GENERATION_UNKNOWN) == 0)
		return fail(-ESTALE, "disk %s: nobody knows whether it was written to since the guest was saved, which would "
				     "destroy it: if it was not, give it anew by --disk",
			options->path);
	if (strcmp(options->generation, text) != 0)
		return fail(-ESTALE, "disk %s: has changed since the guest was saved, which would destroy it: bring back the "
				     "file as it was then, and give it anew by --disk; use overlay=FILE for guests that "
				     "are to be saved and go on",
			options->path);
	return 0;
}

int disk_open(struct disk **disk, const struct disk_options *options, struct io_ring *ring)
{
	int result;

	if (nbd_is_address(options->path))
		result = nbd_open(disk, options, ring);
	else if (options->overlay || options->from)
		result = overlay_open(disk, options, ring);
	else
		result = file_open(disk, options, ring);

	if (result < 0)
		return result;
	(*disk)->references = 1;
	result = check_generation(*disk, options);
	if (result < 0)
		disk_close(*disk);
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
