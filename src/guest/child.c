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
#include "karma/status.h"
#include "karma/nbd_server.h"
#include "internal.h"

#define OTHERS_IN_FLIGHT 16
#define DRAIN_POLL_MILLISECONDS 1
#define DRAIN_MOMENT_MILLISECONDS 500
#define TRIM_MILLISECONDS 1000		/* a guest that ends sooner never pays for it */
#define SILENCE_MILLISECONDS 10000

static void user_leaves(void *context)
{
	struct guest *guest = context;

	process_signal(&guest->process, SIGINT);
}

/* Nothing of the guest before is here, but what it has left in the shared memory. */
static void hand_on(struct guest *guest)
{
	/* Signals come by way of the supervisor, and so does what its clients want. */
	close_fd(&guest->signal_fd);
	notify_after_fork(&guest->notify);
	control_close(&guest->control);
	nbd_servers_hand_on();
	terminal_hand_on(&guest->terminal);
	guest->terminal.leave = user_leaves;
	guest->terminal.leave_context = guest;
	for (size_t i = 0; i < guest->disk_count; i++)
		limit_hand_on(&guest->shared->limits[i], &guest->options.disks[i].limit);
	networks_after_fork(&guest->networks);
}

/* Operations that may be under way at a time: of the disks, the networks, and of all the rest. */
static unsigned most_in_flight(const struct guest_options *options)
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
	struct guest *guest, const struct virtio_environment *environment, size_t index)
{
	const struct disk_options *options = &guest->options.disks[index];
	struct virtio_device *device;
	struct disk *disk = disk_share(guest->disks[index]);
	int result = disk_begin(disk, guest->starts > 0);
	char name[8];

	if (result < 0)
		return result;
	measure_disk(disk);
	guest_disk_name(index, name, sizeof(name));
	device = blk_create(environment, name, disk, options->serial, guest->options.cpus);
	if (!device) {
		disk_close(disk);
		return fail(-ENOMEM, "disk %s: out of memory", options->path);
	}
	if (limit_is_set(&options->limit))
		blk_limit(device, &guest->shared->limits[index]);
	return machine_add(&guest->vm.machine, device);
}

static int add_balloon(struct guest *guest, const struct virtio_environment *environment)
{
	if (!guest_has_balloon(guest))
		return 0;
	guest->balloon = balloon_create(environment, guest->balloon_bytes);
	if (!guest->balloon)
		return fail(-ENOMEM, "balloon: out of memory");
	return machine_add(&guest->vm.machine, guest->balloon);
}

static int add_devices(struct guest *guest)
{
	const struct virtio_environment environment = { &guest->vm.memory, &guest->ring };
	struct virtio_device *rng;
	int result = 0;

	for (size_t i = 0; i < guest->disk_count && result == 0; i++)
		result = add_disk(guest, &environment, i);
	if (result == 0)
		result = networks_add(&guest->networks, &guest->vm.machine, &environment, guest->starts > 0);
	if (result < 0)
		return result;
	guest->console = console_create(&environment, &guest->terminal);
	if (!guest->console)
		return fail(-ENOMEM, "console: out of memory");
	result = machine_add(&guest->vm.machine, guest->console);
	if (result < 0)
		return result;
	rng = rng_create(&environment);
	result = rng ? machine_add(&guest->vm.machine, rng) : fail(-ENOMEM, "rng: out of memory");
	return result == 0 ? add_balloon(guest, &environment) : result;
}

/* That may be lost and made again. */
static unsigned connections(const struct guest_options *options)
{
	unsigned count = 0;

	for (size_t i = 0; i < options->disk_count; i++)
		count += nbd_is_address(options->disks[i].path);
	return count;
}

static int close_sandbox(struct guest *guest)
{
	const struct sandbox_bounds bounds = {
		.file_bytes = guest_largest_file(guest),
		.files = connections(&guest->options),
		.threads = vm_threads_max(&guest->vm),
	};

	guest->vm.confined = !guest->options.sandbox.off;
	return sandbox_enter(&guest->sandbox, &bounds);
}

