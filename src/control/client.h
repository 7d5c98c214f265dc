/* SPDX-License-Identifier: GPL-2.0-only */
/* The commands' side of the control socket: connections to guests, and requests on them. */
#ifndef KARMA_CONTROL_CLIENT_H
#define KARMA_CONTROL_CLIENT_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "karma/control.h"

struct connection {
	const char *name;
	int fd;
	pid_t pid;		/* of the guest's supervisor */
	int pidfd;		/* of that process; -1: it has ended */
	char *input;		/* malloc'ed: what came and is no whole line yet */
	size_t input_used;
};

/*
 * Connect to a guest and read its greeting.  0, or a negative errno, with a message printed unless quiet
 * is set.  connection_close() in any case.
 */
int connection_open(struct connection *connection, const char *name, bool quiet);
void connection_close(struct connection *connection);

/* Send a request, which this takes.  0, or a negative errno. */
int connection_send(struct connection *connection, json_t *request);

/* The next line, with so many milliseconds of patience, or -1: any.  NULL if there is none. */
json_t *connection_receive(struct connection *connection, int64_t milliseconds);

/*
 * Send a request, which this takes, and return what it returned, for the caller to release; NULL with a
 * message printed.
 */
json_t *connection_call(struct connection *connection, json_t *request);

/* What a reply returned, as above; takes the reply, which may be NULL: none came. */
json_t *connection_result(const struct connection *connection, json_t *reply);

/* Wait for the end of the guest's supervisor. */
void connection_wait_end(const struct connection *connection);

/* --- What the commands share. */

struct command {
	const char *name;	/* such as "pause" */
	const char *help;	/* all of `karma pause --help` */
};

/*
 * Take the options of a command: each has a flag to set (getopt_long(3)), but for help, which is 'h'.  *value
 * is that of the one that takes any; NULL where none does.  The exit status if there is nothing left to do,
 * else -1.
 */
int command_options(const struct command *command, const struct option *options, int argc, char **argv,
	const char **value);
/* For an argument that is wrong: a message that points to --help, and the exit status. */
int command_misused(const struct command *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* The one NAME at argv[optind], or NULL with a message printed. */
const char *command_name(const struct command *command, int argc, char **argv);

/* Of a JSON object; 0 or "" if there is no such member. */
int64_t integer_of(const json_t *object, const char *name);
const char *string_of(const json_t *object, const char *name);

/* Text of another process: for a terminal, control characters and what is not ASCII are shown as `?`. */
void print_plain(FILE *stream, const char *text);

/* A size such as 1.5G. */
struct size_text {
	char text[16];
};
struct size_text size_text(uint64_t bytes);

#endif
