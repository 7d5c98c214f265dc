// SPDX-License-Identifier: GPL-2.0-only
/* The configuration file: libinih splits it into keys and values, and the tables of settings parse them. */
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "karma/file_kind.h"
#include "karma/log.h"
#include "karma/util.h"
#include "options.h"

#define FILE_BYTES_MAX (64 * KIB)
#define ERRORS_MAX 20u
#define ORIGIN_BYTES 512

static const char byte_order_mark[] = "\xef\xbb\xbf";

struct reader {
	struct run_options *options;
	const char *path;
	const char *next, *end;		/* what was not handed to libinih yet */
	unsigned line;			/* the number of the line that was handed to it last */
	unsigned errors;
	char origin[ORIGIN_BYTES];

	/* The current section; before the first, the guest's own settings. */
	const struct setting_table *table;	/* NULL: no such section; its keys are skipped */
	void *target;
	unsigned section_line;		/* of its [NAME]; 0: the guest's own */
	unsigned section_errors;	/* the number of errors before it */
	bool empty;			/* it has no key yet */
	uint64_t seen;			/* a bit for each setting, by its index in the table */
};

static void at_line(struct reader *reader, unsigned line)
{
	snprintf(reader->origin, sizeof(reader->origin), "%.*s:%u: ", ORIGIN_BYTES - 16, reader->path,
		line);
	set_origin(reader->origin);
}

static void count_error(struct reader *reader, int result)
{
	reader->errors += result < 0;
}

/* At the end of a section: check that its settings go together. */
static void end_section(struct reader *reader)
{
	int result = 0;

	/* Not after another error in it: that may be the cause. */
	if (!reader->section_line || !reader->table || reader->errors > reader->section_errors)
		return;
	at_line(reader, reader->section_line);
	if (reader->empty)
		result = refuse("[%.*s]: has no keys: give it some, or take it away",
			(int)strlen(reader->table->group) - 1, reader->table->group);
	else if (reader->table == &disk_settings)
		result = complete_disk(reader->target);
	else
		result = complete_net(reader->target);
	count_error(reader, result);
	at_line(reader, reader->line);
}

static bool is_section(const char *name, size_t length, const char *text)
{
	return length == strlen(name) && memcmp(name, text, length) == 0;
}

/* For a line with an opening bracket, behind that: libinih reports a section only with its first key. */
static int begin_section(struct reader *reader, const char *text)
{
	size_t length = strcspn(text, "]");
	const char *behind = text + length + strspn(text + length, "] \t");
	bool disk = is_section("disk", length, text);

	end_section(reader);
	reader->section_line = reader->line;
	reader->section_errors = reader->errors;
	reader->empty = true;
	reader->seen = 0;
	reader->table = NULL;
	if (!text[length] || (behind[0] && !strchr("#;", behind[0])))
		return refuse("is no [SECTION]: write [disk] or [net], and nothing behind it");
	if (!disk && !is_section("net", length, text))
		return refuse("[%.*s]: is no section: write [disk] or [net]", (int)length, text);
	reader->table = disk ? &disk_settings : &net_settings;
	reader->target = disk ? (void *)add_disk_options(reader->options) :
				(void *)add_net_options(reader->options);
	return reader->target ? 0 : -ENOMEM;
}

/* ini_reader: the next line, without its newline; NULL at the end, or after an error that would repeat. */
static char *read_line(char *line, int size, void *context)
{
	struct reader *reader = context;
	const char *end = memchr(reader->next, '\n', reader->end - reader->next);
	size_t length = (end ? end : reader->end) - reader->next;
	const char *start;

	if (reader->next == reader->end || reader->errors >= ERRORS_MAX)
		return NULL;
	at_line(reader, ++reader->line);
	if (length && reader->next[length - 1] == '\r')
		length--;
	if (length > SETTING_LINE_MAX || length >= (size_t)size) {
		count_error(reader, refuse("has more than %u bytes: give fewer", SETTING_LINE_MAX));
		return NULL;
	}
	if (!is_plain_text(reader->next, length)) {
		count_error(reader, refuse("is no text: give UTF-8 without control characters"));
		return NULL;
	}
	memcpy(line, reader->next, length);
	line[length] = '\0';
	reader->next = end ? end + 1 : reader->end;
	start = line;
	if (reader->line == 1 && strncmp(start, byte_order_mark, strlen(byte_order_mark)) == 0)
		start += strlen(byte_order_mark);
	start += strspn(start, " \t");
	if (start[0] == '[')
		count_error(reader, begin_section(reader, start + 1));
	return line;
}

/* Quotation marks around a value keep blanks. */
static char *strip_quotes(char *value)
{
	size_t length = strlen(value);

	if (length < 2 || value[0] != '"' || value[length - 1] != '"')
		return value;
	value[length - 1] = '\0';
	return value + 1;
}

