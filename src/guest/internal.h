/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the two processes of a guest share in code: the supervisor (guest.c, supervisor.c, signals.c, control.c,
 * kernel.c), which the user has started, and the guest's process (child.c, snapshot.c, orders.c, timers.c), a
 * copy of it by fork(), anew for each start.
 *
 * The supervisor has one thread.  In the guest's process all of this runs on the main thread, beside the
 * vCPU threads and the I/O thread (karma/vm.h), unless said otherwise.  Functions that return int return
 * 0, or a negative errno with a message printed, unless said otherwise.
 */
#ifndef KARMA_GUEST_INTERNAL_H
#define KARMA_GUEST_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent.h"
#include "clock.h"
#include "karma/boot.h"
#include "karma/control.h"
#include "karma/disk.h"
#include "karma/guest.h"
#include "karma/io.h"
#include "karma/rate_limiter.h"
#include "karma/report.h"
#include "karma/sandbox.h"
#include "karma/terminal.h"
#include "karma/vm.h"
#include "karma/vsock_connector.h"
#include "karma/watchdog.h"
#include "networks.h"
#include "notify.h"
#include "process.h"
#include "shares.h"
#include "saver.h"
#include "warm.h"

/* How one start of a guest ended, as far as the choice of another start goes. */
enum guest_outcome { OUTCOME_END, OUTCOME_RESET, OUTCOME_PANIC };

/*
 * Memory that the supervisor and all guest's processes share.  A guest that has broken out can write
 * it, so whoever reads it checks it, or can bear any value.
 */
struct guest_shared {
	unsigned char end;		/* enum guest_outcome of the last start; any other value: OUTCOME_END */
	unsigned char kernel_log_printed;	/* bool */
	bool image_refused;		/* of a warm start */
	atomic_uint disk_calls;		/* disk_set_blocking_counter() */
	struct rate_limiter limits[];		/* one for each disk: a restart brings no new burst */
};

struct guest {
	struct guest_options options;

	/* Lives on over restarts.  The guest's process has a copy of it, or shares it where it is shared memory. */
	struct sandbox sandbox;
	struct guest_shared *shared;
	size_t shared_bytes;
	struct terminal terminal;
	bool terminal_open;
	struct disk **disks;		/* open and locked; each device holds a reference */
	size_t disk_count;
	struct networks networks;
	char *initramfs;		/* Karma's own, malloc'ed; NULL: the user's, or none */
	struct agent_client agent;
	struct shares shares;		/* the servers are of one start */
	struct vsock_connector vsock;	/* open while there is a guest's process */
	struct notify notify;
	struct report *report;		/* in shared memory: what the guest's process reports */
	struct control control;
	char name[CONTROL_NAME_MAX + 1];	/* as given, or karma-PID */
	uint64_t balloon_bytes;		/* the size that the user has set last */
	pid_t pid;			/* the supervisor's */
	int64_t timeout_at, grace_at;	/* when --timeout and --grace end it; grace_at: in the guest's process */

	/* The supervisor's. */
	int signal_fd;
	int tty;			/* of standard input, output or error, the first that is a terminal; or -1 */
	struct process process;		/* the guest's; its end of the pipes is in use in that process too */
	bool process_running;		/* false: before the first start, and between two */
	int64_t process_started_at;	/* nanoseconds(), of the last start */
	unsigned starts;		/* before this one */
	bool restart_delay_logged;
	bool stop_requested;		/* no more starts; in the guest's process: don't wait for output */
	int stop_signal;		/* whose number is the exit status then */
	struct saver saver;	/* under way, and figures of the last one */
	struct warm warm;
	int64_t note_touched_at;
	bool stopped_by_client;		/* asked to power off by `karma stop`: one SIGTERM more says nothing new */

