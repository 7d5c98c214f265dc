/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the sandbox share.  All functions that return int return 0, or a negative errno without a message. */
#ifndef KARMA_SANDBOX_INTERNAL_H
#define KARMA_SANDBOX_INTERNAL_H

#include "karma/sandbox.h"

/* Replace the root file system by an empty read-only directory. */
int namespaces_empty_root(void);

/* Deny every right that Landlock knows.  Afterwards no mount is possible. */
int landlock_forbid_all(void);
bool landlock_supported(void);

int limits_set(const struct sandbox *sandbox, const struct sandbox_bounds *bounds);

#endif
