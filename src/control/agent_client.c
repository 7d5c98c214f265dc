// SPDX-License-Identifier: GPL-2.0-only
/* A command in a guest, by its agent: the host's side. */
#include "karma/agent_client.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>

#include "client.h"
#include "karma/agent_stream.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/util.h"

#define TEXT_MAX 512u
#define SIGNAL_MAX 64u
#define SIGNALS_TO_END 3u
#define ROWS 24u	/* of a terminal that nobody knows */
#define COLUMNS 80u

struct client {
	struct agent_link link;
	const char *guest;
	const struct agent_command *command;
	int signal_fd;
	bool keys;			/* input is a terminal in raw mode */
	struct termios saved;
	struct agent_source input;
	struct agent_sink outputs[2];
	bool greeted;			/* the agent has said HELLO */
	bool exited;			/* and that the command has */
	bool over;			/* this ends at once, with status */
	bool size_due;			/* the terminal has another size */
	unsigned signals;		/* that were passed on */
	int status;			/* to return */
};

static void restore_terminal(struct client *client)
{
	if (client->keys)
		tcsetattr(client->command->fds[0], TCSADRAIN, &client->saved);
	client->keys = false;
}

/* The terminal is in order before it shows the message. */
static int end(struct client *client, int error, const char *text)
{
	restore_terminal(client);
	client->over = true;
	client->status = STATUS_FAILURE;
	return fail(error, "%s%s%s", client->guest ? client->guest : "", client->guest ? ": " : "", text);
}

static int end_broken(struct client *client)
{
	return end(client, -EPROTO, "the guest's agent breaks its protocol");
}

/* --- What goes to the agent. */

static uint32_t size_of_terminal(const struct client *client)
{
	struct winsize size;

	for (unsigned i = 0; i < 3; i++) {
		if (ioctl(client->command->fds[i], TIOCGWINSZ, &size) == 0 && size.ws_row && size.ws_col)
			return size.ws_row | (uint32_t)size.ws_col << 16;
	}
	return ROWS | COLUMNS << 16;
}

static size_t put_string(uint8_t *room, size_t at, const char *string)
{
	size_t length = strlen(string) + 1;

	if (room)
		memcpy(room + at, string, length);
	return at + length;
}

/* The request, or its length if room is NULL. */
static size_t put_request(const struct client *client, uint8_t *room)
{
	const struct agent_command *command = client->command;
	uint32_t size = size_of_terminal(client);
	const char *term = getenv("TERM");
	struct agent_exec head = {
		.flags = htole32((command->input || command->terminal ? AGENT_EXEC_INPUT : 0) |
			(command->terminal ? AGENT_EXEC_TERMINAL : 0)),
		.rows = htole16(size & UINT16_MAX),
		.columns = htole16(size >> 16),
		.argument_count = htole32(command->argument_count),
		.environment_count = htole32(command->environment_count + command->terminal),
	};
	size_t at = sizeof(head);

	if (room)
		memcpy(room, &head, sizeof(head));
	at = put_string(room, at, command->user ? command->user : "");
	at = put_string(room, at, command->directory ? command->directory : "");
	for (size_t i = 0; i < command->argument_count; i++)
		at = put_string(room, at, command->arguments[i]);
	if (command->terminal) {
		at = put_string(room, at, "TERM=") - 1;
		at = put_string(room, at, term && term[0] ? term : "dumb");
	}
	for (size_t i = 0; i < command->environment_count; i++)
		at = put_string(room, at, command->environment[i]);
	return at;
}

static int request(struct client *client)
{
	size_t length = put_request(client, NULL);
	uint8_t *room;

	agent_link_put_number(&client->link, AGENT_HELLO, 0, AGENT_VERSION);
	room = !client->command->process || agent_link_put(&client->link, AGENT_PROCESS, 0, client->command->process,
		client->command->process_length) ? agent_link_reserve(&client->link, length) : NULL;
	if (!room)
		return end(client, -E2BIG, "the command and its environment are longer than 128 KiB: pass them in a "
					   "file, or by standard input");
	put_request(client, room);
	agent_link_commit(&client->link, AGENT_EXEC, 0, length);
	return 0;
}

