// SPDX-License-Identifier: GPL-2.0-only
/* The socket device: guests that break the protocol, and bounds. */
#include "vsock_fixture.h"

#define CONNECTIONS VSOCK_CONNECTIONS_MAX

START_TEST(packet_of_another_cid_is_dropped)
{
	struct virtio_vsock_hdr header = header_of(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, SERVICE_PORT);

	offer_buffers(2);
	header.src_cid = GUEST_CID + 1;
	send_header(&header, NULL, 0);
	expect_nothing();
}
END_TEST

START_TEST(packet_to_another_cid_is_reset_by_that_cid)
{
	struct virtio_vsock_hdr header = header_of(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, SERVICE_PORT);

	offer_buffers(2);
	header.dst_cid = 1ull << 40;
	send_header(&header, NULL, 0);
	ck_assert(expect_packet(VIRTIO_VSOCK_OP_RST).src_cid == 1ull << 40);
	/* A reset is not answered by another. */
	header.op = VIRTIO_VSOCK_OP_RST;
	send_header(&header, NULL, 0);
	expect_nothing();
}
END_TEST

START_TEST(packet_of_an_unknown_type_is_reset)
{
	struct virtio_vsock_hdr header = header_of(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, SERVICE_PORT);

	offer_buffers(2);
	header.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	send_header(&header, NULL, 0);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RST).type, VIRTIO_VSOCK_TYPE_SEQPACKET);
}
END_TEST

START_TEST(packet_of_an_unknown_operation_resets_its_connection)
{
	int fd;

	offer_buffers(4);
	fd = connect_service(GUEST_PORT);
	send_operation(0xffff, GUEST_PORT, SERVICE_PORT, 0);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	ck_assert(is_at_end(fd));
	close(fd);
}
END_TEST

START_TEST(packet_of_no_connection_is_reset)
{
	offer_buffers(4);
	send_payload(SERVICE_PORT, "what", 4);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	send_operation(VIRTIO_VSOCK_OP_SHUTDOWN, GUEST_PORT, SERVICE_PORT, 3);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	send_operation(VIRTIO_VSOCK_OP_RESPONSE, GUEST_PORT, SERVICE_PORT, 0);
	expect_packet(VIRTIO_VSOCK_OP_RST);
}
END_TEST

START_TEST(second_request_of_a_connection_resets_it)
{
	int fd;

	offer_buffers(4);
	fd = connect_service(GUEST_PORT);
	send_operation(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, SERVICE_PORT, 0);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	ck_assert(is_at_end(fd));
	close(fd);
}
END_TEST

START_TEST(payload_before_the_answer_resets)
{
	int fd;

	offer_buffers(4);
	send_operation(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, SERVICE_PORT, 0);
	send_payload(SERVICE_PORT, "soon", 4);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	fd = accept_guest();
	ck_assert(is_at_end(fd));
	close(fd);
	expect_nothing();
}
END_TEST

START_TEST(length_beyond_the_chain_drops_the_packet)
{
	const uint32_t lengths[] = { 5, UINT32_MAX, UINT32_MAX - HEADER_BYTES + 1, INT32_MAX };
	struct virtio_vsock_hdr header = header_of(VIRTIO_VSOCK_OP_RW, GUEST_PORT, SERVICE_PORT);
	int fd;

	offer_buffers(4);
	fd = connect_service(GUEST_PORT);
	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		header.len = lengths[i];
		send_header(&header, "four", 4);
	}
	/* Of a longer chain only what the length says. */
	header.len = 2;
	send_header(&header, "four", 4);
	expect_bytes(fd, "fo", 2);
	ck_assert_int_lt(recv(fd, &header, 1, MSG_DONTWAIT), 0);
	close(fd);
}
END_TEST

START_TEST(chain_without_a_whole_header_is_dropped)
{
	struct virtio_vsock_hdr header = header_of(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, SERVICE_PORT);
	struct part part = { sim_text(&sim, &header, sizeof(header)), sizeof(header) - 1, false };

	offer_buffers(2);
	driver_publish(transmit_queue, driver_chain(transmit_queue, &part, 1));
	part.write = true;
	driver_publish(transmit_queue, driver_chain(transmit_queue, &part, 1));
	driver_kick(transmit_queue);
	driver_wait(transmit_queue);
	driver_wait(transmit_queue);
	expect_nothing();
}
END_TEST

START_TEST(header_in_many_pieces_is_read)
{
	struct virtio_vsock_hdr header = header_of(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, NO_SERVICE_PORT);
	uint64_t gpa = sim_text(&sim, &header, sizeof(header));
	struct part parts[HEADER_BYTES];

	offer_buffers(1);
	for (unsigned i = 0; i < HEADER_BYTES; i++)
		parts[i] = (struct part){ gpa + i, 1, false };
	driver_publish(transmit_queue, driver_chain_indirect(transmit_queue, parts, HEADER_BYTES));
	driver_kick(transmit_queue);
	expect_packet(VIRTIO_VSOCK_OP_RST);
}
END_TEST

