// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the network device: rings, headers and control commands of any guest, and frames of any
 * other end.  Nothing is touched outside of guest memory, and no frame gets out whose header tells
 * of what is not in it.
 *
 * If the first byte says so, guest memory changes all the time, the device has limits, and there are snapshots.  What
 * follows is a list of steps, each a byte that says what to do and what that takes.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "guest.h"
#include "karma/devices.h"
#include "karma/iov.h"
#include "karma/machine.h"
#include "karma/util.h"

#define PAIRS 2u
#define QUEUES (2 * PAIRS + 1)
#define QUEUE_ENTRIES 16u
/* Enough for a chain of more than 4 GiB, if each of its buffers is half of it. */
#define GUEST_BYTES (1 * GIB)
/* In guest memory: a page for the rings of each queue, then the buffers. */
#define RINGS 0x1000u
#define DRIVER_AREA 0x400u
#define DEVICE_AREA 0x800u
#define BUFFERS 0x10000u
#define BUFFER_BYTES 0x20000u

#define STEPS_MAX 300u
/* Of the first byte; rarely, since a limit's waits take time. */
#define KIND_LIMITED(kind) (((kind)&0x1e) == 0x02)
/* There are snapshots, each a step. */
#define KIND_SAVED 0x80u
#define STEP_SNAPSHOT 0xffu

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct net end;
static struct machine machine;
static struct io_ring ring;
static struct virtio_device *device;
static struct rate_limiter received, sent;
static const uint8_t *frame;
static size_t frame_size;
static bool busy;

static ssize_t receive(struct net *net, unsigned queue, const struct iovec *iov, unsigned count)
{
	ssize_t size = frame_size;
	uint64_t count_read;

	if (read(net->queues[queue].fd, &count_read, sizeof(count_read)) < 0 || !frame)
		return -EAGAIN;
	iov_write(iov, count, 0, frame, frame_size);
	frame = NULL;
	return size;
}

/* What Linux's TAP and those behind it rely on. */
static int check_sent(struct net *net, unsigned queue, struct iovec *iov, unsigned count)
{
	struct virtio_net_hdr header;
	size_t length = 0;

	(void)net;
	(void)queue;
	check(iov[0].iov_len == NET_HEADER_BYTES);
	memcpy(&header, iov[0].iov_base, sizeof(header));
	for (unsigned i = 1; i < count; i++) {
		length += iov[i].iov_len;
		/* The sanitizer knows no guest memory; this finds what is outside of it. */
		if (iov[i].iov_len && *(volatile uint8_t *)iov[i].iov_base == 0x5a)
			frame_size++;
	}
	check(length >= ETH_HLEN && length <= NET_FRAME_MAX && !(header.flags & ~1));
	check(header.hdr_len <= length);
	check(!header.flags || (size_t)header.csum_start + header.csum_offset + 2 <= length);
	check(!header.gso_type || (header.gso_size && header.flags));
	/* No room at times, and then there is. */
	busy = !busy && length % 7 == 0;
	return busy ? -EAGAIN : 0;
}

static int set_offloads(struct net *net, unsigned offloads)
{
	(void)net;
	return offloads & 1 || !offloads ? 0 : -EINVAL;
}

static int use_queues(struct net *net, unsigned queues)
{
	check(queues >= 1 && queues <= net->queue_count);
	return 0;
}

static void gone(struct net *net)
{
	(void)net;
}

static const struct net_ops end_ops = {
	.receive = receive,
	.send = check_sent,
	.set_offloads = set_offloads,
	.use_queues = use_queues,
	.gone = gone,
};

static void interrupt(struct machine *of, const struct karma_interrupt *message)
{
	(void)of;
	(void)message;
}

static const struct machine_ops machine_ops = { .interrupt = interrupt };

static void make_device(uint8_t kind)
{
	static const uint8_t mac[ETH_ALEN] = { 2 };
	const struct virtio_environment environment = { &memory, &ring };

	device = net_create(&environment, "eth0", &end, mac, 1500);
	check(device && machine_add(&machine, device) == 0);
	if (KIND_LIMITED(kind))
		net_device_limit(device, &received, &sent);
}

static void release_device(void)
{
	device->ops->release(device);
	machine.device_count = 0;
}

static void start(uint64_t features)
{
	static const uint8_t steps[] = {
		VIRTIO_CONFIG_S_ACKNOWLEDGE,
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
	};

	for (size_t i = 0; i < sizeof(steps); i++)
		virtio_set_status(device, steps[i]);
	virtio_accept(device, 0, features & device->offered);
	virtio_accept(device, 1, (features & device->offered) >> 32 | 1);
	virtio_set_status(device, 11);
	for (unsigned i = 0; i < QUEUES; i++) {
		struct karma_queue_setup setup = {
			.descriptors = RINGS + i * 0x1000u,
			.driver = RINGS + i * 0x1000u + DRIVER_AREA,
			.device = RINGS + i * 0x1000u + DEVICE_AREA,
			.size = QUEUE_ENTRIES,
		};

		virtio_queue_setup(device, i, &setup);
	}
	virtio_set_status(device, 15);
}

