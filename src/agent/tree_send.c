// SPDX-License-Identifier: GPL-2.0-only
/* A file or directory as a stream of frames. */
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "karma/util.h"
#include "tree.h"

#define DATA_BYTES 65536u

/* A file with several names: the first of them, relative to the top. */
struct inode {
	dev_t device;
	ino_t number;
	char path[];
};

struct sender {
	struct agent_tree *tree;
	char path[PATH_MAX];	/* of what is being sent */
	size_t top;		/* length of the part that is the top's */
	unsigned depth;
	void *inodes;		/* by tsearch(3) */
};

/* --- Frames. */

/* The other side has something to say, or is gone. */
static int hear(struct agent_tree *tree, int error)
{
	struct agent_frame frame;

	if (agent_link_await(tree->link, &frame) <= 0)
		return error == -ECANCELED ? -EPIPE : error;
	return frame.type == AGENT_ERROR ? tree_take_error(tree, &frame) : tree_fail_protocol(tree);
}

/* Room for a payload, once what came before is sent; NULL with *result set. */
static uint8_t *reserve(struct agent_tree *tree, size_t length, int *result)
{
	uint8_t *room = agent_link_reserve(tree->link, length);

	if (room)
		return room;
	*result = agent_link_flush(tree->link);
	if (*result == 0)
		return agent_link_reserve(tree->link, length);
	*result = hear(tree, *result);
	return NULL;
}

static int put(struct agent_tree *tree, unsigned type, const void *payload, size_t length)
{
	int result = 0;
	uint8_t *room = reserve(tree, length, &result);

	if (!room)
		return result;
	if (length)
		memcpy(room, payload, length);
	agent_link_commit(tree->link, type, 0, length);
	return 0;
}

static int put_entry(struct sender *sender, enum agent_kind kind, const struct stat *status, const char *name,
	const char *target)
{
	struct agent_entry entry = {
		.kind = htole32(kind),
		/* Set-ID bits would be another user's there. */
		.mode = htole32(status->st_mode & 0777),
		.seconds = htole64(status->st_mtim.tv_sec),
		.nanoseconds = htole32(status->st_mtim.tv_nsec),
		.bytes = htole64(kind == AGENT_FILE ? status->st_size : 0),
	};
	size_t name_bytes = strlen(name) + 1, target_bytes = strlen(target) + 1;
	int result = 0;
	uint8_t *room = reserve(sender->tree, sizeof(entry) + name_bytes + target_bytes, &result);

	if (!room)
		return result;
	memcpy(room, &entry, sizeof(entry));
	memcpy(room + sizeof(entry), name, name_bytes);
	memcpy(room + sizeof(entry) + name_bytes, target, target_bytes);
	agent_link_commit(sender->tree->link, AGENT_ENTRY, 0, sizeof(entry) + name_bytes + target_bytes);
	return 0;
}

/* --- Paths, for messages and for hard links. */

static int enter_name(struct sender *sender, const char *name, size_t *length)
{
	*length = strlen(sender->path);
	if (*length + 1 + strlen(name) >= sizeof(sender->path))
		return tree_fail(sender->tree, -ENAMETOOLONG, sender->path);
	sprintf(sender->path + *length, "/%s", name);
	return 0;
}

static int fail_here(struct sender *sender)
{
	return tree_fail(sender->tree, -errno, sender->path);
}

static int compare_inodes(const void *one, const void *other)
{
	const struct inode *a = one, *b = other;

	if (a->device != b->device)
		return a->device < b->device ? -1 : 1;
	return a->number == b->number ? 0 : a->number < b->number ? -1 : 1;
}

/* The path of the file's first name, if it had one before; NULL: this is the first, or memory is short. */
static const char *earlier_name(struct sender *sender, const struct stat *status)
{
	const char *path = sender->path + sender->top;
	struct inode *inode = malloc(sizeof(*inode) + strlen(path) + 1), **found;

	if (!inode)
		return NULL;
	inode->device = status->st_dev;
	inode->number = status->st_ino;
	/* Behind the slash. */
	strcpy(inode->path, path[0] ? path + 1 : path);
	found = tsearch(inode, &sender->inodes, compare_inodes);
	if (found && *found == inode)
		return NULL;
	free(inode);
	return found ? (*found)->path : NULL;
}

