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
#include <termios.h>

#include "karma/control.h"

struct connection {
	const char *name;
	int fd;			/* non-blocking */
	pid_t pid;		/* of the guest's supervisor */
	int pidfd;		/* of that process; -1: it has ended */
	char *input;		/* malloc'ed: received, and not consumed yet */
	size_t input_used;
	int passed_fd;		/* a socket that came with a reply; or -1 */
};

/*
 * Connect to a guest and read its greeting.  0, or a negative errno, with a message printed unless quiet
 * is set.  connection_close() in any case.
 */
int connection_open(struct connection *connection, const char *name, bool quiet);
void connection_close(struct connection *connection);

/* Send a request, whose reference this takes; NULL: out of memory.  0, or a negative errno without a message. */
int connection_send(struct connection *connection, json_t *request);

/* The same with a descriptor, which stays the caller's. */
int connection_send_fd(struct connection *connection, json_t *request, int fd);

/* The next line, which the caller releases.  NULL after so many milliseconds (-1: never), or at the end. */
json_t *connection_receive(struct connection *connection, int64_t milliseconds);

/*
 * Send a request, whose reference this takes, and receive its reply.  The result, which the caller releases, or
 * NULL with a message printed.
 */
json_t *connection_call(struct connection *connection, json_t *request);

/* The result in a reply, as above.  Takes the reference of the reply, which may be NULL: none came. */
json_t *connection_result(const struct connection *connection, json_t *reply);

/*
 * Connect to a vsock port of a guest.  As long as a guest may take that is paused, or busy.  The socket, which the caller
 * closes; -ECONNREFUSED, or another negative errno; a message is printed, which for a refusal has the text `refused`, if
 * that is not NULL.
 */
int connect_port(const char *name, unsigned port, const char *refused);

/* That text for AGENT_PORT. */
#define AGENT_ABSENT "no karma-agent listens in the guest: it may not be up yet; Karma's initramfs has the agent, and a " \
	"disk of yours needs the package karma-agent"

/* What a snapshot takes on disk, and how long the guest was paused for it, in microseconds. */
struct snapshot_figures {
	uint64_t bytes;
	int64_t pause_us;
};

/*
 * Have a guest saved in a directory of that path, which must not be there.  option: NULL, or a member of the request that is to be
 * true (karma-control(7)).  Shows progress on a terminal.  0, or a negative errno with a message printed.  Afterwards the signals of
 * client_signals() are blocked.
 */
int snapshot_take(struct connection *connection, const char *path, const char *option, struct snapshot_figures *figures);

/* Wait until the guest's supervisor has ended. */
void connection_wait_end(const struct connection *connection);

/* --- What the commands share. */

struct command {
	const char *name;	/* such as "pause" */
	const char *help;	/* all of `karma pause --help` */
};

/*
 * Parse the options of a command, each of which sets a flag (getopt_long(3)), but for help, which is 'h'.  At
 * most one option takes a value, which goes to *value; value may be NULL if none does.  -1, with optind at the
 * first argument, or the exit status: help was printed, or an option is wrong.
 */
int command_options(const struct command *command, const struct option *options, int argc, char **argv,
	const char **value);
/* Print a message about what getopt_long() does not take, by its result `?` or `:`.  The exit status. */
int command_refuse_option(const struct command *command, int code, char **argv);
/* Print a message about a wrong argument that points to --help.  The exit status. */
int command_misused(const struct command *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* The one NAME at argv[optind], or NULL with a message printed. */
const char *command_name(const struct command *command, int argc, char **argv);

/*
 * Every key of a terminal goes to who reads it, none makes a signal; with output, what is printed goes to it as it is,
 * too.  *saved is its mode before.  1; 0: it is no terminal, or not in our hands; or an error with a message printed.
 */
int raw_mode_enter(int fd, struct termios *saved, bool output);

/*
 * A signalfd of what ends us, so that the terminal is restored first, and of SIGWINCH; or of all that may be passed on
 * (agent_signals()).  SIGPIPE is ignored.
 */
int client_signals(bool all);

/* A member of a JSON object; 0 or "" if there is none of that type. */
int64_t integer_of(const json_t *object, const char *name);
const char *string_of(const json_t *object, const char *name);

/* Print text of another process: control characters and what is not ASCII, which may harm a terminal, as `?`. */
void print_plain(FILE *stream, const char *text);

/* A size in bytes as people read it, such as 1.5G. */
struct size_text {
	char text[16];
};
struct size_text size_text(uint64_t bytes);

#endif
