/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The parts of the socket device (virtio 1.2, section 5.10): vsock.c is the device itself and its supervisor's
 * side, vsock_connection.c the connections and their sockets, vsock_receive.c and vsock_transmit.c the packets of
 * the two directions.  In all functions the device's lock is held.
 */
#ifndef KARMA_VIRTIO_VSOCK_H
#define KARMA_VIRTIO_VSOCK_H

#include <linux/virtio_vsock.h>

#include "karma/devices.h"
#include "karma/util.h"

#define VSOCK_GUEST_CID 3u	/* the same for all guests: the host has no namespace of CIDs for them */
#define VSOCK_QUEUE_SIZE 128u
#define VSOCK_CHAIN_BUFFERS VSOCK_QUEUE_SIZE
#define VSOCK_HEADER_BYTES sizeof(struct virtio_vsock_hdr)

/*
 * Chains of the receive queue that are taken together: Linux's driver has buffers of 4 KiB, and a read of the
 * socket fills all of them.  Their buffers may be more only where they are those of the last chain.
 */
#define VSOCK_CHAINS 16u
#define VSOCK_CHAINS_BUFFERS (2 * VSOCK_CHAIN_BUFFERS)

/* The guest's credit for a connection, a power of 2: its buffer has room for all of it. */
#define VSOCK_BUFFER_BYTES (256 * 1024u)

/*
 * Resets that wait for a buffer of the receive queue.  At VSOCK_RESETS_HELD no chain is taken that may cause
 * another; each connection may add one by itself.
 */
#define VSOCK_RESETS_HELD 64u
#define VSOCK_RESETS_MAX (VSOCK_RESETS_HELD + VSOCK_CONNECTIONS_MAX)

/* Section 5.10.2. */
enum { VSOCK_RECEIVE, VSOCK_TRANSMIT, VSOCK_EVENT, VSOCK_QUEUES };

enum { VSOCK_CONNECTIONS, VSOCK_RESETS, VSOCK_RECEIVED_BYTES, VSOCK_TRANSMITTED_BYTES, VSOCK_COUNTERS };

enum vsock_connection_state {
	VSOCK_FREE,
	VSOCK_CONNECTING,	/* the guest asked for it, and the supervisor has not answered */
	VSOCK_OFFERED,		/* the supervisor asked for it, and the guest has not answered */
	VSOCK_ESTABLISHED,
	VSOCK_LINGERING,	/* over, as the guest sees it: the buffer goes to the socket first */
	VSOCK_CLOSING,		/* the I/O thread is going to close the socket */
};

/* Packets without payload that are due to the guest. */
enum {
	VSOCK_DUE_REQUEST = 1u << 0,
	VSOCK_DUE_RESPONSE = 1u << 1,
	VSOCK_DUE_SHUTDOWN = 1u << 2,
	VSOCK_DUE_CREDIT_UPDATE = 1u << 3,
	VSOCK_DUE_CREDIT_REQUEST = 1u << 4,
};

struct vsock_connection {
	struct vsock *vsock;
	enum vsock_connection_state state;
	uint32_t id;		/* between the connector's two ends */
	int fd;			/* -1: none */
	uint32_t guest_port, host_port;
	unsigned due;		/* VSOCK_DUE_* */

	unsigned guest_shutdown, host_shutdown;	/* VIRTIO_VSOCK_SHUTDOWN_*, of what each does no more */
	bool write_ended;	/* the socket's other end was told that nothing more comes */

	/* From the guest.  All counts are of bytes and wrap (section 5.10.6.3). */
	uint32_t received, forwarded, forwarded_told;
	uint8_t *buffer;	/* a ring of VSOCK_BUFFER_BYTES; received - forwarded bytes wait in it */
	bool buffer_used;

	/* To the guest. */
	uint32_t sent, guest_room, guest_forwarded;
	bool credit_requested;
	bool readable;		/* as far as is known */
	bool requested;		/* the guest has sent since something was last read for it */
	bool exchanging;	/* requests and answers come in turns: the vCPU that sends waits for the answer */
	bool hung_up;		/* poll can't wait for it to be writable */

	unsigned operations;	/* of these, in flight */
	bool readable_armed, vcpu_readable_armed, writable_armed;
	struct io_op readable_op, vcpu_readable_op, writable_op, close_op;
};

/* The two ends of a connection that is reset. */
struct vsock_reset_packet {
	uint64_t host_cid;
	uint32_t host_port, guest_port;
	uint16_t type;
};

