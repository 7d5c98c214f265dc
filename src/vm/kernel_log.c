// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finds a Linux kernel's log in guest memory, without symbols: by the form of its ring of text
 * (Linux kernel/printk/printk_ringbuffer.h, from 5.10 on).  A record there is a number and a text, padded
 * to 8 bytes; records follow each other, numbered up from a number that no text looks like, and
 * the first begins with "Linux version".  All of it may be a lie.
 */
#include <string.h>

#include "karma/kernel_log.h"
#include "karma/log.h"
#include "karma/util.h"

#define SEARCH_BYTES GIB
#define RECORD_BYTES 4096u	/* far more than the kernel makes them */

/* Numbers have 62 bits; the first is less than 2^32 by the number of records that the ring has room for. */
#define NUMBER_END (1ull << 62)
#define FIRST_END (1ull << 32)
#define RECORDS_MIN (1ull << 5)
#define RECORDS_MAX (1ull << 20)
/* Records without a text take a number and no place. */
#define EMPTY_MAX 16u

struct record {
	const uint8_t *text;
	size_t length;
};

/* The last ones, each at its number modulo KERNEL_LOG_LINES. */
struct records {
	struct record last[KERNEL_LOG_LINES];
	unsigned count;		/* of all */
	struct record panic;
	unsigned panic_number;	/* of the record */
};

static uint64_t word_at(const uint8_t *at)
{
	uint64_t word;

	memcpy(&word, at, sizeof(word));
	return word;
}

static bool is_first_record(const uint8_t *at)
{
	static const char text[] = "Linux version ";
	uint64_t room = FIRST_END - word_at(at);

	return room >= RECORDS_MIN && room <= RECORDS_MAX && !(room & (room - 1)) &&
		memcmp(at + sizeof(uint64_t), text, sizeof(text) - 1) == 0;
}

static void add_record(struct records *records, const uint8_t *text, size_t length)
{
	static const char panic[] = "Kernel panic";
	const struct record record = { text, length };

	if (length >= sizeof(panic) - 1 && !memcmp(text, panic, sizeof(panic) - 1)) {
		records->panic = record;
		records->panic_number = records->count;
	}
	records->last[records->count++ % KERNEL_LOG_LINES] = record;
}

/* From a first record on; where they end. */
static const uint8_t *follow(const uint8_t *at, const uint8_t *end, struct records *records)
{
	uint64_t number = word_at(at);
	const uint8_t *text = at + sizeof(number);

	*records = (struct records){ .count = 0 };
	for (at = text; at < end && at - text < RECORD_BYTES; at += sizeof(number)) {
		uint64_t next = word_at(at);

		if (next >= NUMBER_END || next - number - 1 >= EMPTY_MAX)
			continue;
		add_record(records, text, at - text);
		number = next;
		text = at + sizeof(number);
	}
	add_record(records, text, at - text);
	return at;
}

/*
 * Linux takes the line's end, and from its front the level, two bytes, away when a text is in the ring already
 * (printk_sprint()): behind what it has moved down, the last two characters stand once more, and the line's end.
 * The length is elsewhere.
 */
static size_t trim(const char *line, size_t length)
{
	if (length && line[length - 1] == '\n')
		length--;
	return length >= 4 && !memcmp(line + length - 2, line + length - 4, 2) ? length - 2 : length;
}

static void print_record(const struct record *record, void (*each)(const char *line))
{
	char line[KERNEL_LOG_LINE_BYTES];
	size_t length = 0;

	while (length < record->length && length < sizeof(line) - 1 && record->text[length]) {
		line[length] = record->text[length];
		length++;
	}
	if (length < sizeof(line) - 1)
		length = trim(line, length);
	make_printable(line, length);
	line[length] = '\0';
	each(line);
}

unsigned kernel_log_search(const struct guest_memory *memory, void (*each)(const char *line))
{
	uint64_t size = memory->low_size < SEARCH_BYTES ? memory->low_size : SEARCH_BYTES;
	const uint8_t *at = guest_memory_at(memory, GPA(0), size), *end = at + size - RECORD_BYTES;
	struct records found, longest = { .count = 0 };
	unsigned first = 0, printed = 0;

	while (at < end) {
		if (!is_first_record(at)) {
			at += sizeof(uint64_t);
			continue;
		}
		/* A kernel that outgrows its ring at its start copies it to a larger one. */
		at = follow(at, end, &found);
		if (found.count > longest.count)
			longest = found;
	}
	if (longest.count > KERNEL_LOG_LINES)
		first = longest.count - KERNEL_LOG_LINES;
	/* Behind it the kernel logs its registers and its stack. */
	if (longest.panic.text && longest.panic_number < first) {
		print_record(&longest.panic, each);
		printed++;
	}
	for (unsigned i = first; i < longest.count; i++, printed++)
		print_record(&longest.last[i % KERNEL_LOG_LINES], each);
	return printed;
}