	/* The guest's process's, made anew for each start; the kernel is opened before the fork. */
	struct boot_kernel kernel;
	struct io_ring ring;		/* disks, networks and the terminal have its address from the first */
	struct vm vm;
	struct virtio_device *console, *balloon;
	struct watchdog watchdog;
	struct io_op keepalive_op;
	atomic_bool keepalive_pending;	/* keepalive_op is under way on the I/O thread */
	int64_t trim_at;		/* when to unmap what only the start needed */
	int64_t idle_check_at;		/* when to check whether a guest without a hypercall idles */
	int64_t cut_check_at;		/* when to check whether a file that is memory was cut; 0: there is none */
	int64_t cpu_time;		/* milliseconds of CPU time at the last such check */
};

/* Huge pages are never given back: see guest_memory_discard(). */
static inline bool guest_has_balloon(const struct guest *guest)
{
	return guest->options.balloon && !guest->options.memory.huge_pages;
}

/* What the user has chosen to follow such an outcome. */
static inline enum end_policy end_policy(const struct guest *guest, unsigned outcome)
{
	return outcome == OUTCOME_RESET ? guest->options.reboot :
		outcome == OUTCOME_PANIC ? guest->options.on_panic : END_EXIT;
}

/* This start goes on from a saved guest; those that follow boot. */
static inline bool guest_restores(const struct guest *guest)
{
	return guest->options.restore.state && guest->starts == 0;
}

/* --- guest.c: the supervisor, from the first start to the end. */

/* Everything closed or absent; the options are the caller's to set. */
void guest_init(struct guest *guest);

/* Print that --timeout has ended the guest.  Either process. */
void log_timeout(const struct guest *guest);

/* --- supervisor.c: its event loop. */

/* Whether as many files may be open as the loop polls. */
int supervisor_check_files(void);

/*
 * Serve signals, clients, the service manager, NBD connections and the guest's process until the process
 * of pidfd (-1: none) ends.  While the guest's process is not running, return also at `until` (as in clock.h),
 * and once a stop is requested.
 */
void supervise(struct guest *guest, int pidfd, int64_t until);

/* --- signals.c: signals to the supervisor. */

/* Block signals and receive them by signal_fd; watch the parent for --die-with-parent. */
int signals_open(struct guest *guest);
/* Read one, and pass it on to the guest's process. */
void signals_serve(struct guest *guest);

/* --- control.c: what the control socket's server asks of the supervisor. */

/* Listen on the guest's socket, and on that of --console unix:PATH. */
int operations_open(struct guest *guest);
/* The guest's process has started, or ended. */
void operations_started(struct guest *guest);
void operations_ended(struct guest *guest);

/* --- kernel.c. */

/* In the supervisor, for each start: open the kernel; unpack it if the cache does not have it. */
int guest_open_kernel(struct guest *guest);

/* --- disks.c. */

/* Open and lock them all; disks_close() in any case. */
int disks_open(struct guest *guest);
void disks_close(struct guest *guest);
/* In the guest's process: check the limits that the one before has left. */
void disks_after_fork(struct guest *guest);
/* In the guest's process: make a device for each. */
int disks_add(struct guest *guest, const struct virtio_environment *environment);
/* io_uring operations that they may have under way at a time. */
unsigned disks_in_flight(const struct guest_options *options);
/* Descriptors that they may still need behind the sandbox: one for each NBD connection, to make it anew. */
unsigned disks_connections(const struct guest_options *options);
/* A bound for the size of any file of the guest's process, to follow disks that grow; 0: none is known. */
uint64_t disks_file_limit(const struct guest *guest);
/* The kernel's name for a disk: vda to vdz, then vdaa, ...; or pmem0, ... */
void guest_disk_name(const struct guest_options *options, size_t number, char *name, size_t size);
/* In the guest's process: say which disk, that was memory, has been cut, if one was. */
bool disks_tell_of_cut(const struct guest *guest);

/* --- saved_disks.c: in the process that makes a snapshot. */

/* Before the guest pauses, so that the pause is short: have the files of overlays written to their disks. */
void disks_flush_overlays(const struct guest *guest);
/*
 * While the guest pauses, without a request in flight: copy overlays into the directory, and note in the options of all
 * disks what a restore is to find (`from`, `generation`): this process prints the configuration from them.
 */
