// SPDX-License-Identifier: GPL-2.0-only
/* Operations on attributes: of files, of the file system, and extended ones. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "session.h"

/* Whom a user namespace shows in place of an owner that it does not have (user_namespaces(7)). */
#define OVERFLOW_ID 65534u

/* The one kind of extended attributes that needs no privilege and changes nobody's rights. */
#define XATTR_PREFIX "user."

/* --- Attributes. */

/* As the guest's kernel has it: Linux's new_encode_dev(). */
static uint32_t encode_device(dev_t device)
{
	return (minor(device) & 0xff) | major(device) << 8 | (minor(device) & ~0xffu) << 12;
}

static uint32_t shown_id(const struct session *session, uint32_t id, uint32_t own)
{
	return session->foreign_is_root && id == OVERFLOW_ID && id != own ? 0 : id;
}

void fill_attributes(const struct session *session, const struct node *node, const struct stat *status,
	struct fuse_attr *attributes)
{
	*attributes = (struct fuse_attr){
		.ino = status->st_ino,
		.size = status->st_size,
		.blocks = status->st_blocks,
		.atime = status->st_atim.tv_sec,
		.mtime = status->st_mtim.tv_sec,
		.ctime = status->st_ctim.tv_sec,
		.atimensec = status->st_atim.tv_nsec,
		.mtimensec = status->st_mtim.tv_nsec,
		.ctimensec = status->st_ctim.tv_nsec,
		.mode = status->st_mode,
		.nlink = status->st_nlink,
		.uid = shown_id(session, status->st_uid, session->uid),
		.gid = shown_id(session, status->st_gid, session->gid),
		.rdev = encode_device(status->st_rdev),
		.blksize = status->st_blksize,
	};
	/* Inodes' numbers are of one device only. */
	if (session->submounts && S_ISDIR(status->st_mode) && node->parent && node->parent->device != status->st_dev)
		attributes->flags = FUSE_ATTR_SUBMOUNT;
}

int fill_entry(struct session *session, struct node *parent, const char *name, const struct stat *status,
	struct fuse_entry_out *entry)
{
	struct node *node;
	int result = node_found(session, parent, name, status, &node);

	if (result < 0)
		return result;
	*entry = (struct fuse_entry_out){
		.nodeid = node->id,
		.entry_valid = cache_seconds(session),
		.attr_valid = cache_seconds(session),
	};
	fill_attributes(session, node, status, &entry->attr);
	return 0;
}

static int reply_attributes(struct request *request, struct node *node)
{
	struct session *session = request->session;
	struct fuse_attr_out out = { .attr_valid = cache_seconds(session) };
	struct stat status;
	int result = node_stat(session, node, &status);

	if (result < 0)
		return result;
	node->links = status.st_nlink;
	fill_attributes(session, node, &status, &out.attr);
	return reply(request, &out, sizeof(out));
}

int fuse_getattr(struct request *request)
{
	struct node *node = request_node(request);

	return node ? reply_attributes(request, node) : -ESTALE;
}

/* --- Their change, in the order in which each does not undo what came before. */

static int change_size(struct request *request, struct node *node, const struct fuse_setattr_in *in)
{
	const struct handle *handle = in->valid & FATTR_FH ? request_handle(request, in->fh) : NULL;
	bool removes_setuid = in->valid & FATTR_KILL_SUIDGID;
	struct stat status;
	int fd, result;

	if (handle)
		return file_truncate(request, handle->fd, in->size, removes_setuid);
	if (!S_ISREG(node->type))
		return -EINVAL;
	fd = node_open(request->session, node, O_WRONLY, &status);
	if (fd < 0)
		return fd;
	result = file_truncate(request, fd, in->size, removes_setuid);
	close(fd);
	return result;
}

static int change_owner(const struct session *session, int fd, const struct fuse_setattr_in *in)
{
	uid_t uid = in->valid & FATTR_UID ? in->uid : (uid_t)-1;
	gid_t gid = in->valid & FATTR_GID ? in->gid : (gid_t)-1;

	if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) == 0)
		return 0;
	/* A user namespace does not know it; outside of one the user could not give it, either. */
	return errno == EINVAL && session->foreign_is_root ? -EPERM : -errno;
}

static struct timespec new_time(const struct fuse_setattr_in *in, unsigned set, unsigned now, uint64_t seconds,
	uint32_t nanoseconds)
{
	if (!(in->valid & set))
		return (struct timespec){ .tv_nsec = UTIME_OMIT };
	if (in->valid & now)
		return (struct timespec){ .tv_nsec = UTIME_NOW };
	return (struct timespec){ .tv_sec = seconds, .tv_nsec = nanoseconds };
}

