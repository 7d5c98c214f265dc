/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parsers of options and of configuration files share.  Functions that return int return 0, or a
 * negative errno with a message printed.
 */
#ifndef KARMA_CLI_OPTIONS_H
#define KARMA_CLI_OPTIONS_H

#include "karma/cli.h"
#include "settings.h"

extern const struct setting_table run_settings, disk_settings, net_settings;

/* For an option of QEMU, with its dashes: advice on what Karma has instead.  NULL for any other word. */
const char *option_of_qemu(const char *word);

/* Parse the value of --disk or --net, in place. */
int parse_disk(struct disk_options *disk, char *text);
int parse_net(struct net_options *net, char *text);

/* After the last setting of one: check that they go together, and fill in defaults. */
int complete_disk(struct disk_options *disk);
int complete_net(struct net_options *net);

/* Append an empty one; NULL, with a message printed, if memory is short. */
struct disk_options *add_disk_options(struct run_options *options);
struct net_options *add_net_options(struct run_options *options);

/* Copy a text for the lifetime of the options; NULL, with a message printed, if memory is short. */
char *copy_text(struct run_options *options, const char *text);

#endif
