// SPDX-License-Identifier: GPL-2.0-only
/* karma-agent: listens in a guest for the host (karma-agent(7)), or runs the command of its init. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "agent.h"
#include "command_of_init.h"

static const char help[] =
	"usage: karma-agent [--root DIR]\n"
	"\n"
	"In a guest of Karma's: listen on vsock for the host, in the background, and run what it asks\n"
	"for, as any user; see karma-agent(7).  If there is an agent already, this one ends, with\n"
	"status 0.\n"
	"\n"
	"  --root DIR   the root directory of what is run; without it, the topmost mount on our own,\n"
	"               which is the disk's once an initramfs has switched to that\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "root", required_argument, NULL, 'r' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct agent_place place = { .root = "/..", .pid_namespace = -1 };
	int code, listener;

	if (argc > 1 && strcmp(argv[1], "run") == 0)
		return agent_run(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "enter") == 0)
		return agent_enter(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "contain") == 0)
		return agent_contain(argc - 1, argv + 1);
	while ((code = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (code == 'r')
			place.root = optarg;
		else
			return code == 'h' ? fputs(help, stdout) < 0 : 1;
	}
	listener = agent_listen();
	if (listener < 0)
		return listener != -EADDRINUSE;
	return agent_serve_all(listener, &place) < 0;
}
