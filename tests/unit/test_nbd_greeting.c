// SPDX-License-Identifier: GPL-2.0-only
/* The greeting: servers that are none, and connections that the supervisor makes. */
#include "nbd_fixture.h"

static void assert_refused(int error, const char *word)
{
	const char *text;

	messages_begin();
	ck_assert_int_eq(open_disk(), error);
	text = messages_end();
	ck_assert_ptr_null(disk);
	ck_assert_msg(strstr(text, word) && strstr(text, name), "the message is: %s", text);
	ck_assert_msg(strchr(text, '\n') == text + strlen(text) - 1, "no one line: %s", text);
	hang_up();
}

START_TEST(greetings_that_are_none_are_refused)
{
	script = (struct script){ 0 };
	say("SSH-2.0-OpenSSH_9.2p1 Debian", 28);
	assert_refused(-EPROTO, "no NBD server");
	script = (struct script){ 0 };
	say("NBDMAGIC", 8);
	say64(0x00420281861253);
	say64(SIZE);
	assert_refused(-EPROTO, "too old");
	script = (struct script){ 0 };
	say("NBDMAGICIHAVEOPT", 16);
	say16(0);
	assert_refused(-EPROTO, "newstyle");
	script = (struct script){ 0 };
	say("NBDMAGICIHAVEOPTx", 17);
	script.hangs_up = true;
	assert_refused(-ECONNRESET, "Connection reset");
	script.length = 0;
	assert_refused(-ECONNRESET, "Connection reset");
}
END_TEST

START_TEST(replies_to_the_option_that_are_wrong_are_refused)
{
	say_hello();
	say64(0x3e889045565aa);
	say64(0);
	say32(0);
	assert_refused(-EPROTO, "no answer");
	say_hello();
	say64(0x3e889045565a9);
	say32(6);
	say64(0);
	assert_refused(-EPROTO, "no answer");
	say_hello();
	say_reply(3, UINT32_MAX);
	assert_refused(-EPROTO, "longer");
	say_hello();
	say_reply(1, 0);
	assert_refused(-EPROTO, "size");
	say_hello();
	say_reply(3, 1);
	say("", 1);
	assert_refused(-EPROTO, "wrong length");
	say_hello();
	say_reply(3, 4);
	say32(0);
	assert_refused(-EPROTO, "wrong length");
	say_hello();
	say_reply(3, 12);
	say16(3);
	say("0123456789", 10);
	assert_refused(-EPROTO, "wrong length");
	say_hello();
	for (unsigned i = 0; i < 100; i++)
		say_export(SIZE, FLAGS_ALL);
	assert_refused(-EPROTO, "longer");
}
END_TEST

START_TEST(exports_that_are_no_disk_are_refused)
{
	const uint32_t nonsense[][3] = { { 0, 512, 4096 }, { 512, 0, 4096 }, { 513, 1024, 4096 },
		{ 512, 4097, 65536 }, { 4096, 512, 4096 }, { 512, 512, 256 } };

	for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++) {
		say_hello();
		say_export(SIZE, FLAGS_ALL);
		say_block_sizes(nonsense[i][0], nonsense[i][1], nonsense[i][2]);
		say_reply(1, 0);
		assert_refused(-EPROTO, "nonsense");
	}
	say_hello();
	say_block_sizes(8192, 8192, 65536);
	assert_refused(-EINVAL, "8192");
	say_hello();
	say_block_sizes(256, 256, 256);
	assert_refused(-EINVAL, "less than a block");
	offer(0, FLAGS_ALL);
	assert_refused(-EINVAL, "empty");
	offer(511, FLAGS_ALL);
	assert_refused(-EINVAL, "has 511 bytes, less than a block of 512");
	offer(1ull << 63, FLAGS_ALL);
	assert_refused(-EPROTO, "larger");
}
END_TEST

START_TEST(refusals_of_the_server_are_told_without_its_control_characters)
{
	const struct {
		uint32_t type;
		int error;
		const char *word;
	} refusals[] = { { 1, -EPROTO, "too old" }, { 2, -EPROTO, "policy" }, { 5, -EPROTO, "TLS" },
		{ 6, -ENOENT, "no export of that name" }, { 7, -EPROTO, "about to end" },
		{ 99, -EPROTO, "its log" } };

	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
		say_hello();
		say_reply(1u << 31 | refusals[i].type, 0);
		assert_refused(refusals[i].error, refusals[i].word);
	}
	say_hello();
	say_reply(1u << 31 | 6, 8);
	say("a\x1b[2J\n\xff!", 8);
	assert_refused(-ENOENT, "(a?[2J?\?!)");
	/* As long as words may be. */
	say_hello();
	say_reply(1u << 31 | 6, 4096);
	for (unsigned i = 0; i < 4096; i++)
		say("x", 1);
	assert_refused(-ENOENT, "xxxx");
}
END_TEST

START_TEST(server_that_hangs_is_not_waited_for_for_long)
{
	struct disk_options options = { .path = name, .timeout = 1 };
	int64_t before = now_ms();
	const char *text;

	say_hello();
	messages_begin();
	ck_assert_int_eq(open_it(&options), -ETIMEDOUT);
	text = messages_end();
	ck_assert_msg(strstr(text, "does not answer"), "the message is: %s", text);
	ck_assert_int_lt(now_ms() - before, SIM_PATIENCE_MS);
}
END_TEST

