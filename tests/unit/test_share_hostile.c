// SPDX-License-Identifier: GPL-2.0-only
/* Shared directories: a guest that attacks their server.  No answer ever has the canary. */
#include <pthread.h>
#include <stdatomic.h>

#include "share_fixture.h"

static void assert_no_canary(void)
{
	ck_assert_ptr_null(memmem(in_bytes, in_room, CANARY, strlen(CANARY)));
}

static const uint64_t boundaries[] = { 0, 1, 2, 255, 4096, 65535, 65536, INT32_MAX, 1ull << 31, UINT32_MAX, 1ull << 32,
	INT64_MAX - 1, INT64_MAX, 1ull << 63, UINT64_MAX };

/* Any request with this one value in all places of its arguments. */
static void attack(uint32_t opcode, uint64_t node, uint64_t value, size_t words)
{
	begin(opcode, node);
	for (size_t i = 0; i < words; i++)
		put(&value, sizeof(value));
	((struct fuse_in_header *)out_bytes)->len = out_length;
	serve_bytes(out_length, in_room);
	assert_no_canary();
}

START_TEST(every_request_takes_every_boundary_value)
{
	make_file("file", "contents");
	for (uint32_t opcode = 0; opcode < 64; opcode++) {
		for (size_t i = 0; i < ARRAY_SIZE(boundaries); i++) {
			for (size_t words = 0; words < 14; words++) {
				attack(opcode, ROOT, boundaries[i], words);
				/* FUSE_DESTROY and FUSE_INIT are among them. */
				init_session(38);
				attack(opcode, find(ROOT, "file"), boundaries[i], words);
				attack(opcode, boundaries[i], boundaries[i], words);
				init_session(38);
			}
		}
	}
	ck_assert_uint_eq(host_stat("../canary").st_size, sizeof(CANARY));
}
END_TEST

START_TEST(every_handle_of_a_file_takes_every_boundary_value)
{
	static const uint32_t opcodes[] = { FUSE_READ, FUSE_WRITE, FUSE_FALLOCATE, FUSE_LSEEK, FUSE_FSYNC, FUSE_READDIR };
	uint64_t node, fh;

	make_file("file", "contents");
	node = find(ROOT, "file");
	fh = open_file(node, O_RDONLY);
	for (size_t i = 0; i < ARRAY_SIZE(opcodes); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(boundaries); j++) {
			for (size_t words = 0; words < 10; words++) {
				begin(opcodes[i], node);
				put(&fh, sizeof(fh));
				for (size_t k = 0; k < words; k++)
					put(&boundaries[j], sizeof(boundaries[j]));
				finish();
			}
		}
	}
	ck_assert_int_eq(try_read(node, fh, 0, 8), 0);
}
END_TEST

