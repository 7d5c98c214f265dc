// SPDX-License-Identifier: GPL-2.0-only
/* The saver: writes the files of a snapshot, in a process of its own. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "internal.h"
#include "karma/log.h"
#include "karma/snapshot_directory.h"
#include "karma/snapshot_memory.h"

static int tell(const struct guest *guest, const struct snapshot_memory *memory, int socket,
	enum saver_message_kind kind, int error)
{
	const struct saver_message message = {
		.kind = kind,
		.error = error,
		.bytes = snapshot_directory_bytes(guest->saver.request.directory),
		.rounds = memory->progress->rounds,
	};

	return send(socket, &message, sizeof(message), MSG_NOSIGNAL) == sizeof(message) ? 0 : -errno;
}

/* Have the guest pause.  0 once it does. */
static int pause_guest(const struct guest *guest, const struct snapshot_memory *memory, int socket,
	enum saver_message_kind how)
{
	struct saver_message answer;
	int result = tell(guest, memory, socket, how, 0);

	if (result < 0)
		return result;
	return recv(socket, &answer, sizeof(answer), 0) == sizeof(answer) ? 0 : -EIO;
}

static int write_config(const struct guest *guest)
{
	int fd = openat(guest->saver.request.directory, SNAPSHOT_CONFIG,
		O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
	int result;

	if (!file)
		return fail(-errno, "snapshot: can't make a file in its directory: %s", strerror(errno));
	result = guest->options.print_snapshot(&guest->options, guest->saver.request.copies, file);
	if (fclose(file) != 0 && result == 0)
		result = fail(-errno, "snapshot: can't write its configuration: %s", strerror(errno));
	return result;
}

/* The guest pauses, and its state is saved: what else belongs to that moment. */
static int save_last(const struct guest *guest, struct snapshot_memory *memory)
{
	int result = disks_save(guest, guest->saver.request.directory);

	return result == 0 ? snapshot_memory_last(memory) : result;
}

static int copy(const struct guest *guest, struct snapshot_memory *memory, int socket)
{
	int result = 0;

	disks_flush_overlays(guest);
	while (result == 0 && snapshot_memory_again(memory)) {
		result = pause_guest(guest, memory, socket, SAVER_PAUSE);
		if (result == 0)
			result = snapshot_memory_arm(memory);
		if (result == 0)
			result = tell(guest, memory, socket, SAVER_RESUME, 0);
		if (result == 0)
			result = snapshot_memory_copy(memory);
	}
	if (result == 0)
		result = pause_guest(guest, memory, socket, SAVER_SAVE);
	if (result == 0)
		result = save_last(guest, memory);
	return result == 0 ? tell(guest, memory, socket, SAVER_RESUME, 0) : result;
}

/* Before the directory gets its name. */
static int sync_files(int directory)
{
	static const char *const names[] = { SNAPSHOT_CONFIG, SNAPSHOT_STATE, SNAPSHOT_MEMORY };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		cleanup_fd int fd = openat(directory, names[i], O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

		if (fd < 0 || fsync(fd) < 0)
			return fail(-errno, "snapshot: %s: %s", names[i], strerror(errno));
	}
	return 0;
}

static int save(const struct guest *guest, struct snapshot_memory *memory, int socket)
{
	int result = copy(guest, memory, socket);

	/* It tells where the overlays are. */
	if (result == 0)
		result = write_config(guest);
	if (result == 0)
		result = disks_sync_saved(guest, guest->saver.request.directory);
	return result == 0 ? sync_files(guest->saver.request.directory) : result;
}

/* Nobody needs it after the host's end, so nothing is synced. */
static int save_image(struct guest *guest, struct snapshot_memory *memory, int socket)
{
	int result = pause_guest(guest, memory, socket, SAVER_SAVE);

	if (result == 0)
		result = snapshot_memory_last(memory);
	return result == 0 ? warm_image_publish(&guest->warm.aside) : result;
}

_Noreturn void saver_run(struct guest *guest, struct snapshot_memory *memory, int socket)
{
	int result;

	prctl(PR_SET_NAME, "karma-saver");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != guest->pid)
		_exit(1);
	/* What clients see as their connection's end is the supervisor's to say. */
	control_close(&guest->control);
	result = guest->saver.image ? save_image(guest, memory, socket) : save(guest, memory, socket);
	tell(guest, memory, socket, result < 0 ? SAVER_FAILED : SAVER_SYNCED, result);
	_exit(result < 0);
}