/* Without a terminal the command gets them, as far as it is there to. */
static void take_signal(struct client *client)
{
	struct signalfd_siginfo signal;

	if (read(client->signal_fd, &signal, sizeof(signal)) != sizeof(signal))
		return;
	if (signal.ssi_signo == SIGWINCH) {
		client->size_due = client->command->terminal;
		return;
	}
	if (client->command->all_signals) {
		agent_link_put_number(&client->link, AGENT_SIGNAL, 0, signal.ssi_signo);
		return;
	}
	if (client->command->terminal || !client->greeted || client->exited ||
		++client->signals == SIGNALS_TO_END ||
		!agent_link_put_number(&client->link, AGENT_SIGNAL, 0, signal.ssi_signo)) {
		client->over = true;
		client->status = STATUS_SIGNAL + signal.ssi_signo;
	}
}

/* --- What comes from it. */

static int take_hello(struct client *client, const struct agent_frame *frame)
{
	const char *text;
	int result = agent_link_check_hello(frame, &text);

	client->greeted = result == 0;
	return result < 0 ? end(client, result, text) : 0;
}

static int take_error(struct client *client, const struct agent_frame *frame)
{
	const size_t head = 2 * sizeof(uint32_t);
	char text[TEXT_MAX];
	uint32_t status;
	int length;

	if (frame->length < head)
		return end_broken(client);
	length = frame->length - head < sizeof(text) ? frame->length - head : sizeof(text) - 1;
	memcpy(text, frame->payload + head, length);
	text[length] = '\0';
	make_printable(text, length);
	end(client, -EREMOTEIO, text);
	status = agent_number(frame->payload);
	if (status > STATUS_FAILURE && status < STATUS_SIGNAL)
		client->status = status;
	return -EREMOTEIO;
}

static int take_exit(struct client *client, const struct agent_frame *frame)
{
	uint32_t status, number;

	if (frame->length != sizeof(status) + sizeof(number))
		return end_broken(client);
	status = agent_number(frame->payload);
	number = agent_number(frame->payload + sizeof(status));
	if (status > UINT8_MAX || number > SIGNAL_MAX)
		return end_broken(client);
	client->exited = true;
	client->status = number ? STATUS_SIGNAL + number : status;
	return 0;
}

static int take_frame(struct client *client, const struct agent_frame *frame)
{
	bool is_output = frame->stream == AGENT_OUTPUT || frame->stream == AGENT_ERROR_OUTPUT;
	int result = -EPROTO;

	if (!client->greeted)
		return take_hello(client, frame);
	switch (frame->type) {
	case AGENT_ERROR:
		return take_error(client, frame);
	case AGENT_EXIT:
		return take_exit(client, frame);
	case AGENT_WINDOW:
		if (frame->stream == AGENT_INPUT)
			result = agent_source_take(&client->input, frame);
		break;
	case AGENT_DATA:
	case AGENT_END:
		if (is_output)
			result = agent_sink_take(&client->outputs[frame->stream - AGENT_OUTPUT], frame);
		else if (frame->stream == AGENT_INPUT && frame->type == AGENT_END)
			result = agent_source_take(&client->input, frame);
		break;
	}
	return result < 0 ? end_broken(client) : 0;
}

static void take_frames(struct client *client)
{
	int result = agent_link_receive(&client->link);
	struct agent_frame frame;

	if (result == -EAGAIN)
		return;
	if (result <= 0 && client->command->guest_ends_it) {
		client->over = true;
		return;
	}
	if (result <= 0) {
		end(client, -EPIPE, "the guest, or its agent, has ended before the command");
		return;
	}
	while (!client->exited && (result = agent_link_next(&client->link, &frame)) > 0) {
		if (take_frame(client, &frame) < 0)
			return;
	}
	if (result < 0)
		end_broken(client);
}

/* --- Both. */

static bool has_output(const struct client *client)
{
	return !agent_sink_is_empty(&client->outputs[0]) || !agent_sink_is_empty(&client->outputs[1]);
}

static void tell(struct client *client)
{
	agent_source_tell(&client->input, &client->link);
	for (unsigned i = 0; i < 2; i++)
		agent_sink_tell(&client->outputs[i], &client->link);
	if (client->size_due && agent_link_put_number(&client->link, AGENT_SIZE, 0, size_of_terminal(client)))
		client->size_due = false;
}

