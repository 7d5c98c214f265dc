/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A disk on an NBD server whose part the test plays. Each file of tests that includes this has a
 * server of its own.
 */
#ifndef KARMA_TESTS_NBD_FIXTURE_H
#define KARMA_TESTS_NBD_FIXTURE_H

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "guest.h"
#include "karma/iov.h"
#include "karma/nbd_connector.h"

/* The parts of the suite. */
void nbd_greeting_tests(Suite *suite);
void nbd_loss_tests(Suite *suite);
void nbd_guest_tests(Suite *suite);

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

static inline void say(const void *bytes, size_t length)
{
	ck_assert_uint_le(script.length + length, sizeof(script.bytes));
	memcpy(script.bytes + script.length, bytes, length);
	script.length += length;
}

static inline void say16(uint16_t value)
{
	value = htobe16(value);
	say(&value, sizeof(value));
}

static inline void say32(uint32_t value)
{
	value = htobe32(value);
	say(&value, sizeof(value));
}

static inline void say64(uint64_t value)
{
	value = htobe64(value);
	say(&value, sizeof(value));
}

static inline void say_hello(void)
{
	script = (struct script){ 0 };
	say("NBDMAGICIHAVEOPT", 16);
	say16(3);
}

static inline void say_reply(uint32_t type, uint32_t length)
{
	say64(0x3e889045565a9);
	say32(7);
	say32(type);
	say32(length);
}

static inline void say_export(uint64_t size, uint16_t flags)
{
	say_reply(3, 12);
	say16(0);
	say64(size);
	say16(flags);
}

static inline void say_block_sizes(uint32_t least, uint32_t preferred, uint32_t most)
{
	say_reply(3, 14);
	say16(3);
	say32(least);
	say32(preferred);
	say32(most);
}

/* A whole greeting. */
static inline void offer(uint64_t size, uint16_t flags)
{
	say_hello();
	say_export(size, flags);
	say_reply(1, 0);
}

static inline void say_script(void)
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

static inline void listen_here(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strcpy(address.sun_path, path);
	unlink(path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(listener, 4), 0);
}

/* In a thread, since the client waits for its first greeting. */
static inline void *accept_and_speak(void *unused)
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

static inline void *supervise(void *unused)
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

static inline void start_supervisor(void)
{
	ck_assert_int_eq(nbd_connectors_open(), 0);
	supervisor.runs = true;
	ck_assert_int_eq(pthread_create(&supervisor.thread, NULL, supervise, NULL), 0);
}

static inline void stop_supervisor(void)
{
	if (!supervisor.runs)
		return;
	supervisor.runs = false;
	pthread_join(supervisor.thread, NULL);
	nbd_connectors_close();
}

static inline int open_it(const struct disk_options *options)
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

static inline int open_disk(void)
{
	struct disk_options options = { .path = name, .timeout = TIMEOUT };

	return open_it(&options);
}

/* The server's next bytes from the client, which may need its I/O thread for them. */
static inline void hear(void *to, size_t length)
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

static inline void hear_silence(void)
{
	uint8_t byte;

	sim_run_moment(&sim);
	ck_assert_int_eq(recv(server, &byte, 1, MSG_DONTWAIT), -1);
	ck_assert_int_eq(errno, EAGAIN);
}

static inline bool has_hung_up(void *unused)
{
	uint8_t bytes[4096];
	ssize_t count;

	(void)unused;
	while ((count = recv(server, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		;
	return count == 0 || errno != EAGAIN;
}

static inline uint32_t number32(const uint8_t *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, 4);
	return be32toh(value);
}

static inline uint64_t number64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, 8);
	return be64toh(value);
}

static inline void hear_greeting(void)
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

static inline struct command hear_command(unsigned type, uint64_t offset, uint32_t length)
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

static inline void tell(const void *bytes, size_t length)
{
	ck_assert_int_eq(send(server, bytes, length, MSG_NOSIGNAL), (ssize_t)length);
}

static inline void reply(uint64_t cookie, uint32_t error)
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

static inline uint8_t pattern(uint64_t at)
{
	return at * 7 + at / 251 + 3;
}

static inline void fill(uint8_t *bytes, uint64_t at, size_t length)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = pattern(at + i);
}

static inline void assert_filled(const uint8_t *bytes, uint64_t at, size_t length)
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

static inline void try_done(struct disk_request *request, int error)
{
	struct try *try = container_of(request, struct try, request);

	ck_assert(!try->done);
	try->done = true;
	try->error = error;
}

static inline void start_pieces(struct try *try, enum disk_operation operation, uint64_t offset,
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

static inline void start(struct try *try, enum disk_operation operation, uint64_t offset, uint8_t *bytes,
	size_t length)
{
	start_pieces(try, operation, offset, bytes, length, length ? length : 1);
}

static inline bool is_done(void *context)
{
	return ((struct try *)context)->done;
}

static inline int result_of(struct try *try)
{
	ck_assert_msg(sim_run_until(&sim, is_done, try), "the request does not end");
	return try->error;
}

/* Whole requests, answered well. */
static inline void write_well(uint64_t offset)
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

static inline void flush_well(void)
{
	struct try try;

	start(&try, DISK_FLUSH, 0, NULL, 0);
	reply(hear_command(NBD_FLUSH, 0, 0).cookie, 0);
	ck_assert_int_eq(result_of(&try), 0);
}

/* --- Its life. */

static inline void setup_place(void)
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

static inline void setup(void)
{
	setup_place();
	offer(SIZE, FLAGS_ALL);
	ck_assert_int_eq(open_disk(), 0);
	hear_greeting();
}

static inline void teardown(void)
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

static inline bool can_accept(void *unused)
{
	(void)unused;
	server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	return server >= 0;
}

/* The client connects again, and hears the script. */
static inline void come_back(void)
{
	ck_assert_msg(sim_run_until(&sim, can_accept, NULL), "the client does not come back");
	say_script();
	hear_greeting();
}

static inline void hang_up(void)
{
	close(server);
	server = -1;
}

#endif
