/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the fuzzers of devices share: a hostile guest.  Its memory lies between pages without any
 * access, a thread may change it all the time, so that whatever is read twice differs, and its driver
 * sets queues up, writes chains and anything else into them, notifies and resets as a script says.
 */
#ifndef KARMA_TESTS_FUZZ_GUEST_H
#define KARMA_TESTS_FUZZ_GUEST_H

#include "karma/rate_limiter.h"
#include "karma/virtio.h"
#include "script.h"

/* The one guest memory there is. */
extern struct guest_memory memory;

void memory_make(size_t bytes);
/* All zeroes again. */
void memory_clear(void);
void *memory_at(uint64_t gpa, size_t length);
/* Memory may change meanwhile; nothing, where there is none. */
void memory_store(uint64_t gpa, uint8_t value);

/*
 * Change memory until meddling_stop(): mostly in the first bytes of these places, which are multiples of
 * stride.  Nothing is changed if choice is even.
 */
void meddling_start(uint8_t choice, size_t stride);
void meddling_stop(void);

/* One that holds a device back from the first request on, for moments, not for what a user would set. */
void limit_init_short(struct rate_limiter *limit);

/* Notify, and check that the device keeps its bounds. */
void notify_device(struct virtio_device *device, unsigned queue);

/*
 * A snapshot of one device, which is brought to rest for it and stays paused: then as the script changes it, and in
 * the place of what a device that was just made has.  The latter is running then, or of no use: false.
 */
void state_save(struct virtio_device *device, struct io_ring *ring);
void state_change(struct script *script);
bool state_restore(struct virtio_device *device);

/* Where a queue's rings and data are if its driver is a good one; all within DRIVER_MEMORY. */
#define DRIVER_MEMORY (256 * 1024u)
#define DRIVER_QUEUES_MAX 3u
#define QUEUE_BYTES (64 * 1024u)
#define QUEUE_AT(index) (QUEUE_BYTES * (index))
#define DESCRIPTORS 0u
#define AVAIL (16 * 1024u)
#define USED (20 * 1024u)
#define TABLE (32 * 1024u)
#define HEADERS (36 * 1024u)
#define DATA_AT (QUEUE_BYTES * DRIVER_QUEUES_MAX)

struct driver {
	struct virtio_device *device;
	struct io_ring *ring;
	uint16_t sizes[DRIVER_QUEUES_MAX], published[DRIVER_QUEUES_MAX];
};

void driver_init(struct driver *driver, struct virtio_device *device, struct io_ring *ring);
/* From the first status to the last, and the queues between. */
void driver_start(struct driver *driver, struct script *script);
/* Reset, and wait for its end: -timeout tells if there is none. */
void driver_reset(struct driver *driver);

struct segment {
	uint64_t address;
	uint32_t length;
	bool in;
};

/* Write a chain of at least one segment, from an entry on or in the queue's table, and publish it. */
void driver_chain(struct driver *driver, unsigned queue, uint16_t head, bool indirect,
	const struct segment *segments, unsigned count);
/* Such a chain as the script has it. */
void driver_any_chain(struct driver *driver, unsigned queue, struct script *script);

/* An address: mostly one that a driver would give, at times any; a length likewise. */
uint64_t take_address(struct script *script);
uint32_t take_length(struct script *script);

/*
 * What a driver of any device does, right or wrong, by the lowest four bits of the operation; those
 * above say on which queue.  False if that is none of these: it is the device's own.
 */
bool driver_step(struct driver *driver, uint8_t operation, struct script *script);
unsigned driver_queue(const struct driver *driver, uint8_t operation);

#endif
