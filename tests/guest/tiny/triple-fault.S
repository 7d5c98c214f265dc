/* SPDX-License-Identifier: GPL-2.0-only */
/* Faults without an interrupt table to handle it. */
#include "tiny.h"

start:
	ud2
