// SPDX-License-Identifier: GPL-2.0-only
/* karma console: the user's terminal on a guest's console. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>

#include "client.h"
#include "karma/commands.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/util.h"

#define CHUNK 16384u
#define SIZE_MILLISECONDS 1000	/* timeout of a request with the terminal's size */

static const struct command command = { "console",
	"usage: karma console [--read-only] [--replay] NAME\n"
	"\n"
	"See what a guest prints, the last 64 KiB first, and type to it.  Ctrl-A x leaves, and the guest\n"
	"runs on; Ctrl-A a sends Ctrl-A, Ctrl-A h helps.  Many can read, one at a time can type.\n"
	"\n"
	"  --read-only   type nothing\n"
	"  --replay      print the last 64 KiB, and leave\n"
	"\n"
	"Input that is no terminal is sent as it is, and output goes on after its end.\n"
	"Exit status: 0, or 125 if karma failed.\n" };

struct attached {
	struct connection connection;
	bool writer;
	bool keys;			/* input is a terminal in raw mode, with Ctrl-A commands */
	bool escape;			/* the last key was Ctrl-A */
	bool input_ended, detached;
	int signal_fd;
	struct termios saved;
	char typed[CHUNK];		/* input that was not sent yet */
	size_t typed_used;
};

static bool write_all(const char *bytes, size_t length)
{
	while (length) {
		ssize_t written = write(STDOUT_FILENO, bytes, length);

		if (written < 0 && errno == EAGAIN) {
			struct pollfd output = { .fd = STDOUT_FILENO, .events = POLLOUT };

			if (poll(&output, 1, -1) < 0 && errno != EINTR)
				return false;
		} else if (written < 0 && errno != EINTR) {
			return false;
		} else if (written > 0) {
			bytes += written;
			length -= written;
		}
	}
	return true;
}

/* Output stays cooked, for messages of ours. */
static int set_raw_mode(struct attached *attached)
{
	int result = raw_mode_enter(STDIN_FILENO, &attached->saved, false);

	attached->keys = result > 0;
	return result < 0 ? result : 0;
}

static void restore_terminal(const struct attached *attached)
{
	if (attached->keys)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &attached->saved);
}

static void type_key(struct attached *attached, char key)
{
	static const char help[] = "\r\nkarma: Ctrl-A x  leave; the guest runs on\r\n"
				   "karma: Ctrl-A a  send Ctrl-A to the guest\r\n"
				   "karma: Ctrl-A h  this help\r\n";

	if (!attached->escape && key == TERMINAL_ESCAPE) {
		attached->escape = true;
		return;
	}
	if (attached->escape && key == 'x')
		attached->detached = true;
	else if (attached->escape && (key == 'a' || key == TERMINAL_ESCAPE))
		attached->typed[attached->typed_used++] = TERMINAL_ESCAPE;
	else if (attached->escape)
		fputs(help, stderr);
	else
		attached->typed[attached->typed_used++] = key;
	attached->escape = false;
}

static void read_input(struct attached *attached)
{
	char bytes[CHUNK];
	ssize_t got = read(STDIN_FILENO, bytes, sizeof(bytes) - attached->typed_used);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		attached->input_ended = true;
		/* The terminal has hung up. */
		attached->detached |= attached->keys;
		return;
	}
	for (ssize_t i = 0; i < got && !attached->detached; i++) {
		if (attached->keys)
			type_key(attached, bytes[i]);
		else
			attached->typed[attached->typed_used++] = bytes[i];
	}
	/* The supervisor would drop it. */
	if (!attached->writer)
		attached->typed_used = 0;
}

/* False if the connection is closed. */
static bool send_typed(struct attached *attached)
{
	ssize_t sent = send(attached->connection.fd, attached->typed, attached->typed_used,
		MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent < 0)
		return errno == EAGAIN || errno == EINTR;
	attached->typed_used -= sent;
	memmove(attached->typed, attached->typed + sent, attached->typed_used);
	return true;
}

