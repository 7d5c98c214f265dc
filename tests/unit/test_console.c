// SPDX-License-Identifier: GPL-2.0-only
/* The console: output, where it goes, and pseudo-terminals. */
#include <errno.h>
#include <linux/virtio_console.h>
#include <stdio.h>

#include "console_fixture.h"

static bool all_given_back(void *count)
{
	return driver_used(&queues[TRANSMIT]) == *(unsigned *)count;
}

static void assert_all_given_back(unsigned count)
{
	ck_assert_msg(sim_run_until(&sim, all_given_back, &count), "%u of %u chains came back",
		driver_used(&queues[TRANSMIT]), count);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}

static bool all_is_sent(void *unused)
{
	(void)unused;
	return terminal_output_pending(&terminal) == 0;
}

START_TEST(output_reaches_the_pipe)
{
	start("stdio");
	print("hello, ", 7);
	print("user\n", 5);
	assert_user_gets(from_guest[0], "hello, user\n", 12);
	assert_all_given_back(2);
	ck_assert_uint_eq(queues[TRANSMIT].used->ring[0].len, 0);
	ck_assert(sim_run_until(&sim, all_is_sent, NULL));
}
END_TEST

START_TEST(output_of_a_chain_with_many_parts_keeps_its_order)
{
	struct part parts[QUEUE_SIZE];
	uint64_t text = sim_text(&sim, "0123456789abcdefghijklmnopqrstuvwxyz", 36);

	start("stdio");
	for (unsigned i = 0; i < 36; i++)
		parts[i] = (struct part){ text + i, 1, false };
	driver_publish(&queues[TRANSMIT], driver_chain_indirect(&queues[TRANSMIT], parts, 36));
	driver_kick(&queues[TRANSMIT]);
	assert_user_gets(from_guest[0], "0123456789abcdefghijklmnopqrstuvwxyz", 36);
}
END_TEST

START_TEST(reader_that_stops_makes_the_guest_wait_and_loses_nothing)
{
	const char *text;

	ck_assert_int_ge(fcntl(from_guest[0], F_SETPIPE_SZ, 4096), 0);
	start("stdio");
	text = print_lots();
	sim_run_moment(&sim);
	ck_assert_uint_lt(driver_used(&queues[TRANSMIT]), QUEUE_SIZE);
	ck_assert_uint_gt(driver_used(&queues[TRANSMIT]), 0);
	ck_assert_uint_eq(terminal_output_pending(&terminal), TERMINAL_OUTPUT_BYTES);
	assert_user_gets(from_guest[0], text, LOTS);
	assert_all_given_back(QUEUE_SIZE);
}
END_TEST

START_TEST(guest_can_print_what_pipe_and_buffer_hold_together)
{
	static char text[TERMINAL_OUTPUT_BYTES];
	int pipe_bytes = fcntl(from_guest[0], F_GETPIPE_SZ);
	size_t taken;

	ck_assert_int_gt(pipe_bytes, 0);
	start("stdio");
	/* So that the second doesn't fit into the pipe as a whole. */
	taken = terminal_write(&terminal, text, 2 * PAGE_BYTES);
	sim_run_moment(&sim);
	taken += terminal_write(&terminal, text, sizeof(text));
	sim_run_moment(&sim);
	taken += terminal_write(&terminal, text, sizeof(text));
	/* But for a write that is under way and the room that is left in the pipe's last page. */
	ck_assert_uint_ge(taken + 8192 + PAGE_BYTES, sizeof(text) + pipe_bytes);
}
END_TEST

START_TEST(pipe_that_somebody_made_non_blocking_loses_nothing)
{
	const char *text;

	ck_assert_int_ge(fcntl(from_guest[0], F_SETPIPE_SZ, 4096), 0);
	ck_assert_int_eq(fcntl(STDOUT_FILENO, F_SETFL, O_NONBLOCK), 0);
	start("stdio");
	text = print_lots();
	sim_run_moment(&sim);
	assert_user_gets(from_guest[0], text, LOTS);
	assert_all_given_back(QUEUE_SIZE);
}
END_TEST

