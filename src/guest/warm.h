/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Warm starts, --warm: a guest with a command goes on from the moment at which Karma's init calls `checkpoint`, in place
 * of booting.  What it has by then depends on its key alone (warm_images.h): it has not looked at a device, nor at its
 * command.  The first start with a key boots, and makes the image at that call.
 *
 * The supervisor.  Without an image, for whatever reason, a guest boots, and nothing is said.
 */
#ifndef KARMA_GUEST_WARM_H
#define KARMA_GUEST_WARM_H

#include <stdbool.h>

#include "warm_images.h"

struct guest;

struct warm {
	char *path, *key;		/* of the image, malloc'ed; NULL: the guest has no use for one */
	bool makes;			/* this start has none, and is to make it */
	bool restores;			/* this start goes on from it */
	struct snapshot_files files;
	struct snapshot_aside aside;	/* of the image that is being made */
};

#define WARM_NONE ((struct warm){ .files = SNAPSHOT_FILES_NONE, .aside = SNAPSHOT_ASIDE_NONE })

/* Before the first start, with everything else open: look for the image, and have the guest go on from it. */
void warm_open(struct guest *guest);
void warm_close(struct guest *guest);

/* After that start: if the image was refused, it is removed, and the guest is to boot, as if nothing had been. */
bool warm_was_refused(struct guest *guest);

/* Begin the image at the guest's checkpoint.  0 or a negative errno. */
int warm_begin(struct guest *guest);

#endif
