// SPDX-License-Identifier: GPL-2.0-only
/* Networks in snapshots: frames go on in both directions, once each, and the guest is told of another address. */
#include "net_fixture.h"
#include "state_fixture.h"

static uint8_t other_mac[ETH_ALEN];

/* The same other end, in another process: nothing waits for it yet. */
static void make_device(void)
{
	for (unsigned i = 0; i < end.queue_count; i++) {
		struct net_queue *of = &end.queues[i];

		*of = (struct net_queue){ .net = &end, .index = i, .fd = of->fd };
	}
	end.update_armed = false;
	device = net_create(&sim.environment, "eth0", &end, other_mac, 0);
	ck_assert_int_eq(machine_add(&sim.machine, device), 0);
}

static void setup_state(void)
{
	memcpy(other_mac, mac, sizeof(mac));
	setup();
}

static void setup_pairs(void)
{
	memcpy(other_mac, mac, sizeof(mac));
	add_device(PAIRS, ALL_OFFLOADS, 0);
	start(PAIRS, device->offered);
}

static void restore_net(void)
{
	sim_change_process(&sim);
	make_device();
	ck_assert_int_eq(sim_restore(&sim), 0);
}

/* The next frame that the guest has received, as its number, which is its first byte. */
static int next_received(void)
{
	struct vring_used_elem used = receive->used->ring[receive->last_used % receive->size];
	const uint8_t *bytes;

	if (!driver_used(receive))
		return -1;
	receive->last_used++;
	bytes = sim_at(&sim, receive->descriptors[used.id].addr, used.len);
	ck_assert_uint_eq(used.len, HEADER + FRAME);
	assert_frame(bytes + HEADER, bytes[HEADER], FRAME);
	return bytes[HEADER];
}

START_TEST(buffers_that_wait_are_filled_afterwards)
{
	for (unsigned i = 0; i < 8; i++)
		offer_buffer(receive, 2048);
	driver_kick(receive);
	host_send(0, NULL, 1, FRAME);
	driver_wait(receive);
	driver_interrupts(receive);
	*driver_used_event(receive) = receive->last_used;
	sim_save(&sim);
	restore_net();
	for (unsigned i = 2; i < 9; i++)
		host_send(0, NULL, i, FRAME);
	for (int i = 2; i < 9; i++) {
		sim_run_moment(&sim);
		ck_assert_int_eq(next_received(), i);
	}
	ck_assert_uint_gt(driver_interrupts(receive), 0);
}
END_TEST

START_TEST(frame_that_waits_for_room_is_sent_afterwards)
{
	unsigned sent = 0, got_frames = 0;

	while (!end.queues[0].writable_armed) {
		struct part part = { guest_frame(NULL, 0, FRAME), HEADER + FRAME, false };

		send_parts(&part, 1);
		sent++;
		run_what_is_due(&sim);
		transmit->last_used += driver_used(transmit);
	}
	sim_save(&sim);
	restore_net();
	while (got_frames < sent) {
		sim_run_moment(&sim);
		while (host_frame(0) == (ssize_t)FRAME)
			got_frames++;
	}
	sim_run_moment(&sim);
	ck_assert_int_eq(host_frame(0), -1);
	ck_assert_uint_eq(got_frames, sent);
}
END_TEST

/* For which there are too few buffers. */
static void let_frame_wait(size_t length)
{
	for (unsigned i = 0; i < 2; i++)
		offer_buffer(receive, 64);
	driver_kick(receive);
	host_send(0, NULL, 1, length);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(receive), 0);
	sim_save(&sim);
}

/* A frame for which there are too few buffers stays the saved guest's. */
START_TEST(frame_that_waits_for_buffers_is_lost)
{
	let_frame_wait(1000);
	restore_net();
	for (unsigned i = 0; i < 2; i++)
		offer_buffer(receive, 64);
	driver_kick(receive);
	host_send(0, NULL, 2, FRAME);
	ck_assert_uint_eq(driver_wait(receive).len, 64);
	ck_assert_uint_eq(driver_wait(receive).len, HEADER + FRAME - 64);
	ck_assert_uint_eq(driver_used(receive), 0);
}
END_TEST

START_TEST(saved_network_goes_on_with_its_frame)
{
	let_frame_wait(200);
	machine_resume_devices(&sim.machine);
	for (unsigned i = 0; i < 2; i++)
		offer_buffer(receive, 64);
	driver_kick(receive);
	for (unsigned i = 0; i < 4; i++)
		driver_wait(receive);
}
END_TEST

START_TEST(other_address_and_link_are_told)
{
	uint64_t gpa = sim_alloc(&sim, ETH_ALEN + 2, 1);
	const uint8_t *config = sim_at(&sim, gpa, ETH_ALEN + 2);

	sim_save(&sim);
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	other_mac[5]++;
	end.up = false;
	restore_net();
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, ETH_ALEN + 2), gpa), 0);
	ck_assert_mem_eq(config, other_mac, ETH_ALEN);
	ck_assert_uint_eq(config[ETH_ALEN], 0);
}
END_TEST

