// SPDX-License-Identifier: GPL-2.0-only
/* Files that are disks: what is opened, changes its size, is full or fails. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "blk_fixture.h"

static uint64_t capacity(void)
{
	struct virtio_blk_config config;

	ck_assert_int_eq(virtio_config_read(blk, 0, &config, sizeof(config)), 0);
	return config.capacity;
}

START_TEST(disk_that_grows_tells_its_guest)
{
	uint64_t size = 2 * DISK_BYTES + 100;

	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	machine_measure(&sim.machine, -1);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
	ck_assert_int_eq(virtio_generation(blk), 0);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_IN, DISK_SECTORS, data, SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_int_eq(ftruncate(file, size), 0);
	machine_measure(&sim.machine, -1);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_uint_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG | 0 << 8);
	ck_assert_int_eq(virtio_generation(blk), 1);
	/* In whole blocks. */
	ck_assert_uint_eq(capacity(), 2 * DISK_SECTORS);
	fill_data(DISK_BYTES, 8 * SECTOR);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_OUT, DISK_SECTORS, data, 8 * SECTOR), VIRTIO_BLK_S_OK);
	assert_file_is(DISK_BYTES, 8 * SECTOR, false);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_IN, 2 * DISK_SECTORS, data, SECTOR), VIRTIO_BLK_S_IOERR);
	machine_measure(&sim.machine, -1);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
}
END_TEST

START_TEST(disk_that_shrinks_keeps_its_size)
{
	fill_file(0, DISK_BYTES);
	ck_assert_int_eq(ftruncate(file, DISK_BYTES / 2), 0);
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	messages_begin();
	machine_measure(&sim.machine, -1);
	ck_assert_ptr_nonnull(strstr(messages_end(), "disk vda: has only 524288 bytes of 1048576"));
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
	ck_assert_uint_eq(capacity(), DISK_SECTORS);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_IN, DISK_SECTORS - 1, data, SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_IN, DISK_SECTORS / 2 - 1, data, SECTOR), VIRTIO_BLK_S_OK);
	/* As long as it was, all is as before. */
	ck_assert_int_eq(ftruncate(file, DISK_BYTES), 0);
	messages_begin();
	machine_measure(&sim.machine, -1);
	ck_assert_str_eq(messages_end(), "");
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_IN, DISK_SECTORS - 1, data, SECTOR), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(file_cut_under_us_is_an_error_and_the_device_goes_on)
{
	fill_file(0, DISK_BYTES);
	ck_assert_int_eq(ftruncate(file, 16 * SECTOR), 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 100, data, SECTOR), VIRTIO_BLK_S_IOERR);
	/* Part of it is still there. */
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 15, data, 2 * SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(last_length, 1);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 2, data, SECTOR), VIRTIO_BLK_S_OK);
	assert_data_is(2 * SECTOR, SECTOR);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

static uint64_t counted(const char *name)
{
	blk->ops->update_counters(blk);
	for (unsigned i = 0; i < blk->counter_count; i++) {
		if (blk->counters[i].name && strcmp(blk->counters[i].name, name) == 0)
			return blk->counters[i].value;
	}
	ck_abort_msg("no counter %s", name);
}

START_TEST(requests_bytes_and_latencies_are_counted)
{
	uint64_t before = counted("read.requests"), bytes = counted("read.bytes");

	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, data, 2 * SECTOR), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 1, data, SECTOR), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 3, data, SECTOR), VIRTIO_BLK_S_OK);
	/* What never got to the disk is not counted. */
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, DISK_BYTES, data, SECTOR), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(counted("read.requests"), before + 2);
	ck_assert_uint_eq(counted("read.bytes"), bytes + 3 * SECTOR);
	ck_assert_uint_eq(counted("write.requests"), 1);
	ck_assert_uint_eq(counted("write.bytes"), SECTOR);
	ck_assert_str_eq(blk->latencies[DISK_WRITE].name, "write");
	ck_assert_uint_eq(latency_count(&blk->latencies[DISK_WRITE].latency), 1);
	ck_assert_uint_gt(blk->latencies[DISK_READ].latency.nanoseconds, 0);
}
END_TEST

START_TEST(log_of_a_failing_disk_is_short)
{
	unsigned lines = 0;

	ck_assert_int_eq(ftruncate(file, 0), 0);
	messages_begin();
	for (unsigned i = 0; i < 100; i++)
		ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, i, data, SECTOR), VIRTIO_BLK_S_IOERR);
	for (const char *c = messages_end(); *c; c++)
		lines += *c == '\n';
	ck_assert_uint_eq(lines, 1);
	ck_assert_str_eq(blk->counters[0].name, "errors");
	ck_assert_uint_eq(blk->counters[0].value, 100);
}
END_TEST

START_TEST(limit_of_file_size_is_an_error)
{
	struct rlimit limit = { DISK_BYTES / 2, DISK_BYTES / 2 };

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_uint_eq(
		request(VIRTIO_BLK_T_OUT, DISK_SECTORS - 8, data, 8 * SECTOR), VIRTIO_BLK_S_IOERR);
	fill_data(0, SECTOR);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	assert_file_is(0, SECTOR, false);
}
END_TEST

