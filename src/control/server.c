// SPDX-License-Identifier: GPL-2.0-only
/* The control socket's server: connections, and what goes in and out on them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "internal.h"
#include "karma/log.h"
#include "karma/pass_fd.h"
#include "karma/util.h"

#define CONSOLE_BYTES 16384u		/* of console output in one send() */
#define CONSOLE_ROUNDS 6u		/* such sends for one client, before others have their turn */
#define ORDER_NANOSECONDS 5000000000ll	/* timeout of an order */
#define ACCEPT_NANOSECONDS 1000000000ll	/* delay after a failed accept(), as without a free descriptor */
#define OUTPUT_MAX (4 * MIB)		/* of lines that a client has not read */

void control_init(struct control *control, const char *name, const struct control_ops *ops,
	void *context, struct terminal *terminal, const struct report *report)
{
	*control = (struct control){
		.name = name,
		.socket.fd = -1,
		.console.fd = -1,
		.ops = ops,
		.context = context,
		.terminal = terminal,
		.report = report,
	};
}

/* --- Clients. */

static struct control_client *add_client(struct control *control, int fd)
{
	struct control_client *client = calloc(1, sizeof(*client));

	if (!client) {
		close(fd);
		return NULL;
	}
	client->fd = fd;
	client->passed_fd = client->received_fd = -1;
	client->next = control->clients;
	control->clients = client;
	control->client_count++;
	return client;
}

static bool has_console(const struct control *control)
{
	for (const struct control_client *client = control->clients; client; client = client->next) {
		if (client->console)
			return true;
	}
	return false;
}

static void release_client(struct control *control, struct control_client *client)
{
	if (control->writer == client)
		control->writer = NULL;
	if (control->order_client == client)
		control->order_client = NULL;
	if (control->snapshot_client == client) {
		control->snapshot_client = NULL;
		control->ops->release_snapshot(control->context);
	}
	close(client->fd);
	close_fd(&client->passed_fd);
	close_fd(&client->received_fd);
	free(client->output);
	json_decref(client->id);
	free(client);
	control->client_count--;
}

static void remove_closing(struct control *control)
{
	struct control_client **at = &control->clients;
	bool any = false;

	while (*at) {
		struct control_client *client = *at;

		if (!client->closing) {
			at = &client->next;
			continue;
		}
		*at = client->next;
		release_client(control, client);
		any = true;
	}
	if (any && control->terminal)
		terminal_watch_output(control->terminal, has_console(control));
}

static void add_output(struct control_client *client, const char *text, size_t length)
{
	char *output;

	if (client->output_used + length > OUTPUT_MAX) {
		client->closing = true;
		return;
	}
	output = realloc(client->output, client->output_used + length);
	if (!output) {
		client->closing = true;
		return;
	}
	memcpy(output + client->output_used, text, length);
	client->output = output;
	client->output_used += length;
}

void client_send(struct control_client *client, json_t *value)
{
	char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;

	json_decref(value);
	if (!text) {
		client->closing = true;
		return;
	}
	add_output(client, text, strlen(text));
	add_output(client, "\n", 1);
	free(text);
}

void client_attach(struct control *control, struct control_client *client, bool write)
{
	client->console = true;
	if (write && !control->writer)
		control->writer = client;
	terminal_watch_output(control->terminal, true);
}

/* --- Output. */

/* With the socket for the client, if it is due: its line is the only one, since it waited for that. */
static ssize_t send_output(struct control_client *client)
{
	bool passes = client->passed_fd >= 0 && !client->connecting;
	ssize_t sent = send_with_fd(client->fd, client->output + client->output_sent,
		client->output_used - client->output_sent, passes ? client->passed_fd : -1);

	if (sent > 0 && passes) {
		close_fd(&client->passed_fd);
		client->passed_fd = -1;
	}
	return sent;
}

/* True if all of it was sent. */
static bool flush_lines(struct control_client *client)
{
	while (client->output_sent < client->output_used) {
		ssize_t sent = send_output(client);

		if (sent < 0) {
			client->closing |= errno != EAGAIN && errno != EINTR;
			return false;
		}
		client->output_sent += sent;
	}
	free(client->output);
	client->output = NULL;
	client->output_used = client->output_sent = 0;
	return true;
}

