// SPDX-License-Identifier: GPL-2.0-only
/* The socket device: connections both ways, payload, credit, shutdowns, pause and reset. */
#include "vsock_fixture.h"

static uint8_t pattern[CREDIT];

static void fill_pattern(void)
{
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = i * 7 + i / 251;
}

START_TEST(guest_has_its_cid)
{
	uint64_t gpa = sim_alloc(&sim, 8, 8);

	ck_assert_int_eq(virtio_config_read(vsock, 0, sim_at(&sim, gpa, 8), 8), 0);
	ck_assert_uint_eq(*(uint64_t *)sim_at(&sim, gpa, 8), GUEST_CID);
	ck_assert_uint_eq(vsock->ops->device_id, 19);
}
END_TEST

START_TEST(guest_reaches_a_service_and_both_talk)
{
	struct virtio_vsock_hdr header;
	int fd;

	offer_buffers(8);
	fd = connect_service(GUEST_PORT);
	send_payload(SERVICE_PORT, "hello", 5);
	expect_bytes(fd, "hello", 5);
	ck_assert_int_eq(write(fd, "service", 7), 7);
	header = expect_packet(VIRTIO_VSOCK_OP_RW);
	ck_assert_uint_eq(header.src_cid, HOST_CID);
	ck_assert_uint_eq(header.src_port, SERVICE_PORT);
	ck_assert_uint_eq(header.dst_port, GUEST_PORT);
	ck_assert_uint_eq(header.buf_alloc, CREDIT);
	ck_assert_uint_eq(header.fwd_cnt, 5);
	ck_assert_uint_eq(header.len, 7);
	ck_assert_mem_eq(received, "service", 7);
	ck_assert_uint_eq(counted("connections"), 1);
	ck_assert_uint_eq(counted("receive.bytes"), 7);
	ck_assert_uint_eq(counted("transmit.bytes"), 5);
	close(fd);
}
END_TEST

START_TEST(port_without_a_service_is_refused)
{
	offer_buffers(1);
	send_operation(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, NO_SERVICE_PORT, 0);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RST).src_port, NO_SERVICE_PORT);
	ck_assert_int_lt(accept_guest(), 0);
	ck_assert_uint_eq(counted("resets"), 1);
}
END_TEST

START_TEST(service_that_does_not_listen_is_refused)
{
	offer_buffers(1);
	unlink(service_path);
	send_operation(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, SERVICE_PORT, 0);
	serve_supervisor();
	expect_packet(VIRTIO_VSOCK_OP_RST);
}
END_TEST

START_TEST(client_reaches_a_port_of_the_guest)
{
	struct virtio_vsock_hdr header;
	int fd;

	offer_buffers(8);
	fd = offer_connection(7);
	header = expect_packet(VIRTIO_VSOCK_OP_REQUEST);
	ck_assert_uint_eq(header.dst_port, GUEST_PORT);
	send_operation(VIRTIO_VSOCK_OP_RESPONSE, GUEST_PORT, header.src_port, 0);
	expect_answer(7, 0);
	ck_assert_int_eq(write(fd, "hello", 5), 5);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RW).len, 5);
	send_payload(header.src_port, "guest", 5);
	expect_bytes(fd, "guest", 5);
	close(fd);
}
END_TEST

START_TEST(client_is_told_that_the_guest_refuses)
{
	struct virtio_vsock_hdr header;
	int fd;

	offer_buffers(2);
	fd = offer_connection(8);
	header = expect_packet(VIRTIO_VSOCK_OP_REQUEST);
	send_operation(VIRTIO_VSOCK_OP_RST, GUEST_PORT, header.src_port, 0);
	expect_answer(8, -ECONNREFUSED);
	ck_assert(is_at_end(fd));
	close(fd);
}
END_TEST

START_TEST(client_that_leaves_before_the_answer_ends_the_offer)
{
	offer_buffers(2);
	close(offer_connection(9));
	expect_packet(VIRTIO_VSOCK_OP_REQUEST);
	expect_packet(VIRTIO_VSOCK_OP_RST);
}
END_TEST

