// SPDX-License-Identifier: GPL-2.0-only
/* The console device and the user's end of it: pipes, files, terminals, and their ends. */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>

#include "guest.h"

#define QUEUE_SIZE 64
#define RECEIVE 0
#define TRANSMIT 1
#define END_OF_INPUT "\x04"
#define LOTS (256 * KIB)

static struct sim sim;
static struct terminal terminal;
static struct driver_queue queues[2];
static struct virtio_device *console;
static int to_guest[2], from_guest[2];
static bool started;

/* What came out at an end, with room for all that a test sends. */
static char collected[2 * LOTS];
static size_t collected_length, collected_wanted;

static void setup(void)
{
	ck_assert_int_eq(pipe2(to_guest, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(from_guest, O_CLOEXEC), 0);
	/* The test's ends must not block: it is the user, the guest and the monitor in one. */
	fcntl(to_guest[1], F_SETFL, O_NONBLOCK);
	fcntl(from_guest[0], F_SETFL, O_NONBLOCK);
	ck_assert_int_eq(dup2(to_guest[0], STDIN_FILENO), STDIN_FILENO);
	ck_assert_int_eq(dup2(from_guest[1], STDOUT_FILENO), STDOUT_FILENO);
	close(to_guest[0]);
	close(from_guest[1]);
	sim_init(&sim, SIM_MEMORY);
	collected_length = 0;
}

/* In the monitor's order: the terminal outlives the ring. */
static void teardown(void)
{
	if (started) {
	}
	sim_release(&sim);
	if (started)
		terminal_close(&terminal);
}

static void start_device(void)
{
	console = console_create(&sim.environment, &terminal);
	ck_assert_uint_eq(sim_add(&sim, console), 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT, queues, 2, QUEUE_SIZE);
	started = true;
}

static void start(const char *spec)
{
	ck_assert_int_eq(terminal_open(&terminal, spec, &sim.ring), 0);
	start_device();
}

/* The guest prints; it does not wait. */
static void print(const char *text, size_t length)
{
	driver_publish(&queues[TRANSMIT],
		driver_chain(&queues[TRANSMIT],
			&(struct part){ sim_text(&sim, text, length), length, false }, 1));
	driver_kick(&queues[TRANSMIT]);
}

static uint64_t input_gpa;
static uint32_t input_length;

static void offer(uint16_t descriptor)
{
	queues[RECEIVE].next_descriptor = descriptor;
	driver_publish(&queues[RECEIVE],
		driver_chain(&queues[RECEIVE],
			&(struct part){ input_gpa + (uint64_t)descriptor * input_length,
				input_length, true },
			1));
}

/* The guest listens, with count buffers of some bytes. */
static void listen_with(unsigned count, uint32_t length)
{
	input_length = length;
	input_gpa = sim_alloc(&sim, (size_t)QUEUE_SIZE * length, 1);
	for (unsigned i = 0; i < count; i++)
		offer(i);
	driver_kick(&queues[RECEIVE]);
}

static void collect(const void *bytes, size_t length)
{
	ck_assert_uint_le(collected_length + length, sizeof(collected));
	memcpy(collected + collected_length, bytes, length);
	collected_length += length;
}

/* Take what the guest got, and give its buffers back to the device. */
static void collect_input(void)
{
	struct driver_queue *queue = &queues[RECEIVE];
	bool any = false;

	while (driver_used(queue)) {
		struct vring_used_elem element =
			queue->used->ring[queue->last_used++ % queue->size];

		ck_assert_uint_le(element.len, input_length);
		collect(sim_at(&sim, input_gpa + (uint64_t)element.id * input_length, element.len),
			element.len);
		offer(element.id);
		any = true;
	}
	if (any)
		driver_kick(queue);
}

static bool guest_has_input(void *unused)
{
	(void)unused;
	collect_input();
	return collected_length >= collected_wanted;
}

/* The guest gets just this, in all. */
static void assert_guest_gets(const void *text, size_t length)
{
	collected_wanted = length;
	ck_assert_msg(sim_run_until(&sim, guest_has_input, NULL), "the guest got %zu of %zu bytes",
		collected_length, length);
	sim_run_moment(&sim);
	collect_input();
	ck_assert_uint_eq(collected_length, length);
	ck_assert(memcmp(collected, text, length) == 0);
	collected_length = 0;
}

static void assert_guest_gets_text(const char *text)
{
	assert_guest_gets(text, strlen(text));
}

static bool user_has_output(void *fd)
{
	char bytes[8192];
	ssize_t got = read(*(int *)fd, bytes, sizeof(bytes));

	if (got > 0)
		collect(bytes, got);
	return collected_length >= collected_wanted;
}

static void assert_user_gets(int fd, const void *text, size_t length)
{
	collected_wanted = length;
	ck_assert_msg(sim_run_until(&sim, user_has_output, &fd), "the user got %zu of %zu bytes",
		collected_length, length);
	ck_assert_uint_eq(collected_length, length);
	ck_assert(memcmp(collected, text, length) == 0);
	collected_length = 0;
}

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

/* 64 chains of 4 KiB, far more than pipe and buffer hold. */
static const char *print_lots(void)
{
	static char text[LOTS];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = 'a' + (i ^ i >> 8 ^ i >> 12) % 26;
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		print(text + i * LOTS / QUEUE_SIZE, LOTS / QUEUE_SIZE);
	return text;
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

/*
 * With a controlling terminal: each of these runs in a session of its own, as its leader, with
 * the terminal's other end, which is the user's, at hand.
 */
static int user_end;
static unsigned leaves;

static void open_session_terminal(void)
{
	int slave, master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	struct winsize size = { .ws_row = 43, .ws_col = 132 };

	ck_assert_int_ge(master, 0);
	ck_assert_int_eq(grantpt(master), 0);
	ck_assert_int_eq(unlockpt(master), 0);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_ge(slave, 0);
	ck_assert_int_eq(ioctl(slave, TIOCSCTTY, 0), 0);
	ck_assert_int_eq(ioctl(slave, TIOCSWINSZ, &size), 0);
	dup2(slave, STDIN_FILENO);
	dup2(slave, STDOUT_FILENO);
	close(slave);
	user_end = master;
}

static void in_session(void (*body)(void))
{
	pid_t pid = fork();
	int status = 0;

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (setsid() < 0)
			_exit(99);
		open_session_terminal();
		body();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}

static void count_leave(void *context)
{
	(void)context;
	leaves++;
}

/* In the monitor's order: the guard is forked before there is guest memory. */
static void start_interactive(void)
{
	ck_assert_int_eq(terminal_open(&terminal, "stdio", &sim.ring), 0);
	ck_assert(terminal.interactive);
	ck_assert_int_eq(terminal_set_raw(&terminal), 0);
	terminal.leave = count_leave;
	sim_init(&sim, SIM_MEMORY);
	start_device();
	listen_with(4, 64);
}

static void type(const char *keys)
{
	ck_assert_int_eq(write(user_end, keys, strlen(keys)), (ssize_t)strlen(keys));
}

static void keys_body(void)
{
	start_interactive();
	type("ls\r");
	assert_guest_gets_text("ls\r");
	/* Neither signal, end of file nor flow control: the guest's own. */
	type("\x03\x04\x1a\x11\x13\x1c");
	assert_guest_gets_text("\x03\x04\x1a\x11\x13\x1c");
	ck_assert_uint_eq(leaves, 0);
}

START_TEST(every_key_goes_to_the_guest)
{
	in_session(keys_body);
}
END_TEST

static void escape_body(void)
{
	start_interactive();
	type("\x01"
	     "a");
	assert_guest_gets_text("\x01");
	type("1\x01\x01"
	     "2");
	assert_guest_gets_text("1\x01"
			       "2");
	type("x");
	assert_guest_gets_text("x");
	ck_assert_uint_eq(leaves, 0);
}

START_TEST(control_a_a_sends_control_a)
{
	in_session(escape_body);
}
END_TEST

static bool has_left(void *unused)
{
	(void)unused;
	return leaves > 0;
}

static void leave_body(void)
{
	start_interactive();
	type("\x01");
	sim_run_moment(&sim);
	type("x");
	ck_assert(sim_run_until(&sim, has_left, NULL));
	assert_guest_gets("", 0);
	ck_assert_uint_eq(leaves, 1);
}

START_TEST(control_a_x_leaves)
{
	in_session(leave_body);
}
END_TEST

static void leave_full_body(void)
{
	start_interactive();
	/* Far more than the guest takes: its buffers are too small, and it stopped. */
	for (unsigned i = 0; i < 3 * TERMINAL_INPUT_BYTES / 64; i++) {
		type("0123456789012345678901234567890123456789012345678901234567890123");
		io_ring_reap(&sim.ring, false);
	}
	sim_run_moment(&sim);
	type("\x01x");
	ck_assert(sim_run_until(&sim, has_left, NULL));
	sim_run_moment(&sim);
	ck_assert_uint_eq(leaves, 1);
}

START_TEST(control_a_x_leaves_a_guest_that_does_not_listen)
{
	in_session(leave_full_body);
}
END_TEST

static bool help_was_given(void *unused)
{
	(void)unused;
	return strstr(messages_so_far(), "Ctrl-A x");
}

static void help_body(void)
{
	static const char *const keys[] = { "\x01h", "\x01?" };

	start_interactive();
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		messages_begin();
		type(keys[i]);
		ck_assert(sim_run_until(&sim, help_was_given, NULL));
		assert_guest_gets("", 0);
		messages_end();
	}
	ck_assert_uint_eq(leaves, 0);
}

START_TEST(control_a_h_helps)
{
	in_session(help_body);
}
END_TEST

static void held_person_body(void)
{
	start_interactive();
	terminal_hold_input(&terminal);
	type("y");
	assert_guest_gets_text("y");
}

START_TEST(input_of_a_person_is_never_held)
{
	in_session(held_person_body);
}
END_TEST

static void output_body(void)
{
	start_interactive();
	print("hi\n", 3);
	/* Lines of ours and the guest's alike start at the left. */
	assert_user_gets(user_end, "hi\r\n", 4);
}

START_TEST(output_stays_processed)
{
	in_session(output_body);
}
END_TEST

static void size_body(void)
{
	const struct virtio_console_config *config;
	struct winsize size = { .ws_row = 24, .ws_col = 80 };
	int64_t generation;

	start_interactive();
	/* The user's own counts. */
	terminal_set_attached_size(&terminal, 100, 50);
	config = console->config;
	ck_assert(console->offered & FEATURE(VIRTIO_CONSOLE_F_SIZE));
	ck_assert_uint_eq(config->cols, 132);
	ck_assert_uint_eq(config->rows, 43);
	generation = sim_call(&sim, KARMA_CALL_config_generation, 0, 0);
	console_resized(console);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), 0);
	ck_assert_int_eq(ioctl(user_end, TIOCSWINSZ, &size), 0);
	console_resized(console);
	ck_assert_uint_eq(config->cols, 80);
	ck_assert_uint_eq(config->rows, 24);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG);
	ck_assert_int_ne(sim_call(&sim, KARMA_CALL_config_generation, 0, 0), generation);
}

