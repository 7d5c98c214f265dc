// SPDX-License-Identifier: GPL-2.0-only
/*
 * A file or directory from a stream of frames, which may be an attack: each name is one component, in a directory that
 * is held open, and nothing is opened that was there before but directories, which are no symbolic links.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "karma/util.h"
#include "tree.h"

#define TEMPORARY_BYTES 32u
#define NANOSECONDS_MAX 999999999u

/* An ENTRY, checked. */
struct entry {
	enum agent_kind kind;
	mode_t mode;
	struct timespec times[2];
	char name[NAME_MAX + 1];
	char target[PATH_MAX];
};

struct level {
	int fd;
	bool made;			/* by this copy: what was there keeps its mode and times */
	mode_t mode;
	struct timespec times[2];
};

struct receiver {
	struct agent_tree *tree;
	int parent;			/* the directory that the top goes into */
	const char *top_name;		/* its name there; NULL: it is parent itself */
	bool complete;			/* the top is */
	struct level levels[AGENT_DEPTH_MAX];
	unsigned depth;			/* directories that are open; levels[0] is the top */
	/* The file that is being received. */
	int file;			/* or -1 */
	char temporary[TEMPORARY_BYTES];
	struct entry entry;
	off_t offset;
	char path[PATH_MAX];		/* the destination, for messages */
};

static int fail_entry(struct receiver *receiver, int error)
{
	char path[AGENT_TREE_TEXT];

	snprintf(path, sizeof(path), "%s%s%s", receiver->path, receiver->entry.name[0] ? ": " : "",
		receiver->entry.name);
	return tree_fail(receiver->tree, error, path);
}

static int directory_of(const struct receiver *receiver)
{
	return receiver->depth ? receiver->levels[receiver->depth - 1].fd : receiver->parent;
}

/* --- Names. */

static bool is_name(const char *name)
{
	size_t length = strlen(name);

	return length > 0 && length <= NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 &&
		strcmp(name, "..") != 0;
}

void agent_tree_base(const char *path, char base[NAME_MAX + 1])
{
	size_t end = strlen(path), start;

	while (end > 0 && path[end - 1] == '/')
		end--;
	for (start = end; start > 0 && path[start - 1] != '/'; start--)
		;
	if (end - start > NAME_MAX)
		end = start;
	memcpy(base, path + start, end - start);
	base[end - start] = '\0';
	if (!is_name(base))
		strcpy(base, ".");
}

/* A name beside the final one that nobody else has. */
static void set_temporary(struct receiver *receiver)
{
	uint64_t number = 0;

	if (getrandom(&number, sizeof(number), 0) < 0)
		number = nanoseconds();
	snprintf(receiver->temporary, sizeof(receiver->temporary), ".karma-%016llx", (unsigned long long)number);
}

/* --- Directories, files and links. */

static int rename_temporary(struct receiver *receiver)
{
	int directory = directory_of(receiver), error;

	if (renameat(directory, receiver->temporary, directory, receiver->entry.name) == 0)
		return 0;
	error = -errno;
	unlinkat(directory, receiver->temporary, 0);
	return fail_entry(receiver, error);
}

