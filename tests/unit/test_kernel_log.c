// SPDX-License-Identifier: GPL-2.0-only
/* A kernel's log, found in guest memory: as Linux makes it, and as a guest makes it up. */
#include <stdio.h>
#include <string.h>

#include "guest.h"
#include "karma/kernel_log.h"

#define MEMORY_BYTES (16 * MIB)
#define LOG_AT (3 * MIB)
#define FIRST 0xffff8000ull	/* of a ring for 32768 records */

static struct guest_memory memory;
static char told[2 * KERNEL_LOG_LINES][KERNEL_LOG_LINE_BYTES];
static unsigned told_count;

static void setup(void)
{
	const struct memory_options options = { .size = MEMORY_BYTES };

	ck_assert_int_eq(guest_memory_init(&memory, &options), 0);
	told_count = 0;
}

static void teardown(void)
{
	guest_memory_release(&memory);
}

static void hear(const char *line)
{
	ck_assert_uint_le(told_count, KERNEL_LOG_LINES);
	ck_assert_uint_lt(strlen(line), KERNEL_LOG_LINE_BYTES);
	strcpy(told[told_count++], line);
}

static void look(unsigned expected)
{
	told_count = 0;
	ck_assert_uint_eq(kernel_log_search(&memory, hear), expected);
	ck_assert_uint_eq(told_count, expected);
}

/* Put a record at an address; where the next one comes. */
static uint64_t record(uint64_t at, uint64_t number, const char *text)
{
	uint64_t length = strlen(text);

	memcpy(memory.base + at, &number, sizeof(number));
	memcpy(memory.base + at + sizeof(number), text, length);
	return at + sizeof(number) + (length + 7) / 8 * 8;
}

START_TEST(records_are_told_in_their_order)
{
	uint64_t at = record(LOG_AT, FIRST, "Linux version 6.1.0");

	at = record(at, FIRST + 1, "eight by");
	/* Number 2 has no text, and so no place. */
	record(at, FIRST + 3, "No working init found.");
	look(3);
	ck_assert_str_eq(told[0], "Linux version 6.1.0");
	ck_assert_str_eq(told[1], "eight by");
	ck_assert_str_eq(told[2], "No working init found.");
}
END_TEST

/* As printk_sprint() leaves them: "<5>" is two bytes in the ring, and taken away by moving the rest. */
START_TEST(what_linux_leaves_behind_a_text_is_no_part_of_it)
{
	uint64_t at = record(LOG_AT, FIRST, "Linux version 6.1.0.0\n");

	at = record(at, FIRST + 1, "memory: 1108K8K\n");
	at = record(at, FIRST + 2, "without a level\n");
	record(at, FIRST + 3, "ab");
	look(4);
	ck_assert_str_eq(told[0], "Linux version 6.1.0");
	ck_assert_str_eq(told[1], "memory: 1108K");
	ck_assert_str_eq(told[2], "without a level");
	ck_assert_str_eq(told[3], "ab");
}
END_TEST

START_TEST(memory_without_a_log_gives_nothing)
{
	look(0);
	strcpy((char *)memory.base + LOG_AT, "........Linux version 6.1.0");
	look(0);
	record(LOG_AT, FIRST + 1, "Linux version 6.1.0");
	look(0);
	record(LOG_AT, FIRST, "Linux versions");
	look(0);
}
END_TEST

START_TEST(last_records_of_many_are_told)
{
	uint64_t at = record(LOG_AT, FIRST, "Linux version 6.1.0");
	char text[32];

	for (unsigned i = 1; i < 1000; i++) {
		snprintf(text, sizeof(text), "line %u", i);
		at = record(at, FIRST + i, text);
	}
	look(KERNEL_LOG_LINES);
	ck_assert_str_eq(told[0], "line 968");
	ck_assert_str_eq(told[KERNEL_LOG_LINES - 1], "line 999");
}
END_TEST

START_TEST(panic_is_told_whatever_follows_it)
{
	uint64_t at = record(LOG_AT, FIRST, "Linux version 6.1.0");

	at = record(at, FIRST + 1, "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000004");
	for (unsigned i = 2; i < KERNEL_LOG_LINES; i++)
		at = record(at, FIRST + i, "RIP: 0033:0x460a63");
	/* Here it still is one of the last. */
	look(KERNEL_LOG_LINES);
	ck_assert_str_eq(told[0], "Linux version 6.1.0");
	for (unsigned i = 0; i < 2; i++)
		at = record(at, FIRST + KERNEL_LOG_LINES + i, "Call Trace:");
	look(KERNEL_LOG_LINES + 1);
	ck_assert_str_eq(told[0], "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000004");
	ck_assert_str_eq(told[1], "RIP: 0033:0x460a63");
	ck_assert_str_eq(told[KERNEL_LOG_LINES], "Call Trace:");
}
END_TEST

START_TEST(longer_one_of_two_logs_is_told)
{
	uint64_t at = record(LOG_AT, FIRST, "Linux version 6.1.0");

	record(at, FIRST + 1, "log_buf_len");
	at = record(LOG_AT + MIB, FIRST, "Linux version 6.1.0");
	at = record(at, FIRST + 1, "log_buf_len");
	record(at, FIRST + 2, "more");
	look(3);
	ck_assert_str_eq(told[2], "more");
}
END_TEST

START_TEST(control_characters_and_long_texts_are_cut)
{
	char text[1000];
	uint64_t at = record(LOG_AT, FIRST, "Linux version \x1b[31m\n\xff");

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	record(at, FIRST + 1, text);
	look(2);
	ck_assert_str_eq(told[0], "Linux version  [31m  ");
	ck_assert_uint_eq(strlen(told[1]), KERNEL_LOG_LINE_BYTES - 1);
}
END_TEST

/* Nothing is read past the end of memory, and each byte of it but a few times. */
START_TEST(logs_that_are_made_up_stay_in_memory)
{
	for (uint64_t at = 0; at + 32 <= MEMORY_BYTES; at += 32)
		record(at, FIRST, "Linux version no end");
	look(1);
	for (uint64_t at = 0; at + 16 <= MEMORY_BYTES; at += 16)
		record(at, FIRST + at / 16, "........");
	record(0, FIRST, "Linux version ");
	look(KERNEL_LOG_LINES);
	memset(memory.base, 0, MEMORY_BYTES);
	record(MEMORY_BYTES - 4096 - 8, FIRST, "Linux version the end");
	look(1);
	memset(memory.base + MEMORY_BYTES - 4064, 'x', 4064);
	look(1);
}
END_TEST

Suite *kernel_log_suite(void)
{
	const TTest *const tests[] = {
		records_are_told_in_their_order,
		what_linux_leaves_behind_a_text_is_no_part_of_it,
		memory_without_a_log_gives_nothing,
		last_records_of_many_are_told,
		panic_is_told_whatever_follows_it,
		longer_one_of_two_logs_is_told,
		control_characters_and_long_texts_are_cut,
		logs_that_are_made_up_stay_in_memory,
	};
	Suite *suite = suite_create("kernel_log");
	TCase *tcase = tcase_create("kernel_log");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 30);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
