// SPDX-License-Identifier: GPL-2.0-only
/* Disks in snapshots: each request is done once, before or after. */
#include <errno.h>

#include "blk_fixture.h"
#include "state_fixture.h"

#define OPERATIONS 300
#define OUTSTANDING_MAX 24
#define BLOCK 4096u
#define BLOCKS (DISK_BYTES / BLOCK)

static bool read_only, has_limit;

/* Made, and not started. */
static void make_disk(void)
{
	struct disk_options options = { .path = descriptor_path(file), .read_only = read_only };
	struct disk *disk;

	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), 0);
	blk = blk_create(&sim.environment, "vda", disk, NULL, 1);
	if (has_limit)
		blk_limit(blk, &disk_limit);
	ck_assert_int_eq(machine_add(&sim.machine, blk), 0);
}

static void setup_state(void)
{
	read_only = has_limit = false;
	setup();
}

static void restore_disk(void)
{
	sim_change_process(&sim);
	make_disk();
	ck_assert_int_eq(sim_restore(&sim), 0);
}

static uint64_t capacity(void)
{
	uint64_t gpa = sim_alloc(&sim, sizeof(uint64_t), 8);

	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, sizeof(uint64_t)), gpa), 0);
	return *(uint64_t *)sim_at(&sim, gpa, sizeof(uint64_t));
}

START_TEST(larger_disk_is_told)
{
	sim_save(&sim);
	ck_assert_int_eq(ftruncate(file, 2 * DISK_BYTES), 0);
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	restore_disk();
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG);
	ck_assert_uint_eq(capacity(), 2 * DISK_SECTORS);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 2 * DISK_SECTORS - 1, data, SECTOR), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(smaller_disk_is_refused)
{
	sim_save(&sim);
	ck_assert_int_eq(ftruncate(file, DISK_BYTES - SECTOR), 0);
	expect_restore_refused(&sim, make_disk, "snapshot: disk vda: has only 1048064 bytes of the 1048576 that it had");
}
END_TEST

START_TEST(disk_that_was_written_to_is_not_read_only)
{
	sim_save(&sim);
	read_only = true;
	expect_restore_refused(&sim, make_disk, "snapshot: device vda: lacks the features 0x6000 here");
	/* A disk without discards has the same features, but for one that the guest lacks. */
	read_only = false;
	restore_disk();
	sim_reset(&sim, 0);
	sim_start_device(&sim, 0, FEATURES_EVENT, &queue, 1, QUEUE_SIZE);
	sim_save(&sim);
	read_only = true;
	expect_restore_refused(&sim, make_disk, "snapshot: disk vda: is read-only, and was not");
}
END_TEST

START_TEST(other_blocks_are_refused)
{
	sim_save(&sim);
	sim_change_state(SNAPSHOT_DEVICE_OWN, 0, 1, 4096);
	expect_restore_refused(&sim, make_disk, "snapshot: disk vda: has blocks of 512 bytes, and had blocks of 4096");
}
END_TEST

/* Without notifications, since the device looks by itself; the restored one has to do so, too. */
START_TEST(queue_that_is_busy_is_served_on)
{
	ck_assert(notify_until_it_waits(10000, 1000));
	sim_run_clock();
	for (unsigned i = 0; i < 20; i++)
		publish_read(&queue, i);
	sim_save(&sim);
	restore_disk();
	while (queue.last_used != queue.avail->idx)
		driver_wait(&queue);
	sim_run_moment(&sim);
	ck_assert(wants_notification());
}
END_TEST

START_TEST(what_a_limit_holds_back_is_done_afterwards)
{
	uint64_t status[3];

	has_limit = true;
	set_limit(blk, 1, 0);
	for (unsigned i = 0; i < 3; i++)
		status[i] = publish_read(&queue, i);
	driver_kick(&queue);
	driver_wait(&queue);
	sim_run_clock();
	sim_save(&sim);
	ck_assert_uint_eq(driver_used(&queue), 0);
	rate_limiter_init(&disk_limit, &(struct rate_limit_options){ 1000, 0, 1 });
	restore_disk();
	for (unsigned i = 1; i < 3; i++) {
		driver_wait(&queue);
		ck_assert_uint_eq(status_at(status[i]), VIRTIO_BLK_S_OK);
	}
}
END_TEST

