// SPDX-License-Identifier: GPL-2.0-only
/* Commands by the agent: the host's side in this process, and the guest's agent, as it is, in another. */
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#include "agent_fixture.h"
#include "karma/agent_client.h"
#include "karma/commands.h"
#include "karma/status.h"

#define PAYLOAD_BYTES 1000000

static char user[16];		/* we: who is not root can run nothing as another */
static struct agent_command wanted;

static void setup(void)
{
	agent_setup();
	snprintf(user, sizeof(user), "%u", getuid());
}

/* A command of sh, without input; output and error output go to files without names. */
static void want(const char *script)
{
	static const char *shell[4] = { "sh", "-c" };

	shell[2] = script;
	wanted = (struct agent_command){ .arguments = shell, .argument_count = 3, .user = user,
		.fds = { open("/dev/null", O_RDWR), memfd_create("output", 0), memfd_create("error", 0) } };
}

static int run(void)
{
	start_agent();
	return agent_run_command(agent_socket, "web", &wanted);
}

/* What the file has. */
static const char *text_of(int fd)
{
	static char text[65536];
	ssize_t length = pread(fd, text, sizeof(text) - 1, 0);

	ck_assert_int_ge(length, 0);
	text[length] = '\0';
	return text;
}

START_TEST(outputs_are_apart_and_the_status_is_the_commands)
{
	want("echo output; echo error >&2; exit 7");
	ck_assert_int_eq(run(), 7);
	ck_assert_str_eq(text_of(wanted.fds[1]), "output\n");
	ck_assert_str_eq(text_of(wanted.fds[2]), "error\n");
	end_agent();
}
END_TEST

START_TEST(a_signal_that_ends_it_is_told)
{
	want("kill -9 $$");
	ck_assert_int_eq(run(), 128 + SIGKILL);
	end_agent();
}
END_TEST

START_TEST(what_cannot_run_is_told)
{
	static const struct {
		const char *word, *directory, *user;
		int status;
	} cases[] = {
		{ "/nowhere/program", NULL, NULL, 127 },
		{ "/etc/passwd", NULL, NULL, 126 },
		{ "true", "/nowhere", NULL, 125 },
		{ "true", NULL, "nobody-of-that-name", 125 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		want("");
		wanted.arguments = &cases[i].word;
		wanted.argument_count = 1;
		wanted.directory = cases[i].directory;
		if (cases[i].user)
			wanted.user = cases[i].user;
		ck_assert_int_eq(run(), cases[i].status);
		end_agent();
	}
}
END_TEST

START_TEST(environment_and_directory_are_set)
{
	static const char *const variables[] = { "ONE=1", "TWO=a b=c", "ONE=2" };

	want("echo $ONE,$TWO,$PWD,$KARMA_TEST");
	setenv("KARMA_TEST", "ours", 1);
	wanted.environment = variables;
	wanted.environment_count = 3;
	wanted.directory = "/usr";
	ck_assert_int_eq(run(), 0);
	ck_assert_str_eq(text_of(wanted.fds[1]), "2,a b=c,/usr,\n");
	end_agent();
}
END_TEST

START_TEST(input_arrives_with_its_end)
{
	static uint8_t sent[PAYLOAD_BYTES], came[PAYLOAD_BYTES + 1];

	want("cat");
	ck_assert_int_eq(getrandom(sent, sizeof(sent), 0), sizeof(sent));
	wanted.input = true;
	wanted.fds[0] = memfd_create("input", 0);
	ck_assert_int_eq(pwrite(wanted.fds[0], sent, sizeof(sent), 0), sizeof(sent));
	ck_assert_int_eq(run(), 0);
	ck_assert_int_eq(pread(wanted.fds[1], came, sizeof(came), 0), sizeof(sent));
	ck_assert_int_eq(memcmp(sent, came, sizeof(sent)), 0);
	end_agent();
}
END_TEST

START_TEST(without_input_it_is_empty)
{
	want("wc -c");
	wanted.fds[0] = open("/dev/zero", O_RDONLY);
	ck_assert_int_eq(run(), 0);
	ck_assert_str_eq(text_of(wanted.fds[1]), "0\n");
	end_agent();
}
END_TEST

START_TEST(input_that_nobody_reads_holds_up_nothing)
{
	want("yes | head -c 1000000; exit 3");
	wanted.input = true;
	wanted.fds[0] = open("/dev/zero", O_RDONLY);
	ck_assert_int_eq(run(), 3);
	ck_assert_int_eq(lseek(wanted.fds[1], 0, SEEK_END), 1000000);
	end_agent();
}
END_TEST

/* The client is a process, since its output is for us to read, at `ours`, which the agent shall not have: it is started
   before. */
static pid_t start_client(int ours)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		close(ours);
		_exit(agent_run_command(agent_socket, "web", &wanted));
	}
	close(agent_socket);
	agent_socket = -1;
	return pid;
}

