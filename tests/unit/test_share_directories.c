// SPDX-License-Identifier: GPL-2.0-only
/* Shared directories: their entries, and trees with more files than may be open. */
#include <sys/resource.h>

#include "share_fixture.h"

#define MANY 3000u

static void make_many(void)
{
	for (unsigned i = 0; i < MANY; i++) {
		char name[32];

		snprintf(name, sizeof(name), "file-%u", i);
		make_file(name, "");
	}
}

static int read_entries(uint32_t opcode, uint64_t node, uint64_t fh, uint64_t offset, uint32_t size)
{
	const struct fuse_read_in in = { .fh = fh, .offset = offset, .size = size };

	begin(opcode, node);
	put(&in, sizeof(in));
	in_room = sizeof(*answer_head) + size;
	return finish();
}

/* What a directory has: how often each of the many, and how many others. */
struct seen {
	unsigned many[MANY], others;
	uint64_t last_offset;
};

static void look_at(struct seen *seen, const struct fuse_dirent *entry)
{
	char name[NAME_MAX + 1] = { 0 };
	unsigned number;

	memcpy(name, entry->name, entry->namelen);
	if (sscanf(name, "file-%u", &number) == 1 && number < MANY)
		seen->many[number]++;
	else
		seen->others++;
	seen->last_offset = entry->off;
}

/* One answer's; false at the end. */
static bool look_at_answer(struct seen *seen, bool plus)
{
	const uint8_t *at = answer, *end = at + answer_bytes();

	while (at < end) {
		const struct fuse_direntplus *entry = (const void *)at;

		look_at(seen, plus ? &entry->dirent : (const void *)at);
		at += plus ? FUSE_DIRENTPLUS_SIZE(entry) : FUSE_DIRENT_SIZE((const struct fuse_dirent *)at);
	}
	ck_assert_ptr_eq(at, end);
	return answer_bytes() > 0;
}

static void read_all(struct seen *seen, uint64_t fh, bool plus)
{
	do
		ck_assert_int_eq(
			read_entries(plus ? FUSE_READDIRPLUS : FUSE_READDIR, ROOT, fh, seen->last_offset, 4096), 0);
	while (look_at_answer(seen, plus));
}

START_TEST(entries_come_once_each)
{
	struct seen seen = { 0 };

	make_many();
	read_all(&seen, open_directory(ROOT), false);
	for (unsigned i = 0; i < MANY; i++)
		ck_assert_uint_eq(seen.many[i], 1);
	ck_assert_uint_eq(seen.others, 2);
	ck_assert_uint_eq(session.nodes.used, 1);
}
END_TEST

START_TEST(entries_with_attributes_are_lookups)
{
	struct seen seen = { 0 };
	uint64_t node;

	make_many();
	read_all(&seen, open_directory(ROOT), true);
	for (unsigned i = 0; i < MANY; i++)
		ck_assert_uint_eq(seen.many[i], 1);
	ck_assert_uint_eq(session.nodes.used, 1 + MANY);
	node = find(ROOT, "file-0");
	forget(node, 1);
	ck_assert_int_eq(getattr(node), 0);
	forget(node, 1);
	ck_assert_int_eq(getattr(node), -ESTALE);
}
END_TEST

START_TEST(entries_go_on_from_any_offset)
{
	struct seen first = { 0 }, again = { 0 }, interleaved = { 0 };
	uint64_t fh, other;

	make_many();
	fh = open_directory(ROOT);
	other = open_directory(ROOT);
	ck_assert_int_eq(read_entries(FUSE_READDIR, ROOT, fh, 0, 4096), 0);
	look_at_answer(&first, false);
	interleaved = first;
	read_all(&again, other, false);
	read_all(&interleaved, fh, false);
	for (unsigned i = 0; i < MANY; i++)
		ck_assert_uint_eq(again.many[i] + interleaved.many[i], 2);
	/* From the start, as rewinddir() does. */
	read_all(&first, fh, false);
	ck_assert_int_eq(read_entries(FUSE_READDIR, ROOT, fh, 0, 4096), 0);
	ck_assert_uint_gt(answer_bytes(), 0);
}
END_TEST

START_TEST(entries_come_while_others_go)
{
	struct seen seen = { 0 };
	uint64_t fh;

	make_many();
	fh = open_directory(ROOT);
	for (unsigned i = 0; i < MANY; i++) {
		char name[32];

		/* Each other one is removed, meanwhile or before. */
		if (i % 100 == 0 && read_entries(FUSE_READDIR, ROOT, fh, seen.last_offset, 1024) == 0)
			look_at_answer(&seen, false);
		snprintf(name, sizeof(name), "file-%u", i);
		if (i % 2)
			ck_assert_int_eq(remove_file(ROOT, name), 0);
	}
	read_all(&seen, fh, false);
	for (unsigned i = 0; i < MANY; i += 2)
		ck_assert_uint_eq(seen.many[i], 1);
}
END_TEST

