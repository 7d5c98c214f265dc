/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The subcommands that operate running guests, each a client of their control sockets: one function
 * each, which returns the exit status of the process (karma/status.h).
 */
#ifndef KARMA_COMMANDS_H
#define KARMA_COMMANDS_H

#include <stdbool.h>
#include <stdint.h>

int command_ps(int argc, char **argv);
int command_stats(int argc, char **argv);
int command_console(int argc, char **argv);
int command_pause(int argc, char **argv);
int command_resume(int argc, char **argv);
int command_stop(int argc, char **argv);
int command_wait(int argc, char **argv);
int command_resize(int argc, char **argv);
int command_balloon(int argc, char **argv);
int command_connect(int argc, char **argv);
int command_exec(int argc, char **argv);
int command_cp(int argc, char **argv);
int command_snapshot(int argc, char **argv);
int command_fork(int argc, char **argv);
int command_log(int argc, char **argv);

/*
 * Ask a guest to give up so much of its memory, unless it was asked for more, and wait until it has, 30 seconds at most: what it
 * was asked for before holds again then.  With `grow`: ask it for no more than that, without a wait.  0, or a negative errno
 * with a message printed.
 */
int balloon_await(const char *name, uint64_t bytes, bool grow);

#endif
