// SPDX-License-Identifier: GPL-2.0-only
/* The state of a guest as bytes: what was written is read, and what is damaged, cut or newer is refused. */
#include <errno.h>
#include <string.h>

#include "guest.h"
#include "karma/snapshot.h"

#define HEADER_BYTES 20
#define PART_HEADER_BYTES 16

static uint8_t bytes[1024];
static struct snapshot_writer writer;
static struct snapshot_reader reader;

/* A state with a VM of two numbers and two vCPUs of text; how long it is. */
static size_t write_state(void)
{
	snapshot_writer_init(&writer, bytes, sizeof(bytes));
	snapshot_begin(&writer, SNAPSHOT_VM, 0, 1);
	snapshot_put_number(&writer, 0x0123456789abcdef);
	snapshot_put_number(&writer, 7);
	snapshot_end(&writer);
	for (unsigned i = 0; i < 2; i++) {
		snapshot_begin(&writer, SNAPSHOT_VCPU, i, 3);
		snapshot_put(&writer, i ? "one" : "zero", i ? 3 : 4);
		snapshot_end(&writer);
	}
	return snapshot_finish(&writer);
}

static void assert_refused(size_t size, const char *words)
{
	messages_begin();
	ck_assert_int_eq(snapshot_reader_init(&reader, bytes, size), -EINVAL);
	ck_assert_ptr_nonnull(strstr(messages_end(), words));
}

START_TEST(what_was_written_is_read)
{
	char text[4];
	size_t size = write_state();

	ck_assert_int_eq(snapshot_reader_init(&reader, bytes, size), 0);
	ck_assert_uint_eq(snapshot_count(&reader, SNAPSHOT_VM), 1);
	ck_assert_uint_eq(snapshot_count(&reader, SNAPSHOT_VCPU), 2);
	ck_assert_uint_eq(snapshot_count(&reader, SNAPSHOT_DEVICE), 0);
	/* In any order. */
	ck_assert_int_eq(snapshot_open(&reader, SNAPSHOT_VCPU, 1, 5), 3);
	ck_assert_uint_eq(snapshot_left(&reader), 3);
	snapshot_get(&reader, text, 3);
	ck_assert_mem_eq(text, "one", 3);
	ck_assert_int_eq(snapshot_close(&reader), 0);
	ck_assert_int_eq(snapshot_open(&reader, SNAPSHOT_VM, 0, 1), 1);
	ck_assert_uint_eq(snapshot_get_number(&reader), 0x0123456789abcdef);
	ck_assert_uint_eq(snapshot_get_number(&reader), 7);
	ck_assert_int_eq(snapshot_close(&reader), 0);
}
END_TEST

START_TEST(format_is_as_the_manual_says)
{
	static const uint8_t header[] = { 'K', 'a', 'r', 'm', 'a', 'V', 'M', 0, 1, 0, 0, 0, 103, 0, 0, 0 };
	static const uint8_t part[] = { 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0, 0xef, 0xcd, 0xab, 0x89 };

	ck_assert_uint_eq(write_state(), 103);
	ck_assert_mem_eq(bytes, header, sizeof(header));
	ck_assert_mem_eq(bytes + HEADER_BYTES, part, sizeof(part));
}
END_TEST

START_TEST(too_little_room_is_told)
{
	size_t size = write_state();

	for (size_t room = 0; room < size; room++) {
		snapshot_writer_init(&writer, bytes, room);
		snapshot_begin(&writer, SNAPSHOT_VM, 0, 1);
		snapshot_put(&writer, bytes + 128, size - HEADER_BYTES - PART_HEADER_BYTES - 4);
		snapshot_end(&writer);
		ck_assert_int_eq(snapshot_finish(&writer), -ENOSPC);
	}
}
END_TEST

