// SPDX-License-Identifier: GPL-2.0-only
/* The user's end of the console at work: output, input, and what is kept of both. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "karma/log.h"
#include "karma/terminal.h"
#include "karma/util.h"

#define END_OF_INPUT 0x04	/* ^D, the end of file on a terminal */
#define QUOTE 0x16		/* ^V, which takes the meaning from the byte behind it */
#define LINE_BYTES 2048u	/* a terminal's lines have 4095 at most */
/* At most so much in one write: to a pipe that is full it ends, and frees its bytes, only as a whole. */
#define WRITE_BYTES 8192u

static const char help_text[] = "\r\n"
				"karma: Ctrl-A x  end the guest and leave\r\n"
				"karma: Ctrl-A a  send Ctrl-A to the guest\r\n"
				"karma: Ctrl-A h  this help\r\n";

static void output_done(struct io_op *op, int result);

static size_t pending(const struct terminal_shared *kept)
{
	return kept->output_written - kept->output_sent;
}

/* Start to write what there is; with the lock held. */
static void start_output(struct terminal *terminal)
{
	size_t start = terminal->shared->output_sent % TERMINAL_OUTPUT_BYTES;
	size_t length = pending(terminal->shared);

	if (terminal->output_busy || length == 0)
		return;
	if (length > TERMINAL_OUTPUT_BYTES - start)
		length = TERMINAL_OUTPUT_BYTES - start;
	if (length > WRITE_BYTES)
		length = WRITE_BYTES;
	terminal->output_iov = (struct iovec){ terminal->shared->output + start, length };
	terminal->output_op.done = output_done;
	terminal->output_busy = true;
	io_ring_writev(terminal->ring, &terminal->output_op, terminal->out_fd,
		&terminal->output_iov, 1, (uint64_t)-1, true);
	io_ring_submit(terminal->ring);
}

static void output_polled(struct io_op *op, int result)
{
	struct terminal *terminal = container_of(op, struct terminal, output_op);

	(void)result;
	pthread_mutex_lock(&terminal->lock);
	terminal->output_busy = false;
	start_output(terminal);
	pthread_mutex_unlock(&terminal->lock);
}

/* With the lock held. */
static void account_output(struct terminal *terminal, int result)
{
	/* Cancelled: the thread that asked for it has ended. */
	if (result == -EINTR || result == -ECANCELED) {
		result = 0;
	} else if (result < 0) {
		terminal->shared->output_dead = true;
		result = pending(terminal->shared);
	}
	terminal->shared->output_sent += result;
}

static void output_done(struct io_op *op, int result)
{
	struct terminal *terminal = container_of(op, struct terminal, output_op);
	bool tell, died;

	pthread_mutex_lock(&terminal->lock);
	if (result == -EAGAIN) {
		/* Somebody made it non-blocking: wait for room. */
		terminal->output_op.done = output_polled;
		io_ring_poll(terminal->ring, &terminal->output_op, terminal->out_fd, POLLOUT);
		pthread_mutex_unlock(&terminal->lock);
		return;
	}
	account_output(terminal, result);
	died = terminal->shared->output_dead;
	terminal->output_busy = false;
	start_output(terminal);
	tell = terminal->output_short;
	terminal->output_short = false;
	pthread_mutex_unlock(&terminal->lock);

	if (died)
		note("console: can't write: %s: what the guest prints is lost from here on",
			strerror(-result));
	if (tell && terminal->output_ready)
		terminal->output_ready(terminal->context);
}

/* Keep what fits; with the lock held. */
static size_t keep_output(struct terminal_shared *kept, const char *text, size_t length)
{
	uint64_t written = kept->output_written;
	size_t room = TERMINAL_OUTPUT_BYTES - pending(kept);
	size_t at = written % TERMINAL_OUTPUT_BYTES, first;

	if (length > room)
		length = room;
	first = length < TERMINAL_OUTPUT_BYTES - at ? length : TERMINAL_OUTPUT_BYTES - at;
	memcpy(kept->output + at, text, first);
	memcpy(kept->output, text + first, length - first);
	/* Who looks on finds the bytes before their number. */
	__atomic_store_n(&kept->output_written, written + length, __ATOMIC_RELEASE);
	return length;
}

/* That there is output. */
static void tell_watcher(const struct terminal *terminal)
{
	const uint64_t one = 1;

	/* An eventfd takes a write unless its counter is full, and then it is raised anyway. */
	if (__atomic_load_n(&terminal->shared->watched, __ATOMIC_SEQ_CST) &&
		write_bytes(terminal->watch_fd, &one, sizeof(one)) < 0)
		return;
}

