// SPDX-License-Identifier: GPL-2.0-only
/*
 * Start a command and take its time: launch SECONDS FILE COMMAND [ARGUMENT]...
 *
 * FILE gets the moments of CLOCK_MONOTONIC, in microseconds, just before the command's exec and
 * when it has ended.  The command runs for at most SECONDS.  The exit status is the command's.
 *
 * Between fork and exec nothing is copied and nothing faults in, so that the command's CPU time is
 * its own; for the same reason, link this statically.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STATUS_FAILURE 125

static volatile pid_t child;

static void end_child(int number)
{
	(void)number;
	kill(child, SIGKILL);
}

static int64_t microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
	int64_t start, end;
	int status, error;
	pid_t started;
	FILE *file;

	if (argc < 4) {
		fputs("usage: launch SECONDS FILE COMMAND [ARGUMENT]...\n", stderr);
		return STATUS_FAILURE;
	}
	start = microseconds();
	error = posix_spawnp(&started, argv[3], NULL, NULL, argv + 3, environ);
	if (error) {
		fprintf(stderr, "launch: %s: %s\n", argv[3], strerror(error));
		return STATUS_FAILURE;
	}
	child = started;
	signal(SIGALRM, end_child);
	signal(SIGTERM, end_child);
	alarm(atoi(argv[1]));
	while (waitpid(started, &status, 0) < 0 && errno == EINTR)
		;
	end = microseconds();
	file = fopen(argv[2], "w");
	if (!file || fprintf(file, "%" PRId64 " %" PRId64 "\n", start, end) < 0 ||
		fclose(file) != 0) {
		fprintf(stderr, "launch: %s: %s\n", argv[2], strerror(errno));
		return STATUS_FAILURE;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
