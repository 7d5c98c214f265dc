/* SPDX-License-Identifier: GPL-2.0-only */
/* UTF-8 (RFC 3629), without the C library's locales: any thread. */
#ifndef KARMA_UTF8_H
#define KARMA_UTF8_H

#include <stddef.h>

/* Bytes of the character that a text begins with, 1 to 4; 0 if there is none, or none that is valid. */
size_t utf8_length(const char *text, size_t length);

#endif
