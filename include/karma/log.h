/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Messages for the user, on stderr, a line each, never on stdout.
 *
 * A message says what failed, on what, why, and what to do.  Any thread may call these functions,
 * if they do not say otherwise; a line is written with one system call.
 */
#ifndef KARMA_LOG_H
#define KARMA_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_BYTES 16384u	/* of the history */

enum log_format {
	LOG_TEXT,	/* "karma: GUEST: MESSAGE" */
	LOG_JSON,	/* an object (RFC 8259): "time", "level", "guest" if it has a name, "message" */
};

/* Call it before there is a second thread. */
void log_set_format(enum log_format format);

/*
 * Print "karma: ...", of level error, and return error, a negative errno: `return fail(-EINVAL,
 * "...")`.
 */
int fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Print "karma: ...", of level notice: nothing failed, but the user should know. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Print a line that the user asked for, without "karma: ", of level info. */
void print_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Keep messages from stderr until it is called again, for what the user has not asked for: they go to the history alone.
 * Processes that are forked meanwhile inherit it.  One thread.
 */
void log_hush(bool hush);

/*
 * Keep a history from here on: the last LOG_BYTES of messages, as text, in memory that this process
 * shares with those that it forks.  Without memory for it there is none.
 */
void log_start_history(void);

/* Whether it begins at this address. */
bool log_has_history_at(uintptr_t address);

/*
 * Read the history, in whole lines: the time in seconds since 1970, a blank, and the message.
 * Returns how many bytes, length at most.  They may be any bytes, since a guest that has broken out
 * can write there, and a line that is being written may be incomplete.
 */
size_t log_read_history(char *to, size_t length);

/* Text from a guest, for a message: replace all but printable ASCII by blanks. */
void make_printable(char *text, size_t length);

/*
 * The guest's name, which is in each message from here on; it must stay in place.  Before a second
 * thread.
 */
void log_set_name(const char *name);

#endif
