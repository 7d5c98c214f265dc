// SPDX-License-Identifier: GPL-2.0-only
/* The guest's disks, from options to devices. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"
#include "karma/devices.h"
#include "karma/log.h"
#include "karma/nbd.h"

/* Those that are memory are counted by themselves. */
void guest_disk_name(const struct guest_options *options, size_t number, char *name, size_t size)
{
	const bool pmem = options->disks[number].pmem;
	size_t index = 0;

	for (size_t i = 0; i < number; i++)
		index += options->disks[i].pmem == pmem;
	if (pmem)
		snprintf(name, size, "pmem%zu", index);
	else if (index < 26)
		snprintf(name, size, "vd%c", (char)('a' + index));
	else
		snprintf(name, size, "vd%c%c", (char)('a' + index / 26 - 1),
			(char)('a' + index % 26));
}

/* A file that an option of a disk names: its image or its overlay. */
struct disk_file {
	const char *path;	/* NULL: there is none, or it is on an NBD server */
	bool written;
};

/* Whether what the guest writes goes to its file. */
static bool is_written(const struct disk_options *disk)
{
	return !disk->read_only && !disk->private_memory;
}

static struct disk_file disk_file(const struct disk_options *disk, bool overlay)
{
	const char *path = overlay ? disk->overlay : nbd_is_address(disk->path) ? NULL : disk->path;

	return (struct disk_file){ path, is_written(disk) && (overlay || !disk->overlay) };
}

