// SPDX-License-Identifier: GPL-2.0-only
/* karma run: build a guest from the options, run it, and tell how it ended. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "karma/boot.h"
#include "karma/cli.h"
#include "karma/devices.h"
#include "karma/log.h"
#include "karma/nbd.h"
#include "karma/process.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "karma/watchdog.h"
#include "net.h"

#define OTHERS_IN_FLIGHT 16
#define DRAIN_POLL_MILLISECONDS 1
#define DRAIN_MOMENT_MILLISECONDS 500
#define RESTART_MILLISECONDS 1000	/* from one start to the next, at least */
#define TRIM_MILLISECONDS 1000		/* a guest that ends sooner never pays for it */

/* Of --die-with-parent; nobody else sends it. */
#define PARENT_SIGNAL SIGUSR2

/* From the supervisor to the guest's process, by their pipe: a disk may have grown. */
#define MEASURE_SIGNAL SIGUSR1

/* What a guest's process leaves for the next one, in memory that all share: nobody trusts it. */
struct run_kept {
	unsigned char again;		/* the guest is to be started anew */
	unsigned char told_of_pause;
	struct limit limits[];		/* one for each disk: a restart brings no new burst */
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
	int signal_fd;
	pid_t pid, parent;		/* the supervisor's, and its parent's */
	int tty;			/* the user's terminal, or -1 */
	int64_t timeout_at, grace_at;	/* milliseconds on CLOCK_MONOTONIC; 0: never */
	int64_t trim_at;		/* of the guest's process */
	bool leaving;			/* a signal wants us to end: no more starts */

	/* Made anew for each start, in a process of its own. */
	unsigned starts;		/* before this one */
	struct process process;
	struct io_ring ring;
	struct vm vm;
	struct virtio_device *console;
	struct watchdog watchdog;
	int64_t started_at;
};

static const char help[] =
	"usage: karma run --kernel FILE [OPTION]... [-- COMMAND [ARGUMENT]...]\n"
	"  --config FILE|NAME     read options from a file, or /etc/karma/NAME.conf; those of\n"
	"                         the command line win\n"
	"  --print-config         print all options as such a file, and run nothing\n"
	"  --kernel FILE          a bzImage (any Debian vmlinuz) or an ELF vmlinux\n"
	"  --initrd FILE          an initramfs, one or several; without one, Karma's own:\n"
	"                         $KARMA_GUEST_DIR/RELEASE/initramfs.img\n"
	"  --disk FILE[,ro][,direct][,overlay=FILE][,serial=TEXT][,iops=N][,bps=SIZE]\n"
	"      [,burst=SECONDS]   raw image or block device; the first, vda, is the root;\n"
	"                         what is written goes to the overlay, if there is one\n"
	"  --disk nbd:unix:PATH, nbd://HOST[:PORT][/EXPORT]  what an NBD server has; with\n"
	"                         ro, serial, iops, bps, burst and timeout=SECONDS\n"
	"  --net tap=NAME[,queues=N] | fd=N | user[,publish=[ADDR:]HOST:GUEST[/udp]]...\n"
	"        [,mac=MAC][,mtu=N][,bps=SIZE][,pps=N][,burst=SECONDS]\n"
	"                         a network: a TAP of the host, or what any user may (passt)\n"
	"  --cpus N               virtual CPUs, 1 to 64 (1)\n"
	"  --memory SIZE[,hugepages=on|off][,shared=on|off]  such as 256M or 2G (512M);\n"
	"                         of huge pages; in a file that other processes can map\n"
	"  --balloon on|off       give memory that the guest frees back to the host (on)\n"
	"  --cmdline TEXT         added to the kernel's command line; root= there wins\n"
	"  --console WHERE        stdio, pty, none or file:PATH (stdio)\n"
	"  --name NAME            the guest's name in messages\n"
	"  --log-format text|json  the form of messages on stderr (text)\n"
	"  --timeout SECONDS      end the guest then, with status 124\n"
	"  --grace SECONDS        time to power off after SIGTERM; then by force (30)\n"
	"  --reboot exit|restart  what a reboot does (exit)\n"
	"  --on-panic exit|restart|wait  what a panic does; wait keeps the guest (exit)\n"
	"  --watchdog SECONDS     a guest that is silent for so long counts as panicked\n"
	"  --die-with-parent      when karma's parent ends, do what SIGTERM does\n"
	"  --strict, --stats      end it when it uses absent I/O ports; print counters\n"
	"  --user NAME, --cgroup PATH  for root: what the guest's process is to run as, and in\n"
	"  --no-sandbox           leave that process all the rights that it was started with\n"
	"COMMAND runs in the initramfs, or on the disk's root, and its status is karma's.\n"
	"Exit status: 0 powered off, 1-123 COMMAND's, 124 timeout, 125 karma failed,\n"
	"126 the guest's kernel panicked or hangs, 127 the guest crashed, 128+N a signal\n"
	"ended COMMAND or karma.  All of it: karma(1).\n";

