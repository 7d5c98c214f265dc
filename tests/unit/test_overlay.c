// SPDX-License-Identifier: GPL-2.0-only
/*
 * Overlays: what a guest reads is what it wrote, over a base that nobody changes, in whatever order
 * the host does its part, and what is in the file after any crash.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "../../src/io/overlay.h"
#include "guest.h"

#define SECTOR 512u
#define CLUSTER 4096u
#define CLUSTERS 66u
#define SECTORS (CLUSTERS * 8 - 5) /* the last cluster is not whole */
#define BYTES (SECTORS * SECTOR)
#define DATA_START 8192u /* behind the header and one block of the map */
#define FILE_BYTES (DATA_START + BYTES)

static struct io_ring ring;
static struct disk *disk;
static int base, file;
static uint64_t seed;

/* Every sector is a number of its own, again and again. */
static uint64_t model[SECTORS];
static bool there[CLUSTERS];

static unsigned below(unsigned limit)
{
	return random_next(&seed) % limit;
}

static void fill(uint8_t *sector, uint64_t tag)
{
	for (unsigned i = 0; i < SECTOR; i += sizeof(tag))
		memcpy(sector + i, &tag, sizeof(tag));
}

/* UINT64_MAX for a mixture. */
static uint64_t tag_of(const uint8_t *sector)
{
	uint64_t tag;

	memcpy(&tag, sector, sizeof(tag));
	return memcmp(sector, sector + sizeof(tag), SECTOR - sizeof(tag)) ? UINT64_MAX : tag;
}

static uint64_t base_tag(unsigned sector)
{
	return 1ull << 32 | sector;
}

static int open_files(int base_fd, int fd, bool read_only, struct disk **opened)
{
	struct disk_options options = {
		.path = descriptor_path(base_fd),
		.overlay = descriptor_path(fd),
		.read_only = read_only,
	};

	*opened = NULL;
	return disk_open(opened, &options, &ring);
}

static void open_overlay(void)
{
	ck_assert_int_eq(open_files(base, file, false, &disk), 0);
	ck_assert_uint_eq(disk->size, BYTES);
}

static void setup(void)
{
	uint8_t sector[SECTOR];

	seed = 0x1234567;
	memset(there, 0, sizeof(there));
	base = temporary_file(BYTES);
	file = temporary_file(0);
	for (unsigned i = 0; i < SECTORS; i++) {
		model[i] = base_tag(i);
		fill(sector, model[i]);
		ck_assert_int_eq(pwrite(base, sector, SECTOR, (off_t)i * SECTOR), SECTOR);
	}
	ck_assert_int_eq(io_ring_init(&ring, SIM_RING_ENTRIES), 0);
	open_overlay();
}

static void assert_base_is_unchanged(void)
{
	uint8_t sector[SECTOR];

	for (unsigned i = 0; i < SECTORS; i++) {
		ck_assert_int_eq(pread(base, sector, SECTOR, (off_t)i * SECTOR), SECTOR);
		if (tag_of(sector) != base_tag(i))
			ck_abort_msg("sector %u of the base was changed", i);
	}
}

static void teardown(void)
{
	sim_host = NULL;
	if (disk)
		disk_close(disk);
	assert_base_is_unchanged();
	io_ring_release(&ring);
	close(file);
	close(base);
}

/* A request, with its data in buffers of any sizes. */
struct shot {
	struct disk_request request;
	enum disk_operation operation;
	unsigned sector, count;
	uint64_t tag;
	uint8_t *bytes;
	struct iovec iov[3];
	_Atomic bool done;
	int error;
	unsigned update; /* the crash test's */
};

static void shot_done(struct disk_request *request, int error)
{
	struct shot *shot = container_of(request, struct shot, request);

	shot->error = error;
	shot->done = true;
}

static void load(struct shot *shot)
{
	size_t length = shot->count * SECTOR, first = 1 + random_next(&seed) % (length - 2);
	size_t second = 1 + random_next(&seed) % (length - first - 1);

	shot->bytes = malloc(length);
	ck_assert_ptr_nonnull(shot->bytes);
	for (unsigned i = 0; i < shot->count; i++)
		fill(shot->bytes + i * SECTOR, shot->operation == DISK_WRITE ? shot->tag : 77);
	shot->iov[0] = (struct iovec){ shot->bytes, first };
	shot->iov[1] = (struct iovec){ shot->bytes + first, second };
	shot->iov[2] = (struct iovec){ shot->bytes + first + second, length - first - second };
	shot->request.iov = shot->iov;
	shot->request.iov_count = ARRAY_SIZE(shot->iov);
}

