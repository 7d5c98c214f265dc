// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the state of a guest as a file has it: any bytes, any bytes under sums that are right, and what a writer
 * has written.  What is read lies in the part that is open.
 */
#include <libdeflate.h>
#include <string.h>

#include "karma/snapshot.h"
#include "script.h"

#define PARTS_MAX 64u
#define HEADER_BYTES 20u
#define PART_BYTES 20u	/* without contents */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t state[64 * 1024];

/* Read each part that there may be, in pieces of so many bytes. */
static void read_parts(struct snapshot_reader *reader, size_t piece)
{
	uint8_t bytes[256];

	for (unsigned kind = 1; kind < SNAPSHOT_KINDS; kind++) {
		unsigned count = snapshot_count(reader, kind);

		check(count <= reader->size / PART_BYTES);
		for (unsigned number = 0; number < PARTS_MAX; number++) {
			size_t left;

			if (snapshot_open(reader, kind, number, UINT32_MAX) < 0)
				continue;
			check(count > 0);
			while ((left = snapshot_left(reader)) > 0) {
				snapshot_get(reader, bytes, left < piece ? left : piece);
				check(!reader->failed && reader->at > reader->bytes);
				check(reader->at < reader->bytes + reader->size);
			}
			check(snapshot_get_number(reader) == 0 && reader->failed);
			check(snapshot_close(reader) < 0);
		}
	}
}

static void put_sum(size_t from, size_t to)
{
	uint32_t sum = libdeflate_crc32(0, state + from, to - from);

	memcpy(state + to, &sum, sizeof(sum));
}

/* Behind a header: any bytes, with the sum of each part where there is room for it. */
static size_t make_parts(struct script *script)
{
	static const uint32_t format = SNAPSHOT_FORMAT;
	const uint8_t *contents;
	uint32_t size = HEADER_BYTES + take_bytes(script, sizeof(state) - HEADER_BYTES, &contents), length;

	memcpy(state, "KarmaVM", 8);
	memcpy(state + 8, &format, sizeof(format));
	memcpy(state + 12, &size, sizeof(size));
	put_sum(0, 16);
	memcpy(state + HEADER_BYTES, contents, size - HEADER_BYTES);
	for (size_t at = HEADER_BYTES; size - at >= PART_BYTES; at += PART_BYTES + length) {
		memcpy(&length, state + at + 12, sizeof(length));
		if (length > size - at - PART_BYTES)
			break;
		put_sum(at, at + PART_BYTES - 4 + length);
	}
	return size;
}

static int64_t write_state(struct script *script)
{
	struct snapshot_writer writer;
	const uint8_t *contents;
	size_t length;

	snapshot_writer_init(&writer, state, take(script, 2));
	for (unsigned i = 0; i < PARTS_MAX && !script_over(script); i++) {
		snapshot_begin(&writer, take(script, 1), take(script, 1), take(script, 1));
		snapshot_put_number(&writer, take(script, 8));
		length = take_bytes(script, take(script, 1), &contents);
		snapshot_put(&writer, contents, length);
		snapshot_end(&writer);
	}
	return snapshot_finish(&writer);
}

static void read_state(const uint8_t *bytes, int64_t size, size_t piece)
{
	struct snapshot_reader reader;

	if (size >= 0 && snapshot_reader_init(&reader, bytes, size) == 0)
		read_parts(&reader, piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	size_t piece = 1 + take(&script, 1);
	const struct script contents = script;

	read_state(script.at, script.end - script.at, piece);
	read_state(state, make_parts(&script), piece);
	script = contents;
	read_state(state, write_state(&script), piece);
	return 0;
}
