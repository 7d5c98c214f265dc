/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An overlay and a model of what it has to hold. Each file of tests that includes this has one of
 * its own.
 */
#ifndef KARMA_TESTS_OVERLAY_FIXTURE_H
#define KARMA_TESTS_OVERLAY_FIXTURE_H

#include <string.h>
#include <sys/stat.h>

#include "../../src/io/overlay.h"
#include "guest.h"

/* The parts of the suite. */
void overlay_random_tests(Suite *suite);

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

static inline void fill(uint8_t *sector, uint64_t tag)
{
	for (unsigned i = 0; i < SECTOR; i += sizeof(tag))
		memcpy(sector + i, &tag, sizeof(tag));
}

/* UINT64_MAX for a mixture. */
static inline uint64_t tag_of(const uint8_t *sector)
{
	uint64_t tag;

	memcpy(&tag, sector, sizeof(tag));
	return memcmp(sector, sector + sizeof(tag), SECTOR - sizeof(tag)) ? UINT64_MAX : tag;
}

static inline uint64_t base_tag(unsigned sector)
{
	return 1ull << 32 | sector;
}

static inline int open_files(int base_fd, int fd, bool read_only, struct disk **opened)
{
	struct disk_options options = {
		.path = descriptor_path(base_fd),
		.overlay = descriptor_path(fd),
		.read_only = read_only,
	};

	*opened = NULL;
	return disk_open(opened, &options, &ring);
}

static inline void open_overlay(void)
{
	ck_assert_int_eq(open_files(base, file, false, &disk), 0);
	ck_assert_uint_eq(disk->size, BYTES);
}

static inline void setup(void)
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

static inline void assert_base_is_unchanged(void)
{
	uint8_t sector[SECTOR];

	for (unsigned i = 0; i < SECTORS; i++) {
		ck_assert_int_eq(pread(base, sector, SECTOR, (off_t)i * SECTOR), SECTOR);
		if (tag_of(sector) != base_tag(i))
			ck_abort_msg("sector %u of the base was changed", i);
	}
}

static inline void teardown(void)
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

static inline void shot_done(struct disk_request *request, int error)
{
	struct shot *shot = container_of(request, struct shot, request);

	shot->error = error;
	shot->done = true;
}

static inline void load(struct shot *shot)
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

static inline void fire(struct shot *shot)
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

/* All of the disk, by reads of many sectors; the tags that are there. */
static inline void read_all(struct disk *from, uint64_t *tags)
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

static inline void assert_model(void)
{
	static uint64_t tags[SECTORS];

	read_all(disk, tags);
	for (unsigned i = 0; i < SECTORS; i++) {
		if (tags[i] != model[i])
			ck_abort_msg("sector %u is %llx, not %llx", i, (unsigned long long)tags[i],
				(unsigned long long)model[i]);
	}
}

static inline void reopen(void)
{
	disk_close(disk);
	open_overlay();
}

static inline void model_write(unsigned sector, unsigned count, uint64_t tag)
{
	for (unsigned i = sector; i < sector + count; i++) {
		model[i] = tag;
		there[i / 8] = true;
	}
}

/* What is not in the file is left alone. */
static inline void model_discard(unsigned sector, unsigned count)
{
	for (unsigned i = sector; i < sector + count; i++) {
		if (there[i / 8])
			model[i] = 0;
	}
}

/* --- A host that does its part in any order. */

static inline bool is_overlay(int fd)
{
	struct stat one, other;

	return fstat(fd, &one) == 0 && fstat(file, &other) == 0 && one.st_ino == other.st_ino;
}

/* --- Crashes. */

struct update {
	unsigned sector, count;
	uint64_t tag;
	unsigned fired_at, done_at; /* done_at: 0 while under way */
};

#endif
