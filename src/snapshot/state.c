// SPDX-License-Identifier: GPL-2.0-only
/* The state of a guest as bytes: a header, and parts with a sum each. */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <libdeflate.h>
#include <string.h>

#include "karma/log.h"
#include "karma/snapshot.h"
#include "karma/util.h"

/* karma-snapshot(5).  Numbers are little endian, sums CRC-32 (ITU-T V.42), nothing is aligned. */
static const char magic[8] = "KarmaVM";

struct header {
	char magic[8];
	uint32_t format, bytes;	/* of the whole file */
	uint32_t sum;		/* of what precedes it */
};

/* Before a part's contents; behind them is the sum of both. */
struct part {
	uint32_t kind, number, version, length;
};

#define PART_BYTES (sizeof(struct part) + sizeof(uint32_t))

static const char *const kind_names[SNAPSHOT_KINDS] = {
	[SNAPSHOT_VM] = "VM",
	[SNAPSHOT_VCPU] = "vCPU",
	[SNAPSHOT_MACHINE] = "machine",
	[SNAPSHOT_DEVICE] = "device",
	[SNAPSHOT_DEVICE_OWN] = "contents of device",
};

static uint32_t sum_of(const void *bytes, size_t length)
{
	return htole32(libdeflate_crc32(0, bytes, length));
}

static void append(struct snapshot_writer *writer, const void *from, size_t length)
{
	if (writer->full || length > writer->room - writer->used) {
		writer->full = true;
		return;
	}
	memcpy(writer->bytes + writer->used, from, length);
	writer->used += length;
}

void snapshot_writer_init(struct snapshot_writer *writer, void *bytes, size_t room)
{
	const struct header header = { 0 };

	*writer = (struct snapshot_writer){
		.bytes = bytes,
		.room = room < SNAPSHOT_STATE_MAX ? room : SNAPSHOT_STATE_MAX,
	};
	/* It is filled in at the end. */
	append(writer, &header, sizeof(header));
}

void snapshot_begin(struct snapshot_writer *writer, enum snapshot_kind kind, uint32_t number, uint32_t version)
{
	const struct part part = { htole32(kind), htole32(number), htole32(version), 0 };

	writer->part = writer->used;
	append(writer, &part, sizeof(part));
}

void snapshot_put(struct snapshot_writer *writer, const void *from, size_t length)
{
	append(writer, from, length);
}

void snapshot_put_number(struct snapshot_writer *writer, uint64_t number)
{
	number = htole64(number);
	append(writer, &number, sizeof(number));
}

void snapshot_end(struct snapshot_writer *writer)
{
	uint8_t *part = writer->bytes + writer->part;
	uint32_t length, sum;

	if (!writer->full) {
		length = htole32(writer->used - writer->part - sizeof(struct part));
		memcpy(part + offsetof(struct part, length), &length, sizeof(length));
		sum = sum_of(part, writer->used - writer->part);
		append(writer, &sum, sizeof(sum));
	}
	writer->part = 0;
}

int64_t snapshot_finish(struct snapshot_writer *writer)
{
	struct header header = { .format = htole32(SNAPSHOT_FORMAT), .bytes = htole32(writer->used) };

	if (writer->full)
		return -ENOSPC;
	memcpy(header.magic, magic, sizeof(magic));
	header.sum = sum_of(&header, offsetof(struct header, sum));
	memcpy(writer->bytes, &header, sizeof(header));
	return writer->used;
}

static int check_header(const uint8_t *bytes, size_t size)
{
	struct header header;

	if (size < sizeof(header) || memcmp(bytes, magic, sizeof(magic)) != 0)
		return fail(-EINVAL, "snapshot: state: is not the state of a guest: give the directory that "
				     "`karma snapshot` has made");
	memcpy(&header, bytes, sizeof(header));
	if (le32toh(header.format) > SNAPSHOT_FORMAT)
		return fail(-EINVAL,
			"snapshot: state: has format %" PRIu32 ", and this Karma knows %u: restore it with "
			"the Karma that has made it, or a newer one",
			le32toh(header.format), SNAPSHOT_FORMAT);
	if (header.sum != sum_of(&header, offsetof(struct header, sum)) || header.format == 0)
		return fail(-EINVAL, "snapshot: state: its header is damaged: make the snapshot anew");
	if (le32toh(header.bytes) != size || size > SNAPSHOT_STATE_MAX)
		return fail(-EINVAL,
			"snapshot: state: has %zu bytes, where its header says %" PRIu32 ", and %u are the most: "
			"make the snapshot anew",
			size, le32toh(header.bytes), SNAPSHOT_STATE_MAX);
	return 0;
}

