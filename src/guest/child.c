// SPDX-License-Identifier: GPL-2.0-only
/* The guest's process, from one start to its end: VM, devices, sandbox, threads; wait, drain, exit status. */
#include <errno.h>
#include <poll.h>
#include <signal.h>

#include "internal.h"
#include "karma/devices.h"
#include "karma/kernel_log.h"
#include "karma/log.h"
#include "karma/nbd_connector.h"
#include "karma/status.h"

#define OTHERS_IN_FLIGHT 16
#define DRAIN_POLL_MILLISECONDS 1
#define DRAIN_STOPPED_MILLISECONDS 500

/* On the I/O thread, from the terminal: the user has typed Ctrl-A x. */
static void user_leaves(void *context)
{
	struct guest *guest = context;

	process_signal(&guest->process, SIGINT);
}

/*
 * Right after the fork: close what is the supervisor's alone, since signals and clients reach this process by
 * its orders, and check what the process before this one has left in shared memory.
 */
static void after_fork(struct guest *guest)
{
	close_fd(&guest->signal_fd);
	notify_after_fork(&guest->notify);
	control_close(&guest->control);
	nbd_connectors_after_fork();
	vsock_connector_after_fork(&guest->vsock);
	terminal_start(&guest->terminal);
	guest->terminal.leave = user_leaves;
	guest->terminal.leave_context = guest;
	disks_after_fork(guest);
	networks_after_fork(&guest->networks);
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

static int add_rng(struct guest *guest, const struct virtio_environment *environment)
{
	struct virtio_device *rng = rng_create(environment);

	return rng ? machine_add(&guest->vm.machine, rng) : fail(-ENOMEM, "rng: out of memory");
}

static int add_console(struct guest *guest, const struct virtio_environment *environment)
{
	guest->console = console_create(environment, &guest->terminal);
	if (!guest->console)
		return fail(-ENOMEM, "console: out of memory");
	return machine_add(&guest->vm.machine, guest->console);
}

static int add_vsock(struct guest *guest, const struct virtio_environment *environment)
{
	struct virtio_device *vsock;

	if (!guest->options.vsock.on)
		return 0;
	vsock = vsock_create(environment, &guest->vsock);
	return vsock ? machine_add(&guest->vm.machine, vsock) : fail(-ENOMEM, "vsock: out of memory");
}

static int add_devices(struct guest *guest)
{
	const struct virtio_environment environment = { &guest->vm.memory, &guest->ring };
	int result = disks_add(guest, &environment);

	if (result == 0)
		result = networks_add(&guest->networks, &guest->vm.machine, &environment, guest->starts > 0);
	if (result == 0)
		result = add_console(guest, &environment);
	if (result == 0)
		result = add_rng(guest, &environment);
	if (result == 0)
		result = add_balloon(guest, &environment);
	if (result == 0)
		result = add_vsock(guest, &environment);
	if (result == 0)
		result = shares_add(&guest->shares, &guest->vm.machine, &environment, &guest->vm.irqfds.irqfds);
	return result;
}

static int enter_sandbox(struct guest *guest)
{
	const struct sandbox_bounds bounds = {
		.file_bytes = disks_file_limit(guest),
		.files = disks_connections(&guest->options) +
			(guest->options.vsock.on ? VSOCK_CONNECTIONS_MAX : 0),
		.threads = vm_threads_max(&guest->vm),
	};

	guest->vm.confined = !guest->options.sandbox.off;
	return sandbox_enter(&guest->sandbox, &bounds);
}

/*
 * Whether the guest's init is Karma's, as far as can be seen from here: it calls `ready` once it serves signals, and
 * the console has a driver long before.
 */
static bool has_own_init(const struct guest_options *options)
{
	return options->command || options->initrd_count == 0;
}

/* On a vCPU's thread. */
static void tell_of_checkpoint(struct vm *vm)
{
	const struct guest *guest = container_of(vm, struct guest, vm);

	report_set_checkpoint(guest->report);
	process_notify_reply(&guest->process);
}

static int make_vm(struct guest *guest)
{
	const struct guest_options *options = &guest->options;
	struct memory_options memory = options->memory;
	unsigned in_flight = OTHERS_IN_FLIGHT + networks_in_flight(options) + disks_in_flight(options);
	int result;

	if (options->vsock.on)
		in_flight += VSOCK_IN_FLIGHT;
	in_flight += guest->shares.count * VHOST_USER_IN_FLIGHT;
	memory.restored &= guest_restores(guest);
	result = io_ring_init(&guest->ring, in_flight);
	if (result == 0)
		result = vm_init(&guest->vm, &memory, options->cpus, options->pmu,
			guest->warm.makes || guest->warm.restores);
	if (result < 0)
		return result;
	/* It is mapped; the supervisor keeps it, for a snapshot of this guest. */
	if (guest->options.memory.restored)
		close(guest->options.memory.file);
	report_set_memory(guest->report, guest->vm.memory.base);
	guest->vm.ring = &guest->ring;
	guest->vm.checkpoint = guest->warm.makes ? tell_of_checkpoint : NULL;
	guest->vm.terminal = &guest->terminal;
	guest->vm.up_fd = guest->notify.ready_fd;
	guest->vm.strict = options->strict;
	guest->vm.stats = options->stats;
	guest->vm.machine.watchdog = options->watchdog;
	guest->vm.machine.name = guest->name;
	atomic_store(&guest->vm.machine.tells_ready, has_own_init(options));
	return 0;
}

/* For init, if there is one of an initramfs.  A guest that is restored has read it, but for one of a warm image. */
static int make_command(struct guest *guest)
{
	struct machine *machine = &guest->vm.machine;
	char *text;
	int result;

	if ((guest_restores(guest) && !guest->warm.restores) || (!guest->initramfs && !guest->options.initrd_count))
		return 0;
	result = guest_make_command(&guest->options, &guest->terminal, &text, &machine->command_bytes);
	if (result == 0)
		machine->command = text;
	return result;
}

/* The memory of a guest that is restored has its kernel already. */
static int load(struct guest *guest, struct boot_entry *entry)
{
	int result;

	if (guest_restores(guest))
		return 0;
	result = guest_load(&guest->options, &guest->kernel, guest->initramfs, &guest->vm.memory, entry);
	boot_kernel_close(&guest->kernel);
	return result == 0 ? machine_identify(&guest->vm.machine) : result;
}

static int prepare(struct guest *guest, const struct boot_entry *entry)
{
	int result = vm_prepare(&guest->vm, guest_restores(guest) ? NULL : entry);

	return result == 0 && guest_restores(guest) ? guest_restore(guest) : result;
}

static int start(struct guest *guest)
{
	struct boot_entry entry;
	int result;

	after_fork(guest);
	result = make_vm(guest);
	if (result < 0)
		return result;
	/* What is piped in is for the command, not for the shell that starts it. */
	if (guest->options.command)
		terminal_hold_input(&guest->terminal);
	result = load(guest, &entry);
	if (result == 0)
		result = make_command(guest);
	if (result == 0)
		result = add_devices(guest);
	if (result == 0)
		result = prepare(guest, &entry);
	if (result == 0)
		result = enter_sandbox(guest);
	timers_start(guest);
	return result == 0 ? vm_start(&guest->vm) : result;
}

/* Until the guest, the user, a signal or a timer ends it. */
idle_path static void wait_for_end(struct guest *guest)
{
	while (atomic_load(&guest->vm.end) == VM_RUNNING) {
		struct pollfd polls[] = {
			{ .fd = guest->vm.end_fd, .events = POLLIN },
			{ .fd = guest->process.orders[0], .events = POLLIN },
		};

		if (poll(polls, ARRAY_SIZE(polls), timers_timeout(guest)) > 0 && polls[1].revents)
			orders_serve_running(guest);
		timers_run(guest);
	}
}

/* After the guest's end: serve an order, for which to wait at most so long. */
static void wait_for_order(struct guest *guest, int timeout)
{
	struct pollfd polls = { .fd = guest->process.orders[0], .events = POLLIN };

	if (poll(&polls, 1, timeout) > 0 && orders_serve(guest))
		guest->stop_requested = true;
}

/*
 * Wait until all that the guest has printed is written, however slow the reader is; but no longer than --grace
 * allows, nor beyond a signal.  Half a second has to do if the user has stopped the guest, or if the output is a
 * pty, which may have no reader.
 */
static void drain_console(struct guest *guest)
{
	bool bounded = atomic_load(&guest->vm.end) == VM_STOPPED || guest->terminal.pty_slave >= 0;
	int64_t end = bounded ? milliseconds() + DRAIN_STOPPED_MILLISECONDS : 0;

	while (terminal_output_pending(&guest->terminal) && !passed(end) && !passed(guest->grace_at) &&
		!guest->stop_requested)
		wait_for_order(guest, DRAIN_POLL_MILLISECONDS);
}

static void print_kernel_line(const char *line)
{
	note("the guest's kernel logged: %s", line);
}

void print_kernel_log(struct guest *guest)
{
	if (vm_guest_knows_karma(&guest->vm) || guest->shared->kernel_log_printed)
		return;
	guest->shared->kernel_log_printed = true;
	kernel_log_search(&guest->vm.memory, print_kernel_line);
}

/* 124 to 127 are for Karma's own use. */
static int command_status(unsigned status)
{
	if (status < STATUS_TIMEOUT || status > STATUS_CRASH)
		return status;
	note("the command's status %u is told as %d, since 124 to 127 are Karma's own", status,
		STATUS_GUEST_MAX);
	return STATUS_GUEST_MAX;
}

static int exit_status(const struct guest *guest)
{
	const struct vm *vm = &guest->vm;

	switch (atomic_load(&vm->end)) {
	case VM_EXIT:
		return guest->options.container.command ? (int)vm->end_status : command_status(vm->end_status);
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

/* Until it makes a hypercall, a guest can tell of a panic only by a reset. */
static enum guest_outcome outcome(const struct guest *guest)
{
	/* It was asked to power off, and is not to start again. */
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

static void keep_halted(struct guest *guest)
{
	report_set_state(guest->report, GUEST_HALTED);
	note("guest is halted and kept in process %d, as --on-panic wait has it: a signal or Ctrl-A x "
	     "ends it",
		(int)guest->pid);
	while (!guest->stop_requested && !passed(guest->timeout_at))
		wait_for_order(guest, timeout_until(guest->timeout_at));
}

int guest_process_main(struct guest *guest)
{
	int status;
	enum end_policy policy;

	if (start(guest) < 0)
		return STATUS_FAILURE;
	report_set_state(guest->report, GUEST_RUNNING);
	wait_for_end(guest);
	report_set_state(guest->report, GUEST_ENDING);
	vm_halt(&guest->vm);
	if (atomic_load(&guest->vm.memory_lost) && !disks_tell_of_cut(guest))
		fail(-EIO, "disk: a part of one that is memory can't be read: the guest ends: see the kernel's log (dmesg)");
	if (atomic_load(&guest->vm.end) == VM_HANG)
		vm_log_positions(&guest->vm);
	drain_console(guest);
	status = exit_status(guest);
	print_kernel_log(guest);
	guest->shared->end = outcome(guest);
	policy = end_policy(guest, guest->shared->end);
	if (policy == END_WAIT)
		keep_halted(guest);
	vm_stop(&guest->vm);
	if (guest->options.stats && (policy != END_RESTART || guest->stop_requested)) {
		print_line("stats start.warm %d", guest_restores(guest) && guest->warm.restores);
		stats_print(&guest->vm);
	}
	return status;
}
