// SPDX-License-Identifier: GPL-2.0-only
/* What the commands share: connections to guests, arguments, output. */
#include "client.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "karma/agent_client.h"
#include "karma/agent_protocol.h"
#include "karma/log.h"
#include "karma/pass_fd.h"
#include "karma/status.h"
#include "karma/util.h"

#define AWAIT_MICROSECONDS 50000	/* from one try to connect to the next */
#define REPLY_MILLISECONDS 10000
#define READ_BYTES 65536u
/* A bound for what is received without a newline: more than any reply has. */
#define LINE_MAX_BYTES (16 * MIB)

static int fail_unreachable(const char *name, int error)
{
	if (error == -ENOENT)
		return fail(error, "%s: no guest with that name runs: see `karma ps`", name);
	if (error == -EAGAIN || error == -ETIMEDOUT)
		return fail(error, "%s: the guest's supervisor does not answer: see whether it is stopped (ps)",
			name);
	if (error == -EPROTO)
		return fail(error, "%s: speaks another version of the protocol than %d: use the karma that it "
				   "was started with",
			name, CONTROL_PROTOCOL);
	return fail(error, "%s: can't reach the guest: %s: run karma as its user or as root", name,
		strerror(-error));
}

static int open_quietly(struct connection *connection, const char *name)
{
	json_t *greeting;
	int result;

	*connection = (struct connection){ .name = name, .fd = -1, .pidfd = -1, .passed_fd = -1 };
	result = control_connect(name, &connection->pid);
	if (result < 0)
		return result;
	connection->fd = result;
	connection->pidfd = syscall(SYS_pidfd_open, connection->pid, 0);
	greeting = connection_receive(connection, REPLY_MILLISECONDS);
	if (!greeting)
		return -ETIMEDOUT;
	result = json_object_get(greeting, "error") ? -EPERM :
		integer_of(json_object_get(greeting, "karma"), "protocol") == CONTROL_PROTOCOL ? 0 : -EPROTO;
	json_decref(greeting);
	return result;
}

int connection_open(struct connection *connection, const char *name, bool quiet)
{
	int result = open_quietly(connection, name);

	return result < 0 && !quiet ? fail_unreachable(name, result) : result;
}

void connection_close(struct connection *connection)
{
	close_fd(&connection->fd);
	close_fd(&connection->pidfd);
	close_fd(&connection->passed_fd);
	free(connection->input);
	*connection = (struct connection){ .fd = -1, .pidfd = -1, .passed_fd = -1 };
}

/* until: nanoseconds(); 0: no timeout.  False after that, or if poll() fails. */
static bool wait_for(const struct connection *connection, short events, int64_t until)
{
	struct pollfd watched = { .fd = connection->fd, .events = events };
	int64_t left = until ? (until - nanoseconds()) / 1000000 + 1 : -1;

	while (poll(&watched, 1, left < 0 && until ? 0 : (int)left) < 0) {
		if (errno != EINTR)
			return false;
	}
	return watched.revents;
}

int connection_send_fd(struct connection *connection, json_t *request, int fd)
{
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	int64_t until = nanoseconds() + REPLY_MILLISECONDS * 1000000ll;
	size_t length, sent = 0;
	int result = 0;

	json_decref(request);
	if (!text)
		return -ENOMEM;
	length = strlen(text);
	/* In place of the terminating zero. */
	text[length++] = '\n';
	while (sent < length && result == 0) {
		/* It goes with the first byte. */
		ssize_t part = send_with_fd(connection->fd, text + sent, length - sent, sent ? -1 : fd);

		if (part > 0)
			sent += part;
		else if (errno != EAGAIN)
			result = -errno;
		else if (!wait_for(connection, POLLOUT, until))
			result = -ETIMEDOUT;
	}
	free(text);
	return result;
}

int connection_send(struct connection *connection, json_t *request)
{
	return connection_send_fd(connection, request, -1);
}

/* The next complete line that was received; NULL if there is none. */
static json_t *next_line(struct connection *connection)
{
	char *end = connection->input_used ?
		memchr(connection->input, '\n', connection->input_used) : NULL;
	size_t length;
	json_t *value;

	if (!end)
		return NULL;
	length = end + 1 - connection->input;
	value = json_loadb(connection->input, length, 0, NULL);
	connection->input_used -= length;
	memmove(connection->input, end + 1, connection->input_used);
	return value ? value : json_null();
}

/* As recv(), with a socket that may come with the bytes. */
static ssize_t receive(struct connection *connection, char *to, size_t length)
{
	int fd;
	ssize_t got = receive_with_fd(connection->fd, to, length, &fd);

	if (fd >= 0) {
		close_fd(&connection->passed_fd);
		connection->passed_fd = fd;
	}
	return got;
}

