/* SPDX-License-Identifier: GPL-2.0-only */
/* Prints a line, and panics at once. */
#include "tiny.h"

start:
	hypercall CALL_CONSOLE, 6, text
	hypercall CALL_PANIC, 4, text
1:	hlt
	jmp 1b

text:	.ascii "start\n"
