// SPDX-License-Identifier: GPL-2.0-only
/* The console on a terminal of a user, in a session of its own. */
#include <errno.h>
#include <linux/virtio_console.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>

#include "console_fixture.h"

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

void console_terminal_tests(Suite *suite)
{
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

	add_case(suite, "terminals", NULL, NULL, 30, sessions, ARRAY_SIZE(sessions));
}
