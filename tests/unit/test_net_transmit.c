// SPDX-License-Identifier: GPL-2.0-only
/* Frames that a guest sends. */
#include "net_fixture.h"

START_TEST(frame_goes_out)
{
	send_frame(NULL, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
	assert_frame(got + HEADER, 0, FRAME);
	ck_assert_uint_eq(counted("transmit.frames"), 1);
	ck_assert_uint_eq(counted("transmit.bytes"), FRAME);
}
END_TEST

START_TEST(frame_goes_out_however_it_is_cut)
{
	const uint32_t cuts[] = { 1, HEADER - 1, HEADER, HEADER + 1, HEADER + FRAME - 1 };

	for (size_t i = 0; i < ARRAY_SIZE(cuts); i++) {
		uint64_t gpa = guest_frame(NULL, 3, FRAME);
		struct part parts[2] = { { gpa, cuts[i], false },
			{ gpa + cuts[i], HEADER + FRAME - cuts[i], false } };

		send_parts(parts, 2);
		driver_wait(transmit);
		ck_assert_int_eq(host_frame(0), FRAME);
		assert_frame(got + HEADER, 3, FRAME);
	}
	/* A byte a buffer. */
	struct part bytes[HEADER + 40];
	uint64_t gpa = guest_frame(NULL, 9, 40);

	for (unsigned i = 0; i < ARRAY_SIZE(bytes); i++)
		bytes[i] = (struct part){ gpa + i, 1, false };
	send_parts(bytes, ARRAY_SIZE(bytes));
	driver_wait(transmit);
	ck_assert_int_eq(host_frame(0), 40);
	assert_frame(got + HEADER, 9, 40);
}
END_TEST

START_TEST(many_frames_go_out_in_order_by_one_notification)
{
	for (unsigned i = 0; i < 32; i++) {
		struct part part = { guest_frame(NULL, i, FRAME), HEADER + FRAME, false };

		driver_publish(transmit, driver_chain(transmit, &part, 1));
	}
	driver_kick(transmit);
	for (unsigned i = 0; i < 32; i++) {
		driver_wait(transmit);
		ck_assert_int_eq(host_frame(0), FRAME);
		assert_frame(got + HEADER, i, FRAME);
	}
}
END_TEST

static uint16_t sent_again;

static void send_again(void)
{
	driver_publish(transmit, sent_again);
}

START_TEST(one_notification_sends_a_ring_of_frames_at_most)
{
	struct part part = { guest_frame(NULL, 0, FRAME), HEADER + FRAME, false };
	unsigned most = device->queues[1].size_max;

	sent_again = driver_chain(transmit, &part, 1);
	/* From another CPU, the guest adds one for each that is sent. */
	meanwhile = send_again;
	send_again();
	driver_kick(transmit);
	ck_assert_uint_eq(swallowed, most);
	/* The rest has its turn, behind others'. */
	io_ring_reap(&sim.ring, true);
	ck_assert_uint_gt(swallowed, most);
	meanwhile = NULL;
	sim_run_moment(&sim);
	ck_assert_int_eq(host_frame(0), FRAME);
	ck_assert(!device->queues[1].broken);
}
END_TEST

START_TEST(good_headers_reach_the_other_end)
{
	const struct virtio_net_hdr headers[] = {
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = FRAME - 8, .csum_offset = 6 },
		{ VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, 34, 16 },
		{ VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV6, FRAME, 1, 54, 16 },
		{ VIRTIO_NET_HDR_F_NEEDS_CSUM, GSO_UDP_L4, 42, 10, 34, 6 },
		{ VIRTIO_NET_HDR_F_NEEDS_CSUM,
			VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, 54, 10, 34, 16 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		send_frame(&headers[i], FRAME);
		ck_assert_int_eq(host_frame(0), FRAME);
		ck_assert_mem_eq(got, &headers[i], sizeof(headers[i]));
		ck_assert_uint_eq(got[10] | got[11], 0);
	}
	ck_assert_uint_eq(counted("transmit.refused"), 0);
}
END_TEST

START_TEST(what_a_header_must_not_say_does_not_get_out)
{
	/* Flags of received frames, and lengths for no segments. */
	const struct virtio_net_hdr header = {
		.flags = 0xfe, .hdr_len = 40, .gso_size = 9, .csum_start = 999, .csum_offset = 7
	};
	const struct virtio_net_hdr nothing = { 0 };

	send_frame(&header, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
	ck_assert_mem_eq(got, &nothing, sizeof(nothing));
}
END_TEST

START_TEST(headers_that_lie_are_refused)
{
	const uint8_t csum = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	const struct virtio_net_hdr headers[] = {
		/* The checksum: outside of the frame, in its first header. */
		{ csum, 0, 0, 0, FRAME, 0 },
		{ csum, 0, 0, 0, FRAME - 1, 0 },
		{ csum, 0, 0, 0, 34, FRAME - 34 - 1 },
		{ csum, 0, 0, 0, 0xffff, 0xffff },
		{ csum, 0, 0, 0, 34, 0xffff },
		{ csum, 0, 0, 0, ETH_HLEN - 1, 16 },
		/* Segments: of no size, without a checksum, with another one's, headers too long. */
		{ csum, VIRTIO_NET_HDR_GSO_TCPV4, 54, 0, 34, 16 },
		{ 0, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, 34, 16 },
		{ csum, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, 34, 6 },
		{ csum, GSO_UDP_L4, 54, 10, 34, 16 },
		{ csum, VIRTIO_NET_HDR_GSO_TCPV6, FRAME + 1, 10, 54, 16 },
		{ csum, VIRTIO_NET_HDR_GSO_TCPV4, 0xffff, 10, 34, 16 },
		/* Kinds that are not offered, or not known. */
		{ csum, VIRTIO_NET_HDR_GSO_UDP, 42, 10, 34, 6 },
		{ csum, GSO_UDP_L4 | VIRTIO_NET_HDR_GSO_ECN, 42, 10, 34, 6 },
		{ csum, VIRTIO_NET_HDR_GSO_ECN, 54, 10, 34, 16 },
		{ csum, 2, 54, 10, 34, 16 },
		{ csum, 0x7f, 54, 10, 34, 16 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		send_frame(&headers[i], FRAME);
		ck_assert_msg(host_frame(0) == -1, "header %zu got out", i);
		ck_assert_uint_eq(counted("transmit.refused"), i + 1);
	}
	send_frame(NULL, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
}
END_TEST

START_TEST(offloads_that_were_not_accepted_are_refused)
{
	const struct virtio_net_hdr checksum = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16
	};
	const struct virtio_net_hdr segments = {
		VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, 34, 16
	};
	struct virtio_net_hdr ecn = segments;

	send_frame(&checksum, FRAME);
	ck_assert_int_eq(host_frame(0), -1);
	sim_reset(&sim, 0);
	start(1, FEATURES_BASE | FEATURE(VIRTIO_NET_F_CSUM));
	send_frame(&checksum, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
	send_frame(&segments, FRAME);
	ck_assert_int_eq(host_frame(0), -1);
	sim_reset(&sim, 0);
	start(1, FEATURES_BASE | FEATURE(VIRTIO_NET_F_CSUM) | FEATURE(VIRTIO_NET_F_HOST_TSO4));
	ecn.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	send_frame(&ecn, FRAME);
	ck_assert_int_eq(host_frame(0), -1);
	send_frame(&segments, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
	ck_assert_uint_eq(counted("transmit.refused"), 3);
}
END_TEST

START_TEST(frames_of_bad_lengths_are_refused)
{
	const uint32_t lengths[] = { 0, 1, HEADER - 1, HEADER, HEADER + ETH_HLEN - 1,
		HEADER + NET_FRAME_MAX + 1, 1u << 20 };
	uint64_t gpa = sim_alloc(&sim, 1u << 20, 8);
	unsigned refused = 0;

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct part part = { gpa, lengths[i], false };

		send_parts(&part, 1);
		driver_wait(transmit);
		ck_assert_int_eq(host_frame(0), -1);
		ck_assert_uint_eq(counted("transmit.refused"), ++refused);
	}
	/* Nothing that we read. */
	struct part part = { gpa, 100, true };

	send_parts(&part, 1);
	ck_assert_uint_eq(driver_wait(transmit).len, 0);
	ck_assert_uint_eq(counted("transmit.refused"), refused + 1);
	send_frame(NULL, ETH_HLEN);
	ck_assert_int_eq(host_frame(0), ETH_HLEN);
	send_frame(NULL, NET_FRAME_MAX);
	ck_assert_int_eq(host_frame(0), NET_FRAME_MAX);
}
END_TEST

/* More frames than the socket holds; how many it took. */
static unsigned fill_socket(void)
{
	for (unsigned i = 0; i < 40; i++) {
		struct part part = { guest_frame(NULL, i, 20000), HEADER + 20000, false };

		driver_publish(transmit, driver_chain(transmit, &part, 1));
	}
	driver_kick(transmit);
	sim_run_moment(&sim);
	ck_assert_uint_gt(driver_used(transmit), 0);
	ck_assert_uint_lt(driver_used(transmit), 40);
	return driver_used(transmit);
}

START_TEST(frames_wait_for_room_and_none_is_lost)
{
	unsigned sent = fill_socket();

	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(transmit), sent);
	for (unsigned i = 0; i < 40; i++) {
		while (host_frame(0) == -1)
			io_ring_reap(&sim.ring, false);
		assert_frame(got + HEADER, i, 20000);
	}
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(transmit), 40);
	ck_assert_uint_eq(counted("transmit.dropped"), 0);
}
END_TEST

START_TEST(reset_forgets_a_frame_that_waits_for_room)
{
	fill_socket();
	sim_reset(&sim, 0);
	while (host_frame(0) != -1)
		;
	start(1, device->offered);
	sim_run_moment(&sim);
	send_frame(NULL, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
}
END_TEST

START_TEST(bulk_transfer_is_looked_at_without_notifications)
{
	send_frame(NULL, 20000);
	ck_assert_uint_eq(transmit->used->idx, 1);
	/* Frames that nobody tells of. */
	for (unsigned i = 1; i < 20; i++) {
		struct part part = { guest_frame(NULL, i, 20000), HEADER + 20000, false };

		driver_publish(transmit, driver_chain(transmit, &part, 1));
		driver_wait(transmit);
		while (host_frame(0) != -1)
			;
	}
	ck_assert_uint_eq(transmit->avail->idx, 20);
	/* After a while without any, the guest has to tell again. */
	sim_run_moment(&sim);
	ck_assert_uint_eq(*driver_avail_event(transmit), 20);
}
END_TEST

START_TEST(acknowledgements_of_a_bulk_transfer_are_looked_at_without_notifications)
{
	struct part part;

	/* However slow we are. */
	sim_set_clock(1000000000000);
	for (unsigned i = 0; i < 40; i++)
		offer_buffer(receive, 4096);
	driver_kick(receive);
	host_send(0, NULL, 0, 60000);
	driver_wait(receive);
	send_frame(NULL, FRAME);
	part = (struct part){ guest_frame(NULL, 1, FRAME), HEADER + FRAME, false };
	driver_publish(transmit, driver_chain(transmit, &part, 1));
	driver_wait(transmit);
	sim_run_clock();
}
END_TEST

START_TEST(lone_frame_is_told_late)
{
	send_frame(NULL, FRAME);
	ck_assert_uint_eq(driver_interrupts(transmit), 0);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(transmit), 1);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(transmit), 0);
}
END_TEST

START_TEST(driver_that_has_seen_a_lone_frame_is_not_told)
{
	for (unsigned i = 1; i <= 3; i++) {
		send_frame(NULL, FRAME);
		*driver_used_event(transmit) = i;
	}
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(transmit), 0);
}
END_TEST

