/* SPDX-License-Identifier: GPL-2.0-only */
/* The parts of the parser of options; each returns 0, or a negative errno with a message printed. */
#ifndef KARMA_CLI_OPTIONS_H
#define KARMA_CLI_OPTIONS_H

#include <stdint.h>

#include "karma/net.h"

/* option: how a message names it. */
int parse_number(
	const char *option, const char *text, unsigned least, unsigned most, unsigned *number);
/* Bytes a second. */
int parse_bps(const char *option, const char *text, uint64_t *bytes);

/* What --net names; cuts the text of argv apart. */
int parse_net(struct net_options *net, char *text);

#endif
