// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the search for a kernel's log in guest memory, which changes meanwhile if the first byte says so:
 * what is found there is lines of printable ASCII, of the length and number that are promised.
 *
 * The other bytes are steps: they write first records, those that follow, and anything else.
 */
#include <string.h>

#include "guest.h"
#include "karma/kernel_log.h"
#include "karma/util.h"

#define LOG_MEMORY (64 * KIB)
#define STEPS_MAX 200u

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t at, number;
static unsigned lines;

static void check_line(const char *line)
{
	check(strlen(line) < KERNEL_LOG_LINE_BYTES);
	for (const char *byte = line; *byte; byte++)
		check(*byte >= ' ' && *byte <= '~');
	lines++;
}

static void store(const void *bytes, size_t count)
{
	const uint8_t *from = bytes;

	for (size_t i = 0; i < count; i++)
		memory_store(at + i, from[i]);
	at += count;
}

/* As it is found: by a number that leaves room for so many records, and its text. */
static void write_first_record(struct script *script)
{
	static const char text[] = "Linux version ";

	at = take(script, 2) % (LOG_MEMORY / 8) * 8;
	number = (1ull << 32) - (1ull << take(script, 1) % 24);
	store(&number, sizeof(number));
	store(text, sizeof(text) - 1);
}

static void write_record(struct script *script)
{
	const uint8_t *text;
	size_t length;

	at = (at + 7) & ~7ull;
	number += take(script, 1) % 20;
	store(&number, sizeof(number));
	length = take_bytes(script, take(script, 1), &text);
	store(text, length);
}

static void write_panic(void)
{
	static const char text[] = "Kernel panic - not syncing: ";

	at = (at + 7) & ~7ull;
	number++;
	store(&number, sizeof(number));
	store(text, sizeof(text) - 1);
}

/* Up to the end of memory; nobody changes it meanwhile. */
static void fill(uint8_t first, size_t length)
{
	size_t room = at < LOG_MEMORY ? LOG_MEMORY - at : 0, count = length < room ? length : room;
	uint8_t *text = memory_at(at, count);

	for (size_t i = 0; i < count; i++)
		text[i] = first + i;
	at += count;
}

/* More of them than are told, or longer than any is. */
static void write_many_records(struct script *script)
{
	unsigned count = take(script, 1), length = take(script, 2) % 8192;

	for (unsigned i = 0; i < count && at < LOG_MEMORY; i++) {
		at = (at + 7) & ~7ull;
		number++;
		store(&number, sizeof(number));
		fill(i, length);
	}
}

static void do_step(struct script *script)
{
	const uint8_t *bytes;
	size_t count;

	switch (take(script, 1) % 6) {
	case 0:
		write_first_record(script);
		break;
	case 1:
		write_record(script);
		break;
	case 2:
		write_many_records(script);
		break;
	case 3:
		at = take(script, 2);
		break;
	case 4:
		write_panic();
		break;
	default:
		count = take_bytes(script, take(script, 1), &bytes);
		store(bytes, count);
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	memory_make(LOG_MEMORY);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	uint8_t kind = take(&script, 1);
	unsigned told;

	at = number = lines = 0;
	for (unsigned i = 0; i < STEPS_MAX && !script_over(&script); i++)
		do_step(&script);
	meddling_start(kind, 4096);
	told = kernel_log_search(&memory, check_line);
	meddling_stop();
	/* One more, if that is of a panic. */
	check(told == lines && told <= KERNEL_LOG_LINES + 1);
	memory_clear();
	return 0;
}
