// SPDX-License-Identifier: GPL-2.0-only
/* Disks on an NBD server: the test plays the server, well and badly. */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "guest.h"
#include "karma/iov.h"
#include "karma/nbd_connector.h"

#define SECOND 1000000000ll
#define START (1000 * SECOND)
#define TIMEOUT 20u /* seconds, of the disks here */
#define SIZE (1 * MIB)
#define FLAGS_ALL \
	(NBD_HAS_FLAGS | NBD_SEND_FLUSH | NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES)
#define EXPORT "disk one"

static struct sim sim;
static struct disk *disk;
static char directory[32], path[64], name[128];
static int listener, server;

/* What a server says first. */
struct script {
	uint8_t bytes[16384];
	size_t length;
	size_t pieces; /* so many bytes at a time; 0: all */
	bool hangs_up;
};

static struct script script;

/* --- The server's side. */

static void say(const void *bytes, size_t length)
{
	ck_assert_uint_le(script.length + length, sizeof(script.bytes));
	memcpy(script.bytes + script.length, bytes, length);
	script.length += length;
}

static void say16(uint16_t value)
{
	value = htobe16(value);
	say(&value, sizeof(value));
}

static void say32(uint32_t value)
{
	value = htobe32(value);
	say(&value, sizeof(value));
}

static void say64(uint64_t value)
{
	value = htobe64(value);
	say(&value, sizeof(value));
}

static void say_hello(void)
{
	script = (struct script){ 0 };
	say("NBDMAGICIHAVEOPT", 16);
	say16(3);
}

static void say_reply(uint32_t type, uint32_t length)
{
	say64(0x3e889045565a9);
	say32(7);
	say32(type);
	say32(length);
}

static void say_export(uint64_t size, uint16_t flags)
{
	say_reply(3, 12);
	say16(0);
	say64(size);
	say16(flags);
}

static void say_block_sizes(uint32_t least, uint32_t preferred, uint32_t most)
{
	say_reply(3, 14);
	say16(3);
	say32(least);
	say32(preferred);
	say32(most);
}

/* A whole greeting. */
static void offer(uint64_t size, uint16_t flags)
{
	say_hello();
	say_export(size, flags);
	say_reply(1, 0);
}

static void say_script(void)
{
	size_t piece = script.pieces ? script.pieces : script.length;

	for (size_t at = 0; at < script.length; at += piece) {
		size_t length = script.length - at < piece ? script.length - at : piece;

		/* A client that has heard enough hangs up. */
		if (send(server, script.bytes + at, length, MSG_NOSIGNAL) < 0)
			return;
	}
	if (script.hangs_up)
		shutdown(server, SHUT_WR);
}

static void listen_here(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strcpy(address.sun_path, path);
	unlink(path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(listener, 4), 0);
}

/* In a thread, since the client waits for its first greeting. */
static void *accept_and_speak(void *unused)
{
	struct pollfd ready = { .fd = listener, .events = POLLIN };

	(void)unused;
	if (poll(&ready, 1, SIM_PATIENCE_MS) == 1) {
		server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		say_script();
	}
	return NULL;
}

/* The supervisor, which connects again. */
static struct {
	pthread_t thread;
	_Atomic bool runs;
} supervisor;

static void *supervise(void *unused)
{
	struct pollfd polls[NBD_CONNECTORS_MAX];

	(void)unused;
	while (supervisor.runs) {
		nbd_connectors_watch(polls);
		poll(polls, NBD_CONNECTORS_MAX, 10);
		nbd_connectors_serve(polls);
	}
	return NULL;
}

static void start_supervisor(void)
{
	ck_assert_int_eq(nbd_connectors_open(), 0);
	supervisor.runs = true;
	ck_assert_int_eq(pthread_create(&supervisor.thread, NULL, supervise, NULL), 0);
}

static void stop_supervisor(void)
{
	if (!supervisor.runs)
		return;
	supervisor.runs = false;
	pthread_join(supervisor.thread, NULL);
	nbd_connectors_close();
}

static int open_it(const struct disk_options *options)
{
	pthread_t thread;
	int result;

	server = -1;
	ck_assert_int_eq(pthread_create(&thread, NULL, accept_and_speak, NULL), 0);
	disk = NULL;
	result = disk_open(&disk, options, &sim.ring);
	pthread_join(thread, NULL);
	if (result < 0)
		return result;
	start_supervisor();
	return disk_start(disk, false);
}

static int open_disk(void)
{
	struct disk_options options = { .path = name, .timeout = TIMEOUT };

	return open_it(&options);
}

