/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Interrupts by eventfds: whoever writes to one, in any process, interrupts the guest, and no thread of the
 * monitor's is involved.  A virtual machine has them, and a test a simulation.
 */
#ifndef KARMA_IRQFD_H
#define KARMA_IRQFD_H

#include "karma/abi.h"

struct irqfds {
	/*
	 * Bind an eventfd to a new number, which has no message at first: what is written to it until then
	 * interrupts nobody.  The number, or a negative errno with a message printed.  Before the first
	 * vCPU runs.
	 */
	int (*bind)(struct irqfds *irqfds, int eventfd);
	/* The message that it sends from now on; with an address of 0 none.  Any thread. */
	void (*route)(struct irqfds *irqfds, unsigned number, const struct karma_interrupt *interrupt);
};

#endif
