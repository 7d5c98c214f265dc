// SPDX-License-Identifier: GPL-2.0-only
/* The names of guests and their sockets. */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "control_fixture.h"

static char runtime[64];

static void setup_directory(void)
{
	strcpy(runtime, "/tmp/karma-unit-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(runtime));
	ck_assert_int_eq(setenv("XDG_RUNTIME_DIR", runtime, 1), 0);
}

static void teardown_directory(void)
{
	char path[80];

	snprintf(path, sizeof(path), "%s/karma", runtime);
	ck_assert(rmdir(path) == 0 || errno == ENOENT);
	ck_assert_int_eq(rmdir(runtime), 0);
}

START_TEST(names_are_plain)
{
	static const char *const good[] = { "a", "web-1", "_x", "A.b_c-9",
		"012345678901234567890123456789012345678901234567890123456789012" };
	static const char *const bad[] = { "", ".", "..", "-x", "a/b", "a b", "a\n", "\xc3\xa4", "a\033",
		"0123456789012345678901234567890123456789012345678901234567890123" };

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		ck_assert_msg(control_name_is_valid(good[i]), "%s", good[i]);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_msg(!control_name_is_valid(bad[i]), "%s", bad[i]);
}
END_TEST

START_TEST(a_name_is_used_once)
{
	struct control_socket one, other;
	struct stat status;
	pid_t pid;
	int fd;

	ck_assert_int_eq(control_listen(&one, "web", false), 0);
	ck_assert_int_eq(stat(one.path, &status), 0);
	ck_assert_uint_eq(status.st_mode & 0777, 0600);
	ck_assert_int_eq(control_listen(&other, "web", false), -EADDRINUSE);
	ck_assert_int_eq(other.fd, -1);
	fd = control_connect("web", &pid);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pid, getpid());
	close(fd);
	ck_assert_int_eq(control_listen(&other, "db", false), 0);
	control_unlisten(&other);
	control_unlisten(&one);
	ck_assert_int_eq(control_connect("web", &pid), -ENOENT);
}
END_TEST

/* As of one that was killed: the file is there, and nobody listens. */
static void leave_stale(const char *name)
{
	struct control_socket socket;

	ck_assert_int_eq(control_listen(&socket, name, false), 0);
	close(socket.fd);
}

/* Guests of this machine may run beside, in the system's directory. */
static bool is_listed(const char *name)
{
	char (*names)[CONTROL_NAME_MAX + 1];
	int count = control_list(&names);
	bool found = false;

	ck_assert_int_ge(count, 0);
	for (int i = 0; i < count; i++)
		found = found || strcmp(names[i], name) == 0;
	free(names);
	return found;
}

START_TEST(stale_sockets_are_taken_away)
{
	struct control_socket socket;
	pid_t pid;

	leave_stale("unit-web");
	leave_stale("unit-db");
	ck_assert(is_listed("unit-web"));
	ck_assert(is_listed("unit-db"));
	/* By who asks, */
	ck_assert_int_eq(control_connect("unit-db", &pid), -ENOENT);
	ck_assert(!is_listed("unit-db"));
	/* and by who takes the name. */
	ck_assert_int_eq(control_listen(&socket, "unit-web", false), 0);
	control_unlisten(&socket);
	ck_assert(!is_listed("unit-web"));
}
END_TEST

START_TEST(a_socket_of_another_is_left_alone)
{
	struct control_socket one, other;

	ck_assert_int_eq(control_listen(&one, "web", false), 0);
	ck_assert_int_eq(unlink(one.path), 0);
	ck_assert_int_eq(control_listen(&other, "web", false), 0);
	control_unlisten(&one);
	ck_assert_int_eq(access(other.path, F_OK), 0);
	control_unlisten(&other);
}
END_TEST

static bool same_file(const struct stat *one, const char *path)
{
	struct stat other;

	return lstat(path, &other) == 0 && one->st_ino == other.st_ino && one->st_size == other.st_size &&
		one->st_mode == other.st_mode;
}

/* What a dead guest has not left. */
static void put_something(const char *path, unsigned kind)
{
	char target[120];
	int fd;

	snprintf(target, sizeof(target), "%s.target", path);
	switch (kind) {
	case 0:
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
		ck_assert_int_eq(write(fd, "precious", 8), 8);
		close(fd);
		break;
	case 1:
		ck_assert_int_eq(mkdir(path, 0700), 0);
		break;
	case 2:
		ck_assert_int_eq(mkfifo(path, 0600), 0);
		break;
	case 3:
		/* To a file that must stay as well. */
		put_something(target, 0);
		ck_assert_int_eq(symlink(target, path), 0);
		break;
	case 4:
		ck_assert_int_eq(symlink(target, path), 0);
		break;
	}
}

