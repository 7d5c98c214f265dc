// SPDX-License-Identifier: GPL-2.0-only
/* Extended attributes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "conformance.h"

static void show_xattr(const char *path, const char *name)
{
	char value[64] = "";
	ssize_t got = COUNT(getxattr(path, name, value, sizeof(value) - 1));

	if (got >= 0)
		say("%s=%s", name, value);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Of "user." alone, sorted: others are the host's. */
static void show_user_xattrs(const char *path)
{
	char list[4096], *names[64];
	ssize_t got = listxattr(path, list, sizeof(list));
	unsigned count = 0;

	if (got < 0) {
		TRY(got);
		return;
	}
	for (char *name = list; name < list + got && count < 64; name += strlen(name) + 1) {
		if (strncmp(name, "user.", 5) == 0)
			names[count++] = name;
	}
	qsort(names, count, sizeof(*names), compare_names);
	for (unsigned i = 0; i < count; i++)
		say("%s", names[i]);
}

CASE(xattr_set_and_get)
{
	make("f", "");
	TRY(setxattr("f", "user.a", "value", 5, 0));
	show_xattr("f", "user.a");
	show_xattr("f", "user.absent");
	TRY(setxattr("f", "user.a", "new", 3, 0));
	show_xattr("f", "user.a");
	TRY(setxattr("f", "user.b", "", 0, 0));
	show_xattr("f", "user.b");
	show_user_xattrs("f");
}

CASE(xattr_create_and_replace)
{
	make("f", "");
	TRY(setxattr("f", "user.a", "1", 1, XATTR_REPLACE));
	TRY(setxattr("f", "user.a", "1", 1, XATTR_CREATE));
	TRY(setxattr("f", "user.a", "2", 1, XATTR_CREATE));
	TRY(setxattr("f", "user.a", "3", 1, XATTR_REPLACE));
	show_xattr("f", "user.a");
	TRY(setxattr("f", "user.a", "4", 1, XATTR_CREATE | XATTR_REPLACE));
}

CASE(xattr_remove)
{
	make("f", "");
	TRY(removexattr("f", "user.a"));
	TRY(setxattr("f", "user.a", "1", 1, 0));
	TRY(removexattr("f", "user.a"));
	show_xattr("f", "user.a");
	show_user_xattrs("f");
}

CASE(xattr_list)
{
	make("f", "");
	show_user_xattrs("f");
	TRY(setxattr("f", "user.b", "1", 1, 0));
	TRY(setxattr("f", "user.a", "1", 1, 0));
	TRY(setxattr("f", "user.c", "1", 1, 0));
	show_user_xattrs("f");
	char little[4];
	COUNT(listxattr("f", little, sizeof(little)));
}

CASE(xattr_sizes)
{
	static char value[70000];

	make("f", "");
	TRY(setxattr("f", "user.a", value, 1000, 0));
	COUNT(getxattr("f", "user.a", NULL, 0));
	COUNT(getxattr("f", "user.a", value, 10));
	TRY(setxattr("f", "user.big", value, 65537, 0));
	COUNT(getxattr("f", "user.a", value, 65536));
}

CASE(xattr_names)
{
	char name[300] = "user.";

	make("f", "");
	memset(name + 5, 'n', 250);
	TRY(setxattr("f", name, "1", 1, 0));
	name[255] = 'n';
	TRY(setxattr("f", name, "1", 1, 0));
	TRY(setxattr("f", "user.", "1", 1, 0));
	TRY(setxattr("f", "", "1", 1, 0));
	TRY(setxattr("f", "unknown.a", "1", 1, 0));
	TRY(setxattr("f", "a", "1", 1, 0));
}

CASE(xattr_of_others)
{
	NEED(symlink("absent", "l"));
	TRY(lsetxattr("l", "user.a", "1", 1, 0));
	TRY(setxattr("l", "user.a", "1", 1, 0));
	NEED(mkdir("d", 0755));
	TRY(setxattr("d", "user.a", "1", 1, 0));
	show_xattr("d", "user.a");
	NEED(mkfifo("p", 0600));
	TRY(setxattr("p", "user.a", "1", 1, 0));
}

CASE(xattr_by_descriptor)
{
	char value[8] = "";
	int fd = make_open("f", "");

	TRY(fsetxattr(fd, "user.a", "1", 1, 0));
	COUNT(fgetxattr(fd, "user.a", value, 8));
	NEED(unlink("f"));
	COUNT(fgetxattr(fd, "user.a", value, 8));
	TRY(fremovexattr(fd, "user.a"));
}

CASE(xattr_security)
{
	make("f", "");
	TRY(setxattr("f", "security.karma", "1", 1, 0));
	show_xattr("f", "security.karma");
	TRY(setxattr("f", "security.capability", "1", 1, 0));
	AS_OTHER_USER {
		TRY(setxattr("f", "security.karma", "2", 1, 0));
	}
}

CASE(xattr_trusted)
{
	make("f", "");
	TRY(setxattr("f", "trusted.a", "1", 1, 0));
	show_xattr("f", "trusted.a");
	AS_OTHER_USER {
		show_xattr("f", "trusted.a");
	}
}

CASE(xattr_without_right)
{
	make("f", "");
	TRY(setxattr("f", "user.a", "1", 1, 0));
	AS_OTHER_USER {
		show_xattr("f", "user.a");
		TRY(setxattr("f", "user.a", "2", 1, 0));
		TRY(removexattr("f", "user.a"));
	}
	NEED(chmod("f", 0600));
	AS_OTHER_USER {
		show_xattr("f", "user.a");
	}
}

CASE(xattr_acl)
{
	/* Version 2: user rw-, the other user r--, group r--, mask r--, others ---. */
	static const struct __attribute__((packed)) {
		uint32_t version;
		struct __attribute__((packed)) {
			uint16_t tag, rights;
			uint32_t id;
		} entry[5];
	} acl = { 2, { { 1, 6, -1 }, { 2, 4, 65534 }, { 4, 4, -1 }, { 0x10, 4, -1 }, { 0x20, 0, -1 } } };

	make("f", "abc");
	NEED(chmod("f", 0600));
	TRY(setxattr("f", "system.posix_acl_access", &acl, sizeof(acl), 0));
	show("f");
	AS_OTHER_USER {
		TRY(open("f", O_RDONLY));
		TRY(open("f", O_WRONLY));
	}
}
