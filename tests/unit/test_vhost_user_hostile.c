// SPDX-License-Identifier: GPL-2.0-only
/* vhost-user devices: servers that end, are silent, refuse, or break the protocol. */
#include <sys/stat.h>

#include "vhost_user_fixture.h"

static void lie_at(enum vhost_user_request request, enum lie lie)
{
	backend.lie = lie;
	backend.lie_at = request;
}

/* As if the time for an answer had passed, without the test's waiting for it. */
static void be_impatient(void)
{
	const struct timeval soon = { .tv_usec = 1000 };

	ck_assert_int_eq(setsockopt(front_socket, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon)), 0);
}

static bool needs_reset(void *unused)
{
	(void)unused;
	return sim_status(&sim, 0) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* --- Before there is a device. */

static void assert_refused(enum vhost_user_type type, const char *why)
{
	messages_begin();
	device = create(type, 1);
	ck_assert_ptr_null(device);
	ck_assert_ptr_nonnull(strstr(messages_end(), why));
}

START_TEST(server_without_protocol_features_is_refused)
{
	backend.features = FEATURES_ALL;
	assert_refused(VHOST_USER_FS, "--share /srv/data: its server is too old: it lacks VHOST_USER_F_PROTOCOL_FEATURES");
}
END_TEST

START_TEST(server_of_legacy_devices_is_refused)
{
	backend.features = FEATURE_PROTOCOL;
	assert_refused(VHOST_USER_FS, "it lacks VIRTIO_F_VERSION_1");
}
END_TEST

START_TEST(server_without_a_configuration_is_no_disk)
{
	backend.protocol &= ~FEATURE(VHOST_USER_PROTOCOL_F_CONFIG);
	assert_refused(VHOST_USER_BLK, "tells no configuration");
}
END_TEST

START_TEST(server_that_refuses_its_configuration_is_refused)
{
	/* libvhost-user says so by a reply without a payload. */
	lie_at(VHOST_USER_GET_CONFIG, OTHER_SIZE);
	assert_refused(VHOST_USER_BLK, "has broken the vhost-user protocol");
}
END_TEST

START_TEST(server_without_queues_is_refused)
{
	lie_at(VHOST_USER_GET_QUEUE_NUM, NO_QUEUES);
	assert_refused(VHOST_USER_FS, "has broken the vhost-user protocol");
}
END_TEST

static const struct {
	enum lie lie;
	const char *why;
} lies[] = {
	{ OTHER_REQUEST, "has broken the vhost-user protocol" },
	{ OTHER_SIZE, "has broken the vhost-user protocol" },
	{ OTHER_VERSION, "has broken the vhost-user protocol" },
	{ NO_REPLY, "has broken the vhost-user protocol" },
	{ CUT, "has ended" },
	{ END, "has ended" },
};

START_TEST(server_that_lies_at_the_start_is_refused)
{
	lie_at(VHOST_USER_GET_FEATURES, lies[_i].lie);
	assert_refused(VHOST_USER_FS, lies[_i].why);
}
END_TEST

/* Descriptors that are the server's end of the socket. */
static unsigned count_duplicates(void)
{
	struct stat wanted, status;
	unsigned count = 0;

	ck_assert_int_eq(fstat(backend.socket, &wanted), 0);
	/* All that the server has received so far is there. */
	ck_assert_int_ge(kick_of(1), 0);
	for (int fd = 0; fd < 256; fd++)
		count += fstat(fd, &status) == 0 && status.st_dev == wanted.st_dev &&
			status.st_ino == wanted.st_ino;
	return count;
}

START_TEST(descriptor_that_comes_with_a_reply_is_dropped)
{
	lie_at(VHOST_USER_GET_FEATURES, EXTRA_FD);
	start_device(VHOST_USER_FS);
	ck_assert_uint_eq(count_duplicates(), 1);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

/* --- Afterwards. */

/* The device is of no use any more, whatever its driver does, and one message says so. */
static void assert_lost(const char *why)
{
	const char *messages;
	char *said;

	ck_assert(sim_run_until(&sim, needs_reset, NULL));
	sim_reset(&sim, 0);
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_set_status, 0, STATUS_RUNNING), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	virtio_end(device);
	messages = messages_end();
	said = strstr(messages, why);
	ck_assert_msg(said, "no `%s` in: %s", why, messages);
	ck_assert_ptr_nonnull(strstr(messages, "--share /srv/data: its server"));
	ck_assert_ptr_null(strstr(said + 1, "its server"));
}

START_TEST(server_that_ends_is_told_of_once)
{
	start_device(VHOST_USER_FS);
	messages_begin();
	shutdown(backend.socket, SHUT_RDWR);
	/* The guest has not seen it yet. */
	driver_kick(&queues[1]);
	assert_lost("has ended: device share0 answers the guest no more: start the guest anew");
}
END_TEST

START_TEST(server_that_lies_when_it_is_to_stop_is_lost)
{
	start_device(VHOST_USER_FS);
	messages_begin();
	lie_at(VHOST_USER_GET_VRING_BASE, lies[_i].lie);
	virtio_pause(device);
	virtio_resume(device);
	assert_lost(lies[_i].why);
}
END_TEST

START_TEST(server_that_stops_another_queue_is_lost)
{
	start_device(VHOST_USER_FS);
	messages_begin();
	lie_at(VHOST_USER_GET_VRING_BASE, OTHER_QUEUE);
	virtio_pause(device);
	virtio_resume(device);
	assert_lost("has broken the vhost-user protocol");
}
END_TEST

START_TEST(server_whose_queue_is_beyond_any_index_is_lost)
{
	start_device(VHOST_USER_FS);
	messages_begin();
	lie_at(VHOST_USER_GET_VRING_BASE, FAR_BASE);
	virtio_pause(device);
	virtio_resume(device);
	assert_lost("has broken the vhost-user protocol");
}
END_TEST

START_TEST(server_that_refuses_a_queue_is_lost)
{
	sim_add(&sim, device = create(VHOST_USER_FS, 1));
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	driver_queue_setup(&queues[0], &sim, 0, 0, QUEUE_SIZE);
	messages_begin();
	lie_at(VHOST_USER_SET_VRING_ADDR, REFUSAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_set_status, 0, STATUS_RUNNING), 0);
	assert_lost("refuses what it is asked for");
}
END_TEST

