// SPDX-License-Identifier: GPL-2.0-only
/* Messages for the user: a line each, on stderr. */
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "karma/log.h"
#include "karma/util.h"

static const char *guest_name;

void log_set_name(const char *name)
{
	guest_name = name;
}

static void print_line(const char *format, va_list arguments)
{
	char line[1024];
	int prefix = snprintf(line, sizeof(line), "karma: %s%s", guest_name ? guest_name : "",
		guest_name ? ": " : "");
	int length = vsnprintf(line + prefix, sizeof(line) - prefix - 1, format, arguments);

	if (length < 0)
		return;
	length += prefix;
	if ((size_t)length > sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	/* A message that can't be written has nowhere else to go. */
	if (write_bytes(STDERR_FILENO, line, length) < 0)
		return;
}

int fail(int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_line(format, arguments);
	va_end(arguments);
	return error;
}

void note(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_line(format, arguments);
	va_end(arguments);
}
