/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Settings: what a user can set by options and in a configuration file alike.
 *
 * There is a table for each kind: `karma run`, a disk, a network.  From it come getopt's options, the keys of
 * a configuration file, what may follow --disk and --net, and the output of --print-config.  Values are parsed
 * in place: texts are cut at commas, and the target points into them, so they must stay.
 */
#ifndef KARMA_CLI_SETTINGS_H
#define KARMA_CLI_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Bytes of a line in a file, without its newline. */
#define SETTING_LINE_MAX 8190u

enum setting_kind {
	SETTING_TEXT,		/* const char *; NULL: not set */
	SETTING_NUMBER,		/* unsigned; less than min: not set */
	SETTING_COUNT,		/* uint64_t, likewise */
	SETTING_RATE,		/* uint64_t, bytes per second, written as a size; 0: not set */
	SETTING_SWITCH,		/* bool; on without a value */
	SETTING_CHOICE,		/* an enum, with the names of its values in choices */
	SETTING_OTHER,		/* by the functions parse and print */
};

struct setting {
	const char *name;
	const char *value;	/* the name of its value in messages; NULL: it needs no value */
	enum setting_kind kind;
	size_t offset;		/* of its member in the target structure */
	unsigned min, max;	/* of a number; of a text's length in bytes, where a max of 0 is no limit */
	const char *const *choices;	/* ends with NULL */
	int (*parse)(void *target, const char *name, char *text);	/* of SETTING_OTHER */
	/* Replaces the printing of its kind; required for SETTING_OTHER that a file can have. */
	int (*print)(const void *target, const char *name, FILE *file);
	bool repeats;		/* adds to earlier ones; otherwise a file may have it once */
	bool command_line;	/* not in a file */
	bool file;		/* only in a file */
};

struct setting_table {
	const char *group;	/* before a name in messages: "disk ", "net " or "" */
	const struct setting *list;
	size_t count;
};

/*
 * The prefix of messages from refuse(): where the text comes from that is parsed next.  "--" for the command line,
 * "FILE:LINE: " for a file.  Stays the caller's.
 */
void set_origin(const char *origin);
/* Print why a setting is refused, after that prefix.  -EINVAL. */
int refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* These return 0, or a negative errno with a message printed. */
int parse_number(
	const char *name, const char *text, unsigned min, unsigned max, unsigned *number);
int parse_switch(const char *name, const char *text, bool *on);

/* The setting of that name, of so many bytes; NULL if there is none. */
const struct setting *setting_find(const struct setting_table *table, const char *name, size_t length);

/* Parse text (NULL: none, for a setting that needs no value) into the target. */
int setting_parse(const struct setting_table *table, const struct setting *setting, void *target,
	char *text);

/* Parse NAME[=VALUE][,NAME[=VALUE]]...; NULL: nothing. */
int settings_parse_list(const struct setting_table *table, void *target, char *rest);

/* Print all that is set, in the form of a file. */
int settings_print(const struct setting_table *table, const void *target, FILE *file);

/* Print one such line.  -EINVAL, with a message, if the value can't stand in a file. */
int print_value(FILE *file, const char *name, const char *value);

/* Whether text is UTF-8, without control characters other than tabs. */
bool is_plain_text(const char *text, size_t length);

#endif
