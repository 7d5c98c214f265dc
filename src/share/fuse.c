// SPDX-License-Identifier: GPL-2.0-only
/* FUSE requests: taken apart, checked, handed out to the operations, and answered. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "karma/iov.h"
#include "karma/util.h"
#include "session.h"

/* The version whose structures are spoken here; the oldest that is understood is Linux 5.4's. */
#define MINOR_VERSION 38u
#define MINOR_VERSION_MIN 31u

#define WRITE_BYTES_MAX (1024 * KIB)
/* Requests that the guest may have waiting without a process of its that waits for each, such as reads ahead. */
#define BACKGROUND_MAX 64u

/* linux/fuse.h has it from 7.39 on; a bit of the higher half. */
#define DIRECT_IO_ALLOW_MMAP (1u << (36 - 32))

/* --- What a request has. */

const void *take_argument(struct request *request, size_t bytes)
{
	const void *at = request->arguments;

	if (bytes > request->length)
		return NULL;
	request->arguments += bytes;
	request->length -= bytes;
	return at;
}

int take_text(struct request *request, const char **text)
{
	const uint8_t *end = memchr(request->arguments, 0, request->length);

	if (!end)
		return -EINVAL;
	*text = take_argument(request, end + 1 - request->arguments);
	return 0;
}

int take_name(struct request *request, const char **name)
{
	int result = take_text(request, name);

	if (result < 0)
		return result;
	if (strlen(*name) > NAME_MAX)
		return -ENAMETOOLONG;
	if (!**name || strchr(*name, '/') || strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0)
		return -EINVAL;
	return 0;
}

struct node *request_node(const struct request *request)
{
	return node_get(request->session, request->head.nodeid);
}

struct handle *request_handle(const struct request *request, uint64_t id)
{
	struct handle *handle = slots_get(&request->session->handles, id);

	return handle && handle->node->id == request->head.nodeid ? handle : NULL;
}

/* --- What it gets. */

size_t reply_room(const struct request *request)
{
	return request->chain->in_bytes - sizeof(struct fuse_out_header) - request->written;
}

int reply(struct request *request, const void *bytes, size_t length)
{
	const struct virtq_chain *chain = request->chain;

	if (length > reply_room(request))
		return -ERANGE;
	iov_write(chain->iov + chain->out_count, chain->in_count,
		sizeof(struct fuse_out_header) + request->written, bytes, length);
	request->written += length;
	return 0;
}

uint64_t cache_seconds(const struct session *session)
{
	switch (session->options->cache) {
	case SHARE_CACHE_NEVER:
		return 0;
	case SHARE_CACHE_AUTO:
		return 1;
	default:
		return UINT32_MAX;
	}
}

/* --- The session's own requests. */

/* The guest has forgotten everything. */
static int forget_all(struct session *session)
{
	nodes_release(session);
	session->started = false;
	return nodes_init(session);
}

static uint32_t wanted_flags(const struct session *session)
{
	/* Data are checked by times and sizes, and attributes and entries come with names. */
	uint32_t flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA |
			 FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
			 FUSE_MAX_PAGES | FUSE_HANDLE_KILLPRIV_V2 | FUSE_INIT_EXT;

	if (!session->options->plain_mounts)
		flags |= FUSE_SUBMOUNTS;
	if (session->options->cache != SHARE_CACHE_NEVER)
		flags |= FUSE_CACHE_SYMLINKS;
	if (session->options->cache == SHARE_CACHE_ALWAYS && !session->options->read_only)
		flags |= FUSE_WRITEBACK_CACHE;
	return flags;
}

static int fuse_init(struct request *request)
{
	struct session *session = request->session;
	struct fuse_init_in in = { 0 };
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = MINOR_VERSION,
		.max_background = BACKGROUND_MAX,
		.congestion_threshold = BACKGROUND_MAX * 3 / 4,
		.max_write = WRITE_BYTES_MAX,
		.time_gran = 1,
		.max_pages = WRITE_BYTES_MAX / PAGE_BYTES,
	};
	int result;

	/* Those before 7.36 are shorter. */
	memcpy(&in, request->arguments, request->length < sizeof(in) ? request->length : sizeof(in));
	if (in.major > FUSE_KERNEL_VERSION)
		return reply(request, &out, sizeof(out));
	if (in.major < FUSE_KERNEL_VERSION || in.minor < MINOR_VERSION_MIN)
		return -EPROTO;
	result = forget_all(session);
	if (result < 0)
		return result;
	out.max_readahead = in.max_readahead;
	out.flags = in.flags & wanted_flags(session);
	if (in.flags & FUSE_INIT_EXT)
		out.flags2 = in.flags2 & DIRECT_IO_ALLOW_MMAP;
	session->submounts = out.flags & FUSE_SUBMOUNTS;
	session->started = true;
	return reply(request, &out, sizeof(out));
}

