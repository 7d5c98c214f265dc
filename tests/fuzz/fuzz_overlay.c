// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the file of an overlay: disk_open() takes any bytes, and a disk that it opens can be read,
 * written and opened again.
 *
 * The first byte says what the others are: the whole file, its map behind a right header, or that
 * in a file of the right size. Every rejected file costs a message: run it with -close_fd_mask=2.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "karma/disk.h"
#include "karma/util.h"
#include "script.h"

#define BASE_BYTES (40 * 4096u + 512)
#define FILE_BYTES (2 * 4096 + BASE_BYTES)
#define HEADER_BYTES 56u
#define MAP_START 4096u

enum kind {
	KIND_ANY,
	KIND_HEADER,
	KIND_SIZE,
	KINDS,
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct io_ring ring;
static int base, file;
static uint8_t header[HEADER_BYTES], bytes[BASE_BYTES];

static int open_overlay(struct disk **disk)
{
	char path[32], overlay[32];
	struct disk_options options = { .path = path, .overlay = overlay };

	snprintf(path, sizeof(path), "/proc/self/fd/%d", base);
	snprintf(overlay, sizeof(overlay), "/proc/self/fd/%d", file);
	return disk_open(disk, &options, &ring);
}

static bool done;

static void request_done(struct disk_request *request, int error)
{
	(void)request;
	check(error == 0);
	done = true;
}

static void run(struct disk *disk, enum disk_operation operation, uint64_t offset, uint64_t length)
{
	struct iovec iov = { bytes, length };
	struct disk_request request = {
		.operation = operation,
		.iov = &iov,
		.iov_count = 1,
		.offset = offset,
		.length = length,
		.done = request_done,
	};

	done = false;
	disk_submit(disk, &request);
	disk_kick(disk);
	while (!done)
		io_ring_reap(&ring, true);
}

/* The header that belongs to the base is that of an overlay which Karma makes. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct disk *disk;

	(void)argc;
	(void)argv;
	base = memfd_create("base", MFD_CLOEXEC);
	file = memfd_create("overlay", MFD_CLOEXEC);
	check(base >= 0 && file >= 0 && ftruncate(base, BASE_BYTES) == 0);
	check(io_ring_init(&ring, 64) == 0 && open_overlay(&disk) == 0);
	disk_close(disk);
	check(pread(file, header, sizeof(header), 0) == sizeof(header));
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum kind kind = size ? data[0] % KINDS : KIND_ANY;
	struct disk *disk;

	check(ftruncate(file, 0) == 0);
	if (size)
		check(pwrite(file, data + 1, size - 1, kind == KIND_ANY ? 0 : MAP_START) ==
			(ssize_t)(size - 1));
	if (kind != KIND_ANY)
		check(pwrite(file, header, sizeof(header), 0) == sizeof(header));
	if (kind == KIND_SIZE)
		check(ftruncate(file, FILE_BYTES) == 0);
	if (open_overlay(&disk) < 0)
		return 0;
	run(disk, DISK_READ, 0, BASE_BYTES);
	run(disk, DISK_WRITE, 512 * (size % 200), 4096 * 3);
	run(disk, DISK_DISCARD, 512 * (size % 100), BASE_BYTES / 2);
	run(disk, DISK_WRITE_ZEROES, 4096, 512);
	run(disk, DISK_FLUSH, 0, 0);
	disk_close(disk);
	check(open_overlay(&disk) == 0);
	run(disk, DISK_READ, 0, BASE_BYTES);
	disk_close(disk);
	return 0;
}
