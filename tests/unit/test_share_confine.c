// SPDX-License-Identifier: GPL-2.0-only
/* Shared directories: what a server can still do after it has confined itself, in a process of its own. */
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../../src/share/confine.h"
#include "karma/sandbox.h"
#include "share_fixture.h"

static bool no_namespaces;

/* The linker puts this in the place of the function: see mk/tests.mk. */
int __real_unshare(int flags);
int __wrap_unshare(int flags);

int __wrap_unshare(int flags)
{
	if (!no_namespaces)
		return __real_unshare(flags);
	errno = EPERM;
	return -1;
}

/* In the confined process: the line of what should not be, or is missing; 0 if there is none. */
#define MUST(condition) \
	do { \
		if (!(condition)) \
			return __LINE__; \
	} while (0)

static bool fails_with(int result, int error)
{
	return result < 0 && errno == error;
}

/* With error where what is outside cannot be opened. */
static int try_all(const struct confinement *confinement, int error)
{
	const int directory = confinement->directory;
	char canary[100], text[20];

	snprintf(canary, sizeof(canary), "%s/canary", base);
	MUST(fails_with(open(canary, O_RDONLY), error));
	MUST(fails_with(open("/etc/passwd", O_RDONLY), error));
	MUST(fails_with(openat(directory, "../canary", O_RDONLY), error));
	MUST(fails_with(openat(directory, "link", O_RDONLY), error == EACCES ? EACCES : ELOOP));
	MUST(fails_with(openat(AT_FDCWD, "../../../../../etc/passwd", O_RDONLY), error));
	MUST(mknodat(directory, "null", S_IFCHR | 0600, 1 << 8 | 3) < 0);
	MUST(openat(directory, "file", O_RDONLY) >= 0);
	MUST(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	/* By the descriptor, which the working directory has. */
	snprintf(text, sizeof(text), "%d", openat(directory, "file", O_PATH));
	MUST(open(text, O_RDONLY) >= 0);
	return 0;
}

static int try_to_write(const struct confinement *confinement, int error)
{
	const int result = openat(confinement->directory, "new", O_WRONLY | O_CREAT, 0644);

	MUST(options.read_only ? fails_with(result, error) : result >= 0);
	MUST(options.read_only || unlinkat(confinement->directory, "new", 0) == 0);
	return 0;
}

/* 0, or what of the above is wrong: by its line. */
static int confined(int outside, int written)
{
	struct confinement confinement;
	int status, result;
	pid_t child;

	make_file("file", "contents");
	ck_assert_int_eq(symlinkat("../canary", shared_fd, "link"), 0);
	child = fork();
	if (child == 0) {
		if (confine(&options, &confinement) < 0)
			_exit(255);
		result = try_all(&confinement, outside);
		if (result == 0)
			result = try_to_write(&confinement, written);
		_exit(result ? 1 + result % 254 : 0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static bool can(bool namespaces)
{
	struct sandbox_support support = sandbox_probe();

	return namespaces ? support.namespaces : support.landlock;
}

START_TEST(namespace_has_the_directory_alone)
{
	if (can(true))
		ck_assert_int_eq(confined(ENOENT, 0), 0);
}
END_TEST

START_TEST(namespace_of_a_read_only_directory_is_read_only)
{
	options.read_only = true;
	if (can(true))
		ck_assert_int_eq(confined(ENOENT, EROFS), 0);
}
END_TEST

START_TEST(landlock_keeps_the_directory_alone)
{
	no_namespaces = true;
	if (can(false))
		ck_assert_int_eq(confined(EACCES, 0), 0);
}
END_TEST

START_TEST(landlock_keeps_a_read_only_directory_so)
{
	no_namespaces = options.read_only = true;
	if (can(false))
		ck_assert_int_eq(confined(EACCES, EACCES), 0);
}
END_TEST

void share_confine_tests(Suite *suite)
{
	const TTest *const tests[] = {
		namespace_has_the_directory_alone,
		namespace_of_a_read_only_directory_is_read_only,
		landlock_keeps_the_directory_alone,
		landlock_keeps_a_read_only_directory_so,
	};

	add_case(suite, "share_confine", setup, teardown, 20, tests, ARRAY_SIZE(tests));
}
