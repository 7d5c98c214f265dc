// SPDX-License-Identifier: GPL-2.0-only
/* The socket device in snapshots: the restored guest's connections are reset, and it makes new ones. */
#include "vsock_fixture.h"
#include "state_fixture.h"

static struct driver_queue *event_queue = &queues[2];
static uint64_t event_gpa; /* of all buffers */

static void offer_event_buffer(void)
{
	if (!event_gpa)
		event_gpa = sim_alloc(&sim, sizeof(struct virtio_vsock_event), 8);
	*(uint32_t *)sim_at(&sim, event_gpa, 4) = UINT32_MAX;
	driver_publish(event_queue,
		driver_chain(event_queue, &(struct part){ event_gpa, sizeof(struct virtio_vsock_event), true }, 1));
}

/* As a guest does that is notified for: the device asks for it, or not. */
static void kick_if_wanted(struct driver_queue *queue, uint16_t before)
{
	if (vring_need_event(*driver_avail_event(queue), queue->avail->idx, before))
		driver_kick(queue);
}

static void make_vsock(void)
{
	vsock_connector_close(&connector);
	ck_assert_int_eq(vsock_connector_open(&connector), 0);
	vsock = vsock_create(&sim.environment, &connector);
	ck_assert_int_eq(machine_add(&sim.machine, vsock), 0);
}

static void restore_vsock(void)
{
	sim_change_process(&sim);
	make_vsock();
	ck_assert_int_eq(sim_restore(&sim), 0);
}

static void take_event(void)
{
	ck_assert_uint_eq(driver_wait(event_queue).len, sizeof(struct virtio_vsock_event));
	ck_assert_uint_eq(*(uint32_t *)sim_at(&sim, event_gpa, 4), VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	ck_assert_uint_gt(driver_interrupts(event_queue), 0);
	*driver_used_event(event_queue) = event_queue->last_used;
}

START_TEST(connections_are_reset)
{
	int fd;

	offer_buffers(8);
	offer_event_buffer();
	fd = connect_service(GUEST_PORT);
	sim_save(&sim);
	restore_vsock();
	take_event();
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RST).src_port, SERVICE_PORT);
	ck_assert(is_at_end(fd));
	/* And forgotten. */
	send_payload(SERVICE_PORT, "hello", 5);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	expect_nothing();
	close(fd);
}
END_TEST

START_TEST(saved_guest_keeps_its_connections)
{
	int fd;

	offer_buffers(8);
	offer_event_buffer();
	fd = connect_service(GUEST_PORT);
	sim_save(&sim);
	machine_resume_devices(&sim.machine);
	send_payload(SERVICE_PORT, "hello", 5);
	expect_bytes(fd, "hello", 5);
	expect_nothing();
	ck_assert_uint_eq(driver_used(event_queue), 0);
	close(fd);
}
END_TEST

/* The guest would take the event for the end of a connection that is new. */
START_TEST(new_connections_wait_until_the_guest_has_taken_note)
{
	uint16_t before;
	int fd, client;

	offer_buffers(8);
	offer_event_buffer();
	offer_event_buffer();
	fd = connect_service(GUEST_PORT);
	sim_save(&sim);
	restore_vsock();
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(event_queue), 1);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	client = offer_connection(9);
	expect_nothing();
	before = event_queue->avail->idx;
	offer_event_buffer();
	kick_if_wanted(event_queue, before);
	expect_packet(VIRTIO_VSOCK_OP_REQUEST);
	close(client);
	close(fd);
}
END_TEST

START_TEST(guest_without_event_buffers_has_connections_all_the_same)
{
	uint16_t before = event_queue->avail->idx;
	int fd, client;

	offer_buffers(8);
	fd = connect_service(GUEST_PORT);
	sim_save(&sim);
	restore_vsock();
	client = offer_connection(9);
	expect_packet(VIRTIO_VSOCK_OP_RST);
	expect_packet(VIRTIO_VSOCK_OP_REQUEST);
	/* The event comes when there is a buffer for it. */
	offer_event_buffer();
	kick_if_wanted(event_queue, before);
	take_event();
	close(client);
	close(fd);
}
END_TEST

START_TEST(guest_without_connections_is_told_nothing)
{
	int fd, client;

	offer_buffers(8);
	offer_event_buffer();
	sim_save(&sim);
	restore_vsock();
	expect_nothing();
	ck_assert_uint_eq(driver_used(event_queue), 0);
	fd = connect_service(GUEST_PORT);
	send_payload(SERVICE_PORT, "hello", 5);
	expect_bytes(fd, "hello", 5);
	client = offer_connection(9);
	expect_packet(VIRTIO_VSOCK_OP_REQUEST);
	close(client);
	close(fd);
}
END_TEST

