// SPDX-License-Identifier: GPL-2.0-only
/* Shared directories: names, and the numbers that a guest has for files. */
#include "share_fixture.h"

uint8_t out_bytes[REQUEST_BYTES], in_bytes[REQUEST_BYTES];

START_TEST(init_negotiates_what_both_have)
{
	struct fuse_init_in in = { .major = 7, .minor = 31, .max_readahead = 4096, .flags = FUSE_MAX_PAGES };
	const struct fuse_init_out *out = answer;

	ck_assert_int_eq(call(FUSE_INIT, 0, &in, 16), 0);
	ck_assert_uint_eq(out->major, 7);
	ck_assert_uint_eq(out->flags, FUSE_MAX_PAGES);
	ck_assert_uint_eq(out->flags2, 0);
	ck_assert_uint_eq(out->max_readahead, 4096);
	ck_assert_uint_eq(out->max_pages, 256);
	ck_assert_uint_eq(out->max_write, 1024 * 1024);
	in.minor = 30;
	ck_assert_int_eq(call(FUSE_INIT, 0, &in, sizeof(in)), -EPROTO);
	/* It is to ask again, by the version that is answered. */
	in.major = 8;
	ck_assert_int_eq(call(FUSE_INIT, 0, &in, sizeof(in)), 0);
	ck_assert_uint_eq(out->major, 7);
}
END_TEST

START_TEST(nothing_is_served_before_init)
{
	session_release(&session);
	ck_assert_int_eq(session_init(&session, &options, open(shared, O_PATH | O_CLOEXEC), false), 0);
	ck_assert_int_eq(getattr(ROOT), -EIO);
	ck_assert_int_eq(init_session(38), 0);
	ck_assert_int_eq(getattr(ROOT), 0);
}
END_TEST

START_TEST(lookup_tells_attributes)
{
	const struct fuse_entry_out *entry = answer;
	struct stat status;

	make_file("file", "contents");
	status = host_stat("file");
	find(ROOT, "file");
	ck_assert_uint_ne(entry->nodeid, ROOT);
	ck_assert_uint_eq(entry->entry_valid, 1);
	ck_assert_uint_eq(entry->attr.ino, status.st_ino);
	ck_assert_uint_eq(entry->attr.size, 8);
	ck_assert_uint_eq(entry->attr.mode, S_IFREG | 0644);
	ck_assert_uint_eq(entry->attr.nlink, 1);
	ck_assert_uint_eq(entry->attr.mtime, status.st_mtim.tv_sec);
	ck_assert_uint_eq(entry->attr.mtimensec, status.st_mtim.tv_nsec);
	ck_assert_int_eq(lookup(ROOT, "none"), -ENOENT);
}
END_TEST

START_TEST(missing_name_is_remembered_where_nobody_else_makes_files)
{
	const struct fuse_entry_out *entry = answer;

	options.cache = SHARE_CACHE_ALWAYS;
	ck_assert_int_eq(lookup(ROOT, "none"), 0);
	ck_assert_uint_eq(entry->nodeid, 0);
	ck_assert_uint_gt(entry->entry_valid, 3600);
}
END_TEST

START_TEST(same_file_has_same_number_until_it_is_forgotten)
{
	uint64_t first, second;

	make_file("file", "");
	first = find(ROOT, "file");
	ck_assert_uint_eq(find(ROOT, "file"), first);
	ck_assert_int_eq(linkat(shared_fd, "file", shared_fd, "other", 0), 0);
	ck_assert_uint_eq(find(ROOT, "other"), first);
	forget(first, 2);
	ck_assert_int_eq(getattr(first), 0);
	forget(first, 1);
	ck_assert_int_eq(getattr(first), -ESTALE);
	second = find(ROOT, "file");
	ck_assert_uint_ne(second, first);
	ck_assert_int_eq(getattr(first), -ESTALE);
	ck_assert_int_eq(try_open(first, O_RDONLY), -ESTALE);
	ck_assert_int_eq(lookup(first, "file"), -ESTALE);
}
END_TEST

START_TEST(forgetting_too_much_or_the_root_does_no_harm)
{
	uint64_t node;

	make_file("file", "");
	node = find(ROOT, "file");
	forget(node, UINT64_MAX);
	forget(node, 1);
	forget(ROOT, UINT64_MAX);
	ck_assert_int_eq(getattr(node), -ESTALE);
	ck_assert_int_eq(getattr(ROOT), 0);
}
END_TEST

