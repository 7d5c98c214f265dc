/* SPDX-License-Identifier: GPL-2.0-only */
/* The sandbox of a server of files (SECURITY.md, "The server of a shared directory"). */
#ifndef KARMA_SHARE_CONFINE_H
#define KARMA_SHARE_CONFINE_H

#include <stdbool.h>

#include "karma/share.h"

struct confinement {
	int directory;		/* O_PATH; the caller's */
	bool user_namespace;	/* has one of its own, with no user but itself */
};

/*
 * Take away all that is not needed to serve the directory, but for the filter of system calls.  The working
 * directory is /proc/self/fd then.  0, or a negative errno with a message printed.
 */
int confine(const struct share_options *options, struct confinement *confinement);

#endif
