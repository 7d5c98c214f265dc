/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the sandbox share.  All give 0, or a negative errno without a message. */
#ifndef KARMA_SANDBOX_INTERNAL_H
#define KARMA_SANDBOX_INTERNAL_H

#include "karma/sandbox.h"

/* Leave nothing of the file system but an empty directory that can't be written. */
int namespaces_empty_root(void);

/* Take every right that Landlock knows; after that, nothing can be mounted any more. */
int landlock_forbid_all(void);
bool landlock_supported(void);

int limits_set(const struct sandbox *sandbox, const struct sandbox_bounds *bounds);

#endif
