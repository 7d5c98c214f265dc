// SPDX-License-Identifier: GPL-2.0-only
/* What the control socket's server asks of the supervisor (struct control_ops). */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "karma/log.h"
#include "internal.h"

/* Resident memory of a process in bytes, from /proc/PID/statm (proc(5)); 0 if it can't be read. */
static uint64_t resident_memory(pid_t pid)
{
	char path[32], text[128];
	cleanup_fd int fd = -1;
	unsigned long long resident;
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	length = read(fd, text, sizeof(text) - 1);
	if (length <= 0)
		return 0;
	text[length] = '\0';
	return sscanf(text, "%*u %llu", &resident) == 1 ? resident * PAGE_BYTES : 0;
}

static void get_status(void *context, struct control_status *status)
{
	const struct guest *guest = context;

	*status = (struct control_status){
		.pid = guest->pid,
		.restarting = guest->starts > 1 || (guest->starts > 0 && !guest->process_running),
		.stopping = guest->stop_requested,
		.cpus = guest->options.cpus,
		.memory = guest->options.memory.size,
		.memory_used = guest->process_running ? resident_memory(guest->process.pid) : 0,
		.balloon = guest->balloon_bytes,
		.started_at = guest->process_started_at,
		.starts = guest->starts,
		.restored_from = guest->options.restore.directory,
	};
}

static int send_order(void *context, const struct order *order)
{
	struct guest *guest = context;

	if (!guest->process_running)
		return -ESRCH;
	if (guest->control.own_pending)
		saver_ordering(guest, order->kind);
	return process_send_order(&guest->process, order);
}

static void stop(void *context, bool force)
{
	struct guest *guest = context;
	bool asked = guest->stop_requested;

	guest->stop_requested = true;
	guest->stop_signal = SIGTERM;
	notify_stopping(&guest->notify, guest->options.grace);
	if (!guest->process_running)
		return;
	if (force) {
		process_send_order(&guest->process, &(struct order){ .kind = ORDER_END });
	} else if (!asked) {
		guest->stopped_by_client = true;
		process_signal(&guest->process, SIGTERM);
	}
}

static void kill_process(void *context)
{
	const struct guest *guest = context;

	if (!guest->process_running)
		return;
	note("guest's process did not end when it was told to: it is killed");
	process_kill(&guest->process);
}

static int measure(void *context, const char *disk, uint64_t *number, uint64_t *bytes)
{
	struct guest *guest = context;
	char name[8];

	for (size_t i = 0; i < guest->disk_count; i++) {
		int result;

		guest_disk_name(i, name, sizeof(name));
		if (strcmp(name, disk) != 0)
			continue;
		result = disk_measure(guest->disks[i], bytes);
		/* The guest's process may write up to the new end. */
		if (result == 0 && guest->process_running)
			process_set_file_limit(&guest->process, disks_file_limit(guest));
		*number = i;
		return result;
	}
	return -ENODEV;
}

static int set_balloon(void *context, uint64_t bytes)
{
	struct guest *guest = context;

	if (!guest_has_balloon(guest))
		return -ENOTSUP;
	if (bytes >= guest->options.memory.size)
		return -ERANGE;
	/* The next start begins with it, too. */
	guest->balloon_bytes = bytes;
	return 0;
}

/* A socket whose other end the guest's process gets: *fd is the client's. */
static int connect_guest(void *context, uint32_t id, uint32_t port, int *fd)
{
	const struct guest *guest = context;
	int ends[2], result;

	if (!guest->options.vsock.on)
		return -ENOTSUP;
	if (!guest->process_running)
		return -ESRCH;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return -errno;
	result = vsock_connector_offer(&guest->vsock, id, port, ends[1]);
	close(ends[1]);
	if (result < 0)
		close(ends[0]);
	else
		*fd = ends[0];
	return result;
}

static int begin_snapshot(void *context, const struct control_snapshot *request, const char **why)
{
	return saver_begin(context, request, why);
}

static void release_snapshot(void *context)
{
	saver_release(context);
}

static void get_snapshots(void *context, struct control_snapshots *snapshots)
{
	*snapshots = ((const struct guest *)context)->saver.figures;
}

static const struct control_ops ops = {
	.status = get_status,
	.order = send_order,
	.stop = stop,
	.kill = kill_process,
	.measure = measure,
	.balloon = set_balloon,
	.connect = connect_guest,
	.snapshot = begin_snapshot,
	.release_snapshot = release_snapshot,
	.snapshots = get_snapshots,
};

int operations_open(struct guest *guest)
{
	const char *name = guest->options.name, *console = guest->options.console;
	int result;

	if (name)
		snprintf(guest->name, sizeof(guest->name), "%s", name);
	else
		snprintf(guest->name, sizeof(guest->name), "karma-%d", (int)guest->pid);
	guest->report = report_create();
	if (!guest->report)
		return fail(-ENOMEM, "out of memory");
	control_init(&guest->control, guest->name, &ops, guest, &guest->terminal, guest->report);
	/* Without --name the socket is optional: there may be no directory for it. */
	result = control_listen(&guest->control.socket, guest->name, !name);
	if (result < 0 && name)
		return result;
	return strncmp(console, "unix:", 5) == 0 && console[5] ?
		control_listen_at(&guest->control.console, console + 5) :
		0;
}

void operations_started(struct guest *guest)
{
	guest->process_running = true;
	guest->process_started_at = nanoseconds();
	note_touched_start(guest);
}

void operations_ended(struct guest *guest)
{
	guest->process_running = false;
	guest->note_touched_at = 0;
	control_process_ended(&guest->control);
	saver_guest_ended(guest);
}
