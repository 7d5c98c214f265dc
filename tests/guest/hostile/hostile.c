// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest that wants out, on bare metal: real calls, from all CPUs at once, of a kind that no driver
 * makes.  What it does is named on its command line, by hostile=NAME cpus=N; if the monitor is still
 * there afterwards, it ends with status 42, and with 1 if a device doesn't do what it must.
 */
#include <linux/virtio_ids.h>
#include <stddef.h>

#include "hostile.h"

#define GOOD 42

#define TRAMPOLINE 0x9000u

#define ACPI_PORTS_AT 0x600u	/* power off and reset: left out of scans */
#define ACPI_PORTS_END 0x610u

#define MSR_APIC_BASE 0x1bu
#define APIC_EOI 0x80bu
#define APIC_ICR 0x830u
#define IPI_VECTOR 0x41u

extern uint32_t start_info, cpus_started;
extern uint8_t vectors[], trampoline[], trampoline_end[];
extern uint8_t refused[];
void cpu_main(unsigned cpu);
void trapped(unsigned vector, uint64_t *frame);

static struct { uint16_t low, selector, flags, middle; uint32_t high, reserved; } idt[256];
static void (*volatile job)(unsigned cpu);
static _Atomic unsigned generation, done;
unsigned cpus;

/* --- The machine. */

static int64_t raw_call(uint64_t rax, uint64_t rbx, uint64_t rcx, uint64_t rdx)
{
	__asm__ volatile("vmcall" : "+a"(rax) : "b"(rbx), "c"(rcx), "d"(rdx) : "memory");
	return rax;
}

int64_t call(uint32_t number, uint32_t argument, uint64_t value)
{
	return raw_call(KARMA_HYPERCALL, KARMA_WINDOW_BASE + number * 4096u, KARMA_TAG | argument, value);
}

void finish(unsigned status)
{
	for (;;)
		call(KARMA_CALL_exit, status, 0);
}

void say(const char *text)
{
	uint32_t length = 0;

	while (text[length])
		length++;
	call(KARMA_CALL_console_write, length, (uintptr_t)text);
}

void trapped(unsigned vector, uint64_t *frame)
{
	if (vector >= 32) {
		try_wrmsr(APIC_EOI, 0);
		return;
	}
	/* Of the two functions that try, either has its return address alone on the stack. */
	if (vector == 13 && frame[0] >= (uintptr_t)try_rdmsr && frame[0] < (uintptr_t)refused) {
		frame[0] = (uintptr_t)refused;
		return;
	}
	say("unexpected exception\n");
	finish(BAD);
}

static void load_idt(uint16_t limit)
{
	struct __attribute__((packed)) { uint16_t limit; uint64_t base; } at = { limit, (uintptr_t)idt };

	for (unsigned i = 0; i < 256; i++) {
		uintptr_t vector = (uintptr_t)vectors + 16 * i;

		idt[i].low = vector;
		idt[i].selector = 8;
		idt[i].flags = 0x8e00;
		idt[i].middle = vector >> 16;
	}
	__asm__ volatile("lidt %0" : : "m"(at));
}

uint64_t random_next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void everywhere(void (*function)(unsigned cpu))
{
	done = 0;
	job = function;
	generation++;
	function(0);
	while (done != cpus - 1)
		__asm__ volatile("pause");
}

static void start_others(void)
{
	uint64_t base;

	for (uint8_t *from = trampoline, *to = (void *)(uintptr_t)TRAMPOLINE; from < trampoline_end;)
		*to++ = *from++;
	try_rdmsr(MSR_APIC_BASE, &base);
	try_wrmsr(MSR_APIC_BASE, base | 0xc00);
	try_wrmsr(APIC_SPURIOUS, 0x1ff);
	try_wrmsr(APIC_ICR, 0xc4500);		/* INIT, all but us */
	for (volatile unsigned i = 0; i < 100000; i++)
		;
	try_wrmsr(APIC_ICR, 0xc4600 | TRAMPOLINE >> 12);
	while (*(volatile uint32_t *)&cpus_started != cpus)
		__asm__ volatile("pause");
}

/* --- Calls with every boundary value. */

