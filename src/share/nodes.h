/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files about nodes share: their descriptors (node_fds.c), for those who give names and take them. */
#ifndef KARMA_SHARE_NODES_H
#define KARMA_SHARE_NODES_H

#include "session.h"

/* Whether a file is the node's. */
bool node_is(const struct node *node, const struct stat *status);

/* Open what has the node's name, as O_PATH, if that is the node: its descriptor, which is the node's. */
int node_open_path(struct session *session, struct node *node);
/* Keep the descriptor, if it has one, until node_unpin() or node_close(). */
void node_pin(struct session *session, struct node *node);
void node_unpin(struct session *session, struct node *node);
void node_close(struct session *session, struct node *node);

#endif
