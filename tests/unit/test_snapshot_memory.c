// SPDX-License-Identifier: GPL-2.0-only
/* The memory of a snapshot: copied from another process, which writes meanwhile, and mapped again from the file. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "guest.h"
#include "karma/copy_file.h"
#include "karma/snapshot_memory.h"
#include "karma/snapshot_touched.h"
#include "karma/status.h"

#define PAGES (2 * BATCH + 77)	/* no multiple of anything */
#define BATCH 4096u		/* pages, of memory.c */
#define SIZE ((uint64_t)PAGES * PAGE_BYTES)

/* --- The other process, which has a guest's memory. */

enum order { FILL, DISCARD, LOOK, RUN, REST, COMPARE, LEAVE };

struct request {
	enum order order;
	uint64_t page, count;
	int value;		/* of all bytes; COMPARE: a descriptor */
};

static struct memory_options options;
static pid_t pid;
static int socket_fd, file, copied;
static uint64_t address;
static struct snapshot_progress progress;
static struct snapshot_memory copy;

static uint64_t compare(const uint8_t *base, int fd)
{
	uint8_t page[PAGE_BYTES];

	for (uint64_t i = 0; i < PAGES; i++) {
		if (read_all_at(fd, page, sizeof(page), i * PAGE_BYTES) < 0 ||
			memcmp(page, base + i * PAGE_BYTES, sizeof(page)) != 0)
			return i;
	}
	return PAGES;
}

/* Write here and there, and give pages back, until there is a request. */
static void run(struct guest_memory *memory, int fd)
{
	struct pollfd request = { .fd = fd, .events = POLLIN };
	static uint64_t seed = 1;

	while (poll(&request, 1, 0) == 0) {
		uint8_t *page;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		page = memory->base + (seed >> 33) % PAGES * PAGE_BYTES;
		if (seed >> 20 & 3)
			page[seed >> 24 & 4095] = seed >> 40;
		else
			guest_memory_discard(memory, page, PAGE_BYTES);
	}
}

static uint64_t obey(struct guest_memory *memory, const struct request *request, int fd)
{
	uint8_t *at = memory->base + request->page * PAGE_BYTES;
	uint64_t sum = 0;

	switch (request->order) {
	case FILL:
		memset(at, request->value, request->count * PAGE_BYTES);
		return 0;
	case DISCARD:
		return guest_memory_discard(memory, at, request->count * PAGE_BYTES);
	case LOOK:
		for (uint64_t i = 0; i < request->count * PAGE_BYTES; i += PAGE_BYTES)
			sum += *(volatile uint8_t *)(at + i);
		return sum;
	case RUN:
		run(memory, fd);
		return 0;
	case REST:
		return 0;
	case COMPARE:
		return compare(memory->base, request->value);
	default:
		_exit(0);
	}
}

static _Noreturn void be_process(int fd)
{
	struct guest_memory memory;
	struct request request;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (guest_memory_init(&memory, &options) < 0)
		_exit(1);
	for (uint64_t answer = (uintptr_t)memory.base;; answer = obey(&memory, &request, fd)) {
		if (write_bytes(fd, &answer, sizeof(answer)) != sizeof(answer) ||
			read_bytes(fd, &request, sizeof(request)) != sizeof(request))
			_exit(1);
	}
}

static uint64_t answer(void)
{
	uint64_t number;

	ck_assert_int_eq(read_bytes(socket_fd, &number, sizeof(number)), sizeof(number));
	return number;
}

static void request(enum order order, uint64_t page, uint64_t count, int value)
{
	const struct request request = { order, page, count, value };

	ck_assert_int_eq(write_bytes(socket_fd, &request, sizeof(request)), sizeof(request));
}

static uint64_t ask(enum order order, uint64_t page, uint64_t count, int value)
{
	request(order, page, count, value);
	return answer();
}