START_TEST(many_are_forgotten_at_once)
{
	struct fuse_batch_forget_in in = { .count = 3 };
	struct fuse_forget_one ones[3];

	make_file("a", "");
	make_file("b", "");
	ones[0] = (struct fuse_forget_one){ find(ROOT, "a"), 1 };
	ones[1] = (struct fuse_forget_one){ 12345, 1 };
	ones[2] = (struct fuse_forget_one){ find(ROOT, "b"), 1 };
	begin(FUSE_BATCH_FORGET, 0);
	put(&in, sizeof(in));
	put(ones, sizeof(ones));
	((struct fuse_in_header *)out_bytes)->len = out_length;
	ck_assert_uint_eq(serve_bytes(out_length, 0), 0);
	ck_assert_int_eq(getattr(ones[0].nodeid), -ESTALE);
	ck_assert_int_eq(getattr(ones[2].nodeid), -ESTALE);
	ck_assert_uint_eq(session.nodes.used, 1);
}
END_TEST

START_TEST(directory_that_is_forgotten_before_its_files_stays_of_use_to_them)
{
	uint64_t directory, file;

	ck_assert_int_eq(mkdirat(shared_fd, "directory", 0755), 0);
	make_file("directory/file", "contents");
	directory = find(ROOT, "directory");
	file = find(directory, "file");
	forget(directory, 1);
	ck_assert_int_eq(lookup(directory, "file"), -ESTALE);
	ck_assert_uint_eq(attributes(file).size, 8);
	forget(file, 1);
	ck_assert_uint_eq(session.nodes.used, 1);
}
END_TEST

START_TEST(names_are_of_one_component)
{
	static const char *const names[] = { "", ".", "..", "/", "a/b", "../canary", "/etc/passwd", "shared/" };
	char longest[NAME_MAX + 2];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		ck_assert_int_eq(lookup(ROOT, names[i]), -EINVAL);
		ck_assert_int_eq(make_directory(ROOT, names[i]), -EINVAL);
		ck_assert_int_eq(create(ROOT, names[i], O_RDWR, 0644), -EINVAL);
		ck_assert_int_eq(remove_file(ROOT, names[i]), -EINVAL);
		ck_assert_int_eq(rename2_to(ROOT, names[i], ROOT, "new", 0), -EINVAL);
		ck_assert_int_eq(rename2_to(ROOT, "old", ROOT, names[i], 0), -EINVAL);
	}
	memset(longest, 'x', sizeof(longest));
	longest[NAME_MAX + 1] = 0;
	ck_assert_int_eq(make_directory(ROOT, longest), -ENAMETOOLONG);
	longest[NAME_MAX] = 0;
	ck_assert_int_eq(make_directory(ROOT, longest), 0);
}
END_TEST

START_TEST(name_without_an_end_is_refused)
{
	begin(FUSE_LOOKUP, ROOT);
	put("file", 4);
	ck_assert_int_eq(finish(), -EINVAL);
}
END_TEST

START_TEST(links_are_the_guests_to_follow)
{
	uint64_t link, outside;

	ck_assert_int_eq(symlinkat("../canary", shared_fd, "link"), 0);
	ck_assert_int_eq(symlinkat("..", shared_fd, "outside"), 0);
	link = find(ROOT, "link");
	ck_assert_uint_eq(((struct fuse_entry_out *)answer)->attr.mode & S_IFMT, S_IFLNK);
	ck_assert_int_eq(try_open(link, O_RDONLY), -EINVAL);
	ck_assert_int_eq(call(FUSE_READLINK, link, NULL, 0), 0);
	ck_assert_uint_eq(answer_bytes(), strlen("../canary"));
	ck_assert_mem_eq(answer, "../canary", answer_bytes());
	outside = find(ROOT, "outside");
	ck_assert_int_eq(lookup(outside, "canary"), -ENOTDIR);
	ck_assert_int_eq(create(ROOT, "link", O_RDWR | O_TRUNC, 0644), -ELOOP);
	ck_assert_int_eq(call(FUSE_READLINK, ROOT, NULL, 0), -EINVAL);
}
END_TEST