size_t terminal_write(struct terminal *terminal, const void *text, size_t length)
{
	struct terminal_shared *kept = terminal->shared;
	const char *from = text;
	size_t taken = 0;

	pthread_mutex_lock(&terminal->lock);
	if (terminal->out_fd < 0 || kept->output_dead) {
		/* Nobody has to get it: the last of it is kept. */
		while (taken < length) {
			kept->output_sent = kept->output_written;
			taken += keep_output(kept, from + taken, length - taken);
		}
		kept->output_sent = kept->output_written;
	} else {
		taken = keep_output(kept, from, length);
		terminal->output_short = taken < length;
		start_output(terminal);
	}
	pthread_mutex_unlock(&terminal->lock);
	tell_watcher(terminal);
	return taken;
}

uint64_t terminal_output_position(const struct terminal *terminal)
{
	return __atomic_load_n(&terminal->shared->output_written, __ATOMIC_ACQUIRE);
}

size_t terminal_read_output(const struct terminal *terminal, uint64_t *position, void *to, size_t length,
	uint64_t *lost)
{
	const struct terminal_shared *kept = terminal->shared;
	uint64_t written = terminal_output_position(terminal);
	uint64_t start = *position;
	size_t at, first;

	*lost = 0;
	/* Beyond: the number has been tampered with. */
	if (start > written)
		start = written;
	if (written - start > TERMINAL_OUTPUT_BYTES)
		start = written - TERMINAL_OUTPUT_BYTES;
	if (length > written - start)
		length = written - start;
	at = start % TERMINAL_OUTPUT_BYTES;
	first = length < TERMINAL_OUTPUT_BYTES - at ? length : TERMINAL_OUTPUT_BYTES - at;
	memcpy(to, kept->output + at, first);
	memcpy((char *)to + first, kept->output, length - first);
	/* What is overwritten while we look is a reader's who is late by the whole buffer: it is lost. */
	if (start > *position && *position)
		*lost = start - *position;
	*position = start + length;
	return length;
}

void terminal_watch_output(struct terminal *terminal, bool watched)
{
	__atomic_store_n(&terminal->shared->watched, watched, __ATOMIC_SEQ_CST);
}

size_t terminal_output_pending(struct terminal *terminal)
{
	size_t bytes;

	pthread_mutex_lock(&terminal->lock);
	bytes = pending(terminal->shared);
	pthread_mutex_unlock(&terminal->lock);
	return bytes;
}

static void input_polled(struct io_op *op, int result);

/* Wait for input if there is somebody and room for it; with the lock held. */
static void start_one_input(struct terminal *terminal, struct terminal_input *input)
{
	bool user = input == &terminal->inputs[TERMINAL_USER];

	if (input->fd < 0 || input->busy || (user && terminal->shared->input_ended))
		return;
	/* A person's Ctrl-A must be heard even if the guest does not listen. */
	if (!(user && terminal->interactive) &&
		terminal->shared->input_used == TERMINAL_INPUT_BYTES)
		return;
	input->busy = true;
	input->op.done = input_polled;
	io_ring_poll(terminal->ring, &input->op, input->fd, POLLIN);
	io_ring_submit(terminal->ring);
}

static void start_input(struct terminal *terminal)
{
	if (terminal->input_held || !terminal->input_ready)
		return;
	for (unsigned i = 0; i < TERMINAL_INPUTS; i++)
		start_one_input(terminal, &terminal->inputs[i]);
}

/* Keep a byte for the guest; what it has no room for is lost, as on a real terminal. */
static void put_input(struct terminal *terminal, char byte)
{
	size_t end = (terminal->shared->input_start + terminal->shared->input_used) % TERMINAL_INPUT_BYTES;

	if (terminal->shared->input_used == TERMINAL_INPUT_BYTES)
		return;
	terminal->shared->input[end] = byte;
	terminal->shared->input_used++;
}

/* A byte that a person typed; true if it asks to leave. */
static bool typed(struct terminal *terminal, char byte)
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

static void tell_end(struct terminal *terminal)
{
	if (!terminal->shared->input_ended || !terminal->eof_wanted)
		return;
	terminal->eof_wanted = false;
	terminal->eof_given = true;
}

static void end_input(struct terminal *terminal, const struct terminal_input *input)
{
	/* The other one ends with the supervisor, and so with us. */
	if (input != &terminal->inputs[TERMINAL_USER])
		return;
	terminal->shared->input_ended = true;
	tell_end(terminal);
}

