// SPDX-License-Identifier: GPL-2.0-only
/* Shared directories: what is in files, and their attributes. */
#include <linux/falloc.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "share_fixture.h"

static uint64_t node, fh;

/* A file that is open. */
static void open_new(const char *contents, uint32_t flags)
{
	make_file("file", contents);
	node = find(ROOT, "file");
	fh = open_file(node, flags);
}

static void assert_read(uint64_t offset, uint32_t size, const char *expected)
{
	ck_assert_int_eq(try_read(node, fh, offset, size), 0);
	ck_assert_uint_eq(answer_bytes(), strlen(expected));
	ck_assert_mem_eq(answer, expected, strlen(expected));
}

START_TEST(reads_are_of_the_file)
{
	open_new("0123456789", O_RDONLY);
	assert_read(0, 4096, "0123456789");
	assert_read(3, 4, "3456");
	assert_read(10, 4, "");
	assert_read(1000000, 4, "");
	assert_read(0, 0, "");
	assert_read(INT64_MAX, 0, "");
	/* Not the position of the host's descriptor. */
	ck_assert_int_eq(try_read(node, fh, UINT64_MAX, 4), -EINVAL);
	ck_assert_int_eq(try_read(node, fh, 1ull << 63, 4), -EINVAL);
}
END_TEST

START_TEST(read_goes_no_further_than_its_buffers)
{
	struct fuse_read_in in = { .size = UINT32_MAX };

	open_new("0123456789", O_RDONLY);
	in.fh = fh;
	begin(FUSE_READ, node);
	put(&in, sizeof(in));
	in_room = sizeof(*answer_head) + 4;
	ck_assert_int_eq(finish(), 0);
	ck_assert_uint_eq(answer_bytes(), 4);
	ck_assert_uint_eq(in_bytes[in_room], 0xee);
}
END_TEST

START_TEST(writes_are_at_their_offsets)
{
	const struct fuse_write_out *out = answer;

	open_new("0123456789", O_RDWR);
	ck_assert_int_eq(try_write(node, fh, 3, "abc", 3), 0);
	ck_assert_uint_eq(out->size, 3);
	assert_read(0, 100, "012abc6789");
	ck_assert_int_eq(try_write(node, fh, 12, "x", 1), 0);
	ck_assert_uint_eq(host_stat("file").st_size, 13);
	ck_assert_int_eq(try_write(node, fh, UINT64_MAX, "x", 1), -EINVAL);
	ck_assert_int_eq(try_write(node, fh, INT64_MAX, "x", 1), -EINVAL);
}
END_TEST

START_TEST(write_of_more_than_the_request_has_is_refused)
{
	const struct fuse_write_in in = { .size = 11 };

	open_new("", O_RDWR);
	begin(FUSE_WRITE, node);
	put(&in, sizeof(in));
	((struct fuse_write_in *)(out_bytes + sizeof(struct fuse_in_header)))->fh = fh;
	put("0123456789", 10);
	ck_assert_int_eq(finish(), -EINVAL);
	ck_assert_uint_eq(host_stat("file").st_size, 0);
}
END_TEST

START_TEST(megabytes_go_in_one_request)
{
	const size_t length = MIB;
	uint8_t *bytes = malloc(length);

	for (size_t i = 0; i < length; i++)
		bytes[i] = i * 2654435761u >> 24;
	open_new("", O_RDWR);
	ck_assert_int_eq(try_write(node, fh, 0, bytes, length), 0);
	ck_assert_int_eq(try_read(node, fh, 0, length), 0);
	ck_assert_uint_eq(answer_bytes(), length);
	ck_assert_int_eq(memcmp(answer, bytes, length), 0);
	free(bytes);
}
END_TEST

START_TEST(append_is_at_the_end_that_the_host_has)
{
	open_new("guest", O_WRONLY | O_APPEND);
	make_file("file", "host's lines");
	ck_assert_int_eq(try_write(node, fh, 5, "+", 1), 0);
	ck_assert_uint_eq(host_stat("file").st_size, 13);
}
END_TEST

START_TEST(handle_is_of_one_file_while_it_is_open)
{
	uint64_t other;

	open_new("contents", O_RDONLY);
	make_file("other", "other");
	other = find(ROOT, "other");
	ck_assert_int_eq(try_read(other, fh, 0, 10), -EBADF);
	ck_assert_int_eq(try_read(node, fh + 1, 0, 10), -EBADF);
	ck_assert_int_eq(try_read(node, 0, 0, 10), -EBADF);
	ck_assert_int_eq(try_write(node, fh, 0, "x", 1), -EBADF);
	ck_assert_int_eq(release(other, fh), -EBADF);
	ck_assert_int_eq(release(node, fh), 0);
	ck_assert_int_eq(try_read(node, fh, 0, 10), -EBADF);
	ck_assert_int_eq(release(node, fh), -EBADF);
}
END_TEST

