// SPDX-License-Identifier: GPL-2.0-only
/* The console of a guest, by its control socket. */
#include "control_fixture.h"

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

void control_console_tests(Suite *suite)
{
	const TTest *const requests[] = {
		console_is_replayed_and_goes_on,
		size_of_an_attached_terminal_is_passed_on,
		only_the_last_64_kib_are_replayed,
		one_types_and_all_read,
		a_guest_that_does_not_read_holds_up_its_writer_alone,
		a_reader_that_does_not_read_loses_output_alone,
		a_console_whose_numbers_lie_gives_bytes_at_most,
	};

	add_case(suite, "requests", setup, teardown, 4, requests, ARRAY_SIZE(requests));
}