START_TEST(files_of_all_kinds_but_devices_are_made)
{
	struct fuse_mknod_in in = { .mode = S_IFIFO | 0620 };

	ck_assert_int_eq(call_name(FUSE_MKNOD, ROOT, &in, sizeof(in), "fifo"), 0);
	ck_assert_uint_eq(host_stat("fifo").st_mode, S_IFIFO | 0620);
	in.mode = S_IFSOCK | 0700;
	ck_assert_int_eq(call_name(FUSE_MKNOD, ROOT, &in, sizeof(in), "socket"), 0);
	ck_assert_uint_eq(host_stat("socket").st_mode, S_IFSOCK | 0700);
	in.mode = S_IFREG | 0600;
	ck_assert_int_eq(call_name(FUSE_MKNOD, ROOT, &in, sizeof(in), "file"), 0);
	ck_assert_int_eq(call_name(FUSE_MKNOD, ROOT, &in, sizeof(in), "file"), -EEXIST);
	in.mode = S_IFCHR | 0600;
	in.rdev = 1 << 8 | 3;
	ck_assert_int_eq(call_name(FUSE_MKNOD, ROOT, &in, sizeof(in), "null"), -EPERM);
	in.mode = S_IFBLK | 0600;
	ck_assert_int_eq(call_name(FUSE_MKNOD, ROOT, &in, sizeof(in), "disk"), -EPERM);
	ck_assert_int_eq(try_open(find(ROOT, "fifo"), O_RDONLY), -EINVAL);

	begin(FUSE_SYMLINK, ROOT);
	put_text("link");
	put_text("any/../text");
	ck_assert_int_eq(finish(), 0);
	ck_assert_uint_eq(host_stat("link").st_size, strlen("any/../text"));
}
END_TEST

START_TEST(created_file_is_open)
{
	const struct fuse_entry_out *entry = answer;
	uint64_t node, fh;

	ck_assert_int_eq(create(ROOT, "file", O_RDWR | O_EXCL, 0640), 0);
	node = entry->nodeid;
	fh = created_file()->fh;
	ck_assert_uint_eq(entry->attr.mode, S_IFREG | 0640);
	ck_assert_int_eq(try_write(node, fh, 0, "abc", 3), 0);
	ck_assert_int_eq(create(ROOT, "file", O_RDWR | O_EXCL, 0640), -EEXIST);
	ck_assert_int_eq(create(ROOT, "file", O_RDWR, 0640), 0);
	ck_assert_uint_eq(entry->nodeid, node);
	ck_assert_uint_eq(entry->attr.size, 3);
	ck_assert_int_eq(release(node, created_file()->fh), 0);
	ck_assert_int_eq(create(ROOT, "file", O_RDWR | O_TRUNC, 0640), 0);
	ck_assert_uint_eq(entry->attr.size, 0);
	ck_assert_int_eq(mkfifoat(shared_fd, "fifo", 0644), 0);
	/* To open it for writing would be ENXIO. */
	ck_assert_int_eq(create(ROOT, "fifo", O_WRONLY, 0644), -EEXIST);
	ck_assert_int_eq(create(ROOT, "fifo", O_RDWR, 0640), -EEXIST);
}
END_TEST

START_TEST(unlinked_file_stays_for_those_who_have_it_open)
{
	uint64_t node, fh;

	make_file("file", "contents");
	node = find(ROOT, "file");
	fh = open_file(node, O_RDWR);
	ck_assert_int_eq(remove_file(ROOT, "file"), 0);
	ck_assert(!host_has("file"));
	ck_assert_uint_eq(attributes(node).nlink, 0);
	ck_assert_int_eq(try_read(node, fh, 0, 100), 0);
	ck_assert_uint_eq(answer_bytes(), 8);
	/* By /proc in the guest. */
	ck_assert_int_eq(release(node, open_file(node, O_RDONLY)), 0);
	make_file("file", "another");
	ck_assert_uint_ne(find(ROOT, "file"), node);
	ck_assert_int_eq(release(node, fh), 0);
	ck_assert_int_eq(getattr(node), -ESTALE);
	forget(node, 1);
	ck_assert_uint_eq(session.nodes.used, 2);
}
END_TEST

