// SPDX-License-Identifier: GPL-2.0-only
/* The user's end of the console: terminal, pipe, file or pty, and its life cycle. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "karma/file_kind.h"
#include "karma/log.h"
#include "karma/terminal.h"
#include "karma/util.h"

static int open_stdio(struct terminal *terminal)
{
	terminal->in_fd = STDIN_FILENO;
	terminal->out_fd = STDOUT_FILENO;
	if (!isatty(STDIN_FILENO))
		return 0;
	/*
	 * In the background the terminal belongs to another process group: do not read it, nor
	 * change its mode.
	 */
	if (tcgetpgrp(STDIN_FILENO) != getpgrp()) {
		terminal->in_fd = -1;
		return 0;
	}
	terminal->interactive = terminal->typed = true;
	return 0;
}

static int open_pty(struct terminal *terminal)
{
	char path[128];
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios mode;

	if (master < 0)
		return fail(-errno, "console pty: %s: mount devpts on /dev/pts", strerror(errno));
	terminal->own_fds = terminal->typed = true;
	terminal->in_fd = terminal->out_fd = master;
	if (grantpt(master) < 0 || unlockpt(master) < 0 ||
		ptsname_r(master, path, sizeof(path)) != 0 ||
		(terminal->pty_slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0)
		return fail(-errno, "console pty: %s: mount devpts on /dev/pts", strerror(errno));
	/* Raw: the guest's terminal driver echoes and edits lines. */
	if (tcgetattr(terminal->pty_slave, &mode) == 0) {
		cfmakeraw(&mode);
		tcsetattr(terminal->pty_slave, TCSANOW, &mode);
	}
	note("console is %s", path);
	return 0;
}

static int open_output_file(struct terminal *terminal, const char *path)
{
	struct stat status;

	if (stat(path, &status) == 0 && (S_ISDIR(status.st_mode) || S_ISSOCK(status.st_mode)))
		return fail(-EINVAL, "console file %s: is %s: give the path of a file, pipe or terminal",
			path, file_kind(status.st_mode));
	terminal->out_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (terminal->out_fd < 0)
		return fail(-errno, "console file %s: %s: give a path that can be written", path,
			strerror(errno));
	terminal->own_fds = true;
	return 0;
}

/* For attached clients: a pipe for what they type, and an eventfd that says there is output. */
static int open_attached(struct terminal *terminal)
{
	int ends[2];

	terminal->watch_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (terminal->watch_fd < 0 || pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return fail(-errno, "console: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	terminal->inputs[TERMINAL_ATTACHED].fd = ends[0];
	terminal->attached_fd = ends[1];
	return 0;
}

static int open_spec(struct terminal *terminal, const char *spec)
{
	if (strcmp(spec, "stdio") == 0)
		return open_stdio(terminal);
	if (strcmp(spec, "stderr") == 0) {
		terminal->out_fd = STDERR_FILENO;
		return 0;
	}
	if (strcmp(spec, "pty") == 0)
		return open_pty(terminal);
	if (strncmp(spec, "file:", 5) == 0 && spec[5])
		return open_output_file(terminal, spec + 5);
	if (strncmp(spec, "unix:", 5) == 0 && spec[5]) {
		terminal->typed = true;
		return 0;
	}
	if (strcmp(spec, "none") == 0)
		return 0;
	return fail(-EINVAL,
		"--console %s: is none of stdio, stderr, pty, none, file:PATH, unix:PATH: give one of these",
		spec);
}

int terminal_open(struct terminal *terminal, const char *spec, struct io_ring *ring)
{
	int result = 0;

	*terminal = (struct terminal){ .ring = ring };
	terminal->in_fd = terminal->out_fd = terminal->pty_slave = terminal->guard_pipe = -1;
	terminal->attached_fd = terminal->watch_fd = -1;
	for (unsigned i = 0; i < TERMINAL_INPUTS; i++)
		terminal->inputs[i] = (struct terminal_input){ .terminal = terminal, .fd = -1 };
	pthread_mutex_init(&terminal->lock, NULL);
	/* Shared by the processes of all guests. */
	terminal->shared = mmap(NULL, sizeof(*terminal->shared), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (terminal->shared == MAP_FAILED) {
		terminal->shared = NULL;
		result = fail(-ENOMEM, "console: no memory for its buffers: free some on the host");
	} else {
		result = open_attached(terminal);
	}
	if (result == 0)
		result = open_spec(terminal, spec);
	if (result < 0) {
		terminal_close(terminal);
		return result;
	}
	terminal->inputs[TERMINAL_USER].fd = terminal->in_fd;
	/* No input counts as input that has ended: a guest may wait for the end. */
	terminal->shared->input_ended = terminal->in_fd < 0 && !terminal->typed;
	return 0;
}

/*
 * The guard process: waits for a byte from the monitor, or for its death, after which it restores
 * the terminal.
 */
static void run_guard(struct terminal *terminal, int pipe_fd)
{
	sigset_t all;
	char word;
	ssize_t got;

	prctl(PR_SET_NAME, "karma-terminal");
	/*
	 * Keep only the terminal and the pipe: a reader of any other descriptor must see its end.
	 */
	if (dup2(pipe_fd, STDOUT_FILENO) >= 0)
		pipe_fd = STDOUT_FILENO;
	close(STDERR_FILENO);
	close_range(STDERR_FILENO + 1, ~0u, 0);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	do {
		got = read(pipe_fd, &word, 1);
	} while (got < 0 && errno == EINTR);
	if (got != 1)
		tcsetattr(terminal->in_fd, TCSANOW, &terminal->saved);
	_exit(0);
}

static int start_guard(struct terminal *terminal)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	terminal->guard = fork();
	if (terminal->guard < 0) {
		close(ends[0]);
		close(ends[1]);
		return -errno;
	}
	if (terminal->guard == 0) {
		close(ends[1]);
		run_guard(terminal, ends[0]);
	}
	close(ends[0]);
	terminal->guard_pipe = ends[1];
	return 0;
}

int terminal_set_raw(struct terminal *terminal)
{
	struct termios raw;
	int result;

	if (!terminal->interactive)
		return 0;
	if (tcgetattr(terminal->in_fd, &terminal->saved) < 0)
		return fail(-errno, "terminal: can't read its mode: %s: give --console none",
			strerror(errno));
	result = start_guard(terminal);
	if (result < 0)
		return fail(result, "terminal: can't start its guard: %s: raise the limit of "
				    "processes (ulimit -u), or give --console none",
			strerror(-result));
	note("Ctrl-A x ends the guest and leaves, Ctrl-A h helps");
	/* Each key goes to the guest.  Output processing stays on, for Karma's own messages. */
	raw = terminal->saved;
	raw.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	raw.c_lflag &= ~(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	if (tcsetattr(terminal->in_fd, TCSANOW, &raw) < 0)
		return fail(-errno, "terminal: can't set raw mode: %s: give --console none",
			strerror(errno));
	return 0;
}

void terminal_start(struct terminal *terminal)
{
	struct terminal_shared *shared = terminal->shared;

	terminal->input_ready = terminal->output_ready = NULL;
	terminal->context = NULL;
	terminal->output_full = false;
	terminal->input_held = terminal->eof_wanted = terminal->eof_pending = false;
	terminal->quotes = false;
	/* The earlier guest may have left anything. */
	shared->input_start %= TERMINAL_INPUT_BYTES;
	if (shared->output_written - shared->output_sent > TERMINAL_OUTPUT_BYTES)
		shared->output_sent = shared->output_written;
	if (shared->input_used > TERMINAL_INPUT_BYTES)
		shared->input_used = 0;
}

static void end_guard(struct terminal *terminal)
{
	if (terminal->guard_pipe < 0)
		return;
	tcsetattr(terminal->in_fd, TCSADRAIN, &terminal->saved);
	/* If the write fails, the guard restores the same mode once more. */
	if (write(terminal->guard_pipe, "", 1) < 0)
		note("terminal: can't tell its guard to end: %s", strerror(errno));
	close(terminal->guard_pipe);
	terminal->guard_pipe = -1;
	while (waitpid(terminal->guard, NULL, 0) < 0 && errno == EINTR)
		;
}

void terminal_close(struct terminal *terminal)
{
	end_guard(terminal);
	if (terminal->own_fds) {
		close(terminal->out_fd);
		if (terminal->pty_slave >= 0)
			close(terminal->pty_slave);
	}
	close_fd(&terminal->inputs[TERMINAL_ATTACHED].fd);
	close_fd(&terminal->attached_fd);
	close_fd(&terminal->watch_fd);
	terminal->in_fd = terminal->out_fd = terminal->pty_slave = -1;
	terminal->attached_fd = terminal->watch_fd = -1;
	for (unsigned i = 0; i < TERMINAL_INPUTS; i++)
		terminal->inputs[i].fd = -1;
	if (terminal->shared)
		munmap(terminal->shared, sizeof(*terminal->shared));
	terminal->shared = NULL;
	pthread_mutex_destroy(&terminal->lock);
}