static bool ends_the_guest(uint32_t number, uint32_t argument, uint64_t value)
{
	switch (number) {
	case KARMA_CALL_exit:
		return argument <= 255 && !value;
	case KARMA_CALL_power:
		return argument <= 1 && !value;
	case KARMA_CALL_panic:
		return argument <= 4096;
	default:
		return false;
	}
}

static void calls(unsigned cpu)
{
	const uint32_t arguments[] = { 0, 1, 2, 3, 4, 0xff, 0x100, 0x101, 0xff00, 0xffff, 0x10000, 4096, 4097,
		0x7ff00001, 0x00100002, KARMA_ARGUMENT_MASK };
	const uint64_t values[] = { 0, 1, 255, 256, 4095, AREA_AT + cpu * AREA_BYTES, MEMORY_END - 1,
		MEMORY_END - 24, MEMORY_END, KARMA_WINDOW_BASE, 0xfee00000, 0xffffffff, 1ull << 32, 1ull << 52,
		1ull << 63, ~0ull - 23, ~0ull };

	for (uint32_t number = 0; number < KARMA_WINDOW_CALLS; number += number < 32 ? 1 : 37) {
		for (unsigned i = 0; i < sizeof(arguments) / sizeof(arguments[0]); i++) {
			for (unsigned j = 0; j < sizeof(values) / sizeof(values[0]); j++) {
				if (!ends_the_guest(number, arguments[i], values[j]))
					call(number, arguments[i], values[j]);
			}
		}
	}
	/* What is no call at all: KVM answers, or we do. */
	for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		raw_call(KARMA_HYPERCALL, values[i], values[i], values[i]);
		raw_call(KARMA_HYPERCALL, values[i] & ~4095ull, KARMA_TAG, values[i]);
		raw_call(values[i] == KARMA_HYPERCALL ? 0 : values[i], values[i], values[i], values[i]);
	}
}

/* --- Devices. */

/* Another CPU may set the device up again before we see it. */
static bool reset(uint32_t device, unsigned patience)
{
	call(KARMA_CALL_device_set_status, device, 0);
	for (unsigned i = 0; i < patience; i++) {
		if (call(KARMA_CALL_device_status, device, 0) == 0)
			return true;
	}
	return false;
}

struct karma_queue_setup rings_at(uint8_t *area, uint32_t size)
{
	return (struct karma_queue_setup){
		.descriptors = (uintptr_t)area,
		.driver = (uintptr_t)area + 0x4000,
		.device = (uintptr_t)area + 0x6000,
		.size = size,
	};
}

bool start_device(uint32_t device, uint64_t features, const struct karma_queue_setup *setup,
	unsigned queues, uint64_t stride)
{
	struct karma_device_info *info = (void *)(uintptr_t)(setup->descriptors + 0x8000);
	struct karma_queue_setup *copy = (void *)(uintptr_t)(setup->descriptors + 0x8100);

	reset(device, 100);
	if (call(KARMA_CALL_device_info, device, (uintptr_t)info) < 0)
		return false;
	features &= info->features;
	call(KARMA_CALL_device_set_status, device, 1);
	call(KARMA_CALL_device_set_status, device, 3);
	call(KARMA_CALL_device_accept, device, (uint32_t)features);
	call(KARMA_CALL_device_accept, device | 1 << 8, features >> 32);
	call(KARMA_CALL_device_set_status, device, 11);
	for (unsigned i = 0; i < queues && i < info->queues; i++) {
		*copy = *setup;
		copy->descriptors += i * stride;
		copy->driver += i * stride;
		copy->device += i * stride;
		call(KARMA_CALL_queue_setup, device | i << 8, (uintptr_t)copy);
	}
	call(KARMA_CALL_device_set_status, device, 15);
	return true;
}

uint32_t find_device(uint32_t id, uint32_t from)
{
	struct karma_device_info info;

	while (from < DEVICES_MAX && (call(KARMA_CALL_device_info, from, (uintptr_t)&info) < 0 || info.device_id != id))
		from++;
	return from;
}

#define ALL_FEATURES ~0ull