START_TEST(offloads_are_set_again)
{
	unsigned offloads = offloads_set;

	ck_assert_uint_ne(offloads, 0);
	sim_save(&sim);
	offloads_set = 0;
	restore_net();
	ck_assert_uint_eq(offloads_set, offloads);
	refuse_offloads = true;
	sim_change_process(&sim);
	make_device();
	ck_assert_int_eq(sim_restore(&sim), -EINVAL);
}
END_TEST

static void use_pairs(uint16_t pairs)
{
	const struct virtio_net_ctrl_hdr head = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET };
	struct part parts[] = { { sim_text(&sim, &head, sizeof(head)), sizeof(head), false },
		{ sim_text(&sim, &pairs, sizeof(pairs)), sizeof(pairs), false }, { sim_alloc(&sim, 1, 1), 1, true } };

	driver_publish(control, driver_chain(control, parts, 3));
	driver_kick(control);
	driver_wait(control);
	ck_assert_uint_eq(*(uint8_t *)sim_at(&sim, parts[2].gpa, 1), VIRTIO_NET_OK);
}

START_TEST(pairs_in_use_stay_in_use)
{
	use_pairs(3);
	sim_save(&sim);
	queues_set = 0;
	restore_net();
	ck_assert_uint_eq(queues_set, 3);
	offer_buffer(&queues[4], 2048);
	driver_kick(&queues[4]);
	host_send(2, NULL, 1, FRAME);
	driver_wait(&queues[4]);
}
END_TEST

static void drive(void)
{
	for (unsigned i = 0; i < device->queue_count; i++)
		virtio_queue_notify(device, i, false);
	run_what_is_due(&sim);
	while (host_frame(0) >= 0)
		;
}

START_TEST(network_with_any_wrong_number_is_refused_or_harmless)
{
	struct part part = { guest_frame(NULL, 0, FRAME), HEADER + FRAME, false };

	for (unsigned i = 0; i < 8; i++)
		offer_buffer(receive, 2048);
	driver_publish(transmit, driver_chain(transmit, &part, 1));
	host_send(0, NULL, 1, FRAME);
	restore_every_wrong_number(&sim, make_device, drive);
}
END_TEST

/* --- Frames in both directions, each with its number. */

static unsigned sent, arrived, host_sent, guest_received, offered;

static bool all_is_there(void *unused)
{
	(void)unused;
	for (int frame = next_received(); frame >= 0; frame = next_received())
		ck_assert_int_eq(frame, (uint8_t)guest_received++);
	for (; host_frame(0) >= 0; arrived++)
		assert_frame(got + HEADER, (uint8_t)arrived, FRAME);
	transmit->last_used += driver_used(transmit);
	return guest_received == host_sent && arrived == sent;
}

static void send_in_both_directions(uint64_t random)
{
	struct part part = { guest_frame(NULL, (uint8_t)sent, FRAME), HEADER + FRAME, false };

	for (; offered - guest_received < QUEUE_SIZE / 2; offered++)
		offer_buffer(receive, 2048);
	if (sent - arrived < QUEUE_SIZE / 2 && random % 4) {
		driver_publish(transmit, driver_chain(transmit, &part, 1));
		sent++;
	}
	if (host_sent - guest_received < 8 && random / 4 % 2)
		host_send(0, NULL, (uint8_t)host_sent++, FRAME);
	for (unsigned i = 0; i < 2; i++) {
		if (random >> (8 + i) & 1)
			driver_kick(&queues[i]);
	}
}

START_TEST(network_does_the_same_with_snapshots)
{
	uint64_t random = 1 + _i;

	while (sent < 300) {
		send_in_both_directions(random_next(&random));
		run_what_is_due(&sim);
		if (random_next(&random) % 16)
			continue;
		if (random_next(&random) % 2) {
			sim_save(&sim);
			restore_net();
		}
		driver_kick(transmit);
		driver_kick(receive);
		ck_assert(sim_run_until(&sim, all_is_there, NULL));
	}
	driver_kick(transmit);
	driver_kick(receive);
	ck_assert(sim_run_until(&sim, all_is_there, NULL));
}
END_TEST

void state_net_tests(Suite *suite)
{
	const TTest *const tests[] = {
		buffers_that_wait_are_filled_afterwards,
		frame_that_waits_for_room_is_sent_afterwards,
		frame_that_waits_for_buffers_is_lost,
		saved_network_goes_on_with_its_frame,
		other_address_and_link_are_told,
		offloads_are_set_again,
		network_with_any_wrong_number_is_refused_or_harmless,
	};
	const TTest *const pair_tests[] = { pairs_in_use_stay_in_use };
	TCase *net = add_case(suite, "net", setup_state, teardown, 60, tests, ARRAY_SIZE(tests));

	add_case(suite, "net_pairs", setup_pairs, teardown, 60, pair_tests, ARRAY_SIZE(pair_tests));
	tcase_add_loop_test(net, network_does_the_same_with_snapshots, 0, 4);
}