START_TEST(receive_buffers_without_room_go_back_empty)
{
	struct part part = { sim_alloc(&sim, HEADER_BYTES, 8), HEADER_BYTES, true };

	driver_publish(receive_queue, driver_chain(receive_queue, &part, 1));
	part.write = false;
	driver_publish(receive_queue, driver_chain(receive_queue, &part, 1));
	driver_kick(receive_queue);
	send_operation(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, NO_SERVICE_PORT, 0);
	ck_assert_uint_eq(driver_wait(receive_queue).len, 0);
	ck_assert_uint_eq(driver_wait(receive_queue).len, 0);
	offer_buffers(1);
	expect_packet(VIRTIO_VSOCK_OP_RST);
}
END_TEST

START_TEST(guest_that_sends_beyond_its_credit_is_reset)
{
	static const uint8_t zeroes[CREDIT / 4];
	unsigned resets = 0;
	int fd;

	offer_buffers(64);
	fd = connect_service(GUEST_PORT);
	/* Far more than socket and buffer hold, whatever credit there is. */
	for (unsigned i = 0; i < 16; i++)
		send_payload(SERVICE_PORT, zeroes, sizeof(zeroes));
	while (driver_used(receive_queue))
		resets += next_packet().op == VIRTIO_VSOCK_OP_RST;
	ck_assert_uint_gt(resets, 0);
	while (recv(fd, received, sizeof(received), MSG_DONTWAIT) > 0)
		;
	ck_assert(is_at_end(fd));
	close(fd);
}
END_TEST

START_TEST(one_packet_beyond_all_credit_is_reset)
{
	static const uint8_t zeroes[CREDIT + 1];
	int fd;

	offer_buffers(4);
	fd = connect_service(GUEST_PORT);
	send_payload(SERVICE_PORT, zeroes, sizeof(zeroes));
	expect_packet(VIRTIO_VSOCK_OP_RST);
	ck_assert(is_at_end(fd));
	close(fd);
}
END_TEST

START_TEST(guest_that_lies_about_its_credit_gets_no_more_than_its_buffers)
{
	int fd;

	guest_room = UINT32_MAX;
	guest_forwarded = UINT32_MAX;
	offer_buffers(3);
	fd = connect_service(GUEST_PORT);
	ck_assert_int_eq(write(fd, "abc", 3), 3);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RW).len, 3);
	guest_forwarded = 1u << 31;
	guest_room = 1;
	send_operation(VIRTIO_VSOCK_OP_CREDIT_UPDATE, GUEST_PORT, SERVICE_PORT, 0);
	ck_assert_int_eq(write(fd, "abc", 3), 3);
	expect_packet(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	close(fd);
}
END_TEST

START_TEST(connections_are_bounded)
{
	int fds[CONNECTIONS], fd;

	for (unsigned i = 0; i < CONNECTIONS; i++) {
		offer_buffers(1);
		fds[i] = connect_service(GUEST_PORT + i);
	}
	offer_buffers(4);
	send_operation(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT - 1, SERVICE_PORT, 0);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	fd = offer_connection(5);
	expect_answer(5, -EBUSY);
	close(fd);
	/* One that ends leaves its place to another. */
	send_operation(VIRTIO_VSOCK_OP_RST, GUEST_PORT, SERVICE_PORT, 0);
	ck_assert(is_at_end(fds[0]));
	close(connect_service(GUEST_PORT));
	for (unsigned i = 0; i < CONNECTIONS; i++)
		close(fds[i]);
}
END_TEST

START_TEST(offer_whose_socket_was_lost_is_one_too_many)
{
	ck_assert_int_eq(vsock_connector_offer(&connector, 7, GUEST_PORT, -1), 0);
	sim_run_moment(&sim);
	expect_answer(7, -EBUSY);
}
END_TEST

START_TEST(requests_that_the_supervisor_has_not_answered_are_bounded)
{
	unsigned asked = 0;
	struct vsock_message message;

	offer_buffers(QUEUE_SIZE);
	for (unsigned i = 0; i < CONNECTIONS + QUEUE_SIZE; i++) {
		send_operation(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, SERVICE_PORT, 0);
		send_operation(VIRTIO_VSOCK_OP_RST, GUEST_PORT, SERVICE_PORT, 0);
		sim_run_moment(&sim);
	}
	while (recv(connector.sockets[0], &message, sizeof(message), MSG_DONTWAIT) == sizeof(message))
		asked++;
	ck_assert_uint_eq(asked, CONNECTIONS);
}
END_TEST

