// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the hypercalls as a hostile guest does: any registers, of a machine with a device of each
 * kind, and any memory.  If the first byte says so, that changes meanwhile, and a second vCPU has
 * the script's second half.
 *
 * The input is a list of steps: calls, right ones and any others, what they find in memory, chains
 * in the queues, and what happens on the host.  Answers are in their range, what reaches the host
 * is what the ABI allows, and in the end each device can be reset.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "guest.h"
#include "karma/devices.h"
#include "karma/hypercall.h"
#include "karma/util.h"

#define MEMORY_BYTES (256 * KIB)
#define DISK_SECTORS 64u
#define STEPS_MAX 200u
/* Of the first byte; not often, since a thread is slow to begin and to end. */
#define KIND_TWO_VCPUS(kind) (((kind)&0x06) == 0x02)

enum { BLK, NET, CONSOLE, RNG, BALLOON, DEVICES };

/* In guest memory: a page for parameters, one for the rings of each queue, and the buffers. */
#define RINGS PAGE_BYTES
#define DRIVER_AREA 0x400u
#define DEVICE_AREA 0x800u
#define TABLES 0xc00u
#define QUEUES_EACH 4u
#define ENTRIES_MAX 64u
#define BUFFERS (128 * KIB)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct io_ring ring;
static struct machine machine;
static _Thread_local struct hypercall_counters counters;
static struct terminal terminal;
static struct net end;
static int file, frame_fd;
static const char command[KARMA_TEXT_MAX + 1];
static const uint8_t *frame;
static size_t frame_size;

/* --- What reaches the host. */

static size_t console_write(struct machine *of, const void *text, size_t length)
{
	check(of == &machine && length >= 1 && length <= KARMA_TEXT_MAX);
	return terminal_write(&terminal, text, length);
}

static void machine_end(struct machine *of, enum machine_end how, unsigned status)
{
	check(of == &machine && how <= MACHINE_PANIC && status <= 255);
	check(how == MACHINE_EXIT || status == 0);
}

static void ready(struct machine *of, uint32_t is_ready)
{
	check(of == &machine && is_ready <= KARMA_READY_QUOTED);
	if (is_ready)
		terminal_release_input(&terminal, is_ready == KARMA_READY_QUOTED);
	else
		terminal_hold_input(&terminal);
}

static void up(struct machine *of)
{
	check(of == &machine);
}

/* A message to a local APIC, and nothing else that a write could be. */
static void interrupt(struct machine *of, const struct karma_interrupt *message)
{
	check(of == &machine && message->address >= 0xfee00000 && message->address <= 0xfeefffff);
	check(message->address % 4 == 0 && !message->reserved);
	check((message->data & 0xff) >= 16 && !(message->data & ~0x41ffu));
}

static void checkpoint(struct machine *of)
{
	check(of == &machine && of->checkpoints && of->checkpointed);
}

static const struct machine_ops machine_ops = {
	.console_write = console_write,
	.end = machine_end,
	.ready = ready,
	.up = up,
	.interrupt = interrupt,
	.checkpoint = checkpoint,
};

static ssize_t receive(struct net *net, unsigned queue, const struct iovec *iov, unsigned count)
{
	uint64_t number;

	(void)net;
	(void)queue;
	if (read(frame_fd, &number, sizeof(number)) < 0 || !frame)
		return -EAGAIN;
	iov_write(iov, count, 0, frame, frame_size);
	frame = NULL;
	return frame_size;
}

static int send_frame(struct net *net, unsigned queue, struct iovec *iov, unsigned count)
{
	size_t length = 0;

	check(queue < net->queue_count && count > 0 && iov[0].iov_len == NET_HEADER_BYTES);
	for (unsigned i = 1; i < count; i++)
		length += iov[i].iov_len;
	check(length >= ETH_HLEN && length <= NET_FRAME_MAX);
	return 0;
}

