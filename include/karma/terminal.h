/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The user's end of the console: the terminal, pipe, file or pty that the guest's text goes to
 * and its input comes from.
 *
 * Text of the guest goes into a buffer and from there to the user by io_uring, so that a
 * user who stops reading stalls nobody but the guest's own console.  Any thread may call; the
 * functions given to terminal_attach() are called on the I/O thread without a lock held.
 *
 * The buffer keeps what the guest has printed last, for those who look on by way of the supervisor
 * (karma/control.h), and what these type comes by a pipe.
 */
#ifndef KARMA_TERMINAL_H
#define KARMA_TERMINAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>
#include <termios.h>

#include "karma/io.h"

#define TERMINAL_OUTPUT_BYTES 65536u
#define TERMINAL_INPUT_BYTES 4096u
#define TERMINAL_ESCAPE 0x01	/* Ctrl-A */
#define TERMINAL_SYSRQ 0x0f	/* Ctrl-O */

/*
 * What is left for the next guest when one is started anew, in a process of its own: in memory that
 * these processes share.  So it is a guest's that has broken out, and the next one may not trust it.
 */
struct terminal_shared {
	uint64_t output_written;	/* bytes, ever; each has its place in output[], until overwritten */
	uint64_t output_sent;		/* of these, what the user has got */
	size_t input_start, input_used;
	unsigned char output_dead, input_ended, escape;	/* 0: false */
	unsigned char watched;		/* the supervisor's: it wants to know of output */
	uint32_t attached_size;		/* the supervisor's: columns << 16 | rows; 0: unknown */
	/* Last, so that they take no memory before they are used. */
	char output[TERMINAL_OUTPUT_BYTES];
	char input[TERMINAL_INPUT_BYTES];
};

/* Where input comes from: from the user, and from one who is attached by way of the supervisor. */
enum { TERMINAL_USER, TERMINAL_ATTACHED, TERMINAL_INPUTS };

struct terminal_input {
	struct terminal *terminal;
	int fd;			/* -1: there is none */
	bool busy;
	struct io_op op;
};

struct terminal {
	struct io_ring *ring;
	int in_fd, out_fd;	/* -1: no input; output is thrown away */
	int attached_fd;	/* the supervisor's end of that pipe, which doesn't wait */
	int watch_fd;		/* eventfd: there is output for who looks on; if shared->watched */
	int pty_slave;		/* held open, so that the pty lives without a reader */
	bool own_fds;
	bool interactive;	/* input is the user's terminal: raw, with Ctrl-A commands */
	bool typed;		/* input is typed, here or on the pty: never held, without an end */
	struct termios saved;
	int guard_pipe;		/* to the process that restores the terminal if we are killed */
	pid_t guard;

	pthread_mutex_t lock;
	struct terminal_shared *shared;
	bool output_busy, output_short;
	struct iovec output_iov;
	struct io_op output_op;

	bool input_held, eof_wanted;
	bool eof_given;			/* not before all that is kept */
	bool doubles_sysrq, quotes;
	bool prefix_given;		/* of the next byte */
	size_t line_length;		/* of input, as far as it was given */
	struct terminal_input inputs[TERMINAL_INPUTS];

	void (*input_ready)(void *context);	/* there is input to read */
	void (*output_ready)(void *context);	/* there is room for output */
	void *context;
	void (*leave)(void *context);		/* the user typed Ctrl-A x */
	void *leave_context;
};

/*
 * spec is "stdio", "pty", "none", "file:PATH" or "unix:PATH", whose socket is the supervisor's: here it
 * is a console for those who are attached alone.  0, or a negative errno with a message
 * printed.  Raw mode starts with terminal_set_raw() and ends with terminal_close(), or, if the
 * monitor is killed, by its guard process.
 */
int terminal_open(struct terminal *terminal, const char *spec, struct io_ring *ring);
/* Waits for nothing.  No ring may hold our buffers any more. */
void terminal_close(struct terminal *terminal);

/* Forks, so call it before there are threads or guest memory. */
int terminal_set_raw(struct terminal *terminal);

/*
 * Hold input from a pipe or file back until terminal_release_input(), and from then on tell of
 * its end by ^D, quoted or not (KARMA_READY_QUOTED).  Input that is typed is never held, nor quoted.
 */
void terminal_hold_input(struct terminal *terminal);
void terminal_release_input(struct terminal *terminal, bool quoted);

/*
 * A driver of the guest's console starts: from now on, give the byte TERMINAL_SYSRQ of input twice, or
 * once as any other.
 */
void terminal_escape_sysrq(struct terminal *terminal, bool twice);

/* Start to take input, for whoever is attached. */
void terminal_attach(struct terminal *terminal, void (*input_ready)(void *),
	void (*output_ready)(void *), void *context);

/*
 * Another guest is to be attached: forget the one before, and that input was held, and check what it
 * has left.  No other thread may be at work.
 */
void terminal_start(struct terminal *terminal);

/* Take text; how many bytes: fewer than given if the buffer is full, output_ready() follows. */
size_t terminal_write(struct terminal *terminal, const void *text, size_t length);
bool terminal_has_input(struct terminal *terminal);
/* Give input; how many bytes, 0 if there is none now. */
size_t terminal_read(struct terminal *terminal, void *to, size_t length);

/* Bytes that the user has not got yet. */
size_t terminal_output_pending(struct terminal *terminal);

/*
 * For the supervisor: what the guest has printed, from a position on, counted in bytes from its first
 * start; 0 gives the oldest that is kept.  How many bytes, 0 if there are no more yet.  *lost is set to
 * how many between were overwritten.  What a guest that has broken out makes of the buffer can only be
 * other bytes.
 */
uint64_t terminal_output_position(const struct terminal *terminal);
size_t terminal_read_output(const struct terminal *terminal, uint64_t *position, void *to, size_t length,
	uint64_t *lost);
/* Whether to be told of output by watch_fd. */
void terminal_watch_output(struct terminal *terminal, bool watched);

/* For the supervisor: the size of the terminal of one who is attached; each from 1 to 65535. */
void terminal_set_attached_size(struct terminal *terminal, unsigned columns, unsigned rows);

/* Columns and rows: the user's own terminal's, else those that were set last; false if there are none. */
bool terminal_size(const struct terminal *terminal, unsigned *columns, unsigned *rows);

#endif
