// SPDX-License-Identifier: GPL-2.0-only
/* Nodes: the files that a guest knows by numbers, their names, and their life. */
#include <errno.h>
#include <string.h>

#include "karma/util.h"
#include "nodes.h"

#define FIRST_BUCKETS 256u

/* --- Hash tables. */

static uint32_t mix(uint64_t value)
{
	value *= 0x9e3779b97f4a7c15ull;
	return value >> 32;
}

static struct node **inode_chain(const struct session *session, dev_t device, ino_t inode)
{
	return &session->by_inode[mix(inode ^ device << 32) & (session->bucket_count - 1)];
}

static struct node **name_chain(const struct session *session, const struct node *parent, const char *name)
{
	uint64_t hash = parent->id;

	while (*name)
		hash = hash * 31 + (uint8_t)*name++;
	return &session->by_name[mix(hash) & (session->bucket_count - 1)];
}

static void hash_inode(struct session *session, struct node *node)
{
	struct node **chain = inode_chain(session, node->device, node->inode);

	node->next_by_inode = *chain;
	*chain = node;
}

/* Nothing if it is not there. */
static void unhash_inode(struct session *session, const struct node *node)
{
	struct node **at = inode_chain(session, node->device, node->inode);

	while (*at && *at != node)
		at = &(*at)->next_by_inode;
	if (*at)
		*at = node->next_by_inode;
}

static void hash_name(struct session *session, struct node *node)
{
	struct node **chain = name_chain(session, node->parent, node->name);

	node->next_by_name = *chain;
	*chain = node;
}

static void unhash_name(struct session *session, const struct node *node)
{
	struct node **at = name_chain(session, node->parent, node->name);

	while (*at != node)
		at = &(*at)->next_by_name;
	*at = node->next_by_name;
}

static struct node *find_by_inode(const struct session *session, const struct stat *status)
{
	struct node *node = *inode_chain(session, status->st_dev, status->st_ino);

	while (node && !node_is(node, status))
		node = node->next_by_inode;
	return node;
}

struct node *node_at(struct session *session, struct node *parent, const char *name)
{
	struct node *node = *name_chain(session, parent, name);

	while (node && (node->parent != parent || strcmp(node->name, name) != 0))
		node = node->next_by_name;
	return node;
}

/* As many buckets as nodes: the chains go over to the new tables. */
static void grow_tables(struct session *session)
{
	uint32_t old_count = session->bucket_count, count = old_count ? 2 * old_count : FIRST_BUCKETS;
	struct node **old_by_inode = session->by_inode, **old_by_name = session->by_name;
	struct node **by_inode = calloc(count, sizeof(*by_inode)), **by_name = calloc(count, sizeof(*by_name));

	/* The chains get longer. */
	if (!by_inode || !by_name) {
		free(by_inode);
		free(by_name);
		return;
	}
	session->by_inode = by_inode;
	session->by_name = by_name;
	session->bucket_count = count;
	for (uint32_t i = 0; i < old_count; i++) {
		for (struct node *node = old_by_inode[i], *next; node; node = next) {
			next = node->next_by_inode;
			hash_inode(session, node);
		}
		for (struct node *node = old_by_name[i], *next; node; node = next) {
			next = node->next_by_name;
			hash_name(session, node);
		}
	}
	free(old_by_inode);
	free(old_by_name);
}

/* --- Names. */

static void free_if_unused(struct session *session, struct node *node)
{
	while (node && node != session->root && node->lookups == 0 && node->children == 0 && !node->handles) {
		struct node *parent = node->parent;

		if (parent) {
			unhash_name(session, node);
			parent->children--;
		}
		unhash_inode(session, node);
		node_close(session, node);
		slots_remove(&session->nodes, node->id);
		free(node->name);
		free(node);
		node = parent;
	}
}

/* Its inode's number may be another file's from now on. */
static void unhash_if_gone(struct session *session, struct node *node)
{
	if (!node->parent && node->fd < 0 && !node->handles)
		unhash_inode(session, node);
}

static void lose_name(struct session *session, struct node *node)
{
	struct node *parent = node->parent;

	if (!parent)
		return;
	unhash_name(session, node);
	free(node->name);
	node->name = NULL;
	node->parent = NULL;
	parent->children--;
	node_pin(session, node);
	unhash_if_gone(session, node);
	free_if_unused(session, parent);
}

static bool is_below(const struct node *node, const struct node *directory)
{
	while (node && node != directory)
		node = node->parent;
	return node;
}

int node_renamed(struct session *session, struct node *node, struct node *parent, const char *name)
{
	struct node *former = node->parent, *other;
	char *copy;

	if (node == session->root || (former == parent && strcmp(node->name, name) == 0))
		return 0;
	/* A bind mount may have a directory below itself. */
	if (S_ISDIR(node->type) && is_below(parent, node))
		return -ELOOP;
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	other = node_at(session, parent, name);
	if (other)
		lose_name(session, other);
	if (former) {
		unhash_name(session, node);
		free(node->name);
		former->children--;
	} else {
		node_unpin(session, node);
		/* It may have been gone. */
		unhash_inode(session, node);
		hash_inode(session, node);
	}
	node->name = copy;
	node->parent = parent;
	parent->children++;
	hash_name(session, node);
	if (former)
		free_if_unused(session, former);
	return 0;
}

