/* SPDX-License-Identifier: GPL-2.0-only */
/* What a path that the user gave leads to, for messages. */
#ifndef KARMA_FILE_KIND_H
#define KARMA_FILE_KIND_H

#include <sys/stat.h>

/* "a directory", "a socket" and so on, of a st_mode. */
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
