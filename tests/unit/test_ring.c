// SPDX-License-Identifier: GPL-2.0-only
/* The io_urings: whose thread takes what, in which order. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>

#include "guest.h"

#define IN_FLIGHT 64
#define FILE_BYTES (1 * MIB)

static struct io_ring ring, own;
static int file;

/* An operation that remembers its end. */
struct probe {
	struct io_op op;
	struct io_deferred after;
	_Atomic unsigned done;
	int result;
	unsigned order;
	pthread_t thread;
};

static _Atomic unsigned ended, afters_run;

static void probe_done(struct io_op *op, int result)
{
	struct probe *probe = container_of(op, struct probe, op);

	probe->result = result;
	probe->thread = pthread_self();
	probe->order = ++ended;
	probe->done++;
}

static void setup(void)
{
	ck_assert_int_eq(io_ring_init(&ring, IN_FLIGHT), 0);
	ck_assert_int_eq(io_ring_init_thread(&own, &ring, IN_FLIGHT, NULL), 0);
	file = temporary_file(FILE_BYTES);
	ended = afters_run = 0;
}

static void teardown(void)
{
	io_ring_release_thread(&own);
	io_ring_release(&ring);
	close(file);
}

static void *run_io_thread(void *unused)
{
	(void)unused;
	io_ring_loop(&ring);
	return NULL;
}

static pthread_t start_io_thread(void)
{
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, run_io_thread, NULL), 0);
	return thread;
}

static void stop_io_thread(pthread_t thread)
{
	io_ring_stop(&ring);
	pthread_join(thread, NULL);
}

static void wait_for(struct probe *probe)
{
	int64_t end = now_ms() + SIM_PATIENCE_MS;

	while (!probe->done && now_ms() < end)
		sched_yield();
	ck_assert_uint_eq(probe->done, 1);
}

/*
 * The owner rests, and so the I/O thread takes it.  If it was complete before that, the owner takes
 * it, unless the I/O thread is about to: it may have been woken.  Whether it rested.
 */
static bool rest_until_done(struct probe *probe, pthread_t io_thread)
{
	bool rests = io_ring_arm_eventfd(&own);

	if (!rests)
		io_ring_reap(&own, false);
	wait_for(probe);
	if (rests)
		ck_assert(pthread_equal(probe->thread, io_thread));
	return rests;
}

START_TEST(thread_without_a_ring_has_the_main_one)
{
	ck_assert_ptr_eq(io_ring_current(&ring), &ring);
	io_ring_bind(&own);
	ck_assert_ptr_eq(io_ring_current(&ring), &own);
	io_ring_unbind(&own);
	ck_assert_ptr_eq(io_ring_current(&ring), &ring);
}
END_TEST

START_TEST(owner_takes_what_is_complete_at_once)
{
	struct probe probe = { .op.done = probe_done };
	char byte;
	struct iovec iov = { &byte, 1 };

	io_ring_bind(&own);
	ck_assert(!io_ring_ready(&own));
	/* Into the page cache. */
	ck_assert_int_eq(pread(file, &byte, 1, 0), 1);
	io_ring_readv(&own, &probe.op, file, &iov, 1, 0, false);
	io_ring_submit(&own);
	ck_assert(io_ring_ready(&own));
	ck_assert_uint_eq(io_ring_reap(&own, false), 1);
	ck_assert_int_eq(probe.result, 1);
	ck_assert(!io_ring_ready(&own));
}
END_TEST

START_TEST(io_thread_takes_what_a_worker_completes)
{
	pthread_t io_thread = start_io_thread();
	unsigned rests = 0;

	io_ring_bind(&own);
	for (unsigned i = 0; i < 50; i++) {
		struct probe probe = { .op.done = probe_done };

		/* The owner does not look at its ring, as a vCPU in the guest. */
		io_ring_disarm_eventfd(&own);
		io_ring_fdatasync(&own, &probe.op, file);
		io_ring_submit(&own);
		rests += rest_until_done(&probe, io_thread);
		ck_assert_int_eq(probe.result, 0);
	}
	ck_assert_uint_gt(rests, 0);
	stop_io_thread(io_thread);
}
END_TEST

START_TEST(io_thread_takes_what_the_owner_completed_on_its_way)
{
	static const struct __kernel_timespec time = { .tv_nsec = 2 * 1000 * 1000 };
	pthread_t io_thread = start_io_thread();
	unsigned rests = 0;

	/* The kernel has the owner complete it by itself, just when it thought that all was taken. */
	io_ring_bind(&own);
	for (unsigned i = 0; i < 50; i++) {
		struct probe probe = { .op.done = probe_done };

		io_ring_disarm_eventfd(&own);
		io_ring_timeout(&own, &probe.op, &time);
		io_ring_submit(&own);
		rests += rest_until_done(&probe, io_thread);
		ck_assert_int_eq(probe.result, -ETIME);
	}
	ck_assert_uint_gt(rests, 0);
	stop_io_thread(io_thread);
}
END_TEST