START_TEST(file_with_another_name_outlives_one)
{
	uint64_t node;

	make_file("file", "contents");
	node = find(ROOT, "file");
	ck_assert_int_eq(call_name(FUSE_LINK, ROOT, &(struct fuse_link_in){ node }, sizeof(struct fuse_link_in), "other"), 0);
	ck_assert_uint_eq(((struct fuse_entry_out *)answer)->nodeid, node);
	ck_assert_uint_eq(((struct fuse_entry_out *)answer)->attr.nlink, 2);
	ck_assert_int_eq(remove_file(ROOT, "other"), 0);
	ck_assert_uint_eq(attributes(node).nlink, 1);
	ck_assert_int_eq(try_open(node, O_RDONLY), 0);
	ck_assert_int_eq(remove_file(ROOT, "file"), 0);
}
END_TEST

START_TEST(renamed_file_keeps_its_number)
{
	uint64_t directory, node;

	make_file("file", "contents");
	ck_assert_int_eq(make_directory(ROOT, "directory"), 0);
	directory = ((struct fuse_entry_out *)answer)->nodeid;
	node = find(ROOT, "file");
	ck_assert_int_eq(rename2_to(ROOT, "file", directory, "moved", 0), 0);
	ck_assert(host_has("directory/moved"));
	ck_assert_uint_eq(attributes(node).size, 8);
	ck_assert_uint_eq(find(directory, "moved"), node);
	/* And what is below a directory goes with it. */
	ck_assert_int_eq(rename2_to(ROOT, "directory", ROOT, "renamed", 0), 0);
	ck_assert_uint_eq(attributes(node).size, 8);
	ck_assert_int_eq(rename2_to(ROOT, "renamed", directory, "below", 0), -EINVAL);
}
END_TEST

START_TEST(file_that_is_renamed_over_is_gone)
{
	uint64_t old, new, fh;

	make_file("old", "old");
	make_file("new", "newer");
	old = find(ROOT, "old");
	new = find(ROOT, "new");
	fh = open_file(old, O_RDONLY);
	ck_assert_int_eq(rename2_to(ROOT, "new", ROOT, "old", RENAME_NOREPLACE), -EEXIST);
	ck_assert_int_eq(rename2_to(ROOT, "new", ROOT, "old", 0), 0);
	ck_assert_uint_eq(attributes(new).size, 5);
	ck_assert_int_eq(try_read(old, fh, 0, 10), 0);
	ck_assert_mem_eq(answer, "old", 3);
	ck_assert_int_eq(release(old, fh), 0);
	ck_assert_int_eq(getattr(old), -ESTALE);
	ck_assert_int_eq(try_open(old, O_RDONLY), -ESTALE);
}
END_TEST

START_TEST(names_are_exchanged)
{
	uint64_t a, b;

	make_file("a", "a");
	make_file("b", "bb");
	a = find(ROOT, "a");
	b = find(ROOT, "b");
	ck_assert_int_eq(rename2_to(ROOT, "a", ROOT, "b", RENAME_EXCHANGE), 0);
	ck_assert_uint_eq(host_stat("a").st_size, 2);
	ck_assert_uint_eq(attributes(a).size, 1);
	ck_assert_uint_eq(attributes(b).size, 2);
	ck_assert_uint_eq(find(ROOT, "a"), b);
	ck_assert_uint_eq(find(ROOT, "b"), a);
	ck_assert_int_eq(rename2_to(ROOT, "a", ROOT, "b", RENAME_WHITEOUT), -EINVAL);
}
END_TEST

START_TEST(removed_directory_is_still_one)
{
	uint64_t node;

	ck_assert_int_eq(make_directory(ROOT, "directory"), 0);
	node = ((struct fuse_entry_out *)answer)->nodeid;
	ck_assert_int_eq(create(node, "file", O_RDWR, 0644), 0);
	ck_assert_int_eq(call_name(FUSE_RMDIR, ROOT, NULL, 0, "directory"), -ENOTEMPTY);
	ck_assert_int_eq(remove_file(node, "file"), 0);
	ck_assert_int_eq(call_name(FUSE_RMDIR, ROOT, NULL, 0, "directory"), 0);
	ck_assert_uint_eq(attributes(node).nlink, 0);
	ck_assert_int_eq(lookup(node, "file"), -ENOENT);
	ck_assert_int_eq(create(node, "file", O_RDWR, 0644), -ENOENT);
}
END_TEST