static bool are_the_same(const struct disk_file *one, const struct disk_file *other)
{
	struct stat a, b;

	if (!one->path || !other->path || (!one->written && !other->written) ||
		stat(one->path, &a) < 0 || stat(other->path, &b) < 0)
		return false;
	if (S_ISBLK(a.st_mode) && S_ISBLK(b.st_mode))
		return a.st_rdev == b.st_rdev;
	return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Said here, since the lock that a disk fails to get twice would blame another guest. */
static int check_given_once(const struct guest_options *options, size_t index)
{
	for (size_t i = 0; i <= 2 * index; i++) {
		const struct disk_file before = disk_file(&options->disks[i / 2], i % 2);

		for (unsigned overlay = i == 2 * index; overlay < 2; overlay++) {
			const struct disk_file file = disk_file(&options->disks[index], overlay);

			if (are_the_same(&before, &file))
				return fail(-EINVAL,
					"disk %s: is given twice: give each disk, and each overlay, a file of "
					"its own, or `,ro` to all of them",
					file.path);
		}
	}
	return 0;
}

static int open_disk(struct guest *guest, size_t index)
{
	struct disk_options options = guest->options.disks[index];

	options.read_only = !is_written(&options);
	return disk_open(&guest->disks[index], &options, &guest->ring);
}

int disks_open(struct guest *guest)
{
	const struct guest_options *options = &guest->options;

	guest->disks = calloc(options->disk_count, sizeof(*guest->disks));
	if (!guest->disks && options->disk_count)
		return fail(-ENOMEM, "disks: out of memory");
	for (size_t i = 0; i < options->disk_count; i++) {
		int result = check_given_once(options, i);

		if (result == 0)
			result = open_disk(guest, i);
		if (result < 0)
			return result;
		rate_limiter_init(&guest->shared->limits[i], &options->disks[i].limit);
		guest->disk_count++;
	}
	return 0;
}

void disks_close(struct guest *guest)
{
	for (size_t i = 0; i < guest->disk_count; i++) {
		disk_close(guest->disks[i]);
		rate_limiter_release(&guest->shared->limits[i]);
	}
	free(guest->disks);
}

void disks_after_fork(struct guest *guest)
{
	for (size_t i = 0; i < guest->disk_count; i++)
		rate_limiter_start(&guest->shared->limits[i], &guest->options.disks[i].limit);
}

unsigned disks_in_flight(const struct guest_options *options)
{
	unsigned count = 0;

	for (size_t i = 0; i < options->disk_count; i++)
		count += options->disks[i].pmem ? PMEM_QUEUE_SIZE : options->cpus * blk_queue_size(options->cpus);
	return count;
}

unsigned disks_connections(const struct guest_options *options)
{
	unsigned count = 0;

	for (size_t i = 0; i < options->disk_count; i++)
		count += nbd_is_address(options->disks[i].path);
	return count;
}

/*
 * A disk only grows by others' hands, and the supervisor measures it then.  Nobody knows how large a file grows
 * that has the console's output or messages.
 */
uint64_t disks_file_limit(const struct guest *guest)
{
	const int outputs[] = { guest->terminal.out_fd, STDERR_FILENO };
	uint64_t largest = 0;
	struct stat status;

	for (size_t i = 0; i < ARRAY_SIZE(outputs); i++) {
		if (fstat(outputs[i], &status) == 0 && S_ISREG(status.st_mode))
			return 0;
	}
	for (size_t i = 0; i < guest->disk_count; i++) {
		uint64_t size;

		if (disk_measure(guest->disks[i], &size) < 0)
			continue;
		/* An overlay has a map before its data: a bit for each 4 KiB. */
		if (guest->options.disks[i].overlay || guest->options.disks[i].from)
			size += size / 4096 + MIB;
		if (size > largest)
			largest = size;
	}
	return largest;
}

/* Without a device, the size may change in any direction. */
static void measure_disk(struct disk *disk)
{
	uint64_t size;

	if (disk_measure(disk, &size) == 0 && size)
		disk->size = size;
}

/* *device is NULL if memory is short. */
static int make_pmem(struct guest *guest, const struct virtio_environment *environment,
	const struct disk_options *options, const char *name, struct disk *disk, struct virtio_device **device)
{
	const struct file_memory file = {
		.path = options->path,
		.fd = disk_descriptor(disk),
		.bytes = disk->size,
		.writable = is_written(options),
		.read_only = options->read_only,
	};
	struct memory_region region;
	int result = vm_add_file_memory(&guest->vm, &file, &region);

	if (result == 0)
		*device = pmem_create(environment, name, disk, &region, file.writable);
	return result;
}

static int add_disk(
	struct guest *guest, const struct virtio_environment *environment, size_t index)
{
	const struct disk_options *options = &guest->options.disks[index];
	struct virtio_device *device = NULL;
	struct disk *disk = disk_share(guest->disks[index]);
	int result = disk_start(disk, guest->starts > 0);
	char name[8];

	if (result < 0)
		return result;
	measure_disk(disk);
	guest_disk_name(&guest->options, index, name, sizeof(name));
	if (options->pmem)
		result = make_pmem(guest, environment, options, name, disk, &device);
	else
		device = blk_create(environment, name, disk, options->serial, guest->options.cpus);
	if (result < 0 || !device) {
		disk_close(disk);
		return result < 0 ? result : fail(-ENOMEM, "disk %s: out of memory", options->path);
	}
	if (rate_limit_is_set(&options->limit))
		blk_limit(device, &guest->shared->limits[index]);
	return machine_add(&guest->vm.machine, device);
}

bool disks_tell_of_cut(const struct guest *guest)
{
	bool found = false;

	for (size_t i = 0; i < guest->disk_count; i++) {
		const struct disk_options *options = &guest->options.disks[i];
		uint64_t size, was = guest->disks[i]->size;

		if (!options->pmem || (disk_measure(guest->disks[i], &size) == 0 && size >= was))
			continue;
		found = true;
		fail(-EIO,
			"disk %s: has only %llu bytes of %llu any more, and is its guest's memory: the guest ends: "
			"give it its size again, and never cut it while a guest runs",
			options->path, (unsigned long long)size, (unsigned long long)was);
	}
	return found;
}

int disks_add(struct guest *guest, const struct virtio_environment *environment)
{
	int result = 0;

	for (size_t i = 0; i < guest->disk_count && result == 0; i++)
		result = add_disk(guest, environment, i);
	return result;
}
