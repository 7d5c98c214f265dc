// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the stream of frames to and from passt: whatever it sends, and wherever that is cut, what is
 * received is exactly the frames that are there, and a length that none has ends it; what is sent
 * arrives as it is, however slowly it is read.
 *
 * No passt is started: the calls that would are replaced, and the fuzzer has its end of the socket.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>

#include "karma/net.h"
#include "karma/util.h"
#include "script.h"

#define STEPS_MAX 300u
#define LENGTH_BYTES 4u
#define SAID_MAX (NET_FRAME_MAX + 64)
/* Frames that one input may have in the streams together, of each direction. */
#define STREAM_BYTES (512 * KIB)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct io_ring ring;
static struct net *net;
static int passt_end = -1;

/* All that passt has said, and where the next frame begins; what it is to read, and has read. */
static uint8_t said[STREAM_BYTES], sent[STREAM_BYTES];
static size_t said_bytes, said_taken, sent_bytes, sent_read;
static uint8_t filler;

/* --- In the place of starting passt. */

int __real_socketpair(int domain, int type, int protocol, int ends[2]);
int __wrap_socketpair(int domain, int type, int protocol, int ends[2]);
int __wrap_posix_spawnp(pid_t *pid, const char *program, const posix_spawn_file_actions_t *actions,
	const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]);

int __wrap_socketpair(int domain, int type, int protocol, int ends[2])
{
	int result = __real_socketpair(domain, type, protocol, ends);

	check(result == 0);
	passt_end = fcntl(ends[1], F_DUPFD_CLOEXEC, 0);
	return result;
}

int __wrap_posix_spawnp(pid_t *pid, const char *program, const posix_spawn_file_actions_t *actions,
	const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
	uint8_t probe[2048];

	(void)program;
	(void)actions;
	(void)attributes;
	(void)arguments;
	(void)environment;
	*pid = 0;
	/* It is ready when it reads. */
	check(read(passt_end, probe, sizeof(probe)) > 0);
	return 0;
}

static void open_net(void)
{
	const struct net_options options = { .kind = NET_USER, .queues = 1 };

	check(passt_open(&net, &options, &ring) == 0 && net_start(net, false) == 0);
	check(fcntl(passt_end, F_SETFL, O_NONBLOCK) == 0);
	said_bytes = said_taken = sent_bytes = sent_read = 0;
	filler = 0;
}

/* --- From passt. */

static void say(const void *bytes, size_t length)
{
	ssize_t got;

	if (passt_end < 0 || length > STREAM_BYTES - said_bytes)
		return;
	got = send(passt_end, bytes, length, MSG_NOSIGNAL);
	if (got <= 0)
		return;
	memcpy(said + said_bytes, bytes, got);
	said_bytes += got;
}

/* Mostly one that there may be; what is about the least and the most is tried more often. */
static uint32_t take_length(uint8_t kind, struct script *script)
{
	if (kind < 0x80)
		return kind;
	if (kind < 0xc0)
		return NET_FRAME_MAX - 0xa0 + kind;
	return take(script, kind < 0xf0 ? 2 : 4);
}

/* A frame's length, and behind it as many bytes as there are to be, or others. */
static void say_frame(struct script *script)
{
	static uint8_t bytes[LENGTH_BYTES + SAID_MAX];
	uint8_t kind = take(script, 1);
	uint32_t length = take_length(kind, script), prefix = htonl(length);
	size_t follow = take(script, 1) & 1 ? take(script, 2) : length;

	if (follow > SAID_MAX)
		follow = SAID_MAX;
	memcpy(bytes, &prefix, LENGTH_BYTES);
	memset(bytes + LENGTH_BYTES, ++filler, follow);
	say(bytes, LENGTH_BYTES + follow);
}