START_TEST(guest_without_a_driver_is_told_to_the_client)
{
	int fd;

	sim_reset(&sim, 0);
	fd = offer_connection(10);
	expect_answer(10, -ENOTCONN);
	ck_assert(is_at_end(fd));
	close(fd);
}
END_TEST

/* --- Credit. */

/* Use all credit that there was at first, so that some of it waits for the service to read. */
static void fill_socket(void)
{
	for (unsigned i = 0; i < 4; i++)
		send_payload(SERVICE_PORT, pattern + i * CREDIT / 4, CREDIT / 4);
	while (driver_used(receive_queue))
		expect_packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
}

START_TEST(host_that_does_not_read_stalls_its_own_connection_alone)
{
	int slow, fast;

	fill_pattern();
	offer_buffers(32);
	slow = connect_service(GUEST_PORT);
	fill_socket();
	fast = connect_service(GUEST_PORT + 1);
	ck_assert_int_eq(write(fast, "fast", 4), 4);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RW).dst_port, GUEST_PORT + 1);
	close(slow);
	close(fast);
}
END_TEST

START_TEST(what_waits_for_a_slow_reader_arrives_in_order_and_renews_credit)
{
	struct virtio_vsock_hdr header;
	int fd;

	fill_pattern();
	offer_buffers(32);
	fd = connect_service(GUEST_PORT);
	for (unsigned i = 0; i < 4; i++)
		send_payload(SERVICE_PORT, pattern + i * CREDIT / 4, CREDIT / 4);
	expect_bytes(fd, pattern, CREDIT);
	do {
		header = expect_packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	} while (header.fwd_cnt < CREDIT);
	send_payload(SERVICE_PORT, "more", 4);
	expect_bytes(fd, "more", 4);
	close(fd);
}
END_TEST

START_TEST(slow_reader_that_sends_no_more_gets_all)
{
	int fd;

	fill_pattern();
	offer_buffers(32);
	fd = connect_service(GUEST_PORT);
	shutdown(fd, SHUT_WR);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_SHUTDOWN).flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	fill_socket();
	sim_run_moment(&sim);
	expect_bytes(fd, pattern, CREDIT);
	close(fd);
}
END_TEST

START_TEST(credit_request_is_answered)
{
	int fd;

	offer_buffers(4);
	fd = connect_service(GUEST_PORT);
	send_operation(VIRTIO_VSOCK_OP_CREDIT_REQUEST, GUEST_PORT, SERVICE_PORT, 0);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE).buf_alloc, CREDIT);
	close(fd);
}
END_TEST

START_TEST(guest_gets_no_more_than_it_gave_credit_for)
{
	int fd;

	guest_room = 10;
	offer_buffers(8);
	fd = connect_service(GUEST_PORT);
	ck_assert_int_eq(write(fd, "0123456789abcdef", 16), 16);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RW).len, 10);
	expect_packet(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	/* An answer without credit is not asked again. */
	send_operation(VIRTIO_VSOCK_OP_CREDIT_UPDATE, GUEST_PORT, SERVICE_PORT, 0);
	expect_nothing();
	guest_forwarded = 4;
	send_operation(VIRTIO_VSOCK_OP_CREDIT_UPDATE, GUEST_PORT, SERVICE_PORT, 0);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RW).len, 4);
	ck_assert_mem_eq(received, "abcd", 4);
	close(fd);
}
END_TEST

START_TEST(payload_waits_for_buffers)
{
	int fd;

	offer_buffers(1);
	fd = connect_service(GUEST_PORT);
	ck_assert_int_eq(write(fd, "late", 4), 4);
	expect_nothing();
	offer_buffers(1);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RW).len, 4);
	close(fd);
}
END_TEST

/* --- Ends. */

START_TEST(payload_fills_buffers_and_leaves_those_without_room)
{
	const uint32_t room = RECEIVE_BYTES - HEADER_BYTES;
	struct part useless = { sim_alloc(&sim, HEADER_BYTES, 8), HEADER_BYTES, true };
	int fd;

	fill_pattern();
	offer_buffers(1);
	fd = connect_service(GUEST_PORT);
	ck_assert_int_eq(write(fd, pattern, 2 * room + 100), 2 * room + 100);
	offer_buffers(1);
	driver_publish(receive_queue, driver_chain(receive_queue, &useless, 1));
	offer_buffers(8);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RW).len, i < 2 ? room : 100);
		ck_assert(memcmp(received, pattern + i * room, i < 2 ? room : 100) == 0);
		if (i == 0)
			ck_assert_uint_eq(driver_wait(receive_queue).len, 0);
	}
	expect_nothing();
	close(fd);
}
END_TEST

