// SPDX-License-Identifier: GPL-2.0-only
/* A directory of the host's as the guest's root: --root and --rw, and what follows from them. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "karma/log.h"
#include "karma/util.h"
#include "options.h"

int parse_writable(void *target, const char *name, char *text)
{
	struct root_options *root = &((struct run_options *)target)->guest.root;

	if (!text[0])
		return refuse("%s: is empty: give a DIR", name);
	return append_text(&root->writable, &root->writable_count, text);
}

int print_writable(const void *target, const char *name, FILE *file)
{
	return print_texts(file, name, ((const struct run_options *)target)->guest.root.writable);
}

int root_check(const struct run_options *options)
{
	const struct root_options *root = &options->guest.root;

	if (root->writable && !root->directory)
		return fail(-EINVAL, "--rw %s: needs --root: give --root DIR too, or --share instead",
			root->writable[0]);
	return 0;
}

/* The path behind a directory that it is below, or "" if it is that; NULL if it is elsewhere.  Both are absolute. */
static const char *path_below(const char *directory, const char *path)
{
	size_t length = strcmp(directory, "/") == 0 ? 0 : strlen(directory);

	return strncmp(path, directory, length) == 0 && (!path[length] || path[length] == '/') ? path + length : NULL;
}

/* Without links, for the lifetime of the options; NULL, with a message printed. */
static const char *real_path(struct run_options *options, const char *name, const char *path)
{
	cleanup_free char *real = realpath(path, NULL);

	if (!real) {
		fail(-errno, "--%s %s: %s: give a directory that is there", name, path, strerror(errno));
		return NULL;
	}
	return copy_text(options, real);
}

static int add_share(struct run_options *options, const struct share_options *share)
{
	struct share_options *added = add_share_options(options);

	if (!added)
		return -ENOMEM;
	*added = *share;
	return 0;
}

/* What may be written is at its own path in the guest: within the root, or elsewhere. */
static int share_writable(struct run_options *options, const char *root, const char *path, size_t index)
{
	const char *real = real_path(options, "rw", path), *below;
	char tag[SHARE_TAG_MAX + 1];
	char *kept;

	if (!real)
		return -EINVAL;
	below = path_below(root, real);
	if (strcmp(real, "/") == 0 || (below && !below[0]))
		return fail(-EINVAL, "--rw %s: is the root itself: give directories within it, or the root "
				     "as a disk", path);
	snprintf(tag, sizeof(tag), "karma-rw%zu", index);
	kept = copy_text(options, tag);
	if (!kept)
		return -ENOMEM;
	return add_share(options, &(struct share_options){
		.directory = real, .tag = kept, .guest_path = below ? below : real });
}

/* Where the caller is, if the guest has that; else its root. */
static const char *find_working_directory(struct run_options *options, const char *root)
{
	cleanup_free char *here = getcwd(NULL, 0);
	const char *below = here ? path_below(root, here) : NULL;

	if (!here)
		return "/";
	for (size_t i = 0; i < options->guest.share_count && !below; i++) {
		const struct share_options *share = &options->guest.shares[i];

		if (share->guest_path && share->directory && path_below(share->directory, here) &&
			strcmp(share->directory, share->guest_path) == 0)
			below = here;
	}
	return below && below[0] ? copy_text(options, below) : "/";
}

/* As setgroups(2) and its like take them in the guest. */
static const char *find_user(struct run_options *options)
{
	gid_t groups[NGROUPS_MAX];
	int count = getgroups(ARRAY_SIZE(groups), groups);
	cleanup_free char *text = NULL;
	size_t size;
	FILE *file = open_memstream(&text, &size);

	if (!file) {
		fail(-ENOMEM, "out of memory");
		return NULL;
	}
	fprintf(file, "%u:%u:", getuid(), getgid());
	for (int i = 0; i < count; i++)
		fprintf(file, "%s%u", i ? "," : "", groups[i]);
	return fclose(file) == 0 ? copy_text(options, text) : NULL;
}

/* The kernel that the host runs, if the user names none. */
static int find_kernel(struct run_options *options)
{
	struct utsname host;
	char path[sizeof(host.release) + 32];

	if (options->guest.kernel)
		return 0;
	uname(&host);
	snprintf(path, sizeof(path), "/boot/vmlinuz-%s", host.release);
	if (access(path, R_OK) < 0)
		return fail(-errno, "--root without --kernel: the host's own kernel %s: %s: give --kernel FILE",
			path, strerror(errno));
	note("--root without --kernel: the guest runs the host's, %s", path);
	options->guest.kernel = copy_text(options, path);
	return options->guest.kernel ? 0 : -ENOMEM;
}

static int find_command(struct run_options *options)
{
	const char *shell = getenv("SHELL");
	int result;

	if (options->guest.command)
		return 0;
	result = append_text(&options->words, &options->word_count, shell && shell[0] ? shell : "/bin/sh");
	options->guest.command = (char **)options->words;
	return result;
}

static int complete(struct run_options *options)
{
	struct root_options *root = &options->guest.root;
	const char *directory;
	int result = find_kernel(options);

	if (result < 0)
		return result;
	directory = real_path(options, "root", root->directory);
	if (!directory)
		return -EINVAL;
	result = add_share(options, &(struct share_options){
		.directory = directory, .tag = GUEST_ROOT_TAG, .read_only = true, .plain_mounts = true });
	for (size_t i = 0; i < root->writable_count && result == 0; i++)
		result = share_writable(options, directory, root->writable[i], i);
	if (result == 0)
		result = find_command(options);
	if (result < 0)
		return result;
	root->working_directory = find_working_directory(options, directory);
	root->user = find_user(options);
	return root->working_directory && root->user ? 0 : -ENOMEM;
}

int root_complete(struct run_options *options)
{
	int result = options->guest.root.directory ? complete(options) : 0;

	return result == 0 ? modules_complete(options) : result;
}
