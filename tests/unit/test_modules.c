// SPDX-License-Identifier: GPL-2.0-only
/* --modules: where a kernel's modules are looked for, and when an initramfs is made of them. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"
#include "karma/cli.h"

#define RELEASE "6.1.0-test+1"
#define BANNER "Linux version " RELEASE " (me@here)"
#define TREE "out/lib/modules/" RELEASE

static struct run_options options;
static char directory[] = "/tmp/karma-modules-XXXXXX", before[PATH_MAX];

static void write_file(const char *path, const char *text, mode_t mode)
{
	const struct timespec old[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	ck_assert_int_eq(futimens(fd, old), 0);
	close(fd);
}

/* In the place of scripts/mkinitramfs: notes what it was called with. */
static void write_maker(const char *end)
{
	char script[256];

	snprintf(script, sizeof(script), "#!/bin/sh\necho \"$*\" >>made\n%s", end);
	write_file("guest/mkinitramfs", script, 0755);
}

static void write_kernel(const char *behind)
{
	char text[64];

	snprintf(text, sizeof(text), "\x7f" "ELF......%s", behind);
	write_file("vmlinux", text, 0644);
	ck_assert_int_eq(truncate("vmlinux", 8192), 0);
}

static void setup(void)
{
	char path[PATH_MAX];

	ck_assert_ptr_nonnull(getcwd(before, sizeof(before)));
	ck_assert_ptr_nonnull(mkdtemp(directory));
	ck_assert_int_eq(chdir(directory), 0);
	for (const char *const *name = (const char *const[]){ "cache", "guest", "out", "out/lib", "out/lib/modules", TREE,
		     "empty", NULL }; *name; name++)
		ck_assert_int_eq(mkdir(*name, 0700), 0);
	write_file(TREE "/modules.dep", "", 0644);
	write_kernel(BANNER);
	write_maker("for last; do :; done; echo initramfs >\"$last\"");
	snprintf(path, sizeof(path), "%s/cache", directory);
	setenv("KARMA_CACHE_DIR", path, 1);
	snprintf(path, sizeof(path), "%s/guest", directory);
	setenv("KARMA_GUEST_DIR", path, 1);
}

static int remove_file(const char *path, const struct stat *status, int kind, struct FTW *at)
{
	(void)status;
	(void)kind;
	(void)at;
	return remove(path);
}

static void teardown(void)
{
	run_options_release(&options);
	ck_assert_int_eq(chdir(before), 0);
	nftw(directory, remove_file, 16, FTW_DEPTH | FTW_PHYS);
}

static int complete(const char *modules, const char *initrd)
{
	char *arguments[] = { "run", "--kernel", "vmlinux", "--modules", (char *)modules, initrd ? "--initrd" : NULL,
		(char *)initrd, NULL };
	int result;

	run_options_release(&options);
	optind = 0;
	result = run_options_parse(&options, initrd ? 7 : 5, arguments);
	return result < 0 ? result : root_complete(&options);
}

static unsigned lines_of(const char *path)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[4096] = "";
	unsigned lines = 0;

	if (fd >= 0)
		ck_assert_int_ge(read(fd, text, sizeof(text) - 1), 0);
	for (const char *c = text; *c; c++)
		lines += *c == '\n';
	return lines;
}

static void assert_fails(const char *modules, const char *word)
{
	const char *said;

	messages_begin();
	ck_assert_int_lt(complete(modules, NULL), 0);
	said = messages_end();
	ck_assert_msg(strstr(said, word), "%s: %s", modules, said);
}

START_TEST(modules_are_found_by_the_release_of_the_kernel)
{
	static const char *const places[] = { "out", "out/lib/modules", TREE, "out/lib/../lib/modules/" RELEASE };
	char tree[PATH_MAX];

	snprintf(tree, sizeof(tree), "%s/" TREE, directory);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		const struct share_options *share;

		ck_assert_int_eq(complete(places[i], NULL), 0);
		ck_assert_uint_eq(options.guest.share_count, 1);
		share = options.guest.shares;
		ck_assert_str_eq(share->directory, tree);
		ck_assert_str_eq(share->guest_path, "/lib/modules/" RELEASE);
		ck_assert(share->read_only);
		ck_assert_uint_eq(options.guest.initrd_count, 1);
		ck_assert_int_eq(access(options.guest.initrds[0], R_OK), 0);
	}
}
END_TEST

START_TEST(modules_that_are_not_there_are_told)
{
	assert_fails("absent", "give a directory that is there");
	assert_fails("empty", "has no modules.dep of " RELEASE);
	assert_fails("empty", "make modules_install INSTALL_MOD_PATH=empty");
	write_kernel("");
	assert_fails("out", "names no release");
}
END_TEST

START_TEST(initramfs_is_made_once)
{
	ck_assert_int_eq(complete("out", NULL), 0);
	ck_assert_int_eq(complete("out", NULL), 0);
	ck_assert_uint_eq(lines_of("made"), 1);
	/* Other modules were installed. */
	ck_assert_int_eq(utimensat(AT_FDCWD, TREE "/modules.dep", NULL, 0), 0);
	ck_assert_int_eq(complete("out", NULL), 0);
	ck_assert_uint_eq(lines_of("made"), 2);
	ck_assert_int_eq(complete("out", "own.img"), 0);
	ck_assert_uint_eq(options.guest.initrd_count, 1);
	ck_assert_str_eq(options.guest.initrds[0], "own.img");
	ck_assert_uint_eq(lines_of("made"), 2);
}
END_TEST

START_TEST(initramfs_that_can_not_be_made_is_told)
{
	write_maker("exit 1");
	assert_fails("out", "can't make an initramfs");
	unlink("guest/mkinitramfs");
	assert_fails("out", "can't run");
	setenv("KARMA_CACHE_DIR", "", 1);
	assert_fails("out", "there is no cache");
}
END_TEST

Suite *modules_suite(void)
{
	const TTest *const tests[] = {
		modules_are_found_by_the_release_of_the_kernel,
		modules_that_are_not_there_are_told,
		initramfs_is_made_once,
		initramfs_that_can_not_be_made_is_told,
	};
	Suite *suite = suite_create("modules");
	TCase *tcase = tcase_create("modules");

	tcase_add_checked_fixture(tcase, setup, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