/* The server's next bytes from the client, which may need its I/O thread for them. */
static void hear(void *to, size_t length)
{
	int64_t end = now_ms() + SIM_PATIENCE_MS;
	size_t got = 0;

	while (got < length) {
		ssize_t count = recv(server, (uint8_t *)to + got, length - got, MSG_DONTWAIT);

		ck_assert_msg(count != 0, "the client has hung up");
		ck_assert_msg(now_ms() < end, "the client does not speak");
		if (count > 0)
			got += count;
		else
			io_ring_reap(&sim.ring, false);
	}
}

static void hear_silence(void)
{
	uint8_t byte;

	sim_run_moment(&sim);
	ck_assert_int_eq(recv(server, &byte, 1, MSG_DONTWAIT), -1);
	ck_assert_int_eq(errno, EAGAIN);
}

static bool has_hung_up(void *unused)
{
	uint8_t bytes[4096];
	ssize_t count;

	(void)unused;
	while ((count = recv(server, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		;
	return count == 0 || errno != EAGAIN;
}

static void hear_it_hang_up(void)
{
	ck_assert_msg(sim_run_until(&sim, has_hung_up, NULL), "the client does not hang up");
	close(server);
	server = -1;
}

static uint32_t number32(const uint8_t *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, 4);
	return be32toh(value);
}

static uint64_t number64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, 8);
	return be64toh(value);
}

static void hear_greeting(void)
{
	uint8_t bytes[4 + 16 + 4 + sizeof(EXPORT) - 1 + 4];

	hear(bytes, sizeof(bytes));
	ck_assert_uint_eq(number32(bytes), 3);
	ck_assert_mem_eq(bytes + 4, "IHAVEOPT", 8);
	ck_assert_uint_eq(number32(bytes + 12), 7);
	ck_assert_uint_eq(number32(bytes + 16), sizeof(bytes) - 20);
	ck_assert_uint_eq(number32(bytes + 20), strlen(EXPORT));
	ck_assert_mem_eq(bytes + 24, EXPORT, strlen(EXPORT));
	ck_assert_mem_eq(bytes + 24 + strlen(EXPORT), "\0\1\0\3", 4);
}

struct command {
	unsigned flags, type;
	uint64_t cookie, offset;
	uint32_t length;
};

static struct command hear_command(unsigned type, uint64_t offset, uint32_t length)
{
	uint8_t bytes[28];
	struct command command;

	hear(bytes, sizeof(bytes));
	command = (struct command){
		.flags = number32(bytes + 4) >> 16,
		.type = number32(bytes + 4) & 0xffff,
		.cookie = number64(bytes + 8),
		.offset = number64(bytes + 16),
		.length = number32(bytes + 24),
	};
	ck_assert_uint_eq(number32(bytes), 0x25609513);
	ck_assert_uint_eq(command.type, type);
	ck_assert_uint_eq(command.offset, offset);
	ck_assert_uint_eq(command.length, length);
	return command;
}

static void tell(const void *bytes, size_t length)
{
	ck_assert_int_eq(send(server, bytes, length, MSG_NOSIGNAL), (ssize_t)length);
}

static void reply(uint64_t cookie, uint32_t error)
{
	uint8_t bytes[16];
	uint32_t magic = htobe32(0x67446698);

	error = htobe32(error);
	cookie = htobe64(cookie);
	memcpy(bytes, &magic, 4);
	memcpy(bytes + 4, &error, 4);
	memcpy(bytes + 8, &cookie, 8);
	tell(bytes, sizeof(bytes));
}

/* --- The client's side: requests as a device makes them. */

static uint8_t pattern(uint64_t at)
{
	return at * 7 + at / 251 + 3;
}

static void fill(uint8_t *bytes, uint64_t at, size_t length)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = pattern(at + i);
}

static void assert_filled(const uint8_t *bytes, uint64_t at, size_t length)
{
	size_t i = 0;

	while (i < length && bytes[i] == pattern(at + i))
		i++;
	ck_assert_msg(i == length, "byte %zu of %zu is wrong", i, length);
}

struct try {
	struct disk_request request;
	struct iovec iov[300];
	bool done;
	int error;
};

static void try_done(struct disk_request *request, int error)
{
	struct try *try = container_of(request, struct try, request);

	ck_assert(!try->done);
	try->done = true;
	try->error = error;
}

static void start_pieces(struct try *try, enum disk_operation operation, uint64_t offset,
	uint8_t *bytes, size_t length, size_t piece)
{
	unsigned count = 0;

	for (size_t at = 0; bytes && at < length; at += piece)
		try->iov[count++] =
			(struct iovec){ bytes + at, length - at < piece ? length - at : piece };
	try->request = (struct disk_request){
		.operation = operation,
		.iov = try->iov,
		.iov_count = count,
		.offset = offset,
		.length = length,
		.done = try_done,
	};
	try->done = false;
	disk_submit(disk, &try->request);
	disk_kick(disk);
	ck_assert(!try->done);
}

