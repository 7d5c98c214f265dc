// SPDX-License-Identifier: GPL-2.0-only
/* The cache of unpacked kernels. */
#include <sched.h>
#include <time.h>

#include "unpack_fixture.h"

/* In place, so that the name in the cache stays. */
static void change_cached(uint64_t offset, size_t length)
{
	cleanup_fd int fd = open(cached(1), O_RDWR | O_CLOEXEC);
	uint8_t bytes[BLOCK];

	ck_assert_int_eq(pread(fd, bytes, length, (off_t)offset), (ssize_t)length);
	for (size_t i = 0; i < length; i++)
		bytes[i] ^= 0x10;
	ck_assert_int_eq(pwrite(fd, bytes, length, (off_t)offset), (ssize_t)length);
}

static bool is_zeroed(const struct guest_memory *memory, uint64_t address, size_t length)
{
	const uint8_t *at = guest_memory_at(memory, GPA(address), length);

	return at[0] == 0 && memcmp(at, at + 1, length - 1) == 0;
}

/* In the first block of the segment, in its last, in a hole, and in the head of the file. */
START_TEST(a_damaged_block_is_noticed_and_thrown_away)
{
	const uint64_t damage[] = { 0x2000, SEGMENT_OFFSET + SEGMENT_BYTES - 1, 0x14000, 0x3f };
	struct boot_image image = { 0 };
	struct guest_memory memory;

	memset(kernel + BLOCK, 0, BLOCK);
	pack_gzip();
	write_bzimage();
	ck_assert(take());
	change_cached(damage[_i], 1);
	ck_assert(take());
	ck_assert_int_eq(guest_memory_init(&memory, &(struct memory_options){ .size = GUEST_BYTES }), 0);
	messages_begin();
	ck_assert_int_eq(bzimage_load(&memory, &guest.kernel, &image), 0);
	/* A hole that has something in it is still read as one. */
	if (_i == 2) {
		messages_end();
		ck_assert_uint_eq(image.entry, ENTRY);
		ck_assert(is_zeroed(&memory, SEGMENT + BLOCK - SEGMENT_OFFSET, BLOCK));
	} else {
		ck_assert_ptr_nonnull(strstr(messages_end(), "is damaged"));
		ck_assert_uint_eq(image.entry, PACKED_AT + 0x200);
		ck_assert(is_zeroed(&memory, SEGMENT, SEGMENT_BYTES));
		cached(0);
		ck_assert(take());
		assert_whole();
	}
	guest_memory_release(&memory);
}
END_TEST

static void cut(off_t bytes)
{
	struct stat status;

	ck_assert_int_eq(stat(cached(1), &status), 0);
	ck_assert_int_eq(truncate(cached(1), bytes <= 0 ? status.st_size + bytes : bytes), 0);
}

static void damage_cached(int kind)
{
	const uint64_t sums = KERNEL_BYTES;
	char name[256], other[256];

	switch (kind) {
	case 0:	/* all zeroes, of the same length */
		cut(1);
		cut(KERNEL_BYTES + 200);
		break;
	case 1:
		cut(-1);
		break;
	case 2:
		cut(KERNEL_BYTES / 2);
		break;
	case 3:
		cut(1);
		break;
	case 4:
		change_cached(sums, 1);
		break;
	case 5: /* the trailer's magic */
		change_cached(sums + 5 * sizeof(uint32_t), 1);
		break;
	case 6: /* what another kernel unpacks to, under this one's name */
		snprintf(name, sizeof(name), "%s", cached(1));
		kernel[0x5000] ^= 1;
		pack_gzip();
		write_bzimage();
		ck_assert(take());
		snprintf(other, sizeof(other), "%s/%s", cache, guest.kernel.cache_name);
		ck_assert_int_eq(rename(name, other), 0);
		break;
	default: /* a file of an earlier version, without sums */
		cut(KERNEL_BYTES);
	}
}

START_TEST(a_damaged_file_is_thrown_away)
{
	ck_assert(take());
	damage_cached(_i);
	ck_assert(take());
	assert_whole();
	cached(1);
}
END_TEST

