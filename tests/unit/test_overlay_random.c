// SPDX-License-Identifier: GPL-2.0-only
/* Random requests on an overlay, with a host that serves them in any order and crashes. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "overlay_fixture.h"

static unsigned below(unsigned limit)
{
	return random_next(&seed) % limit;
}

/* --- A host that does its part in any order. */

enum { HELD_MAX = 256, HELD_IOV = 4, LOG_MAX = 20000 };

struct held {
	struct host_call call;
	struct iovec iov[HELD_IOV];
	unsigned asked_at;
};

/* What was done to the overlay's file, for the crash test; time is counted in events. */
struct event {
	unsigned time;
	enum host_kind kind;
	uint64_t offset, length;
	uint8_t *bytes;    /* NULL: zeroes */
	unsigned asked_at; /* for HOST_SYNC */
};

static struct held held[HELD_MAX];
static unsigned held_count, now;
static struct event *events;
static unsigned event_count;

static bool hold(struct host_call *call)
{
	struct held *entry = &held[held_count];

	/* What ends at once can't be held; it comes again as what can. */
	if (!call->op) {
		call->result = -EINTR;
		return true;
	}
	ck_assert_uint_lt(held_count, HELD_MAX);
	ck_assert_uint_le(call->count, HELD_IOV);
	entry->call = *call;
	entry->asked_at = ++now;
	if (call->iov)
		memcpy(entry->iov, call->iov, call->count * sizeof(entry->iov[0]));
	entry->call.iov = entry->iov;
	held_count++;
	call->op = NULL;
	return true;
}

static void record(const struct held *entry)
{
	const struct host_call *call = &entry->call;
	struct event *event = &events[event_count];

	if (!events || call->kind == HOST_READ || !is_overlay(call->fd))
		return;
	ck_assert_uint_lt(event_count, LOG_MAX);
	*event = (struct event){ .time = now,
		.kind = call->kind,
		.offset = call->offset,
		.length = call->length,
		.asked_at = entry->asked_at };
	if (call->kind == HOST_WRITE) {
		for (unsigned i = 0; i < call->count; i++)
			event->length += call->iov[i].iov_len;
		event->bytes = malloc(event->length);
		iov_read(call->iov, call->count, 0, event->bytes, event->length);
	}
	event_count++;
}

/* All that is complete, and what comes of it. */
static void run_ring(void)
{
	do {
		io_ring_reap(&ring, false);
	} while (io_ring_ready(&ring));
}

/* One of those that are held: done, and told. */
static void release_one(void)
{
	unsigned index = below(held_count);
	struct held entry = held[index];
	struct host_call *call = &entry.call;
	ssize_t result = 0;

	held[index] = held[--held_count];
	held[index].call.iov = held[index].iov;
	call->iov = entry.iov;
	now++;
	record(&entry);
	sim_host = NULL;
	switch (call->kind) {
	case HOST_READ:
		result = preadv(call->fd, call->iov, call->count, call->offset);
		break;
	case HOST_WRITE:
		result = pwritev(call->fd, call->iov, call->count, call->offset);
		break;
	case HOST_SYNC:
		break;
	case HOST_CLEAR:
		result = fallocate(call->fd, call->mode, call->offset, call->length);
		break;
	}
	sim_host = hold;
	io_ring_complete(call->op, result < 0 ? -errno : (int)result);
	run_ring();
}

#define SHOTS 8

static bool overlaps(const struct shot *shots, unsigned count, const struct shot *shot)
{
	bool discard = shot->operation == DISK_DISCARD;

	for (unsigned i = 0; i < count; i++) {
		/* What a discard does depends on whether the cluster is there. */
		unsigned unit = discard || shots[i].operation == DISK_DISCARD ? 8 : 1;

		if (shots[i].operation == DISK_FLUSH || shot->operation == DISK_FLUSH)
			continue;
		if (shots[i].sector / unit <= (shot->sector + shot->count - 1) / unit &&
			shot->sector / unit <= (shots[i].sector + shots[i].count - 1) / unit)
			return true;
	}
	return false;
}