START_TEST(owner_does_not_rest_over_something_complete)
{
	struct probe probe = { .op.done = probe_done };

	io_ring_bind(&own);
	ck_assert(io_ring_arm_eventfd(&own));
	io_ring_disarm_eventfd(&own);
	io_ring_nop(&own, &probe.op);
	io_ring_submit(&own);
	ck_assert(!io_ring_arm_eventfd(&own));
	ck_assert_uint_eq(io_ring_reap(&own, false), 1);
	ck_assert(io_ring_arm_eventfd(&own));
	io_ring_complete(&probe.op, 0);
	ck_assert(!io_ring_arm_eventfd(&own));
	ck_assert_uint_eq(io_ring_reap(&own, false), 1);
}
END_TEST

static bool is_raised(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	return poll(&poll_fd, 1, 0) == 1;
}

START_TEST(owner_leaves_the_guest_for_what_it_waits_for)
{
	struct probe probe = { .op.done = probe_done };
	uint8_t leave = 0;
	int ends[2];

	ck_assert_int_eq(pipe(ends), 0);
	io_ring_release_thread(&own);
	ck_assert_int_eq(io_ring_init_thread(&own, &ring, 1, &leave), 0);
	io_ring_bind(&own);
	for (unsigned i = 1; i <= 3; i++) {
		char byte = 0;

		io_ring_poll_current(&probe.op, ends[0], POLLIN);
		io_ring_submit(&own);
		ck_assert(io_ring_arm_eventfd(&own));
		ck_assert_uint_eq(leave, 0);
		/* It becomes complete just when the thread is about to enter the guest. */
		ck_assert_int_eq(write(ends[1], &byte, 1), 1);
		ck_assert_uint_eq(leave, 1);
		ck_assert(!is_raised(ring.completion_eventfd));
		ck_assert(!io_ring_arm_eventfd(&own));
		io_ring_reap(&own, false);
		ck_assert_uint_eq(probe.done, i);
		ck_assert_int_eq(probe.result, POLLIN);
		ck_assert_int_eq(read(ends[0], &byte, 1), 1);
		leave = 0;
	}
	close(ends[0]);
	close(ends[1]);
}
END_TEST

START_TEST(io_thread_is_told_of_what_ends_beside_what_the_owner_waits_for)
{
	static const struct __kernel_timespec time = { .tv_nsec = 50 * 1000 * 1000 };
	struct probe waited = { .op.done = probe_done }, probe = { .op.done = probe_done };
	pthread_t io_thread;
	uint8_t leave = 0;
	int ends[2];

	ck_assert_int_eq(pipe(ends), 0);
	io_ring_release_thread(&own);
	ck_assert_int_eq(io_ring_init_thread(&own, &ring, 2, &leave), 0);
	io_thread = start_io_thread();
	io_ring_bind(&own);
	io_ring_poll_current(&waited.op, ends[0], POLLIN);
	io_ring_timeout(&own, &probe.op, &time);
	io_ring_submit(&own);
	ck_assert(rest_until_done(&probe, io_thread));
	ck_assert_uint_eq(waited.done, 0);
	stop_io_thread(io_thread);
	close(ends[0]);
	close(ends[1]);
}
END_TEST

static void *leave_with_a_timeout(void *argument)
{
	static const struct __kernel_timespec time = { .tv_nsec = 20 * 1000 * 1000 };
	struct probe *probes = argument;
	struct io_op *finished = &probes[1].op;

	io_ring_bind(&own);
	io_ring_timeout(&own, &probes[0].op, &time);
	io_ring_nop(&own, finished);
	io_ring_submit(&own);
	io_ring_unbind(&own);
	/* What a thread submitted ends with it. */
	wait_for(&probes[0]);
	return NULL;
}

START_TEST(io_thread_takes_all_of_a_ring_that_was_left)
{
	struct probe probes[2] = { { .op.done = probe_done }, { .op.done = probe_done } };
	pthread_t io_thread = start_io_thread(), owner;

	ck_assert_int_eq(pthread_create(&owner, NULL, leave_with_a_timeout, probes), 0);
	pthread_join(owner, NULL);
	wait_for(&probes[1]);
	ck_assert_int_eq(probes[0].result, -ETIME);
	ck_assert(pthread_equal(probes[0].thread, io_thread));
	ck_assert(pthread_equal(probes[1].thread, io_thread));
	stop_io_thread(io_thread);
}
END_TEST

