// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the supervisor's part of disks on NBD servers: its greeting with servers that say anything, and
 * calls of a guest's process that was taken over.  It waits for neither, and passes no connection on whose
 * export is not what the guest knows.
 *
 * The bytes are steps, each for one of two servers.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "karma/nbd_connector.h"
#include "karma/util.h"
#include "script.h"

#define SERVERS 2u
#define STEPS_MAX 200u
#define SPOKEN_MAX 512u
#define SIZE_KNOWN MIB

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a good server says: its export has blocks of 512 bytes and can all that the disk was made for. */
static const uint8_t good_greeting[] = {
	'N', 'B', 'D', 'M', 'A', 'G', 'I', 'C', 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 3,
	/* NBD_REP_INFO: NBD_INFO_EXPORT */
	0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 12,
	0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x65,
	/* NBD_REP_INFO: NBD_INFO_BLOCK_SIZE */
	0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 14,
	0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 0, 0x10, 0, 0,
	/* NBD_REP_ACK */
	0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0,
};

static struct nbd_connector servers[SERVERS];
static int listeners[SERVERS], connections[SERVERS];
static struct nbd_address addresses[SERVERS];

static void hang_up(unsigned index)
{
	close_fd(&connections[index]);
	connections[index] = -1;
}

static void take_connection(unsigned index)
{
	int fd = accept4(listeners[index], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	hang_up(index);
	connections[index] = fd;
}

static void speak(unsigned index, const uint8_t *bytes, size_t count)
{
	take_connection(index);
	if (connections[index] >= 0 && send(connections[index], bytes, count, MSG_NOSIGNAL) < 0)
		hang_up(index);
}

/* A part of what a good server says, with one byte that may be another. */
static void speak_well(unsigned index, struct script *script)
{
	uint8_t bytes[sizeof(good_greeting)];
	size_t from = take(script, 1) % sizeof(bytes), most = sizeof(bytes) - from;
	size_t count = take(script, 1), changed = take(script, 1) % sizeof(bytes);

	memcpy(bytes, good_greeting, sizeof(bytes));
	bytes[changed] ^= take(script, 1);
	speak(index, bytes + from, count < most ? count : most);
}

static void serve(void)
{
	struct pollfd polls[NBD_CONNECTORS_MAX];

	nbd_connectors_watch(polls);
	check(nbd_connectors_timeout() <= 1001);
	check(poll(polls, SERVERS, 0) >= 0);
	nbd_connectors_serve(polls);
}

static void hear(unsigned index)
{
	struct nbd_connector *server = &servers[index];
	struct nbd_connection_reply answer;
	int fd;

	if (server->sockets[1] < 0)
		return;
	fd = nbd_connector_receive(server, &answer);
	check(fd >= 0 || fd == -EAGAIN || answer.result < 0 || server->sockets[0] < 0);
	if (fd < 0) {
		check(memchr(answer.problem, '\0', sizeof(answer.problem)) != NULL);
		return;
	}
	check(answer.export.size >= SIZE_KNOWN && answer.export.block_min == 512);
	check(!(~answer.export.flags & (NBD_SEND_FLUSH | NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES)));
	check(!(answer.export.flags & NBD_READ_ONLY));
	close(fd);
}

/* One that is full, or whose other end is closed, takes none. */
static void call(struct nbd_connector *server, const uint8_t *bytes, size_t count)
{
	if (server->sockets[1] >= 0 && send(server->sockets[1], bytes, count, MSG_NOSIGNAL) < 0)
		return;
}

static void end_process(struct nbd_connector *server)
{
	close_fd(&server->sockets[1]);
	server->sockets[1] = -1;
}

static void do_step(struct script *script)
{
	uint8_t operation = take(script, 1);
	unsigned index = operation >> 4 & 1;
	struct nbd_connector *server = &servers[index];
	const uint8_t *bytes;
	size_t count;

	switch (operation & 7) {
	case 0:
		/* A call, or what is none. */
		count = take_bytes(script, take(script, 1) % 8, &bytes);
		call(server, bytes, count);
		break;
	case 1:
		count = take_bytes(script, take(script, 2) % SPOKEN_MAX, &bytes);
		speak(index, bytes, count);
		break;
	case 2:
		speak_well(index, script);
		break;
	case 3:
		take_connection(index);
		hang_up(index);
		break;
	case 4:
		hear(index);
		break;
	case 5:
		/* Its time is over, or its guest's process has ended. */
		if (operation & 8)
			server->deadline = 0;
		else
			end_process(server);
		break;
	default:
		serve();
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	/* As the monitor does. */
	check(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
	for (unsigned i = 0; i < SERVERS; i++) {
		struct sockaddr_un name = { .sun_family = AF_UNIX };
		/* Without a place in the file system. */
		int length = snprintf(
			name.sun_path + 1, sizeof(name.sun_path) - 1, "karma-fuzz-%d-%u", getpid(), i);

		addresses[i].count = 1 + i;
		for (unsigned j = 0; j < addresses[i].count; j++) {
			memcpy(&addresses[i].addresses[j], &name, sizeof(name));
			addresses[i].lengths[j] = offsetof(struct sockaddr_un, sun_path) + 1 + length;
		}
		listeners[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		check(listeners[i] >= 0);
		check(bind(listeners[i], (struct sockaddr *)&name, addresses[i].lengths[0]) == 0);
		check(listen(listeners[i], 4) == 0);
		connections[i] = -1;
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };

	for (unsigned i = 0; i < SERVERS; i++) {
		servers[i] = (struct nbd_connector){
			.address = addresses[i],
			.limit = 1000000000,
			.export = {
				.size = SIZE_KNOWN,
				.flags = NBD_SEND_FLUSH | NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES,
				.block_min = 512,
				.block_preferred = 4096,
				.request_max = MIB,
			},
		};
		nbd_connector_init(&servers[i]);
		check(nbd_connector_register(&servers[i]) == 0);
	}
	check(nbd_connectors_open() == 0);
	for (unsigned i = 0; i < STEPS_MAX && !script_over(&script); i++)
		do_step(&script);
	nbd_connectors_close();
	for (unsigned i = 0; i < SERVERS; i++) {
		nbd_connector_release(&servers[i]);
		do {
			hang_up(i);
			take_connection(i);
		} while (connections[i] >= 0);
	}
	return 0;
}
