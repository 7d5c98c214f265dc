// SPDX-License-Identifier: GPL-2.0-only
/* --restore: a guest as its snapshot has it, and what of that may be given anew. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "karma/log.h"
#include "karma/snapshot_directory.h"
#include "karma/util.h"
#include "options.h"

/* What is read from now on replaces these, or has to be the same. */
static void set_aside(struct run_options *options)
{
	struct guest_options *guest = &options->guest;

	options->saved = *guest;
	guest->name = NULL;
	guest->initrds = NULL;
	guest->initrd_count = 0;
	guest->disks = NULL;
	guest->disk_count = 0;
	guest->nets = NULL;
	guest->net_count = 0;
	guest->vsock.service_count = 0;
	guest->command = NULL;
	options->warm = NULL;
	options->words = NULL;
	options->word_count = 0;
}

/* An overlay that is in the directory. */
static int find_overlay(struct run_options *options, const char **from)
{
	cleanup_free char *path = NULL;

	if (!*from || (*from)[0] == '/')
		return 0;
	if (asprintf(&path, "%s/%s", options->guest.restore.directory, *from) < 0) {
		path = NULL;
		return fail(-ENOMEM, "out of memory");
	}
	*from = copy_text(options, path);
	return *from ? 0 : -ENOMEM;
}

int restore_read(struct run_options *options, const char *directory)
{
	cleanup_fd int fd = snapshot_directory_open(directory), file = -1;
	cleanup_free char *path = NULL;
	uint64_t size;
	int result;

	if (fd < 0)
		return -EINVAL;
	file = snapshot_file_open(fd, directory, SNAPSHOT_CONFIG, &size);
	if (file < 0)
		return -EINVAL;
	if (asprintf(&path, "%s/" SNAPSHOT_CONFIG, directory) < 0) {
		path = NULL;
		return fail(-ENOMEM, "out of memory");
	}
	result = config_read_open(options, path, file);
	if (result == 0 && options->guest.restore.directory)
		result = fail(-EINVAL, "%s: restore: is not for the configuration of a snapshot: take it out", path);
	options->guest.restore.directory = directory;
	for (size_t i = 0; i < options->guest.disk_count && result == 0; i++)
		result = find_overlay(options, &options->guest.disks[i].from);
	set_aside(options);
	return result;
}

static int refuse_change(const struct run_options *options, const char *name, const char *why)
{
	return fail(-EINVAL, "--restore %s: %s can't be another than in the snapshot, since %s: leave it out",
		options->guest.restore.directory, name, why);
}

static bool same_text(const char *one, const char *other)
{
	return one == other || (one && other && strcmp(one, other) == 0);
}

/* Lists that end with NULL, or are NULL. */
static bool same_texts(const char *const *one, const char *const *other)
{
	if (!one || !other)
		return one == other;
	while (*one && *other && strcmp(*one, *other) == 0) {
		one++;
		other++;
	}
	return !*one && !*other;
}

#define COUNTED "the guest has counted its devices, CPUs and memory as it booted"
#define BOOTED "the guest has booted"

static int check_unchanged(const struct run_options *options)
{
	const struct guest_options *guest = &options->guest, *saved = &options->saved;
	const struct {
		const char *name, *why;
		bool same;
	} fixed[] = {
		{ "kernel", BOOTED, same_text(guest->kernel, saved->kernel) },
		{ "initrd", BOOTED, !guest->initrds || same_texts(guest->initrds, saved->initrds) },
		{ "cmdline", BOOTED, same_text(guest->cmdline, saved->cmdline) },
		{ "COMMAND", "the guest's runs already", !guest->command ||
			same_texts((const char *const *)guest->command, (const char *const *)saved->command) },
		{ "root", BOOTED, same_text(guest->root.directory, saved->root.directory) },
		{ "modules", BOOTED, same_text(guest->modules, saved->modules) },
		{ "cpus", COUNTED, guest->cpus == saved->cpus },
		{ "memory", COUNTED, guest->memory.size == saved->memory.size },
		{ "vsock", COUNTED, guest->vsock.on == saved->vsock.on },
		{ "share", COUNTED, guest->share_count == saved->share_count },
		{ "vhost-user", COUNTED, guest->vhost_user_count == saved->vhost_user_count },
		{ "balloon", COUNTED, guest->balloon == saved->balloon },
		{ "pmu", COUNTED, guest->pmu == saved->pmu },
	};

	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++) {
		if (!fixed[i].same)
			return refuse_change(options, fixed[i].name, fixed[i].why);
	}
	return 0;
}

