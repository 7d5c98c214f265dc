// SPDX-License-Identifier: GPL-2.0-only
/* The network device: its configuration, control queue, link and limits. */
#include "net_fixture.h"

static void setup_pairs(void)
{
	add_device(PAIRS, ALL_OFFLOADS, 0);
	start(PAIRS, device->offered);
}

/* --- Frames. */

START_TEST(configuration_tells_address_link_and_mtu)
{
	struct virtio_net_config config = { 0 };
	uint64_t buffer = sim_alloc(&sim, sizeof(config), 8);

	ck_assert_uint_eq(device->config_size, 12);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 12), buffer), 0);
	memcpy(&config, sim_at(&sim, buffer, 12), 12);
	ck_assert_mem_eq(config.mac, mac, ETH_ALEN);
	ck_assert_uint_eq(config.status, VIRTIO_NET_S_LINK_UP);
	ck_assert_uint_eq(config.max_virtqueue_pairs, 1);
	ck_assert(!(device->offered & FEATURE(VIRTIO_NET_F_MTU)));
	ck_assert(!(device->offered & FEATURE(VIRTIO_NET_F_MQ)));
	ck_assert_int_lt(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 0, 6), buffer), 0);
}
END_TEST

START_TEST(mtu_is_told)
{
	add_device(1, 0, 9000);
	ck_assert(device->offered & FEATURE(VIRTIO_NET_F_MTU));
	ck_assert_uint_eq(((const struct virtio_net_config *)device->config)->mtu, 9000);
	teardown();
}
END_TEST

START_TEST(offloads_are_those_of_the_other_end)
{
	const uint64_t always = FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_STATUS) |
		FEATURE(VIRTIO_NET_F_MRG_RXBUF) | FEATURE(VIRTIO_NET_F_CTRL_VQ) | FEATURES_BASE;

	add_device(1, 0, 0);
	ck_assert_uint_eq(device->offered, always);
	teardown();
	add_device(1, TUN_F_CSUM | TUN_F_TSO4, 0);
	ck_assert_uint_eq(device->offered,
		always | FEATURE(VIRTIO_NET_F_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_CSUM) |
			FEATURE(VIRTIO_NET_F_HOST_TSO4) | FEATURE(VIRTIO_NET_F_GUEST_TSO4) |
			FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS));
	teardown();
	add_device(2, ALL_OFFLOADS, 0);
	ck_assert(device->offered & FEATURE(GUEST_USO4));
	ck_assert(device->offered & FEATURE(HOST_USO));
	ck_assert(device->offered & FEATURE(VIRTIO_NET_F_MQ));
	teardown();
}
END_TEST

START_TEST(driver_chooses_the_offloads_of_received_frames)
{
	ck_assert_uint_eq(offloads_set, ALL_OFFLOADS);
	sim_reset(&sim, 0);
	ck_assert_uint_eq(offloads_set, 0);
	start(1, FEATURES_BASE | FEATURE(VIRTIO_NET_F_GUEST_CSUM));
	ck_assert_uint_eq(offloads_set, TUN_F_CSUM);
	sim_reset(&sim, 0);
	/* Nothing goes without checksums. */
	start(1, FEATURES_BASE | FEATURE(VIRTIO_NET_F_GUEST_TSO4));
	ck_assert_uint_eq(offloads_set, 0);
}
END_TEST

/* --- The control queue. */

static uint8_t command(const void *bytes, uint32_t length)
{
	const uint8_t none = 0xee;
	uint64_t ack = sim_text(&sim, &none, 1);
	struct part parts[2] = { { sim_text(&sim, bytes, length), length, false }, { ack, 1, true } };

	driver_publish(control, driver_chain(control, parts, 2));
	driver_kick(control);
	ck_assert_uint_eq(driver_wait(control).len, 1);
	return *(uint8_t *)sim_at(&sim, ack, 1);
}

static uint8_t set_pairs(uint16_t pairs)
{
	uint8_t bytes[4] = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, pairs, pairs >> 8 };

	return command(bytes, sizeof(bytes));
}

START_TEST(driver_sets_the_pairs_in_use)
{
	ck_assert_uint_eq(queues_set, 1);
	for (unsigned pairs = 1; pairs <= PAIRS; pairs++) {
		ck_assert_uint_eq(set_pairs(pairs), VIRTIO_NET_OK);
		ck_assert_uint_eq(queues_set, pairs);
	}
	ck_assert_uint_eq(set_pairs(0), VIRTIO_NET_ERR);
	ck_assert_uint_eq(set_pairs(PAIRS + 1), VIRTIO_NET_ERR);
	ck_assert_uint_eq(set_pairs(0xffff), VIRTIO_NET_ERR);
	ck_assert_uint_eq(queues_set, PAIRS);
	ck_assert_uint_eq(counted("control.refused"), 3);
	sim_reset(&sim, 0);
	ck_assert_uint_eq(queues_set, 1);
}
END_TEST

