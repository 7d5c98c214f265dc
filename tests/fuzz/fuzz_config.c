// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz a configuration file: no bytes of it crash the parser, and what it takes can be printed as a
 * file that means the same.
 */
#include <stdio.h>
#include <string.h>

#include "../../src/cli/config.h"
#include "karma/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* malloc'ed; NULL if the file is refused, or has a value that is too long to be printed. */
static char *print_of(const char *bytes, size_t size)
{
	struct run_options options;
	char *text = NULL;
	size_t length;
	FILE *file = open_memstream(&text, &length);
	bool printed;

	run_options_default(&options);
	printed = config_parse(&options, "fuzz", bytes, size) == 0 &&
		run_options_print(&options, file) == 0;
	fclose(file);
	run_options_release(&options);
	if (printed)
		return text;
	free(text);
	return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_free char *once = print_of((const char *)data, size);
	cleanup_free char *twice = NULL;

	if (!once)
		return 0;
	twice = print_of(once, strlen(once));
	if (!twice || strcmp(once, twice) != 0)
		abort();
	return 0;
}
