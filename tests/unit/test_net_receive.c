// SPDX-License-Identifier: GPL-2.0-only
/* Frames that a guest receives. */
#include "net_fixture.h"

/* Buffers that are all of memory each, and together 4 GiB: none of it is counted in 32 bits and in 64. */
START_TEST(receive_chain_of_4_gib_breaks_the_device)
{
	static struct part parts[NET_QUEUE_SIZE];
	const uint64_t features[] = { FEATURES_BASE, FEATURES_BASE | FEATURE(VIRTIO_NET_F_MRG_RXBUF) };

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		add_device(1, ALL_OFFLOADS, 0);
		sim_start_device(&sim, 0, features[i], queues, 3, NET_QUEUE_SIZE);
		for (unsigned j = 0; j < NET_QUEUE_SIZE; j++)
			parts[j] = (struct part){ 0, SIM_MEMORY, true };
		driver_publish(receive, driver_chain_indirect(receive, parts, NET_QUEUE_SIZE));
		offer_buffer(receive, 64);
		driver_kick(receive);
		/* One that fits a buffer of any kind, and one that only the first would hold. */
		host_send(0, NULL, 0, 14);
		host_send(0, NULL, 0, 1000);
		sim_run_moment(&sim);
		ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
		ck_assert_uint_eq(driver_used(receive), 0);
		teardown();
	}
}
END_TEST

START_TEST(frame_comes_in)
{
	uint64_t gpa = offer_buffer(receive, 2000);
	const struct virtio_net_hdr_mrg_rxbuf *header = sim_at(&sim, gpa, HEADER);
	struct vring_used_elem element;

	driver_kick(receive);
	host_send(0, NULL, 1, FRAME);
	element = driver_wait(receive);
	ck_assert_uint_eq(element.len, HEADER + FRAME);
	ck_assert_uint_eq(header->num_buffers, 1);
	assert_frame(sim_at(&sim, gpa + HEADER, FRAME), 1, FRAME);
	ck_assert_uint_eq(driver_interrupts(receive), 1);
	ck_assert_uint_eq(counted("receive.frames"), 1);
	ck_assert_uint_eq(counted("receive.bytes"), FRAME);
}
END_TEST

START_TEST(headers_of_received_frames_reach_the_guest)
{
	const struct virtio_net_hdr sent = {
		VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, 34, 16
	};
	uint64_t gpa = offer_buffer(receive, 2000);

	driver_kick(receive);
	host_send(0, &sent, 1, FRAME);
	driver_wait(receive);
	ck_assert_mem_eq(sim_at(&sim, gpa, sizeof(sent)), &sent, sizeof(sent));
}
END_TEST

START_TEST(large_frame_takes_several_buffers_at_once)
{
	uint64_t gpa[8];
	uint8_t joined[8 * 1000];
	struct vring_used_elem element;
	const uint32_t length = 5500;

	for (unsigned i = 0; i < 8; i++)
		gpa[i] = offer_buffer(receive, 1000);
	driver_kick(receive);
	host_send(0, NULL, 4, length);
	driver_wait(receive);
	receive->last_used--;
	ck_assert_uint_eq(driver_used(receive), 6);
	for (unsigned i = 0; i < 6; i++) {
		element = driver_wait(receive);
		ck_assert_uint_eq(element.len, i < 5 ? 1000 : HEADER + length - 5000);
		memcpy(joined + 1000 * i, sim_at(&sim, gpa[i], 1000), 1000);
	}
	ck_assert_uint_eq(((struct virtio_net_hdr_mrg_rxbuf *)joined)->num_buffers, 6);
	assert_frame(joined + HEADER, 4, length);
	/* The next goes into the next. */
	host_send(0, NULL, 5, FRAME);
	driver_wait(receive);
	assert_frame(sim_at(&sim, gpa[6] + HEADER, FRAME), 5, FRAME);
}
END_TEST

START_TEST(largest_frame_comes_in_buffers_of_all_sizes)
{
	const uint32_t sizes[] = { 1, 11, 13, 4096, 20000, 3, 70000 };
	uint8_t *joined = malloc(HEADER + NET_FRAME_MAX);
	uint64_t gpa[ARRAY_SIZE(sizes)];
	size_t at = 0;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		gpa[i] = offer_buffer(receive, sizes[i]);
	driver_kick(receive);
	host_send(0, NULL, 4, NET_FRAME_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint32_t part = driver_wait(receive).len;

		memcpy(joined + at, sim_at(&sim, gpa[i], part), part);
		at += part;
	}
	ck_assert_uint_eq(at, HEADER + NET_FRAME_MAX);
	ck_assert_uint_eq(((struct virtio_net_hdr_mrg_rxbuf *)joined)->num_buffers, ARRAY_SIZE(sizes));
	assert_frame(joined + HEADER, 4, NET_FRAME_MAX);
	free(joined);
}
END_TEST

START_TEST(frame_waits_for_the_buffers_that_it_needs)
{
	uint64_t gpa[3];
	uint8_t joined[3 * 500];

	gpa[0] = offer_buffer(receive, 500);
	driver_kick(receive);
	host_send(0, NULL, 7, 1400);
	assert_nothing_received(receive);
	gpa[1] = offer_buffer(receive, 500);
	driver_kick(receive);
	assert_nothing_received(receive);
	gpa[2] = offer_buffer(receive, 500);
	driver_kick(receive);
	for (unsigned i = 0; i < 3; i++) {
		driver_wait(receive);
		memcpy(joined + 500 * i, sim_at(&sim, gpa[i], 500), 500);
	}
	assert_frame(joined + HEADER, 7, 1400);
	ck_assert_uint_eq(counted("receive.dropped"), 0);
}
END_TEST