START_TEST(each_pair_receives_and_sends)
{
	ck_assert_uint_eq(set_pairs(PAIRS), VIRTIO_NET_OK);
	for (unsigned i = 0; i < PAIRS; i++) {
		uint64_t gpa = offer_buffer(&queues[2 * i], 2000);

		driver_kick(&queues[2 * i]);
		host_send(i, NULL, i, FRAME);
		driver_wait(&queues[2 * i]);
		assert_frame(sim_at(&sim, gpa + HEADER, FRAME), i, FRAME);
		transmit = &queues[2 * i + 1];
		send_frame(NULL, FRAME);
		ck_assert_int_eq(host_frame(i), FRAME);
	}
	transmit = &queues[1];
}
END_TEST

START_TEST(pairs_not_in_use_receive_nothing)
{
	offer_buffer(&queues[2], 2000);
	driver_kick(&queues[2]);
	host_send(1, NULL, 1, FRAME);
	assert_nothing_received(&queues[2]);
	ck_assert_uint_eq(set_pairs(2), VIRTIO_NET_OK);
	driver_wait(&queues[2]);
}
END_TEST

START_TEST(without_multi_queue_the_third_queue_is_the_control_queue)
{
	const uint8_t bytes[10] = { VIRTIO_NET_CTRL_GUEST_OFFLOADS,
		VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, 1 << VIRTIO_NET_F_GUEST_CSUM };

	sim_reset(&sim, 0);
	start(1, device->offered & ~FEATURE(VIRTIO_NET_F_MQ));
	ck_assert_uint_eq(set_pairs(1), VIRTIO_NET_ERR);
	ck_assert_uint_eq(command(bytes, sizeof(bytes)), VIRTIO_NET_OK);
	ck_assert_uint_eq(offloads_set, TUN_F_CSUM);
}
END_TEST

static uint8_t set_offloads(uint64_t features)
{
	uint8_t bytes[10] = { VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET };

	memcpy(bytes + 2, &features, sizeof(features));
	return command(bytes, sizeof(bytes));
}

START_TEST(driver_changes_offloads_while_it_runs)
{
	const uint64_t csum = FEATURE(VIRTIO_NET_F_GUEST_CSUM);

	ck_assert_uint_eq(set_offloads(0), VIRTIO_NET_OK);
	ck_assert_uint_eq(offloads_set, 0);
	ck_assert_uint_eq(set_offloads(csum | FEATURE(VIRTIO_NET_F_GUEST_TSO6)), VIRTIO_NET_OK);
	ck_assert_uint_eq(offloads_set, TUN_F_CSUM | TUN_F_TSO6);
	ck_assert_uint_eq(set_offloads(csum | FEATURE(VIRTIO_NET_F_MAC)), VIRTIO_NET_ERR);
	ck_assert_uint_eq(set_offloads(UINT64_MAX), VIRTIO_NET_ERR);
	ck_assert_uint_eq(set_offloads(FEATURE(VIRTIO_NET_F_GUEST_UFO)), VIRTIO_NET_ERR);
	ck_assert_uint_eq(offloads_set, TUN_F_CSUM | TUN_F_TSO6);
	refuse_offloads = true;
	ck_assert_uint_eq(set_offloads(csum), VIRTIO_NET_ERR);
}
END_TEST

START_TEST(commands_of_bad_lengths_are_refused)
{
	const uint8_t bytes[64] = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 1 };
	const uint8_t offloads[64] = { VIRTIO_NET_CTRL_GUEST_OFFLOADS,
		VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET };

	for (uint32_t length = 0; length < sizeof(bytes); length++) {
		ck_assert_uint_eq(command(bytes, length), length == 4 ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
		ck_assert_uint_eq(
			command(offloads, length), length == 10 ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
	}
	for (unsigned class = 0; class < 256; class++) {
		const uint8_t unknown[8] = { class, 0x77 };

		ck_assert_uint_eq(command(unknown, sizeof(unknown)), VIRTIO_NET_ERR);
	}
}
END_TEST

START_TEST(commands_without_a_place_for_the_answer_do_nothing)
{
	const uint8_t bytes[4] = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2 };
	struct part part = { sim_text(&sim, bytes, sizeof(bytes)), sizeof(bytes), false };

	driver_publish(control, driver_chain(control, &part, 1));
	driver_kick(control);
	ck_assert_uint_eq(driver_wait(control).len, 0);
	ck_assert_uint_eq(queues_set, 1);
	ck_assert_uint_eq(counted("control.refused"), 1);
}
END_TEST