START_TEST(closed_pipe_drops_output_and_the_guest_goes_on)
{
	const char *said;

	start("stdio");
	close(from_guest[0]);
	messages_begin();
	print("nobody hears this\n", 18);
	assert_all_given_back(1);
	sim_run_moment(&sim);
	print_lots();
	assert_all_given_back(1 + QUEUE_SIZE);
	said = messages_end();
	said = strstr(said, "can't write");
	ck_assert_ptr_nonnull(said);
	ck_assert_ptr_null(strstr(said + 1, "can't write"));
	ck_assert_uint_eq(terminal_output_pending(&terminal), 0);
}
END_TEST

START_TEST(pipe_closed_while_the_guest_waits_lets_it_go_on)
{
	ck_assert_int_ge(fcntl(from_guest[0], F_SETPIPE_SZ, 4096), 0);
	start("stdio");
	print_lots();
	sim_run_moment(&sim);
	ck_assert_uint_lt(driver_used(&queues[TRANSMIT]), QUEUE_SIZE);
	close(from_guest[0]);
	assert_all_given_back(QUEUE_SIZE);
}
END_TEST

START_TEST(driver_shows_that_the_guest_is_up)
{
	start("none");
	ck_assert_uint_eq(sim.ups, 1);
	/* A guest that tells by calls is believed. */
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_ready, 0, 0), 0);
	sim_reset(&sim, 0);
	sim.next_free = 8 * MIB;
	sim_start_device(&sim, 0, FEATURES_PLAIN, queues, 2, QUEUE_SIZE);
	ck_assert_uint_eq(sim.ups, 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_ready, 1, 0), 0);
	ck_assert_uint_eq(sim.ups, 2);
}
END_TEST

START_TEST(reset_forgets_the_chain_that_waits)
{
	ck_assert_int_ge(fcntl(from_guest[0], F_SETPIPE_SZ, 4096), 0);
	start("stdio");
	print_lots();
	sim_run_moment(&sim);
	sim_reset(&sim, 0);
	/* What the terminal has taken still comes, then what is printed after. */
	sim.next_free = 8 * MIB;
	sim_start_device(&sim, 0, FEATURES_PLAIN, queues, 2, QUEUE_SIZE);
	collected_wanted = TERMINAL_OUTPUT_BYTES;
	ck_assert(sim_run_until(&sim, user_has_output, &from_guest[0]));
	sim_run_moment(&sim);
	user_has_output(&from_guest[0]);
	ck_assert_uint_lt(collected_length, LOTS);
	collected_length = 0;
	print("after\n", 6);
	assert_user_gets(from_guest[0], "after\n", 6);
	assert_all_given_back(1);
}
END_TEST

START_TEST(console_none_takes_all_and_gives_nothing)
{
	ck_assert_int_eq(write(to_guest[1], "x", 1), 1);
	start("none");
	listen_with(1, 16);
	print_lots();
	assert_all_given_back(QUEUE_SIZE);
	assert_guest_gets("", 0);
}
END_TEST

static bool is_written(void *context)
{
	return lseek(*(int *)context, 0, SEEK_END) == 13;
}

START_TEST(console_file_is_appended_to)
{
	char path[] = "/tmp/karma-console-XXXXXX", spec[64], text[64];
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, "before\n", 7), 7);
	snprintf(spec, sizeof(spec), "file:%s", path);
	start(spec);
	print("guest\n", 6);
	assert_all_given_back(1);
	ck_assert(sim_run_until(&sim, is_written, &fd));
	ck_assert_int_eq(pread(fd, text, sizeof(text), 0), 13);
	ck_assert_mem_eq(text, "before\nguest\n", 13);
	unlink(path);
	close(fd);
}
END_TEST

START_TEST(bad_consoles_are_refused)
{
	const char *const specs[] = { "", "tty", "file:", "stdio:", "none ", "pty:x" };
	char spec[64];

	for (size_t i = 0; i < ARRAY_SIZE(specs); i++)
		ck_assert_int_eq(terminal_open(&terminal, specs[i], &sim.ring), -EINVAL);
	messages_begin();
	ck_assert_int_eq(terminal_open(&terminal, "file:/nowhere/log", &sim.ring), -ENOENT);
	ck_assert_ptr_nonnull(strstr(messages_end(), "/nowhere/log"));
	snprintf(spec, sizeof(spec), "file:%s", socket_path());
	messages_begin();
	ck_assert_int_eq(terminal_open(&terminal, spec, &sim.ring), -EINVAL);
	ck_assert_ptr_nonnull(strstr(messages_end(), "is a socket"));
}
END_TEST