void node_keep_open(struct session *session, struct node *node)
{
	/* What cannot be opened is stale once it has lost its name. */
	if (node && (node->links > 1 || S_ISDIR(node->type)) && node->fd < 0)
		node_open_path(session, node);
}

void node_unlinked(struct session *session, struct node *node)
{
	if (!node)
		return;
	if (node->links)
		node->links--;
	lose_name(session, node);
}

/* --- Their life. */

static int new_node(struct session *session, const struct stat *status, struct node **result)
{
	struct node *node = calloc(1, sizeof(*node));

	if (!node)
		return -ENOMEM;
	node->id = slots_add(&session->nodes, node);
	if (!node->id) {
		free(node);
		return -ENFILE;
	}
	if (session->nodes.used > session->bucket_count)
		grow_tables(session);
	node->device = status->st_dev;
	node->inode = status->st_ino;
	node->type = status->st_mode & S_IFMT;
	node->fd = -1;
	hash_inode(session, node);
	*result = node;
	return 0;
}

struct node *node_get(const struct session *session, uint64_t id)
{
	struct node *node = slots_get(&session->nodes, id);

	/* One that the guest has forgotten may be there, as others are below it. */
	return node && node->lookups ? node : NULL;
}

int node_found(struct session *session, struct node *parent, const char *name, const struct stat *status,
	struct node **result)
{
	struct node *node = find_by_inode(session, status);
	int error;

	/* A new file may have the number of one that is gone. */
	if (node && !parent) {
		lose_name(session, node);
		node = NULL;
	}
	error = node ? 0 : new_node(session, status, &node);
	if (error < 0)
		return error;
	/* The root may be seen below itself, by a bind mount. */
	if (parent)
		error = node_renamed(session, node, parent, name);
	if (error < 0) {
		free_if_unused(session, node);
		return error;
	}
	node->links = status->st_nlink;
	node->lookups++;
	*result = node;
	return 0;
}

void node_forget(struct session *session, struct node *node, uint64_t lookups)
{
	if (node == session->root)
		return;
	node->lookups -= lookups < node->lookups ? lookups : node->lookups;
	free_if_unused(session, node);
}

int handle_add(struct session *session, struct node *node, int fd, struct handle **result)
{
	struct handle *handle = malloc(sizeof(*handle));
	uint64_t id = handle ? slots_add(&session->handles, handle) : 0;

	if (!id) {
		free(handle);
		close(fd);
		return -ENFILE;
	}
	*handle = (struct handle){ .id = id, .fd = fd, .node = node, .next = node->handles };
	node->handles = handle;
	*result = handle;
	return 0;
}

void handle_close(struct session *session, struct handle *handle)
{
	struct handle **at = &handle->node->handles;

	while (*at != handle)
		at = &(*at)->next;
	*at = handle->next;
	slots_remove(&session->handles, handle->id);
	if (session->listed == handle->id)
		session->listed = 0;
	close(handle->fd);
	unhash_if_gone(session, handle->node);
	free_if_unused(session, handle->node);
	free(handle);
}

int nodes_init(struct session *session)
{
	struct stat status;
	int result;

	session->nodes.max = NODES_MAX;
	session->handles.max = HANDLES_MAX;
	grow_tables(session);
	if (!session->bucket_count)
		return -ENOMEM;
	if (fstat(session->directory, &status) < 0)
		return -errno;
	if (!S_ISDIR(status.st_mode))
		return -ENOTDIR;
	result = new_node(session, &status, &session->root);
	if (result < 0)
		return result;
	session->root->fd = session->directory;
	session->root->pinned = true;
	session->root->lookups = 1;
	return 0;
}

static void free_all(struct slots *slots)
{
	for (uint32_t i = 1; i < slots->count; i++)
		free(slots->slots[i].item);
	slots_release(slots);
}

void nodes_release(struct session *session)
{
	for (uint32_t i = 1; i < session->handles.count; i++) {
		struct handle *handle = session->handles.slots[i].item;

		if (handle)
			close(handle->fd);
	}
	for (uint32_t i = 1; i < session->nodes.count; i++) {
		struct node *node = session->nodes.slots[i].item;

		if (!node)
			continue;
		free(node->name);
		if (node != session->root)
			close_fd(&node->fd);
	}
	free_all(&session->handles);
	free_all(&session->nodes);
	free(session->by_inode);
	free(session->by_name);
	session->by_inode = session->by_name = NULL;
	session->bucket_count = 0;
	session->root = session->oldest = session->newest = NULL;
	session->listed = 0;
}
