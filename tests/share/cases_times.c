// SPDX-License-Identifier: GPL-2.0-only
/* Times that are set, and what changes them. */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <time.h>

#include "conformance.h"

static void show_times(const char *path)
{
	struct stat status;

	NEED(lstat(path, &status));
	say("%s:%ld.%09ld,%ld.%09ld", path, status.st_atim.tv_sec, status.st_atim.tv_nsec,
		status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

CASE(utimens_set)
{
	const struct timespec times[2] = { { 1000000000, 123456789 }, { 1100000000, 987654321 } };

	make("f", "");
	TRY(utimensat(AT_FDCWD, "f", times, 0));
	show_times("f");
	NEED(mkdir("d", 0755));
	TRY(utimensat(AT_FDCWD, "d", times, 0));
	show_times("d");
}

CASE(utimens_of_symlink)
{
	const struct timespec times[2] = { { 1000000000, 1 }, { 1100000000, 2 } };

	NEED(symlink("absent", "l"));
	TRY(utimensat(AT_FDCWD, "l", times, AT_SYMLINK_NOFOLLOW));
	show_times("l");
	TRY(utimensat(AT_FDCWD, "l", times, 0));
}

CASE(utimens_errors)
{
	const struct timespec times[2] = { { 1, 1000000000 }, { 1, 0 } };

	make("f", "");
	TRY(utimensat(AT_FDCWD, "f", times, 0));
	TRY(utimensat(AT_FDCWD, "absent", NULL, 0));
}

CASE(utimens_far)
{
	const struct timespec times[2] = { { -1, 5 }, { 4000000000, 6 } };

	make("f", "");
	TRY(utimensat(AT_FDCWD, "f", times, 0));
	show_times("f");
}

CASE(utimens_omit)
{
	const struct timespec set[2] = { { 1000000000, 1 }, { 1100000000, 2 } };
	const struct timespec atime[2] = { { 1200000000, 3 }, { 0, UTIME_OMIT } };
	const struct timespec mtime[2] = { { 0, UTIME_OMIT }, { 1300000000, 4 } };
	const struct timespec none[2] = { { 0, UTIME_OMIT }, { 0, UTIME_OMIT } };

	make("f", "");
	TRY(utimensat(AT_FDCWD, "f", set, 0));
	TRY(utimensat(AT_FDCWD, "f", atime, 0));
	show_times("f");
	TRY(utimensat(AT_FDCWD, "f", mtime, 0));
	show_times("f");
	TIMES_OF("f", TRY(utimensat(AT_FDCWD, "f", none, 0)));
}

CASE(utimens_now)
{
	const struct timespec set[2] = { { 1000000000, 1 }, { 1100000000, 2 } };
	const struct timespec now[2] = { { 0, UTIME_NOW }, { 0, UTIME_OMIT } };
	int fd = make_open("f", "");

	NEED(futimens(fd, set));
	TIMES_OF("f", TRY(futimens(fd, now)));
	TIMES_OF("f", TRY(futimens(fd, NULL)));
}

CASE(utimens_by_another_user)
{
	const struct timespec set[2] = { { 1000000000, 1 }, { 1100000000, 2 } };

	make("f", "");
	NEED(chmod("f", 0666));
	AS_OTHER_USER {
		TRY(utimensat(AT_FDCWD, "f", NULL, 0));
		TRY(utimensat(AT_FDCWD, "f", set, 0));
	}
	NEED(chmod("f", 0644));
	AS_OTHER_USER { TRY(utimensat(AT_FDCWD, "f", NULL, 0)); }
}

CASE(times_of_a_new_file)
{
	struct timespec now;
	struct stat status;

	clock_gettime(CLOCK_REALTIME, &now);
	make("f", "");
	NEED(stat("f", &status));
	say("%s", labs(status.st_mtim.tv_sec - now.tv_sec) < 5 ? "now" : "not now");
}

CASE(times_by_write)
{
	int fd = make_open("f", "abc");

	TIMES_OF("f", COUNT(write(fd, "x", 1)));
	TIMES_OF("f", COUNT(write(fd, "", 0)));
}

CASE(times_by_read)
{
	const struct timespec old[2] = { { 1, 0 }, { 2, 0 } };
	char byte;
	int fd = make_open("f", "abc");

	NEED(futimens(fd, old));
	TIMES_OF("f", COUNT(read(fd, &byte, 1)));
}

CASE(times_by_truncate)
{
	make("f", "abc");
	TIMES_OF("f", TRY(truncate("f", 1)));
	TIMES_OF("f", TRY(truncate("f", 1)));
	TIMES_OF("f", TRY(open("f", O_WRONLY | O_TRUNC)));
	TIMES_OF("f", TRY(open("f", O_WRONLY | O_TRUNC)));
}

CASE(times_by_chmod)
{
	make("f", "");
	TIMES_OF("f", TRY(chmod("f", 0600)));
	TIMES_OF("f", TRY(chown("f", -1, -1)));
}

CASE(times_by_link)
{
	make("f", "");
	TIMES_OF("f", TRY(link("f", "g")));
	TIMES_OF("f", TRY(rename("f", "h")); NEED(rename("h", "f")));
	TIMES_OF("f", TRY(unlink("g")));
}

CASE(times_by_map)
{
	int fd = make_open("f", "abc");
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	TIMES_OF("f", map[0] = 'x'; TRY(msync(map, 4096, MS_SYNC)));
}

CASE(times_by_xattr)
{
	make("f", "");
	TIMES_OF("f", TRY(setxattr("f", "user.a", "1", 1, 0)));
}

CASE(times_of_a_directory)
{
	NEED(mkdir("d", 0755));
	TIMES_OF("d", make("d/f", ""));
	TIMES_OF("d", TRY(unlink("d/f")));
	TIMES_OF("d", TRY(mkdir("d/e", 0755)));
	TIMES_OF("d", make("d/e/f", ""));
	TIMES_OF("d", TRY(rename("d/e", "d/g")));
	TIMES_OF("d", TRY(chmod("d/g", 0700)));
}

CASE(times_by_rename_over)
{
	make("f", "");
	make("g", "");
	NEED(link("g", "h"));
	TIMES_OF("h", TRY(rename("f", "g")));
}

