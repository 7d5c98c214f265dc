/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copies of karma-agent(7), for both sides: a file or directory as a stream of frames, and back.
 *
 * Neither side follows a symbolic link below the top, nor takes a name that is more than one component, so that what is
 * received stays below the destination, whatever the other side sends.  Functions block; errors are negative errno
 * numbers, with a text that says what failed and why, for the caller to print or to send.
 */
#ifndef KARMA_AGENT_TREE_H
#define KARMA_AGENT_TREE_H

#include <limits.h>
#include <sys/stat.h>
#include <time.h>

#include "karma/agent_link.h"

#define AGENT_TREE_TEXT (PATH_MAX + 512u)

struct agent_tree {
	struct agent_link *link;
	/* What is told meanwhile; both may be NULL. */
	void (*progress)(void *context, uint64_t bytes);	/* so many more were copied */
	void (*skipped)(void *context, const char *text);	/* something is left out, and why */
	void *context;
	char text[AGENT_TREE_TEXT];				/* of the error; empty: the connection has ended */
	bool refused;						/* the text is the other side's, and may be any bytes */
};

/*
 * Send the file or directory at a path, which may be a symbolic link to it, and wait until the other side has all of
 * it.  0 or an error.
 */
int agent_tree_send(struct agent_tree *tree, const char *path);

/*
 * Receive what the other side sends, as path or, if that is a directory, under the name base in it; a base of "" or "."
 * is the directory itself.  Files appear under their names when they are complete.  0 or an error.
 */
int agent_tree_receive(struct agent_tree *tree, const char *path, const char *base);

/*
 * The same of one file, which on our side is a descriptor that is read to its end, or written: a pipe, say.  What is
 * sent is a file of that mode.  A call that a signal interrupts is an error.
 */
int agent_tree_send_input(struct agent_tree *tree, int fd, mode_t mode);
int agent_tree_receive_output(struct agent_tree *tree, int fd);

/* The last component of a path, or "." if that is no name of its own. */
void agent_tree_base(const char *path, char base[NAME_MAX + 1]);

#endif
