// SPDX-License-Identifier: GPL-2.0-only
/* What a snapshot has of disks: copies of overlays, with which others begin, and generations. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "../../src/guest/internal.h"
#include "overlay_fixture.h"

static char directory_path[] = "/tmp/karma-saved-XXXXXX";
static int directory;
static struct guest guest;
static struct disk_options options;

static void make_directory(void)
{
	ck_assert_ptr_nonnull(mkdtemp(directory_path));
	directory = open(directory_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(directory, 0);
	guest.disks = &disk;
	guest.disk_count = 1;
	guest.options.disks = &options;
}

static void remove_directory(void)
{
	static const char *const names[] = { "overlay-0", "named", "image" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		unlinkat(directory, names[i], 0);
	ck_assert_int_eq(rmdir(directory_path), 0);
	close(directory);
}

static void set_up_overlay(void)
{
	setup();
	make_directory();
	options = (struct disk_options){ .path = descriptor_path(base), .overlay = descriptor_path(file) };
}

static void tear_down_overlay(void)
{
	remove_directory();
	teardown();
}

static void write_disk(unsigned sector, unsigned count, uint64_t tag)
{
	struct shot shot = { .operation = DISK_WRITE, .sector = sector, .count = count, .tag = tag };

	fire(&shot);
	disk_kick(disk);
	while (!shot.done)
		io_ring_reap(&ring, true);
	ck_assert_int_eq(shot.error, 0);
	free(shot.bytes);
}

static const char *in_directory(const char *name)
{
	static char path[64];

	snprintf(path, sizeof(path), "%s/%s", directory_path, name);
	return path;
}

/* Give the disk another overlay; what the present one has in memory stays there. */
static int open_another(const char *from, const char *overlay)
{
	const struct disk_options another = { .path = descriptor_path(base), .from = from, .overlay = overlay };
	struct disk *opened;
	int result = disk_open(&opened, &another, &ring);

	if (result == 0) {
		disk_close(disk);
		disk = opened;
	}
	return result;
}

/* Neither flushed, nor written back: the bits are in memory alone. */
START_TEST(a_copy_of_an_overlay_has_what_was_written_last)
{
	write_disk(3, 20, 100);
	model_write(3, 20, 100);
	ck_assert_int_eq(disks_save(&guest, directory), 0);
	ck_assert_str_eq(options.from, "overlay-0");
	ck_assert_ptr_null(options.overlay);
	ck_assert_ptr_null(options.generation);
	ck_assert_int_eq(disks_sync_saved(&guest, directory), 0);
	write_disk(5, 3, 101);
	ck_assert_int_eq(open_another(in_directory("overlay-0"), NULL), 0);
	assert_model();
}
END_TEST

START_TEST(any_number_begins_with_a_copy)
{
	write_disk(0, 9, 100);
	model_write(0, 9, 100);
	ck_assert_int_eq(disks_save(&guest, directory), 0);
	ck_assert_int_eq(open_another(in_directory("overlay-0"), NULL), 0);
	write_disk(1, 1, 200);
	ck_assert_int_eq(open_another(in_directory("overlay-0"), NULL), 0);
	assert_model();
}
END_TEST

START_TEST(a_named_copy_is_made_once_and_kept)
{
	char *named = strdup(in_directory("named"));

	write_disk(0, 9, 100);
	ck_assert_int_eq(disks_save(&guest, directory), 0);
	model_write(0, 9, 100);
	ck_assert_int_eq(open_another(in_directory("overlay-0"), named), 0);
	assert_model();
	write_disk(2, 1, 200);
	model_write(2, 1, 200);
	/* The lock of the one that is open. */
	messages_begin();
	ck_assert_int_eq(open_another(in_directory("overlay-0"), named), -EBUSY);
	ck_assert_ptr_nonnull(strstr(messages_end(), "in use by another guest"));
	reopen();
	ck_assert_int_eq(open_another(in_directory("overlay-0"), named), 0);
	assert_model();
	free(named);
}
END_TEST

