// SPDX-License-Identifier: GPL-2.0-only
/*
 * Karma's block device without KVM: a guest in this process keeps its queue filled for some seconds.
 *
 *   backend --file FILE [--overlay FILE] [--direct] [--rw read|randread|randwrite] [--block BYTES]
 *           [--depth N] [--seconds N] [--way own|handed|main]
 *
 * The guest does with the queue what Linux's virtio_blk does: event indexes, a descriptor a request,
 * that leads to an indirect table; it notifies for each request, if the device asks for it.  The main
 * thread is its vCPU and goes round as the loop in src/vm/vcpu.c does.  Where that has KVM_RUN, here
 * is an epoll_wait(); where it has KVM_SIGNAL_MSI, a write to an eventfd.  Both go by syscall(), since
 * an ioctl is no cancellation point of the C library either.  Like KVM_RUN, epoll_wait() ends with
 * EINTR when io_uring has something complete for the thread.
 *
 * --way  own     the vCPU serves its notifications and has a ring of its own, as in Karma
 *        handed  each notification goes to the I/O thread, by an eventfd
 *        main    the vCPU serves its notifications, and all goes by the main ring
 *
 * Prints: requests, nanoseconds, interrupts, notifications, and how often the guest slept; the last
 * is a system call here and none under KVM.
 */
#include <errno.h>
#include <getopt.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "karma/devices.h"
#include "karma/util.h"

#define SECTOR_BYTES 512u
#define SEGMENT_BYTES (64 * KIB)	/* of guest memory in one piece, as its kernel finds it */
#define BLOCK_MAX (1 * MIB)
#define SLOTS_MAX 64u
#define CLOCK_PERIOD 32u		/* requests between two looks at the clock */

/* Guest-physical addresses. */
#define DESCRIPTORS_AT 0x100000ull
#define AVAIL_AT 0x110000ull
#define USED_AT 0x120000ull
#define SLOTS_AT 0x200000ull
#define BUFFERS_AT 0x400000ull

enum way { OWN, HANDED, MAIN };

struct options {
	const char *file, *overlay;
	bool direct, random, write;
	uint64_t block;
	unsigned depth, seconds;
	enum way way;
};

/* What the guest's driver has for each request, in guest memory. */
struct slot {
	struct vring_desc table[BLOCK_MAX / SEGMENT_BYTES + 2];
	struct virtio_blk_outhdr header;
	uint8_t status;
};

struct guest {
	const struct options *options;
	struct vring_desc *descriptors;
	struct vring_avail *avail;
	struct vring_used *used;
	struct slot *slots;
	uint16_t last_used;
	unsigned free[SLOTS_MAX], free_count;
	uint64_t blocks, next_block, random;
	uint64_t requests, sleeps;
	int64_t start, end;
	bool stopping;
};

struct bench {
	struct options options;
	struct guest_memory memory;
	struct io_ring main, own;	/* own: of the vCPU */
	struct virtio_device *device;
	struct guest guest;
	pthread_t io_thread;

	int interrupt_fd, poll_fd;
	_Atomic bool interrupt;		/* pending in the vCPU */

	int notify_fd;			/* HANDED: the vCPU to the I/O thread */
	uint64_t notify_count;
	struct iovec notify_iov;
	struct io_op notify_op;
};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "bench/backend: %s\n", what);
	exit(125);
}

static void check(bool fine, const char *what)
{
	if (!fine)
		die(what);
}

static void *at(struct bench *bench, uint64_t gpa, uint64_t length)
{
	void *pointer = guest_memory_at(&bench->memory, GPA(gpa), length);

	check(pointer, "guest memory is too small");
	return pointer;
}

/* --- The guest's driver. */

static uint16_t *used_event(struct guest *guest)
{
	return &guest->avail->ring[BLK_QUEUE_SIZE_MAX];
}

static uint16_t avail_event(const struct guest *guest)
{
	return __atomic_load_n((uint16_t *)&guest->used->ring[BLK_QUEUE_SIZE_MAX], __ATOMIC_RELAXED);
}

static void describe(
	struct vring_desc *descriptor, uint64_t gpa, uint32_t length, uint16_t flags, unsigned next)
{
	*descriptor = (struct vring_desc){
		.addr = gpa,
		.len = length,
		.flags = flags,
		.next = next,
	};
}

