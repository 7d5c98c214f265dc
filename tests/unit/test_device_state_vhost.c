// SPDX-License-Identifier: GPL-2.0-only
/* vhost-user devices in snapshots: only what no server knows anything of. */
#include "vhost_user_fixture.h"
#include "state_fixture.h"

static void expect_refusal(const char *text)
{
	static uint8_t bytes[4096];
	struct snapshot_writer writer;
	const char *messages;

	machine_pause_devices(&sim.machine);
	snapshot_writer_init(&writer, bytes, sizeof(bytes));
	messages_begin();
	ck_assert_int_eq(machine_save(&sim.machine, &writer, true), -ENOTSUP);
	messages = messages_end();
	ck_assert_msg(strstr(messages, text), "%s", messages);
}

/* Another server, which knows nothing. */
static void make_device(enum vhost_user_type type)
{
	shutdown(backend.socket, SHUT_RDWR);
	pthread_join(backend.thread, NULL);
	close(front_socket);
	close(backend.socket);
	backend.note_count = bound_count = 0;
	memset(routes, 0, sizeof(routes));
	device = create(type, 1);
	ck_assert_int_eq(machine_add(&sim.machine, device), 0);
}

START_TEST(file_system_that_is_not_mounted_is_served_by_another_server)
{
	start_device(VHOST_USER_FS);
	sim_save(&sim);
	sim_change_process(&sim);
	make_device(VHOST_USER_FS);
	ck_assert_int_eq(sim_restore(&sim), 0);
	ck_assert_uint_eq(told(VHOST_USER_SET_VRING_ENABLE), 2);
	ck_assert_uint_eq(last(VHOST_USER_SET_VRING_BASE).packet.payload.state.number, 0);
	ck_assert_uint_eq(routes[1].data, queues[1].vector);
	run_what_is_due(&sim);
	raised(kick_of(1));
	driver_kick(&queues[1]);
	ck_assert_uint_eq(raised(kick_of(1)), 1);
}
END_TEST

START_TEST(file_system_that_is_mounted_is_not_saved)
{
	backend.base[1] = 3;
	start_device(VHOST_USER_FS);
	expect_refusal("device share0: can't be in a snapshot, since its server has files open for the guest");
}
END_TEST

START_TEST(disk_of_a_server_is_not_saved)
{
	start_device(VHOST_USER_BLK);
	expect_refusal("device share0: can't be in a snapshot, since its server has a state of its own");
}
END_TEST

START_TEST(disk_of_a_server_without_a_driver_is_saved)
{
	start_device(VHOST_USER_BLK);
	sim_reset(&sim, 0);
	sim_save(&sim);
	sim_change_process(&sim);
	make_device(VHOST_USER_BLK);
	ck_assert_int_eq(sim_restore(&sim), 0);
	ck_assert_uint_eq(told(VHOST_USER_SET_VRING_ENABLE), 0);
	sim_start_device(&sim, 0, device->offered, queues, device->queue_count, QUEUE_SIZE);
	ck_assert_uint_eq(told(VHOST_USER_SET_VRING_ENABLE), 1);
}
END_TEST

void state_vhost_tests(Suite *suite)
{
	const TTest *const tests[] = {
		file_system_that_is_not_mounted_is_served_by_another_server,
		file_system_that_is_mounted_is_not_saved,
		disk_of_a_server_is_not_saved,
		disk_of_a_server_without_a_driver_is_saved,
	};

	add_case(suite, "vhost", setup, teardown, 20, tests, ARRAY_SIZE(tests));
}
