// SPDX-License-Identifier: GPL-2.0-only
/* Names: rename, link, symlink, unlink, and the errors of paths. */
#include <linux/fs.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"

static const char *long_name(size_t length)
{
	static char name[PATH_MAX * 2];

	memset(name, 'n', length);
	name[length] = '\0';
	return name;
}

/* --- rename */

CASE(rename_file)
{
	make("a", "abc");
	TRY(rename("a", "b"));
	show("a");
	show("b");
	show_text("b");
}

CASE(rename_missing)
{
	make("b", "");
	TRY(rename("a", "b"));
	show("b");
}

CASE(rename_onto_file)
{
	make("a", "new");
	make("b", "old");
	TRY(rename("a", "b"));
	show_text("b");
	show_names(".");
}

CASE(rename_onto_itself)
{
	make("a", "abc");
	TRY(rename("a", "a"));
	show("a");
}

CASE(rename_onto_own_link)
{
	make("a", "abc");
	NEED(link("a", "b"));
	TRY(rename("a", "b"));
	show_names(".");
	show("a");
}

CASE(rename_file_onto_directory)
{
	make("a", "");
	NEED(mkdir("d", 0755));
	TRY(rename("a", "d"));
	show_names(".");
}

CASE(rename_directory_onto_file)
{
	NEED(mkdir("d", 0755));
	make("a", "");
	TRY(rename("d", "a"));
	show_names(".");
}

CASE(rename_onto_empty_directory)
{
	NEED(mkdir("a", 0755));
	NEED(mkdir("b", 0755));
	make("a/f", "");
	TRY(rename("a", "b"));
	show_names(".");
	show_names("b");
}

CASE(rename_onto_full_directory)
{
	NEED(mkdir("a", 0755));
	NEED(mkdir("b", 0755));
	make("b/f", "");
	TRY(rename("a", "b"));
	show_names(".");
}

CASE(rename_into_own_child)
{
	NEED(mkdir("a", 0755));
	NEED(mkdir("a/b", 0755));
	TRY(rename("a", "a/b/c"));
	TRY(rename("a", "a/b"));
	TRY(rename("a/b", "a"));
}

CASE(rename_dot)
{
	NEED(mkdir("a", 0755));
	TRY(rename("a/.", "b"));
	TRY(rename("a", "b/.."));
	TRY(rename("a/..", "b"));
}

CASE(rename_symlink)
{
	NEED(symlink("absent", "l"));
	make("f", "");
	TRY(rename("l", "m"));
	show("m");
	TRY(rename("m", "f"));
	show("f");
}

CASE(rename_with_slash)
{
	make("f", "");
	NEED(mkdir("d", 0755));
	TRY(rename("f", "g/"));
	TRY(rename("d", "e/"));
	TRY(rename("f/", "g"));
	show_names(".");
}

CASE(rename_directory_to_another_parent)
{
	NEED(mkdir("a", 0755));
	NEED(mkdir("b", 0755));
	NEED(mkdir("a/d", 0755));
	TRY(rename("a/d", "b/d"));
	show("a");
	show("b");
	NEED(chdir("b/d"));
	make("../../f", "");
	show_names("../..");
}

CASE(rename_keeps_what_is_open)
{
	int fd = make_open("a", "abc");

	NEED(rename("a", "b"));
	COUNT(pwrite(fd, "x", 1, 3));
	show_text("b");
	TRY(fchmod(fd, 0600));
	show("b");
}

CASE(rename_noreplace)
{
	make("a", "abc");
	make("b", "old");
	TRY(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE));
	TRY(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
	show_names(".");
}

CASE(rename_exchange)
{
	make("a", "abc");
	NEED(mkdir("d", 0755));
	TRY(renameat2(AT_FDCWD, "a", AT_FDCWD, "d", RENAME_EXCHANGE));
	show("a");
	show("d");
	TRY(renameat2(AT_FDCWD, "a", AT_FDCWD, "absent", RENAME_EXCHANGE));
	TRY(renameat2(AT_FDCWD, "a", AT_FDCWD, "d", RENAME_EXCHANGE | RENAME_NOREPLACE));
}