static int change_times(int fd, const struct fuse_setattr_in *in)
{
	const struct timespec times[2] = {
		new_time(in, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
		new_time(in, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec),
	};

	return utimensat(fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int fuse_setattr(struct request *request)
{
	const struct fuse_setattr_in *in = take_argument(request, sizeof(*in));
	struct session *session = request->session;
	struct node *node = request_node(request);
	char path[FD_NAME_BYTES];
	int fd, result = 0;

	if (!node)
		return -ESTALE;
	fd = node_fd(session, node);
	if (fd < 0)
		return fd;
	if (in->valid & (FATTR_UID | FATTR_GID))
		result = change_owner(session, fd, in);
	if (result == 0 && in->valid & FATTR_MODE && chmod(fd_name(fd, path), in->mode & 07777) < 0)
		result = -errno;
	if (result == 0 && in->valid & FATTR_SIZE)
		result = change_size(request, node, in);
	if (result == 0 && in->valid & (FATTR_ATIME | FATTR_MTIME))
		result = change_times(fd, in);
	return result < 0 ? result : reply_attributes(request, node);
}

int fuse_statfs(struct request *request)
{
	struct node *node = request_node(request);
	int fd = node ? node_fd(request->session, node) : -ESTALE;
	struct fuse_statfs_out out;
	struct statfs status;

	if (fd < 0)
		return fd;
	if (fstatfs(fd, &status) < 0)
		return -errno;
	out.st = (struct fuse_kstatfs){
		.blocks = status.f_blocks,
		.bfree = status.f_bfree,
		.bavail = status.f_bavail,
		.files = status.f_files,
		.ffree = status.f_ffree,
		.bsize = status.f_bsize,
		.namelen = status.f_namelen,
		.frsize = status.f_frsize,
	};
	return reply(request, &out, sizeof(out));
}

/* --- Extended attributes. */

/* The path of the request's node, for calls that take no descriptor as it has it. */
static int find_path(const struct request *request, char path[FD_NAME_BYTES])
{
	struct node *node = request_node(request);
	int fd = node ? node_fd(request->session, node) : -ESTALE;

	if (fd < 0)
		return fd;
	fd_name(fd, path);
	return 0;
}

/* And the name of its attribute, which comes next. */
static int take_attribute(struct request *request, char path[FD_NAME_BYTES], const char **name)
{
	int result = take_text(request, name);

	if (result < 0)
		return result;
	return strncmp(*name, XATTR_PREFIX, strlen(XATTR_PREFIX)) == 0 ? find_path(request, path) : -EOPNOTSUPP;
}

int fuse_setxattr(struct request *request)
{
	/* The longer form is not asked for. */
	const struct fuse_setxattr_in *in = take_argument(request, FUSE_COMPAT_SETXATTR_IN_SIZE);
	char path[FD_NAME_BYTES];
	const void *value;
	const char *name;
	int result = take_attribute(request, path, &name);

	if (result < 0)
		return result;
	value = take_argument(request, in->size);
	if (!value)
		return -EINVAL;
	return setxattr(path, name, value, in->size, in->flags) < 0 ? -errno : 0;
}

/* With size 0 the guest asks how long it is. */
static int reply_size(struct request *request, ssize_t size)
{
	struct fuse_getxattr_out out = { .size = size };

	return size < 0 ? -errno : reply(request, &out, sizeof(out));
}

int fuse_getxattr(struct request *request)
{
	const struct fuse_getxattr_in *in = take_argument(request, sizeof(*in));
	size_t size = in->size < XATTR_SIZE_MAX ? in->size : XATTR_SIZE_MAX;
	char value[XATTR_SIZE_MAX], path[FD_NAME_BYTES];
	const char *name;
	int result = take_attribute(request, path, &name);
	ssize_t count;

	if (result < 0)
		return result;
	count = getxattr(path, name, value, size);
	if (size == 0)
		return reply_size(request, count);
	return count < 0 ? -errno : reply(request, value, count);
}

/* Leave in a list of names those that the guest may have. */
static size_t filter_names(char *names, size_t length)
{
	size_t kept = 0, bytes;

	for (size_t at = 0; at < length; at += bytes) {
		bytes = strnlen(names + at, length - at) + 1;
		if (at + bytes > length)
			break;
		if (strncmp(names + at, XATTR_PREFIX, strlen(XATTR_PREFIX)) != 0)
			continue;
		memmove(names + kept, names + at, bytes);
		kept += bytes;
	}
	return kept;
}

int fuse_listxattr(struct request *request)
{
	const struct fuse_getxattr_in *in = take_argument(request, sizeof(*in));
	char names[XATTR_LIST_MAX], path[FD_NAME_BYTES];
	int result = find_path(request, path);
	ssize_t count;

	if (result < 0)
		return result;
	count = listxattr(path, names, sizeof(names));
	if (count < 0)
		return -errno;
	count = filter_names(names, count);
	if (in->size == 0)
		return reply_size(request, count);
	return (size_t)count > in->size ? -ERANGE : reply(request, names, count);
}

int fuse_removexattr(struct request *request)
{
	char path[FD_NAME_BYTES];
	const char *name;
	int result = take_attribute(request, path, &name);

	if (result < 0)
		return result;
	return removexattr(path, name) < 0 ? -errno : 0;
}
