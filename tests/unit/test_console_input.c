// SPDX-License-Identifier: GPL-2.0-only
/* Input of the console, its end, and what is quoted. */
#include "console_fixture.h"

START_TEST(input_reaches_the_guest)
{
	start("stdio");
	listen_with(4, 64);
	ck_assert_int_eq(write(to_guest[1], "ls\n", 3), 3);
	assert_guest_gets_text("ls\n");
	ck_assert_int_eq(write(to_guest[1], "exit\n", 5), 5);
	assert_guest_gets_text("exit\n");
	ck_assert_uint_ge(driver_interrupts(&queues[RECEIVE]), 1);
}
END_TEST

static void *serve_a_line_each(void *unused)
{
	assert_guest_gets_text("one\n");
	/* More than pipe and buffer hold: a write of this thread waits for the user. */
	print_lots();
	sim_run_moment(&sim);
	return unused;
}

START_TEST(console_goes_on_when_the_thread_that_asked_ends)
{
	pthread_t thread;

	start("stdio");
	listen_with(4, 64);
	ck_assert_int_eq(write(to_guest[1], "one\n", 4), 4);
	ck_assert_int_eq(pthread_create(&thread, NULL, serve_a_line_each, NULL), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_int_eq(write(to_guest[1], "two\n", 4), 4);
	assert_guest_gets_text("two\n");
	collected_wanted = LOTS;
	ck_assert(sim_run_until(&sim, user_has_output, &from_guest[0]));
	ck_assert_uint_eq(collected_length, LOTS);
}
END_TEST

START_TEST(next_guest_gets_the_input_that_is_left)
{
	start("stdio");
	ck_assert_int_eq(write(to_guest[1], "early\n", 6), 6);
	sim_run_moment(&sim);
	ck_assert(terminal_has_input(&terminal));
	/* The first one is not ready before its end. */
	terminal_hold_input(&terminal);
	terminal_start(&terminal);
	console = console_create(&sim.environment, &terminal);
	ck_assert_uint_eq(sim_add(&sim, console), 1);
	sim_start_device(&sim, 1, FEATURES_INDIRECT | FEATURES_EVENT, queues, 2, QUEUE_SIZE);
	listen_with(4, 64);
	assert_guest_gets_text("early\n");
	ck_assert_int_eq(write(to_guest[1], "late\n", 5), 5);
	assert_guest_gets_text("late\n");
}
END_TEST

START_TEST(nothing_that_a_guest_left_leads_out_of_the_buffers)
{
	const unsigned char bytes[] = { 0x7f, 0x80, 0xff, 0x41 };

	start("stdio");
	for (size_t i = 0; i < ARRAY_SIZE(bytes); i++) {
		memset(terminal.shared, bytes[i], offsetof(struct terminal_shared, output));
		terminal_start(&terminal);
		ck_assert_uint_le(terminal_output_pending(&terminal), TERMINAL_OUTPUT_BYTES);
		ck_assert_uint_lt(terminal.shared->input_start, TERMINAL_INPUT_BYTES);
		ck_assert_uint_le(terminal.shared->input_used, TERMINAL_INPUT_BYTES);
	}
	memset(terminal.shared, 0, sizeof(*terminal.shared));
}
END_TEST

START_TEST(input_waits_for_the_guest_to_listen)
{
	start("stdio");
	ck_assert_int_eq(write(to_guest[1], "early\n", 6), 6);
	sim_run_moment(&sim);
	ck_assert(terminal_has_input(&terminal));
	listen_with(1, 4);
	assert_guest_gets_text("early\n");
}
END_TEST

START_TEST(input_end_without_hold_is_silent)
{
	start("stdio");
	listen_with(4, 64);
	ck_assert_int_eq(write(to_guest[1], "abc", 3), 3);
	close(to_guest[1]);
	assert_guest_gets_text("abc");
}
END_TEST

static void start_held(void)
{
	ck_assert_int_eq(terminal_open(&terminal, "stdio", &sim.ring), 0);
	terminal_hold_input(&terminal);
	start_device();
	listen_with(4, 64);
}

START_TEST(held_input_comes_with_its_release)
{
	start_held();
	ck_assert_int_eq(write(to_guest[1], "uname\n", 6), 6);
	assert_guest_gets("", 0);
	terminal_release_input(&terminal, false);
	assert_guest_gets_text("uname\n");
}
END_TEST

START_TEST(input_that_came_before_the_hold_comes_with_the_release)
{
	start("stdio");
	ck_assert_int_eq(write(to_guest[1], "early\n", 6), 6);
	sim_run_moment(&sim);
	terminal_hold_input(&terminal);
	listen_with(4, 64);
	assert_guest_gets("", 0);
	ck_assert_int_eq(write(to_guest[1], "late\n", 5), 5);
	terminal_release_input(&terminal, false);
	assert_guest_gets_text("early\nlate\n");
}
END_TEST

START_TEST(input_end_before_the_hold_is_told_with_the_release)
{
	start("stdio");
	listen_with(4, 64);
	ck_assert_int_eq(write(to_guest[1], "all\n", 4), 4);
	close(to_guest[1]);
	assert_guest_gets_text("all\n");
	terminal_hold_input(&terminal);
	assert_guest_gets("", 0);
	terminal_release_input(&terminal, false);
	assert_guest_gets_text(END_OF_INPUT);
}
END_TEST

START_TEST(release_without_hold_changes_nothing)
{
	start("stdio");
	listen_with(4, 64);
	terminal_release_input(&terminal, false);
	ck_assert_int_eq(write(to_guest[1], "abc", 3), 3);
	close(to_guest[1]);
	assert_guest_gets_text("abc");
}
END_TEST

START_TEST(input_end_behind_a_line_is_one_end_of_file)
{
	start_held();
	ck_assert_int_eq(write(to_guest[1], "line\n", 5), 5);
	close(to_guest[1]);
	terminal_release_input(&terminal, false);
	assert_guest_gets_text("line\n" END_OF_INPUT);
}
END_TEST

START_TEST(input_end_in_a_line_is_two_ends_of_file)
{
	start_held();
	ck_assert_int_eq(write(to_guest[1], "no line", 7), 7);
	close(to_guest[1]);
	terminal_release_input(&terminal, false);
	assert_guest_gets_text("no line" END_OF_INPUT END_OF_INPUT);
}
END_TEST

START_TEST(empty_input_is_one_end_of_file)
{
	start_held();
	close(to_guest[1]);
	terminal_release_input(&terminal, false);
	assert_guest_gets_text(END_OF_INPUT);
}
END_TEST

START_TEST(input_from_a_file_ends_too)
{
	int fd = temporary_file(0);

	ck_assert_int_eq(write(fd, "script\n", 7), 7);
	lseek(fd, 0, SEEK_SET);
	dup2(fd, STDIN_FILENO);
	start_held();
	terminal_release_input(&terminal, false);
	assert_guest_gets_text("script\n" END_OF_INPUT);
}
END_TEST

START_TEST(input_from_dev_null_is_one_end_of_file)
{
	dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
	start_held();
	terminal_release_input(&terminal, false);
	assert_guest_gets_text(END_OF_INPUT);
}
END_TEST

START_TEST(control_a_of_a_pipe_is_a_byte_like_any)
{
	start("stdio");
	listen_with(4, 64);
	ck_assert_int_eq(write(to_guest[1], "\x01x\x01\x01", 4), 4);
	assert_guest_gets_text("\x01x\x01\x01");
}
END_TEST

#define FEATURES_SYSRQ (FEATURES_INDIRECT | FEATURES_EVENT | FEATURE(KARMA_CONSOLE_F_SYSRQ))

START_TEST(control_o_comes_twice_to_a_driver_that_wants_it_so)
{
	start("stdio");
	sim_reset(&sim, 0);
	sim_start_device(&sim, 0, FEATURES_SYSRQ, queues, 2, QUEUE_SIZE);
	/* In pieces of three bytes, so that a pair is in two of them. */
	listen_with(4, 3);
	ck_assert_int_eq(write(to_guest[1], "ab\x0f\x0f" "c\x0f", 6), 6);
	assert_guest_gets_text("ab\x0f\x0f\x0f\x0f" "c\x0f\x0f");
}
END_TEST

START_TEST(control_o_comes_once_after_a_reset_between_the_two)
{
	start("stdio");
	sim_reset(&sim, 0);
	sim_start_device(&sim, 0, FEATURES_SYSRQ, queues, 2, QUEUE_SIZE);
	listen_with(1, 1);
	ck_assert_int_eq(write(to_guest[1], "\x0f!", 2), 2);
	sim_run_moment(&sim);
	sim_reset(&sim, 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT, queues, 2, QUEUE_SIZE);
	listen_with(4, 1);
	assert_guest_gets_text("\x0f!");
}
END_TEST

static void start_quoted(void)
{
	start_held();
	terminal_release_input(&terminal, true);
}

START_TEST(quoted_input_has_a_quote_before_what_ends_it)
{
	start_quoted();
	ck_assert_int_eq(write(to_guest[1], "a\x04\x16\0b\n", 6), 6);
	close(to_guest[1]);
	assert_guest_gets("a\x16\x04\x16\x16\0b\n\x04", 9);
}
END_TEST

START_TEST(quoted_input_in_a_line_has_two_ends)
{
	start_quoted();
	ck_assert_int_eq(write(to_guest[1], "\x04", 1), 1);
	close(to_guest[1]);
	assert_guest_gets_text("\x16\x04\x04\x04");
}
END_TEST

START_TEST(quoted_input_can_be_read_before_a_line_is_full)
{
	char lines[3000], want[3002];

	start_quoted();
	memset(lines, 'x', sizeof(lines));
	memset(want, 'x', sizeof(want));
	want[2048] = want[3001] = '\x04';
	lines[2999] = want[3000] = '\n';
	ck_assert_int_eq(write(to_guest[1], lines, sizeof(lines)), sizeof(lines));
	close(to_guest[1]);
	assert_guest_gets(want, sizeof(want));
}
END_TEST

START_TEST(hold_ends_the_quoting)
{
	start_quoted();
	terminal_hold_input(&terminal);
	terminal_release_input(&terminal, false);
	ck_assert_int_eq(write(to_guest[1], "\x16\x04", 2), 2);
	assert_guest_gets_text("\x16\x04");
}
END_TEST

static char input_text[LOTS];
static size_t fed;

static bool feed_and_listen(void *unused)
{
	ssize_t written = 0;

	(void)unused;
	if (fed < sizeof(input_text))
		written = write(to_guest[1], input_text + fed, sizeof(input_text) - fed);
	if (written > 0)
		fed += written;
	if (fed == sizeof(input_text)) {
		close(to_guest[1]);
		fed++;
	}
	collect_input();
	return collected_length >= sizeof(input_text) + 2;
}

START_TEST(input_larger_than_all_buffers_arrives_whole)
{
	for (size_t i = 0; i < sizeof(input_text); i++)
		input_text[i] = 'A' + (i ^ i >> 7 ^ i >> 13) % 50;
	start_held();
	terminal_release_input(&terminal, false);
	ck_assert_msg(sim_run_until(&sim, feed_and_listen, NULL), "the guest got %zu bytes",
		collected_length);
	ck_assert_uint_eq(collected_length, sizeof(input_text) + 2);
	ck_assert(memcmp(collected, input_text, sizeof(input_text)) == 0);
	ck_assert_mem_eq(collected + sizeof(input_text), END_OF_INPUT END_OF_INPUT, 2);
}
END_TEST

START_TEST(guest_that_does_not_listen_stops_the_writer)
{
	size_t taken = 0;
	ssize_t written;

	memset(input_text, 'x', sizeof(input_text));
	ck_assert_int_ge(fcntl(to_guest[1], F_SETPIPE_SZ, 4096), 0);
	start("stdio");
	for (unsigned i = 0; i < 8; i++) {
		written = write(to_guest[1], input_text, 4096);
		taken += written > 0 ? written : 0;
		sim_run_moment(&sim);
	}
	/* The monitor's buffer and the pipe's, and no byte more. */
	ck_assert_uint_le(taken, TERMINAL_INPUT_BYTES + 4096);
	ck_assert_uint_ge(taken, 4096);
	listen_with(16, 512);
	assert_guest_gets(input_text, taken);
}
END_TEST

START_TEST(receive_chain_without_room_comes_back_empty)
{
	start("stdio");
	ck_assert_int_eq(write(to_guest[1], "abc", 3), 3);
	sim_run_moment(&sim);
	driver_publish(
		&queues[RECEIVE], driver_chain(&queues[RECEIVE],
					  &(struct part){ sim_alloc(&sim, 16, 1), 16, false }, 1));
	driver_kick(&queues[RECEIVE]);
	ck_assert_uint_eq(driver_wait(&queues[RECEIVE]).len, 0);
	ck_assert(terminal_has_input(&terminal));
}
END_TEST

void console_input_tests(Suite *suite)
{
	const TTest *const piped[] = {
		input_reaches_the_guest,
		console_goes_on_when_the_thread_that_asked_ends,
		next_guest_gets_the_input_that_is_left,
		nothing_that_a_guest_left_leads_out_of_the_buffers,
		input_waits_for_the_guest_to_listen,
		input_end_without_hold_is_silent,
		held_input_comes_with_its_release,
		input_that_came_before_the_hold_comes_with_the_release,
		input_end_before_the_hold_is_told_with_the_release,
		release_without_hold_changes_nothing,
		input_end_behind_a_line_is_one_end_of_file,
		input_end_in_a_line_is_two_ends_of_file,
		empty_input_is_one_end_of_file,
		input_from_a_file_ends_too,
		input_from_dev_null_is_one_end_of_file,
		control_a_of_a_pipe_is_a_byte_like_any,
		control_o_comes_twice_to_a_driver_that_wants_it_so,
		control_o_comes_once_after_a_reset_between_the_two,
		quoted_input_has_a_quote_before_what_ends_it,
		quoted_input_in_a_line_has_two_ends,
		quoted_input_can_be_read_before_a_line_is_full,
		hold_ends_the_quoting,
		input_larger_than_all_buffers_arrives_whole,
		guest_that_does_not_listen_stops_the_writer,
		receive_chain_without_room_comes_back_empty,
	};

	add_case(suite, "pipes", setup, teardown, 30, piped, ARRAY_SIZE(piped));
}