/* A request's table never changes but for the sector in its header. */
static void prepare_slot(struct guest *guest, unsigned i, bool write)
{
	const struct options *options = guest->options;
	struct slot *slot = &guest->slots[i];
	uint64_t gpa = SLOTS_AT + i * sizeof(*slot), buffer = BUFFERS_AT + i * BLOCK_MAX;
	uint16_t data = VRING_DESC_F_NEXT | (write ? 0 : VRING_DESC_F_WRITE);
	unsigned n = 0;

	slot->header.type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
	describe(&slot->table[n], gpa + offsetof(struct slot, header), sizeof(slot->header),
		VRING_DESC_F_NEXT, n + 1);
	n++;
	for (uint64_t done = 0; done < options->block; done += SEGMENT_BYTES, n++) {
		uint64_t left = options->block - done;

		describe(&slot->table[n], buffer + done,
			left < SEGMENT_BYTES ? left : SEGMENT_BYTES, data, n + 1);
	}
	describe(&slot->table[n], gpa + offsetof(struct slot, status), sizeof(slot->status),
		VRING_DESC_F_WRITE, 0);
	describe(&guest->descriptors[i], gpa + offsetof(struct slot, table),
		(n + 1) * sizeof(slot->table[0]), VRING_DESC_F_INDIRECT, 0);
	guest->free[guest->free_count++] = i;
}

/* xorshift64* */
static uint64_t random_next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

static uint64_t next_sector(struct guest *guest)
{
	uint64_t block = guest->options->random ? random_next(&guest->random) % guest->blocks :
						  guest->next_block++ % guest->blocks;

	return block * (guest->options->block / SECTOR_BYTES);
}

/* Add a request; whether the device wants to be told. */
static bool add_request(struct guest *guest)
{
	unsigned i = guest->free[--guest->free_count];
	uint16_t index = guest->avail->idx;

	guest->slots[i].header.sector = next_sector(guest);
	guest->slots[i].status = 0xff;
	guest->avail->ring[index % BLK_QUEUE_SIZE_MAX] = i;
	__atomic_store_n(&guest->avail->idx, (uint16_t)(index + 1), __ATOMIC_RELEASE);
	atomic_thread_fence(memory_order_seq_cst);
	return vring_need_event(avail_event(guest), index + 1, index);
}

static void look_at_clock(struct guest *guest)
{
	if (guest->requests % CLOCK_PERIOD == 0 &&
		nanoseconds() - guest->start >= guest->options->seconds * 1000000000ll)
		guest->stopping = true;
}

static bool has_used(const struct guest *guest)
{
	return __atomic_load_n(&guest->used->idx, __ATOMIC_ACQUIRE) != guest->last_used;
}

/* The interrupt handler: take all, ask for an interrupt by the next, look once more. */
static void take_used(struct guest *guest)
{
	do {
		while (has_used(guest)) {
			unsigned i = guest->used->ring[guest->last_used++ % BLK_QUEUE_SIZE_MAX].id;

			check(guest->slots[i].status == VIRTIO_BLK_S_OK, "a request failed");
			guest->free[guest->free_count++] = i;
			guest->requests++;
			look_at_clock(guest);
		}
		__atomic_store_n(used_event(guest), guest->last_used, __ATOMIC_RELAXED);
		atomic_thread_fence(memory_order_seq_cst);
	} while (has_used(guest));
}

/* --- The vCPU. */

/* From any thread that has work done. */
static void send_interrupt(void *context, const struct karma_interrupt *interrupt)
{
	struct bench *bench = context;
	const uint64_t one = 1;

	(void)interrupt;
	bench->interrupt = true;
	check(syscall(SYS_write, bench->interrupt_fd, &one, sizeof(one)) == sizeof(one),
		"can't send an interrupt");
}

/* Enter the kernel, and wait for an interrupt if told so; false if io_uring wants the thread. */
static bool enter(struct bench *bench, bool wait)
{
	struct epoll_event event;

	return syscall(SYS_epoll_wait, bench->poll_fd, &event, 1, wait ? -1 : 0) >= 0 ||
		errno != EINTR;
}

static bool guest_idle(const struct guest *guest)
{
	return guest->stopping && guest->free_count == guest->options->depth;
}

/* In the place of KVM_RUN: the guest runs until it notifies, which is true, or must leave. */
static bool run_guest(struct bench *bench)
{
	struct guest *guest = &bench->guest;

	enter(bench, false);
	for (;;) {
		if (atomic_exchange(&bench->interrupt, false))
			take_used(guest);
		while (guest->free_count && !guest->stopping) {
			if (add_request(guest))
				return true;
		}
		if (guest_idle(guest) || io_ring_ready(&bench->own))
			return false;
		if (bench->interrupt)
			continue;
		guest->sleeps++;
		if (!enter(bench, true))
			return false;
	}
}

/* As before_guest() and after_guest() in vcpu.c. */
static void before_guest(struct bench *bench)
{
	if (bench->options.way == OWN) {
		while (!io_ring_arm_eventfd(&bench->own))
			io_ring_reap(&bench->own, false);
	} else {
		/* This thread's alone is what it did by a plain system call. */
		while (io_ring_ready(&bench->own))
			io_ring_reap(&bench->own, false);
	}
}

