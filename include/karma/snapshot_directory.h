/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The directory of a snapshot, karma-snapshot(5): opened for a restore, and made for a new one.
 *
 * A new one is made aside, in DIR.karma-XXXXXX beside DIR, by who asks for it; others write files in it, and it gets its
 * name when all is there and synced.  It is locked (flock(2)) from then on, by a lock that all who have its descriptor
 * share: what is left of one whose makers were killed can be told from one that is being made.
 *
 * Functions that return int return 0, or a negative errno with a message printed, unless said otherwise.
 */
#ifndef KARMA_SNAPSHOT_DIRECTORY_H
#define KARMA_SNAPSHOT_DIRECTORY_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "karma/snapshot_touched.h"

#define SNAPSHOT_CONFIG "config"	/* karma.conf(5) */
#define SNAPSHOT_STATE "state"
#define SNAPSHOT_MEMORY "memory"
#define SNAPSHOT_TOUCHED "touched"	/* karma/snapshot_touched.h */
#define SNAPSHOT_ASIDE ".karma-"	/* behind the name of one that is being made, and before a number */

/* --- For a restore.  Hostile: whoever could write there decides which files of ours a guest gets. */

/* Open it, if it is the user's own.  A descriptor, or a negative errno with a message printed. */
int snapshot_directory_open(const char *path);
/* The same for a regular file in it, which must not be empty. */
int snapshot_file_open(int directory, const char *path, const char *name, uint64_t *size);

/* What a restore takes from it, beside the configuration. */
struct snapshot_files {
	void *state;			/* malloc'ed; unchecked */
	size_t state_bytes;
	int memory;			/* open for reading */
	struct touched *touched;	/* malloc'ed; NULL: the directory has none yet */
};

#define SNAPSHOT_FILES_NONE ((struct snapshot_files){ .memory = -1 })

/* snapshot_files_close() in any case. */
int snapshot_files_open(struct snapshot_files *files, int directory, const char *path);
void snapshot_files_close(struct snapshot_files *files);

/* --- For a new one. */

struct snapshot_aside {
	char *path;			/* DIR, malloc'ed */
	char name[NAME_MAX + 1];	/* in its parent */
	int parent, directory;		/* -1: there is none */
};

#define SNAPSHOT_ASIDE_NONE ((struct snapshot_aside){ .parent = -1, .directory = -1 })

/*
 * Make it, for the user of that number, who may be another only if we are root.  What was left aside of earlier ones for
 * the same DIR is removed.  snapshot_aside_release() in any case.
 */
int snapshot_aside_make(struct snapshot_aside *aside, const char *path, unsigned user);
/* Give it its name: all that is in it was synced.  -EEXIST if that was taken meanwhile. */
int snapshot_aside_publish(struct snapshot_aside *aside);
/* Remove it with all that is in it, unless it was published, and close it. */
void snapshot_aside_release(struct snapshot_aside *aside);

/* Remove one with all that is in it, unless somebody still makes it.  No message. */
void snapshot_directory_remove(int parent, const char *name);

/* Remove the files in a directory; what they take on disk, without holes.  No message. */
void snapshot_directory_empty(int directory);
uint64_t snapshot_directory_bytes(int directory);

#endif
