// SPDX-License-Identifier: GPL-2.0-only
/* Disks with O_DIRECT on files whose blocks are larger than a sector. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "guest.h"

#define SECTOR 512u
#define BLOCK 4096u
#define SECTORS (40 * 8 + 3)	/* the last block is not whole */
#define BYTES (SECTORS * SECTOR)

static struct io_ring ring;
static struct disk *disk;
static int file;
static uint64_t seed;
static unsigned directs, others;
static uint8_t model[BYTES];
static uint8_t area[BYTES + BLOCK] __attribute__((aligned(BLOCK)));

/* As a device with such blocks does: no other operation gets to it by O_DIRECT. */
static bool check_alignment(struct host_call *call)
{
	if (call->kind != HOST_READ && call->kind != HOST_WRITE)
		return false;
	if (!(fcntl(call->fd, F_GETFL) & O_DIRECT)) {
		others++;
		return false;
	}
	directs++;
	ck_assert_uint_eq(call->offset % BLOCK, 0);
	for (unsigned i = 0; i < call->count; i++) {
		ck_assert_uint_eq(call->iov[i].iov_len % BLOCK, 0);
		ck_assert_uint_eq((uintptr_t)call->iov[i].iov_base % BLOCK, 0);
	}
	return false;
}

/* False where the file system has no O_DIRECT. */
static bool open_direct(void)
{
	struct disk_options options = { .path = descriptor_path(file), .direct = true };

	if (disk_open(&disk, &options, &ring) < 0) {
		disk = NULL;
		printf("skipped: a disk with O_DIRECT: the file system has none\n");
		return false;
	}
	sim_host = check_alignment;
	return true;
}

static void setup(void)
{
	seed = 99;
	sim_direct_unit = BLOCK;
	file = temporary_file(BYTES);
	for (unsigned i = 0; i < BYTES; i++)
		model[i] = i / SECTOR + i * 7;
	ck_assert_int_eq(pwrite(file, model, BYTES, 0), BYTES);
	ck_assert_int_eq(io_ring_init(&ring, SIM_RING_ENTRIES), 0);
}

static void teardown(void)
{
	sim_host = NULL;
	if (disk)
		disk_close(disk);
	io_ring_release(&ring);
	close(file);
}

struct shot {
	struct disk_request request;
	struct iovec iov[2];
	bool done;
	int error;
};

static void shot_done(struct disk_request *request, int error)
{
	struct shot *shot = container_of(request, struct shot, request);

	shot->done = true;
	shot->error = error;
}

/* In two buffers if it is more than a sector. */
static void fire(struct shot *shot, enum disk_operation operation, unsigned sector, unsigned count,
	uint8_t *bytes)
{
	unsigned first = count > 1 ? count / 2 * SECTOR : SECTOR;

	*shot = (struct shot){
		.iov = { { bytes, first }, { bytes + first, count * SECTOR - first } },
		.request = { .operation = operation,
			.iov = shot->iov,
			.iov_count = count > 1 ? 2 : 1,
			.offset = sector * SECTOR,
			.length = count * SECTOR,
			.done = shot_done },
	};
	disk_submit(disk, &shot->request);
	disk_kick(disk);
}

static void wait_for(const struct shot *shot)
{
	while (!shot->done)
		io_ring_reap(&ring, true);
	ck_assert_int_eq(shot->error, 0);
}

static void serve(enum disk_operation operation, unsigned sector, unsigned count, uint8_t *bytes)
{
	struct shot shot;

	fire(&shot, operation, sector, count, bytes);
	wait_for(&shot);
}

START_TEST(guest_has_sectors_and_is_told_of_blocks)
{
	if (!open_direct())
		return;
	ck_assert_uint_eq(disk->block_size, SECTOR);
	ck_assert_uint_eq(disk->physical_block_size, BLOCK);
	ck_assert_uint_eq(disk->size, BYTES);
}
END_TEST

