// SPDX-License-Identifier: GPL-2.0-only
/* The machine in a snapshot: its devices, its events, and what its guest has said. */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <string.h>

#include "internal.h"
#include "karma/log.h"
#include "karma/snapshot.h"
#include "karma/util.h"

#define STATE_VERSION 1u

static void save_devices(const struct machine *machine, struct snapshot_writer *to, unsigned count)
{
	snapshot_put_number(to, count);
	for (unsigned i = 0; i < count; i++) {
		const struct virtio_device *device = machine->devices[i];

		snapshot_put_number(to, device->ops->device_id);
		snapshot_put_number(to, device->queue_count);
		snapshot_put(to, device->name, sizeof(device->name));
	}
}

static void save_machine(struct machine *machine, struct snapshot_writer *to, unsigned device_count)
{
	snapshot_begin(to, SNAPSHOT_MACHINE, 0, STATE_VERSION);
	save_devices(machine, to, device_count);
	snapshot_put_number(to, atomic_load(&machine->tells_ready));
	snapshot_put_number(to, atomic_load(&machine->told_ready));
	snapshot_put_number(to, atomic_load(&machine->feeds) != 0);
	snapshot_put_number(to, machine->generation);
	pthread_mutex_lock(&machine->event_lock);
	snapshot_put_number(to, device_count ? machine->config_events : 0);
	snapshot_put_number(to, machine->power_button);
	snapshot_put_number(to, machine->event_interrupt.address);
	snapshot_put_number(to, machine->event_interrupt.data);
	pthread_mutex_unlock(&machine->event_lock);
	snapshot_end(to);
}

/* The events come last: what changes a device's configuration meanwhile is among them, or in what is saved of it. */
int machine_save(struct machine *machine, struct snapshot_writer *to, bool with_devices)
{
	const unsigned count = with_devices ? machine->device_count : 0;
	int result = 0;

	for (unsigned i = 0; i < count && result == 0; i++)
		result = virtio_save(machine->devices[i], i, to);
	if (result == 0)
		save_machine(machine, to, count);
	return result;
}

/* --- The devices must be those that were saved. */

struct saved_device {
	uint64_t id, queues;
	char name[sizeof(((struct virtio_device *)NULL)->name)];
};

/* What a device is, and which option makes it. */
static const struct {
	unsigned id;
	const char *what, *option;
} kinds[] = {
	{ VIRTIO_ID_BLOCK, "disk", "--disk" },
	{ VIRTIO_ID_PMEM, "disk", "--disk" },
	{ VIRTIO_ID_NET, "network", "--net" },
	{ VIRTIO_ID_CONSOLE, "console", "options" },
	{ VIRTIO_ID_RNG, "entropy source", "options" },
	{ VIRTIO_ID_BALLOON, "balloon", "--balloon" },
	{ VIRTIO_ID_VSOCK, "socket device", "--vsock" },
	{ VIRTIO_ID_FS, "shared directory", "--share" },
};

static unsigned kind_of(uint64_t id)
{
	unsigned kind = 0;

	while (kind < ARRAY_SIZE(kinds) && kinds[kind].id != id)
		kind++;
	return kind;
}

static const char *what_is(uint64_t id)
{
	unsigned kind = kind_of(id);

	return kind < ARRAY_SIZE(kinds) ? kinds[kind].what : "device of another kind";
}

static const char *option_for(uint64_t id)
{
	unsigned kind = kind_of(id);

	return kind < ARRAY_SIZE(kinds) ? kinds[kind].option : "options";
}

static unsigned count_machine(const struct machine *machine, uint64_t id)
{
	unsigned count = 0;

	for (unsigned i = 0; i < machine->device_count; i++)
		count += machine->devices[i]->ops->device_id == id;
	return count;
}

static unsigned count_saved(const struct saved_device *saved, unsigned saved_count, uint64_t id)
{
	unsigned count = 0;

	for (unsigned i = 0; i < saved_count; i++)
		count += saved[i].id == id;
	return count;
}

static int is_missing(const struct saved_device *saved)
{
	return fail(-EINVAL, "snapshot: has the %s %s, which this guest lacks: give the same %s as when it was made",
		what_is(saved->id), saved->name, option_for(saved->id));
}

static int is_one_more(const struct virtio_device *device)
{
	uint64_t id = device->ops->device_id;

	return fail(-EINVAL, "snapshot: lacks the %s %s, which this guest has: give the same %s as when it was made",
		what_is(id), device->name, option_for(id));
}

