// SPDX-License-Identifier: GPL-2.0-only
/* Which pages a restored guest touches first: noted once, in the snapshot's directory, for the restores that follow. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "internal.h"
#include "karma/own_file.h"
#include "karma/snapshot_directory.h"
#include "karma/snapshot_touched.h"

/* By then, a guest serves: what it touches later, it touches at its own pace. */
#define MILLISECONDS 2000

void note_touched_start(struct guest *guest)
{
	if (guest->options.restore.notes_touched && guest->starts == 1 && memory_is_mapped_from_file(&guest->options.memory))
		guest->note_touched_at = milliseconds() + MILLISECONDS;
}

/* It gets its name when it is whole.  Where that can't be, restores take page faults. */
static void note_touched(const struct guest *guest)
{
	cleanup_fd int directory = open(guest->options.restore.notes_touched, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
	struct touched touched;
	struct stat status;
	char path[32];

	if (directory < 0 || fstat(directory, &status) < 0 || !is_own_file(&status) ||
		touched_find(&touched, guest->process.pid, report_memory(guest->report), &guest->options.memory) < 0)
		return;
	fd = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 || touched_write(&touched, fd) < 0)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	/* Another may have been faster. */
	if (linkat(AT_FDCWD, path, directory, SNAPSHOT_TOUCHED, AT_SYMLINK_FOLLOW) < 0)
		return;
}

void note_touched_serve(struct guest *guest)
{
	if (!passed(guest->note_touched_at))
		return;
	guest->note_touched_at = 0;
	note_touched(guest);
}
