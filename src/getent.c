// SPDX-License-Identifier: GPL-2.0-only
/* Users and hosts by name: run getent(1) and read its output. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

#include "karma/getent.h"
#include "karma/log.h"
#include "karma/util.h"

#define STATUS_NOT_FOUND 2

/* With no signal blocked, so that those of the terminal end it. */
static int start(const char *database, const char *key, int out, pid_t *pid)
{
	char *const words[] = { "getent", "--", (char *)database, (char *)key, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int result;

	sigemptyset(&none);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	result = -posix_spawnp(pid, words[0], &actions, &attributes, words, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return result;
}

/* Read to the end, so that the other side never blocks; drop what there is no room for. */
static void read_all(int fd, char *text, size_t size)
{
	char rest[256];
	size_t length = 0;
	ssize_t got;

	do {
		size_t room = size - 1 - length;

		got = read(fd, room ? text + length : rest, room ? room : sizeof(rest));
		if (got > 0 && room)
			length += got;
	} while (got > 0 || (got < 0 && errno == EINTR));
	text[length] = '\0';
}

static int run(const char *database, const char *key, char *text, size_t size, int *status)
{
	cleanup_fd int in = -1, out = -1;
	int pipes[2], result;
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return -errno;
	in = pipes[0];
	out = pipes[1];
	result = start(database, key, out, &pid);
	if (result < 0)
		return result;
	close(out);
	out = -1;
	read_all(in, text, size);
	while (waitpid(pid, status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

int getent(const char *database, const char *key, char *text, size_t size)
{
	int status = 0;
	int result = run(database, key, text, size, &status);

	if (result < 0)
		return fail(result == -ENOENT ? -ENOEXEC : result,
			"getent, which knows users and hosts: can't run it: %s: have it in the PATH",
			strerror(-result));
	if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_NOT_FOUND)
		return -ENOENT;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return fail(-EIO, "getent: failed to look up `%s`: try `getent %s %s`", key, database, key);
	return 0;
}
