// SPDX-License-Identifier: GPL-2.0-only
/* EXEC: a command, its streams and its end. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>

#include "agent.h"
#include "karma/agent_stream.h"
#include "karma/status.h"
#include "karma/util.h"
#include "start.h"

#define SIGNAL_MAX 64u
#define HANGUP_NANOSECONDS 5000000000ll	/* between SIGHUP and SIGKILL */
/* More than the kernel holds of a terminal's output. */
#define TERMINAL_BYTES 65536u

struct command {
	struct agent_link *link;
	bool terminal;
	pid_t pid;			/* and its process group */
	bool alone;			/* signals are for it, not for the group */
	int signal_fd;			/* SIGCHLD */
	int slave;			/* of the terminal: with us it does not hang up before all output was read; or -1 */
	struct agent_sink input;	/* these two share a terminal's descriptor */
	struct agent_source outputs[2];
	bool exited, told, done;	/* told: EXIT was queued; done: the host has seen it */
	int status;			/* of waitpid() */
	size_t left[2];			/* what is to be read yet of each output, once it has exited */
};

/* --- The start. */

static void close_theirs(struct ends *ends, int keep)
{
	for (unsigned i = 0; i < 3; i++) {
		if (ends->theirs[i] != keep)
			close_fd(&ends->theirs[i]);
		ends->theirs[i] = -1;
	}
}

static int watch_children(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGCHLD, SIG_DFL);
	/* For a terminal that hangs up when we go, and a command that takes no more input. */
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* 0; or an exit status, with an ERROR queued. */
static unsigned start(struct command *command, const struct exec_request *request)
{
	struct ends ends = { .theirs = { -1, -1, -1 }, .input = -1, .outputs = { -1, -1 } };
	struct failure failure = { STAGE_NONE, 0 };
	struct user user = { 0 };
	int result = 0;

	command->terminal = request->flags & AGENT_EXEC_TERMINAL;
	command->alone = request->container;
	command->signal_fd = watch_children();
	if (request->process)
		user.uid = request->process->uid;
	else
		result = user_find(&user, request->user);
	if (result < 0)
		return start_refuse(command->link, request, &(struct failure){ STAGE_USER, -result });
	result = start_open(&ends, request, &user);
	if (result < 0 || command->signal_fd < 0)
		failure = (struct failure){ STAGE_SETUP, result < 0 ? -result : EMFILE };
	else
		failure = start_fork(&command->pid, request, &user, &ends);
	if (failure.stage != STAGE_NONE)
		return start_refuse(command->link, request, &failure);
	command->slave = command->terminal ? ends.theirs[0] : -1;
	close_theirs(&ends, command->slave);
	agent_sink_init(&command->input, ends.input, AGENT_INPUT);
	for (unsigned i = 0; i < 2; i++) {
		agent_source_init(&command->outputs[i], ends.outputs[i], AGENT_OUTPUT + i);
		command->outputs[i].ended = command->outputs[i].told = ends.outputs[i] < 0;
	}
	command->input.ended = command->input.gone = ends.input < 0;
	return 0;
}

/* --- While it runs. */

static void take_exit(struct command *command)
{
	struct signalfd_siginfo info;

	while (read(command->signal_fd, &info, sizeof(info)) > 0)
		;
	if (command->exited || waitpid(command->pid, &command->status, WNOHANG) != command->pid)
		return;
	command->exited = true;
	agent_sink_give_up(&command->input);
	for (unsigned i = 0; i < 2; i++) {
		int bytes = TERMINAL_BYTES;

		/* What processes in the background write later is not the command's. */
		if (!command->terminal && ioctl(command->outputs[i].fd, FIONREAD, &bytes) < 0)
			bytes = 0;
		command->left[i] = command->outputs[i].ended ? 0 : bytes;
	}
}

static void read_output(struct command *command, unsigned i)
{
	struct agent_source *output = &command->outputs[i];
	int got = agent_source_read(output, command->link, command->exited ? command->left[i] : SIZE_MAX);

	if (command->exited)
		command->left[i] -= got > 0 ? (size_t)got : command->left[i];
}

static bool is_drained(const struct command *command, unsigned i)
{
	return command->outputs[i].ended || command->left[i] == 0;
}

/* With a terminal, ^D is the end of input. */
static void end_input(struct command *command)
{
	struct agent_sink *input = &command->input;
	struct termios mode;

	if (input->fd < 0 || !agent_sink_is_empty(input) || !(input->ended || input->gone))
		return;
	if (!command->terminal)
		close(input->fd);
	else if (!input->gone && tcgetattr(input->fd, &mode) == 0 && mode.c_lflag & ICANON &&
		write(input->fd, &mode.c_cc[VEOF], 1) < 0)
		agent_sink_give_up(input);
	input->fd = -1;
}

