// SPDX-License-Identifier: GPL-2.0-only
/* How a running guest is operated: requests, orders, statistics and messages. */
#include <fcntl.h>
#include <sys/stat.h>

#include "control_fixture.h"

static bool is_closed(int fd)
{
	struct pollfd watched = { .fd = fd, .events = POLLIN };

	return poll(&watched, 1, 0) > 0 && (watched.revents & POLLHUP);
}

/* Those that the fixture tells of, in statistics. */
#define SNAPSHOTS "\"snapshots\":{\"count\":2,\"bytes\":4096,\"rounds\":3,\"pause_us\":1500}"

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
	report_set_result(report, number + 1, 0);
	control_reply_ready(&control);
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
	ck_assert_ptr_null(control.order_client);
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

START_TEST(connection_comes_with_the_reply)
{
	char line[64], control_bytes[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { line, sizeof(line) };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control_bytes,
		.msg_controllen = sizeof(control_bytes) };
	int fd = connect_client(), passed;

	hear(fd);
	say(fd, "{\"request\":\"connect\",\"port\":22}\n");
	turns(2);
	ck_assert_uint_eq(connection_port, 22);
	/* Not before the guest has answered; an answer to something else is none. */
	control_connected(&control, connection_id + 1, 0);
	turns(2);
	ck_assert_uint_eq(hear(fd), 0);
	control_connected(&control, connection_id, 0);
	control_connected(&control, connection_id, 0);
	turns(2);
	ck_assert_int_eq(recvmsg(fd, &message, 0), strlen("{\"return\":{}}\n"));
	ck_assert_uint_ge(message.msg_controllen, CMSG_LEN(sizeof(int)));
	memcpy(&passed, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(passed));
	ck_assert_int_eq(write(passed, "x", 1), 1);
	ck_assert_int_eq(read(guest_end, line, 1), 1);
	close(passed);
	ck_assert_int_eq(read(guest_end, line, 1), 0);
	close(guest_end);
	close(fd);
}
END_TEST

START_TEST(connection_that_fails_is_told)
{
	static const struct {
		int result;
		const char *code;
	} answers[] = { { -ECONNREFUSED, "refused" }, { -ENOTCONN, "refused" }, { -EBUSY, "busy" } };
	int fd = connect_client();
	char byte;

	assert_error("{\"request\":\"connect\",\"port\":-1}", "bad-request");
	assert_error("{\"request\":\"connect\",\"port\":4294967295}", "bad-request");
	assert_error("{\"request\":\"connect\",\"port\":9}", "no-vsock");
	report_set_state(report, GUEST_PAUSED);
	assert_error("{\"request\":\"connect\",\"port\":22}", "paused");
	report_set_state(report, GUEST_RUNNING);
	hear(fd);
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
		say(fd, "{\"request\":\"connect\",\"port\":22}\n");
		turns(2);
		control_connected(&control, connection_id, answers[i].result);
		turns(2);
		hear(fd);
		ck_assert_ptr_nonnull(strstr(received, answers[i].code));
		ck_assert_int_eq(read(guest_end, &byte, 1), 0);
		close(guest_end);
	}
	say(fd, "{\"request\":\"connect\",\"port\":22}\n");
	turns(2);
	control_process_ended(&control);
	turns(2);
	hear(fd);
	ck_assert_ptr_nonnull(strstr(received, "ended"));
	close(guest_end);
	close(fd);
}
END_TEST

START_TEST(client_that_leaves_takes_its_connection_back)
{
	int fd = connect_client();
	char byte;

	hear(fd);
	say(fd, "{\"request\":\"connect\",\"port\":22}\n");
	turns(2);
	close(fd);
	turns(2);
	ck_assert_int_eq(read(guest_end, &byte, 1), 0);
	close(guest_end);
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
		"\"io_uring\":{\"operations\":9223372036854775807}," SNAPSHOTS "}}\n");
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
	ck_assert_str_eq(ask_stats(), "{\"return\":{" SNAPSHOTS "}}\n");
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

Suite *control_suite(void)
{
	const TTest *const requests[] = {
		greeting_tells_name_and_versions,
		status_has_what_ps_shows,
		what_is_no_request_is_refused,
		a_request_without_end_is_refused,
		deep_nesting_does_no_harm,
		requests_of_one_client_are_served_in_turn,
		orders_wait_for_each_other,
		a_process_that_does_not_answer_is_given_up,
		a_client_that_goes_leaves_its_order_behind,
		orders_end_with_the_process,
		resize_and_balloon_are_orders,
		connection_comes_with_the_reply,
		connection_that_fails_is_told,
		client_that_leaves_takes_its_connection_back,
		force_that_fails_is_followed_by_a_kill,
		who_waits_is_told_the_status,
		a_client_that_only_asks_still_gets_its_answer,
		connections_are_bounded,
		stats_are_grouped,
		counters_that_are_none_are_left_out,
		latencies_fall_into_their_buckets,
		messages_are_kept_and_told,
	};
	Suite *suite = suite_create("control");

	add_case(suite, "requests", setup, teardown, 4, requests, ARRAY_SIZE(requests));
	control_console_tests(suite);
	control_names_tests(suite);
	control_snapshot_tests(suite);
	return suite;
}
