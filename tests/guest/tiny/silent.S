/* SPDX-License-Identifier: GPL-2.0-only */
/* Makes no call and waits for ever, with what looks like a kernel's log in its memory. */
#include "tiny.h"

start:
1:	cli
	hlt
	jmp 1b

	.balign 8, 0
	.quad 0xfffff000
	.ascii "Linux version 0.0"
	.balign 8, 0
	.quad 0xfffff001
	.ascii "No root\033[31m"
	.balign 8, 0
	.quad 0