START_TEST(every_damaged_byte_is_found)
{
	size_t size = write_state();

	for (size_t i = 0; i < size; i++) {
		bytes[i] ^= 0x10;
		ck_assert_int_eq(snapshot_reader_init(&reader, bytes, size), -EINVAL);
		bytes[i] ^= 0x10;
	}
	for (size_t cut = 0; cut < size; cut++)
		ck_assert_int_eq(snapshot_reader_init(&reader, bytes, cut), -EINVAL);
	ck_assert_int_eq(snapshot_reader_init(&reader, bytes, size + 1), -EINVAL);
	ck_assert_int_eq(snapshot_reader_init(&reader, bytes, size), 0);
}
END_TEST

START_TEST(what_is_wrong_is_said)
{
	size_t size = write_state();

	bytes[size - 1]++;
	assert_refused(size, "the part at byte 80 is damaged");
	assert_refused(size - 1, "has 102 bytes, where its header says 103");
	bytes[12]++;
	assert_refused(size, "its header is damaged");
	bytes[8] = 2;
	assert_refused(size, "has format 2, and this Karma knows 1: restore it with");
	bytes[0]++;
	assert_refused(size, "is not the state of a guest");
}
END_TEST

START_TEST(unknown_kind_and_version_are_refused)
{
	snapshot_writer_init(&writer, bytes, sizeof(bytes));
	snapshot_begin(&writer, SNAPSHOT_KINDS, 0, 1);
	snapshot_end(&writer);
	assert_refused(snapshot_finish(&writer), "which this Karma does not know");
	snapshot_writer_init(&writer, bytes, sizeof(bytes));
	snapshot_begin(&writer, SNAPSHOT_VM, 0, 0);
	snapshot_end(&writer);
	assert_refused(snapshot_finish(&writer), "version 0");
}
END_TEST

START_TEST(missing_or_newer_part_is_named)
{
	size_t size = write_state();

	ck_assert_int_eq(snapshot_reader_init(&reader, bytes, size), 0);
	messages_begin();
	ck_assert_int_eq(snapshot_open(&reader, SNAPSHOT_VCPU, 2, 3), -EINVAL);
	ck_assert_ptr_nonnull(strstr(messages_end(), "has no vCPU 2"));
	messages_begin();
	ck_assert_int_eq(snapshot_open(&reader, SNAPSHOT_VCPU, 1, 2), -EINVAL);
	ck_assert_ptr_nonnull(strstr(messages_end(), "vCPU 1 has version 3, and this Karma knows 2"));
}
END_TEST

START_TEST(part_is_read_as_a_whole_and_no_further)
{
	uint8_t text[8] = "unread";
	size_t size = write_state();

	ck_assert_int_eq(snapshot_reader_init(&reader, bytes, size), 0);
	snapshot_open(&reader, SNAPSHOT_VCPU, 0, 3);
	snapshot_get(&reader, text, 5);
	ck_assert(reader.failed);
	for (size_t i = 0; i < 5; i++)
		ck_assert_uint_eq(text[i], 0);
	ck_assert_uint_eq(snapshot_get_number(&reader), 0);
	messages_begin();
	ck_assert_int_eq(snapshot_close(&reader), -EINVAL);
	ck_assert_ptr_nonnull(strstr(messages_end(), "vCPU 0 has not the length"));
	snapshot_open(&reader, SNAPSHOT_VCPU, 0, 3);
	snapshot_get(&reader, text, 3);
	ck_assert_int_eq(snapshot_close(&reader), -EINVAL);
}
END_TEST

Suite *state_suite(void)
{
	const TTest *const tests[] = {
		what_was_written_is_read,
		format_is_as_the_manual_says,
		too_little_room_is_told,
		every_damaged_byte_is_found,
		what_is_wrong_is_said,
		unknown_kind_and_version_are_refused,
		missing_or_newer_part_is_named,
		part_is_read_as_a_whole_and_no_further,
	};
	Suite *suite = suite_create("state");
	TCase *tcase = tcase_create("state");

	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
