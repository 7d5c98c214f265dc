// SPDX-License-Identifier: GPL-2.0-only
/* What is written over a base: errors, several threads, and what is refused. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

#include "overlay_fixture.h"

static void wait_for(struct shot *shot)
{
	disk_kick(disk);
	while (!shot->done)
		io_ring_reap(&ring, true);
	if (shot->operation == DISK_READ || shot->operation == DISK_WRITE)
		free(shot->bytes);
}

static int serve(enum disk_operation operation, unsigned sector, unsigned count, uint64_t tag)
{
	struct shot shot = { .operation = operation, .sector = sector, .count = count, .tag = tag };

	fire(&shot);
	wait_for(&shot);
	return shot.error;
}

START_TEST(writes_go_over_the_base)
{
	assert_model();
	/* Within a cluster, over the border of two, whole ones, and the end of the disk. */
	ck_assert_int_eq(serve(DISK_WRITE, 3, 2, 100), 0);
	model_write(3, 2, 100);
	ck_assert_int_eq(serve(DISK_WRITE, 22, 4, 101), 0);
	model_write(22, 4, 101);
	ck_assert_int_eq(serve(DISK_WRITE, 40, 16, 102), 0);
	model_write(40, 16, 102);
	ck_assert_int_eq(serve(DISK_WRITE, SECTORS - 1, 1, 103), 0);
	model_write(SECTORS - 1, 1, 103);
	assert_model();
	reopen();
	assert_model();
}
END_TEST

START_TEST(zeroes_hide_the_base)
{
	ck_assert_int_eq(serve(DISK_WRITE_ZEROES, 13, 30, 0), 0);
	model_write(13, 30, 0);
	assert_model();
	reopen();
	assert_model();
}
END_TEST

START_TEST(discard_never_brings_back_the_base)
{
	ck_assert_int_eq(serve(DISK_WRITE, 8, 8, 100), 0);
	ck_assert_int_eq(serve(DISK_FLUSH, 0, 0, 0), 0);
	model_write(8, 8, 100);
	/* From within a cluster that is not there, over the one that is, to another. */
	ck_assert_int_eq(serve(DISK_DISCARD, 4, 16, 0), 0);
	model_discard(4, 16);
	ck_assert_uint_eq(model[8], 0);
	ck_assert_uint_eq(model[4], base_tag(4));
	assert_model();
	ck_assert_int_eq(serve(DISK_DISCARD, 100, 50, 0), 0);
	assert_model();
	reopen();
	assert_model();
}
END_TEST

START_TEST(file_is_sparse)
{
	struct stat status;

	ck_assert_int_eq(fstat(file, &status), 0);
	ck_assert_int_eq(status.st_size, FILE_BYTES);
	ck_assert_int_le(status.st_blocks * 512, DATA_START);
	ck_assert_int_eq(serve(DISK_WRITE, 80, 1, 100), 0);
	fsync(file);
	ck_assert_int_eq(fstat(file, &status), 0);
	ck_assert_int_le(status.st_blocks * 512, DATA_START + CLUSTER);
}
END_TEST

/* --- Errors. */

static enum host_kind failing;
static int failing_fd_is_overlay, failing_from;

/* Of the overlay's file from some place on. */
static bool fail_some(struct host_call *call)
{
	call->result = -ENOSPC;
	return call->kind == failing && is_overlay(call->fd) == failing_fd_is_overlay &&
	       call->offset >= (uint64_t)failing_from;
}

static void fail_calls(enum host_kind kind, bool of_overlay, uint64_t from)
{
	failing = kind;
	failing_fd_is_overlay = of_overlay;
	failing_from = from;
	sim_host = fail_some;
}

