// SPDX-License-Identifier: GPL-2.0-only
/* Operations on names: looked up, created, linked, renamed and removed. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "karma/util.h"
#include "session.h"

/* rename(2) and the others have more flags; RENAME_WHITEOUT would make a device node. */
#define RENAME_FLAGS (RENAME_NOREPLACE | RENAME_EXCHANGE)
#define PERMISSIONS 07777u

/* The directory that a request is about, and its descriptor. */
static int open_directory(struct request *request, struct node **directory)
{
	*directory = request_node(request);
	return *directory ? node_fd(request->session, *directory) : -ESTALE;
}

/* Both at once: the directory and the name in it that comes next. */
static int take_place(struct request *request, struct node **directory, const char **name)
{
	int result = take_name(request, name);

	return result < 0 ? result : open_directory(request, directory);
}

static int reply_entry(struct request *request, struct node *directory, const char *name, const struct stat *status)
{
	struct fuse_entry_out entry;
	int result = fill_entry(request->session, directory, name, status, &entry);

	return result < 0 ? result : reply(request, &entry, sizeof(entry));
}

int fuse_lookup(struct request *request)
{
	struct fuse_entry_out none = { .entry_valid = cache_seconds(request->session) };
	struct node *directory;
	const char *name;
	int fd = take_place(request, &directory, &name);
	struct stat status;

	if (fd < 0)
		return fd;
	if (fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) == 0)
		return reply_entry(request, directory, name, &status);
	/* Only where nobody else makes files may the guest remember that there is none. */
	if (errno == ENOENT && request->session->options->cache == SHARE_CACHE_ALWAYS)
		return reply(request, &none, sizeof(none));
	return -errno;
}

int fuse_readlink(struct request *request)
{
	struct node *node = request_node(request);
	int fd = !node ? -ESTALE : S_ISLNK(node->type) ? node_fd(request->session, node) : -EINVAL;
	char target[PATH_MAX];
	ssize_t length;

	if (fd < 0)
		return fd;
	length = readlinkat(fd, "", target, sizeof(target));
	return length < 0 ? -errno : reply(request, target, length);
}

/* --- Creation. */