START_TEST(silent_server_holds_up_no_reset)
{
	start_device(VHOST_USER_FS);
	messages_begin();
	be_impatient();
	lie_at(VHOST_USER_GET_VRING_BASE, SILENCE);
	sim_reset(&sim, 0);
	ck_assert_ptr_nonnull(strstr(messages_end(), "does not answer"));
}
END_TEST

START_TEST(silent_server_holds_up_no_end)
{
	start_device(VHOST_USER_FS);
	messages_begin();
	be_impatient();
	lie_at(VHOST_USER_GET_VRING_BASE, SILENCE);
	virtio_end(device);
	ck_assert_ptr_nonnull(strstr(messages_end(), "does not answer"));
	/* The second queue is not asked for. */
	ck_assert_uint_eq(told(VHOST_USER_GET_VRING_BASE), 1);
}
END_TEST

void vhost_user_hostile_tests(Suite *suite)
{
	const TTest *const tests[] = {
		server_without_protocol_features_is_refused,
		server_of_legacy_devices_is_refused,
		server_without_a_configuration_is_no_disk,
		server_that_refuses_its_configuration_is_refused,
		server_without_queues_is_refused,
		descriptor_that_comes_with_a_reply_is_dropped,
		server_that_ends_is_told_of_once,
		server_that_stops_another_queue_is_lost,
		server_whose_queue_is_beyond_any_index_is_lost,
		server_that_refuses_a_queue_is_lost,
		silent_server_holds_up_no_reset,
		silent_server_holds_up_no_end,
	};
	TCase *hostile = add_case(suite, "hostile", setup, teardown, 20, tests, ARRAY_SIZE(tests));

	tcase_add_loop_test(hostile, server_that_lies_at_the_start_is_refused, 0, ARRAY_SIZE(lies));
	tcase_add_loop_test(hostile, server_that_lies_when_it_is_to_stop_is_lost, 0, ARRAY_SIZE(lies));
}