static void fire(struct shot *shot)
{
	shot->done = false;
	shot->request = (struct disk_request){
		.operation = shot->operation,
		.offset = (uint64_t)shot->sector * SECTOR,
		.length = (uint64_t)shot->count * SECTOR,
		.done = shot_done,
	};
	if (shot->operation == DISK_READ || shot->operation == DISK_WRITE)
		load(shot);
	disk_submit(disk, &shot->request);
	ck_assert(!shot->done);
}

static void wait_for(struct shot *shot)
{
	disk_kick(disk);
	while (!shot->done)
		io_ring_reap(&ring, true);
	if (shot->operation == DISK_READ || shot->operation == DISK_WRITE)
		free(shot->bytes);
}

static int serve(enum disk_operation operation, unsigned sector, unsigned count, uint64_t tag)
{
	struct shot shot = { .operation = operation, .sector = sector, .count = count, .tag = tag };

	fire(&shot);
	wait_for(&shot);
	return shot.error;
}

/* All of the disk, by reads of many sectors; the tags that are there. */
static void read_all(struct disk *from, uint64_t *tags)
{
	uint8_t *bytes = malloc(BYTES);
	struct shot shot = { .iov = { { bytes, BYTES } } };

	shot.request = (struct disk_request){ .operation = DISK_READ,
		.iov = shot.iov,
		.iov_count = 1,
		.length = BYTES,
		.done = shot_done };
	ck_assert_ptr_nonnull(bytes);
	disk_submit(from, &shot.request);
	disk_kick(from);
	while (!shot.done)
		io_ring_reap(&ring, true);
	ck_assert_int_eq(shot.error, 0);
	for (unsigned i = 0; i < SECTORS; i++)
		tags[i] = tag_of(bytes + i * SECTOR);
	free(bytes);
}

static void assert_model(void)
{
	static uint64_t tags[SECTORS];

	read_all(disk, tags);
	for (unsigned i = 0; i < SECTORS; i++) {
		if (tags[i] != model[i])
			ck_abort_msg("sector %u is %llx, not %llx", i, (unsigned long long)tags[i],
				(unsigned long long)model[i]);
	}
}

static void reopen(void)
{
	disk_close(disk);
	open_overlay();
}

static void model_write(unsigned sector, unsigned count, uint64_t tag)
{
	for (unsigned i = sector; i < sector + count; i++) {
		model[i] = tag;
		there[i / 8] = true;
	}
}

/* What is not in the file is left alone. */
static void model_discard(unsigned sector, unsigned count)
{
	for (unsigned i = sector; i < sector + count; i++) {
		if (there[i / 8])
			model[i] = 0;
	}
}

START_TEST(writes_go_over_the_base)
{
	assert_model();
	/* Within a cluster, over the border of two, whole ones, and the end of the disk. */
	ck_assert_int_eq(serve(DISK_WRITE, 3, 2, 100), 0);
	model_write(3, 2, 100);
	ck_assert_int_eq(serve(DISK_WRITE, 22, 4, 101), 0);
	model_write(22, 4, 101);
	ck_assert_int_eq(serve(DISK_WRITE, 40, 16, 102), 0);
	model_write(40, 16, 102);
	ck_assert_int_eq(serve(DISK_WRITE, SECTORS - 1, 1, 103), 0);
	model_write(SECTORS - 1, 1, 103);
	assert_model();
	reopen();
	assert_model();
}
END_TEST

START_TEST(zeroes_hide_the_base)
{
	ck_assert_int_eq(serve(DISK_WRITE_ZEROES, 13, 30, 0), 0);
	model_write(13, 30, 0);
	assert_model();
	reopen();
	assert_model();
}
END_TEST

START_TEST(discard_never_brings_back_the_base)
{
	ck_assert_int_eq(serve(DISK_WRITE, 8, 8, 100), 0);
	ck_assert_int_eq(serve(DISK_FLUSH, 0, 0, 0), 0);
	model_write(8, 8, 100);
	/* From within a cluster that is not there, over the one that is, to another. */
	ck_assert_int_eq(serve(DISK_DISCARD, 4, 16, 0), 0);
	model_discard(4, 16);
	ck_assert_uint_eq(model[8], 0);
	ck_assert_uint_eq(model[4], base_tag(4));
	assert_model();
	ck_assert_int_eq(serve(DISK_DISCARD, 100, 50, 0), 0);
	assert_model();
	reopen();
	assert_model();
}
END_TEST

