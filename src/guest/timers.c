// SPDX-License-Identifier: GPL-2.0-only
/* In the guest's process: what ends the guest, or is looked after, when time has passed. */
#include <signal.h>
#include <time.h>

#include "internal.h"
#include "karma/log.h"
#include "karma/status.h"

#define TRIM_MILLISECONDS 1000		/* a guest that ends sooner never pays for it */
#define IDLE_CHECK_MILLISECONDS 10000
#define CUT_CHECK_MILLISECONDS 1000
/* A guest that takes less CPU time than that share idles; one that boots on a loaded host takes more. */
#define IDLE_SHARE 8

void timers_start(struct guest *guest)
{
	int64_t now = milliseconds();

	guest->trim_at = now + TRIM_MILLISECONDS;
	guest->idle_check_at = now + IDLE_CHECK_MILLISECONDS;
	guest->cut_check_at = guest->vm.memory.region_count ? now + CUT_CHECK_MILLISECONDS : 0;
	watchdog_start(&guest->watchdog, guest->options.watchdog, now);
}

void timers_resume(struct guest *guest)
{
	watchdog_start(&guest->watchdog, guest->options.watchdog, milliseconds());
}

void timers_trim_later(struct guest *guest)
{
	guest->trim_at = milliseconds() + TRIM_MILLISECONDS;
}

idle_path int timers_timeout(const struct guest *guest)
{
	const int64_t times[] = { guest->timeout_at, guest->grace_at, guest->trim_at, guest->idle_check_at,
		guest->cut_check_at };
	int timeout = watchdog_interval(&guest->watchdog);

	for (size_t i = 0; i < ARRAY_SIZE(times); i++)
		timeout = shorter_timeout(timeout, timeout_until(times[i]));
	return timeout;
}

idle_path static void end_in_time(struct guest *guest)
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

idle_path static void trim_in_time(struct guest *guest)
{
	if (!passed(guest->trim_at))
		return;
	trim_program();
	guest->trim_at = 0;
}

static int64_t cpu_milliseconds(void)
{
	struct timespec taken;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &taken);
	return taken.tv_sec * 1000ll + taken.tv_nsec / 1000000;
}

/*
 * A guest without the driver waits for ever, for a device or for input on a console that it does not have.
 * While it is busy it may only be slow to boot: then look again later.
 */
idle_path static void check_idle(struct guest *guest)
{
	int64_t before = guest->cpu_time;

	if (!passed(guest->idle_check_at))
		return;
	guest->idle_check_at = 0;
	if (vm_guest_knows_karma(&guest->vm))
		return;
	guest->cpu_time = cpu_milliseconds();
	if (atomic_load(&guest->vm.paused) || guest->cpu_time - before > IDLE_CHECK_MILLISECONDS / IDLE_SHARE) {
		guest->idle_check_at = milliseconds() + IDLE_CHECK_MILLISECONDS;
		return;
	}
	note("guest has made no call yet and idles: it lacks the driver virtio_karma, most likely: give it "
	     "an --initrd that loads it (`make guest`)");
	print_kernel_log(guest);
}

/*
 * A vCPU that touches what was cut off may wait for ever: KVM lets it try again each time that a worker has
 * failed to read the page (asynchronous page faults).
 */
idle_path static void check_cut(struct guest *guest)
{
	if (!passed(guest->cut_check_at))
		return;
	guest->cut_check_at = milliseconds() + CUT_CHECK_MILLISECONDS;
	if (disks_tell_of_cut(guest))
		vm_end(&guest->vm, VM_FAILURE, 0);
}

idle_path static void check_watchdog(struct guest *guest)
{
	uint64_t feeds = atomic_load(&guest->vm.machine.feeds);

	if (atomic_load(&guest->vm.paused))
		return;
	if (!watchdog_check(&guest->watchdog, feeds, milliseconds()) ||
		atomic_load(&guest->vm.end) != VM_RUNNING)
		return;
	note("watchdog: the guest hangs, since it gave no sign of life for %u seconds: see what it "
	     "printed last, or give a longer --watchdog",
		guest->options.watchdog);
	vm_end(&guest->vm, VM_HANG, 0);
}

idle_path void timers_run(struct guest *guest)
{
	end_in_time(guest);
	trim_in_time(guest);
	check_idle(guest);
	check_cut(guest);
	check_watchdog(guest);
}
