// SPDX-License-Identifier: GPL-2.0-only
/* The machine as its guest sees it: its devices with their GSIs, and its events. */
#include <errno.h>

#include "karma/log.h"
#include "karma/machine.h"
#include "karma/util.h"

/* Pins of KVM's I/O APIC that queues get; with more queues than pins they share. */
#define QUEUE_GSI_FIRST (KARMA_SYSTEM_GSI + 1)
#define QUEUE_GSI_LAST 23u

void machine_init(
	struct machine *machine, struct guest_memory *memory, const struct machine_ops *ops)
{
	*machine = (struct machine){
		.memory = memory,
		.ops = ops,
		.next_gsi = QUEUE_GSI_FIRST,
		.event_fd = -1,
	};
	pthread_mutex_init(&machine->event_lock, NULL);
}

void machine_release(struct machine *machine)
{
	for (unsigned i = 0; i < machine->device_count; i++)
		machine->devices[i]->ops->release(machine->devices[i]);
	machine->device_count = 0;
	pthread_mutex_destroy(&machine->event_lock);
}

static void raise_event(struct machine *machine)
{
	const uint64_t one = 1;

	/* An eventfd takes a write unless its counter is full, and then it is raised anyway. */
	if (machine->event_fd >= 0 && write(machine->event_fd, &one, sizeof(one)) < 0)
		return;
}

static void device_changed(void *context, struct virtio_device *device)
{
	struct machine *machine = context;

	pthread_mutex_lock(&machine->event_lock);
	for (unsigned i = 0; i < machine->device_count; i++) {
		if (machine->devices[i] == device)
			machine->config_events |= 1ull << i;
	}
	pthread_mutex_unlock(&machine->event_lock);
	raise_event(machine);
}

int machine_add(struct machine *machine, struct virtio_device *device)
{
	if (machine->device_count == KARMA_DEVICES_MAX) {
		device->ops->release(device);
		return fail(-ENOSPC, "devices: a guest has at most %u: give it fewer disks",
			KARMA_DEVICES_MAX);
	}
	for (unsigned i = 0; i < device->queue_count; i++) {
		device->queues[i].gsi = machine->next_gsi;
		machine->next_gsi = machine->next_gsi == QUEUE_GSI_LAST ? QUEUE_GSI_FIRST :
									 machine->next_gsi + 1;
	}
	device->changed = device_changed;
	device->changed_context = machine;
	machine->devices[machine->device_count++] = device;
	return 0;
}

void machine_press_power_button(struct machine *machine)
{
	pthread_mutex_lock(&machine->event_lock);
	machine->power_button = true;
	pthread_mutex_unlock(&machine->event_lock);
	raise_event(machine);
}

uint32_t machine_next_event(struct machine *machine)
{
	uint32_t event = 0;

	pthread_mutex_lock(&machine->event_lock);
	if (machine->power_button) {
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
