// SPDX-License-Identifier: GPL-2.0-only
/* --warm, and KARMA_WARM in the environment. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "karma/cli.h"
#include "karma/log.h"
#include "options.h"

int parse_warm(void *target, const char *name, char *text)
{
	struct run_options *options = target;

	if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0)
		return refuse("%s %s: is none of its values: give on or off", name, text);
	options->warm = text;
	return 0;
}

int print_warm(const void *target, const char *name, FILE *file)
{
	const struct run_options *options = target;

	return options->warm ? print_value(file, name, options->warm) : 0;
}

int warm_complete(struct run_options *options)
{
	const char *environment = getenv("KARMA_WARM");
	struct guest_options *guest = &options->guest;

	if (options->warm) {
		guest->warm = strcmp(options->warm, "on") == 0;
		if (guest->warm && guest->restore.directory)
			return fail(-EINVAL, "--warm on: is for guests that start, and --restore %s goes on with one: leave one of "
					     "them out",
				guest->restore.directory);
		if (guest->warm && !guest->command)
			note("--warm on: is for guests with a COMMAND: this one boots");
		return 0;
	}
	guest->warm = !environment || strcmp(environment, "0") != 0;
	if (environment && environment[0] && guest->warm && strcmp(environment, "1") != 0)
		return fail(-EINVAL, "KARMA_WARM=%s: is neither 0 nor 1: set it to one of them", environment);
	return 0;
}
