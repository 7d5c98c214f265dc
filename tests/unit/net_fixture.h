/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The network device on sockets that keep frames apart, as a TAP does. Each file of tests that includes
 * this has a device of its own.
 */
#ifndef KARMA_TESTS_NET_FIXTURE_H
#define KARMA_TESTS_NET_FIXTURE_H

#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/socket.h>

#include "guest.h"

/* The parts of the suite. */
void net_transmit_tests(Suite *suite);
void net_receive_tests(Suite *suite);

#define QUEUE_SIZE 64
#define PAIRS 4
#define HEADER NET_HEADER_BYTES
#define FRAME 100u
#define GUEST_USO4 54
#define HOST_USO 56
#define GSO_UDP_L4 5

/* --- The other end. */

static struct net end;
static int host_fds[PAIRS]; /* what the host reads and writes */
static unsigned offloads_set, queues_set, gones;
static bool refuse_offloads;

static inline ssize_t end_receive(
	struct net *net, unsigned queue, const struct iovec *iov, unsigned count)
{
	struct msghdr message = { .msg_iov = (struct iovec *)iov, .msg_iovlen = count };
	ssize_t got = recvmsg(net->queues[queue].fd, &message, MSG_DONTWAIT | MSG_TRUNC);

	if (got == 0) {
		net_set_gone(net);
		return -EPIPE;
	}
	return got < 0 ? -errno : got;
}

static unsigned swallowed;
static void (*meanwhile)(void);	/* what the guest does while a frame is sent, which goes nowhere then */

static inline int end_send(struct net *net, unsigned queue, struct iovec *iov, unsigned count)
{
	if (meanwhile) {
		swallowed++;
		meanwhile();
		return 0;
	}
	return writev(net->queues[queue].fd, iov, count) < 0 ? -errno : 0;
}

static inline int end_set_offloads(struct net *net, unsigned offloads)
{
	(void)net;
	offloads_set = offloads;
	return refuse_offloads ? -EINVAL : 0;
}

static inline int end_use_queues(struct net *net, unsigned queues)
{
	(void)net;
	queues_set = queues;
	return 0;
}

static inline void end_gone(struct net *net)
{
	(void)net;
	gones++;
}

static enum net_link found;

static inline enum net_link end_look(struct net *net, int links_fd)
{
	(void)net;
	(void)links_fd;
	return found;
}

static bool pending;

static inline bool end_pending(const struct net *net, unsigned queue)
{
	(void)net;
	(void)queue;
	return pending;
}

static const struct net_ops end_ops = {
	.receive = end_receive,
	.pending = end_pending,
	.send = end_send,
	.set_offloads = end_set_offloads,
	.use_queues = end_use_queues,
	.query_link = end_look,
	.gone = end_gone,
};

