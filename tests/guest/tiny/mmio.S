/* SPDX-License-Identifier: GPL-2.0-only */
/* Reads where there is no memory: in the hole below 4 GiB. */
#include "tiny.h"

start:
	movl 0xc8000000, %eax
	finish 0