START_TEST(any_sectors_are_read_and_written)
{
	if (!open_direct())
		return;
	for (unsigned round = 0; round < 400; round++) {
		unsigned unit = random_next(&seed) % 2 ? 8 : 1;
		unsigned sector = random_next(&seed) % (SECTORS / unit) * unit;
		unsigned count = 1 + random_next(&seed) % 32 / unit * unit + (unit > 1 ? 15 : 0);
		uint8_t *bytes = area + random_next(&seed) % 2 * SECTOR;

		if (count > SECTORS - sector)
			count = SECTORS - sector;
		if (random_next(&seed) % 2) {
			serve(DISK_READ, sector, count, bytes);
			ck_assert_mem_eq(bytes, model + sector * SECTOR, count * SECTOR);
			continue;
		}
		memset(bytes, round, count * SECTOR);
		memcpy(model + sector * SECTOR, bytes, count * SECTOR);
		serve(DISK_WRITE, sector, count, bytes);
	}
	serve(DISK_FLUSH, 0, 0, area);
	ck_assert_uint_gt(directs, 20);
	ck_assert_uint_gt(others, 20);
	ck_assert_int_eq(pread(file, area, BYTES, 0), BYTES);
	ck_assert_mem_eq(area, model, BYTES);
}
END_TEST

/* --- A host that is slow. */

static struct host_call held[8];
static unsigned held_count;

static bool hold(struct host_call *call)
{
	ck_assert_uint_lt(held_count, ARRAY_SIZE(held));
	held[held_count++] = *call;
	call->op = NULL;
	return true;
}

static void release(unsigned index, int result)
{
	io_ring_complete(held[index].op, result);
	io_ring_reap(&ring, false);
}

START_TEST(writes_with_a_block_in_common_wait_for_each_other)
{
	struct shot shots[5];

	if (!open_direct())
		return;
	sim_host = hold;
	fire(&shots[0], DISK_WRITE, 8, 16, area);
	/* Within it, over its end, behind that, and elsewhere. */
	fire(&shots[1], DISK_WRITE, 11, 1, area);
	fire(&shots[2], DISK_WRITE, 20, 8, area);
	fire(&shots[3], DISK_DISCARD, 24, 8, area);
	fire(&shots[4], DISK_WRITE, 33, 1, area);
	ck_assert_uint_eq(held_count, 2);
	ck_assert_uint_eq(held[1].offset, 33 * SECTOR);
	release(0, 16 * SECTOR);
	ck_assert(shots[0].done);
	/* The discard came behind the one over the end. */
	ck_assert_uint_eq(held_count, 4);
	ck_assert_uint_eq(held[2].offset + held[3].offset, (11 + 20) * SECTOR);
	/* One that fails lets the others go on, too. */
	release(held[2].offset == 20 * SECTOR ? 2 : 3, -EIO);
	ck_assert(shots[2].done && shots[2].error == -EIO && !shots[1].done);
	ck_assert_uint_eq(held_count, 5);
	ck_assert_int_eq(held[4].kind, HOST_CLEAR);
	release(4, 0);
	release(held[2].offset == 20 * SECTOR ? 3 : 2, SECTOR);
	release(1, SECTOR);
	ck_assert(shots[1].done && shots[3].done && shots[4].done);
}
END_TEST

START_TEST(reads_wait_for_no_write)
{
	struct shot shots[2];

	if (!open_direct())
		return;
	sim_host = hold;
	fire(&shots[0], DISK_WRITE, 8, 1, area);
	fire(&shots[1], DISK_READ, 8, 8, area);
	ck_assert_uint_eq(held_count, 2);
	release(1, BLOCK);
	ck_assert(shots[1].done);
	release(0, SECTOR);
	ck_assert(shots[0].done);
}
END_TEST

Suite *direct_suite(void)
{
	const TTest *const tests[] = {
		guest_has_sectors_and_is_told_of_blocks,
		any_sectors_are_read_and_written,
		writes_with_a_block_in_common_wait_for_each_other,
		reads_wait_for_no_write,
	};
	TCase *tcase = tcase_create("direct");
	Suite *suite = suite_create("direct");

	tcase_add_checked_fixture(tcase, setup, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
