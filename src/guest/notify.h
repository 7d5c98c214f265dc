/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The protocol of sd_notify(3) with a service manager such as systemd: readiness, watchdog keep-alives, and the
 * announcement of the end, as datagrams to $NOTIFY_SOCKET.
 *
 * Only the supervisor has that socket.  The guest's process raises eventfds, and so can say no more than
 * "ready" and "alive".  Times are in milliseconds.  One thread calls, but for notify_signal().
 */
#ifndef KARMA_GUEST_NOTIFY_H
#define KARMA_GUEST_NOTIFY_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct notify {
	int fd;			/* to the manager; -1: there is none */
	int ready_fd;		/* eventfd: the guest is up */
	int keepalive_fd;	/* eventfd: the reply to a request for a keep-alive; -1: the manager wants none */
	bool ready;		/* the guest is up, which the manager was told */
	bool keepalive_pending;	/* requested from the guest's process, without a reply yet */
	int64_t interval;	/* between two requests */
	int64_t keepalive_at;	/* the next request; on CLOCK_MONOTONIC */
};

#define NOTIFY_NONE { .fd = -1, .ready_fd = -1, .keepalive_fd = -1 }
#define NOTIFY_EVENTS 2

/*
 * Find the manager by $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID.  0, without a manager too, or a
 * negative errno with a message printed.  notify_close() in any case.
 */
int notify_open(struct notify *notify);
void notify_close(struct notify *notify);
/* Have `ready` follow the guest without a manager, too.  To be called before the guest's process is there. */
void notify_watch_ready(struct notify *notify);
/* In the guest's process: close the manager's socket; the eventfds stay. */
void notify_after_fork(struct notify *notify);

/* What the supervisor is to poll, NOTIFY_EVENTS entries, and for how long at most; -1: for ever. */
void notify_poll(const struct notify *notify, struct pollfd *events);
int notify_timeout(const struct notify *notify);
/*
 * Pass on to the manager what poll() has found.  True: request a keep-alive from the guest's process now
 * (ORDER_KEEPALIVE).  disk_blocked: that process is in a call that waits for a disk, and counts as alive though
 * it can't reply.
 */
bool notify_serve(struct notify *notify, const struct pollfd *events, bool disk_blocked);

/* The guest is to end: send STOPPING=1, and ask the manager for that many seconds, with a margin. */
void notify_stopping(const struct notify *notify, unsigned seconds);

/* In the guest's process, any thread: raise one of the eventfds; nothing happens for -1. */
void notify_signal(int fd);

#endif