static void drive(void)
{
	virtio_queue_notify(blk, 0, false);
	run_what_is_due(&sim);
}

START_TEST(disk_with_any_wrong_number_is_refused_or_harmless)
{
	publish_read(&queue, 0);
	restore_every_wrong_number(&sim, make_disk, drive);
}
END_TEST

/* --- Random requests; no two of them to one block at a time. */

struct operation {
	bool outstanding;
	uint32_t type;
	unsigned block;
	uint64_t buffer, status;
	uint8_t byte; /* of all of the block, when it is done */
};

static struct operation operations[QUEUE_SIZE]; /* by the head of their chain */
static uint8_t blocks[BLOCKS];			/* what is on the disk, a byte each */
static bool busy[BLOCKS];
static unsigned outstanding;

static void begin(uint64_t random)
{
	unsigned block = random % BLOCKS;
	bool write = random >> 32 & 1;
	struct operation operation = { true, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, block,
		sim_alloc(&sim, BLOCK, 8), status_place(), write ? random >> 40 : blocks[block] };
	uint16_t head;

	if (busy[block])
		return;
	memset(sim_at(&sim, operation.buffer, BLOCK), write ? operation.byte : 0xcc, BLOCK);
	head = driver_chain(&queue,
		(struct part[]){ { header(operation.type, block * (BLOCK / SECTOR)), 16, false },
			{ operation.buffer, BLOCK, !write }, { operation.status, 1, true } },
		3);
	ck_assert(!operations[head].outstanding);
	operations[head] = operation;
	blocks[block] = operation.byte;
	busy[block] = true;
	outstanding++;
	driver_publish(&queue, head);
}

static void finish_next(void)
{
	struct vring_used_elem used = driver_wait(&queue);
	struct operation *operation = &operations[used.id];
	const uint8_t *bytes = sim_at(&sim, operation->buffer, BLOCK);

	ck_assert(operation->outstanding);
	ck_assert_uint_eq(status_at(operation->status), VIRTIO_BLK_S_OK);
	ck_assert(bytes[0] == operation->byte && memcmp(bytes, bytes + 1, BLOCK - 1) == 0);
	operation->outstanding = busy[operation->block] = false;
	outstanding--;
}

START_TEST(disk_does_the_same_with_snapshots)
{
	uint64_t random = 1 + _i;
	uint8_t bytes[BLOCK];

	for (unsigned i = 0; i < OPERATIONS; i++) {
		begin(random_next(&random));
		if (random_next(&random) % 4 == 0)
			driver_kick(&queue);
		if (random_next(&random) % 20 == 0) {
			sim_save(&sim);
			restore_disk();
		}
		while (driver_used(&queue) || outstanding == OUTSTANDING_MAX) {
			if (!driver_used(&queue))
				driver_kick(&queue);
			finish_next();
		}
	}
	driver_kick(&queue);
	while (outstanding)
		finish_next();
	ck_assert_uint_eq(driver_used(&queue), 0);
	for (unsigned i = 0; i < BLOCKS; i++) {
		ck_assert_int_eq(pread(file, bytes, BLOCK, i * BLOCK), BLOCK);
		ck_assert(bytes[0] == blocks[i] && memcmp(bytes, bytes + 1, BLOCK - 1) == 0);
	}
}
END_TEST

void state_blk_tests(Suite *suite)
{
	const TTest *const tests[] = {
		larger_disk_is_told,
		smaller_disk_is_refused,
		disk_that_was_written_to_is_not_read_only,
		other_blocks_are_refused,
		queue_that_is_busy_is_served_on,
		what_a_limit_holds_back_is_done_afterwards,
		disk_with_any_wrong_number_is_refused_or_harmless,
	};
	TCase *blk_case = add_case(suite, "blk", setup_state, teardown, 60, tests, ARRAY_SIZE(tests));

	tcase_add_loop_test(blk_case, disk_does_the_same_with_snapshots, 0, 6);
}
