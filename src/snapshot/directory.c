// SPDX-License-Identifier: GPL-2.0-only
/* The directory of a snapshot. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "karma/file_kind.h"
#include "karma/log.h"
#include "karma/own_file.h"
#include "karma/snapshot_directory.h"
#include "karma/util.h"

#define NUMBER_DIGITS 16
#define BLOCK_BYTES 512u	/* of st_blocks, stat(2) */

static int refuse_owner(const char *path, const char *name)
{
	return fail(-EPERM, "%s%s%s: is another user's, or others may write there: take one of your own, or make it so "
			    "(chown, chmod go-w)",
		path, name ? "/" : "", name ? name : "");
}

int snapshot_directory_open(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = errno;
	struct stat status;

	if (fd >= 0 && fstat(fd, &status) == 0 && is_own_file(&status))
		return fd;
	close_fd(&fd);
	return fd < 0 ? fail(-error, "%s: %s: give the directory of a snapshot (karma snapshot)", path, strerror(error)) :
			refuse_owner(path, NULL);
}

int snapshot_file_open(int directory, const char *path, const char *name, uint64_t *size)
{
	/* Whatever it is, this does not wait. */
	cleanup_fd int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat status;
	int result;

	if (fd < 0 || fstat(fd, &status) < 0)
		return fail(-errno, "%s/%s: %s: it belongs to each snapshot: give the directory of one that is whole",
			path, name, strerror(errno));
	if (!S_ISREG(status.st_mode) || !status.st_size)
		return fail(-EINVAL, "%s/%s: is %s: give the directory of a snapshot that is whole", path, name,
			S_ISREG(status.st_mode) ? "empty" : file_kind(status.st_mode));
	if (!is_own_file(&status))
		return refuse_owner(path, name);
	*size = status.st_size;
	result = fd;
	fd = -1;
	return result;
}

/* --- A new one. */

/* NULL, without a message, if it can't be read. */
static DIR *open_entries(int directory)
{
	int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *entries = fd < 0 ? NULL : fdopendir(fd);

	if (!entries)
		close_fd(&fd);
	return entries;
}

void snapshot_directory_empty(int directory)
{
	DIR *entries = open_entries(directory);
	const struct dirent *entry;

	while (entries && (entry = readdir(entries)))
		unlinkat(directory, entry->d_name, 0);
	if (entries)
		closedir(entries);
}

uint64_t snapshot_directory_bytes(int directory)
{
	DIR *entries = open_entries(directory);
	const struct dirent *entry;
	uint64_t blocks = 0;
	struct stat status;

	while (entries && (entry = readdir(entries))) {
		if (fstatat(directory, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode))
			blocks += status.st_blocks;
	}
	if (entries)
		closedir(entries);
	return blocks * BLOCK_BYTES;
}

/* Whether a name is that of one made aside for DIR, whose last part is given. */
static bool is_aside(const char *name, const char *base)
{
	size_t length = strlen(base);

	return strncmp(name, base, length) == 0 && strncmp(name + length, SNAPSHOT_ASIDE, strlen(SNAPSHOT_ASIDE)) == 0 &&
		strspn(name + length + strlen(SNAPSHOT_ASIDE), "0123456789abcdef") == NUMBER_DIGITS &&
		!name[length + strlen(SNAPSHOT_ASIDE) + NUMBER_DIGITS];
}

void snapshot_directory_remove(int parent, const char *name)
{
	cleanup_fd int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return;
	snapshot_directory_empty(fd);
	unlinkat(parent, name, AT_REMOVEDIR);
}

static void remove_left(int parent, const char *base)
{
	DIR *entries = open_entries(parent);
	const struct dirent *entry;

	while (entries && (entry = readdir(entries))) {
		if (is_aside(entry->d_name, base))
			snapshot_directory_remove(parent, entry->d_name);
	}
	if (entries)
		closedir(entries);
}

/* Where DIR is to be: its parent, and its last part, which is in path.  False, without a message, if it has none. */
static bool split(char *path, char **parent, const char **base)
{
	size_t length = strlen(path);
	char *slash;

	while (length > 1 && path[length - 1] == '/')
		path[--length] = '\0';
	slash = strrchr(path, '/');
	*base = slash ? slash + 1 : path;
	if (!(*base)[0] || strcmp(*base, ".") == 0 || strcmp(*base, "..") == 0)
		return false;
	*parent = slash ? strndup(path, slash == path ? 1 : slash - path) : strdup(".");
	return *parent;
}

static const char *base_of(const struct snapshot_aside *aside)
{
	const char *slash = strrchr(aside->path, '/');

	return slash ? slash + 1 : aside->path;
}

static int refuse_existing(const struct snapshot_aside *aside)
{
	return fail(-EEXIST, "%s: is there already: give another DIR, or remove it", aside->path);
}

static int make_directory(struct snapshot_aside *aside, const char *base, unsigned user)
{
	uint64_t number;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number) ||
		snprintf(aside->name, sizeof(aside->name), "%s" SNAPSHOT_ASIDE "%0*" PRIx64, base, NUMBER_DIGITS, number) >=
			(int)sizeof(aside->name))
		return -ENAMETOOLONG;
	if (mkdirat(aside->parent, aside->name, 0700) < 0)
		return -errno;
	aside->directory = openat(aside->parent, aside->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (aside->directory < 0 || flock(aside->directory, LOCK_EX | LOCK_NB) < 0 ||
		(user != geteuid() && fchown(aside->directory, user, -1) < 0))
		return -errno;
	return 0;
}

int snapshot_aside_make(struct snapshot_aside *aside, const char *path, unsigned user)
{
	cleanup_free char *parent = NULL;
	const char *base;
	struct stat status;
	int result;

	*aside = SNAPSHOT_ASIDE_NONE;
	aside->path = strdup(path);
	if (!aside->path || !split(aside->path, &parent, &base))
		return fail(-EINVAL, "%s: is no name for a directory: give one that is not there yet", path);
	aside->parent = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (aside->parent < 0)
		return fail(-errno, "%s: %s: make it, or give a DIR elsewhere", parent, strerror(errno));
	if (fstatat(aside->parent, base, &status, AT_SYMLINK_NOFOLLOW) == 0)
		return refuse_existing(aside);
	remove_left(aside->parent, base);
	result = make_directory(aside, base, user);
	return result < 0 ? fail(result, "%s: can't make a directory beside it: %s: give a DIR elsewhere", path,
				    strerror(-result)) : 0;
}

int snapshot_aside_publish(struct snapshot_aside *aside)
{
	if (fsync(aside->directory) < 0)
		return fail(-errno, "%s: %s", aside->path, strerror(errno));
	/* Only an empty directory of that name would be replaced, and a snapshot is not empty. */
	if (renameat2(aside->parent, aside->name, aside->parent, base_of(aside), RENAME_NOREPLACE) < 0)
		return errno == EEXIST ? refuse_existing(aside) :
					 fail(-errno, "%s: %s", aside->path, strerror(errno));
	aside->name[0] = '\0';
	return fsync(aside->parent) < 0 ? fail(-errno, "%s: %s", aside->path, strerror(errno)) : 0;
}

void snapshot_aside_release(struct snapshot_aside *aside)
{
	if (aside->directory >= 0 && aside->name[0])
		snapshot_directory_empty(aside->directory);
	if (aside->parent >= 0 && aside->name[0])
		unlinkat(aside->parent, aside->name, AT_REMOVEDIR);
	close_fd(&aside->directory);
	close_fd(&aside->parent);
	free(aside->path);
	*aside = SNAPSHOT_ASIDE_NONE;
}
