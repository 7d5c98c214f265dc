/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared directories: a directory of the host's that a guest mounts by virtio-fs (virtio 1.2, section 5.11).
 *
 * The device's front, in the guest's process, speaks vhost-user to a server of files: a process of its own,
 * below the supervisor, which alone has the directory.  The two share guest memory, a socket, and the
 * history of messages: each takes the other, and the guest, for hostile.
 */
#ifndef KARMA_SHARE_H
#define KARMA_SHARE_H

#include <stdbool.h>

#define SHARES_MAX 16u
/* Bytes of a tag, without an end (section 5.11.4). */
#define SHARE_TAG_MAX 36u

/* How long a guest may believe what it has seen of names and attributes. */
enum share_cache {
	SHARE_CACHE_AUTO,	/* a second; data until the next open */
	SHARE_CACHE_ALWAYS,	/* for ever: nobody else writes to the directory */
	SHARE_CACHE_NEVER,	/* not at all */
};

/* Strings are the options'. */
struct share_options {
	const char *directory;	/* the host's; NULL if server is set */
	const char *server;	/* the path of another server's socket, such as virtiofsd's; or NULL */
	const char *tag;	/* by which the guest mounts it */
	const char *guest_path;	/* where Karma's init mounts it; NULL: nowhere */
	bool read_only;
	bool plain_mounts;	/* the guest sees mount points as any directories: overlayfs can't cross others (EREMOTE) */
	enum share_cache cache;
	bool unconfined;	/* --no-sandbox */
};

/*
 * Be the server of a directory, in a process of its own that has one thread: confines itself, then serves the one
 * vhost-user front-end at this socket until that closes it.  The exit status, after a message if it is not 0.
 *
 * The process is a plain fork with all rights of the user, in the user's namespaces; all its descriptors but the
 * socket, which blocks, and stderr are closed.
 */
int share_serve(const struct share_options *options, int socket);

#endif