static inline void make_end(struct sim *sim, unsigned pairs, unsigned offloads)
{
	memset(&end, 0, sizeof(end));
	net_init(&end, &end_ops, &sim->ring);
	for (unsigned i = 0; i < pairs; i++) {
		int fds[2];

		ck_assert_int_eq(
			socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
		end.queues[i].fd = fds[0];
		host_fds[i] = fds[1];
	}
	end.queue_count = pairs;
	end.offloads = offloads;
	end.up = true;
}

/* --- The guest. */

static struct sim sim;
static struct driver_queue queues[2 * PAIRS + 1];
static struct driver_queue *receive = &queues[0], *transmit = &queues[1], *control;
static struct virtio_device *device;
static const uint8_t mac[ETH_ALEN] = { 2, 0, 0, 0, 0, 5 };

#define ALL_OFFLOADS (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | 0x60)
#define FEATURES_BASE (FEATURES_INDIRECT | FEATURES_EVENT)

static inline void add_device(unsigned pairs, unsigned offloads, unsigned mtu)
{
	sim_init(&sim, SIM_MEMORY);
	offloads_set = queues_set = gones = 0;
	pending = false;
	refuse_offloads = false;
	swallowed = 0;
	meanwhile = NULL;
	make_end(&sim, pairs, offloads);
	device = net_create(&sim.environment, "eth0", &end, mac, mtu);
	ck_assert_uint_eq(sim_add(&sim, device), 0);
}

static inline void start(unsigned pairs, uint64_t features)
{
	control = &queues[2 * pairs];
	sim_start_device(&sim, 0, features, queues, 2 * pairs + 1, QUEUE_SIZE);
}

static inline void setup(void)
{
	add_device(1, ALL_OFFLOADS, 0);
	start(1, device->offered);
}

static inline void setup_plain(void)
{
	add_device(1, ALL_OFFLOADS, 0);
	start(1, FEATURES_BASE);
}

static inline void teardown(void)
{
	sim_run_clock();
	sim_release(&sim);
	for (unsigned i = 0; i < end.queue_count; i++) {
		close(end.queues[i].fd);
		close(host_fds[i]);
	}
}

static inline uint64_t counted(const char *name)
{
	for (unsigned i = 0; i < device->counter_count; i++) {
		if (strcmp(device->counters[i].name, name) == 0)
			return __atomic_load_n(&device->counters[i].value, __ATOMIC_RELAXED);
	}
	ck_abort_msg("no counter %s", name);
}

/* --- Frames. */

static inline uint8_t frame_byte(unsigned seed, size_t at)
{
	return at * 7 + at / 251 + seed;
}

static inline void fill_frame(uint8_t *to, unsigned seed, size_t length)
{
	for (size_t i = 0; i < length; i++)
		to[i] = frame_byte(seed, i);
}

static inline void assert_frame(const uint8_t *bytes, unsigned seed, size_t length)
{
	size_t i = 0;

	while (i < length && bytes[i] == frame_byte(seed, i))
		i++;
	ck_assert_msg(i == length, "byte %zu of %zu", i, length);
}

/* A header and a frame in one buffer of guest memory. */
static inline uint64_t guest_frame(const struct virtio_net_hdr *header, unsigned seed, size_t length)
{
	uint64_t gpa = sim_alloc(&sim, HEADER + length, 8);
	uint8_t *bytes = sim_at(&sim, gpa, HEADER + length);

	if (header)
		memcpy(bytes, header, sizeof(*header));
	fill_frame(bytes + HEADER, seed, length);
	return gpa;
}

static inline void send_parts(const struct part *parts, unsigned count)
{
	driver_publish(transmit, driver_chain(transmit, parts, count));
	driver_kick(transmit);
}

static inline void send_frame(const struct virtio_net_hdr *header, size_t length)
{
	struct part part = { guest_frame(header, 0, length), HEADER + length, false };

	send_parts(&part, 1);
	ck_assert_uint_eq(driver_wait(transmit).len, 0);
}

static uint8_t got[HEADER + NET_FRAME_MAX + 1];

/* What the host has received: the frame's length, or -1. */
static inline ssize_t host_frame(unsigned pair)
{
	ssize_t length = recv(host_fds[pair], got, sizeof(got), MSG_DONTWAIT);

	return length < 0 ? -1 : length - (ssize_t)HEADER;
}

static inline void host_send(unsigned pair, const struct virtio_net_hdr *header, unsigned seed, size_t length)
{
	static uint8_t bytes[HEADER + NET_FRAME_MAX];

	memset(bytes, 0, HEADER);
	if (header)
		memcpy(bytes, header, sizeof(*header));
	fill_frame(bytes + HEADER, seed, length);
	ck_assert_int_eq(send(host_fds[pair], bytes, HEADER + length, 0), (ssize_t)(HEADER + length));
}

static inline uint64_t offer_buffer(struct driver_queue *queue, uint32_t length)
{
	uint64_t gpa = sim_alloc(&sim, length, 8);
	struct part part = { gpa, length, true };

	driver_publish(queue, driver_chain(queue, &part, 1));
	return gpa;
}

static inline void assert_nothing_received(struct driver_queue *queue)
{
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(queue), 0);
}

#endif
