// SPDX-License-Identifier: GPL-2.0-only
/* /etc/karma/oci.conf, and annotations of a container. */
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "karma/boot.h"
#include "karma/log.h"
#include "karma/memory.h"
#include "karma/size.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "oci.h"

#define ANNOTATION "karma."
#define RELEASE_BYTES 128

static int set_text(char **to, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return fail(-ENOMEM, "out of memory");
	free(*to);
	*to = copy;
	return 0;
}

static int set_path(char **to, const char *where, const char *name, const char *value)
{
	return value[0] == '/' ? set_text(to, value) :
				 fail(-EINVAL, "%s%s: `%s` is no absolute path: give one", where, name, value);
}

static int set_cpus(struct oci_settings *settings, const char *where, const char *value)
{
	char *end;
	unsigned long cpus = strtoul(value, &end, 10);

	if (value[0] < '0' || value[0] > '9' || *end || cpus < 1 || cpus > VCPUS_MAX)
		return fail(-EINVAL, "%scpus: `%s` is out of range: give 1 to %u", where, value, VCPUS_MAX);
	settings->cpus = cpus;
	return 0;
}

static int set_memory(struct oci_settings *settings, const char *where, const char *value)
{
	unsigned long long number;
	unsigned shift;

	if (!split_size(value, &number, &shift) || number > GUEST_MEMORY_MAX >> shift ||
		number << shift < GUEST_MEMORY_MIN || (number << shift) % PAGE_BYTES)
		return fail(-EINVAL, "%smemory: `%s` is no size of a guest's memory: give one like 256M or 2G", where, value);
	settings->memory = number << shift;
	return 0;
}

static int set_warm(struct oci_settings *settings, const char *where, const char *value)
{
	settings->no_warm = strcmp(value, "off") == 0;
	return settings->no_warm || strcmp(value, "on") == 0 ? 0 :
		fail(-EINVAL, "%swarm: `%s` is neither on nor off: give one of them", where, value);
}

/* 0; -ENOENT without a message: there is no such setting; or another error. */
static int set_one(struct oci_settings *settings, const char *where, const char *name, const char *value)
{
	if (strcmp(name, "kernel") == 0)
		return set_path(&settings->kernel, where, name, value);
	if (strcmp(name, "initrd") == 0)
		return set_path(&settings->initrd, where, name, value);
	if (strcmp(name, "cpus") == 0)
		return set_cpus(settings, where, value);
	if (strcmp(name, "memory") == 0)
		return set_memory(settings, where, value);
	if (strcmp(name, "warm") == 0)
		return set_warm(settings, where, value);
	return -ENOENT;
}

/* For ini_parse_file(). */
struct reader {
	struct oci_settings *settings;
	const char *path;
	int result;
};

static int take_line(void *context, const char *section, const char *name, const char *value)
{
	struct reader *reader = context;
	cleanup_free char *where = NULL;

	if (reader->result < 0)
		return 0;
	if (asprintf(&where, "%s: ", reader->path) < 0) {
		where = NULL;
		reader->result = fail(-ENOMEM, "out of memory");
		return 0;
	}
	if (section[0])
		reader->result = fail(-EINVAL, "%s[%s]: there are no sections here: leave it out", where, section);
	else if (strcmp(name, "crun") == 0)
		reader->result = set_path(&reader->settings->crun, where, name, value);
	else
		reader->result = set_one(reader->settings, where, name, value);
	if (reader->result == -ENOENT)
		fail(-ENOENT, "%s%s: is no setting: see karma-oci(8)", where, name);
	return reader->result == 0;
}

int oci_settings_read(struct oci_settings *settings, const char *path)
{
	struct reader reader = { .settings = settings, .path = path };
	FILE *file = fopen(path, "re");
	int line;

	if (!file)
		return errno == ENOENT ? 0 : fail(-errno, "%s: %s: have it readable, or remove it", path, strerror(errno));
	line = ini_parse_file(file, take_line, &reader);
	fclose(file);
	if (reader.result < 0)
		return reader.result;
	return line ? fail(-EINVAL, "%s: line %d: is no `name = value`: give that", path, line) : 0;
}

int oci_settings_annotate(struct oci_settings *settings, const json_t *annotations)
{
	const size_t length = strlen(ANNOTATION);
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)annotations, name, value) {
		int result;

		if (strncmp(name, ANNOTATION, length) != 0)
			continue;
		result = json_is_string(value) ? set_one(settings, "annotation " ANNOTATION, name + length, json_string_value(value)) :
						 fail(-EINVAL, "annotation %s: is no text: give one", name);
		if (result == -ENOENT)
			return fail(result, "annotation %s: is none of Karma's: see karma-oci(8)", name);
		if (result < 0)
			return result;
	}
	return 0;
}

/* Unpacked, it starts sooner. */
static int find_kernel(struct oci_settings *settings)
{
	static const char *const names[] = { "vmlinux", "bzImage" };
	const char *directory = boot_guest_directory();

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		cleanup_free char *path = NULL;

		if (asprintf(&path, "%s/%s", directory, names[i]) < 0) {
			path = NULL;
			return fail(-ENOMEM, "out of memory");
		}
		if (access(path, R_OK) == 0)
			return set_text(&settings->kernel, path);
	}
	return fail(-ENOENT, "%s: has no vmlinux or bzImage for containers: put one there that `make guest-kernel` has "
			     "built, or name one as `kernel` in oci.conf", directory);
}

static int find_initramfs(struct oci_settings *settings)
{
	cleanup_free char *path = NULL;
	char release[RELEASE_BYTES];
	int result = boot_kernel_release(settings->kernel, release, sizeof(release));

	if (result == -ENOENT)
		return fail(result, "kernel %s: names no release, so its initramfs can't be found: name one as `initrd` in "
				    "oci.conf", settings->kernel);
	if (result < 0)
		return result;
	if (asprintf(&path, "%s/%s/initramfs.img", boot_guest_directory(), release) < 0) {
		path = NULL;
		return fail(-ENOMEM, "out of memory");
	}
	if (access(path, R_OK) < 0)
		return fail(-errno, "%s: %s: build it with `make guest KVER=%s`, or name one as `initrd` in oci.conf", path,
			strerror(errno), release);
	return set_text(&settings->initrd, path);
}

/*
 * Of its own, beside what the user's other guests have: who breaks out of a container's supervisor can write to it.  Daemons
 * of systemd's have no home.  Containers do without one, too.
 */
static int find_cache(struct oci_settings *settings)
{
	cleanup_free char *path = NULL;

	if (geteuid() == 0 && !getenv("HOME"))
		setenv("XDG_CACHE_HOME", "/var/cache", 0);
	path = boot_cache_path();
	if (!path)
		return 0;
	if (asprintf(&settings->cache, "%s/containers", path) < 0) {
		settings->cache = NULL;
		return fail(-ENOMEM, "out of memory");
	}
	if (mkdir(settings->cache, 0700) < 0 && errno != EEXIST) {
		free(settings->cache);
		settings->cache = NULL;
	}
	return 0;
}

int oci_settings_complete(struct oci_settings *settings)
{
	int result = settings->kernel ? 0 : find_kernel(settings);

	if (result == 0 && !settings->initrd)
		result = find_initramfs(settings);
	return result == 0 ? find_cache(settings) : result;
}

void oci_settings_release(struct oci_settings *settings)
{
	free(settings->kernel);
	free(settings->initrd);
	free(settings->crun);
	free(settings->cache);
}
