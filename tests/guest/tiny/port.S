/* SPDX-License-Identifier: GPL-2.0-only */
/* Reads and writes a port that nothing is behind; ends with 7 if the read gave all ones. */
#include "tiny.h"

start:
	movw $0x1234, %dx
	inl %dx, %eax
	cmpl $0xffffffff, %eax
	jne bad
	outl %eax, %dx
	finish 7
bad:
	finish 1