START_TEST(guest_learns_of_the_terminals_size)
{
	in_session(size_body);
}
END_TEST

static bool same_mode(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
	       a->c_lflag == b->c_lflag && memcmp(a->c_cc, b->c_cc, sizeof(a->c_cc)) == 0;
}

static void restore_body(void)
{
	struct termios before, during, after;

	ck_assert_int_eq(tcgetattr(user_end, &before), 0);
	ck_assert(before.c_lflag & ICANON);
	start_interactive();
	ck_assert_int_eq(tcgetattr(user_end, &during), 0);
	ck_assert_uint_eq(during.c_lflag & (ICANON | ECHO | ISIG), 0);
	teardown();
	ck_assert_int_eq(tcgetattr(user_end, &after), 0);
	ck_assert(same_mode(&before, &after));
	/* The guard is gone too. */
	ck_assert_int_eq(waitpid(-1, NULL, 0), -1);
	ck_assert_int_eq(errno, ECHILD);
}

START_TEST(terminal_is_restored_at_the_end)
{
	in_session(restore_body);
}
END_TEST

/* A monitor that starts its terminal and is killed before it can restore it. */
static pid_t start_victim(void)
{
	int ready[2];
	char word;
	pid_t pid;

	ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (terminal_open(&terminal, "stdio", NULL) < 0 || terminal_set_raw(&terminal) < 0 ||
			write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &word, 1), 1);
	close(ready[0]);
	return pid;
}

