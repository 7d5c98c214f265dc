/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guest's process, as its supervisor holds it, and the pipe of orders between the two.
 *
 * What comes back is its exit status, the event that an order was served, and the report
 * (karma/report.h): numbers, and nothing that the supervisor would obey.
 */
#ifndef KARMA_GUEST_PROCESS_H
#define KARMA_GUEST_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

#include "karma/order.h"
#include "karma/sandbox.h"

struct process {
	pid_t pid;
	int pidfd;		/* readable once it has ended */
	int orders[2];		/* a non-blocking pipe to it, of struct order; both processes have both ends */
	int replies;		/* eventfd: an order was served, as the report has it */
};

#define PROCESS_NONE ((struct process){ .pidfd = -1, .orders = { -1, -1 }, .replies = -1 })

/*
 * Fork it, with namespaces of its own (sandbox_fork()).  0 in the new process, its pid in the supervisor;
 * a negative errno with a message printed.
 */
pid_t process_start(struct process *process, struct sandbox *sandbox);

/* --- In the supervisor, until process_wait(). */

/*
 * Never blocks; any thread of the guest's process may call it too.  0, or -EAGAIN if the pipe is full.  An
 * order to a process that has ended is lost.
 */
int process_send_order(const struct process *process, const struct order *order);
/* ORDER_SIGNAL. */
void process_signal(const struct process *process, int number);

/* Reset the event of replies, once it was seen and before the report is read. */
void process_clear_replies(const struct process *process);

/* Set the soft limit of its file sizes (RLIMIT_FSIZE), which sandbox_enter() has set first; 0: leave it. */
void process_set_file_limit(const struct process *process, uint64_t file_bytes);

/* SIGKILL. */
void process_kill(const struct process *process);

/*
 * Wait for its end, and close all descriptors.  Its exit status; if a signal killed it, failure, after a
 * message.
 */
int process_wait(struct process *process, int failure);

/* --- In the guest's process. */

/* The next order, or ORDER_NONE. */
struct order process_receive_order(const struct process *process);
/* The report has the result of an order. */
void process_notify_reply(const struct process *process);

#endif