/*
 * The saved list, with those that were given in the place of the first ones.  Takes both; NULL, with a message, if they
 * don't fit.
 */
static void *by_position(const struct run_options *options, const char *name, void *given, size_t given_count,
	void *saved, size_t saved_count, size_t size)
{
	if (given_count > saved_count) {
		fail(-EINVAL, "--restore %s: there are more --%s than the %zu in the snapshot: give them in the order in which "
			      "the guest has them, and no others",
			options->guest.restore.directory, name, saved_count);
		return NULL;
	}
	if (given_count)
		memcpy(saved, given, given_count * size);
	free(given);
	return saved;
}

static int take_disks(struct run_options *options)
{
	struct guest_options *guest = &options->guest, *saved = &options->saved;
	struct disk_options *disks;

	if (!saved->disk_count && !guest->disk_count)
		return 0;
	/* A new overlay begins with what the guest had in the one before. */
	for (size_t i = 0; i < guest->disk_count && i < saved->disk_count; i++) {
		if (guest->disks[i].overlay && !guest->disks[i].from)
			guest->disks[i].from = saved->disks[i].from;
	}
	disks = by_position(options, "disk", guest->disks, guest->disk_count, saved->disks, saved->disk_count,
		sizeof(*disks));
	if (!disks)
		return -EINVAL;
	guest->disks = disks;
	guest->disk_count = saved->disk_count;
	saved->disks = NULL;
	return 0;
}

/* A descriptor's number is nothing that another start could use. */
static int check_descriptors(const struct run_options *options)
{
	for (size_t i = options->guest.net_count; i < options->saved.net_count; i++) {
		if (options->saved.nets[i].kind == NET_FDS)
			return fail(-EINVAL, "--restore %s: network %zu was a descriptor: give it, and those before it, anew by --net",
				options->guest.restore.directory, i + 1);
	}
	return 0;
}

static int take_nets(struct run_options *options)
{
	struct guest_options *guest = &options->guest, *saved = &options->saved;
	struct net_options *nets;

	if (!saved->net_count && !guest->net_count)
		return 0;
	if (check_descriptors(options) < 0)
		return -EINVAL;
	nets = by_position(options, "net", guest->nets, guest->net_count, saved->nets, saved->net_count, sizeof(*nets));
	if (!nets)
		return -EINVAL;
	guest->nets = nets;
	guest->net_count = saved->net_count;
	saved->nets = NULL;
	return 0;
}

int restore_complete(struct run_options *options)
{
	struct guest_options *guest = &options->guest, *saved = &options->saved;

	if (check_unchanged(options) < 0 || take_disks(options) < 0 || take_nets(options) < 0)
		return -EINVAL;
	if (!guest->name)
		guest->name = saved->name;
	if (!guest->vsock.service_count)
		guest->vsock = saved->vsock;
	if (!guest->command)
		guest->command = saved->command;
	if (!guest->initrds) {
		guest->initrds = saved->initrds;
		guest->initrd_count = saved->initrd_count;
		saved->initrds = NULL;
	}
	return 0;
}

int restore_open(struct run_options *options)
{
	struct guest_options *guest = &options->guest;
	struct snapshot_files *files = &options->files;
	const char *path = guest->restore.directory;
	cleanup_fd int directory = -1;
	int result;

	if (!path)
		return 0;
	directory = snapshot_directory_open(path);
	if (directory < 0)
		return directory;
	result = snapshot_files_open(files, directory, path);
	if (result == 0)
		guest_restore_from(guest, path, files);
	return result;
}

void restore_release(struct run_options *options)
{
	snapshot_files_close(&options->files);
	free(options->saved.disks);
	free(options->saved.nets);
	free(options->saved.initrds);
	free(options->saved.command);
	options->saved = (struct guest_options){ 0 };
}