static uint64_t lie(uint64_t *seed, uint64_t good)
{
	const uint64_t lies[] = { 0, 1, MEMORY_END - 1, MEMORY_END, KARMA_WINDOW_BASE, 1ull << 32, 1ull << 63,
		~0ull, ~0ull - 511 };
	uint64_t dice = random_next(seed) % 32;

	return dice < sizeof(lies) / sizeof(lies[0]) ? lies[dice] : good;
}

static void write_lies(uint8_t *area, uint64_t *seed)
{
	struct vring_desc *descriptors = (void *)area;
	struct vring_avail *avail = (void *)(area + 0x4000);

	for (unsigned i = 0; i < SIZE; i++) {
		uint64_t bits = random_next(seed);

		descriptors[i].addr = lie(seed, (uintptr_t)area + 0x10000 + (bits & 0xff0));
		descriptors[i].len = lie(seed, bits >> 12 & 0x3ff0);
		descriptors[i].flags = bits >> 40 & 7;
		descriptors[i].next = lie(seed, bits >> 48 & (SIZE - 1));
		avail->ring[i] = lie(seed, bits >> 56 & (SIZE - 1));
	}
	/* A request's header, now and then one that means something. */
	for (unsigned i = 0; i < 0x1000; i += 16) {
		*(uint32_t *)(area + 0x10000 + i) = random_next(seed) % 16;
		*(uint64_t *)(area + 0x10008 + i) = lie(seed, random_next(seed) % 64);
	}
	avail->flags = random_next(seed) & 1;
	avail->idx = lie(seed, avail->idx + random_next(seed) % SIZE);
}

/* Even ones lie, odd ones change what the one before has written, all the time. */
static void rings(unsigned cpu)
{
	uint8_t *area = (uint8_t *)(uintptr_t)(AREA_AT + (cpu & ~1u) * AREA_BYTES);
	uint64_t seed = 0x9e3779b97f4a7c15ull * (cpu + 1);
	/* The last device, which would take any memory away, even what this runs in. */
	uint32_t devices = find_device(VIRTIO_ID_BALLOON, 0);

	if (cpu % 2) {
		for (unsigned i = 0; i < 1000000; i++)
			area[random_next(&seed) % 0x6000] = random_next(&seed);
		return;
	}
	for (unsigned round = 0; round < 300; round++) {
		uint32_t device = round % devices;
		struct karma_queue_setup setup = rings_at(area, SIZE);

		if (random_next(&seed) % 8 == 0) {
			setup.descriptors = lie(&seed, setup.descriptors);
			setup.driver = lie(&seed, setup.driver);
			setup.device = lie(&seed, setup.device);
			setup.size = random_next(&seed) % 70000;
		}
		/* The other one may have the same device in its hands: so much the better. */
		if (setup.descriptors == (uintptr_t)area)
			start_device(device, random_next(&seed), &setup, 3, 0);
		for (unsigned i = 0; i < 4; i++) {
			write_lies(area, &seed);
			call(KARMA_CALL_queue_notify,
				device | (i % 3) << 8 | (round & 1 ? KARMA_NOTIFY_ANSWER : 0), 0);
		}
	}
}

#define NEEDS_RESET 64
#define LONG_CHAIN 256u

/* Buffers for frames, in one chain of many times this guest's memory, which no device may take. */
static void long_chain(unsigned cpu)
{
	uint8_t *area = (uint8_t *)(uintptr_t)AREA_AT;
	struct karma_queue_setup setup = rings_at(area, LONG_CHAIN);
	struct vring_desc *descriptors = (void *)area;
	struct vring_desc *table = (void *)(area + 0x10000);
	struct vring_avail *avail = (void *)(area + 0x4000);
	uint32_t network = find_device(VIRTIO_ID_NET, 0);
	uint64_t buffer = AREA_AT + AREA_BYTES;

	if (cpu)
		return;
	for (unsigned i = 0; i < LONG_CHAIN; i++)
		table[i] = (struct vring_desc){ buffer, MEMORY_END - buffer,
			VRING_DESC_F_WRITE | (i + 1 < LONG_CHAIN ? VRING_DESC_F_NEXT : 0), i + 1 };
	descriptors[0] = (struct vring_desc){ (uintptr_t)table, LONG_CHAIN * sizeof(*table), VRING_DESC_F_INDIRECT, 0 };
	descriptors[1] = (struct vring_desc){ buffer, 64, VRING_DESC_F_WRITE, 0 };
	avail->ring[1] = 1;
	avail->idx = 2;
	if (!start_device(network, VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC, &setup, 1, 0))
		finish(BAD);
	call(KARMA_CALL_queue_notify, network, 0);
	say("waiting\n");
	/* The device looks at its buffers when a frame comes. */
	while (!(call(KARMA_CALL_device_status, network, 0) & NEEDS_RESET))
		__asm__ volatile("pause");
}