/* --- The link, and limits. */

static uint16_t link_status(void)
{
	return ((const struct virtio_net_config *)device->config)->status;
}

START_TEST(link_changes_are_told)
{
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	net_set_link(&end, false);
	ck_assert_uint_eq(link_status(), 0);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG);
	/* What is sent meanwhile is lost, as on a wire. */
	send_frame(NULL, FRAME);
	ck_assert_int_eq(host_frame(0), -1);
	ck_assert_uint_eq(counted("transmit.dropped"), 1);
	net_set_link(&end, false);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
	net_set_link(&end, true);
	ck_assert_uint_eq(link_status(), VIRTIO_NET_S_LINK_UP);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	send_frame(NULL, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
}
END_TEST

START_TEST(link_is_as_the_supervisor_found_it_last)
{
	net_update_link(&end, NET_LINK_DOWN);
	net_update_link(&end, NET_LINK_UP);
	net_update_link(&end, NET_LINK_DOWN);
	/* Who tells is no thread of the device's. */
	ck_assert_uint_eq(link_status(), VIRTIO_NET_S_LINK_UP);
	sim_run_moment(&sim);
	ck_assert_uint_eq(link_status(), 0);
	net_update_link(&end, NET_LINK_UP);
	sim_run_moment(&sim);
	ck_assert_uint_eq(link_status(), VIRTIO_NET_S_LINK_UP);
	/* Nothing comes after the end. */
	net_update_link(&end, NET_LINK_UP);
	net_update_link(&end, NET_LINK_GONE);
	net_update_link(&end, NET_LINK_UP);
	sim_run_moment(&sim);
	net_update_link(&end, NET_LINK_UP);
	sim_run_moment(&sim);
	ck_assert_uint_eq(link_status(), 0);
	ck_assert_uint_eq(gones, 1);
}
END_TEST

START_TEST(link_is_told_until_it_is_known)
{
	enum net_link link;

	found = NET_LINK_UP;
	ck_assert(!net_query_link(&end, -1, &link));
	for (unsigned i = 0; i < 2; i++) {
		found = NET_LINK_DOWN;
		ck_assert(net_query_link(&end, -1, &link));
		ck_assert_int_eq(link, NET_LINK_DOWN);
	}
	net_set_known_link(&end, NET_LINK_DOWN);
	ck_assert(!net_query_link(&end, -1, &link));
	found = NET_LINK_GONE;
	ck_assert(net_query_link(&end, -1, &link));
	net_set_known_link(&end, link);
	/* Another may have its name by now. */
	found = NET_LINK_UP;
	ck_assert(!net_query_link(&end, -1, &link));
}
END_TEST

START_TEST(end_of_the_other_end_takes_the_link_down_once)
{
	offer_buffer(receive, 2000);
	driver_kick(receive);
	close(host_fds[0]);
	host_fds[0] = -1;
	sim_run_moment(&sim);
	ck_assert_uint_eq(link_status(), 0);
	ck_assert_uint_eq(gones, 1);
	for (unsigned i = 0; i < 3; i++)
		send_frame(NULL, FRAME);
	sim_run_moment(&sim);
	ck_assert_uint_eq(gones, 1);
	ck_assert_uint_eq(counted("transmit.dropped"), 3);
}
END_TEST

START_TEST(limit_holds_each_direction_back)
{
	struct rate_limit_options options = { .requests = 10, .burst = 1 };
	struct rate_limiter in, out;
	unsigned seen = 0;

	add_device(1, ALL_OFFLOADS, 0);
	rate_limiter_init(&in, &options);
	rate_limiter_init(&out, &options);
	net_device_limit(device, &in, &out);
	start(1, device->offered);
	for (unsigned i = 0; i < 12; i++) {
		struct part part = { guest_frame(NULL, i, FRAME), HEADER + FRAME, false };

		driver_publish(transmit, driver_chain(transmit, &part, 1));
		offer_buffer(receive, 1600);
		host_send(0, NULL, i, FRAME);
	}
	driver_kick(transmit);
	driver_kick(receive);
	while (io_ring_reap(&sim.ring, false))
		;
	ck_assert_uint_eq(driver_used(transmit), 10);
	ck_assert_uint_eq(driver_used(receive), 10);
	ck_assert_uint_eq(counted("limited"), 2);
	/* In the end, all are there. */
	for (; seen < 12; seen++) {
		driver_wait(transmit);
		driver_wait(receive);
	}
	sim_reset(&sim, 0);
	rate_limiter_release(&in);
	rate_limiter_release(&out);
	teardown();
}
END_TEST