START_TEST(pipe_has_the_size_of_who_is_attached)
{
	const struct virtio_console_config *config;

	start("stdio");
	config = console->config;
	ck_assert(console->offered & FEATURE(VIRTIO_CONSOLE_F_SIZE));
	console_resized(console);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), 0);
	ck_assert_uint_eq(config->cols, 0);
	ck_assert_uint_eq(config->rows, 0);
	terminal_set_attached_size(&terminal, UINT16_MAX, 43);
	console_resized(console);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG);
	ck_assert_uint_eq(config->cols, UINT16_MAX);
	ck_assert_uint_eq(config->rows, 43);
}
END_TEST

START_TEST(size_is_told_again_when_the_guest_first_prints)
{
	start("stdio");
	terminal_set_attached_size(&terminal, 80, 25);
	console_resized(console);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG);
	print("one\n", 4);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG);
	print("two\n", 4);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), 0);
}
END_TEST

START_TEST(pty_is_named_and_works_both_ways)
{
	char path[64] = "";
	const char *said;
	int user;

	messages_begin();
	start("pty");
	said = messages_end();
	ck_assert_ptr_nonnull(strstr(said, "/dev/pts/"));
	ck_assert_int_eq(sscanf(strstr(said, "/dev/pts/"), "%63s", path), 1);
	user = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_int_ge(user, 0);
	print("login: ", 7);
	assert_user_gets(user, "login: ", 7);
	listen_with(4, 64);
	/* Raw: no line is waited for, nothing is echoed, no key is special. */
	ck_assert_int_eq(write(user, "r\x01\x03", 3), 3);
	assert_guest_gets("r\x01\x03", 3);
	/* It lives on without the user. */
	close(user);
	sim_run_moment(&sim);
	user = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_int_ge(user, 0);
	print("again\n", 6);
	assert_user_gets(user, "again\n", 6);
	close(user);
}
END_TEST

/* The guest's disks go by the same rings. */
START_TEST(pty_that_nobody_reads_holds_up_nobody_else)
{
	const char *text;
	int user;

	start("pty");
	user = open(ptsname(terminal.out_fd), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_int_ge(user, 0);
	text = print_lots();
	sim_run_moment(&sim);
	ck_assert_uint_eq(terminal_output_pending(&terminal), TERMINAL_OUTPUT_BYTES);
	ck_assert_uint_lt(driver_used(&queues[TRANSMIT]), QUEUE_SIZE);
	assert_user_gets(user, text, LOTS);
	assert_all_given_back(QUEUE_SIZE);
	close(user);
}
END_TEST

Suite *console_suite(void)
{
	const TTest *const piped[] = {
		output_reaches_the_pipe,
		output_of_a_chain_with_many_parts_keeps_its_order,
		reader_that_stops_makes_the_guest_wait_and_loses_nothing,
		guest_can_print_what_pipe_and_buffer_hold_together,
		pipe_that_somebody_made_non_blocking_loses_nothing,
		closed_pipe_drops_output_and_the_guest_goes_on,
		pipe_closed_while_the_guest_waits_lets_it_go_on,
		driver_shows_that_the_guest_is_up,
		reset_forgets_the_chain_that_waits,
		console_none_takes_all_and_gives_nothing,
		console_file_is_appended_to,
		bad_consoles_are_refused,
		pipe_has_the_size_of_who_is_attached,
		size_is_told_again_when_the_guest_first_prints,
		pty_is_named_and_works_both_ways,
		pty_that_nobody_reads_holds_up_nobody_else,
	};
	Suite *suite = suite_create("console");

	add_case(suite, "pipes", setup, teardown, 30, piped, ARRAY_SIZE(piped));
	console_input_tests(suite);
	console_terminal_tests(suite);
	return suite;
}
