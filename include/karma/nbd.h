/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The NBD protocol as a client speaks it: addresses of servers, the handshake, and the messages of
 * the transmission phase that follows it.  Words in quotes are sections of doc/proto.md in the nbd
 * project.
 *
 * The server's bytes are hostile.  Errors are negative errnos.  Nothing here has a lock; each
 * structure is used by one thread at a time.
 */
#ifndef KARMA_NBD_H
#define KARMA_NBD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define NBD_NAME_MAX 4096	/* "Values": bytes of a string */
#define NBD_ADDRESSES_MAX 4

/* Where a server is; a host may have several addresses. */
struct nbd_address {
	struct sockaddr_storage addresses[NBD_ADDRESSES_MAX];
	socklen_t lengths[NBD_ADDRESSES_MAX];
	unsigned count;
	char export_name[NBD_NAME_MAX + 1];
};

/* Whether a disk's name is one of these:
 *   nbd:unix:PATH[:exportname=NAME]
 *   nbd://HOST[:PORT][/EXPORT]
 *   nbd+unix:///[EXPORT]?socket=PATH
 */
bool nbd_is_address(const char *text);

/*
 * Parse it, and look up a host's name, which may take as long as a name server does.  Returns 0, or
 * a negative errno with a message printed.
 */
int nbd_parse_address(const char *text, struct nbd_address *address);

/* "Transmission flags" */
#define NBD_HAS_FLAGS 0x0001u
#define NBD_READ_ONLY 0x0002u
#define NBD_SEND_FLUSH 0x0004u
#define NBD_SEND_TRIM 0x0020u
#define NBD_SEND_WRITE_ZEROES 0x0040u

/* An export as the server describes it, checked.  All sizes are in bytes. */
struct nbd_export {
	uint64_t size;		/* up to INT64_MAX */
	uint16_t flags;
	/* Powers of 2: block_min up to 4096, block_preferred up to 64 KiB and no less than that. */
	uint32_t block_min, block_preferred;
	uint32_t request_max;	/* a multiple of block_min */
};

#define NBD_REPLY_MAX 8192u	/* data of one reply to an option: strings and what is before them */

/*
 * The handshake ("Fixed newstyle negotiation"), a step at a time: the caller sends what is in out,
 * receives want bytes into in, and calls nbd_handshake_step(), until that says that the handshake
 * is over.
 */
struct nbd_handshake {
	const char *export_name;
	int (*next)(struct nbd_handshake *handshake);
	uint8_t in[NBD_REPLY_MAX];
	size_t got, want;
	uint8_t out[NBD_NAME_MAX + 64];
	size_t sent, out_length;
	uint32_t reply_type;
	unsigned replies;
	bool has_export;	/* the server has described the export */
	struct nbd_export export;
	char problem[256];	/* after an error: the reason and its cure, printable */
};

/* export_name must stay until the handshake is over. */
void nbd_handshake_start(struct nbd_handshake *handshake, const char *export_name);

/*
 * All wanted bytes are received.  Returns 0: go on; 1: the export is chosen; or a negative errno.
 */
int nbd_handshake_step(struct nbd_handshake *handshake);

/* A connection that is being made, up to the end of the handshake.  Its functions do not block. */
struct nbd_connection {
	int fd;			/* -1: none */
	unsigned events;	/* to poll() for before the next step */
	bool connected;
	struct nbd_handshake handshake;
};

/*
 * Connect to one of the addresses.  Then nbd_connection_step() does what is possible without
 * blocking.  It returns 0: poll for the events; 1: the server is ready for requests, and the caller
 * may take fd over; or a negative errno.  After an error of either function the reason is in
 * handshake.problem, and fd is closed.
 */
int nbd_connection_open(
	struct nbd_connection *connection, const struct nbd_address *address, unsigned index);
int nbd_connection_step(struct nbd_connection *connection);
void nbd_connection_close(struct nbd_connection *connection);

/* "Transmission phase"; all numbers are big endian. */
#define NBD_REQUEST_BYTES 28u
#define NBD_REPLY_BYTES 16u

enum nbd_command {
	NBD_READ = 0,
	NBD_WRITE = 1,
	NBD_DISCONNECT = 2,
	NBD_FLUSH = 3,
	NBD_TRIM = 4,
	NBD_WRITE_ZEROES = 6,
};

#define NBD_NO_HOLE 0x0002u	/* "Command flags": keep the space allocated */

struct nbd_request {
	uint16_t flags, command;
	uint64_t cookie, offset;
	uint32_t length;
};

void nbd_put_request(uint8_t bytes[NBD_REQUEST_BYTES], const struct nbd_request *request);

/* "Error values": the server is about to shut down. */
#define NBD_ESHUTDOWN 108u

struct nbd_reply {
	uint32_t error;
	uint64_t cookie;
};

/* Returns false if these bytes are no reply. */
bool nbd_get_reply(const uint8_t bytes[NBD_REPLY_BYTES], struct nbd_reply *reply);

/* The negative errno for a reply's error; 0 for none. */
int nbd_errno(uint32_t error);

#endif
