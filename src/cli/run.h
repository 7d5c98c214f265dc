/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * karma run in its two processes: the supervisor (run.c), which the user has started, and for each
 * start of the guest one that runs it (guest.c), a copy of the supervisor by fork().
 */
#ifndef KARMA_CLI_RUN_H
#define KARMA_CLI_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "karma/boot.h"
#include "karma/cli.h"
#include "karma/control.h"
#include "karma/disk.h"
#include "karma/io.h"
#include "karma/notify.h"
#include "karma/process.h"
#include "karma/report.h"
#include "karma/sandbox.h"
#include "karma/terminal.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "karma/watchdog.h"
#include "net.h"

/* How a guest ended, as far as another start may follow. */
enum run_end { RUN_ENDED, RUN_RESET, RUN_PANICKED };

/* What a guest's process leaves for the next one, in memory that all share: nobody trusts it. */
struct run_kept {
	unsigned char end;		/* enum run_end, for the supervisor: no more than a claim */
	unsigned char told_kernel_log;
	atomic_uint disk_calls;		/* disk_set_blocking_counter() */
	struct rate_limiter limits[];		/* one for each disk: a restart brings no new burst */
};

struct run {
	struct run_options options;

	/* Lives on when the guest is started anew. */
	struct sandbox sandbox;
	struct run_kept *kept;
	size_t kept_bytes;
	struct terminal terminal;
	bool terminal_made;
	struct disk **disks;		/* open and locked; devices share them */
	size_t disk_count;
	struct networks networks;
	struct notify notify;
	struct report *report;		/* of the guest's process, whichever it is */
	struct control control;
	char name[CONTROL_NAME_MAX + 1];	/* the guest's, given or made up */
	uint64_t balloon_bytes;		/* what the user wants its balloon to have */
	int signal_fd;
	pid_t pid, parent;		/* the supervisor's, and its parent's */
	bool process_runs;		/* as far as the supervisor knows; if not, the next start waits */
	bool told_of_pause;
	int64_t process_started_at;	/* nanoseconds(): that of now, or the last one */
	int tty;			/* the user's terminal, or -1 */
	int64_t timeout_at, grace_at;	/* milliseconds on CLOCK_MONOTONIC; 0: never */
	int64_t trim_at;		/* of the guest's process */
	bool leaving;			/* a signal wants us to end: no more starts */
	int left_by;			/* its number */
	bool stopping;			/* by the control socket, and no SIGTERM has come since */

	/* Made anew for each start, in a process of its own. */
	unsigned starts;		/* before this one */
	struct boot_kernel kernel;
	struct process process;
	struct io_ring ring;
	struct vm vm;
	struct virtio_device *console, *balloon;
	struct watchdog watchdog;
	struct io_op alive_op;
	atomic_bool alive_asked;	/* of the I/O thread */
	int64_t silence_at;		/* when to look whether the guest has made a call; 0: never */
	int64_t cpu_time;		/* milliseconds of CPU that it had taken at the look before */
};

/* --- The supervisor's part for the control socket (operate.c). */

/* Open it, and that of --console unix:PATH.  0, or a negative errno with a message printed. */
int operate_open(struct run *run);
/* From here on the process of the guest is there, or not. */
void operate_started(struct run *run);
void operate_ended(struct run *run);

static inline int64_t milliseconds(void)
{
	return nanoseconds() / 1000000;
}

/* The kernel's name for a disk: vda to vdz, then vdaa, ... */
void run_disk_name(size_t index, char *name, size_t size);

/* Huge pages stay the guest's: see guest_memory_discard(). */
static inline bool run_has_balloon(const struct run *run)
{
	return run->options.balloon && !run->options.memory.huge_pages;
}

/* What the user chose for such an end. */
static inline enum end_policy run_policy(const struct run *run, unsigned end)
{
	return end == RUN_RESET ? run->options.reboot :
		end == RUN_PANICKED ? run->options.on_panic : END_EXIT;
}

static inline bool passed(int64_t moment)
{
	return moment && milliseconds() >= moment;
}

/* Nothing is there yet but what the user named. */
void run_init(struct run *run);

/*
 * In the supervisor: serve what the guest's process, signals and clients want, until the process of that pidfd
 * ends.  If the guest's does not run, also no longer than until then (milliseconds(); 0: for ever), and than to
 * a signal.
 */
void run_supervise(struct run *run, int pidfd, int64_t until);

/* For a guest that --timeout ends. */
void run_tell_timeout(const struct run *run);

/* In the supervisor and in the guest's process: how large a file may become; 0: nobody knows. */
uint64_t run_largest_file(const struct run *run);

/* In the supervisor, for each start; unpacks it if need be.  0, or a negative errno with a message printed. */
int run_open_kernel(struct run *run);

/* In a new process: the guest, from its start to its end; the exit status. */
int run_guest_process(struct run *run);

#endif