static void report_lost(struct control_client *client, uint64_t lost)
{
	char text[80];
	int length = snprintf(text, sizeof(text), "\r\nkarma: %llu bytes lost: read faster\r\n",
		(unsigned long long)lost);

	add_output(client, text, length);
}

/* Send what the guest has printed since. */
static void flush_console(const struct control *control, struct control_client *client)
{
	/* Bounded, so that a guest that prints without end does not starve the others. */
	for (unsigned round = 0; round < CONSOLE_ROUNDS && !client->closing && flush_lines(client); round++) {
		char text[CONSOLE_BYTES];
		uint64_t position = client->position, lost;
		size_t length = terminal_read_output(control->terminal, &position, text, sizeof(text), &lost);
		ssize_t sent;

		if (lost) {
			client->position += lost;
			report_lost(client, lost);
			continue;
		}
		if (length == 0)
			return;
		sent = send(client->fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0) {
			client->closing |= errno != EAGAIN && errno != EINTR;
			return;
		}
		client->position = position - length + sent;
	}
}

static void flush(const struct control *control, struct control_client *client)
{
	if (client->console)
		flush_console(control, client);
	else
		flush_lines(client);
}

/* --- Orders to the guest's process, one at a time: the report has room for one result. */

/* 0: it is pending. */
static int number_and_send(struct control *control, struct order *order)
{
	int result;

	if (++control->order_number == 0)
		control->order_number = 1;
	order->number = control->order_number;
	result = control->ops->order(control->context, order);
	control->order_pending = result == 0;
	control->order_deadline = nanoseconds() + ORDER_NANOSECONDS;
	return result;
}

static void send_order(struct control *control, struct control_client *client)
{
	int result = number_and_send(control, &client->order);

	client->order.kind = ORDER_NONE;
	if (result < 0)
		request_complete(control, client, result);
	else
		control->order_client = client;
}

static void end_own_order(struct control *control, int result)
{
	control->own_pending = false;
	control->own_done(control->context, result);
}

static void send_own_order(struct control *control)
{
	struct order order = control->own_order;
	int result;

	control->own_order.kind = ORDER_NONE;
	control->own_pending = true;
	result = number_and_send(control, &order);
	if (result < 0)
		end_own_order(control, result);
}

static void send_orders(struct control *control)
{
	/* Its end may bring the next one. */
	while (control->own_order.kind != ORDER_NONE && !control->order_pending)
		send_own_order(control);
	for (struct control_client *client = control->clients; client && !control->order_pending && !control->held;
		client = client->next) {
		if (client->order.kind != ORDER_NONE && !client->closing)
			send_order(control, client);
	}
}

void control_order(struct control *control, enum order_kind kind, void (*done)(void *context, int result))
{
	control->own_order = (struct order){ .kind = kind };
	control->own_done = done;
}

void control_hold(struct control *control, bool hold)
{
	control->held = hold;
}

void control_snapshot_ended(struct control *control, int error, const char *why)
{
	struct control_client *client = control->snapshot_client;

	if (error < 0 || !control->held)
		control->snapshot_client = NULL;
	if (client)
		request_snapshot_ended(control, client, error, why);
}

static void end_order(struct control *control, int result)
{
	struct control_client *client = control->order_client;

	control->order_pending = false;
	control->order_client = NULL;
	if (control->own_pending)
		end_own_order(control, result);
	else if (client)
		request_complete(control, client, result);
}

void control_reply_ready(struct control *control)
{
	int result;

	if (control->order_pending &&
		report_has_result(control->report, control->order_number, &result))
		end_order(control, result);
}

void control_connected(struct control *control, uint32_t id, int result)
{
	for (struct control_client *client = control->clients; client; client = client->next) {
		if (client->connecting && client->connection == id) {
			request_connected(client, result);
			return;
		}
	}
}

