/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The command line: subcommands, but for those of karma/commands.h, and the options of `karma run`.  A subcommand is
 * one function, which returns the exit status of the process (karma/status.h).
 */
#ifndef KARMA_CLI_H
#define KARMA_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "karma/guest.h"
#include "karma/snapshot_directory.h"

int command_run(int argc, char **argv);
int command_check(int argc, char **argv);
int command_config(int argc, char **argv);

/* A copy of a text of the configuration file. */
struct text_copy {
	struct text_copy *next;
	char text[];
};

/* The command line of `karma run`.  Strings point into argv, or into texts. */
struct run_options {
	struct guest_options guest;	/* its arrays are malloc'ed */
	const char *config;		/* as given, or NULL */
	bool print_config;
	bool help;
	int log_format;			/* enum log_format (karma/log.h) */
	const char *warm;		/* on, off, or NULL: as KARMA_WARM in the environment has it */
	const char **words;		/* malloc'ed array: the command in the file */
	size_t word_count;
	/* With guest.restore: the guest as the snapshot has it.  Disks, networks, initrds and the command are malloc'ed. */
	struct guest_options saved;
	struct snapshot_files files;	/* what guest.restore has, and guest.memory */
	struct text_copy *texts;
};

/*
 * Read the configuration of the snapshot that --restore names, then the configuration file of --config, then the options;
 * what comes later wins.  Modifies the strings of
 * argv.  0, or a negative errno with a message printed; run_options_release() in any case.
 */
int run_options_parse(struct run_options *options, int argc, char **argv);

/*
 * For a guest that is to run, with --restore: read the state of the snapshot, and open its memory.  0, or a negative errno with a
 * message printed.
 */
int restore_open(struct run_options *options);

/*
 * For a guest that is to run, with --root and --modules: make shares of the directories, and find what else follows from
 * the caller and the host: user, working directory, command, kernel; initramfs.  0, or a negative errno with a message printed.
 */
int root_complete(struct run_options *options);

/* For a guest that is to run: whether it has a warm start.  0, or a negative errno with a message printed. */
int warm_complete(struct run_options *options);

/* The defaults. */
void run_options_default(struct run_options *options);

/* Print them in the form of a configuration file.  0, or a negative errno with a message printed. */
int run_options_print(const struct run_options *options, FILE *file);
/* struct guest_options' print_snapshot. */
int print_snapshot_config(const struct guest_options *options, bool copies, FILE *file);
void run_options_release(struct run_options *options);

#endif
