// SPDX-License-Identifier: GPL-2.0-only
/* The other end that is passt: how it is started and ends, and the stream of frames to and from it. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "guest.h"

#define HEADER NET_HEADER_BYTES

static struct io_ring ring;
static struct net *net;
static char directory[] = "/tmp/karma-passt.XXXXXX";
static char *saved_path;
static unsigned readables, writables, links;

/* A shell script in the place of passt; what it is given as arguments is in a file. */
static void make_passt(const char *script)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "%s/passt", directory);
	file = fopen(path, "w");
	ck_assert_ptr_nonnull(file);
	fprintf(file, "#!/bin/sh\necho \"$*\" >%s/arguments\n%s\n", directory, script);
	ck_assert_int_eq(fclose(file), 0);
	ck_assert_int_eq(chmod(path, 0755), 0);
}

static void setup(void)
{
	char path[4096];

	strcpy(directory + sizeof(directory) - 7, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	saved_path = strdup(getenv("PATH"));
	snprintf(path, sizeof(path), "%s:%s", directory, saved_path);
	setenv("PATH", path, 1);
	ck_assert_int_eq(io_ring_init(&ring, 64), 0);
	net = NULL;
	readables = writables = links = 0;
}

static void teardown(void)
{
	char command[64];

	io_ring_release(&ring);
	if (net)
		net_close(net);
	setenv("PATH", saved_path, 1);
	free(saved_path);
	snprintf(command, sizeof(command), "rm -r %s", directory);
	ck_assert_int_eq(system(command), 0);
}

static int open_user(const struct net_options *options)
{
	return net_open(&net, options, &ring);
}

static const struct net_options plain = { .kind = NET_USER, .queues = 1 };

static void readable(void *context, unsigned queue)
{
	(void)context;
	(void)queue;
	readables++;
}

static void writable(void *context, unsigned queue)
{
	(void)context;
	(void)queue;
	writables++;
}

static void link_changed(void *context, bool up)
{
	(void)context;
	(void)up;
	links++;
}

static const struct net_events events = { readable, writable, link_changed };

static uint8_t buffer[HEADER + NET_FRAME_MAX];

/* The next frame, waited for. */
static ssize_t receive(void)
{
	struct iovec iov = { buffer, sizeof(buffer) };
	int64_t end = now_ms() + SIM_PATIENCE_MS;
	ssize_t got;

	while ((got = net->ops->receive(net, 0, &iov, 1)) == -EAGAIN && now_ms() < end)
		poll(NULL, 0, 1);
	return got;
}

static void run_until(unsigned *counter, unsigned number)
{
	int64_t end = now_ms() + SIM_PATIENCE_MS;

	while (*counter < number && now_ms() < end) {
		if (io_ring_reap(&ring, false) == 0)
			poll(NULL, 0, 1);
	}
	ck_assert_uint_ge(*counter, number);
}

static int send_frame(unsigned seed, size_t length)
{
	static uint8_t frame[NET_FRAME_MAX];
	struct iovec iov[3] = { { buffer, HEADER }, { frame, 10 }, { frame + 10, length - 10 } };

	for (size_t i = 0; i < length; i++)
		frame[i] = i * 3 + i / 255 + seed;
	return net->ops->send(net, 0, iov, 3);
}

static void assert_frame(unsigned seed, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (buffer[HEADER + i] != (uint8_t)(i * 3 + i / 255 + seed))
			ck_abort_msg("byte %zu of frame %u", i, seed);
	}
}

/* As passt does: it has no descriptor but its socket, and takes what is sent to it when it is ready. */
#define READY "exec 4>&-; dd bs=4096 count=1 <&3 >$(dirname $0)/probe 2>/dev/null; "

START_TEST(passt_is_started_with_the_ports_to_publish)
{
	struct net_options options = { .kind = NET_USER, .queues = 1, .publish_count = 3,
		.publish = { { NULL, 8080, 80, false }, { "127.0.0.1", 5353, 53, true },
			{ "::1", 22, 2222, false } } };
	char path[64], arguments[512] = "";
	FILE *file;

	make_passt(READY "exec cat <&3 >/dev/null");
	ck_assert_int_eq(open_user(&options), 0);
	ck_assert(net->up);
	ck_assert_uint_eq(net->queue_count, 1);
	ck_assert_uint_eq(net->offloads, 0);
	snprintf(path, sizeof(path), "%s/arguments", directory);
	file = fopen(path, "r");
	ck_assert_ptr_nonnull(file);
	ck_assert_ptr_nonnull(fgets(arguments, sizeof(arguments), file));
	fclose(file);
	ck_assert_ptr_nonnull(strstr(arguments, "--tcp-ports 8080:80 --udp-ports 127.0.0.1/5353:53 "
						"--tcp-ports ::1/22:2222\n"));
}
END_TEST

