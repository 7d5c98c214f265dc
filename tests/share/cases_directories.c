// SPDX-License-Identifier: GPL-2.0-only
/* Directories that are read, some while they change. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"

static DIR *open_directory(const char *path)
{
	DIR *directory = opendir(path);

	if (!directory)
		needed("opendir", -1);
	return directory;
}

static bool is_dot(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static void make_many(unsigned count)
{
	char name[16];

	for (unsigned i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%u", i);
		close(NEED(open(name, O_CREAT | O_EXCL | O_WRONLY, 0644)));
	}
}

/* How often each number is seen, from here to the end. */
static void count_numbers(DIR *directory, unsigned char *seen, unsigned count)
{
	struct dirent *entry;

	while ((entry = readdir(directory))) {
		if (!is_dot(entry->d_name) && strtoul(entry->d_name, NULL, 10) < count)
			seen[strtoul(entry->d_name, NULL, 10)]++;
	}
}

static void show_seen(const unsigned char *seen, unsigned from, unsigned to)
{
	unsigned once = 0, more = 0, never = 0;

	for (unsigned i = from; i < to; i++) {
		once += seen[i] == 1;
		more += seen[i] > 1;
		never += seen[i] == 0;
	}
	say("%u..%u:once=%u,more=%u,never=%u", from, to, once, more, never);
}

CASE(readdir_empty)
{
	struct dirent *entry;
	unsigned dots = 0;
	DIR *directory;

	NEED(mkdir("d", 0755));
	directory = open_directory("d");
	while ((entry = readdir(directory)))
		dots += is_dot(entry->d_name);
	say("dots=%u", dots);
}

CASE(readdir_types)
{
	static const char *const names[] = { "file", "directory", "symlink", "fifo" };
	struct dirent *entry;
	int types[4] = { -1, -1, -1, -1 };
	DIR *directory = open_directory(".");

	make("file", "");
	NEED(mkdir("directory", 0755));
	NEED(symlink("absent", "symlink"));
	NEED(mkfifo("fifo", 0600));
	while ((entry = readdir(directory))) {
		for (unsigned i = 0; i < 4; i++) {
			if (strcmp(entry->d_name, names[i]) == 0)
				types[i] = entry->d_type;
		}
	}
	for (unsigned i = 0; i < 4; i++)
		say("%s=%d", names[i], types[i]);
}

CASE(readdir_inode_numbers)
{
	struct dirent *entry;
	struct stat status;
	DIR *directory = open_directory(".");

	make("a", "");
	make("b", "");
	NEED(mkdir("c", 0755));
	unsigned same = 0;
	while ((entry = readdir(directory))) {
		if (!is_dot(entry->d_name) && stat(entry->d_name, &status) == 0)
			same += status.st_ino == entry->d_ino;
	}
	say("same=%u", same);
}

CASE(readdir_many)
{
	unsigned char *seen = calloc(entries, 1);
	DIR *directory;

	make_many(entries);
	directory = open_directory(".");
	count_numbers(directory, seen, entries);
	show_seen(seen, 0, entries);
}

CASE(readdir_and_lstat_of_many)
{
	struct dirent *entry;
	struct stat status;
	unsigned files = 0;
	DIR *directory;

	make_many(entries);
	directory = open_directory(".");
	while ((entry = readdir(directory))) {
		if (fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0)
			files += S_ISREG(status.st_mode);
	}
	say("files=%u", files);
}

/* Those that are not removed are seen once. */
CASE(readdir_while_entries_vanish)
{
	unsigned char *seen = calloc(entries, 1);
	struct dirent *entry;
	DIR *directory;
	char name[16];

	make_many(entries);
	directory = open_directory(".");
	for (unsigned i = 0; i < 100 && (entry = readdir(directory)); i++) {
		if (!is_dot(entry->d_name))
			seen[strtoul(entry->d_name, NULL, 10)]++;
	}
	for (unsigned i = 1; i < entries; i += 2) {
		snprintf(name, sizeof(name), "%u", i);
		NEED(unlink(name));
	}
	count_numbers(directory, seen, entries);
	for (unsigned i = 1; i < entries; i += 2)
		seen[i] = 1;
	show_seen(seen, 0, entries);
}

CASE(readdir_while_entries_are_removed_as_they_are_seen)
{
	struct dirent *entry;
	unsigned removed = 0;
	DIR *directory;

	make_many(entries);
	directory = open_directory(".");
	while ((entry = readdir(directory))) {
		if (!is_dot(entry->d_name))
			removed += unlink(entry->d_name) == 0;
	}
	say("removed=%u", removed);
	show_names(".");
}