START_TEST(file_is_cut_when_it_is_opened)
{
	open_new("contents", O_WRONLY | O_TRUNC);
	ck_assert_uint_eq(host_stat("file").st_size, 0);
	make_file("file", "more");
	ck_assert_int_eq(try_open(node, O_RDONLY | O_TRUNC), 0);
	ck_assert_uint_eq(host_stat("file").st_size, 0);
}
END_TEST

START_TEST(cache_is_kept_while_the_host_changes_nothing)
{
	const struct fuse_open_out *out = answer;
	const struct timespec times[2] = { { 1, 0 }, { 2, 0 } };

	open_new("contents", O_RDONLY);
	ck_assert_uint_eq(out->open_flags, 0);
	open_file(node, O_RDONLY);
	ck_assert_uint_eq(out->open_flags, FOPEN_KEEP_CACHE);
	ck_assert_int_eq(utimensat(shared_fd, "file", times, 0), 0);
	open_file(node, O_RDONLY);
	ck_assert_uint_eq(out->open_flags, 0);
	options.cache = SHARE_CACHE_NEVER;
	open_file(node, O_RDONLY);
	ck_assert_uint_eq(out->open_flags, FOPEN_DIRECT_IO);
	options.cache = SHARE_CACHE_ALWAYS;
	open_file(node, O_RDONLY);
	ck_assert_uint_eq(out->open_flags, FOPEN_KEEP_CACHE);
}
END_TEST

START_TEST(writeback_cache_may_read_what_is_open_to_write)
{
	options.cache = SHARE_CACHE_ALWAYS;
	restart();
	open_new("contents", O_WRONLY | O_APPEND);
	assert_read(0, 8, "contents");
	ck_assert_int_eq(try_write(node, fh, 0, "C", 1), 0);
	assert_read(0, 8, "Contents");
}
END_TEST

static int try_tmpfile(uint32_t flags)
{
	const struct fuse_create_in in = { .flags = flags, .mode = S_IFREG | 0640 };

	/* Linux's name for it. */
	if (call_name(FUSE_TMPFILE, ROOT, &in, sizeof(in), "/") < 0)
		return answer_head->error;
	node = ((struct fuse_entry_out *)answer)->nodeid;
	fh = created_file()->fh;
	return 0;
}

static int link_node(const char *name)
{
	return call_name(FUSE_LINK, ROOT, &(struct fuse_link_in){ node }, sizeof(struct fuse_link_in), name);
}

START_TEST(file_without_a_name_may_get_one)
{
	ck_assert_int_eq(try_tmpfile(O_RDWR), 0);
	ck_assert_uint_eq(attributes(node).nlink, 0);
	ck_assert_uint_eq(attributes(node).mode, S_IFREG | 0640);
	ck_assert_int_eq(try_write(node, fh, 0, "text", 4), 0);
	ck_assert_int_eq(faccessat(shared_fd, "name", F_OK, 0), -1);
	ck_assert_int_eq(link_node("name"), 0);
	ck_assert_uint_eq(((struct fuse_entry_out *)answer)->nodeid, node);
	ck_assert_int_eq(host_stat("name").st_size, 4);
	ck_assert_int_eq(release(node, fh), 0);
	/* It is the node by its name now. */
	fh = open_file(node, O_RDONLY);
	assert_read(0, 10, "text");
	ck_assert_int_eq(release(node, fh), 0);
	ck_assert_int_eq(remove_file(ROOT, "name"), 0);
}
END_TEST

START_TEST(file_without_a_name_is_gone_when_it_is_closed)
{
	struct fuse_create_in in = { .flags = O_RDWR };

	ck_assert_int_eq(try_tmpfile(O_RDWR | O_EXCL), 0);
	ck_assert_int_eq(link_node("name"), -ENOENT);
	ck_assert_int_eq(release(node, fh), 0);
	ck_assert_int_eq(getattr(node), -ESTALE);
	ck_assert_int_eq(link_node("name"), -ESTALE);
	forget(node, 1);
	/* It is for writing, in a directory. */
	ck_assert_int_eq(try_tmpfile(O_RDONLY), -EINVAL);
	make_file("file", "");
	ck_assert_int_eq(call_name(FUSE_TMPFILE, find(ROOT, "file"), &in, sizeof(in), "/"), -ENOTDIR);
	options.read_only = true;
	ck_assert_int_eq(try_tmpfile(O_RDWR), -EROFS);
}
END_TEST

