// SPDX-License-Identifier: GPL-2.0-only
/* Disks that are files, when the host does less than it was asked for. */
#include <errno.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include "guest.h"

#define DISK_BYTES (64 * KIB)
#define PARTS 4

static struct io_ring ring;
static struct disk *disk;
static int file;
static uint8_t bytes[DISK_BYTES] __attribute__((aligned(PAGE_BYTES))), expected[DISK_BYTES];

static void setup(void)
{
	struct disk_options options;

	file = temporary_file(DISK_BYTES);
	options = (struct disk_options){ .path = descriptor_path(file) };
	ck_assert_int_eq(io_ring_init(&ring, 64), 0);
	ck_assert_int_eq(disk_open(&disk, &options, &ring), 0);
	for (size_t i = 0; i < DISK_BYTES; i++)
		expected[i] = i * 7 + i / 512;
}

static void teardown(void)
{
	sim_host = NULL;
	io_ring_release(&ring);
	disk_close(disk);
	close(file);
}

static bool done;
static int result;

static void request_done(struct disk_request *request, int error)
{
	(void)request;
	done = true;
	result = error;
}

static int serve(struct disk_request *request)
{
	done = false;
	request->done = request_done;
	disk_submit(disk, request);
	disk_kick(disk);
	ck_assert(!done);
	while (!done)
		io_ring_reap(&ring, true);
	return result;
}

static unsigned many_left;
static int *many_results;
static struct disk_request *many_requests;

static void one_done(struct disk_request *request, int error)
{
	many_results[request - many_requests] = error;
	many_left--;
}

/* All of the disk, in parts of different sizes. */
static int transfer(enum disk_operation operation)
{
	struct iovec iov[PARTS] = { { bytes, 512 }, { bytes + 512, 10000 }, { bytes + 10512, 1 },
		{ bytes + 10513, DISK_BYTES - 10513 } };
	struct disk_request request = {
		.operation = operation, .iov = iov, .iov_count = PARTS, .length = DISK_BYTES
	};

	return serve(&request);
}

static unsigned calls;

/* At most 1000 bytes, and a third of the calls are interrupted before any. */
static bool short_and_interrupted(struct host_call *call)
{
	struct iovec iov[PARTS], rest;
	unsigned count;

	/* The last is io_uring's, without a worker thread. */
	const int errors[] = { -EINTR, -EAGAIN, -ECANCELED };

	if (call->kind == HOST_SYNC || call->kind == HOST_CLEAR) {
		call->result = errors[2 - calls % 3];
		return ++calls % 3;
	}
	if (++calls % 3 == 0) {
		call->result = errors[calls / 3 % 3];
		return true;
	}
	memcpy(iov, call->iov, call->count * sizeof(iov[0]));
	count = call->iov[0].iov_len > 1000 || call->count == 1
			? 1
			: iov_cut(iov, call->count, call->iov[0].iov_len + 1, &rest);
	if (iov[0].iov_len > 1000)
		iov[0].iov_len = 1000;
	sim_host = NULL;
	call->result = call->kind == HOST_READ ? preadv(call->fd, iov, count, call->offset)
					       : pwritev(call->fd, iov, count, call->offset);
	sim_host = short_and_interrupted;
	return true;
}

START_TEST(short_and_interrupted_writes_go_on)
{
	calls = 0;
	sim_host = short_and_interrupted;
	memcpy(bytes, expected, DISK_BYTES);
	ck_assert_int_eq(transfer(DISK_WRITE), 0);
	ck_assert_uint_ge(calls, DISK_BYTES / 1000);
	ck_assert_int_eq(pread(file, bytes, DISK_BYTES, 0), (ssize_t)DISK_BYTES);
	ck_assert_mem_eq(bytes, expected, DISK_BYTES);
}
END_TEST

START_TEST(short_and_interrupted_reads_go_on)
{
	ck_assert_int_eq(pwrite(file, expected, DISK_BYTES, 0), (ssize_t)DISK_BYTES);
	calls = 0;
	sim_host = short_and_interrupted;
	ck_assert_int_eq(transfer(DISK_READ), 0);
	ck_assert_uint_ge(calls, DISK_BYTES / 1000);
	ck_assert_mem_eq(bytes, expected, DISK_BYTES);
}
END_TEST

START_TEST(interrupted_flushes_and_discards_go_on)
{
	const enum disk_operation operations[] = { DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };

	ck_assert_int_eq(pwrite(file, expected, DISK_BYTES, 0), (ssize_t)DISK_BYTES);
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
		struct disk_request request = {
			.operation = operations[i], .offset = 4096 * i, .length = 4096
		};

		calls = 0;
		sim_host = short_and_interrupted;
		ck_assert_int_eq(serve(&request), 0);
		/* Twice in vain. */
		ck_assert_uint_ge(calls, 3);
	}
	ck_assert_int_eq(pread(file, bytes, DISK_BYTES, 0), (ssize_t)DISK_BYTES);
	memset(expected + 4096, 0, 2 * 4096);
	ck_assert_mem_eq(bytes, expected, DISK_BYTES);
}
END_TEST