START_TEST(resets_without_buffers_stop_the_transmit_queue_until_there_are_some)
{
	struct virtio_vsock_hdr header = header_of(VIRTIO_VSOCK_OP_RW, GUEST_PORT, SERVICE_PORT);
	struct part part = { sim_text(&sim, &header, sizeof(header)), sizeof(header), false };

	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		driver_publish(transmit_queue, driver_chain(transmit_queue, &part, 1));
	driver_kick(transmit_queue);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(transmit_queue), QUEUE_SIZE / 2);
	offer_buffers(QUEUE_SIZE);
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		expect_packet(VIRTIO_VSOCK_OP_RST);
	ck_assert_uint_eq(driver_used(transmit_queue), QUEUE_SIZE);
}
END_TEST

START_TEST(answers_to_nothing_are_dropped)
{
	const struct vsock_message nonsense = { .kind = VSOCK_CONNECTED, .id = 12345 };
	struct vsock_message answer;

	/* From a guest's process that was taken over: an answer is the caller's to check. */
	ck_assert_int_eq(vsock_connector_send(&connector, &nonsense), 0);
	ck_assert(vsock_connector_serve(&connector, &answer));
	ck_assert_uint_eq(answer.id, 12345);
	/* A kind that is none, and half a message, which ends the conversation. */
	ck_assert_int_eq(vsock_connector_send(&connector, &(struct vsock_message){ .kind = 77 }), 0);
	ck_assert(!vsock_connector_serve(&connector, &answer));
	ck_assert_int_eq(write(connector.sockets[1], &nonsense, 3), 3);
	ck_assert(!vsock_connector_serve(&connector, &answer));
	ck_assert_int_eq(connector.sockets[0], -1);
}
END_TEST

START_TEST(supervisor_connects_to_named_services_alone)
{
	const struct vsock_message request = { .kind = VSOCK_CONNECT, .id = 6, .port = NO_SERVICE_PORT };
	struct vsock_message answer;
	int fd;

	ck_assert_int_eq(vsock_connector_send(&connector, &request), 0);
	ck_assert(!vsock_connector_serve(&connector, &answer));
	ck_assert_int_eq(vsock_connector_receive(&connector, &answer, &fd), 0);
	ck_assert_int_eq(answer.result, -ECONNREFUSED);
	ck_assert_int_eq(fd, -1);
}
END_TEST

static int connect_command(void *context)
{
	++*(int *)context;
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

START_TEST(supervisor_serves_the_agent_if_it_is_to_run_a_command)
{
	const struct vsock_message request = { .kind = VSOCK_CONNECT, .id = 6, .port = VSOCK_COMMAND_PORT };
	struct vsock_message answer;
	int fd, calls = 0;

	for (int expected = 0; expected < 2; expected++) {
		ck_assert_int_eq(vsock_connector_send(&connector, &request), 0);
		ck_assert(!vsock_connector_serve(&connector, &answer));
		ck_assert_int_eq(vsock_connector_receive(&connector, &answer, &fd), 0);
		ck_assert_int_eq(answer.result, expected ? 0 : -ECONNREFUSED);
		ck_assert_int_eq(fd >= 0, expected);
		ck_assert_int_eq(calls, expected);
		connector.connect_command = connect_command;
		connector.context = &calls;
	}
	close(fd);
}
END_TEST

void vsock_hostile_tests(Suite *suite)
{
	const TTest *const tests[] = {
		packet_of_another_cid_is_dropped,
		packet_to_another_cid_is_reset_by_that_cid,
		packet_of_an_unknown_type_is_reset,
		packet_of_an_unknown_operation_resets_its_connection,
		packet_of_no_connection_is_reset,
		second_request_of_a_connection_resets_it,
		payload_before_the_answer_resets,
		length_beyond_the_chain_drops_the_packet,
		chain_without_a_whole_header_is_dropped,
		header_in_many_pieces_is_read,
		receive_buffers_without_room_go_back_empty,
		guest_that_sends_beyond_its_credit_is_reset,
		one_packet_beyond_all_credit_is_reset,
		guest_that_lies_about_its_credit_gets_no_more_than_its_buffers,
		connections_are_bounded,
		offer_whose_socket_was_lost_is_one_too_many,
		requests_that_the_supervisor_has_not_answered_are_bounded,
		resets_without_buffers_stop_the_transmit_queue_until_there_are_some,
		answers_to_nothing_are_dropped,
		supervisor_connects_to_named_services_alone,
		supervisor_serves_the_agent_if_it_is_to_run_a_command,
	};

	add_case(suite, "hostile", setup, teardown, 30, tests, ARRAY_SIZE(tests));
}
