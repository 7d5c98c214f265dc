// SPDX-License-Identifier: GPL-2.0-only
/* Users and hosts by name: getent(1), played by scripts, and what is made of its answers. */
#include "karma/getent.h"
#include "karma/log.h"	/* before Check, which has a fail() of its own */
#include "karma/nbd.h"
#include "karma/sandbox.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "guest.h"

static char directory[] = "/tmp/karma-getent.XXXXXX";
static char program[sizeof(directory) + 8];
static char *path;

static void setup(void)
{
	strcpy(directory + sizeof(directory) - 7, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(program, sizeof(program), "%s/getent", directory);
	path = strdup(getenv("PATH"));
	setenv("PATH", directory, 1);
}

static void teardown(void)
{
	setenv("PATH", path, 1);
	free(path);
	unlink(program);
	rmdir(directory);
}

/* The next getent is this script. */
static void play(const char *script)
{
	FILE *file = fopen(program, "w");

	ck_assert_ptr_nonnull(file);
	fprintf(file, "#!/bin/sh\n%s\n", script);
	ck_assert_int_eq(fclose(file), 0);
	ck_assert_int_eq(chmod(program, 0755), 0);
}

START_TEST(answer_is_all_that_getent_prints)
{
	char text[100];

	play("printf '<%s>' \"$@\"");
	ck_assert_int_eq(getent("passwd", "a b", text, sizeof(text)), 0);
	ck_assert_str_eq(text, "<--><passwd><a b>");
	play("read -r line; echo \"got ${line:-nothing}\"");
	ck_assert_int_eq(getent("passwd", "x", text, sizeof(text)), 0);
	ck_assert_str_eq(text, "got nothing\n");
}
END_TEST

START_TEST(long_answer_is_cut_and_read_to_its_end)
{
	char text[8];

	play("i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i + 1)); done; exit 0");
	ck_assert_int_eq(getent("passwd", "x", text, sizeof(text)), 0);
	ck_assert_str_eq(text, "0123456");
}
END_TEST

START_TEST(what_is_not_known_is_told_by_the_caller)
{
	char text[8];

	play("exit 2");
	messages_begin();
	ck_assert_int_eq(getent("passwd", "x", text, sizeof(text)), -ENOENT);
	ck_assert_str_eq(messages_end(), "");
}
END_TEST

START_TEST(getent_that_fails_is_told)
{
	static const char *const scripts[] = { "exit 1", "exit 3", "kill -9 $$" };
	char text[8];

	for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
		play(scripts[i]);
		messages_begin();
		ck_assert_int_eq(getent("passwd", "joe", text, sizeof(text)), -EIO);
		ck_assert_ptr_nonnull(strstr(messages_end(), "try `getent passwd joe`"));
	}
	unlink(program);
	messages_begin();
	ck_assert_int_eq(getent("passwd", "joe", text, sizeof(text)), -ENOEXEC);
	ck_assert_ptr_nonnull(strstr(messages_end(), "have it in the PATH"));
}
END_TEST

START_TEST(user_has_a_number_and_a_group)
{
	const struct sandbox_options options = { .user = "joe" };
	struct sandbox sandbox;

	if (geteuid() != 0)
		return;
	play("echo 'joe:x:1000:1001:Joe,,,:/home/joe:/bin/sh'");
	ck_assert_int_eq(sandbox_prepare(&sandbox, &options), 0);
	ck_assert_uint_eq(sandbox.uid, 1000);
	ck_assert_uint_eq(sandbox.gid, 1001);
	/* No password, and no more than that. */
	play("printf 'joe::7:8:'");
	ck_assert_int_eq(sandbox_prepare(&sandbox, &options), 0);
	ck_assert_uint_eq(sandbox.uid, 7);
	ck_assert_uint_eq(sandbox.gid, 8);
	play("echo 'joe:x:0:1:::'");
	messages_begin();
	ck_assert_int_eq(sandbox_prepare(&sandbox, &options), -EINVAL);
	ck_assert_ptr_nonnull(strstr(messages_end(), "is root"));
}
END_TEST

START_TEST(what_is_no_user_is_refused)
{
	static const char *const scripts[] = { "exit 2", "", "echo", "echo joe", "echo joe:x",
		"echo joe:x:", "echo joe:x:1", "echo joe:x:1:", "echo joe:x:1:2", "echo joe:x::2:",
		"echo joe:x:a:2:", "echo joe:x:1:a:", "echo joe:x:1a:2:" };
	const struct sandbox_options options = { .user = "joe" };
	struct sandbox sandbox;

	if (geteuid() != 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
		play(scripts[i]);
		messages_begin();
		ck_assert_msg(sandbox_prepare(&sandbox, &options) == -ENOENT, "%s", scripts[i]);
		ck_assert_ptr_nonnull(strstr(messages_end(), "--user joe: there is no such user"));
	}
}
END_TEST