START_TEST(file_is_sparse)
{
	struct stat status;

	ck_assert_int_eq(fstat(file, &status), 0);
	ck_assert_int_eq(status.st_size, FILE_BYTES);
	ck_assert_int_le(status.st_blocks * 512, DATA_START);
	ck_assert_int_eq(serve(DISK_WRITE, 80, 1, 100), 0);
	fsync(file);
	ck_assert_int_eq(fstat(file, &status), 0);
	ck_assert_int_le(status.st_blocks * 512, DATA_START + CLUSTER);
}
END_TEST

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

static bool is_overlay(int fd)
{
	struct stat one, other;

	return fstat(fd, &one) == 0 && fstat(file, &other) == 0 && one.st_ino == other.st_ino;
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

struct update {
	unsigned sector, count;
	uint64_t tag;
	unsigned fired_at, done_at; /* done_at: 0 while under way */
};

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

/* --- Errors. */

static enum host_kind failing;
static int failing_fd_is_overlay, failing_from;

/* Of the overlay's file from some place on. */
static bool fail_some(struct host_call *call)
{
	call->result = -ENOSPC;
	return call->kind == failing && is_overlay(call->fd) == failing_fd_is_overlay &&
	       call->offset >= (uint64_t)failing_from;
}

static void fail_calls(enum host_kind kind, bool of_overlay, uint64_t from)
{
	failing = kind;
	failing_fd_is_overlay = of_overlay;
	failing_from = from;
	sim_host = fail_some;
}

START_TEST(full_file_system_changes_nothing)
{
	fail_calls(HOST_WRITE, true, 0);
	ck_assert_int_eq(serve(DISK_WRITE, 3, 1, 100), -ENOSPC);
	ck_assert_int_eq(serve(DISK_WRITE, 16, 8, 101), -ENOSPC);
	fail_calls(HOST_CLEAR, true, 0);
	ck_assert_int_eq(serve(DISK_WRITE_ZEROES, 32, 8, 0), -ENOSPC);
	sim_host = NULL;
	assert_model();
	/* Others that waited for the one that failed, and what comes later, are served. */
	ck_assert_int_eq(serve(DISK_WRITE, 4, 1, 102), 0);
	model_write(4, 1, 102);
	ck_assert_int_eq(serve(DISK_WRITE, 16, 8, 103), 0);
	model_write(16, 8, 103);
	reopen();
	assert_model();
}
END_TEST

START_TEST(base_that_fails_is_an_error)
{
	fail_calls(HOST_READ, false, 0);
	ck_assert_int_eq(serve(DISK_WRITE, 3, 1, 100), -ENOSPC);
	ck_assert_int_eq(serve(DISK_READ, 0, 8, 0), -ENOSPC);
	/* Nothing is copied. */
	ck_assert_int_eq(serve(DISK_WRITE, 8, 8, 101), 0);
	model_write(8, 8, 101);
	/* The first cluster and the third are the base's. */
	ck_assert_int_eq(serve(DISK_READ, 0, 24, 0), -ENOSPC);
	sim_host = NULL;
	assert_model();
}
END_TEST

START_TEST(changes_of_a_cluster_wait_for_one_that_fails)
{
	struct shot shots[3];

	for (unsigned i = 0; i < ARRAY_SIZE(shots); i++) {
		shots[i] = (struct shot){
			.operation = DISK_WRITE, .sector = i, .count = 1, .tag = 100 + i
		};
	}
	fail_calls(HOST_READ, false, 0);
	fire(&shots[0]);
	sim_host = NULL;
	fire(&shots[1]);
	fire(&shots[2]);
	for (unsigned i = 0; i < ARRAY_SIZE(shots); i++)
		wait_for(&shots[i]);
	ck_assert_int_eq(shots[0].error, -ENOSPC);
	ck_assert_int_eq(shots[1].error, 0);
	ck_assert_int_eq(shots[2].error, 0);
	model_write(1, 1, 101);
	model_write(2, 1, 102);
	assert_model();
}
END_TEST

static bool map_has(unsigned cluster)
{
	uint8_t byte;

	ck_assert_int_eq(pread(file, &byte, 1, 4096 + cluster / 8), 1);
	return byte >> cluster % 8 & 1;
}

START_TEST(marks_that_failed_are_written_by_the_next_flush)
{
	ck_assert_int_eq(serve(DISK_WRITE, 8, 8, 100), 0);
	ck_assert(!map_has(1));
	fail_calls(HOST_WRITE, true, 0);
	ck_assert_int_eq(serve(DISK_FLUSH, 0, 0, 0), -ENOSPC);
	ck_assert(!map_has(1));
	/* The data are not on the disk, so there is no mark. */
	fail_calls(HOST_SYNC, true, 0);
	ck_assert_int_eq(serve(DISK_FLUSH, 0, 0, 0), -ENOSPC);
	ck_assert(!map_has(1));
	sim_host = NULL;
	ck_assert_int_eq(serve(DISK_FLUSH, 0, 0, 0), 0);
	ck_assert(map_has(1));
}
END_TEST

START_TEST(end_writes_what_was_not_flushed)
{
	ck_assert_int_eq(serve(DISK_WRITE, 8, 8, 100), 0);
	model_write(8, 8, 100);
	ck_assert(!map_has(1));
	disk_close(disk);
	ck_assert(map_has(1));
	open_overlay();
	assert_model();
}
END_TEST

/* --- Several threads. */

enum { THREADS = 4, THREAD_SHOTS = 150 };

struct writer {
	pthread_t thread;
	struct io_ring ring;
	unsigned index;
};

/* Sectors of all clusters, but no other's. */
static void *write_own_sectors(void *argument)
{
	struct writer *writer = argument;
	uint64_t random = writer->index + 1;

	io_ring_bind(&writer->ring);
	for (unsigned i = 0; i < THREAD_SHOTS; i++) {
		struct shot shot = { .operation = i % 16 ? DISK_WRITE : DISK_FLUSH, .count = 1 };
		uint8_t bytes[SECTOR];

		shot.sector = random_next(&random) % (SECTORS / THREADS) * THREADS + writer->index;
		shot.tag = 1 + writer->index + i * THREADS;
		fill(bytes, shot.tag);
		shot.iov[0] = (struct iovec){ bytes, SECTOR };
		shot.request = (struct disk_request){ .operation = shot.operation,
			.iov = shot.iov,
			.iov_count = 1,
			.offset = (uint64_t)shot.sector * SECTOR,
			.length = SECTOR,
			.done = shot_done };
		disk_submit(disk, &shot.request);
		disk_kick(disk);
		while (!shot.done)
			io_ring_reap(&writer->ring, false);
		ck_assert_int_eq(shot.error, 0);
		if (shot.operation == DISK_WRITE)
			model[shot.sector] = shot.tag;
	}
	io_ring_unbind(&writer->ring);
	return NULL;
}

static void *run_io_thread(void *unused)
{
	(void)unused;
	io_ring_loop(&ring);
	return NULL;
}

START_TEST(threads_share_clusters)
{
	struct writer writers[THREADS];
	pthread_t io_thread;

	for (unsigned i = 0; i < THREADS; i++) {
		writers[i].index = i;
		ck_assert_int_eq(io_ring_init_thread(&writers[i].ring, &ring, SIM_RING_ENTRIES, NULL), 0);
	}
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_io_thread, NULL), 0);
	for (unsigned i = 0; i < THREADS; i++)
		ck_assert_int_eq(
			pthread_create(&writers[i].thread, NULL, write_own_sectors, &writers[i]),
			0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(writers[i].thread, NULL);
	io_ring_stop(&ring);
	pthread_join(io_thread, NULL);
	for (unsigned i = 0; i < THREADS; i++)
		io_ring_release_thread(&writers[i].ring);
	assert_model();
	reopen();
	assert_model();
}
END_TEST