CASE(rename_whiteout)
{
	make("a", "abc");
	TRY(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_WHITEOUT));
	show("a");
	show("b");
}

CASE(rename_of_anothers_in_a_sticky_directory)
{
	make("f", "");
	NEED(chmod(".", 01777));
	AS_OTHER_USER {
		TRY(rename("f", "g"));
		TRY(unlink("f"));
		make("own", "");
		TRY(rename("own", "f"));
		TRY(rename("own", "g"));
	}
	show_names(".");
}

/* --- link */

CASE(link_counts)
{
	make("a", "abc");
	TRY(link("a", "b"));
	TRY(link("b", "c"));
	show("a");
	TRY(unlink("a"));
	show("c");
	show_text("b");
}

CASE(link_onto_existing)
{
	make("a", "");
	make("b", "");
	TRY(link("a", "b"));
	TRY(link("a", "a"));
	TRY(link("absent", "c"));
}

CASE(link_to_directory)
{
	NEED(mkdir("d", 0755));
	TRY(link("d", "e"));
	show("d");
}

CASE(link_to_symlink)
{
	make("f", "abc");
	NEED(symlink("f", "l"));
	TRY(link("l", "m"));
	show("m");
	TRY(linkat(AT_FDCWD, "l", AT_FDCWD, "n", AT_SYMLINK_FOLLOW));
	show("n");
	show("f");
}

CASE(link_is_the_same_file)
{
	struct stat one, other;
	int fd = make_open("a", "abc");

	NEED(link("a", "b"));
	COUNT(pwrite(fd, "xyz", 3, 3));
	show_text("b");
	NEED(stat("a", &one));
	NEED(stat("b", &other));
	say("%s", one.st_ino == other.st_ino && one.st_dev == other.st_dev ? "same" : "differs");
	TRY(chmod("b", 0600));
	show("a");
}

CASE(link_many)
{
	char name[16];

	make("f", "");
	for (unsigned i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "l%u", i);
		NEED(link("f", name));
	}
	show("f");
}

/* --- symlink */

CASE(symlink_dangling)
{
	char target[16] = "";

	TRY(symlink("absent", "l"));
	show("l");
	COUNT(readlink("l", target, sizeof(target)));
	say("%s", target);
	TRY(open("l", O_RDONLY));
	TRY(chmod("l", 0600));
	TRY(truncate("l", 0));
}

CASE(symlink_loop)
{
	NEED(symlink("b", "a"));
	NEED(symlink("a", "b"));
	TRY(open("a", O_RDONLY));
	TRY(open("a/x", O_RDONLY));
	TRY(open("a", O_CREAT | O_RDWR, 0600));
}

CASE(symlink_onto_existing)
{
	make("f", "");
	TRY(symlink("x", "f"));
	TRY(symlink("", "l"));
}

CASE(symlink_cut_by_readlink)
{
	char target[4] = "";

	NEED(symlink("target", "l"));
	COUNT(readlink("l", target, 3));
	say("%s", target);
	make("f", "");
	COUNT(readlink("f", target, 3));
	COUNT(readlink("absent", target, 3));
}

CASE(symlink_long)
{
	static char target[PATH_MAX];

	TRY(symlink(long_name(1000), "a"));
	COUNT(readlink("a", target, sizeof(target)));
	TRY(symlink(long_name(4095), "b"));
	COUNT(readlink("b", target, sizeof(target)));
	TRY(symlink(long_name(4096), "c"));
}

CASE(symlink_chain)
{
	char from[8], to[8];

	make("0", "abc");
	for (unsigned i = 1; i <= 41; i++) {
		snprintf(from, sizeof(from), "%u", i);
		snprintf(to, sizeof(to), "%u", i - 1);
		NEED(symlink(to, from));
	}
	TRY(open("40", O_RDONLY));
	TRY(open("41", O_RDONLY));
}

CASE(symlink_to_directory)
{
	NEED(mkdir("d", 0755));
	make("d/f", "abc");
	NEED(symlink("d", "l"));
	show_text("l/f");
	TRY(rmdir("l"));
	TRY(rmdir("l/"));
	TRY(unlink("l"));
	show_names(".");
}

/* --- unlink, rmdir, mkdir */

