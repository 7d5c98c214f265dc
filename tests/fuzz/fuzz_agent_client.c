// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the host's side of the agent's protocol: a guest that sends what it likes to karma exec neither crashes it nor
 * has it wait when it has closed, and the exit status is one.  (Copies from a guest are fuzz_agent's.)
 *
 * The first byte is flags: a terminal, input, output that is a full pipe; the rest is what the guest sends.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "karma/agent_client.h"
#include "script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const words[] = { "true" };
	struct agent_command command = { .arguments = words, .argument_count = 1 };
	int ends[2], input, output, status;

	if (size == 0)
		return 0;
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	if (send(ends[1], data + 1, size - 1, MSG_DONTWAIT) < 0)
		shutdown(ends[1], SHUT_RDWR);
	shutdown(ends[1], SHUT_WR);
	input = open(data[0] & 1 ? "/dev/zero" : "/dev/null", O_RDONLY | O_CLOEXEC);
	output = open(data[0] & 2 ? "/dev/full" : "/dev/null", O_WRONLY | O_CLOEXEC);
	command.terminal = data[0] & 4;
	command.input = data[0] & 8;
	command.fds[0] = input;
	command.fds[1] = command.fds[2] = output;
	status = agent_run_command(ends[0], "web", &command);
	check(status >= 0 && status <= UINT8_MAX);
	close(input);
	close(output);
	close(ends[0]);
	close(ends[1]);
	return 0;
}