/* The old ones are seen once; the new ones once or not. */
CASE(readdir_while_entries_appear)
{
	unsigned char *seen = calloc(2 * entries, 1);
	DIR *directory;
	char name[16];

	make_many(entries);
	directory = open_directory(".");
	readdir(directory);
	for (unsigned i = entries; i < 2 * entries; i++) {
		snprintf(name, sizeof(name), "%u", i);
		close(NEED(open(name, O_CREAT | O_WRONLY, 0644)));
	}
	rewinddir(directory);
	count_numbers(directory, seen, 2 * entries);
	show_seen(seen, 0, 2 * entries);
}

CASE(readdir_while_entries_are_renamed)
{
	unsigned char *seen = calloc(entries, 1);
	struct dirent *entry;
	DIR *directory;
	char from[16], to[16];
	unsigned others = 0;

	make_many(entries);
	directory = open_directory(".");
	entry = readdir(directory);
	for (unsigned i = entries / 2; i < entries; i++) {
		snprintf(from, sizeof(from), "%u", i);
		snprintf(to, sizeof(to), "x%u", i);
		NEED(rename(from, to));
	}
	for (; entry; entry = readdir(directory)) {
		unsigned long number = strtoul(entry->d_name, NULL, 10);

		if (is_dot(entry->d_name) || entry->d_name[0] == 'x')
			others++;
		else
			seen[number % entries]++;
	}
	show_seen(seen, 0, entries / 2);
}

CASE(seekdir_and_telldir)
{
	struct dirent *entry;
	long at = 0;
	char name[256] = "";
	DIR *directory;
	unsigned count = 0;

	make_many(entries);
	directory = open_directory(".");
	while ((entry = readdir(directory)) && count++ < entries / 2)
		at = telldir(directory);
	snprintf(name, sizeof(name), "%s", entry ? entry->d_name : "none");
	while (readdir(directory))
		count++;
	seekdir(directory, at);
	entry = readdir(directory);
	say("%s", entry && strcmp(entry->d_name, name) == 0 ? "same" : "differs");
	for (count = 1; readdir(directory); count++)
		;
	say("rest=%u", count);
}

CASE(rewinddir_sees_what_is_new)
{
	struct dirent *entry;
	DIR *directory = open_directory(".");
	unsigned count = 0;

	while (readdir(directory))
		;
	make("f", "");
	rewinddir(directory);
	while ((entry = readdir(directory)))
		count += !is_dot(entry->d_name);
	say("new=%u", count);
}

CASE(readdir_of_a_removed_directory)
{
	struct dirent *entry;
	DIR *directory;
	unsigned count = 0;

	NEED(mkdir("d", 0755));
	directory = open_directory("d");
	NEED(rmdir("d"));
	errno = 0;
	while ((entry = readdir(directory)))
		count++;
	say("entries=%u,%s", count, errno ? "error" : "end");
}

CASE(readdir_of_a_file)
{
	make("f", "");
	TRY(opendir("f") ? 0 : -1);
	TRY(opendir("absent") ? 0 : -1);
}

CASE(readdir_without_right)
{
	NEED(mkdir("d", 0755));
	make("d/f", "");
	NEED(chmod("d", 0711));
	AS_OTHER_USER {
		TRY(opendir("d") ? 0 : -1);
		show_size("d/f");
	}
	NEED(chmod("d", 0744));
	AS_OTHER_USER {
		show_names("d");
		show_size("d/f");
	}
}

CASE(readdir_long_names)
{
	char name[256];
	DIR *directory;
	struct dirent *entry;
	unsigned count = 0;

	memset(name, 'n', 255);
	name[255] = '\0';
	for (unsigned i = 0; i < 200; i++) {
		snprintf(name, 4, "%03u", i);
		name[3] = 'n';
		close(NEED(open(name, O_CREAT | O_WRONLY, 0644)));
	}
	directory = open_directory(".");
	while ((entry = readdir(directory)))
		count += strlen(entry->d_name) == 255;
	say("long=%u", count);
}

CASE(two_readers_of_a_directory)
{
	DIR *one, *other;
	unsigned first = 0, second = 0;

	make_many(300);
	one = open_directory(".");
	other = open_directory(".");
	while (readdir(one)) {
		first++;
		second += readdir(other) != NULL;
	}
	say("first=%u,second=%u", first, second);
}
