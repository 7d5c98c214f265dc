// SPDX-License-Identifier: GPL-2.0-only
/* The control socket: names, requests and replies, clients that are slow, wrong or gone, and reports that lie. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* Before Check, which has a macro fail(). */
#include "karma/log.h"

#include "guest.h"
#include "karma/control.h"

#define DISK_BYTES 1048576u

static struct control control;
static struct terminal terminal;
static struct io_ring *no_ring;
static struct report *report;
static struct process_order last_order;
static unsigned orders, stops, forced, kills;
static uint64_t balloon_bytes;
static int order_result;
static char received[1 << 20];
static size_t received_used;

/* --- The supervisor's part. */

static void tell_status(void *context, struct control_status *status)
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

static int take_order(void *context, const struct process_order *order)
{
	(void)context;
	last_order = *order;
	orders++;
	return order_result;
}

static void stop(void *context, bool force)
{
	(void)context;
	stops++;
	forced += force;
}

static void kill_process(void *context)
{
	(void)context;
	kills++;
}

static int measure(void *context, const char *disk, uint64_t *number, uint64_t *bytes)
{
	(void)context;
	*number = 0;
	*bytes = DISK_BYTES;
	return strcmp(disk, "vda") == 0 ? 0 : -ENODEV;
}

static int set_balloon(void *context, uint64_t bytes)
{
	(void)context;
	balloon_bytes = bytes;
	return bytes < 512 * MIB ? 0 : -ERANGE;
}

static const struct control_ops ops = {
	.status = tell_status,
	.order = take_order,
	.stop = stop,
	.kill = kill_process,
	.measure = measure,
	.balloon = set_balloon,
};

static void setup(void)
{
	ck_assert_int_eq(terminal_open(&terminal, "none", no_ring), 0);
	report = report_create();
	ck_assert_ptr_nonnull(report);
	report_set_state(report, GUEST_RUNNING);
	control_init(&control, "web", &ops, NULL, &terminal, report);
	orders = stops = forced = kills = 0;
	order_result = 0;
	received_used = 0;
}

static void teardown(void)
{
	control_drop_consoles(&control);
	control_end(&control, 0);
	report_release(report);
	terminal_close(&terminal);
}

/* A turn of the supervisor's loop. */
static void turn(void)
{
	struct pollfd watched[CONTROL_POLLS];
	unsigned count = control_poll(&control, watched);

	ck_assert_uint_le(count, CONTROL_POLLS);
	ck_assert_int_ge(poll(watched, count, 0), 0);
	control_serve(&control, watched, count);
}

static void turns(unsigned count)
{
	while (count--)
		turn();
}

/* --- A client. */

static int connect_client(void)
{
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	ck_assert_int_eq(control_add_client(&control, fds[0]), 0);
	return fds[1];
}

static void say(int fd, const char *text)
{
	ck_assert_int_eq(write(fd, text, strlen(text)), strlen(text));
}

/* All that is there; its length. */
static size_t hear(int fd)
{
	ssize_t got;

	received_used = 0;
	while ((got = read(fd, received + received_used, sizeof(received) - 1 - received_used)) > 0)
		received_used += got;
	received[received_used] = '\0';
	return received_used;
}

static bool is_closed(int fd)
{
	struct pollfd watched = { .fd = fd, .events = POLLIN };

	return poll(&watched, 1, 0) > 0 && (watched.revents & POLLHUP);
}

/* A request of a new client: all that it hears after the greeting. */
static const char *ask(const char *request)
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

static void assert_error(const char *request, const char *code)
{
	char wanted[80];

	snprintf(wanted, sizeof(wanted), "{\"error\":{\"code\":\"%s\",", code);
	ck_assert_msg(strncmp(ask(request), wanted, strlen(wanted)) == 0, "%s: %s", request, received);
	ck_assert_str_eq(received + received_used - 1, "\n");
}

/* The guest's process has served the last order. */
static void answer(int result)
{
	report_answer(report, last_order.number, result);
	control_answered(&control);
	turn();
}

/* --- Requests. */

START_TEST(greeting_tells_name_and_versions)
{
	int fd = connect_client();

	hear(fd);
	ck_assert_str_eq(received, "{\"karma\":{\"protocol\":1,\"version\":\"" KARMA_VERSION
				   "\",\"name\":\"web\"}}\n");
	close(fd);
	turn();
	ck_assert_uint_eq(control.client_count, 0);
}
END_TEST

