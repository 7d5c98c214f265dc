/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * karma run in its two processes: the supervisor (supervisor.c), which the user has started, and for each
 * start of the guest one that runs it (child.c), a copy of the supervisor by fork().
 */
#ifndef KARMA_GUEST_INTERNAL_H
#define KARMA_GUEST_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "karma/boot.h"
#include "karma/control.h"
#include "karma/disk.h"
#include "karma/guest.h"
#include "karma/io.h"
#include "karma/report.h"
#include "karma/sandbox.h"
#include "karma/terminal.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "karma/watchdog.h"
#include "networks.h"
#include "notify.h"
#include "process.h"

/* How a guest ended, as far as another start may follow. */
enum guest_outcome { OUTCOME_END, OUTCOME_RESET, OUTCOME_PANIC };

/* What a guest's process leaves for the next one, in memory that all share: nobody trusts it. */
struct guest_shared {
	unsigned char end;		/* enum guest_outcome, for the supervisor: no more than a claim */
	unsigned char kernel_log_printed;
	atomic_uint disk_calls;		/* disk_count_calls() */
	struct limit limits[];		/* one for each disk: a restart brings no new burst */
};

struct guest {
	struct guest_options options;

	/* Lives on when the guest is started anew. */
	struct sandbox sandbox;
	struct guest_shared *shared;
	size_t shared_bytes;
	struct terminal terminal;
	bool terminal_open;
	struct disk **disks;		/* open and locked; devices share them */
	size_t disk_count;
	struct networks networks;
	struct notify notify;
	struct report *report;		/* of the guest's process, whichever it is */
	struct control control;
	char name[CONTROL_NAME_MAX + 1];	/* the guest's, given or made up */
	uint64_t balloon_bytes;		/* what the user wants its balloon to have */
	int signal_fd;
	pid_t pid;			/* the supervisor's */
	bool process_running;		/* as far as the supervisor knows; if not, the next start waits */
	bool restart_delay_logged;
	int64_t process_started_at;	/* nanoseconds(): that of now, or the last one */
	int tty;			/* the user's terminal, or -1 */
	int64_t timeout_at, grace_at;	/* milliseconds on CLOCK_MONOTONIC; 0: never */
	int64_t trim_at;		/* of the guest's process */
	bool stop_requested;		/* by a signal or a client: no more starts */
	int stop_signal;		/* the number of that signal */
	bool stopped_by_client;		/* by the control socket, and no SIGTERM has come since */

	/* Made anew for each start, in a process of its own. */
	unsigned starts;		/* before this one */
	struct boot_kernel kernel;
	struct process process;
	struct io_ring ring;
	struct vm vm;
	struct virtio_device *console, *balloon;
	struct watchdog watchdog;
	struct io_op keepalive_op;
	atomic_bool keepalive_pending;	/* of the I/O thread */
	int64_t idle_check_at;		/* when to look whether the guest has made a call; 0: never */
	int64_t cpu_time;		/* milliseconds of CPU that it had taken at the look before */
};

/* --- The supervisor's part for the control socket (control.c). */

/* Open it, and that of --console unix:PATH.  0, or a negative errno with a message printed. */
int operate_open(struct guest *guest);
/* From here on the process of the guest is there, or not. */
void operate_started(struct guest *guest);
void operate_ended(struct guest *guest);

static inline int64_t milliseconds(void)
{
	return nanoseconds() / 1000000;
}

/* The kernel's name for a disk: vda to vdz, then vdaa, ... */
void guest_disk_name(size_t index, char *name, size_t size);

/* Huge pages stay the guest's: see guest_memory_discard(). */
static inline bool guest_has_balloon(const struct guest *guest)
{
	return guest->options.balloon && !guest->options.memory.huge_pages;
}

/* What the user chose for such an end. */
static inline enum end_policy end_policy(const struct guest *guest, unsigned end)
{
	return end == OUTCOME_RESET ? guest->options.reboot :
		end == OUTCOME_PANIC ? guest->options.on_panic : END_EXIT;
}

static inline bool passed(int64_t moment)
{
	return moment && milliseconds() >= moment;
}

/* Nothing is there yet but what the user named. */
void guest_init(struct guest *guest);

/*
 * In the supervisor: serve what the guest's process, signals and clients want, until the process of that pidfd
 * ends.  If the guest's does not run, also no longer than until then (milliseconds(); 0: for ever), and than to
 * a signal.
 */
void supervise(struct guest *guest, int pidfd, int64_t until);

/* For a guest that --timeout ends. */
void log_timeout(const struct guest *guest);

/* In the supervisor and in the guest's process: how large a file may become; 0: nobody knows. */
uint64_t guest_largest_file(const struct guest *guest);

/*
 * Put into guest memory what the options name: the kernel, which is open, its command line, the initramfs
 * or Karma's own, and the command with what it is to know of its terminal.  Fills entry.  Once for
 * each start, before its first vCPU: files are read anew.  0, or a negative errno with a message
 * printed.
 */
int guest_load(const struct guest_options *options, const struct boot_kernel *kernel,
	const struct terminal *terminal, struct guest_memory *memory, struct boot_entry *entry);

/* In the supervisor, for each start; unpacks it if need be.  0, or a negative errno with a message printed. */
int guest_open_kernel(struct guest *guest);

/* In a new process: the guest, from its start to its end; the exit status. */
int guest_process_main(struct guest *guest);

/* Unmap what of the program only its start needed; it comes back when it is touched. */
void trim_program(void);

#endif
