/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Warm images: guests that were saved at their call `checkpoint`, in the user's cache (boot_cache_path()), in its directory
 * `warm`.
 *
 * An image is a directory with the files `state` and `memory` of karma-snapshot(5), and `key`: a text of all that a guest
 * was made of, and that another has to be made of to go on from it.  It is called by the CRC-32 of its key.  It is made
 * aside and gets its name when it is whole, so that any number may make and use the same one.  One that is damaged, or of
 * another key, is removed.  Nothing is synced: the key names the boot of the host.
 *
 * The supervisor, or the saver.  Messages go to the history alone: without an image a guest boots.
 */
#ifndef KARMA_GUEST_WARM_IMAGES_H
#define KARMA_GUEST_WARM_IMAGES_H

#include <stdint.h>

#include "karma/snapshot_directory.h"

/* The least recently used are removed until there are no more, and they take no more on disk, without holes. */
#define WARM_IMAGES_MAX 8u
#define WARM_BYTES_MAX (2ull << 30)

/* Where the image of a key is, or is to be: malloc'ed; NULL if there is no place for it. */
char *warm_image_path(const char *key);

/*
 * Open one for a guest of so many bytes of memory, and note that it was used.  -ENOENT if there is none.
 * snapshot_files_close() in any case.
 */
int warm_image_open(const char *path, const char *key, uint64_t memory, struct snapshot_files *files);
void warm_image_remove(const char *path);

/* Begin one, for its files to be written; warm_image_publish() and snapshot_aside_release() follow.  0 or a negative errno. */
int warm_image_begin(struct snapshot_aside *aside, const char *path, const char *key);
/* Make room for it, and give it its name, unless another was faster.  0 or a negative errno. */
int warm_image_publish(struct snapshot_aside *aside);

#endif