enum { AT_SOCKET, AT_SIGNAL, AT_INPUT, AT_OUTPUTS, POLLS = AT_OUTPUTS + 2 };

static void watch(const struct client *client, struct pollfd *watched)
{
	watched[AT_SOCKET] = (struct pollfd){ .fd = client->exited ? -1 : client->link.fd,
		.events = POLLIN | (agent_link_has_output(&client->link) ? POLLOUT : 0) };
	watched[AT_SIGNAL] = (struct pollfd){ .fd = client->signal_fd, .events = POLLIN };
	watched[AT_INPUT] = (struct pollfd){ .fd = !client->exited && agent_source_wants(&client->input, &client->link) ?
			client->input.fd : -1,
		.events = POLLIN };
	for (unsigned i = 0; i < 2; i++) {
		const struct agent_sink *sink = &client->outputs[i];

		/* With no events, a reader that has gone is an error all the same. */
		watched[AT_OUTPUTS + i] = (struct pollfd){ .fd = sink->gone || (sink->ended && agent_sink_is_empty(sink)) ?
				-1 : sink->fd,
			.events = agent_sink_is_empty(sink) ? 0 : POLLOUT };
	}
}

static void serve_files(struct client *client, const struct pollfd *watched)
{
	for (unsigned i = 0; i < 2; i++) {
		struct agent_sink *sink = &client->outputs[i];

		if (watched[AT_OUTPUTS + i].revents && agent_sink_is_empty(sink))
			agent_sink_give_up(sink);
		else if (watched[AT_OUTPUTS + i].revents)
			agent_sink_write(sink);
	}
	if (watched[AT_INPUT].revents)
		agent_source_read(&client->input, &client->link, SIZE_MAX);
}

/* Until the command has ended, and all output is where it belongs; or until it is over. */
static void serve(struct client *client)
{
	while (!client->over && (!client->exited || has_output(client))) {
		struct pollfd watched[POLLS];
		bool broken;

		tell(client);
		broken = agent_link_send(&client->link) < 0;
		watch(client, watched);
		if (poll(watched, POLLS, broken ? 0 : -1) < 0) {
			if (errno == EINTR)
				continue;
			end(client, -errno, "can't wait for the guest's agent: raise the limit of open files (ulimit -n)");
			return;
		}
		if (watched[AT_SIGNAL].revents)
			take_signal(client);
		serve_files(client, watched);
		/* What the agent has said before it closed the socket comes first. */
		if (!client->over && !client->exited && (broken || watched[AT_SOCKET].revents & ~POLLOUT))
			take_frames(client);
	}
}

static int run(struct client *client)
{
	if (request(client) < 0)
		return client->status;
	serve(client);
	restore_terminal(client);
	if (client->over)
		return client->status;
	if (agent_link_put(&client->link, AGENT_DONE, 0, NULL, 0))
		agent_link_settle(&client->link, false);
	for (unsigned i = 0; i < 2; i++) {
		int error = client->outputs[i].error;

		if (error < 0)
			end(client, error, i == 0 ? "can't write all output: see whether its file system is full" :
				"can't write all error output: see whether its file system is full");
	}
	return client->status;
}

int agent_run_command(int socket, const char *guest, const struct agent_command *command)
{
	static struct client client;
	int keys = 0, status;

	client.guest = guest;
	client.command = command;
	client.greeted = client.exited = client.over = client.size_due = false;
	client.signals = 0;
	client.status = STATUS_FAILURE;
	agent_link_init(&client.link, socket);
	agent_source_init(&client.input, command->fds[0], AGENT_INPUT);
	client.input.ended = client.input.told = !command->input && !command->terminal;
	for (unsigned i = 0; i < 2; i++)
		agent_sink_init(&client.outputs[i], command->fds[1 + i], AGENT_OUTPUT + i);
	client.signal_fd = client_signals(command->all_signals);
	if (command->terminal)
		keys = raw_mode_enter(command->fds[0], &client.saved, true);
	client.keys = keys > 0;
	status = keys < 0 || client.signal_fd < 0 ? STATUS_FAILURE : run(&client);
	restore_terminal(&client);
	close_fd(&client.signal_fd);
	return status;
}