/* What has just been created, or linked, as a lookup would find it. */
static int reply_created(struct request *request, struct node *directory, const char *name, int fd)
{
	struct stat status;

	if (fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return reply_entry(request, directory, name, &status);
}

static int make_at(int fd, const char *name, mode_t mode, const char *target)
{
	switch (mode & S_IFMT) {
	case S_IFLNK:
		return symlinkat(target, fd, name);
	case S_IFDIR:
		return mkdirat(fd, name, mode & PERMISSIONS);
	default:
		return mknodat(fd, name, mode & (S_IFMT | PERMISSIONS), 0);
	}
}

/* Make what has the name that comes next; behind that is what a link leads to. */
static int make(struct request *request, mode_t mode)
{
	const char *name, *target = NULL;
	struct node *directory;
	int fd = take_place(request, &directory, &name), result = 0;

	if (fd < 0)
		return fd;
	if (S_ISLNK(mode))
		result = take_text(request, &target);
	if (result == 0)
		result = identity_assume(request);
	if (result < 0)
		return result;
	result = make_at(fd, name, mode, target) < 0 ? -errno : 0;
	identity_return(request);
	return result < 0 ? result : reply_created(request, directory, name, fd);
}

int fuse_symlink(struct request *request)
{
	return make(request, S_IFLNK);
}

int fuse_mknod(struct request *request)
{
	const struct fuse_mknod_in *in = take_argument(request, sizeof(*in));

	/* A device node would be a way to the host's devices. */
	if (!S_ISREG(in->mode) && !S_ISFIFO(in->mode) && !S_ISSOCK(in->mode))
		return -EPERM;
	return make(request, in->mode);
}

int fuse_mkdir(struct request *request)
{
	const struct fuse_mkdir_in *in = take_argument(request, sizeof(*in));

	return make(request, S_IFDIR | (in->mode & PERMISSIONS));
}

/* One that is there is opened only if it is a file: to open a device may do something already. */
static int create_or_open(struct session *session, const struct fuse_create_in *in, int directory, const char *name)
{
	const int flags = open_flags(session, in->flags);
	struct stat status;
	int fd = open_component(session, directory, name, flags | O_CREAT | O_EXCL, in->mode & PERMISSIONS);

	if (fd != -EEXIST || in->flags & O_EXCL || fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return fd;
	if (!S_ISREG(status.st_mode))
		return S_ISLNK(status.st_mode) ? -ELOOP : -EEXIST;
	return open_component(session, directory, name, flags | (in->flags & O_TRUNC), 0);
}

/* A descriptor of the file that is open then, and may have been there before. */
static int create(struct request *request, const struct fuse_create_in *in, int directory, const char *name,
	struct stat *status)
{
	int result = identity_assume(request), fd;

	if (result < 0)
		return result;
	fd = create_or_open(request->session, in, directory, name);
	identity_return(request);
	if (fd < 0)
		return fd;
	if (fstat(fd, status) == 0 && S_ISREG(status->st_mode))
		return fd;
	close(fd);
	return -EEXIST;
}

/*
 * Of a file that was just opened: the reply is that of a lookup, and behind it that of an open.  fd is the session's
 * then, or closed.
 */
static int reply_open(struct request *request, struct node *directory, const char *name, int fd,
	const struct stat *status)
{
	struct session *session = request->session;
	struct fuse_entry_out entry;
	struct fuse_open_out out = { 0 };
	struct handle *handle;
	struct node *node;
	int result = fill_entry(session, directory, name, status, &entry);

	if (result < 0) {
		close(fd);
		return result;
	}
	node = node_get(session, entry.nodeid);
	result = handle_add(session, node, fd, &handle);
	if (result < 0) {
		node_forget(session, node, 1);
		return result;
	}
	out.fh = handle->id;
	out.open_flags = reply_flags(session, node, status);
	reply(request, &entry, sizeof(entry));
	return reply(request, &out, sizeof(out));
}

int fuse_create(struct request *request)
{
	const struct fuse_create_in *in = take_argument(request, sizeof(*in));
	struct node *directory;
	struct stat status;
	const char *name;
	int place = take_place(request, &directory, &name);
	int fd = place < 0 ? place : create(request, in, place, name, &status);

	return fd < 0 ? fd : reply_open(request, directory, name, fd, &status);
}

/* A file without a name, which FUSE_LINK may give it later.  The one that Linux sends means nothing. */
int fuse_tmpfile(struct request *request)
{
	const struct fuse_create_in *in = take_argument(request, sizeof(*in));
	struct session *session = request->session;
	struct node *directory;
	struct stat status;
	int fd = open_directory(request, &directory), result;

	if (fd < 0)
		return fd;
	result = identity_assume(request);
	if (result < 0)
		return result;
	fd = open_component(session, fd, ".", open_flags(session, in->flags) | O_TMPFILE | (in->flags & O_EXCL),
		in->mode & PERMISSIONS);
	identity_return(request);
	if (fd < 0)
		return fd;
	if (fstat(fd, &status) == 0)
		return reply_open(request, NULL, NULL, fd, &status);
	close(fd);
	return -EIO;
}

int fuse_link(struct request *request)
{
	const struct fuse_link_in *in = take_argument(request, sizeof(*in));
	struct session *session = request->session;
	struct node *node = node_get(session, in->oldnodeid), *directory;
	char path[FD_NAME_BYTES];
	const char *name;
	int fd, place;

	fd = node ? node_fd(session, node) : -ESTALE;
	session->kept = node;
	place = fd < 0 ? fd : take_place(request, &directory, &name);
	if (place < 0)
		return place;
	/* The descriptor's link, since AT_EMPTY_PATH takes a capability. */
	if (linkat(AT_FDCWD, fd_name(fd, path), place, name, AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	return reply_created(request, directory, name, place);
}

/* --- Removal. */

static int remove_name(struct request *request, int flags)
{
	struct node *directory, *node;
	const char *name;
	int fd = take_place(request, &directory, &name);

	if (fd < 0)
		return fd;
	request->session->kept = directory;
	node = node_at(request->session, directory, name);
	node_keep_open(request->session, node);
	if (unlinkat(fd, name, flags) < 0)
		return -errno;
	node_unlinked(request->session, node);
	return 0;
}

int fuse_unlink(struct request *request)
{
	return remove_name(request, 0);
}

int fuse_rmdir(struct request *request)
{
	return remove_name(request, AT_REMOVEDIR);
}

/* --- Renaming. */

struct place {
	struct node *directory;
	const char *name;
	int fd;
};

static int rename_nodes(struct session *session, const struct place *from, const struct place *to, uint32_t flags)
{
	struct node *source = node_at(session, from->directory, from->name);
	struct node *target = node_at(session, to->directory, to->name);

	if (!(flags & RENAME_EXCHANGE))
		node_keep_open(session, target);
	/* The C library's function would be another call without flags. */
	if (syscall(SYS_renameat2, from->fd, from->name, to->fd, to->name, flags) < 0)
		return -errno;
	/* What takes a name takes it from who had it. */
	if (source)
		node_renamed(session, source, to->directory, to->name);
	else
		node_unlinked(session, target);
	if (target && (flags & RENAME_EXCHANGE))
		node_renamed(session, target, from->directory, from->name);
	return 0;
}

static int rename_to(struct request *request, uint64_t new_directory, uint32_t flags)
{
	struct session *session = request->session;
	struct place from, to;

	if (flags & ~RENAME_FLAGS)
		return -EINVAL;
	from.fd = take_place(request, &from.directory, &from.name);
	if (from.fd < 0)
		return from.fd;
	session->kept = from.directory;
	request->head.nodeid = new_directory;
	to.fd = take_place(request, &to.directory, &to.name);
	if (to.fd < 0)
		return to.fd;
	return rename_nodes(session, &from, &to, flags);
}

int fuse_rename(struct request *request)
{
	const struct fuse_rename_in *in = take_argument(request, sizeof(*in));

	return rename_to(request, in->newdir, 0);
}

int fuse_rename2(struct request *request)
{
	const struct fuse_rename2_in *in = take_argument(request, sizeof(*in));

	return rename_to(request, in->newdir, in->flags);
}
