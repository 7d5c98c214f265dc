// SPDX-License-Identifier: GPL-2.0-only
/* A server that is lost, stays away and comes back. */
#include <sys/wait.h>

#include "nbd_fixture.h"

static void hear_it_hang_up(void)
{
	ck_assert_msg(sim_run_until(&sim, has_hung_up, NULL), "the client does not hang up");
	close(server);
	server = -1;
}

/* --- A server that is lost. */

START_TEST(lost_server_is_found_again_and_has_all_that_it_had_not_answered)
{
	static uint8_t bytes[1024], got[1024], read[1024];
	struct try tries[3];
	struct command command;
	const char *text;

	messages_begin();
	fill(bytes, 0, sizeof(bytes));
	start(&tries[0], DISK_WRITE, 0, bytes, sizeof(bytes));
	start(&tries[1], DISK_READ, 2048, read, sizeof(read));
	hear_command(NBD_WRITE, 0, sizeof(bytes));
	hear(got, sizeof(got));
	command = hear_command(NBD_READ, 2048, sizeof(read));
	/* In the middle of the data. */
	reply(command.cookie, 0);
	tell(bytes, 700);
	sim_run_moment(&sim);
	hang_up();
	sim_run_moment(&sim);
	start(&tries[2], DISK_FLUSH, 0, NULL, 0);
	come_back();
	/* In the order of their places. */
	command = hear_command(NBD_WRITE, 0, sizeof(bytes));
	hear(got, sizeof(got));
	assert_filled(got, 0, sizeof(got));
	reply(command.cookie, 0);
	command = hear_command(NBD_READ, 2048, sizeof(read));
	reply(command.cookie, 0);
	fill(got, 2048, sizeof(got));
	tell(got, sizeof(got));
	/* Nothing was acknowledged before, so this covers all there is. */
	reply(hear_command(NBD_FLUSH, 0, 0).cookie, 0);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(result_of(&tries[i]), 0);
	assert_filled(read, 2048, sizeof(read));
	text = messages_end();
	ck_assert_msg(strstr(text, "is lost") && strstr(text, "is back"), "messages: %s", text);
	text = strchr(strchr(text, '\n') + 1, '\n');
	ck_assert_msg(text && !text[1], "more than a line at each end: %s", text);
}
END_TEST

START_TEST(part_of_a_message_is_sent_again_as_a_whole)
{
	uint8_t bytes[SIZE], got[SIZE];
	struct try tries[2];

	fill(bytes, 0, sizeof(bytes));
	start(&tries[0], DISK_WRITE, 0, bytes, sizeof(bytes));
	start(&tries[1], DISK_WRITE, 0, bytes, sizeof(bytes));
	hear_command(NBD_WRITE, 0, sizeof(bytes));
	hear(got, 300000);
	hang_up();
	come_back();
	for (unsigned i = 0; i < 2; i++) {
		struct command command = hear_command(NBD_WRITE, 0, sizeof(bytes));

		hear(got, sizeof(got));
		assert_filled(got, 0, sizeof(got));
		reply(command.cookie, 0);
		ck_assert_int_eq(result_of(&tries[i]), 0);
	}
}
END_TEST