static bool no_space(struct host_call *call)
{
	call->result = -ENOSPC;
	return true;
}

START_TEST(errors_are_passed_on)
{
	struct disk_request flush = { .operation = DISK_FLUSH };

	sim_host = no_space;
	ck_assert_int_eq(transfer(DISK_WRITE), -ENOSPC);
	ck_assert_int_eq(transfer(DISK_READ), -ENOSPC);
	ck_assert_int_eq(serve(&flush), -ENOSPC);
	sim_host = NULL;
	ck_assert_int_eq(serve(&flush), 0);
}
END_TEST

/* Many writes that are started together, each of a block of its own; how many of them failed. */
static unsigned write_many(unsigned count, int results[])
{
	struct disk_request requests[DISK_BYTES / 512];
	struct iovec iov[DISK_BYTES / 512];
	unsigned failed = 0;

	many_left = count;
	many_results = results;
	many_requests = requests;
	memcpy(bytes, expected, DISK_BYTES);
	for (unsigned i = 0; i < count; i++) {
		/* In an order that is not the file's. */
		unsigned block = i * 37 % count;

		iov[i] = (struct iovec){ bytes + 512 * block, 512 };
		requests[i] = (struct disk_request){ .operation = DISK_WRITE, .iov = &iov[i],
			.iov_count = 1, .offset = 512 * block, .length = 512, .done = one_done };
		disk_submit(disk, &requests[i]);
	}
	disk_kick(disk);
	while (many_left)
		io_ring_reap(&ring, true);
	for (unsigned i = 0; i < count; i++)
		failed += results[i] < 0;
	return failed;
}

START_TEST(writes_that_are_started_together_all_end)
{
	/* From a few, which are written one by one, to more than go in one chain. */
	static const unsigned counts[] = { 1, 7, 8, 9, 31, 32, 33, 39, 40, 64, 65, 128 };

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		int results[DISK_BYTES / 512];

		ck_assert_int_eq(ftruncate(file, 0), 0);
		ck_assert_int_eq(ftruncate(file, DISK_BYTES), 0);
		ck_assert_uint_eq(write_many(counts[i], results), 0);
		ck_assert_int_eq(pread(file, bytes, DISK_BYTES, 0), (ssize_t)DISK_BYTES);
		ck_assert_mem_eq(bytes, expected, 512 * counts[i]);
	}
}
END_TEST

START_TEST(many_writes_are_few_system_calls)
{
	int results[64];
	uint64_t submissions;

	if (!io_ring_can_link(&ring, 32))
		return;
	submissions = ring.submissions;
	ck_assert_uint_eq(write_many(64, results), 0);
	ck_assert_uint_le(ring.submissions - submissions, 2);
}
END_TEST

/* As on a full file system: what lies behind the limit can't be written, all else is. */
START_TEST(a_write_that_fails_among_others_fails_alone)
{
	struct rlimit all, half;
	int results[DISK_BYTES / 512];
	unsigned failed;

	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &all), 0);
	half = (struct rlimit){ .rlim_cur = _i, .rlim_max = all.rlim_max };
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &half), 0);
	failed = write_many(64, results);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
	ck_assert_uint_eq(failed, 64 - _i / 512);
	ck_assert_int_eq(pread(file, bytes, DISK_BYTES, 0), (ssize_t)DISK_BYTES);
	for (unsigned i = 0; i < 64; i++) {
		unsigned block = i * 37 % 64;

		ck_assert_int_eq(results[i], block < (unsigned)_i / 512 ? 0 : -EFBIG);
		if (results[i] == 0)
			ck_assert_mem_eq(bytes + 512 * block, expected + 512 * block, 512);
	}
}
END_TEST

static int not_offered;

/* A host that knows only one way to make zeroes, or none. */
static bool refuse_modes(struct host_call *call)
{
	call->result = -EOPNOTSUPP;
	calls++;
	return call->kind == HOST_CLEAR && (not_offered == -1 || (call->mode & not_offered));
}

static int clear(enum disk_operation operation, bool unmap)
{
	struct disk_request request = {
		.operation = operation, .offset = 4096, .length = 4096, .unmap = unmap
	};

	ck_assert_int_eq(pwrite(file, expected, DISK_BYTES, 0), (ssize_t)DISK_BYTES);
	sim_host = refuse_modes;
	return serve(&request);
}

static bool is_cleared(void)
{
	static const uint8_t zeroes[4096];

	ck_assert_int_eq(pread(file, bytes, 4096, 4096), 4096);
	return memcmp(bytes, zeroes, 4096) == 0;
}