static int fuse_destroy(struct request *request)
{
	return forget_all(request->session);
}

static int fuse_forget(struct request *request)
{
	const struct fuse_forget_in *in = take_argument(request, sizeof(*in));
	struct node *node = request_node(request);

	if (node)
		node_forget(request->session, node, in->nlookup);
	return 0;
}

static int fuse_batch_forget(struct request *request)
{
	const struct fuse_batch_forget_in *in = take_argument(request, sizeof(*in));

	for (uint32_t left = in->count; left; left--) {
		const struct fuse_forget_one *one = take_argument(request, sizeof(*one));
		struct node *node = one ? node_get(request->session, one->nodeid) : NULL;

		if (!one)
			return -EINVAL;
		if (node)
			node_forget(request->session, node, one->nlookup);
	}
	return 0;
}

/* Each request is served to its end before the next one is looked at: there is none to interrupt. */
static int fuse_interrupt(struct request *request)
{
	(void)request;
	return 0;
}

/* --- All of them. */

struct row {
	operation *run;		/* NULL: ENOSYS, upon which Linux does without */
	uint16_t in, out;	/* least bytes of arguments, and of room for the reply */
	bool changes;		/* the directory, and is refused if that is read-only */
	bool silent;		/* has no reply */
};

static const struct row rows[] = {
	[FUSE_LOOKUP] = { fuse_lookup, 2, sizeof(struct fuse_entry_out) },
	[FUSE_FORGET] = { fuse_forget, sizeof(struct fuse_forget_in), .silent = true },
	[FUSE_GETATTR] = { fuse_getattr, sizeof(struct fuse_getattr_in), sizeof(struct fuse_attr_out) },
	[FUSE_SETATTR] = { fuse_setattr, sizeof(struct fuse_setattr_in), sizeof(struct fuse_attr_out),
		.changes = true },
	[FUSE_READLINK] = { fuse_readlink },
	[FUSE_SYMLINK] = { fuse_symlink, 4, sizeof(struct fuse_entry_out), .changes = true },
	[FUSE_MKNOD] = { fuse_mknod, sizeof(struct fuse_mknod_in), sizeof(struct fuse_entry_out), .changes = true },
	[FUSE_MKDIR] = { fuse_mkdir, sizeof(struct fuse_mkdir_in), sizeof(struct fuse_entry_out), .changes = true },
	[FUSE_UNLINK] = { fuse_unlink, 2, .changes = true },
	[FUSE_RMDIR] = { fuse_rmdir, 2, .changes = true },
	[FUSE_RENAME] = { fuse_rename, sizeof(struct fuse_rename_in), .changes = true },
	[FUSE_LINK] = { fuse_link, sizeof(struct fuse_link_in), sizeof(struct fuse_entry_out), .changes = true },
	[FUSE_OPEN] = { fuse_open, sizeof(struct fuse_open_in), sizeof(struct fuse_open_out) },
	[FUSE_READ] = { fuse_read, sizeof(struct fuse_read_in) },
	[FUSE_WRITE] = { fuse_write, sizeof(struct fuse_write_in), sizeof(struct fuse_write_out), .changes = true },
	[FUSE_STATFS] = { fuse_statfs, 0, sizeof(struct fuse_statfs_out) },
	[FUSE_RELEASE] = { fuse_release, sizeof(struct fuse_release_in) },
	[FUSE_FSYNC] = { fuse_fsync, sizeof(struct fuse_fsync_in) },
	[FUSE_SETXATTR] = { fuse_setxattr, FUSE_COMPAT_SETXATTR_IN_SIZE, .changes = true },
	[FUSE_GETXATTR] = { fuse_getxattr, sizeof(struct fuse_getxattr_in) },
	[FUSE_LISTXATTR] = { fuse_listxattr, sizeof(struct fuse_getxattr_in) },
	[FUSE_REMOVEXATTR] = { fuse_removexattr, 1, .changes = true },
	[FUSE_INIT] = { fuse_init, 4 * sizeof(uint32_t), sizeof(struct fuse_init_out) },
	[FUSE_OPENDIR] = { fuse_opendir, sizeof(struct fuse_open_in), sizeof(struct fuse_open_out) },
	[FUSE_READDIR] = { fuse_readdir, sizeof(struct fuse_read_in) },
	[FUSE_RELEASEDIR] = { fuse_releasedir, sizeof(struct fuse_release_in) },
	[FUSE_FSYNCDIR] = { fuse_fsync, sizeof(struct fuse_fsync_in) },
	[FUSE_CREATE] = { fuse_create, sizeof(struct fuse_create_in),
		sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out), .changes = true },
	[FUSE_INTERRUPT] = { fuse_interrupt, .silent = true },
	[FUSE_DESTROY] = { fuse_destroy },
	[FUSE_BATCH_FORGET] = { fuse_batch_forget, sizeof(struct fuse_batch_forget_in), .silent = true },
	[FUSE_FALLOCATE] = { fuse_fallocate, sizeof(struct fuse_fallocate_in), .changes = true },
	[FUSE_READDIRPLUS] = { fuse_readdirplus, sizeof(struct fuse_read_in) },
	[FUSE_SYNCFS] = { fuse_syncfs, sizeof(struct fuse_syncfs_in) },
	[FUSE_RENAME2] = { fuse_rename2, sizeof(struct fuse_rename2_in), .changes = true },
	[FUSE_LSEEK] = { fuse_lseek, sizeof(struct fuse_lseek_in), sizeof(struct fuse_lseek_out) },
	[FUSE_COPY_FILE_RANGE] = { fuse_copy_file_range, sizeof(struct fuse_copy_file_range_in),
		sizeof(struct fuse_write_out), .changes = true },
	[FUSE_TMPFILE] = { fuse_tmpfile, sizeof(struct fuse_create_in),
		sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out), .changes = true },
};

