// SPDX-License-Identifier: GPL-2.0-only
/* vhost-user devices: what is offered, start, notifications and interrupts, pause, reset and end. */
#include "vhost_user_fixture.h"

/* --- What is offered. */

START_TEST(file_system_has_its_tag_and_queues)
{
	const struct virtio_fs_config *config;

	backend.features |= FEATURE(0) | FEATURE(VIRTIO_F_RING_PACKED) | FEATURE(26);
	device = create(VHOST_USER_FS, 8);
	ck_assert_uint_eq(sim_add(&sim, device), 0);
	ck_assert_uint_eq(device->ops->device_id, 26);
	ck_assert_uint_eq(device->offered, FEATURES_ALL);
	ck_assert_uint_eq(device->queue_count, QUEUES_MAX);
	ck_assert_uint_eq(device->config_size, 40);
	config = device->config;
	ck_assert_mem_eq(config->tag, "data\0\0\0\0", 8);
	ck_assert_uint_eq(config->num_request_queues, QUEUES_MAX - 1);
	ck_assert_str_eq(device->queues[0].name, "hiprio");
	ck_assert_str_eq(device->queues[1].name, "request");
	ck_assert_uint_eq(last(VHOST_USER_SET_PROTOCOL_FEATURES).packet.payload.number, ALL_PROTOCOL);
}
END_TEST

START_TEST(no_more_queues_than_cpus_are_offered)
{
	sim_add(&sim, device = create(VHOST_USER_FS, 2));
	ck_assert_uint_eq(device->queue_count, 3);
}
END_TEST

START_TEST(server_that_does_not_count_its_queues_has_one_for_requests)
{
	backend.protocol = FEATURE(VHOST_USER_PROTOCOL_F_REPLY_ACK);
	sim_add(&sim, device = create(VHOST_USER_FS, 8));
	ck_assert_uint_eq(device->queue_count, 2);
	ck_assert_uint_eq(told(VHOST_USER_GET_QUEUE_NUM), 0);
}
END_TEST

START_TEST(disk_has_the_configuration_of_its_server)
{
	struct virtio_blk_config *config = (struct virtio_blk_config *)backend.config;
	const struct virtio_blk_config *offered;

	config->capacity = 4096;
	config->num_queues = 3;
	backend.features |= FEATURE(VIRTIO_BLK_F_FLUSH) | FEATURE(VIRTIO_BLK_F_MQ) |
		FEATURE(VIRTIO_BLK_F_CONFIG_WCE) | FEATURE(VIRTIO_BLK_F_SECURE_ERASE);
	sim_add(&sim, device = create(VHOST_USER_BLK, 8));
	offered = device->config;
	ck_assert_uint_eq(device->ops->device_id, 2);
	ck_assert_uint_eq(device->offered,
		FEATURES_ALL | FEATURE(VIRTIO_BLK_F_FLUSH) | FEATURE(VIRTIO_BLK_F_MQ));
	ck_assert_uint_eq(device->config_size, 60);
	ck_assert_uint_eq(offered->capacity, 4096);
	ck_assert_uint_eq(offered->num_queues, 3);
	ck_assert_uint_eq(device->queue_count, 3);
}
END_TEST

START_TEST(disk_without_multiple_queues_has_one)
{
	((struct virtio_blk_config *)backend.config)->num_queues = 3;
	sim_add(&sim, device = create(VHOST_USER_BLK, 8));
	ck_assert_uint_eq(device->queue_count, 1);
	ck_assert_uint_eq(((const struct virtio_blk_config *)device->config)->num_queues, 1);
}
END_TEST

START_TEST(network_has_an_address_of_its_own_if_its_server_names_none)
{
	backend.features |= FEATURE(VIRTIO_NET_F_MRG_RXBUF) | FEATURE(VIRTIO_NET_F_CTRL_VQ) |
		FEATURE(VIRTIO_NET_F_MQ);
	sim_add(&sim, device = create(VHOST_USER_NET, 8));
	ck_assert_uint_eq(device->ops->device_id, 1);
	ck_assert_uint_eq(device->offered,
		FEATURES_ALL | FEATURE(VIRTIO_NET_F_MRG_RXBUF) | FEATURE(VIRTIO_NET_F_MAC));
	ck_assert_uint_eq(device->queue_count, 2);
	ck_assert_uint_eq(device->config_size, 6);
	ck_assert_mem_eq(device->config, "\x02\0\0\0\0\x09", 6);
	ck_assert_uint_eq(told(VHOST_USER_GET_CONFIG), 0);
}
END_TEST

START_TEST(network_has_the_address_that_its_server_names)
{
	memcpy(backend.config, "\x02\x11\x22\x33\x44\x55", 6);
	backend.features |= FEATURE(VIRTIO_NET_F_MAC);
	sim_add(&sim, device = create(VHOST_USER_NET, 8));
	ck_assert_mem_eq(device->config, backend.config, 6);
}
END_TEST