/* The first device is a disk: read its first sector as a driver does. */
static void read_sector(void)
{
	uint8_t *area = (uint8_t *)(uintptr_t)AREA_AT;
	struct karma_queue_setup setup = rings_at(area, SIZE);
	struct vring_desc *descriptors = (void *)area;
	struct vring_avail *avail = (void *)(area + 0x4000);
	volatile struct vring_used *used = (void *)(area + 0x6000);
	uint8_t *header = area + 0x10000;

	for (uint32_t device = 0; device < find_device(VIRTIO_ID_BALLOON, 0); device++) {
		if (reset(device, 1000000))
			continue;
		say("a device does not reset\n");
		finish(BAD);
	}
	for (unsigned i = 0; i < 0x20000; i++)
		area[i] = 0;
	if (!start_device(0, VERSION_1, &setup, 1, 0))
		finish(BAD);
	header[0x800] = 0xff;
	descriptors[0] = (struct vring_desc){ (uintptr_t)header, 16, VRING_DESC_F_NEXT, 1 };
	descriptors[1] = (struct vring_desc){ (uintptr_t)header + 0x400, 512,
		VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2 };
	descriptors[2] = (struct vring_desc){ (uintptr_t)header + 0x800, 1, VRING_DESC_F_WRITE, 0 };
	avail->idx = 1;
	call(KARMA_CALL_queue_notify, 0, 0);
	for (unsigned i = 0; i < 2000000 && used->idx != 1; i++)
		call(KARMA_CALL_version, 0, 0);
	if (used->idx != 1 || header[0x800] != 0) {
		say("the disk does not work any more\n");
		finish(BAD);
	}
}

static void storm(unsigned cpu)
{
	uint64_t seed = cpu + 1;

	for (unsigned i = 0; i < 20000; i++)
		call(KARMA_CALL_queue_notify,
			random_next(&seed) % 4 ? i % 4 | (i / 4 % 8) << 8 | (i / 32 % 2 ? KARMA_NOTIFY_ANSWER : 0) :
						 random_next(&seed),
			0);
}

/* Long reads, and a reset while they are under way; all on the same disk. */
static void resets(unsigned cpu)
{
	uint8_t *area = (uint8_t *)(uintptr_t)(AREA_AT + cpu * AREA_BYTES);
	struct karma_queue_setup setup = rings_at(area, SIZE);
	struct vring_desc *descriptors = (void *)area;
	struct vring_avail *avail = (void *)(area + 0x4000);

	for (unsigned round = 0; round < 200; round++) {
		for (unsigned i = 0; i < 0x7000; i++)
			area[i] = 0;
		for (unsigned i = 0; i < SIZE; i += 3) {
			descriptors[i] = (struct vring_desc){ (uintptr_t)area + 0x10000, 16, VRING_DESC_F_NEXT, i + 1 };
			descriptors[i + 1] = (struct vring_desc){ (uintptr_t)area + 0x20000, 0x40000,
				VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, i + 2 };
			descriptors[i + 2] = (struct vring_desc){ (uintptr_t)area + 0x10800, 1, VRING_DESC_F_WRITE, 0 };
			avail->ring[i / 3] = i;
		}
		avail->idx = 20;
		start_device(0, VERSION_1, &setup, 1, 0);
		call(KARMA_CALL_queue_notify, round & 1 ? KARMA_NOTIFY_ANSWER : 0, 0);
		call(KARMA_CALL_device_set_status, 0, 0);
	}
}