int disks_save(const struct guest *guest, int directory);
/* When the guest goes on. */
int disks_sync_saved(const struct guest *guest, int directory);


/* --- load.c. */

/*
 * In the supervisor, for each start without --initrd: the path of Karma's initramfs for this kernel's release,
 * malloc'ed.  0 with a NULL path if there is none: the kernel may have all it needs built in.  A command needs one,
 * and fails without.
 */
int guest_find_initramfs(const struct guest_options *options, char **path);

/* The kernel's command line, malloc'ed; NULL if memory is short. */
char *guest_make_cmdline(const struct guest_options *options);

/*
 * For each start, before its first vCPU: write to guest memory the kernel, which is open, its command line,
 * and the initramfs (or Karma's own for that kernel; or NULL).  Fills entry.  Files are read anew.
 */
int guest_load(const struct guest_options *options, const struct boot_kernel *kernel, const char *initramfs,
	struct guest_memory *memory, struct boot_entry *entry);

/* What init asks for by the call `command`, for each start: *text is malloc'ed.  0, or a negative errno with a message printed. */
int guest_make_command(const struct guest_options *options, const struct terminal *terminal, char **text, size_t *bytes);

/* --- child.c: the guest's process. */

/* Run one start of the guest to its end.  The exit status for _exit(): resources go with the process. */
int guest_process_main(struct guest *guest);

/* Print the kernel's log, if the guest has no driver that would have shown it: once, over all starts. */
void print_kernel_log(struct guest *guest);

/* --- note_touched.c: in the supervisor, which pages a restored guest touches first, for those that follow. */

/* Its process has started: note them in a moment, if the snapshot does not tell yet. */
void note_touched_start(struct guest *guest);
/* If it is time. */
void note_touched_serve(struct guest *guest);

/* --- snapshot.c: the guest's state, saved and restored. */

/*
 * In the guest's process: pause the guest, let all requests in flight come to their end, and save its state for
 * guest_read_state() if that is wanted.  It stays paused; on failure it goes on if it ran.
 */
int guest_quiesce(struct guest *guest, bool and_save);
/*
 * The same at the guest's call `checkpoint`: no driver has looked at a device yet, and none is saved.  It waits there
 * until guest_resume(), whatever the result.  -ECANCELED: it does not wait.
 */
int guest_save_checkpoint(struct guest *guest);
/*
 * In the supervisor, once ORDER_SNAPSHOT or ORDER_CHECKPOINT was served and until ORDER_RESUME: copy the state from the guest's process, as
 * many bytes as there are, SNAPSHOT_STATE_MAX at most.  It is as hostile as that process may be.
 */
int64_t guest_read_state(const struct guest *guest, void *to);
/* Free what is saved. */
void guest_forget_state(struct guest *guest);
/* In the guest's process, before its vCPUs start: restore the state of the options. */
int guest_restore(struct guest *guest);

/* --- orders.c: what the supervisor has the guest's process do. */

/* Pause and resume; 0, or -ESRCH without a message: it has ended. */
int guest_pause(struct guest *guest);
int guest_resume(struct guest *guest);
/* Serve the next order, if there is one.  The number of a signal that is to end the guest, or 0. */
int orders_serve(struct guest *guest);
/* The same while the guest runs: such a signal ends it; SIGTERM first asks it to power off, if --grace allows. */
void orders_serve_running(struct guest *guest);

/* --- timers.c: what the guest's process does when time has passed. */

void timers_start(struct guest *guest);
/* For poll(): milliseconds until the next one, or -1. */
int timers_timeout(const struct guest *guest);
void timers_run(struct guest *guest);
/* The guest was paused, and had no chance to feed its watchdog. */
void timers_resume(struct guest *guest);
/* An order has touched pages that trim_program() had unmapped: do it again, later. */
void timers_trim_later(struct guest *guest);

/* --- trim.c. */

/* Unmap the program's read-only pages: most are needed at the start only, and the file has them. */
void trim_program(void);

#endif