static int make_file(void)
{
	int fd = memfd_create("snapshot", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	return fd;
}

static void start_process(void)
{
	int ends[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	copied = make_file();
	pid = fork();
	if (pid == 0)
		be_process(ends[1]);
	close(ends[1]);
	socket_fd = ends[0];
	address = answer();
}

/* Kinds of memory, each with its way of a copy. */
enum kind { PRIVATE, SHARED, RESTORED, KINDS };

static void set_up(enum kind kind)
{
	options = (struct memory_options){ .size = SIZE, .shared = kind == SHARED, .restored = kind == RESTORED };
	if (kind == RESTORED) {
		uint8_t page[PAGE_BYTES];

		options.file = file = make_file();
		ck_assert_int_eq(ftruncate(file, SIZE), 0);
		for (uint64_t i = 0; i < PAGES; i += i % 1000 < 100 ? 1 : 700) {
			memset(page, i, sizeof(page));
			ck_assert_int_eq(write_all_at(file, page, sizeof(page), i * PAGE_BYTES), 0);
		}
	}
	start_process();
}

static void tear_down(void)
{
	if (pid) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	pid = 0;
	snapshot_memory_close(&copy);
}

static void begin(void)
{
	ck_assert_int_eq(snapshot_memory_open(&copy, pid, address, &options, copied, &progress), 0);
}

static uint64_t bytes_used(int fd)
{
	struct stat status;

	ck_assert_int_eq(fstat(fd, &status), 0);
	ck_assert_uint_eq(status.st_size, SIZE);
	return status.st_blocks * 512ull;
}

static void expect_same(void)
{
	/* The process has none of our descriptors that is younger: it was there before. */
	ck_assert_uint_eq(ask(COMPARE, 0, 0, copied), PAGES);
}

/* --- The copy. */

START_TEST(a_guest_that_writes_all_the_time_is_copied_as_it_was_at_the_end)
{
	set_up(_i);
	ask(FILL, 5, BATCH, 0x5a);
	begin();
	for (unsigned round = 0; snapshot_memory_again(&copy) || (copy.tracks && round < 3); round++) {
		ck_assert_int_eq(snapshot_memory_arm(&copy), 0);
		request(RUN, 0, 0, 0);
		ck_assert_int_eq(snapshot_memory_copy(&copy), 0);
		ask(REST, 0, 0, 0);
		answer();
	}
	ck_assert_int_eq(snapshot_memory_last(&copy), 0);
	expect_same();
	ck_assert_uint_ge(progress.rounds, copy.tracks ? 4 : 1);
}
END_TEST

START_TEST(what_is_zero_or_absent_is_a_hole)
{
	set_up(PRIVATE);
	ask(FILL, 10, 100, 1);
	ask(FILL, 1000, 300, 0);
	begin();
	ck_assert_int_eq(snapshot_memory_last(&copy), 0);
	ck_assert_uint_eq(bytes_used(copied), 100 * PAGE_BYTES);
	expect_same();
	/* None of its pages was touched by the copy. */
	ck_assert_uint_le(progress.bytes, 8 * MIB);
}
END_TEST

START_TEST(what_was_given_back_between_two_rounds_is_a_hole_again)
{
	set_up(PRIVATE);
	ask(FILL, 0, 2000, 3);
	begin();
	if (!copy.tracks)
		return;
	ck_assert_int_eq(snapshot_memory_arm(&copy), 0);
	ck_assert_int_eq(snapshot_memory_copy(&copy), 0);
	ask(DISCARD, 100, 1000, 0);
	/* The page of zeroes, which nobody has written. */
	ask(LOOK, 200, 100, 0);
	ask(FILL, 1990, 1, 0);
	ask(FILL, 1991, 1, 4);
	ck_assert_int_eq(snapshot_memory_last(&copy), 0);
	ck_assert_uint_eq(bytes_used(copied), 999 * PAGE_BYTES);
	expect_same();
	/* Not all of it anew. */
	ck_assert_uint_lt(progress.round_bytes, 2000 * PAGE_BYTES);
}
END_TEST

START_TEST(a_restored_guest_has_the_rest_from_its_file)
{
	const uint8_t own[] = { 0x77, 0 };

	set_up(RESTORED);
	ask(LOOK, 0, PAGES, 0);
	for (unsigned i = 0; i < sizeof(own); i++)
		ask(FILL, 1000 + i, 1, own[i]);
	ask(FILL, 2000, 20, 0x66);
	ask(DISCARD, 2010, 5, 0);
	begin();
	if (copy.tracks) {
		ck_assert_int_eq(snapshot_memory_arm(&copy), 0);
		ck_assert_int_eq(snapshot_memory_copy(&copy), 0);
		ask(DISCARD, 2005, 15, 0);
		ask(DISCARD, 1000, 1, 0);
	}
	ck_assert_int_eq(snapshot_memory_last(&copy), 0);
	expect_same();
	/* The file's pages are not read again, of which it has more than that; its holes, once looked at, may be. */
	ck_assert_uint_lt(progress.bytes, SIZE / 2);
	ck_assert_uint_le(bytes_used(copied), bytes_used(file) + 17 * PAGE_BYTES);
}
END_TEST

START_TEST(shared_memory_is_copied_where_the_process_has_not_mapped_it)
{
	set_up(SHARED);
	ask(FILL, 10, 100, 1);
	begin();
	ck_assert(!snapshot_memory_again(&copy));
	ck_assert_int_eq(snapshot_memory_last(&copy), 0);
	ck_assert_uint_eq(bytes_used(copied), 100 * PAGE_BYTES);
	expect_same();
}
END_TEST

START_TEST(an_address_that_is_none_does_no_harm)
{
	const uint64_t wrong[] = { 1, address + 1, 0xffffffffff600000, UINT64_MAX & ~4095ull, 1ull << 47,
		(1ull << 47) - SIZE + PAGE_BYTES };
	uint8_t byte;

	set_up(PRIVATE);
	messages_begin();
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		ck_assert_int_eq(snapshot_memory_open(&copy, pid, wrong[i], &options, copied, &progress), -EFAULT);
		snapshot_memory_close(&copy);
	}
	ck_assert_ptr_nonnull(strstr(messages_so_far(), "at no address"));
	begin();
	ck_assert_int_lt(snapshot_memory_read(&copy, 0, &byte, 1), 0);
	ck_assert_int_eq(snapshot_memory_read(&copy, UINT64_MAX, &byte, 1), -EFAULT);
	ck_assert_int_eq(snapshot_memory_read(&copy, 1, &byte, UINT64_MAX), -EFAULT);
	ck_assert_int_eq(snapshot_memory_read(&copy, address, &byte, 1), 0);
	ck_assert_ptr_nonnull(strstr(messages_end(), "can't read the memory"));
}
END_TEST

START_TEST(where_it_has_no_memory_the_copy_is_empty)
{
	set_up(PRIVATE);
	ck_assert_int_eq(snapshot_memory_open(&copy, pid, PAGE_BYTES, &options, copied, &progress), 0);
	ck_assert_int_eq(snapshot_memory_last(&copy), 0);
	ck_assert_uint_eq(bytes_used(copied), 0);
}
END_TEST

START_TEST(a_process_that_has_ended_is_an_error)
{
	set_up(_i);
	ask(FILL, 0, 100, 1);
	begin();
	request(LEAVE, 0, 0, 0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	pid = 0;
	messages_begin();
	if (copy.memfd < 0) {
		ck_assert_int_lt(snapshot_memory_last(&copy), 0);
		ck_assert_ptr_nonnull(strstr(messages_end(), "has ended"));
	} else {
		ck_assert_int_eq(snapshot_memory_last(&copy), 0);
	}
}
END_TEST

START_TEST(a_file_system_without_room_is_an_error_with_a_cure)
{
	set_up(PRIVATE);
	ask(FILL, 0, 10, 1);
	begin();
	close(copied);
	copied = copy.to = open("/dev/full", O_RDWR | O_CLOEXEC);
	messages_begin();
	ck_assert_int_lt(snapshot_memory_last(&copy), 0);
	ck_assert_ptr_nonnull(strstr(messages_end(), "make room"));
}
END_TEST

/* --- The way back. */

static struct guest_memory restored;

static int restore(bool shared, uint64_t size)
{
	const struct memory_options from = { .size = size, .shared = shared, .restored = true, .file = file };

	return guest_memory_init(&restored, &from);
}

static void make_contents(uint64_t size)
{
	uint8_t page[PAGE_BYTES];

	file = make_file();
	ck_assert_int_eq(ftruncate(file, size), 0);
	for (uint64_t i = 0; i < size / PAGE_BYTES; i += i % 7 ? 1 : 5000) {
		memset(page, i | 1, sizeof(page));
		ck_assert_int_eq(write_all_at(file, page, sizeof(page), i * PAGE_BYTES), 0);
	}
}

START_TEST(restored_memory_has_what_the_file_has)
{
	uint8_t page[PAGE_BYTES];

	make_contents(SIZE);
	ck_assert_int_eq(restore(_i, SIZE), 0);
	ck_assert_uint_eq(compare(restored.base, file), PAGES);
	memset(restored.base, 0xee, SIZE);
	ck_assert_int_eq(read_all_at(file, page, sizeof(page), 0), 0);
	ck_assert_uint_eq(page[0], 1);
	guest_memory_release(&restored);
}
END_TEST

START_TEST(what_is_given_back_is_as_in_the_file)
{
	make_contents(SIZE);
	ck_assert_int_eq(restore(false, SIZE), 0);
	memset(restored.base, 0xee, SIZE);
	ck_assert_int_eq(guest_memory_discard(&restored, restored.base, SIZE), SIZE);
	ck_assert_uint_eq(compare(restored.base, file), PAGES);
	guest_memory_release(&restored);
}
END_TEST

START_TEST(a_large_sparse_file_takes_few_mappings)
{
	unsigned lines = 0;
	FILE *maps;

	make_contents(64 * GIB);
	ck_assert_int_eq(restore(false, 64 * GIB), 0);
	maps = fopen("/proc/self/maps", "re");
	for (int c = getc(maps); c != EOF; c = getc(maps))
		lines += c == '\n';
	fclose(maps);
	ck_assert_uint_lt(lines, 3000);
	ck_assert_uint_eq(restored.base[0], 1);
	ck_assert_uint_eq(*(uint8_t *)guest_memory_at(&restored, GPA(5000 * PAGE_BYTES), 1), 5000 % 256 | 1);
	guest_memory_release(&restored);
}
END_TEST

START_TEST(a_file_of_another_size_is_refused)
{
	make_contents(SIZE - PAGE_BYTES);
	messages_begin();
	ck_assert_int_eq(restore(_i, SIZE), -EINVAL);
	ck_assert_ptr_nonnull(strstr(messages_end(), "does not have its size"));
	ck_assert_ptr_null(restored.base);
}
END_TEST

START_TEST(a_file_that_is_cut_ends_the_process)
{
	int status;

	make_contents(SIZE);
	pid = fork();
	if (pid == 0) {
		if (restore(false, SIZE) < 0 || ftruncate(file, 0) < 0)
			_exit(1);
		_exit(*(volatile uint8_t *)restored.base ? 2 : 3);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	pid = 0;
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), STATUS_FAILURE);
}
END_TEST

/* --- Reading ahead. */

static struct touched touched;

static bool is_in(uint64_t page, bool written)
{
	for (unsigned i = 0; i < touched.count; i++) {
		const struct page_range *range = &touched.ranges[i];

		if (page >= range->first && page - range->first < range->count && range->written == written)
			return true;
	}
	return false;
}

static bool is_touched(uint64_t page)
{
	return is_in(page, false);
}

START_TEST(what_a_guest_has_touched_is_found)
{
	struct touched found;
	int fd = make_file();

	set_up(RESTORED);
	ask(LOOK, 0, 20, 0);
	ask(FILL, 60, 20, 7);
	ask(LOOK, 2200, 1, 0);
	/* The file has a hole there. */
	ask(FILL, 5500, 1, 7);
	ck_assert_int_eq(touched_find(&touched, pid, address, &options), 0);
	for (unsigned i = 0; i < 20; i++)
		ck_assert(is_touched(i) && is_touched(60 + i));
	ck_assert(is_touched(2200) && !is_touched(800) && !is_touched(5500) && !is_touched(PAGES));
	for (unsigned i = 0; i < PAGES; i++)
		ck_assert(is_in(i, true) == (i >= 60 && i < 80));
	found = touched;
	ck_assert_int_eq(touched_write(&touched, fd), 0);
	touched_read(&touched, fd);
	ck_assert_uint_eq(touched.count, found.count);
	ck_assert_mem_eq(touched.ranges, found.ranges, found.count * sizeof(found.ranges[0]));
}
END_TEST

START_TEST(too_many_ranges_are_joined)
{
	const unsigned apart = TOUCHED_GAP * 4;

	file = make_file();
	options = (struct memory_options){ .size = (TOUCHED_RANGES_MAX + 1ull) * apart * PAGE_BYTES, .restored = true, .file = file };
	ck_assert_int_eq(ftruncate(file, options.size), 0);
	for (uint64_t i = 0; i < options.size / PAGE_BYTES; i += apart)
		ck_assert_int_eq(write_all_at(file, "x", 1, i * PAGE_BYTES), 0);
	ck_assert_int_eq(guest_memory_init(&restored, &options), 0);
	for (uint64_t i = 0; i < options.size; i += apart * PAGE_BYTES)
		restored.base[i] = 1;
	ck_assert_int_eq(touched_find(&touched, getpid(), (uintptr_t)restored.base, &options), 0);
	ck_assert_uint_ge(touched.count, 1);
	/* It has written too many for any to be copied ahead. */
	for (uint64_t i = 0; i < options.size / PAGE_BYTES; i += apart)
		ck_assert(is_touched(i) && !is_in(i, true));
	guest_memory_release(&restored);
}
END_TEST

static long faults_of(enum order order, unsigned ahead_count)
{
	const struct memory_options from = {
		.size = SIZE, .restored = true, .file = file, .ahead = touched.ranges, .ahead_count = ahead_count
	};
	struct rusage before, after;

	ck_assert_int_eq(guest_memory_init(&restored, &from), 0);
	ck_assert_uint_eq(compare(restored.base, file), PAGES);
	guest_memory_release(&restored);
	ck_assert_int_eq(guest_memory_init(&restored, &from), 0);
	getrusage(RUSAGE_SELF, &before);
	obey(&restored, &(struct request){ order, 0, 1024, 1 }, -1);
	getrusage(RUSAGE_SELF, &after);
	guest_memory_release(&restored);
	return after.ru_minflt - before.ru_minflt;
}

START_TEST(what_is_read_ahead_takes_no_faults)
{
	const enum order order = _i ? FILL : LOOK;
	uint8_t page[PAGE_BYTES];

	file = make_file();
	ck_assert_int_eq(ftruncate(file, SIZE), 0);
	for (uint64_t i = 0; i < 1024; i++) {
		memset(page, i | 1, sizeof(page));
		ck_assert_int_eq(write_all_at(file, page, sizeof(page), i * PAGE_BYTES), 0);
	}
	touched = (struct touched){ .count = 1, .ranges = { { 0, 1024, order == FILL } } };
	/* A sanitizer has faults of its own at the first one. */
	faults_of(order, 0);
	/* Around a fault of a look, the host maps 16 pages. */
	ck_assert_int_lt(faults_of(order, 1), faults_of(order, 0) - 1024 / (order == FILL ? 1 : 16) / 2);
}
END_TEST

START_TEST(ranges_of_no_sense_do_no_harm)
{
	const struct page_range ahead[] = { { UINT32_MAX, 1, 1 }, { 0, INT32_MAX, 1 }, { 0, INT32_MAX, 0 }, { PAGES - 1, 2, 1 },
		{ PAGES, 0, 0 }, { PAGES - 1, 1, 1 }, { 0, 0, 0 }, { 0, 0, 1 } };
	struct memory_options from = { .size = SIZE, .restored = true, .ahead = ahead, .ahead_count = ARRAY_SIZE(ahead) };
	int fd = make_file();

	make_contents(SIZE);
	from.file = file;
	ck_assert_int_eq(guest_memory_init(&restored, &from), 0);
	ck_assert_uint_eq(compare(restored.base, file), PAGES);
	guest_memory_release(&restored);
	touched_read(&touched, fd);
	ck_assert_uint_eq(touched.count, 0);
	ck_assert_int_eq(write_all_at(fd, "123456789", 9, 0), 0);
	touched_read(&touched, fd);
	ck_assert_uint_eq(touched.count, 0);
	ck_assert_int_eq(ftruncate(fd, sizeof(touched.ranges) + 8), 0);
	touched_read(&touched, fd);
	ck_assert_uint_eq(touched.count, 0);
}
END_TEST

Suite *snapshot_memory_suite(void)
{
	const TTest *const copying[] = {
		what_is_zero_or_absent_is_a_hole,
		what_was_given_back_between_two_rounds_is_a_hole_again,
		a_restored_guest_has_the_rest_from_its_file,
		shared_memory_is_copied_where_the_process_has_not_mapped_it,
		an_address_that_is_none_does_no_harm,
		where_it_has_no_memory_the_copy_is_empty,
		a_file_system_without_room_is_an_error_with_a_cure,
		what_is_given_back_is_as_in_the_file,
		a_large_sparse_file_takes_few_mappings,
		a_file_that_is_cut_ends_the_process,
		what_a_guest_has_touched_is_found,
		too_many_ranges_are_joined,
		ranges_of_no_sense_do_no_harm,
	};
	Suite *suite = suite_create("snapshot_memory");
	TCase *memory_case = add_case(suite, "memory", NULL, tear_down, 60, copying, ARRAY_SIZE(copying));

	tcase_add_loop_test(memory_case, a_guest_that_writes_all_the_time_is_copied_as_it_was_at_the_end, 0, KINDS);
	tcase_add_loop_test(memory_case, a_process_that_has_ended_is_an_error, 0, 2);
	tcase_add_loop_test(memory_case, restored_memory_has_what_the_file_has, 0, 2);
	tcase_add_loop_test(memory_case, a_file_of_another_size_is_refused, 0, 2);
	tcase_add_loop_test(memory_case, what_is_read_ahead_takes_no_faults, 0, 2);
	return suite;
}
