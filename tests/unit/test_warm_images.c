// SPDX-License-Identifier: GPL-2.0-only
/* Warm images in the user's cache: when one is found, what becomes of others, and how many there are. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "../../src/guest/warm_images.h"
#include "guest.h"
#include "karma/copy_file.h"
#include "karma/snapshot.h"

#define KEY "kernel 1\nmemory 65536\n"
#define MEMORY_BYTES 65536

static char cache[64], *path;
static struct snapshot_files files;

static void setup(void)
{
	snprintf(cache, sizeof(cache), "/tmp/karma-warm-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(cache));
	setenv("KARMA_CACHE_DIR", cache, 1);
	path = warm_image_path(KEY);
	ck_assert_ptr_nonnull(path);
	files = SNAPSHOT_FILES_NONE;
}

static void teardown(void)
{
	char command[128];

	snapshot_files_close(&files);
	free(path);
	snprintf(command, sizeof(command), "rm -rf '%s'", cache);
	ck_assert_int_eq(system(command), 0);
	unsetenv("KARMA_CACHE_DIR");
}

static void write_file(int directory, const char *name, const void *bytes, size_t length)
{
	cleanup_fd int fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write_all_at(fd, bytes, length, 0), 0);
}

/* Its state has a part, so that a sum of one can be wrong. */
static void write_files(int directory)
{
	static uint8_t memory[MEMORY_BYTES];
	uint8_t state[256];
	struct snapshot_writer writer;

	snapshot_writer_init(&writer, state, sizeof(state));
	snapshot_begin(&writer, SNAPSHOT_VM, 0, 1);
	snapshot_put_number(&writer, MEMORY_BYTES);
	snapshot_end(&writer);
	write_file(directory, SNAPSHOT_STATE, state, snapshot_finish(&writer));
	write_file(directory, SNAPSHOT_MEMORY, memory, sizeof(memory));
}

static void make(const char *key)
{
	cleanup_free char *place = warm_image_path(key);
	struct snapshot_aside aside;

	ck_assert_int_eq(warm_image_begin(&aside, place, key), 0);
	write_files(aside.directory);
	ck_assert_int_eq(warm_image_publish(&aside), 0);
	snapshot_aside_release(&aside);
}

static int find(const char *key)
{
	snapshot_files_close(&files);
	return warm_image_open(path, key, MEMORY_BYTES, &files);
}

static unsigned count_entries(void)
{
	char command[128];
	unsigned count = 0;
	FILE *list;

	snprintf(command, sizeof(command), "ls -A '%s/warm' | wc -l", cache);
	list = popen(command, "r");
	ck_assert_int_eq(fscanf(list, "%u", &count), 1);
	pclose(list);
	return count;
}

START_TEST(an_image_is_found_by_its_key)
{
	messages_begin();
	ck_assert_int_eq(find(KEY), -ENOENT);
	make(KEY);
	ck_assert_int_eq(find(KEY), 0);
	ck_assert_str_eq(messages_end(), "");
	ck_assert_uint_gt(files.state_bytes, 0);
	ck_assert_int_ge(files.memory, 0);
	ck_assert_ptr_null(files.touched);
	ck_assert_uint_eq(count_entries(), 1);
}
END_TEST

START_TEST(an_image_of_another_key_by_the_same_name_is_removed)
{
	make(KEY);
	ck_assert_int_eq(find("kernel 2\nmemory 65536\n"), -ENOENT);
	ck_assert_uint_eq(count_entries(), 0);
}
END_TEST

/* --- Damage. */

