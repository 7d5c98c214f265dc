/* SPDX-License-Identifier: GPL-2.0-only */
/* Reads and writes where there is no memory, in the hole below 4 GiB; ends with 7 if the read gave all ones. */
#include "tiny.h"

start:
	movl 0xc8000000, %eax
	cmpl $0xffffffff, %eax
	jne bad
	movl $1, 0xc8000000
	finish 7
bad:
	finish 1
