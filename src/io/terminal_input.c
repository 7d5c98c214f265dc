// SPDX-License-Identifier: GPL-2.0-only
/*
 * The user's end of the console: input, from the user and from an attached client.
 *
 * Each input is polled while there is a device to take it and room in the buffer, which is the flow
 * control: what a pipe has is read only when the guest has taken what came before.
 */
#include <errno.h>
#include <poll.h>

#include "karma/terminal.h"
#include "karma/util.h"

#define END_OF_INPUT 0x04	/* ^D, the end of file on a terminal */
#define QUOTE 0x16		/* ^V, which makes a terminal take the next byte literally */
#define LINE_BYTES 2048u	/* a terminal's line has 4095 at most */

static const char help_text[] = "\r\n"
				"karma: Ctrl-A x  end the guest and leave\r\n"
				"karma: Ctrl-A a  send Ctrl-A to the guest\r\n"
				"karma: Ctrl-A h  this help\r\n";

/* --- From the user into the buffer. */

static void input_polled(struct io_op *op, int result);

/* Poll an input if there is room for what it has.  With the lock held. */
static void arm_input(struct terminal *terminal, struct terminal_input *input)
{
	bool user = input == &terminal->inputs[TERMINAL_USER];

	if (input->fd < 0 || input->armed || (user && terminal->shared->input_ended))
		return;
	/* A person's keys are read even if there is no room: Ctrl-A x must work. */
	if (!(user && terminal->interactive) &&
		terminal->shared->input_used == TERMINAL_INPUT_BYTES)
		return;
	input->armed = true;
	input->op.done = input_polled;
	io_ring_poll(terminal->ring, &input->op, input->fd, POLLIN);
	io_ring_submit(terminal->ring);
}

/* Poll the inputs if a device takes input.  With the lock held. */
static void arm_inputs(struct terminal *terminal)
{
	if (terminal->input_held || !terminal->input_ready)
		return;
	for (unsigned i = 0; i < TERMINAL_INPUTS; i++)
		arm_input(terminal, &terminal->inputs[i]);
}

/* Append a byte.  Without room it is lost, as on a real terminal. */
static void put_input(struct terminal *terminal, char byte)
{
	size_t end = (terminal->shared->input_start + terminal->shared->input_used) % TERMINAL_INPUT_BYTES;

	if (terminal->shared->input_used == TERMINAL_INPUT_BYTES)
		return;
	terminal->shared->input[end] = byte;
	terminal->shared->input_used++;
}

/* A key that a person typed.  Returns true if it asks to leave. */
static bool process_key(struct terminal *terminal, char byte)
{
	if (!terminal->shared->escape) {
		if (byte == TERMINAL_ESCAPE)
			terminal->shared->escape = true;
		else
			put_input(terminal, byte);
		return false;
	}
	terminal->shared->escape = false;
	if (byte == 'x')
		return true;
	if (byte == 'a' || byte == TERMINAL_ESCAPE)
		put_input(terminal, TERMINAL_ESCAPE);
	else if (write_bytes(STDERR_FILENO, help_text, sizeof(help_text) - 1) < 0)
		return false;
	return false;
}

/* If the input has ended and the guest is to know: give ^D. */
static void raise_eof(struct terminal *terminal)
{
	if (!terminal->shared->input_ended || !terminal->eof_wanted)
		return;
	terminal->eof_wanted = false;
	terminal->eof_pending = true;
}

static void end_input(struct terminal *terminal, const struct terminal_input *input)
{
	/* The other input ends when the supervisor does, and that ends this process. */
	if (input != &terminal->inputs[TERMINAL_USER])
		return;
	terminal->shared->input_ended = true;
	raise_eof(terminal);
}

/* Read once.  With the lock held.  Returns true if the user asks to leave. */
static bool read_input(struct terminal *terminal, const struct terminal_input *input)
{
	bool keys = terminal->interactive && input == &terminal->inputs[TERMINAL_USER];
	char bytes[TERMINAL_INPUT_BYTES];
	size_t room = sizeof(bytes);
	bool leave = false;
	ssize_t got;

	if (!keys && terminal->shared->input_used == TERMINAL_INPUT_BYTES)
		return false;
	if (!keys)
		room = TERMINAL_INPUT_BYTES - terminal->shared->input_used;
	got = read_bytes(input->fd, bytes, room);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got <= 0) {
		end_input(terminal, input);
		return false;
	}
	for (ssize_t i = 0; i < got; i++) {
		if (keys)
			leave |= process_key(terminal, bytes[i]);
		else
			put_input(terminal, bytes[i]);
	}
	return leave;
}

