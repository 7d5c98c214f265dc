// SPDX-License-Identifier: GPL-2.0-only
/* A snapshot, in the supervisor: from the request of a client to its reply. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "internal.h"
#include "karma/copy_file.h"
#include "karma/log.h"
#include "karma/snapshot.h"
#include "karma/snapshot_directory.h"
#include "karma/snapshot_memory.h"

/* --- What can't be saved, or not be copied. */

/* NULL: it can be saved. */
static const char *find_obstacle(const struct guest_options *options)
{
	if (options->share_count || options->vhost_user_count)
		return "a guest with --share, --root, --modules or --vhost-user can't be saved, since what its server has of it is "
		       "elsewhere: start it without";
	return NULL;
}

static const char *find_obstacle_to_copies(const struct guest_options *options)
{
	for (size_t i = 0; i < options->disk_count; i++) {
		if (!options->disks[i].read_only && !options->disks[i].overlay && !options->disks[i].from)
			return "guests can't share a disk that they write to: start it with overlay=FILE or ro behind each --disk";
	}
	for (size_t i = 0; i < options->net_count; i++) {
		if (options->nets[i].kind != NET_USER)
			return "guests can't share a TAP: start it with --net user, or take a snapshot, and give each "
			       "`karma run --restore` a TAP of its own";
	}
	return NULL;
}

/* --- The process. */

static int fork_saver(struct guest *guest, struct snapshot_memory *memory)
{
	struct saver *saver = &guest->saver;
	int ends[2], error;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	saver->pid = fork();
	error = -errno;
	if (saver->pid == 0)
		saver_run(guest, memory, ends[1]);
	close(ends[1]);
	if (saver->pid < 0)
		close(ends[0]);
	else
		saver->socket = ends[0];
	return saver->pid < 0 ? error : 0;
}

