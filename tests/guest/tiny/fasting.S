/* SPDX-License-Identifier: GPL-2.0-only */
/* Feeds the watchdog, has it stopped, and then hangs with interrupts off. */
#include "tiny.h"

start:
	hypercall CALL_WATCHDOG, WATCHDOG_FEED, 0
	hypercall CALL_WATCHDOG, WATCHDOG_STOP, 0
	hypercall CALL_CONSOLE, 8, text
1:	cli
	jmp 1b

text:	.ascii "stopped\n"
