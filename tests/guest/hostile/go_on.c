// SPDX-License-Identifier: GPL-2.0-only
/*
 * Not an attack: what a snapshot has to keep, on all CPUs.  Registers, MSRs, timers, memory and rings have contents that
 * are known, a disk and a source of random numbers are at work; then it waits until it is a copy of itself, and looks
 * whether all is as it was, and goes on.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include "hostile.h"

#define CR4_OSFXSR 0x200u
#define PATTERN 0x1122334455667788ull
#define REQUESTS 20u	/* three descriptors each of the disk's, none of which is used again */
#define RNG_SIZE 8u	/* of its queue, which goes round more than once */
#define TICK_NANOSECONDS 10000000u

/* KERNEL_GS_BASE, LSTAR and FMASK: any value below 2^47 will do. */
static const uint32_t msrs_kept[] = { 0xc0000102, 0xc0000082, 0xc0000084 };

static volatile bool is_copy;
static _Atomic unsigned waiting;

static void expect(bool holds, const char *text)
{
	if (holds)
		return;
	say(text);
	finish(BAD);
}

/* --- A disk whose sector N begins with the number N, and random numbers. */

static uint8_t *area_of(unsigned number)
{
	return (uint8_t *)(uintptr_t)(AREA_AT + (CPUS_MAX + number) * AREA_BYTES);
}

static void await_used(const uint8_t *area, unsigned count)
{
	const volatile struct vring_used *used = (const void *)(area + 0x6000);

	while (used->idx != count)
		__asm__ volatile("pause");
}

static void read_sector_of(uint32_t disk, unsigned number)
{
	uint8_t *area = area_of(0), *header = area + 0x10000 + number * 0x800;
	struct vring_desc *descriptors = (struct vring_desc *)area + number * 3;
	struct vring_avail *avail = (void *)(area + 0x4000);
	uint8_t *data = header + 0x200, *status = header + 0x400;

	*(struct virtio_blk_outhdr *)header = (struct virtio_blk_outhdr){ .type = VIRTIO_BLK_T_IN, .sector = number };
	*status = UINT8_MAX;
	descriptors[0] = (struct vring_desc){ (uintptr_t)header, 16, VRING_DESC_F_NEXT, number * 3 + 1 };
	descriptors[1] = (struct vring_desc){ (uintptr_t)data, 512,
		VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, number * 3 + 2 };
	descriptors[2] = (struct vring_desc){ (uintptr_t)status, 1, VRING_DESC_F_WRITE, 0 };
	avail->ring[number] = number * 3;
	__asm__ volatile("" : : : "memory");
	avail->idx = number + 1;
	call(KARMA_CALL_queue_notify, disk, 0);
	await_used(area, number + 1);
	expect(*(volatile uint8_t *)status == VIRTIO_BLK_S_OK && *(volatile uint32_t *)data == number,
		"another sector, or none\n");
}

static void draw(uint32_t rng, unsigned number)
{
	uint8_t *area = area_of(1);
	struct vring_desc *descriptor = (struct vring_desc *)area + number % RNG_SIZE;
	struct vring_avail *avail = (void *)(area + 0x4000);

	*descriptor = (struct vring_desc){ (uintptr_t)area + 0x10000, 64, VRING_DESC_F_WRITE, 0 };
	avail->ring[number % RNG_SIZE] = number % RNG_SIZE;
	__asm__ volatile("" : : : "memory");
	avail->idx = number + 1;
	call(KARMA_CALL_queue_notify, rng, 0);
	await_used(area, number + 1);
}

/* --- A CPU. */

static void write_pattern(unsigned cpu)
{
	uint64_t seed = PATTERN + cpu, *at = (uint64_t *)(uintptr_t)(AREA_AT + cpu * AREA_BYTES);

	for (unsigned i = 0; i < AREA_BYTES / 4096; i++)
		at[i * 512 + i] = random_next(&seed);
}

static void expect_pattern(unsigned cpu)
{
	uint64_t seed = PATTERN + cpu, *at = (uint64_t *)(uintptr_t)(AREA_AT + cpu * AREA_BYTES);

	for (unsigned i = 0; i < AREA_BYTES / 4096; i++)
		expect(at[i * 512 + i] == random_next(&seed), "other memory\n");
}

static uint64_t of_generation(void)
{
	struct karma_generation *at = (void *)area_of(2);

	call(KARMA_CALL_generation, 0, (uintptr_t)at);
	return at->generation;
}

/* A periodic timer, which ends each halt; one more halt shows that it goes on. */
static void set_timer(uint32_t nanoseconds)
{
	try_wrmsr(APIC_SPURIOUS, 0x1ff);
	try_wrmsr(APIC_TIMER_DIVIDE, 0xb);
	try_wrmsr(APIC_TIMER, 1u << 17 | TIMER_VECTOR);
	try_wrmsr(APIC_TIMER_COUNT, nanoseconds);
}

static void halt_for_a_moment(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

static void work(unsigned from, unsigned to)
{
	uint32_t disk = find_device(VIRTIO_ID_BLOCK, 0), rng = find_device(VIRTIO_ID_RNG, 0);

	for (unsigned i = from; i < to; i++) {
		read_sector_of(disk, i);
		draw(rng, i);
	}
}

static void await_copy(unsigned cpu)
{
	waiting++;
	if (cpu == 0) {
		while (waiting != cpus)
			halt_for_a_moment();
		say("waiting\n");
		while (of_generation() == 0)
			halt_for_a_moment();
		is_copy = true;
	}
	while (!is_copy)
		halt_for_a_moment();
}

void go_on(unsigned cpu)
{
	const uint64_t pattern = PATTERN * (cpu + 1);
	const uint16_t control = 0x27f;		/* of the FPU: double precision, which fninit does not set */
	uint64_t is_pattern;
	uint16_t is_control;

	if (cpu == 0) {
		struct karma_queue_setup setup = rings_at(area_of(0), SIZE);

		expect(start_device(find_device(VIRTIO_ID_BLOCK, 0), VERSION_1, &setup, 1, 0), "no disk\n");
		setup = rings_at(area_of(1), RNG_SIZE);
		expect(start_device(find_device(VIRTIO_ID_RNG, 0), VERSION_1, &setup, 1, 0), "no random numbers\n");
		work(0, REQUESTS / 2);
	}
	write_pattern(cpu);
	for (unsigned i = 0; i < sizeof(msrs_kept) / sizeof(msrs_kept[0]); i++)
		expect(try_wrmsr(msrs_kept[i], 0x700 + cpu), "no such MSR\n");
	__asm__ volatile("mov %%cr4, %%rax; or %0, %%rax; mov %%rax, %%cr4" : : "i"(CR4_OSFXSR) : "rax");
	__asm__ volatile("movq %0, %%xmm5; fninit; fldcw %1" : : "r"(pattern), "m"(control));
	set_timer(TICK_NANOSECONDS);
	await_copy(cpu);
	__asm__ volatile("movq %%xmm5, %0; fnstcw %1" : "=r"(is_pattern), "=m"(is_control));
	expect(is_pattern == pattern && is_control == control, "another FPU\n");
	for (unsigned i = 0; i < sizeof(msrs_kept) / sizeof(msrs_kept[0]); i++)
		expect(try_rdmsr(msrs_kept[i], &is_pattern) && is_pattern == 0x700 + cpu, "another MSR\n");
	expect_pattern(cpu);
	for (unsigned i = 0; i < 3; i++)
		halt_for_a_moment();
	set_timer(0);
	if (cpu == 0)
		work(REQUESTS / 2, REQUESTS);
}
