/* SPDX-License-Identifier: GPL-2.0-only */
/* Prints a line, and resets at once. */
#include "tiny.h"

start:
	hypercall CALL_CONSOLE, 6, text
	hypercall CALL_POWER, POWER_RESET, 0
1:	hlt
	jmp 1b

text:	.ascii "start\n"