static bool read_more(struct connection *connection)
{
	char *input = connection->input_used > LINE_MAX_BYTES ?
		NULL : realloc(connection->input, connection->input_used + READ_BYTES);
	ssize_t got;

	if (!input)
		return false;
	connection->input = input;
	got = receive(connection, input + connection->input_used, READ_BYTES);
	if (got > 0)
		connection->input_used += got;
	return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

json_t *connection_receive(struct connection *connection, int64_t milliseconds)
{
	int64_t until = milliseconds < 0 ? 0 : nanoseconds() + milliseconds * 1000000;
	json_t *value;

	while (!(value = next_line(connection))) {
		if (!wait_for(connection, POLLIN, until) || !read_more(connection))
			return NULL;
	}
	return value;
}

json_t *connection_result(const struct connection *connection, json_t *reply)
{
	json_t *result = json_incref(json_object_get(reply, "return"));
	const char *message = string_of(json_object_get(reply, "error"), "message");

	if (!result && message[0])
		fail(-EIO, "%s: %s", connection->name, message);
	else if (!result)
		fail(-EIO, "%s: the guest's supervisor has ended, or does not answer: see `karma ps`",
			connection->name);
	json_decref(reply);
	return result;
}

json_t *connection_call(struct connection *connection, json_t *request)
{
	json_t *reply = NULL;

	if (connection_send(connection, request) == 0)
		reply = connection_receive(connection, REPLY_MILLISECONDS);
	return connection_result(connection, reply);
}

/* The reply, which the socket comes with; NULL: there is none. */
static json_t *ask_for_port(struct connection *connection, unsigned port)
{
	json_t *request = json_pack("{s:s, s:I}", "request", "connect", "port", (json_int_t)port);

	return connection_send(connection, request) == 0 ? connection_receive(connection, -1) : NULL;
}

static int request_port(struct connection *connection, unsigned port, const char *refused)
{
	json_t *reply = ask_for_port(connection, port), *value;
	bool is_refused = strcmp(string_of(json_object_get(reply, "error"), "code"), "refused") == 0;
	if (is_refused && refused) {
		json_decref(reply);
		return fail(-ECONNREFUSED, "%s: %s", connection->name, refused);
	}
	value = connection_result(connection, reply);
	if (!value)
		return is_refused ? -ECONNREFUSED : -EIO;
	json_decref(value);
	if (connection->passed_fd < 0)
		return fail(-EMFILE, "%s: no socket came: raise the limit of open files (ulimit -n)", connection->name);
	return 0;
}

int connect_port(const char *name, unsigned port, const char *refused)
{
	struct connection connection;
	int result = connection_open(&connection, name, false);

	if (result == 0)
		result = request_port(&connection, port, refused);
	if (result == 0) {
		result = connection.passed_fd;
		connection.passed_fd = -1;
	}
	connection_close(&connection);
	return result;
}

int agent_await(const char *name)
{
	for (;;) {
		struct connection connection;
		int socket = -1;

		if (connection_open(&connection, name, true) == 0) {
			json_decref(ask_for_port(&connection, AGENT_PORT));
			socket = connection.passed_fd;
			connection.passed_fd = -1;
		}
		connection_close(&connection);
		if (socket >= 0)
			return socket;
		usleep(AWAIT_MICROSECONDS);
	}
}

void connection_wait_end(const struct connection *connection)
{
	struct pollfd watched = { .fd = connection->pidfd, .events = POLLIN };

	while (connection->pidfd >= 0 && poll(&watched, 1, -1) < 0 && errno == EINTR)
		;
}

int command_misused(const struct command *command, const char *format, ...)
{
	char text[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	fail(-EINVAL, "%s: see `karma %s --help`", text, command->name);
	return STATUS_FAILURE;
}

int command_refuse_option(const struct command *command, int code, char **argv)
{
	if (code == ':')
		return command_misused(command, "%s: lacks its value", argv[optind - 1]);
	/* A short option. */
	if (isgraph(optopt))
		return command_misused(command, "-%c: is no option", optopt);
	return command_misused(command, "%s: is no option, or short for several", argv[optind - 1]);
}

int command_options(const struct command *command, const struct option *options, int argc, char **argv,
	const char **value)
{
	opterr = 0;
	for (;;) {
		int code = getopt_long(argc, argv, ":h", options, NULL);

		switch (code) {
		case -1:
			return -1;
		case 0:
			if (optarg)
				*value = optarg;
			break;
		case 'h':
			fputs(command->help, stdout);
			return 0;
		default:
			return command_refuse_option(command, code, argv);
		}
	}
}

const char *command_name(const struct command *command, int argc, char **argv)
{
	if (optind == argc)
		command_misused(command, "no NAME: give a guest's, as `karma ps` has it");
	else if (optind + 1 < argc)
		command_misused(command, "%s: is one argument too many", argv[optind + 1]);
	else if (!control_name_is_valid(argv[optind]))
		command_misused(command, "%s: is no guest's name", argv[optind]);
	else
		return argv[optind];
	return NULL;
}

int raw_mode_enter(int fd, struct termios *saved, bool output)
{
	struct termios raw;

	if (!isatty(fd) || tcgetpgrp(fd) != getpgrp())
		return 0;
	if (tcgetattr(fd, saved) < 0)
		return fail(-errno, "terminal: can't read its mode: %s", strerror(errno));
	raw = *saved;
	raw.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	raw.c_lflag &= ~(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	if (output)
		raw.c_oflag &= ~OPOST;
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	if (tcsetattr(fd, TCSANOW, &raw) < 0)
		return fail(-errno, "terminal: can't set raw mode: %s", strerror(errno));
	return 1;
}

int client_signals(bool all)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGWINCH);
	if (all)
		agent_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

int64_t integer_of(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

const char *string_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

void print_plain(FILE *stream, const char *text)
{
	for (; *text; text++)
		putc(*text >= ' ' && *text <= '~' ? *text : '?', stream);
}

struct size_text size_text(uint64_t bytes)
{
	static const char units[] = "BKMGTPE";
	struct size_text size;
	unsigned unit = 0;
	double value = bytes;

	while (value >= 1023.5) {
		value /= 1024;
		unit++;
	}
	snprintf(size.text, sizeof(size.text), value < 9.95 && unit ? "%.1f%c" : "%.0f%c", value, units[unit]);
	return size;
}
