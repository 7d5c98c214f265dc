// SPDX-License-Identifier: GPL-2.0-only
/* Warm images in the user's cache: found, made, and the oldest removed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libdeflate.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "karma/boot.h"
#include "karma/copy_file.h"
#include "karma/log.h"
#include "karma/snapshot.h"
#include "karma/util.h"
#include "warm_images.h"

#define KEY "key"
#define NAME_DIGITS 8

char *warm_image_path(const char *key)
{
	cleanup_free char *cache = boot_cache_path(), *images = NULL;
	char *path;

	if (!cache)
		return NULL;
	if (asprintf(&images, "%s/warm", cache) < 0) {
		images = NULL;
		return NULL;
	}
	/* Errors show when it is opened. */
	mkdir(images, 0700);
	if (asprintf(&path, "%s/%0*" PRIx32, images, NAME_DIGITS, libdeflate_crc32(0, key, strlen(key))) < 0)
		return NULL;
	return path;
}

/* --- An image that is there. */

static bool has_key(int directory, const char *path, const char *key)
{
	uint64_t size;
	cleanup_fd int fd = snapshot_file_open(directory, path, KEY, &size);
	cleanup_free char *text = fd < 0 || size != strlen(key) ? NULL : malloc(size);

	return text && read_all_at(fd, text, size, 0) == 0 && memcmp(text, key, size) == 0;
}

static bool is_whole(const struct snapshot_files *files, uint64_t memory)
{
	struct snapshot_reader reader;
	struct stat status;

	return fstat(files->memory, &status) == 0 && (uint64_t)status.st_size == memory &&
		snapshot_reader_init(&reader, files->state, files->state_bytes) == 0;
}

/* Its time is that of its last use. */
static int open_files(int directory, const char *path, const char *key, uint64_t memory, struct snapshot_files *files)
{
	int result = has_key(directory, path, key) ? snapshot_files_open(files, directory, path) : -EINVAL;

	if (result == 0 && !is_whole(files, memory))
		result = -EINVAL;
	if (result == 0)
		futimens(directory, NULL);
	return result;
}

int warm_image_open(const char *path, const char *key, uint64_t memory, struct snapshot_files *files)
{
	cleanup_fd int directory = -1;
	int result;

	*files = SNAPSHOT_FILES_NONE;
	if (access(path, F_OK) < 0)
		return -ENOENT;
	log_hush(true);
	directory = snapshot_directory_open(path);
	result = directory < 0 ? directory : open_files(directory, path, key, memory, files);
	if (result < 0)
		warm_image_remove(path);
	log_hush(false);
	return result < 0 ? -ENOENT : 0;
}

/* What contains it; its name is behind the last slash. */
static int open_parent(const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	cleanup_free char *parent = strndup(path, slash - path);

	*name = slash + 1;
	return parent ? open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
}

void warm_image_remove(const char *path)
{
	const char *name;
	cleanup_fd int parent = open_parent(path, &name);

	if (parent >= 0)
		snapshot_directory_remove(parent, name);
}

/* --- A new one. */

static int write_key(int directory, const char *key)
{
	cleanup_fd int fd = openat(directory, KEY, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	return fd < 0 ? -errno : write_all_at(fd, key, strlen(key), 0);
}

int warm_image_begin(struct snapshot_aside *aside, const char *path, const char *key)
{
	int result;

	log_hush(true);
	result = snapshot_aside_make(aside, path, geteuid());
	if (result == 0)
		result = write_key(aside->directory, key);
	log_hush(false);
	if (result < 0)
		snapshot_aside_release(aside);
	return result;
}

struct survey {
	unsigned count;
	uint64_t bytes;
	char oldest[NAME_MAX + 1];
	struct timespec oldest_at;
};

static bool is_image(const char *name)
{
	return strlen(name) == NAME_DIGITS && strspn(name, "0123456789abcdef") == NAME_DIGITS;
}

static bool is_before(const struct timespec *one, const struct timespec *other)
{
	return one->tv_sec != other->tv_sec ? one->tv_sec < other->tv_sec : one->tv_nsec < other->tv_nsec;
}

static void survey_image(struct survey *survey, int images, const char *name)
{
	cleanup_fd int fd = openat(images, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0)
		return;
	survey->bytes += snapshot_directory_bytes(fd);
	if (survey->count++ == 0 || is_before(&status.st_mtim, &survey->oldest_at)) {
		survey->oldest_at = status.st_mtim;
		snprintf(survey->oldest, sizeof(survey->oldest), "%s", name);
	}
}

/* And remove what was left of those that were not completed. */
static struct survey survey_images(int images)
{
	int fd = openat(images, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *entries = fd < 0 ? NULL : fdopendir(fd);
	struct survey survey = { 0 };
	const struct dirent *entry;

	if (!entries) {
		close_fd(&fd);
		return survey;
	}
	while ((entry = readdir(entries))) {
		if (is_image(entry->d_name))
			survey_image(&survey, images, entry->d_name);
		else if (strstr(entry->d_name, SNAPSHOT_ASIDE))
			snapshot_directory_remove(images, entry->d_name);
	}
	closedir(entries);
	return survey;
}

/* For one that takes so many bytes.  What can't be removed, another does. */
static void make_room(int images, uint64_t bytes)
{
	for (unsigned tries = 0; tries < 2 * WARM_IMAGES_MAX; tries++) {
		struct survey survey = survey_images(images);

		if (survey.count < WARM_IMAGES_MAX && survey.bytes + bytes <= WARM_BYTES_MAX)
			return;
		snapshot_directory_remove(images, survey.oldest);
	}
}

int warm_image_publish(struct snapshot_aside *aside)
{
	make_room(aside->parent, snapshot_directory_bytes(aside->directory));
	/* An image is not empty, so only what is left of one that was removed is replaced. */
	if (renameat(aside->parent, aside->name, aside->parent, strrchr(aside->path, '/') + 1) < 0)
		return -errno;
	aside->name[0] = '\0';
	return 0;
}