/* 0, or an error: the connection is of no use any more. */
static int take_frame(struct command *command, const struct agent_frame *frame)
{
	struct winsize size;
	uint32_t number;

	if (frame->type == AGENT_DONE && command->told) {
		command->done = true;
		return 0;
	}
	if ((frame->type == AGENT_DATA || frame->type == AGENT_END) && frame->stream == AGENT_INPUT)
		return agent_sink_take(&command->input, frame);
	if ((frame->type == AGENT_WINDOW || frame->type == AGENT_END) &&
		(frame->stream == AGENT_OUTPUT || frame->stream == AGENT_ERROR_OUTPUT)) {
		/* Nobody looks at the terminal any more. */
		if (frame->type == AGENT_END && command->terminal)
			return -EPIPE;
		return agent_source_take(&command->outputs[frame->stream - AGENT_OUTPUT], frame);
	}
	if (frame->length != sizeof(number))
		return -EPROTO;
	number = agent_number(frame->payload);
	if (frame->type == AGENT_SIGNAL && number >= 1 && number <= SIGNAL_MAX) {
		if (!command->exited)
			kill(command->alone ? command->pid : -command->pid, number);
		return 0;
	}
	if (frame->type != AGENT_SIZE || !command->terminal)
		return -EPROTO;
	size = (struct winsize){ .ws_row = number & UINT16_MAX, .ws_col = number >> 16 };
	return ioctl(command->slave, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}

/* Those that were received. */
static int take_frames(struct command *command)
{
	struct agent_frame frame;
	int result;

	while ((result = agent_link_next(command->link, &frame)) > 0) {
		result = take_frame(command, &frame);
		if (result < 0)
			break;
	}
	return result;
}

static int receive(struct command *command)
{
	int result = agent_link_receive(command->link);

	if (result <= 0)
		return result == 0 ? -EPIPE : result == -EAGAIN ? 0 : result;
	return take_frames(command);
}

static void tell(struct command *command)
{
	uint32_t numbers[2] = { 0 };

	agent_sink_tell(&command->input, command->link);
	end_input(command);
	for (unsigned i = 0; i < 2; i++) {
		struct agent_source *output = &command->outputs[i];

		agent_source_tell(output, command->link);
		if (output->ended && !command->terminal) {
			close_fd(&output->fd);
			output->fd = -1;
		}
	}
	if (!command->exited || command->told || !is_drained(command, 0) || !is_drained(command, 1))
		return;
	if (WIFSIGNALED(command->status))
		numbers[1] = htole32(WTERMSIG(command->status));
	else
		numbers[0] = htole32(WEXITSTATUS(command->status));
	command->told = agent_link_put(command->link, AGENT_EXIT, 0, numbers, sizeof(numbers));
}

enum { AT_SOCKET, AT_SIGNAL, AT_INPUT, AT_OUTPUTS, POLLS = AT_OUTPUTS + 2 };

/* Whether there is something to read that poll() need not be asked for. */
static bool watch(const struct command *command, struct pollfd *watched)
{
	bool draining = false;

	watched[AT_SOCKET] = (struct pollfd){ .fd = command->link->fd,
		.events = POLLIN | (agent_link_has_output(command->link) ? POLLOUT : 0) };
	watched[AT_SIGNAL] = (struct pollfd){ .fd = command->exited ? -1 : command->signal_fd, .events = POLLIN };
	/* With no events, a pipe that nobody reads any more is an error all the same. */
	watched[AT_INPUT] = (struct pollfd){ .fd = command->terminal && agent_sink_is_empty(&command->input) ?
			-1 : command->input.fd,
		.events = agent_sink_is_empty(&command->input) ? 0 : POLLOUT };
	for (unsigned i = 0; i < 2; i++) {
		bool wants = agent_source_wants(&command->outputs[i], command->link);

		watched[AT_OUTPUTS + i] = (struct pollfd){
			.fd = wants && !command->exited ? command->outputs[i].fd : -1, .events = POLLIN };
		draining |= wants && command->exited && command->left[i] > 0;
	}
	return draining;
}

/* Until the host knows the end: 0; or an error. */
static int serve(struct command *command)
{
	/* Some may have come with the request. */
	int result = take_frames(command);

	while (result == 0 && !command->done) {
		struct pollfd watched[POLLS];
		bool draining;

		tell(command);
		draining = watch(command, watched);
		if (poll(watched, POLLS, draining ? 0 : -1) < 0 && errno != EINTR)
			return -errno;
		if (watched[AT_SIGNAL].revents)
			take_exit(command);
		for (unsigned i = 0; i < 2; i++) {
			bool drains = command->exited && command->left[i] > 0;

			if ((watched[AT_OUTPUTS + i].revents || drains) &&
				agent_source_wants(&command->outputs[i], command->link))
				read_output(command, i);
		}
		if (watched[AT_INPUT].revents && command->input.fd >= 0) {
			if (agent_sink_is_empty(&command->input))
				agent_sink_give_up(&command->input);
			else
				agent_sink_write(&command->input);
		}
		result = agent_link_send(command->link);
		if (result == 0 && watched[AT_SOCKET].revents & ~POLLOUT)
			result = receive(command);
	}
	return result;
}

/* The host has gone: as if its terminal had. */
static void hang_up(struct command *command)
{
	struct pollfd watched = { .fd = command->signal_fd, .events = POLLIN };
	pid_t foreground = command->terminal ? tcgetpgrp(command->slave) : -1;
	int64_t until = nanoseconds() + HANGUP_NANOSECONDS, left;

	if (command->exited)
		return;
	kill(-command->pid, SIGHUP);
	kill(-command->pid, SIGCONT);
	if (foreground > 1 && foreground != command->pid) {
		kill(-foreground, SIGHUP);
		kill(-foreground, SIGCONT);
	}
	while (!command->exited && (left = until - nanoseconds()) > 0) {
		if (poll(&watched, 1, left / 1000000 + 1) > 0)
			take_exit(command);
	}
	kill(-command->pid, SIGKILL);
	if (foreground > 1)
		kill(-foreground, SIGKILL);
	if (!command->exited)
		waitpid(command->pid, NULL, 0);
}

/* --- In a copy of the guest. */

static bool has_output(const struct command *command, unsigned i)
{
	return !command->outputs[i].ended && (!command->exited || command->left[i] > 0);
}

static void write_to_console(const char *bytes, ssize_t length)
{
	for (ssize_t done = 0, written; done < length; done += written) {
		written = write(STDERR_FILENO, bytes + done, length - done);
		if (written < 0 && errno == EINTR)
			written = 0;
		else if (written < 0)
			return;
	}
}

static void copy_output(struct command *command, unsigned i)
{
	struct agent_source *output = &command->outputs[i];
	char bytes[4096];
	size_t most = command->exited && command->left[i] < sizeof(bytes) ? command->left[i] : sizeof(bytes);
	ssize_t got = read(output->fd, bytes, most);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	output->ended = got <= 0;
	write_to_console(bytes, got);
	if (command->exited && got > 0)
		command->left[i] -= got;
}

/* To the end of the command.  What was on its way to the host is the original's. */
static void go_on(struct command *command)
{
	command->input.ended = true;
	while (!command->exited || has_output(command, 0) || has_output(command, 1)) {
		struct pollfd watched[POLLS];

		end_input(command);
		watched[AT_SOCKET] = (struct pollfd){ .fd = -1 };
		watched[AT_SIGNAL] = (struct pollfd){ .fd = command->exited ? -1 : command->signal_fd, .events = POLLIN };
		watched[AT_INPUT] = (struct pollfd){ .fd = command->input.fd, .events = POLLOUT };
		for (unsigned i = 0; i < 2; i++)
			watched[AT_OUTPUTS + i] = (struct pollfd){
				.fd = has_output(command, i) ? command->outputs[i].fd : -1, .events = POLLIN };
		if (poll(watched, POLLS, -1) < 0 && errno != EINTR)
			return;
		if (watched[AT_SIGNAL].revents)
			take_exit(command);
		if (watched[AT_INPUT].revents)
			agent_sink_write(&command->input);
		for (unsigned i = 0; i < 2; i++) {
			if (watched[AT_OUTPUTS + i].revents && has_output(command, i))
				copy_output(command, i);
		}
	}
}

int command_serve(struct agent_link *link, const struct agent_frame *frame, struct exec_request *request)
{
	static struct command command;
	int result = exec_request_parse(request, frame);
	unsigned status = STATUS_FAILURE;

	command = (struct command){ .link = link, .slave = -1 };
	if (result < 0)
		agent_link_put_error(link, STATUS_FAILURE, result, "the request to run a command is malformed");
	else
		status = start(&command, request);
	exec_request_release(request);
	if (result < 0 || status)
		return status;
	if (request->container)
		container_started(request->container, command.pid);
	if (serve(&command) == 0)
		;
	else if (request->generation && !command.terminal && generation_is_another(request->generation))
		go_on(&command);
	else
		hang_up(&command);
	return WIFSIGNALED(command.status) ? STATUS_SIGNAL + WTERMSIG(command.status) : WEXITSTATUS(command.status);
}