/* The host has removed a file that the guest still knows, and its inode's number goes to the next one. */
START_TEST(file_without_a_name_takes_no_other_node)
{
	uint64_t gone;

	make_file("file", "old");
	gone = find(ROOT, "file");
	ck_assert_int_eq(unlinkat(shared_fd, "file", 0), 0);
	for (unsigned i = 0; i < 20; i++) {
		ck_assert_int_eq(try_tmpfile(O_RDWR), 0);
		ck_assert_uint_ne(node, gone);
		ck_assert_int_eq(release(node, fh), 0);
		forget(node, 1);
	}
	ck_assert_int_eq(getattr(gone), -ESTALE);
}
END_TEST

START_TEST(attributes_are_set)
{
	struct fuse_setattr_in in = {
		.valid = FATTR_MODE | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME,
		.mode = S_IFREG | 0604,
		.size = 3,
		.atime = 1000,
		.atimensec = 1,
		.mtime = 2000,
		.mtimensec = 999999999,
	};
	struct stat status;

	make_file("file", "contents");
	node = find(ROOT, "file");
	ck_assert_int_eq(call(FUSE_SETATTR, node, &in, sizeof(in)), 0);
	ck_assert_uint_eq(((struct fuse_attr_out *)answer)->attr.size, 3);
	status = host_stat("file");
	ck_assert_uint_eq(status.st_mode, S_IFREG | 0604);
	ck_assert_int_eq(status.st_size, 3);
	ck_assert_int_eq(status.st_atim.tv_sec, 1000);
	ck_assert_int_eq(status.st_mtim.tv_sec, 2000);
	ck_assert_int_eq(status.st_mtim.tv_nsec, 999999999);
	in = (struct fuse_setattr_in){ .valid = FATTR_MTIME | FATTR_MTIME_NOW };
	ck_assert_int_eq(call(FUSE_SETATTR, node, &in, sizeof(in)), 0);
	ck_assert_int_gt(host_stat("file").st_mtim.tv_sec, 2000);
	ck_assert_int_eq(host_stat("file").st_atim.tv_sec, 1000);
	in = (struct fuse_setattr_in){ .valid = FATTR_SIZE, .size = UINT64_MAX };
	ck_assert_int_eq(call(FUSE_SETATTR, node, &in, sizeof(in)), -EFBIG);
	ck_assert_int_eq(call(FUSE_SETATTR, ROOT, &in, sizeof(in)), -EINVAL);
	/* An open file's, whatever has become of its name. */
	fh = open_file(node, O_RDWR);
	ck_assert_int_eq(remove_file(ROOT, "file"), 0);
	in = (struct fuse_setattr_in){ .valid = FATTR_SIZE | FATTR_FH | FATTR_MODE, .fh = fh, .size = 1, .mode = 0400 };
	ck_assert_int_eq(call(FUSE_SETATTR, node, &in, sizeof(in)), 0);
	ck_assert_uint_eq(((struct fuse_attr_out *)answer)->attr.mode, S_IFREG | 0400);
	assert_read(0, 10, "c");
}
END_TEST

START_TEST(owner_is_set_as_the_host_allows)
{
	const struct fuse_setattr_in in = { .valid = FATTR_UID | FATTR_GID, .uid = 12, .gid = 34 };

	make_file("file", "contents");
	node = find(ROOT, "file");
	ck_assert_int_eq(call(FUSE_SETATTR, node, &in, sizeof(in)), geteuid() == 0 ? 0 : -EPERM);
	ck_assert_uint_eq(host_stat("file").st_uid, geteuid() == 0 ? 12 : geteuid());
}
END_TEST

