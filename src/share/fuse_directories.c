// SPDX-License-Identifier: GPL-2.0-only
/* Operations on open directories: their entries, with or without attributes. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "session.h"

int fuse_opendir(struct request *request)
{
	struct session *session = request->session;
	struct node *node = request_node(request);
	int fd = node ? node_fd(session, node) : -ESTALE, result;
	struct fuse_open_out out = { 0 };
	struct handle *handle;

	if (fd >= 0)
		fd = open_component(session, fd, ".", O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	result = handle_add(session, node, fd, &handle);
	if (result < 0)
		return result;
	out.fh = handle->id;
	if (session->options->cache == SHARE_CACHE_ALWAYS)
		out.open_flags = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
	return reply(request, &out, sizeof(out));
}

int fuse_releasedir(struct request *request)
{
	return fuse_release(request);
}

/* getdents64(2), whose structure the C library's differs from in nothing that is used here. */
static int fetch_entries(struct session *session, const struct handle *handle, off_t offset, bool in_place)
{
	long count;

	session->listed = 0;
	if (!in_place && lseek(handle->fd, offset, SEEK_SET) < 0)
		return -errno;
	count = syscall(SYS_getdents64, handle->fd, session->entries, sizeof(session->entries));
	if (count < 0)
		return -errno;
	session->listed = handle->id;
	session->list_offset = offset;
	session->list_at = 0;
	session->list_bytes = count;
	return 0;
}

/*
 * The entry at an offset, a number of the host's: out of the buffer if that has it, as it has where the guest
 * goes on.  NULL at the end, or with *error.
 */
static const struct dirent64 *entry_at(struct session *session, const struct handle *handle, off_t offset, int *error)
{
	bool in_place = session->listed == handle->id && session->list_offset == offset;

	if (!in_place || session->list_at == session->list_bytes)
		*error = fetch_entries(session, handle, offset, in_place);
	if (*error < 0 || session->list_at == session->list_bytes)
		return NULL;
	return (const struct dirent64 *)(session->entries + session->list_at);
}

static void next_entry(struct session *session, const struct dirent64 *entry)
{
	session->list_at += entry->d_reclen;
	session->list_offset = entry->d_off;
}

static bool is_dot(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* What is behind the entry that is being written: with attributes, if there are any. */
struct listing {
	struct request *request;
	struct handle *handle;
	bool plus;
};

/* As a lookup.  What has gone meanwhile is told without attributes, and Linux looks it up if it has to. */
static void fill_plus(const struct listing *listing, const char *name, struct fuse_entry_out *out)
{
	struct stat status;

	memset(out, 0, sizeof(*out));
	if (!is_dot(name) && fstatat(listing->handle->fd, name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
		fill_entry(listing->request->session, listing->handle->node, name, &status, out) < 0)
		memset(out, 0, sizeof(*out));
}

/* false if there is no room for it. */
static bool add_entry(const struct listing *listing, const struct dirent64 *entry)
{
	struct {
		struct fuse_direntplus plus;
		char name[NAME_MAX + 1 + sizeof(uint64_t)];
	} record = { 0 };
	const size_t start = listing->plus ? 0 : offsetof(struct fuse_direntplus, dirent);
	const size_t name_length = strnlen(entry->d_name, NAME_MAX);
	const size_t length = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + name_length) - start;
	const struct node *root = listing->request->session->root;

	if (length > reply_room(listing->request))
		return false;
	if (listing->plus)
		fill_plus(listing, entry->d_name, &record.plus.entry_out);
	record.plus.dirent.ino = entry->d_ino;
	/* What is above the root is nothing of the guest's. */
	if (listing->handle->node == root && is_dot(entry->d_name))
		record.plus.dirent.ino = root->inode;
	record.plus.dirent.off = entry->d_off;
	record.plus.dirent.namelen = name_length;
	record.plus.dirent.type = entry->d_type;
	memcpy((char *)&record + FUSE_NAME_OFFSET_DIRENTPLUS, entry->d_name, name_length);
	reply(listing->request, (char *)&record + start, length);
	return true;
}

static int list(struct request *request, bool plus)
{
	const struct fuse_read_in *in = take_argument(request, sizeof(*in));
	struct listing listing = { request, request_handle(request, in->fh), plus };
	const struct dirent64 *entry;
	off_t offset = in->offset;
	int error = 0;

	if (!listing.handle || !S_ISDIR(listing.handle->node->type))
		return -EBADF;
	while ((entry = entry_at(request->session, listing.handle, offset, &error)) && add_entry(&listing, entry)) {
		next_entry(request->session, entry);
		offset = request->session->list_offset;
	}
	/* What was there before an error is told first, and the error at the next request. */
	return request->written ? 0 : error;
}

int fuse_readdir(struct request *request)
{
	return list(request, false);
}

int fuse_readdirplus(struct request *request)
{
	return list(request, true);
}