static void free_inodes(struct sender *sender)
{
	while (sender->inodes) {
		struct inode *inode = *(struct inode **)sender->inodes;

		tdelete(inode, &sender->inodes, compare_inodes);
		free(inode);
	}
}

/* --- Contents. */

static int skip(struct sender *sender, const char *why)
{
	struct agent_tree *tree = sender->tree;
	char text[AGENT_TREE_TEXT];

	snprintf(text, sizeof(text), "%s: %s", sender->path, why);
	if (tree->skipped)
		tree->skipped(tree->context, text);
	return put(tree, AGENT_SKIPPED, text, strlen(text));
}

/* Up to an offset, or to the end. */
static int send_data(struct sender *sender, int fd, off_t *at, off_t end)
{
	struct agent_tree *tree = sender->tree;

	while (*at < end) {
		int result = 0;
		uint8_t *room = reserve(tree, DATA_BYTES, &result);
		ssize_t got;

		if (!room)
			return result;
		got = pread(fd, room, end - *at < DATA_BYTES ? end - *at : DATA_BYTES, *at);
		if (got < 0)
			return fail_here(sender);
		if (got == 0)
			return 0;
		agent_link_commit(tree->link, AGENT_DATA, 0, got);
		*at += got;
		if (tree->progress)
			tree->progress(tree->context, got);
	}
	return 0;
}

static int send_contents(struct sender *sender, int fd, off_t size)
{
	off_t at = 0, data, end;
	int result = 0;

	/* Files of procfs have a size of 0, and data. */
	if (size == 0)
		return send_data(sender, fd, &at, INT64_MAX);
	while (result == 0 && (data = lseek(fd, at, SEEK_DATA)) >= 0) {
		uint64_t hole = htole64(data - at);

		if (data > at)
			result = put(sender->tree, AGENT_HOLE, &hole, sizeof(hole));
		at = data;
		end = lseek(fd, at, SEEK_HOLE);
		if (result == 0)
			result = end < 0 ? fail_here(sender) : send_data(sender, fd, &at, end);
		/* It became shorter meanwhile. */
		if (at < end)
			return result;
	}
	if (result == 0 && errno != ENXIO)
		return fail_here(sender);
	if (result == 0 && at < size) {
		uint64_t hole = htole64(size - at);

		result = put(sender->tree, AGENT_HOLE, &hole, sizeof(hole));
	}
	return result;
}

static int send_file(struct sender *sender, int fd, const struct stat *status, const char *name)
{
	const char *earlier = status->st_nlink > 1 ? earlier_name(sender, status) : NULL;
	int result;

	if (earlier && earlier[0])
		return put_entry(sender, AGENT_HARD_LINK, status, name, earlier);
	result = put_entry(sender, AGENT_FILE, status, name, "");
	if (result == 0)
		result = send_contents(sender, fd, status->st_size);
	return result == 0 ? put(sender->tree, AGENT_LEAVE, NULL, 0) : result;
}

static int send_link(struct sender *sender, int directory, const struct stat *status, const char *name)
{
	char target[PATH_MAX];
	ssize_t length = readlinkat(directory, name, target, sizeof(target) - 1);

	if (length < 0)
		return fail_here(sender);
	target[length] = '\0';
	return put_entry(sender, AGENT_SYMLINK, status, name, target);
}

static int send_entry(struct sender *sender, int directory, const char *name);

static void close_directory(DIR **stream)
{
	if (*stream)
		closedir(*stream);
}

static int send_directory(struct sender *sender, int fd, const struct stat *status, const char *name)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	__attribute__((cleanup(close_directory))) DIR *stream = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;
	int result;

	if (!stream)
		return fail_here(sender);
	if (sender->depth == AGENT_DEPTH_MAX)
		return tree_fail(sender->tree, -ELOOP, sender->path);
	sender->depth++;
	result = put_entry(sender, AGENT_DIRECTORY, status, name, "");
	while (result == 0 && (errno = 0, entry = readdir(stream))) {
		size_t length;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		result = enter_name(sender, entry->d_name, &length);
		if (result == 0)
			result = send_entry(sender, fd, entry->d_name);
		if (result == 0)
			sender->path[length] = '\0';
	}
	if (result == 0 && errno)
		result = fail_here(sender);
	sender->depth--;
	return result == 0 ? put(sender->tree, AGENT_LEAVE, NULL, 0) : result;
}

