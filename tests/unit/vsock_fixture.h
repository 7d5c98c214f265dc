/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The socket device, with this test as its guest, as the supervisor, and as the host's service. Each file of
 * tests that includes this has a device of its own.
 */
#ifndef KARMA_TESTS_VSOCK_FIXTURE_H
#define KARMA_TESTS_VSOCK_FIXTURE_H

#include <errno.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "guest.h"

/* The other part of the suite. */
void vsock_hostile_tests(Suite *suite);

#define QUEUE_SIZE 128
#define HEADER_BYTES sizeof(struct virtio_vsock_hdr)
#define HOST_CID 2
#define GUEST_CID 3
#define CREDIT (256 * KIB) /* what the guest has for a connection */
#define RECEIVE_BYTES 4096u
#define SERVICE_PORT 1024u
#define GUEST_PORT 5000u
#define NO_SERVICE_PORT 99u
#define ROOMY UINT32_MAX / 2

static struct sim sim;
static struct driver_queue queues[3], *receive_queue = &queues[0], *transmit_queue = &queues[1];
static struct virtio_device *vsock;
static struct vsock_options options;
static struct vsock_connector connector;
static int listener;
static char service_path[64];
static uint32_t guest_room, guest_forwarded;

static inline void listen_for_guest(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(service_path, sizeof(service_path), "/tmp/karma-test-vsock.%d", (int)getpid());
	strcpy(address.sun_path, service_path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(listener, 100), 0);
}

static inline void setup(void)
{
	sim_init(&sim, SIM_MEMORY);
	listen_for_guest();
	options = (struct vsock_options){ .on = true, .service_count = 1,
		.services = { { SERVICE_PORT, service_path } } };
	vsock_connector_init(&connector, &options);
	ck_assert_int_eq(vsock_connector_open(&connector), 0);
	vsock = vsock_create(&sim.environment, &connector);
	ck_assert_uint_eq(sim_add(&sim, vsock), 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT, queues, 3, QUEUE_SIZE);
	guest_room = ROOMY;
	guest_forwarded = 0;
}

static inline void teardown(void)
{
	sim_release(&sim);
	vsock_connector_close(&connector);
	close(listener);
	unlink(service_path);
}

/* --- The guest. */

static inline void offer_buffers(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct part part = { sim_alloc(&sim, RECEIVE_BYTES, 8), RECEIVE_BYTES, true };

		driver_publish(receive_queue, driver_chain(receive_queue, &part, 1));
	}
	driver_kick(receive_queue);
}

static inline struct virtio_vsock_hdr header_of(unsigned operation, uint32_t guest_port, uint32_t host_port)
{
	return (struct virtio_vsock_hdr){
		.src_cid = GUEST_CID,
		.dst_cid = HOST_CID,
		.src_port = guest_port,
		.dst_port = host_port,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = operation,
		.buf_alloc = guest_room,
		.fwd_cnt = guest_forwarded,
	};
}

/* A header, and payload of that length, in two buffers. */
static inline void send_header(const struct virtio_vsock_hdr *header, const void *payload, uint32_t length)
{
	struct part parts[2] = {
		{ sim_text(&sim, header, sizeof(*header)), sizeof(*header), false },
		{ length ? sim_text(&sim, payload, length) : 0, length, false },
	};

	driver_publish(transmit_queue, driver_chain(transmit_queue, parts, length ? 2 : 1));
	driver_kick(transmit_queue);
	ck_assert_uint_eq(driver_wait(transmit_queue).len, 0);
}

static inline void send_operation(unsigned operation, uint32_t guest_port, uint32_t host_port, uint32_t flags)
{
	struct virtio_vsock_hdr header = header_of(operation, guest_port, host_port);

	header.flags = flags;
	send_header(&header, NULL, 0);
}

static inline void send_payload(uint32_t host_port, const void *payload, uint32_t length)
{
	struct virtio_vsock_hdr header = header_of(VIRTIO_VSOCK_OP_RW, GUEST_PORT, host_port);

	header.len = length;
	send_header(&header, payload, length);
}

static uint8_t received[RECEIVE_BYTES];

/* The next packet to the guest, whose payload is in received. */
static inline struct virtio_vsock_hdr next_packet(void)
{
	struct vring_used_elem used = driver_wait(receive_queue);
	struct vring_desc *descriptor = &receive_queue->descriptors[used.id];
	struct virtio_vsock_hdr header;

	memcpy(&header, sim_at(&sim, descriptor->addr, used.len), sizeof(header));
	ck_assert_uint_eq(used.len, HEADER_BYTES + header.len);
	memcpy(received, (uint8_t *)sim_at(&sim, descriptor->addr, used.len) + HEADER_BYTES, header.len);
	ck_assert_uint_eq(header.dst_cid, GUEST_CID);
	return header;
}

static inline struct virtio_vsock_hdr expect_packet(unsigned operation)
{
	struct virtio_vsock_hdr header = next_packet();

	ck_assert_uint_eq(header.op, operation);
	return header;
}

static inline void expect_nothing(void)
{
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(receive_queue), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}

/* --- The host. */

/* The supervisor's part of a connection from the guest. */
static inline void serve_supervisor(void)
{
	struct vsock_message answer;

	ck_assert(!vsock_connector_serve(&connector, &answer));
}

static inline int accept_guest(void)
{
	serve_supervisor();
	return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

/* A connection from the guest to the service: the service's end. */
static inline int connect_service(uint32_t guest_port)
{
	int fd;

	send_operation(VIRTIO_VSOCK_OP_REQUEST, guest_port, SERVICE_PORT, 0);
	fd = accept_guest();
	ck_assert_int_ge(fd, 0);
	expect_packet(VIRTIO_VSOCK_OP_RESPONSE);
	return fd;
}

/* The client's end of a connection that is offered to the guest. */
static inline int offer_connection(uint32_t id)
{
	int ends[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	ck_assert_int_eq(vsock_connector_offer(&connector, id, GUEST_PORT, ends[1]), 0);
	close(ends[1]);
	return ends[0];
}

static bool has_answer(void *answer)
{
	return vsock_connector_serve(&connector, answer);
}

static inline void expect_answer(uint32_t id, int result)
{
	struct vsock_message answer;

	ck_assert(sim_run_until(&sim, has_answer, &answer));
	ck_assert_uint_eq(answer.id, id);
	ck_assert_int_eq(answer.result, result);
}

static inline void expect_bytes(int fd, const void *expected, size_t length)
{
	static uint8_t bytes[CREDIT];
	size_t got = 0;

	while (got < length) {
		ssize_t count = recv(fd, bytes + got, length - got, MSG_DONTWAIT);

		ck_assert(count != 0);
		if (count > 0)
			got += count;
		else
			sim_run_moment(&sim);
	}
	ck_assert(memcmp(bytes, expected, length) == 0);
}

static inline bool is_at_end(int fd)
{
	uint8_t byte;
	ssize_t count;

	sim_run_moment(&sim);
	count = recv(fd, &byte, 1, MSG_DONTWAIT);
	return count == 0 || (count < 0 && errno == ECONNRESET);
}

static inline uint64_t counted(const char *name)
{
	for (unsigned i = 0; i < vsock->counter_count; i++) {
		if (strcmp(vsock->counters[i].name, name) == 0)
			return count_of(&vsock->counters[i].value);
	}
	ck_abort_msg("no counter %s", name);
}

#endif