/* --- What is refused. */

static void assert_refused_file(int overlay, const char *word)
{
	const char *text;

	messages_begin();
	ck_assert_int_lt(open_files(base, overlay, false, &disk), 0);
	text = messages_end();
	ck_assert_msg(strstr(text, word), "the message is: %s", text);
	ck_assert_ptr_null(disk);
}

static void assert_refused(const char *word)
{
	assert_refused_file(file, word);
}

START_TEST(base_that_was_changed_is_refused)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 5 } }, before[2];
	struct stat status;

	disk_close(disk);
	ck_assert_int_eq(fstat(base, &status), 0);
	ck_assert_int_eq(futimens(base, times), 0);
	assert_refused("was changed since");
	before[0] = times[0];
	before[1] = status.st_mtim;
	ck_assert_int_eq(futimens(base, before), 0);
	ck_assert_int_eq(ftruncate(base, BYTES + CLUSTER), 0);
	ck_assert_int_eq(futimens(base, before), 0);
	assert_refused("was made for a base of");
	ck_assert_int_eq(ftruncate(base, BYTES), 0);
	ck_assert_int_eq(futimens(base, before), 0);
	open_overlay();
}
END_TEST

static void put(uint64_t offset, uint8_t byte)
{
	ck_assert_int_eq(pwrite(file, &byte, 1, offset), 1);
}