static void expect_address(const struct nbd_address *address, unsigned index, const char *expected)
{
	const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)&address->addresses[index];
	const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)&address->addresses[index];
	char text[INET6_ADDRSTRLEN];

	if (ipv4->sin_family == AF_INET) {
		ck_assert_uint_eq(address->lengths[index], sizeof(*ipv4));
		inet_ntop(AF_INET, &ipv4->sin_addr, text, sizeof(text));
	} else {
		ck_assert_uint_eq(address->lengths[index], sizeof(*ipv6));
		inet_ntop(AF_INET6, &ipv6->sin6_addr, text, sizeof(text));
	}
	ck_assert_str_eq(text, expected);
	ck_assert_uint_eq(ntohs(ipv4->sin_port), 77);
}

START_TEST(host_has_the_addresses_of_its_streams)
{
	struct nbd_address address;

	play("[ \"$2 $3\" = 'ahosts store' ] || exit 2\n"
	     "printf '2001:db8::1     STREAM store\\n2001:db8::1     DGRAM\\n2001:db8::1     RAW\\n'\n"
	     "printf '10.1.2.3     STREAM\\n10.1.2.3 DGRAM\\n'");
	ck_assert_int_eq(nbd_parse_address("nbd://store:77/e", &address), 0);
	ck_assert_uint_eq(address.count, 2);
	expect_address(&address, 0, "2001:db8::1");
	expect_address(&address, 1, "10.1.2.3");
	ck_assert_str_eq(address.export_name, "e");
}
END_TEST

START_TEST(host_has_a_few_addresses_at_most)
{
	struct nbd_address address;

	play("i=1; while [ $i -lt 250 ]; do echo \"10.0.0.$i STREAM\"; i=$((i + 1)); done");
	ck_assert_int_eq(nbd_parse_address("nbd://store:77", &address), 0);
	ck_assert_uint_eq(address.count, NBD_ADDRESSES_MAX);
	expect_address(&address, NBD_ADDRESSES_MAX - 1, "10.0.0.4");
}
END_TEST

START_TEST(nobody_is_asked_for_an_ip_address)
{
	struct nbd_address address;

	play("echo asked >&2; exit 3");
	ck_assert_int_eq(nbd_parse_address("nbd://127.0.0.1:77", &address), 0);
	expect_address(&address, 0, "127.0.0.1");
	ck_assert_int_eq(nbd_parse_address("nbd://[fe80::1%25lo]:77", &address), 0);
	expect_address(&address, 0, "fe80::1");
	ck_assert_uint_eq(((struct sockaddr_in6 *)&address.addresses[0])->sin6_scope_id, 1);
	ck_assert_int_eq(nbd_parse_address("nbd://[fe80::1%251]:77", &address), 0);
	ck_assert_uint_eq(((struct sockaddr_in6 *)&address.addresses[0])->sin6_scope_id, 1);
}
END_TEST

START_TEST(host_that_is_not_known_is_told)
{
	static const char *const scripts[] = { "exit 2", "", "echo", "echo STREAM", "echo 1.2.3 STREAM",
		"echo 1.2.3.4 DGRAM", "echo 1.2.3.4", "echo fe80::1%nosuch STREAM", "printf '\\n\\n \\n'" };
	struct nbd_address address;

	for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
		play(scripts[i]);
		messages_begin();
		ck_assert_msg(nbd_parse_address("nbd://store", &address) == -ENOENT, "%s", scripts[i]);
		ck_assert_ptr_nonnull(strstr(messages_end(), "no host has the name `store`"));
	}
}
END_TEST

Suite *getent_suite(void)
{
	const TTest *const tests[] = {
		answer_is_all_that_getent_prints,
		long_answer_is_cut_and_read_to_its_end,
		what_is_not_known_is_told_by_the_caller,
		getent_that_fails_is_told,
		user_has_a_number_and_a_group,
		what_is_no_user_is_refused,
		host_has_the_addresses_of_its_streams,
		host_has_a_few_addresses_at_most,
		nobody_is_asked_for_an_ip_address,
		host_that_is_not_known_is_told,
	};
	Suite *suite = suite_create("getent");
	TCase *tcase = tcase_create("getent");

	tcase_add_checked_fixture(tcase, setup, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