/* Nothing that passt could take for the guest's. */
START_TEST(passt_is_ready_when_it_reads)
{
	static const uint8_t head[] = { 0, 0, 0x05, 0xea, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0x88, 0xb5 };
	uint8_t probe[2048];
	char path[64];
	FILE *file;

	make_passt("sleep 0.3; touch ${0%/*}/read; " READY "exec cat <&3 >&3");
	ck_assert_int_eq(open_user(&plain), 0);
	snprintf(path, sizeof(path), "%s/read", directory);
	ck_assert_int_eq(access(path, F_OK), 0);
	/* What is sent now comes behind all of it. */
	ck_assert_int_eq(send_frame(1, 1514), 0);
	ck_assert_int_eq(net->ops->flush(net, 0), 0);
	ck_assert_int_eq(receive(), HEADER + 1514);
	assert_frame(1, 1514);
	snprintf(path, sizeof(path), "%s/probe", directory);
	file = fopen(path, "r");
	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fread(probe, 1, sizeof(probe), file), 4 + 1514);
	fclose(file);
	ck_assert_mem_eq(probe, head, sizeof(head));
}
END_TEST

START_TEST(missing_passt_has_a_message_with_the_cure)
{
	const char *messages;
	int result;

	setenv("PATH", "/nonexistent", 1);
	messages_begin();
	result = open_user(&plain);
	messages = messages_end();
	setenv("PATH", saved_path, 1);
	ck_assert_int_eq(result, -ENOENT);
	ck_assert_ptr_nonnull(strstr(messages, "apt-get install passt"));
}
END_TEST

START_TEST(passt_that_does_not_start_is_told_with_its_words)
{
	const char *messages;
	int result;

	make_passt("echo 'Failed to send 9 bytes to syslog' >&2; echo 'port 80 is taken' >&2; exit 3");
	messages_begin();
	result = open_user(&plain);
	messages = messages_end();
	ck_assert_int_lt(result, 0);
	ck_assert_ptr_nonnull(strstr(messages, "with status 3: port 80 is taken"));
	ck_assert_ptr_null(strstr(messages, "syslog"));
}
END_TEST

START_TEST(frames_go_both_ways)
{
	const size_t lengths[] = { 14, 60, 1514, 2044, 2045, 9000, 65535, NET_FRAME_MAX };

	make_passt(READY "exec cat <&3 >&3");
	ck_assert_int_eq(open_user(&plain), 0);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		memset(buffer, 0xff, HEADER);
		ck_assert_int_eq(send_frame(i, lengths[i]), 0);
		ck_assert_int_eq(net->ops->flush(net, 0), 0);
		ck_assert_int_eq(receive(), HEADER + lengths[i]);
		for (unsigned j = 0; j < HEADER; j++)
			ck_assert_uint_eq(buffer[j], 0);
		assert_frame(i, lengths[i]);
	}
}
END_TEST

START_TEST(small_frames_are_sent_together)
{
	make_passt(READY "exec cat <&3 >&3");
	ck_assert_int_eq(open_user(&plain), 0);
	for (unsigned i = 0; i < 20; i++)
		ck_assert_int_eq(send_frame(i, 100), 0);
	poll(NULL, 0, SIM_MOMENT_MS);
	struct iovec iov = { buffer, sizeof(buffer) };

	ck_assert_int_eq(net->ops->receive(net, 0, &iov, 1), -EAGAIN);
	ck_assert_int_eq(net->ops->flush(net, 0), 0);
	for (unsigned i = 0; i < 20; i++) {
		ck_assert_int_eq(receive(), HEADER + 100);
		assert_frame(i, 100);
	}
}
END_TEST

START_TEST(frames_left_in_the_buffer_are_readable)
{
	make_passt(READY "exec cat <&3 >&3");
	ck_assert_int_eq(open_user(&plain), 0);
	net_attach(net, &events, NULL);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(send_frame(i, 100), 0);
	ck_assert_int_eq(net->ops->flush(net, 0), 0);
	for (unsigned i = 0; i < 3; i++) {
		net_wait_readable(net, 0);
		run_until(&readables, i + 1);
		ck_assert_int_eq(receive(), HEADER + 100);
	}
	ck_assert(!net->ops->pending(net, 0));
}
END_TEST

