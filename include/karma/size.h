/* SPDX-License-Identifier: GPL-2.0-only */
/* Sizes in bytes as users write them: 256M, 2G; the suffixes are K, M, G and T, of powers of 1024. */
#ifndef KARMA_SIZE_H
#define KARMA_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A number alone is MiB.  False if the text is no size, or one of 2^64 bytes or more. */
bool parse_size(const char *text, uint64_t *bytes);

/* The same in two parts, for the caller to check value << shift against its own bounds. */
bool split_size(const char *text, unsigned long long *value, unsigned *shift);

/* Print a multiple of 1 KiB with the largest suffix that leaves it whole. */
void format_size(char *text, size_t size, uint64_t bytes);

#endif
