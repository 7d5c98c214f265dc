// SPDX-License-Identifier: GPL-2.0-only
/* The errors of copies, and their end. */
#include "tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int tree_fail(struct agent_tree *tree, int error, const char *path)
{
	snprintf(tree->text, sizeof(tree->text), "%s: %s", path, strerror(-error));
	return error;
}

int tree_fail_protocol(struct agent_tree *tree)
{
	snprintf(tree->text, sizeof(tree->text), "the other side of the copy breaks the protocol");
	return -EPROTO;
}

int tree_take_error(struct agent_tree *tree, const struct agent_frame *frame)
{
	const size_t head = 2 * sizeof(uint32_t);

	if (frame->length < head)
		return tree_fail_protocol(tree);
	snprintf(tree->text, sizeof(tree->text), "%.*s", (int)(frame->length - head),
		(const char *)frame->payload + head);
	tree->refused = true;
	return -EREMOTEIO;
}

int tree_answer(struct agent_tree *tree)
{
	return agent_link_put(tree->link, AGENT_DONE, 0, NULL, 0) ? agent_link_flush(tree->link) : -ENOBUFS;
}