START_TEST(status_has_what_ps_shows)
{
	ck_assert_ptr_nonnull(strstr(ask("{\"request\":\"status\",\"id\":\"a\"}"),
		"\"name\":\"web\",\"pid\":42,\"state\":\"running\",\"cpus\":3,\"memory\":536870912,"
		"\"memory_used\":7340032,"));
	ck_assert_ptr_nonnull(strstr(received, "\"id\":\"a\"}\n"));
	report_set_state(report, GUEST_PAUSED);
	ck_assert_ptr_nonnull(strstr(ask("{\"request\":\"status\"}"), "\"state\":\"paused\""));
	/* The report may be a lie. */
	report->state = 0xffffffff;
	ck_assert_ptr_nonnull(strstr(ask("{\"request\":\"status\"}"), "\"state\":\"running\""));
}
END_TEST

START_TEST(what_is_no_request_is_refused)
{
	assert_error("", "bad-json");
	assert_error("status", "bad-json");
	assert_error("[1]", "bad-json");
	assert_error("{\"request\":\"status\"} {}", "bad-json");
	assert_error("{\"request\":\"status\",\"request\":\"stop\"}", "bad-json");
	assert_error("{}", "unknown-request");
	assert_error("{\"request\":7}", "unknown-request");
	assert_error("{\"request\":\"delete\"}", "unknown-request");
	assert_error("{\"request\":\"status\",\"force\":true}", "bad-request");
	assert_error("{\"request\":\"status\",\"id\":[]}", "bad-request");
	assert_error("{\"request\":\"stop\",\"force\":1}", "bad-request");
	assert_error("{\"request\":\"resize\"}", "bad-request");
	assert_error("{\"request\":\"resize\",\"disk\":1}", "bad-request");
	assert_error("{\"request\":\"resize\",\"disk\":\"vdb\"}", "no-disk");
	assert_error("{\"request\":\"balloon\",\"bytes\":-1}", "bad-request");
	assert_error("{\"request\":\"balloon\",\"bytes\":1.5}", "bad-request");
	assert_error("{\"request\":\"balloon\",\"bytes\":99999999999}", "bad-request");
	ck_assert_uint_eq(orders, 0);
	ck_assert_uint_eq(stops, 0);
}
END_TEST

START_TEST(a_request_without_end_is_refused)
{
	int fd = connect_client();
	char text[CONTROL_LINE_MAX];

	memset(text, '[', sizeof(text));
	hear(fd);
	ck_assert_int_eq(write(fd, text, sizeof(text)), sizeof(text));
	turns(4);
	hear(fd);
	ck_assert_ptr_nonnull(strstr(received, "too-long"));
	ck_assert(is_closed(fd));
	close(fd);
}
END_TEST

