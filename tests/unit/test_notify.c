// SPDX-License-Identifier: GPL-2.0-only
/* What a service manager is told, and when: this test has its socket. */
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "guest.h"
#include "../../src/guest/notify.h"

static struct notify notify;
static struct pollfd events[NOTIFY_EVENTS];
static char directory[] = "/tmp/karma-notify.XXXXXX", path[64];
static int manager;

static void bind_manager(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t length = strlen(name);

	memcpy(address.sun_path, name, length);
	if (name[0] == '@')
		address.sun_path[0] = '\0';
	manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	ck_assert_int_ge(manager, 0);
	ck_assert_int_eq(bind(manager, (struct sockaddr *)&address,
				 offsetof(struct sockaddr_un, sun_path) + length),
		0);
	setenv("NOTIFY_SOCKET", name, 1);
}

static void setup(void)
{
	memcpy(directory + sizeof(directory) - 7, "XXXXXX", 6);
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/notify", directory);
	bind_manager(path);
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

static void teardown(void)
{
	notify_close(&notify);
	close(manager);
	unlink(path);
	rmdir(directory);
}

/* What the manager has got since; "" for nothing. */
static const char *told(void)
{
	static char text[256];
	ssize_t length = recv(manager, text, sizeof(text) - 1, 0);

	text[length < 0 ? 0 : length] = '\0';
	return text;
}

static bool waits;	/* for a disk */

/* One turn of the supervisor's loop, which waits for nothing. */
static bool look(void)
{
	notify_poll(&notify, events);
	ck_assert_int_ge(poll(events, NOTIFY_EVENTS, 0), 0);
	return notify_serve(&notify, events, waits);
}

START_TEST(without_a_manager_nothing_happens)
{
	unsetenv("NOTIFY_SOCKET");
	setenv("WATCHDOG_USEC", "1000000", 1);
	ck_assert_int_eq(notify_open(&notify), 0);
	ck_assert_int_eq(notify_timeout(&notify), -1);
	ck_assert(!look());
	notify_signal(notify.ready_fd);
	notify_stopping(&notify, 30);
	ck_assert_str_eq(told(), "");
}
END_TEST

START_TEST(guest_that_is_up_is_told_once)
{
	ck_assert_int_eq(notify_open(&notify), 0);
	ck_assert_int_eq(notify_timeout(&notify), -1);
	ck_assert(!look());
	ck_assert_str_eq(told(), "");
	notify_signal(notify.ready_fd);
	ck_assert(!look());
	ck_assert_str_eq(told(), "READY=1\nSTATUS=The guest is up.");
	/* From then on nobody looks. */
	notify_signal(notify.ready_fd);
	notify_poll(&notify, events);
	ck_assert_int_eq(events[0].fd, -1);
	ck_assert(!look());
	ck_assert_str_eq(told(), "");
}
END_TEST

START_TEST(abstract_socket_is_a_manager_too)
{
	char name[64];

	snprintf(name, sizeof(name), "@karma-test-%d", (int)getpid());
	close(manager);
	bind_manager(name);
	ck_assert_int_eq(notify_open(&notify), 0);
	notify_stopping(&notify, 30);
	ck_assert_str_eq(told(), "STOPPING=1\nSTATUS=The guest is to power off.\nEXTEND_TIMEOUT_USEC=40000000");
}
END_TEST

START_TEST(manager_that_is_not_there_is_an_error)
{
	char long_path[200] = "/";

	setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1);
	messages_begin();
	ck_assert_int_eq(notify_open(&notify), -ENOENT);
	ck_assert_ptr_nonnull(strstr(messages_end(), "NOTIFY_SOCKET /nonexistent/notify: "));
	setenv("NOTIFY_SOCKET", "vsock:2:1234", 1);
	ck_assert_int_eq(notify_open(&notify), -EINVAL);
	memset(long_path + 1, 'x', sizeof(long_path) - 2);
	setenv("NOTIFY_SOCKET", long_path, 1);
	ck_assert_int_eq(notify_open(&notify), -EINVAL);
}
END_TEST

START_TEST(watchdog_is_fed_by_signs_of_life_alone)
{
	setenv("WATCHDOG_USEC", "4000", 1);
	ck_assert_int_eq(notify_open(&notify), 0);
	/* The first question comes at once. */
	ck_assert_int_eq(notify_timeout(&notify), 0);
	ck_assert(look());
	ck_assert_str_eq(told(), "");
	/* Again and again, while no answer comes. */
	for (int i = 0; i < 3; i++) {
		usleep(3000);
		ck_assert(look());
		ck_assert_str_eq(told(), "");
	}
	notify_signal(notify.keepalive_fd);
	look();
	ck_assert_str_eq(told(), "WATCHDOG=1");
	/* A sign feeds it once. */
	usleep(3000);
	ck_assert(look());
	look();
	ck_assert_str_eq(told(), "");
}
END_TEST

START_TEST(process_that_waits_for_a_disk_lives)
{
	setenv("WATCHDOG_USEC", "4000", 1);
	ck_assert_int_eq(notify_open(&notify), 0);
	waits = true;
	/* It may still answer. */
	ck_assert(look());
	ck_assert_str_eq(told(), "");
	for (int i = 0; i < 3; i++) {
		usleep(3000);
		ck_assert(look());
		ck_assert_str_eq(told(), "WATCHDOG=1");
	}
	waits = false;
	usleep(3000);
	ck_assert(look());
	ck_assert_str_eq(told(), "");
}
END_TEST

START_TEST(sign_without_a_question_is_none)
{
	setenv("WATCHDOG_USEC", "60000000", 1);
	ck_assert_int_eq(notify_open(&notify), 0);
	notify_signal(notify.keepalive_fd);
	notify_poll(&notify, events);
	ck_assert_int_eq(events[1].fd, -1);
	ck_assert(look());
	ck_assert(!look());
	ck_assert_str_eq(told(), "");
	ck_assert_int_gt(notify_timeout(&notify), 10000);
}
END_TEST

START_TEST(watchdog_of_another_process_is_not_ours)
{
	setenv("WATCHDOG_USEC", "1000000", 1);
	setenv("WATCHDOG_PID", "1", 1);
	ck_assert_int_eq(notify_open(&notify), 0);
	ck_assert_int_eq(notify_timeout(&notify), -1);
	notify_close(&notify);
	unsetenv("WATCHDOG_PID");
	setenv("WATCHDOG_USEC", "soon", 1);
	ck_assert_int_eq(notify_open(&notify), 0);
	ck_assert_int_eq(notify_timeout(&notify), -1);
}
END_TEST

START_TEST(guests_process_has_not_the_managers_socket)
{
	setenv("WATCHDOG_USEC", "1000000", 1);
	ck_assert_int_eq(notify_open(&notify), 0);
	notify_after_fork(&notify);
	ck_assert_int_eq(notify.fd, -1);
	ck_assert_int_ge(notify.ready_fd, 0);
	ck_assert_int_ge(notify.keepalive_fd, 0);
}
END_TEST

Suite *notify_suite(void)
{
	const TTest *const tests[] = {
		without_a_manager_nothing_happens,
		guest_that_is_up_is_told_once,
		abstract_socket_is_a_manager_too,
		manager_that_is_not_there_is_an_error,
		watchdog_is_fed_by_signs_of_life_alone,
		process_that_waits_for_a_disk_lives,
		sign_without_a_question_is_none,
		watchdog_of_another_process_is_not_ours,
		guests_process_has_not_the_managers_socket,
	};
	Suite *suite = suite_create("notify");
	TCase *tcase = tcase_create("notify");

	tcase_add_checked_fixture(tcase, setup, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
