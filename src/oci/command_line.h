/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The command line of karma-oci, which is crun's: what of it concerns Karma, and the words that crun gets.
 * Functions that return int return 0, or a negative errno with a message printed.
 */
#ifndef KARMA_OCI_COMMAND_LINE_H
#define KARMA_OCI_COMMAND_LINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum oci_command_kind {
	OCI_HELP,
	OCI_VERSION,
	OCI_OTHER,	/* crun's alone */
	OCI_CREATE,	/* or run */
	OCI_EXEC,
	OCI_UPDATE,
};

/* Strings point into argv, but for the words, which are malloc'ed. */
struct oci_command_line {
	enum oci_command_kind kind;
	char **words;		/* for crun, with NULL at their end */
	size_t word_count, global_count;	/* all of them; those before the command */

	const char *root, *log;
	bool log_json;

	/* create, run, exec and update. */
	const char *id;
	const char *bundle, *config;
	unsigned preserved;
	/* exec: the process in a file, or what differs from the container's own. */
	const char *process, *directory, *user;
	char **arguments;	/* argument_count of them */
	size_t argument_count;
	const char **environment, **capabilities;
	size_t environment_count, capability_count;
	bool terminal, no_new_privileges;
	/* update: resources in a file, or the limit of memory that is asked for, in bytes; 0: none. */
	const char *resources;
	json_int_t memory;

	char **options;		/* the command's, as they were given: option_count of them */
	size_t option_count;
};

/* command_line_release() in any case. */
int command_line_parse(struct oci_command_line *line, int argc, char **argv);
void command_line_release(struct oci_command_line *line);

/* Add a word for crun. */
int command_line_add(struct oci_command_line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* exec and update: pass all on, as for crun alone. */
int command_line_as_given(struct oci_command_line *line);
/* After the options of create, run, exec and update: the container. */
int command_line_finish(struct oci_command_line *line);

/* exec without a file: change the container's process to the one that is asked for. */
int command_line_apply(const struct oci_command_line *line, json_t *process);

#endif
