// SPDX-License-Identifier: GPL-2.0-only
/* Which pages a restored guest touches first: noted once, in the snapshot's directory, for the restores that follow. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

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
	char unfinished[32];

	if (directory < 0 || fstat(directory, &status) < 0 || !is_own_file(&status) ||
		touched_find(&touched, guest->process.pid, report_memory(guest->report), &guest->options.memory) < 0)
		return;
	/* A name, since not every file system supports O_TMPFILE. */
	snprintf(unfinished, sizeof(unfinished), SNAPSHOT_TOUCHED ".%d", (int)guest->pid);
	fd = openat(directory, unfinished, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	/* Another may have been faster. */
	if (touched_write(&touched, fd) == 0)
		renameat2(directory, unfinished, directory, SNAPSHOT_TOUCHED, RENAME_NOREPLACE);
	unlinkat(directory, unfinished, 0);
}

void note_touched_serve(struct guest *guest)
{
	/* The command of a warm start may end soon after init is ready for it. */
	const bool up = guest->note_touched_at && guest->warm.restores && guest->notify.ready;

	if (!up && !passed(guest->note_touched_at))
		return;
	guest->note_touched_at = 0;
	note_touched(guest);
}
