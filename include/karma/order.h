/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Orders: what the supervisor has the guest's process do.  They go one way, through a pipe; that one
 * was served, and its result, comes back in the report (karma/report.h).
 */
#ifndef KARMA_ORDER_H
#define KARMA_ORDER_H

#include <stdint.h>

enum order_kind {
	ORDER_NONE,
	ORDER_SIGNAL,		/* value: the number of a signal that the supervisor has received */
	ORDER_MEASURE,		/* value: 1 + the index of a disk that may have grown; 0: any of them */
	ORDER_PAUSE,
	ORDER_RESUME,
	ORDER_QUIESCE,		/* pause, and have all requests in flight come to their end: nothing writes to memory */
	ORDER_SNAPSHOT,		/* the same, and save the guest's state, whose size the report tells; ORDER_RESUME follows */
	ORDER_CHECKPOINT,	/* as ORDER_SNAPSHOT, of a guest that waits in its call `checkpoint`: -ECANCELED if none does */
	ORDER_BALLOON,		/* value: the balloon's new size in bytes */
	ORDER_LINK,		/* value: which TAP's link has changed, and how (networks_set_link()) */
	ORDER_CONSOLE_SIZE,	/* the console's size may have changed */
	ORDER_STATISTICS,	/* write all counters to the report */
	ORDER_KEEPALIVE,	/* prove that the I/O thread runs, for the service manager's watchdog */
	ORDER_END,		/* end the guest by force */
};

struct order {
	uint32_t kind;		/* enum order_kind */
	uint32_t number;	/* for the reply, in the report; 0: none is wanted */
	uint64_t value;
};

#endif
