/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Settings: what a user can set, by options and in a configuration file alike.
 *
 * A table has all there are of a kind: those of `karma run`, of a disk, and of a network.  From it come
 * getopt's options, the keys of a file, what may follow --disk and --net, and what --print-config
 * prints.  Texts are cut apart in place and kept by the pointers into them.
 */
#ifndef KARMA_CLI_SETTINGS_H
#define KARMA_CLI_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Of a file, without its end. */
#define SETTING_LINE_MAX 8190u

enum setting_kind {
	SETTING_TEXT,		/* const char *; NULL: not set */
	SETTING_NUMBER,		/* unsigned; less than its least: not set */
	SETTING_COUNT,		/* uint64_t, likewise */
	SETTING_RATE,		/* uint64_t, bytes a second, given as a size; 0: not set */
	SETTING_SWITCH,		/* bool; on if it has no value */
	SETTING_CHOICE,		/* an enum, with the names of its values in choices */
	SETTING_OTHER,		/* with functions of its own */
};

struct setting {
	const char *name;
	const char *value;	/* what messages call its value; NULL: it needs none */
	enum setting_kind kind;
	size_t offset;		/* of its member in the structure that the table is for */
	unsigned min, max;	/* of a number; bytes of a text, with 0 for no limit */
	const char *const *choices;	/* ends with NULL */
	int (*parse)(void *target, const char *name, char *text);	/* of SETTING_OTHER */
	/* Instead of what is usual for its kind; must be there for SETTING_OTHER. */
	int (*print)(const void *target, const char *name, FILE *file);
	bool repeats;		/* each one adds to those before; else a file may have one */
	bool command_line;	/* no file can have it */
	bool file;		/* no option is that */
};

struct setting_table {
	const char *group;	/* before a name in messages: "disk ", "net " or "" */
	const struct setting *list;
	size_t count;
};

/*
 * Where what is parsed comes from, before each message that refuses it: "--" on the command line,
 * "FILE:LINE: " in a file.
 */
void set_origin(const char *origin);
int refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* All of these return 0, or a negative errno with a message printed. */
int parse_number(
	const char *name, const char *text, unsigned min, unsigned max, unsigned *number);
int parse_switch(const char *name, const char *text, bool *on);

/* NULL if there is none. */
const struct setting *setting_find(const struct setting_table *table, const char *name, size_t length);

/* text: NULL for a setting that needs no value. */
int setting_parse(const struct setting_table *table, const struct setting *setting, void *target,
	char *text);

/* NAME[=VALUE][,NAME[=VALUE]]..., or nothing if rest is NULL. */
int settings_parse_list(const struct setting_table *table, void *target, char *rest);

/* Print what is set, a line each, in the form of a file. */
int settings_print(const struct setting_table *table, const void *target, FILE *file);

/* Such a line.  -EINVAL, with a message, if a file can't have that value. */
int print_value(FILE *file, const char *name, const char *value);

/* Whether all of it is UTF-8 without control characters but tabs. */
bool is_plain_text(const char *text, size_t length);

#endif
