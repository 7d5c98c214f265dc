/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef KARMA_OWN_FILE_H
#define KARMA_OWN_FILE_H

#include <stdbool.h>
#include <sys/stat.h>

/*
 * Whether a file or directory is the user's own, and nobody else's to write.  Where not all users are mapped, as in a
 * container of an unprivileged user, an owner that is not looks like another: it is not taken for us.
 */
bool is_own_file(const struct stat *status);

#endif