/* --- Start. */

START_TEST(server_is_told_of_memory_and_queues)
{
	struct vhost_user_vring_address address;
	struct vhost_user_memory memory;
	struct note_of note;

	start_device(VHOST_USER_FS);
	ck_assert_uint_eq(last(VHOST_USER_SET_FEATURES).packet.payload.number, FEATURES_ALL | FEATURE_PROTOCOL);
	note = last(VHOST_USER_SET_MEM_TABLE);
	memory = note.packet.payload.memory;
	ck_assert_uint_eq(note.fds, memory.count);
	ck_assert_uint_eq(memory.count, 1);
	ck_assert_uint_eq(memory.regions[0].gpa, 0);
	ck_assert_uint_eq(memory.regions[0].size, SIM_MEMORY);
	ck_assert_uint_eq(memory.regions[0].offset, 0);
	address = last(VHOST_USER_SET_VRING_ADDR).packet.payload.address;
	ck_assert_uint_eq(address.index, 1);
	/* As the table of memory has it: addresses of the guest's. */
	ck_assert_uint_eq(address.descriptors, queues[1].descriptors_gpa);
	ck_assert_uint_eq(address.avail, queues[1].avail_gpa);
	ck_assert_uint_eq(address.used, queues[1].used_gpa);
	ck_assert_uint_eq(last(VHOST_USER_SET_VRING_NUM).packet.payload.state.number, QUEUE_SIZE);
	ck_assert_uint_eq(last(VHOST_USER_SET_VRING_BASE).packet.payload.state.number, 0);
	ck_assert_uint_eq(last(VHOST_USER_SET_VRING_ENABLE).packet.payload.state.number, 1);
	ck_assert_uint_eq(told(VHOST_USER_SET_VRING_ENABLE), 2);
	ck_assert_uint_eq(last(VHOST_USER_SET_VRING_KICK).fds, 1);
	ck_assert_uint_eq(last(VHOST_USER_SET_VRING_CALL).fds, 1);
	ck_assert_uint_eq(counted("starts"), 2);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

START_TEST(server_that_acknowledges_nothing_is_told_the_same)
{
	backend.protocol &= ~FEATURE(VHOST_USER_PROTOCOL_F_REPLY_ACK);
	start_device(VHOST_USER_FS);
	/* It has a reply of its own, and so all before it were received. */
	sim_reset(&sim, 0);
	ck_assert_uint_eq(told(VHOST_USER_SET_VRING_ENABLE), 2);
	ck_assert_uint_eq(told(VHOST_USER_GET_VRING_BASE), 2);
}
END_TEST

START_TEST(queue_that_the_driver_leaves_out_is_not_started)
{
	sim_add(&sim, device = create(VHOST_USER_FS, 1));
	sim_start_device(&sim, 0, FEATURES_PLAIN, queues, 1, QUEUE_SIZE);
	ck_assert_uint_eq(told(VHOST_USER_SET_VRING_ENABLE), 1);
	ck_assert_uint_eq(last(VHOST_USER_SET_FEATURES).packet.payload.number, FEATURES_PLAIN | FEATURE_PROTOCOL);
}
END_TEST

/* --- Notifications and interrupts. */

START_TEST(notification_raises_the_eventfd_of_its_queue)
{
	start_device(VHOST_USER_FS);
	/* One with the start, for what was there before. */
	ck_assert_uint_eq(raised(kick_of(0)), 1);
	ck_assert_uint_eq(raised(kick_of(1)), 1);
	driver_kick(&queues[1]);
	driver_kick(&queues[1]);
	ck_assert_uint_eq(raised(kick_of(0)), 0);
	ck_assert_uint_eq(raised(kick_of(1)), 2);
	ck_assert_uint_eq(count_of(&device->queues[1].notifications), 2);
}
END_TEST

START_TEST(servers_eventfd_is_the_one_that_interrupts)
{
	start_device(VHOST_USER_FS);
	ck_assert_int_eq(eventfd_write(fd_at(&backend.call[1]), 1), 0);
	ck_assert_uint_eq(raised(bound[0]), 0);
	ck_assert_uint_eq(raised(bound[1]), 1);
}
END_TEST

START_TEST(interrupt_is_the_message_that_the_driver_has_given_last)
{
	const struct karma_interrupt other = { .address = 0xfee01000, .data = 77 };

	start_device(VHOST_USER_FS);
	ck_assert_uint_eq(routes[1].address, 0xfee00000);
	ck_assert_uint_eq(routes[1].data, queues[1].vector);
	ck_assert_int_eq(virtio_queue_interrupt(device, 1, &other), 0);
	ck_assert_uint_eq(routes[1].address, 0xfee01000);
	ck_assert_uint_eq(routes[1].data, 77);
	sim_reset(&sim, 0);
	ck_assert_uint_eq(routes[0].address, 0);
	ck_assert_uint_eq(routes[1].address, 0);
}
END_TEST

/* --- Pause, reset and end. */

START_TEST(paused_server_goes_on_where_it_was)
{
	start_device(VHOST_USER_FS);
	backend.base[0] = 3;
	backend.base[1] = 0xffff;
	virtio_pause(device);
	virtio_drain(device);
	ck_assert_uint_eq(told(VHOST_USER_GET_VRING_BASE), 2);
	raised(kick_of(1));
	virtio_resume(device);
	ck_assert_uint_eq(told(VHOST_USER_SET_VRING_BASE), 4);
	ck_assert_uint_eq(last(VHOST_USER_SET_VRING_BASE).packet.payload.state.number, 0xffff);
	ck_assert_uint_eq(told(VHOST_USER_SET_VRING_ENABLE), 4);
	ck_assert_uint_ge(raised(kick_of(1)), 1);
	ck_assert_uint_eq(counted("starts"), 4);
	driver_kick(&queues[1]);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

START_TEST(pause_before_the_driver_is_there_tells_the_server_nothing)
{
	sim_add(&sim, device = create(VHOST_USER_FS, 1));
	virtio_pause(device);
	virtio_resume(device);
	ck_assert_uint_eq(told(VHOST_USER_GET_VRING_BASE), 0);
	ck_assert_uint_eq(told(VHOST_USER_SET_MEM_TABLE), 0);
}
END_TEST

START_TEST(reset_stops_and_the_next_driver_starts_from_the_beginning)
{
	start_device(VHOST_USER_FS);
	backend.base[1] = 9;
	sim_reset(&sim, 0);
	ck_assert_uint_eq(told(VHOST_USER_GET_VRING_BASE), 2);
	sim_start_device(&sim, 0, FEATURES_EVENT, queues, 2, QUEUE_SIZE / 2);
	ck_assert_uint_eq(told(VHOST_USER_SET_VRING_ENABLE), 4);
	ck_assert_uint_eq(last(VHOST_USER_SET_VRING_BASE).packet.payload.state.number, 0);
	ck_assert_uint_eq(last(VHOST_USER_SET_VRING_NUM).packet.payload.state.number, QUEUE_SIZE / 2);
	ck_assert_uint_eq(last(VHOST_USER_SET_FEATURES).packet.payload.number, FEATURES_EVENT | FEATURE_PROTOCOL);
	raised(kick_of(1));
	driver_kick(&queues[1]);
	ck_assert_uint_eq(raised(kick_of(1)), 1);
}
END_TEST

START_TEST(reset_of_a_paused_device_is_not_undone_by_its_resumption)
{
	start_device(VHOST_USER_FS);
	virtio_pause(device);
	sim_reset(&sim, 0);
	virtio_resume(device);
	ck_assert_uint_eq(told(VHOST_USER_GET_VRING_BASE), 2);
	ck_assert_uint_eq(told(VHOST_USER_SET_VRING_ENABLE), 2);
}
END_TEST

START_TEST(end_waits_for_what_the_server_has_under_way)
{
	start_device(VHOST_USER_FS);
	virtio_end(device);
	ck_assert_uint_eq(told(VHOST_USER_GET_VRING_BASE), 2);
}
END_TEST

Suite *vhost_user_suite(void)
{
	const TTest *const tests[] = {
		file_system_has_its_tag_and_queues,
		no_more_queues_than_cpus_are_offered,
		server_that_does_not_count_its_queues_has_one_for_requests,
		disk_has_the_configuration_of_its_server,
		disk_without_multiple_queues_has_one,
		network_has_an_address_of_its_own_if_its_server_names_none,
		network_has_the_address_that_its_server_names,
		server_is_told_of_memory_and_queues,
		server_that_acknowledges_nothing_is_told_the_same,
		queue_that_the_driver_leaves_out_is_not_started,
		notification_raises_the_eventfd_of_its_queue,
		servers_eventfd_is_the_one_that_interrupts,
		interrupt_is_the_message_that_the_driver_has_given_last,
		paused_server_goes_on_where_it_was,
		pause_before_the_driver_is_there_tells_the_server_nothing,
		reset_stops_and_the_next_driver_starts_from_the_beginning,
		reset_of_a_paused_device_is_not_undone_by_its_resumption,
		end_waits_for_what_the_server_has_under_way,
	};
	Suite *suite = suite_create("vhost_user");

	add_case(suite, "vhost_user", setup, teardown, 20, tests, ARRAY_SIZE(tests));
	vhost_user_hostile_tests(suite);
	return suite;
}