START_TEST(deep_nesting_does_no_harm)
{
	char text[CONTROL_LINE_MAX - 1];

	memset(text, '[', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	assert_error(text, "bad-json");
	for (size_t i = 0; i + 6 < sizeof(text); i += 5)
		memcpy(text + i, "{\"a\":", 5);
	assert_error(text, "bad-json");
}
END_TEST

START_TEST(requests_of_one_client_are_served_in_turn)
{
	int fd = connect_client();

	hear(fd);
	say(fd, "{\"request\":\"pause\",\"id\":1}\n{\"request\":\"status\",\"id\":2}\n{\"requ");
	turns(3);
	ck_assert_uint_eq(hear(fd), 0);
	ck_assert_uint_eq(orders, 1);
	ck_assert_uint_eq(last_order.kind, ORDER_PAUSE);
	answer(0);
	say(fd, "est\":\"delete\",\"id\":3}\n");
	turns(5);
	hear(fd);
	ck_assert_ptr_eq(strstr(received, "{\"return\":{},\"id\":1}\n{\"return\":{\"name\""), received);
	ck_assert_ptr_nonnull(strstr(received, "\"id\":2}\n{\"error\""));
	ck_assert_ptr_nonnull(strstr(received, "\"id\":3}\n"));
	close(fd);
}
END_TEST

START_TEST(orders_wait_for_each_other)
{
	int one = connect_client(), other = connect_client();
	uint32_t number;

	say(one, "{\"request\":\"pause\"}\n");
	say(other, "{\"request\":\"resume\"}\n");
	turns(3);
	ck_assert_uint_eq(orders, 1);
	number = last_order.number;
	/* An answer to what nobody asked. */
	report_answer(report, number + 1, 0);
	control_answered(&control);
	turn();
	ck_assert_uint_eq(orders, 1);
	answer(0);
	ck_assert_uint_eq(orders, 2);
	ck_assert_uint_ne(last_order.number, number);
	answer(-EBUSY);
	turn();
	hear(one);
	hear(other);
	close(one);
	close(other);
}
END_TEST

START_TEST(a_process_that_does_not_answer_is_given_up)
{
	int fd = connect_client();

	hear(fd);
	say(fd, "{\"request\":\"stats\"}\n");
	turns(2);
	ck_assert(control.order_pending);
	ck_assert_int_gt(control_timeout(&control), 0);
	control.order_deadline = 1;
	ck_assert_int_eq(control_timeout(&control), 0);
	turns(2);
	hear(fd);
	ck_assert_ptr_nonnull(strstr(received, "\"timeout\""));
	ck_assert_int_eq(control_timeout(&control), -1);
	/* The answer that comes too late. */
	answer(0);
	ck_assert_uint_eq(hear(fd), 0);
	close(fd);
}
END_TEST

START_TEST(a_client_that_goes_leaves_its_order_behind)
{
	int fd = connect_client();

	say(fd, "{\"request\":\"stats\"}\n");
	turns(2);
	close(fd);
	turns(2);
	ck_assert_uint_eq(control.client_count, 0);
	ck_assert_ptr_null(control.asking);
	answer(0);
	ck_assert(!control.order_pending);
}
END_TEST

START_TEST(orders_end_with_the_process)
{
	int fd = connect_client();

	hear(fd);
	say(fd, "{\"request\":\"pause\"}\n");
	turns(2);
	control_process_ended(&control);
	turn();
	hear(fd);
	ck_assert_ptr_nonnull(strstr(received, "\"ended\""));
	order_result = -ESRCH;
	say(fd, "{\"request\":\"pause\"}\n");
	turns(3);
	hear(fd);
	ck_assert_ptr_nonnull(strstr(received, "\"ended\""));
	close(fd);
}
END_TEST

START_TEST(resize_and_balloon_are_orders)
{
	int fd = connect_client();

	hear(fd);
	say(fd, "{\"request\":\"resize\",\"disk\":\"vda\"}\n");
	turns(2);
	ck_assert_uint_eq(last_order.kind, ORDER_MEASURE);
	ck_assert_uint_eq(last_order.value, 1);
	answer(0);
	turn();
	hear(fd);
	ck_assert_str_eq(received, "{\"return\":{\"bytes\":1048576}}\n");
	say(fd, "{\"request\":\"balloon\",\"bytes\":4096}\n");
	turns(2);
	ck_assert_uint_eq(last_order.kind, ORDER_BALLOON);
	ck_assert_uint_eq(balloon_bytes, 4096);
	close(fd);
}
END_TEST

START_TEST(force_that_fails_is_followed_by_a_kill)
{
	ask("{\"request\":\"stop\"}");
	ck_assert_uint_eq(stops, 1);
	ck_assert_uint_eq(forced, 0);
	ck_assert_int_eq(control.kill_at, 0);
	ask("{\"request\":\"stop\",\"force\":true}");
	ck_assert_uint_eq(forced, 1);
	ck_assert_int_gt(control_timeout(&control), 0);
	control.kill_at = 1;
	turn();
	ck_assert_uint_eq(kills, 1);
	turn();
	ck_assert_uint_eq(kills, 1);
}
END_TEST

START_TEST(who_waits_is_told_the_status)
{
	int fd = connect_client();

	hear(fd);
	say(fd, "{\"request\":\"wait\",\"id\":5}\n");
	turns(2);
	ck_assert_uint_eq(hear(fd), 0);
	control_end(&control, 17);
	hear(fd);
	ck_assert_str_eq(received, "{\"return\":{\"status\":17},\"id\":5}\n");
	ck_assert(is_closed(fd));
	close(fd);
}
END_TEST

START_TEST(a_client_that_only_asks_still_gets_its_answer)
{
	int fd = connect_client();

	hear(fd);
	say(fd, "{\"request\":\"pause\"}\n");
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	turns(3);
	answer(0);
	turns(2);
	hear(fd);
	ck_assert_str_eq(received, "{\"return\":{}}\n");
	ck_assert(is_closed(fd));
	close(fd);
}
END_TEST

START_TEST(connections_are_bounded)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int clients[CONTROL_CLIENTS_MAX + 1];

	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/karma-unit-%d", (int)getpid());
	ck_assert_int_eq(control_listen_at(&control.socket, address.sun_path), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(clients); i++) {
		clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		ck_assert_int_eq(connect(clients[i], (struct sockaddr *)&address, sizeof(address)), 0);
		turns(2);
		hear(clients[i]);
		ck_assert_ptr_nonnull(strstr(received, i < CONTROL_CLIENTS_MAX ? "protocol" : "busy"));
	}
	ck_assert_uint_eq(control.client_count, CONTROL_CLIENTS_MAX);
	ck_assert(is_closed(clients[CONTROL_CLIENTS_MAX]));
	for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
		close(clients[i]);
	turns(2);
	ck_assert_uint_eq(control.client_count, 0);
	control_unlisten(&control.socket);
	ck_assert_int_lt(access(address.sun_path, F_OK), 0);
}
END_TEST