START_TEST(what_has_no_room_waits)
{
	struct seen seen = { 0 };
	uint64_t fh = open_directory(ROOT);

	make_file("file-0", "");
	ck_assert_int_eq(read_entries(FUSE_READDIRPLUS, ROOT, fh, 0, 8), 0);
	ck_assert_uint_eq(answer_bytes(), 0);
	ck_assert_uint_eq(session.nodes.used, 1);
	read_all(&seen, fh, true);
	ck_assert_uint_eq(seen.many[0], 1);
}
END_TEST

START_TEST(what_is_above_the_root_is_not_told)
{
	struct stat status = host_stat(".");
	const struct fuse_dirent *entry = answer;

	ck_assert_int_eq(read_entries(FUSE_READDIR, ROOT, open_directory(ROOT), 0, 4096), 0);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_uint_eq(entry->ino, status.st_ino);
		entry = (const void *)((const char *)entry + FUSE_DIRENT_SIZE(entry));
	}
}
END_TEST

START_TEST(handles_of_files_have_no_entries)
{
	uint64_t node;

	make_file("file", "");
	node = find(ROOT, "file");
	ck_assert_int_eq(read_entries(FUSE_READDIR, node, open_file(node, O_RDONLY), 0, 4096), -EBADF);
	ck_assert_int_eq(read_entries(FUSE_READDIR, ROOT, 99, 0, 4096), -EBADF);
	ck_assert_int_eq(call(FUSE_OPENDIR, node, &(struct fuse_open_in){ 0 }, sizeof(struct fuse_open_in)), -ENOTDIR);
}
END_TEST

#define DEPTH 300u

static void limit_files(rlim_t most)
{
	const struct rlimit limit = { most, most };

	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* A tree with more directories than descriptors, of which each is used again later. */
START_TEST(directories_are_more_than_may_be_open)
{
	uint64_t nodes[DEPTH];

	limit_files(64);
	for (unsigned i = 0; i < DEPTH; i++) {
		ck_assert_int_eq(make_directory(i ? nodes[i - 1] : ROOT, "directory"), 0);
		nodes[i] = ((struct fuse_entry_out *)answer)->nodeid;
	}
	for (unsigned i = 0; i < DEPTH; i++) {
		unsigned index = i * 7 % DEPTH;

		ck_assert_int_eq(make_directory(nodes[index], "another"), 0);
		ck_assert_int_eq(rename2_to(nodes[index], "another", nodes[DEPTH - 1 - index], "moved", 0), 0);
	}
}
END_TEST

START_TEST(too_many_open_files_are_an_error)
{
	uint64_t node;
	int result;

	make_file("file", "contents");
	node = find(ROOT, "file");
	limit_files(64);
	for (unsigned i = 0; (result = try_open(node, O_RDONLY)) == 0; i++)
		ck_assert_uint_lt(i, 64);
	ck_assert_int_eq(result, -ENFILE);
	ck_assert_int_eq(getattr(node), 0);
}
END_TEST

/* Of another file system, whose inodes have numbers of their own: /proc has one below it. */
START_TEST(other_file_systems_are_told_as_such)
{
	uint64_t fs;

	session_release(&session);
	ck_assert_int_eq(session_init(&session, &options, open("/", O_PATH | O_CLOEXEC), false), 0);
	ck_assert_int_eq(init_session(38), 0);
	fs = find(ROOT, "proc");
	ck_assert_uint_eq(attributes(fs).flags, FUSE_ATTR_SUBMOUNT);
	ck_assert_uint_eq(attributes(ROOT).flags, 0);
}
END_TEST

void share_directories_tests(Suite *suite)
{
	const TTest *const tests[] = {
		entries_come_once_each,
		entries_with_attributes_are_lookups,
		entries_go_on_from_any_offset,
		entries_come_while_others_go,
		what_has_no_room_waits,
		what_is_above_the_root_is_not_told,
		handles_of_files_have_no_entries,
		directories_are_more_than_may_be_open,
		too_many_open_files_are_an_error,
		other_file_systems_are_told_as_such,
	};

	add_case(suite, "share_directories", setup, teardown, 60, tests, ARRAY_SIZE(tests));
}