static int start_guest(struct guest *guest)
{
	struct boot_entry entry;
	int64_t now;
	int result;

	hand_on(guest);
	result = io_ring_init(&guest->ring, most_in_flight(&guest->options));
	if (result == 0)
		result = vm_init(&guest->vm, &guest->options.memory, guest->options.cpus, guest->options.pmu);
	if (result < 0)
		return result;
	guest->vm.ring = &guest->ring;
	guest->vm.terminal = &guest->terminal;
	guest->vm.up_fd = guest->notify.ready_fd;
	guest->vm.strict = guest->options.strict;
	guest->vm.stats = guest->options.stats;
	guest->vm.machine.watchdog = guest->options.watchdog;
	if (guest->options.command)
		terminal_hold_input(&guest->terminal);
	result = guest_load(&guest->options, &guest->kernel, &guest->terminal, &guest->vm.memory, &entry);
	boot_kernel_close(&guest->kernel);
	if (result == 0)
		result = add_devices(guest);
	if (result == 0)
		result = vm_prepare(&guest->vm, &entry);
	if (result == 0)
		result = close_sandbox(guest);
	now = milliseconds();
	guest->trim_at = now + TRIM_MILLISECONDS;
	guest->idle_check_at = now + SILENCE_MILLISECONDS;
	watchdog_start(&guest->watchdog, guest->options.watchdog, now);
	return result == 0 ? vm_start(&guest->vm) : result;
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

waiting_place static int until_next_look(const struct guest *guest)
{
	int end = until(guest->timeout_at, guest->grace_at), trim = until(guest->trim_at, guest->idle_check_at);
	int look = watchdog_interval(&guest->watchdog);

	end = end < 0 || (trim >= 0 && trim < end) ? trim : end;
	return end < 0 || (look >= 0 && look < end) ? look : end;
}

static int pause_guest(struct guest *guest)
{
	if (atomic_load(&guest->vm.end) != VM_RUNNING)
		return -ESRCH;
	vm_pause(&guest->vm);
	report_set_state(guest->report, GUEST_PAUSED);
	return 0;
}

static int resume_guest(struct guest *guest)
{
	if (atomic_load(&guest->vm.end) != VM_RUNNING)
		return -ESRCH;
	if (!atomic_load(&guest->vm.paused))
		return 0;
	vm_resume(&guest->vm);
	/* It had no chance to feed the watchdog. */
	watchdog_start(&guest->watchdog, guest->options.watchdog, milliseconds());
	report_set_state(guest->report, guest->grace_at ? GUEST_STOPPING : GUEST_RUNNING);
	return 0;
}

/* SIGTERM, the first time: the guest may power off by itself, if it has the driver for that. */
static bool ask_to_power_off(struct guest *guest)
{
	if (guest->grace_at || !guest->options.grace || !vm_guest_knows_karma(&guest->vm))
		return false;
	guest->grace_at = milliseconds() + guest->options.grace * 1000ll;
	report_set_state(guest->report, GUEST_STOPPING);
	resume_guest(guest);
	machine_press_power_button(&guest->vm.machine);
	return true;
}

/* The I/O thread is there, and so are we and the guest. */
static void give_sign_of_life(struct io_op *op, int result)
{
	struct guest *guest = container_of(op, struct guest, keepalive_op);

	(void)result;
	atomic_store(&guest->keepalive_pending, false);
	notify_signal(guest->notify.keepalive_fd);
}

static int ask_io_thread(struct guest *guest)
{
	/* Nobody lives, or the question before is unanswered still. */
	if (atomic_load(&guest->vm.end) != VM_RUNNING || atomic_exchange(&guest->keepalive_pending, true))
		return 0;
	guest->keepalive_op.done = give_sign_of_life;
	io_ring_wake(&guest->ring, &guest->keepalive_op);
	io_ring_submit(&guest->ring);
	return 0;
}

/* By force. */
static int end_guest(struct guest *guest)
{
	/* Of one that has ended already, nothing is waited for any more. */
	if (atomic_load(&guest->vm.end) != VM_RUNNING)
		guest->stop_requested = true;
	vm_end(&guest->vm, VM_STOPPED, STATUS_SIGNAL + SIGTERM);
	return 0;
}

static int serve_order(struct guest *guest, const struct order *order)
{
	switch (order->kind) {
	case ORDER_MEASURE:
		machine_measure(&guest->vm.machine, (int)order->value - 1);
		return 0;
	case ORDER_PAUSE:
		return pause_guest(guest);
	case ORDER_RESUME:
		return resume_guest(guest);
	case ORDER_BALLOON:
		guest->balloon_bytes = order->value;
		balloon_set(guest->balloon, order->value);
		return 0;
	case ORDER_LINK:
		return networks_set_link(&guest->networks, order->value);
	case ORDER_CONSOLE_SIZE:
		console_resized(guest->console);
		return 0;
	case ORDER_KEEPALIVE:
		return ask_io_thread(guest);
	case ORDER_STATISTICS:
		report_collect(guest->report, &guest->vm);
		return 0;
	case ORDER_END:
		return end_guest(guest);
	default:
		return -ENOSYS;
	}
}

/* Serve an order; the signal that wants us to end, or 0. */
static int take_order(struct guest *guest)
{
	struct order order = process_receive_order(&guest->process);
	int result;

	if (order.kind == ORDER_NONE)
		return 0;
	if (order.kind == ORDER_SIGNAL && order.value != SIGWINCH)
		return order.value;
	if (order.kind == ORDER_SIGNAL) {
		console_resized(guest->console);
		return 0;
	}
	result = serve_order(guest, &order);
	if (order.number) {
		guest->trim_at = milliseconds() + TRIM_MILLISECONDS;
		report_answer(guest->report, order.number, result);
		process_notify_reply(&guest->process);
	}
	return 0;
}

static void obey(struct guest *guest)
{
	int number = take_order(guest);

	if (number == 0 || (number == SIGTERM && ask_to_power_off(guest)))
		return;
	vm_end(&guest->vm, VM_STOPPED, STATUS_SIGNAL + number);
}

waiting_place static void end_in_time(struct guest *guest)
{
	if (passed(guest->timeout_at)) {
		log_timeout(guest);
		vm_end(&guest->vm, VM_STOPPED, STATUS_TIMEOUT);
	} else if (passed(guest->grace_at)) {
		note("guest has not powered off %u seconds after SIGTERM: ended by --grace",
			guest->options.grace);
		vm_end(&guest->vm, VM_STOPPED, STATUS_SIGNAL + SIGTERM);
	}
}

waiting_place static void trim_in_time(struct guest *guest)
{
	if (!passed(guest->trim_at))
		return;
	trim_program();
	guest->trim_at = 0;
}

static void tell_kernel_line(const char *line)
{
	note("the guest's kernel logged: %s", line);
}

/* Of a guest that has no driver yet, which would show what is logged.  Once, however often it is started. */
static void tell_kernel_log(struct guest *guest)
{
	if (vm_guest_knows_karma(&guest->vm) || guest->shared->kernel_log_printed)
		return;
	guest->shared->kernel_log_printed = true;
	kernel_log_look(&guest->vm.memory, tell_kernel_line);
}

/*
 * A guest without the driver waits for ever, or for somebody at a console that it has not.  One that is
 * at work may only be slow to start.
 */
waiting_place static void look_for_silence(struct guest *guest)
{
	int64_t before = guest->cpu_time;

	if (!passed(guest->idle_check_at))
		return;
	guest->idle_check_at = 0;
	if (vm_guest_knows_karma(&guest->vm))
		return;
	guest->cpu_time = cpu_milliseconds();
	if (atomic_load(&guest->vm.paused) || guest->cpu_time - before > SILENCE_MILLISECONDS / 2) {
		guest->idle_check_at = milliseconds() + SILENCE_MILLISECONDS;
		return;
	}
	note("guest has made no call yet and idles: it lacks the driver virtio_karma, most likely: give it "
	     "an --initrd that loads it (`make guest`)");
	tell_kernel_log(guest);
}

waiting_place static void look_at_watchdog(struct guest *guest)
{
	uint64_t feeds = atomic_load(&guest->vm.machine.feeds);

	if (atomic_load(&guest->vm.paused))
		return;
	if (!watchdog_look(&guest->watchdog, feeds, milliseconds()) ||
		atomic_load(&guest->vm.end) != VM_RUNNING)
		return;
	note("watchdog: the guest hangs, since it gave no sign of life for %u seconds: see what it "
	     "printed last, or give a longer --watchdog",
		guest->options.watchdog);
	vm_end(&guest->vm, VM_HANG, 0);
}

/* Until the guest, the user, a signal or the clock ends it. */
waiting_place static void wait_for_end(struct guest *guest)
{
	while (atomic_load(&guest->vm.end) == VM_RUNNING) {
		struct pollfd watched[] = {
			{ .fd = guest->vm.end_fd, .events = POLLIN },
			{ .fd = guest->process.orders[0], .events = POLLIN },
		};

		if (poll(watched, ARRAY_SIZE(watched), until_next_look(guest)) > 0 &&
			watched[1].revents)
			obey(guest);
		end_in_time(guest);
		trim_in_time(guest);
		look_for_silence(guest);
		look_at_watchdog(guest);
	}
}

/* While the guest is halted: obey, for at most so long; a signal that wants an end is to leave. */
static void wait_for_order(struct guest *guest, int timeout)
{
	struct pollfd watched = { .fd = guest->process.orders[0], .events = POLLIN };

	if (poll(&watched, 1, timeout) > 0 && take_order(guest))
		guest->stop_requested = true;
}

/*
 * Nothing that the guest printed is lost to a slow reader: a signal cuts the wait short, and so does the end
 * of the time that the guest had to power off.  Who ended the guest by force, or does not read the pty, gets
 * what can be had in a moment.
 */
static void drain_console(struct guest *guest)
{
	bool patient = atomic_load(&guest->vm.end) != VM_STOPPED && guest->terminal.pty_slave < 0;
	int64_t end = patient ? 0 : milliseconds() + DRAIN_MOMENT_MILLISECONDS;

	while (terminal_pending(&guest->terminal) && !passed(end) && !passed(guest->grace_at) && !guest->stop_requested)
		wait_for_order(guest, DRAIN_POLL_MILLISECONDS);
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
static enum guest_outcome how_it_ended(const struct guest *guest)
{
	/* Who asked it to power off wants it gone. */
	if (guest->grace_at)
		return OUTCOME_END;
	switch (atomic_load(&guest->vm.end)) {
	case VM_RESET:
		return vm_guest_knows_karma(&guest->vm) ? OUTCOME_RESET : OUTCOME_PANIC;
	case VM_PANIC:
	case VM_HANG:
		return OUTCOME_PANIC;
	default:
		return OUTCOME_END;
	}
}

static void keep_until_user_leaves(struct guest *guest)
{
	report_set_state(guest->report, GUEST_HALTED);
	note("guest is halted and kept in process %d, as --on-panic wait has it: a signal or Ctrl-A x "
	     "ends it",
		(int)guest->pid);
	while (!guest->stop_requested && !passed(guest->timeout_at))
		wait_for_order(guest, until(guest->timeout_at, 0));
}

int guest_process_main(struct guest *guest)
{
	int status = STATUS_FAILURE;
	enum end_policy policy;

	if (start_guest(guest) < 0)
		return STATUS_FAILURE;
	report_set_state(guest->report, GUEST_RUNNING);
	wait_for_end(guest);
	report_set_state(guest->report, GUEST_ENDING);
	vm_halt(&guest->vm);
	if (atomic_load(&guest->vm.end) == VM_HANG)
		vm_tell_where(&guest->vm);
	drain_console(guest);
	status = exit_status(&guest->vm);
	tell_kernel_log(guest);
	guest->shared->end = how_it_ended(guest);
	policy = end_policy(guest, guest->shared->end);
	if (policy == END_WAIT)
		keep_until_user_leaves(guest);
	vm_stop(&guest->vm);
	if (guest->options.stats && (policy != END_RESTART || guest->stop_requested))
		stats_print(&guest->vm);
	return status;
}
