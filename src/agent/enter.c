// SPDX-License-Identifier: GPL-2.0-only
/* karma-agent enter: run a command on another root, as the user who called karma on the host. */
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command_of_init.h"

#define STATUS_CANNOT_ENTER 123
#define STATUS_CANNOT_RUN 126	/* as of a shell */
#define STATUS_NOT_FOUND 127

struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[NGROUPS_MAX];
	size_t group_count;
};

__attribute__((format(printf, 2, 3))) static int complain(int status, const char *format, ...)
{
	va_list arguments;

	fputs("karma-init: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	putc('\n', stderr);
	return status;
}

/* The number at the start of a text, which moves behind it and the character that ends it. */
static int take_number(char **text, char end, unsigned *number)
{
	unsigned long value;
	char *behind;

	errno = 0;
	value = strtoul(*text, &behind, 10);
	if (behind == *text || errno || value > UINT_MAX || (*behind != end && *behind))
		return -EINVAL;
	*number = value;
	*text = behind + (*behind == end);
	return 0;
}

static int parse_user(char *text, struct user *user)
{
	if (take_number(&text, ':', &user->uid) < 0 || take_number(&text, ':', &user->gid) < 0)
		return -EINVAL;
	while (*text) {
		if (user->group_count == NGROUPS_MAX ||
			take_number(&text, ',', &user->groups[user->group_count++]) < 0)
			return -EINVAL;
	}
	return 0;
}

/* So that the command can open /dev/stdout and its like again.  A file of the guest's keeps its owner. */
static void own_streams(uid_t uid)
{
	struct stat status;

	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || isatty(fd)) &&
			fchown(fd, uid, (gid_t)-1) < 0)
			complain(0, "descriptor %d can't be given to the user: %s", fd, strerror(errno));
	}
}

static int become(const struct user *user)
{
	if (setgroups(user->group_count, user->groups) < 0 || setresgid(user->gid, user->gid, user->gid) < 0 ||
		setresuid(user->uid, user->uid, user->uid) < 0)
		return -errno;
	return 0;
}

int agent_enter(int argc, char **argv)
{
	struct user user = { 0 };
	const char *directory;
	int result;

	if (argc < 5 || parse_user(argv[2], &user) < 0)
		return complain(STATUS_CANNOT_ENTER, "enter: give ROOT UID:GID:GROUP,... DIRECTORY COMMAND");
	directory = argv[3];
	if (chroot(argv[1]) < 0 || chdir("/") < 0)
		return complain(STATUS_CANNOT_ENTER, "can't enter the root %s: %s", argv[1], strerror(errno));
	own_streams(user.uid);
	result = become(&user);
	if (result < 0)
		return complain(STATUS_CANNOT_ENTER, "can't become user %u: %s", user.uid, strerror(-result));
	if (chdir(directory) < 0)
		return complain(STATUS_CANNOT_ENTER, "the working directory %s: %s: the guest has /tmp, /run, /dev, "
						     "/proc and /sys of its own: give --rw %s, or change to "
						     "another directory",
			directory, strerror(errno), directory);
	execvp(argv[4], argv + 4);
	return complain(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_CANNOT_RUN, "%s: %s", argv[4], strerror(errno));
}