START_TEST(full_file_system_changes_nothing)
{
	fail_calls(HOST_WRITE, true, 0);
	ck_assert_int_eq(serve(DISK_WRITE, 3, 1, 100), -ENOSPC);
	ck_assert_int_eq(serve(DISK_WRITE, 16, 8, 101), -ENOSPC);
	fail_calls(HOST_CLEAR, true, 0);
	ck_assert_int_eq(serve(DISK_WRITE_ZEROES, 32, 8, 0), -ENOSPC);
	sim_host = NULL;
	assert_model();
	/* Others that waited for the one that failed, and what comes later, are served. */
	ck_assert_int_eq(serve(DISK_WRITE, 4, 1, 102), 0);
	model_write(4, 1, 102);
	ck_assert_int_eq(serve(DISK_WRITE, 16, 8, 103), 0);
	model_write(16, 8, 103);
	reopen();
	assert_model();
}
END_TEST

START_TEST(base_that_fails_is_an_error)
{
	fail_calls(HOST_READ, false, 0);
	ck_assert_int_eq(serve(DISK_WRITE, 3, 1, 100), -ENOSPC);
	ck_assert_int_eq(serve(DISK_READ, 0, 8, 0), -ENOSPC);
	/* Nothing is copied. */
	ck_assert_int_eq(serve(DISK_WRITE, 8, 8, 101), 0);
	model_write(8, 8, 101);
	/* The first cluster and the third are the base's. */
	ck_assert_int_eq(serve(DISK_READ, 0, 24, 0), -ENOSPC);
	sim_host = NULL;
	assert_model();
}
END_TEST

START_TEST(changes_of_a_cluster_wait_for_one_that_fails)
{
	struct shot shots[3];

	for (unsigned i = 0; i < ARRAY_SIZE(shots); i++) {
		shots[i] = (struct shot){
			.operation = DISK_WRITE, .sector = i, .count = 1, .tag = 100 + i
		};
	}
	fail_calls(HOST_READ, false, 0);
	fire(&shots[0]);
	sim_host = NULL;
	fire(&shots[1]);
	fire(&shots[2]);
	for (unsigned i = 0; i < ARRAY_SIZE(shots); i++)
		wait_for(&shots[i]);
	ck_assert_int_eq(shots[0].error, -ENOSPC);
	ck_assert_int_eq(shots[1].error, 0);
	ck_assert_int_eq(shots[2].error, 0);
	model_write(1, 1, 101);
	model_write(2, 1, 102);
	assert_model();
}
END_TEST

static bool map_has(unsigned cluster)
{
	uint8_t byte;

	ck_assert_int_eq(pread(file, &byte, 1, 4096 + cluster / 8), 1);
	return byte >> cluster % 8 & 1;
}

START_TEST(marks_that_failed_are_written_by_the_next_flush)
{
	ck_assert_int_eq(serve(DISK_WRITE, 8, 8, 100), 0);
	ck_assert(!map_has(1));
	fail_calls(HOST_WRITE, true, 0);
	ck_assert_int_eq(serve(DISK_FLUSH, 0, 0, 0), -ENOSPC);
	ck_assert(!map_has(1));
	/* The data are not on the disk, so there is no mark. */
	fail_calls(HOST_SYNC, true, 0);
	ck_assert_int_eq(serve(DISK_FLUSH, 0, 0, 0), -ENOSPC);
	ck_assert(!map_has(1));
	sim_host = NULL;
	ck_assert_int_eq(serve(DISK_FLUSH, 0, 0, 0), 0);
	ck_assert(map_has(1));
}
END_TEST

START_TEST(end_writes_what_was_not_flushed)
{
	ck_assert_int_eq(serve(DISK_WRITE, 8, 8, 100), 0);
	model_write(8, 8, 100);
	ck_assert(!map_has(1));
	disk_close(disk);
	ck_assert(map_has(1));
	open_overlay();
	assert_model();
}
END_TEST

/* --- Several threads. */

enum { THREADS = 4, THREAD_SHOTS = 150 };

struct writer {
	pthread_t thread;
	struct io_ring ring;
	unsigned index;
};