static struct shot random_shot(bool discards)
{
	static uint64_t tag = 1000;
	static const enum disk_operation operations[] = { DISK_WRITE, DISK_WRITE, DISK_WRITE,
		DISK_WRITE, DISK_READ, DISK_READ, DISK_WRITE_ZEROES, DISK_FLUSH, DISK_DISCARD };
	struct shot shot = {
		.operation = operations[below(ARRAY_SIZE(operations) - !discards)],
		.sector = below(SECTORS),
		.tag = ++tag,
	};
	/* Near each other, so that they meet. */
	if (below(2))
		shot.sector %= 40;
	shot.count = 1 + below(below(3) ? 8 : 30);
	if (shot.count > SECTORS - shot.sector)
		shot.count = SECTORS - shot.sector;
	if (shot.operation == DISK_WRITE_ZEROES)
		shot.tag = 0;
	if (shot.operation == DISK_FLUSH)
		shot.sector = shot.count = 0;
	return shot;
}

/* Some requests at once, none of them for a sector of another; then what they did. */
static unsigned fire_some(struct shot *shots, bool discards)
{
	unsigned count = 0;

	for (unsigned i = 0; i < SHOTS; i++) {
		shots[count] = random_shot(discards);
		if (!overlaps(shots, count, &shots[count]))
			count++;
	}
	return count;
}

static void check_read(const struct shot *shot)
{
	for (unsigned i = 0; i < shot->count; i++)
		ck_assert_uint_eq(tag_of(shot->bytes + i * SECTOR), model[shot->sector + i]);
}

static void settle(struct shot *shots, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct shot *shot = &shots[i];

		ck_assert_int_eq(shot->error, 0);
		if (shot->operation == DISK_READ)
			check_read(shot);
		if (shot->operation == DISK_READ || shot->operation == DISK_WRITE)
			free(shot->bytes);
	}
	for (unsigned i = 0; i < count; i++) {
		const struct shot *shot = &shots[i];

		if (shot->operation == DISK_WRITE || shot->operation == DISK_WRITE_ZEROES)
			model_write(shot->sector, shot->count, shot->tag);
		else if (shot->operation == DISK_DISCARD)
			model_discard(shot->sector, shot->count);
	}
}

START_TEST(random_requests_in_any_order_are_as_in_a_model)
{
	struct shot shots[SHOTS];

	seed += _i;
	for (unsigned round = 0; round < 150; round++) {
		unsigned count;

		sim_host = hold;
		count = fire_some(shots, true);
		for (unsigned i = 0; i < count; i++)
			fire(&shots[i]);
		run_ring();
		while (held_count)
			release_one();
		for (unsigned i = 0; i < count; i++)
			ck_assert(shots[i].done);
		settle(shots, count);
		sim_host = NULL;
		if (round % 10 == 0) {
			assert_model();
			reopen();
			assert_model();
		}
	}
}
END_TEST

/* --- Crashes. */

static struct update *updates, *flushes;
static unsigned update_count, flush_count;

static bool is_update(const struct shot *shot)
{
	return shot->operation == DISK_WRITE || shot->operation == DISK_WRITE_ZEROES;
}

static void note_fired(struct shot *shot)
{
	struct update update = { shot->sector, shot->count, shot->tag, ++now, 0 };

	if (is_update(shot)) {
		shot->update = update_count;
		updates[update_count++] = update;
	} else if (shot->operation == DISK_FLUSH) {
		shot->update = flush_count;
		flushes[flush_count++] = update;
	}
}

static void note_done(struct shot *shots, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct update *list = is_update(&shots[i]) ? updates : flushes;

		if (!shots[i].done || shots[i].operation == DISK_READ)
			continue;
		if (!list[shots[i].update].done_at)
			list[shots[i].update].done_at = ++now;
	}
}

/*
 * What a crash at that time leaves: all that was done before a sync which is done; of the rest all,
 * as when the monitor is killed, or some sectors, as when the power fails.
 */