/* As the host would where the writer has no privilege, even if the server has. */
START_TEST(write_of_another_takes_setuid_away)
{
	struct fuse_write_in in = { .size = 1, .write_flags = FUSE_WRITE_KILL_SUIDGID };

	open_new("contents", O_RDWR);
	in.fh = fh;
	session.switches_user = true;
	ck_assert_int_eq(fchmodat(shared_fd, "file", 06755, 0), 0);
	begin(FUSE_WRITE, node);
	put(&in, sizeof(in));
	put("x", 1);
	ck_assert_int_eq(finish(), 0);
	ck_assert_uint_eq(host_stat("file").st_mode, S_IFREG | 0755);
	/* Without the right to run it, of the group's members it stays. */
	ck_assert_int_eq(fchmodat(shared_fd, "file", 02745, 0), 0);
	ck_assert_int_eq(finish(), 0);
	ck_assert_uint_eq(host_stat("file").st_mode, S_IFREG | 02745);
	((struct fuse_in_header *)out_bytes)->gid = as_gid + 1;
	ck_assert_int_eq(finish(), 0);
	ck_assert_uint_eq(host_stat("file").st_mode, S_IFREG | 0745);
}
END_TEST

START_TEST(space_is_taken_and_given_back)
{
	struct fuse_fallocate_in in = { .length = 65536 };
	struct fuse_lseek_in seek = { .whence = SEEK_DATA };
	const struct fuse_lseek_out *found = answer;

	open_new("", O_RDWR);
	in.fh = seek.fh = fh;
	ck_assert_int_eq(call(FUSE_FALLOCATE, node, &in, sizeof(in)), 0);
	ck_assert_uint_eq(host_stat("file").st_size, 65536);
	in.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	ck_assert_int_eq(call(FUSE_FALLOCATE, node, &in, sizeof(in)), 0);
	ck_assert_int_eq(try_write(node, fh, 32768, "x", 1), 0);
	ck_assert_int_eq(call(FUSE_LSEEK, node, &seek, sizeof(seek)), 0);
	ck_assert_uint_eq(found->offset, 32768);
	seek.whence = SEEK_HOLE;
	ck_assert_int_eq(call(FUSE_LSEEK, node, &seek, sizeof(seek)), 0);
	ck_assert_uint_eq(found->offset, 0);
	seek.offset = 1 << 20;
	ck_assert_int_eq(call(FUSE_LSEEK, node, &seek, sizeof(seek)), -ENXIO);
	seek.whence = SEEK_SET;
	ck_assert_int_eq(call(FUSE_LSEEK, node, &seek, sizeof(seek)), -EINVAL);
	in.mode = FALLOC_FL_COLLAPSE_RANGE;
	ck_assert_int_eq(call(FUSE_FALLOCATE, node, &in, sizeof(in)), -EOPNOTSUPP);
	in.mode = 0;
	in.offset = UINT64_MAX;
	ck_assert_int_eq(call(FUSE_FALLOCATE, node, &in, sizeof(in)), -EINVAL);
}
END_TEST

START_TEST(host_copies_between_files)
{
	struct fuse_copy_file_range_in in = { .off_in = 2, .off_out = 1, .len = 3 };

	open_new("0123456789", O_RDONLY);
	make_file("copy", "abcdef");
	in.fh_in = fh;
	in.nodeid_out = find(ROOT, "copy");
	in.fh_out = open_file(in.nodeid_out, O_RDWR);
	ck_assert_int_eq(call(FUSE_COPY_FILE_RANGE, node, &in, sizeof(in)), 0);
	ck_assert_uint_eq(((struct fuse_write_out *)answer)->size, 3);
	node = in.nodeid_out;
	fh = in.fh_out;
	assert_read(0, 10, "a234ef");
	in.off_in = UINT64_MAX;
	ck_assert_int_eq(call(FUSE_COPY_FILE_RANGE, ROOT, &in, sizeof(in)), -EBADF);
}
END_TEST

static int set_attribute(const char *name, const void *value, uint32_t size)
{
	const struct fuse_setxattr_in in = { .size = size };

	begin(FUSE_SETXATTR, node);
	put(&in, FUSE_COMPAT_SETXATTR_IN_SIZE);
	put_text(name);
	put(value, size);
	return finish();
}

static int get_attribute(const char *name, uint32_t size)
{
	const struct fuse_getxattr_in in = { .size = size };

	return call_name(FUSE_GETXATTR, node, &in, sizeof(in), name);
}

