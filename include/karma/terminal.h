/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The user's end of the console: the terminal, pipe, file or pty that the guest's output goes to
 * and its input comes from.
 *
 * Output goes into a ring buffer, and from there to the user by io_uring, so that a user who stops
 * reading holds up the guest's console and nothing else.  The buffer also keeps the last output for
 * clients that are attached by way of the supervisor (karma/control.h), whose typing comes by a
 * pipe.
 *
 * The life cycle is that of the device in front of it (karma/virtio.h):
 *
 *   open     terminal_open() and terminal_set_raw(), in the supervisor, once
 *   start    terminal_start(), in the guest's process, at each start of a guest
 *   attach   terminal_attach(), by the device that is created
 *   end      the guest's process waits a while until terminal_output_pending() is 0; there is no function
 *   release  terminal_close(), in the supervisor
 *
 * There is no pause or resume: a paused guest writes nothing, and input waits in the buffer.
 *
 * Any thread of the guest's process may call the functions that say nothing else.  The terminal's
 * lock is taken inside of a device's, and a ring's inside of it.  The functions given to
 * terminal_attach() are called on the I/O thread, without a lock.
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
 * In memory that the supervisor and the guests' processes share, so that it outlives each of
 * these.  A guest that has broken out can write there: terminal_start() and the supervisor's
 * functions do not trust it.
 */
struct terminal_shared {
	uint64_t output_written;	/* bytes, since the first start; byte i is at output[i % size] */
	uint64_t output_sent;		/* of these, to the user */
	size_t input_start, input_used;
	/* 0: false */
	unsigned char output_dead;	/* a write to the user has failed: output is thrown away */
	unsigned char input_ended;
	unsigned char escape;		/* the user's last key was Ctrl-A */
	unsigned char watched;		/* the supervisor's: raise watch_fd for output */
	uint32_t attached_size;		/* the supervisor's: columns << 16 | rows; 0: unknown */
	/* Last, so that they take no memory before they are used. */
	char output[TERMINAL_OUTPUT_BYTES];
	char input[TERMINAL_INPUT_BYTES];
};

/* Where input comes from: the user, or the client that is attached by way of the supervisor. */
enum { TERMINAL_USER, TERMINAL_ATTACHED, TERMINAL_INPUTS };

struct terminal_input {
	struct terminal *terminal;
	int fd;			/* -1: none */
	bool armed;		/* op is in flight, and polls fd */
	struct io_op op;
};

struct terminal {
	struct io_ring *ring;	/* the main one */
	int in_fd, out_fd;	/* -1: no input; output is thrown away */
	int attached_fd;	/* the supervisor's end of the pipe of TERMINAL_ATTACHED, non-blocking */
	int watch_fd;		/* eventfd: there is output; raised if shared->watched */
	int pty_slave;		/* held open, so that the pty works without a reader */
	bool own_fds;
	bool interactive;	/* input is the user's terminal: raw, with Ctrl-A commands */
	bool typed;		/* input is typed, here or on the pty: it is never held, and has no end */
	struct termios saved;
	int guard_pipe;		/* to the process that restores the terminal if we are killed */
	pid_t guard;

	pthread_mutex_t lock;	/* guards all that follows, but the functions and their contexts */
	struct terminal_shared *shared;
	bool output_busy;	/* output_op is in flight */
	bool output_full;	/* terminal_write() found no room: output_ready() follows */
	struct iovec output_iov;
	struct io_op output_op;

	bool input_held, eof_wanted;
	bool eof_pending;		/* ^D follows behind the input that there is */
	bool escapes_sysrq, quotes;
	bool prefix_given;		/* of the next byte */
	size_t line_length;		/* of input that the guest has read of the current line */
	struct terminal_input inputs[TERMINAL_INPUTS];

	void (*input_ready)(void *context);	/* there is input to read */
	void (*output_ready)(void *context);	/* there is room for output */
	void *context;
	void (*leave)(void *context);		/* the user typed Ctrl-A x; on the I/O thread */
	void *leave_context;
};

/* --- Life cycle. */

/*
 * Open what spec names: "stdio", "stderr", "pty", "none", "file:PATH" or "unix:PATH", whose socket is the
 * supervisor's: here it is a console for attached clients alone.  ring need not be set up yet.
 * Returns 0, or a negative errno with a message printed.
 */
int terminal_open(struct terminal *terminal, const char *spec, struct io_ring *ring);

/*
 * Set a user's terminal to raw mode, until terminal_close().  A guard process restores it if the
 * monitor is killed.  Forks: call it before there are threads or guest memory.  Returns 0, or a
 * negative errno with a message printed.
 */
int terminal_set_raw(struct terminal *terminal);

/*
 * A guest starts: forget the device of an earlier one, and check what that has left.  No other
 * thread runs.
 */
void terminal_start(struct terminal *terminal);

/* A device is attached: poll for input from now on.  The ring is set up. */
void terminal_attach(struct terminal *terminal, void (*input_ready)(void *),
	void (*output_ready)(void *), void *context);

/*
 * Restore the user's terminal and free what terminal_open() took.  No ring may have an operation in
 * flight.
 */
void terminal_close(struct terminal *terminal);

/* --- Output. */

/*
 * Returns how many bytes were taken: if fewer than given, the buffer is full, and output_ready()
 * follows.
 */
size_t terminal_write(struct terminal *terminal, const void *text, size_t length);

/* Bytes that were not sent to the user yet. */
size_t terminal_output_pending(struct terminal *terminal);

/*
 * In the supervisor, without a lock: output since the first start, from a position on, counted in
 * bytes; 0 is the oldest byte that is there.  Returns how many bytes, 0 if there are no more yet;
 * *lost is how many were skipped, since they are overwritten.  Bytes that a guest which has broken
 * out put there come out as they are.
 */
size_t terminal_read_output(const struct terminal *terminal, uint64_t *position, void *to, size_t length,
	uint64_t *lost);
uint64_t terminal_output_position(const struct terminal *terminal);
/* Whether to raise watch_fd for output. */
void terminal_watch_output(struct terminal *terminal, bool watched);

/* --- Input. */

bool terminal_has_input(struct terminal *terminal);
/* Returns how many bytes were read; 0: none now, input_ready() follows. */
size_t terminal_read(struct terminal *terminal, void *to, size_t length);

/*
 * Hold input from a pipe or file back until terminal_release_input(), and from then on give its end
 * as ^D.  quoted: put ^V before bytes that would mean something to a terminal
 * (KARMA_READY_QUOTED).  Input that is typed is never held, nor quoted.
 */
void terminal_hold_input(struct terminal *terminal);
void terminal_release_input(struct terminal *terminal, bool quoted);

/*
 * A driver of the guest's console starts: from now on give the byte TERMINAL_SYSRQ twice, or once
 * as any other.
 */
void terminal_escape_sysrq(struct terminal *terminal, bool twice);

/* --- Size, in columns and rows from 1 to 65535. */

/* In the supervisor: the size of an attached client's terminal. */
void terminal_set_attached_size(struct terminal *terminal, unsigned columns, unsigned rows);

/* The user's own terminal's size, or else the attached client's; false if there is none. */
bool terminal_size(const struct terminal *terminal, unsigned *columns, unsigned *rows);

#endif