/* Signals come by a file descriptor; threads inherit that they are blocked. */
static int take_signals(struct run *run)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		sigaddset(&set, numbers[i]);
	if (run->options.die_with_parent)
		sigaddset(&set, PARENT_SIGNAL);
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* A reader that goes away, or a limit of file size, is an error of that write alone. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	run->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (run->signal_fd < 0)
		return fail(-errno, "signalfd: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	return 0;
}

/* With the signal blocked, so that it waits for the signal_fd. */
static int follow_parent(const struct run *run)
{
	if (!run->options.die_with_parent)
		return 0;
	if (prctl(PR_SET_PDEATHSIG, PARENT_SIGNAL) < 0)
		return fail(-errno, "--die-with-parent: can't watch the parent: %s: leave it out",
			strerror(errno));
	/* It may have ended before we asked. */
	if (getppid() == run->parent)
		return 0;
	return fail(-ESRCH, "--die-with-parent: process %d, the parent, has ended: start none",
		(int)run->parent);
}

static int check_host(void)
{
	int result;

	/* A CPU that tells of SVM or VT-x has a KVM that hands on hypercalls; others may hang. */
	if (cpu_has_virtualization())
		return 0;
	result = kvm_open();
	if (result < 0)
		return result;
	close(result);
	result = kvm_probe();
	return result < 0 ? fail(result, "%s", kvm_probe_message(result)) : 0;
}

static void user_leaves(void *context)
{
	struct run *run = context;

	process_signal(&run->process, SIGINT);
}

/* Operations that may be under way at a time: of the disks, the networks, and of all the rest. */
static unsigned most_in_flight(const struct run_options *options)
{
	return OTHERS_IN_FLIGHT + networks_in_flight(options) +
		options->disk_count * options->cpus * blk_queue_size(options->cpus);
}

static int open_console(struct run *run)
{
	int result = terminal_open(&run->terminal, run->options.console, &run->ring);

	if (result < 0)
		return result;
	run->terminal_made = true;
	run->terminal.leave = user_leaves;
	run->terminal.leave_context = run;
	return terminal_start(&run->terminal);
}

static int make_kept(struct run *run)
{
	size_t size = sizeof(*run->kept) + run->options.disk_count * sizeof(run->kept->limits[0]);
	void *kept = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (kept == MAP_FAILED)
		return fail(-errno, "out of memory");
	run->kept = kept;
	run->kept_bytes = size;
	return 0;
}

static int open_disks(struct run *run)
{
	const struct run_options *options = &run->options;

	run->disks = calloc(options->disk_count, sizeof(*run->disks));
	if (!run->disks && options->disk_count)
		return fail(-ENOMEM, "disks: out of memory");
	for (size_t i = 0; i < options->disk_count; i++) {
		int result = disk_open(&run->disks[i], &options->disks[i], &run->ring);

		if (result < 0)
			return result;
		limit_init(&run->kept->limits[i], &options->disks[i].limit);
		run->disk_count++;
	}
	return 0;
}

/* The kernel's name for a disk: vda to vdz, then vdaa, ... */
static void disk_name(size_t index, char *name, size_t size)
{
	if (index < 26)
		snprintf(name, size, "vd%c", (char)('a' + index));
	else
		snprintf(name, size, "vd%c%c", (char)('a' + index / 26 - 1),
			(char)('a' + index % 26));
}

/* No device has it yet, so it may be of any size. */
static void measure_disk(struct disk *disk)
{
	uint64_t size;

	if (disk_measure(disk, &size) == 0 && size)
		disk->size = size;
}

static int add_disk(
	struct run *run, const struct virtio_environment *environment, size_t index)
{
	const struct disk_options *options = &run->options.disks[index];
	struct virtio_device *device;
	struct disk *disk = disk_share(run->disks[index]);
	int result = disk_begin(disk, run->starts > 0);
	char name[8];

