/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef KARMA_UNIX_CONNECT_H
#define KARMA_UNIX_CONNECT_H

/*
 * Connect to the Unix stream socket of that path (unix(7)), without blocking: a Unix socket connects at once, or
 * not.  The socket, non-blocking and close-on-exec; or a negative errno: -ECONNREFUSED if nobody listens, -EAGAIN if
 * the backlog is full, -ENAMETOOLONG.
 */
int unix_connect(const char *path);

#endif