static void input_polled(struct io_op *op, int result)
{
	struct terminal_input *input = container_of(op, struct terminal_input, op);
	struct terminal *terminal = input->terminal;
	bool leave = false;

	pthread_mutex_lock(&terminal->lock);
	input->armed = false;
	/* Cancelled: the thread that submitted the poll has ended, not the input. */
	if (result >= 0)
		leave = read_input(terminal, input);
	else if (result != -ECANCELED)
		end_input(terminal, input);
	arm_inputs(terminal);
	pthread_mutex_unlock(&terminal->lock);

	if (leave && terminal->leave)
		terminal->leave(terminal->leave_context);
	if (terminal->input_ready)
		terminal->input_ready(terminal->context);
}

/* --- From the buffer to the guest. */

bool terminal_has_input(struct terminal *terminal)
{
	bool has;

	pthread_mutex_lock(&terminal->lock);
	has = (terminal->shared->input_used > 0 || terminal->eof_pending) && !terminal->input_held;
	pthread_mutex_unlock(&terminal->lock);
	return has;
}

/*
 * The end of a pipe, as a terminal has it: ^D, and another one before that if the last line has no
 * end.
 */
static bool next_eof(struct terminal *terminal, char *to)
{
	if (!terminal->eof_pending)
		return false;
	*to = END_OF_INPUT;
	terminal->eof_pending = terminal->line_length > 0;
	terminal->line_length = 0;
	return true;
}

/* The byte that goes before this one so that the guest takes it literally; or 0. */
static char prefix_of(const struct terminal *terminal, char byte)
{
	if (terminal->escapes_sysrq && byte == TERMINAL_SYSRQ)
		return TERMINAL_SYSRQ;
	return terminal->quotes && (byte == END_OF_INPUT || byte == QUOTE) ? QUOTE : 0;
}

/* With the lock held.  Returns false if there is no byte now. */
static bool next_byte(struct terminal *terminal, char *to)
{
	struct terminal_shared *shared = terminal->shared;
	char byte = shared->input[shared->input_start];

	if (terminal->input_held)
		return false;
	if (!shared->input_used)
		return next_eof(terminal, to);
	if (terminal->quotes && terminal->line_length >= LINE_BYTES && !terminal->prefix_given) {
		/* ^D within a line lets the guest read what there is of it; the line goes on. */
		*to = END_OF_INPUT;
		terminal->line_length = 0;
		return true;
	}
	*to = prefix_of(terminal, byte);
	terminal->prefix_given = *to && !terminal->prefix_given;
	if (terminal->prefix_given)
		return true;
	*to = byte;
	terminal->line_length = byte == '\n' ? 0 : terminal->line_length + 1;
	shared->input_start = (shared->input_start + 1) % TERMINAL_INPUT_BYTES;
	shared->input_used--;
	return true;
}

size_t terminal_read(struct terminal *terminal, void *to, size_t length)
{
	size_t given = 0;

	pthread_mutex_lock(&terminal->lock);
	while (given < length && next_byte(terminal, (char *)to + given))
		given++;
	if (given)
		arm_inputs(terminal);
	pthread_mutex_unlock(&terminal->lock);
	return given;
}

void terminal_hold_input(struct terminal *terminal)
{
	if (terminal->typed)
		return;
	pthread_mutex_lock(&terminal->lock);
	terminal->input_held = terminal->eof_wanted = true;
	pthread_mutex_unlock(&terminal->lock);
}

void terminal_release_input(struct terminal *terminal, bool quoted)
{
	pthread_mutex_lock(&terminal->lock);
	terminal->input_held = false;
	terminal->quotes = quoted && !terminal->typed;
	raise_eof(terminal);
	arm_inputs(terminal);
	pthread_mutex_unlock(&terminal->lock);
	/* For what came before the input was held. */
	if (terminal->input_ready)
		terminal->input_ready(terminal->context);
}

void terminal_escape_sysrq(struct terminal *terminal, bool twice)
{
	pthread_mutex_lock(&terminal->lock);
	terminal->escapes_sysrq = twice;
	terminal->prefix_given = false;
	terminal->line_length = 0;
	pthread_mutex_unlock(&terminal->lock);
}

/* --- The device. */

void terminal_attach(struct terminal *terminal, void (*input_ready)(void *),
	void (*output_ready)(void *), void *context)
{
	pthread_mutex_lock(&terminal->lock);
	terminal->context = context;
	terminal->output_ready = output_ready;
	terminal->input_ready = input_ready;
	arm_inputs(terminal);
	pthread_mutex_unlock(&terminal->lock);
}
