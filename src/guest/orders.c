// SPDX-License-Identifier: GPL-2.0-only
/* In the guest's process: orders of the supervisor. */
#include <errno.h>
#include <signal.h>

#include "internal.h"
#include "karma/devices.h"
#include "karma/status.h"

static bool is_running(const struct guest *guest)
{
	return atomic_load(&guest->vm.end) == VM_RUNNING;
}

int guest_pause(struct guest *guest)
{
	if (!is_running(guest))
		return -ESRCH;
	vm_pause(&guest->vm);
	report_set_state(guest->report, GUEST_PAUSED);
	return 0;
}

int guest_resume(struct guest *guest)
{
	if (!is_running(guest))
		return -ESRCH;
	if (!atomic_load(&guest->vm.paused))
		return 0;
	guest_forget_state(guest);
	vm_resume(&guest->vm);
	timers_resume(guest);
	report_set_state(guest->report, guest->grace_at ? GUEST_STOPPING : GUEST_RUNNING);
	return 0;
}

/* For the first SIGTERM.  False: end it at once, since it has no time to power off or no driver for it. */
static bool request_power_off(struct guest *guest)
{
	if (guest->grace_at || !guest->options.grace || !vm_guest_knows_karma(&guest->vm))
		return false;
	guest->grace_at = milliseconds() + guest->options.grace * 1000ll;
	report_set_state(guest->report, GUEST_STOPPING);
	guest_resume(guest);
	machine_press_power_button(&guest->vm.machine);
	return true;
}

/* On the I/O thread: it runs, and so does the main thread, which has made the request. */
static void send_keepalive(struct io_op *op, int result)
{
	struct guest *guest = container_of(op, struct guest, keepalive_op);

	(void)result;
	atomic_store(&guest->keepalive_pending, false);
	notify_signal(guest->notify.keepalive_fd);
}

static int request_keepalive(struct guest *guest)
{
	/* None after the guest's end, and no second request while the I/O thread has not completed the first. */
	if (!is_running(guest) || atomic_exchange(&guest->keepalive_pending, true))
		return 0;
	guest->keepalive_op.done = send_keepalive;
	io_ring_nop(&guest->ring, &guest->keepalive_op);
	io_ring_submit(&guest->ring);
	return 0;
}

static int end_by_force(struct guest *guest)
{
	/* Its output is no longer waited for, if that is all that is left of it. */
	if (!is_running(guest))
		guest->stop_requested = true;
	vm_end(&guest->vm, VM_STOPPED, STATUS_SIGNAL + SIGTERM);
	return 0;
}

/* 0 or a negative errno, without a message: for the reply. */
static int serve(struct guest *guest, const struct order *order)
{
	switch (order->kind) {
	case ORDER_MEASURE:
		machine_measure(&guest->vm.machine, (int)order->value - 1);
		return 0;
	case ORDER_PAUSE:
		return guest_pause(guest);
	case ORDER_RESUME:
		return guest_resume(guest);
	case ORDER_QUIESCE:
	case ORDER_SNAPSHOT:
		return guest_quiesce(guest, order->kind == ORDER_SNAPSHOT);
	case ORDER_CHECKPOINT:
		return guest_save_checkpoint(guest);
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
		return request_keepalive(guest);
	case ORDER_STATISTICS:
		report_collect(guest->report, &guest->vm);
		return 0;
	case ORDER_END:
		return end_by_force(guest);
	default:
		return -ENOSYS;
	}
}

int orders_serve(struct guest *guest)
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
	result = serve(guest, &order);
	if (order.number) {
		timers_trim_later(guest);
		report_set_result(guest->report, order.number, result);
		process_notify_reply(&guest->process);
	}
	return 0;
}

void orders_serve_running(struct guest *guest)
{
	int number = orders_serve(guest);

	if (number == 0 || (number == SIGTERM && request_power_off(guest)))
		return;
	vm_end(&guest->vm, VM_STOPPED, STATUS_SIGNAL + number);
}