START_TEST(lengths_of_requests_are_checked)
{
	struct fuse_in_header *head = (struct fuse_in_header *)out_bytes;

	for (size_t length = 0; length < sizeof(*head); length++) {
		begin(FUSE_GETATTR, ROOT);
		ck_assert_uint_eq(serve_bytes(length, 100), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(boundaries); i++) {
		begin(FUSE_LOOKUP, ROOT);
		put_text("none");
		head->len = boundaries[i];
		serve_bytes(out_length, 1000);
		ck_assert_int_eq(answer_head->error, -EINVAL);
	}
	/* More than any request has. */
	begin(FUSE_LOOKUP, ROOT);
	out_length = REQUEST_BYTES / 2;
	ck_assert_int_eq(finish(), -E2BIG);
}
END_TEST

START_TEST(answers_stay_within_their_room)
{
	for (size_t room = 0; room < 300; room++) {
		uint32_t written;

		begin(FUSE_GETATTR, ROOT);
		put(&(struct fuse_getattr_in){ 0 }, sizeof(struct fuse_getattr_in));
		((struct fuse_in_header *)out_bytes)->len = out_length;
		written = serve_bytes(out_length, room);
		ck_assert_uint_le(written, room);
		ck_assert_uint_eq(in_bytes[room], 0xee);
		/* What can't be answered is not done. */
		begin(FUSE_MKDIR, ROOT);
		put(&(struct fuse_mkdir_in){ 0 }, sizeof(struct fuse_mkdir_in));
		put_text("directory");
		((struct fuse_in_header *)out_bytes)->len = out_length;
		if (room < sizeof(*answer_head) + sizeof(struct fuse_entry_out)) {
			serve_bytes(out_length, room);
			ck_assert(!host_has("directory"));
		}
	}
}
END_TEST

START_TEST(numbers_that_were_never_given_are_nothing)
{
	for (uint64_t high = 0; high < 4; high++) {
		for (uint64_t low = 0; low < 300; low++) {
			uint64_t node = high << 32 | low;

			if (node == ROOT)
				continue;
			ck_assert_int_eq(getattr(node), -ESTALE);
			ck_assert_int_eq(lookup(node, "canary"), -ESTALE);
			ck_assert_int_eq(try_read(ROOT, node, 0, 10), -EBADF);
			ck_assert_int_eq(call_name(FUSE_LINK, ROOT, &node, sizeof(node), "link"), -ESTALE);
		}
	}
}
END_TEST

/* --- Another process of the host's, or another guest, exchanges a directory and a link that leads out. */

static atomic_bool racing;

static void *race(void *unused)
{
	(void)unused;
	while (atomic_load(&racing))
		renameat2(shared_fd, "directory", shared_fd, "link", RENAME_EXCHANGE);
	return NULL;
}

static void try_to_read_canary(uint64_t directory)
{
	uint64_t node, fh;

	if (lookup(directory, "canary") < 0)
		return;
	assert_no_canary();
	node = ((struct fuse_entry_out *)answer)->nodeid;
	ck_assert_uint_eq(((struct fuse_entry_out *)answer)->attr.size, 3);
	if (try_open(node, O_RDWR) == 0) {
		fh = ((struct fuse_open_out *)answer)->fh;
		ck_assert_int_eq(try_read(node, fh, 0, 1000), 0);
		ck_assert_uint_eq(answer_bytes(), 3);
		assert_no_canary();
		release(node, fh);
	}
	forget(node, 1);
}

START_TEST(links_that_are_exchanged_for_directories_lead_nowhere)
{
	const struct fuse_setattr_in mode = { .valid = FATTR_MODE | FATTR_MTIME, .mode = 0777 };
	struct stat before, after;
	pthread_t thread;

	ck_assert_int_eq(mkdirat(shared_fd, "directory", 0755), 0);
	make_file("directory/canary", "own");
	ck_assert_int_eq(symlinkat("..", shared_fd, "link"), 0);
	ck_assert_int_eq(fstatat(shared_fd, "../canary", &before, 0), 0);
	atomic_store(&racing, true);
	ck_assert_int_eq(pthread_create(&thread, NULL, race, NULL), 0);
	for (unsigned i = 0; i < 3000; i++) {
		static const char *const names[] = { "directory", "link" };
		uint64_t node;

		ck_assert_int_eq(lookup(ROOT, names[i % 2]), 0);
		node = ((struct fuse_entry_out *)answer)->nodeid;
		try_to_read_canary(node);
		call(FUSE_SETATTR, node, &mode, sizeof(mode));
		if (i % 3 == 0)
			forget(node, 1000);
	}
	atomic_store(&racing, false);
	pthread_join(thread, NULL);
	ck_assert_int_eq(fstatat(shared_fd, "../canary", &after, 0), 0);
	ck_assert_uint_eq(before.st_mode, after.st_mode);
	ck_assert_int_eq(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
	ck_assert_int_eq(fstatat(shared_fd, "..", &after, 0), 0);
	ck_assert_uint_eq(after.st_mode & 07777, 0700);
}
END_TEST

/* A request that changes between its check and its use. */
static void *meddle(void *unused)
{
	(void)unused;
	while (atomic_load(&racing)) {
		volatile char *name = (volatile char *)out_bytes + sizeof(struct fuse_in_header);

		name[0] = '.';
		name[1] = '.';
		name[2] = '/';
		name[0] = 'a';
		name[1] = 'a';
		name[2] = 'a';
	}
	return NULL;
}

START_TEST(names_that_change_meanwhile_stay_names)
{
	pthread_t thread;

	ck_assert_int_eq(mkdirat(shared_fd, "aaacanary", 0755), 0);
	atomic_store(&racing, true);
	ck_assert_int_eq(pthread_create(&thread, NULL, meddle, NULL), 0);
	for (unsigned i = 0; i < 20000; i++) {
		if (lookup(ROOT, "aaacanary") == 0)
			ck_assert_uint_eq(((struct fuse_entry_out *)answer)->attr.mode & S_IFMT, S_IFDIR);
	}
	atomic_store(&racing, false);
	pthread_join(thread, NULL);
}
END_TEST

void share_hostile_tests(Suite *suite)
{
	const TTest *const tests[] = {
		every_request_takes_every_boundary_value,
		every_handle_of_a_file_takes_every_boundary_value,
		lengths_of_requests_are_checked,
		answers_stay_within_their_room,
		numbers_that_were_never_given_are_nothing,
		links_that_are_exchanged_for_directories_lead_nowhere,
		names_that_change_meanwhile_stay_names,
	};

	add_case(suite, "share_hostile", setup, teardown, 60, tests, ARRAY_SIZE(tests));
}
