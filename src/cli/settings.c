// SPDX-License-Identifier: GPL-2.0-only
/* Parse and print settings by their tables. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "karma/log.h"
#include "karma/size.h"
#include "karma/utf8.h"
#include "karma/util.h"
#include "settings.h"

#define RATE_MIN KIB
#define RATE_MAX (1024 * GIB)
#define NAME_BYTES 64

static const char *origin = "--";

void set_origin(const char *text)
{
	origin = text;
}

int refuse(const char *format, ...)
{
	char message[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	return fail(-EINVAL, "%s%s", origin, message);
}

int parse_number(
	const char *name, const char *text, unsigned min, unsigned max, unsigned *number)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno || value < min || value > max)
		return refuse("%s %s: is no whole number from %u to %u: give one", name, text, min,
			max);
	*number = value;
	return 0;
}

int parse_switch(const char *name, const char *text, bool *on)
{
	*on = strcmp(text, "on") == 0 || strcmp(text, "yes") == 0;
	if (!*on && strcmp(text, "off") != 0 && strcmp(text, "no") != 0)
		return refuse("%s %s: is no switch: give on or off", name, text);
	return 0;
}

/* A suffix is required: without one, --memory means MiB, which few would expect here. */
static int parse_rate(const char *name, const char *text, uint64_t *bytes)
{
	unsigned long long value;
	unsigned shift;

	if (!split_size(text, &value, &shift) || isdigit((unsigned char)text[strlen(text) - 1]))
		return refuse("%s %s: is no size: give one like 512K or 20M", name, text);
	if (value > RATE_MAX >> shift || value << shift < RATE_MIN)
		return refuse("%s %s: is out of range: give %lluK to %lluG", name, text, RATE_MIN / KIB,
			RATE_MAX / GIB);
	*bytes = value << shift;
	return 0;
}

static int parse_text(
	const struct setting *setting, const char *name, const char *text, const char **target)
{
	if (!text[0] && setting->min)
		return refuse("%s: is empty: give a %s", name, setting->value);
	if (setting->max && strlen(text) > setting->max)
		return refuse("%s %s: has more than %u bytes: give fewer", name, text, setting->max);
	*target = text;
	return 0;
}

static int parse_choice(const char *const *choices, const char *name, const char *text, int *choice)
{
	char list[128] = "";

	for (int i = 0; choices[i]; i++) {
		if (strcmp(text, choices[i]) == 0) {
			*choice = i;
			return 0;
		}
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "",
			choices[i]);
	}
	return refuse("%s %s: is none of %s: give one of these", name, text, list);
}

const struct setting *setting_find(const struct setting_table *table, const char *name, size_t length)
{
	for (size_t i = 0; i < table->count; i++) {
		if (strncmp(table->list[i].name, name, length) == 0 && !table->list[i].name[length])
			return &table->list[i];
	}
	return NULL;
}

int setting_parse(const struct setting_table *table, const struct setting *setting, void *target,
	char *text)
{
	void *member = (char *)target + setting->offset;
	char name[NAME_BYTES];
	unsigned number = 0;
	int result;

	snprintf(name, sizeof(name), "%s%s", table->group, setting->name);
	switch (setting->kind) {
	case SETTING_TEXT:
		return parse_text(setting, name, text, member);
	case SETTING_NUMBER:
		return parse_number(name, text, setting->min, setting->max, member);
	case SETTING_COUNT:
		result = parse_number(name, text, setting->min, setting->max, &number);
		*(uint64_t *)member = number;
		return result;
	case SETTING_RATE:
		return parse_rate(name, text, member);
	case SETTING_SWITCH:
		return parse_switch(name, text ? text : "on", member);
	case SETTING_CHOICE:
		return parse_choice(setting->choices, name, text, member);
	case SETTING_OTHER:
		break;
	}
	return setting->parse(target, name, text);
}

