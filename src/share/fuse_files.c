// SPDX-License-Identifier: GPL-2.0-only
/* Operations on open files.  Data go between file and guest memory without a copy. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <string.h>

#include "karma/iov.h"
#include "karma/util.h"
#include "session.h"

/* linux/fuse.h has it from 7.39 on. */
#define FALLOCATE_MODES (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)
/* Bytes that one request may have the host copy meanwhile no other is served. */
#define COPY_MAX (16 * MIB)

int open_flags(const struct session *session, uint32_t flags)
{
	int kept = flags & (O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC);

	/*
	 * The guest's page cache is to be filled before a part of a page is written, and knows where the end is.
	 * To cut a file takes the right to write to it.
	 */
	if (session->options->cache == SHARE_CACHE_ALWAYS && (kept & O_ACCMODE) == O_WRONLY)
		kept = (kept & ~(O_ACCMODE | O_APPEND)) | O_RDWR;
	if ((flags & O_TRUNC) && (kept & O_ACCMODE) == O_RDONLY)
		kept |= O_RDWR;
	return kept;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

uint32_t reply_flags(const struct session *session, struct node *node, const struct stat *status)
{
	bool same = node->opened_size == status->st_size && same_time(&node->opened_mtime, &status->st_mtim);

	node->opened_size = status->st_size;
	node->opened_mtime = status->st_mtim;
	switch (session->options->cache) {
	case SHARE_CACHE_NEVER:
		return FOPEN_DIRECT_IO;
	case SHARE_CACHE_AUTO:
		return same ? FOPEN_KEEP_CACHE : 0;
	default:
		return FOPEN_KEEP_CACHE;
	}
}

/*
 * As the host does where a user writes that is not privileged: it cannot see that one of the guest is not, if
 * this process is.
 */
static int remove_setuid(const struct request *request, int fd)
{
	struct stat status;
	mode_t mode;

	if (!request->session->switches_user)
		return 0;
	if (fstat(fd, &status) < 0)
		return -errno;
	mode = status.st_mode & 07777 & ~S_ISUID;
	if (mode & S_IXGRP || status.st_gid != request->head.gid)
		mode &= ~S_ISGID;
	return mode != (status.st_mode & 07777) && fchmod(fd, mode) < 0 ? -errno : 0;
}

int file_truncate(const struct request *request, int fd, uint64_t size, bool removes_setuid)
{
	int result = removes_setuid ? remove_setuid(request, fd) : 0;

	if (result == 0 && size > INT64_MAX)
		result = -EFBIG;
	return result == 0 && ftruncate(fd, size) < 0 ? -errno : result;
}

int fuse_open(struct request *request)
{
	const struct fuse_open_in *in = take_argument(request, sizeof(*in));
	struct session *session = request->session;
	int flags = open_flags(session, in->flags), fd, result;
	struct node *node = request_node(request);
	struct fuse_open_out out = { 0 };
	struct handle *handle;
	struct stat status;

	if (!node)
		return -ESTALE;
	/* The guest's kernel opens what else there is by itself. */
	if (!S_ISREG(node->type))
		return -EINVAL;
	if (session->options->read_only && (flags & O_ACCMODE) != O_RDONLY)
		return -EROFS;
	fd = node_open(session, node, flags, &status);
	/* A file that may be written, but not read, can't be cached in whole. */
	if (fd == -EACCES && (in->flags & O_ACCMODE) == O_WRONLY && (flags & O_ACCMODE) == O_RDWR)
		fd = node_open(session, node, in->flags & (O_WRONLY | O_SYNC | O_DSYNC), &status);
	if (fd < 0)
		return fd;
	result = in->flags & O_TRUNC ?
			 file_truncate(request, fd, 0, in->open_flags & FUSE_OPEN_KILL_SUIDGID) : 0;
	if (result < 0) {
		close(fd);
		return result;
	}
	result = handle_add(session, node, fd, &handle);
	if (result < 0)
		return result;
	out.fh = handle->id;
	out.open_flags = reply_flags(session, node, &status);
	return reply(request, &out, sizeof(out));
}

int fuse_release(struct request *request)
{
	const struct fuse_release_in *in = take_argument(request, sizeof(*in));
	struct handle *handle = request_handle(request, in->fh);

	if (!handle)
		return -EBADF;
	handle_close(request->session, handle);
	return 0;
}

/* -1 would stand for the position that a descriptor has by itself. */
static bool bad_offset(uint64_t offset)
{
	return offset > INT64_MAX;
}

int fuse_read(struct request *request)
{
	const struct fuse_read_in *in = take_argument(request, sizeof(*in));
	const struct handle *handle = request_handle(request, in->fh);
	const struct virtq_chain *chain = request->chain;
	struct iovec iov[IOV_MAX];
	unsigned parts;
	ssize_t count;

	if (!handle)
		return -EBADF;
	if (bad_offset(in->offset))
		return -EINVAL;
	parts = iov_slice(chain->iov + chain->out_count, chain->in_count, sizeof(struct fuse_out_header), in->size,
		iov, IOV_MAX);
	count = preadv2(handle->fd, iov, parts, in->offset, 0);
	if (count < 0)
		return -errno;
	request->written = count;
	return 0;
}

int fuse_write(struct request *request)
{
	const struct fuse_write_in *in = take_argument(request, sizeof(*in));
	const struct handle *handle = request_handle(request, in->fh);
	const size_t head = sizeof(struct fuse_in_header) + sizeof(*in);
	const struct virtq_chain *chain = request->chain;
	struct fuse_write_out out = { 0 };
	struct iovec iov[IOV_MAX];
	unsigned parts;
	ssize_t count;
	int result;

	if (!handle)
		return -EBADF;
	if (bad_offset(in->offset) || in->size > chain->out_bytes - head)
		return -EINVAL;
	result = in->write_flags & FUSE_WRITE_KILL_SUIDGID ? remove_setuid(request, handle->fd) : 0;
	if (result < 0)
		return result;
	parts = iov_slice(chain->iov, chain->out_count, head, in->size, iov, IOV_MAX);
	count = pwritev2(handle->fd, iov, parts, in->offset, 0);
	if (count < 0)
		return -errno;
	out.size = count;
	return reply(request, &out, sizeof(out));
}

int fuse_fsync(struct request *request)
{
	const struct fuse_fsync_in *in = take_argument(request, sizeof(*in));
	const struct handle *handle = request_handle(request, in->fh);

	if (!handle)
		return -EBADF;
	return (in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(handle->fd) : fsync(handle->fd)) < 0 ? -errno : 0;
}

/* All of the host's file system that this directory is in: what the guest has written is part of that. */
int fuse_syncfs(struct request *request)
{
	struct node *node = request_node(request);
	struct stat status;
	int fd, result;

	if (!node)
		return -ESTALE;
	if (!S_ISDIR(node->type))
		return -EINVAL;
	fd = node_open(request->session, node, O_RDONLY, &status);
	if (fd < 0)
		return fd;
	result = syncfs(fd) < 0 ? -errno : 0;
	close(fd);
	return result;
}

int fuse_fallocate(struct request *request)
{
	const struct fuse_fallocate_in *in = take_argument(request, sizeof(*in));
	const struct handle *handle = request_handle(request, in->fh);

	if (!handle)
		return -EBADF;
	if (in->mode & ~FALLOCATE_MODES)
		return -EOPNOTSUPP;
	/* The host refuses what is negative. */
	return fallocate(handle->fd, in->mode, in->offset, in->length) < 0 ? -errno : 0;
}

/* Of data and holes only: the guest's kernel knows all other positions itself. */
int fuse_lseek(struct request *request)
{
	const struct fuse_lseek_in *in = take_argument(request, sizeof(*in));
	const struct handle *handle = request_handle(request, in->fh);
	struct fuse_lseek_out out;
	off_t offset;

	if (!handle)
		return -EBADF;
	if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
		return -EINVAL;
	offset = lseek(handle->fd, in->offset, in->whence);
	if (offset < 0)
		return -errno;
	out.offset = offset;
	return reply(request, &out, sizeof(out));
}

int fuse_copy_file_range(struct request *request)
{
	const struct fuse_copy_file_range_in *in = take_argument(request, sizeof(*in));
	const struct handle *from = request_handle(request, in->fh_in), *to;
	off_t from_offset = in->off_in, to_offset = in->off_out;
	struct fuse_write_out out = { 0 };
	ssize_t count;

	request->head.nodeid = in->nodeid_out;
	to = request_handle(request, in->fh_out);
	if (!from || !to)
		return -EBADF;
	if (in->flags || bad_offset(in->off_in) || bad_offset(in->off_out))
		return -EINVAL;
	count = copy_file_range(from->fd, &from_offset, to->fd, &to_offset, in->len < COPY_MAX ? in->len : COPY_MAX, 0);
	if (count < 0)
		return -errno;
	out.size = count;
	return reply(request, &out, sizeof(out));
}
