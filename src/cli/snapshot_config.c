// SPDX-License-Identifier: GPL-2.0-only
/* The configuration of a snapshot: the guest's options, as a start from anywhere else can use them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "karma/log.h"
#include "karma/nbd.h"
#include "karma/util.h"
#include "options.h"

/* Paths are relative to where we are. */
static int make_absolute(struct run_options *options, const char **path, const char *prefix)
{
	size_t length = strlen(prefix);
	cleanup_free char *here = NULL, *absolute = NULL;

	if (!*path || strncmp(*path, prefix, length) != 0 || !(*path)[length] || (*path)[length] == '/')
		return 0;
	here = getcwd(NULL, 0);
	if (!here)
		return fail(-errno, "the directory in which karma was started: %s", strerror(errno));
	if (asprintf(&absolute, "%s%s/%s", prefix, here, *path + length) < 0) {
		absolute = NULL;
		return fail(-ENOMEM, "out of memory");
	}
	*path = copy_text(options, absolute);
	return *path ? 0 : -ENOMEM;
}

/* The lists are ours. */
static int make_paths_absolute(struct run_options *options)
{
	struct guest_options *guest = &options->guest;
	int result = make_absolute(options, &guest->kernel, "");

	for (size_t i = 0; i < guest->initrd_count; i++)
		result |= make_absolute(options, &guest->initrds[i], "");
	for (size_t i = 0; i < guest->disk_count; i++) {
		if (!nbd_is_address(guest->disks[i].path))
			result |= make_absolute(options, &guest->disks[i].path, "");
		result |= make_absolute(options, &guest->disks[i].overlay, "");
		/* What the guest writes to begins as a copy of an overlay in the snapshot itself. */
		if (guest->disks[i].read_only)
			result |= make_absolute(options, &guest->disks[i].from, "");
	}
	for (unsigned i = 0; i < guest->vsock.service_count; i++)
		result |= make_absolute(options, &guest->vsock.services[i].path, "");
	result |= make_absolute(options, &guest->console, "file:");
	result |= make_absolute(options, &guest->console, "unix:");
	return result < 0 ? -EINVAL : 0;
}

/* What a file can't have is left out: only a restart of the guest needs it, so there is to be none. */
static void check_command(struct guest_options *guest)
{
	for (char **word = guest->command; word && *word; word++) {
		if (is_plain_text(*word, strlen(*word)) && strlen(*word) < SETTING_LINE_MAX / 2)
			continue;
		guest->command = NULL;
		guest->reboot = END_EXIT;
		guest->on_panic = END_EXIT;
	}
}

/* What two guests can't have at a time. */
static void remove_unique(struct guest_options *guest)
{
	guest->name = NULL;
	guest->console = NULL;
	for (size_t i = 0; i < guest->net_count; i++) {
		guest->nets[i].publish_count = 0;
		guest->nets[i].has_mac = false;
	}
}

static void *copy_list(const void *list, size_t count, size_t size)
{
	void *copy = calloc(count + 1, size);

	if (copy && count)
		memcpy(copy, list, count * size);
	return copy;
}

static int print(struct run_options *options, bool copies, FILE *file)
{
	struct guest_options *guest = &options->guest;
	int result = make_paths_absolute(options);

	if (result < 0)
		return result;
	check_command(guest);
	/* Without the agent, which joins no copy's command to its streams, that is on the console as by default. */
	if (guest->agent && strcmp(guest->console, "stderr") == 0)
		guest->console = NULL;
	if (copies)
		remove_unique(guest);
	guest->restore = (struct restore_options){ 0 };
	guest->die_with_parent = false;
	fputs("# A guest as it was saved: `karma run --restore` reads this, and karma.conf(5) has its form.\n", file);
	return run_options_print(options, file);
}

int print_snapshot_config(const struct guest_options *from, bool copies, FILE *file)
{
	struct run_options options = { .guest = *from, .files = SNAPSHOT_FILES_NONE };
	cleanup_free void *initrds = copy_list(from->initrds, from->initrd_count, sizeof(*from->initrds));
	cleanup_free void *disks = copy_list(from->disks, from->disk_count, sizeof(*from->disks));
	cleanup_free void *nets = copy_list(from->nets, from->net_count, sizeof(*from->nets));
	int result;

	if (!initrds || !disks || !nets)
		return fail(-ENOMEM, "out of memory");
	options.guest.initrds = initrds;
	options.guest.disks = disks;
	options.guest.nets = nets;
	result = print(&options, copies, file);
	/* The texts alone: the lists are the caller's, and ours. */
	options.guest = (struct guest_options){ 0 };
	run_options_release(&options);
	return result;
}