CASE(unlink_of_a_directory)
{
	NEED(mkdir("d", 0755));
	TRY(unlink("d"));
	TRY(unlink("absent"));
	TRY(unlink("d/"));
}

CASE(unlink_without_right)
{
	NEED(mkdir("d", 0755));
	make("d/f", "");
	AS_OTHER_USER {
		TRY(unlink("d/f"));
		TRY(rmdir("d"));
	}
	NEED(chmod("d", 0777));
	AS_OTHER_USER { TRY(unlink("d/f")); }
}

CASE(rmdir_errors)
{
	NEED(mkdir("d", 0755));
	make("d/f", "");
	make("g", "");
	TRY(rmdir("d"));
	TRY(rmdir("g"));
	TRY(rmdir("absent"));
	TRY(rmdir("d/."));
	TRY(rmdir("d/.."));
	TRY(rmdir(""));
}

CASE(mkdir_errors)
{
	TRY(mkdir("d", 0755));
	TRY(mkdir("d", 0755));
	TRY(mkdir("absent/d", 0755));
	TRY(mkdir("", 0755));
	TRY(mkdir(".", 0755));
	NEED(symlink("e", "l"));
	TRY(mkdir("l", 0755));
	TRY(mkdir("f/", 0755));
	show_names(".");
}

CASE(mkdir_link_counts)
{
	NEED(mkdir("d", 0755));
	show("d");
	NEED(mkdir("d/a", 0755));
	NEED(mkdir("d/b", 0755));
	make("d/f", "");
	show("d");
	NEED(rmdir("d/a"));
	show("d");
}

CASE(mkdir_in_setgid_directory)
{
	NEED(mkdir("d", 0755));
	NEED(chmod("d", 02755));
	NEED(mkdir("d/e", 0755));
	make("d/f", "");
	show("d");
	show("d/e");
	show("d/f");
}

/* --- Paths. */

CASE(name_of_255_bytes)
{
	TRY(open(long_name(255), O_CREAT | O_RDWR, 0600));
	show_size(long_name(255));
	TRY(mkdir(long_name(256), 0755));
	TRY(open(long_name(256), O_CREAT | O_RDWR, 0600));
	TRY(open(long_name(256), O_RDONLY));
	TRY(unlink(long_name(255)));
}

CASE(rename_to_a_long_name)
{
	make("f", "");
	TRY(rename("f", long_name(255)));
	TRY(rename(long_name(255), "f"));
	TRY(rename("f", long_name(256)));
	TRY(link("f", long_name(256)));
	TRY(symlink("f", long_name(256)));
}

CASE(path_too_long)
{
	TRY(open(long_name(4095), O_RDONLY));
	TRY(open(long_name(4096), O_RDONLY));
}

CASE(deep_directories)
{
	unsigned depth = 0;
	char path[PATH_MAX];

	while (depth < 200 && mkdir("d", 0755) == 0 && chdir("d") == 0)
		depth++;
	make("f", "abc");
	show_text("f");
	TRY(getcwd(path, sizeof(path)) ? 0 : -1);
	say("depth=%u", depth);
	while (depth--)
		NEED(chdir(".."));
	show_names(".");
}

CASE(file_as_directory)
{
	make("f", "");
	TRY(open("f/x", O_RDONLY));
	TRY(mkdir("f/x", 0755));
	TRY(unlink("f/x"));
	TRY(chdir("f"));
	TRY(rename("f/x", "g"));
	TRY(symlink("x", "f/x"));
	TRY(link("f", "f/x"));
}

CASE(names_of_any_bytes)
{
	make("sp ace", "1");
	make("new\nline", "2");
	make("\xff\xfe", "3");
	make("-", "4");
	make("...", "5");
	show_text("new\nline");
	show_text("\xff\xfe");
	show_size("...");
	TRY(open("A", O_CREAT | O_RDWR, 0600));
	TRY(open("a", O_RDONLY));
}

CASE(dot_dot_at_the_top)
{
	struct stat here, above;

	NEED(mkdir("d", 0755));
	NEED(stat("d/..", &above));
	NEED(stat(".", &here));
	say("%s", here.st_ino == above.st_ino ? "same" : "differs");
	TRY(open("d/../d/../absent", O_RDONLY));
}