/* Into buffers that may be too small: the rest of the frame is lost then. */
static void receive(struct script *script)
{
	static uint8_t frame[NET_HEADER_BYTES + NET_FRAME_MAX];
	uint8_t choice = take(script, 1);
	size_t room = choice < 0xc0 ? sizeof(frame) : NET_HEADER_BYTES + choice % 64u;
	size_t first = choice % 32u;
	const struct iovec iov[] = { { frame, first }, { frame + first, room - first } };
	size_t left = said_bytes - said_taken;
	uint32_t length = 0;
	bool ended = net->gone, pending = net->ops->pending(net, 0);
	ssize_t got = net->ops->receive(net, 0, iov, ARRAY_SIZE(iov));

	check(!pending || got > 0);
	if (left >= LENGTH_BYTES) {
		memcpy(&length, said + said_taken, LENGTH_BYTES);
		length = ntohl(length);
	}
	if (left >= LENGTH_BYTES && (length < ETH_HLEN || length > NET_FRAME_MAX)) {
		check(got == -EPIPE && net->gone);
	} else if (left < LENGTH_BYTES || left - LENGTH_BYTES < length) {
		check(got == (passt_end < 0 ? -EPIPE : -EAGAIN));
		check(net->gone == (ended || passt_end < 0));
	} else {
		check(got == (ssize_t)(NET_HEADER_BYTES + length));
		check(memcmp(frame + NET_HEADER_BYTES, said + said_taken + LENGTH_BYTES,
			      (size_t)got < room ? length : room - NET_HEADER_BYTES) == 0);
		said_taken += LENGTH_BYTES + length;
	}
}

/* --- To passt. */

static void send_frame(struct script *script)
{
	static uint8_t header[NET_HEADER_BYTES], frame[NET_FRAME_MAX];
	size_t length = take(script, 2), first;
	struct iovec iov[3] = { { header, sizeof(header) } };
	uint32_t prefix;
	int result;

	/* As the device has checked. */
	length = length < ETH_HLEN ? NET_FRAME_MAX - length : length;
	first = take(script, 2) % length;
	if (LENGTH_BYTES + length > STREAM_BYTES - sent_bytes)
		return;
	memset(frame, ++filler, length);
	iov[1] = (struct iovec){ frame, first };
	iov[2] = (struct iovec){ frame + first, length - first };
	result = net->ops->send(net, 0, iov, ARRAY_SIZE(iov));
	check(result == 0 || result == -EAGAIN || passt_end < 0);
	if (result != 0)
		return;
	prefix = htonl(length);
	memcpy(sent + sent_bytes, &prefix, LENGTH_BYTES);
	memcpy(sent + sent_bytes + LENGTH_BYTES, frame, length);
	sent_bytes += LENGTH_BYTES + length;
}

static void read_sent(size_t most)
{
	static uint8_t bytes[UINT16_MAX];
	ssize_t got = recv(passt_end, bytes, most, 0);

	if (got <= 0)
		return;
	check((size_t)got <= sent_bytes - sent_read && memcmp(bytes, sent + sent_read, got) == 0);
	sent_read += got;
}

static void do_step(struct script *script)
{
	const uint8_t *bytes;
	size_t count;

	switch (take(script, 1) % 8) {
	case 0:
		count = take_bytes(script, take(script, 1), &bytes);
		say(bytes, count);
		break;
	case 1:
		say_frame(script);
		break;
	case 2:
	case 3:
		receive(script);
		break;
	case 4:
		send_frame(script);
		break;
	case 5:
		net->ops->flush(net, 0);
		break;
	case 6:
		read_sent(take(script, 2));
		break;
	default:
		/* Now and then passt ends. */
		if (take(script, 1) == 0xff) {
			close_fd(&passt_end);
			passt_end = -1;
		}
		net_start(net, true);
		io_ring_reap(&ring, false);
	}
}

/* All that was taken arrives, if it is still there to read it and the stream has not ended. */
static void read_all(void)
{
	if (passt_end < 0 || net->gone)
		return;
	while (net->ops->flush(net, 0) == -EAGAIN || sent_read < sent_bytes) {
		size_t before = sent_read;

		read_sent(UINT16_MAX);
		check(sent_read > before);
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	/* As in the monitor. */
	signal(SIGPIPE, SIG_IGN);
	check(io_ring_init(&ring, 64) == 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };

	open_net();
	for (unsigned i = 0; i < STEPS_MAX && !script_over(&script); i++)
		do_step(&script);
	read_all();
	/* What net_set_gone() has put there. */
	io_ring_reap(&ring, false);
	net_close(net);
	close_fd(&passt_end);
	passt_end = -1;
	return 0;
}