static int status_of(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Up to the first newline. */
static const char *read_line(int fd)
{
	static char line[64];
	size_t used = 0;

	while (used < sizeof(line) - 1 && read(fd, line + used, 1) == 1 && line[used] != '\n')
		used++;
	line[used] = '\0';
	return line;
}

START_TEST(output_that_nobody_reads_holds_up_neither_input_nor_errors)
{
	int output[2], error[2];
	char dropped[4096];
	size_t came = 0;
	ssize_t got;
	pid_t client;

	start_agent();
	ck_assert_int_eq(pipe(output) | pipe(error), 0);
	want("yes | head -c 1000000 & wc -c >&2; wait");
	wanted.input = true;
	wanted.fds[0] = memfd_create("input", 0);
	ck_assert_int_eq(ftruncate(wanted.fds[0], PAYLOAD_BYTES), 0);
	wanted.fds[1] = output[1];
	wanted.fds[2] = error[1];
	client = start_client(output[0]);
	close(output[1]);
	close(error[1]);
	ck_assert_str_eq(read_line(error[0]), "1000000");
	while ((got = read(output[0], dropped, sizeof(dropped))) > 0)
		came += got;
	ck_assert_uint_eq(came, 1000000);
	ck_assert_int_eq(status_of(client), 0);
	end_agent();
}
END_TEST

START_TEST(a_reader_that_goes_ends_the_writer)
{
	int output[2];
	pid_t client;

	start_agent();
	ck_assert_int_eq(pipe(output), 0);
	want("exec yes");
	wanted.fds[1] = output[1];
	client = start_client(output[0]);
	close(output[1]);
	ck_assert_str_eq(read_line(output[0]), "y");
	close(output[0]);
	ck_assert_int_eq(status_of(client), 128 + SIGPIPE);
	end_agent();
}
END_TEST

START_TEST(signals_are_the_commands_and_the_third_is_ours)
{
	int output[2];
	pid_t client;

	start_agent();
	ck_assert_int_eq(pipe(output), 0);
	want("trap 'echo caught' TERM; echo started; while :; do sleep 0.01; done");
	wanted.fds[1] = output[1];
	client = start_client(output[0]);
	ck_assert_str_eq(read_line(output[0]), "started");
	for (unsigned i = 0; i < 2; i++) {
		kill(client, SIGTERM);
		ck_assert_str_eq(read_line(output[0]), "caught");
	}
	kill(client, SIGTERM);
	ck_assert_int_eq(status_of(client), 128 + SIGTERM);
	end_agent();
}
END_TEST

START_TEST(a_signal_passes_input_that_waits)
{
	int output[2];
	pid_t client;

	start_agent();
	ck_assert_int_eq(pipe(output), 0);
	want("trap 'exit 9' INT; echo started; while :; do sleep 0.01; done");
	wanted.input = true;
	wanted.fds[0] = open("/dev/zero", O_RDONLY);
	wanted.fds[1] = output[1];
	client = start_client(output[0]);
	ck_assert_str_eq(read_line(output[0]), "started");
	kill(client, SIGINT);
	ck_assert_int_eq(status_of(client), 9);
	end_agent();
}
END_TEST

START_TEST(a_client_that_dies_hangs_up)
{
	int output[2], told[2];
	char script[128];
	pid_t client;

	start_agent();
	ck_assert_int_eq(pipe(output) | pipe(told), 0);
	snprintf(script, sizeof(script), "trap 'echo hangup >/proc/%d/fd/%d; exit' HUP; echo started; "
					 "while :; do sleep 0.01; done", getpid(), told[1]);
	want(script);
	wanted.fds[1] = output[1];
	client = start_client(output[0]);
	ck_assert_str_eq(read_line(output[0]), "started");
	kill(client, SIGKILL);
	ck_assert_int_eq(status_of(client), -SIGKILL);
	ck_assert_str_eq(read_line(told[0]), "hangup");
	end_agent();
}
END_TEST

/* The program of init, and the host goes: in the same guest (0), or because this is a copy of it (1). */
START_TEST(in_a_copy_of_the_guest_its_program_goes_on)
{
	char *program[] = { "sh", "-c", "echo started; read line; echo \"no $line input\"; echo wrong >&2; exit 7", NULL };
	struct generation generation = { .fd = memfd_create("generation", 0), .text = "1\n" };
	int output[2], console = memfd_create("console", 0), ends[2], status;
	pid_t client;

	ck_assert_int_eq(write_bytes(generation.fd, _i ? "2\n" : "1\n", 2), 2);
	ck_assert_int_eq(pipe(output), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	agent_pid = fork();
	if (agent_pid == 0) {
		dup2(console, STDERR_FILENO);
		close(ends[0]);
		_exit(agent_serve_program(ends[1], program, &generation));
	}
	close(ends[1]);
	agent_socket = ends[0];
	want("");
	/* Input that has no end. */
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	wanted.input = true;
	wanted.fds[0] = ends[0];
	wanted.fds[1] = output[1];
	client = start_client(output[0]);
	ck_assert_str_eq(read_line(output[0]), "started");
	kill(client, SIGKILL);
	ck_assert_int_eq(status_of(client), -SIGKILL);
	close_fd(&agent_socket);
	agent_socket = -1;
	ck_assert_int_eq(waitpid(agent_pid, &status, 0), agent_pid);
	ck_assert_int_eq(WEXITSTATUS(status), _i ? 7 : STATUS_SIGNAL + SIGHUP);
	ck_assert_str_eq(text_of(console), _i ? "no  input\nwrong\n" : "");
	close(ends[1]);
}
END_TEST

START_TEST(what_stays_in_the_background_is_not_waited_for)
{
	want("sleep 1000 & echo $!");
	ck_assert_int_eq(run(), 0);
	ck_assert_int_eq(kill(atoi(text_of(wanted.fds[1])), SIGKILL), 0);
	end_agent();
}
END_TEST

START_TEST(a_terminal_has_a_size_and_all_output)
{
	setenv("TERM", "vt100", 1);
	want("tty -s && stty size && echo $TERM && stty -onlcr && seq 20000 && echo end >/dev/tty");
	wanted.terminal = true;
	ck_assert_int_eq(run(), 0);
	ck_assert_int_eq(strncmp(text_of(wanted.fds[1]), "24 80\r\nvt100\r\n1\n2\n", 18), 0);
	/* Of 20,000 lines, 108,894 bytes; and what is before and behind them. */
	ck_assert_int_eq(lseek(wanted.fds[1], 0, SEEK_END), 14 + 108894 + 4);
	ck_assert_int_eq(lseek(wanted.fds[2], 0, SEEK_END), 0);
	end_agent();
}
END_TEST

/* Until what a terminal shows has that. */
static void await(int terminal, const char *text)
{
	char shown[4096];
	size_t used = 0;
	ssize_t got;

	do {
		ck_assert_uint_lt(used, sizeof(shown) - 1);
		got = read(terminal, shown + used, sizeof(shown) - 1 - used);
		ck_assert_int_gt(got, 0);
		used += got;
		shown[used] = '\0';
	} while (!strstr(shown, text));
}

START_TEST(size_and_keys_of_the_users_terminal_are_the_commands)
{
	struct winsize size = { .ws_row = 33, .ws_col = 99 };
	struct termios before, after;
	int terminal, slave;
	pid_t client;

	start_agent();
	ck_assert_int_eq(openpty(&terminal, &slave, NULL, NULL, &size), 0);
	ck_assert_int_eq(tcgetattr(slave, &before), 0);
	want("trap 'stty size; echo changed' WINCH; stty size; echo started; while :; do sleep 0.01; done");
	wanted.terminal = true;
	wanted.fds[0] = wanted.fds[1] = wanted.fds[2] = slave;
	client = fork();
	if (client == 0) {
		setsid();
		ioctl(slave, TIOCSCTTY, 0);
		_exit(agent_run_command(agent_socket, "web", &wanted));
	}
	close_fd(&agent_socket);
	agent_socket = -1;
	await(terminal, "33 99\r\nstarted");
	size.ws_row = 44;
	ck_assert_int_eq(ioctl(terminal, TIOCSWINSZ, &size), 0);
	await(terminal, "44 99\r\nchanged");
	ck_assert_int_eq(write(terminal, "\003", 1), 1);
	ck_assert_int_eq(status_of(client), 128 + SIGINT);
	ck_assert_int_eq(tcgetattr(slave, &after), 0);
	ck_assert(before.c_iflag == after.c_iflag && before.c_oflag == after.c_oflag &&
		before.c_lflag == after.c_lflag);
	end_agent();
}
END_TEST

START_TEST(the_end_of_input_ends_a_terminals)
{
	want("stty -echo; cat; echo end");
	wanted.terminal = true;
	wanted.fds[0] = memfd_create("input", 0);
	ck_assert_int_eq(pwrite(wanted.fds[0], "line\n", 5, 0), 5);
	ck_assert_int_eq(run(), 0);
	ck_assert_ptr_nonnull(strstr(text_of(wanted.fds[1]), "line\r\nend\r\n"));
	end_agent();
}
END_TEST

START_TEST(no_descriptor_stays_open)
{
	int before, after;

	want("true");
	before = dup(0);
	close(before);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_int_eq(run(), 0);
		end_agent();
	}
	after = dup(0);
	close(after);
	ck_assert_int_eq(before, after);
}
END_TEST

START_TEST(wrong_arguments_are_refused)
{
	static char *cases[][6] = {
		{ "exec" },
		{ "exec", "web" },
		{ "exec", "web", "--" },
		{ "exec", "a/b", "--", "true" },
		{ "exec", "web", "-e", "NO-VALUE", "true" },
		{ "exec", "web", "-e" },
		{ "exec", "web", "-x", "--", "true" },
		{ "exec", "web", "--long", "--", "true" },
		{ "exec", "no-guest-of-that-name", "true", "-x" },
		{ "cp", "one" },
		{ "cp", "one", "./web:two" },
		{ "cp", "web:one", "db:two" },
		{ "cp", "web:one", "two", "three" },
		{ "cp", "no-guest-of-that-name:one", "two" },
	};

	setenv("XDG_RUNTIME_DIR", "/nowhere", 1);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int count = 0;

		while (count < 6 && cases[i][count])
			count++;
		/* As in a new process (getopt(3)). */
		optind = 0;
		ck_assert_int_eq((cases[i][0][0] == 'e' ? command_exec : command_cp)(count, cases[i]), 125);
	}
}
END_TEST

