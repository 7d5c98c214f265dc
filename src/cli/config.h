/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The configuration file of a guest, karma.conf(5): INI, read by libinih.
 *
 * What is in a file is taken for an attack: its size and its lines are bounded, and it has to be
 * plain text.
 */
#ifndef KARMA_CLI_CONFIG_H
#define KARMA_CLI_CONFIG_H

#include <stddef.h>

#include "karma/cli.h"

/*
 * The file that --config names: a path, if it has a slash or ends with ".conf", or the name of one
 * in KARMA_CONFIG_DIR.  malloc'ed; NULL if memory is short.
 */
char *config_path(const char *name);

/*
 * Add what a file has to options that have their defaults.  0, or -EINVAL or -ENOMEM with a message
 * printed for each error.
 */
int config_read(struct run_options *options, const char *path);

/* The same, with the file's bytes; path is for messages. */
int config_parse(struct run_options *options, const char *path, const char *bytes, size_t size);

#endif