START_TEST(zeroes_are_made_in_the_way_that_the_host_knows)
{
	not_offered = FALLOC_FL_ZERO_RANGE;
	ck_assert_int_eq(clear(DISK_WRITE_ZEROES, false), 0);
	ck_assert(is_cleared());
	not_offered = FALLOC_FL_PUNCH_HOLE;
	/* Not every file system has the other. */
	if (clear(DISK_WRITE_ZEROES, true) == 0)
		ck_assert(is_cleared());
	not_offered = -1;
	ck_assert_int_eq(clear(DISK_WRITE_ZEROES, true), -EOPNOTSUPP);
	ck_assert_int_eq(clear(DISK_WRITE_ZEROES, false), -EOPNOTSUPP);
	ck_assert_int_eq(clear(DISK_DISCARD, false), 0);
	ck_assert(!is_cleared());
}
END_TEST

static atomic_uint in_calls;
static unsigned in_calls_seen;

static bool see_in_calls(struct host_call *call)
{
	if (call->kind == HOST_WRITE && !call->op)
		in_calls_seen += atomic_load(&in_calls);
	return false;
}

/* Such as one to a file system that is frozen: no sign of life is to depend on it. */
START_TEST(write_that_may_wait_is_known)
{
	sim_host = see_in_calls;
	disk_set_blocking_counter(&in_calls);
	ck_assert_int_eq(transfer(DISK_WRITE), 0);
	ck_assert_uint_eq(in_calls_seen, 1);
	ck_assert_uint_eq(atomic_load(&in_calls), 0);
}
END_TEST

static unsigned at_once, by_worker;

static bool count_ways(struct host_call *call)
{
	if (call->op)
		call->async ? by_worker++ : at_once++;
	return false;
}

static bool has_nowait(int fd)
{
	const struct iovec iov = { bytes, 512 };

	return preadv2(fd, &iov, 1, 0, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP;
}

/* What tells no server from a page cache is not asked by a thread that holds a ring. */
START_TEST(file_system_that_only_waits_is_left_to_workers)
{
	struct disk_options options = { .direct = true };
	int memory = memfd_create("disk", MFD_CLOEXEC);

	/* Of those that are everywhere, tmpfs has no reads without waiting; by O_DIRECT it is like any. */
	ck_assert_int_eq(ftruncate(memory, DISK_BYTES), 0);
	disk_close(disk);
	options.path = descriptor_path(memory);
	if (has_nowait(memory) || disk_open(&disk, &options, &ring) < 0) {
		options = (struct disk_options){ .path = descriptor_path(file) };
		ck_assert_int_eq(disk_open(&disk, &options, &ring), 0);
		close(memory);
		return;
	}
	memcpy(bytes, expected, DISK_BYTES);
	sim_host = count_ways;
	ck_assert_int_eq(serve(&(struct disk_request){ .operation = DISK_WRITE,
				 .iov = &(struct iovec){ bytes, DISK_BYTES },
				 .iov_count = 1,
				 .length = DISK_BYTES }),
		0);
	memset(bytes, 0, DISK_BYTES);
	ck_assert_int_eq(serve(&(struct disk_request){ .operation = DISK_READ,
				 .iov = &(struct iovec){ bytes, DISK_BYTES },
				 .iov_count = 1,
				 .length = DISK_BYTES }),
		0);
	sim_host = NULL;
	ck_assert_mem_eq(bytes, expected, DISK_BYTES);
	ck_assert_uint_eq(at_once, 0);
	ck_assert_uint_ge(by_worker, 2);
	close(memory);
}
END_TEST

START_TEST(file_system_that_need_not_wait_is_read_at_once)
{
	if (!has_nowait(file))
		return;
	sim_host = count_ways;
	ck_assert_int_eq(transfer(DISK_READ), 0);
	sim_host = NULL;
	ck_assert_uint_eq(by_worker, 0);
	ck_assert_uint_ge(at_once, 1);
}
END_TEST

Suite *file_suite(void)
{
	const TTest *const tests[] = {
		short_and_interrupted_writes_go_on,
		short_and_interrupted_reads_go_on,
		interrupted_flushes_and_discards_go_on,
		errors_are_passed_on,
		writes_that_are_started_together_all_end,
		many_writes_are_few_system_calls,
		write_that_may_wait_is_known,
		zeroes_are_made_in_the_way_that_the_host_knows,
		file_system_that_only_waits_is_left_to_workers,
		file_system_that_need_not_wait_is_read_at_once,
	};
	TCase *tcase = tcase_create("faults");
	Suite *suite = suite_create("file");

	tcase_add_checked_fixture(tcase, setup, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	for (int half = 0; half < 2; half++)
		tcase_add_loop_test(tcase, a_write_that_fails_among_others_fails_alone,
			16384 + 200 * half, 16384 + 200 * half + 1);
	suite_add_tcase(suite, tcase);
	return suite;
}