/* Before the supervisor has answered, and before the guest has. */
START_TEST(connections_that_are_not_made_yet_are_reset)
{
	unsigned resets = 0;
	int client;

	offer_buffers(8);
	send_operation(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, SERVICE_PORT, 0);
	client = offer_connection(7);
	expect_packet(VIRTIO_VSOCK_OP_REQUEST);
	sim_save(&sim);
	restore_vsock();
	for (; resets < 2; resets++)
		expect_packet(VIRTIO_VSOCK_OP_RST);
	expect_nothing();
	close(client);
}
END_TEST

START_TEST(resets_that_wait_for_buffers_come_afterwards)
{
	send_operation(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, NO_SERVICE_PORT, 0);
	sim_save(&sim);
	restore_vsock();
	offer_buffers(1);
	ck_assert_uint_eq(expect_packet(VIRTIO_VSOCK_OP_RST).src_port, NO_SERVICE_PORT);
}
END_TEST

START_TEST(host_ports_are_not_those_of_before)
{
	uint32_t port;
	int clients[2];

	offer_buffers(8);
	clients[0] = offer_connection(1);
	port = expect_packet(VIRTIO_VSOCK_OP_REQUEST).src_port;
	sim_save(&sim);
	restore_vsock();
	expect_packet(VIRTIO_VSOCK_OP_RST);
	clients[1] = offer_connection(1);
	ck_assert_uint_ne(expect_packet(VIRTIO_VSOCK_OP_REQUEST).src_port, port);
	close(clients[0]);
	close(clients[1]);
}
END_TEST

static void drive(void)
{
	for (unsigned i = 0; i < 3; i++)
		virtio_queue_notify(vsock, i, false);
	run_what_is_due(&sim);
}

START_TEST(vsock_with_any_wrong_number_is_refused_or_harmless)
{
	int fd;

	offer_event_buffer();
	offer_buffers(8);
	fd = connect_service(GUEST_PORT);
	restore_every_wrong_number(&sim, make_vsock, drive);
	close(fd);
}
END_TEST

static void keep_buffers(void)
{
	while ((uint16_t)(receive_queue->avail->idx - receive_queue->last_used) < 8)
		offer_buffers(1);
}

/* Connections that are made, used and saved at random: each byte arrives once, or its connection is reset. */
START_TEST(vsock_does_the_same_with_snapshots)
{
	uint64_t random = 1 + _i;
	uint8_t sent = 0;
	int fd = -1;

	offer_event_buffer();
	for (unsigned step = 0; step < 120; step++) {
		uint16_t before = event_queue->avail->idx;

		keep_buffers();
		if (fd < 0)
			fd = connect_service(GUEST_PORT);
		for (unsigned i = random_next(&random) % 4; i > 0; i--, sent++) {
			send_payload(SERVICE_PORT, &sent, 1);
			expect_bytes(fd, &sent, 1);
			ck_assert_int_eq(write(fd, &sent, 1), 1);
			expect_packet(VIRTIO_VSOCK_OP_RW);
			ck_assert_uint_eq(received[0], sent);
			keep_buffers();
		}
		if (random_next(&random) % 4)
			continue;
		sim_save(&sim);
		restore_vsock();
		take_event();
		expect_packet(VIRTIO_VSOCK_OP_RST);
		ck_assert(is_at_end(fd));
		close(fd);
		fd = -1;
		offer_event_buffer();
		kick_if_wanted(event_queue, before);
	}
	close(fd);
}
END_TEST

void state_vsock_tests(Suite *suite)
{
	const TTest *const tests[] = {
		connections_are_reset,
		saved_guest_keeps_its_connections,
		new_connections_wait_until_the_guest_has_taken_note,
		guest_without_event_buffers_has_connections_all_the_same,
		guest_without_connections_is_told_nothing,
		connections_that_are_not_made_yet_are_reset,
		resets_that_wait_for_buffers_come_afterwards,
		host_ports_are_not_those_of_before,
		vsock_with_any_wrong_number_is_refused_or_harmless,
	};
	TCase *of_vsock = add_case(suite, "vsock", setup, teardown, 60, tests, ARRAY_SIZE(tests));

	tcase_add_loop_test(of_vsock, vsock_does_the_same_with_snapshots, 0, 2);
}
