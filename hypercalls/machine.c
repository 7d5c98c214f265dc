// SPDX-License-Identifier: GPL-2.0-only
/* The machine as its guest sees it: its devices, its interrupts and its events. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <sys/random.h>

#include "internal.h"
#include "karma/log.h"
#include "karma/util.h"

void machine_init(
	struct machine *machine, struct guest_memory *memory, const struct machine_ops *ops)
{
	*machine = (struct machine){ .memory = memory, .ops = ops };
	pthread_mutex_init(&machine->event_lock, NULL);
}

void machine_release(struct machine *machine)
{
	for (unsigned i = 0; i < machine->device_count; i++)
		machine->devices[i]->ops->release(machine->devices[i]);
	machine->device_count = 0;
	pthread_mutex_destroy(&machine->event_lock);
}

static void send_interrupt(void *context, const struct karma_interrupt *interrupt)
{
	struct machine *machine = context;

	machine->ops->interrupt(machine, interrupt);
}

/* With the lock held, so that the message is whole. */
static void signal_event(struct machine *machine)
{
	if (machine->event_interrupt.address)
		send_interrupt(machine, &machine->event_interrupt);
}

static void device_changed(void *context, struct virtio_device *device)
{
	struct machine *machine = context;

	pthread_mutex_lock(&machine->event_lock);
	for (unsigned i = 0; i < machine->device_count; i++) {
		if (machine->devices[i] == device)
			machine->config_events |= 1ull << i;
	}
	signal_event(machine);
	pthread_mutex_unlock(&machine->event_lock);
}

int machine_add(struct machine *machine, struct virtio_device *device)
{
	if (machine->device_count == KARMA_DEVICES_MAX) {
		device->ops->release(device);
		return fail(-ENOSPC, "devices: a guest has at most %u: give it fewer disks or networks",
			KARMA_DEVICES_MAX);
	}
	for (unsigned i = 0; i < device->queue_count; i++) {
		device->queues[i].send = send_interrupt;
		device->queues[i].send_context = machine;
	}
	device->changed = device_changed;
	device->changed_context = machine;
	machine->devices[machine->device_count++] = device;
	return 0;
}

void machine_tell_ready(struct machine *machine)
{
	uint32_t told = atomic_load(&machine->told_ready);

	if (!told)
		return;
	machine->ops->ready(machine, told - 1);
	if (told - 1 != KARMA_READY_NOT_YET)
		machine->ops->up(machine);
}

void machine_driver_ready(struct machine *machine, const struct virtio_device *device)
{
	if (device->ops->device_id == VIRTIO_ID_CONSOLE && !atomic_load(&machine->tells_ready))
		machine->ops->up(machine);
}

static bool has_events(const struct machine *machine)
{
	return machine->power_button || machine->config_events;
}

/* There is nothing to tell of a guest that is not restored. */
void machine_start_devices(struct machine *machine)
{
	for (unsigned i = 0; i < machine->device_count; i++)
		virtio_start(machine->devices[i]);
	machine_tell_ready(machine);
	for (unsigned i = 0; i < machine->device_count; i++) {
		if (virtio_get_status(machine->devices[i]) & VIRTIO_CONFIG_S_DRIVER_OK)
			machine_driver_ready(machine, machine->devices[i]);
	}
	pthread_mutex_lock(&machine->event_lock);
	if (has_events(machine))
		signal_event(machine);
	pthread_mutex_unlock(&machine->event_lock);
}

int machine_drain_devices(struct machine *machine)
{
	for (unsigned i = 0; i < machine->device_count; i++) {
		if (!virtio_drain_within(machine->devices[i], MACHINE_DRAIN_MILLISECONDS))
			return fail(-EBUSY,
				"snapshot: %s: its requests in flight take more than %u seconds: a limit, or its "
				"server, holds them up: try again",
				machine->devices[i]->name, MACHINE_DRAIN_MILLISECONDS / 1000);
	}
	return 0;
}

void machine_pause_devices(struct machine *machine)
{
	for (unsigned i = 0; i < machine->device_count; i++)
		virtio_pause(machine->devices[i]);
}

void machine_resume_devices(struct machine *machine)
{
	for (unsigned i = 0; i < machine->device_count; i++)
		virtio_resume(machine->devices[i]);
}

void machine_end_devices(struct machine *machine)
{
	for (unsigned i = 0; i < machine->device_count; i++)
		virtio_end(machine->devices[i]);
}

void machine_measure(struct machine *machine, int only)
{
	for (unsigned i = 0; i < machine->device_count; i++) {
		struct virtio_device *device = machine->devices[i];

		if (device->ops->measure && (only < 0 || (unsigned)only == i))
			device->ops->measure(device);
	}
}

int machine_identify(struct machine *machine)
{
	if (getrandom(machine->id, sizeof(machine->id), 0) != sizeof(machine->id))
		return fail(-errno, "the guest's id: no random numbers: %s", strerror(errno));
	return guest_memory_write(machine->memory, GPA(GUEST_VMGENID), machine->id, sizeof(machine->id));
}

int machine_restored(struct machine *machine)
{
	int result = machine_identify(machine);

	if (result < 0)
		return result;
	machine->generation++;
	atomic_store(&machine->checkpointed, true);
	pthread_mutex_lock(&machine->event_lock);
	machine->restored = true;
	/* Another network may have another link. */
	for (unsigned i = 0; i < machine->device_count; i++) {
		if (machine->devices[i]->ops->device_id == VIRTIO_ID_NET)
			machine->config_events |= 1ull << i;
	}
	signal_event(machine);
	pthread_mutex_unlock(&machine->event_lock);
	return 0;
}

void machine_press_power_button(struct machine *machine)
{
	pthread_mutex_lock(&machine->event_lock);
	machine->power_button = true;
	signal_event(machine);
	pthread_mutex_unlock(&machine->event_lock);
}

void machine_set_event_interrupt(
	struct machine *machine, const struct karma_interrupt *interrupt)
{
	pthread_mutex_lock(&machine->event_lock);
	machine->event_interrupt = *interrupt;
	pthread_mutex_unlock(&machine->event_lock);
}

uint32_t machine_next_event(struct machine *machine)
{
	uint32_t event = 0;

	pthread_mutex_lock(&machine->event_lock);
	if (machine->restored) {
		machine->restored = false;
		event = KARMA_EVENT_RESTORED;
	} else if (machine->power_button) {
		machine->power_button = false;
		event = KARMA_EVENT_POWER_BUTTON;
	} else if (machine->config_events) {
		unsigned device = __builtin_ctzll(machine->config_events);

		machine->config_events &= machine->config_events - 1;
		event = KARMA_EVENT_CONFIG | device << 8;
	}
	pthread_mutex_unlock(&machine->event_lock);
	return event;
}