START_TEST(vcpu_that_sends_and_receives_in_turns_waits_by_itself)
{
	struct io_ring own;
	uint8_t leave = 0;
	int fd;

	ck_assert_int_eq(io_ring_init_thread(&own, &sim.ring, 1, &leave), 0);
	offer_buffers(10);
	fd = connect_service(GUEST_PORT);
	/* The I/O thread waits for the first answer. */
	send_payload(SERVICE_PORT, "request", 7);
	ck_assert_int_eq(write(fd, "answer", 6), 6);
	expect_packet(VIRTIO_VSOCK_OP_RW);
	io_ring_bind(&own);
	for (unsigned i = 1; i <= 3; i++) {
		send_payload(SERVICE_PORT, "request", 7);
		ck_assert(io_ring_arm_eventfd(&own));
		ck_assert_int_eq(write(fd, "answer", 6), 6);
		ck_assert_uint_eq(leave, 1);
		leave = 0;
		io_ring_reap(&own, false);
		ck_assert_uint_eq(driver_used(receive_queue), 1);
		expect_packet(VIRTIO_VSOCK_OP_RW);
	}
	/* What comes without a request is for the I/O thread, from the next on. */
	ck_assert_int_eq(write(fd, "more", 4), 4);
	io_ring_reap(&own, false);
	expect_packet(VIRTIO_VSOCK_OP_RW);
	ck_assert_int_eq(write(fd, "more", 4), 4);
	ck_assert_uint_eq(io_ring_reap(&own, false), 0);
	io_ring_unbind(&own);
	expect_packet(VIRTIO_VSOCK_OP_RW);
	close(fd);
	io_ring_release_thread(&own);
}
END_TEST

START_TEST(halves_are_shut_down_one_by_one)
{
	int fd;

	offer_buffers(8);
	fd = connect_service(GUEST_PORT);
	send_payload(SERVICE_PORT, "last", 4);
	send_operation(VIRTIO_VSOCK_OP_SHUTDOWN, GUEST_PORT, SERVICE_PORT, VIRTIO_VSOCK_SHUTDOWN_SEND);
	expect_bytes(fd, "last", 4);
	ck_assert(is_at_end(fd));
	ck_assert_int_eq(write(fd, "answer", 6), 6);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RW).len, 6);
	close(fd);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_SHUTDOWN).flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	send_operation(VIRTIO_VSOCK_OP_SHUTDOWN, GUEST_PORT, SERVICE_PORT,
		VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	expect_nothing();
}
END_TEST

START_TEST(guest_that_closes_leaves_nothing_unread)
{
	int fd;

	fill_pattern();
	offer_buffers(32);
	fd = connect_service(GUEST_PORT);
	fill_socket();
	send_operation(VIRTIO_VSOCK_OP_SHUTDOWN, GUEST_PORT, SERVICE_PORT,
		VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	/* The same ports are free again, while the rest is under way. */
	close(connect_service(GUEST_PORT));
	expect_bytes(fd, pattern, CREDIT);
	ck_assert(is_at_end(fd));
	close(fd);
}
END_TEST

START_TEST(service_that_reads_no_more_is_told_to_the_guest)
{
	int fd;

	offer_buffers(8);
	fd = connect_service(GUEST_PORT);
	close(fd);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_SHUTDOWN).flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	send_payload(SERVICE_PORT, "lost", 4);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_SHUTDOWN).flags,
		VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	send_operation(VIRTIO_VSOCK_OP_RST, GUEST_PORT, SERVICE_PORT, 0);
	expect_nothing();
}
END_TEST