static void after_guest(struct bench *bench)
{
	if (bench->options.way == OWN)
		io_ring_disarm_eventfd(&bench->own);
}

static void notify(struct bench *bench)
{
	if (bench->options.way == HANDED)
		check(eventfd_write(bench->notify_fd, 1) == 0, "can't notify");
	else
		check(virtio_queue_notify(bench->device, 0, false) == 0, "can't notify");
}

/* Before all others, as Linux does for a partition table. */
static void read_once(struct bench *bench)
{
	struct guest *guest = &bench->guest;

	check(add_request(guest), "the device does not listen");
	notify(bench);
	while (!has_used(guest)) {
		before_guest(bench);
		after_guest(bench);
	}
	take_used(guest);
	guest->free_count = guest->requests = 0;
	for (unsigned i = 0; i < bench->options.depth; i++)
		prepare_slot(guest, i, bench->options.write);
}

static void run_vcpu(struct bench *bench)
{
	struct guest *guest = &bench->guest;

	if (bench->options.way == OWN)
		io_ring_bind(&bench->own);
	read_once(bench);
	guest->start = nanoseconds();
	guest->stopping = bench->options.seconds == 0;
	while (!guest_idle(guest)) {
		bool notifies;

		before_guest(bench);
		notifies = run_guest(bench);
		after_guest(bench);
		if (notifies)
			notify(bench);
	}
	guest->end = nanoseconds();
	before_guest(bench);
	if (bench->options.way == OWN)
		io_ring_unbind(&bench->own);
}

/* --- The I/O thread. */

static void notified(struct io_op *op, int result);

static void wait_for_notification(struct bench *bench)
{
	bench->notify_iov = (struct iovec){ &bench->notify_count, sizeof(bench->notify_count) };
	bench->notify_op.done = notified;
	io_ring_readv(&bench->main, &bench->notify_op, bench->notify_fd, &bench->notify_iov, 1, 0, false);
}

static void notified(struct io_op *op, int result)
{
	struct bench *bench = container_of(op, struct bench, notify_op);

	check(result == sizeof(bench->notify_count), "can't be notified");
	wait_for_notification(bench);
	virtio_queue_notify(bench->device, 0, false);
}

static void *io_thread(void *argument)
{
	struct bench *bench = argument;

	if (bench->options.way == HANDED) {
		wait_for_notification(bench);
		io_ring_submit(&bench->main);
	}
	io_ring_loop(&bench->main);
	return NULL;
}

/* --- All together. */

static void make_device(struct bench *bench)
{
	const struct disk_options disk_options = {
		.path = bench->options.file,
		.overlay = bench->options.overlay,
		.direct = bench->options.direct,
	};
	const struct virtio_environment environment = { &bench->memory, &bench->main };
	struct disk *disk;

	check(disk_open(&disk, &disk_options, &bench->main) == 0, "can't open the file");
	bench->guest.blocks = disk->size / bench->options.block;
	check(bench->guest.blocks > 0, "the file is smaller than a block");
	bench->device = blk_create(&environment, "vda", disk, NULL, 1);
	check(bench->device, "memory is short");
	bench->device->queues[0].send = send_interrupt;
	bench->device->queues[0].send_context = bench;
	virtio_start(bench->device);
}

