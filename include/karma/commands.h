/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The subcommands that operate running guests, each a client of their control sockets: one function
 * each, which returns the exit status of the process (karma/status.h).
 */
#ifndef KARMA_COMMANDS_H
#define KARMA_COMMANDS_H

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

#endif
