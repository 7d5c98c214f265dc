/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A directory that is served by FUSE 7.38 (linux/fuse.h), as Linux's virtio-fs speaks it: what the guest knows
 * of it by numbers, and how a request is taken apart and answered.  One thread.
 *
 * All that a request says is hostile.  It is copied once, but for the data of a write, which goes straight
 * from guest memory to the file.  Nothing is ever opened by a path: one component of a name, relative to the
 * descriptor of a directory, and no symbolic link is followed.
 *
 * A node is a file that the guest knows, by the number that a lookup gave it.  It has no descriptor of its own,
 * but the directory and the name where it was seen last; whatever is opened there has to be the same file by
 * device and inode, or else the guest's number is stale (ESTALE, upon which Linux looks the name up again).
 * Directories that are in use are kept open, and so is what has lost its name, but may be in use.
 *
 * A function that returns int gives a negative errno if it fails, which is what the guest gets.
 */
#ifndef KARMA_SHARE_SESSION_H
#define KARMA_SHARE_SESSION_H

#include <linux/fuse.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "karma/share.h"
#include "karma/virtq.h"
#include "slots.h"

/* Files that a guest may know, and files it may have open if the limit of open files allows. */
#define NODES_MAX (4u << 20)
#define HANDLES_MAX (1u << 20)

/* Behind a request's head, data to write left out: an extended attribute with its name is the largest. */
#define ARGUMENTS_MAX (sizeof(struct fuse_setxattr_in) + 256 + 65536)
#define READDIR_BYTES 32768u

struct handle;

struct node {
	uint64_t id;
	dev_t device;
	ino_t inode;
	mode_t type;		/* S_IFMT's bits */
	nlink_t links;		/* as last seen */
	uint64_t lookups;	/* the guest's references to the number */
	struct node *parent;	/* NULL: it has no name (any more) */
	char *name;
	uint32_t children;	/* nodes whose parent this is */
	int fd;			/* O_PATH; -1: not open */
	bool pinned;		/* fd could not be had again */
	struct handle *handles;
	/* What was in the file when the guest last opened it: if it still is, its cache holds. */
	struct timespec opened_mtime;
	off_t opened_size;
	struct node *next_by_inode, *next_by_name;
	struct node *older, *newer;	/* of those whose fd may be closed */
};

/* An open file or directory. */
struct handle {
	uint64_t id;
	int fd;
	struct node *node;
	struct handle *next;	/* of the same node */
};

struct session {
	const struct share_options *options;
	int directory;		/* O_PATH; the root's descriptor */
	bool switches_user;	/* root, who may create files of others */
	bool foreign_is_root;	/* a user namespace hides who other owners are (the caller's) */
	uid_t uid;
	gid_t gid;
	struct node *root;
	struct slots nodes, handles;
	struct node **by_inode, **by_name;	/* hash tables of bucket_count chains each */
	uint32_t bucket_count;
	struct node *oldest, *newest;	/* with descriptors that may be closed */
	struct node *kept;	/* by this request, which needs its descriptor */
	bool started;		/* FUSE_INIT was there */
	bool submounts;		/* the guest's kernel has them */
	uint64_t listed;	/* the handle whose entries are in entries; 0: none */
	off_t list_offset;	/* of the next one of them */
	uint32_t list_at, list_bytes;
	uint8_t entries[READDIR_BYTES] __attribute__((aligned(8)));
	uint8_t arguments[ARGUMENTS_MAX];
};

/*
 * directory is an O_PATH descriptor, which session_release() closes, also if this fails.  The working directory
 * has to be /proc/self/fd, and the mask of file modes 0.
 */
int session_init(struct session *session, const struct share_options *options, int directory, bool foreign_is_root);
void session_release(struct session *session);
/* Serve a request (vhost_serve()). */
uint32_t session_serve(void *session, const struct virtq_chain *chain);

/* --- Requests (fuse.c). */

struct request {
	struct session *session;
	const struct virtq_chain *chain;
	struct fuse_in_header head;
	const uint8_t *arguments;	/* what is left of them */
	size_t length;
	size_t written;		/* bytes of the reply behind its head */
};

