// SPDX-License-Identifier: GPL-2.0-only
/* Open and read a file that the user named, trusting neither its type nor its size. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "karma/file_kind.h"
#include "karma/log.h"
#include "internal.h"

static int refuse_kind(const struct boot_file *file, mode_t mode)
{
	return fail(-EINVAL, "%s %s: is %s: give a regular file", file->what, file->path,
		file_kind(mode));
}

static int refuse_open(const struct boot_file *file, int error)
{
	if (error == EACCES)
		return fail(-error,
			"%s %s: cannot open: %s: run `chmod a+r %s` as its owner, or give a copy that you can read",
			file->what, file->path, strerror(error), file->path);
	return fail(-error, "%s %s: cannot open: %s: give a file that can be read", file->what,
		file->path, strerror(error));
}

int boot_file_open(struct boot_file *file, const char *what, const char *path)
{
	struct stat status;

	*file = (struct boot_file){ .what = what, .path = path, .fd = -1 };
	/* Other kinds are not even opened: that may have effects on a device. */
	if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
		return refuse_kind(file, status.st_mode);
	/* O_NONBLOCK, since opening a FIFO that has taken its place would block until there is a writer. */
	file->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (file->fd < 0)
		return refuse_open(file, errno);
	if (fstat(file->fd, &status) < 0)
		return fail(-errno, "%s %s: cannot stat: %s: give another file", what, path,
			strerror(errno));
	if (!S_ISREG(status.st_mode))
		return refuse_kind(file, status.st_mode);
	if (status.st_size <= 0)
		return fail(-EINVAL, "%s %s: is empty: give a file that is whole", what, path);
	file->size = (uint64_t)status.st_size;
	return 0;
}

void boot_file_close(struct boot_file *file)
{
	close_fd(&file->fd);
	file->fd = -1;
	free(file->sums);
	file->sums = NULL;
}

int boot_file_read(const struct boot_file *file, uint64_t offset, void *to, uint64_t length)
{
	uint8_t *at = to;

	if (file->sums)
		return boot_cache_read(file, offset, to, length, false);
	while (length > 0) {
		ssize_t got = pread(file->fd, at, length, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return fail(-errno,
				"%s %s: cannot read at byte %" PRIu64 ": %s: check its file system",
				file->what, file->path, offset, strerror(errno));
		if (got == 0)
			return fail(-EIO,
				"%s %s: ends at byte %" PRIu64 " with %" PRIu64
				" bytes missing: it is cut short; copy it again",
				file->what, file->path, offset, length);
		at += got;
		offset += (uint64_t)got;
		length -= (uint64_t)got;
	}
	return 0;
}

/* Advance *from to the next data, and set *to to the end of that data; at most to end. */
static void find_data(const struct boot_file *file, uint64_t end, uint64_t *from, uint64_t *to)
{
	off_t data = lseek(file->fd, (off_t)*from, SEEK_DATA);
	off_t hole;

	/* No more data; unless the file has shrunk, which the read will report. */
	if (data < 0 && errno == ENXIO && lseek(file->fd, 0, SEEK_END) >= (off_t)end)
		data = (off_t)end;
	/* Not supported by the file system. */
	if (data < 0)
		data = (off_t)*from;
	hole = lseek(file->fd, data, SEEK_HOLE);
	*from = (uint64_t)data < end ? (uint64_t)data : end;
	*to = hole > data && (uint64_t)hole < end ? (uint64_t)hole : end;
}

int boot_file_load(const struct boot_file *file, uint64_t offset, const struct guest_memory *memory,
	uint64_t address, uint64_t length)
{
	uint64_t end = offset + length, hole;
	uint8_t *to;
	int result = 0;

	if (length == 0)
		return 0;
	to = guest_memory_at(memory, GPA(address), length);
	if (!to)
		return fail(-EFAULT, "%s %s: 0x%" PRIx64 " is not guest memory: give more --memory",
			file->what, file->path, address);
	if (file->sums)
		return boot_cache_read(file, offset, to, length, true);
	for (uint64_t at = offset; at < end && result == 0; at = hole) {
		find_data(file, end, &at, &hole);
		result = boot_file_read(file, at, to + (at - offset), hole - at);
	}
	return result;
}
