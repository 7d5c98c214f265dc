// SPDX-License-Identifier: GPL-2.0-only
/* The state of a guest: saved by its process, read there by the supervisor, and restored by a new process. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "internal.h"
#include "karma/log.h"
#include "karma/snapshot.h"

/*
 * Static, since no memory can be allocated behind the sandbox; pages of it come as they are written.  The supervisor
 * knows where it is, since the guest's process is a copy of its own.
 */
static uint8_t saved[SNAPSHOT_STATE_MAX] __attribute__((aligned(PAGE_BYTES)));

static int save(struct guest *guest, bool with_devices)
{
	struct snapshot_writer writer;
	int64_t result;

	snapshot_writer_init(&writer, saved, sizeof(saved));
	result = vm_save(&guest->vm, &writer, with_devices);
	if (result < 0)
		return result;
	result = snapshot_finish(&writer);
	if (result < 0)
		return fail(result, "snapshot: the state has more than %zu bytes: give the guest fewer CPUs or devices",
			sizeof(saved));
	report_set_saved(guest->report, result);
	return 0;
}

/* It may have come to its end in place of the pause. */
static int pause_and_drain(struct guest *guest)
{
	int result = guest_pause(guest);

	if (result == 0)
		result = guest->vm.devices_paused ? machine_drain_devices(&guest->vm.machine) : -ESRCH;
	return result;
}

int guest_quiesce(struct guest *guest, bool and_save)
{
	bool ran = !atomic_load(&guest->vm.paused);
	int result = pause_and_drain(guest);

	if (result == 0 && and_save)
		result = save(guest, true);
	if (result < 0 && ran)
		guest_resume(guest);
	return result;
}

int guest_save_checkpoint(struct guest *guest)
{
	int result;

	/* It goes on already; or is on its way to its end, as no other guest is to be. */
	if (!atomic_load(&guest->vm.at_checkpoint) || guest->grace_at)
		return -ECANCELED;
	result = guest_pause(guest);
	log_hush(true);
	/* One of its vCPUs may have gone on. */
	if (result == 0)
		result = atomic_load(&guest->vm.machine.individual) ? -ECANCELED : save(guest, false);
	log_hush(false);
	return result;
}

void guest_forget_state(struct guest *guest)
{
	if (report_saved(guest->report))
		madvise(saved, sizeof(saved), MADV_DONTNEED);
	report_set_saved(guest->report, 0);
}

int64_t guest_read_state(const struct guest *guest, void *to)
{
	size_t bytes = report_saved(guest->report);
	const struct iovec local = { to, bytes }, remote = { saved, bytes };
	ssize_t result = process_vm_readv(guest->process.pid, &local, 1, &remote, 1, 0);

	if (result < 0)
		return fail(-errno, "snapshot: can't read the state in the guest's process: %s", strerror(errno));
	return bytes && (size_t)result == bytes ? result : fail(-EIO, "snapshot: the guest's process has saved no state");
}

int guest_restore(struct guest *guest)
{
	const struct restore_options *restore = &guest->options.restore;
	struct snapshot_reader reader;
	int result;

	/* Without its image a guest boots: nothing is lost. */
	log_hush(guest->warm.restores);
	result = snapshot_reader_init(&reader, restore->state, restore->state_bytes);
	if (result == 0)
		result = vm_restore(&guest->vm, &reader);
	log_hush(false);
	guest->shared->image_refused = result < 0;
	return result == 0 ? machine_restored(&guest->vm.machine) : result;
}