START_TEST(users_attributes_are_the_files_and_no_others)
{
	const struct fuse_getxattr_in list = { .size = 1000 };
	const struct fuse_getxattr_out *size = answer;
	int result;

	make_file("file", "contents");
	node = find(ROOT, "file");
	result = set_attribute("user.colour", "green", 5);
	/* A tmpfs before Linux 6.6 has none. */
	if (result == -EOPNOTSUPP)
		return;
	ck_assert_int_eq(result, 0);
	ck_assert_int_eq(get_attribute("user.colour", 0), 0);
	ck_assert_uint_eq(size->size, 5);
	ck_assert_int_eq(get_attribute("user.colour", 100), 0);
	ck_assert_uint_eq(answer_bytes(), 5);
	ck_assert_mem_eq(answer, "green", 5);
	ck_assert_int_eq(get_attribute("user.colour", 4), -ERANGE);
	ck_assert_int_eq(get_attribute("user.none", 4), -ENODATA);
	ck_assert_int_eq(call(FUSE_LISTXATTR, node, &list, sizeof(list)), 0);
	ck_assert_uint_eq(answer_bytes(), sizeof("user.colour"));
	ck_assert_str_eq(answer, "user.colour");
	ck_assert_int_eq(call_name(FUSE_REMOVEXATTR, node, NULL, 0, "user.colour"), 0);
	ck_assert_int_eq(get_attribute("user.colour", 4), -ENODATA);
}
END_TEST

START_TEST(attributes_of_the_systems_are_refused)
{
	static const char *const names[] = { "security.capability", "trusted.overlay.opaque",
		"system.posix_acl_access", "user", "" };

	make_file("file", "contents");
	node = find(ROOT, "file");
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		ck_assert_int_eq(set_attribute(names[i], "x", 1), -EOPNOTSUPP);
		ck_assert_int_eq(get_attribute(names[i], 10), -EOPNOTSUPP);
		ck_assert_int_eq(call_name(FUSE_REMOVEXATTR, node, NULL, 0, names[i]), -EOPNOTSUPP);
	}
}
END_TEST

START_TEST(file_system_has_the_hosts_space)
{
	const struct fuse_statfs_out *out = answer;

	ck_assert_int_eq(call(FUSE_STATFS, ROOT, NULL, 0), 0);
	ck_assert_uint_gt(out->st.blocks, 0);
	ck_assert_uint_eq(out->st.namelen, NAME_MAX);
}
END_TEST

START_TEST(files_are_written_to_stable_storage)
{
	struct fuse_fsync_in in = { 0 };

	open_new("contents", O_RDWR);
	in.fh = fh;
	ck_assert_int_eq(call(FUSE_FSYNC, node, &in, sizeof(in)), 0);
	in.fsync_flags = FUSE_FSYNC_FDATASYNC;
	ck_assert_int_eq(call(FUSE_FSYNC, node, &in, sizeof(in)), 0);
	in.fh = open_directory(ROOT);
	ck_assert_int_eq(call(FUSE_FSYNCDIR, ROOT, &in, sizeof(in)), 0);
	ck_assert_int_eq(call(FUSE_SYNCFS, ROOT, &(struct fuse_syncfs_in){ 0 }, sizeof(struct fuse_syncfs_in)), 0);
}
END_TEST

/* Linux does without what is not there, and asks no more. */
START_TEST(what_is_not_offered_is_unknown)
{
	static const uint32_t opcodes[] = { FUSE_FLUSH, FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW, FUSE_ACCESS, FUSE_BMAP,
		FUSE_IOCTL, FUSE_POLL, FUSE_SETUPMAPPING, 0, 7, 9999, UINT32_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(opcodes); i++)
		ck_assert_int_eq(call(opcodes[i], ROOT, "", 0), -ENOSYS);
}
END_TEST

void share_files_tests(Suite *suite)
{
	const TTest *const tests[] = {
		reads_are_of_the_file,
		read_goes_no_further_than_its_buffers,
		writes_are_at_their_offsets,
		write_of_more_than_the_request_has_is_refused,
		megabytes_go_in_one_request,
		append_is_at_the_end_that_the_host_has,
		handle_is_of_one_file_while_it_is_open,
		file_is_cut_when_it_is_opened,
		cache_is_kept_while_the_host_changes_nothing,
		writeback_cache_may_read_what_is_open_to_write,
		file_without_a_name_may_get_one,
		file_without_a_name_is_gone_when_it_is_closed,
		file_without_a_name_takes_no_other_node,
		attributes_are_set,
		owner_is_set_as_the_host_allows,
		write_of_another_takes_setuid_away,
		space_is_taken_and_given_back,
		host_copies_between_files,
		users_attributes_are_the_files_and_no_others,
		attributes_of_the_systems_are_refused,
		file_system_has_the_hosts_space,
		files_are_written_to_stable_storage,
		what_is_not_offered_is_unknown,
	};

	add_case(suite, "share_files", setup, teardown, 20, tests, ARRAY_SIZE(tests));
}