	if (result < 0)
		return result;
	measure_disk(disk);
	disk_name(index, name, sizeof(name));
	device = blk_create(environment, name, disk, options->serial, run->options.cpus);
	if (!device) {
		disk_close(disk);
		return fail(-ENOMEM, "disk %s: out of memory", options->path);
	}
	if (limit_is_set(&options->limit))
		blk_limit(device, &run->kept->limits[index]);
	return machine_add(&run->vm.machine, device);
}

static int add_balloon(struct run *run, const struct virtio_environment *environment)
{
	struct virtio_device *balloon;

	/* Huge pages stay the guest's: see guest_memory_discard(). */
	if (!run->options.balloon || run->options.memory.huge_pages)
		return 0;
	balloon = balloon_create(environment);
	return balloon ? machine_add(&run->vm.machine, balloon) : fail(-ENOMEM, "balloon: out of memory");
}

static int add_devices(struct run *run)
{
	const struct virtio_environment environment = { &run->vm.memory, &run->ring };
	struct virtio_device *rng;
	int result = 0;

	for (size_t i = 0; i < run->disk_count && result == 0; i++)
		result = add_disk(run, &environment, i);
	if (result == 0)
		result = networks_add(&run->networks, &run->vm.machine, &environment, run->starts > 0);
	if (result < 0)
		return result;
	run->console = console_create(&environment, &run->terminal);
	if (!run->console)
		return fail(-ENOMEM, "console: out of memory");
	result = machine_add(&run->vm.machine, run->console);
	if (result < 0)
		return result;
	rng = rng_create(&environment);
	result = rng ? machine_add(&run->vm.machine, rng) : fail(-ENOMEM, "rng: out of memory");
	return result == 0 ? add_balloon(run, &environment) : result;
}

static int64_t milliseconds(void)
{
	return nanoseconds() / 1000000;
}

/* What lives on when the guest is started anew. */
static int start(struct run *run)
{
	int result = sandbox_prepare(&run->sandbox, &run->options.sandbox);

	if (result == 0)
		result = check_host();
	if (result == 0)
		result = take_signals(run);
	if (result == 0)
		result = follow_parent(run);
	if (result == 0)
		result = make_kept(run);
	if (result == 0)
		result = open_console(run);
	if (result == 0)
		result = open_disks(run);
	if (result == 0)
		result = networks_open(&run->networks, &run->options, &run->ring);
	if (run->options.timeout)
		run->timeout_at = milliseconds() + run->options.timeout * 1000ll;
	return result;
}

/* How large a file of ours may become: a disk only grows by others; of the rest, nobody knows. */
static uint64_t largest_file(const struct run *run)
{
	const int outputs[] = { run->terminal.out_fd, STDERR_FILENO };
	uint64_t largest = 0;
	struct stat status;

	for (size_t i = 0; i < ARRAY_SIZE(outputs); i++) {
		if (fstat(outputs[i], &status) == 0 && S_ISREG(status.st_mode))
			return 0;
	}
	for (size_t i = 0; i < run->disk_count; i++) {
		uint64_t size;

		if (disk_measure(run->disks[i], &size) < 0)
			continue;
		/* An overlay has a map before its data, of a bit for 4 KiB. */
		if (run->options.disks[i].overlay)
			size += size / 4096 + MIB;
		if (size > largest)
			largest = size;
	}
	return largest;
}

/* That may be lost and made again. */
static unsigned connections(const struct run_options *options)
{
	unsigned count = 0;

	for (size_t i = 0; i < options->disk_count; i++)
		count += nbd_is_address(options->disks[i].path);
	return count;
}

static int close_sandbox(struct run *run)
{
	const struct sandbox_bounds bounds = {
		.file_bytes = largest_file(run),
		.files = connections(&run->options),
		.threads = vm_threads_max(&run->vm),
	};

	run->vm.confined = !run->options.sandbox.off;
	return sandbox_enter(&run->sandbox, &bounds);
}

static int have_connected(void *context, unsigned server, unsigned index)
{
	struct run *run = context;

	return process_connect(&run->process, &(struct process_call){ server, index });
}

/* Nothing of the guest before is here, but what it has left in the shared memory. */
static void hand_on(struct run *run)
{
	/* Signals come by way of the supervisor. */
	close_fd(&run->signal_fd);
	nbd_set_dialer(have_connected, run);
	terminal_hand_on(&run->terminal);
	for (size_t i = 0; i < run->disk_count; i++)
		limit_hand_on(&run->kept->limits[i], &run->options.disks[i].limit);
	networks_hand_on(&run->networks);
}

