/* SPDX-License-Identifier: GPL-2.0-only */
/* The kind of a file, for messages. */
#ifndef KARMA_FILE_KIND_H
#define KARMA_FILE_KIND_H

#include <sys/stat.h>

/* Of a st_mode: "a directory", "a socket" and so on. */
static inline const char *file_kind(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "a file";
	case S_IFDIR:
		return "a directory";
	case S_IFIFO:
		return "a FIFO or pipe";
	case S_IFSOCK:
		return "a socket";
	case S_IFBLK:
		return "a block device";
	case S_IFCHR:
		return "a character device";
	default:
		return "something else";
	}
}

#endif
