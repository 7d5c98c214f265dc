// SPDX-License-Identifier: GPL-2.0-only
/* Sizes in bytes, from text and back. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "karma/size.h"
#include "karma/util.h"

static unsigned size_shift(const char *suffix)
{
	switch (suffix[0]) {
	case '\0':
	case 'm':
	case 'M':
		return 20;
	case 'k':
	case 'K':
		return 10;
	case 'g':
	case 'G':
		return 30;
	case 't':
	case 'T':
		return 40;
	default:
		return 0;
	}
}

bool split_size(const char *text, unsigned long long *value, unsigned *shift)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	*shift = size_shift(end);
	return text[0] >= '0' && text[0] <= '9' && !errno && *shift && !(end[0] && end[1]);
}

bool parse_size(const char *text, uint64_t *bytes)
{
	unsigned long long value;
	unsigned shift;

	if (!split_size(text, &value, &shift) || value > UINT64_MAX >> shift)
		return false;
	*bytes = value << shift;
	return true;
}

void format_size(char *text, size_t size, uint64_t bytes)
{
	static const char suffixes[] = "KMGT";
	unsigned suffix = 0;

	bytes /= KIB;
	while (bytes && bytes % KIB == 0 && suffixes[suffix + 1]) {
		bytes /= KIB;
		suffix++;
	}
	snprintf(text, size, "%" PRIu64 "%c", bytes, suffixes[suffix]);
}
