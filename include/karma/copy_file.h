/* SPDX-License-Identifier: GPL-2.0-only */
/* Copies of files that share their blocks where the file system can, and keep their holes where it can't. */
#ifndef KARMA_COPY_FILE_H
#define KARMA_COPY_FILE_H

#include <stdint.h>

/*
 * Make the contents of `to`, an empty file, those of `from`, which nobody writes meanwhile.  Descriptors at any
 * position; that of `from` may be moved.  0, or a negative errno without a message.
 */
int copy_file(int from, int to);

/*
 * Make [offset, offset + length) of a file a hole, or write zeroes there if its file system has none.  0, or a
 * negative errno without a message.
 */
int punch_hole(int fd, uint64_t offset, uint64_t length);

/* All of it, at an offset; fewer bytes are -EIO, for a read at the end of the file too.  0, or a negative errno. */
int read_all_at(int fd, void *to, uint64_t length, uint64_t offset);
int write_all_at(int fd, const void *from, uint64_t length, uint64_t offset);

#endif
