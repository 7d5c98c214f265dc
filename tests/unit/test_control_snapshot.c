// SPDX-License-Identifier: GPL-2.0-only
/* Snapshots by the control protocol: who gets the directory, orders of the supervisor's own, and what a client's end means. */
#include <fcntl.h>

#include "control_fixture.h"
#include "karma/pass_fd.h"

static int results[4];
static unsigned served;

static void own_served(void *context, int result)
{
	(void)context;
	ck_assert_uint_lt(served, ARRAY_SIZE(results));
	results[served++] = result;
}

/* Ask with a directory. */
static void ask_with(int fd, const char *request, int directory)
{
	ck_assert_int_eq(send_with_fd(fd, request, strlen(request), directory), strlen(request));
	turns(3);
}

static int begin(const char *request)
{
	int fd = connect_client(), directory = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	hear(fd);
	ask_with(fd, request, directory);
	close(directory);
	return fd;
}

START_TEST(directory_comes_with_the_request)
{
	int fd = begin("{\"request\":\"snapshot\",\"hold\":true}\n");

	ck_assert_int_ge(snapshot.directory, 0);
	ck_assert_int_eq(faccessat(snapshot.directory, ".", R_OK, 0), 0);
	ck_assert(snapshot.hold && !snapshot.copies);
	ck_assert_uint_eq(hear(fd), 0);
	control_snapshot_ended(&control, 0, NULL);
	turn();
	hear(fd);
	ck_assert_str_eq(received, "{\"return\":{\"count\":2,\"bytes\":4096,\"rounds\":3,\"pause_us\":1500}}\n");
	/* It is over, and the end of the client says nothing. */
	close(fd);
	turns(2);
	ck_assert_uint_eq(releases, 0);
}
END_TEST

START_TEST(without_a_directory_it_is_refused)
{
	assert_error("{\"request\":\"snapshot\"}", "bad-request");
	assert_error("{\"request\":\"snapshot\",\"stop\":true}", "bad-request");
	ck_assert_int_eq(snapshot.directory, -1);
}
END_TEST

START_TEST(refusals_have_codes_and_words)
{
	static const struct {
		int result;
		const char *code;
	} cases[] = { { -ENOTSUP, "no-snapshot" }, { -EBUSY, "busy" }, { -ENOTDIR, "bad-request" }, { -ESRCH, "ended" } };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int fd;

		snapshot_result = cases[i].result;
		fd = begin("{\"request\":\"snapshot\",\"copies\":true}\n");
		hear(fd);
		ck_assert_msg(strstr(received, cases[i].code), "%s: %s", cases[i].code, received);
		close(fd);
		turns(2);
	}
	ck_assert_uint_eq(releases, 0);
}
END_TEST

START_TEST(failure_is_told)
{
	int fd = begin("{\"request\":\"snapshot\"}\n");

	control_snapshot_ended(&control, -EIO, "no room");
	turn();
	hear(fd);
	ck_assert_str_eq(received, "{\"error\":{\"code\":\"failed\",\"message\":\"no room\"}}\n");
	close(fd);
}
END_TEST

START_TEST(end_of_the_client_gives_it_up)
{
	int fd = begin("{\"request\":\"snapshot\"}\n");

	close(fd);
	turns(2);
	ck_assert_uint_eq(releases, 1);
	/* There is nobody to tell. */
	control_snapshot_ended(&control, -ECANCELED, "");
}
END_TEST

START_TEST(guest_that_is_held_goes_on_when_its_client_ends)
{
	int fd = begin("{\"request\":\"snapshot\",\"hold\":true}\n");

	control_hold(&control, true);
	control_snapshot_ended(&control, 0, NULL);
	turns(2);
	ck_assert_uint_eq(releases, 0);
	close(fd);
	turns(2);
	ck_assert_uint_eq(releases, 1);
}
END_TEST

START_TEST(own_order_goes_before_those_of_clients)
{
	int fd = connect_client();

	hear(fd);
	served = 0;
	control_hold(&control, true);
	say(fd, "{\"request\":\"resume\"}\n");
	control_order(&control, ORDER_PAUSE, own_served);
	turns(3);
	ck_assert_uint_eq(orders, 1);
	ck_assert_uint_eq(last_order.kind, ORDER_PAUSE);
	answer(0);
	ck_assert_uint_eq(served, 1);
	ck_assert_int_eq(results[0], 0);
	/* That of the client waits as long as others are held. */
	turns(2);
	ck_assert_uint_eq(orders, 1);
	control_hold(&control, false);
	turns(2);
	ck_assert_uint_eq(last_order.kind, ORDER_RESUME);
	answer(0);
	hear(fd);
	ck_assert_str_eq(received, "{\"return\":{}}\n");
	close(fd);
}
END_TEST

START_TEST(own_order_waits_for_a_pending_one)
{
	int fd = connect_client();

	hear(fd);
	served = 0;
	say(fd, "{\"request\":\"pause\"}\n");
	turns(3);
	control_order(&control, ORDER_RESUME, own_served);
	turns(2);
	ck_assert_uint_eq(last_order.kind, ORDER_PAUSE);
	answer(0);
	turns(2);
	ck_assert_uint_eq(last_order.kind, ORDER_RESUME);
	/* The end of the guest's process is its answer. */
	control_process_ended(&control);
	ck_assert_uint_eq(served, 1);
	ck_assert_int_eq(results[0], -ESRCH);
	close(fd);
}
END_TEST

START_TEST(own_order_without_a_process_fails)
{
	served = 0;
	order_result = -ESRCH;
	control_order(&control, ORDER_PAUSE, own_served);
	turn();
	ck_assert_uint_eq(served, 1);
	ck_assert_int_eq(results[0], -ESRCH);
}
END_TEST

void control_snapshot_tests(Suite *suite)
{
	const TTest *const tests[] = {
		directory_comes_with_the_request,
		without_a_directory_it_is_refused,
		refusals_have_codes_and_words,
		failure_is_told,
		end_of_the_client_gives_it_up,
		guest_that_is_held_goes_on_when_its_client_ends,
		own_order_goes_before_those_of_clients,
		own_order_waits_for_a_pending_one,
		own_order_without_a_process_fails,
	};

	add_case(suite, "snapshot", setup, teardown, 20, tests, ARRAY_SIZE(tests));
}
