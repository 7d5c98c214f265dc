// SPDX-License-Identifier: GPL-2.0-only
/* The user's end of the console: output, and the size of the terminal. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "karma/log.h"
#include "karma/terminal.h"
#include "karma/util.h"

/*
 * Of one write, at most: a write to a full pipe completes, and frees its bytes in the buffer, only
 * as a whole.
 */
#define WRITE_BYTES 8192u

static void output_done(struct io_op *op, int result);

static size_t pending(const struct terminal_shared *shared)
{
	return shared->output_written - shared->output_sent;
}

/* Write what is pending, unless a write is in flight.  With the lock held. */
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

/* A write has completed.  With the lock held. */
static void account_sent(struct terminal *terminal, int result)
{
	/* Cancelled: the thread that submitted it has ended. */
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
	bool was_full, died;

	pthread_mutex_lock(&terminal->lock);
	if (result == -EAGAIN) {
		/* Another process has made the file non-blocking: wait for room. */
		terminal->output_op.done = output_polled;
		io_ring_poll(terminal->ring, &terminal->output_op, terminal->out_fd, POLLOUT);
		pthread_mutex_unlock(&terminal->lock);
		return;
	}
	account_sent(terminal, result);
	died = terminal->shared->output_dead;
	terminal->output_busy = false;
	start_output(terminal);
	was_full = terminal->output_full;
	terminal->output_full = false;
	pthread_mutex_unlock(&terminal->lock);

	if (died)
		note("console: can't write: %s: what the guest prints is lost from here on",
			strerror(-result));
	if (was_full && terminal->output_ready)
		terminal->output_ready(terminal->context);
}

/* Append what fits.  With the lock held. */
static size_t append_output(struct terminal_shared *shared, const char *text, size_t length)
{
	uint64_t written = shared->output_written;
	size_t room = TERMINAL_OUTPUT_BYTES - pending(shared);
	size_t at = written % TERMINAL_OUTPUT_BYTES, first;

	if (length > room)
		length = room;
	first = length < TERMINAL_OUTPUT_BYTES - at ? length : TERMINAL_OUTPUT_BYTES - at;
	memcpy(shared->output + at, text, first);
	memcpy(shared->output, text + first, length - first);
	/* Release: terminal_read_output() sees the bytes once it sees their number. */
	__atomic_store_n(&shared->output_written, written + length, __ATOMIC_RELEASE);
	return length;
}

/* Tell the supervisor that there is output, if it wants to know. */
static void raise_watch_fd(const struct terminal *terminal)
{
	const uint64_t one = 1;

	/* Fails only if the counter is full: then the eventfd is raised already. */
	if (__atomic_load_n(&terminal->shared->watched, __ATOMIC_SEQ_CST) &&
		write_bytes(terminal->watch_fd, &one, sizeof(one)) < 0)
		return;
}

size_t terminal_write(struct terminal *terminal, const void *text, size_t length)
{
	struct terminal_shared *shared = terminal->shared;
	const char *from = text;
	size_t taken = 0;

	pthread_mutex_lock(&terminal->lock);
	if (terminal->out_fd < 0 || shared->output_dead) {
		/* There is no user to send it to: only the buffer's last bytes stay. */
		while (taken < length) {
			shared->output_sent = shared->output_written;
			taken += append_output(shared, from + taken, length - taken);
		}
		shared->output_sent = shared->output_written;
	} else {
		taken = append_output(shared, from, length);
		terminal->output_full = taken < length;
		start_output(terminal);
	}
	pthread_mutex_unlock(&terminal->lock);
	raise_watch_fd(terminal);
	return taken;
}

uint64_t terminal_output_position(const struct terminal *terminal)
{
	return __atomic_load_n(&terminal->shared->output_written, __ATOMIC_ACQUIRE);
}

size_t terminal_read_output(const struct terminal *terminal, uint64_t *position, void *to, size_t length,
	uint64_t *lost)
{
	const struct terminal_shared *shared = terminal->shared;
	uint64_t written = terminal_output_position(terminal);
	uint64_t start = *position;
	size_t at, first;

	*lost = 0;
	/* Only if the number was tampered with. */
	if (start > written)
		start = written;
	if (written - start > TERMINAL_OUTPUT_BYTES)
		start = written - TERMINAL_OUTPUT_BYTES;
	if (length > written - start)
		length = written - start;
	at = start % TERMINAL_OUTPUT_BYTES;
	first = length < TERMINAL_OUTPUT_BYTES - at ? length : TERMINAL_OUTPUT_BYTES - at;
	memcpy(to, shared->output + at, first);
	memcpy((char *)to + first, shared->output, length - first);
	/*
	 * A reader that is late by the whole buffer may also get bytes that are overwritten during
	 * the copy.
	 */
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

/* --- The size of the terminal. */

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
