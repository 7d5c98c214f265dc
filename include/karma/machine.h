/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The machine as its guest sees it: memory, devices, events, a console to write to and ways to
 * end.  Hypercalls act on it.  It knows nothing of KVM: the monitor gives it one side
 * (struct machine_ops), a simulated guest in a test another.
 */
#ifndef KARMA_MACHINE_H
#define KARMA_MACHINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "karma/abi.h"
#include "karma/memory.h"
#include "karma/virtio.h"

struct machine;

enum machine_end {
	MACHINE_EXIT,		/* the guest's command ended, with a status */
	MACHINE_POWER_OFF,
	MACHINE_RESET,
	MACHINE_PANIC,
};

/* Called on a vCPU thread, any at a time. */
struct machine_ops {
	/* Text for the console; how many bytes were taken. */
	size_t (*console_write)(struct machine *machine, const void *text, size_t length);
	/* The guest has ended; status only for MACHINE_EXIT. */
	void (*end)(struct machine *machine, enum machine_end how, unsigned status);
	/* The guest is up and reads its console, or asks to hold input back until it is: KARMA_READY_*. */
	void (*ready)(struct machine *machine, uint32_t ready);
	/* The guest is up: it says so, or has a driver for its console and says nothing.  Maybe again. */
	void (*up)(struct machine *machine);
	/* Send an interrupt that the guest chose.  On any thread. */
	void (*interrupt)(struct machine *machine, const struct karma_interrupt *interrupt);
	/*
	 * The guest has called `checkpoint`, is not individual, and waits behind this call until it may go on: here, or in a
	 * copy of it.  Once, and only with checkpoints.
	 */
	void (*checkpoint)(struct machine *machine);
};

struct machine {
	struct guest_memory *memory;
	const struct machine_ops *ops;
	struct virtio_device *devices[KARMA_DEVICES_MAX];	/* owned */
	unsigned device_count;
	atomic_bool tells_ready;	/* the guest says by calls whether it is ready, or is going to */
	_Atomic uint32_t told_ready;	/* KARMA_READY_* as the guest said last, plus 1; 0: it said nothing */

	atomic_bool checkpointed;	/* the guest has called `checkpoint`, here or in what it was restored from */

	pthread_mutex_t event_lock;
	uint64_t config_events;		/* a bit a device */
	bool power_button, restored;
	struct karma_interrupt event_interrupt;

	unsigned watchdog;		/* period in seconds, which the guest can ask for; 0: there is none */
	/*
	 * It has looked at a device or at its command, or has printed: others don't go the same way.  Once it has, a hostile
	 * disk, network or command may have it.
	 */
	atomic_bool individual;
	_Atomic uint64_t feeds;		/* of the watchdog; 0: the guest is not watched */

	/* They stay the same while the guest runs. */
	bool checkpoints;		/* the guest is asked to call `checkpoint` */
	const char *command;		/* the caller's: a text for the guest's init, or NULL */
	size_t command_bytes;		/* of that, with no NUL */
	const char *name;		/* the caller's; at most KARMA_NAME_BYTES with its NUL, or NULL */
	uint64_t generation;		/* 0, or how many restores led to this guest */
	uint8_t id[KARMA_ID_BYTES];
};

void machine_init(
	struct machine *machine, struct guest_memory *memory, const struct machine_ops *ops);
/* KARMA_FEATURE_*, as CPUID has them; in what the call `features` returns, a checkpoint is not wanted twice. */
uint32_t machine_features(const struct machine *machine);
/* Releases the devices too. */
void machine_release(struct machine *machine);

/*
 * Add a device, which the machine then owns.  0, or -ENOSPC with a message printed (the device is
 * released then).
 */
int machine_add(struct machine *machine, struct virtio_device *device);

/*
 * The life cycle of all devices (karma/virtio.h), by the thread that makes and ends the VM, while no vCPU
 * runs.
 */
void machine_start_devices(struct machine *machine);
void machine_pause_devices(struct machine *machine);
/*
 * Wait until all requests in flight are done, and their interrupts sent.  The devices are paused.  0, or -EBUSY with a
 * message printed: a limit or a server holds some up for MACHINE_DRAIN_MILLISECONDS.
 */
#define MACHINE_DRAIN_MILLISECONDS 2000u
int machine_drain_devices(struct machine *machine);
void machine_resume_devices(struct machine *machine);
void machine_end_devices(struct machine *machine);

/*
 * Snapshots: events, and the state of all devices.  To save them the devices are paused and drained; interrupts
 * that were sent until then are the local APICs', so these are saved afterwards.  To restore them the devices are
 * those that were saved, by kind and number, and not started; what the monitor's other side was told by then it is
 * told again by machine_start_devices(), which comes when the local APICs are restored.  0, or a negative errno
 * with a message printed.
 *
 * with_devices: false for a guest that is not individual yet.  A machine that is restored from that has any devices, as
 * they were made.
 */
int machine_save(struct machine *machine, struct snapshot_writer *to, bool with_devices);
int machine_restore(struct machine *machine, struct snapshot_reader *from);

/* The driver of a device is ready: the guest is up with that of its console, if its kernel never calls `ready`. */
void machine_driver_ready(struct machine *machine, const struct virtio_device *device);

/*
 * The size of a device's backend, or of any for device -1, may have changed: measure it, and tell the
 * guest.  One thread at a time.
 */
void machine_measure(struct machine *machine, int device);

/*
 * Give the guest a new random id, which it finds by the call `generation` and as ACPI's VMGENID.  Before it runs
 * for the first time, with all else in its memory.  0, or a negative errno with a message printed.
 */
int machine_identify(struct machine *machine);

/*
 * The guest is about to go on from a snapshot: a new generation and id, and it is told.  Once, when everything is
 * restored, interrupt controllers too, and before it runs.  As machine_identify().
 */
int machine_restored(struct machine *machine);

/* The user asks the guest to power off.  Any thread. */
void machine_press_power_button(struct machine *machine);

/* The interrupt for events; 0 for its address: none. */
void machine_set_event_interrupt(struct machine *machine, const struct karma_interrupt *interrupt);

/* The next event for the guest, forgotten thereby; 0 if there is none. */
uint32_t machine_next_event(struct machine *machine);

#endif