/* Sectors of all clusters, but no other's. */
static void *write_own_sectors(void *argument)
{
	struct writer *writer = argument;
	uint64_t random = writer->index + 1;

	io_ring_bind(&writer->ring);
	for (unsigned i = 0; i < THREAD_SHOTS; i++) {
		struct shot shot = { .operation = i % 16 ? DISK_WRITE : DISK_FLUSH, .count = 1 };
		uint8_t bytes[SECTOR];

		shot.sector = random_next(&random) % (SECTORS / THREADS) * THREADS + writer->index;
		shot.tag = 1 + writer->index + i * THREADS;
		fill(bytes, shot.tag);
		shot.iov[0] = (struct iovec){ bytes, SECTOR };
		shot.request = (struct disk_request){ .operation = shot.operation,
			.iov = shot.iov,
			.iov_count = 1,
			.offset = (uint64_t)shot.sector * SECTOR,
			.length = SECTOR,
			.done = shot_done };
		disk_submit(disk, &shot.request);
		disk_kick(disk);
		while (!shot.done)
			io_ring_reap(&writer->ring, false);
		ck_assert_int_eq(shot.error, 0);
		if (shot.operation == DISK_WRITE)
			model[shot.sector] = shot.tag;
	}
	io_ring_unbind(&writer->ring);
	return NULL;
}

static void *run_io_thread(void *unused)
{
	(void)unused;
	io_ring_loop(&ring);
	return NULL;
}

START_TEST(threads_share_clusters)
{
	struct writer writers[THREADS];
	pthread_t io_thread;

	for (unsigned i = 0; i < THREADS; i++) {
		writers[i].index = i;
		ck_assert_int_eq(io_ring_init_thread(&writers[i].ring, &ring, SIM_RING_ENTRIES, NULL), 0);
	}
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_io_thread, NULL), 0);
	for (unsigned i = 0; i < THREADS; i++)
		ck_assert_int_eq(
			pthread_create(&writers[i].thread, NULL, write_own_sectors, &writers[i]),
			0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(writers[i].thread, NULL);
	io_ring_stop(&ring);
	pthread_join(io_thread, NULL);
	for (unsigned i = 0; i < THREADS; i++)
		io_ring_release_thread(&writers[i].ring);
	assert_model();
	reopen();
	assert_model();
}
END_TEST

/* --- What is refused. */

static void assert_refused_file(int overlay, const char *word)
{
	const char *text;

	messages_begin();
	ck_assert_int_lt(open_files(base, overlay, false, &disk), 0);
	text = messages_end();
	ck_assert_msg(strstr(text, word), "the message is: %s", text);
	ck_assert_ptr_null(disk);
}

static void assert_refused(const char *word)
{
	assert_refused_file(file, word);
}

START_TEST(base_that_was_changed_is_refused)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 5 } }, before[2];
	struct stat status;

	disk_close(disk);
	ck_assert_int_eq(fstat(base, &status), 0);
	ck_assert_int_eq(futimens(base, times), 0);
	assert_refused("was changed since");
	before[0] = times[0];
	before[1] = status.st_mtim;
	ck_assert_int_eq(futimens(base, before), 0);
	ck_assert_int_eq(ftruncate(base, BYTES + CLUSTER), 0);
	ck_assert_int_eq(futimens(base, before), 0);
	assert_refused("was made for a base of");
	ck_assert_int_eq(ftruncate(base, BYTES), 0);
	ck_assert_int_eq(futimens(base, before), 0);
	open_overlay();
}
END_TEST

static void put(uint64_t offset, uint8_t byte)
{
	ck_assert_int_eq(pwrite(file, &byte, 1, offset), 1);
}

START_TEST(files_that_are_no_overlay_are_refused)
{
	disk_close(disk);
	put(8, 2);
	assert_refused("is of version 2");
	put(8, 1);
	put(13, 1);
	assert_refused("header is damaged");
	put(13, 0x10);
	put(0, 'k');
	assert_refused("is no overlay");
	put(0, 'K');
	ck_assert_int_eq(ftruncate(file, FILE_BYTES - 1), 0);
	assert_refused("was cut to");
	ck_assert_int_eq(ftruncate(file, 100), 0);
	assert_refused("is no overlay");
	assert_refused_file(socket(AF_UNIX, SOCK_STREAM, 0), "is a socket: give a file, or a name for a new one");
	assert_refused_file(base, "is the disk itself: give another name");
	assert_refused_file(open("/dev/null", O_RDWR), "is a character device");
	ck_assert_int_eq(ftruncate(file, 0), 0);
	open_overlay();
	assert_model();
}
END_TEST