START_TEST(io_thread_may_end_and_another_follow)
{
	io_ring_bind(&own);
	for (unsigned i = 0; i < 3; i++) {
		struct probe probe = { .op.done = probe_done };
		pthread_t io_thread = start_io_thread();

		io_ring_disarm_eventfd(&own);
		io_ring_fdatasync(&own, &probe.op, file);
		io_ring_submit(&own);
		rest_until_done(&probe, io_thread);
		stop_io_thread(io_thread);
	}
}
END_TEST

START_TEST(finished_operations_keep_their_order_and_do_not_wait)
{
	struct probe probes[3] = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(probes); i++) {
		probes[i].op.done = probe_done;
		io_ring_complete(&probes[i].op, 10 + i);
	}
	ck_assert_uint_eq(ended, 0);
	ck_assert(io_ring_ready(&own));
	ck_assert_uint_eq(io_ring_reap(&ring, true), ARRAY_SIZE(probes));
	for (unsigned i = 0; i < ARRAY_SIZE(probes); i++) {
		ck_assert_uint_eq(probes[i].order, i + 1);
		ck_assert_int_eq(probes[i].result, 10 + (int)i);
	}
}
END_TEST

static void finish_again(struct io_op *op, int result)
{
	probe_done(op, result);
	if (ended < 5)
		io_ring_complete(op, 0);
}

START_TEST(done_may_finish_another)
{
	struct probe probe = { .op.done = finish_again };

	io_ring_complete(&probe.op, 0);
	for (unsigned i = 1; i <= 5; i++) {
		ck_assert(io_ring_ready(&own));
		/* The next one is for the next run, which doesn't wait for it. */
		ck_assert_uint_eq(io_ring_reap(&ring, true), 1);
		ck_assert_uint_eq(probe.done, i);
	}
	ck_assert(!io_ring_ready(&own));
}
END_TEST

/* An operation that queues itself again for as long as its thread may be kept busy by it. */
struct flood {
	struct io_op op;
	struct io_ring *ring;
	unsigned rounds, seen_after[3], seen;
	struct probe probe;
	bool stopping;
};

#define FLOOD_ROUNDS 20000u
/* The kernel may raise an eventfd a while after what raises it. */
#define FLOOD_PATIENCE 1000u

static void flush_once(struct flood *flood)
{
	flood->probe.done = 0;
	io_ring_nop(&own, &flood->probe.op);
	io_ring_submit(&own);
}

static void flood_on(struct io_op *op, int result)
{
	struct flood *flood = container_of(op, struct flood, op);

	(void)result;
	flood->rounds++;
	if (flood->probe.done && flood->seen < ARRAY_SIZE(flood->seen_after)) {
		flood->seen_after[flood->seen++] = flood->rounds;
		if (flood->seen < ARRAY_SIZE(flood->seen_after))
			flush_once(flood);
	}
	if (flood->seen == ARRAY_SIZE(flood->seen_after) && !flood->stopping) {
		flood->stopping = true;
		io_ring_stop(&ring);
	}
	if (flood->rounds < FLOOD_ROUNDS) {
		io_ring_nop(flood->ring, op);
		io_ring_submit(flood->ring);
	} else {
		io_ring_stop(&ring);
	}
}

/* The owner of the other ring rests, as a vCPU in a guest that halts until its flush is done. */
START_TEST(io_thread_that_is_kept_busy_takes_what_is_complete_elsewhere)
{
	struct flood flood = { .op.done = flood_on, .ring = &ring, .probe.op.done = probe_done };

	flush_once(&flood);
	io_ring_nop(&ring, &flood.op);
	io_ring_submit(&ring);
	io_ring_loop(&ring);
	ck_assert_uint_eq(flood.seen, ARRAY_SIZE(flood.seen_after));
	for (unsigned i = 0; i < ARRAY_SIZE(flood.seen_after); i++)
		ck_assert_uint_le(flood.seen_after[i], (i + 1) * FLOOD_PATIENCE);
	/* Nor is its end put off. */
	ck_assert_uint_le(flood.rounds, (flood.seen + 1) * FLOOD_PATIENCE);
}
END_TEST

