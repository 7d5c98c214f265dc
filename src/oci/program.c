// SPDX-License-Identifier: GPL-2.0-only
/*
 * The program of a container's process, looked for on the host before there is a container: an engine has to hear from
 * `create` what is not there, and tells it by crun's words.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "karma/log.h"
#include "karma/util.h"
#include "oci.h"

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Where engines mount their own, which are no programs. */
static bool is_engines(const char *destination)
{
	static const char *const own[] = { "/dev", "/proc", "/sys", "/etc", "/run" };

	for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
		size_t length = strlen(own[i]);

		if (strncmp(destination, own[i], length) == 0 && (destination[length] == '/' || !destination[length]))
			return true;
	}
	return false;
}

/* Whether a volume may have the program, or is it, as an engine's init. */
static bool may_be_mounted(const json_t *config, const char *name)
{
	const json_t *list = json_object_get(config, "mounts");

	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *destination = json_string_value(json_object_get(json_array_get(list, i), "destination"));

		if (!destination || !is_engines(destination) || strcmp(destination, name) == 0)
			return true;
	}
	return false;
}

/* 0: there is a program, as far as can be seen from here; -ENOENT or -EACCES. */
static int look(int root, const char *path)
{
	/* No link leads out of the container's root. */
	const struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	cleanup_fd int fd = syscall(SYS_openat2, root, path, &how, sizeof(how));
	struct stat file;

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? -ENOENT : 0;
	if (fstat(fd, &file) < 0)
		return 0;
	return S_ISREG(file.st_mode) && file.st_mode & 0111 ? 0 : -EACCES;
}

static int look_in(int root, const char *directory, size_t length, const char *name)
{
	cleanup_free char *path = NULL;

	if (asprintf(&path, "%.*s/%s", (int)length, directory, name) < 0) {
		path = NULL;
		return 0;
	}
	return look(root, path);
}

/* In each directory of PATH. */
static int search(int root, const char *path, const char *name)
{
	int result = -ENOENT;

	for (;;) {
		size_t length = strcspn(path, ":");
		int found = look_in(root, length ? path : ".", length ? length : 1, name);

		if (found == 0)
			return 0;
		if (found == -EACCES)
			result = found;
		if (!path[length])
			return result;
		path += length + 1;
	}
}

static const char *path_of(const json_t *process)
{
	const json_t *list = json_object_get(process, "env");

	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *variable = json_string_value(json_array_get(list, i));

		if (variable && strncmp(variable, "PATH=", 5) == 0)
			return variable + 5;
	}
	return PATH_DEFAULT;
}

int oci_check_program(const json_t *config, const char *bundle)
{
	const json_t *process = json_object_get(config, "process");
	const char *name = json_string_value(json_array_get(json_object_get(process, "args"), 0));
	const char *directory = json_string_value(json_object_get(process, "cwd"));
	const char *path = json_string_value(json_object_get(json_object_get(config, "root"), "path"));
	cleanup_free char *full = NULL;
	cleanup_fd int root = -1;
	int result;

	if (!name || !path || may_be_mounted(config, name))
		return 0;
	if (asprintf(&full, "%s%s%s", path[0] == '/' ? "" : bundle, path[0] == '/' ? "" : "/", path) < 0) {
		full = NULL;
		return fail(-ENOMEM, "out of memory");
	}
	root = open(full, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return 0;
	if (name[0] == '/')
		result = look(root, name);
	else if (strchr(name, '/'))
		result = look_in(root, directory ? directory : "/", strlen(directory ? directory : "/"), name);
	else
		result = search(root, path_of(process), name);
	if (result == -ENOENT)
		return fail(result, "executable file `%s` not found in $PATH: No such file or directory", name);
	return result < 0 ? fail(result, "open executable: Permission denied: `%s` is no program", name) : 0;
}
