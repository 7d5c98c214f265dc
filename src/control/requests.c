// SPDX-License-Identifier: GPL-2.0-only
/* The requests of the control protocol, karma-control(7): what comes in a line, and what goes back. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"
#include "karma/log.h"
#include "karma/util.h"

#define KILL_NANOSECONDS 5000000000ll	/* for an end by force; then SIGKILL */
#define MEMBERS_MAX 2

struct request_kind {
	const char *name;
	/* Members beside "request" and "id". */
	struct member {
		const char *name;
		json_type type;
		bool needed;
	} members[MEMBERS_MAX];
	/* Reply, or set client->order for the guest's process. */
	void (*serve)(struct control *control, struct control_client *client, const json_t *request);
	/* After the order was served: the result to reply with. */
	json_t *(*answer)(const struct control *control, const struct control_client *client);
};

static void end_request(struct control_client *client)
{
	client->request = NULL;
	json_decref(client->id);
	client->id = NULL;
}

/* Takes the value's reference; NULL: memory is short. */
static void reply(struct control_client *client, const char *what, json_t *value)
{
	json_t *line = value ? json_pack("{s:o}", what, value) : NULL;

	if (line && client->id && json_object_set(line, "id", client->id) < 0) {
		json_decref(line);
		line = NULL;
	}
	end_request(client);
	client_send(client, line);
}

static void succeed(struct control_client *client, json_t *value)
{
	reply(client, "return", value);
}

