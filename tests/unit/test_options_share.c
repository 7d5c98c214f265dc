// SPDX-License-Identifier: GPL-2.0-only
/* --share and --vhost-user: what is taken, what it means, what is refused, and that it can be printed. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "../../src/cli/options.h"
#include "guest.h"

static struct run_options options;
static char line[1024];

static void teardown(void)
{
	run_options_release(&options);
}

/* One option for each text. */
static int parse(const char *name, const char *first, const char *second)
{
	char *arguments[] = { "run", "--kernel", "k", (char *)name, line, (char *)name, line + 512, NULL };

	run_options_release(&options);
	options = (struct run_options){ 0 };
	optind = 0;
	snprintf(line, 512, "%s", first);
	snprintf(line + 512, 512, "%s", second ? second : "");
	return run_options_parse(&options, second ? 7 : 5, arguments);
}

static void assert_refused_two(const char *name, const char *first, const char *second, const char *words)
{
	const char *said;

	messages_begin();
	ck_assert_msg(parse(name, first, second) == -EINVAL, "\"%s\" is taken", first);
	said = messages_end();
	ck_assert_msg(strstr(said, words), "\"%s\": %s", first, said);
}

static void assert_refused(const char *name, const char *text, const char *words)
{
	assert_refused_two(name, text, NULL, words);
}

static void assert_printed(const char *words)
{
	char *text = NULL;
	size_t size;
	FILE *file = open_memstream(&text, &size);

	ck_assert_int_eq(run_options_print(&options, file), 0);
	fclose(file);
	ck_assert_msg(strstr(text, words), "no `%s` in: %s", words, text);
	free(text);
}

static const struct share_options *share(const char *text)
{
	ck_assert_int_eq(parse("--share", text, NULL), 0);
	ck_assert_uint_eq(options.guest.share_count, 1);
	return &options.guest.shares[0];
}

START_TEST(directory_is_enough)
{
	const struct share_options *one = share("/srv/data");

	ck_assert_str_eq(one->directory, "/srv/data");
	ck_assert_ptr_null(one->server);
	ck_assert_str_eq(one->tag, "share0");
	ck_assert_ptr_null(one->guest_path);
	ck_assert(!one->read_only);
	ck_assert_int_eq(one->cache, SHARE_CACHE_AUTO);
	assert_printed("\nshare = /srv/data:share0\n");
}
END_TEST

START_TEST(tag_or_path_of_the_guest_is_behind_the_last_colon)
{
	const struct share_options *one = share("/srv/a:b:data,ro,cache=always");

	ck_assert_str_eq(one->directory, "/srv/a:b");
	ck_assert_str_eq(one->tag, "data");
	ck_assert_ptr_null(one->guest_path);
	ck_assert(one->read_only);
	ck_assert_int_eq(one->cache, SHARE_CACHE_ALWAYS);
	assert_printed("\nshare = /srv/a:b:data,ro,cache=always\n");
	one = share(".:/mnt/here,ro,rw,cache=never");
	ck_assert_str_eq(one->directory, ".");
	ck_assert_str_eq(one->tag, "share0");
	ck_assert_str_eq(one->guest_path, "/mnt/here");
	ck_assert(!one->read_only);
	ck_assert_int_eq(one->cache, SHARE_CACHE_NEVER);
	assert_printed("\nshare = .:/mnt/here,cache=never\n");
}
END_TEST

START_TEST(other_server_has_a_socket)
{
	const struct share_options *one = share("unix:/run/virtiofsd:data");

	ck_assert_ptr_null(one->directory);
	ck_assert_str_eq(one->server, "/run/virtiofsd");
	ck_assert_str_eq(one->tag, "data");
	assert_printed("\nshare = unix:/run/virtiofsd:data\n");
	ck_assert_str_eq(share("unix:s:/mnt")->guest_path, "/mnt");
	ck_assert_str_eq(share("unix:s")->tag, "share0");
}
END_TEST

START_TEST(shares_add_up_with_tags_of_their_own)
{
	ck_assert_int_eq(parse("--share", "a", "b:/b"), 0);
	ck_assert_uint_eq(options.guest.share_count, 2);
	ck_assert_str_eq(options.guest.shares[1].tag, "share1");
	assert_refused_two("--share", "a:x", "b:x", "the tag x is given twice");
	/* The name that the second would have by default. */
	assert_refused_two("--share", "a:share1", "b", "the tag share1 is given twice");
}
END_TEST

START_TEST(bad_shares_are_refused)
{
	assert_refused("--share", "", "names no directory");
	assert_refused("--share", ":tag", "names no directory");
	assert_refused("--share", "a:", "is no tag");
	assert_refused("--share", "a:1234567890123456789012345678901234567", "give 1 to 36 bytes");
	assert_refused("--share", "a,read", "give ro, rw or cache=auto|always|never");
	assert_refused("--share", "a,cache=some", "none of auto, always, never");
	assert_refused("--share", "a,rw=maybe", "on or off");
	assert_refused("--share", "unix:", "names no socket");
	assert_refused("--share", "unix:s,ro", "is for that server to know");
	assert_refused("--share",
		"unix:/1234567890/1234567890/1234567890/1234567890/1234567890/1234567890/1234567890/1234567890/1234567890/"
		"1234567890",
		"at most 107 bytes");
}
END_TEST

START_TEST(devices_of_servers_have_a_type)
{
	const struct vhost_user_options *list;

	ck_assert_int_eq(parse("--vhost-user", "/run/a:b,type=blk", "s,tag=data,type=fs"), 0);
	ck_assert_uint_eq(options.guest.vhost_user_count, 2);
	list = options.guest.vhost_users;
	ck_assert_str_eq(list[0].path, "/run/a:b");
	ck_assert_int_eq(list[0].type, VHOST_USER_BLK);
	ck_assert_int_eq(list[1].type, VHOST_USER_FS);
	ck_assert_str_eq(list[1].tag, "data");
	assert_printed("\nvhost-user = /run/a:b,type=blk\nvhost-user = s,type=fs,tag=data\n");
	ck_assert_int_eq(parse("--vhost-user", "s,type=net", NULL), 0);
	ck_assert_int_eq(options.guest.vhost_users[0].type, VHOST_USER_NET);
}
END_TEST

START_TEST(bad_devices_of_servers_are_refused)
{
	assert_refused("--vhost-user", "s", "lacks its type: give type=fs, blk or net");
	assert_refused("--vhost-user", "s,type=gpu", "none of fs, blk, net");
	assert_refused("--vhost-user", "s,type=fs", "lacks its tag");
	assert_refused("--vhost-user", "s,type=fs,tag=", "is no tag");
	assert_refused("--vhost-user", "s,type=blk,tag=t", "tag goes with type=fs only");
	assert_refused("--vhost-user", ",type=blk", "names no socket");
	assert_refused("--vhost-user", "s,type", "give type=fs|blk|net or tag=TAG");
	assert_refused_two("--vhost-user", "s,type=fs,tag=x", "t,type=fs,tag=x", "the tag x is given twice");
}
END_TEST

Suite *options_share_suite(void)
{
	const TTest *const tests[] = {
		directory_is_enough,
		tag_or_path_of_the_guest_is_behind_the_last_colon,
		other_server_has_a_socket,
		shares_add_up_with_tags_of_their_own,
		bad_shares_are_refused,
		devices_of_servers_have_a_type,
		bad_devices_of_servers_are_refused,
	};
	Suite *suite = suite_create("options_share");

	add_case(suite, "options_share", NULL, teardown, 20, tests, ARRAY_SIZE(tests));
	return suite;
}