/* --- The console. */

static void print(const char *text)
{
	ck_assert_uint_eq(terminal_write(&terminal, text, strlen(text)), strlen(text));
}

static int attach(bool write)
{
	int fd = connect_client();

	hear(fd);
	say(fd, write ? "{\"request\":\"console\",\"write\":true}\n" : "{\"request\":\"console\"}\n");
	turns(2);
	hear(fd);
	return fd;
}

START_TEST(console_is_replayed_and_goes_on)
{
	int fd;

	print("early\n");
	fd = attach(true);
	ck_assert_str_eq(received, "{\"return\":{\"writer\":true,\"replay\":6}}\nearly\n");
	print("late\n");
	turn();
	hear(fd);
	ck_assert_str_eq(received, "late\n");
	close(fd);
	turn();
	ck_assert_uint_eq(terminal.shared->watched, 0);
}
END_TEST

START_TEST(only_the_last_64_kib_are_replayed)
{
	static char text[TERMINAL_OUTPUT_BYTES + 1];
	int fd;

	print("forgotten");
	memset(text, 'x', sizeof(text) - 1);
	text[0] = '<';
	print(text);
	fd = attach(false);
	for (unsigned i = 0; i < 8; i++) {
		size_t used = received_used;
		char *end = received + used;
		ssize_t got;

		turn();
		got = read(fd, end, sizeof(received) - used);
		received_used += got > 0 ? got : 0;
	}
	ck_assert_ptr_eq(strstr(received, "{\"return\":{\"writer\":false,\"replay\":65536}}\n<xxx"), received);
	ck_assert_uint_eq(received_used, strlen("{\"return\":{\"writer\":false,\"replay\":65536}}\n") + 65536);
	close(fd);
}
END_TEST

START_TEST(size_of_an_attached_terminal_is_passed_on)
{
	static const char *const wrong[] = {
		"{\"request\":\"console-size\",\"columns\":0,\"rows\":25}",
		"{\"request\":\"console-size\",\"columns\":80,\"rows\":65536}",
		"{\"request\":\"console-size\",\"columns\":-1,\"rows\":25}",
		"{\"request\":\"console-size\",\"columns\":80}",
	};
	unsigned columns, rows;
	int fd = connect_client();

	hear(fd);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_error(wrong[i], "bad-request");
	ck_assert(!terminal_size(&terminal, &columns, &rows));
	ck_assert_uint_eq(orders, 0);
	say(fd, "{\"request\":\"console-size\",\"columns\":65535,\"rows\":25}\n");
	turns(2);
	ck_assert_uint_eq(last_order.kind, ORDER_CONSOLE_SIZE);
	ck_assert(terminal_size(&terminal, &columns, &rows));
	ck_assert_uint_eq(columns, 65535);
	ck_assert_uint_eq(rows, 25);
	answer(0);
	hear(fd);
	ck_assert_str_eq(received, "{\"return\":{}}\n");
	close(fd);
}
END_TEST

START_TEST(one_types_and_all_read)
{
	char typed[16] = "";
	int writer = attach(true), reader = attach(true);

	ck_assert_ptr_nonnull(strstr(received, "\"writer\":false"));
	say(writer, "ls\n");
	say(reader, "no\n");
	turns(2);
	ck_assert_int_eq(read(terminal.inputs[TERMINAL_ATTACHED].fd, typed, sizeof(typed)), 3);
	ck_assert_str_eq(typed, "ls\n");
	print("file\n");
	turn();
	ck_assert_uint_eq(hear(writer), 5);
	ck_assert_uint_eq(hear(reader), 5);
	/* When that has gone, another can. */
	close(writer);
	turn();
	close(reader);
	turn();
	reader = attach(true);
	ck_assert_ptr_nonnull(strstr(received, "\"writer\":true"));
	close(reader);
}
END_TEST

START_TEST(a_guest_that_does_not_read_holds_up_its_writer_alone)
{
	static char lots[4096];
	int writer = attach(true);
	size_t sent = 0, taken = 0;
	ssize_t length;

	memset(lots, 'k', sizeof(lots));
	for (unsigned i = 0; i < 2000; i++) {
		length = write(writer, lots, sizeof(lots));
		sent += length > 0 ? length : 0;
		turn();
	}
	/* A pipe's worth, the buffer's, and the socket's: then it has to wait. */
	ck_assert_uint_lt(sent, 2000 * sizeof(lots));
	ck_assert_ptr_nonnull(strstr(ask("{\"request\":\"status\"}"), "running"));
	while (taken < sent) {
		length = read(terminal.inputs[TERMINAL_ATTACHED].fd, lots, sizeof(lots));
		taken += length > 0 ? length : 0;
		turn();
	}
	ck_assert_uint_eq(taken, sent);
	close(writer);
}
END_TEST

