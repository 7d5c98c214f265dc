// SPDX-License-Identifier: GPL-2.0-only
/* Nodes: the descriptors that they have for as long as there are enough, and how to get at them again. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "karma/util.h"
#include "nodes.h"

bool node_is(const struct node *node, const struct stat *status)
{
	return node->inode == status->st_ino && node->device == status->st_dev &&
	       node->type == (status->st_mode & S_IFMT);
}

/* --- Those that may be closed, by their last use. */

static void remove_from_used(struct session *session, struct node *node)
{
	*(node->older ? &node->older->newer : &session->oldest) = node->newer;
	*(node->newer ? &node->newer->older : &session->newest) = node->older;
	node->older = node->newer = NULL;
}

static void add_to_used(struct session *session, struct node *node)
{
	node->older = session->newest;
	*(session->newest ? &session->newest->newer : &session->oldest) = node;
	session->newest = node;
}

static void touch(struct session *session, struct node *node)
{
	if (node->pinned || session->newest == node)
		return;
	remove_from_used(session, node);
	add_to_used(session, node);
}

void node_pin(struct session *session, struct node *node)
{
	if (node->fd < 0 || node->pinned)
		return;
	remove_from_used(session, node);
	node->pinned = true;
}

void node_unpin(struct session *session, struct node *node)
{
	if (node->pinned)
		add_to_used(session, node);
	node->pinned = false;
}

void node_close(struct session *session, struct node *node)
{
	if (node->fd < 0)
		return;
	if (!node->pinned)
		remove_from_used(session, node);
	close(node->fd);
	node->fd = -1;
	node->pinned = false;
}

/* Not the newest, relative to which something is being opened. */
static bool close_oldest(struct session *session)
{
	struct node *node = session->oldest;

	if (node && node == session->kept)
		node = node->newer;
	if (!node || node == session->newest)
		return false;
	node_close(session, node);
	return true;
}

/* --- Opening. */

int open_component(struct session *session, int directory, const char *name, int flags, mode_t mode)
{
	int fd;

	/* Nothing that is opened by mistake shall wait, or become a terminal. */
	do
		fd = openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, mode);
	while (fd < 0 && errno == EMFILE && close_oldest(session));
	if (fd >= 0)
		return fd;
	return errno == EMFILE ? -ENFILE : -errno;
}

const char *fd_name(int fd, char name[FD_NAME_BYTES])
{
	snprintf(name, FD_NAME_BYTES, "%d", fd);
	return name;
}

/* What its directory has by the node's name, if that is the node still. */
static int open_by_name(
	struct session *session, struct node *node, int directory, int flags, struct stat *status)
{
	int fd = open_component(session, directory, node->name, flags, 0);

	if (fd < 0)
		return fd == -ENOENT || fd == -ELOOP ? -ESTALE : fd;
	if (fstat(fd, status) < 0 || !node_is(node, status)) {
		close(fd);
		return -ESTALE;
	}
	return fd;
}

static int open_node(struct session *session, struct node *node)
{
	struct stat status;
	int fd;

	touch(session, node->parent);
	fd = open_by_name(session, node, node->parent->fd, O_PATH, &status);
	if (fd < 0)
		return fd;
	node->fd = fd;
	add_to_used(session, node);
	return 0;
}

/* From the nearest directory above that is open down to it, so that it needs no stack. */
int node_open_path(struct session *session, struct node *node)
{
	while (node->fd < 0) {
		struct node *top = node;
		int result;

		while (top->parent && top->parent->fd < 0)
			top = top->parent;
		result = top->parent ? open_node(session, top) : -ESTALE;
		if (result < 0)
			return result;
	}
	return node->fd;
}

int node_fd(struct session *session, struct node *node)
{
	if (node->fd >= 0) {
		touch(session, node);
		return node->fd;
	}
	return node->handles ? node->handles->fd : node_open_path(session, node);
}

int node_stat(struct session *session, struct node *node, struct stat *status)
{
	int fd = node->fd >= 0 || node->handles || !node->parent ? node_fd(session, node) : -1;

	if (fd >= 0)
		return fstat(fd, status) < 0 ? -errno : 0;
	if (!node->parent)
		return fd;
	fd = node_fd(session, node->parent);
	if (fd < 0)
		return fd;
	if (fstatat(fd, node->name, status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? -ESTALE : -errno;
	return node_is(node, status) ? 0 : -ESTALE;
}

int node_open(struct session *session, struct node *node, int flags, struct stat *status)
{
	bool by_name = node->fd < 0 && !node->handles && node->parent;
	int known = node_fd(session, by_name ? node->parent : node), fd;
	char name[FD_NAME_BYTES];

	if (known < 0)
		return known;
	if (by_name)
		return open_by_name(session, node, known, flags, status);
	/* The working directory's links lead to what the descriptors are of, whatever its name is. */
	do
		fd = open(fd_name(known, name), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	while (fd < 0 && errno == EMFILE && close_oldest(session));
	if (fd < 0)
		return errno == EMFILE ? -ENFILE : -errno;
	if (fstat(fd, status) < 0) {
		close(fd);
		return -EIO;
	}
	return fd;
}