START_TEST(server_that_says_it_ends_is_left_and_asked_again)
{
	struct try try;

	start(&try, DISK_FLUSH, 0, NULL, 0);
	reply(hear_command(NBD_FLUSH, 0, 0).cookie, NBD_ESHUTDOWN);
	hear_it_hang_up();
	ck_assert(!try.done);
	come_back();
	reply(hear_command(NBD_FLUSH, 0, 0).cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
}
END_TEST

static void assert_left_and_asked_again(struct try *try, size_t length)
{
	hear_it_hang_up();
	ck_assert(!try->done);
	come_back();
	reply(hear_command(NBD_READ, 512, length).cookie, 5);
	ck_assert_int_eq(result_of(try), -EIO);
}

START_TEST(replies_that_are_none_end_the_connection)
{
	static uint8_t bytes[512], garbage[16] = "\x67\x44\x66\x99";
	struct command command;
	struct try try;

	/* A wrong magic. */
	start(&try, DISK_READ, 512, bytes, sizeof(bytes));
	hear_command(NBD_READ, 512, sizeof(bytes));
	tell(garbage, sizeof(garbage));
	assert_left_and_asked_again(&try, sizeof(bytes));
	/* A cookie that nobody gave, or not in this life of its slot. */
	start(&try, DISK_READ, 512, bytes, sizeof(bytes));
	command = hear_command(NBD_READ, 512, sizeof(bytes));
	reply(command.cookie + (1ull << 32), 0);
	assert_left_and_asked_again(&try, sizeof(bytes));
	start(&try, DISK_READ, 512, bytes, sizeof(bytes));
	command = hear_command(NBD_READ, 512, sizeof(bytes));
	reply(command.cookie + 128, 0);
	assert_left_and_asked_again(&try, sizeof(bytes));
	/* The same reply twice. */
	write_well(0);
	start(&try, DISK_FLUSH, 0, NULL, 0);
	command = hear_command(NBD_FLUSH, 0, 0);
	reply(command.cookie, 0);
	reply(command.cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
	hear_it_hang_up();
	come_back();
	/* With nothing under way at all. */
	reply(0, 0);
	hear_it_hang_up();
	come_back();
	write_well(0);
}
END_TEST

START_TEST(reply_before_all_was_sent_ends_the_connection)
{
	uint8_t bytes[SIZE] = { 0 }, got[SIZE];
	struct command command;
	struct try try;

	start(&try, DISK_WRITE, 0, bytes, sizeof(bytes));
	command = hear_command(NBD_WRITE, 0, sizeof(bytes));
	reply(command.cookie, 0);
	hear_it_hang_up();
	come_back();
	command = hear_command(NBD_WRITE, 0, sizeof(bytes));
	hear(got, sizeof(got));
	reply(command.cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
}
END_TEST

/* --- Flushes and what they cover. */

START_TEST(flush_after_a_loss_tells_of_writes_that_may_be_gone)
{
	struct try try;

	write_well(0);
	hang_up();
	come_back();
	start(&try, DISK_FLUSH, 0, NULL, 0);
	ck_assert_int_eq(result_of(&try), -EIO);
	hear_silence();
	/* The guest knows now. */
	flush_well();
	write_well(0);
	flush_well();
}
END_TEST

START_TEST(flush_after_a_loss_is_good_if_all_was_flushed)
{
	write_well(0);
	flush_well();
	hang_up();
	come_back();
	flush_well();
}
END_TEST

START_TEST(all_flushes_that_wait_for_a_server_tell_of_lost_writes)
{
	struct try tries[3];

	write_well(0);
	start(&tries[0], DISK_FLUSH, 0, NULL, 0);
	hear_command(NBD_FLUSH, 0, 0);
	hang_up();
	sim_run_moment(&sim);
	for (unsigned i = 1; i < 3; i++)
		start(&tries[i], DISK_FLUSH, 0, NULL, 0);
	come_back();
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(result_of(&tries[i]), -EIO);
	flush_well();
}
END_TEST

/* A flush covers what was acknowledged when it was sent, and no more. */
START_TEST(write_acknowledged_behind_a_flush_is_not_covered_by_it)
{
	struct command command;
	struct try flush, try;

	write_well(0);
	start(&flush, DISK_FLUSH, 0, NULL, 0);
	command = hear_command(NBD_FLUSH, 0, 0);
	write_well(0);
	reply(command.cookie, 0);
	ck_assert_int_eq(result_of(&flush), 0);
	hang_up();
	come_back();
	start(&try, DISK_FLUSH, 0, NULL, 0);
	ck_assert_int_eq(result_of(&try), -EIO);
}
END_TEST

START_TEST(flush_that_failed_covers_nothing)
{
	struct try try;

	write_well(0);
	start(&try, DISK_FLUSH, 0, NULL, 0);
	reply(hear_command(NBD_FLUSH, 0, 0).cookie, 5);
	ck_assert_int_eq(result_of(&try), -EIO);
	hang_up();
	come_back();
	start(&try, DISK_FLUSH, 0, NULL, 0);
	ck_assert_int_eq(result_of(&try), -EIO);
	flush_well();
}
END_TEST

START_TEST(discards_and_zeroes_are_writes_too)
{
	struct try try;

	start(&try, DISK_WRITE_ZEROES, 0, NULL, 512);
	reply(hear_command(NBD_WRITE_ZEROES, 0, 512).cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
	hang_up();
	come_back();
	start(&try, DISK_FLUSH, 0, NULL, 0);
	ck_assert_int_eq(result_of(&try), -EIO);
}
END_TEST

/* --- A server that stays away. */

START_TEST(requests_wait_for_so_long_and_the_disk_comes_back)
{
	struct try tries[2];
	const char *text;

	sim_set_clock(START);
	start(&tries[0], DISK_FLUSH, 0, NULL, 0);
	hang_up();
	close(listener);
	sim_run_moment(&sim);
	sim_set_clock(START + TIMEOUT * SECOND);
	sim_run_moment(&sim);
	ck_assert(!tries[0].done);
	messages_begin();
	sim_set_clock(START + TIMEOUT * SECOND + 1);
	ck_assert_int_eq(result_of(&tries[0]), -ETIMEDOUT);
	/* The others need not wait. */
	start(&tries[1], DISK_FLUSH, 0, NULL, 0);
	ck_assert_int_eq(result_of(&tries[1]), -ETIMEDOUT);
	text = messages_end();
	ck_assert_msg(strstr(text, "no answer") && strchr(text, '\n')[1] == '\0', "messages: %s", text);
	listen_here();
	sim_run_clock();
	come_back();
	flush_well();
}
END_TEST

START_TEST(server_that_falls_silent_counts_as_lost)
{
	static uint8_t bytes[512];
	struct command command;
	struct try tries[2];

	sim_set_clock(START);
	start(&tries[0], DISK_READ, 0, bytes, sizeof(bytes));
	start(&tries[1], DISK_FLUSH, 0, NULL, 0);
	command = hear_command(NBD_READ, 0, sizeof(bytes));
	hear_command(NBD_FLUSH, 0, 0);
	/* An answer to one of them is a sign of life. */
	sim_set_clock(START + (TIMEOUT - 1) * SECOND);
	reply(command.cookie, 5);
	ck_assert_int_eq(result_of(&tries[0]), -EIO);
	sim_set_clock(START + (2 * TIMEOUT - 2) * SECOND);
	for (unsigned i = 0; i < 20; i++)
		sim_run_moment(&sim);
	ck_assert(!tries[1].done);
	sim_set_clock(START + 2 * TIMEOUT * SECOND);
	ck_assert_int_eq(result_of(&tries[1]), -ETIMEDOUT);
	hear_it_hang_up();
	sim_run_clock();
	come_back();
	flush_well();
}
END_TEST

START_TEST(end_of_the_guest_does_not_wait_for_a_server)
{
	struct try try;

	sim_set_clock(START);
	start(&try, DISK_FLUSH, 0, NULL, 0);
	hear_command(NBD_FLUSH, 0, 0);
	disk_end(disk);
	sim_run_moment(&sim);
	ck_assert(!try.done);
	sim_set_clock(START + 3 * SECOND);
	ck_assert_int_eq(result_of(&try), -ETIMEDOUT);
	/* Nor at all for one that is not there. */
	hang_up();
	start(&try, DISK_FLUSH, 0, NULL, 0);
	disk_end(disk);
	ck_assert_int_eq(result_of(&try), -ETIMEDOUT);
	/* The next guest has the disk as ever, and waits for the server as ever. */
	start(&try, DISK_FLUSH, 0, NULL, 0);
	sim_run_moment(&sim);
	ck_assert(!try.done);
	sim_set_clock(START + 10 * SECOND);
	come_back();
	reply(hear_command(NBD_FLUSH, 0, 0).cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
	sim_run_clock();
}
END_TEST

START_TEST(end_of_the_guest_is_a_farewell)
{
	write_well(512);
	disk_end(disk);
	hear_command(NBD_DISCONNECT, 0, 0);
	hear_it_hang_up();
}
END_TEST

/* In a process of its own, which ends with a part of a write sent. */
static void send_a_part(void)
{
	static uint8_t bytes[SIZE];
	struct try try;
	pid_t pid = fork();
	int status;

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (io_ring_init(&sim.ring, SIM_RING_ENTRIES) < 0)
			_exit(1);
		start(&try, DISK_WRITE, 0, bytes, sizeof(bytes));
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}

static size_t hear_all(void)
{
	static uint8_t bytes[4096];
	size_t all = 0;
	ssize_t count;

	while ((count = recv(server, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		all += count;
	return all;
}

/* Its bytes would be the last ones of what is written. */
START_TEST(request_that_was_sent_in_part_is_followed_by_nothing)
{
	size_t heard;

	send_a_part();
	heard = hear_all();
	ck_assert_uint_gt(heard, 28);
	ck_assert_uint_lt(heard, SIZE);
	stop_supervisor();
	disk_close(disk);
	disk = NULL;
	ck_assert_uint_eq(hear_all(), 0);
	ck_assert(has_hung_up(NULL));
}
END_TEST

START_TEST(export_that_has_changed_is_not_taken)
{
	const char *text;
	uint64_t size;

	messages_begin();
	hang_up();
	offer(SIZE - 512, FLAGS_ALL);
	come_back();
	hear_it_hang_up();
	offer(SIZE, FLAGS_ALL | NBD_READ_ONLY);
	come_back();
	hear_it_hang_up();
	offer(SIZE, FLAGS_ALL & ~NBD_SEND_FLUSH);
	come_back();
	hear_it_hang_up();
	say_hello();
	say_export(SIZE, FLAGS_ALL);
	say_block_sizes(1024, 4096, 65536);
	say_reply(1, 0);
	come_back();
	hear_it_hang_up();
	/* A larger one is no harm, and may be used when the guest is told. */
	offer(2 * SIZE, FLAGS_ALL);
	come_back();
	write_well(SIZE - 512);
	ck_assert_int_eq(disk_measure(disk, &size), 0);
	ck_assert_uint_eq(size, 2 * SIZE);
	text = messages_end();
	ck_assert_msg(strstr(text, "smaller now") && !strstr(text, "blocks now"), "messages: %s", text);
	ck_assert_uint_eq(disk->size, SIZE);
	/* From now on it is smaller than the guest may believe. */
	hang_up();
	offer(SIZE, FLAGS_ALL);
	come_back();
	hear_it_hang_up();
}
END_TEST

static int begin_again(void)
{
	pthread_t thread;
	int result;

	hang_up();
	ck_assert_int_eq(pthread_create(&thread, NULL, accept_and_speak, NULL), 0);
	result = disk_start(disk, true);
	pthread_join(thread, NULL);
	hear_greeting();
	return result;
}

START_TEST(next_start_has_a_connection_of_its_own)
{
	const char *text;

	ck_assert_int_eq(begin_again(), 0);
	flush_well();
	offer(SIZE / 2, FLAGS_ALL);
	messages_begin();
	ck_assert_int_eq(begin_again(), -ESTALE);
	text = messages_end();
	ck_assert_msg(strstr(text, "smaller now: have it served as it was"), "messages: %s", text);
}
END_TEST

START_TEST(greeting_that_hangs_or_ends_is_tried_again)
{
	hang_up();
	say_hello();
	script.hangs_up = true;
	come_back();
	hear_it_hang_up();
	offer(SIZE, FLAGS_ALL);
	come_back();
	flush_well();
}
END_TEST

void nbd_loss_tests(Suite *suite)
{
	const TTest *const up[] = {
		lost_server_is_found_again_and_has_all_that_it_had_not_answered,
		part_of_a_message_is_sent_again_as_a_whole,
		server_that_says_it_ends_is_left_and_asked_again,
		replies_that_are_none_end_the_connection,
		reply_before_all_was_sent_ends_the_connection,
		flush_after_a_loss_tells_of_writes_that_may_be_gone,
		flush_after_a_loss_is_good_if_all_was_flushed,
		all_flushes_that_wait_for_a_server_tell_of_lost_writes,
		write_acknowledged_behind_a_flush_is_not_covered_by_it,
		flush_that_failed_covers_nothing,
		discards_and_zeroes_are_writes_too,
		requests_wait_for_so_long_and_the_disk_comes_back,
		server_that_falls_silent_counts_as_lost,
		end_of_the_guest_does_not_wait_for_a_server,
		end_of_the_guest_is_a_farewell,
		request_that_was_sent_in_part_is_followed_by_nothing,
		export_that_has_changed_is_not_taken,
		next_start_has_a_connection_of_its_own,
		greeting_that_hangs_or_ends_is_tried_again,
	};

	add_case(suite, "connected", setup, teardown, 60, up, ARRAY_SIZE(up));
}