START_TEST(a_reader_that_does_not_read_loses_output_alone)
{
	static char lots[8192 + 1];
	int slow = attach(false), fast = attach(false);
	size_t heard = 0;

	memset(lots, 'o', sizeof(lots) - 1);
	for (unsigned i = 0; i < 200; i++) {
		print(lots);
		turns(2);
		heard += hear(fast);
	}
	ck_assert_uint_eq(heard, 200 * (sizeof(lots) - 1));
	heard = 0;
	for (unsigned i = 0; i < 100; i++) {
		heard += hear(slow);
		if (strstr(received, " bytes lost: read faster"))
			heard += 1u << 30;
		turn();
	}
	ck_assert_uint_gt(heard, 1u << 30);
	ck_assert_uint_lt(heard, (1u << 30) + 200 * (sizeof(lots) - 1));
	close(slow);
	close(fast);
}
END_TEST

START_TEST(a_console_whose_numbers_lie_gives_bytes_at_most)
{
	const uint64_t numbers[] = { UINT64_MAX, UINT64_MAX / 2, 1, 0, TERMINAL_OUTPUT_BYTES + 1 };
	int fd = attach(false);

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		terminal.shared->output_written = numbers[i];
		turns(3);
		hear(fd);
	}
	ck_assert_ptr_nonnull(strstr(ask("{\"request\":\"status\"}"), "running"));
	terminal.shared->output_written = terminal.shared->output_sent = 0;
	close(fd);
}
END_TEST

/* --- Statistics and messages. */

static void add_counter(enum stats_kind kind, const char *device, const char *name, uint64_t value)
{
	struct report_counter *counter = &report->counters[report->counter_count++];

	*counter = (struct report_counter){ .kind = kind, .value = value };
	strncpy(counter->device, device, sizeof(counter->device));
	strncpy(counter->name, name, sizeof(counter->name));
}

static const char *ask_stats(void)
{
	int fd = connect_client();

	hear(fd);
	say(fd, "{\"request\":\"stats\"}\n");
	turns(2);
	answer(0);
	turns(2);
	hear(fd);
	close(fd);
	turn();
	return received;
}

START_TEST(stats_are_grouped)
{
	add_counter(STATS_EXIT, "", "hypercall", 5);
	add_counter(STATS_DEVICE, "vda", "errors", 1);
	add_counter(STATS_LATENCY, "vda", "read", 3);
	add_counter(STATS_LATENCY, "vda", "read", 4);
	report->counters[report->counter_count - 1].bucket = LATENCY_BUCKETS;
	add_counter(STATS_LATENCY_SUM, "vda", "read", 900);
	add_counter(STATS_IO_URING, "", "operations", UINT64_MAX);
	ck_assert_str_eq(ask_stats(),
		"{\"return\":{\"exits\":{\"hypercall\":5},\"devices\":{\"vda\":{\"counters\":{\"errors\":1},"
		"\"latency\":{\"read\":{\"buckets\":[[1024,3],[0,4]],\"ns\":900}}}},"
		"\"io_uring\":{\"operations\":9223372036854775807}}}\n");
}
END_TEST

START_TEST(counters_that_are_none_are_left_out)
{
	add_counter(STATS_KINDS, "", "kind", 1);
	add_counter(STATS_EXIT, "", "", 1);
	add_counter(STATS_EXIT, "", "\033[2J", 1);
	add_counter(STATS_EXIT, "", "name-without-an-end-of-32-letters", 1);
	add_counter(STATS_DEVICE, "", "device", 1);
	add_counter(STATS_DEVICE, "vda\n", "device", 1);
	add_counter(STATS_LATENCY, "vda", "read", 1);
	report->counters[report->counter_count - 1].bucket = LATENCY_BUCKETS + 1;
	ck_assert_str_eq(ask_stats(), "{\"return\":{}}\n");
	report->counter_count = UINT32_MAX;
	ck_assert_ptr_eq(strstr(ask_stats(), "{\"return\":{"), received);
}
END_TEST