/* The supervisor may look into the guest's process, and its children can't: so memory is opened here. */
static int start_saver(struct guest *guest)
{
	struct snapshot_memory memory;
	cleanup_fd int to = openat(guest->saver.request.directory, SNAPSHOT_MEMORY,
		O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct snapshot_progress progress = { 0 };
	struct memory_options options = guest->options.memory;
	int result;

	if (to < 0)
		return fail(-errno, "snapshot: can't make a file in its directory: %s", strerror(errno));
	/* Later starts have booted. */
	options.restored &= guest->starts == 1;
	result = snapshot_memory_open(&memory, guest->process.pid, report_memory(guest->report), &options, to, &progress);
	if (result == 0) {
		result = fork_saver(guest, &memory);
		if (result < 0)
			fail(result, "snapshot: can't start the process that makes it: %s: raise the limits of processes and "
				     "open files (ulimit -u, -n)", strerror(-result));
	}
	snapshot_memory_close(&memory);
	return result;
}

static void end_saver(struct saver *saver)
{
	if (saver->socket < 0)
		return;
	kill(saver->pid, SIGKILL);
	while (waitpid(saver->pid, NULL, 0) < 0 && errno == EINTR)
		;
	close_fd(&saver->socket);
	close_fd(&saver->request.directory);
	saver->socket = saver->request.directory = -1;
}

/* --- The steps. */

static void give_order(struct guest *guest, enum order_kind kind, void (*done)(void *context, int result))
{
	guest->saver.ordered = true;
	control_order(&guest->control, kind, done);
}

void saver_ordering(struct guest *guest, enum order_kind kind)
{
	struct saver *saver = &guest->saver;

	if (kind == ORDER_RESUME)
		return;
	saver->was_paused = report_state(guest->report) == GUEST_PAUSED;
	saver->paused = true;
	saver->paused_at = nanoseconds();
}

static void count_pause(struct saver *saver)
{
	int64_t pause = nanoseconds() - saver->paused_at;

	if (saver->paused && !saver->image && pause > saver->figures.pause)
		saver->figures.pause = pause;
}

static void resumed(void *context, int result)
{
	struct guest *guest = context;
	struct saver *saver = &guest->saver;

	(void)result;
	count_pause(saver);
	saver->ordered = saver->paused = false;
	control_hold(&guest->control, false);
}

static void let_go_on(struct guest *guest)
{
	/* At a checkpoint it waits, paused for us or not. */
	if ((guest->saver.paused || guest->saver.image) && !guest->saver.was_paused)
		give_order(guest, ORDER_RESUME, resumed);
	else
		resumed(guest, 0);
}

/* The guest goes on.  Who asked for the snapshot, and is still there, removes its directory. */
static void give_up(struct guest *guest, int error)
{
	struct saver *saver = &guest->saver;

	if (saver->socket >= 0)
		snapshot_directory_empty(saver->request.directory);
	end_saver(saver);
	saver->step = SAVER_NONE;
	/* While an order is under way, its end comes first. */
	if (!saver->ordered)
		let_go_on(guest);
	if (saver->image) {
		snapshot_aside_release(&guest->warm.aside);
		return;
	}
	if (error == -ESRCH)
		snprintf(saver->why, sizeof(saver->why), "the guest has ended meanwhile");
	else
		snprintf(saver->why, sizeof(saver->why), "the guest can't be saved: %s: see `karma log %s`", strerror(-error),
			guest->name);
	control_snapshot_ended(&guest->control, error, saver->why);
}

static int write_state(struct guest *guest)
{
	cleanup_free void *state = malloc(SNAPSHOT_STATE_MAX);
	cleanup_fd int fd = openat(guest->saver.request.directory, SNAPSHOT_STATE,
		O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int64_t length = state ? guest_read_state(guest, state) : -ENOMEM;

	if (fd < 0)
		return -errno;
	return length < 0 ? length : write_all_at(fd, state, length, 0);
}

static void paused(void *context, int result)
{
	struct guest *guest = context;
	struct saver *saver = &guest->saver;
	const struct saver_message message = { .kind = SAVER_PAUSED };

	saver->ordered = false;
	/* It was given up meanwhile. */
	if (saver->step != SAVER_AWAITS_PAUSE) {
		let_go_on(guest);
		return;
	}
	saver->step = SAVER_WORKS;
	if (result == 0 && saver->last)
		result = write_state(guest);
	/* If the saver has ended, its end of the socket tells. */
	if (result == 0)
		send(saver->socket, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT);
	else
		give_up(guest, result);
}

static void pause_guest(struct guest *guest, bool last)
{
	guest->saver.step = SAVER_AWAITS_PAUSE;
	guest->saver.last = last;
	control_hold(&guest->control, true);
	give_order(guest, !last ? ORDER_QUIESCE : guest->saver.image ? ORDER_CHECKPOINT : ORDER_SNAPSHOT, paused);
}

static void synced(struct guest *guest)
{
	struct saver *saver = &guest->saver;

	end_saver(saver);
	if (saver->request.hold)
		count_pause(saver);
	saver->step = saver->request.hold ? SAVER_HOLDS : SAVER_NONE;
	saver->figures.count++;
	control_snapshot_ended(&guest->control, 0, NULL);
}

/* It has its name. */
static void image_made(struct guest *guest)
{
	end_saver(&guest->saver);
	guest->saver.step = SAVER_NONE;
	guest->warm.aside.name[0] = '\0';
	snapshot_aside_release(&guest->warm.aside);
	let_go_on(guest);
}

static void serve_message(struct guest *guest, const struct saver_message *message)
{
	struct saver *saver = &guest->saver;

	if (!saver->image) {
		saver->figures.bytes = message->bytes;
		saver->figures.rounds = message->rounds;
	}
	switch (message->kind) {
	case SAVER_PAUSE:
	case SAVER_SAVE:
		pause_guest(guest, message->kind == SAVER_SAVE);
		break;
	case SAVER_RESUME:
		saver->step = saver->last ? SAVER_SYNCS : SAVER_COPIES;
		if (!saver->last || !saver->request.hold)
			let_go_on(guest);
		break;
	case SAVER_SYNCED:
		if (saver->image)
			image_made(guest);
		else
			synced(guest);
		break;
	default:
		give_up(guest, message->error);
	}
}

struct pollfd saver_watch(const struct guest *guest)
{
	/* One order at a time is ours: the saver's next wish waits for it. */
	return (struct pollfd){ .fd = guest->saver.ordered ? -1 : guest->saver.socket, .events = POLLIN };
}

void saver_serve(struct guest *guest)
{
	struct saver_message message;
	ssize_t length = recv(guest->saver.socket, &message, sizeof(message), MSG_DONTWAIT);

	if (length == sizeof(message))
		serve_message(guest, &message);
	else if (length >= 0 || (errno != EAGAIN && errno != EINTR))
		give_up(guest, -ECHILD);
}

/* --- Requests. */

int saver_begin(struct guest *guest, const struct control_snapshot *request, const char **why)
{
	struct saver *saver = &guest->saver;
	struct control_snapshots figures = { .count = saver->figures.count };
	cleanup_fd int directory = request->directory;
	enum guest_state state = report_state(guest->report);
	struct stat status;

	if (saver->step != SAVER_NONE || saver->ordered)
		return -EBUSY;
	if (!guest->process_running || (state != GUEST_RUNNING && state != GUEST_PAUSED && state != GUEST_STOPPING))
		return -ESRCH;
	if (fstat(directory, &status) < 0 || !S_ISDIR(status.st_mode))
		return -ENOTDIR;
	*why = find_obstacle(&guest->options);
	if (!*why && request->copies)
		*why = find_obstacle_to_copies(&guest->options);
	if (*why)
		return -ENOTSUP;
	*saver = SAVER_IDLE;
	saver->figures = figures;
	saver->request = *request;
	*why = "can't begin: see `karma log`";
	if (start_saver(guest) < 0) {
		saver->request.directory = -1;
		return -ENOTSUP;
	}
	directory = -1;
	saver->step = SAVER_COPIES;
	return 0;
}

static int begin_image(struct guest *guest)
{
	struct saver *saver = &guest->saver;
	struct control_snapshots figures = { .count = saver->figures.count };
	int result = warm_begin(guest);

	if (result < 0)
		return result;
	*saver = SAVER_IDLE;
	saver->figures = figures;
	saver->image = true;
	saver->request.directory = fcntl(guest->warm.aside.directory, F_DUPFD_CLOEXEC, 0);
	log_hush(true);
	result = start_saver(guest);
	log_hush(false);
	if (result == 0) {
		saver->step = SAVER_COPIES;
		return 0;
	}
	close_fd(&saver->request.directory);
	saver->request.directory = -1;
	snapshot_aside_release(&guest->warm.aside);
	return result;
}

void saver_checkpoint(struct guest *guest)
{
	const struct saver *saver = &guest->saver;

	if (!guest->warm.makes || !report_checkpoint(guest->report))
		return;
	guest->warm.makes = false;
	if (saver->step == SAVER_NONE && !saver->ordered && begin_image(guest) == 0)
		return;
	/* Who has paused it, a user or a snapshot, lets it go on. */
	if (!saver->ordered && report_state(guest->report) != GUEST_PAUSED)
		process_send_order(&guest->process, &(struct order){ .kind = ORDER_RESUME });
}

void saver_release(struct guest *guest)
{
	if (guest->saver.step == SAVER_HOLDS) {
		guest->saver.step = SAVER_NONE;
		let_go_on(guest);
	} else if (guest->saver.step != SAVER_NONE) {
		give_up(guest, -ECANCELED);
	}
}

void saver_guest_ended(struct guest *guest)
{
	struct saver *saver = &guest->saver;

	if (saver->step != SAVER_NONE && saver->step != SAVER_HOLDS)
		give_up(guest, -ESRCH);
	saver->step = SAVER_NONE;
	resumed(guest, 0);
}