START_TEST(full_file_system_is_an_error_and_the_device_goes_on)
{
	uint8_t status = VIRTIO_BLK_S_OK;
	unsigned written = 0;
	int full;

	/* In a mount name space of our own, which goes with this process. */
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("none", "/mnt", "tmpfs", 0, "size=64k") < 0) {
		printf("skipped: a full file system: needs the right to mount\n");
		return;
	}
	full = open("/mnt/disk", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ck_assert_int_ge(full, 0);
	ck_assert_int_eq(ftruncate(full, DISK_BYTES), 0);
	close(file);
	file = full;
	add_disk("/mnt/disk", false, false, NULL);
	start();
	fill_data(0, 64 * SECTOR);
	for (uint64_t sector = 0; sector < DISK_SECTORS && status == VIRTIO_BLK_S_OK; sector += 8) {
		status = request(VIRTIO_BLK_T_OUT, sector, data, 8 * SECTOR);
		written += status == VIRTIO_BLK_S_OK;
	}
	ck_assert_uint_eq(status, VIRTIO_BLK_S_IOERR);
	ck_assert_uint_gt(written, 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	/* Room again: what failed works. */
	ck_assert_uint_eq(clear_request(VIRTIO_BLK_T_DISCARD, 0, 64, 0), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 1024, data, 8 * SECTOR), VIRTIO_BLK_S_OK);
}
END_TEST

static int open_result(const char *path, bool read_only, struct disk **disk)
{
	struct disk_options options = { .path = path, .read_only = read_only };

	return disk_open(disk, &options, &sim.ring);
}

static void assert_open_fails(const char *path, int error, const char *word)
{
	struct disk *disk = NULL;
	const char *text;

	messages_begin();
	ck_assert_int_eq(open_result(path, false, &disk), error);
	text = messages_end();
	ck_assert_msg(strstr(text, word) && strstr(text, path), "the message is: %s", text);
	ck_assert_ptr_null(disk);
}

START_TEST(images_that_are_not_raw_are_refused_unless_said_so)
{
	static const struct {
		const char *name, *magic;
		unsigned offset;
	} images[] = {
		{ "qcow2", "QFI\xfb", 0 },
		{ "VMDK", "KDMV", 0 },
		{ "VDI", "\x7f\x10\xda\xbe", 64 },
		{ "VHDX", "vhdxfile", 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(images); i++) {
		int image = temporary_file(65536);
		struct disk_options raw = { .path = descriptor_path(image), .raw = true };
		struct disk *disk;

		ck_assert_int_gt(pwrite(image, images[i].magic, strlen(images[i].magic), images[i].offset), 0);
		assert_open_fails(descriptor_path(image), -EINVAL, images[i].name);
		assert_open_fails(descriptor_path(image), -EINVAL, "qemu-img convert -O raw");
		ck_assert_int_eq(disk_open(&disk, &raw, &sim.ring), 0);
		disk_close(disk);
		close(image);
	}
}
END_TEST

START_TEST(paths_that_are_no_disk_are_refused_with_a_cure)
{
	char directory[] = "/tmp/karma-disk-XXXXXX", fifo[64];
	int empty = temporary_file(0), tiny = temporary_file(100);

	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(fifo, sizeof(fifo), "%s/fifo", directory);
	ck_assert_int_eq(mkfifo(fifo, 0600), 0);
	assert_open_fails("/nowhere/disk.img", -ENOENT, "truncate");
	assert_open_fails(directory, -EINVAL, "is a directory: give a file or a block device");
	/* Nobody has its other end: an open() that waits would wait for ever. */
	assert_open_fails(fifo, -EINVAL, "is a FIFO or pipe");
	assert_open_fails(socket_path(), -EINVAL, "is a socket");
	assert_open_fails("/dev/null", -EINVAL, "is a character device");
	assert_open_fails(descriptor_path(empty), -EINVAL, "empty");
	assert_open_fails(descriptor_path(tiny), -EINVAL, "has 100 bytes, less than a sector of 512");
	unlink(fifo);
	rmdir(directory);
	close(empty);
	close(tiny);
}
END_TEST

START_TEST(disk_in_use_is_refused)
{
	const char *path = descriptor_path(file);
	struct disk *writer, *other, *readers[2];

	ck_assert_int_eq(open_result(path, false, &writer), 0);
	assert_open_fails(path, -EBUSY, "in use");
	ck_assert_int_eq(open_result(path, true, &other), -EBUSY);
	/* The lock lasts as long as the last who shares it. */
	other = disk_share(writer);
	disk_close(other);
	assert_open_fails(path, -EBUSY, "in use");
	other = disk_share(writer);
	disk_close(writer);
	assert_open_fails(path, -EBUSY, "in use");
	disk_close(other);
	ck_assert_int_eq(open_result(path, true, &readers[0]), 0);
	ck_assert_int_eq(open_result(path, true, &readers[1]), 0);
	ck_assert_int_eq(open_result(path, false, &writer), -EBUSY);
	disk_close(readers[0]);
	disk_close(readers[1]);
	ck_assert_int_eq(open_result(path, false, &writer), 0);
	disk_close(writer);
}
END_TEST

START_TEST(file_is_opened_so_that_io_uring_waits_for_it)
{
	struct disk *disk;
	/* The next free descriptor is the disk's. */
	int fd = dup(file);

	close(fd);
	/* With O_NONBLOCK io_uring gives up with EAGAIN on some file systems. */
	ck_assert_int_eq(open_result(descriptor_path(file), false, &disk), 0);
	ck_assert_int_eq(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
	ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	disk_close(disk);
}
END_TEST

START_TEST(few_queues_are_long_ones)
{
	ck_assert_uint_eq(blk_queue_size(1), 1024);
	ck_assert_uint_eq(blk_queue_size(2), 512);
	ck_assert_uint_eq(blk_queue_size(3), 256);
	ck_assert_uint_eq(blk_queue_size(4), 256);
	ck_assert_uint_eq(blk_queue_size(64), 256);
}
END_TEST

START_TEST(topology_is_the_backends)
{
	struct disk_options options = { .path = descriptor_path(file) };
	const struct virtio_blk_config *config;
	struct disk *disk;

	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), 0);
	disk->block_size = 1024;
	disk->physical_block_size = 4096;
	disk->alignment_offset = 3072;
	disk->io_min = 64 * KIB;
	disk->io_opt = 1 * MIB;
	disk->discard_alignment = 32 * KIB;
	disk->discard = false;
	blk = blk_create(&sim.environment, "vda", disk, NULL, 1);
	sim_add(&sim, blk);
	config = blk->config;
	/* In logical blocks, but for discards: virtio 1.2, section 5.2.4. */
	ck_assert_uint_eq(config->blk_size, 1024);
	ck_assert_uint_eq(config->physical_block_exp, 2);
	ck_assert_uint_eq(config->alignment_offset, 3);
	ck_assert_uint_eq(config->min_io_size, 64);
	ck_assert_uint_eq(config->opt_io_size, 1024);
	ck_assert_uint_eq(config->discard_sector_alignment, 64);
	ck_assert(!(blk->offered & FEATURE(VIRTIO_BLK_F_DISCARD)));
	ck_assert(blk->offered & FEATURE(VIRTIO_BLK_F_WRITE_ZEROES));
}
END_TEST

