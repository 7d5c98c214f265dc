/* SPDX-License-Identifier: GPL-2.0-only */
/* What a Linux guest's kernel has logged, as it stands in guest memory: for a guest that has no console yet. */
#ifndef KARMA_KERNEL_LOG_H
#define KARMA_KERNEL_LOG_H

#include "karma/memory.h"

#define KERNEL_LOG_LINES 32u
#define KERNEL_LOG_LINE_BYTES 160u

/*
 * Call each() for each of the last KERNEL_LOG_LINES records, the oldest first: printable ASCII, cut to
 * KERNEL_LOG_LINE_BYTES with its end.  If a panic is logged before those, its record comes first of all.
 * How many calls; 0 if no log is found.  The guest may run meanwhile, and the lines
 * may be anything.  At most the first GiB is searched.
 */
unsigned kernel_log_search(const struct guest_memory *memory, void (*each)(const char *line));

#endif