/* False if the connection is closed, or standard output fails. */
static bool forward_output(struct attached *attached)
{
	char bytes[CHUNK];
	ssize_t got = recv(attached->connection.fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR;
	return got > 0 && write_all(bytes, got);
}

/* By a connection of its own, since ours carries raw bytes by now.  The writer's terminal sets the size. */
static void send_size(const struct attached *attached)
{
	struct connection connection;
	struct winsize size;
	json_t *reply = NULL;

	if (!attached->writer || !attached->keys || ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0 ||
		!size.ws_col || !size.ws_row)
		return;
	/* Errors are ignored: the guest may have ended, or be of an older version. */
	if (connection_open(&connection, attached->connection.name, true) == 0 &&
		connection_send(&connection, json_pack("{s:s, s:i, s:i}", "request", "console-size",
			"columns", size.ws_col, "rows", size.ws_row)) == 0)
		reply = connection_receive(&connection, SIZE_MILLISECONDS);
	json_decref(reply);
	connection_close(&connection);
}

/* True for a signal that ends us. */
static bool serve_signal(const struct attached *attached)
{
	struct signalfd_siginfo signal;

	if (read(attached->signal_fd, &signal, sizeof(signal)) != sizeof(signal))
		return false;
	if (signal.ssi_signo != SIGWINCH)
		return true;
	send_size(attached);
	return false;
}

/* Until the user detaches or the guest ends.  The exit status. */
static int run_console(struct attached *attached)
{
	bool there = write_all(attached->connection.input, attached->connection.input_used);

	while (there && !attached->detached) {
		bool reads = !attached->input_ended && attached->typed_used < sizeof(attached->typed);
		struct pollfd watched[] = {
			{ .fd = attached->connection.fd,
				.events = POLLIN | (attached->typed_used ? POLLOUT : 0) },
			{ .fd = reads ? STDIN_FILENO : -1, .events = POLLIN },
			{ .fd = attached->signal_fd, .events = POLLIN },
		};

		if (poll(watched, ARRAY_SIZE(watched), -1) < 0) {
			if (errno == EINTR)
				continue;
			fail(-errno, "can't wait for the console: %s: raise the limit of open files (ulimit -n)",
				strerror(errno));
			return STATUS_FAILURE;
		}
		if (watched[2].revents && serve_signal(attached))
			return 0;
		if (watched[1].revents)
			read_input(attached);
		if (attached->typed_used)
			there = send_typed(attached);
		if (there && (watched[0].revents & ~POLLOUT))
			there = forward_output(attached);
	}
	if (!attached->detached)
		note("%s: the guest has ended", attached->connection.name);
	return 0;
}

/* Print that many bytes of past output, and no more.  The exit status. */
static int replay(struct attached *attached, int64_t left)
{
	struct connection *connection = &attached->connection;

	while (left > 0) {
		struct pollfd watched = { .fd = connection->fd, .events = POLLIN };
		char bytes[CHUNK];
		ssize_t got;

		if (connection->input_used) {
			got = connection->input_used < (size_t)left ? (ssize_t)connection->input_used : left;
			connection->input_used = 0;
			if (!write_all(connection->input, got))
				return STATUS_FAILURE;
		} else {
			if (poll(&watched, 1, -1) < 0 && errno != EINTR)
				return STATUS_FAILURE;
			got = recv(connection->fd, bytes, left < CHUNK ? left : CHUNK, MSG_DONTWAIT);
			if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
				return 0;
			if (got > 0 && !write_all(bytes, got))
				return STATUS_FAILURE;
		}
		left -= got > 0 ? got : 0;
	}
	return 0;
}

static void greet(const struct attached *attached, bool read_only)
{
	const char *name = attached->connection.name;

	if (attached->keys)
		note("%s: attached; Ctrl-A x leaves, and the guest runs on; Ctrl-A h helps", name);
	if (!attached->writer && !read_only)
		note("%s: somebody else types there: what you type is not sent", name);
}

static int attach(struct attached *attached, const char *name, bool read_only, bool only_replay)
{
	int status = STATUS_FAILURE;
	json_t *result;

	if (connection_open(&attached->connection, name, false) < 0)
		return STATUS_FAILURE;
	result = connection_call(&attached->connection,
		json_pack("{s:s, s:b}", "request", "console", "write", !read_only && !only_replay));
	if (!result)
		return STATUS_FAILURE;
	attached->writer = json_is_true(json_object_get(result, "writer"));
	if (only_replay) {
		status = replay(attached, integer_of(result, "replay"));
	} else if (set_raw_mode(attached) == 0) {
		greet(attached, read_only);
		send_size(attached);
		status = run_console(attached);
		restore_terminal(attached);
		if (attached->keys)
			fputc('\n', stderr);
	}
	json_decref(result);
	return status;
}

int command_console(int argc, char **argv)
{
	struct attached attached = { .connection = { .fd = -1, .pidfd = -1, .passed_fd = -1 }, .signal_fd = -1 };
	int read_only = false, only_replay = false;
	const struct option options[] = {
		{ "read-only", no_argument, &read_only, true },
		{ "replay", no_argument, &only_replay, true },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int status = command_options(&command, options, argc, argv, NULL);
	const char *name;

	if (status >= 0)
		return status;
	name = command_name(&command, argc, argv);
	if (!name)
		return STATUS_FAILURE;
	attached.signal_fd = client_signals(false);
	status = attach(&attached, name, read_only, only_replay);
	connection_close(&attached.connection);
	close_fd(&attached.signal_fd);
	return status;
}