static void gone(struct net *net)
{
	(void)net;
}

static const struct net_ops end_ops = { .receive = receive, .send = send_frame, .gone = gone };

/* --- The machine. */

static void add(struct virtio_device *device)
{
	check(device && machine_add(&machine, device) == 0);
	virtio_start(device);
}

static void make_machine(void)
{
	const struct virtio_environment environment = { &memory, &ring };
	static const uint8_t mac[ETH_ALEN] = { 2 };
	char path[32];
	struct disk_options options = { .path = path };
	struct disk *disk;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	check(ftruncate(file, 0) == 0 && ftruncate(file, DISK_SECTORS * 512) == 0);
	check(disk_open(&disk, &options, &ring) == 0);
	check(terminal_open(&terminal, "none", &ring) == 0);
	/* Nobody is attached: that input ends only with the process. */
	close_fd(&terminal.inputs[TERMINAL_ATTACHED].fd);
	terminal.inputs[TERMINAL_ATTACHED].fd = -1;
	memset(&end, 0, sizeof(end));
	net_init(&end, &end_ops, &ring);
	end.queue_count = 1;
	end.offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
	end.up = true;
	end.queues[0].fd = frame_fd;
	frame = NULL;
	machine_init(&machine, &memory, &machine_ops);
	machine.watchdog = 60;
	machine.checkpoints = true;
	machine.command = command;
	machine.command_bytes = sizeof(command);
	add(blk_create(&environment, "vda", disk, "serial", 1));
	add(net_create(&environment, "eth0", &end, mac, 1500));
	add(console_create(&environment, &terminal));
	add(rng_create(&environment));
	add(balloon_create(&environment, 0));
}

/* With nothing under way that the next machine would find. */
static void release_machine(void)
{
	machine_release(&machine);
	eventfd_write(frame_fd, 1);
	while (end.queues[0].readable_armed || end.queues[0].writable_armed)
		io_ring_reap(&ring, true);
	frame = NULL;
	receive(&end, 0, NULL, 0);
	terminal_close(&terminal);
}

/* --- Calls. */

static int64_t call_any(uint64_t rbx, uint64_t rcx, uint64_t rdx)
{
	uint64_t unknown = counters.unknown, refused = counters.refused;
	int64_t result = hypercall(&machine, &counters, rbx, rcx, rdx);

	check(result >= -4095 && result <= UINT32_MAX);
	check(counters.unknown - unknown == (result == -ENOSYS));
	check(counters.refused - refused == (result < 0 && result != -ENOSYS));
	return result;
}

static int64_t call(unsigned number, uint32_t argument, uint64_t value)
{
	return call_any(KARMA_WINDOW_BASE + ((uint64_t)number << 12),
		KARMA_TAG | (argument & KARMA_ARGUMENT_MASK), value);
}

static uint64_t take_place(struct script *script)
{
	uint64_t place = take(script, 3);

	return place >> 20 == 0xf ? take(script, 8) : place % (MEMORY_BYTES + 64);
}

static uint64_t take_value(struct script *script)
{
	switch (take(script, 1) % 4) {
	case 0:
		return 0;
	case 1:
		return take(script, 1);
	case 2:
		return take_place(script);
	default:
		return take(script, 8);
	}
}

/* A call that there is, or nearly; its argument is a device and what is behind it, or a number. */
static void make_call(struct script *script)
{
	unsigned number = take(script, 1) % (KARMA_CALL_interrupt + 2);
	uint8_t device = take(script, 1);
	uint32_t argument = device % 8 | take(script, 1) % 8 << 8;

	if (device & 0x80)
		argument = KARMA_ARG_CONFIG(device % 8, take(script, 1), 1 + take(script, 1));
	else if (device & 0x40)
		argument = take(script, device & 0x20 ? 4 : 2);
	call(number, argument, take_value(script));
}

static uint64_t ring_at(unsigned device, unsigned queue)
{
	return RINGS + (device * QUEUES_EACH + queue) * PAGE_BYTES;
}

