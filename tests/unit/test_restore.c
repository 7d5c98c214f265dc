// SPDX-License-Identifier: GPL-2.0-only
/* The directory of a snapshot, and --restore: whose directory is taken, what of a guest may be given anew, what not. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

/* Before Check, which has a macro fail(). */
#include "karma/log.h"

#include "guest.h"
#include "karma/cli.h"
#include "karma/snapshot_directory.h"

#define ARGUMENTS_MAX 32

static struct run_options options;
static struct snapshot_aside aside;
static char base[] = "/tmp/karma-restore-XXXXXX", directory[64], words[1024], *arguments[ARGUMENTS_MAX];

static const char saved[] =
	"name = web\n"
	"kernel = /k\n"
	"initrd = /i\n"
	"cmdline = a b\n"
	"cpus = 2\n"
	"memory = 256M\n"
	"vsock = listen=5:unix:/s\n"
	"command = sh\n"
	"command = -c\n"
	"[disk]\n"
	"path = /one\n"
	"overlay = /o\n"
	"[disk]\n"
	"path = /two\n"
	"from = overlay-1\n"
	"[net]\n"
	"user = on\n"
	"publish = 8080:80\n";

static void write_file(const char *name, const char *text)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	fclose(file);
}

static void setup(void)
{
	aside = SNAPSHOT_ASIDE_NONE;
	ck_assert_ptr_nonnull(mkdtemp(base));
	snprintf(directory, sizeof(directory), "%s/saved", base);
	ck_assert_int_eq(mkdir(directory, 0700), 0);
	write_file("config", saved);
}

static void teardown(void)
{
	char command[128];

	run_options_release(&options);
	snapshot_aside_release(&aside);
	snprintf(command, sizeof(command), "rm -r %s", base);
	ck_assert_int_eq(system(command), 0);
}

/* `--restore DIR` and these, in words between spaces. */
static int restore(const char *line)
{
	int count = 0;

	run_options_release(&options);
	options = (struct run_options){ 0 };
	optind = 0;
	arguments[count++] = "run";
	ck_assert_uint_lt((size_t)snprintf(words, sizeof(words), "--restore %s %s", directory, line), sizeof(words));
	for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
		ck_assert_int_lt(count, ARGUMENTS_MAX - 1);
		arguments[count++] = word;
	}
	arguments[count] = NULL;
	return run_options_parse(&options, count, arguments);
}

static void assert_refused(const char *line, const char *word)
{
	const char *said;

	messages_begin();
	ck_assert_msg(restore(line) == -EINVAL, "\"%s\" is taken", line);
	said = messages_end();
	ck_assert_msg(strstr(said, word), "\"%s\": no \"%s\": %s", line, word, said);
}

START_TEST(guest_is_as_it_was_saved)
{
	ck_assert_int_eq(restore(""), 0);
	ck_assert_str_eq(options.guest.restore.directory, directory);
	ck_assert_str_eq(options.guest.name, "web");
	ck_assert_str_eq(options.guest.kernel, "/k");
	ck_assert_str_eq(options.guest.initrds[0], "/i");
	ck_assert_uint_eq(options.guest.cpus, 2);
	ck_assert_uint_eq(options.guest.memory.size, 256 * MIB);
	ck_assert_str_eq(vsock_find_service(&options.guest.vsock, 5)->path, "/s");
	ck_assert_str_eq(options.guest.command[1], "-c");
	ck_assert_ptr_null(options.guest.command[2]);
	ck_assert_uint_eq(options.guest.disk_count, 2);
	ck_assert_str_eq(options.guest.disks[0].overlay, "/o");
	/* An overlay that is in the directory. */
	snprintf(words, sizeof(words), "%s/overlay-1", directory);
	ck_assert_str_eq(options.guest.disks[1].from, words);
	ck_assert_uint_eq(options.guest.net_count, 1);
}
END_TEST

START_TEST(what_is_given_wins_by_position)
{
	ck_assert_int_eq(restore("--name other --console none --timeout 5 --watchdog 3 --disk /new,ro --net tap=t "
				 "--vsock listen=6:unix:/t --no-sandbox"), 0);
	ck_assert_str_eq(options.guest.name, "other");
	ck_assert_str_eq(options.guest.console, "none");
	ck_assert_uint_eq(options.guest.timeout, 5);
	ck_assert_uint_eq(options.guest.disk_count, 2);
	ck_assert_str_eq(options.guest.disks[0].path, "/new");
	ck_assert_ptr_null(options.guest.disks[0].overlay);
	ck_assert_str_eq(options.guest.disks[1].path, "/two");
	ck_assert_int_eq(options.guest.nets[0].kind, NET_TAP);
	ck_assert_ptr_null(vsock_find_service(&options.guest.vsock, 5));
	ck_assert_str_eq(vsock_find_service(&options.guest.vsock, 6)->path, "/t");
	/* The same again is no change. */
	ck_assert_int_eq(restore("--cpus 2 --memory 256M --kernel /k --initrd /i -- sh -c"), 0);
}
END_TEST

