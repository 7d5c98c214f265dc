/* SPDX-License-Identifier: GPL-2.0-only */
/* Calls well and badly; ends with 42 if each was answered as specified. */
#include "tiny.h"

#define ENOSYS	-38
#define EINVAL	-22
#define ENODEV	-19

.macro expect result
	cmpl $(\result), %eax
	jne bad
.endm

start:
	hypercall CALL_VERSION, 0, 0
	expect 1
	/* Unknown: a number that no call has, one outside of the window, one without the tag. */
	hypercall 200, 0, 0
	expect ENOSYS
	hypercall 256, 0, 0
	expect ENOSYS
	movl $12, %eax
	movl $WINDOW, %ebx
	movl $1, %ecx
	xorl %edx, %edx
	vmcall
	expect ENOSYS
	/* Refused: bad argument, no such device. */
	hypercall CALL_VERSION, 1, 0
	expect EINVAL
	hypercall CALL_INFO, 200, buffer
	expect ENODEV
	hypercall CALL_CONSOLE, 5, text
	expect 5
	finish 42
bad:
	finish 1

text:	.ascii "tiny\n"
	.balign 8
buffer:	.skip 32
