// SPDX-License-Identifier: GPL-2.0-only
/* Open flags, the mode of what is made, and what stays open. */
#include <linux/openat2.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "conformance.h"

CASE(open_missing)
{
	TRY(open("f", O_RDONLY));
	TRY(open("f", O_RDWR));
}

CASE(open_create)
{
	TRY(open("f", O_CREAT | O_RDWR, 0600));
	show("f");
}

CASE(open_create_existing)
{
	make("f", "abc");
	TRY(open("f", O_CREAT | O_RDWR, 0600));
	show("f");
	show_text("f");
}

CASE(open_excl)
{
	TRY(open("f", O_CREAT | O_EXCL | O_RDWR, 0600));
	TRY(open("f", O_CREAT | O_EXCL | O_RDWR, 0600));
}

CASE(open_excl_symlink)
{
	NEED(symlink("absent", "l"));
	TRY(open("l", O_CREAT | O_EXCL | O_RDWR, 0600));
	show("absent");
}

CASE(open_create_by_symlink)
{
	NEED(symlink("f", "l"));
	TRY(open("l", O_CREAT | O_RDWR, 0600));
	show("f");
}

CASE(open_trunc)
{
	make("f", "abc");
	TRY(open("f", O_RDWR | O_TRUNC));
	show("f");
}

CASE(open_trunc_read_only)
{
	make("f", "abc");
	TRY(open("f", O_RDONLY | O_TRUNC));
	show("f");
}

CASE(open_directory_flag)
{
	make("f", "");
	TRY(open("f", O_DIRECTORY));
	TRY(open(".", O_DIRECTORY));
}

CASE(open_directory_to_write)
{
	TRY(open(".", O_RDWR));
	TRY(open(".", O_WRONLY));
}

CASE(open_create_a_directory)
{
	NEED(mkdir("d", 0755));
	TRY(open("d", O_CREAT | O_RDONLY, 0600));
	TRY(open("d/", O_CREAT | O_WRONLY, 0600));
}

CASE(open_create_with_slash)
{
	TRY(open("f/", O_CREAT | O_RDWR, 0600));
	show("f");
}

CASE(open_directory_and_create)
{
	TRY(open("f", O_CREAT | O_DIRECTORY | O_RDWR, 0600));
	show("f");
}

CASE(open_file_with_slash)
{
	make("f", "");
	TRY(open("f/", O_RDONLY));
	TRY(open("f/x", O_RDONLY));
}

CASE(open_nofollow)
{
	make("f", "");
	NEED(symlink("f", "l"));
	TRY(open("l", O_NOFOLLOW));
	TRY(open("f", O_NOFOLLOW));
}

CASE(open_nofollow_directory)
{
	NEED(mkdir("d", 0755));
	NEED(symlink("d", "l"));
	TRY(open("l", O_NOFOLLOW | O_DIRECTORY));
	TRY(open("l/", O_NOFOLLOW | O_DIRECTORY));
}

CASE(open_append_and_trunc)
{
	make("f", "abc");
	int fd = TRY(open("f", O_WRONLY | O_APPEND | O_TRUNC));
	COUNT(write(fd, "de", 2));
	show_text("f");
}

CASE(open_direct)
{
	make("f", "abc");
	TRY(open("f", O_RDWR | O_DIRECT));
}

CASE(open_noatime)
{
	make("f", "abc");
	TRY(open("f", O_RDONLY | O_NOATIME));
	AS_OTHER_USER {
		TRY(open("f", O_RDONLY | O_NOATIME));
	}
}

CASE(open_sync)
{
	int fd = TRY(open("f", O_CREAT | O_SYNC | O_WRONLY, 0600));

	COUNT(write(fd, "abc", 3));
	show("f");
}

CASE(open_a_read_only_file_that_is_made)
{
	int fd = TRY(open("f", O_CREAT | O_RDWR, 0));

	COUNT(write(fd, "abc", 3));
	COUNT(lseek(fd, 0, SEEK_SET));
	show("f");
}

CASE(open_path)
{
	char byte;
	int fd;

	make("f", "abc");
	fd = TRY(open("f", O_PATH));
	show_open(fd);
	COUNT(read(fd, &byte, 1));
	COUNT(write(fd, "x", 1));
	TRY(fchmod(fd, 0600));
	TRY(ftruncate(fd, 0));
	NEED(unlink("f"));
	show_open(fd);
}

CASE(open_path_of_symlink)
{
	char target[8] = "";
	int fd;

	NEED(symlink("absent", "l"));
	fd = TRY(open("l", O_PATH | O_NOFOLLOW));
	show_open(fd);
	COUNT(readlinkat(fd, "", target, sizeof(target) - 1));
	say("%s", target);
	TRY(open("l", O_PATH));
}