/* The structure that comes next, of this many bytes; NULL if the request has fewer. */
const void *take_argument(struct request *request, size_t bytes);
/* The name that comes next, of one component. */
int take_name(struct request *request, const char **name);
/* Text that comes next, with its end. */
int take_text(struct request *request, const char **text);

/* Bytes that the reply may still get. */
size_t reply_room(const struct request *request);
/* Add to the reply. */
int reply(struct request *request, const void *bytes, size_t length);

/* Cut or lengthen a file; removes_setuid: and take setuid and setgid bits away, as for a user without privilege. */
int file_truncate(const struct request *request, int fd, uint64_t size, bool removes_setuid);

struct node *request_node(const struct request *request);
/* The handle of this number, if it is one of the request's node. */
struct handle *request_handle(const struct request *request, uint64_t id);

/* Operations.  Each takes its arguments, does its work and adds its reply. */
typedef int operation(struct request *request);

operation fuse_lookup, fuse_readlink, fuse_symlink, fuse_mknod, fuse_mkdir, fuse_unlink, fuse_rmdir, fuse_rename,
	fuse_rename2, fuse_link, fuse_create, fuse_tmpfile;
operation fuse_open, fuse_read, fuse_write, fuse_release, fuse_fsync, fuse_syncfs, fuse_fallocate, fuse_lseek,
	fuse_copy_file_range;
operation fuse_opendir, fuse_readdir, fuse_readdirplus, fuse_releasedir;
operation fuse_getattr, fuse_setattr, fuse_statfs, fuse_setxattr, fuse_getxattr, fuse_listxattr, fuse_removexattr;

/* Those flags of open(2) that a guest's open has a say in. */
int open_flags(const struct session *session, uint32_t flags);
/* FOPEN_... for a file that the guest opens. */
uint32_t reply_flags(const struct session *session, struct node *node, const struct stat *status);

/* How long the guest may believe a name or attributes, in seconds. */
uint64_t cache_seconds(const struct session *session);
void fill_attributes(const struct session *session, const struct node *node, const struct stat *status,
	struct fuse_attr *attributes);
/* What a lookup of a name in a directory gives: one more reference to its node.  Without both: of a new file. */
int fill_entry(struct session *session, struct node *parent, const char *name, const struct stat *status,
	struct fuse_entry_out *entry);

/* --- Nodes (nodes.c, node_fds.c). */

int nodes_init(struct session *session);
void nodes_release(struct session *session);

/* NULL if the guest has no reference to this number. */
struct node *node_get(const struct session *session, uint64_t id);
/*
 * The node of what a lookup found, with one more reference of the guest's.  Without parent and name it is a new file
 * that has no name.
 */
int node_found(struct session *session, struct node *parent, const char *name, const struct stat *status,
	struct node **node);
void node_forget(struct session *session, struct node *node, uint64_t lookups);

/*
 * A descriptor of it that is good for its attributes and, of a directory, for its entries; the session's.  It
 * stays open until the next one is asked for, or to the request's end if the node is session->kept.
 */
int node_fd(struct session *session, struct node *node);
int node_stat(struct session *session, struct node *node, struct stat *status);
/* Open the file itself, for the caller; flags as of open(2), without O_CREAT and O_TRUNC. */
int node_open(struct session *session, struct node *node, int flags, struct stat *status);
/* As openat(2), of one component, never through a symbolic link. */
int open_component(struct session *session, int directory, const char *name, int flags, mode_t mode);
/* The name of a descriptor in the working directory, for calls that take a path only. */
#define FD_NAME_BYTES 12
const char *fd_name(int fd, char name[FD_NAME_BYTES]);

/* What is to lose its name: called before; then after that, as it came to be. */
struct node *node_at(struct session *session, struct node *parent, const char *name);
void node_keep_open(struct session *session, struct node *node);
void node_unlinked(struct session *session, struct node *node);
int node_renamed(struct session *session, struct node *node, struct node *parent, const char *name);

/* The handle takes fd over, also if it fails. */
int handle_add(struct session *session, struct node *node, int fd, struct handle **handle);
void handle_close(struct session *session, struct handle *handle);

/* --- Who a request comes from (identity.c). */

void identity_init(struct session *session);
/* Create files as the user and group of the request until identity_return(). */
int identity_assume(const struct request *request);
void identity_return(const struct request *request);

#endif
