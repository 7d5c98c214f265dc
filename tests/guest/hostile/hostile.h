/* SPDX-License-Identifier: GPL-2.0-only */
/* What the parts of the hostile guest share. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "karma/abi.h"

#define BAD 1
#define DEVICES_MAX 16u
#define CPUS_MAX 8u

/* The memory that it is started with: --memory 64M. */
#define MEMORY_END (64u << 20)
#define AREA_AT (16u << 20)	/* of each CPU, to let devices work on */
#define AREA_BYTES (1u << 20)

#define SIZE 64u	/* of a queue */
#define VERSION_1 (1ull << 32)

int64_t call(uint32_t number, uint32_t argument, uint64_t value);
void __attribute__((noreturn)) finish(unsigned status);
void say(const char *text);
uint64_t random_next(uint64_t *seed);

#define APIC_SPURIOUS 0x80fu
#define APIC_TIMER 0x832u
#define APIC_TIMER_COUNT 0x838u
#define APIC_TIMER_DIVIDE 0x83eu
#define TIMER_VECTOR 0x40u

extern unsigned cpus;
bool try_rdmsr(uint32_t index, uint64_t *value);
bool try_wrmsr(uint32_t index, uint64_t value);

/* The area: descriptors, the available ring, the used ring, a page each; and data behind. */
struct karma_queue_setup rings_at(uint8_t *area, uint32_t size);
/* Its first queues get these rings, each a stride behind the one before. */
bool start_device(uint32_t device, uint64_t features, const struct karma_queue_setup *setup,
	unsigned queues, uint64_t stride);
/* The device of that kind, from a number on; DEVICES_MAX if there is none. */
uint32_t find_device(uint32_t id, uint32_t from);

/* Attacks of other files. */
void fuse(unsigned cpu);
void go_on(unsigned cpu);

#endif
