/* SPDX-License-Identifier: GPL-2.0-only */
/* How Karma's init runs the command of `karma run`: karma-agent run, enter or contain. */
#ifndef KARMA_AGENT_COMMAND_OF_INIT_H
#define KARMA_AGENT_COMMAND_OF_INIT_H

/*
 * argv: "run" and the command.  Connects to the host, which joins the command to the streams of `karma run`, and
 * returns its exit status as a shell tells it, once the host has all that it printed; or, after a message, 123 if the
 * host can't be reached.
 */
int agent_run(int argc, char **argv);

/*
 * argv: "enter", a root, UID:GID:GROUP,..., the working directory there, and the command.  Becomes the command, or
 * prints why not and returns an exit status: 123, or 126 and 127 as a shell.
 */
int agent_enter(int argc, char **argv);

/*
 * argv: "contain" and a root.  Connects to the host as above, and runs what that asks for as the first process of a
 * container, in process IDs of its own.  Its exit status, or as above.
 */
int agent_contain(int argc, char **argv);

#endif
