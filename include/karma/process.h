/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The process that runs a guest, from one start to its end, as the process that the user knows sees
 * it: the supervisor, which passes signals on to it and has its exit status.  Nothing else comes back,
 * so a guest that has broken out can tell the supervisor nothing.
 */
#ifndef KARMA_PROCESS_H
#define KARMA_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

#include "karma/sandbox.h"

struct process {
	pid_t pid;
	int pidfd;		/* readable when it has ended */
	int orders[2];		/* a pipe, to it: struct order */
	int answers;		/* eventfd: an order was served, as the report has it */
};

#define PROCESS_NONE ((struct process){ .pidfd = -1, .orders = { -1, -1 }, .answers = -1 })

/*
 * As fork(), in a sandbox that is still to be closed.  0 in the new process; a negative errno with a
 * message printed.  In both process_send_order() and process_wait() may be called.
 */
pid_t process_start(struct process *process, struct sandbox *sandbox);

enum order_kind {
	ORDER_NONE,
	ORDER_SIGNAL,		/* value: the number of a signal that the user has sent */
	ORDER_MEASURE,		/* value: 1 + the number of a disk that may have grown; 0: any of them */
	ORDER_PAUSE,
	ORDER_RESUME,
	ORDER_BALLOON,		/* value: the size that it is to have, in bytes */
	ORDER_LINK,		/* value: for networks_follow(): the link of a TAP has changed */
	ORDER_CONSOLE_SIZE,	/* the console may have another size */
	ORDER_STATISTICS,	/* put them into the report */
	ORDER_KEEPALIVE,		/* the service manager wants a sign of life */
	ORDER_END,		/* end the guest by force */
};

struct order {
	uint32_t kind;
	uint32_t number;	/* for the answer, which is in the report; 0: none is wanted */
	uint64_t value;
};

/* Any thread.  0, or -EAGAIN if there are thousands of them; without effect once the process has ended. */
int process_send_order(const struct process *process, const struct order *order);
void process_signal(const struct process *process, int number);
/* In the new process: the report has an answer. */
void process_notify_reply(const struct process *process);
/* In the supervisor, when answers can be read: there are none to come of before. */
void process_clear_replies(const struct process *process);
/* In the new process: the next order; ORDER_NONE if there is none now. */
struct order process_receive_order(const struct process *process);

/* No file of its may grow beyond that; 0: no bound.  Raises what sandbox_enter() has set. */
void process_set_file_limit(const struct process *process, uint64_t file_bytes);

/* It won't end by itself. */
void process_kill(const struct process *process);

/* For its end, which comes by itself.  Its exit status; failure after a message if a signal killed it. */
int process_wait(struct process *process, int failure);

#endif
