// SPDX-License-Identifier: GPL-2.0-only
/* --root and --rw: the shares that they become, and what the guest is told of the caller. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"
#include "karma/cli.h"

#define ARGUMENTS_MAX 16

static struct run_options options;
static char directory[] = "/tmp/karma-root-XXXXXX", before[PATH_MAX];
static char words[1024], *arguments[ARGUMENTS_MAX];

static void setup(void)
{
	ck_assert_ptr_nonnull(getcwd(before, sizeof(before)));
	ck_assert_ptr_nonnull(mkdtemp(directory));
	ck_assert_int_eq(chdir(directory), 0);
	ck_assert_int_eq(mkdir("tree", 0700), 0);
	ck_assert_int_eq(mkdir("tree/var", 0700), 0);
	ck_assert_int_eq(mkdir("tree-2", 0700), 0);
	ck_assert_int_eq(symlink("tree/var", "link"), 0);
	setenv("SHELL", "/bin/shell", 1);
}

static void teardown(void)
{
	run_options_release(&options);
	ck_assert_int_eq(chdir(directory), 0);
	unlink("link");
	rmdir("tree-2");
	rmdir("tree/var");
	rmdir("tree");
	ck_assert_int_eq(chdir(before), 0);
	rmdir(directory);
}

static int parse(const char *line)
{
	int count = 0;

	run_options_release(&options);
	optind = 0;
	arguments[count++] = "run";
	snprintf(words, sizeof(words), "%s", line);
	for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
		arguments[count++] = word;
	arguments[count] = NULL;
	return run_options_parse(&options, count, arguments);
}

static int complete(const char *line)
{
	int result = parse(line);

	return result < 0 ? result : root_complete(&options);
}

static void assert_refused(const char *line, const char *word)
{
	const char *said;

	messages_begin();
	ck_assert_msg(complete(line) < 0, "\"%s\" is taken", line);
	said = messages_end();
	ck_assert_msg(strstr(said, word), "\"%s\": %s", line, said);
}

/* A share's directory is below the test's own. */
static void assert_share(size_t index, const char *below, const char *guest_path, bool read_only)
{
	const struct share_options *share = &options.guest.shares[index];
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", directory, below);
	ck_assert_str_eq(share->directory, path);
	ck_assert_int_eq(share->read_only, read_only);
	if (guest_path)
		ck_assert_str_eq(share->guest_path, guest_path);
	else
		ck_assert_ptr_null(share->guest_path);
}

START_TEST(without_root_nothing_changes)
{
	ck_assert_int_eq(complete("--kernel k"), 0);
	ck_assert_uint_eq(options.guest.share_count, 0);
	ck_assert_ptr_null(options.guest.command);
}
END_TEST

START_TEST(root_is_a_share_that_is_only_read)
{
	ck_assert_int_eq(complete("--kernel k --root tree -- ls -l"), 0);
	ck_assert_uint_eq(options.guest.share_count, 1);
	assert_share(0, "tree", NULL, true);
	ck_assert_str_eq(options.guest.shares[0].tag, GUEST_ROOT_TAG);
	ck_assert(options.guest.shares[0].plain_mounts);
	ck_assert_str_eq(options.guest.command[1], "-l");
}
END_TEST

START_TEST(what_may_be_written_is_at_its_path_in_the_guest)
{
	char elsewhere[PATH_MAX];

	ck_assert_int_eq(complete("--kernel k --root tree --rw link --rw tree-2"), 0);
	ck_assert_uint_eq(options.guest.share_count, 3);
	assert_share(1, "tree/var", "/var", false);
	snprintf(elsewhere, sizeof(elsewhere), "%s/tree-2", directory);
	assert_share(2, "tree-2", elsewhere, false);
	ck_assert_str_ne(options.guest.shares[1].tag, options.guest.shares[2].tag);

	ck_assert_int_eq(complete("--kernel k --root / --rw tree"), 0);
	snprintf(elsewhere, sizeof(elsewhere), "%s/tree", directory);
	assert_share(1, "tree", elsewhere, false);
}
END_TEST

