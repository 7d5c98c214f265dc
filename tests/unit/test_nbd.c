// SPDX-License-Identifier: GPL-2.0-only
/* Disks on NBD servers: requests, what an export is, and the addresses of servers. */
#include <netinet/in.h>

#include "nbd_fixture.h"

START_TEST(each_operation_is_its_command)
{
	uint8_t bytes[1024] = { 0 };
	struct command command;
	struct try try;

	write_well(4096);
	start_pieces(&try, DISK_READ, 512, bytes, sizeof(bytes), 100);
	command = hear_command(NBD_READ, 512, sizeof(bytes));
	ck_assert_uint_eq(command.flags, 0);
	reply(command.cookie, 0);
	fill(script.bytes, 512, sizeof(bytes));
	tell(script.bytes, sizeof(bytes));
	ck_assert_int_eq(result_of(&try), 0);
	assert_filled(bytes, 512, sizeof(bytes));
	flush_well();
	start(&try, DISK_DISCARD, 8192, NULL, 65536);
	reply(hear_command(NBD_TRIM, 8192, 65536).cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
	start(&try, DISK_WRITE_ZEROES, 512, NULL, 512);
	command = hear_command(NBD_WRITE_ZEROES, 512, 512);
	ck_assert_uint_eq(command.flags, NBD_NO_HOLE);
	reply(command.cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
}
END_TEST

START_TEST(write_zeroes_may_leave_a_hole_if_the_guest_says_so)
{
	struct command command;
	struct try try = { .request = { .operation = DISK_WRITE_ZEROES,
				   .length = 512,
				   .unmap = true,
				   .done = try_done } };

	disk_submit(disk, &try.request);
	disk_kick(disk);
	command = hear_command(NBD_WRITE_ZEROES, 0, 512);
	ck_assert_uint_eq(command.flags, 0);
	reply(command.cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
}
END_TEST

START_TEST(replies_come_in_any_order_and_in_any_pieces)
{
	static uint8_t bytes[8][700], message[8 * (16 + 700)];
	uint64_t cookies[8];
	struct try tries[8];
	size_t length = 0;

	for (unsigned i = 0; i < 8; i++) {
		start_pieces(&tries[i], DISK_READ, i * 1024, bytes[i], sizeof(bytes[i]), 99);
		cookies[i] = hear_command(NBD_READ, i * 1024, sizeof(bytes[i])).cookie;
	}
	for (unsigned i = 8; i-- > 0;) {
		uint32_t magic = htobe32(0x67446698);
		uint64_t cookie = htobe64(cookies[i]);

		memcpy(message + length, &magic, 4);
		memcpy(message + length + 8, &cookie, 8);
		fill(message + length + 16, i * 1024, sizeof(bytes[i]));
		length += 16 + sizeof(bytes[i]);
	}
	for (size_t at = 0, piece = 1; at < length; at += piece) {
		piece = piece * 5 % 257;
		if (piece > length - at)
			piece = length - at;
		tell(message + at, piece);
		io_ring_reap(&sim.ring, false);
	}
	for (unsigned i = 0; i < 8; i++) {
		ck_assert_int_eq(result_of(&tries[i]), 0);
		assert_filled(bytes[i], i * 1024, sizeof(bytes[i]));
	}
}
END_TEST

START_TEST(errors_of_the_server_are_the_requests_and_the_disk_goes_on)
{
	const struct {
		uint32_t theirs;
		int ours;
	} errors[] = { { 1, -EPERM }, { 5, -EIO }, { 12, -ENOMEM }, { 22, -EINVAL }, { 28, -ENOSPC },
		{ 75, -EOVERFLOW }, { 95, -EIO }, { 4711, -EIO }, { UINT32_MAX, -EIO } };
	uint8_t bytes[512] = { 0 };
	struct try try;

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		start(&try, DISK_READ, 0, bytes, sizeof(bytes));
		reply(hear_command(NBD_READ, 0, sizeof(bytes)).cookie, errors[i].theirs);
		ck_assert_int_eq(result_of(&try), errors[i].ours);
		start(&try, DISK_FLUSH, 0, NULL, 0);
		reply(hear_command(NBD_FLUSH, 0, 0).cookie, errors[i].theirs);
		ck_assert_int_eq(result_of(&try), errors[i].ours);
	}
	start(&try, DISK_DISCARD, 0, NULL, 512);
	reply(hear_command(NBD_TRIM, 0, 512).cookie, 95);
	ck_assert_int_eq(result_of(&try), -EOPNOTSUPP);
	write_well(0);
	flush_well();
}
END_TEST

/* More buffers than go into one message, more bytes than the socket takes. */
START_TEST(server_that_is_slow_to_read_gets_all)
{
	uint8_t bytes[3][SIZE / 2], got[SIZE / 2];
	struct try tries[3];
	struct command command;

	for (unsigned i = 0; i < 3; i++) {
		fill(bytes[i], i * 512, sizeof(bytes[i]));
		start_pieces(&tries[i], DISK_WRITE, i * 512, bytes[i], sizeof(bytes[i]), 2048);
	}
	sim_run_moment(&sim);
	for (unsigned i = 0; i < 3; i++) {
		command = hear_command(NBD_WRITE, i * 512, sizeof(got));
		hear(got, sizeof(got));
		assert_filled(got, i * 512, sizeof(got));
		reply(command.cookie, 0);
	}
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(result_of(&tries[i]), 0);
}
END_TEST

START_TEST(server_has_so_many_commands_at_a_time)
{
	struct try tries[200];
	static uint8_t bytes[512];
	static uint64_t cookies[200];

	for (unsigned i = 0; i < 200; i++)
		start(&tries[i], DISK_WRITE, i * 512, bytes, sizeof(bytes));
	for (unsigned i = 0; i < 128; i++) {
		uint8_t got[512];

		cookies[i] = hear_command(NBD_WRITE, i * 512, sizeof(bytes)).cookie;
		hear(got, sizeof(got));
	}
	hear_silence();
	for (unsigned i = 0; i < 200; i++) {
		uint8_t got[512];

		reply(cookies[i], 0);
		ck_assert_int_eq(result_of(&tries[i]), 0);
		if (i + 128 >= 200)
			continue;
		cookies[i + 128] = hear_command(NBD_WRITE, (i + 128) * 512, sizeof(bytes)).cookie;
		hear(got, sizeof(got));
	}
}
END_TEST

/* --- What the export is. */

START_TEST(export_is_the_disk)
{
	say_hello();
	say_export(SIZE + 1000, FLAGS_ALL);
	say_block_sizes(1024, 16384, 65536);
	say_reply(3, 7); /* of a kind that nobody asked for */
	say("\0\1\2\3\4\5\6", 7);
	say_reply(1, 0);
	script.pieces = 1;
	ck_assert_int_eq(open_disk(), 0);
	ck_assert_uint_eq(disk->size, SIZE);
	ck_assert_uint_eq(disk->block_size, 1024);
	ck_assert_uint_eq(disk->physical_block_size, 16384);
	ck_assert(!disk->read_only && disk->discard && disk->write_zeroes);
}
END_TEST

START_TEST(server_without_block_sizes_has_usual_ones)
{
	offer(SIZE, NBD_HAS_FLAGS);
	ck_assert_int_eq(open_disk(), 0);
	ck_assert_uint_eq(disk->size, SIZE);
	ck_assert_uint_eq(disk->block_size, 512);
	ck_assert_uint_eq(disk->physical_block_size, 4096);
	ck_assert(!disk->discard && !disk->write_zeroes);
}
END_TEST

START_TEST(smallest_and_largest_block_sizes)
{
	say_hello();
	say_block_sizes(1, 1 << 20, UINT32_MAX);
	say_export(SIZE, FLAGS_ALL);
	say_reply(1, 0);
	ck_assert_int_eq(open_disk(), 0);
	ck_assert_uint_eq(disk->block_size, 512);
	ck_assert_uint_eq(disk->physical_block_size, 65536);
}
END_TEST

START_TEST(what_the_server_can_not_is_not_asked_of_it)
{
	struct try try;

	offer(SIZE, NBD_HAS_FLAGS);
	ck_assert_int_eq(open_disk(), 0);
	hear_greeting();
	start(&try, DISK_FLUSH, 0, NULL, 0);
	ck_assert_int_eq(result_of(&try), 0);
	start(&try, DISK_DISCARD, 0, NULL, 512);
	ck_assert_int_eq(result_of(&try), -EOPNOTSUPP);
	start(&try, DISK_WRITE_ZEROES, 0, NULL, 512);
	ck_assert_int_eq(result_of(&try), -EOPNOTSUPP);
	hear_silence();
	/* Nothing to be lost: each write was safe when it was acknowledged. */
	write_well(0);
	hang_up();
	come_back();
	start(&try, DISK_FLUSH, 0, NULL, 0);
	ck_assert_int_eq(result_of(&try), 0);
}
END_TEST

START_TEST(large_requests_are_several_commands)
{
	static uint8_t bytes[10 * 1024], got[4096];
	struct try try;

	say_hello();
	say_export(SIZE, FLAGS_ALL);
	say_block_sizes(512, 4096, 4096 + 100);
	say_reply(1, 0);
	ck_assert_int_eq(open_disk(), 0);
	hear_greeting();
	fill(bytes, 0, sizeof(bytes));
	start_pieces(&try, DISK_WRITE, 512, bytes, sizeof(bytes), 1000);
	for (size_t at = 0; at < sizeof(bytes); at += 4096) {
		size_t length = sizeof(bytes) - at < 4096 ? sizeof(bytes) - at : 4096;
		struct command command = hear_command(NBD_WRITE, 512 + at, length);

		hear(got, length);
		assert_filled(got, at, length);
		hear_silence();
		ck_assert(!try.done);
		reply(command.cookie, 0);
	}
	ck_assert_int_eq(result_of(&try), 0);
	memset(bytes, 0, sizeof(bytes));
	start_pieces(&try, DISK_READ, 0, bytes, sizeof(bytes), 1000);
	reply(hear_command(NBD_READ, 0, 4096).cookie, 0);
	fill(got, 0, sizeof(got));
	tell(got, sizeof(got));
	reply(hear_command(NBD_READ, 4096, 4096).cookie, 28);
	ck_assert_int_eq(result_of(&try), -ENOSPC);
	assert_filled(bytes, 0, 4096);
	start(&try, DISK_DISCARD, 0, NULL, 8192);
	reply(hear_command(NBD_TRIM, 0, 4096).cookie, 0);
	reply(hear_command(NBD_TRIM, 4096, 4096).cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
}
END_TEST

START_TEST(export_that_is_read_only_wants_to_be_told_so)
{
	struct disk_options options = { .path = name, .read_only = true };
	const char *text;

	offer(SIZE, FLAGS_ALL | NBD_READ_ONLY);
	messages_begin();
	ck_assert_int_eq(open_disk(), -EROFS);
	text = messages_end();
	ck_assert_msg(strstr(text, "add `,ro`"), "the message is: %s", text);
	hang_up();
	ck_assert_int_eq(open_it(&options), 0);
	ck_assert(disk->read_only);
}
END_TEST

/* --- Addresses. */

START_TEST(addresses_of_servers)
{
	struct nbd_address address;
	const struct sockaddr_un *place = (struct sockaddr_un *)&address.addresses[0];
	const struct {
		const char *text, *path, *export;
	} local[] = {
		{ "nbd:unix:/run/a", "/run/a", "" },
		{ "nbd:unix:b:exportname=x y%20", "b", "x y%20" },
		{ "nbd:unix:/a:b", "/a:b", "" },
		{ "nbd+unix:///?socket=/run/a", "/run/a", "" },
		{ "nbd+unix:///x%20y/z?socket=/run/%41", "/run/A", "x y/z" },
	};
	const struct {
		const char *text, *export;
		sa_family_t family;
		uint16_t port;
	} remote[] = {
		{ "nbd://127.0.0.1", "", AF_INET, 10809 },
		{ "nbd://127.0.0.1/", "", AF_INET, 10809 },
		{ "nbd://127.0.0.1:1234/a/b%2f", "a/b/", AF_INET, 1234 },
		{ "nbd://[::1]", "", AF_INET6, 10809 },
		{ "nbd://[::1]:77/disk", "disk", AF_INET6, 77 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(local); i++) {
		ck_assert_int_eq(nbd_parse_address(local[i].text, &address), 0);
		ck_assert_uint_eq(address.count, 1);
		ck_assert_int_eq(place->sun_family, AF_UNIX);
		ck_assert_str_eq(place->sun_path, local[i].path);
		ck_assert_str_eq(address.export_name, local[i].export);
	}
	for (size_t i = 0; i < ARRAY_SIZE(remote); i++) {
		ck_assert_int_eq(nbd_parse_address(remote[i].text, &address), 0);
		ck_assert_uint_ge(address.count, 1);
		ck_assert_int_eq(address.addresses[0].ss_family, remote[i].family);
		ck_assert_str_eq(address.export_name, remote[i].export);
		/* Both families have it in the same place. */
		ck_assert_uint_eq(be16toh(((struct sockaddr_in *)&address.addresses[0])->sin_port),
			remote[i].port);
	}
}
END_TEST

START_TEST(what_is_no_address_is_refused)
{
	static const char *const texts[] = { "nbd:", "nbd:unix:", "nbd:unix::exportname=x", "nbd:a:1",
		"nbd://", "nbd:///x", "nbd://:1", "nbd://a:", "nbd://u@127.0.0.1", "nbd://127.0.0.1/a?b",
		"nbd://[::1", "nbd://[::1]x", "nbd://127.0.0.1/%", "nbd://127.0.0.1/%4",
		"nbd://127.0.0.1/%zz", "nbd://127.0.0.1/%00", "nbd+unix:///x", "nbd+unix:///?socket=",
		"nbd+unix://h/?socket=/a", "nbds://127.0.0.1", "nbd://127.0.0.1:nonsense" };
	char text[NBD_NAME_MAX + 200];
	struct nbd_address address;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		ck_assert(nbd_is_address(texts[i]));
		ck_assert_msg(nbd_parse_address(texts[i], &address) < 0, "%s was taken", texts[i]);
	}
	memset(text, 'x', sizeof(text));
	memcpy(text, "nbd:unix:/", 10);
	text[9 + sizeof(((struct sockaddr_un *)0)->sun_path)] = '\0';
	ck_assert_int_eq(nbd_parse_address(text, &address), -ENAMETOOLONG);
	memset(text, 'x', sizeof(text));
	memcpy(text, "nbd:unix:a:exportname=", 22);
	text[22 + NBD_NAME_MAX + 1] = '\0';
	ck_assert_int_eq(nbd_parse_address(text, &address), -EINVAL);
	text[22 + NBD_NAME_MAX] = '\0';
	ck_assert_int_eq(nbd_parse_address(text, &address), 0);
	/* These are files. */
	ck_assert(!nbd_is_address("./nbd:x") && !nbd_is_address("nbd") && !nbd_is_address("/nbd:"));
}
END_TEST

Suite *nbd_suite(void)
{
	const TTest *const up[] = {
		each_operation_is_its_command,
		write_zeroes_may_leave_a_hole_if_the_guest_says_so,
		replies_come_in_any_order_and_in_any_pieces,
		errors_of_the_server_are_the_requests_and_the_disk_goes_on,
		server_that_is_slow_to_read_gets_all,
		server_has_so_many_commands_at_a_time,
	};
	const TTest *const opening[] = {
		export_is_the_disk,
		server_without_block_sizes_has_usual_ones,
		smallest_and_largest_block_sizes,
		what_the_server_can_not_is_not_asked_of_it,
		large_requests_are_several_commands,
		export_that_is_read_only_wants_to_be_told_so,
	};
	const TTest *const addresses[] = { addresses_of_servers, what_is_no_address_is_refused };
	Suite *suite = suite_create("nbd");

	add_case(suite, "connected", setup, teardown, 60, up, ARRAY_SIZE(up));
	add_case(suite, "opening", setup_place, teardown, 60, opening, ARRAY_SIZE(opening));
	add_case(suite, "addresses", NULL, NULL, 4, addresses, ARRAY_SIZE(addresses));
	nbd_greeting_tests(suite);
	nbd_loss_tests(suite);
	nbd_guest_tests(suite);
	return suite;
}