START_TEST(files_that_are_no_overlay_are_refused)
{
	disk_close(disk);
	put(8, 2);
	assert_refused("is of version 2");
	put(8, 1);
	put(13, 1);
	assert_refused("header is damaged");
	put(13, 0x10);
	put(0, 'k');
	assert_refused("is no overlay");
	put(0, 'K');
	ck_assert_int_eq(ftruncate(file, FILE_BYTES - 1), 0);
	assert_refused("was cut to");
	ck_assert_int_eq(ftruncate(file, 100), 0);
	assert_refused("is no overlay");
	assert_refused_file(socket(AF_UNIX, SOCK_STREAM, 0), "is a socket: give a file, or a name for a new one");
	assert_refused_file(base, "is the disk itself: give another name");
	assert_refused_file(open("/dev/null", O_RDWR), "is a character device");
	ck_assert_int_eq(ftruncate(file, 0), 0);
	open_overlay();
	assert_model();
}
END_TEST

START_TEST(overlay_that_was_not_finished_is)
{
	disk_close(disk);
	/* As a crash leaves it that comes right before the header. */
	ck_assert_int_eq(ftruncate(file, 0), 0);
	ck_assert_int_eq(ftruncate(file, FILE_BYTES), 0);
	open_overlay();
	assert_model();
	ck_assert_int_eq(serve(DISK_WRITE, 0, 1, 100), 0);
	model_write(0, 1, 100);
	disk_close(disk);
	/* A copy that was not finished is none to begin anew. */
	ck_assert_int_eq(ftruncate(file, 4096), 0);
	assert_refused("was cut to");
	model[0] = base_tag(0);
}
END_TEST

/* Runs of all lengths, from and to all places in the words of a map. */
START_TEST(ranges_of_the_map_are_exact)
{
	uint64_t words[4], expected[4];
	uint8_t states[1];
	struct overlay_map map = { .allocated = words, .block_states = states, .blocks = 1 };

	for (unsigned first = 0; first < 256; first += 3) {
		for (unsigned last = first; last < 256; last++) {
			memset(words, 0, sizeof(words));
			memset(expected, 0, sizeof(expected));
			overlay_set_allocated(&map, first, last);
			for (unsigned i = first; i <= last; i++)
				expected[i / 64] |= 1ull << i % 64;
			ck_assert_mem_eq(words, expected, sizeof(words));
			ck_assert_uint_eq(overlay_extent_end(&map, first, 255), last + 1);
			ck_assert_uint_eq(overlay_extent_end(&map, last, last), last + 1);
			ck_assert_uint_eq(
				overlay_extent_end(&map, 0, 255), first ? first : last + 1);
		}
	}
}
END_TEST

START_TEST(overlay_has_one_writer_and_a_base_has_many)
{
	int second = temporary_file(0);
	struct disk *other;

	messages_begin();
	ck_assert_int_eq(open_files(base, file, false, &other), -EBUSY);
	ck_assert_ptr_nonnull(strstr(messages_end(), "in use by another guest"));
	ck_assert_int_eq(open_files(base, second, false, &other), 0);
	disk_close(other);
	close(second);
	/* Nobody writes to a base that is in use. */
	ck_assert_int_eq(
		disk_open(&other, &(struct disk_options){ .path = descriptor_path(base) }, &ring),
		-EBUSY);
}
END_TEST

START_TEST(read_only_overlay_is_not_made)
{
	int empty = temporary_file(0);
	struct disk *other;

	disk_close(disk);
	ck_assert_int_lt(open_files(base, empty, true, &other), 0);
	close(empty);
	ck_assert_int_eq(open_files(base, file, true, &disk), 0);
	ck_assert(disk->read_only);
	assert_model();
}
END_TEST

Suite *overlay_suite(void)
{
	const TTest *const tests[] = {
		writes_go_over_the_base,
		zeroes_hide_the_base,
		discard_never_brings_back_the_base,
		file_is_sparse,
		full_file_system_changes_nothing,
		base_that_fails_is_an_error,
		changes_of_a_cluster_wait_for_one_that_fails,
		marks_that_failed_are_written_by_the_next_flush,
		end_writes_what_was_not_flushed,
		threads_share_clusters,
		base_that_was_changed_is_refused,
		files_that_are_no_overlay_are_refused,
		overlay_that_was_not_finished_is,
		ranges_of_the_map_are_exact,
		overlay_has_one_writer_and_a_base_has_many,
		read_only_overlay_is_not_made,
	};
	TCase *tcase = tcase_create("overlay");
	Suite *suite = suite_create("overlay");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 60);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	tcase_add_loop_test(tcase, random_requests_in_any_order_are_as_in_a_model, 0, 4);
	tcase_add_loop_test(tcase, any_crash_leaves_what_was_flushed, 0, 4);
	suite_add_tcase(suite, tcase);
	return suite;
}
