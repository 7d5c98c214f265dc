/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The configuration file of a guest, karma.conf(5): INI, parsed by libinih.
 *
 * Files are untrusted: the size of a file and of its lines is bounded, and it must be plain text.
 */
#ifndef KARMA_CLI_CONFIG_H
#define KARMA_CLI_CONFIG_H

#include <stddef.h>

#include "karma/cli.h"

/*
 * The path for the argument of --config: the argument itself if it has a slash or ends with ".conf", otherwise
 * KARMA_CONFIG_DIR/NAME.conf.  malloc'ed; NULL if memory is short.
 */
char *config_path(const char *name);

/*
 * Read a file into options that have their defaults.  0, or -EINVAL or -ENOMEM with a message printed for
 * each error.
 */
int config_read(struct run_options *options, const char *path);

/* The same from a file that is open; path is for messages. */
int config_read_open(struct run_options *options, const char *path, int fd);

/* The same from memory; path is for messages. */
int config_parse(struct run_options *options, const char *path, const char *bytes, size_t size);

#endif