START_TEST(device_that_a_limit_holds_back_is_reset)
{
	struct rate_limit_options options = { .bytes = 1000, .burst = 1 };
	struct rate_limiter in, out;

	add_device(1, ALL_OFFLOADS, 0);
	rate_limiter_init(&in, &options);
	rate_limiter_init(&out, &options);
	net_device_limit(device, &in, &out);
	for (unsigned round = 0; round < 2; round++) {
		start(1, device->offered);
		for (unsigned i = 0; i < 3; i++) {
			struct part part = { guest_frame(NULL, i, 20000), HEADER + 20000, false };

			driver_publish(transmit, driver_chain(transmit, &part, 1));
			offer_buffer(receive, 30000);
			host_send(0, NULL, i, 20000);
		}
		driver_kick(transmit);
		driver_kick(receive);
		sim_run_moment(&sim);
		sim_reset(&sim, 0);
	}
	virtio_end(device);
	rate_limiter_release(&in);
	rate_limiter_release(&out);
	teardown();
}
END_TEST

/* Whatever stands in the rings: nothing but this guest is hurt. */
START_TEST(random_chains_and_frames_do_no_harm)
{
	uint64_t state = 0x9e3779b97f4a7c15ull + _i;
	uint64_t area = sim_alloc(&sim, 1 << 20, 8);

	for (unsigned round = 0; round < 4000; round++) {
		struct driver_queue *queue = &queues[random_next(&state) % 3];
		struct part parts[6];
		unsigned count = 1 + random_next(&state) % ARRAY_SIZE(parts), in = random_next(&state) % 7;
		uint8_t *bytes = sim_at(&sim, area, 4096);

		for (unsigned i = 0; i < 64; i++)
			bytes[random_next(&state) % 4096] = random_next(&state);
		for (unsigned i = 0; i < count; i++)
			parts[i] = (struct part){ area + random_next(&state) % 4096,
				random_next(&state) % (1u << random_next(&state) % 18), i >= in };
		driver_publish(queue, driver_chain(queue, parts, count));
		driver_kick(queue);
		if (random_next(&state) % 4 == 0) {
			struct virtio_net_hdr header;
			uint64_t random[2] = { random_next(&state), random_next(&state) };

			memcpy(&header, random, sizeof(header));
			/* Too short, and then one of any length; there may be no room for them. */
			if (send(host_fds[0], &header, sizeof(header), 0) < 0)
				ck_assert_int_eq(errno, EAGAIN);
			if (send(host_fds[0], got, HEADER + random_next(&state) % 3000, 0) < 0)
				ck_assert_int_eq(errno, EAGAIN);
		}
		io_ring_reap(&sim.ring, false);
		while (host_frame(0) != -1)
			;
		if (sim_status(&sim, 0) != STATUS_RUNNING || round % 500 == 499) {
			sim_reset(&sim, 0);
			sim.next_free = area + (1 << 20);
			start(1, device->offered);
		}
	}
}
END_TEST

Suite *net_suite(void)
{
	const TTest *const own[] = {
		mtu_is_told,
		offloads_are_those_of_the_other_end,
		limit_holds_each_direction_back,
		device_that_a_limit_holds_back_is_reset,
	};
	const TTest *const full[] = {
		configuration_tells_address_link_and_mtu,
		driver_chooses_the_offloads_of_received_frames,
		driver_changes_offloads_while_it_runs,
		link_changes_are_told,
		link_is_as_the_supervisor_found_it_last,
		link_is_told_until_it_is_known,
		end_of_the_other_end_takes_the_link_down_once,
	};
	TCase *full_case;
	const TTest *const pairs[] = {
		driver_sets_the_pairs_in_use,
		each_pair_receives_and_sends,
		pairs_not_in_use_receive_nothing,
		without_multi_queue_the_third_queue_is_the_control_queue,
		commands_of_bad_lengths_are_refused,
		commands_without_a_place_for_the_answer_do_nothing,
	};
	Suite *suite = suite_create("net");

	add_case(suite, "own", NULL, NULL, 60, own, ARRAY_SIZE(own));
	full_case = add_case(suite, "full", setup, teardown, 60, full, ARRAY_SIZE(full));
	tcase_add_loop_test(full_case, random_chains_and_frames_do_no_harm, 0, 8);
	add_case(suite, "pairs", setup_pairs, teardown, 60, pairs, ARRAY_SIZE(pairs));
	net_transmit_tests(suite);
	net_receive_tests(suite);
	return suite;
}
