// SPDX-License-Identifier: GPL-2.0-only
/*
 * files: work on files, and how long it took.
 *
 *   files tree DIR COUNT      makes so many of 1 to 8 KiB, a hundred in a directory
 *   files create DIR COUNT    makes so many empty ones in DIR
 *   files unlink DIR COUNT    removes these
 *   files write FILE MIB      in pieces of 1 MiB, and fsync
 *   files read FILE           in such pieces
 *   files run COMMAND...      with a pipe as its stdout: with /dev/null tar reads no file
 *
 * Prints "NAME: SECONDS BYTES", of what the command printed.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE_BYTES (1024 * 1024)

static char piece[PIECE_BYTES];
static unsigned long long printed;

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* One of COUNT files; in a subdirectory if it is to have some bytes. */
static bool make_file(unsigned number, size_t bytes)
{
	char name[32];
	int fd;

	if (bytes)
		snprintf(name, sizeof(name), "%03u/%u", number / 100, number);
	else
		snprintf(name, sizeof(name), "%u", number);
	fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644);
	if (fd < 0 || write(fd, piece, bytes) != (ssize_t)bytes)
		return false;
	return close(fd) == 0;
}

static bool make_tree(unsigned count)
{
	char name[16];

	for (size_t i = 0; i < sizeof(piece); i++)
		piece[i] = 'a' + i * i % 26;
	for (unsigned i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%03u", i / 100);
		if (i % 100 == 0 && mkdir(name, 0755) < 0)
			return false;
		/* No two are the same. */
		snprintf(piece, 16, "%u\n", i);
		if (!make_file(i, 1024 + i * 7919 % 7168))
			return false;
	}
	return true;
}

static bool create_files(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (!make_file(i, 0))
			return false;
	}
	return true;
}

static bool unlink_files(unsigned count)
{
	char name[16];

	for (unsigned i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%u", i);
		if (unlink(name) < 0)
			return false;
	}
	return true;
}

static bool write_file(const char *path, unsigned mebibytes)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);

	memset(piece, 'x', sizeof(piece));
	while (fd >= 0 && mebibytes--) {
		if (write(fd, piece, sizeof(piece)) != sizeof(piece))
			return false;
	}
	return fsync(fd) == 0;
}

static bool read_file(const char *path)
{
	int fd = open(path, O_RDONLY);
	ssize_t got;

	while ((got = read(fd, piece, sizeof(piece))) > 0)
		;
	return got == 0;
}

static bool run_command(char **command)
{
	int ends[2], status;
	ssize_t got;
	pid_t pid;

	if (pipe(ends) < 0)
		return false;
	pid = fork();
	if (pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		execvp(command[0], command);
		_exit(127);
	}
	close(ends[1]);
	while ((got = read(ends[0], piece, sizeof(piece))) > 0)
		printed += got;
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static bool work(int argc, char **argv)
{
	const char *what = argv[1];
	unsigned count = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;

	if (strcmp(what, "write") == 0)
		return write_file(argv[2], count);
	if (strcmp(what, "read") == 0)
		return read_file(argv[2]);
	if (strcmp(what, "run") == 0)
		return run_command(argv + 2);
	if (chdir(argv[2]) < 0)
		return false;
	if (strcmp(what, "tree") == 0)
		return make_tree(count);
	return strcmp(what, "create") == 0 ? create_files(count) : unlink_files(count);
}

int main(int argc, char **argv)
{
	double start = seconds();

	if (argc < 3) {
		fputs("usage: files tree|create|unlink|write|read|run ...\n", stderr);
		return 2;
	}
	if (!work(argc, argv)) {
		perror(argv[1]);
		return 1;
	}
	printf("%s: %.3f %llu\n", argv[1], seconds() - start, printed);
	return 0;
}