START_TEST(what_is_no_overlay_is_no_beginning)
{
	messages_begin();
	ck_assert_int_eq(open_another(in_directory("nothing"), NULL), -ENOENT);
	ck_assert_int_eq(open_another(directory_path, NULL), -EINVAL);
	ck_assert_int_eq(open_another(descriptor_path(base), NULL), -EINVAL);
	ck_assert_ptr_nonnull(strstr(messages_end(), "is no overlay"));
}
END_TEST

/* --- Generations. */

static void make_image(void)
{
	int fd = openat(directory, "image", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_eq(ftruncate(fd, MIB), 0);
	close(fd);
}

static int open_image(const char *generation)
{
	const struct disk_options image = { .path = in_directory("image"), .generation = generation };

	disk = NULL;
	return disk_open(&disk, &image, &ring);
}

static void set_up_image(void)
{
	ck_assert_int_eq(io_ring_init(&ring, SIM_RING_ENTRIES), 0);
	make_directory();
	make_image();
	options = (struct disk_options){ 0 };
	ck_assert_int_eq(open_image(NULL), 0);
	ck_assert_int_eq(disks_save(&guest, directory), 0);
	disk_close(disk);
}

static void tear_down_image(void)
{
	io_ring_release(&ring);
	remove_directory();
}

START_TEST(a_disk_that_nobody_wrote_to_is_taken)
{
	ck_assert_int_eq(open_image(options.generation), 0);
	disk_close(disk);
}
END_TEST

static void expect_refusal(void)
{
	messages_begin();
	ck_assert_int_eq(open_image(options.generation), -ESTALE);
	ck_assert_ptr_nonnull(strstr(messages_end(), "has changed since"));
}

START_TEST(a_disk_that_was_written_to_since_is_refused)
{
	int fd;

	/* At once: the time of change is another all the same. */
	fd = openat(directory, "image", O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(pwrite(fd, "x", 1, 0), 1);
	close(fd);
	expect_refusal();
}
END_TEST

START_TEST(another_file_in_its_place_is_refused)
{
	ck_assert_int_eq(unlinkat(directory, "image", 0), 0);
	make_image();
	expect_refusal();
}
END_TEST

START_TEST(what_nobody_knows_is_refused)
{
	messages_begin();
	ck_assert_int_eq(open_image(DISK_GENERATION_UNKNOWN), -ESTALE);
	ck_assert_ptr_nonnull(strstr(messages_end(), "nobody knows"));
}
END_TEST

/* A disk of a backend that has no file. */
START_TEST(without_a_file_the_size_is_known_at_most)
{
	const struct disk_backend nothing = { 0 };
	struct disk remote = { .backend = &nothing, .size = 5 * MIB, .read_only = true };
	char text[DISK_GENERATION_BYTES];

	disk_generation(&remote, text);
	ck_assert_str_eq(text, "device-5242880");
	remote.read_only = false;
	disk_generation(&remote, text);
	ck_assert_str_eq(text, DISK_GENERATION_UNKNOWN);
	ck_assert_int_eq(disk_copy_overlay(&remote, -1), -ENOTSUP);
}
END_TEST

Suite *saved_disks_suite(void)
{
	const TTest *const overlays[] = {
		a_copy_of_an_overlay_has_what_was_written_last,
		any_number_begins_with_a_copy,
		a_named_copy_is_made_once_and_kept,
		what_is_no_overlay_is_no_beginning,
	};
	const TTest *const generations[] = {
		a_disk_that_nobody_wrote_to_is_taken,
		a_disk_that_was_written_to_since_is_refused,
		another_file_in_its_place_is_refused,
		what_nobody_knows_is_refused,
		without_a_file_the_size_is_known_at_most,
	};
	Suite *suite = suite_create("saved_disks");

	add_case(suite, "overlays", set_up_overlay, tear_down_overlay, 30, overlays, ARRAY_SIZE(overlays));
	add_case(suite, "generations", set_up_image, tear_down_image, 30, generations, ARRAY_SIZE(generations));
	return suite;
}