static const struct row *find_row(uint32_t opcode)
{
	return opcode < ARRAY_SIZE(rows) && rows[opcode].run ? &rows[opcode] : NULL;
}

/* Copy what is behind the head, as far as the operation is not to take it from guest memory itself. */
static int copy_arguments(struct request *request)
{
	const struct virtq_chain *chain = request->chain;
	size_t length = request->head.len - sizeof(request->head);

	if (request->head.len < sizeof(request->head) || request->head.len > chain->out_bytes)
		return -EINVAL;
	if (request->head.opcode == FUSE_WRITE && length > sizeof(struct fuse_write_in))
		length = sizeof(struct fuse_write_in);
	if (length > ARGUMENTS_MAX)
		return -E2BIG;
	request->arguments = request->session->arguments;
	request->length = length;
	iov_read(chain->iov, chain->out_count, sizeof(request->head), request->session->arguments, length);
	return 0;
}

static int run(struct request *request, const struct row *row)
{
	const struct session *session = request->session;
	int result;

	if (!row)
		return -ENOSYS;
	result = copy_arguments(request);
	if (result < 0)
		return result;
	if (!session->started && request->head.opcode != FUSE_INIT)
		return -EIO;
	if (request->length < row->in || (!row->silent && reply_room(request) < row->out))
		return -EINVAL;
	if (row->changes && session->options->read_only)
		return -EROFS;
	return row->run(request);
}

uint32_t session_serve(void *context, const struct virtq_chain *chain)
{
	struct session *session = context;
	struct request request = { .session = session, .chain = chain };
	struct fuse_out_header head;
	const struct row *row;
	int result;

	if (iov_read(chain->iov, chain->out_count, 0, &request.head, sizeof(request.head)) < sizeof(request.head))
		return 0;
	row = find_row(request.head.opcode);
	/* Without room for an answer nothing is done. */
	if (!(row && row->silent) && chain->in_bytes < sizeof(head))
		return 0;
	result = run(&request, row);
	session->kept = NULL;
	if (row && row->silent)
		return 0;
	if (result < 0)
		request.written = 0;
	head = (struct fuse_out_header){
		.len = sizeof(head) + request.written,
		.error = result < 0 ? result : 0,
		.unique = request.head.unique,
	};
	iov_write(chain->iov + chain->out_count, chain->in_count, 0, &head, sizeof(head));
	return head.len;
}

int session_init(struct session *session, const struct share_options *options, int directory, bool foreign_is_root)
{
	int result;

	*session = (struct session){
		.options = options,
		.directory = directory,
		.foreign_is_root = foreign_is_root,
	};
	result = nodes_init(session);
	if (result == 0)
		identity_init(session);
	return result;
}

void session_release(struct session *session)
{
	nodes_release(session);
	close_fd(&session->directory);
}
