// SPDX-License-Identifier: GPL-2.0-only
/* karma run: what the supervisor does for those who operate its guest by the control socket. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "karma/log.h"
#include "internal.h"

void run_disk_name(size_t index, char *name, size_t size)
{
	if (index < 26)
		snprintf(name, size, "vd%c", (char)('a' + index));
	else
		snprintf(name, size, "vd%c%c", (char)('a' + index / 26 - 1),
			(char)('a' + index % 26));
}

/* Resident pages of a process, from proc(5), statm; 0 if nobody tells. */
static uint64_t memory_of(pid_t pid)
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

static void tell_status(void *context, struct control_status *status)
{
	const struct run *run = context;

	*status = (struct control_status){
		.pid = run->pid,
		.restarting = run->starts > 1 || (run->starts > 0 && !run->process_runs),
		.stopping = run->leaving,
		.cpus = run->options.cpus,
		.memory = run->options.memory.size,
		.memory_used = run->process_runs ? memory_of(run->process.pid) : 0,
		.balloon = run->balloon_bytes,
		.started_at = run->process_started_at,
		.starts = run->starts,
	};
}

static int give_order(void *context, const struct process_order *order)
{
	const struct run *run = context;

	return run->process_runs ? process_order(&run->process, order) : -ESRCH;
}

static void stop(void *context, bool force)
{
	struct run *run = context;
	bool asked = run->leaving;

	run->leaving = true;
	run->left_by = SIGTERM;
	notify_stopping(&run->notify, run->options.grace);
	if (!run->process_runs)
		return;
	if (force) {
		process_order(&run->process, &(struct process_order){ .kind = ORDER_END });
	} else if (!asked) {
		run->stopping = true;
		process_signal(&run->process, SIGTERM);
	}
}

static void kill_process(void *context)
{
	const struct run *run = context;

	if (!run->process_runs)
		return;
	note("guest's process did not end when it was told to: it is killed");
	process_kill(&run->process);
}

static int measure(void *context, const char *disk, uint64_t *number, uint64_t *bytes)
{
	struct run *run = context;
	char name[8];

	for (size_t i = 0; i < run->disk_count; i++) {
		int result;

		run_disk_name(i, name, sizeof(name));
		if (strcmp(name, disk) != 0)
			continue;
		result = disk_measure(run->disks[i], bytes);
		/* Its process may write as far as the disk now goes. */
		if (result == 0 && run->process_runs)
			process_allow(&run->process, run_largest_file(run));
		*number = i;
		return result;
	}
	return -ENODEV;
}

static int set_balloon(void *context, uint64_t bytes)
{
	struct run *run = context;

	if (!run_has_balloon(run))
		return -ENOTSUP;
	if (bytes >= run->options.memory.size)
		return -ERANGE;
	/* The next start has it, too. */
	run->balloon_bytes = bytes;
	return 0;
}

static const struct control_ops ops = {
	.status = tell_status,
	.order = give_order,
	.stop = stop,
	.kill = kill_process,
	.measure = measure,
	.balloon = set_balloon,
};

int operate_open(struct run *run)
{
	const char *name = run->options.name, *console = run->options.console;
	int result;

	if (name)
		snprintf(run->name, sizeof(run->name), "%s", name);
	else
		snprintf(run->name, sizeof(run->name), "karma-%d", (int)run->pid);
	run->report = report_create();
	if (!run->report)
		return fail(-ENOMEM, "out of memory");
	control_init(&run->control, run->name, &ops, run, &run->terminal, run->report);
	/* Who gave no name may have no place for a socket, either, and does without. */
	result = control_listen(&run->control.socket, run->name, !name);
	if (result < 0 && name)
		return result;
	return strncmp(console, "unix:", 5) == 0 && console[5] ?
		control_listen_at(&run->control.console, console + 5) :
		0;
}

void operate_started(struct run *run)
{
	run->process_runs = true;
	run->process_started_at = nanoseconds();
}

void operate_ended(struct run *run)
{
	run->process_runs = false;
	control_process_ended(&run->control);
}