static void set_up_queue(unsigned device, unsigned queue, struct script *script)
{
	uint64_t page = ring_at(device, queue);
	struct karma_queue_setup setup = {
		.descriptors = page,
		.driver = page + DRIVER_AREA,
		.device = page + DEVICE_AREA,
		.size = 1u << take(script, 1) % 7,
	};
	uint8_t wrong = take(script, 1);

	/* One byte is something else. */
	if (wrong < sizeof(setup))
		((uint8_t *)&setup)[wrong] = take(script, 1);
	memcpy(memory_at(0, sizeof(setup)), &setup, sizeof(setup));
	call(KARMA_CALL_queue_setup, KARMA_ARG(device, queue), 0);
}

static void choose_interrupt(unsigned device, struct script *script)
{
	struct karma_interrupt message = {
		.address = 0xfee00000 | take(script, 3),
		.data = take(script, 2),
		.reserved = take(script, 1) == 0xff,
	};

	memcpy(memory_at(64, sizeof(message)), &message, sizeof(message));
	call(KARMA_CALL_interrupt,
		device == DEVICES ? KARMA_EVENTS : KARMA_ARG(device, take(script, 1) % 4), 64);
}

static void start_device(unsigned device, struct script *script)
{
	const uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	struct karma_device_info info;

	if (call(KARMA_CALL_device_info, device, 128) < 0)
		return;
	check(guest_memory_read(&memory, GPA(128), &info, sizeof(info)) == 0);
	call(KARMA_CALL_device_set_status, device, status);
	call(KARMA_CALL_device_accept, KARMA_ARG(device, 0),
		(uint32_t)info.features ^ take(script, 4));
	call(KARMA_CALL_device_accept, KARMA_ARG(device, 1), info.features >> 32 ^ take(script, 1));
	call(KARMA_CALL_device_set_status, device, status | VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned i = 0; i < QUEUES_EACH; i++)
		set_up_queue(device, i, script);
	call(KARMA_CALL_device_set_status, device,
		status | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* A chain in the first descriptors from one on, or in an indirect table, made available. */
static void publish(unsigned device, unsigned queue, struct script *script)
{
	uint8_t *page = memory_at(ring_at(device, queue), PAGE_BYTES);
	struct vring_avail *avail = (void *)(page + DRIVER_AREA);
	struct vring_desc *direct = (void *)page, *table = direct;
	unsigned first = take(script, 1) % ENTRIES_MAX, flags = take(script, 1);
	unsigned count = 1 + flags % 4;
	uint16_t index = __atomic_load_n(&avail->idx, __ATOMIC_RELAXED);

	if (flags & 0x80) {
		table = (void *)(page + TABLES);
		direct[first] = (struct vring_desc){ ring_at(device, queue) + TABLES, 16 * count,
			VRING_DESC_F_INDIRECT, 0 };
	}
	for (unsigned i = 0; i < count; i++) {
		unsigned at = table == direct ? first + i : i;

		table[at % ENTRIES_MAX] = (struct vring_desc){
			.addr = BUFFERS + take(script, 2),
			.len = take(script, 1) << flags / 16 % 8,
			.flags = (take(script, 1) & 2) | (i + 1 < count ? VRING_DESC_F_NEXT : 0),
			.next = at + 1,
		};
	}
	/* Where it goes in a ring of any size up to this one. */
	for (unsigned size = 1; size <= ENTRIES_MAX; size *= 2)
		avail->ring[index % size] = first;
	__atomic_store_n(&avail->idx, (uint16_t)(index + 1), __ATOMIC_RELAXED);
}

static void fill_memory(struct script *script)
{
	uint64_t place = take_place(script);
	const uint8_t *bytes;
	size_t count = take_bytes(script, take(script, 1) % 64, &bytes);

	for (size_t i = 0; i < count; i++)
		memory_store(place + i, bytes[i]);
}

/* What the user, the disk and the network do. */
static void host_event(unsigned what, struct script *script)
{
	switch (what % 4) {
	case 0:
		machine_press_power_button(&machine);
		break;
	case 1:
		check(ftruncate(file, take(script, 1) * 512) == 0);
		machine_measure(&machine, -1);
		break;
	case 2:
		net_set_link(&end, take(script, 1) & 1);
		break;
	default:
		/* Where the other vCPU does not receive meanwhile. */
		virtio_lock(machine.devices[NET]);
		frame_size = take_bytes(script, take(script, 1) * 8, &frame);
		virtio_unlock(machine.devices[NET]);
		eventfd_write(frame_fd, 1);
		io_ring_reap(&ring, false);
	}
}

/* The first vCPU's thread is the I/O thread and the user's, too. */
static void do_step(struct script *script, bool first)
{
	uint8_t operation = take(script, 1);
	unsigned device = (operation >> 4) % (DEVICES + 1);

	switch (operation & 0xf) {
	case 0:
	case 1:
	case 2:
		make_call(script);
		break;
	case 3:
		call_any(take(script, 8), take(script, 8), take(script, 8));
		break;
	case 4:
		call(take(script, 1), take(script, 4), take(script, 8));
		break;
	case 5:
		if (device < DEVICES)
			set_up_queue(device, take(script, 1) % QUEUES_EACH, script);
		break;
	case 6:
		choose_interrupt(device, script);
		break;
	case 7:
		if (device < DEVICES)
			start_device(device, script);
		break;
	case 8:
	case 9:
		if (device < DEVICES)
			publish(device, take(script, 1) % QUEUES_EACH, script);
		break;
	case 10:
	case 11:
		call(KARMA_CALL_queue_notify,
			KARMA_ARG(device, take(script, 1) % QUEUES_EACH) | (operation & 1 ? KARMA_NOTIFY_ANSWER : 0),
			0);
		break;
	case 12:
		fill_memory(script);
		break;
	case 13:
		if (first)
			io_ring_reap(&ring, false);
		break;
	case 14:
		call(KARMA_CALL_device_set_status, device, 0);
		break;
	default:
		if (first)
			host_event(operation >> 4, script);
	}
}

static void run_script(struct script *script, bool first)
{
	for (unsigned i = 0; i < STEPS_MAX && !script_over(script); i++)
		do_step(script, first);
}

static void *run_second(void *script)
{
	run_script(script, false);
	return NULL;
}

static void run_vcpus(struct script *script, uint8_t kind)
{
	struct script half = { script->at + (script->end - script->at) / 2, script->end };
	pthread_t second;

	if (!KIND_TWO_VCPUS(kind)) {
		run_script(script, true);
		return;
	}
	script->end = half.at;
	check(pthread_create(&second, NULL, run_second, &half) == 0);
	run_script(script, true);
	pthread_join(second, NULL);
}

static void reset_devices(void)
{
	for (unsigned i = 0; i < DEVICES; i++) {
		check(call(KARMA_CALL_device_set_status, i, 0) == 0);
		while (call(KARMA_CALL_device_status, i, 0) != 0)
			io_ring_reap(&ring, false);
		check(machine.devices[i]->in_flight == 0);
	}
	check(machine.device_count == DEVICES &&
		call(KARMA_CALL_device_status, DEVICES, 0) == -ENODEV);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	memory_make(MEMORY_BYTES);
	file = memfd_create("disk", MFD_CLOEXEC);
	frame_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	check(file >= 0 && frame_fd >= 0 && io_ring_init(&ring, 1024) == 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	uint8_t kind = take(&script, 1);

	make_machine();
	meddling_start(kind, DRIVER_AREA);
	run_vcpus(&script, kind);
	meddling_stop();
	reset_devices();
	release_machine();
	memory_clear();
	return 0;
}