void control_process_ended(struct control *control)
{
	for (struct control_client *client = control->clients; client; client = client->next) {
		if (client->connecting)
			request_connected(client, -ESRCH);
	}
	if (control->order_pending)
		end_order(control, -ESRCH);
	control->kill_at = 0;
}

/* --- Input. */

/* Serve received lines, until one has its reply pending, or the client is slow to read: back-pressure. */
static void serve_lines(struct control *control, struct control_client *client)
{
	char *end;

	while (!client->request && !client->console && !client->awaits_end && !client->closing &&
		client->output_used == 0 &&
		(end = memchr(client->input, '\n', client->input_used))) {
		size_t length = end - client->input;

		request_serve(control, client, client->input, length);
		client->input_used -= length + 1;
		memmove(client->input, end + 1, client->input_used);
		flush_lines(client);
	}
	if (!client->console && client->input_used == sizeof(client->input) && !client->request) {
		request_refuse(client, "too-long", "a request has at most %u bytes", CONTROL_LINE_MAX);
		client->eof = true;
		client->input_used = 0;
	}
}

/* Input of the writer goes to the console as fast as the guest reads it; input of others is dropped. */
static void forward_input(struct control *control, struct control_client *client)
{
	ssize_t written;

	if (control->writer != client) {
		client->input_used = 0;
		return;
	}
	if (client->input_used == 0)
		return;
	written = write_bytes(control->terminal->attached_fd, client->input, client->input_used);
	if (written <= 0)
		return;
	client->input_used -= written;
	memmove(client->input, client->input + written, client->input_used);
}

static void receive_input(struct control_client *client)
{
	size_t room = sizeof(client->input) - client->input_used;
	int fd;
	ssize_t got;

	if (room == 0)
		return;
	got = receive_with_fd(client->fd, client->input + client->input_used, room, &fd);
	if (fd >= 0) {
		close_fd(&client->received_fd);
		client->received_fd = fd;
	}
	if (got > 0)
		client->input_used += got;
	else if (got == 0)
		client->eof = true;
	else
		client->closing |= errno != EAGAIN && errno != EINTR;
}

static bool is_busy(const struct control_client *client)
{
	return client->request || client->awaits_end || client->output_used > 0;
}

static void serve_client(struct control *control, struct control_client *client, short events)
{
	if (events & (POLLERR | POLLHUP))
		client->closing = true;
	if (events & POLLIN)
		receive_input(client);
	flush(control, client);
	if (client->console)
		forward_input(control, client);
	else
		serve_lines(control, client);
	flush(control, client);
	/* After its end of input, a client still gets the replies that are pending. */
	if (client->eof && !client->console && !is_busy(client))
		client->closing = true;
	if (client->eof && control->writer == client && client->input_used == 0)
		control->writer = NULL;
}

/* --- Connections. */

static bool is_allowed(int fd)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
		(peer.uid == geteuid() || peer.uid == 0);
}

int control_add_client(struct control *control, int fd)
{
	struct control_client *client = add_client(control, fd);

	if (!client)
		return -ENOMEM;
	request_greet(control, client);
	flush_lines(client);
	return 0;
}

static void refuse_connection(struct control *control, int fd, const char *code, const char *why)
{
	struct control_client *client = add_client(control, fd);

	if (!client)
		return;
	request_refuse(client, code, "%s", why);
	flush_lines(client);
	client->closing = true;
}

static void accept_client(struct control *control, struct control_socket *socket)
{
	int fd = accept4(socket->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct control_client *client;

	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			control->accept_at = nanoseconds() + ACCEPT_NANOSECONDS;
		return;
	}
	if (!is_allowed(fd)) {
		refuse_connection(control, fd, "refused", "this guest is another user's");
	} else if (control->client_count >= CONTROL_CLIENTS_MAX) {
		refuse_connection(control, fd, "busy", "too many connections: close some");
	} else if (socket == &control->socket) {
		control_add_client(control, fd);
	} else {
		client = add_client(control, fd);
		if (client) {
			client_attach(control, client, true);
			flush(control, client);
		}
	}
}

/* --- The supervisor's loop. */