START_TEST(latencies_fall_into_their_buckets)
{
	struct latency latency = { 0 }, sum = { 0 };

	latency_add(&latency, -5);
	latency_add(&latency, 1023);
	latency_add(&latency, 1024);
	latency_add(&latency, 2047);
	latency_add(&latency, 2048);
	latency_add(&latency, (1024ll << 23) - 1);
	latency_add(&latency, 1024ll << 23);
	latency_add(&latency, INT64_MAX);
	ck_assert_uint_eq(latency.buckets[0], 2);
	ck_assert_uint_eq(latency.buckets[1], 2);
	ck_assert_uint_eq(latency.buckets[2], 1);
	ck_assert_uint_eq(latency.buckets[23], 1);
	ck_assert_uint_eq(latency.buckets[LATENCY_BUCKETS], 2);
	for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
		ck_assert_uint_eq(latency_bound(i), 1024ull << i);
	latency_sum(&sum, &latency);
	ck_assert_uint_eq(latency_count(&sum), 8);
}
END_TEST

START_TEST(messages_are_kept_and_told)
{
	log_start_history();
	note("first");
	note("not \033[31mred");
	ask("{\"request\":\"log\"}");
	ck_assert_ptr_nonnull(strstr(received, "\"text\":\"karma: first\"}"));
	ck_assert_ptr_nonnull(strstr(received, "\"text\":\"karma: not ?[31mred\"}"));
	for (unsigned i = 0; i < 2000; i++)
		note("message %u of many", i);
	ask("{\"request\":\"log\"}");
	ck_assert_ptr_null(strstr(received, "first"));
	ck_assert_ptr_nonnull(strstr(received, "message 1999 of many"));
	/* Whole messages alone. */
	ck_assert_ptr_eq(strstr(received, "{\"return\":{\"messages\":[{\"time\":"), received);
	ck_assert_ptr_null(strstr(received, "\"time\":0"));
}
END_TEST

/* --- Names and their sockets. */

static char runtime[64];

static void setup_directory(void)
{
	strcpy(runtime, "/tmp/karma-unit-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(runtime));
	ck_assert_int_eq(setenv("XDG_RUNTIME_DIR", runtime, 1), 0);
}

static void teardown_directory(void)
{
	char path[80];

	snprintf(path, sizeof(path), "%s/karma", runtime);
	ck_assert(rmdir(path) == 0 || errno == ENOENT);
	ck_assert_int_eq(rmdir(runtime), 0);
}

START_TEST(names_are_plain)
{
	static const char *const good[] = { "a", "web-1", "_x", "A.b_c-9",
		"012345678901234567890123456789012345678901234567890123456789012" };
	static const char *const bad[] = { "", ".", "..", "-x", "a/b", "a b", "a\n", "\xc3\xa4", "a\033",
		"0123456789012345678901234567890123456789012345678901234567890123" };

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		ck_assert_msg(control_name_is_valid(good[i]), "%s", good[i]);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_msg(!control_name_is_valid(bad[i]), "%s", bad[i]);
}
END_TEST

START_TEST(a_name_is_used_once)
{
	struct control_socket one, other;
	struct stat status;
	pid_t pid;
	int fd;

	ck_assert_int_eq(control_listen(&one, "web", false), 0);
	ck_assert_int_eq(stat(one.path, &status), 0);
	ck_assert_uint_eq(status.st_mode & 0777, 0600);
	ck_assert_int_eq(control_listen(&other, "web", false), -EADDRINUSE);
	ck_assert_int_eq(other.fd, -1);
	fd = control_connect("web", &pid);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pid, getpid());
	close(fd);
	ck_assert_int_eq(control_listen(&other, "db", false), 0);
	control_unlisten(&other);
	control_unlisten(&one);
	ck_assert_int_eq(control_connect("web", &pid), -ENOENT);
}
END_TEST

/* As of one that was killed: the file is there, and nobody listens. */
static void leave_stale(const char *name)
{
	struct control_socket socket;

	ck_assert_int_eq(control_listen(&socket, name, false), 0);
	close(socket.fd);
}

/* Guests of this machine may run beside, in the system's directory. */
static bool is_listed(const char *name)
{
	char (*names)[CONTROL_NAME_MAX + 1];
	int count = control_list(&names);
	bool found = false;

	ck_assert_int_ge(count, 0);
	for (int i = 0; i < count; i++)
		found = found || strcmp(names[i], name) == 0;
	free(names);
	return found;
}

START_TEST(stale_sockets_are_taken_away)
{
	struct control_socket socket;
	pid_t pid;

	leave_stale("unit-web");
	leave_stale("unit-db");
	ck_assert(is_listed("unit-web"));
	ck_assert(is_listed("unit-db"));
	/* By who asks, */
	ck_assert_int_eq(control_connect("unit-db", &pid), -ENOENT);
	ck_assert(!is_listed("unit-db"));
	/* and by who takes the name. */
	ck_assert_int_eq(control_listen(&socket, "unit-web", false), 0);
	control_unlisten(&socket);
	ck_assert(!is_listed("unit-web"));
}
END_TEST

