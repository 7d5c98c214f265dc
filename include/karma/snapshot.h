/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The state of a guest as bytes, without its memory: the file `state` of a snapshot, karma-snapshot(5).
 *
 * It is a header and a sequence of parts.  A part has a kind, a number among those of its kind, a version, and
 * contents, all little endian, and a sum over all of it.  What reads it takes it for hostile: it may come from
 * anybody, or from a guest that had broken out of its monitor's sandbox.
 *
 * A writer and a reader belong to one thread.  Neither allocates memory: the guest's process can't, once its
 * sandbox is closed.
 */
#ifndef KARMA_SNAPSHOT_H
#define KARMA_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SNAPSHOT_FORMAT 1u	/* of the file; one that is newer is refused */
/* At most: 64 vCPUs with all that KVM tells of them, and 64 devices. */
#define SNAPSHOT_STATE_MAX (4u * 1024 * 1024)

/* Numbers never change and are never used again. */
enum snapshot_kind {
	SNAPSHOT_VM = 1,	/* clocks; number 0 */
	SNAPSHOT_VCPU = 2,	/* number: the vCPU's */
	SNAPSHOT_MACHINE = 3,	/* events and their interrupt; number 0 */
	SNAPSHOT_DEVICE = 4,	/* transport and queues; number: the device's */
	SNAPSHOT_DEVICE_OWN = 5,	/* what the device itself saves; number: the device's */
	SNAPSHOT_KINDS
};

struct snapshot_writer {
	uint8_t *bytes;		/* the caller's */
	size_t room, used;
	size_t part;		/* where the part that is open begins; 0: none is */
	bool full;
};

void snapshot_writer_init(struct snapshot_writer *writer, void *bytes, size_t room);
/* Begin and end a part; parts are not nested. */
void snapshot_begin(struct snapshot_writer *writer, enum snapshot_kind kind, uint32_t number, uint32_t version);
void snapshot_put(struct snapshot_writer *writer, const void *from, size_t length);
void snapshot_put_number(struct snapshot_writer *writer, uint64_t number);
void snapshot_end(struct snapshot_writer *writer);
/* Complete the header.  How many bytes there are, or -ENOSPC. */
int64_t snapshot_finish(struct snapshot_writer *writer);

struct snapshot_reader {
	const uint8_t *bytes;	/* the caller's, which nobody else changes meanwhile */
	size_t size;
	const uint8_t *at, *end;	/* of the part that is open; NULL: none is */
	uint32_t kind, number;		/* of that part */
	bool failed;		/* more was read from it than it has */
};

/* Check the header, the sums, and the borders of all parts.  0, or -EINVAL with a message printed. */
int snapshot_reader_init(struct snapshot_reader *reader, const void *bytes, size_t size);
/* How many parts of a kind there are. */
unsigned snapshot_count(const struct snapshot_reader *reader, enum snapshot_kind kind);
/*
 * Open the part of that kind and number, in any order.  Its version, from 1 to version_max; or -EINVAL with a
 * message printed, if it is missing or newer.
 */
int snapshot_open(struct snapshot_reader *reader, enum snapshot_kind kind, uint32_t number, uint32_t version_max);
/* Zeroes, and `failed`, beyond the end of the part. */
void snapshot_get(struct snapshot_reader *reader, void *to, size_t length);
uint64_t snapshot_get_number(struct snapshot_reader *reader);
/* How much of the open part is left. */
size_t snapshot_left(const struct snapshot_reader *reader);
/* 0 if the part was read as a whole and no more; else -EINVAL with a message printed. */
int snapshot_close(struct snapshot_reader *reader);

#endif