static int start_guest(struct run *run)
{
	struct boot_entry entry;
	int result;

	hand_on(run);
	result = io_ring_init(&run->ring, most_in_flight(&run->options));
	if (result == 0)
		result = vm_init(&run->vm, &run->options.memory, run->options.cpus);
	if (result < 0)
		return result;
	run->vm.ring = &run->ring;
	run->vm.terminal = &run->terminal;
	run->vm.strict = run->options.strict;
	run->vm.stats = run->options.stats;
	run->vm.machine.watchdog = run->options.watchdog;
	if (run->options.command)
		terminal_hold_input(&run->terminal);
	result = guest_load(&run->options, &run->terminal, &run->vm.memory, &entry);
	if (result == 0)
		result = add_devices(run);
	if (result == 0)
		result = vm_prepare(&run->vm, &entry);
	if (result == 0)
		result = close_sandbox(run);
	run->started_at = milliseconds();
	run->trim_at = run->started_at + TRIM_MILLISECONDS;
	watchdog_start(&run->watchdog, run->options.watchdog, run->started_at);
	return result == 0 ? vm_start(&run->vm) : result;
}

static bool passed(int64_t moment)
{
	return moment && milliseconds() >= moment;
}

/* For poll(): how long until the first of two moments; -1 for ever. */
static int until(int64_t one, int64_t other)
{
	int64_t first = other && (!one || other < one) ? other : one;
	int64_t left;

	if (!first)
		return -1;
	left = first - milliseconds();
	return left < 0 ? 0 : left > INT_MAX ? INT_MAX : left;
}

static int until_next_look(const struct run *run)
{
	int end = until(run->timeout_at, run->grace_at), trim = until(run->trim_at, 0);
	int look = watchdog_interval(&run->watchdog);

	end = end < 0 || (trim >= 0 && trim < end) ? trim : end;
	return end < 0 || (look >= 0 && look < end) ? look : end;
}

/* SIGTERM, the first time: the guest may power off by itself, if it has the driver for that. */
static bool ask_to_power_off(struct run *run)
{
	if (run->grace_at || !run->options.grace || !vm_guest_knows_karma(&run->vm))
		return false;
	run->grace_at = milliseconds() + run->options.grace * 1000ll;
	machine_press_power_button(&run->vm.machine);
	return true;
}

/* The signal comes when the thread ended that started us: its process may live on. */
static bool parent_ended(const struct run *run)
{
	if (getppid() == run->parent)
		return false;
	note("process %d, the parent, has ended: the guest is to power off, as --die-with-parent has it",
		(int)run->parent);
	return true;
}

static int find_tty(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (isatty(fd))
			return fd;
	}
	return -1;
}

/*
 * SIGHUP means two things.  Who closes a terminal wants what runs on it to end; a terminal that is
 * still there, or that never was, has not sent it.
 */
static bool terminal_hung_up(const struct run *run)
{
	struct pollfd tty = { .fd = run->tty };

	return run->tty >= 0 && poll(&tty, 1, 0) > 0 && (tty.revents & POLLHUP);
}