START_TEST(nothing_is_taken_away_but_a_socket)
{
	struct control_socket socket;
	struct stat status;
	char path[100], sock[120];
	const char *said;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/console", runtime);
	put_something(path, _i);
	ck_assert_int_eq(lstat(path, &status), 0);
	messages_begin();
	ck_assert_int_eq(control_listen_at(&socket, path), -EEXIST);
	said = messages_end();
	ck_assert_ptr_nonnull(strstr(said, path));
	ck_assert_ptr_nonnull(strstr(said, "is not touched"));
	ck_assert_int_eq(socket.fd, -1);
	ck_assert(same_file(&status, path));

	leave_stale("web");
	snprintf(sock, sizeof(sock), "%s/karma/web.sock", runtime);
	ck_assert_int_eq(unlink(sock), 0);
	ck_assert_int_eq(rename(path, sock), 0);
	messages_begin();
	ck_assert_int_eq(control_listen(&socket, "web", false), -EEXIST);
	said = messages_end();
	ck_assert_ptr_nonnull(strstr(said, sock));
	ck_assert_int_eq(control_listen(&socket, "web", true), -EEXIST);
	ck_assert_int_lt(control_connect("web", &pid), 0);
	ck_assert(same_file(&status, sock));
	ck_assert_int_eq(remove(sock), 0);
	snprintf(sock, sizeof(sock), "%s.target", path);
	unlink(sock);
}
END_TEST

START_TEST(a_console_takes_the_place_of_a_dead_one_of_ours_alone)
{
	struct control_socket one, other;
	char path[100];

	snprintf(path, sizeof(path), "%s/console", runtime);
	ck_assert_int_eq(control_listen_at(&one, path), 0);
	ck_assert_int_eq(control_listen_at(&other, path), -EADDRINUSE);
	ck_assert_int_eq(access(path, F_OK), 0);
	close(one.fd);
	if (geteuid() == 0) {
		ck_assert_int_eq(lchown(path, 65534, 65534), 0);
		ck_assert_int_eq(control_listen_at(&other, path), -EEXIST);
		ck_assert_int_eq(access(path, F_OK), 0);
		ck_assert_int_eq(lchown(path, 0, 0), 0);
	}
	ck_assert_int_eq(control_listen_at(&other, path), 0);
	control_unlisten(&other);
	ck_assert_int_lt(access(path, F_OK), 0);
}
END_TEST

START_TEST(a_directory_that_others_can_write_is_not_used)
{
	struct control_socket socket;
	char path[80];

	snprintf(path, sizeof(path), "%s/karma", runtime);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_eq(chmod(path, 0777), 0);
	ck_assert_int_eq(control_listen(&socket, "web", false), -EPERM);
	ck_assert_int_eq(control_listen(&socket, "karma-1", true), -EPERM);
}
END_TEST

#define UNIT_USER 61234

/* A supervisor that a service manager has started as a user of the guest's own. */
static pid_t start_supervisor(const char *name, struct control_socket *socket)
{
	int ready[2];
	char byte;
	pid_t pid;

	ck_assert_int_eq(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		bool good = setresgid(UNIT_USER, UNIT_USER, UNIT_USER) == 0 &&
			setresuid(UNIT_USER, UNIT_USER, UNIT_USER) == 0 && control_listen(socket, name, false) == 0;

		if (!good || write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

START_TEST(a_guest_with_a_user_of_its_own_has_a_directory_of_its_own)
{
	struct control_socket socket, root;
	char name[32], directory[64], path[80];
	pid_t pid, found;
	int fd;

	/* To make that directory, and become that user. */
	if (geteuid() != 0)
		return;
	snprintf(name, sizeof(name), "unit-%d", (int)getpid());
	snprintf(directory, sizeof(directory), "/run/karma/%s", name);
	snprintf(path, sizeof(path), "%s/control.sock", directory);
	ck_assert(mkdir("/run/karma", 0711) == 0 || errno == EEXIST);
	ck_assert_int_eq(mkdir(directory, 0700), 0);
	ck_assert_int_eq(chown(directory, UNIT_USER, UNIT_USER), 0);
	pid = start_supervisor(name, &socket);
	ck_assert_int_eq(access(path, F_OK), 0);
	ck_assert(is_listed(name));
	fd = control_connect(name, &found);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(found, pid);
	close(fd);
	ck_assert_int_eq(control_listen(&root, name, false), -EADDRINUSE);
	/* It leads root to another's guest. */
	ck_assert_int_eq(control_listen(&root, "unit-root", false), 0);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(symlink(root.path, path), 0);
	ck_assert_int_eq(control_connect(name, &found), -EPERM);
	control_unlisten(&root);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(rmdir(directory), 0);
	rmdir("/run/karma");
}
END_TEST

void control_names_tests(Suite *suite)
{
	const TTest *const names[] = {
		names_are_plain,
		a_name_is_used_once,
		stale_sockets_are_taken_away,
		a_socket_of_another_is_left_alone,
		a_console_takes_the_place_of_a_dead_one_of_ours_alone,
		a_directory_that_others_can_write_is_not_used,
		a_guest_with_a_user_of_its_own_has_a_directory_of_its_own,
	};
	TCase *names_case;

	names_case = add_case(suite, "names", setup_directory, teardown_directory, 4, names,
		ARRAY_SIZE(names));
	tcase_add_loop_test(names_case, nothing_is_taken_away_but_a_socket, 0, 5);
}