START_TEST(full_socket_keeps_what_it_took_and_refuses_the_rest)
{
	unsigned sent = 0;
	char release[64];

	make_passt(READY "while [ ! -e \"${0%/*}/go\" ]; do sleep 0.02; done; exec cat <&3 >&3");
	ck_assert_int_eq(open_user(&plain), 0);
	net_attach(net, &events, NULL);
	while (send_frame(sent, 60000) == 0)
		ck_assert_uint_lt(++sent, 1000);
	ck_assert_int_eq(send_frame(sent, 60000), -EAGAIN);
	ck_assert_uint_gt(sent, 0);
	snprintf(release, sizeof(release), "%s/go", directory);
	close(open(release, O_CREAT | O_WRONLY, 0600));
	/* All come back, in full; what is kept goes out meanwhile. */
	for (unsigned i = 0; i < sent; i++) {
		net->ops->flush(net, 0);
		ck_assert_int_eq(receive(), HEADER + 60000);
		assert_frame(i, 60000);
	}
	net_wait_writable(net, 0);
	run_until(&writables, 1);
	ck_assert_int_eq(send_frame(7, 60000), 0);
}
END_TEST

/* What stands in the stream instead of frames. */
static void assert_ends(const char *bytes)
{
	char script[128];
	const char *messages;

	snprintf(script, sizeof(script), READY "printf '%s' >&3; exec cat <&3 >/dev/null", bytes);
	make_passt(script);
	ck_assert_int_eq(open_user(&plain), 0);
	net_attach(net, &events, NULL);
	links = 0;
	ck_assert_int_eq(receive(), -EPIPE);
	messages_begin();
	run_until(&links, 1);
	messages = messages_end();
	ck_assert(!net->up);
	ck_assert_ptr_nonnull(strstr(messages, "passt has ended"));
	net_close(net);
	net = NULL;
}

START_TEST(lengths_that_no_frame_has_end_it)
{
	assert_ends("\\000\\000\\000\\000");
	assert_ends("\\000\\000\\000\\015");
	assert_ends("\\000\\001\\000\\022");
	assert_ends("\\377\\377\\377\\377");
}
END_TEST

START_TEST(death_of_passt_takes_the_link_down_and_is_told_once)
{
	const char *messages;

	make_passt("echo 'Started as root' >&2; " READY "read line <&3; echo 'out of luck' >&2; exit 9");
	ck_assert_int_eq(open_user(&plain), 0);
	net_attach(net, &events, NULL);
	ck_assert_int_eq(send_frame(1, 5000), 0);
	ck_assert_int_eq(receive(), -EPIPE);
	ck_assert_int_eq(receive(), -EPIPE);
	messages_begin();
	run_until(&links, 1);
	for (unsigned i = 0; i < 5; i++)
		ck_assert_int_lt(send_frame(1, 5000), 0);
	io_ring_reap(&ring, false);
	messages = messages_end();
	ck_assert_uint_eq(links, 1);
	ck_assert_ptr_nonnull(strstr(messages, "out of luck"));
	ck_assert_ptr_null(strstr(strstr(messages, "passt has") + 1, "passt has"));
}
END_TEST

START_TEST(passt_ends_with_us)
{
	char path[64];
	int pid = 0;
	FILE *file;

	make_passt("echo $$ >${0%/*}/pid; trap '' HUP; " READY "exec sleep 1000");
	ck_assert_int_eq(open_user(&plain), 0);
	snprintf(path, sizeof(path), "%s/pid", directory);
	file = fopen(path, "r");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fscanf(file, "%d", &pid), 1);
	fclose(file);
	net_close(net);
	net = NULL;
	ck_assert_int_eq(kill(pid, 0), -1);
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
}
END_TEST

Suite *passt_suite(void)
{
	Suite *suite = suite_create("passt");
	TCase *tcase = tcase_create("passt");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, passt_is_started_with_the_ports_to_publish);
	tcase_add_test(tcase, passt_is_ready_when_it_reads);
	tcase_add_test(tcase, missing_passt_has_a_message_with_the_cure);
	tcase_add_test(tcase, passt_that_does_not_start_is_told_with_its_words);
	tcase_add_test(tcase, frames_go_both_ways);
	tcase_add_test(tcase, small_frames_are_sent_together);
	tcase_add_test(tcase, frames_left_in_the_buffer_are_readable);
	tcase_add_test(tcase, full_socket_keeps_what_it_took_and_refuses_the_rest);
	tcase_add_test(tcase, lengths_that_no_frame_has_end_it);
	tcase_add_test(tcase, death_of_passt_takes_the_link_down_and_is_told_once);
	tcase_add_test(tcase, passt_ends_with_us);
	suite_add_tcase(suite, tcase);
	return suite;
}