START_TEST(what_the_guest_has_counted_stays)
{
	assert_refused("--cpus 3", "cpus can't be another");
	assert_refused("--memory 1G", "memory can't be another");
	assert_refused("--kernel /other", "since the guest has booted");
	assert_refused("--initrd /i --initrd /j", "initrd can't be another");
	assert_refused("--cmdline a", "cmdline can't be another");
	assert_refused("--vsock off", "vsock can't be another");
	assert_refused("--share /", "share can't be another");
	assert_refused("--root /", "root can't be another");
	assert_refused("--balloon off", "balloon can't be another");
	assert_refused("--pmu on", "pmu can't be another");
	assert_refused("--disk a --disk b --disk c", "more --disk than the 2");
	assert_refused("--net user --net user", "more --net than the 1");
	assert_refused("-- true", "the guest's runs already");
}
END_TEST

START_TEST(descriptors_have_to_be_given_anew)
{
	write_file("config", "kernel = /k\n[net]\nfd = 7\n");
	assert_refused("", "network 1 was a descriptor");
	ck_assert_int_eq(restore("--net fd=9"), 0);
	ck_assert_int_eq(options.guest.nets[0].fds[0], 9);
}
END_TEST

START_TEST(configuration_may_name_it)
{
	char path[128], line[160];
	FILE *file;

	snprintf(path, sizeof(path), "%s/unit.conf", base);
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	fprintf(file, "restore = %s\nconsole = none\n[disk]\npath = /mine\n", directory);
	fclose(file);
	snprintf(line, sizeof(line), "--config %s --console pty", path);
	ck_assert_int_eq(restore(line), 0);
	ck_assert_str_eq(options.guest.name, "unit");
	ck_assert_str_eq(options.guest.console, "pty");
	ck_assert_str_eq(options.guest.disks[0].path, "/mine");
	ck_assert_str_eq(options.guest.disks[1].path, "/two");
	ck_assert_uint_eq(options.guest.cpus, 2);
}
END_TEST

START_TEST(directory_of_others_is_refused)
{
	ck_assert_int_eq(chmod(directory, 0770), 0);
	assert_refused("", "others may write there");
	ck_assert_int_eq(chmod(directory, 0750), 0);
	ck_assert_int_eq(restore(""), 0);
	write_file("config", "kernel = /k\nrestore = /elsewhere\n");
	assert_refused("", "take it out");
	write_file("config", "");
	assert_refused("", "is empty");
	unlinkat(AT_FDCWD, strcat(strcpy(words, directory), "/config"), 0);
	assert_refused("", "belongs to each snapshot");
	ck_assert_int_eq(mkfifo(strcat(strcpy(words, directory), "/config"), 0600), 0);
	assert_refused("", "is a FIFO");
}
END_TEST

/* --- A new directory. */

START_TEST(directory_appears_whole)
{
	char path[128];
	struct stat status;

	snprintf(path, sizeof(path), "%s/new//", base);
	ck_assert_int_eq(snapshot_aside_make(&aside, path, geteuid()), 0);
	snprintf(path, sizeof(path), "%s/new", base);
	ck_assert_int_lt(stat(path, &status), 0);
	close(openat(aside.directory, "memory", O_WRONLY | O_CREAT, 0600));
	ck_assert_int_eq(snapshot_aside_publish(&aside), 0);
	snapshot_aside_release(&aside);
	ck_assert_int_eq(stat(path, &status), 0);
	ck_assert_uint_eq(status.st_mode & 07777, 0700);
	/* One that is there is never touched. */
	ck_assert_int_eq(snapshot_aside_make(&aside, path, geteuid()), -EEXIST);
	snapshot_aside_release(&aside);
	snprintf(path, sizeof(path), "%s/new/memory", base);
	ck_assert_int_eq(stat(path, &status), 0);
}
END_TEST

START_TEST(directory_that_came_meanwhile_stays)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/new", base);
	ck_assert_int_eq(snapshot_aside_make(&aside, path, geteuid()), 0);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_eq(snapshot_aside_publish(&aside), -EEXIST);
	snapshot_aside_release(&aside);
	/* Nothing is left beside it. */
	ck_assert_int_eq(rmdir(path), 0);
	snprintf(words, sizeof(words), "[ \"$(ls -A %s)\" = saved ]", base);
	ck_assert_int_eq(system(words), 0);
}
END_TEST