CASE(open_path_without_right)
{
	make("f", "abc");
	NEED(chmod("f", 0));
	AS_OTHER_USER {
		TRY(open("f", O_PATH));
		TRY(open("f", O_RDONLY));
	}
}

CASE(open_tmpfile)
{
	char path[64] = "/proc/self/fd/0";
	int fd = TRY(open(".", O_TMPFILE | O_RDWR, 0600));

	if (fd < 0)
		return;
	COUNT(write(fd, "abc", 3));
	show_open(fd);
	show_names(".");
	NEED(dup2(fd, STDIN_FILENO));
	TRY(linkat(AT_FDCWD, path, AT_FDCWD, "f", AT_SYMLINK_FOLLOW));
	show("f");
	show_text("f");
}

CASE(open_tmpfile_excl)
{
	int fd = TRY(open(".", O_TMPFILE | O_EXCL | O_RDWR, 0600));

	if (fd < 0)
		return;
	NEED(dup2(fd, STDIN_FILENO));
	TRY(linkat(AT_FDCWD, "/proc/self/fd/0", AT_FDCWD, "f", AT_SYMLINK_FOLLOW));
}

CASE(open_read_only_and_write)
{
	char byte;
	int fd;

	make("f", "abc");
	fd = TRY(open("f", O_RDONLY));
	COUNT(write(fd, "x", 1));
	TRY(ftruncate(fd, 0));
	fd = TRY(open("f", O_WRONLY));
	COUNT(read(fd, &byte, 1));
}

CASE(create_mode_and_umask)
{
	umask(027);
	TRY(open("a", O_CREAT | O_RDWR, 0777));
	TRY(mkdir("b", 0777));
	TRY(mkfifo("c", 0666));
	umask(0);
	TRY(open("d", O_CREAT | O_RDWR, 0666));
	umask(0777);
	TRY(open("e", O_CREAT | O_RDWR, 0777));
	umask(022);
	show("a");
	show("b");
	show("c");
	show("d");
	show("e");
}

CASE(create_with_special_modes)
{
	TRY(open("a", O_CREAT | O_RDWR, 04755));
	TRY(open("b", O_CREAT | O_RDWR, 02755));
	TRY(open("c", O_CREAT | O_RDWR, 01755));
	TRY(mkdir("d", 07755));
	show("a");
	show("b");
	show("c");
	show("d");
}

CASE(create_by_another_user)
{
	NEED(chmod(".", 0777));
	AS_OTHER_USER {
		TRY(open("f", O_CREAT | O_RDWR, 0600));
		TRY(mkdir("d", 0700));
		TRY(symlink("f", "l"));
		show("f");
		show("d");
		show("l");
	}
	show("f");
}

CASE(unlink_while_open)
{
	char text[8] = "";
	int fd = make_open("f", "abc");

	TRY(unlink("f"));
	show_open(fd);
	COUNT(pread(fd, text, 7, 0));
	COUNT(pwrite(fd, "defgh", 5, 2));
	COUNT(pread(fd, text, 7, 0));
	say("%s", text);
	TRY(ftruncate(fd, 1));
	TRY(fchmod(fd, 0600));
	show_open(fd);
	TRY(open("f", O_RDONLY));
	show_names(".");
}

CASE(unlink_while_open_and_again)
{
	int fd = make_open("f", "old"), other;
	char text[8] = "";

	TRY(unlink("f"));
	other = make_open("f", "new");
	COUNT(pread(fd, text, 7, 0));
	say("%s", text);
	COUNT(pread(other, text, 7, 0));
	say("%s", text);
}

CASE(unlinked_file_by_proc)
{
	int fd = make_open("f", "abc");

	NEED(unlink("f"));
	NEED(dup2(fd, STDIN_FILENO));
	TRY(open("/proc/self/fd/0", O_RDWR));
	TRY(linkat(AT_FDCWD, "/proc/self/fd/0", AT_FDCWD, "g", AT_SYMLINK_FOLLOW));
}

CASE(rename_over_an_open_file)
{
	char text[8] = "";
	int fd = make_open("f", "old");

	make("g", "new");
	TRY(rename("g", "f"));
	COUNT(pread(fd, text, 7, 0));
	say("%s", text);
	show_open(fd);
	show_text("f");
}

