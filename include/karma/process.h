/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The process that runs a guest, from one start to its end, as the process that the user knows sees
 * it: the supervisor, which passes signals on to it and has its exit status.  Nothing else comes back,
 * so a guest that has broken out can tell the supervisor nothing.
 */
#ifndef KARMA_PROCESS_H
#define KARMA_PROCESS_H

#include <sys/types.h>

#include "karma/sandbox.h"

struct process {
	pid_t pid;
	int pidfd;		/* readable when it has ended */
	int signals[2];		/* a pipe, to it: numbers of signals, a byte each */
	int calls[2];		/* sockets: ours, for what it asks of the supervisor, and its own */
};

/*
 * As fork(), in a sandbox that is still to be closed.  0 in the new process; a negative errno with a
 * message printed.  In both process_signal() and process_wait() may be called.
 */
pid_t process_start(struct process *process, struct sandbox *sandbox);

/* Any thread.  Without effect once the process has ended. */
void process_signal(const struct process *process, int number);
/* In the new process: the next signal; 0 if there is none now. */
int process_take_signal(const struct process *process);

/* A server of the user's that the guest's process may have to find again. */
struct process_call {
	unsigned server, index;
};

/*
 * In the new process: a socket to that server's address, which the supervisor connects; a negative
 * errno.  It waits for the supervisor, who waits for nobody.
 */
int process_connect(const struct process *process, const struct process_call *call);

/* In the supervisor, when calls[0] can be read: serve a call by a function that takes its numbers. */
void process_serve(const struct process *process, int (*connect)(unsigned server, unsigned index));

/* No file of its may grow beyond that; 0: no bound.  Raises what sandbox_enter() has set. */
void process_allow(const struct process *process, uint64_t file_bytes);

/* For its end, which comes by itself.  Its exit status; failure after a message if a signal killed it. */
int process_wait(struct process *process, int failure);

#endif
