// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz what an NBD server says: no bytes of its crash the client, write where no request asked them to
 * be, or end a request twice or never.
 *
 * The first byte says whether the rest is a greeting and what follows it, or replies to requests alone.
 */
#include <string.h>
#include <sys/socket.h>

#include "karma/nbd_transmission.h"
#include "karma/util.h"
#include "script.h"

#define SERVER_BYTES_MAX 65536u
#define SECTOR 512u

enum mode { MODE_ALL, MODE_REPLIES, MODES };

/* Requests that are under way when the server speaks: their cookies are 1 << 32 | 1 and so on. */
static const struct {
	enum disk_operation operation;
	unsigned sectors, buffers;
} plan[] = {
	{ DISK_READ, 1, 1 },
	{ DISK_READ, 9, 4 },
	{ DISK_WRITE, 3, 2 },
	{ DISK_FLUSH, 0, 0 },
	{ DISK_DISCARD, 8, 0 },
	{ DISK_WRITE_ZEROES, 8, 0 },
	{ DISK_READ, 2, 2 },
};

struct attempt {
	struct disk_request request;
	struct iovec iov[4];
	uint8_t *buffers[4];
	bool ended;
};

static struct attempt attempts[ARRAY_SIZE(plan)];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void queue(struct nbd_transmission *transmission)
{
	for (size_t i = 0; i < ARRAY_SIZE(plan); i++) {
		struct attempt *attempt = &attempts[i];
		size_t length = plan[i].sectors * SECTOR, at = 0;

		*attempt = (struct attempt){
			.request = {
				.operation = plan[i].operation,
				.iov = attempt->iov,
				.iov_count = plan[i].buffers,
				.offset = i * SECTOR,
				.length = length,
			},
		};
		/* Each buffer ends where its memory ends. */
		for (unsigned j = 0; j < plan[i].buffers; j++) {
			size_t part = j + 1 < plan[i].buffers ? 100 + j : length - at;

			attempt->buffers[j] = calloc(1, part);
			attempt->iov[j] = (struct iovec){ attempt->buffers[j], part };
			at += part;
		}
		nbd_queue(transmission, &attempt->request);
	}
}

static void take_ended(struct nbd_transmission *transmission)
{
	struct disk_request *next;

	for (struct disk_request *at = nbd_take_completed(transmission); at; at = next) {
		struct attempt *attempt = container_of(at, struct attempt, request);

		next = at->next;
		check(!attempt->ended);
		attempt->ended = true;
		for (unsigned i = 0; i < ARRAY_SIZE(attempt->buffers); i++)
			free(attempt->buffers[i]);
	}
}

static void speak(struct nbd_transmission *transmission, int fd, const struct nbd_export *export)
{
	nbd_transmission_init(transmission);
	queue(transmission);
	nbd_transmission_connect(transmission, fd, export);
	nbd_send(transmission);
	while (!nbd_receive(transmission)) {
		nbd_send(transmission);
		take_ended(transmission);
	}
	take_ended(transmission);
	nbd_transmission_disconnect(transmission);
	nbd_fail_all(transmission, -1);
	take_ended(transmission);
	for (size_t i = 0; i < ARRAY_SIZE(attempts); i++)
		check(attempts[i].ended);
	check(!transmission->in_flight && !transmission->slots_used);
	nbd_transmission_release(transmission);
}

static bool greet(struct nbd_connection *link)
{
	nbd_handshake_start(&link->handshake, "export");
	link->connected = true;
	return nbd_connection_step(link) == 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct nbd_transmission transmission;
	static struct nbd_connection link;
	struct nbd_export export = {
		.size = MIB,
		.flags = NBD_SEND_FLUSH | NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES,
		.block_min = SECTOR,
		.block_preferred = SECTOR,
		.request_max = 2 * SECTOR,
	};
	int ends[2];

	if (size < 1 || size > SERVER_BYTES_MAX)
		return 0;
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
	/* All that it will ever say; the client's words are for nobody. */
	check(send(ends[1], data + 1, size - 1, 0) == (ssize_t)(size - 1));
	shutdown(ends[1], SHUT_WR);
	link.fd = ends[0];
	if (data[0] % MODES == MODE_REPLIES) {
		speak(&transmission, link.fd, &export);
	} else if (greet(&link)) {
		export = link.handshake.export;
		check(export.block_min >= SECTOR && export.block_min <= 4096);
		check(export.block_preferred >= export.block_min);
		check(export.request_max && export.request_max % export.block_min == 0);
		speak(&transmission, link.fd, &export);
	}
	nbd_connection_close(&link);
	close(ends[1]);
	return 0;
}