/* The part at `at`, in the order of the host; its contents follow.  False if it doesn't fit in there. */
static bool part_at(const struct snapshot_reader *reader, size_t at, struct part *part)
{
	size_t left = reader->size - at;

	if (left < PART_BYTES)
		return false;
	memcpy(part, reader->bytes + at, sizeof(*part));
	*part = (struct part){ le32toh(part->kind), le32toh(part->number), le32toh(part->version),
		le32toh(part->length) };
	return part->length <= left - PART_BYTES;
}

/* Where the next part is. */
static size_t behind(size_t at, const struct part *part)
{
	return at + PART_BYTES + part->length;
}

static bool sum_is_right(const struct snapshot_reader *reader, size_t at, const struct part *part)
{
	size_t length = sizeof(*part) + part->length;
	uint32_t sum;

	memcpy(&sum, reader->bytes + at + length, sizeof(sum));
	return sum == sum_of(reader->bytes + at, length);
}

int snapshot_reader_init(struct snapshot_reader *reader, const void *bytes, size_t size)
{
	struct part part;
	int result = check_header(bytes, size);

	*reader = (struct snapshot_reader){ .bytes = bytes, .size = size };
	if (result < 0)
		return result;
	for (size_t at = sizeof(struct header); at < size; at = behind(at, &part)) {
		if (!part_at(reader, at, &part) || !sum_is_right(reader, at, &part))
			return fail(-EINVAL, "snapshot: state: the part at byte %zu is damaged: make the snapshot anew",
				at);
		if (part.kind == 0 || part.kind >= SNAPSHOT_KINDS || part.version == 0)
			return fail(-EINVAL,
				"snapshot: state: has a part of kind %" PRIu32 ", version %" PRIu32
				", which this Karma does not know: restore it with the Karma that has made it",
				part.kind, part.version);
	}
	return 0;
}

unsigned snapshot_count(const struct snapshot_reader *reader, enum snapshot_kind kind)
{
	struct part part;
	unsigned count = 0;

	for (size_t at = sizeof(struct header); at < reader->size && part_at(reader, at, &part); at = behind(at, &part))
		count += part.kind == kind;
	return count;
}

int snapshot_open(struct snapshot_reader *reader, enum snapshot_kind kind, uint32_t number, uint32_t version_max)
{
	struct part part;
	size_t at = sizeof(struct header);

	while (at < reader->size && part_at(reader, at, &part) && (part.kind != kind || part.number != number))
		at = behind(at, &part);
	if (at >= reader->size)
		return fail(-EINVAL, "snapshot: state: has no %s %" PRIu32 ": make the snapshot anew", kind_names[kind],
			number);
	if (part.version > version_max)
		return fail(-EINVAL,
			"snapshot: state: %s %" PRIu32 " has version %" PRIu32 ", and this Karma knows %" PRIu32
			": restore it with the Karma that has made it, or a newer one",
			kind_names[kind], number, part.version, version_max);
	reader->at = reader->bytes + at + sizeof(part);
	reader->end = reader->at + part.length;
	reader->kind = kind;
	reader->number = number;
	reader->failed = false;
	return part.version;
}

void snapshot_get(struct snapshot_reader *reader, void *to, size_t length)
{
	if (length > snapshot_left(reader)) {
		reader->failed = true;
		reader->at = reader->end;
		memset(to, 0, length);
		return;
	}
	memcpy(to, reader->at, length);
	reader->at += length;
}

uint64_t snapshot_get_number(struct snapshot_reader *reader)
{
	uint64_t number;

	snapshot_get(reader, &number, sizeof(number));
	return le64toh(number);
}

size_t snapshot_left(const struct snapshot_reader *reader)
{
	return reader->end - reader->at;
}

int snapshot_close(struct snapshot_reader *reader)
{
	bool whole = !reader->failed && snapshot_left(reader) == 0;

	reader->at = reader->end = NULL;
	if (whole)
		return 0;
	return fail(-EINVAL, "snapshot: state: %s %" PRIu32 " has not the length that it should have: make the snapshot anew",
		kind_names[reader->kind], reader->number);
}