START_TEST(capacity_is_in_whole_sectors)
{
	const struct virtio_blk_config *config;

	ck_assert_int_eq(ftruncate(file, 10 * SECTOR + 511), 0);
	messages_begin();
	add_disk(descriptor_path(file), false, false, NULL);
	ck_assert_ptr_nonnull(strstr(messages_end(), "511"));
	config = blk->config;
	ck_assert_uint_eq(config->capacity, 10);
	ck_assert_uint_eq(config->blk_size, SECTOR);
	start();
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 9, data, SECTOR), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 10, data, SECTOR), VIRTIO_BLK_S_IOERR);
}
END_TEST

START_TEST(configuration_tells_of_the_disk)
{
	const struct virtio_blk_config *config;

	add_disk(descriptor_path(file), false, false, NULL);
	config = blk->config;
	ck_assert_uint_eq(config->capacity, DISK_SECTORS);
	ck_assert_uint_eq(config->physical_block_exp, 3);
	ck_assert_uint_eq(config->discard_sector_alignment, 8);
	ck_assert_uint_eq(config->max_discard_seg, 1);
	ck_assert_uint_eq(config->max_write_zeroes_seg, 1);
	ck_assert_uint_eq(config->write_zeroes_may_unmap, 1);
}
END_TEST

void blk_files_tests(Suite *suite)
{
	const TTest *const writable[] = {
		disk_that_grows_tells_its_guest,
		disk_that_shrinks_keeps_its_size,
		file_cut_under_us_is_an_error_and_the_device_goes_on,
		requests_bytes_and_latencies_are_counted,
		log_of_a_failing_disk_is_short,
		limit_of_file_size_is_an_error,
	};
	const TTest *const opening[] = {
		full_file_system_is_an_error_and_the_device_goes_on,
		paths_that_are_no_disk_are_refused_with_a_cure,
		images_that_are_not_raw_are_refused_unless_said_so,
		disk_in_use_is_refused,
		file_is_opened_so_that_io_uring_waits_for_it,
		capacity_is_in_whole_sectors,
		configuration_tells_of_the_disk,
		few_queues_are_long_ones,
		topology_is_the_backends,
	};

	add_case(suite, "requests", setup, teardown, 30, writable, ARRAY_SIZE(writable));
	add_case(suite, "opening", setup_memory, teardown, 30, opening, ARRAY_SIZE(opening));
}
