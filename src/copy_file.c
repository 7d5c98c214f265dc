// SPDX-License-Identifier: GPL-2.0-only
/* Copies of files that share their blocks where the file system can, and keep their holes where it can't. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "karma/copy_file.h"
#include "karma/util.h"

#define BUFFER_BYTES (64 * KIB)

int read_all_at(int fd, void *to, uint64_t length, uint64_t offset)
{
	for (uint64_t done = 0; done < length;) {
		ssize_t count = pread(fd, (uint8_t *)to + done, length - done, offset + done);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return count < 0 ? -errno : -EIO;
		done += count;
	}
	return 0;
}

int write_all_at(int fd, const void *from, uint64_t length, uint64_t offset)
{
	for (uint64_t done = 0; done < length;) {
		ssize_t count = pwrite(fd, (const uint8_t *)from + done, length - done, offset + done);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return count < 0 ? -errno : -EIO;
		done += count;
	}
	return 0;
}

int punch_hole(int fd, uint64_t offset, uint64_t length)
{
	static const uint8_t zeroes[PAGE_BYTES];
	int result = 0;

	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) == 0)
		return 0;
	if (errno != EOPNOTSUPP)
		return -errno;
	for (uint64_t done = 0; done < length && result == 0; done += sizeof(zeroes)) {
		uint64_t left = length - done;

		result = write_all_at(fd, zeroes, left < sizeof(zeroes) ? left : sizeof(zeroes), offset + done);
	}
	return result;
}

/* Through a buffer: copy_file_range() is refused from one file system to another by some. */
static int copy_range(int from, int to, uint64_t offset, uint64_t end)
{
	uint8_t buffer[BUFFER_BYTES];
	int result = 0;

	while (offset < end && result == 0) {
		uint64_t length = end - offset < sizeof(buffer) ? end - offset : sizeof(buffer);
		loff_t source = offset, target = offset;
		ssize_t copied = copy_file_range(from, &source, to, &target, end - offset, 0);

		if (copied > 0) {
			offset += copied;
			continue;
		}
		result = read_all_at(from, buffer, length, offset);
		if (result == 0)
			result = write_all_at(to, buffer, length, offset);
		offset += length;
	}
	return result;
}

int copy_file(int from, int to)
{
	struct stat status;
	int result = 0;

	if (ioctl(to, FICLONE, from) == 0)
		return 0;
	if (fstat(from, &status) < 0 || ftruncate(to, status.st_size) < 0)
		return -errno;
	for (off_t end = 0; result == 0;) {
		off_t data = lseek(from, end, SEEK_DATA);

		/* ENXIO: nothing but a hole follows. */
		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		end = lseek(from, data, SEEK_HOLE);
		result = end < 0 ? -errno : copy_range(from, to, data, end);
	}
	return result;
}