/* What is at fd, which may be another thing than it was a moment ago. */
static int send_open(struct sender *sender, int fd, const char *name)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return fail_here(sender);
	if (S_ISDIR(status.st_mode))
		return send_directory(sender, fd, &status, name);
	if (S_ISREG(status.st_mode))
		return send_file(sender, fd, &status, name);
	return skip(sender, "is no file, directory or symbolic link");
}

static int send_entry(struct sender *sender, int directory, const char *name)
{
	struct stat status;
	cleanup_fd int fd = -1;

	if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? skip(sender, "was removed meanwhile") : fail_here(sender);
	if (S_ISLNK(status.st_mode))
		return send_link(sender, directory, &status, name);
	/* To open a device may do something. */
	if (!S_ISDIR(status.st_mode) && !S_ISREG(status.st_mode))
		return skip(sender, "is no file, directory or symbolic link");
	fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? skip(sender, "was removed meanwhile") : fail_here(sender);
	return send_open(sender, fd, name);
}

static int send_top(struct sender *sender, const char *path)
{
	struct stat status;
	cleanup_fd int fd = -1;

	if (stat(path, &status) < 0)
		return fail_here(sender);
	if (!S_ISDIR(status.st_mode) && !S_ISREG(status.st_mode))
		return tree_fail(sender->tree, -EINVAL, path);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? fail_here(sender) : send_open(sender, fd, "");
}

/* What is left once all was sent: to hear that the other side has it. */
static int finish(struct agent_tree *tree)
{
	struct agent_frame frame;
	int result = put(tree, AGENT_DONE, NULL, 0);

	if (result < 0)
		return result;
	result = agent_link_flush(tree->link);
	/* It may have an answer before the last bytes were sent, but not before it has read them. */
	if (result < 0)
		return hear(tree, result);
	result = agent_link_await(tree->link, &frame);
	if (result <= 0)
		return result == 0 ? -EPIPE : result;
	if (frame.type == AGENT_ERROR)
		return tree_take_error(tree, &frame);
	return frame.type == AGENT_DONE ? 0 : tree_fail_protocol(tree);
}

int agent_tree_send(struct agent_tree *tree, const char *path)
{
	struct sender sender = { .tree = tree };
	int result;

	tree->text[0] = '\0';
	if (strlen(path) >= sizeof(sender.path))
		return tree_fail(tree, -ENAMETOOLONG, path);
	strcpy(sender.path, path);
	sender.top = strlen(path);
	result = send_top(&sender, path);
	free_inodes(&sender);
	return result == 0 ? finish(tree) : result;
}

/* Of what may be a pipe: it has no positions. */
static int send_input(struct agent_tree *tree, int fd)
{
	for (;;) {
		int result = 0;
		uint8_t *room = reserve(tree, DATA_BYTES, &result);
		ssize_t got;

		if (!room)
			return result;
		got = read(fd, room, DATA_BYTES);
		if (got < 0)
			return tree_fail(tree, -errno, "standard input");
		if (got == 0)
			return put(tree, AGENT_LEAVE, NULL, 0);
		agent_link_commit(tree->link, AGENT_DATA, 0, got);
		if (tree->progress)
			tree->progress(tree->context, got);
	}
}

int agent_tree_send_input(struct agent_tree *tree, int fd, mode_t mode)
{
	struct sender sender = { .tree = tree };
	struct stat status = { .st_mode = mode };
	int result;

	tree->text[0] = '\0';
	clock_gettime(CLOCK_REALTIME, &status.st_mtim);
	result = put_entry(&sender, AGENT_FILE, &status, "", "");
	if (result == 0)
		result = send_input(tree, fd);
	return result == 0 ? finish(tree) : result;
}
