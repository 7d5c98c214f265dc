// SPDX-License-Identifier: GPL-2.0-only
/*
 * Overlays over the death of a guest's process: wherever that is, what the next process flushes is
 * there for ever.
 */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "../../src/io/overlay.h"
#include "guest.h"

#define CLUSTERS 64u
#define BYTES (CLUSTERS * OVERLAY_CLUSTER)

static struct io_ring ring;
static struct disk *disk;
static int base, file;

/* What all processes share. */
static struct {
	uint64_t stable;	/* the map in the file, when that was last on the disk */
	unsigned calls;		/* of the host's, so far */
	unsigned last;		/* the process is killed before the call of that number */
	bool served;
} *shared;

static void open_overlay(void)
{
	struct disk_options options = {
		.path = descriptor_path(base),
		.overlay = descriptor_path(file),
	};

	ck_assert_int_eq(disk_open(&disk, &options, &ring), 0);
}

static void setup(void)
{
	base = temporary_file(BYTES);
	file = temporary_file(0);
	open_overlay();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(shared, MAP_FAILED);
}

static void teardown(void)
{
	disk_close(disk);
	munmap(shared, sizeof(*shared));
	close(file);
	close(base);
}

static uint64_t map_in_file(void)
{
	uint64_t map;

	if (pread(file, &map, sizeof(map), OVERLAY_MAP_START) != sizeof(map))
		_exit(1);
	return map;
}

/* --- The guest's process. */

/* All is done at once, so that nothing but these calls can be between two of its steps. */
static bool serve_at_once(struct host_call *call)
{
	if (shared->calls++ == shared->last)
		raise(SIGKILL);
	switch (call->kind) {
	case HOST_READ:
		call->result = preadv(call->fd, call->iov, call->count, call->offset);
		break;
	case HOST_WRITE:
		call->result = pwritev(call->fd, call->iov, call->count, call->offset);
		break;
	case HOST_SYNC:
		shared->stable = map_in_file();
		call->result = 0;
		break;
	case HOST_CLEAR:
		_exit(1);
	}
	return true;
}

static void request_done(struct disk_request *request, int error)
{
	if (error)
		_exit(1);
	request->done = NULL;
}

static void submit(struct disk_request *request)
{
	request->done = request_done;
	disk_submit(disk, request);
	disk_kick(disk);
}

static void wait_for(const struct disk_request *request)
{
	while (request->done)
		io_ring_reap(&ring, false);
}

/* Bytes of that cluster: a change with a copy from the base. */
static void submit_write(struct disk_request *request, struct iovec *iov, unsigned cluster)
{
	*request = (struct disk_request){
		.operation = DISK_WRITE,
		.iov = iov,
		.iov_count = 1,
		.offset = cluster * OVERLAY_CLUSTER + 512,
		.length = iov->iov_len,
	};
	submit(request);
}

static void flush(void)
{
	struct disk_request request = { .operation = DISK_FLUSH };

	submit(&request);
	wait_for(&request);
}

/* One write before a flush, and another while that is under way. */
static void write_and_flush(void)
{
	uint8_t bytes[512];
	struct iovec iov[2] = { { bytes, sizeof(bytes) }, { bytes, sizeof(bytes) } };
	struct disk_request writes[2], first = { .operation = DISK_FLUSH };

	memset(bytes, 'n', sizeof(bytes));
	submit_write(&writes[0], &iov[0], 2);
	wait_for(&writes[0]);
	submit(&first);
	submit_write(&writes[1], &iov[1], 5);
	wait_for(&first);
	wait_for(&writes[1]);
	flush();
}

static pid_t start_process(void (*work)(void), bool traced)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid > 0)
		return pid;
	if (io_ring_init(&ring, SIM_RING_ENTRIES) < 0 || disk_start(disk, false) < 0)
		_exit(1);
	sim_host = serve_at_once;
	if (traced && (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 || raise(SIGSTOP)))
		_exit(1);
	work();
	shared->served = true;
	_exit(0);
}

/* --- Deaths. */

static void run_process(void (*work)(void), unsigned calls)
{
	pid_t pid;
	int status;

	shared->stable = 0;
	shared->calls = 0;
	shared->last = calls;
	shared->served = false;
	pid = start_process(work, false);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(shared->served || WIFSIGNALED(status));
}

/* As the next guest finds it. */
static uint64_t map_in_memory(void)
{
	return container_of(disk, struct overlay, disk)->map.allocated[0];
}

START_TEST(what_the_next_process_flushes_is_there_for_ever)
{
	bool whole = false;

	for (unsigned calls = 0; !whole; calls++) {
		uint64_t seen;

		run_process(write_and_flush, calls);
		whole = shared->served;
		seen = map_in_memory();
		run_process(flush, UINT32_MAX);
		ck_assert_msg((shared->stable & seen) == seen,
			"killed before call %u: clusters %#lx are shown, and only %#lx are safe", calls,
			seen, shared->stable);
		disk_close(disk);
		ck_assert_uint_eq(map_in_file(), seen);
		ck_assert_int_eq(ftruncate(file, 0), 0);
		open_overlay();
		ck_assert(calls || !whole);
	}
	ck_assert_uint_eq(shared->stable, 1 << 2 | 1 << 5);
}
END_TEST

/*
 * What a process leaves if it is killed there: each cluster that is shown is safe, or known not to be,
 * so that the next flush writes its mark.
 */
static void assert_marks_are_known(void)
{
	const struct overlay_map *map = &container_of(disk, struct overlay, disk)->map;
	uint64_t unsafe = map->allocated[0] & ~shared->stable;

	if (unsafe && map->block_states[0] == BLOCK_CLEAN)
		ck_abort_msg("clusters %#lx are shown, and no flush would write their marks", unsafe);
}

START_TEST(no_instruction_forgets_a_mark)
{
	unsigned long steps = 0;
	pid_t pid;
	int status;

	shared->last = UINT32_MAX;
	pid = start_process(write_and_flush, true);
	while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
		assert_marks_are_known();
		ck_assert_int_eq(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		steps++;
	}
	ck_assert(shared->served);
	ck_assert_uint_gt(steps, 1000);
	ck_assert_uint_eq(shared->stable, 1 << 2 | 1 << 5);
}
END_TEST

Suite *overlay_death_suite(void)
{
	TCase *tcase = tcase_create("overlay_death");
	Suite *suite = suite_create("overlay_death");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, what_the_next_process_flushes_is_there_for_ever);
	tcase_add_test(tcase, no_instruction_forgets_a_mark);
	suite_add_tcase(suite, tcase);
	return suite;
}
