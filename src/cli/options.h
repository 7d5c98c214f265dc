/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The parts of the parser of options; each function that returns an int returns 0, or a negative errno
 * with a message printed.
 */
#ifndef KARMA_CLI_OPTIONS_H
#define KARMA_CLI_OPTIONS_H

#include "karma/cli.h"
#include "settings.h"

extern const struct setting_table run_settings, disk_settings, net_settings;

/* How Karma has what QEMU calls so, with its dashes; NULL if that knows no such option. */
const char *option_of_qemu(const char *word);

/* What was given as --disk or --net; cut apart. */
int parse_disk(struct disk_options *disk, char *text);
int parse_net(struct net_options *net, char *text);

/* After the last setting of it: do they go together?  What is left open gets its default. */
int complete_disk(struct disk_options *disk);
int complete_net(struct net_options *net);

/* One more, without a setting yet; NULL, with a message printed, if memory is short. */
struct disk_options *add_disk_options(struct run_options *options);
struct net_options *add_net_options(struct run_options *options);

/* A copy that lives as long as the options do; NULL, with a message printed, if memory is short. */
char *copy_text(struct run_options *options, const char *text);

#endif
