/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The host's side of karma-agent(7): runs commands in a guest, and copies files, on a socket that is connected to the
 * guest's agent.  The guest's answers are hostile: they are parsed with bounds, and its messages are printed without
 * control characters.  What a command prints is the user's to see as it is.
 *
 * For a process with one thread.
 */
#ifndef KARMA_AGENT_CLIENT_H
#define KARMA_AGENT_CLIENT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* Strings and arrays are the caller's. */
struct agent_command {
	const char *const *arguments;	/* argument_count of them, 1 or more; the first is searched in PATH */
	size_t argument_count;
	const char *const *environment;	/* environment_count of them, KEY=VALUE: added to those of a login */
	size_t environment_count;
	const char *directory;		/* the guest's; NULL: the user's home */
	const char *user;		/* a name or number of the guest's; NULL: root */
	const void *process;		/* process_length bytes: the payload of PROCESS, instead of user and login; or NULL */
	size_t process_length;
	bool all_signals;		/* any signal to us is the command's, however many come, before it has started too */
	bool terminal;			/* a terminal of the guest's instead of pipes; takes input, too */
	bool guest_ends_it;		/* no message if the guest ends before the command: it says why itself */
	bool input;			/* false: the command's input is /dev/null */
	int fds[3];			/* input, output and error output: any files, blocking or not; they stay open */
};

/* Those of all_signals. */
static inline void agent_signals(sigset_t *set)
{
	sigfillset(set);
	/* Of our own processes, and of our own writes. */
	sigdelset(set, SIGCHLD);
	sigdelset(set, SIGPIPE);
	sigdelset(set, SIGXFSZ);
}

/*
 * Connect to the agent of a guest that is about to start, or runs, as soon as the agent listens: a socket, which the caller
 * closes.  Waits as long as it takes, so for who ends with the guest.
 */
int agent_await(const char *guest);

/*
 * Run a command, and return its exit status as a shell tells it: 128 + n for signal n, 126 or 127 after a message if it
 * can't be run or isn't found, or 125 after another message: the agent refused (its text names why), answered against
 * the protocol, or is gone.  Messages begin with the guest's name, unless guest is NULL.
 *
 * It returns after all output was written to fds, or its reader has gone, and the agent was told that; what the
 * command left running goes on.  Output and error output hold up neither each other nor the input.  When this process
 * ends before that, or the socket is shut down, the agent ends the command by SIGHUP, and SIGKILL.
 *
 * Blocks.  The socket stays the caller's, and is non-blocking from then on.  SIGPIPE is ignored, and SIGINT, SIGTERM,
 * SIGHUP, SIGQUIT and SIGWINCH are blocked and taken by a signalfd: without a terminal the first four are passed on to
 * the command, and the third one that comes ends this with status 128 + n; with one they end this at once.  Those that
 * are blocked at the call are taken, too; the mask stays changed.  With all_signals these are those
 * of agent_signals(), and go to the command always.
 *
 * With a terminal, if fds[0] is one of the user's, and we are in its foreground, it is in raw mode meanwhile, and its
 * size is the command's, whose TERM is ours.
 */
int agent_run_command(int socket, const char *guest, const struct agent_command *command);

#endif