static void make_crashed(int fd, const uint8_t *first, unsigned time, bool power)
{
	uint8_t *image = malloc(FILE_BYTES);
	unsigned durable = 0;

	memcpy(image, first, FILE_BYTES);
	for (unsigned i = 0; i < event_count && events[i].time <= time; i++) {
		if (events[i].kind == HOST_SYNC && events[i].asked_at > durable)
			durable = events[i].asked_at;
	}
	for (unsigned i = 0; i < event_count && events[i].time <= time; i++) {
		const struct event *event = &events[i];

		for (uint64_t at = 0; event->kind != HOST_SYNC && at < event->length;) {
			uint64_t place = event->offset + at, part = SECTOR - place % SECTOR;

			if (part > event->length - at)
				part = event->length - at;
			if (event->time >= durable && power && below(2)) {
				at += part;
				continue;
			}
			if (event->bytes)
				memcpy(image + place, event->bytes + at, part);
			else
				memset(image + place, 0, part);
			at += part;
		}
	}
	ck_assert_int_eq(pwrite(fd, image, FILE_BYTES, 0), FILE_BYTES);
	free(image);
}

/* When the last flush that is done by then was asked for. */
static unsigned flushed_by(unsigned time)
{
	unsigned flushed = 0;

	for (unsigned i = 0; i < flush_count; i++) {
		if (flushes[i].done_at && flushes[i].done_at <= time &&
			flushes[i].fired_at > flushed)
			flushed = flushes[i].fired_at;
	}
	return flushed;
}

/* What was there at the last flush, or anything that was written since. */
static bool may_be(unsigned sector, uint64_t tag, unsigned time)
{
	unsigned flushed = flushed_by(time);
	bool allowed = tag == base_tag(sector);

	for (unsigned i = 0; i < update_count && updates[i].fired_at <= time; i++) {
		const struct update *update = &updates[i];

		if (sector < update->sector || sector >= update->sector + update->count)
			continue;
		if (update->done_at && update->done_at <= flushed)
			allowed = tag == update->tag;
		else
			allowed = allowed || tag == update->tag;
	}
	return allowed;
}

static void check_crash(const uint8_t *first, unsigned time, bool power)
{
	static uint64_t tags[SECTORS];
	int crashed = memfd_create("crashed", MFD_CLOEXEC);
	struct disk *opened;

	ck_assert_int_eq(ftruncate(crashed, FILE_BYTES), 0);
	make_crashed(crashed, first, time, power);
	ck_assert_int_eq(open_files(base, crashed, true, &opened), 0);
	read_all(opened, tags);
	disk_close(opened);
	close(crashed);
	for (unsigned i = 0; i < SECTORS; i++) {
		if (!may_be(i, tags[i], time))
			ck_abort_msg("sector %u is %llx after a crash at %u", i,
				(unsigned long long)tags[i], time);
	}
}

static void run_until_crashed(unsigned rounds)
{
	struct shot shots[SHOTS];

	sim_host = hold;
	for (unsigned round = 0; round < rounds; round++) {
		unsigned count = fire_some(shots, false);

		for (unsigned i = 0; i < count; i++) {
			note_fired(&shots[i]);
			fire(&shots[i]);
		}
		run_ring();
		while (held_count) {
			release_one();
			note_done(shots, count);
		}
		note_done(shots, count);
		settle(shots, count);
	}
	sim_host = NULL;
}

START_TEST(any_crash_leaves_what_was_flushed)
{
	uint8_t *first = malloc(FILE_BYTES);

	seed += 1000 * _i + 7;
	events = calloc(LOG_MAX, sizeof(*events));
	updates = calloc(LOG_MAX, sizeof(*updates));
	flushes = calloc(LOG_MAX, sizeof(*flushes));
	event_count = update_count = flush_count = now = 0;
	ck_assert_int_eq(pread(file, first, FILE_BYTES, 0), FILE_BYTES);
	run_until_crashed(40);
	ck_assert_uint_gt(flush_count, 10);
	for (unsigned i = 0; i < event_count; i++)
		check_crash(first, events[i].time, i % 4);
	for (unsigned i = 0; i < event_count; i++)
		free(events[i].bytes);
	free(first);
	free(events);
	events = NULL;
	free(updates);
	free(flushes);
}
END_TEST

void overlay_random_tests(Suite *suite)
{
	TCase *tcase_case;

	tcase_case = add_case(suite, "overlay", setup, teardown, 60, NULL, 0);
	tcase_add_loop_test(tcase_case, random_requests_in_any_order_are_as_in_a_model, 0, 4);
	tcase_add_loop_test(tcase_case, any_crash_leaves_what_was_flushed, 0, 4);
}