static void start_driver(struct bench *bench)
{
	static const uint64_t features = 1ull << VIRTIO_F_VERSION_1 |
		1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX;
	const struct karma_queue_setup setup = {
		.size = BLK_QUEUE_SIZE_MAX,
		.descriptors = DESCRIPTORS_AT,
		.driver = AVAIL_AT,
		.device = USED_AT,
	};
	const struct karma_interrupt interrupt = { .address = 0xfee00000, .data = 32 };
	struct virtio_device *device = bench->device;
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	virtio_accept(device, 0, (uint32_t)features);
	virtio_accept(device, 1, features >> 32);
	virtio_set_status(device, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	check(virtio_queue_setup(device, 0, &setup) == 0, "can't set the queue up");
	check(virtio_queue_interrupt(device, 0, &interrupt) == 0, "can't have an interrupt");
	check(virtio_set_status(device, status | VIRTIO_CONFIG_S_DRIVER_OK) == 0,
		"can't start the device");
}

static void make_guest(struct bench *bench)
{
	struct guest *guest = &bench->guest;

	guest->options = &bench->options;
	guest->descriptors =
		at(bench, DESCRIPTORS_AT, BLK_QUEUE_SIZE_MAX * sizeof(*guest->descriptors));
	guest->avail = at(bench, AVAIL_AT, PAGE_BYTES);
	guest->used = at(bench, USED_AT, PAGE_BYTES);
	guest->slots = at(bench, SLOTS_AT, SLOTS_MAX * sizeof(*guest->slots));
	guest->random = 0x9e3779b97f4a7c15ull;
	memset(at(bench, BUFFERS_AT, SLOTS_MAX * BLOCK_MAX), 0x5a, SLOTS_MAX * BLOCK_MAX);
	prepare_slot(guest, 0, false);
}

static void start(struct bench *bench)
{
	const struct memory_options memory = { .size = BUFFERS_AT + SLOTS_MAX * BLOCK_MAX };
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };

	bench->interrupt_fd = eventfd(0, EFD_CLOEXEC);
	bench->notify_fd = eventfd(0, EFD_CLOEXEC);
	bench->poll_fd = epoll_create1(EPOLL_CLOEXEC);
	check(epoll_ctl(bench->poll_fd, EPOLL_CTL_ADD, bench->interrupt_fd, &event) == 0,
		"can't poll");
	check(guest_memory_init(&bench->memory, &memory) == 0, "can't have guest memory");
	/* The device's requests, and what waits beside for one thing each. */
	check(io_ring_init(&bench->main, BLK_QUEUE_SIZE_MAX + 8) == 0 &&
			io_ring_init_thread(&bench->own, &bench->main, BLK_QUEUE_SIZE_MAX + 8, NULL) == 0,
		"can't have io_uring");
	make_device(bench);
	make_guest(bench);
	start_driver(bench);
	check(pthread_create(&bench->io_thread, NULL, io_thread, bench) == 0, "can't have a thread");
}

/* In the order of vm.c. */
static void stop(struct bench *bench)
{
	virtio_end(bench->device);
	io_ring_stop(&bench->main);
	pthread_join(bench->io_thread, NULL);
	io_ring_release_thread(&bench->own);
	io_ring_release(&bench->main);
}

static void report(const struct bench *bench)
{
	const struct guest *guest = &bench->guest;
	const struct virtq *queue = &bench->device->queues[0];

	printf("%llu %lld %llu %llu %llu\n", (unsigned long long)guest->requests,
		(long long)(guest->end - guest->start), (unsigned long long)queue->interrupts,
		(unsigned long long)queue->notifications, (unsigned long long)guest->sleeps);
}

static unsigned number(const char *text, unsigned most)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	check(*text && !*end && value <= most, "a number is bad or too large");
	return value;
}

static enum way parse_way(const char *name)
{
	static const char *const names[] = { [OWN] = "own", [HANDED] = "handed", [MAIN] = "main" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(name, names[i]) == 0)
			return i;
	}
	die("--way is own, handed or main");
}

static void parse(struct options *options, int count, char **words)
{
	static const struct option known[] = {
		{ "file", required_argument, NULL, 'f' },
		{ "overlay", required_argument, NULL, 'v' },
		{ "direct", no_argument, NULL, 'o' },
		{ "rw", required_argument, NULL, 'r' },
		{ "block", required_argument, NULL, 'b' },
		{ "depth", required_argument, NULL, 'd' },
		{ "seconds", required_argument, NULL, 's' },
		{ "way", required_argument, NULL, 'w' },
		{ 0 },
	};
	int which;

	*options = (struct options){ .block = 4096, .depth = 1, .seconds = 3 };
	while ((which = getopt_long(count, words, "", known, NULL)) != -1) {
		switch (which) {
		case 'f':
			options->file = optarg;
			break;
		case 'v':
			options->overlay = optarg;
			break;
		case 'o':
			options->direct = true;
			break;
		case 'r':
			options->random = strncmp(optarg, "rand", 4) == 0;
			options->write = strstr(optarg, "write") != NULL;
			break;
		case 'b':
			options->block = number(optarg, BLOCK_MAX);
			break;
		case 'd':
			options->depth = number(optarg, SLOTS_MAX);
			break;
		case 's':
			options->seconds = number(optarg, 3600);
			break;
		case 'w':
			options->way = parse_way(optarg);
			break;
		default:
			exit(125);
		}
	}
	check(options->file && optind == count, "want --file FILE and no more words");
	check(options->block >= SECTOR_BYTES && options->block % SECTOR_BYTES == 0,
		"--block is no whole number of sectors");
	check(options->depth > 0, "--depth is 1 or more");
}

int main(int count, char **words)
{
	static struct bench bench;

	parse(&bench.options, count, words);
	start(&bench);
	run_vcpu(&bench);
	stop(&bench);
	report(&bench);
	bench.device->ops->release(bench.device);
	guest_memory_release(&bench.memory);
	return 0;
}
