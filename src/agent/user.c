// SPDX-License-Identifier: GPL-2.0-only
/* Users of the guest, from its files: a static program can't load NSS modules. */
#include <errno.h>
#include <grp.h>
#include <paths.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "karma/util.h"

#define GROUPS_MAX 1024u
#define PATH_OF_ROOT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define PATH_OF_USERS "/usr/local/bin:/usr/bin:/bin"

static void close_file(FILE **file)
{
	if (*file)
		fclose(*file);
}

static int take_entry(struct user *user, const struct passwd *entry)
{
	const char *shell = entry->pw_shell[0] ? entry->pw_shell : _PATH_BSHELL;

	if (strlen(entry->pw_name) >= sizeof(user->name) || strlen(entry->pw_dir) >= sizeof(user->home) ||
		strlen(shell) >= sizeof(user->shell))
		return -ENAMETOOLONG;
	user->uid = entry->pw_uid;
	user->gid = entry->pw_gid;
	strcpy(user->name, entry->pw_name);
	strcpy(user->home, entry->pw_dir);
	strcpy(user->shell, shell);
	return 0;
}

int user_find(struct user *user, const char *name)
{
	__attribute__((cleanup(close_file))) FILE *file = fopen("/etc/passwd", "re");
	const char *wanted = name[0] ? name : "root";
	char *end;
	unsigned long number = strtoul(wanted, &end, 10);
	bool is_number = wanted[0] >= '0' && wanted[0] <= '9' && !*end;
	const struct passwd *entry;

	while (file && (entry = fgetpwent(file))) {
		if (is_number ? entry->pw_uid == number : strcmp(entry->pw_name, wanted) == 0)
			return take_entry(user, entry);
	}
	if (name[0])
		return -ENOENT;
	*user = (struct user){ .name = "root", .home = "/", .shell = _PATH_BSHELL };
	return 0;
}

static bool has_member(const struct group *group, const char *name)
{
	for (char **member = group->gr_mem; *member; member++) {
		if (strcmp(*member, name) == 0)
			return true;
	}
	return false;
}

int user_become(const struct user *user)
{
	__attribute__((cleanup(close_file))) FILE *file = fopen("/etc/group", "re");
	gid_t groups[GROUPS_MAX] = { user->gid };
	size_t count = 1;
	const struct group *group;

	/* An agent that is not root's runs what is its user's. */
	if (geteuid() != 0)
		return user->uid == geteuid() ? 0 : -EPERM;
	while (file && count < GROUPS_MAX && (group = fgetgrent(file))) {
		if (group->gr_gid != user->gid && has_member(group, user->name))
			groups[count++] = group->gr_gid;
	}
	if (setgroups(count, groups) < 0 || setgid(user->gid) < 0 || setuid(user->uid) < 0)
		return -errno;
	return 0;
}

int user_set_environment(const struct user *user)
{
	if (clearenv() || setenv("HOME", user->home, 1) || setenv("SHELL", user->shell, 1) ||
		setenv("USER", user->name, 1) || setenv("LOGNAME", user->name, 1) ||
		setenv("PATH", user->uid == 0 ? PATH_OF_ROOT : PATH_OF_USERS, 1))
		return -ENOMEM;
	return 0;
}