static void damage(int kind)
{
	cleanup_fd int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_fd int state = openat(directory, SNAPSHOT_STATE, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	switch (kind) {
	case 0:
		ck_assert_int_eq(pread(state, &byte, 1, 40), 1);
		byte ^= 1;
		ck_assert_int_eq(pwrite(state, &byte, 1, 40), 1);
		break;
	case 1:
		ck_assert_int_eq(ftruncate(state, 10), 0);
		break;
	case 2:
		write_file(directory, SNAPSHOT_MEMORY, "short", 5);
		break;
	case 3:
		ck_assert_int_eq(unlinkat(directory, SNAPSHOT_MEMORY, 0), 0);
		break;
	case 4:
		snapshot_directory_empty(directory);
		break;
	case 5: /* others may write to it */
		ck_assert_int_eq(fchmod(state, 0666), 0);
		break;
	case 6:
		ck_assert_int_eq(fchmod(directory, 0777), 0);
		break;
	case 7:
		ck_assert_int_eq(unlinkat(directory, SNAPSHOT_STATE, 0), 0);
		ck_assert_int_eq(symlinkat("/etc/passwd", directory, SNAPSHOT_STATE), 0);
		break;
	default: /* it does not wait for a writer */
		ck_assert_int_eq(unlinkat(directory, "key", 0), 0);
		ck_assert_int_eq(mkfifoat(directory, "key", 0600), 0);
	}
}

START_TEST(a_damaged_image_is_removed_without_a_word)
{
	make(KEY);
	damage(_i);
	messages_begin();
	ck_assert_int_eq(find(KEY), -ENOENT);
	ck_assert_str_eq(messages_end(), "");
	ck_assert_uint_eq(count_entries(), 0);
	make(KEY);
	ck_assert_int_eq(find(KEY), 0);
}
END_TEST

START_TEST(an_image_in_use_may_be_removed)
{
	uint8_t page[4096];

	make(KEY);
	ck_assert_int_eq(find(KEY), 0);
	warm_image_remove(path);
	ck_assert_int_eq(pread(files.memory, page, sizeof(page), 0), sizeof(page));
	ck_assert_int_eq(find(KEY), -ENOENT);
}
END_TEST

/* --- Makers. */

START_TEST(of_two_makers_one_makes_it)
{
	struct snapshot_aside first, second;

	ck_assert_int_eq(warm_image_begin(&first, path, KEY), 0);
	ck_assert_int_eq(warm_image_begin(&second, path, KEY), 0);
	write_files(first.directory);
	write_files(second.directory);
	ck_assert_int_eq(warm_image_publish(&first), 0);
	ck_assert_int_lt(warm_image_publish(&second), 0);
	snapshot_aside_release(&second);
	snapshot_aside_release(&first);
	ck_assert_int_eq(find(KEY), 0);
	ck_assert_uint_eq(count_entries(), 1);
}
END_TEST

START_TEST(what_a_killed_maker_left_is_removed)
{
	struct snapshot_aside aside;

	ck_assert_int_eq(warm_image_begin(&aside, path, "another"), 0);
	close_fd(&aside.directory);
	aside.directory = -1;
	aside.name[0] = '\0';
	snapshot_aside_release(&aside);
	make(KEY);
	ck_assert_int_eq(find(KEY), 0);
	ck_assert_uint_eq(count_entries(), 1);
}
END_TEST

START_TEST(a_cache_that_can_not_be_written_gives_no_image)
{
	struct snapshot_aside aside;
	char warm[80];

	snprintf(warm, sizeof(warm), "%s/warm", cache);
	ck_assert_int_eq(rmdir(warm), 0);
	messages_begin();
	ck_assert_int_lt(warm_image_begin(&aside, path, KEY), 0);
	ck_assert_str_eq(messages_end(), "");
}
END_TEST

/* --- How many there are. */

static void set_age(const char *key, time_t seconds)
{
	cleanup_free char *place = warm_image_path(key);
	const struct timespec times[] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = time(NULL) - seconds } };

	ck_assert_int_eq(utimensat(AT_FDCWD, place, times, 0), 0);
}

static bool is_there(const char *key)
{
	cleanup_free char *place = warm_image_path(key);

	return access(place, F_OK) == 0;
}

START_TEST(the_least_recently_used_go)
{
	char key[32];

	for (unsigned i = 0; i < WARM_IMAGES_MAX; i++) {
		snprintf(key, sizeof(key), "key %u", i);
		make(key);
		set_age(key, 1000 - i);
	}
	/* The first is the oldest, until it is used. */
	free(path);
	path = warm_image_path("key 0");
	ck_assert_int_eq(find("key 0"), 0);
	make(KEY);
	ck_assert_uint_eq(count_entries(), WARM_IMAGES_MAX);
	ck_assert(is_there("key 0"));
	ck_assert(!is_there("key 1"));
	ck_assert(is_there("key 2"));
	ck_assert(is_there(KEY));
}
END_TEST

START_TEST(without_a_cache_there_is_no_place)
{
	setenv("KARMA_CACHE_DIR", "", 1);
	ck_assert_ptr_null(warm_image_path(KEY));
	ck_assert_int_eq(chmod(cache, 0777), 0);
	setenv("KARMA_CACHE_DIR", cache, 1);
	ck_assert_ptr_null(warm_image_path(KEY));
	ck_assert_int_eq(chmod(cache, 0700), 0);
}
END_TEST

Suite *warm_images_suite(void)
{
	const TTest *const tests[] = {
		an_image_is_found_by_its_key,
		an_image_of_another_key_by_the_same_name_is_removed,
		an_image_in_use_may_be_removed,
		of_two_makers_one_makes_it,
		what_a_killed_maker_left_is_removed,
		a_cache_that_can_not_be_written_gives_no_image,
		the_least_recently_used_go,
		without_a_cache_there_is_no_place,
	};
	Suite *suite = suite_create("warm_images");
	TCase *damage_case;

	add_case(suite, "images", setup, teardown, 30, tests, ARRAY_SIZE(tests));
	damage_case = add_case(suite, "damage", setup, teardown, 30, NULL, 0);
	tcase_add_loop_test(damage_case, a_damaged_image_is_removed_without_a_word, 0, 9);
	return suite;
}