static void killed_body(void)
{
	const struct timespec moment = { .tv_nsec = 1000 * 1000 };
	struct termios before, now;
	pid_t victim;

	ck_assert_int_eq(tcgetattr(user_end, &before), 0);
	victim = start_victim();
	ck_assert_int_eq(tcgetattr(user_end, &now), 0);
	ck_assert(!same_mode(&before, &now));
	ck_assert_int_eq(kill(victim, SIGKILL), 0);
	ck_assert_int_eq(waitpid(victim, NULL, 0), victim);
	for (unsigned i = 0; i < SIM_PATIENCE_MS; i++) {
		ck_assert_int_eq(tcgetattr(user_end, &now), 0);
		if (same_mode(&before, &now))
			return;
		nanosleep(&moment, NULL);
	}
	ck_abort_msg("the terminal stays raw");
}

START_TEST(terminal_is_restored_after_sigkill)
{
	in_session(killed_body);
}
END_TEST

static void background_body(void)
{
	struct termios before, after;
	int status;
	pid_t pid;

	ck_assert_int_eq(tcgetattr(user_end, &before), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		setpgid(0, 0);
		if (terminal_open(&terminal, "stdio", NULL) < 0 || terminal_set_raw(&terminal) < 0)
			_exit(1);
		_exit(terminal.interactive || terminal.in_fd != -1);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(tcgetattr(user_end, &after), 0);
	ck_assert(same_mode(&before, &after));
}

START_TEST(background_process_leaves_the_terminal_alone)
{
	in_session(background_body);
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
		pipe_has_the_size_of_who_is_attached,
		size_is_told_again_when_the_guest_first_prints,
		pty_is_named_and_works_both_ways,
		pty_that_nobody_reads_holds_up_nobody_else,
	};
	const TTest *const sessions[] = {
		every_key_goes_to_the_guest,
		control_a_a_sends_control_a,
		control_a_x_leaves,
		control_a_x_leaves_a_guest_that_does_not_listen,
		control_a_h_helps,
		input_of_a_person_is_never_held,
		output_stays_processed,
		guest_learns_of_the_terminals_size,
		terminal_is_restored_at_the_end,
		terminal_is_restored_after_sigkill,
		background_process_leaves_the_terminal_alone,
	};
	Suite *suite = suite_create("console");
	TCase *pipes = tcase_create("pipes"), *terminals = tcase_create("terminals");

	tcase_add_checked_fixture(pipes, setup, teardown);
	tcase_set_timeout(pipes, 30);
	for (size_t i = 0; i < ARRAY_SIZE(piped); i++)
		tcase_add_test(pipes, piped[i]);
	suite_add_tcase(suite, pipes);
	tcase_set_timeout(terminals, 30);
	for (size_t i = 0; i < ARRAY_SIZE(sessions); i++)
		tcase_add_test(terminals, sessions[i]);
	suite_add_tcase(suite, terminals);
	return suite;
}