START_TEST(no_server_is_told)
{
	struct disk_options options = { .path = name };

	close(listener);
	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), -ECONNREFUSED);
	unlink(path);
	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), -ENOENT);
	listen_here();
}
END_TEST

/* --- The supervisor and a guest's process that was taken over, step by step. */

static struct nbd_connector wanted;
static struct pollfd polls[NBD_CONNECTORS_MAX];

static void setup_wanted(void)
{
	setup_place();
	wanted = (struct nbd_connector){
		.limit = 10 * SECOND,
		.export = { .size = SIZE, .flags = FLAGS_ALL, .block_min = 512 },
	};
	nbd_connector_init(&wanted);
	ck_assert_int_eq(nbd_parse_address(name, &wanted.address), 0);
	ck_assert_int_eq(nbd_connector_register(&wanted), 0);
	ck_assert_int_eq(nbd_connectors_open(), 0);
}

static void teardown_wanted(void)
{
	nbd_connector_release(&wanted);
	teardown();
}

/* All that the supervisor can do; whether it would wait then. */
static bool supervisor_waits(void)
{
	for (unsigned i = 0; i < 100; i++) {
		nbd_connectors_watch(polls);
		if (poll(polls, NBD_CONNECTORS_MAX, 0) == 0)
			return true;
		nbd_connectors_serve(polls);
	}
	return false;
}

static void ask_and_accept(void)
{
	ck_assert_int_eq(nbd_connector_request(&wanted), 0);
	ck_assert(supervisor_waits());
	ck_assert(can_accept(NULL));
}

static void say_and_serve(size_t from, size_t to)
{
	ck_assert_int_eq(send(server, script.bytes + from, to - from, MSG_NOSIGNAL), to - from);
	ck_assert(supervisor_waits());
}

START_TEST(connection_is_passed_on_when_the_greeting_is_over)
{
	struct nbd_connection_reply answer;
	uint8_t byte;
	int fd;

	offer(SIZE, FLAGS_ALL);
	ask_and_accept();
	for (size_t at = 0; at < script.length; at++) {
		ck_assert_int_eq(nbd_connector_receive(&wanted, &answer), -EAGAIN);
		say_and_serve(at, at + 1);
	}
	hear_greeting();
	fd = nbd_connector_receive(&wanted, &answer);
	ck_assert_int_ge(fd, 0);
	ck_assert_uint_eq(answer.export.size, SIZE);
	ck_assert_uint_eq(answer.export.flags, FLAGS_ALL);
	/* Nobody else has it. */
	close(fd);
	ck_assert_int_eq(recv(server, &byte, 1, 0), 0);
}
END_TEST

START_TEST(other_export_than_the_disks_is_not_passed_on)
{
	struct nbd_connection_reply answer;

	offer(SIZE - 512, FLAGS_ALL);
	ask_and_accept();
	say_and_serve(0, script.length);
	hear_greeting();
	ck_assert_int_eq(nbd_connector_receive(&wanted, &answer), -ESTALE);
	ck_assert_str_eq(answer.problem, "its export is smaller now");
	ck_assert(has_hung_up(NULL));
}
END_TEST

START_TEST(supervisor_waits_for_no_server_and_no_process)
{
	struct nbd_connection_reply answer;

	sim_set_clock(START);
	/* More calls than one are served in turn. */
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(nbd_connector_request(&wanted), 0);
	ask_and_accept();
	ck_assert_int_gt(nbd_connectors_timeout(), 9000);
	ck_assert_int_eq(nbd_connector_receive(&wanted, &answer), -EAGAIN);
	sim_set_clock(START + 10 * SECOND);
	ck_assert_int_eq(nbd_connectors_timeout(), 1);
	sim_set_clock(START + 10 * SECOND + 1000000);
	nbd_connectors_serve(polls);
	ck_assert_int_eq(nbd_connector_receive(&wanted, &answer), -ETIMEDOUT);
	ck_assert(has_hung_up(NULL));
	/* One that takes no answers, and one that lets nobody answer. */
	close(listener);
	for (unsigned i = 0; i < 2000; i++) {
		nbd_connector_request(&wanted);
		ck_assert(supervisor_waits());
	}
	shutdown(wanted.sockets[1], SHUT_RDWR);
	ck_assert(supervisor_waits());
	ck_assert_int_eq(nbd_connectors_timeout(), -1);
	sim_run_clock();
}
END_TEST

void nbd_greeting_tests(Suite *suite)
{
	const TTest *const opening[] = {
		greetings_that_are_none_are_refused,
		replies_to_the_option_that_are_wrong_are_refused,
		exports_that_are_no_disk_are_refused,
		refusals_of_the_server_are_told_without_its_control_characters,
		server_that_hangs_is_not_waited_for_for_long,
		no_server_is_told,
	};
	const TTest *const asked[] = {
		connection_is_passed_on_when_the_greeting_is_over,
		other_export_than_the_disks_is_not_passed_on,
		supervisor_waits_for_no_server_and_no_process,
	};

	add_case(suite, "opening", setup_place, teardown, 60, opening, ARRAY_SIZE(opening));
	add_case(suite, "supervisor", setup_wanted, teardown_wanted, 60, asked, ARRAY_SIZE(asked));
}
