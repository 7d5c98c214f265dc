// SPDX-License-Identifier: GPL-2.0-only
/* Locks, special files, notification. */
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include "conformance.h"

/* --- Locks. */

CASE(flock_between_descriptors)
{
	int one = make_open("f", ""), other = NEED(open("f", O_RDWR));

	TRY(flock(one, LOCK_EX | LOCK_NB));
	TRY(flock(other, LOCK_EX | LOCK_NB));
	TRY(flock(other, LOCK_SH | LOCK_NB));
	TRY(flock(one, LOCK_UN));
	TRY(flock(other, LOCK_SH | LOCK_NB));
	TRY(flock(one, LOCK_SH | LOCK_NB));
	TRY(flock(one, LOCK_EX | LOCK_NB));
}

CASE(flock_between_processes)
{
	int fd = make_open("f", "");

	TRY(flock(fd, LOCK_EX));
	IN_CHILD {
		int other = NEED(open("f", O_RDWR));

		TRY(flock(other, LOCK_EX | LOCK_NB));
		/* That of the same description. */
		TRY(flock(fd, LOCK_EX | LOCK_NB));
	}
	close(fd);
	IN_CHILD {
		int other = NEED(open("f", O_RDWR));

		TRY(flock(other, LOCK_EX | LOCK_NB));
	}
}

CASE(flock_of_others)
{
	int fd;

	NEED(mkdir("d", 0755));
	fd = NEED(open("d", O_RDONLY));
	TRY(flock(fd, LOCK_EX | LOCK_NB));
	make("f", "");
	fd = NEED(open("f", O_RDONLY));
	TRY(flock(fd, LOCK_EX | LOCK_NB));
	fd = NEED(open("f", O_PATH));
	TRY(flock(fd, LOCK_EX | LOCK_NB));
}

static int lock(int fd, int command, int type, off_t from, off_t length)
{
	struct flock request = { .l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = length };

	return fcntl(fd, command, &request);
}

CASE(fcntl_between_processes)
{
	int fd = make_open("f", "abcdef");

	TRY(lock(fd, F_SETLK, F_WRLCK, 0, 3));
	IN_CHILD {
		int other = NEED(open("f", O_RDWR));
		struct flock seen = { .l_type = F_WRLCK };

		TRY(lock(other, F_SETLK, F_WRLCK, 0, 1));
		TRY(lock(other, F_SETLK, F_RDLCK, 2, 1));
		TRY(lock(other, F_SETLK, F_WRLCK, 3, 3));
		TRY(fcntl(other, F_GETLK, &seen));
		say("type=%d,start=%ld,length=%ld,%s", seen.l_type, (long)seen.l_start,
			(long)seen.l_len, seen.l_pid == getppid() ? "parent" : "another");
	}
	TRY(lock(fd, F_SETLK, F_UNLCK, 0, 0));
	IN_CHILD { TRY(lock(fd, F_SETLK, F_WRLCK, 0, 1)); }
}

CASE(fcntl_locks_end_with_any_close)
{
	int fd = make_open("f", "");

	TRY(lock(fd, F_SETLK, F_WRLCK, 0, 0));
	close(NEED(open("f", O_RDONLY)));
	IN_CHILD { TRY(lock(fd, F_SETLK, F_WRLCK, 0, 0)); }
}

CASE(fcntl_lock_needs_the_mode)
{
	int fd;

	make("f", "");
	fd = NEED(open("f", O_RDONLY));
	TRY(lock(fd, F_SETLK, F_WRLCK, 0, 0));
	TRY(lock(fd, F_SETLK, F_RDLCK, 0, 0));
	fd = NEED(open("f", O_WRONLY));
	TRY(lock(fd, F_SETLK, F_RDLCK, 0, 0));
}

CASE(fcntl_split)
{
	int fd = make_open("f", "");

	TRY(lock(fd, F_SETLK, F_WRLCK, 0, 10));
	TRY(lock(fd, F_SETLK, F_UNLCK, 3, 3));
	IN_CHILD {
		TRY(lock(fd, F_SETLK, F_WRLCK, 3, 3));
		TRY(lock(fd, F_SETLK, F_WRLCK, 2, 1));
		TRY(lock(fd, F_SETLK, F_WRLCK, 6, 1));
	}
}

CASE(fcntl_wait)
{
	int fd = make_open("f", ""), ends[2];
	char byte = 'x';

	NEED(pipe(ends));
	NEED(lock(fd, F_SETLK, F_WRLCK, 0, 0));
	if (NEED(fork()) == 0) {
		int other = NEED(open("f", O_RDWR));

		TRY(lock(other, F_SETLK, F_WRLCK, 0, 0));
		NEED(write(ends[1], &byte, 1));
		TRY(lock(other, F_SETLKW, F_WRLCK, 0, 0));
		NEED(write(ends[1], &byte, 1));
		_exit(0);
	}
	NEED(read(ends[0], &byte, 1));
	NEED(lock(fd, F_SETLK, F_UNLCK, 0, 0));
	COUNT(read(ends[0], &byte, 1));
}