CASE(rmdir_of_an_open_directory)
{
	int fd;

	NEED(mkdir("d", 0755));
	fd = TRY(open("d", O_DIRECTORY));
	TRY(rmdir("d"));
	show_open(fd);
	TRY(openat(fd, "f", O_CREAT | O_RDWR, 0600));
	TRY(mkdirat(fd, "e", 0755));
}

CASE(rmdir_of_the_working_directory)
{
	char path[4096];

	NEED(mkdir("d", 0755));
	NEED(chdir("d"));
	TRY(rmdir("../d"));
	TRY(open("f", O_CREAT | O_RDWR, 0600));
	TRY(getcwd(path, sizeof(path)) ? 0 : -1);
	NEED(chdir(".."));
}

CASE(a_thousand_open_files)
{
	struct rlimit limit = { 2048, 2048 };
	unsigned open_files = 0;
	char name[16];

	TRY(setrlimit(RLIMIT_NOFILE, &limit));
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "%u", i);
		open_files += open(name, O_CREAT | O_RDWR, 0600) >= 0;
	}
	say("open=%u", open_files);
}

CASE(limit_of_open_files)
{
	struct rlimit limit = { 16, 16 };
	int last;

	make("f", "");
	NEED(setrlimit(RLIMIT_NOFILE, &limit));
	while ((last = open("f", O_RDONLY)) >= 0)
		;
	TRY(last);
	TRY(open("g", O_CREAT | O_EXCL | O_RDWR, 0600));
	show("g");
}

CASE(dup_shares_the_offset)
{
	int fd = make_open("f", "abcdef"), other = NEED(dup(fd));
	char text[4] = "";

	COUNT(read(fd, text, 2));
	COUNT(read(other, text, 2));
	say("%s", text);
	COUNT(lseek(fd, 0, SEEK_CUR));
}

CASE(openat2_resolve)
{
	static const struct {
		const char *name;
		unsigned long resolve;
	} ways[] = { { "beneath", RESOLVE_BENEATH }, { "in_root", RESOLVE_IN_ROOT },
		{ "no_symlinks", RESOLVE_NO_SYMLINKS }, { "no_xdev", RESOLVE_NO_XDEV } };
	static const char *const paths[] = { "f", "../f", "l", "up", "absolute", "d/../f" };
	int directory = NEED(open(".", O_DIRECTORY));

	make("f", "");
	NEED(mkdir("d", 0755));
	NEED(symlink("f", "l"));
	NEED(symlink("../f", "up"));
	NEED(symlink("/f", "absolute"));
	for (unsigned way = 0; way < 4; way++) {
		struct open_how how = { .flags = O_RDONLY, .resolve = ways[way].resolve };

		for (unsigned path = 0; path < 6; path++) {
			say("%s,%s", ways[way].name, paths[path]);
			TRY(syscall(SYS_openat2, directory, paths[path], &how, sizeof(how)));
		}
	}
}

CASE(openat_relative)
{
	int directory, file;

	NEED(mkdir("d", 0755));
	make("d/f", "abc");
	directory = TRY(open("d", O_DIRECTORY));
	file = TRY(openat(directory, "f", O_RDONLY));
	TRY(openat(file, "f", O_RDONLY));
	TRY(openat(directory, "../d/f", O_RDONLY));
	NEED(rename("d", "e"));
	TRY(openat(directory, "f", O_RDONLY));
	TRY(open("d/f", O_RDONLY));
}

CASE(file_handles)
{
	struct {
		struct file_handle handle;
		unsigned char room[MAX_HANDLE_SZ];
	} file = { .handle.handle_bytes = MAX_HANDLE_SZ };
	int mount, directory = NEED(open(".", O_DIRECTORY));

	make("f", "abc");
	if (TRY(name_to_handle_at(AT_FDCWD, "f", &file.handle, &mount, 0)) < 0)
		return;
	TRY(open_by_handle_at(directory, &file.handle, O_RDONLY));
	NEED(unlink("f"));
	TRY(open_by_handle_at(directory, &file.handle, O_RDONLY));
}

CASE(poll_of_a_file)
{
	struct pollfd poll_fd = { make_open("f", "abc"), POLLIN | POLLOUT, 0 };

	COUNT(poll(&poll_fd, 1, 0));
	say("%#x", (unsigned)poll_fd.revents);
}

CASE(fcntl_flags)
{
	int fd = make_open("f", "abc");

	TRY(fcntl(fd, F_SETFL, O_APPEND));
	say("%#x", fcntl(fd, F_GETFL) & (O_APPEND | O_ACCMODE));
	COUNT(write(fd, "d", 1));
	show_text("f");
	TRY(fcntl(fd, F_SETFL, O_DIRECT));
}
