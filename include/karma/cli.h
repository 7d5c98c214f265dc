/* SPDX-License-Identifier: GPL-2.0-only */
/* The command line: one function a subcommand, each returning the process's exit status. */
#ifndef KARMA_CLI_H
#define KARMA_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "karma/guest.h"

int command_run(int argc, char **argv);
int command_check(int argc, char **argv);
int command_config(int argc, char **argv);

/* A copy of what a configuration file has. */
struct text_copy {
	struct text_copy *next;
	char text[];
};

/* What `karma run` was asked to do.  Strings are those of argv, or in texts. */
struct run_options {
	struct guest_options guest;	/* its arrays are malloc'ed */
	const char *config;		/* as given, or NULL */
	bool print_config;
	bool help;
	int log_format;			/* enum log_format (karma/log.h) */
	const char **words;		/* malloc'ed array: the command of the file */
	size_t word_count;
	struct text_copy *texts;
};

/*
 * The configuration file first, if there is one, then the options, which win.  Cuts the texts of argv
 * apart.  0, or a negative errno with a message printed.  run_options_release() in any case.
 */
int run_options_parse(struct run_options *options, int argc, char **argv);

/* What counts where neither says anything. */
void run_options_default(struct run_options *options);

/* In the form of a configuration file.  0, or a negative errno with a message printed. */
int run_options_print(const struct run_options *options, FILE *file);
void run_options_release(struct run_options *options);

#endif
