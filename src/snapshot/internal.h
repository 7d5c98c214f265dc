/* SPDX-License-Identifier: GPL-2.0-only */
/* What the sources here share: the entries of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#ifndef KARMA_SNAPSHOT_INTERNAL_H
#define KARMA_SNAPSHOT_INTERNAL_H

#define PAGE_SOFT_DIRTY (1ull << 55)
#define PAGE_EXCLUSIVE (1ull << 56)	/* mapped once; never set for the page of zeroes */
#define PAGE_OF_FILE (1ull << 61)
#define PAGE_SWAPPED (1ull << 62)
#define PAGE_PRESENT (1ull << 63)

#endif
