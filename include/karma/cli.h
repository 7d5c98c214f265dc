/* SPDX-License-Identifier: GPL-2.0-only */
/* The command line: one function a subcommand, each returning the process's exit status. */
#ifndef KARMA_CLI_H
#define KARMA_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "karma/boot.h"
#include "karma/disk.h"
#include "karma/memory.h"
#include "karma/net.h"
#include "karma/sandbox.h"
#include "karma/terminal.h"

int command_run(int argc, char **argv);
int command_check(int argc, char **argv);
int command_config(int argc, char **argv);

/* Unmap what of the program only its start needed; it comes back when it is touched. */
void trim_program(void);

/* What follows when a guest resets, or its kernel panics or hangs. */
enum end_policy {
	END_EXIT,
	END_RESTART,
	END_WAIT,	/* keep it, halted, until the user leaves */
};

/* A copy of what a configuration file has. */
struct kept_text {
	struct kept_text *next;
	char text[];
};

/* What `karma run` was asked to do.  Strings are those of argv, or in texts. */
struct run_options {
	const char *config;		/* as given, or NULL */
	bool print_config;
	const char *kernel;
	const char **initrds;		/* malloc'ed array, ends with NULL */
	size_t initrd_count;
	struct disk_options *disks;	/* malloc'ed array */
	size_t disk_count;
	struct net_options *nets;	/* malloc'ed array */
	size_t net_count;
	unsigned cpus;
	struct memory_options memory;
	bool balloon;
	bool pmu;
	const char *cmdline;
	const char *name;
	const char *console;
	unsigned timeout;		/* seconds; 0: none */
	unsigned grace;			/* seconds from SIGTERM to the end by force; 0: at once */
	enum end_policy reboot, on_panic;
	unsigned watchdog;		/* seconds; 0: none */
	bool die_with_parent;
	bool strict;
	bool stats;
	struct sandbox_options sandbox;
	int log_format;			/* enum log_format (karma/log.h) */
	bool help;
	char **command;			/* NULL, or ends with NULL */
	const char **words;		/* malloc'ed array: the command of the file */
	size_t word_count;
	struct kept_text *texts;
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

/*
 * Put into guest memory what the options name: the kernel, which is open, its command line, the initramfs
 * or Karma's own, and the command with what it is to know of its terminal.  Fills entry.  Once for
 * each start, before its first vCPU: files are read anew.  0, or a negative errno with a message
 * printed.
 */
int guest_load(const struct run_options *options, const struct boot_kernel *kernel,
	const struct terminal *terminal, struct guest_memory *memory, struct boot_entry *entry);

#endif
