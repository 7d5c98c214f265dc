// SPDX-License-Identifier: GPL-2.0-only
/* karma run: the process that runs the guest, from a start to its end. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "karma/boot.h"
#include "karma/devices.h"
#include "karma/kernel_log.h"
#include "karma/log.h"
#include "karma/nbd_connector.h"
#include "run.h"

#define OTHERS_IN_FLIGHT 16
#define DRAIN_POLL_MILLISECONDS 1
#define DRAIN_MOMENT_MILLISECONDS 500
#define TRIM_MILLISECONDS 1000		/* a guest that ends sooner never pays for it */
#define SILENCE_MILLISECONDS 10000

static void user_leaves(void *context)
{
	struct run *run = context;

	process_signal(&run->process, SIGINT);
}

/* Nothing of the guest before is here, but what it has left in the shared memory. */
static void hand_on(struct run *run)
{
	/* Signals come by way of the supervisor, and so does what its clients want. */
	close_fd(&run->signal_fd);
	notify_hand_on(&run->notify);
	control_leave(&run->control);
	nbd_connectors_after_fork();
	terminal_start(&run->terminal);
	run->terminal.leave = user_leaves;
	run->terminal.leave_context = run;
	for (size_t i = 0; i < run->disk_count; i++)
		rate_limiter_start(&run->kept->limits[i], &run->options.disks[i].limit);
	networks_hand_on(&run->networks);
}

/* Operations that may be under way at a time: of the disks, the networks, and of all the rest. */
static unsigned most_in_flight(const struct run_options *options)
{
	return OTHERS_IN_FLIGHT + networks_in_flight(options) +
		options->disk_count * options->cpus * blk_queue_size(options->cpus);
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
	int result = disk_start(disk, run->starts > 0);
	char name[8];

	if (result < 0)
		return result;
	measure_disk(disk);
	run_disk_name(index, name, sizeof(name));
	device = blk_create(environment, name, disk, options->serial, run->options.cpus);
	if (!device) {
		disk_close(disk);
		return fail(-ENOMEM, "disk %s: out of memory", options->path);
	}
	if (rate_limit_is_set(&options->limit))
		blk_limit(device, &run->kept->limits[index]);
	return machine_add(&run->vm.machine, device);
}

static int add_balloon(struct run *run, const struct virtio_environment *environment)
{
	if (!run_has_balloon(run))
		return 0;
	run->balloon = balloon_create(environment, run->balloon_bytes);
	if (!run->balloon)
		return fail(-ENOMEM, "balloon: out of memory");
	return machine_add(&run->vm.machine, run->balloon);
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
		.file_bytes = run_largest_file(run),
		.files = connections(&run->options),
		.threads = vm_threads_max(&run->vm),
	};

	run->vm.confined = !run->options.sandbox.off;
	return sandbox_enter(&run->sandbox, &bounds);
}

static int start_guest(struct run *run)
{
	struct boot_entry entry;
	int64_t now;
	int result;

	hand_on(run);
	result = io_ring_init(&run->ring, most_in_flight(&run->options));
	if (result == 0)
		result = vm_init(&run->vm, &run->options.memory, run->options.cpus, run->options.pmu);
	if (result < 0)
		return result;
	run->vm.ring = &run->ring;
	run->vm.terminal = &run->terminal;
	run->vm.up_fd = run->notify.up_fd;
	run->vm.strict = run->options.strict;
	run->vm.stats = run->options.stats;
	run->vm.machine.watchdog = run->options.watchdog;
	if (run->options.command)
		terminal_hold_input(&run->terminal);
	result = guest_load(&run->options, &run->kernel, &run->terminal, &run->vm.memory, &entry);
	boot_kernel_close(&run->kernel);
	if (result == 0)
		result = add_devices(run);
	if (result == 0)
		result = vm_prepare(&run->vm, &entry);
	if (result == 0)
		result = close_sandbox(run);
	now = milliseconds();
	run->trim_at = now + TRIM_MILLISECONDS;
	run->silence_at = now + SILENCE_MILLISECONDS;
	watchdog_start(&run->watchdog, run->options.watchdog, now);
	return result == 0 ? vm_start(&run->vm) : result;
}

static int64_t cpu_milliseconds(void)
{
	struct timespec taken;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &taken);
	return taken.tv_sec * 1000ll + taken.tv_nsec / 1000000;
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

idle_path static int until_next_look(const struct run *run)
{
	int end = until(run->timeout_at, run->grace_at), trim = until(run->trim_at, run->silence_at);
	int look = watchdog_interval(&run->watchdog);

	end = end < 0 || (trim >= 0 && trim < end) ? trim : end;
	return end < 0 || (look >= 0 && look < end) ? look : end;
}

static int pause_guest(struct run *run)
{
	if (atomic_load(&run->vm.end) != VM_RUNNING)
		return -ESRCH;
	vm_pause(&run->vm);
	report_set_state(run->report, GUEST_PAUSED);
	return 0;
}

