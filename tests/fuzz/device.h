/* SPDX-License-Identifier: GPL-2.0-only */
/* What the fuzzers of single devices share. */
#ifndef KARMA_FUZZ_DEVICE_H
#define KARMA_FUZZ_DEVICE_H

#include "guest.h"

/*
 * The main loop of a device's fuzzer, in device.c.  The first byte of an input says what kind of guest it is,
 * whether its memory changes meanwhile, and whether there are snapshots; the others are steps.
 */
extern struct io_ring ring;
extern struct driver driver;

struct device_fuzzer {
	unsigned ring_entries;
	/* Once, before all inputs; or NULL. */
	void (*prepare)(void);
	/* Makes the device; of a kind, such as with a limit. */
	struct virtio_device *(*create)(uint8_t kind);
	/* A step that driver_step() does not know; NULL: a chain for the first queue. */
	void (*step)(uint8_t operation, struct script *script);
	/* Checks what holds after each step; or NULL. */
	void (*check)(void);
	/* Releases the device, which was reset, is paused or was never started, and what create() has made. */
	void (*release)(void);
};

extern const struct device_fuzzer fuzzer;

#endif