struct vsock {
	struct virtio_device device;
	struct virtio_vsock_config config;
	struct virtio_counter counters[VSOCK_COUNTERS];
	struct vsock_connector *connector;
	struct io_op connector_op;
	bool connector_armed;
	bool resumed;		/* and go_on() is due */
	/*
	 * After a restore the guest is told that its connections are gone, and ends all that it has then: no new one is
	 * made before it has taken note.
	 */
	bool event_due, connections_held;

	/* Chains of the receive queue that nothing was written to yet, each with its part of iov. */
	struct iovec iov[VSOCK_CHAINS_BUFFERS];
	struct virtq_chain chains[VSOCK_CHAINS];
	unsigned first_chain, chain_count;

	struct vsock_reset_packet resets[VSOCK_RESETS_MAX];	/* a ring */
	unsigned first_reset, reset_count;
	bool transmit_blocked;	/* by resets that wait */

	uint32_t next_id;
	unsigned asked;		/* of the supervisor, and not answered */
	unsigned used, turn;	/* connections that ever were in use; whose turn it is to send */
	struct vsock_connection connections[VSOCK_CONNECTIONS_MAX];
	uint8_t *buffers;
};

static inline void vsock_count(struct vsock *vsock, unsigned counter, uint64_t by)
{
	count_up(&vsock->counters[counter].value, by);
}

/* Whether the guest knows it, and may be told of it. */
static inline bool vsock_is_known(const struct vsock_connection *connection)
{
	return connection->state >= VSOCK_CONNECTING && connection->state <= VSOCK_ESTABLISHED;
}

/* Bytes from the guest that wait for the socket to take them. */
static inline uint32_t vsock_buffered(const struct vsock_connection *connection)
{
	return connection->received - connection->forwarded;
}

/* What the guest has room for, by its own account; any lie is only about its own memory. */
static inline uint32_t vsock_guest_credit(const struct vsock_connection *connection)
{
	uint32_t under_way = connection->sent - connection->guest_forwarded;

	return under_way < connection->guest_room ? connection->guest_room - under_way : 0;
}

/* --- vsock_connection.c */

/* One that the guest knows; NULL if there is none. */
struct vsock_connection *vsock_find_connection(
	struct vsock *vsock, uint32_t guest_port, uint32_t host_port);
/* A free one, without a socket; NULL if all are in use. */
struct vsock_connection *vsock_new_connection(struct vsock *vsock,
	enum vsock_connection_state state, uint32_t guest_port, uint32_t host_port);
/* The socket is the connection's now, and the guest has agreed. */
void vsock_establish(struct vsock_connection *connection);

/* Answer the supervisor, whose `karma connect` waits. */
void vsock_answer_offer(struct vsock *vsock, uint32_t id, int result);
/* The guest ends the connection, or nobody will tell it of the end. */
void vsock_drop_connection(struct vsock_connection *connection, int why);
/* End it at once, and tell the guest. */
void vsock_reset_connection(struct vsock_connection *connection);
/* End it if the client has gone, before the guest has answered. */
void vsock_end_lost_offer(struct vsock_connection *connection);

/* Have a reset sent to the guest; that of a connection, which goes on. */
void vsock_add_reset(struct vsock *vsock, struct vsock_reset_packet reset);
struct vsock_reset_packet vsock_reset_of(const struct vsock_connection *connection);
void vsock_add_reset_of(const struct vsock_connection *connection);

/* Payload, which the guest has credit for: to the socket, and what that does not take to the buffer. */
void vsock_forward_payload(struct vsock_connection *connection, struct iovec *iov,
	unsigned iov_count, uint32_t bytes);
/* Write what is buffered, as far as the socket takes it. */
void vsock_flush_buffer(struct vsock_connection *connection);
/* After the last byte: pass on that the guest sends no more, or has closed. */
void vsock_end_writing(struct vsock_connection *connection);
/* Have the device go on receiving once the socket is readable. */
void vsock_wait_readable(struct vsock_connection *connection);
/* The guest has sent what may be a request. */
void vsock_note_request(struct vsock_connection *connection);
/* So much was read for the guest, or there was room for more; see exchanging. */
void vsock_note_answer(struct vsock_connection *connection, bool more);

/* --- vsock_receive.c: send packets to the guest, as far as it has buffers for them. */
void vsock_receive(struct vsock *vsock);

/* --- vsock_transmit.c: serve the next packet of the guest's. */
enum virtio_step vsock_transmit_step(struct virtq *queue);

#endif