START_TEST(a_socket_of_another_is_left_alone)
{
	struct control_socket one, other;

	ck_assert_int_eq(control_listen(&one, "web", false), 0);
	ck_assert_int_eq(unlink(one.path), 0);
	ck_assert_int_eq(control_listen(&other, "web", false), 0);
	control_unlisten(&one);
	ck_assert_int_eq(access(other.path, F_OK), 0);
	control_unlisten(&other);
}
END_TEST

static bool same_file(const struct stat *one, const char *path)
{
	struct stat other;

	return lstat(path, &other) == 0 && one->st_ino == other.st_ino && one->st_size == other.st_size &&
		one->st_mode == other.st_mode;
}

/* What a dead guest has not left. */
static void put_something(const char *path, unsigned kind)
{
	char target[120];
	int fd;

	snprintf(target, sizeof(target), "%s.target", path);
	switch (kind) {
	case 0:
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
		ck_assert_int_eq(write(fd, "precious", 8), 8);
		close(fd);
		break;
	case 1:
		ck_assert_int_eq(mkdir(path, 0700), 0);
		break;
	case 2:
		ck_assert_int_eq(mkfifo(path, 0600), 0);
		break;
	case 3:
		/* To a file that must stay as well. */
		put_something(target, 0);
		ck_assert_int_eq(symlink(target, path), 0);
		break;
	case 4:
		ck_assert_int_eq(symlink(target, path), 0);
		break;
	}
}

START_TEST(nothing_is_taken_away_but_a_socket)
{
	struct control_socket socket;
	struct stat status;
	char path[100], sock[120];
	const char *said;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/console", runtime);
	put_something(path, _i);
	ck_assert_int_eq(lstat(path, &status), 0);
	messages_begin();
	ck_assert_int_eq(control_listen_at(&socket, path), -EEXIST);
	said = messages_end();
	ck_assert_ptr_nonnull(strstr(said, path));
	ck_assert_ptr_nonnull(strstr(said, "is not touched"));
	ck_assert_int_eq(socket.fd, -1);
	ck_assert(same_file(&status, path));

	leave_stale("web");
	snprintf(sock, sizeof(sock), "%s/karma/web.sock", runtime);
	ck_assert_int_eq(unlink(sock), 0);
	ck_assert_int_eq(rename(path, sock), 0);
	messages_begin();
	ck_assert_int_eq(control_listen(&socket, "web", false), -EEXIST);
	said = messages_end();
	ck_assert_ptr_nonnull(strstr(said, sock));
	ck_assert_int_eq(control_listen(&socket, "web", true), -EEXIST);
	ck_assert_int_lt(control_connect("web", &pid), 0);
	ck_assert(same_file(&status, sock));
	ck_assert_int_eq(remove(sock), 0);
	snprintf(sock, sizeof(sock), "%s.target", path);
	unlink(sock);
}
END_TEST

START_TEST(a_console_takes_the_place_of_a_dead_one_of_ours_alone)
{
	struct control_socket one, other;
	char path[100];

	snprintf(path, sizeof(path), "%s/console", runtime);
	ck_assert_int_eq(control_listen_at(&one, path), 0);
	ck_assert_int_eq(control_listen_at(&other, path), -EADDRINUSE);
	ck_assert_int_eq(access(path, F_OK), 0);
	close(one.fd);
	if (geteuid() == 0) {
		ck_assert_int_eq(lchown(path, 65534, 65534), 0);
		ck_assert_int_eq(control_listen_at(&other, path), -EEXIST);
		ck_assert_int_eq(access(path, F_OK), 0);
		ck_assert_int_eq(lchown(path, 0, 0), 0);
	}
	ck_assert_int_eq(control_listen_at(&other, path), 0);
	control_unlisten(&other);
	ck_assert_int_lt(access(path, F_OK), 0);
}
END_TEST

START_TEST(a_directory_that_others_can_write_is_not_used)
{
	struct control_socket socket;
	char path[80];

	snprintf(path, sizeof(path), "%s/karma", runtime);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_eq(chmod(path, 0777), 0);
	ck_assert_int_eq(control_listen(&socket, "web", false), -EPERM);
	ck_assert_int_eq(control_listen(&socket, "karma-1", true), -EPERM);
}
END_TEST

#define UNIT_USER 61234