/* --- What is not there. */

static void ports(unsigned cpu)
{
	for (unsigned port = cpu; port < 65536; port += cpus) {
		uint32_t value;

		if (port >= ACPI_PORTS_AT && port < ACPI_PORTS_END)
			continue;
		__asm__ volatile("inb %w1, %b0" : "=a"(value) : "d"(port));
		if (port % 64 == 0) {
			__asm__ volatile("outl %0, %w1" : : "a"(~0u), "d"(port));
			__asm__ volatile("inw %w1, %w0" : "=a"(value) : "d"(port));
		}
	}
	/* Strings, of as many bytes as an exit can hold and more. */
	for (unsigned i = 0; i < 8; i++) {
		void *to = (void *)(uintptr_t)(AREA_AT + cpu * AREA_BYTES);
		uint64_t count = 1 + i * 400;

		__asm__ volatile("rep insl" : "+D"(to), "+c"(count) : "d"(0x500 + i) : "memory");
		to = (void *)(uintptr_t)(AREA_AT + cpu * AREA_BYTES);
		count = 1 + i * 400;
		__asm__ volatile("rep outsb" : "+S"(to), "+c"(count) : "d"(0x500 + i) : "memory");
	}
}

static void scan_msrs(uint32_t from, uint32_t to)
{
	uint64_t value;

	for (uint32_t index = from; index < to; index++) {
		if (try_rdmsr(index, &value))
			try_wrmsr(index, value);
	}
}

static void msrs(unsigned cpu)
{
	(void)cpu;
	scan_msrs(0, 0x830);
	scan_msrs(0x840, 0x1000);
	scan_msrs(0x40000000, 0x40000200);
	scan_msrs(0x4b564d00, 0x4b564d10);
	scan_msrs(0xc0000000, 0xc0000200);
	scan_msrs(0xc0010000, 0xc0010200);
}

/* Reads must give ones of any size, at the end of memory too, where one is half of each. */
static void absent_memory(unsigned cpu)
{
	volatile uint64_t *edge = (volatile uint64_t *)(uintptr_t)(MEMORY_END - 4);

	for (uint64_t at = MEMORY_END + cpu * 8; at < 0xfe000000u; at += 4u << 20) {
		*(volatile uint32_t *)(uintptr_t)(at & ~7ull) = 1;
		if (*(volatile uint8_t *)(uintptr_t)at != UINT8_MAX ||
			*(volatile uint64_t *)(uintptr_t)(at + 1) != UINT64_MAX)
			finish(BAD);
	}
	for (unsigned i = 0; i < 100; i++) {
		*edge = i;
		if (*edge >> 32 != UINT32_MAX)
			finish(BAD);
	}
	/* As a string: from there into memory. */
	for (unsigned i = 0; i < 8; i++) {
		const void *from = (void *)(uintptr_t)(0xc8000000u + i);
		void *to = (void *)(uintptr_t)(AREA_AT + cpu * AREA_BYTES);
		uint64_t count = 100;

		__asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
		if (*((uint8_t *)to - 1) != UINT8_MAX)
			finish(BAD);
	}
}