/* Read once, with the lock held; true if the user asks to leave. */
static bool take_input(struct terminal *terminal, const struct terminal_input *input)
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
			leave |= typed(terminal, bytes[i]);
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
	input->busy = false;
	/* Cancelled: the thread that asked for it has ended, and not the input. */
	if (result >= 0)
		leave = take_input(terminal, input);
	else if (result != -ECANCELED)
		end_input(terminal, input);
	start_input(terminal);
	pthread_mutex_unlock(&terminal->lock);

	if (leave && terminal->leave)
		terminal->leave(terminal->leave_context);
	if (terminal->input_ready)
		terminal->input_ready(terminal->context);
}

bool terminal_has_input(struct terminal *terminal)
{
	bool has;

	pthread_mutex_lock(&terminal->lock);
	has = (terminal->shared->input_used > 0 || terminal->eof_given) && !terminal->input_held;
	pthread_mutex_unlock(&terminal->lock);
	return has;
}

/* The end of a pipe, as a terminal says it: ^D, and one before that if a line is unfinished. */
static bool give_end(struct terminal *terminal, char *to)
{
	if (!terminal->eof_given)
		return false;
	*to = END_OF_INPUT;
	terminal->eof_given = terminal->line_length > 0;
	terminal->line_length = 0;
	return true;
}

/* What has to come before a byte, so that it is one like any to the guest; or 0. */
static char prefix_of(const struct terminal *terminal, char byte)
{
	if (terminal->doubles_sysrq && byte == TERMINAL_SYSRQ)
		return TERMINAL_SYSRQ;
	return terminal->quotes && (byte == END_OF_INPUT || byte == QUOTE) ? QUOTE : 0;
}

/* With the lock held; false if there is no byte now. */
static bool give_byte(struct terminal *terminal, char *to)
{
	struct terminal_shared *kept = terminal->shared;
	char byte = kept->input[kept->input_start];

	if (terminal->input_held)
		return false;
	if (!kept->input_used)
		return give_end(terminal, to);
	if (terminal->quotes && terminal->line_length >= LINE_BYTES && !terminal->prefix_given) {
		/* What there is of the line can be read; it goes on. */
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
	kept->input_start = (kept->input_start + 1) % TERMINAL_INPUT_BYTES;
	kept->input_used--;
	return true;
}

size_t terminal_read(struct terminal *terminal, void *to, size_t length)
{
	size_t given = 0;

	pthread_mutex_lock(&terminal->lock);
	while (given < length && give_byte(terminal, (char *)to + given))
		given++;
	if (given)
		start_input(terminal);
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
	tell_end(terminal);
	start_input(terminal);
	pthread_mutex_unlock(&terminal->lock);
	/* What came before it was held. */
	if (terminal->input_ready)
		terminal->input_ready(terminal->context);
}

void terminal_escape_sysrq(struct terminal *terminal, bool twice)
{
	pthread_mutex_lock(&terminal->lock);
	terminal->doubles_sysrq = twice;
	terminal->prefix_given = false;
	terminal->line_length = 0;
	pthread_mutex_unlock(&terminal->lock);
}

void terminal_attach(struct terminal *terminal, void (*input_ready)(void *),
	void (*output_ready)(void *), void *context)
{
	pthread_mutex_lock(&terminal->lock);
	terminal->context = context;
	terminal->output_ready = output_ready;
	terminal->input_ready = input_ready;
	start_input(terminal);
	pthread_mutex_unlock(&terminal->lock);
}

void terminal_start(struct terminal *terminal)
{
	struct terminal_shared *kept = terminal->shared;

	terminal->input_ready = terminal->output_ready = NULL;
	terminal->context = NULL;
	terminal->output_short = false;
	terminal->input_held = terminal->eof_wanted = terminal->eof_given = false;
	terminal->quotes = false;
	/* The guest before may have left anything. */
	kept->input_start %= TERMINAL_INPUT_BYTES;
	if (pending(kept) > TERMINAL_OUTPUT_BYTES)
		kept->output_sent = kept->output_written;
	if (kept->input_used > TERMINAL_INPUT_BYTES)
		kept->input_used = 0;
}

bool terminal_size(const struct terminal *terminal, unsigned *columns, unsigned *rows)
{
	uint32_t attached = __atomic_load_n(&terminal->shared->attached_size, __ATOMIC_RELAXED);
	struct winsize size;

	if (terminal->out_fd < 0 || ioctl(terminal->out_fd, TIOCGWINSZ, &size) < 0 ||
		size.ws_col == 0 || size.ws_row == 0)
		size = (struct winsize){ .ws_col = attached >> 16, .ws_row = attached & 0xffff };
	*columns = size.ws_col;
	*rows = size.ws_row;
	return size.ws_col && size.ws_row;
}

void terminal_set_attached_size(struct terminal *terminal, unsigned columns, unsigned rows)
{
	__atomic_store_n(&terminal->shared->attached_size, columns << 16 | rows, __ATOMIC_RELAXED);
}
