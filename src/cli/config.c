// SPDX-License-Identifier: GPL-2.0-only
/* karma config check: is a configuration file in order? */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "options.h"
#include "karma/cli.h"
#include "karma/file_kind.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/nbd.h"
#include "karma/util.h"

static const char help[] =
	"usage: karma config check FILE|NAME\n"
	"Read the configuration file of a guest, as `karma run --config` does, and tell each\n"
	"error with its line and its cure.  NAME is that of a file in " KARMA_CONFIG_DIR ".\n"
	"Exit status: 0 the file is in order, 125 it isn't.  See karma.conf(5).\n";

static int check_file(const char *path, const char *key, const char *file, int mode)
{
	bool disk = strcmp(key, "disk") == 0;
	struct stat status;

	if (access(file, mode) < 0 || stat(file, &status) < 0)
		return fail(-errno, "%s: %s %s: %s: %s", path, key, file, strerror(errno),
			errno == EACCES ? "give yourself the right to it" :
					  "correct the path, or make the file");
	if (S_ISREG(status.st_mode) || (disk && S_ISBLK(status.st_mode)))
		return 0;
	return fail(-EINVAL, "%s: %s %s: is %s: give %s", path, key, file, file_kind(status.st_mode),
		disk ? "a file or a block device" : "a regular file");
}

static int check_directory(const char *path, const char *key, const char *directory)
{
	struct stat status;

	if (stat(directory, &status) < 0)
		return fail(-errno, "%s: %s %s: %s: correct the path, or make the directory", path, key, directory,
			strerror(errno));
	if (!S_ISDIR(status.st_mode))
		return fail(-ENOTDIR, "%s: %s %s: is %s: give a directory", path, key, directory,
			file_kind(status.st_mode));
	return 0;
}

/* The files that a start of the guest would open. */
static int check_files(const struct run_options *options, const char *path)
{
	int result = options->guest.kernel ? check_file(path, "kernel", options->guest.kernel, R_OK) : 0;

	for (size_t i = 0; i < options->guest.initrd_count; i++)
		result |= check_file(path, "initrd", options->guest.initrds[i], R_OK);
	for (size_t i = 0; i < options->guest.disk_count; i++) {
		const struct disk_options *disk = &options->guest.disks[i];

		if (!nbd_is_address(disk->path))
			result |= check_file(path, "disk", disk->path,
				disk->read_only || disk->overlay ? R_OK : R_OK | W_OK);
	}
	for (size_t i = 0; i < options->guest.share_count; i++) {
		if (options->guest.shares[i].directory)
			result |= check_directory(path, "share", options->guest.shares[i].directory);
	}
	return result;
}

static int check(const char *name)
{
	cleanup_free char *path = config_path(name);
	struct run_options options;
	int result;

	if (!path)
		return fail(-ENOMEM, "out of memory");
	run_options_default(&options);
	result = config_read(&options, path);
	if (result == 0)
		result = root_check(&options);
	if (result == 0 && options.guest.restore.directory)
		result = check_directory(path, "restore", options.guest.restore.directory);
	else if (result == 0 && !options.guest.kernel && !options.guest.root.directory)
		result = fail(-EINVAL, "%s: names no kernel: write kernel = FILE", path);
	if (result == 0)
		result = check_files(&options, path);
	run_options_release(&options);
	if (result == 0)
		printf("%s: in order\n", path);
	return result;
}

int command_config(int argc, char **argv)
{
	if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		fputs(help, stdout);
		return 0;
	}
	if (argc > 1 && strcmp(argv[1], "check") != 0) {
		fail(-EINVAL, "%s: is no command: write `karma config check FILE`", argv[1]);
		return STATUS_FAILURE;
	}
	if (argc > 3) {
		fail(-EINVAL, "%s: is one argument too many: see `karma config --help`", argv[3]);
		return STATUS_FAILURE;
	}
	if (argc != 3 || !argv[2][0]) {
		fputs(help, stderr);
		return STATUS_FAILURE;
	}
	return check(argv[2]) == 0 ? 0 : STATUS_FAILURE;
}