START_TEST(file_that_the_host_replaces_is_stale_and_never_another)
{
	uint64_t node;

	make_file("file", "first");
	make_file("next", "second");
	node = find(ROOT, "file");
	ck_assert_int_eq(renameat(shared_fd, "next", shared_fd, "file"), 0);
	ck_assert_int_eq(getattr(node), -ESTALE);
	ck_assert_int_eq(try_open(node, O_RDONLY), -ESTALE);
	ck_assert_uint_ne(find(ROOT, "file"), node);
	ck_assert_int_eq(unlinkat(shared_fd, "file", 0), 0);
	ck_assert_int_eq(lookup(ROOT, "file"), -ENOENT);
}
END_TEST

START_TEST(read_only_directory_is_not_changed)
{
	const struct fuse_setattr_in mode = { .valid = FATTR_MODE, .mode = 0600 };
	uint64_t node;

	make_file("file", "contents");
	options.read_only = true;
	restart();
	node = find(ROOT, "file");
	ck_assert_int_eq(try_open(node, O_RDWR), -EROFS);
	ck_assert_int_eq(try_open(node, O_WRONLY), -EROFS);
	ck_assert_int_eq(try_open(node, O_RDONLY | O_TRUNC), -EROFS);
	ck_assert_int_eq(create(ROOT, "new", O_RDWR, 0644), -EROFS);
	ck_assert_int_eq(make_directory(ROOT, "new"), -EROFS);
	ck_assert_int_eq(remove_file(ROOT, "file"), -EROFS);
	ck_assert_int_eq(rename2_to(ROOT, "file", ROOT, "new", 0), -EROFS);
	ck_assert_int_eq(call(FUSE_SETATTR, node, &mode, sizeof(mode)), -EROFS);
	ck_assert_int_eq(try_write(node, open_file(node, O_RDONLY), 0, "x", 1), -EROFS);
	ck_assert_uint_eq(host_stat("file").st_size, 8);
}
END_TEST

/* As root alone: others are one user for all. */
START_TEST(what_the_guests_user_creates_is_that_users)
{
	struct stat status;

	if (geteuid() != 0)
		return;
	ck_assert_int_eq(fchmod(shared_fd, 0777), 0);
	as_uid = 1234;
	as_gid = 4321;
	ck_assert_int_eq(create(ROOT, "file", O_RDWR, 0640), 0);
	ck_assert_uint_eq(((struct fuse_entry_out *)answer)->attr.uid, 1234);
	ck_assert_int_eq(make_directory(ROOT, "directory"), 0);
	status = host_stat("directory");
	ck_assert_uint_eq(status.st_uid, 1234);
	ck_assert_uint_eq(status.st_gid, 4321);
	ck_assert_uint_eq(geteuid(), 0);
	ck_assert_uint_eq(getegid(), 0);
	as_uid = (uint32_t)-1;
	ck_assert_int_eq(create(ROOT, "none", O_RDWR, 0640), -EINVAL);
	ck_assert(!host_has("none"));
}
END_TEST

Suite *share_suite(void)
{
	const TTest *const tests[] = {
		init_negotiates_what_both_have,
		nothing_is_served_before_init,
		lookup_tells_attributes,
		missing_name_is_remembered_where_nobody_else_makes_files,
		same_file_has_same_number_until_it_is_forgotten,
		forgetting_too_much_or_the_root_does_no_harm,
		many_are_forgotten_at_once,
		directory_that_is_forgotten_before_its_files_stays_of_use_to_them,
		names_are_of_one_component,
		name_without_an_end_is_refused,
		links_are_the_guests_to_follow,
		files_of_all_kinds_but_devices_are_made,
		created_file_is_open,
		unlinked_file_stays_for_those_who_have_it_open,
		file_with_another_name_outlives_one,
		renamed_file_keeps_its_number,
		file_that_is_renamed_over_is_gone,
		names_are_exchanged,
		removed_directory_is_still_one,
		file_that_the_host_replaces_is_stale_and_never_another,
		read_only_directory_is_not_changed,
		what_the_guests_user_creates_is_that_users,
	};
	Suite *suite = suite_create("share");

	add_case(suite, "share", setup, teardown, 20, tests, ARRAY_SIZE(tests));
	share_files_tests(suite);
	share_directories_tests(suite);
	share_hostile_tests(suite);
	share_server_tests(suite);
	share_confine_tests(suite);
	return suite;
}