/* "ro, direct, overlay=FILE or serial=TEXT" */
static void list_settings(const struct setting_table *table, char *text, size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = 0; i < table->count && used < size; i++) {
		const struct setting *setting = &table->list[i];
		const char *comma = i == 0 ? "" : i + 1 < table->count ? ", " : " or ";

		used += snprintf(text + used, size - used, "%s%s%s%s", comma, setting->name,
			setting->value ? "=" : "", setting->value ? setting->value : "");
	}
}

static int refuse_unknown(const struct setting_table *table, const char *item)
{
	char list[512];

	list_settings(table, list, sizeof(list));
	return refuse("%.*s: knows no `%s`: give %s", (int)strlen(table->group) - 1, table->group, item,
		list);
}

int settings_parse_list(const struct setting_table *table, void *target, char *rest)
{
	int result = 0;

	while (rest && result == 0) {
		char *item = strsep(&rest, ",");
		size_t length = strcspn(item, "=");
		const struct setting *setting = setting_find(table, item, length);

		if (!setting || (setting->value && !item[length]))
			return refuse_unknown(table, item);
		result = setting_parse(
			table, setting, target, item[length] ? item + length + 1 : NULL);
	}
	return result;
}

bool is_plain_text(const char *text, size_t length)
{
	for (size_t at = 0; at < length;) {
		size_t bytes = utf8_length(text + at, length - at);

		if (!bytes || (iscntrl((unsigned char)text[at]) && text[at] != '\t'))
			return false;
		at += bytes;
	}
	return true;
}

/* The parser strips blanks around a value, and quotation marks. */
static bool needs_quotes(const char *value)
{
	size_t length = strlen(value);

	return !length || value[0] == '"' || isspace((unsigned char)value[0]) ||
		isspace((unsigned char)value[length - 1]);
}

int print_value(FILE *file, const char *name, const char *value)
{
	const char *quote = needs_quotes(value) ? "\"" : "";

	if (!is_plain_text(value, strlen(value)))
		return fail(-EINVAL,
			"%s: has bytes that no file can have: give a value without line feeds and other "
			"control characters, in UTF-8",
			name);
	if (strlen(name) + strlen(" = \"\"") + strlen(value) > SETTING_LINE_MAX)
		return fail(-EINVAL, "%s: is too long for a file: give a shorter one", name);
	fprintf(file, "%s = %s%s%s\n", name, quote, value, quote);
	return 0;
}

static int print_number(FILE *file, const struct setting *setting, uint64_t number)
{
	char text[32];

	if (number < setting->min)
		return 0;
	snprintf(text, sizeof(text), "%" PRIu64, number);
	return print_value(file, setting->name, text);
}

static int print_rate(FILE *file, const struct setting *setting, uint64_t bytes)
{
	char text[32];

	if (!bytes)
		return 0;
	format_size(text, sizeof(text), bytes);
	return print_value(file, setting->name, text);
}

static int print_setting(const struct setting *setting, const void *target, FILE *file)
{
	const void *member = (const char *)target + setting->offset;
	const char *text;

	if (setting->print)
		return setting->print(target, setting->name, file);
	switch (setting->kind) {
	case SETTING_TEXT:
		text = *(const char *const *)member;
		return text ? print_value(file, setting->name, text) : 0;
	case SETTING_NUMBER:
		return print_number(file, setting, *(const unsigned *)member);
	case SETTING_COUNT:
		return print_number(file, setting, *(const uint64_t *)member);
	case SETTING_RATE:
		return print_rate(file, setting, *(const uint64_t *)member);
	case SETTING_SWITCH:
		return print_value(file, setting->name, *(const bool *)member ? "on" : "off");
	case SETTING_CHOICE:
		return print_value(file, setting->name, setting->choices[*(const int *)member]);
	case SETTING_OTHER:
		break;
	}
	return 0;
}

int settings_print(const struct setting_table *table, const void *target, FILE *file)
{
	int result = 0;

	for (size_t i = 0; i < table->count && result == 0; i++) {
		if (!table->list[i].command_line)
			result = print_setting(&table->list[i], target, file);
	}
	return result;
}
