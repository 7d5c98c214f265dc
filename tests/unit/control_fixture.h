/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A control socket, what it asks of the supervisor, and a client. Each file of tests that includes
 * this has its own.
 */
#ifndef KARMA_TESTS_CONTROL_FIXTURE_H
#define KARMA_TESTS_CONTROL_FIXTURE_H

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* Before Check, which has a macro fail(). */
#include "karma/log.h"

#include "guest.h"
#include "karma/control.h"

/* The parts of the suite. */
void control_console_tests(Suite *suite);
void control_names_tests(Suite *suite);
void control_snapshot_tests(Suite *suite);

#define DISK_BYTES 1048576u

static struct control control;
static struct terminal terminal;
static struct io_ring *no_ring;
static struct report *report;
static struct order last_order;
static unsigned orders, stops, forced, kills;
static uint64_t balloon_bytes;
static int order_result;
static char received[1 << 20];
static size_t received_used;

/* --- The supervisor's part. */

static inline void tell_status(void *context, struct control_status *status)
{
	(void)context;
	*status = (struct control_status){
		.pid = 42,
		.cpus = 3,
		.memory = 512 * MIB,
		.memory_used = 7 * MIB,
		.started_at = nanoseconds(),
		.starts = 1,
	};
}

static inline int take_order(void *context, const struct order *order)
{
	(void)context;
	last_order = *order;
	orders++;
	return order_result;
}

static inline void stop(void *context, bool force)
{
	(void)context;
	stops++;
	forced += force;
}

static inline void kill_process(void *context)
{
	(void)context;
	kills++;
}

static inline int measure(void *context, const char *disk, uint64_t *number, uint64_t *bytes)
{
	(void)context;
	*number = 0;
	*bytes = DISK_BYTES;
	return strcmp(disk, "vda") == 0 ? 0 : -ENODEV;
}

static inline int set_balloon(void *context, uint64_t bytes)
{
	(void)context;
	balloon_bytes = bytes;
	return bytes < 512 * MIB ? 0 : -ERANGE;
}

static int guest_end = -1; /* of a connection to the guest */
static uint32_t connection_id, connection_port;

static inline int connect_guest(void *context, uint32_t id, uint32_t port, int *fd)
{
	int ends[2];

	(void)context;
	connection_id = id;
	connection_port = port;
	if (port == 9)
		return -ENOTSUP;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	*fd = ends[0];
	guest_end = ends[1];
	return 0;
}

static struct control_snapshot snapshot;	/* the last that was asked for, its directory open; or -1 */
static int snapshot_result;
static unsigned releases;

static inline int begin_snapshot(void *context, const struct control_snapshot *request, const char **why)
{
	(void)context;
	*why = "it has a thing that can't be saved";
	if (snapshot_result < 0) {
		close(request->directory);
		return snapshot_result;
	}
	snapshot = *request;
	return 0;
}

static inline void release_snapshot(void *context)
{
	(void)context;
	releases++;
}

static inline void tell_snapshots(void *context, struct control_snapshots *snapshots)
{
	(void)context;
	*snapshots = (struct control_snapshots){ .count = 2, .bytes = 4096, .rounds = 3, .pause = 1500000 };
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

static inline void setup(void)
{
	ck_assert_int_eq(terminal_open(&terminal, "none", no_ring), 0);
	report = report_create();
	ck_assert_ptr_nonnull(report);
	report_set_state(report, GUEST_RUNNING);
	control_init(&control, "web", &ops, NULL, &terminal, report);
	orders = stops = forced = kills = releases = 0;
	snapshot = (struct control_snapshot){ .directory = -1 };
	snapshot_result = 0;
	order_result = 0;
	received_used = 0;
}

static inline void teardown(void)
{
	control_detach_consoles(&control);
	control_end(&control, 0);
	close_fd(&snapshot.directory);
	report_release(report);
	terminal_close(&terminal);
}

/* A turn of the supervisor's loop. */
static inline void turn(void)
{
	struct pollfd watched[CONTROL_POLLS];
	unsigned count = control_poll(&control, watched);

	ck_assert_uint_le(count, CONTROL_POLLS);
	ck_assert_int_ge(poll(watched, count, 0), 0);
	control_serve(&control, watched, count);
}

static inline void turns(unsigned count)
{
	while (count--)
		turn();
}

/* --- A client. */

static inline int connect_client(void)
{
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	ck_assert_int_eq(control_add_client(&control, fds[0]), 0);
	return fds[1];
}

static inline void say(int fd, const char *text)
{
	ck_assert_int_eq(write(fd, text, strlen(text)), strlen(text));
}

/* All that is there; its length. */
static inline size_t hear(int fd)
{
	ssize_t got;

	received_used = 0;
	while ((got = read(fd, received + received_used, sizeof(received) - 1 - received_used)) > 0)
		received_used += got;
	received[received_used] = '\0';
	return received_used;
}

/* A request of a new client: all that it hears after the greeting. */
static inline const char *ask(const char *request)
{
	int fd = connect_client();
	const char *rest;

	hear(fd);
	say(fd, request);
	say(fd, "\n");
	turns(3);
	hear(fd);
	close(fd);
	turn();
	rest = received;
	return rest;
}

static inline void assert_error(const char *request, const char *code)
{
	char wanted[80];

	snprintf(wanted, sizeof(wanted), "{\"error\":{\"code\":\"%s\",", code);
	ck_assert_msg(strncmp(ask(request), wanted, strlen(wanted)) == 0, "%s: %s", request, received);
	ck_assert_str_eq(received + received_used - 1, "\n");
}

/* The guest's process has served the last order. */
static inline void answer(int result)
{
	report_set_result(report, last_order.number, result);
	control_reply_ready(&control);
	turn();
}

#endif
