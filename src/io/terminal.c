// SPDX-License-Identifier: GPL-2.0-only
/* The user's end of the console: terminal, pipe, file or pty. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "karma/log.h"
#include "karma/terminal.h"
#include "karma/util.h"

#define END_OF_INPUT 0x04	/* ^D, the end of file on a terminal */
#define END_ROOM 2u		/* of the input buffer, kept back for two of them */
/* At most so much in one write: to a pipe that is full it ends, and frees its bytes, only as a whole. */
#define WRITE_BYTES 8192u

static const char help_text[] = "\r\n"
				"karma: Ctrl-A x  end the guest and leave\r\n"
				"karma: Ctrl-A a  send Ctrl-A to the guest\r\n"
				"karma: Ctrl-A h  this help\r\n";

static int open_stdio(struct terminal *terminal)
{
	terminal->in_fd = STDIN_FILENO;
	terminal->out_fd = STDOUT_FILENO;
	if (fcntl(STDIN_FILENO, F_GETFD) < 0)
		terminal->in_fd = -1;
	if (fcntl(STDOUT_FILENO, F_GETFD) < 0)
		terminal->out_fd = -1;
	if (!isatty(STDIN_FILENO))
		return 0;
	/* In the background the terminal is somebody else's: leave its input and mode alone. */
	if (tcgetpgrp(STDIN_FILENO) != getpgrp()) {
		terminal->in_fd = -1;
		return 0;
	}
	terminal->interactive = terminal->typed = true;
	return 0;
}