START_TEST(what_was_left_by_the_dead_is_removed)
{
	char path[128], left[128], other[128];
	int fd;

	snprintf(path, sizeof(path), "%s/new", base);
	snprintf(left, sizeof(left), "%s/new.karma-0123456789abcdef", base);
	snprintf(other, sizeof(other), "%s/new.karma-0123456789abcdeX", base);
	ck_assert_int_eq(mkdir(left, 0700), 0);
	ck_assert_int_eq(mkdir(other, 0700), 0);
	fd = open(left, O_RDONLY | O_CLOEXEC);
	close(openat(fd, "memory", O_WRONLY | O_CREAT, 0600));
	/* Somebody makes it. */
	ck_assert_int_eq(flock(fd, LOCK_EX), 0);
	ck_assert_int_eq(snapshot_aside_make(&aside, path, geteuid()), 0);
	snapshot_aside_release(&aside);
	ck_assert_int_eq(faccessat(fd, "memory", F_OK, 0), 0);
	close(fd);
	ck_assert_int_eq(snapshot_aside_make(&aside, path, geteuid()), 0);
	snapshot_aside_release(&aside);
	ck_assert_int_lt(access(left, F_OK), 0);
	ck_assert_int_eq(access(other, F_OK), 0);
}
END_TEST

START_TEST(no_name_is_refused)
{
	static const char *const names[] = { "/", "", ".", "..", "/tmp/..", "/nowhere/at/all" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		ck_assert_int_lt(snapshot_aside_make(&aside, names[i], geteuid()), 0);
		snapshot_aside_release(&aside);
	}
}
END_TEST

/* --- The configuration of a snapshot. */

static char *print_config(const char *line, bool copies)
{
	char *text = NULL;
	size_t size;
	FILE *file;

	ck_assert_int_eq(restore(line), 0);
	file = open_memstream(&text, &size);
	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(print_snapshot_config(&options.guest, copies, file), 0);
	fclose(file);
	return text;
}

START_TEST(snapshot_of_a_restored_guest_has_paths_from_the_root)
{
	char *text = print_config("--disk rel,overlay=over --console file:log --die-with-parent", false), line[4096],
		*here = getcwd(NULL, 0);

	ck_assert_ptr_null(strstr(text, "restore ="));
	ck_assert_ptr_nonnull(strstr(text, "die-with-parent = off"));
	snprintf(line, sizeof(line), "path = %s/rel\noverlay = ", here);
	ck_assert_ptr_null(strstr(text, "path = rel"));
	snprintf(line, sizeof(line), "console = file:%s/log\n", here);
	ck_assert_ptr_nonnull(strstr(text, line));
	ck_assert_ptr_nonnull(strstr(text, "name = web\n"));
	ck_assert_ptr_nonnull(strstr(text, "publish = 8080:80\n"));
	free(here);
	/* It is read as it was written. */
	write_file("config", text);
	free(text);
	ck_assert_int_eq(restore(""), 0);
}
END_TEST

START_TEST(copies_have_nothing_that_is_one_guests)
{
	char *text = print_config("", true);

	ck_assert_ptr_null(strstr(text, "name ="));
	ck_assert_ptr_null(strstr(text, "publish ="));
	ck_assert_ptr_nonnull(strstr(text, "user = on\n"));
	free(text);
}
END_TEST

START_TEST(command_that_no_file_can_have_is_left_out)
{
	char *text, *command[] = { "sh", "-c", "a\nb", NULL };
	size_t size;
	FILE *file;

	ck_assert_int_eq(restore("--reboot restart"), 0);
	options.guest.command = command;
	file = open_memstream(&text, &size);
	ck_assert_int_eq(print_snapshot_config(&options.guest, false, file), 0);
	fclose(file);
	ck_assert_ptr_null(strstr(text, "command ="));
	ck_assert_ptr_nonnull(strstr(text, "reboot = exit\n"));
	free(text);
	options.guest.command = NULL;
}
END_TEST

Suite *restore_suite(void)
{
	const TTest *const tests[] = {
		guest_is_as_it_was_saved,
		what_is_given_wins_by_position,
		what_the_guest_has_counted_stays,
		descriptors_have_to_be_given_anew,
		configuration_may_name_it,
		directory_of_others_is_refused,
		directory_appears_whole,
		directory_that_came_meanwhile_stays,
		what_was_left_by_the_dead_is_removed,
		no_name_is_refused,
		snapshot_of_a_restored_guest_has_paths_from_the_root,
		copies_have_nothing_that_is_one_guests,
		command_that_no_file_can_have_is_left_out,
	};
	Suite *suite = suite_create("restore");

	add_case(suite, "restore", setup, teardown, 20, tests, ARRAY_SIZE(tests));
	return suite;
}
