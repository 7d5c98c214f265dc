// SPDX-License-Identifier: GPL-2.0-only
/*
 * conformance: what a file system does with the calls of POSIX and Linux, a line for each case, to
 * be compared with what another does.
 *
 *   conformance DIR [--user UID] [--entries N] [--case NAME]
 *
 *   --user     whose rights a case takes that is to have none of the caller's (65534)
 *   --entries  of a large directory, at least 200 (10000)
 *   --case     only this one
 *
 * DIR has to be empty, and is so afterwards.  The exit status is 0 if all cases came to their end,
 * whatever they saw.
 */
#include <dirent.h>
#include <ftw.h>
#include <getopt.h>
#include <grp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "conformance.h"

extern const struct conformance_case *const __start_cases[], *const __stop_cases[];

#define CASE_SECONDS 120

uid_t other_user = 65534;
unsigned entries = 10000;

/* At once, since children print as well. */
void say(const char *format, ...)
{
	char text[8192] = " ";
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text + 1, sizeof(text) - 1, format, arguments);
	va_end(arguments);
	if (write(STDOUT_FILENO, text, strlen(text)) < 0)
		_exit(1);
}

long tried(const char *call, long result, bool count)
{
	int error = errno;

	if (result < 0)
		say("%s=%s", call, strerrorname_np(error));
	else if (count)
		say("%s=%ld", call, result);
	else
		say("%s=ok", call);
	errno = error;
	return result;
}

long needed(const char *call, long result)
{
	if (result < 0) {
		tried(call, result, false);
		_exit(1);
	}
	return result;
}

int make_open(const char *path, const char *text)
{
	int fd = NEED(open(path, O_RDWR | O_CREAT | O_TRUNC, 0644));

	NEED(pwrite(fd, text, strlen(text), 0));
	return fd;
}

void make(const char *path, const char *text)
{
	close(make_open(path, text));
}

static const char *type_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG: return "file";
	case S_IFDIR: return "directory";
	case S_IFLNK: return "symlink";
	case S_IFIFO: return "fifo";
	case S_IFSOCK: return "socket";
	case S_IFCHR: return "character device";
	case S_IFBLK: return "block device";
	default: return "unknown";
	}
}

static void show_owner(const char *what, unsigned id, unsigned own)
{
	if (id == own)
		say("%s=own", what);
	else
		say("%s=%u", what, id);
}

static void show_status(const char *path, const struct stat *status)
{
	say("%s:%s,%04o,links=%lu", path, type_of(status->st_mode), status->st_mode & 07777,
		(unsigned long)status->st_nlink);
	if (!S_ISDIR(status->st_mode))
		say("size=%lld", (long long)status->st_size);
	show_owner("uid", status->st_uid, geteuid());
	show_owner("gid", status->st_gid, getegid());
}

void show(const char *path)
{
	struct stat status;

	if (lstat(path, &status) < 0)
		say("%s:%s", path, strerrorname_np(errno));
	else
		show_status(path, &status);
}

void show_open(int fd)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		say("fd:%s", strerrorname_np(errno));
	else
		show_status("fd", &status);
}

void show_size(const char *path)
{
	struct stat status;

	if (lstat(path, &status) < 0)
		say("%s:%s", path, strerrorname_np(errno));
	else
		say("%s:size=%lld", path, (long long)status.st_size);
}

void show_text(const char *path)
{
	char text[256], shown[sizeof(text) * 4], *to = shown;
	int fd = open(path, O_RDONLY);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (got < 0) {
		say("%s:%s", path, strerrorname_np(errno));
		return;
	}
	for (ssize_t i = 0; i < got; i++)
		to += text[i] < ' ' ? sprintf(to, "\\%o", text[i]) : sprintf(to, "%c", text[i]);
	*to = '\0';
	say("%s=\"%s\"", path, shown);
	close(fd);
}

static int is_entry(const struct dirent *entry)
{
	return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

void show_names(const char *directory)
{
	struct dirent **list;
	int count = scandir(directory, &list, is_entry, alphasort);

	if (count < 0) {
		say("%s:%s", directory, strerrorname_np(errno));
		return;
	}
	say("%s:{", directory);
	for (int i = 0; i < count; i++)
		say("%s", list[i]->d_name);
	say("}");
}

void let_time_pass(void)
{
	const struct timespec tick = { .tv_nsec = 20 * 1000 * 1000 };

	nanosleep(&tick, NULL);
}

struct stat status_after_a_while(const char *path)
{
	struct stat status;

	let_time_pass();
	NEED(lstat(path, &status));
	return status;
}

static bool differ(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec || a->tv_nsec != b->tv_nsec;
}

void show_changes(const char *path, const struct stat *before)
{
	struct stat now;

	NEED(lstat(path, &now));
	say("%s:changed={", path);
	if (differ(&now.st_atim, &before->st_atim))
		say("atime");
	if (differ(&now.st_mtim, &before->st_mtim))
		say("mtime");
	if (differ(&now.st_ctim, &before->st_ctim))
		say("ctime");
	say("}");
}

pid_t fork_and_wait(void)
{
	pid_t pid = NEED(fork());
	int status;

	if (pid == 0)
		return 0;
	NEED(waitpid(pid, &status, 0));
	if (WIFSIGNALED(status))
		say("child ends by signal %d", WTERMSIG(status));
	else if (status != 0)
		say("child ends with status %d", WEXITSTATUS(status));
	return pid;
}

pid_t fork_as_other(void)
{
	pid_t pid;

	if (geteuid() != 0) {
		say("skipped: needs root");
		return -1;
	}
	pid = fork_and_wait();
	if (pid == 0) {
		NEED(setgroups(0, NULL));
		NEED(setresgid(other_user, other_user, other_user));
		NEED(setresuid(other_user, other_user, other_user));
	}
	return pid;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
	(void)walk;
	(void)status;
	return kind == FTW_DP ? rmdir(path) : unlink(path);
}

/* True if it came to its end. */
static bool run_case(const struct conformance_case *this)
{
	int status;
	pid_t pid;

	dprintf(STDOUT_FILENO, "%s:", this->name);
	pid = fork();
	if (pid == 0) {
		alarm(CASE_SECONDS);
		umask(022);
		NEED(mkdir(this->name, 0755));
		NEED(chmod(this->name, 0755));
		NEED(chdir(this->name));
		this->run();
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return false;
	if (WIFSIGNALED(status))
		say("ENDED BY SIGNAL %d", WTERMSIG(status));
	else if (status != 0)
		say("STOPPED");
	if (nftw(this->name, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0)
		say("CAN'T BE REMOVED");
	return write(STDOUT_FILENO, "\n", 1) == 1 && status == 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "user", required_argument, NULL, 'u' },
		{ "entries", required_argument, NULL, 'e' }, { "case", required_argument, NULL, 'c' }, {} };
	const char *only = NULL;
	bool fine = true;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == 'u')
			other_user = strtoul(optarg, NULL, 10);
		else if (option == 'e')
			entries = strtoul(optarg, NULL, 10);
		else if (option == 'c')
			only = optarg;
		else
			return 2;
	}
	if (optind != argc - 1) {
		fputs("usage: conformance DIR [--user UID] [--entries N] [--case NAME]\n", stderr);
		return 2;
	}
	if (chdir(argv[optind]) < 0) {
		perror(argv[optind]);
		return 1;
	}
	for (const struct conformance_case *const *next = __start_cases; next < __stop_cases; next++) {
		if (!only || strcmp((*next)->name, only) == 0)
			fine &= run_case(*next);
	}
	return fine ? 0 : 1;
}
