// SPDX-License-Identifier: GPL-2.0-only
/* The disks of a guest that is saved: copies of their overlays, and of all others which contents they have. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "internal.h"
#include "karma/log.h"

/* The clock of the files' times of change ticks once in so much, at most (CONFIG_HZ=100). */
#define TICK_NANOSECONDS (10 * 1000 * 1000)
#define TICK_TRIES 20u

static bool has_own_overlay(const struct disk_options *options)
{
	return (options->overlay || options->from) && !options->read_only;
}

static int64_t nanoseconds_of(const struct timespec *time)
{
	return time->tv_sec * 1000000000ll + time->tv_nsec;
}

/* A write that follows gives the file another time of change. */
static void wait_for_tick(int fd)
{
	const struct timespec moment = { .tv_nsec = TICK_NANOSECONDS / 10 };
	struct timespec now;
	struct stat status;

	for (unsigned i = 0; i < TICK_TRIES; i++) {
		if (fstat(fd, &status) < 0 || clock_gettime(CLOCK_REALTIME, &now) < 0 ||
			nanoseconds_of(&now) - nanoseconds_of(&status.st_mtim) > TICK_NANOSECONDS)
			break;
		nanosleep(&moment, NULL);
	}
}

static int save_overlay(const struct disk *disk, struct disk_options *options, int directory, size_t index)
{
	cleanup_fd int fd = -1;
	char *name;
	int result;

	if (asprintf(&name, "overlay-%zu", index) < 0)
		return fail(-ENOMEM, "out of memory");
	options->overlay = NULL;
	options->from = name;
	fd = openat(directory, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	result = fd < 0 ? -errno : disk_copy_overlay(disk, fd);
	return result < 0 ? fail(result, "snapshot: disk %s: can't copy its overlay: %s: make room for it", options->path,
				    strerror(-result)) :
			    0;
}

static int save_generation(const struct disk *disk, struct disk_options *options)
{
	char text[DISK_GENERATION_BYTES];

	if (!options->read_only && disk_descriptor(disk) >= 0)
		wait_for_tick(disk_descriptor(disk));
	disk_generation(disk, text);
	options->generation = strdup(text);
	return options->generation ? 0 : fail(-ENOMEM, "out of memory");
}

void disks_flush_overlays(const struct guest *guest)
{
	for (size_t i = 0; i < guest->disk_count; i++) {
		/* An error is the guest's, at its next flush. */
		if (has_own_overlay(&guest->options.disks[i]) && fdatasync(disk_descriptor(guest->disks[i])) < 0)
			return;
	}
}

int disks_save(const struct guest *guest, int directory)
{
	int result = 0;

	for (size_t i = 0; i < guest->disk_count && result == 0; i++) {
		struct disk_options *options = &guest->options.disks[i];

		if (has_own_overlay(options))
			result = save_overlay(guest->disks[i], options, directory, i);
		else if (!options->overlay)
			result = save_generation(guest->disks[i], options);
	}
	return result;
}

int disks_sync_saved(const struct guest *guest, int directory)
{
	for (size_t i = 0; i < guest->disk_count; i++) {
		const struct disk_options *options = &guest->options.disks[i];
		cleanup_fd int fd = -1;

		if (!has_own_overlay(options))
			continue;
		fd = openat(directory, options->from, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || fsync(fd) < 0)
			return fail(-errno, "snapshot: %s: %s", options->from, strerror(errno));
	}
	return 0;
}