/* The first device that differs is missing, or one more, or both of the kinds are there in another order. */
static int devices_differ(const struct machine *machine, const struct saved_device *saved, unsigned saved_count,
	unsigned at)
{
	if (at < saved_count &&
		count_saved(saved, saved_count, saved[at].id) > count_machine(machine, saved[at].id))
		return is_missing(&saved[at]);
	if (at < machine->device_count)
		return is_one_more(machine->devices[at]);
	return is_missing(&saved[at]);
}

static int check_queues(const struct virtio_device *device, const struct saved_device *saved)
{
	if (device->queue_count == saved->queues)
		return 0;
	return fail(-EINVAL,
		"snapshot: the %s %s had %llu queues, and has %u here: give the same --cpus and %s as when it was made",
		what_is(saved->id), saved->name, (unsigned long long)saved->queues, device->queue_count,
		option_for(saved->id));
}

static int check_devices(const struct machine *machine, const struct saved_device *saved, unsigned saved_count)
{
	unsigned most = saved_count > machine->device_count ? saved_count : machine->device_count;
	int result = 0;

	for (unsigned i = 0; i < most && result == 0; i++) {
		if (i >= saved_count || i >= machine->device_count ||
			machine->devices[i]->ops->device_id != saved[i].id)
			return devices_differ(machine, saved, saved_count, i);
		result = check_queues(machine->devices[i], &saved[i]);
	}
	return result;
}

static int restore_device_list(const struct machine *machine, struct snapshot_reader *from, bool *none)
{
	struct saved_device saved[KARMA_DEVICES_MAX] = { 0 };
	uint64_t count = snapshot_get_number(from);

	if (count > ARRAY_SIZE(saved))
		return fail(-EINVAL, "snapshot: has more devices than a guest can have: make the snapshot anew");
	for (unsigned i = 0; i < count; i++) {
		saved[i].id = snapshot_get_number(from);
		saved[i].queues = snapshot_get_number(from);
		snapshot_get(from, saved[i].name, sizeof(saved[i].name));
		saved[i].name[sizeof(saved[i].name) - 1] = '\0';
		make_printable(saved[i].name, strlen(saved[i].name));
	}
	/* Saved before its guest has looked at any: that will be at those which it has here. */
	*none = count == 0;
	return *none ? 0 : check_devices(machine, saved, count);
}

/* --- Restore. */

/* What concerns the machine alone, read before its devices are restored and used afterwards. */
struct saved_machine {
	bool no_devices, tells_ready, watched, power_button;
	uint32_t told_ready;
	uint64_t generation, config_events;
	struct karma_interrupt event_interrupt;
};

static int read_machine(const struct machine *machine, struct snapshot_reader *from, struct saved_machine *saved)
{
	int result = snapshot_open(from, SNAPSHOT_MACHINE, 0, STATE_VERSION);

	if (result >= 0)
		result = restore_device_list(machine, from, &saved->no_devices);
	if (result < 0)
		return result;
	saved->tells_ready = snapshot_get_number(from);
	saved->told_ready = snapshot_get_number(from);
	saved->watched = snapshot_get_number(from);
	saved->generation = snapshot_get_number(from);
	saved->config_events = snapshot_get_number(from);
	saved->power_button = snapshot_get_number(from);
	saved->event_interrupt = (struct karma_interrupt){ .address = snapshot_get_number(from) };
	saved->event_interrupt.data = snapshot_get_number(from);
	if (saved->told_ready > KARMA_READY_QUOTED + 1 || !virtq_interrupt_valid(&saved->event_interrupt))
		return fail(-EINVAL, "snapshot: has events that no guest can have asked for: make the snapshot anew");
	return snapshot_close(from);
}

static void restore_machine(struct machine *machine, const struct saved_machine *saved)
{
	uint64_t devices = machine->device_count < 64 ? (1ull << machine->device_count) - 1 : UINT64_MAX;

	if (saved->tells_ready)
		atomic_store(&machine->tells_ready, true);
	atomic_store(&machine->told_ready, saved->told_ready);
	atomic_store(&machine->feeds, saved->watched && machine->watchdog);
	machine->generation = saved->generation;
	pthread_mutex_lock(&machine->event_lock);
	machine->config_events |= saved->config_events & devices;
	machine->power_button |= saved->power_button;
	machine->event_interrupt = saved->event_interrupt;
	pthread_mutex_unlock(&machine->event_lock);
}

int machine_restore(struct machine *machine, struct snapshot_reader *from)
{
	struct saved_machine saved = { 0 };
	int result = read_machine(machine, from, &saved);

	for (unsigned i = 0; i < machine->device_count && result == 0 && !saved.no_devices; i++)
		result = virtio_restore(machine->devices[i], i, from);
	if (result == 0)
		restore_machine(machine, &saved);
	return result;
}