static int resume_guest(struct run *run)
{
	if (atomic_load(&run->vm.end) != VM_RUNNING)
		return -ESRCH;
	if (!atomic_load(&run->vm.paused))
		return 0;
	vm_resume(&run->vm);
	/* It had no chance to feed the watchdog. */
	watchdog_start(&run->watchdog, run->options.watchdog, milliseconds());
	report_set_state(run->report, run->grace_at ? GUEST_STOPPING : GUEST_RUNNING);
	return 0;
}

/* SIGTERM, the first time: the guest may power off by itself, if it has the driver for that. */
static bool ask_to_power_off(struct run *run)
{
	if (run->grace_at || !run->options.grace || !vm_guest_knows_karma(&run->vm))
		return false;
	run->grace_at = milliseconds() + run->options.grace * 1000ll;
	report_set_state(run->report, GUEST_STOPPING);
	resume_guest(run);
	machine_press_power_button(&run->vm.machine);
	return true;
}

/* The I/O thread is there, and so are we and the guest. */
static void give_sign_of_life(struct io_op *op, int result)
{
	struct run *run = container_of(op, struct run, alive_op);

	(void)result;
	atomic_store(&run->alive_asked, false);
	notify_sign(run->notify.alive_fd);
}

static int ask_io_thread(struct run *run)
{
	/* Nobody lives, or the question before is unanswered still. */
	if (atomic_load(&run->vm.end) != VM_RUNNING || atomic_exchange(&run->alive_asked, true))
		return 0;
	run->alive_op.done = give_sign_of_life;
	io_ring_nop(&run->ring, &run->alive_op);
	io_ring_submit(&run->ring);
	return 0;
}

/* By force. */
static int end_guest(struct run *run)
{
	/* Of one that has ended already, nothing is waited for any more. */
	if (atomic_load(&run->vm.end) != VM_RUNNING)
		run->leaving = true;
	vm_end(&run->vm, VM_STOPPED, STATUS_SIGNAL + SIGTERM);
	return 0;
}

static int serve_order(struct run *run, const struct process_order *order)
{
	switch (order->kind) {
	case ORDER_MEASURE:
		machine_measure(&run->vm.machine, (int)order->value - 1);
		return 0;
	case ORDER_PAUSE:
		return pause_guest(run);
	case ORDER_RESUME:
		return resume_guest(run);
	case ORDER_BALLOON:
		run->balloon_bytes = order->value;
		balloon_set(run->balloon, order->value);
		return 0;
	case ORDER_LINK:
		return networks_follow(&run->networks, order->value);
	case ORDER_CONSOLE_SIZE:
		console_resized(run->console);
		return 0;
	case ORDER_ALIVE:
		return ask_io_thread(run);
	case ORDER_STATISTICS:
		report_collect(run->report, &run->vm);
		return 0;
	case ORDER_END:
		return end_guest(run);
	default:
		return -ENOSYS;
	}
}

/* Serve an order; the signal that wants us to end, or 0. */
static int take_order(struct run *run)
{
	struct process_order order = process_take_order(&run->process);
	int result;

	if (order.kind == ORDER_NONE)
		return 0;
	if (order.kind == ORDER_SIGNAL && order.value != SIGWINCH)
		return order.value;
	if (order.kind == ORDER_SIGNAL) {
		console_resized(run->console);
		return 0;
	}
	result = serve_order(run, &order);
	if (order.number) {
		run->trim_at = milliseconds() + TRIM_MILLISECONDS;
		report_answer(run->report, order.number, result);
		process_tell_answer(&run->process);
	}
	return 0;
}

static void obey(struct run *run)
{
	int number = take_order(run);

	if (number == 0 || (number == SIGTERM && ask_to_power_off(run)))
		return;
	vm_end(&run->vm, VM_STOPPED, STATUS_SIGNAL + number);
}

idle_path static void end_in_time(struct run *run)
{
	if (passed(run->timeout_at)) {
		run_tell_timeout(run);
		vm_end(&run->vm, VM_STOPPED, STATUS_TIMEOUT);
	} else if (passed(run->grace_at)) {
		note("guest has not powered off %u seconds after SIGTERM: ended by --grace",
			run->options.grace);
		vm_end(&run->vm, VM_STOPPED, STATUS_SIGNAL + SIGTERM);
	}
}

idle_path static void trim_in_time(struct run *run)
{
	if (!passed(run->trim_at))
		return;
	trim_program();
	run->trim_at = 0;
}

static void tell_kernel_line(const char *line)
{
	note("the guest's kernel logged: %s", line);
}

/* Of a guest that has no driver yet, which would show what is logged.  Once, however often it is started. */
static void tell_kernel_log(struct run *run)
{
	if (vm_guest_knows_karma(&run->vm) || run->kept->told_kernel_log)
		return;
	run->kept->told_kernel_log = true;
	kernel_log_look(&run->vm.memory, tell_kernel_line);
}