/* A supervisor that a service manager has started as a user of the guest's own. */
static pid_t start_supervisor(const char *name, struct control_socket *socket)
{
	int ready[2];
	char byte;
	pid_t pid;

	ck_assert_int_eq(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		bool good = setresgid(UNIT_USER, UNIT_USER, UNIT_USER) == 0 &&
			setresuid(UNIT_USER, UNIT_USER, UNIT_USER) == 0 && control_listen(socket, name, false) == 0;

		if (!good || write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

START_TEST(a_guest_with_a_user_of_its_own_has_a_directory_of_its_own)
{
	struct control_socket socket, root;
	char name[32], directory[64], path[80];
	pid_t pid, found;
	int fd;

	/* To make that directory, and become that user. */
	if (geteuid() != 0)
		return;
	snprintf(name, sizeof(name), "unit-%d", (int)getpid());
	snprintf(directory, sizeof(directory), "/run/karma/%s", name);
	snprintf(path, sizeof(path), "%s/control.sock", directory);
	ck_assert(mkdir("/run/karma", 0711) == 0 || errno == EEXIST);
	ck_assert_int_eq(mkdir(directory, 0700), 0);
	ck_assert_int_eq(chown(directory, UNIT_USER, UNIT_USER), 0);
	pid = start_supervisor(name, &socket);
	ck_assert_int_eq(access(path, F_OK), 0);
	ck_assert(is_listed(name));
	fd = control_connect(name, &found);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(found, pid);
	close(fd);
	ck_assert_int_eq(control_listen(&root, name, false), -EADDRINUSE);
	/* It leads root to another's guest. */
	ck_assert_int_eq(control_listen(&root, "unit-root", false), 0);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(symlink(root.path, path), 0);
	ck_assert_int_eq(control_connect(name, &found), -EPERM);
	control_unlisten(&root);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(rmdir(directory), 0);
	rmdir("/run/karma");
}
END_TEST

Suite *control_suite(void)
{
	Suite *suite = suite_create("control");
	TCase *requests = tcase_create("requests"), *names = tcase_create("names");

	tcase_add_checked_fixture(requests, setup, teardown);
	tcase_add_test(requests, greeting_tells_name_and_versions);
	tcase_add_test(requests, status_has_what_ps_shows);
	tcase_add_test(requests, what_is_no_request_is_refused);
	tcase_add_test(requests, a_request_without_end_is_refused);
	tcase_add_test(requests, deep_nesting_does_no_harm);
	tcase_add_test(requests, requests_of_one_client_are_served_in_turn);
	tcase_add_test(requests, orders_wait_for_each_other);
	tcase_add_test(requests, a_process_that_does_not_answer_is_given_up);
	tcase_add_test(requests, a_client_that_goes_leaves_its_order_behind);
	tcase_add_test(requests, orders_end_with_the_process);
	tcase_add_test(requests, resize_and_balloon_are_orders);
	tcase_add_test(requests, force_that_fails_is_followed_by_a_kill);
	tcase_add_test(requests, who_waits_is_told_the_status);
	tcase_add_test(requests, a_client_that_only_asks_still_gets_its_answer);
	tcase_add_test(requests, connections_are_bounded);
	tcase_add_test(requests, console_is_replayed_and_goes_on);
	tcase_add_test(requests, size_of_an_attached_terminal_is_passed_on);
	tcase_add_test(requests, only_the_last_64_kib_are_replayed);
	tcase_add_test(requests, one_types_and_all_read);
	tcase_add_test(requests, a_guest_that_does_not_read_holds_up_its_writer_alone);
	tcase_add_test(requests, a_reader_that_does_not_read_loses_output_alone);
	tcase_add_test(requests, a_console_whose_numbers_lie_gives_bytes_at_most);
	tcase_add_test(requests, stats_are_grouped);
	tcase_add_test(requests, counters_that_are_none_are_left_out);
	tcase_add_test(requests, latencies_fall_into_their_buckets);
	tcase_add_test(requests, messages_are_kept_and_told);
	suite_add_tcase(suite, requests);
	tcase_add_checked_fixture(names, setup_directory, teardown_directory);
	tcase_add_test(names, names_are_plain);
	tcase_add_test(names, a_name_is_used_once);
	tcase_add_test(names, stale_sockets_are_taken_away);
	tcase_add_test(names, a_socket_of_another_is_left_alone);
	tcase_add_loop_test(names, nothing_is_taken_away_but_a_socket, 0, 5);
	tcase_add_test(names, a_console_takes_the_place_of_a_dead_one_of_ours_alone);
	tcase_add_test(names, a_directory_that_others_can_write_is_not_used);
	tcase_add_test(names, a_guest_with_a_user_of_its_own_has_a_directory_of_its_own);
	suite_add_tcase(suite, names);
	return suite;
}