static int open_pty(struct terminal *terminal)
{
	char path[128];
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios mode;

	if (master < 0)
		return fail(-errno, "console pty: %s: mount devpts on /dev/pts", strerror(errno));
	terminal->own_fds = terminal->typed = true;
	terminal->in_fd = terminal->out_fd = master;
	if (grantpt(master) < 0 || unlockpt(master) < 0 ||
		ptsname_r(master, path, sizeof(path)) != 0 ||
		(terminal->pty_slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0)
		return fail(-errno, "console pty: %s: mount devpts on /dev/pts", strerror(errno));
	/* The guest's own terminal driver echoes and edits lines. */
	if (tcgetattr(terminal->pty_slave, &mode) == 0) {
		cfmakeraw(&mode);
		tcsetattr(terminal->pty_slave, TCSANOW, &mode);
	}
	note("console is %s", path);
	return 0;
}

static int open_output_file(struct terminal *terminal, const char *path)
{
	terminal->out_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (terminal->out_fd < 0)
		return fail(-errno, "console file %s: %s: give a path that can be written", path,
			strerror(errno));
	terminal->own_fds = true;
	return 0;
}

int terminal_open(struct terminal *terminal, const char *spec, struct io_ring *ring)
{
	int result = 0;

	*terminal = (struct terminal){ .ring = ring };
	terminal->in_fd = terminal->out_fd = terminal->pty_slave = terminal->guard_pipe = -1;
	pthread_mutex_init(&terminal->lock, NULL);
	/* Shared: what one guest's process leaves there, the next one finds. */
	terminal->kept = mmap(NULL, sizeof(*terminal->kept), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (terminal->kept == MAP_FAILED) {
		terminal->kept = NULL;
		result = fail(-ENOMEM, "console: no memory for its buffers: free some on the host");
	} else if (strcmp(spec, "stdio") == 0)
		result = open_stdio(terminal);
	else if (strcmp(spec, "pty") == 0)
		result = open_pty(terminal);
	else if (strncmp(spec, "file:", 5) == 0 && spec[5])
		result = open_output_file(terminal, spec + 5);
	else if (strcmp(spec, "none") != 0)
		result = fail(-EINVAL,
			"--console %s: is none of stdio, pty, none, file:PATH: give one of these",
			spec);
	if (result < 0) {
		terminal_close(terminal);
		return result;
	}
	/* What isn't there has ended, for a guest that waits for its end. */
	terminal->kept->input_ended = terminal->in_fd < 0;
	return 0;
}

/* The guard: waits for the monitor's word or its death, and restores the terminal after death. */
static void run_guard(struct terminal *terminal, int pipe_fd)
{
	sigset_t all;
	char word;
	ssize_t got;

	prctl(PR_SET_NAME, "karma-terminal");
	/* Of all that we inherited only the terminal and the pipe; readers must see our end. */
	if (dup2(pipe_fd, STDOUT_FILENO) >= 0)
		pipe_fd = STDOUT_FILENO;
	close(STDERR_FILENO);
	close_range(STDERR_FILENO + 1, ~0u, 0);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	do {
		got = read(pipe_fd, &word, 1);
	} while (got < 0 && errno == EINTR);
	if (got != 1)
		tcsetattr(terminal->in_fd, TCSANOW, &terminal->saved);
	_exit(0);
}

static int start_guard(struct terminal *terminal)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	terminal->guard = fork();
	if (terminal->guard < 0) {
		close(ends[0]);
		close(ends[1]);
		return -errno;
	}
	if (terminal->guard == 0) {
		close(ends[1]);
		run_guard(terminal, ends[0]);
	}
	close(ends[0]);
	terminal->guard_pipe = ends[1];
	return 0;
}

int terminal_start(struct terminal *terminal)
{
	struct termios raw;
	int result;

	if (!terminal->interactive)
		return 0;
	if (tcgetattr(terminal->in_fd, &terminal->saved) < 0)
		return fail(-errno, "terminal: can't read its mode: %s: give --console none",
			strerror(errno));
	result = start_guard(terminal);
	if (result < 0)
		return fail(result, "terminal: can't start its guard: %s: raise the limit of "
				    "processes (ulimit -u), or give --console none",
			strerror(-result));
	note("Ctrl-A x ends the guest and leaves, Ctrl-A h helps");
	/* Every key goes to the guest; output stays processed, for messages of ours. */
	raw = terminal->saved;
	raw.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	raw.c_lflag &= ~(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	if (tcsetattr(terminal->in_fd, TCSANOW, &raw) < 0)
		return fail(-errno, "terminal: can't set raw mode: %s: give --console none",
			strerror(errno));
	return 0;
}

static void end_guard(struct terminal *terminal)
{
	if (terminal->guard_pipe < 0)
		return;
	tcsetattr(terminal->in_fd, TCSADRAIN, &terminal->saved);
	/* Should the write fail, the guard restores once more, to the same mode. */
	if (write(terminal->guard_pipe, "", 1) < 0)
		note("terminal: can't tell its guard to end: %s", strerror(errno));
	close(terminal->guard_pipe);
	terminal->guard_pipe = -1;
	while (waitpid(terminal->guard, NULL, 0) < 0 && errno == EINTR)
		;
}

void terminal_close(struct terminal *terminal)
{
	end_guard(terminal);
	if (terminal->own_fds) {
		close(terminal->out_fd);
		if (terminal->pty_slave >= 0)
			close(terminal->pty_slave);
	}
	terminal->in_fd = terminal->out_fd = terminal->pty_slave = -1;
	if (terminal->kept)
		munmap(terminal->kept, sizeof(*terminal->kept));
	terminal->kept = NULL;
	pthread_mutex_destroy(&terminal->lock);
}

static void output_done(struct io_op *op, int result);

/* Start to write what there is; with the lock held. */
static void start_output(struct terminal *terminal)
{
	size_t length;

	if (terminal->output_busy || terminal->kept->output_used == 0)
		return;
	length = TERMINAL_OUTPUT_BYTES - terminal->kept->output_start;
	if (length > terminal->kept->output_used)
		length = terminal->kept->output_used;
	if (length > WRITE_BYTES)
		length = WRITE_BYTES;
	terminal->output_iov = (struct iovec){ terminal->kept->output + terminal->kept->output_start, length };
	terminal->output_op.done = output_done;
	terminal->output_busy = true;
	io_ring_writev(terminal->ring, &terminal->output_op, terminal->out_fd,
		&terminal->output_iov, 1, (uint64_t)-1);
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
		terminal->kept->output_dead = true;
		result = terminal->kept->output_used;
	}
	terminal->kept->output_start = (terminal->kept->output_start + result) % TERMINAL_OUTPUT_BYTES;
	terminal->kept->output_used -= result;
	/* From the front again: most guests then never touch the rest. */
	if (!terminal->kept->output_used)
		terminal->kept->output_start = 0;
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
	died = terminal->kept->output_dead;
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

size_t terminal_write(struct terminal *terminal, const void *text, size_t length)
{
	const char *from = text;
	size_t taken = 0;

	pthread_mutex_lock(&terminal->lock);
	if (terminal->out_fd < 0 || terminal->kept->output_dead) {
		taken = length;
	} else {
		while (taken < length && terminal->kept->output_used < TERMINAL_OUTPUT_BYTES) {
			size_t end = (terminal->kept->output_start + terminal->kept->output_used) %
				TERMINAL_OUTPUT_BYTES;
			size_t room = end < terminal->kept->output_start ?
				terminal->kept->output_start - end :
				TERMINAL_OUTPUT_BYTES - end;

			if (room > length - taken)
				room = length - taken;
			memcpy(terminal->kept->output + end, from + taken, room);
			terminal->kept->output_used += room;
			taken += room;
		}
		terminal->output_short = taken < length;
		start_output(terminal);
	}
	pthread_mutex_unlock(&terminal->lock);
	return taken;
}

size_t terminal_pending(struct terminal *terminal)
{
	size_t pending;

	pthread_mutex_lock(&terminal->lock);
	pending = terminal->kept->output_used;
	pthread_mutex_unlock(&terminal->lock);
	return pending;
}

static void input_polled(struct io_op *op, int result);

/* Wait for input if there is somebody and room for it; with the lock held. */
static void start_input(struct terminal *terminal)
{
	if (terminal->in_fd < 0 || terminal->input_busy || terminal->kept->input_ended ||
		terminal->input_held || !terminal->input_ready)
		return;
	/* A person's Ctrl-A must be heard even if the guest does not listen. */
	if (!terminal->interactive && terminal->kept->input_used > TERMINAL_INPUT_BYTES - END_ROOM - 1)
		return;
	terminal->input_busy = true;
	terminal->input_op.done = input_polled;
	io_ring_poll(terminal->ring, &terminal->input_op, terminal->in_fd, POLLIN);
	io_ring_submit(terminal->ring);
}

/* Keep a byte for the guest; what it has no room for is lost, as on a real terminal. */
static void put_input(struct terminal *terminal, char byte)
{
	size_t end = (terminal->kept->input_start + terminal->kept->input_used) % TERMINAL_INPUT_BYTES;

	if (terminal->kept->input_used == TERMINAL_INPUT_BYTES)
		return;
	terminal->kept->input[end] = byte;
	terminal->kept->input_used++;
	terminal->kept->last_input = byte;
}

/* A byte that a person typed; true if it asks to leave. */
static bool typed(struct terminal *terminal, char byte)
{
	if (!terminal->kept->escape) {
		if (byte == TERMINAL_ESCAPE)
			terminal->kept->escape = true;
		else
			put_input(terminal, byte);
		return false;
	}
	terminal->kept->escape = false;
	if (byte == 'x')
		return true;
	if (byte == 'a' || byte == TERMINAL_ESCAPE)
		put_input(terminal, TERMINAL_ESCAPE);
	else if (write_bytes(STDERR_FILENO, help_text, sizeof(help_text) - 1) < 0)
		return false;
	return false;
}

/* The end of a pipe, as a terminal says it: ^D, and a second if a line is unfinished. */
static void tell_end(struct terminal *terminal)
{
	if (!terminal->kept->input_ended || !terminal->eof_wanted)
		return;
	terminal->eof_wanted = false;
	if (terminal->kept->last_input && terminal->kept->last_input != '\n')
		put_input(terminal, END_OF_INPUT);
	put_input(terminal, END_OF_INPUT);
	terminal->kept->last_input = '\0';
}

/* Read once, with the lock held; true if the user asks to leave. */
static bool take_input(struct terminal *terminal)
{
	char bytes[TERMINAL_INPUT_BYTES];
	size_t room = sizeof(bytes);
	bool leave = false;
	ssize_t got;

	if (!terminal->interactive)
		room = TERMINAL_INPUT_BYTES - terminal->kept->input_used - END_ROOM;
	got = read_bytes(terminal->in_fd, bytes, room);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got <= 0) {
		terminal->kept->input_ended = true;
		tell_end(terminal);
		return false;
	}
	for (ssize_t i = 0; i < got; i++) {
		if (terminal->interactive)
			leave |= typed(terminal, bytes[i]);
		else
			put_input(terminal, bytes[i]);
	}
	return leave;
}

static void input_polled(struct io_op *op, int result)
{
	struct terminal *terminal = container_of(op, struct terminal, input_op);
	bool leave = false;

	pthread_mutex_lock(&terminal->lock);
	terminal->input_busy = false;
	if (result >= 0) {
		leave = take_input(terminal);
	} else if (result != -ECANCELED) {
		/* Else the thread that asked for it has ended, and not the input. */
		terminal->kept->input_ended = true;
		tell_end(terminal);
	}
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
	has = terminal->kept->input_used > 0 && !terminal->input_held;
	pthread_mutex_unlock(&terminal->lock);
	return has;
}

size_t terminal_read(struct terminal *terminal, void *to, size_t length)
{
	size_t given = 0;

	pthread_mutex_lock(&terminal->lock);
	while (given < length && terminal->kept->input_used && !terminal->input_held) {
		((char *)to)[given++] = terminal->kept->input[terminal->kept->input_start];
		terminal->kept->input_start = (terminal->kept->input_start + 1) % TERMINAL_INPUT_BYTES;
		terminal->kept->input_used--;
	}
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

void terminal_release_input(struct terminal *terminal)
{
	pthread_mutex_lock(&terminal->lock);
	terminal->input_held = false;
	tell_end(terminal);
	start_input(terminal);
	pthread_mutex_unlock(&terminal->lock);
	/* What came before it was held. */
	if (terminal->input_ready)
		terminal->input_ready(terminal->context);
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

void terminal_hand_on(struct terminal *terminal)
{
	struct terminal_kept *kept = terminal->kept;

	terminal->input_ready = terminal->output_ready = NULL;
	terminal->context = NULL;
	terminal->output_short = false;
	terminal->input_held = terminal->eof_wanted = false;
	/* The guest before may have left anything. */
	kept->output_start %= TERMINAL_OUTPUT_BYTES;
	kept->input_start %= TERMINAL_INPUT_BYTES;
	if (kept->output_used > TERMINAL_OUTPUT_BYTES)
		kept->output_used = 0;
	if (kept->input_used > TERMINAL_INPUT_BYTES)
		kept->input_used = 0;
}

bool terminal_size(const struct terminal *terminal, unsigned *columns, unsigned *rows)
{
	struct winsize size;

	if (terminal->out_fd < 0 || ioctl(terminal->out_fd, TIOCGWINSZ, &size) < 0 ||
		size.ws_col == 0 || size.ws_row == 0)
		return false;
	*columns = size.ws_col;
	*rows = size.ws_row;
	return true;
}