/* Where all users look the same, nobody can tell whose it is. */
START_TEST(a_cache_that_may_be_anothers_is_not_used)
{
	/* Not with a thread of a sanitizer's, or on a host without user namespaces. */
	if (unshare(CLONE_NEWUSER) < 0)
		return;
	ck_assert(!take());
	cached(0);
}
END_TEST

START_TEST(a_cache_that_others_may_write_is_not_used)
{
	ck_assert_int_eq(chmod(cache, 0770), 0);
	ck_assert(!take());
	ck_assert_int_eq(chmod(cache, 0707), 0);
	ck_assert(!take());
	cached(0);
}
END_TEST

START_TEST(a_file_that_others_may_write_is_thrown_away)
{
	struct stat status;

	ck_assert(take());
	ck_assert_int_eq(chmod(cached(1), 0620), 0);
	ck_assert(take());
	assert_whole();
	ck_assert_int_eq(stat(cached(1), &status), 0);
	ck_assert_uint_eq(status.st_mode & 0777, 0600);
}
END_TEST

START_TEST(a_link_in_the_cache_is_not_followed)
{
	char path[256], target[128];

	ck_assert(take());
	snprintf(path, sizeof(path), "%s", cached(1));
	snprintf(target, sizeof(target), "%s/elsewhere", directory);
	ck_assert_int_eq(rename(path, target), 0);
	ck_assert_int_eq(symlink(target, path), 0);
	ck_assert(take());
	assert_whole();
	ck_assert_int_eq(readlink(path, target, sizeof(target)), -1);
}
END_TEST

START_TEST(without_a_cache_nothing_is_unpacked)
{
	setenv("KARMA_CACHE_DIR", "", 1);
	ck_assert(!take());
	setenv("KARMA_CACHE_DIR", "/nonexistent", 1);
	ck_assert(!take());
}
END_TEST

START_TEST(what_was_not_used_for_long_is_cleaned_away)
{
	struct timespec times[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000 } };
	struct stat status;
	const char *path;

	ck_assert(take());
	path = cached(1);
	/* Old, but used: it is touched. */
	ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
	ck_assert(take());
	ck_assert_int_eq(stat(path, &status), 0);
	ck_assert_int_gt(status.st_mtime, 1000000000);
	/* Old and not used when another comes: it goes. */
	ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
	kernel[0x5000] ^= 1;
	pack_gzip();
	write_bzimage();
	ck_assert(take());
	cached(1);
}
END_TEST

static void leave_unfinished(const char *name, time_t age)
{
	struct timespec times[2] = { { .tv_sec = time(NULL) - age }, { .tv_sec = time(NULL) - age } };
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", cache, name);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(futimens(fd, times), 0);
	close(fd);
}

static bool is_left(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", cache, name);
	return access(path, F_OK) == 0;
}

START_TEST(what_a_killed_guest_left_unfinished_stops_nobody_and_is_cleaned_away)
{
	leave_unfinished("unpacking-0000000000000001", 2 * 3600);
	leave_unfinished("unpacking-0000000000000002", 10);
	leave_unfinished("somebody-elses", 1000 * 24 * 3600);
	ck_assert(take());
	assert_whole();
	ck_assert(!is_left("unpacking-0000000000000001"));
	ck_assert(is_left("unpacking-0000000000000002"));
	ck_assert(is_left("somebody-elses"));
}
END_TEST

void unpack_cache_tests(Suite *suite)
{
	const TTest *const tests[] = {
		a_cache_that_others_may_write_is_not_used,
		a_file_that_others_may_write_is_thrown_away,
		a_cache_that_may_be_anothers_is_not_used,
		a_link_in_the_cache_is_not_followed,
		without_a_cache_nothing_is_unpacked,
		what_was_not_used_for_long_is_cleaned_away,
		what_a_killed_guest_left_unfinished_stops_nobody_and_is_cleaned_away,
	};
	TCase *unpack_case;

	add_case(suite, "unpack", setup, teardown, 60, tests, ARRAY_SIZE(tests));
	unpack_case = add_case(suite, "unpack", setup, teardown, 60, NULL, 0);
	tcase_add_loop_test(unpack_case, a_damaged_block_is_noticed_and_thrown_away, 0, 4);
	tcase_add_loop_test(unpack_case, a_damaged_file_is_thrown_away, 0, 8);
}