START_TEST(run_takes_what_was_complete_when_it_began)
{
	struct flood flood = { .op.done = flood_on, .ring = &own };

	io_ring_bind(&own);
	io_ring_nop(&own, &flood.op);
	io_ring_submit(&own);
	for (unsigned i = 1; i <= 3; i++) {
		ck_assert_uint_eq(io_ring_reap(&own, false), 1);
		ck_assert_uint_eq(flood.rounds, i);
		ck_assert(!io_ring_arm_eventfd(&own));
	}
}
END_TEST

static void count_after(struct io_deferred *after)
{
	struct probe *probe = container_of(after, struct probe, after);

	/* All that came together has been served. */
	ck_assert_uint_eq(ended, 3);
	ck_assert_uint_eq(probe->done, 1);
	afters_run++;
}

static void probe_done_with_after(struct io_op *op, int result)
{
	struct probe *probe = container_of(op, struct probe, op);

	probe_done(op, result);
	io_ring_defer_until_reaped(&probe->after);
}

START_TEST(afters_follow_all_that_came_together)
{
	struct probe probes[3];

	for (unsigned i = 0; i < ARRAY_SIZE(probes); i++) {
		probes[i] = (struct probe){
			.op.done = probe_done_with_after, .after.run = count_after
		};
		io_ring_nop(&ring, &probes[i].op);
	}
	io_ring_submit(&ring);
	ck_assert_uint_eq(io_ring_reap(&ring, true), ARRAY_SIZE(probes));
	ck_assert_uint_eq(afters_run, ARRAY_SIZE(probes));
}
END_TEST

START_TEST(counters_of_a_ring_go_to_the_main_one)
{
	struct probe probe = { .op.done = probe_done };
	struct io_ring another;

	ck_assert_int_eq(io_ring_init_thread(&another, &ring, IN_FLIGHT, NULL), 0);
	io_ring_nop(&another, &probe.op);
	io_ring_submit(&another);
	ck_assert_uint_eq(io_ring_reap(&another, true), 1);
	ck_assert_uint_eq(ring.operations, 0);
	io_ring_release_thread(&another);
	ck_assert_uint_eq(ring.operations, 1);
	ck_assert_uint_eq(ring.submissions, 1);
}
END_TEST

/* A descriptor that takes less than a test writes, its other end, and one that keeps a pty in order. */
struct ends {
	int writer, reader, slave;
};