/* --- A guest that lies. */

/* What the client returns when the agent says these bytes, and closes. */
static int hear(const void *bytes, size_t length)
{
	int ends[2], status;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	ck_assert_int_eq(send(ends[1], bytes, length, 0), length);
	shutdown(ends[1], SHUT_WR);
	want("");
	status = agent_run_command(ends[0], "web", &wanted);
	close(ends[0]);
	close(ends[1]);
	return status;
}

#define HELLO 4, 0, 0, 0, AGENT_HELLO, 0, 0, 0, 1, 0, 0, 0

START_TEST(an_agent_that_breaks_the_protocol_is_left)
{
	static const struct {
		size_t length;
		uint8_t bytes[48];
	} cases[] = {
		/* Nothing; no HELLO; another version. */
		{ 0, { 0 } },
		{ 16, { 8, 0, 0, 0, AGENT_EXIT, 0, 0, 0 } },
		{ 12, { 4, 0, 0, 0, AGENT_HELLO, 0, 0, 0, 2, 0, 0, 0 } },
		/* A frame that is too long; an unknown one; streams that are not the agent's. */
		{ 20, { HELLO, 1, 0, 2, 0, AGENT_DATA, AGENT_OUTPUT, 0, 0 } },
		{ 20, { HELLO, 0, 0, 0, 0, 99, 0, 0, 0 } },
		{ 21, { HELLO, 1, 0, 0, 0, AGENT_DATA, AGENT_INPUT, 0, 0, 'x' } },
		{ 21, { HELLO, 1, 0, 0, 0, AGENT_DATA, 3, 0, 0, 'x' } },
		/* A window that was not used; a number that is cut. */
		{ 24, { HELLO, 4, 0, 0, 0, AGENT_WINDOW, AGENT_INPUT, 0, 0, 1, 0, 0, 0 } },
		{ 22, { HELLO, 2, 0, 0, 0, AGENT_WINDOW, AGENT_INPUT, 0, 0, 1, 0 } },
		/* Statuses that there are none of. */
		{ 28, { HELLO, 8, 0, 0, 0, AGENT_EXIT, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0 } },
		{ 28, { HELLO, 8, 0, 0, 0, AGENT_EXIT, 0, 0, 0, 0, 0, 0, 0, 65, 0, 0, 0 } },
		/* An ERROR with the status of a command that was fine. */
		{ 29, { HELLO, 9, 0, 0, 0, AGENT_ERROR, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 27 } },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		ck_assert_int_eq(hear(cases[i].bytes, cases[i].length), 125);
}
END_TEST

START_TEST(more_than_the_window_is_refused)
{
	static uint8_t bytes[12 + 2 * AGENT_FRAME_MAX] = { HELLO };
	const struct agent_header header = { .length = AGENT_PAYLOAD_MAX, .type = AGENT_DATA, .stream = AGENT_OUTPUT };
	int output[2], ends[2];
	pid_t guest;

	memcpy(bytes + 12, &header, sizeof(header));
	memcpy(bytes + 12 + AGENT_FRAME_MAX, &header, sizeof(header));
	/* Nobody reads the output. */
	ck_assert_int_eq(pipe(output), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	want("");
	wanted.fds[1] = output[1];
	guest = fork();
	if (guest == 0) {
		close(ends[0]);
		_exit(send(ends[1], bytes, sizeof(bytes), MSG_NOSIGNAL) < 0);
	}
	close(ends[1]);
	ck_assert_int_eq(agent_run_command(ends[0], "web", &wanted), 125);
	close(ends[0]);
	status_of(guest);
}
END_TEST

Suite *agent_suite(void)
{
	const TTest *const tests[] = {
		outputs_are_apart_and_the_status_is_the_commands,
		a_signal_that_ends_it_is_told,
		what_cannot_run_is_told,
		environment_and_directory_are_set,
		input_arrives_with_its_end,
		without_input_it_is_empty,
		input_that_nobody_reads_holds_up_nothing,
		output_that_nobody_reads_holds_up_neither_input_nor_errors,
		a_reader_that_goes_ends_the_writer,
		signals_are_the_commands_and_the_third_is_ours,
		a_signal_passes_input_that_waits,
		a_client_that_dies_hangs_up,
		what_stays_in_the_background_is_not_waited_for,
		a_terminal_has_a_size_and_all_output,
		size_and_keys_of_the_users_terminal_are_the_commands,
		the_end_of_input_ends_a_terminals,
		no_descriptor_stays_open,
		wrong_arguments_are_refused,
		an_agent_that_breaks_the_protocol_is_left,
		more_than_the_window_is_refused,
	};
	Suite *suite = suite_create("agent");

	tcase_add_loop_test(add_case(suite, "command", setup, agent_teardown, 20, tests, ARRAY_SIZE(tests)),
		in_a_copy_of_the_guest_its_program_goes_on, 0, 2);
	agent_add_copies(suite);
	return suite;
}