static int open_directory(struct receiver *receiver)
{
	struct level *level = &receiver->levels[receiver->depth];
	int directory = directory_of(receiver);

	if (receiver->depth == AGENT_DEPTH_MAX)
		return fail_entry(receiver, -ELOOP);
	if (receiver->depth == 0 && !receiver->top_name) {
		level->made = false;
		level->fd = fcntl(directory, F_DUPFD_CLOEXEC, 0);
	} else {
		level->made = mkdirat(directory, receiver->entry.name, 0700) == 0;
		if (!level->made && errno != EEXIST)
			return fail_entry(receiver, -errno);
		level->fd = openat(directory, receiver->entry.name,
			O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	}
	if (level->fd < 0)
		return fail_entry(receiver, -errno);
	level->mode = receiver->entry.mode;
	memcpy(level->times, receiver->entry.times, sizeof(level->times));
	receiver->depth++;
	return 0;
}

static int leave_directory(struct receiver *receiver)
{
	struct level *level = &receiver->levels[--receiver->depth];
	int result = 0;

	receiver->entry.name[0] = '\0';
	if (level->made && (fchmod(level->fd, level->mode) < 0 || futimens(level->fd, level->times) < 0))
		result = fail_entry(receiver, -errno);
	close(level->fd);
	receiver->complete = receiver->depth == 0;
	return result;
}

static int open_file(struct receiver *receiver)
{
	set_temporary(receiver);
	receiver->file = openat(directory_of(receiver), receiver->temporary,
		O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	receiver->offset = 0;
	return receiver->file < 0 ? fail_entry(receiver, -errno) : 0;
}

/* The file as it is goes. */
static void drop_file(struct receiver *receiver)
{
	if (receiver->file < 0)
		return;
	close(receiver->file);
	receiver->file = -1;
	unlinkat(directory_of(receiver), receiver->temporary, 0);
}

static int leave_file(struct receiver *receiver)
{
	/* Behind the last data may be a hole. */
	if (ftruncate(receiver->file, receiver->offset) < 0 || fchmod(receiver->file, receiver->entry.mode) < 0 ||
		futimens(receiver->file, receiver->entry.times) < 0) {
		int error = -errno;

		drop_file(receiver);
		return fail_entry(receiver, error);
	}
	close(receiver->file);
	receiver->file = -1;
	receiver->complete = receiver->depth == 0;
	return rename_temporary(receiver);
}

static int make_symlink(struct receiver *receiver)
{
	int directory = directory_of(receiver), result;

	set_temporary(receiver);
	if (symlinkat(receiver->entry.target, directory, receiver->temporary) < 0)
		return fail_entry(receiver, -errno);
	/* The times of a link are of no great use, and not every file system has them. */
	if (utimensat(directory, receiver->temporary, receiver->entry.times, AT_SYMLINK_NOFOLLOW) < 0)
		errno = 0;
	result = rename_temporary(receiver);
	receiver->complete = receiver->depth == 0;
	return result;
}

/* The directory of a path below the top, with *name set to its last component; or an error. */
static int walk(struct receiver *receiver, char *path, const char **name)
{
	int at = fcntl(receiver->levels[0].fd, F_DUPFD_CLOEXEC, 0);
	char *rest = path, *component = strsep(&rest, "/");

	while (at >= 0 && rest && is_name(component)) {
		int next = openat(at, component, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		int error = errno;

		close(at);
		errno = error;
		at = next;
		component = strsep(&rest, "/");
	}
	if (at < 0)
		return -errno;
	*name = component;
	if (is_name(component))
		return at;
	close(at);
	return -EINVAL;
}

/* To a file that this copy has made, or that was there below its top. */
static int make_hard_link(struct receiver *receiver)
{
	int directory = directory_of(receiver), result;
	const char *name = NULL;
	cleanup_fd int from = -1;

	if (receiver->depth == 0)
		return tree_fail_protocol(receiver->tree);
	from = walk(receiver, receiver->entry.target, &name);
	if (from < 0)
		return fail_entry(receiver, from);
	set_temporary(receiver);
	if (linkat(from, name, directory, receiver->temporary, 0) < 0)
		return fail_entry(receiver, -errno);
	result = rename_temporary(receiver);
	/* If both are the same file already, rename(2) leaves both. */
	unlinkat(directory, receiver->temporary, 0);
	return result;
}

/* --- Frames. */

static bool parse_entry(struct entry *entry, const struct agent_frame *frame)
{
	const uint8_t *at = frame->payload + sizeof(struct agent_entry);
	size_t length = frame->length - sizeof(struct agent_entry);
	struct agent_entry head;
	const char *name, *target;

	if (frame->length < sizeof(head))
		return false;
	memcpy(&head, frame->payload, sizeof(head));
	name = agent_string(&at, &length);
	target = agent_string(&at, &length);
	if (!name || !target || length || strlen(name) > NAME_MAX || strlen(target) >= PATH_MAX)
		return false;
	entry->kind = le32toh(head.kind);
	entry->mode = le32toh(head.mode);
	entry->times[0] = entry->times[1] = (struct timespec){ .tv_sec = le64toh(head.seconds),
		.tv_nsec = le32toh(head.nanoseconds) };
	strcpy(entry->name, name);
	strcpy(entry->target, target);
	return entry->mode <= 0777 && le32toh(head.nanoseconds) <= NANOSECONDS_MAX;
}

static int take_entry(struct receiver *receiver, const struct agent_frame *frame)
{
	struct entry *entry = &receiver->entry;

	if (receiver->file >= 0 || receiver->complete || !parse_entry(entry, frame))
		return tree_fail_protocol(receiver->tree);
	/* How the top is called is not for the other side to say. */
	if (receiver->depth == 0)
		strcpy(entry->name, receiver->top_name ? receiver->top_name : "");
	else if (!is_name(entry->name))
		return tree_fail_protocol(receiver->tree);
	if (entry->kind == AGENT_DIRECTORY)
		return open_directory(receiver);
	if (receiver->depth == 0 && !receiver->top_name)
		return fail_entry(receiver, -EISDIR);
	switch (entry->kind) {
	case AGENT_FILE:
		return open_file(receiver);
	case AGENT_SYMLINK:
		return make_symlink(receiver);
	case AGENT_HARD_LINK:
		return make_hard_link(receiver);
	default:
		return tree_fail_protocol(receiver->tree);
	}
}

static int take_data(struct receiver *receiver, const struct agent_frame *frame)
{
	struct agent_tree *tree = receiver->tree;

	if (receiver->file < 0)
		return tree_fail_protocol(tree);
	for (size_t done = 0; done < frame->length;) {
		ssize_t written = pwrite(receiver->file, frame->payload + done, frame->length - done,
			receiver->offset);

		if (written < 0)
			return fail_entry(receiver, -errno);
		done += written;
		receiver->offset += written;
	}
	if (tree->progress)
		tree->progress(tree->context, frame->length);
	return 0;
}

static int take_hole(struct receiver *receiver, const struct agent_frame *frame)
{
	uint64_t bytes;

	if (receiver->file < 0 || frame->length != sizeof(bytes))
		return tree_fail_protocol(receiver->tree);
	memcpy(&bytes, frame->payload, sizeof(bytes));
	bytes = le64toh(bytes);
	if (bytes > (uint64_t)(INT64_MAX - receiver->offset))
		return fail_entry(receiver, -EFBIG);
	receiver->offset += bytes;
	return 0;
}

static int take_leave(struct receiver *receiver)
{
	if (receiver->file >= 0)
		return leave_file(receiver);
	return receiver->depth ? leave_directory(receiver) : tree_fail_protocol(receiver->tree);
}

static int take_skipped(struct agent_tree *tree, const struct agent_frame *frame)
{
	char text[AGENT_TREE_TEXT];

	snprintf(text, sizeof(text), "%.*s", (int)(frame->length < sizeof(text) ? frame->length : sizeof(text)),
		(const char *)frame->payload);
	if (tree->skipped)
		tree->skipped(tree->context, text);
	return 0;
}

/* 1: go on; 0: all has come; or an error. */
static int take_frame(struct receiver *receiver, const struct agent_frame *frame)
{
	int result;

	switch (frame->type) {
	case AGENT_ENTRY:
		result = take_entry(receiver, frame);
		break;
	case AGENT_DATA:
		result = take_data(receiver, frame);
		break;
	case AGENT_HOLE:
		result = take_hole(receiver, frame);
		break;
	case AGENT_LEAVE:
		result = take_leave(receiver);
		break;
	case AGENT_SKIPPED:
		result = take_skipped(receiver->tree, frame);
		break;
	case AGENT_ERROR:
		return tree_take_error(receiver->tree, frame);
	case AGENT_DONE:
		return receiver->complete ? 0 : tree_fail_protocol(receiver->tree);
	default:
		return tree_fail_protocol(receiver->tree);
	}
	return result < 0 ? result : 1;
}

static int receive(struct receiver *receiver)
{
	struct agent_link *link = receiver->tree->link;
	struct agent_frame frame;
	int result;

	do {
		result = agent_link_await(link, &frame);
		result = result > 0 ? take_frame(receiver, &frame) : result < 0 ? result : -EPIPE;
	} while (result > 0);
	drop_file(receiver);
	while (receiver->depth)
		close(receiver->levels[--receiver->depth].fd);
	return result == 0 ? tree_answer(receiver->tree) : result;
}

/* --- The destination. */

/* The directory that holds it, and its name there. */
static int open_parent(struct receiver *receiver, const char *path, char name[NAME_MAX + 1])
{
	size_t length = strlen(path);
	char directory[PATH_MAX];

	agent_tree_base(path, name);
	if (length >= sizeof(directory) || length == 0 || path[length - 1] == '/' || strcmp(name, ".") == 0)
		return tree_fail(receiver->tree, length == 0 ? -ENOENT : -ENOTDIR, path);
	length -= strlen(name);
	memcpy(directory, path, length);
	strcpy(directory + length, length ? "" : ".");
	receiver->parent = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	receiver->top_name = name;
	return receiver->parent < 0 ? tree_fail(receiver->tree, -errno, directory) : 0;
}

int agent_tree_receive(struct agent_tree *tree, const char *path, const char *base)
{
	static struct receiver receiver;
	char name[NAME_MAX + 1];
	int result = 0;

	receiver = (struct receiver){ .tree = tree, .parent = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		.file = -1 };
	tree->text[0] = '\0';
	snprintf(receiver.path, sizeof(receiver.path), "%s", path);
	if (receiver.parent >= 0)
		receiver.top_name = is_name(base) ? base : NULL;
	else if (errno == ENOENT || errno == ENOTDIR)
		result = open_parent(&receiver, path, name);
	else
		result = tree_fail(tree, -errno, path);
	if (result == 0)
		result = receive(&receiver);
	close_fd(&receiver.parent);
	return result;
}