static void reset(void)
{
	virtio_set_status(device, 0);
	while (device->resetting)
		io_ring_reap(&ring, true);
}

/* The guest goes on in another process, with what a snapshot has of the device, or what it should not have. */
static void save_and_restore(uint8_t kind, struct script *script)
{
	state_save(device, &ring);
	state_change(script);
	release_device();
	make_device(kind);
	if (state_restore(device))
		return;
	release_device();
	make_device(kind);
	virtio_start(device);
	start(~take(script, 8));
}

/* Mostly few; at times as many as can be. */
static unsigned take_count(struct script *script)
{
	uint8_t byte = take(script, 1);

	return byte < 0xf0 ? 1 + byte % 4 : QUEUE_ENTRIES;
}

/* Mostly what a frame may have; at times up to half of memory. */
static uint32_t take_length_of_buffer(struct script *script)
{
	uint32_t length = take(script, 1);
	uint8_t shift = take(script, 1);

	return length << (shift < 0xf0 ? shift % 10 : 21);
}

/* A chain in the place of a queue's first descriptors, made available. */
static void publish(struct script *script, unsigned queue)
{
	uint8_t *page = memory_at(RINGS + queue * 0x1000u, 0x1000);
	struct vring_desc *descriptors = (void *)page;
	struct vring_avail *avail = (void *)(page + DRIVER_AREA);
	unsigned first = take(script, 1) % QUEUE_ENTRIES, count = take_count(script);
	uint16_t index = __atomic_load_n(&avail->idx, __ATOMIC_RELAXED);

	for (unsigned i = 0; i < count; i++)
		descriptors[(first + i) % QUEUE_ENTRIES] = (struct vring_desc){
			.addr = BUFFERS + take(script, 3) % BUFFER_BYTES,
			.len = take_length_of_buffer(script),
			.flags = (take(script, 1) & 2) | (i + 1 < count ? 1 : 0),
			.next = (first + i + 1) % QUEUE_ENTRIES,
		};
	avail->ring[index % QUEUE_ENTRIES] = first;
	__atomic_store_n(&avail->idx, (uint16_t)(index + 1), __ATOMIC_RELAXED);
}

static void receive_frame(struct script *script, unsigned pair)
{
	frame_size = take_bytes(script, take(script, 1) * 16, &frame);
	eventfd_write(end.queues[pair].fd, 1);
	net_wait_readable(&end, pair);
}

static void run_step(struct script *script)
{
	uint8_t step = take(script, 1);
	const uint8_t *bytes;
	uint64_t at;

	switch (step % 8) {
	case 0:
	case 1:
		publish(script, step / 8 % QUEUES);
		notify_device(device, step / 8 % QUEUES);
		break;
	case 2:
		/* A header or a command, mostly where a chain begins. */
		at = BUFFERS + take(script, 2);
		for (size_t i = 0, count = take_bytes(script, 12, &bytes); i < count; i++)
			memory_store(at + i, bytes[i]);
		break;
	case 3:
		receive_frame(script, step / 8 % PAIRS);
		io_ring_reap(&ring, false);
		break;
	case 4:
		/* Anything in the rings. */
		at = RINGS + take(script, 2) % (QUEUES * 0x1000u);
		memory_store(at, take(script, 1));
		notify_device(device, step / 8 % QUEUES);
		break;
	case 5:
		net_wait_writable(&end, step / 8 % PAIRS);
		io_ring_reap(&ring, false);
		break;
	case 6:
		net_set_link(&end, step & 8);
		break;
	default:
		reset();
		start(~take(script, 8));
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	memory_make(GUEST_BYTES);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	uint8_t kind = take(&script, 1);

	check(io_ring_init(&ring, 64) == 0);
	machine_init(&machine, &memory, &machine_ops);
	memset(&end, 0, sizeof(end));
	net_init(&end, &end_ops, &ring);
	end.queue_count = PAIRS;
	end.offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | 0x60;
	end.up = true;
	frame = NULL;
	busy = false;
	for (unsigned i = 0; i < PAIRS; i++)
		end.queues[i].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	limit_init_short(&received);
	limit_init_short(&sent);
	make_device(kind);
	virtio_start(device);
	start(~0ull);
	meddling_start(kind, DRIVER_AREA);
	for (unsigned i = 0; i < STEPS_MAX && !script_over(&script); i++) {
		if ((kind & KIND_SAVED) && *script.at == STEP_SNAPSHOT && take(&script, 1))
			save_and_restore(kind, &script);
		else
			run_step(&script);
	}
	meddling_stop();
	reset();
	io_ring_release(&ring);
	machine_release(&machine);
	rate_limiter_release(&received);
	rate_limiter_release(&sent);
	for (unsigned i = 0; i < PAIRS; i++)
		close(end.queues[i].fd);
	memory_clear();
	return 0;
}