static void open_pty(struct ends *ends)
{
	ends->writer = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_ge(ends->writer, 0);
	ck_assert_int_eq(grantpt(ends->writer), 0);
	ck_assert_int_eq(unlockpt(ends->writer), 0);
	ends->slave = open(ptsname(ends->writer), O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_ge(ends->slave, 0);
}

/* As of --console pty: nobody reads the slave, which is raw. */
static void open_master(struct ends *ends)
{
	struct termios mode;

	open_pty(ends);
	ck_assert_int_eq(tcgetattr(ends->slave, &mode), 0);
	cfmakeraw(&mode);
	ck_assert_int_eq(tcsetattr(ends->slave, TCSANOW, &mode), 0);
	ends->reader = ends->slave;
}

/* The user's terminal, which an emulator or sshd reads. */
static void open_terminal(struct ends *ends)
{
	open_pty(ends);
	ends->reader = ends->writer;
	ends->writer = ends->slave;
}

/* The same after Ctrl-S. */
static void open_stopped_terminal(struct ends *ends)
{
	open_terminal(ends);
	ck_assert_int_eq(tcflow(ends->slave, TCOOFF), 0);
}

static void open_pipe(struct ends *ends)
{
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	*ends = (struct ends){ fds[1], fds[0], -1 };
}

static void open_fifo(struct ends *ends)
{
	char path[] = "/tmp/karma-test-XXXXXX";

	ck_assert_ptr_nonnull(mkdtemp(path));
	ck_assert_int_eq(chdir(path), 0);
	ck_assert_int_eq(mkfifo("fifo", 0600), 0);
	ends->reader = open("fifo", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ends->writer = open("fifo", O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(ends->reader, 0);
	ck_assert_int_ge(ends->writer, 0);
	ck_assert_int_eq(unlink("fifo"), 0);
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_int_eq(rmdir(path), 0);
}

static void open_socket(struct ends *ends)
{
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*ends = (struct ends){ fds[1], fds[0], -1 };
}

static void (*const openers[])(struct ends *) = {
	open_master, open_terminal, open_stopped_terminal, open_pipe, open_fifo, open_socket,
};

/* More than a pipe or a socket has room for. */
static char text[MIB];

static void write_lots(struct probe *probe, int fd)
{
	static const struct iovec iov = { text, sizeof(text) };

	probe->done = 0;
	io_ring_writev(&ring, &probe->op, fd, &iov, 1, (uint64_t)-1, true);
	io_ring_submit(&ring);
}

/* Nobody reads: it waits for room, and the ring goes on.  Where it does not, this hangs. */
START_TEST(write_that_finds_no_room_holds_up_nobody)
{
	const struct timespec pause = { .tv_nsec = 1000 * 1000 };
	struct ends ends = { -1, -1, -1 };
	struct probe written = { .op.done = probe_done };

	openers[_i](&ends);
	write_lots(&written, ends.writer);
	for (unsigned i = 0; i < 20; i++) {
		struct probe other = { .op.done = probe_done };

		io_ring_nop(&ring, &other.op);
		io_ring_submit(&ring);
		while (!other.done)
			io_ring_reap(&ring, true);
		/* Some take a part. */
		if (written.done)
			write_lots(&written, ends.writer);
		nanosleep(&pause, NULL);
	}
	ck_assert_uint_eq(written.done, 0);
	ck_assert_int_eq(fcntl(ends.reader, F_SETFL, O_NONBLOCK), 0);
	tcflow(ends.slave, TCOON);
	while (!written.done) {
		char bytes[4096];

		if (read(ends.reader, bytes, sizeof(bytes)) < 0)
			nanosleep(&pause, NULL);
		io_ring_reap(&ring, false);
	}
	ck_assert_int_gt(written.result, 0);
	close(ends.reader);
	close(ends.writer);
}
END_TEST

/* What a thread that a guest has taken over could write into a ring. */
START_TEST(ring_refuses_what_no_device_asks_for)
{
	struct io_ring *rings[] = { &ring, &own };
	struct sockaddr_in address = { .sin_family = AF_INET };

	for (unsigned i = 0; i < 2 * 6; i++) {
		struct io_uring *uring = &rings[i % 2]->uring;
		struct io_uring_sqe *sqe = io_uring_get_sqe(uring);
		struct io_uring_cqe *cqe;

		switch (i / 2) {
		case 0:
			io_uring_prep_openat(sqe, AT_FDCWD, "/", O_RDONLY, 0);
			break;
		case 1:
			io_uring_prep_connect(sqe, file, (struct sockaddr *)&address, sizeof(address));
			break;
		case 2:
			io_uring_prep_close(sqe, file);
			break;
		case 3:
			io_uring_prep_nop(sqe);
			sqe->flags = IOSQE_IO_DRAIN;
			break;
		case 4:
			io_uring_prep_nop(sqe);
			sqe->flags = IOSQE_FIXED_FILE;
			break;
		case 5:
			io_uring_prep_provide_buffers(sqe, &address, 1, 1, 0, 0);
			break;
		}
		io_uring_submit(uring);
		ck_assert_int_eq(io_uring_wait_cqe(uring, &cqe), 0);
		ck_assert_int_eq(cqe->res, -EACCES);
		io_uring_cqe_seen(uring, cqe);
	}
	/* Nor may the ring be changed. */
	ck_assert_int_eq(io_uring_register_files(&ring.uring, &file, 1), -EACCES);
	ck_assert_int_eq(io_uring_unregister_eventfd(&own.uring), -EACCES);
}
END_TEST

Suite *ring_suite(void)
{
	const TTest *const tests[] = {
		thread_without_a_ring_has_the_main_one,
		owner_takes_what_is_complete_at_once,
		io_thread_takes_what_a_worker_completes,
		io_thread_takes_what_the_owner_completed_on_its_way,
		owner_does_not_rest_over_something_complete,
		owner_leaves_the_guest_for_what_it_waits_for,
		io_thread_is_told_of_what_ends_beside_what_the_owner_waits_for,
		io_thread_takes_all_of_a_ring_that_was_left,
		io_thread_may_end_and_another_follow,
		finished_operations_keep_their_order_and_do_not_wait,
		done_may_finish_another,
		io_thread_that_is_kept_busy_takes_what_is_complete_elsewhere,
		run_takes_what_was_complete_when_it_began,
		afters_follow_all_that_came_together,
		counters_of_a_ring_go_to_the_main_one,
		ring_refuses_what_no_device_asks_for,
	};
	Suite *suite = suite_create("ring");
	TCase *test_case = tcase_create("ring");

	tcase_add_checked_fixture(test_case, setup, teardown);
	tcase_set_timeout(test_case, 60);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(test_case, tests[i]);
	tcase_add_loop_test(
		test_case, write_that_finds_no_room_holds_up_nobody, 0, ARRAY_SIZE(openers));
	suite_add_tcase(suite, test_case);
	return suite;
}