static int refuse_key(const struct reader *reader, const char *key, const struct setting *setting)
{
	const char *what = reader->table->group;

	if (!setting && reader->section_line)
		return refuse("%.*s: knows no key `%s`: see karma.conf(5)", (int)strlen(what) - 1, what,
			key);
	if (!setting)
		return refuse("%s: is no key: see karma.conf(5)", key);
	if (setting->kind == SETTING_OTHER)
		return refuse("%s: is a section: write [%s], and its keys in the lines below", key, key);
	return refuse("%s: goes on the command line only: leave it out", key);
}

static int apply_setting(struct reader *reader, const char *key, const char *value)
{
	const struct setting_table *table = reader->table;
	const struct setting *setting = setting_find(table, key, strlen(key));
	char *kept;

	if (!setting && !value)
		return refuse("%s: is no KEY = VALUE: write it so", key);
	if (!setting || setting->command_line)
		return refuse_key(reader, key, setting);
	if (!value)
		return refuse("%s: has no value: write %s = %s", key, key,
			setting->value ? setting->value : "on");
	if ((reader->seen >> (setting - table->list) & 1) && !setting->repeats)
		return refuse("%s: is there twice%s: leave one out", key,
			reader->section_line ? " in its section" : "");
	reader->seen |= 1ull << (setting - table->list);
	kept = copy_text(reader->options, value);
	return kept ? setting_parse(table, setting, reader->target, strip_quotes(kept)) : -ENOMEM;
}

/* ini_handler: a key with its value, or NULL.  1: go on. */
static int handle(void *context, const char *section, const char *key, const char *value)
{
	struct reader *reader = context;

	(void)section;
	reader->empty = false;
	/* A section of an unknown name was refused at its line. */
	if (reader->table)
		count_error(reader, apply_setting(reader, key, value));
	return 1;
}

/* Options of libinih, which are variables in Debian's build. */
static void set_up_library(void)
{
	ini_use_stack = false;
	ini_max_line = SETTING_LINE_MAX + 3;
	ini_initial_alloc = SETTING_LINE_MAX + 3;
	ini_allow_multiline = false;
	ini_allow_inline_comments = false;
	ini_allow_no_value = true;
	ini_stop_on_first_error = false;
}

int config_parse(struct run_options *options, const char *path, const char *bytes, size_t size)
{
	struct reader reader = {
		.options = options,
		.path = path,
		.next = bytes,
		.end = bytes + size,
		.table = &run_settings,
		.target = options,
	};
	int result;

	set_up_library();
	result = ini_parse_stream(read_line, &reader, handle, &reader);
	/* Its only other error. */
	if (result < 0) {
		set_origin("--");
		return fail(-ENOMEM, "%s: out of memory", path);
	}
	end_section(&reader);
	/* The number of a line that libinih can't parse, and so did not hand to us. */
	if (result > 0 && !reader.errors) {
		at_line(&reader, result);
		count_error(&reader, refuse("is no KEY = VALUE: write it so"));
	}
	set_origin("--");
	if (reader.errors >= ERRORS_MAX)
		fail(-EINVAL, "%s: has more errors: correct these first", path);
	return reader.errors ? -EINVAL : 0;
}

char *config_path(const char *name)
{
	const char *suffix = strrchr(name, '.');
	char *path;

	if (strchr(name, '/') || (suffix && strcmp(suffix, ".conf") == 0))
		return strdup(name);
	return asprintf(&path, "%s/%s.conf", KARMA_CONFIG_DIR, name) < 0 ? NULL : path;
}

/* Read a whole file into FILE_BYTES_MAX + 1 bytes.  Its length, or a negative errno. */
static ssize_t read_all(int fd, char *bytes)
{
	size_t length = 0;

	while (length <= FILE_BYTES_MAX) {
		ssize_t got = read(fd, bytes + length, FILE_BYTES_MAX + 1 - length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : (ssize_t)length;
		length += got;
	}
	return -EFBIG;
}

int config_read_open(struct run_options *options, const char *path, int fd)
{
	cleanup_free char *bytes = malloc(FILE_BYTES_MAX + 1);
	ssize_t length;

	if (!bytes)
		return fail(-ENOMEM, "%s: out of memory", path);
	length = read_all(fd, bytes);
	if (length == -EFBIG)
		return fail(-EINVAL, "%s: has more than %llu KiB: give a configuration file", path,
			FILE_BYTES_MAX / KIB);
	if (length < 0)
		return fail(-EINVAL, "%s: %s: give a configuration file", path, strerror(-length));
	return config_parse(options, path, bytes, length);
}

int config_read(struct run_options *options, const char *path)
{
	cleanup_fd int fd = -1;
	struct stat status;

	if (stat(path, &status) == 0 && (S_ISDIR(status.st_mode) || S_ISSOCK(status.st_mode)))
		return fail(-EINVAL, "%s: is %s: give a configuration file", path,
			file_kind(status.st_mode));
	/* Blocks on a pipe until its writer closes it: process substitution works. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 && errno == EACCES)
		return fail(-EINVAL, "%s: %s: give yourself the right to read it", path, strerror(errno));
	if (fd < 0)
		return fail(-EINVAL, "%s: %s: give the path of a configuration file, or the name of one in "
				    KARMA_CONFIG_DIR,
			path, strerror(errno));
	return config_read_open(options, path, fd);
}