static void start(struct try *try, enum disk_operation operation, uint64_t offset, uint8_t *bytes,
	size_t length)
{
	start_pieces(try, operation, offset, bytes, length, length ? length : 1);
}

static bool is_done(void *context)
{
	return ((struct try *)context)->done;
}

static int result_of(struct try *try)
{
	ck_assert_msg(sim_run_until(&sim, is_done, try), "the request does not end");
	return try->error;
}

/* Whole requests, answered well. */
static void write_well(uint64_t offset)
{
	static uint8_t bytes[512], got[512];
	struct command command;
	struct try try;

	fill(bytes, offset, sizeof(bytes));
	start(&try, DISK_WRITE, offset, bytes, sizeof(bytes));
	command = hear_command(NBD_WRITE, offset, sizeof(bytes));
	hear(got, sizeof(got));
	assert_filled(got, offset, sizeof(got));
	reply(command.cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
}

static void flush_well(void)
{
	struct try try;

	start(&try, DISK_FLUSH, 0, NULL, 0);
	reply(hear_command(NBD_FLUSH, 0, 0).cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
}

/* --- Its life. */

static void setup_place(void)
{
	sim_init(&sim, SIM_MEMORY);
	strcpy(directory, "/tmp/karma-nbd-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/socket", directory);
	snprintf(name, sizeof(name), "nbd:unix:%s:exportname=" EXPORT, path);
	server = -1;
	disk = NULL;
	listen_here();
}

static void setup(void)
{
	setup_place();
	offer(SIZE, FLAGS_ALL);
	ck_assert_int_eq(open_disk(), 0);
	hear_greeting();
}

static void teardown(void)
{
	sim_run_clock();
	stop_supervisor();
	sim_release(&sim);
	if (disk)
		disk_close(disk);
	close(server);
	close(listener);
	unlink(path);
	rmdir(directory);
}

static bool can_accept(void *unused)
{
	(void)unused;
	server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	return server >= 0;
}

/* The client connects again, and hears the script. */
static void come_back(void)
{
	ck_assert_msg(sim_run_until(&sim, can_accept, NULL), "the client does not come back");
	say_script();
	hear_greeting();
}

static void hang_up(void)
{
	close(server);
	server = -1;
}

/* --- Requests. */

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

/* --- Servers that are none. */

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

/* --- As a guest has it. */

#define QUEUES 4
#define THREAD_REQUESTS 60
#define REPLIES_A_LIFE 90

static struct driver_queue queues[QUEUES];
static struct virtio_device *blk;

static void start_guest(void)
{
	blk = blk_create(&sim.environment, "vda", disk_share(disk), NULL, QUEUES);
	ck_assert_uint_eq(sim_add(&sim, blk), 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | blk->offered, queues, QUEUES, 256);
}

struct guest_request {
	struct virtio_blk_outhdr header;
	uint64_t gpa, data, status;
};

static void make_request(struct guest_request *request)
{
	const uint8_t untouched = 0xee;

	request->gpa = sim_text(&sim, &request->header, sizeof(request->header));
	request->data = sim_alloc(&sim, 512, 16);
	request->status = sim_text(&sim, &untouched, 1);
}

static void publish(struct driver_queue *queue, const struct guest_request *request, uint32_t type)
{
	struct part parts[3] = { { request->gpa, 16, false } };
	unsigned count = 1;

	memcpy(sim_at(&sim, request->gpa, 4), &type, 4);
	if (type != VIRTIO_BLK_T_FLUSH)
		parts[count++] = (struct part){ request->data, 512, type == VIRTIO_BLK_T_IN };
	parts[count++] = (struct part){ request->status, 1, true };
	driver_publish(queue, driver_chain(queue, parts, count));
	driver_kick(queue);
}

START_TEST(guest_sees_what_the_server_can)
{
	const struct virtio_blk_config *config;

	start_guest();
	config = blk->config;
	ck_assert(blk->offered & FEATURE(VIRTIO_BLK_F_DISCARD));
	ck_assert(blk->offered & FEATURE(VIRTIO_BLK_F_WRITE_ZEROES));
	ck_assert_uint_eq(config->capacity, SIZE / 512);
	ck_assert_uint_eq(config->blk_size, 512);
	ck_assert_uint_eq(config->physical_block_exp, 3);
}
END_TEST

START_TEST(guest_is_not_offered_what_the_server_can_not)
{
	offer(SIZE, NBD_HAS_FLAGS | NBD_SEND_FLUSH);
	ck_assert_int_eq(open_disk(), 0);
	start_guest();
	ck_assert(!(blk->offered & FEATURE(VIRTIO_BLK_F_DISCARD)));
	ck_assert(!(blk->offered & FEATURE(VIRTIO_BLK_F_WRITE_ZEROES)));
}
END_TEST

START_TEST(guest_sees_errors_of_the_server)
{
	struct guest_request request = { .header.sector = 2 };
	const char *text;

	start_guest();
	make_request(&request);
	messages_begin();
	publish(&queues[0], &request, VIRTIO_BLK_T_IN);
	reply(hear_command(NBD_READ, 1024, 512).cookie, 28);
	driver_wait(&queues[0]);
	text = messages_end();
	ck_assert_uint_eq(*(uint8_t *)sim_at(&sim, request.status, 1), VIRTIO_BLK_S_IOERR);
	ck_assert_msg(strstr(text, "No space left") && strchr(text, '\n')[1] == '\0', "messages: %s",
		text);
}
END_TEST

/* A server that works, on memory, but hangs up now and then without having answered. */
struct memory_server {
	pthread_t thread;
	uint8_t *bytes;
	unsigned lives;
	_Atomic bool stop;
};

static bool read_all(int fd, void *to, size_t length)
{
	return recv(fd, to, length, MSG_WAITALL) == (ssize_t)length;
}

static bool wait_for_command(struct memory_server *memory)
{
	struct pollfd ready = { .fd = server, .events = POLLIN };

	while (!memory->stop) {
		if (poll(&ready, 1, 10) == 1)
			return true;
	}
	return false;
}

static void serve_life(struct memory_server *memory)
{
	uint8_t bytes[28 + 512];

	for (unsigned i = 0; i < REPLIES_A_LIFE; i++) {
		struct command command;
		uint8_t answer[16 + 512] = "\x67\x44\x66\x98";
		size_t length = 16;

		if (!wait_for_command(memory) || !read_all(server, bytes, 28))
			return;
		command.type = number32(bytes + 4) & 0xffff;
		command.offset = number64(bytes + 16);
		if (command.type == NBD_WRITE && !read_all(server, memory->bytes + command.offset, 512))
			return;
		memcpy(answer + 8, bytes + 8, 8);
		if (command.type == NBD_READ) {
			memcpy(answer + 16, memory->bytes + command.offset, 512);
			length += 512;
		}
		if (send(server, answer, length, MSG_NOSIGNAL) < 0)
			return;
	}
}

static void *serve_memory(void *argument)
{
	struct memory_server *memory = argument;
	uint8_t bytes[4 + 16 + 4 + sizeof(EXPORT) - 1 + 4];

	while (!memory->stop) {
		struct pollfd ready = { .fd = listener, .events = POLLIN };

		serve_life(memory);
		close(server);
		server = -1;
		while (!memory->stop && server < 0) {
			if (poll(&ready, 1, 10) == 1)
				server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		}
		if (server < 0)
			return NULL;
		memory->lives++;
		say_script();
		if (!read_all(server, bytes, sizeof(bytes)))
			return NULL;
	}
	return NULL;
}

struct vcpu_like {
	pthread_t thread;
	struct io_ring ring;
	unsigned index;
	struct guest_request request;
	unsigned failed_flushes;
};

static uint8_t run_request(struct vcpu_like *vcpu, uint32_t type)
{
	struct driver_queue *mine = &queues[vcpu->index];
	int64_t end = now_ms() + SIM_PATIENCE_MS;

	publish(mine, &vcpu->request, type);
	while (!driver_used(mine) && now_ms() < end)
		io_ring_reap(&vcpu->ring, false);
	ck_assert_uint_eq(driver_used(mine), 1);
	mine->last_used++;
	return *(uint8_t *)sim_at(&sim, vcpu->request.status, 1);
}

static void *write_and_read_as_a_vcpu(void *argument)
{
	struct vcpu_like *vcpu = argument;
	uint8_t *bytes = sim_at(&sim, vcpu->request.data, 512);

	io_ring_bind(&vcpu->ring);
	for (unsigned i = 0; i < THREAD_REQUESTS; i++) {
		fill(bytes, i, 512);
		ck_assert_uint_eq(run_request(vcpu, VIRTIO_BLK_T_OUT), VIRTIO_BLK_S_OK);
		if (run_request(vcpu, VIRTIO_BLK_T_FLUSH) != VIRTIO_BLK_S_OK)
			vcpu->failed_flushes++;
		memset(bytes, 0, 512);
		ck_assert_uint_eq(run_request(vcpu, VIRTIO_BLK_T_IN), VIRTIO_BLK_S_OK);
		assert_filled(bytes, i, 512);
	}
	io_ring_unbind(&vcpu->ring);
	return NULL;
}

static void *run_io_thread(void *unused)
{
	(void)unused;
	io_ring_loop(&sim.ring);
	return NULL;
}

START_TEST(vcpus_share_a_server_that_comes_and_goes)
{
	struct memory_server memory = { .bytes = calloc(1, SIZE) };
	struct vcpu_like vcpus[QUEUES];
	unsigned failed = 0;
	pthread_t io_thread;

	ck_assert_ptr_nonnull(memory.bytes);
	start_guest();
	for (unsigned i = 0; i < QUEUES; i++) {
		vcpus[i].index = i;
		vcpus[i].failed_flushes = 0;
		vcpus[i].request = (struct guest_request){ .header.sector = 10 * i };
		make_request(&vcpus[i].request);
		ck_assert_int_eq(io_ring_init_thread(&vcpus[i].ring, &sim.ring, QUEUES * 256, NULL), 0);
	}
	ck_assert_int_eq(pthread_create(&memory.thread, NULL, serve_memory, &memory), 0);
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_io_thread, NULL), 0);
	for (unsigned i = 0; i < QUEUES; i++)
		ck_assert_int_eq(pthread_create(&vcpus[i].thread, NULL, write_and_read_as_a_vcpu,
					 &vcpus[i]),
			0);
	for (unsigned i = 0; i < QUEUES; i++)
		pthread_join(vcpus[i].thread, NULL);
	virtio_wait_idle(blk);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
	memory.stop = true;
	pthread_join(memory.thread, NULL);
	for (unsigned i = 0; i < QUEUES; i++) {
		failed += vcpus[i].failed_flushes;
		io_ring_release_thread(&vcpus[i].ring);
	}
	ck_assert_uint_ge(memory.lives, QUEUES * THREAD_REQUESTS * 3 / REPLIES_A_LIFE - 1);
	/* A loss is told to those who wait then, and to one at least. */
	ck_assert_uint_le(failed, memory.lives * QUEUES);
	free(memory.bytes);
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
		guest_sees_what_the_server_can,
		guest_sees_errors_of_the_server,
		vcpus_share_a_server_that_comes_and_goes,
	};
	const TTest *const opening[] = {
		export_is_the_disk,
		server_without_block_sizes_has_usual_ones,
		smallest_and_largest_block_sizes,
		what_the_server_can_not_is_not_asked_of_it,
		large_requests_are_several_commands,
		export_that_is_read_only_wants_to_be_told_so,
		greetings_that_are_none_are_refused,
		replies_to_the_option_that_are_wrong_are_refused,
		exports_that_are_no_disk_are_refused,
		refusals_of_the_server_are_told_without_its_control_characters,
		server_that_hangs_is_not_waited_for_for_long,
		no_server_is_told,
		guest_is_not_offered_what_the_server_can_not,
	};
	const TTest *const asked[] = {
		connection_is_passed_on_when_the_greeting_is_over,
		other_export_than_the_disks_is_not_passed_on,
		supervisor_waits_for_no_server_and_no_process,
	};
	const TTest *const addresses[] = { addresses_of_servers, what_is_no_address_is_refused };
	Suite *suite = suite_create("nbd");
	TCase *connected = tcase_create("connected");
	TCase *first = tcase_create("opening");
	TCase *supervised = tcase_create("supervisor");
	TCase *alone = tcase_create("addresses");

	tcase_add_checked_fixture(connected, setup, teardown);
	tcase_set_timeout(connected, 60);
	for (size_t i = 0; i < ARRAY_SIZE(up); i++)
		tcase_add_test(connected, up[i]);
	tcase_add_checked_fixture(first, setup_place, teardown);
	tcase_set_timeout(first, 60);
	for (size_t i = 0; i < ARRAY_SIZE(opening); i++)
		tcase_add_test(first, opening[i]);
	tcase_add_checked_fixture(supervised, setup_wanted, teardown_wanted);
	tcase_set_timeout(supervised, 60);
	for (size_t i = 0; i < ARRAY_SIZE(asked); i++)
		tcase_add_test(supervised, asked[i]);
	for (size_t i = 0; i < ARRAY_SIZE(addresses); i++)
		tcase_add_test(alone, addresses[i]);
	suite_add_tcase(suite, connected);
	suite_add_tcase(suite, first);
	suite_add_tcase(suite, supervised);
	suite_add_tcase(suite, alone);
	return suite;
}