CASE(open_file_description_locks)
{
	int one = make_open("f", ""), other = NEED(open("f", O_RDWR));

	TRY(lock(one, F_OFD_SETLK, F_WRLCK, 0, 10));
	TRY(lock(other, F_OFD_SETLK, F_WRLCK, 5, 10));
	TRY(lock(other, F_OFD_SETLK, F_WRLCK, 10, 10));
	close(NEED(open("f", O_RDONLY)));
	TRY(lock(other, F_OFD_SETLK, F_RDLCK, 0, 1));
	close(one);
	TRY(lock(other, F_OFD_SETLK, F_WRLCK, 0, 10));
}

CASE(flock_and_fcntl_are_apart)
{
	int one = make_open("f", ""), other = NEED(open("f", O_RDWR));

	TRY(flock(one, LOCK_EX | LOCK_NB));
	TRY(lock(other, F_SETLK, F_WRLCK, 0, 0));
}

CASE(lease)
{
	int fd;

	make("f", "");
	fd = NEED(open("f", O_RDONLY));
	TRY(fcntl(fd, F_SETLEASE, F_RDLCK));
	COUNT(fcntl(fd, F_GETLEASE));
}

/* --- Special files. */

CASE(fifo)
{
	char text[8] = "";
	int reader, writer;

	TRY(mkfifo("p", 0640));
	show("p");
	TRY(mkfifo("p", 0600));
	TRY(open("p", O_WRONLY | O_NONBLOCK));
	reader = TRY(open("p", O_RDONLY | O_NONBLOCK));
	writer = TRY(open("p", O_WRONLY));
	COUNT(write(writer, "abc", 3));
	COUNT(read(reader, text, 7));
	say("%s", text);
}

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	return address;
}

CASE(unix_socket)
{
	struct sockaddr_un address = address_of("s");
	int server = NEED(socket(AF_UNIX, SOCK_STREAM, 0)), client = NEED(socket(AF_UNIX, SOCK_STREAM, 0));

	TRY(bind(server, (struct sockaddr *)&address, sizeof(address)));
	show("s");
	TRY(connect(client, (struct sockaddr *)&address, sizeof(address)));
	TRY(listen(server, 1));
	TRY(connect(client, (struct sockaddr *)&address, sizeof(address)));
	TRY(open("s", O_RDWR));
	TRY(bind(NEED(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&address, sizeof(address)));
	TRY(unlink("s"));
}

CASE(mknod_file)
{
	TRY(mknod("f", S_IFREG | 0640, 0));
	show("f");
	TRY(mknod("f", S_IFREG | 0640, 0));
	TRY(mknod("g", 0600, 0));
	show("g");
	TRY(mknod("s", S_IFSOCK | 0600, 0));
	show("s");
	TRY(mknod("d", S_IFDIR | 0700, 0));
}

CASE(mknod_device)
{
	TRY(mknod("c", S_IFCHR | 0600, makedev(1, 3)));
	TRY(mknod("b", S_IFBLK | 0600, makedev(7, 0)));
	show("c");
	show("b");
	AS_OTHER_USER {
		TRY(mknod("d", S_IFCHR | 0600, makedev(1, 3)));
	}
}

CASE(open_of_a_device)
{
	TRY(mknod("c", S_IFCHR | 0600, makedev(1, 3)));
	TRY(open("c", O_RDWR));
}

CASE(whiteout)
{
	TRY(mknod("w", S_IFCHR, makedev(0, 0)));
	show("w");
}

/* --- Notification of one's own changes. */

static void show_events(int watcher)
{
	char bytes[4096] __attribute__((aligned(8)));
	struct pollfd ready = { watcher, POLLIN, 0 };

	while (poll(&ready, 1, 0) > 0) {
		ssize_t got = NEED(read(watcher, bytes, sizeof(bytes)));

		for (char *at = bytes; at < bytes + got;) {
			struct inotify_event *event = (void *)at;

			say("%#x:%s", event->mask, event->len ? event->name : "");
			at += sizeof(*event) + event->len;
		}
	}
}

CASE(inotify_of_a_directory)
{
	int watcher = NEED(inotify_init1(0)), fd;

	TRY(inotify_add_watch(watcher, ".", IN_ALL_EVENTS & ~IN_ACCESS));
	fd = make_open("f", "abc");
	NEED(fchmod(fd, 0600));
	close(fd);
	NEED(link("f", "g"));
	NEED(rename("g", "h"));
	NEED(unlink("h"));
	NEED(mkdir("d", 0755));
	NEED(rmdir("d"));
	show_events(watcher);
}

CASE(inotify_of_a_file)
{
	int watcher = NEED(inotify_init1(0)), fd = make_open("f", "abc");
	char byte;

	TRY(inotify_add_watch(watcher, "f", IN_ALL_EVENTS));
	COUNT(pread(fd, &byte, 1, 0));
	COUNT(pwrite(fd, "x", 1, 0));
	NEED(ftruncate(fd, 0));
	NEED(unlink("f"));
	close(fd);
	show_events(watcher);
}