START_TEST(overlay_that_was_not_finished_is)
{
	disk_close(disk);
	/* As a crash leaves it that comes right before the header. */
	ck_assert_int_eq(ftruncate(file, 0), 0);
	ck_assert_int_eq(ftruncate(file, FILE_BYTES), 0);
	open_overlay();
	assert_model();
	ck_assert_int_eq(serve(DISK_WRITE, 0, 1, 100), 0);
	model_write(0, 1, 100);
	disk_close(disk);
	/* A copy that was not finished is none to begin anew. */
	ck_assert_int_eq(ftruncate(file, 4096), 0);
	assert_refused("was cut to");
	model[0] = base_tag(0);
}
END_TEST

/* Runs of all lengths, from and to all places in the words of a map. */
START_TEST(ranges_of_the_map_are_exact)
{
	uint64_t words[4], expected[4];
	uint8_t states[1];
	struct overlay_map map = { .allocated = words, .block_states = states, .blocks = 1 };

	for (unsigned first = 0; first < 256; first += 3) {
		for (unsigned last = first; last < 256; last++) {
			memset(words, 0, sizeof(words));
			memset(expected, 0, sizeof(expected));
			overlay_set_allocated(&map, first, last);
			for (unsigned i = first; i <= last; i++)
				expected[i / 64] |= 1ull << i % 64;
			ck_assert_mem_eq(words, expected, sizeof(words));
			ck_assert_uint_eq(overlay_extent_end(&map, first, 255), last + 1);
			ck_assert_uint_eq(overlay_extent_end(&map, last, last), last + 1);
			ck_assert_uint_eq(
				overlay_extent_end(&map, 0, 255), first ? first : last + 1);
		}
	}
}
END_TEST

START_TEST(overlay_has_one_writer_and_a_base_has_many)
{
	int second = temporary_file(0);
	struct disk *other;

	messages_begin();
	ck_assert_int_eq(open_files(base, file, false, &other), -EBUSY);
	ck_assert_ptr_nonnull(strstr(messages_end(), "in use by another guest"));
	ck_assert_int_eq(open_files(base, second, false, &other), 0);
	disk_close(other);
	close(second);
	/* Nobody writes to a base that is in use. */
	ck_assert_int_eq(
		disk_open(&other, &(struct disk_options){ .path = descriptor_path(base) }, &ring),
		-EBUSY);
}
END_TEST

START_TEST(read_only_overlay_is_not_made)
{
	int empty = temporary_file(0);
	struct disk *other;

	disk_close(disk);
	ck_assert_int_lt(open_files(base, empty, true, &other), 0);
	close(empty);
	ck_assert_int_eq(open_files(base, file, true, &disk), 0);
	ck_assert(disk->read_only);
	assert_model();
}
END_TEST

Suite *overlay_suite(void)
{
	const TTest *const tests[] = {
		writes_go_over_the_base,
		zeroes_hide_the_base,
		discard_never_brings_back_the_base,
		file_is_sparse,
		full_file_system_changes_nothing,
		base_that_fails_is_an_error,
		changes_of_a_cluster_wait_for_one_that_fails,
		marks_that_failed_are_written_by_the_next_flush,
		end_writes_what_was_not_flushed,
		threads_share_clusters,
		base_that_was_changed_is_refused,
		files_that_are_no_overlay_are_refused,
		overlay_that_was_not_finished_is,
		ranges_of_the_map_are_exact,
		overlay_has_one_writer_and_a_base_has_many,
		read_only_overlay_is_not_made,
	};
	Suite *suite = suite_create("overlay");

	add_case(suite, "overlay", setup, teardown, 60, tests, ARRAY_SIZE(tests));
	overlay_random_tests(suite);
	return suite;
}
