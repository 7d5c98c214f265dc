/* SPDX-License-Identifier: GPL-2.0-only */
/* Feeds the watchdog once, and hangs with interrupts off; ends with 99 if there is none. */
#include "tiny.h"

start:
	hypercall CALL_WATCHDOG, WATCHDOG_FEED, 0
	testl %eax, %eax
	jz none
	hypercall CALL_CONSOLE, 4, text
1:	cli
	jmp 1b
none:
	finish 99

text:	.ascii "fed\n"