static void triple_fault(unsigned cpu)
{
	struct __attribute__((packed)) { uint16_t limit; uint64_t base; } none = { 0, 0 };

	(void)cpu;
	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

static void halt(unsigned cpu)
{
	(void)cpu;
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* A timer without a pause, and each CPU interrupts all. */
static void runaway(unsigned cpu)
{
	(void)cpu;
	try_wrmsr(APIC_SPURIOUS, 0x1ff);
	try_wrmsr(APIC_TIMER_DIVIDE, 0xb);
	try_wrmsr(APIC_TIMER, 1u << 17 | TIMER_VECTOR);
	try_wrmsr(APIC_TIMER_COUNT, 1);
	__asm__ volatile("sti");
	for (unsigned i = 0; i < 3000; i++)
		try_wrmsr(APIC_ICR, 0x80000 | IPI_VECTOR);
	try_wrmsr(APIC_TIMER_COUNT, 0);
	__asm__ volatile("cli");
}

static void flood(unsigned cpu)
{
	uint8_t *text = (uint8_t *)(uintptr_t)(AREA_AT + cpu * AREA_BYTES);

	for (unsigned i = 0; i < 4096; i++)
		text[i] = i % 64 == 63 ? '\n' : 1 + i % 250;
	for (unsigned i = 0; i < 5000; i++)
		call(KARMA_CALL_console_write, 4096, (uintptr_t)text);
}

/* Pages that the balloon gives away are any but our own: this ends in a crash if anything is wrong. */
static void balloon(unsigned cpu)
{
	uint8_t *area = (uint8_t *)(uintptr_t)(AREA_AT + cpu * AREA_BYTES);
	struct karma_queue_setup setup = rings_at(area, SIZE);
	struct vring_desc *descriptors = (void *)area;
	struct vring_avail *avail = (void *)(area + 0x4000);
	uint32_t *pages = (void *)(area + 0x10000);
	uint64_t seed = cpu + 1;

	for (unsigned round = 0; round < 20; round++) {
		/* The last device; queue 0 inflates. */
		start_device(3, ALL_FEATURES, &setup, 5, 0);
		for (unsigned i = 0; i < 256; i++)
			pages[i] = random_next(&seed) % 4 ? 0x8000 / 4 * 3 + random_next(&seed) % 4096 : random_next(&seed) | 1u << 20;
		descriptors[0] = (struct vring_desc){ (uintptr_t)pages, 1024, 0, 0 };
		descriptors[1] = (struct vring_desc){ MEMORY_END - (16u << 20), lie(&seed, 8u << 20), VRING_DESC_F_WRITE, 0 };
		avail->ring[0] = 0;
		avail->ring[1] = 1;
		avail->idx += 2;
		for (unsigned queue = 0; queue < 5; queue++)
			call(KARMA_CALL_queue_notify, 3 | queue << 8, 0);
	}
}

static const struct {
	const char *name;
	void (*run)(unsigned cpu);
	bool disk;	/* which must work afterwards */
} attacks[] = {
	{ "calls", calls, false },
	{ "rings", rings, true },
	{ "long-chain", long_chain, true },
	{ "storm", storm, true },
	{ "resets", resets, true },
	{ "ports", ports, true },
	{ "msrs", msrs, true },
	{ "absent-memory", absent_memory, true },
	{ "triple-fault", triple_fault, false },
	{ "halt", halt, false },
	{ "runaway", runaway, true },
	{ "flood", flood, true },
	{ "balloon", balloon, false },
	{ "fuse", fuse, true },
	{ "go-on", go_on, true },
};

/* What follows a word on the command line, or "". */
static const char *find(const char *line, const char *word)
{
	for (; *line; line++) {
		const char *at = line, *with = word;

		while (*with && *at == *with)
			at++, with++;
		if (!*with)
			return at;
	}
	return line;
}

static bool is(const char *text, const char *name)
{
	while (*name && *text == *name)
		text++, name++;
	return !*name && (!*text || *text == ' ');
}

void cpu_main(unsigned cpu)
{
	const char *line;

	load_idt(sizeof(idt) - 1);
	if (cpu > 0) {
		unsigned seen = 0;
		uint64_t base;

		try_rdmsr(MSR_APIC_BASE, &base);
		try_wrmsr(MSR_APIC_BASE, base | 0xc00);
		for (;;) {
			while (generation == seen)
				__asm__ volatile("pause");
			seen++;
			job(cpu);
			done++;
		}
	}
	/* struct hvm_start_info of Xen, which the PVH protocol hands over: cmdline_paddr. */
	line = (const char *)(uintptr_t)*(uint64_t *)(uintptr_t)(start_info + 24);
	cpus = *find(line, "cpus=") - '0';
	if (cpus < 1 || cpus > CPUS_MAX)
		finish(BAD);
	start_others();
	for (unsigned i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++) {
		if (!is(find(line, "hostile="), attacks[i].name))
			continue;
		say("start\n");
		everywhere(attacks[i].run);
		if (attacks[i].disk)
			read_sector();
		finish(GOOD);
	}
	say("hostile=NAME is not on the command line\n");
	finish(BAD);
}
