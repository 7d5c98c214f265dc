// SPDX-License-Identifier: GPL-2.0-only
/* Messages: their two forms, and what is in them when a message is hostile or long. */
#include "karma/log.h"	/* before Check, which has a fail() of its own */

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "guest.h"

static void teardown(void)
{
	log_set_format(LOG_TEXT);
	log_set_name(NULL);
}

/* A note's line, in the form that is set. */
static const char *line_of(const char *message)
{
	messages_begin();
	note("%s", message);
	return messages_end();
}

/* The object behind its time. */
static const char *without_time(const char *line)
{
	static const char form[] = "{\"time\":\"0000-00-00T00:00:00.000Z\",";

	for (size_t i = 0; i < sizeof(form) - 1; i++) {
		if (form[i] == '0')
			ck_assert_msg(isdigit((unsigned char)line[i]), "%s", line);
		else
			ck_assert_msg(line[i] == form[i], "%s", line);
	}
	return line + sizeof(form) - 1;
}

START_TEST(text_has_the_guests_name)
{
	ck_assert_str_eq(line_of("all is well"), "karma: all is well\n");
	log_set_name("web");
	ck_assert_str_eq(line_of("all is well"), "karma: web: all is well\n");
	messages_begin();
	print_line("stats exit.io 5");
	ck_assert_str_eq(messages_end(), "stats exit.io 5\n");
}
END_TEST

START_TEST(json_is_an_object_a_line)
{
	log_set_format(LOG_JSON);
	ck_assert_str_eq(without_time(line_of("all is well")),
		"\"level\":\"notice\",\"message\":\"all is well\"}\n");
	log_set_name("web");
	messages_begin();
	ck_assert_int_eq((fail)(-5, "disk %s: full", "d"), -5);
	ck_assert_str_eq(without_time(messages_end()),
		"\"level\":\"error\",\"guest\":\"web\",\"message\":\"disk d: full\"}\n");
	messages_begin();
	print_line("stats exit.io 5");
	ck_assert_str_eq(without_time(messages_end()),
		"\"level\":\"info\",\"guest\":\"web\",\"message\":\"stats exit.io 5\"}\n");
}
END_TEST

START_TEST(json_escapes_what_it_has_to)
{
	log_set_format(LOG_JSON);
	ck_assert_str_eq(without_time(line_of("a\"b\\c\nd\x1b\x7f")),
		"\"level\":\"notice\",\"message\":\"a\\u0022b\\u005cc\\u000ad\\u001b\\u007f\"}\n");
	ck_assert_str_eq(without_time(line_of("\xe2\x82\xac \xff \xe2\x82")),
		"\"level\":\"notice\",\"message\":\"\xe2\x82\xac \\ufffd \\ufffd\\ufffd\"}\n");
}
END_TEST

START_TEST(long_messages_are_cut_and_end_their_line)
{
	static char message[3000], name[64];
	size_t length;
	const char *line;

	memset(name, 'n', sizeof(name) - 1);
	log_set_name(name);
	memset(message, '\n', sizeof(message) - 1);
	log_set_format(LOG_JSON);
	line = line_of(message);
	length = strlen(line);
	ck_assert_uint_eq(strspn(without_time(line), "\"level:notice,guestma\\u0a}n"), length - 36);
	ck_assert_str_eq(line + length - 9, "\\u000a\"}\n");
	memset(message, 'm', sizeof(message) - 1);
	log_set_format(LOG_TEXT);
	line = line_of(message);
	ck_assert_uint_eq(strlen(line), 1023);
	ck_assert_int_eq(line[1022], '\n');
}
END_TEST

Suite *log_suite(void)
{
	const TTest *const tests[] = {
		text_has_the_guests_name,
		json_is_an_object_a_line,
		json_escapes_what_it_has_to,
		long_messages_are_cut_and_end_their_line,
	};
	Suite *suite = suite_create("log");
	TCase *tcase = tcase_create("log");

	tcase_add_checked_fixture(tcase, NULL, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