START_TEST(guest_that_reads_no_more_ends_the_service_s_writes)
{
	int fd;

	offer_buffers(8);
	fd = connect_service(GUEST_PORT);
	send_operation(VIRTIO_VSOCK_OP_SHUTDOWN, GUEST_PORT, SERVICE_PORT, VIRTIO_VSOCK_SHUTDOWN_RCV);
	ck_assert_int_eq(write(fd, "lost", 4), -1);
	ck_assert_int_eq(errno, EPIPE);
	send_payload(SERVICE_PORT, "still", 5);
	expect_bytes(fd, "still", 5);
	expect_nothing();
	close(fd);
}
END_TEST

START_TEST(reset_of_the_guest_ends_all_connections)
{
	int fds[3];

	fill_pattern();
	offer_buffers(8);
	fds[0] = connect_service(GUEST_PORT);
	for (unsigned i = 0; i < 4; i++)
		send_payload(SERVICE_PORT, pattern, CREDIT / 4);
	fds[1] = offer_connection(3);
	/* One that the supervisor answers too late. */
	send_operation(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT + 1, SERVICE_PORT, 0);
	sim_run_moment(&sim);
	sim_reset(&sim, 0);
	fds[2] = accept_guest();
	ck_assert_int_ge(fds[2], 0);
	expect_answer(3, -ECONNRESET);
	ck_assert(is_at_end(fds[1]));
	ck_assert(is_at_end(fds[2]));
	while (recv(fds[0], pattern, sizeof(pattern), MSG_DONTWAIT) > 0)
		;
	ck_assert(is_at_end(fds[0]));
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}
END_TEST

START_TEST(guest_works_after_its_reset)
{
	int fd;

	offer_buffers(4);
	close(connect_service(GUEST_PORT));
	sim_reset(&sim, 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT, queues, 3, QUEUE_SIZE);
	offer_buffers(4);
	fd = connect_service(GUEST_PORT);
	ck_assert_int_eq(write(fd, "again", 5), 5);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RW).len, 5);
	close(fd);
}
END_TEST

START_TEST(nothing_moves_while_the_guest_is_paused)
{
	int fd, client;

	fill_pattern();
	offer_buffers(32);
	fd = connect_service(GUEST_PORT);
	fill_socket();
	virtio_pause(vsock);
	sim_run_moment(&sim);
	virtio_drain(vsock);
	ck_assert_int_eq(write(fd, "later", 5), 5);
	client = offer_connection(4);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(receive_queue), 0);
	virtio_resume(vsock);
	expect_bytes(fd, pattern, CREDIT);
	for (unsigned seen = 0; seen != 3;) {
		struct virtio_vsock_hdr header = next_packet();

		seen |= header.op == VIRTIO_VSOCK_OP_RW ? 1 : header.op == VIRTIO_VSOCK_OP_REQUEST ? 2 : 0;
	}
	close(client);
	close(fd);
}
END_TEST

Suite *vsock_suite(void)
{
	const TTest *const tests[] = {
		guest_has_its_cid,
		guest_reaches_a_service_and_both_talk,
		port_without_a_service_is_refused,
		service_that_does_not_listen_is_refused,
		client_reaches_a_port_of_the_guest,
		client_is_told_that_the_guest_refuses,
		client_that_leaves_before_the_answer_ends_the_offer,
		guest_without_a_driver_is_told_to_the_client,
		host_that_does_not_read_stalls_its_own_connection_alone,
		what_waits_for_a_slow_reader_arrives_in_order_and_renews_credit,
		slow_reader_that_sends_no_more_gets_all,
		credit_request_is_answered,
		guest_gets_no_more_than_it_gave_credit_for,
		payload_waits_for_buffers,
		payload_fills_buffers_and_leaves_those_without_room,
		vcpu_that_sends_and_receives_in_turns_waits_by_itself,
		halves_are_shut_down_one_by_one,
		guest_that_closes_leaves_nothing_unread,
		service_that_reads_no_more_is_told_to_the_guest,
		guest_that_reads_no_more_ends_the_service_s_writes,
		reset_of_the_guest_ends_all_connections,
		guest_works_after_its_reset,
		nothing_moves_while_the_guest_is_paused,
	};
	Suite *suite = suite_create("vsock");

	add_case(suite, "vsock", setup, teardown, 30, tests, ARRAY_SIZE(tests));
	vsock_hostile_tests(suite);
	return suite;
}
