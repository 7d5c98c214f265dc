/* SPDX-License-Identifier: GPL-2.0-only */
/* UTF-8 (RFC 3629), without the C library's locales: any thread. */
#ifndef KARMA_UTF8_H
#define KARMA_UTF8_H

#include <stddef.h>

/*
 * The length in bytes of the text's first character, 1 to 4; 0: the text is empty or invalid there.
 */
size_t utf8_length(const char *text, size_t length);

#endif
