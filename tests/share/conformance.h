/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the cases of the conformance test are written with.  Each runs in a process and an empty directory of its
 * own, which is its working directory, with a umask of 022, and prints what it sees behind its name, in one line
 * that has nothing of the place, the time or the process in it.
 */
#ifndef TESTS_SHARE_CONFORMANCE_H
#define TESTS_SHARE_CONFORMANCE_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

struct conformance_case {
	const char *name;
	void (*run)(void);
};

/* The section of pointers to the cases is in the order of the files that are linked. */
#define CASE(name) \
	static void name(void); \
	static const struct conformance_case case_##name = { #name, name }; \
	static const struct conformance_case *const pointer_to_##name \
		__attribute__((section("cases"), used, no_reorder)) = &case_##name; \
	static void name(void)

/* The user that a case becomes who is not to have the caller's rights. */
extern uid_t other_user;
/* Of the large directory. */
extern unsigned entries;

__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

/* The call's own text, and "ok", what it returned, or the name of the error. */
#define TRY(call) tried(#call, (call), false)
#define COUNT(call) tried(#call, (call), true)
long tried(const char *call, long result, bool count);

/* For what a case only needs: ends it where that fails. */
#define NEED(call) needed(#call, (call))
long needed(const char *call, long result);

/* A file that has this text; of mode 0644. */
void make(const char *path, const char *text);
int make_open(const char *path, const char *text);	/* the same, open to read and write */

void show(const char *path);		/* type, mode, links, size of all but directories, owner */
void show_open(int fd);
void show_text(const char *path);	/* a short one, quoted */
void show_size(const char *path);
void show_names(const char *directory);	/* sorted */

/* A time that was seen is past, so that another change has another one. */
void let_time_pass(void);
/* Which times of the file an operation has changed: TIMES_OF("f", COUNT(read(...))). */
#define TIMES_OF(path, operation) \
	do { \
		struct stat times_before = status_after_a_while(path); \
		operation; \
		show_changes(path, &times_before); \
	} while (0)
struct stat status_after_a_while(const char *path);
void show_changes(const char *path, const struct stat *before);

/* What follows is done by a child, which is waited for. */
#define IN_CHILD for (pid_t child_pid = fork_and_wait(); child_pid == 0; _exit(0))
pid_t fork_and_wait(void);
/* Or by one that has no rights but those of another user, or is skipped where we can't be one. */
#define AS_OTHER_USER for (pid_t child_pid = fork_as_other(); child_pid == 0; _exit(0))
pid_t fork_as_other(void);

#endif