START_TEST(bad_roots_are_refused)
{
	assert_refused("--kernel k --root absent", "give a directory that is there");
	assert_refused("--kernel k --root=", "is empty");
	assert_refused("--kernel k --rw tree", "--rw tree: needs --root");
	assert_refused("--kernel k --root tree --rw absent", "give a directory that is there");
	assert_refused("--kernel k --root tree --rw tree", "is the root itself");
	assert_refused("--kernel k --root tree --rw /", "is the root itself");
	/* The root would be one more. */
	ck_assert_int_eq(parse("--kernel k --root /"), 0);
	messages_begin();
	options.guest.shares = calloc(SHARES_MAX, sizeof(*options.guest.shares));
	options.guest.share_count = SHARES_MAX;
	ck_assert_int_lt(root_complete(&options), 0);
	ck_assert_ptr_nonnull(strstr(messages_end(), "there are more than 16"));
}
END_TEST

START_TEST(command_runs_where_the_caller_is)
{
	char here[PATH_MAX];

	ck_assert_int_eq(complete("--kernel k --root / -- true"), 0);
	ck_assert_str_eq(options.guest.root.working_directory, directory);
	/* Which the guest does not have. */
	ck_assert_int_eq(complete("--kernel k --root tree -- true"), 0);
	ck_assert_str_eq(options.guest.root.working_directory, "/");
	ck_assert_int_eq(chdir("tree/var"), 0);
	ck_assert_int_eq(complete("--kernel k --root .. -- true"), 0);
	ck_assert_str_eq(options.guest.root.working_directory, "/var");
	ck_assert_int_eq(complete("--kernel k --root . -- true"), 0);
	ck_assert_str_eq(options.guest.root.working_directory, "/");
	/* Not below it, though the name begins so. */
	ck_assert_int_eq(chdir("../../tree-2"), 0);
	ck_assert_int_eq(complete("--kernel k --root ../tree -- true"), 0);
	ck_assert_str_eq(options.guest.root.working_directory, "/");
	ck_assert_int_eq(complete("--kernel k --root ../tree --rw . -- true"), 0);
	snprintf(here, sizeof(here), "%s/tree-2", directory);
	ck_assert_str_eq(options.guest.root.working_directory, here);
}
END_TEST

START_TEST(command_runs_as_the_caller)
{
	gid_t groups[NGROUPS_MAX];
	int count = getgroups(ARRAY_SIZE(groups), groups);
	char text[64], last[32];

	ck_assert_int_eq(complete("--kernel k --root tree -- true"), 0);
	snprintf(text, sizeof(text), "%u:%u:", getuid(), getgid());
	ck_assert_int_eq(strncmp(options.guest.root.user, text, strlen(text)), 0);
	if (count <= 0)
		return;
	snprintf(last, sizeof(last), "%u", groups[count - 1]);
	ck_assert_str_eq(options.guest.root.user + strlen(options.guest.root.user) - strlen(last), last);
}
END_TEST

START_TEST(without_a_command_the_callers_shell_runs)
{
	ck_assert_int_eq(complete("--kernel k --root tree"), 0);
	ck_assert_str_eq(options.guest.command[0], "/bin/shell");
	ck_assert_ptr_null(options.guest.command[1]);
	unsetenv("SHELL");
	ck_assert_int_eq(complete("--kernel k --root tree"), 0);
	ck_assert_str_eq(options.guest.command[0], "/bin/sh");
}
END_TEST

Suite *root_suite(void)
{
	const TTest *const tests[] = {
		without_root_nothing_changes,
		root_is_a_share_that_is_only_read,
		what_may_be_written_is_at_its_path_in_the_guest,
		bad_roots_are_refused,
		command_runs_where_the_caller_is,
		command_runs_as_the_caller,
		without_a_command_the_callers_shell_runs,
	};
	Suite *suite = suite_create("root");
	TCase *tcase = tcase_create("root");

	tcase_add_checked_fixture(tcase, setup, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
