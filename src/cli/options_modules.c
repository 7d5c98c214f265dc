// SPDX-License-Identifier: GPL-2.0-only
/* --modules: the modules of a kernel that is not installed, as a share, and an initramfs with those to mount it by. */
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "karma/boot.h"
#include "karma/log.h"
#include "karma/util.h"
#include "options.h"

#define TAG "karma-modules"
#define RELEASE_BYTES 128

/* asprintf() for the lifetime of the options; NULL, with a message printed, if memory is short. */
__attribute__((format(printf, 2, 3))) static char *make_text(
	struct run_options *options, const char *format, ...)
{
	cleanup_free char *text = NULL;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vasprintf(&text, format, arguments);
	va_end(arguments);
	if (length < 0) {
		text = NULL;
		fail(-ENOMEM, "out of memory");
		return NULL;
	}
	return copy_text(options, text);
}

static bool has_modules(const char *tree)
{
	char path[PATH_MAX];

	return snprintf(path, sizeof(path), "%s/modules.dep", tree) < (int)sizeof(path) && access(path, R_OK) == 0;
}

/* The directory named after the release, whatever is above it: what `make modules_install` leaves, or a part of it. */
static char *find_tree(struct run_options *options, const char *release)
{
	const char *directory = options->guest.modules;
	cleanup_free char *real = realpath(directory, NULL);
	const char *name = real ? strrchr(real, '/') + 1 : "";
	char *tree;

	if (!real) {
		fail(-errno, "--modules %s: %s: give a directory that is there", directory, strerror(errno));
		return NULL;
	}
	if (strcmp(name, release) == 0 && has_modules(real))
		return copy_text(options, real);
	tree = make_text(options, "%s/%s", real, release);
	if (!tree || has_modules(tree))
		return tree;
	tree = make_text(options, "%s/lib/modules/%s", real, release);
	if (!tree || has_modules(tree))
		return tree;
	fail(-ENOENT, "--modules %s: has no modules.dep of %s, neither in it, nor in %s nor lib/modules/%s below it: "
		      "run `make modules_install INSTALL_MOD_PATH=%s` where the kernel was built",
		directory, release, release, release, directory);
	return NULL;
}

/* Whether what was made of the tree is there and still holds. */
static bool is_fresh(const char *initramfs, const char *tree, const char *maker)
{
	struct stat made, modules, script;
	char list[PATH_MAX];

	snprintf(list, sizeof(list), "%s/modules.dep", tree);
	return stat(initramfs, &made) == 0 && stat(list, &modules) == 0 && stat(maker, &script) == 0 &&
		made.st_mtime > modules.st_mtime && made.st_mtime > script.st_mtime;
}

static int run_maker(char *const argv[])
{
	pid_t pid;
	int status, result = posix_spawn(&pid, argv[0], NULL, NULL, argv, environ);

	if (result)
		return fail(-result, "--modules: can't run %s: %s: install Karma anew", argv[0], strerror(result));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return fail(-EINVAL, "--modules: can't make an initramfs, see above: mend that, or give --initrd FILE");
}

/* In the cache, by scripts/mkinitramfs, which is beside the other initramfs. */
static int make_initramfs(struct run_options *options, const char *release, char *tree)
{
	const char *guest = boot_guest_directory();
	cleanup_free char *cache = boot_cache_path();
	char *maker = make_text(options, "%s/mkinitramfs", guest), *parent = copy_text(options, tree);
	struct stat status;
	char *initramfs;

	if (!maker || !parent)
		return -ENOMEM;
	if (!cache || stat(tree, &status) < 0)
		return fail(-ENOENT, "--modules: there is no cache to make an initramfs in, which only you may write: "
				     "set KARMA_CACHE_DIR, or give --initrd FILE");
	initramfs = make_text(options, "%s/initramfs-%s-%jx-%jx.img", cache, release, (uintmax_t)status.st_dev,
		(uintmax_t)status.st_ino);
	if (!initramfs)
		return -ENOMEM;
	*strrchr(parent, '/') = '\0';
	if (!is_fresh(initramfs, tree, maker)) {
		char *const argv[] = { maker, "--release", (char *)release, "--modules", parent[0] ? parent : "/",
			"--output", initramfs, NULL };
		int result = run_maker(argv);

		if (result < 0)
			return result;
	}
	return append_text(&options->guest.initrds, &options->guest.initrd_count, initramfs);
}

int modules_complete(struct run_options *options)
{
	char release[RELEASE_BYTES], *tree, *guest_path;
	struct share_options *share;
	int result;

	if (!options->guest.modules)
		return 0;
	result = boot_kernel_release(options->guest.kernel, release, sizeof(release));
	if (result == -ENOENT)
		return fail(result, "--modules: the kernel %s names no release: give a bzImage", options->guest.kernel);
	if (result < 0)
		return result;
	tree = find_tree(options, release);
	if (!tree)
		return -ENOENT;
	guest_path = make_text(options, "/lib/modules/%s", release);
	share = guest_path ? add_share_options(options) : NULL;
	if (!share)
		return -ENOMEM;
	*share = (struct share_options){ .directory = tree, .tag = TAG, .guest_path = guest_path, .read_only = true };
	return options->guest.initrd_count ? 0 : make_initramfs(options, release, tree);
}