static short wanted_events(const struct control *control, const struct control_client *client)
{
	bool output = client->output_used > 0 ||
		(client->console && client->position < terminal_output_position(control->terminal));
	bool input = !client->eof && client->input_used < sizeof(client->input) &&
		(client->console ? client->input_used == 0 : !is_busy(client));

	return (input ? POLLIN : 0) | (output ? POLLOUT : 0);
}

/* The array: two listeners, the console's output event, its input pipe, and the clients in the list's order. */
unsigned control_poll(struct control *control, struct pollfd *watched)
{
	bool accepting = control->accept_at == 0;
	struct control_client *writer = control->writer;
	unsigned count = 4;

	watched[0] = (struct pollfd){ .fd = accepting ? control->socket.fd : -1, .events = POLLIN };
	watched[1] = (struct pollfd){ .fd = accepting ? control->console.fd : -1, .events = POLLIN };
	watched[2] = (struct pollfd){ .fd = -1, .events = POLLIN };
	watched[3] = (struct pollfd){ .fd = -1, .events = POLLOUT };
	if (has_console(control))
		watched[2].fd = control->terminal->watch_fd;
	if (writer && writer->input_used > 0)
		watched[3].fd = control->terminal->attached_fd;
	for (struct control_client *client = control->clients; client; client = client->next)
		watched[count++] = (struct pollfd){ .fd = client->fd, .events = wanted_events(control, client) };
	for (unsigned i = count; i < CONTROL_POLLS; i++)
		watched[i] = (struct pollfd){ .fd = -1 };
	return count;
}

int control_timeout(const struct control *control)
{
	const int64_t times[] = { control->kill_at, control->accept_at,
		control->order_pending ? control->order_deadline : 0 };
	int64_t first = 0, left;

	for (unsigned i = 0; i < ARRAY_SIZE(times); i++) {
		if (times[i] && (!first || times[i] < first))
			first = times[i];
	}
	if (!first)
		return -1;
	left = (first - nanoseconds()) / 1000000 + 1;
	return left < 0 ? 0 : left;
}

static void run_timers(struct control *control)
{
	int64_t now = nanoseconds();

	if (control->order_pending && now >= control->order_deadline)
		end_order(control, -ETIMEDOUT);
	if (control->accept_at && now >= control->accept_at)
		control->accept_at = 0;
	if (control->kill_at && now >= control->kill_at) {
		control->kill_at = 0;
		control->ops->kill(control->context);
	}
}

static void reset_watch(const struct control *control)
{
	uint64_t count;

	/* It is non-blocking; output that comes from now on raises it again. */
	if (read_bytes(control->terminal->watch_fd, &count, sizeof(count)) < 0)
		return;
}

void control_serve(struct control *control, const struct pollfd *watched, unsigned count)
{
	unsigned at = 4;

	if (watched[2].revents)
		reset_watch(control);
	for (struct control_client *client = control->clients; client && at < count;
		client = client->next, at++)
		serve_client(control, client, watched[at].revents);
	/* Accept after the others were served, since new clients go to the head of the list. */
	if (watched[0].revents)
		accept_client(control, &control->socket);
	if (watched[1].revents)
		accept_client(control, &control->console);
	run_timers(control);
	send_orders(control);
	remove_closing(control);
}

void control_close(struct control *control)
{
	struct control_client *next;

	for (struct control_client *client = control->clients; client; client = next) {
		next = client->next;
		release_client(control, client);
	}
	control->clients = NULL;
	close_fd(&control->socket.fd);
	close_fd(&control->console.fd);
	control->socket.fd = control->console.fd = -1;
}

void control_detach_consoles(struct control *control)
{
	for (struct control_client *client = control->clients; client; client = client->next) {
		if (client->console) {
			flush(control, client);
			client->closing = true;
		}
	}
	remove_closing(control);
	control->terminal = NULL;
}

void control_end(struct control *control, int status)
{
	for (struct control_client *client = control->clients; client; client = client->next) {
		if (client->awaits_end)
			request_reply_end(client, status);
		flush(control, client);
	}
	control_unlisten(&control->socket);
	control_unlisten(&control->console);
	control_close(control);
}
