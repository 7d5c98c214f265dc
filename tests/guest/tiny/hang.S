/* SPDX-License-Identifier: GPL-2.0-only */
/* Finds a device, as a driver would, and then listens to nobody. */
#include "tiny.h"

start:
	hypercall CALL_INFO, 0, buffer
	hypercall CALL_CONSOLE, 8, text
1:	cli
	hlt
	jmp 1b

text:	.ascii "hanging\n"
	.balign 8
buffer:	.skip 32
