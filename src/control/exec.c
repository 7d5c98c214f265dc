// SPDX-License-Identifier: GPL-2.0-only
/* karma exec: a command in a guest, by its agent. */
#include <errno.h>
#include <string.h>

#include "client.h"
#include "karma/agent_client.h"
#include "karma/agent_protocol.h"
#include "karma/commands.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/util.h"

static const struct command command = { "exec",
	"usage: karma exec NAME [-t] [-i] [-u USER] [-w DIR] [-e KEY=VALUE]... -- COMMAND [ARGUMENT]...\n"
	"\n"
	"Run a command in a guest, which needs --vsock on, and karma-agent: Karma's initramfs has it.\n"
	"Output and error output arrive apart, and as they are.\n"
	"\n"
	"  -i            pass on standard input; without it, the command's is empty\n"
	"  -t            run it on a terminal, as ssh -t does; passes on standard input, too\n"
	"  -u USER       as that user of the guest; root without it\n"
	"  -w DIR        in that directory; the user's home without it\n"
	"  -e KEY=VALUE  with that in its environment; may be given several times\n"
	"\n"
	"Without -t, SIGINT, SIGTERM, SIGHUP and SIGQUIT are the command's; the third one ends karma.\n"
	"Exit status: the command's, 128 + n for signal n, 126 if it can't be run, 127 if it is not\n"
	"found, or 125 if karma failed.\n" };

struct exec_options {
	const char *name;
	struct agent_command command;
};

static int refuse(int code, char **argv)
{
	if (code == ':')
		return command_misused(&command, "-%c: lacks its value", optopt);
	if (optopt)
		return command_misused(&command, "-%c: is no option; what is the COMMAND's goes behind --", optopt);
	return command_misused(&command, "%s: is no option; what is the COMMAND's goes behind --", argv[optind - 1]);
}

static int add_variable(struct agent_command *wanted, const char **variables, const char *variable)
{
	if (variable[0] == '=' || !strchr(variable, '='))
		return command_misused(&command, "-e %s: give KEY=VALUE", variable);
	variables[wanted->environment_count++] = variable;
	return -1;
}

/* variables has room for each argument.  -1, with optind at the command, or the exit status. */
static int parse_options(struct exec_options *options, const char **variables, int argc, char **argv)
{
	static const struct option long_options[] = { { "help", no_argument, NULL, 'h' }, { 0 } };
	int code, status;

	opterr = 0;
	/* The -: a word that is no option is returned in its place, as 1. */
	while ((code = getopt_long(argc, argv, "-:htiu:w:e:", long_options, NULL)) != -1) {
		switch (code) {
		case 1:
			if (options->name) {
				optind--;
				return -1;
			}
			options->name = optarg;
			break;
		case 't':
			options->command.terminal = true;
			break;
		case 'i':
			options->command.input = true;
			break;
		case 'u':
			options->command.user = optarg;
			break;
		case 'w':
			options->command.directory = optarg;
			break;
		case 'e':
			status = add_variable(&options->command, variables, optarg);
			if (status >= 0)
				return status;
			break;
		case 'h':
			fputs(command.help, stdout);
			return 0;
		default:
			return refuse(code, argv);
		}
	}
	return -1;
}

int command_exec(int argc, char **argv)
{
	cleanup_free const char **variables = calloc(argc, sizeof(*variables));
	struct exec_options options = { .command = { .environment = variables,
		.fds = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO } } };
	cleanup_fd int socket = -1;
	int status;

	if (!variables) {
		fail(-ENOMEM, "out of memory");
		return STATUS_FAILURE;
	}
	status = parse_options(&options, variables, argc, argv);
	if (status >= 0)
		return status;
	if (!options.name)
		return command_misused(&command, "no NAME: give a guest's, as `karma ps` has it");
	if (!control_name_is_valid(options.name))
		return command_misused(&command, "%s: is no guest's name", options.name);
	if (optind == argc)
		return command_misused(&command, "no COMMAND: give one behind --");
	options.command.arguments = (const char *const *)argv + optind;
	options.command.argument_count = argc - optind;
	socket = connect_port(options.name, AGENT_PORT, AGENT_ABSENT);
	return socket < 0 ? STATUS_FAILURE : agent_run_command(socket, options.name, &options.command);
}