/*
 * A guest without the driver waits for ever, or for somebody at a console that it has not.  One that is
 * at work may only be slow to start.
 */
idle_path static void look_for_silence(struct run *run)
{
	int64_t before = run->cpu_time;

	if (!passed(run->silence_at))
		return;
	run->silence_at = 0;
	if (vm_guest_knows_karma(&run->vm))
		return;
	run->cpu_time = cpu_milliseconds();
	if (atomic_load(&run->vm.paused) || run->cpu_time - before > SILENCE_MILLISECONDS / 2) {
		run->silence_at = milliseconds() + SILENCE_MILLISECONDS;
		return;
	}
	note("guest has made no call yet and idles: it lacks the driver virtio_karma, most likely: give it "
	     "an --initrd that loads it (`make guest`)");
	tell_kernel_log(run);
}

idle_path static void look_at_watchdog(struct run *run)
{
	uint64_t feeds = atomic_load(&run->vm.machine.feeds);

	if (atomic_load(&run->vm.paused))
		return;
	if (!watchdog_look(&run->watchdog, feeds, milliseconds()) ||
		atomic_load(&run->vm.end) != VM_RUNNING)
		return;
	note("watchdog: the guest hangs, since it gave no sign of life for %u seconds: see what it "
	     "printed last, or give a longer --watchdog",
		run->options.watchdog);
	vm_end(&run->vm, VM_HANG, 0);
}

/* Until the guest, the user, a signal or the clock ends it. */
idle_path static void wait_for_end(struct run *run)
{
	while (atomic_load(&run->vm.end) == VM_RUNNING) {
		struct pollfd watched[] = {
			{ .fd = run->vm.end_fd, .events = POLLIN },
			{ .fd = run->process.orders[0], .events = POLLIN },
		};

		if (poll(watched, ARRAY_SIZE(watched), until_next_look(run)) > 0 &&
			watched[1].revents)
			obey(run);
		end_in_time(run);
		trim_in_time(run);
		look_for_silence(run);
		look_at_watchdog(run);
	}
}

/* While the guest is halted: obey, for at most so long; a signal that wants an end is to leave. */
static void wait_for_order(struct run *run, int timeout)
{
	struct pollfd watched = { .fd = run->process.orders[0], .events = POLLIN };

	if (poll(&watched, 1, timeout) > 0 && take_order(run))
		run->leaving = true;
}

/*
 * Nothing that the guest printed is lost to a slow reader: a signal cuts the wait short, and so does the end
 * of the time that the guest had to power off.  Who ended the guest by force, or does not read the pty, gets
 * what can be had in a moment.
 */
static void drain_console(struct run *run)
{
	bool patient = atomic_load(&run->vm.end) != VM_STOPPED && run->terminal.pty_slave < 0;
	int64_t end = patient ? 0 : milliseconds() + DRAIN_MOMENT_MILLISECONDS;

	while (terminal_output_pending(&run->terminal) && !passed(end) && !passed(run->grace_at) && !run->leaving)
		wait_for_order(run, DRAIN_POLL_MILLISECONDS);
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
static enum run_end how_it_ended(const struct run *run)
{
	/* Who asked it to power off wants it gone. */
	if (run->grace_at)
		return RUN_ENDED;
	switch (atomic_load(&run->vm.end)) {
	case VM_RESET:
		return vm_guest_knows_karma(&run->vm) ? RUN_RESET : RUN_PANICKED;
	case VM_PANIC:
	case VM_HANG:
		return RUN_PANICKED;
	default:
		return RUN_ENDED;
	}
}

static void keep_until_user_leaves(struct run *run)
{
	report_set_state(run->report, GUEST_HALTED);
	note("guest is halted and kept in process %d, as --on-panic wait has it: a signal or Ctrl-A x "
	     "ends it",
		(int)run->pid);
	while (!run->leaving && !passed(run->timeout_at))
		wait_for_order(run, until(run->timeout_at, 0));
}

int run_guest_process(struct run *run)
{
	int status = STATUS_FAILURE;
	enum end_policy policy;

	if (start_guest(run) < 0)
		return STATUS_FAILURE;
	report_set_state(run->report, GUEST_RUNNING);
	wait_for_end(run);
	report_set_state(run->report, GUEST_ENDING);
	vm_halt(&run->vm);
	if (atomic_load(&run->vm.end) == VM_HANG)
		vm_tell_where(&run->vm);
	drain_console(run);
	status = exit_status(&run->vm);
	tell_kernel_log(run);
	run->kept->end = how_it_ended(run);
	policy = run_policy(run, run->kept->end);
	if (policy == END_WAIT)
		keep_until_user_leaves(run);
	vm_stop(&run->vm);
	if (run->options.stats && (policy != END_RESTART || run->leaving))
		stats_print(&run->vm);
	return status;
}