START_TEST(driver_that_waits_is_told_of_the_second_frame_at_once)
{
	send_frame(NULL, FRAME);
	ck_assert_uint_eq(driver_interrupts(transmit), 0);
	send_frame(NULL, FRAME);
	ck_assert_uint_eq(driver_interrupts(transmit), 1);
}
END_TEST

START_TEST(reset_with_a_frame_untold)
{
	send_frame(NULL, FRAME);
	sim_reset(&sim, 0);
	start(1, device->offered);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(transmit), 0);
	send_frame(NULL, FRAME);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(transmit), 1);
}
END_TEST

START_TEST(vcpu_that_sends_and_receives_in_turns_waits_by_itself)
{
	struct io_ring own;
	uint8_t leave = 0;

	ck_assert_int_eq(io_ring_init_thread(&own, &sim.ring, 1, &leave), 0);
	for (unsigned i = 0; i < 10; i++)
		offer_buffer(receive, 2000);
	driver_kick(receive);
	io_ring_bind(&own);
	send_frame(NULL, FRAME);
	io_ring_unbind(&own);
	/* The I/O thread waits for the first answer. */
	ck_assert(!net_waits_on_vcpu(&end, 0));
	host_send(0, NULL, 0, FRAME);
	driver_wait(receive);
	io_ring_bind(&own);
	for (unsigned i = 1; i <= 3; i++) {
		send_frame(NULL, FRAME);
		ck_assert(net_waits_on_vcpu(&end, 0));
		ck_assert(io_ring_arm_eventfd(&own));
		host_send(0, NULL, i, FRAME);
		/* The I/O thread takes no part. */
		ck_assert_uint_eq(leave, 1);
		leave = 0;
		io_ring_reap(&own, false);
		ck_assert_uint_eq(driver_used(receive), 1);
		driver_wait(receive);
	}
	ck_assert(net_waits_on_vcpu(&end, 0));
	/* One that the other end has taken from its socket already makes nobody leave the guest. */
	send_frame(NULL, FRAME);
	host_send(0, NULL, 0, FRAME);
	pending = true;
	io_ring_reap(&own, false);
	ck_assert(!net_waits_on_vcpu(&end, 0));
	ck_assert(end.queues[0].readable_armed);
	driver_wait(receive);
	pending = false;
	send_frame(NULL, FRAME);
	host_send(0, NULL, 0, FRAME);
	io_ring_reap(&own, false);
	ck_assert_uint_eq(driver_used(receive), 1);
	driver_wait(receive);
	ck_assert(net_waits_on_vcpu(&end, 0));
	/* Two that come without anything sent between are no turns any more. */
	host_send(0, NULL, 0, FRAME);
	io_ring_reap(&own, false);
	ck_assert(!net_waits_on_vcpu(&end, 0));
	io_ring_unbind(&own);
	driver_wait(receive);
	host_send(0, NULL, 0, FRAME);
	driver_wait(receive);
	ck_assert_uint_eq(counted("receive.frames"), 8);
	io_ring_release_thread(&own);
}
END_TEST

void net_transmit_tests(Suite *suite)
{
	const TTest *const full[] = {
		frame_goes_out,
		frame_goes_out_however_it_is_cut,
		many_frames_go_out_in_order_by_one_notification,
		one_notification_sends_a_ring_of_frames_at_most,
		good_headers_reach_the_other_end,
		what_a_header_must_not_say_does_not_get_out,
		headers_that_lie_are_refused,
		frames_of_bad_lengths_are_refused,
		frames_wait_for_room_and_none_is_lost,
		reset_forgets_a_frame_that_waits_for_room,
		bulk_transfer_is_looked_at_without_notifications,
		acknowledgements_of_a_bulk_transfer_are_looked_at_without_notifications,
		lone_frame_is_told_late,
		driver_that_has_seen_a_lone_frame_is_not_told,
		driver_that_waits_is_told_of_the_second_frame_at_once,
		reset_with_a_frame_untold,
		vcpu_that_sends_and_receives_in_turns_waits_by_itself,
	};
	const TTest *const plain[] = { offloads_that_were_not_accepted_are_refused };

	add_case(suite, "full", setup, teardown, 60, full, ARRAY_SIZE(full));
	add_case(suite, "plain", setup_plain, teardown, 60, plain, ARRAY_SIZE(plain));
}
