// SPDX-License-Identifier: GPL-2.0-only
/* Messages for the user: a line each, on stderr, and their history. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "karma/log.h"
#include "karma/utf8.h"
#include "karma/util.h"

#define MESSAGE_BYTES 1024
#define ESCAPE_BYTES 6		/* \uXXXX */
#define AROUND_BYTES 256	/* of what is around a message, with a guest's name */

static const char *guest_name;
static enum log_format log_format;
static bool hushed;

static struct history {
	uint64_t written;	/* bytes, ever; byte i is at text[i % LOG_BYTES] */
	char text[LOG_BYTES];
} *history;

void log_set_name(const char *name)
{
	guest_name = name;
}

void log_hush(bool hush)
{
	hushed = hush;
}

void log_start_history(void)
{
	void *memory = mmap(NULL, sizeof(*history), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory != MAP_FAILED)
		history = memory;
}

bool log_has_history_at(uintptr_t address)
{
	return history && (uintptr_t)history == address;
}

/*
 * Without a lock, since a guest that has broken out could hold it: the addition reserves a place
 * for each line.
 */
static void append_to_history(const char *prefix, const char *message)
{
	char text[AROUND_BYTES + MESSAGE_BYTES];
	struct timespec now;
	uint64_t at;
	int length;

	clock_gettime(CLOCK_REALTIME, &now);
	length = snprintf(text, sizeof(text), "%lld %s%s%s%s\n", (long long)now.tv_sec, prefix,
		guest_name ? guest_name : "", guest_name ? ": " : "", message);
	if (length < 0 || (size_t)length >= sizeof(text))
		return;
	at = __atomic_fetch_add(&history->written, length, __ATOMIC_RELAXED);
	for (int i = 0; i < length; i++)
		history->text[(at + i) % LOG_BYTES] = text[i];
}

size_t log_read_history(char *to, size_t length)
{
	uint64_t written, start;
	char *line;
	size_t cut;

	if (!history)
		return 0;
	written = __atomic_load_n(&history->written, __ATOMIC_RELAXED);
	if (length > LOG_BYTES)
		length = LOG_BYTES;
	if (length > written)
		length = written;
	start = written - length;
	for (size_t i = 0; i < length; i++)
		to[i] = history->text[(start + i) % LOG_BYTES];
	if (start == 0)
		return length;
	/* The first line has lost its beginning. */
	line = memchr(to, '\n', length);
	cut = line ? (size_t)(line + 1 - to) : length;
	memmove(to, to + cut, length - cut);
	return length - cut;
}

void make_printable(char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (text[i] < ' ' || text[i] > '~')
			text[i] = ' ';
	}
}

void log_set_format(enum log_format format)
{
	log_format = format;
	/* The first gmtime_r() would read a file of time zones, which the sandbox forbids. */
	if (format == LOG_JSON)
		tzset();
}

/* If the write fails, there is nowhere else to say so. */
static void write_line(char *line, size_t length)
{
	line[length++] = '\n';
	if (write_bytes(STDERR_FILENO, line, length) < 0)
		return;
}

static void print_text(const char *prefix, const char *message)
{
	const char *name = guest_name && prefix[0] ? guest_name : "";
	char line[MESSAGE_BYTES];
	int length = snprintf(
		line, sizeof(line), "%s%s%s%s", prefix, name, name[0] ? ": " : "", message);

	if (length < 0)
		return;
	write_line(line, (size_t)length > sizeof(line) - 2 ? sizeof(line) - 2 : (size_t)length);
}

/* The inside of a JSON string (RFC 8259, section 7).  Bytes that are no UTF-8 become U+FFFD. */
static size_t escape(char *to, const char *from)
{
	size_t left = strlen(from), used = 0;

	while (left) {
		size_t bytes = utf8_length(from, left);
		unsigned char first = *from;

		if (!bytes) {
			used += sprintf(to + used, "\\ufffd");
			bytes = 1;
		} else if (first < ' ' || first == '"' || first == '\\' || first == 0x7f) {
			used += sprintf(to + used, "\\u%04x", first);
		} else {
			memcpy(to + used, from, bytes);
			used += bytes;
		}
		from += bytes;
		left -= bytes;
	}
	return used;
}

/* In UTC, as of RFC 3339. */
static size_t format_time(char *text, size_t size)
{
	struct timespec now;
	struct tm date;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &date);
	return snprintf(text, size, "%d-%02d-%02dT%02d:%02d:%02d.%03ldZ", date.tm_year + 1900,
		date.tm_mon + 1, date.tm_mday, date.tm_hour, date.tm_min, date.tm_sec,
		now.tv_nsec / 1000000);
}

static void print_json(const char *level, const char *message)
{
	char line[AROUND_BYTES + ESCAPE_BYTES * MESSAGE_BYTES] = "{\"time\":\"";
	size_t length = strlen(line);

	length += format_time(line + length, AROUND_BYTES - length);
	length += snprintf(line + length, AROUND_BYTES - length, "\",\"level\":\"%s\"", level);
	if (guest_name)
		length += snprintf(
			line + length, AROUND_BYTES - length, ",\"guest\":\"%s\"", guest_name);
	length += snprintf(line + length, AROUND_BYTES - length, ",\"message\":\"");
	length += escape(line + length, message);
	line[length++] = '"';
	line[length++] = '}';
	write_line(line, length);
}

static void print_message(
	const char *level, const char *prefix, const char *format, va_list arguments)
{
	char message[MESSAGE_BYTES];

	if (vsnprintf(message, sizeof(message), format, arguments) < 0)
		return;
	/* Lines that the user asked for are no messages. */
	if (history && prefix[0])
		append_to_history(prefix, message);
	if (hushed)
		return;
	if (log_format == LOG_JSON)
		print_json(level, message);
	else
		print_text(prefix, message);
}

int fail(int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_message("error", "karma: ", format, arguments);
	va_end(arguments);
	return error;
}

void note(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_message("notice", "karma: ", format, arguments);
	va_end(arguments);
}

void print_line(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_message("info", "", format, arguments);
	va_end(arguments);
}