void request_refuse(struct control_client *client, const char *code, const char *format, ...)
{
	char message[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	reply(client, "error", json_pack("{s:s, s:s}", "code", code, "message", message));
}

void request_greet(const struct control *control, struct control_client *client)
{
	client_send(client,
		json_pack("{s:{s:i, s:s, s:s}}", "karma", "protocol", CONTROL_PROTOCOL, "version",
			KARMA_VERSION, "name", control->name));
}

void request_reply_end(struct control_client *client, int status)
{
	client->awaits_end = false;
	succeed(client, json_pack("{s:i}", "status", status));
}

static const char *state_name(const struct control *control, const struct control_status *status)
{
	static const char *const names[GUEST_STATES] = {
		[GUEST_STARTING] = "starting",
		[GUEST_RUNNING] = "running",
		[GUEST_PAUSED] = "paused",
		[GUEST_STOPPING] = "stopping",
		[GUEST_ENDING] = "ending",
		[GUEST_HALTED] = "halted",
	};
	enum guest_state state = report_state(control->report);

	if (status->restarting && state == GUEST_STARTING)
		return "restarting";
	if (status->stopping && state == GUEST_RUNNING)
		return "stopping";
	return names[state];
}

static void serve_status(
	struct control *control, struct control_client *client, const json_t *request)
{
	struct control_status status = { 0 };
	int64_t now = nanoseconds();

	(void)request;
	control->ops->status(control->context, &status);
	succeed(client,
		json_pack("{s:s, s:i, s:s, s:i, s:I, s:I, s:I, s:I, s:i, s:b, s:s*}", "name", control->name, "pid",
			(int)status.pid, "state", state_name(control, &status), "cpus", (int)status.cpus,
			"memory", (json_int_t)status.memory, "memory_used", (json_int_t)status.memory_used,
			"balloon", (json_int_t)status.balloon, "uptime_ms",
			(json_int_t)((now - status.started_at) / 1000000), "starts", (int)status.starts,
			"console_writer", control->writer != NULL, "restored_from", status.restored_from));
}

static void set_order(struct control_client *client, enum order_kind kind, uint64_t value)
{
	client->order = (struct order){ .kind = kind, .value = value };
}

static void serve_stats(struct control *control, struct control_client *client, const json_t *request)
{
	(void)control;
	(void)request;
	set_order(client, ORDER_STATISTICS, 0);
}

/* Of the last one, but for their number. */
static json_t *snapshots_of(const struct control *control)
{
	struct control_snapshots snapshots = { 0 };

	control->ops->snapshots(control->context, &snapshots);
	return json_pack("{s:i, s:I, s:i, s:I}", "count", (int)snapshots.count, "bytes", (json_int_t)snapshots.bytes, "rounds",
		(int)snapshots.rounds, "pause_us", (json_int_t)(snapshots.pause / 1000));
}

static json_t *answer_stats(const struct control *control, const struct control_client *client)
{
	json_t *statistics = statistics_of(control->report);

	(void)client;
	/* Without memory for it, its reference is dropped. */
	if (statistics)
		json_object_set_new(statistics, "snapshots", snapshots_of(control));
	return statistics;
}

static void serve_pause(struct control *control, struct control_client *client, const json_t *request)
{
	(void)control;
	(void)request;
	set_order(client, ORDER_PAUSE, 0);
}

static void serve_resume(struct control *control, struct control_client *client, const json_t *request)
{
	(void)control;
	(void)request;
	set_order(client, ORDER_RESUME, 0);
}

static json_t *answer_empty(const struct control *control, const struct control_client *client)
{
	(void)control;
	(void)client;
	return json_object();
}

static void serve_stop(struct control *control, struct control_client *client, const json_t *request)
{
	bool force = json_is_true(json_object_get(request, "force"));

	control->ops->stop(control->context, force);
	if (force && !control->kill_at)
		control->kill_at = nanoseconds() + KILL_NANOSECONDS;
	succeed(client, json_object());
}

static void serve_wait(struct control *control, struct control_client *client, const json_t *request)
{
	(void)control;
	(void)request;
	client->awaits_end = true;
}

static void serve_resize(struct control *control, struct control_client *client, const json_t *request)
{
	const char *disk = json_string_value(json_object_get(request, "disk"));
	uint64_t number;
	int result = control->ops->measure(control->context, disk, &number, &client->bytes);

	if (result == -ENODEV)
		request_refuse(client, "no-disk", "%s: the guest has no such disk", disk);
	else if (result < 0)
		request_refuse(client, "failed", "disk %s: can't tell its size: %s", disk, strerror(-result));
	else
		set_order(client, ORDER_MEASURE, number + 1);
}

static json_t *answer_resize(const struct control *control, const struct control_client *client)
{
	(void)control;
	return json_pack("{s:I}", "bytes", (json_int_t)client->bytes);
}

static void serve_balloon(struct control *control, struct control_client *client, const json_t *request)
{
	json_int_t bytes = json_integer_value(json_object_get(request, "bytes"));
	int result = bytes < 0 ? -ERANGE : control->ops->balloon(control->context, bytes);

	if (result == -ENOTSUP)
		request_refuse(client, "no-balloon", "the guest has no balloon: start it without --balloon off, "
						     "and without huge pages");
	else if (result < 0)
		request_refuse(client, "bad-request", "bytes: a balloon is smaller than the guest's memory");
	else
		set_order(client, ORDER_BALLOON, bytes);
}

/* A line of the log: time, blank, message.  Bytes that are not printable ASCII become `?`. */
static json_t *message_of(char *line, size_t length)
{
	char *end;
	long long time = strtoll(line, &end, 10);

	if (*end == ' ')
		end++;
	for (char *at = end; at < line + length; at++) {
		if (*at < ' ' || *at > '~')
			*at = '?';
	}
	return json_pack("{s:I, s:s#}", "time", (json_int_t)time, "text", end,
		(int)(line + length - end));
}

static void serve_log(struct control *control, struct control_client *client, const json_t *request)
{
	char text[LOG_BYTES + 1];
	size_t length = log_read_history(text, LOG_BYTES);
	json_t *messages = json_array();
	char *line = text, *end;

	(void)control;
	(void)request;
	text[length] = '\0';
	while (messages && (end = memchr(line, '\n', text + length - line))) {
		*end = '\0';
		if (json_array_append_new(messages, message_of(line, end - line)) < 0) {
			json_decref(messages);
			messages = NULL;
		}
		line = end + 1;
	}
	succeed(client, json_pack("{s:o?}", "messages", messages));
}

static void serve_console(struct control *control, struct control_client *client, const json_t *request)
{
	uint64_t written = terminal_output_position(control->terminal);
	uint64_t kept = written < TERMINAL_OUTPUT_BYTES ? written : TERMINAL_OUTPUT_BYTES;

	client_attach(control, client, json_is_true(json_object_get(request, "write")));
	client->position = written - kept;
	succeed(client,
		json_pack("{s:b, s:I}", "writer", control->writer == client, "replay", (json_int_t)kept));
}

static void serve_console_size(
	struct control *control, struct control_client *client, const json_t *request)
{
	json_int_t columns = json_integer_value(json_object_get(request, "columns"));
	json_int_t rows = json_integer_value(json_object_get(request, "rows"));

	if (columns < 1 || columns > UINT16_MAX || rows < 1 || rows > UINT16_MAX) {
		request_refuse(client, "bad-request", "columns and rows are from 1 to %d", UINT16_MAX);
		return;
	}
	terminal_set_attached_size(control->terminal, columns, rows);
	set_order(client, ORDER_CONSOLE_SIZE, 0);
}

static void serve_connect(struct control *control, struct control_client *client, const json_t *request)
{
	json_int_t port = json_integer_value(json_object_get(request, "port"));
	int result;

	/* The last number means any port (vsock(7)). */
	if (port < 0 || port >= UINT32_MAX) {
		request_refuse(client, "bad-request", "port: is from 0 to %u", UINT32_MAX - 1);
		return;
	}
	if (report_state(control->report) == GUEST_PAUSED && !control->held) {
		request_refuse(client, "paused", "the guest is paused: `karma resume %s` lets it go on", control->name);
		return;
	}
	client->connection = ++control->connection_number;
	result = control->ops->connect(control->context, client->connection, port, &client->passed_fd);
	client->connecting = result == 0;
	if (result == -ENOTSUP)
		request_refuse(client, "no-vsock", "the guest has no vsock device: start it with --vsock on");
	else if (result < 0)
		request_connected(client, result);
}

void request_connected(struct control_client *client, int result)
{
	client->connecting = false;
	if (result == 0) {
		succeed(client, json_object());
		return;
	}
	close_fd(&client->passed_fd);
	client->passed_fd = -1;
	if (result == -ESRCH)
		request_refuse(client, "ended", "the guest has ended, or is about to start again");
	else if (result == -ENOTCONN)
		request_refuse(client, "refused", "the guest has no driver for vsock, or has not loaded it yet");
	else if (result == -ECONNREFUSED || result == -ECONNRESET)
		request_refuse(client, "refused", "the guest refuses the connection: nothing listens on that port");
	else
		request_refuse(client, "busy", "too many connections at a time: close some");
}

static void serve_snapshot(struct control *control, struct control_client *client, const json_t *request)
{
	const struct control_snapshot snapshot = {
		.directory = client->received_fd,
		.hold = json_is_true(json_object_get(request, "hold")),
		.copies = json_is_true(json_object_get(request, "copies")),
	};
	const char *why = "";
	int result;

	client->received_fd = -1;
	if (snapshot.directory < 0) {
		request_refuse(client, "bad-request", "no descriptor of a directory came with the request");
		return;
	}
	result = control->ops->snapshot(control->context, &snapshot, &why);
	if (result == 0)
		control->snapshot_client = client;
	else if (result == -ENOTSUP)
		request_refuse(client, "no-snapshot", "%s", why);
	else if (result == -EBUSY)
		request_refuse(client, "busy", "a snapshot of this guest is under way already: wait for its end");
	else if (result == -ENOTDIR)
		request_refuse(client, "bad-request", "the descriptor is none of a directory");
	else
		request_refuse(client, "ended", "the guest has ended, or is about to start: try again when `karma ps` has "
						"it as running");
}

void request_snapshot_ended(struct control *control, struct control_client *client, int error, const char *why)
{
	if (error < 0)
		request_refuse(client, "failed", "%s", why);
	else
		succeed(client, snapshots_of(control));
}

static const struct request_kind kinds[] = {
	{ "status", { { NULL } }, serve_status, NULL },
	{ "stats", { { NULL } }, serve_stats, answer_stats },
	{ "log", { { NULL } }, serve_log, NULL },
	{ "console", { { "write", JSON_TRUE, false } }, serve_console, NULL },
	{ "console-size", { { "columns", JSON_INTEGER, true }, { "rows", JSON_INTEGER, true } },
		serve_console_size, answer_empty },
	{ "pause", { { NULL } }, serve_pause, answer_empty },
	{ "resume", { { NULL } }, serve_resume, answer_empty },
	{ "stop", { { "force", JSON_TRUE, false } }, serve_stop, NULL },
	{ "wait", { { NULL } }, serve_wait, NULL },
	{ "resize", { { "disk", JSON_STRING, true } }, serve_resize, answer_resize },
	{ "connect", { { "port", JSON_INTEGER, true } }, serve_connect, NULL },
	{ "snapshot", { { "hold", JSON_TRUE, false }, { "copies", JSON_TRUE, false } }, serve_snapshot, NULL },
	{ "balloon", { { "bytes", JSON_INTEGER, true } }, serve_balloon, answer_empty },
};

static const struct request_kind *find_kind(const char *name)
{
	for (size_t i = 0; name && i < ARRAY_SIZE(kinds); i++) {
		if (strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
	}
	return NULL;
}

static bool has_type(const json_t *value, json_type type)
{
	return json_typeof(value) == type || (type == JSON_TRUE && json_is_false(value));
}

static const struct member *find_member(const struct request_kind *kind, const char *name)
{
	for (unsigned i = 0; i < MEMBERS_MAX && kind->members[i].name; i++) {
		if (strcmp(kind->members[i].name, name) == 0)
			return &kind->members[i];
	}
	return NULL;
}

/* Check the members of a request; false: it was refused. */
static bool members_fit(
	struct control_client *client, const struct request_kind *kind, json_t *request)
{
	static const char *const types[] = {
		[JSON_STRING] = "a string", [JSON_INTEGER] = "a whole number", [JSON_TRUE] = "true or false",
	};
	const char *name;
	json_t *value;

	json_object_foreach(request, name, value) {
		const struct member *member = find_member(kind, name);

		if (strcmp(name, "request") == 0 || strcmp(name, "id") == 0)
			continue;
		if (!member || !has_type(value, member->type)) {
			request_refuse(client, "bad-request", "%.64s: %s%s", name,
				member ? "has to be " : "is no member of this request",
				member ? types[member->type] : "");
			return false;
		}
	}
	for (unsigned i = 0; i < MEMBERS_MAX && kind->members[i].name; i++) {
		if (kind->members[i].needed && !json_object_get(request, kind->members[i].name)) {
			request_refuse(client, "bad-request", "%s is missing", kind->members[i].name);
			return false;
		}
	}
	return true;
}

static void serve_request(struct control *control, struct control_client *client, json_t *request)
{
	json_t *id = json_object_get(request, "id");
	const struct request_kind *kind =
		find_kind(json_string_value(json_object_get(request, "request")));

	if (id && !json_is_integer(id) && !json_is_string(id)) {
		request_refuse(client, "bad-request", "id has to be a whole number or a string");
		return;
	}
	client->id = json_incref(id);
	if (!kind) {
		request_refuse(client, "unknown-request", "request has to be one of karma-control(7)");
		return;
	}
	client->request = kind;
	if (members_fit(client, kind, request))
		kind->serve(control, client, request);
}

void request_serve(struct control *control, struct control_client *client, const char *line,
	size_t length)
{
	json_error_t error;
	json_t *request = json_loadb(line, length, JSON_REJECT_DUPLICATES, &error);

	if (json_is_object(request))
		serve_request(control, client, request);
	else
		request_refuse(client, "bad-json", "a request is a JSON object in a line");
	json_decref(request);
}

void request_complete(struct control *control, struct control_client *client, int result)
{
	const struct request_kind *kind = client->request;

	if (result == 0)
		succeed(client, kind->answer(control, client));
	else if (result == -ESRCH)
		request_refuse(client, "ended", "the guest has ended");
	else if (result == -ETIMEDOUT)
		request_refuse(client, "timeout", "the guest's process does not answer");
	else
		request_refuse(client, "failed", "%s", strerror(-result));
}