START_TEST(frame_that_no_ring_of_buffers_can_hold_is_dropped)
{
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		offer_buffer(receive, 16);
	driver_kick(receive);
	host_send(0, NULL, 7, 1400);
	host_send(0, NULL, 8, FRAME);
	for (unsigned i = 0; i < (HEADER + FRAME) / 16; i++)
		driver_wait(receive);
	ck_assert_uint_eq(counted("receive.dropped"), 1);
	ck_assert_uint_eq(counted("receive.frames"), 1);
}
END_TEST

START_TEST(without_merging_a_frame_has_one_chain)
{
	uint64_t small = offer_buffer(receive, 100), gpa = sim_alloc(&sim, 2000, 8);
	struct part parts[2] = { { gpa, HEADER, true }, { gpa + HEADER, 1900, true } };
	const struct virtio_net_hdr_mrg_rxbuf *header = sim_at(&sim, gpa, HEADER);

	(void)small;
	driver_publish(receive, driver_chain(receive, parts, 2));
	driver_kick(receive);
	host_send(0, NULL, 1, FRAME);
	host_send(0, NULL, 2, 100 - HEADER);
	host_send(0, NULL, 3, 1900);
	ck_assert_uint_eq(driver_wait(receive).len, 100);
	ck_assert_uint_eq(driver_wait(receive).len, HEADER + 1900);
	ck_assert_uint_eq(header->num_buffers, 1);
	assert_frame(sim_at(&sim, gpa + HEADER, 1900), 3, 1900);
	ck_assert_uint_eq(counted("receive.dropped"), 1);
}
END_TEST

START_TEST(frames_with_unaccepted_offloads_are_dropped)
{
	const struct virtio_net_hdr checksum = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16
	};
	const struct virtio_net_hdr segments = { .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 9 };
	const struct virtio_net_hdr unknown = { .gso_type = 0x70 };

	offer_buffer(receive, 2000);
	driver_kick(receive);
	host_send(0, &checksum, 1, FRAME);
	host_send(0, &segments, 1, FRAME);
	host_send(0, &unknown, 1, FRAME);
	host_send(0, NULL, 1, FRAME);
	driver_wait(receive);
	ck_assert_uint_eq(counted("receive.dropped"), 3);
}
END_TEST

START_TEST(received_chains_without_room_do_no_harm)
{
	struct part readable = { sim_alloc(&sim, 64, 8), 64, false };

	driver_publish(receive, driver_chain(receive, &readable, 1));
	offer_buffer(receive, 2000);
	driver_kick(receive);
	host_send(0, NULL, 1, FRAME);
	ck_assert_uint_eq(driver_wait(receive).len, 0);
	ck_assert_uint_eq(driver_wait(receive).len, HEADER + FRAME);
}
END_TEST

START_TEST(frames_wait_while_there_are_no_buffers)
{
	for (unsigned i = 0; i < 5; i++)
		host_send(0, NULL, i, FRAME);
	assert_nothing_received(receive);
	for (unsigned i = 0; i < 5; i++) {
		uint64_t gpa = offer_buffer(receive, 1600);

		driver_kick(receive);
		driver_wait(receive);
		assert_frame(sim_at(&sim, gpa + HEADER, FRAME), i, FRAME);
	}
}
END_TEST

START_TEST(many_frames_come_by_one_interrupt)
{
	for (unsigned i = 0; i < 20; i++)
		offer_buffer(receive, 1600);
	for (unsigned i = 0; i < 20; i++)
		host_send(0, NULL, i, FRAME);
	driver_kick(receive);
	for (unsigned i = 0; i < 20; i++)
		driver_wait(receive);
	ck_assert_uint_eq(driver_interrupts(receive), 1);
}
END_TEST

START_TEST(nothing_comes_in_after_a_reset)
{
	uint64_t gpa = offer_buffer(receive, 2000);
	uint8_t *bytes = sim_at(&sim, gpa, 2000);

	driver_kick(receive);
	sim_reset(&sim, 0);
	host_send(0, NULL, 1, FRAME);
	sim_run_moment(&sim);
	for (unsigned i = 0; i < 2000; i++)
		ck_assert_uint_eq(bytes[i], 0);
	start(1, device->offered);
	offer_buffer(receive, 2000);
	driver_kick(receive);
	ck_assert_uint_eq(driver_wait(receive).len, HEADER + FRAME);
}
END_TEST

void net_receive_tests(Suite *suite)
{
	const TTest *const own[] = { receive_chain_of_4_gib_breaks_the_device };
	const TTest *const full[] = {
		frame_comes_in,
		headers_of_received_frames_reach_the_guest,
		large_frame_takes_several_buffers_at_once,
		largest_frame_comes_in_buffers_of_all_sizes,
		frame_waits_for_the_buffers_that_it_needs,
		frame_that_no_ring_of_buffers_can_hold_is_dropped,
		received_chains_without_room_do_no_harm,
		frames_wait_while_there_are_no_buffers,
		many_frames_come_by_one_interrupt,
		nothing_comes_in_after_a_reset,
	};
	const TTest *const plain[] = {
		without_merging_a_frame_has_one_chain,
		frames_with_unaccepted_offloads_are_dropped,
	};

	add_case(suite, "own", NULL, NULL, 60, own, ARRAY_SIZE(own));
	add_case(suite, "full", setup, teardown, 60, full, ARRAY_SIZE(full));
	add_case(suite, "plain", setup_plain, teardown, 60, plain, ARRAY_SIZE(plain));
}
