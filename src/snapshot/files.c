// SPDX-License-Identifier: GPL-2.0-only
/* The files of a snapshot that a restore takes: state, memory, and which pages of that are touched first. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "karma/copy_file.h"
#include "karma/log.h"
#include "karma/own_file.h"
#include "karma/snapshot.h"
#include "karma/snapshot_directory.h"
#include "karma/util.h"

/* As large as it is, which is bounded: all of it, or a message. */
static int read_state(struct snapshot_files *files, int directory, const char *path)
{
	uint64_t size;
	cleanup_fd int fd = snapshot_file_open(directory, path, SNAPSHOT_STATE, &size);
	int result;

	if (fd < 0)
		return fd;
	if (size > SNAPSHOT_STATE_MAX)
		return fail(-EFBIG, "%s/" SNAPSHOT_STATE ": has more than %u MiB: give the directory of a snapshot", path,
			SNAPSHOT_STATE_MAX >> 20);
	files->state = malloc(size);
	if (!files->state)
		return fail(-ENOMEM, "out of memory");
	files->state_bytes = size;
	result = read_all_at(fd, files->state, size, 0);
	return result < 0 ? fail(result, "%s/" SNAPSHOT_STATE ": %s", path, strerror(-result)) : 0;
}

/* A hint, which may be missing: the guest that is restored now makes it then. */
static int read_touched(struct snapshot_files *files, int directory)
{
	cleanup_fd int fd = openat(directory, SNAPSHOT_TOUCHED, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat status;

	if (fd < 0 && errno == ENOENT)
		return 0;
	files->touched = calloc(1, sizeof(*files->touched));
	if (!files->touched)
		return fail(-ENOMEM, "out of memory");
	if (fd >= 0 && fstat(fd, &status) == 0 && is_own_file(&status))
		touched_read(files->touched, fd);
	return 0;
}

int snapshot_files_open(struct snapshot_files *files, int directory, const char *path)
{
	uint64_t size;
	int result;

	*files = SNAPSHOT_FILES_NONE;
	result = read_state(files, directory, path);
	if (result < 0)
		return result;
	files->memory = snapshot_file_open(directory, path, SNAPSHOT_MEMORY, &size);
	return files->memory < 0 ? files->memory : read_touched(files, directory);
}

void snapshot_files_close(struct snapshot_files *files)
{
	free(files->state);
	free(files->touched);
	close_fd(&files->memory);
	*files = SNAPSHOT_FILES_NONE;
}
