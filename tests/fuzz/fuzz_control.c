// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the control socket, from both sides: what clients send, and what a guest's process that has
 * been broken out of reports.  Neither may crash the supervisor, nor make it wait or loop.
 *
 * The input is a list of records: a byte that says what is done, a byte that says how many follow, and
 * these.  tests/fuzz/corpus/control has some that were written by hand.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "karma/control.h"
#include "karma/log.h"
#include "karma/util.h"

#define CLIENTS 3u
#define HEARD_BYTES 65536u

enum deed {
	/* A client, of the deed's number by CLIENTS, says the bytes. */
	SAY = 0,
	SAY_LINE = 3,	/* and a newline */
	CLOSE = 6,
	REPORT = 9,	/* the bytes go into the report, behind an offset of two bytes */
	CONSOLE,	/* ... into the head of the console's buffer, behind an offset of one byte */
	ANSWER,		/* the last order was served, with a result of one byte */
	END,		/* the guest's process has ended */
	LATE,		/* time passes */
	PRINT,
	DEEDS
};

static struct control control;
static struct terminal terminal;
static struct report *report;
static uint32_t last_number;
static int clients[CLIENTS];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void tell_status(void *context, struct control_status *status)
{
	(void)context;
	*status = (struct control_status){ .pid = 1, .memory_used = UINT64_MAX };
}

static int take_order(void *context, const struct order *order)
{
	(void)context;
	last_number = order->number;
	return 0;
}

static void stop(void *context, bool force)
{
	(void)context;
	(void)force;
}

static void kill_process(void *context)
{
	(void)context;
}

static int measure(void *context, const char *disk, uint64_t *number, uint64_t *bytes)
{
	(void)context;
	*number = *bytes = 0;
	return disk[0] == 'v' ? 0 : -ENODEV;
}

static int set_balloon(void *context, uint64_t bytes)
{
	(void)context;
	return bytes < MIB ? 0 : -ERANGE;
}

static uint32_t connection;	/* the last that a client asked for */

static int connect_guest(void *context, uint32_t id, uint32_t port, int *fd)
{
	int ends[2];

	(void)context;
	if (port % 4 == 0)
		return -ENOTSUP;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		abort();
	close(ends[1]);
	*fd = ends[0];
	connection = id;
	return 0;
}

/* A client can't send a descriptor here. */
static int begin_snapshot(void *context, const struct control_snapshot *request, const char **why)
{
	(void)context;
	(void)request;
	(void)why;
	abort();
}

static void release_snapshot(void *context)
{
	(void)context;
}

static void tell_snapshots(void *context, struct control_snapshots *snapshots)
{
	(void)context;
	*snapshots = (struct control_snapshots){ 0 };
}

static const struct control_ops ops = {
	.status = tell_status,
	.order = take_order,
	.stop = stop,
	.kill = kill_process,
	.measure = measure,
	.balloon = set_balloon,
	.connect = connect_guest,
	.snapshot = begin_snapshot,
	.release_snapshot = release_snapshot,
	.snapshots = tell_snapshots,
};

static void turn(void)
{
	struct pollfd watched[CONTROL_POLLS];
	unsigned count = control_poll(&control, watched);

	if (poll(watched, count, 0) >= 0)
		control_serve(&control, watched, count);
	control_connected(&control, connection, connection % 2 ? 0 : -ECONNREFUSED);
}

/* Clients read: what comes are lines of JSON, or the console's bytes. */
static void hear(void)
{
	static char heard[HEARD_BYTES];

	for (unsigned i = 0; i < CLIENTS; i++) {
		while (clients[i] >= 0 && read(clients[i], heard, sizeof(heard)) > 0)
			;
	}
}

static int client(unsigned which)
{
	int fds[2];

	if (clients[which] >= 0)
		return clients[which];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
		abort();
	if (control_add_client(&control, fds[0]) < 0)
		abort();
	clients[which] = fds[1];
	return fds[1];
}

static void say(unsigned which, const uint8_t *bytes, size_t length)
{
	/* It may have been closed by the server. */
	if (send(client(which), bytes, length, MSG_NOSIGNAL) < 0)
		return;
}

static void write_over(void *memory, size_t size, size_t at, const uint8_t *bytes, size_t length)
{
	if (at < size)
		memcpy((char *)memory + at, bytes, length < size - at ? length : size - at);
}

static void lie(enum deed deed, const uint8_t *bytes, size_t length)
{
	if (deed == REPORT && length >= 2)
		write_over(report, sizeof(*report), bytes[0] | bytes[1] << 8, bytes + 2, length - 2);
	else if (deed == CONSOLE && length >= 1)
		write_over(terminal.shared, offsetof(struct terminal_shared, output), bytes[0], bytes + 1,
			length - 1);
	else if (deed == PRINT && length >= 1)
		terminal_write(&terminal, bytes, length);
}

static void act(unsigned deed, const uint8_t *bytes, size_t length)
{
	unsigned which = deed % CLIENTS;

	if (deed < CLOSE) {
		say(which, bytes, length);
		if (deed >= SAY_LINE)
			say(which, (const uint8_t *)"\n", 1);
	} else if (deed < REPORT) {
		close_fd(&clients[which]);
		clients[which] = -1;
	} else if (deed == ANSWER) {
		report_set_result(report, last_number, length ? -(int)bytes[0] : 0);
		control_reply_ready(&control);
	} else if (deed == END) {
		control_process_ended(&control);
	} else if (deed == LATE) {
		control.order_deadline = control.accept_at = 1;
	} else {
		lie(deed, bytes, length);
	}
}

static void set_up(void)
{
	static bool done;

	if (!done && (terminal_open(&terminal, "none", NULL) < 0 || !(report = report_create())))
		abort();
	if (!done)
		log_start_history();
	done = true;
	memset(report, 0, offsetof(struct report, counters));
	memset(terminal.shared, 0, offsetof(struct terminal_shared, output));
	control_init(&control, "fuzz", &ops, NULL, &terminal, report);
	for (unsigned i = 0; i < CLIENTS; i++)
		clients[i] = -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char drained[4096];

	set_up();
	while (size >= 2) {
		unsigned deed = data[0] % DEEDS;
		size_t length = data[1] < size - 2 ? data[1] : size - 2;

		act(deed, data + 2, length);
		data += 2 + length;
		size -= 2 + length;
		turn();
		turn();
		hear();
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		close_fd(&clients[i]);
	turn();
	turn();
	if (control.client_count > 0)
		abort();
	while (read(terminal.inputs[TERMINAL_ATTACHED].fd, drained, sizeof(drained)) > 0)
		;
	control_end(&control, 0);
	return 0;
}
