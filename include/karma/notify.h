/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tells a service manager, such as systemd, that the guest is up, that it lives and that it is about to
 * end: the datagrams of sd_notify(3), to $NOTIFY_SOCKET.  The supervisor's; the guest's process gives
 * it signs by eventfds, and can say no more than that.
 *
 * Times are in milliseconds.  One thread calls.
 */
#ifndef KARMA_NOTIFY_H
#define KARMA_NOTIFY_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct notify {
	int fd;			/* to the manager; -1: there is none, and no other member counts */
	int ready_fd;		/* eventfd: a sign that the guest is up */
	int keepalive_fd;		/* eventfd: a sign of life, when it was asked for one; -1: nobody wants them */
	bool ready;		/* the manager knows */
	bool keepalive_pending;		/* for a sign of life */
	int64_t interval;	/* from one question to the next */
	int64_t keepalive_at;
};

#define NOTIFY_NONE { .fd = -1, .ready_fd = -1, .keepalive_fd = -1 }
#define NOTIFY_EVENTS 2

/*
 * Who manages us, if anybody does: from $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID.  0, or a
 * negative errno with a message printed.
 */
int notify_open(struct notify *notify);
void notify_close(struct notify *notify);
/* In the guest's process: only the signs are left. */
void notify_after_fork(struct notify *notify);

/* What the supervisor waits for, NOTIFY_EVENTS of them, and for how long; -1: for ever. */
void notify_poll(const struct notify *notify, struct pollfd *events);
int notify_timeout(const struct notify *notify);
/*
 * Tell of the signs that came.  waits: the guest's process waits for a disk, and so lives though it may give no sign.
 * True: it is time to ask it for a sign of life.
 */
bool notify_serve(struct notify *notify, const struct pollfd *events, bool waits);

/* The guest is to end, and may take so many seconds for that. */
void notify_stopping(const struct notify *notify, unsigned seconds);

/* In the guest's process, any thread: a sign, by one of the eventfds; -1: nobody wants it. */
void notify_signal(int fd);

#endif
