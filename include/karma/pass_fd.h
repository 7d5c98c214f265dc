/* SPDX-License-Identifier: GPL-2.0-only */
/* Descriptors that go over a Unix socket with bytes (SCM_RIGHTS, unix(7)).  No function blocks. */
#ifndef KARMA_PASS_FD_H
#define KARMA_PASS_FD_H

#include <stddef.h>
#include <sys/types.h>

/* As send(), with a descriptor, which stays the caller's, unless that is -1.  Never a SIGPIPE. */
ssize_t send_with_fd(int socket, const void *bytes, size_t length, int fd);

/* The same with so many descriptors, PASS_FDS_MAX at most. */
#define PASS_FDS_MAX 2u
ssize_t send_with_fds(int socket, const void *bytes, size_t length, const int *fds, unsigned count);

/*
 * As recv().  *fd is the descriptor that came with the bytes, close-on-exec, which the caller owns, or -1; of
 * more than one, the others are gone.
 */
ssize_t receive_with_fd(int socket, void *bytes, size_t length, int *fd);

#endif