/* The supervisor has a signal for the guest's process. */
static void pass_on_signal(struct run *run)
{
	struct signalfd_siginfo info;
	int number;

	if (read(run->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	number = info.ssi_signo;
	if (number == PARENT_SIGNAL)
		number = parent_ended(run) ? SIGTERM : 0;
	if (number == SIGHUP && !terminal_hung_up(run)) {
		number = MEASURE_SIGNAL;
		process_allow(&run->process, largest_file(run));
	}
	if (number)
		process_signal(&run->process, number);
	if (number && number != SIGWINCH && number != MEASURE_SIGNAL)
		run->leaving = true;
}

/* The signal that wants us to end, or 0. */
static int take_signal(struct run *run)
{
	int number = process_take_signal(&run->process);

	switch (number) {
	case SIGWINCH:
		console_resized(run->console);
		return 0;
	case MEASURE_SIGNAL:
		machine_measure(&run->vm.machine);
		return 0;
	default:
		return number;
	}
}

static void serve_signal(struct run *run)
{
	int number = take_signal(run);

	if (number == 0 || (number == SIGTERM && ask_to_power_off(run)))
		return;
	vm_end(&run->vm, VM_STOPPED, STATUS_SIGNAL + number);
}

static void tell_timeout(const struct run *run)
{
	note("guest is still running after %u seconds: ended by --timeout", run->options.timeout);
}

static void end_in_time(struct run *run)
{
	if (passed(run->timeout_at)) {
		tell_timeout(run);
		vm_end(&run->vm, VM_STOPPED, STATUS_TIMEOUT);
	} else if (passed(run->grace_at)) {
		note("guest has not powered off %u seconds after SIGTERM: ended by --grace",
			run->options.grace);
		vm_end(&run->vm, VM_STOPPED, STATUS_SIGNAL + SIGTERM);
	}
}

static void trim_in_time(struct run *run)
{
	if (!passed(run->trim_at))
		return;
	trim_program();
	run->trim_at = 0;
}

static void look_at_watchdog(struct run *run)
{
	uint64_t feeds = atomic_load(&run->vm.machine.feeds);

	if (!watchdog_look(&run->watchdog, feeds, milliseconds()) ||
		atomic_load(&run->vm.end) != VM_RUNNING)
		return;
	note("watchdog: the guest hangs, since it gave no sign of life for %u seconds: see what it "
	     "printed last, or give a longer --watchdog",
		run->options.watchdog);
	vm_end(&run->vm, VM_HANG, 0);
}

/* Until the guest, the user, a signal or the clock ends it. */
static void wait_for_end(struct run *run)
{
	while (atomic_load(&run->vm.end) == VM_RUNNING) {
		struct pollfd watched[] = {
			{ .fd = run->vm.end_fd, .events = POLLIN },
			{ .fd = run->process.signals[0], .events = POLLIN },
		};

		if (poll(watched, ARRAY_SIZE(watched), until_next_look(run)) > 0 &&
			watched[1].revents)
			serve_signal(run);
		end_in_time(run);
		trim_in_time(run);
		look_at_watchdog(run);
	}
}

/* While the guest is halted: wait for a signal, for at most so long; one that wants an end is to leave. */
static void wait_for_signal(struct run *run, int timeout)
{
	struct pollfd watched = { .fd = run->process.signals[0], .events = POLLIN };

	if (poll(&watched, 1, timeout) > 0 && take_signal(run))
		run->leaving = true;
}

/*
 * Nothing that the guest printed is lost to a slow reader: a signal cuts the wait short.  Who ended
 * the guest by force, or does not read the pty, gets what can be had in a moment.
 */
static void drain_console(struct run *run)
{
	bool patient = atomic_load(&run->vm.end) != VM_STOPPED && run->terminal.pty_slave < 0;
	int64_t end = patient ? 0 : milliseconds() + DRAIN_MOMENT_MILLISECONDS;

	while (terminal_pending(&run->terminal) && !passed(end) && !run->leaving)
		wait_for_signal(run, DRAIN_POLL_MILLISECONDS);
}

/* A status that is Karma's own would mislead whoever asks. */
static int command_status(unsigned status)
{
	if (status < STATUS_TIMEOUT || status > STATUS_CRASH)
		return status;
	note("the command's status %u is told as %d, since 124 to 127 are Karma's own", status,
		STATUS_GUEST_MAX);
	return STATUS_GUEST_MAX;
}

static int exit_status(const struct vm *vm)
{
	switch (atomic_load(&vm->end)) {
	case VM_EXIT:
		return command_status(vm->end_status);
	case VM_POWER_OFF:
		return 0;
	case VM_RESET:
		if (vm_guest_knows_karma(vm))
			return 0;
		note("guest reset before it found out that it runs on Karma: its kernel panicked early, most "
		     "likely: give it an --initrd that loads virtio_karma, or more --memory");
		return STATUS_PANIC;
	case VM_PANIC:
	case VM_HANG:
		return STATUS_PANIC;
	case VM_CRASH:
		return STATUS_CRASH;
	case VM_STOPPED:
		return vm->end_status;
	default:
		return STATUS_FAILURE;
	}
}

/* A reset before the guest knew of Karma was a panic. */
static enum end_policy chosen_policy(const struct run *run)
{
	/* Who asked it to power off wants it gone. */
	if (run->grace_at)
		return END_EXIT;
	switch (atomic_load(&run->vm.end)) {
	case VM_RESET:
		return vm_guest_knows_karma(&run->vm) ? run->options.reboot : run->options.on_panic;
	case VM_PANIC:
	case VM_HANG:
		return run->options.on_panic;
	default:
		return END_EXIT;
	}
}

/* A guest that resets at once, again and again, is not to keep the host busy. */
static void pause_before_restart(struct run *run)
{
	int64_t earliest = run->started_at + RESTART_MILLISECONDS;

	if (passed(earliest))
		return;
	if (!run->kept->told_of_pause)
		note("guest ended within a second of its start: it is started once a second at most");
	run->kept->told_of_pause = true;
	while (!run->leaving && !passed(earliest) && !passed(run->timeout_at))
		wait_for_signal(run, until(earliest, run->timeout_at));
}

static void keep_until_user_leaves(struct run *run)
{
	note("guest is halted and kept in process %d, as --on-panic wait has it: a signal or Ctrl-A x "
	     "ends it",
		(int)run->pid);
	while (!run->leaving && !passed(run->timeout_at))
		wait_for_signal(run, until(run->timeout_at, 0));
}

/* Do what the user chose for such an end of the guest, which is halted; true: start it anew. */
static bool follow_policy(struct run *run, int *status)
{
	switch (chosen_policy(run)) {
	case END_EXIT:
		return false;
	case END_WAIT:
		keep_until_user_leaves(run);
		return false;
	case END_RESTART:
		break;
	}
	pause_before_restart(run);
	if (!run->leaving && passed(run->timeout_at)) {
		tell_timeout(run);
		*status = STATUS_TIMEOUT;
		return false;
	}
	return !run->leaving;
}

/* The guest's process, from a start to its end: its exit status. */
static int run_process(struct run *run)
{
	int status = STATUS_FAILURE;

	if (start_guest(run) < 0)
		return STATUS_FAILURE;
	wait_for_end(run);
	vm_halt(&run->vm);
	if (atomic_load(&run->vm.end) == VM_HANG)
		vm_tell_where(&run->vm);
	drain_console(run);
	status = exit_status(&run->vm);
	run->kept->again = follow_policy(run, &status);
	vm_stop(&run->vm);
	if (run->options.stats && !run->kept->again)
		stats_print(&run->vm);
	return status;
}

/* The supervisor, from a start to its end: the status, and whether there is to be another. */
static int run_once(struct run *run, bool *again)
{
	struct pollfd watched[3];
	pid_t pid;

	run->kept->again = false;
	*again = false;
	pid = process_start(&run->process, &run->sandbox);
	if (pid < 0)
		return STATUS_FAILURE;
	/* All that it has made ends with it. */
	if (pid == 0)
		_exit(run_process(run));
	run->starts++;
	trim_program();
	watched[0] = (struct pollfd){ .fd = run->process.pidfd, .events = POLLIN };
	watched[1] = (struct pollfd){ .fd = run->signal_fd, .events = POLLIN };
	watched[2] = (struct pollfd){ .fd = run->process.calls[0], .events = POLLIN };
	do {
		if (poll(watched, ARRAY_SIZE(watched), -1) < 0)
			continue;
		if (watched[1].revents)
			pass_on_signal(run);
		if (watched[2].revents)
			process_serve(&run->process, nbd_connect);
	} while (!watched[0].revents);
	*again = run->kept->again && !run->leaving;
	return process_wait(&run->process, STATUS_FAILURE);
}

static void finish(struct run *run)
{
	if (run->terminal_made)
		terminal_close(&run->terminal);
	for (size_t i = 0; i < run->disk_count; i++) {
		disk_close(run->disks[i]);
		limit_release(&run->kept->limits[i]);
	}
	if (run->kept)
		munmap(run->kept, run->kept_bytes);
	free(run->disks);
	networks_close(&run->networks);
	close_fd(&run->signal_fd);
}

static int run_guest(struct run *run)
{
	int status = STATUS_FAILURE;
	bool again = start(run) == 0;

	while (again)
		status = run_once(run, &again);
	finish(run);
	return status;
}

int command_run(int argc, char **argv)
{
	struct run run = {
		.signal_fd = -1,
		.pid = getpid(),
		.parent = getppid(),
		.tty = find_tty(),
	};
	int status = STATUS_FAILURE;
	int result;

	result = run_options_parse(&run.options, argc, argv);
	if (result == 0 && run.options.help) {
		fputs(help, stdout);
		status = 0;
	} else if (result == 0 && run.options.print_config) {
		status = run_options_print(&run.options, stdout) < 0 ? STATUS_FAILURE : 0;
	} else if (result == 0) {
		if (run.options.name)
			log_set_name(run.options.name);
		status = run_guest(&run);
	}
	run_options_release(&run.options);
	return status;
}
