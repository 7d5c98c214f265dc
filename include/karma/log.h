/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Messages for the user, on stderr, a line each, never on stdout.
 *
 * A message names what failed, on what, why, and what to do.  Any thread may call these; a
 * line is written with one write().
 */
#ifndef KARMA_LOG_H
#define KARMA_LOG_H

#include <stddef.h>

#define LOG_BYTES 16384u	/* how much of them is kept */

enum log_format {
	LOG_TEXT,	/* "karma: GUEST: MESSAGE" */
	LOG_JSON,	/* an object (RFC 8259): "time", "level", "guest" if it has a name, "message" */
};

/* Before there is a second thread. */
void log_set_format(enum log_format format);

/* Print "karma: ...", of level error, and return error, a negative errno: `return fail(-EINVAL, "...")`. */
int fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Print "karma: ...", of level notice, for what the user should know though nothing failed. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Print a line of what the user asked for, as it is, of level info. */
void print_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Keep the last LOG_BYTES of messages from here on, as text, of this process and of those that it makes,
 * which share them.  Nothing is kept if memory is short.
 */
void log_start_history(void);

/*
 * What is kept, in whole lines: the time in seconds since 1970, a blank, and the message.  How many
 * bytes, no more than length.  Any process can write there, a guest's that has broken out too: these are
 * bytes that nobody vouches for, and a line that is being written may be in pieces.
 */
size_t log_read_history(char *to, size_t length);

/* What a guest says of itself goes to the user's terminal as printable ASCII: a blank for all else. */
void make_printable(char *text, size_t length);

/* Name the guest in every message from here on; name must stay. */
void log_set_name(const char *name);

#endif
