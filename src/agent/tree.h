/* SPDX-License-Identifier: GPL-2.0-only */
/* What both directions of a copy share. */
#ifndef KARMA_TREE_H
#define KARMA_TREE_H

#include "karma/agent_tree.h"

/* Set the text to "PATH: why", and return the error. */
int tree_fail(struct agent_tree *tree, int error, const char *path);
/* Take the text of an ERROR. */
int tree_take_error(struct agent_tree *tree, const struct agent_frame *frame);
/* The text for a frame that is out of place. */
int tree_fail_protocol(struct agent_tree *tree);
/* Tell the sender that all is there.  0 or an error. */
int tree_answer(struct agent_tree *tree);

#endif
