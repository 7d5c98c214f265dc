// SPDX-License-Identifier: GPL-2.0-only
/* UTF-8: the length of a character. */
#include <stdint.h>

#include "karma/utf8.h"
#include "karma/util.h"

/* By the range of the first byte: the range of the second, and the length (RFC 3629, section 4). */
static const struct {
	uint8_t first, last, second_first, second_last, length;
} forms[] = {
	{ 0x00, 0x7f, 0, 0, 1 },
	{ 0xc2, 0xdf, 0x80, 0xbf, 2 },
	{ 0xe0, 0xe0, 0xa0, 0xbf, 3 },
	{ 0xe1, 0xec, 0x80, 0xbf, 3 },
	{ 0xed, 0xed, 0x80, 0x9f, 3 },
	{ 0xee, 0xef, 0x80, 0xbf, 3 },
	{ 0xf0, 0xf0, 0x90, 0xbf, 4 },
	{ 0xf1, 0xf3, 0x80, 0xbf, 4 },
	{ 0xf4, 0xf4, 0x80, 0x8f, 4 },
};

size_t utf8_length(const char *text, size_t length)
{
	const uint8_t *bytes = (const uint8_t *)text;

	for (size_t i = 0; i < ARRAY_SIZE(forms) && length; i++) {
		if (bytes[0] < forms[i].first || bytes[0] > forms[i].last)
			continue;
		if (length < forms[i].length)
			return 0;
		for (size_t at = 1; at < forms[i].length; at++) {
			uint8_t least = at == 1 ? forms[i].second_first : 0x80;
			uint8_t most = at == 1 ? forms[i].second_last : 0xbf;

			if (bytes[at] < least || bytes[at] > most)
				return 0;
		}
		return forms[i].length;
	}
	return 0;
}
