// SPDX-License-Identifier: GPL-2.0-only
/* The network device on sockets that keep frames apart, as a TAP does. */
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "guest.h"

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

static ssize_t end_receive(
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

static int end_send(struct net *net, unsigned queue, struct iovec *iov, unsigned count)
{
	if (meanwhile) {
		swallowed++;
		meanwhile();
		return 0;
	}
	return writev(net->queues[queue].fd, iov, count) < 0 ? -errno : 0;
}

static int end_set_offloads(struct net *net, unsigned offloads)
{
	(void)net;
	offloads_set = offloads;
	return refuse_offloads ? -EINVAL : 0;
}

static int end_use_queues(struct net *net, unsigned queues)
{
	(void)net;
	queues_set = queues;
	return 0;
}

static void end_gone(struct net *net)
{
	(void)net;
	gones++;
}

static enum net_link found;

static enum net_link end_look(struct net *net, int links_fd)
{
	(void)net;
	(void)links_fd;
	return found;
}

static bool pending;

static bool end_pending(const struct net *net, unsigned queue)
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

static void make_end(struct sim *sim, unsigned pairs, unsigned offloads)
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

static void add_device(unsigned pairs, unsigned offloads, unsigned mtu)
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

static void start(unsigned pairs, uint64_t features)
{
	control = &queues[2 * pairs];
	sim_start_device(&sim, 0, features, queues, 2 * pairs + 1, QUEUE_SIZE);
}

static void setup(void)
{
	add_device(1, ALL_OFFLOADS, 0);
	start(1, device->offered);
}

static void setup_plain(void)
{
	add_device(1, ALL_OFFLOADS, 0);
	start(1, FEATURES_BASE);
}

static void setup_pairs(void)
{
	add_device(PAIRS, ALL_OFFLOADS, 0);
	start(PAIRS, device->offered);
}

static void teardown(void)
{
	sim_run_clock();
	sim_release(&sim);
	for (unsigned i = 0; i < end.queue_count; i++) {
		close(end.queues[i].fd);
		close(host_fds[i]);
	}
}

static uint64_t counted(const char *name)
{
	for (unsigned i = 0; i < device->counter_count; i++) {
		if (strcmp(device->counters[i].name, name) == 0)
			return __atomic_load_n(&device->counters[i].value, __ATOMIC_RELAXED);
	}
	ck_abort_msg("no counter %s", name);
}

/* --- Frames. */

static uint8_t frame_byte(unsigned seed, size_t at)
{
	return at * 7 + at / 251 + seed;
}

static void fill_frame(uint8_t *to, unsigned seed, size_t length)
{
	for (size_t i = 0; i < length; i++)
		to[i] = frame_byte(seed, i);
}

static void assert_frame(const uint8_t *bytes, unsigned seed, size_t length)
{
	size_t i = 0;

	while (i < length && bytes[i] == frame_byte(seed, i))
		i++;
	ck_assert_msg(i == length, "byte %zu of %zu", i, length);
}

/* A header and a frame in one buffer of guest memory. */
static uint64_t guest_frame(const struct virtio_net_hdr *header, unsigned seed, size_t length)
{
	uint64_t gpa = sim_alloc(&sim, HEADER + length, 8);
	uint8_t *bytes = sim_at(&sim, gpa, HEADER + length);

	if (header)
		memcpy(bytes, header, sizeof(*header));
	fill_frame(bytes + HEADER, seed, length);
	return gpa;
}

static void send_parts(const struct part *parts, unsigned count)
{
	driver_publish(transmit, driver_chain(transmit, parts, count));
	driver_kick(transmit);
}

static void send_frame(const struct virtio_net_hdr *header, size_t length)
{
	struct part part = { guest_frame(header, 0, length), HEADER + length, false };

	send_parts(&part, 1);
	ck_assert_uint_eq(driver_wait(transmit).len, 0);
}

static uint8_t got[HEADER + NET_FRAME_MAX + 1];

/* What the host has received: the frame's length, or -1. */
static ssize_t host_frame(unsigned pair)
{
	ssize_t length = recv(host_fds[pair], got, sizeof(got), MSG_DONTWAIT);

	return length < 0 ? -1 : length - (ssize_t)HEADER;
}

static void host_send(unsigned pair, const struct virtio_net_hdr *header, unsigned seed, size_t length)
{
	static uint8_t bytes[HEADER + NET_FRAME_MAX];

	memset(bytes, 0, HEADER);
	if (header)
		memcpy(bytes, header, sizeof(*header));
	fill_frame(bytes + HEADER, seed, length);
	ck_assert_int_eq(send(host_fds[pair], bytes, HEADER + length, 0), (ssize_t)(HEADER + length));
}

static uint64_t offer_buffer(struct driver_queue *queue, uint32_t length)
{
	uint64_t gpa = sim_alloc(&sim, length, 8);
	struct part part = { gpa, length, true };

	driver_publish(queue, driver_chain(queue, &part, 1));
	return gpa;
}

static void assert_nothing_received(struct driver_queue *queue)
{
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(queue), 0);
}

START_TEST(configuration_tells_address_link_and_mtu)
{
	struct virtio_net_config config = { 0 };
	uint64_t buffer = sim_alloc(&sim, sizeof(config), 8);

	ck_assert_uint_eq(device->config_size, 12);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 12), buffer), 0);
	memcpy(&config, sim_at(&sim, buffer, 12), 12);
	ck_assert_mem_eq(config.mac, mac, ETH_ALEN);
	ck_assert_uint_eq(config.status, VIRTIO_NET_S_LINK_UP);
	ck_assert_uint_eq(config.max_virtqueue_pairs, 1);
	ck_assert(!(device->offered & FEATURE(VIRTIO_NET_F_MTU)));
	ck_assert(!(device->offered & FEATURE(VIRTIO_NET_F_MQ)));
	ck_assert_int_lt(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 0, 6), buffer), 0);
}
END_TEST

/* Buffers that are all of memory each, and together 4 GiB: none of it is counted in 32 bits and in 64. */
START_TEST(receive_chain_of_4_gib_breaks_the_device)
{
	static struct part parts[NET_QUEUE_SIZE];
	const uint64_t features[] = { FEATURES_BASE, FEATURES_BASE | FEATURE(VIRTIO_NET_F_MRG_RXBUF) };

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		add_device(1, ALL_OFFLOADS, 0);
		sim_start_device(&sim, 0, features[i], queues, 3, NET_QUEUE_SIZE);
		for (unsigned j = 0; j < NET_QUEUE_SIZE; j++)
			parts[j] = (struct part){ 0, SIM_MEMORY, true };
		driver_publish(receive, driver_chain_indirect(receive, parts, NET_QUEUE_SIZE));
		offer_buffer(receive, 64);
		driver_kick(receive);
		/* One that fits a buffer of any kind, and one that only the first would hold. */
		host_send(0, NULL, 0, 14);
		host_send(0, NULL, 0, 1000);
		sim_run_moment(&sim);
		ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
		ck_assert_uint_eq(driver_used(receive), 0);
		teardown();
	}
}
END_TEST

START_TEST(mtu_is_told)
{
	add_device(1, 0, 9000);
	ck_assert(device->offered & FEATURE(VIRTIO_NET_F_MTU));
	ck_assert_uint_eq(((const struct virtio_net_config *)device->config)->mtu, 9000);
	teardown();
}
END_TEST

START_TEST(offloads_are_those_of_the_other_end)
{
	const uint64_t always = FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_STATUS) |
		FEATURE(VIRTIO_NET_F_MRG_RXBUF) | FEATURE(VIRTIO_NET_F_CTRL_VQ) | FEATURES_BASE;

	add_device(1, 0, 0);
	ck_assert_uint_eq(device->offered, always);
	teardown();
	add_device(1, TUN_F_CSUM | TUN_F_TSO4, 0);
	ck_assert_uint_eq(device->offered,
		always | FEATURE(VIRTIO_NET_F_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_CSUM) |
			FEATURE(VIRTIO_NET_F_HOST_TSO4) | FEATURE(VIRTIO_NET_F_GUEST_TSO4) |
			FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS));
	teardown();
	add_device(2, ALL_OFFLOADS, 0);
	ck_assert(device->offered & FEATURE(GUEST_USO4));
	ck_assert(device->offered & FEATURE(HOST_USO));
	ck_assert(device->offered & FEATURE(VIRTIO_NET_F_MQ));
	teardown();
}
END_TEST

START_TEST(driver_chooses_the_offloads_of_received_frames)
{
	ck_assert_uint_eq(offloads_set, ALL_OFFLOADS);
	sim_reset(&sim, 0);
	ck_assert_uint_eq(offloads_set, 0);
	start(1, FEATURES_BASE | FEATURE(VIRTIO_NET_F_GUEST_CSUM));
	ck_assert_uint_eq(offloads_set, TUN_F_CSUM);
	sim_reset(&sim, 0);
	/* Nothing goes without checksums. */
	start(1, FEATURES_BASE | FEATURE(VIRTIO_NET_F_GUEST_TSO4));
	ck_assert_uint_eq(offloads_set, 0);
}
END_TEST

START_TEST(frame_goes_out)
{
	send_frame(NULL, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
	assert_frame(got + HEADER, 0, FRAME);
	ck_assert_uint_eq(counted("transmit.frames"), 1);
	ck_assert_uint_eq(counted("transmit.bytes"), FRAME);
}
END_TEST

START_TEST(frame_goes_out_however_it_is_cut)
{
	const uint32_t cuts[] = { 1, HEADER - 1, HEADER, HEADER + 1, HEADER + FRAME - 1 };

	for (size_t i = 0; i < ARRAY_SIZE(cuts); i++) {
		uint64_t gpa = guest_frame(NULL, 3, FRAME);
		struct part parts[2] = { { gpa, cuts[i], false },
			{ gpa + cuts[i], HEADER + FRAME - cuts[i], false } };

		send_parts(parts, 2);
		driver_wait(transmit);
		ck_assert_int_eq(host_frame(0), FRAME);
		assert_frame(got + HEADER, 3, FRAME);
	}
	/* A byte a buffer. */
	struct part bytes[HEADER + 40];
	uint64_t gpa = guest_frame(NULL, 9, 40);

	for (unsigned i = 0; i < ARRAY_SIZE(bytes); i++)
		bytes[i] = (struct part){ gpa + i, 1, false };
	send_parts(bytes, ARRAY_SIZE(bytes));
	driver_wait(transmit);
	ck_assert_int_eq(host_frame(0), 40);
	assert_frame(got + HEADER, 9, 40);
}
END_TEST

START_TEST(many_frames_go_out_in_order_by_one_notification)
{
	for (unsigned i = 0; i < 32; i++) {
		struct part part = { guest_frame(NULL, i, FRAME), HEADER + FRAME, false };

		driver_publish(transmit, driver_chain(transmit, &part, 1));
	}
	driver_kick(transmit);
	for (unsigned i = 0; i < 32; i++) {
		driver_wait(transmit);
		ck_assert_int_eq(host_frame(0), FRAME);
		assert_frame(got + HEADER, i, FRAME);
	}
}
END_TEST

static uint16_t sent_again;

static void send_again(void)
{
	driver_publish(transmit, sent_again);
}

START_TEST(one_notification_sends_a_ring_of_frames_at_most)
{
	struct part part = { guest_frame(NULL, 0, FRAME), HEADER + FRAME, false };
	unsigned most = device->queues[1].size_max;

	sent_again = driver_chain(transmit, &part, 1);
	/* From another CPU, the guest adds one for each that is sent. */
	meanwhile = send_again;
	send_again();
	driver_kick(transmit);
	ck_assert_uint_eq(swallowed, most);
	/* The rest has its turn, behind others'. */
	io_ring_reap(&sim.ring, true);
	ck_assert_uint_gt(swallowed, most);
	meanwhile = NULL;
	sim_run_moment(&sim);
	ck_assert_int_eq(host_frame(0), FRAME);
	ck_assert(!device->queues[1].broken);
}
END_TEST

START_TEST(good_headers_reach_the_other_end)
{
	const struct virtio_net_hdr headers[] = {
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = FRAME - 8, .csum_offset = 6 },
		{ VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, 34, 16 },
		{ VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV6, FRAME, 1, 54, 16 },
		{ VIRTIO_NET_HDR_F_NEEDS_CSUM, GSO_UDP_L4, 42, 10, 34, 6 },
		{ VIRTIO_NET_HDR_F_NEEDS_CSUM,
			VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, 54, 10, 34, 16 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		send_frame(&headers[i], FRAME);
		ck_assert_int_eq(host_frame(0), FRAME);
		ck_assert_mem_eq(got, &headers[i], sizeof(headers[i]));
		ck_assert_uint_eq(got[10] | got[11], 0);
	}
	ck_assert_uint_eq(counted("transmit.refused"), 0);
}
END_TEST

START_TEST(what_a_header_must_not_say_does_not_get_out)
{
	/* Flags of received frames, and lengths for no segments. */
	const struct virtio_net_hdr header = {
		.flags = 0xfe, .hdr_len = 40, .gso_size = 9, .csum_start = 999, .csum_offset = 7
	};
	const struct virtio_net_hdr nothing = { 0 };

	send_frame(&header, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
	ck_assert_mem_eq(got, &nothing, sizeof(nothing));
}
END_TEST

START_TEST(headers_that_lie_are_refused)
{
	const uint8_t csum = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	const struct virtio_net_hdr headers[] = {
		/* The checksum: outside of the frame, in its first header. */
		{ csum, 0, 0, 0, FRAME, 0 },
		{ csum, 0, 0, 0, FRAME - 1, 0 },
		{ csum, 0, 0, 0, 34, FRAME - 34 - 1 },
		{ csum, 0, 0, 0, 0xffff, 0xffff },
		{ csum, 0, 0, 0, 34, 0xffff },
		{ csum, 0, 0, 0, ETH_HLEN - 1, 16 },
		/* Segments: of no size, without a checksum, with another one's, headers too long. */
		{ csum, VIRTIO_NET_HDR_GSO_TCPV4, 54, 0, 34, 16 },
		{ 0, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, 34, 16 },
		{ csum, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, 34, 6 },
		{ csum, GSO_UDP_L4, 54, 10, 34, 16 },
		{ csum, VIRTIO_NET_HDR_GSO_TCPV6, FRAME + 1, 10, 54, 16 },
		{ csum, VIRTIO_NET_HDR_GSO_TCPV4, 0xffff, 10, 34, 16 },
		/* Kinds that are not offered, or not known. */
		{ csum, VIRTIO_NET_HDR_GSO_UDP, 42, 10, 34, 6 },
		{ csum, GSO_UDP_L4 | VIRTIO_NET_HDR_GSO_ECN, 42, 10, 34, 6 },
		{ csum, VIRTIO_NET_HDR_GSO_ECN, 54, 10, 34, 16 },
		{ csum, 2, 54, 10, 34, 16 },
		{ csum, 0x7f, 54, 10, 34, 16 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		send_frame(&headers[i], FRAME);
		ck_assert_msg(host_frame(0) == -1, "header %zu got out", i);
		ck_assert_uint_eq(counted("transmit.refused"), i + 1);
	}
	send_frame(NULL, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
}
END_TEST

START_TEST(offloads_that_were_not_accepted_are_refused)
{
	const struct virtio_net_hdr checksum = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16
	};
	const struct virtio_net_hdr segments = {
		VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, 34, 16
	};
	struct virtio_net_hdr ecn = segments;

	send_frame(&checksum, FRAME);
	ck_assert_int_eq(host_frame(0), -1);
	sim_reset(&sim, 0);
	start(1, FEATURES_BASE | FEATURE(VIRTIO_NET_F_CSUM));
	send_frame(&checksum, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
	send_frame(&segments, FRAME);
	ck_assert_int_eq(host_frame(0), -1);
	sim_reset(&sim, 0);
	start(1, FEATURES_BASE | FEATURE(VIRTIO_NET_F_CSUM) | FEATURE(VIRTIO_NET_F_HOST_TSO4));
	ecn.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	send_frame(&ecn, FRAME);
	ck_assert_int_eq(host_frame(0), -1);
	send_frame(&segments, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
	ck_assert_uint_eq(counted("transmit.refused"), 3);
}
END_TEST

START_TEST(frames_of_bad_lengths_are_refused)
{
	const uint32_t lengths[] = { 0, 1, HEADER - 1, HEADER, HEADER + ETH_HLEN - 1,
		HEADER + NET_FRAME_MAX + 1, 1u << 20 };
	uint64_t gpa = sim_alloc(&sim, 1u << 20, 8);
	unsigned refused = 0;

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct part part = { gpa, lengths[i], false };

		send_parts(&part, 1);
		driver_wait(transmit);
		ck_assert_int_eq(host_frame(0), -1);
		ck_assert_uint_eq(counted("transmit.refused"), ++refused);
	}
	/* Nothing that we read. */
	struct part part = { gpa, 100, true };

	send_parts(&part, 1);
	ck_assert_uint_eq(driver_wait(transmit).len, 0);
	ck_assert_uint_eq(counted("transmit.refused"), refused + 1);
	send_frame(NULL, ETH_HLEN);
	ck_assert_int_eq(host_frame(0), ETH_HLEN);
	send_frame(NULL, NET_FRAME_MAX);
	ck_assert_int_eq(host_frame(0), NET_FRAME_MAX);
}
END_TEST

/* More frames than the socket holds; how many it took. */
static unsigned fill_socket(void)
{
	for (unsigned i = 0; i < 40; i++) {
		struct part part = { guest_frame(NULL, i, 20000), HEADER + 20000, false };

		driver_publish(transmit, driver_chain(transmit, &part, 1));
	}
	driver_kick(transmit);
	sim_run_moment(&sim);
	ck_assert_uint_gt(driver_used(transmit), 0);
	ck_assert_uint_lt(driver_used(transmit), 40);
	return driver_used(transmit);
}

START_TEST(frames_wait_for_room_and_none_is_lost)
{
	unsigned sent = fill_socket();

	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(transmit), sent);
	for (unsigned i = 0; i < 40; i++) {
		while (host_frame(0) == -1)
			io_ring_reap(&sim.ring, false);
		assert_frame(got + HEADER, i, 20000);
	}
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_used(transmit), 40);
	ck_assert_uint_eq(counted("transmit.dropped"), 0);
}
END_TEST

START_TEST(reset_forgets_a_frame_that_waits_for_room)
{
	fill_socket();
	sim_reset(&sim, 0);
	while (host_frame(0) != -1)
		;
	start(1, device->offered);
	sim_run_moment(&sim);
	send_frame(NULL, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
}
END_TEST

START_TEST(bulk_transfer_is_looked_at_without_notifications)
{
	send_frame(NULL, 20000);
	ck_assert_uint_eq(transmit->used->idx, 1);
	/* Frames that nobody tells of. */
	for (unsigned i = 1; i < 20; i++) {
		struct part part = { guest_frame(NULL, i, 20000), HEADER + 20000, false };

		driver_publish(transmit, driver_chain(transmit, &part, 1));
		driver_wait(transmit);
		while (host_frame(0) != -1)
			;
	}
	ck_assert_uint_eq(transmit->avail->idx, 20);
	/* After a while without any, the guest has to tell again. */
	sim_run_moment(&sim);
	ck_assert_uint_eq(*driver_avail_event(transmit), 20);
}
END_TEST

START_TEST(acknowledgements_of_a_bulk_transfer_are_looked_at_without_notifications)
{
	struct part part;

	/* However slow we are. */
	sim_set_clock(1000000000000);
	for (unsigned i = 0; i < 40; i++)
		offer_buffer(receive, 4096);
	driver_kick(receive);
	host_send(0, NULL, 0, 60000);
	driver_wait(receive);
	send_frame(NULL, FRAME);
	part = (struct part){ guest_frame(NULL, 1, FRAME), HEADER + FRAME, false };
	driver_publish(transmit, driver_chain(transmit, &part, 1));
	driver_wait(transmit);
	sim_run_clock();
}
END_TEST

START_TEST(lone_frame_is_told_late)
{
	send_frame(NULL, FRAME);
	ck_assert_uint_eq(driver_interrupts(transmit), 0);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(transmit), 1);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(transmit), 0);
}
END_TEST

START_TEST(driver_that_has_seen_a_lone_frame_is_not_told)
{
	for (unsigned i = 1; i <= 3; i++) {
		send_frame(NULL, FRAME);
		*driver_used_event(transmit) = i;
	}
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(transmit), 0);
}
END_TEST

START_TEST(driver_that_waits_is_told_of_the_second_frame_at_once)
{
	send_frame(NULL, FRAME);
	ck_assert_uint_eq(driver_interrupts(transmit), 0);
	send_frame(NULL, FRAME);
	ck_assert_uint_eq(driver_interrupts(transmit), 1);
}
END_TEST

START_TEST(reset_with_a_frame_untold)
{
	send_frame(NULL, FRAME);
	sim_reset(&sim, 0);
	start(1, device->offered);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(transmit), 0);
	send_frame(NULL, FRAME);
	sim_run_moment(&sim);
	ck_assert_uint_eq(driver_interrupts(transmit), 1);
}
END_TEST

START_TEST(vcpu_that_sends_and_receives_in_turns_waits_by_itself)
{
	struct io_ring own;
	uint8_t leave = 0;

	ck_assert_int_eq(io_ring_init_thread(&own, &sim.ring, 1, &leave), 0);
	for (unsigned i = 0; i < 10; i++)
		offer_buffer(receive, 2000);
	driver_kick(receive);
	io_ring_bind(&own);
	send_frame(NULL, FRAME);
	io_ring_unbind(&own);
	/* The I/O thread waits for the first answer. */
	ck_assert(!net_waits_on_vcpu(&end, 0));
	host_send(0, NULL, 0, FRAME);
	driver_wait(receive);
	io_ring_bind(&own);
	for (unsigned i = 1; i <= 3; i++) {
		send_frame(NULL, FRAME);
		ck_assert(net_waits_on_vcpu(&end, 0));
		ck_assert(io_ring_arm_eventfd(&own));
		host_send(0, NULL, i, FRAME);
		/* The I/O thread takes no part. */
		ck_assert_uint_eq(leave, 1);
		leave = 0;
		io_ring_reap(&own, false);
		ck_assert_uint_eq(driver_used(receive), 1);
		driver_wait(receive);
	}
	ck_assert(net_waits_on_vcpu(&end, 0));
	/* One that the other end has taken from its socket already makes nobody leave the guest. */
	send_frame(NULL, FRAME);
	host_send(0, NULL, 0, FRAME);
	pending = true;
	io_ring_reap(&own, false);
	ck_assert(!net_waits_on_vcpu(&end, 0));
	ck_assert(end.queues[0].readable_armed);
	driver_wait(receive);
	pending = false;
	send_frame(NULL, FRAME);
	host_send(0, NULL, 0, FRAME);
	io_ring_reap(&own, false);
	ck_assert_uint_eq(driver_used(receive), 1);
	driver_wait(receive);
	ck_assert(net_waits_on_vcpu(&end, 0));
	/* Two that come without anything sent between are no turns any more. */
	host_send(0, NULL, 0, FRAME);
	io_ring_reap(&own, false);
	ck_assert(!net_waits_on_vcpu(&end, 0));
	io_ring_unbind(&own);
	driver_wait(receive);
	host_send(0, NULL, 0, FRAME);
	driver_wait(receive);
	ck_assert_uint_eq(counted("receive.frames"), 8);
	io_ring_release_thread(&own);
}
END_TEST

START_TEST(frame_comes_in)
{
	uint64_t gpa = offer_buffer(receive, 2000);
	const struct virtio_net_hdr_mrg_rxbuf *header = sim_at(&sim, gpa, HEADER);
	struct vring_used_elem element;

	driver_kick(receive);
	host_send(0, NULL, 1, FRAME);
	element = driver_wait(receive);
	ck_assert_uint_eq(element.len, HEADER + FRAME);
	ck_assert_uint_eq(header->num_buffers, 1);
	assert_frame(sim_at(&sim, gpa + HEADER, FRAME), 1, FRAME);
	ck_assert_uint_eq(driver_interrupts(receive), 1);
	ck_assert_uint_eq(counted("receive.frames"), 1);
	ck_assert_uint_eq(counted("receive.bytes"), FRAME);
}
END_TEST

START_TEST(headers_of_received_frames_reach_the_guest)
{
	const struct virtio_net_hdr sent = {
		VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 10, 34, 16
	};
	uint64_t gpa = offer_buffer(receive, 2000);

	driver_kick(receive);
	host_send(0, &sent, 1, FRAME);
	driver_wait(receive);
	ck_assert_mem_eq(sim_at(&sim, gpa, sizeof(sent)), &sent, sizeof(sent));
}
END_TEST

START_TEST(large_frame_takes_several_buffers_at_once)
{
	uint64_t gpa[8];
	uint8_t joined[8 * 1000];
	struct vring_used_elem element;
	const uint32_t length = 5500;

	for (unsigned i = 0; i < 8; i++)
		gpa[i] = offer_buffer(receive, 1000);
	driver_kick(receive);
	host_send(0, NULL, 4, length);
	driver_wait(receive);
	receive->last_used--;
	ck_assert_uint_eq(driver_used(receive), 6);
	for (unsigned i = 0; i < 6; i++) {
		element = driver_wait(receive);
		ck_assert_uint_eq(element.len, i < 5 ? 1000 : HEADER + length - 5000);
		memcpy(joined + 1000 * i, sim_at(&sim, gpa[i], 1000), 1000);
	}
	ck_assert_uint_eq(((struct virtio_net_hdr_mrg_rxbuf *)joined)->num_buffers, 6);
	assert_frame(joined + HEADER, 4, length);
	/* The next goes into the next. */
	host_send(0, NULL, 5, FRAME);
	driver_wait(receive);
	assert_frame(sim_at(&sim, gpa[6] + HEADER, FRAME), 5, FRAME);
}
END_TEST

START_TEST(largest_frame_comes_in_buffers_of_all_sizes)
{
	const uint32_t sizes[] = { 1, 11, 13, 4096, 20000, 3, 70000 };
	uint8_t *joined = malloc(HEADER + NET_FRAME_MAX);
	uint64_t gpa[ARRAY_SIZE(sizes)];
	size_t at = 0;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		gpa[i] = offer_buffer(receive, sizes[i]);
	driver_kick(receive);
	host_send(0, NULL, 4, NET_FRAME_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint32_t part = driver_wait(receive).len;

		memcpy(joined + at, sim_at(&sim, gpa[i], part), part);
		at += part;
	}
	ck_assert_uint_eq(at, HEADER + NET_FRAME_MAX);
	ck_assert_uint_eq(((struct virtio_net_hdr_mrg_rxbuf *)joined)->num_buffers, ARRAY_SIZE(sizes));
	assert_frame(joined + HEADER, 4, NET_FRAME_MAX);
	free(joined);
}
END_TEST

START_TEST(frame_waits_for_the_buffers_that_it_needs)
{
	uint64_t gpa[3];
	uint8_t joined[3 * 500];

	gpa[0] = offer_buffer(receive, 500);
	driver_kick(receive);
	host_send(0, NULL, 7, 1400);
	assert_nothing_received(receive);
	gpa[1] = offer_buffer(receive, 500);
	driver_kick(receive);
	assert_nothing_received(receive);
	gpa[2] = offer_buffer(receive, 500);
	driver_kick(receive);
	for (unsigned i = 0; i < 3; i++) {
		driver_wait(receive);
		memcpy(joined + 500 * i, sim_at(&sim, gpa[i], 500), 500);
	}
	assert_frame(joined + HEADER, 7, 1400);
	ck_assert_uint_eq(counted("receive.dropped"), 0);
}
END_TEST

START_TEST(frame_that_no_ring_of_buffers_can_hold_is_dropped)
{
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		offer_buffer(receive, 16);
	driver_kick(receive);
	host_send(0, NULL, 7, 1400);
	host_send(0, NULL, 8, FRAME);
	for (unsigned i = 0; i < (HEADER + FRAME) / 16; i++)
		driver_wait(receive);
	ck_assert_uint_eq(counted("receive.dropped"), 1);
	ck_assert_uint_eq(counted("receive.frames"), 1);
}
END_TEST

START_TEST(without_merging_a_frame_has_one_chain)
{
	uint64_t small = offer_buffer(receive, 100), gpa = sim_alloc(&sim, 2000, 8);
	struct part parts[2] = { { gpa, HEADER, true }, { gpa + HEADER, 1900, true } };
	const struct virtio_net_hdr_mrg_rxbuf *header = sim_at(&sim, gpa, HEADER);

	(void)small;
	driver_publish(receive, driver_chain(receive, parts, 2));
	driver_kick(receive);
	host_send(0, NULL, 1, FRAME);
	host_send(0, NULL, 2, 100 - HEADER);
	host_send(0, NULL, 3, 1900);
	ck_assert_uint_eq(driver_wait(receive).len, 100);
	ck_assert_uint_eq(driver_wait(receive).len, HEADER + 1900);
	ck_assert_uint_eq(header->num_buffers, 1);
	assert_frame(sim_at(&sim, gpa + HEADER, 1900), 3, 1900);
	ck_assert_uint_eq(counted("receive.dropped"), 1);
}
END_TEST

START_TEST(frames_with_unaccepted_offloads_are_dropped)
{
	const struct virtio_net_hdr checksum = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16
	};
	const struct virtio_net_hdr segments = { .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 9 };
	const struct virtio_net_hdr unknown = { .gso_type = 0x70 };

	offer_buffer(receive, 2000);
	driver_kick(receive);
	host_send(0, &checksum, 1, FRAME);
	host_send(0, &segments, 1, FRAME);
	host_send(0, &unknown, 1, FRAME);
	host_send(0, NULL, 1, FRAME);
	driver_wait(receive);
	ck_assert_uint_eq(counted("receive.dropped"), 3);
}
END_TEST

START_TEST(received_chains_without_room_do_no_harm)
{
	struct part readable = { sim_alloc(&sim, 64, 8), 64, false };

	driver_publish(receive, driver_chain(receive, &readable, 1));
	offer_buffer(receive, 2000);
	driver_kick(receive);
	host_send(0, NULL, 1, FRAME);
	ck_assert_uint_eq(driver_wait(receive).len, 0);
	ck_assert_uint_eq(driver_wait(receive).len, HEADER + FRAME);
}
END_TEST

START_TEST(frames_wait_while_there_are_no_buffers)
{
	for (unsigned i = 0; i < 5; i++)
		host_send(0, NULL, i, FRAME);
	assert_nothing_received(receive);
	for (unsigned i = 0; i < 5; i++) {
		uint64_t gpa = offer_buffer(receive, 1600);

		driver_kick(receive);
		driver_wait(receive);
		assert_frame(sim_at(&sim, gpa + HEADER, FRAME), i, FRAME);
	}
}
END_TEST

START_TEST(many_frames_come_by_one_interrupt)
{
	for (unsigned i = 0; i < 20; i++)
		offer_buffer(receive, 1600);
	for (unsigned i = 0; i < 20; i++)
		host_send(0, NULL, i, FRAME);
	driver_kick(receive);
	for (unsigned i = 0; i < 20; i++)
		driver_wait(receive);
	ck_assert_uint_eq(driver_interrupts(receive), 1);
}
END_TEST

START_TEST(nothing_comes_in_after_a_reset)
{
	uint64_t gpa = offer_buffer(receive, 2000);
	uint8_t *bytes = sim_at(&sim, gpa, 2000);

	driver_kick(receive);
	sim_reset(&sim, 0);
	host_send(0, NULL, 1, FRAME);
	sim_run_moment(&sim);
	for (unsigned i = 0; i < 2000; i++)
		ck_assert_uint_eq(bytes[i], 0);
	start(1, device->offered);
	offer_buffer(receive, 2000);
	driver_kick(receive);
	ck_assert_uint_eq(driver_wait(receive).len, HEADER + FRAME);
}
END_TEST

/* --- The control queue. */

static uint8_t command(const void *bytes, uint32_t length)
{
	const uint8_t none = 0xee;
	uint64_t ack = sim_text(&sim, &none, 1);
	struct part parts[2] = { { sim_text(&sim, bytes, length), length, false }, { ack, 1, true } };

	driver_publish(control, driver_chain(control, parts, 2));
	driver_kick(control);
	ck_assert_uint_eq(driver_wait(control).len, 1);
	return *(uint8_t *)sim_at(&sim, ack, 1);
}

static uint8_t set_pairs(uint16_t pairs)
{
	uint8_t bytes[4] = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, pairs, pairs >> 8 };

	return command(bytes, sizeof(bytes));
}

START_TEST(driver_sets_the_pairs_in_use)
{
	ck_assert_uint_eq(queues_set, 1);
	for (unsigned pairs = 1; pairs <= PAIRS; pairs++) {
		ck_assert_uint_eq(set_pairs(pairs), VIRTIO_NET_OK);
		ck_assert_uint_eq(queues_set, pairs);
	}
	ck_assert_uint_eq(set_pairs(0), VIRTIO_NET_ERR);
	ck_assert_uint_eq(set_pairs(PAIRS + 1), VIRTIO_NET_ERR);
	ck_assert_uint_eq(set_pairs(0xffff), VIRTIO_NET_ERR);
	ck_assert_uint_eq(queues_set, PAIRS);
	ck_assert_uint_eq(counted("control.refused"), 3);
	sim_reset(&sim, 0);
	ck_assert_uint_eq(queues_set, 1);
}
END_TEST

START_TEST(each_pair_receives_and_sends)
{
	ck_assert_uint_eq(set_pairs(PAIRS), VIRTIO_NET_OK);
	for (unsigned i = 0; i < PAIRS; i++) {
		uint64_t gpa = offer_buffer(&queues[2 * i], 2000);

		driver_kick(&queues[2 * i]);
		host_send(i, NULL, i, FRAME);
		driver_wait(&queues[2 * i]);
		assert_frame(sim_at(&sim, gpa + HEADER, FRAME), i, FRAME);
		transmit = &queues[2 * i + 1];
		send_frame(NULL, FRAME);
		ck_assert_int_eq(host_frame(i), FRAME);
	}
	transmit = &queues[1];
}
END_TEST

START_TEST(pairs_not_in_use_receive_nothing)
{
	offer_buffer(&queues[2], 2000);
	driver_kick(&queues[2]);
	host_send(1, NULL, 1, FRAME);
	assert_nothing_received(&queues[2]);
	ck_assert_uint_eq(set_pairs(2), VIRTIO_NET_OK);
	driver_wait(&queues[2]);
}
END_TEST

START_TEST(without_multi_queue_the_third_queue_is_the_control_queue)
{
	const uint8_t bytes[10] = { VIRTIO_NET_CTRL_GUEST_OFFLOADS,
		VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, 1 << VIRTIO_NET_F_GUEST_CSUM };

	sim_reset(&sim, 0);
	start(1, device->offered & ~FEATURE(VIRTIO_NET_F_MQ));
	ck_assert_uint_eq(set_pairs(1), VIRTIO_NET_ERR);
	ck_assert_uint_eq(command(bytes, sizeof(bytes)), VIRTIO_NET_OK);
	ck_assert_uint_eq(offloads_set, TUN_F_CSUM);
}
END_TEST

static uint8_t set_offloads(uint64_t features)
{
	uint8_t bytes[10] = { VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET };

	memcpy(bytes + 2, &features, sizeof(features));
	return command(bytes, sizeof(bytes));
}

START_TEST(driver_changes_offloads_while_it_runs)
{
	const uint64_t csum = FEATURE(VIRTIO_NET_F_GUEST_CSUM);

	ck_assert_uint_eq(set_offloads(0), VIRTIO_NET_OK);
	ck_assert_uint_eq(offloads_set, 0);
	ck_assert_uint_eq(set_offloads(csum | FEATURE(VIRTIO_NET_F_GUEST_TSO6)), VIRTIO_NET_OK);
	ck_assert_uint_eq(offloads_set, TUN_F_CSUM | TUN_F_TSO6);
	ck_assert_uint_eq(set_offloads(csum | FEATURE(VIRTIO_NET_F_MAC)), VIRTIO_NET_ERR);
	ck_assert_uint_eq(set_offloads(UINT64_MAX), VIRTIO_NET_ERR);
	ck_assert_uint_eq(set_offloads(FEATURE(VIRTIO_NET_F_GUEST_UFO)), VIRTIO_NET_ERR);
	ck_assert_uint_eq(offloads_set, TUN_F_CSUM | TUN_F_TSO6);
	refuse_offloads = true;
	ck_assert_uint_eq(set_offloads(csum), VIRTIO_NET_ERR);
}
END_TEST

START_TEST(commands_of_bad_lengths_are_refused)
{
	const uint8_t bytes[64] = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 1 };
	const uint8_t offloads[64] = { VIRTIO_NET_CTRL_GUEST_OFFLOADS,
		VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET };

	for (uint32_t length = 0; length < sizeof(bytes); length++) {
		ck_assert_uint_eq(command(bytes, length), length == 4 ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
		ck_assert_uint_eq(
			command(offloads, length), length == 10 ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
	}
	for (unsigned class = 0; class < 256; class++) {
		const uint8_t unknown[8] = { class, 0x77 };

		ck_assert_uint_eq(command(unknown, sizeof(unknown)), VIRTIO_NET_ERR);
	}
}
END_TEST

START_TEST(commands_without_a_place_for_the_answer_do_nothing)
{
	const uint8_t bytes[4] = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2 };
	struct part part = { sim_text(&sim, bytes, sizeof(bytes)), sizeof(bytes), false };

	driver_publish(control, driver_chain(control, &part, 1));
	driver_kick(control);
	ck_assert_uint_eq(driver_wait(control).len, 0);
	ck_assert_uint_eq(queues_set, 1);
	ck_assert_uint_eq(counted("control.refused"), 1);
}
END_TEST

/* --- The link, and limits. */

static uint16_t link_status(void)
{
	return ((const struct virtio_net_config *)device->config)->status;
}

START_TEST(link_changes_are_told)
{
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	net_set_link(&end, false);
	ck_assert_uint_eq(link_status(), 0);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG);
	/* What is sent meanwhile is lost, as on a wire. */
	send_frame(NULL, FRAME);
	ck_assert_int_eq(host_frame(0), -1);
	ck_assert_uint_eq(counted("transmit.dropped"), 1);
	net_set_link(&end, false);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
	net_set_link(&end, true);
	ck_assert_uint_eq(link_status(), VIRTIO_NET_S_LINK_UP);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	send_frame(NULL, FRAME);
	ck_assert_int_eq(host_frame(0), FRAME);
}
END_TEST

START_TEST(link_is_as_the_supervisor_found_it_last)
{
	net_update_link(&end, NET_LINK_DOWN);
	net_update_link(&end, NET_LINK_UP);
	net_update_link(&end, NET_LINK_DOWN);
	/* Who tells is no thread of the device's. */
	ck_assert_uint_eq(link_status(), VIRTIO_NET_S_LINK_UP);
	sim_run_moment(&sim);
	ck_assert_uint_eq(link_status(), 0);
	net_update_link(&end, NET_LINK_UP);
	sim_run_moment(&sim);
	ck_assert_uint_eq(link_status(), VIRTIO_NET_S_LINK_UP);
	/* Nothing comes after the end. */
	net_update_link(&end, NET_LINK_UP);
	net_update_link(&end, NET_LINK_GONE);
	net_update_link(&end, NET_LINK_UP);
	sim_run_moment(&sim);
	net_update_link(&end, NET_LINK_UP);
	sim_run_moment(&sim);
	ck_assert_uint_eq(link_status(), 0);
	ck_assert_uint_eq(gones, 1);
}
END_TEST

START_TEST(link_is_told_until_it_is_known)
{
	enum net_link link;

	found = NET_LINK_UP;
	ck_assert(!net_query_link(&end, -1, &link));
	for (unsigned i = 0; i < 2; i++) {
		found = NET_LINK_DOWN;
		ck_assert(net_query_link(&end, -1, &link));
		ck_assert_int_eq(link, NET_LINK_DOWN);
	}
	net_set_known_link(&end, NET_LINK_DOWN);
	ck_assert(!net_query_link(&end, -1, &link));
	found = NET_LINK_GONE;
	ck_assert(net_query_link(&end, -1, &link));
	net_set_known_link(&end, link);
	/* Another may have its name by now. */
	found = NET_LINK_UP;
	ck_assert(!net_query_link(&end, -1, &link));
}
END_TEST

START_TEST(end_of_the_other_end_takes_the_link_down_once)
{
	offer_buffer(receive, 2000);
	driver_kick(receive);
	close(host_fds[0]);
	host_fds[0] = -1;
	sim_run_moment(&sim);
	ck_assert_uint_eq(link_status(), 0);
	ck_assert_uint_eq(gones, 1);
	for (unsigned i = 0; i < 3; i++)
		send_frame(NULL, FRAME);
	sim_run_moment(&sim);
	ck_assert_uint_eq(gones, 1);
	ck_assert_uint_eq(counted("transmit.dropped"), 3);
}
END_TEST

START_TEST(limit_holds_each_direction_back)
{
	struct rate_limit_options options = { .requests = 10, .burst = 1 };
	struct rate_limiter in, out;
	unsigned seen = 0;

	add_device(1, ALL_OFFLOADS, 0);
	rate_limiter_init(&in, &options);
	rate_limiter_init(&out, &options);
	net_device_limit(device, &in, &out);
	start(1, device->offered);
	for (unsigned i = 0; i < 12; i++) {
		struct part part = { guest_frame(NULL, i, FRAME), HEADER + FRAME, false };

		driver_publish(transmit, driver_chain(transmit, &part, 1));
		offer_buffer(receive, 1600);
		host_send(0, NULL, i, FRAME);
	}
	driver_kick(transmit);
	driver_kick(receive);
	while (io_ring_reap(&sim.ring, false))
		;
	ck_assert_uint_eq(driver_used(transmit), 10);
	ck_assert_uint_eq(driver_used(receive), 10);
	ck_assert_uint_eq(counted("limited"), 2);
	/* In the end, all are there. */
	for (; seen < 12; seen++) {
		driver_wait(transmit);
		driver_wait(receive);
	}
	sim_reset(&sim, 0);
	rate_limiter_release(&in);
	rate_limiter_release(&out);
	teardown();
}
END_TEST

START_TEST(device_that_a_limit_holds_back_is_reset)
{
	struct rate_limit_options options = { .bytes = 1000, .burst = 1 };
	struct rate_limiter in, out;

	add_device(1, ALL_OFFLOADS, 0);
	rate_limiter_init(&in, &options);
	rate_limiter_init(&out, &options);
	net_device_limit(device, &in, &out);
	for (unsigned round = 0; round < 2; round++) {
		start(1, device->offered);
		for (unsigned i = 0; i < 3; i++) {
			struct part part = { guest_frame(NULL, i, 20000), HEADER + 20000, false };

			driver_publish(transmit, driver_chain(transmit, &part, 1));
			offer_buffer(receive, 30000);
			host_send(0, NULL, i, 20000);
		}
		driver_kick(transmit);
		driver_kick(receive);
		sim_run_moment(&sim);
		sim_reset(&sim, 0);
	}
	virtio_wait_idle(device);
	rate_limiter_release(&in);
	rate_limiter_release(&out);
	teardown();
}
END_TEST

/* Whatever stands in the rings: nothing but this guest is hurt. */
START_TEST(random_chains_and_frames_do_no_harm)
{
	uint64_t state = 0x9e3779b97f4a7c15ull + _i;
	uint64_t area = sim_alloc(&sim, 1 << 20, 8);

	for (unsigned round = 0; round < 4000; round++) {
		struct driver_queue *queue = &queues[random_next(&state) % 3];
		struct part parts[6];
		unsigned count = 1 + random_next(&state) % ARRAY_SIZE(parts), in = random_next(&state) % 7;
		uint8_t *bytes = sim_at(&sim, area, 4096);

		for (unsigned i = 0; i < 64; i++)
			bytes[random_next(&state) % 4096] = random_next(&state);
		for (unsigned i = 0; i < count; i++)
			parts[i] = (struct part){ area + random_next(&state) % 4096,
				random_next(&state) % (1u << random_next(&state) % 18), i >= in };
		driver_publish(queue, driver_chain(queue, parts, count));
		driver_kick(queue);
		if (random_next(&state) % 4 == 0) {
			struct virtio_net_hdr header;
			uint64_t random[2] = { random_next(&state), random_next(&state) };

			memcpy(&header, random, sizeof(header));
			/* Too short, and then one of any length; there may be no room for them. */
			if (send(host_fds[0], &header, sizeof(header), 0) < 0)
				ck_assert_int_eq(errno, EAGAIN);
			if (send(host_fds[0], got, HEADER + random_next(&state) % 3000, 0) < 0)
				ck_assert_int_eq(errno, EAGAIN);
		}
		io_ring_reap(&sim.ring, false);
		while (host_frame(0) != -1)
			;
		if (sim_status(&sim, 0) != STATUS_RUNNING || round % 500 == 499) {
			sim_reset(&sim, 0);
			sim.next_free = area + (1 << 20);
			start(1, device->offered);
		}
	}
}
END_TEST

static TCase *make_case(const char *name, SFun before, SFun after)
{
	TCase *tcase = tcase_create(name);

	tcase_add_checked_fixture(tcase, before, after);
	tcase_set_timeout(tcase, 60);
	return tcase;
}

static void nothing(void)
{
}

Suite *net_suite(void)
{
	Suite *suite = suite_create("net");
	TCase *own = make_case("own", nothing, nothing);
	TCase *full = make_case("full", setup, teardown);
	TCase *plain = make_case("plain", setup_plain, teardown);
	TCase *pairs = make_case("pairs", setup_pairs, teardown);

	tcase_add_test(own, mtu_is_told);
	tcase_add_test(own, receive_chain_of_4_gib_breaks_the_device);
	tcase_add_test(own, offloads_are_those_of_the_other_end);
	tcase_add_test(own, limit_holds_each_direction_back);
	tcase_add_test(own, device_that_a_limit_holds_back_is_reset);
	tcase_add_test(full, configuration_tells_address_link_and_mtu);
	tcase_add_test(full, driver_chooses_the_offloads_of_received_frames);
	tcase_add_test(full, frame_goes_out);
	tcase_add_test(full, frame_goes_out_however_it_is_cut);
	tcase_add_test(full, many_frames_go_out_in_order_by_one_notification);
	tcase_add_test(full, one_notification_sends_a_ring_of_frames_at_most);
	tcase_add_test(full, good_headers_reach_the_other_end);
	tcase_add_test(full, what_a_header_must_not_say_does_not_get_out);
	tcase_add_test(full, headers_that_lie_are_refused);
	tcase_add_test(plain, offloads_that_were_not_accepted_are_refused);
	tcase_add_test(full, frames_of_bad_lengths_are_refused);
	tcase_add_test(full, frames_wait_for_room_and_none_is_lost);
	tcase_add_test(full, reset_forgets_a_frame_that_waits_for_room);
	tcase_add_test(full, bulk_transfer_is_looked_at_without_notifications);
	tcase_add_test(full, acknowledgements_of_a_bulk_transfer_are_looked_at_without_notifications);
	tcase_add_test(full, lone_frame_is_told_late);
	tcase_add_test(full, driver_that_has_seen_a_lone_frame_is_not_told);
	tcase_add_test(full, driver_that_waits_is_told_of_the_second_frame_at_once);
	tcase_add_test(full, reset_with_a_frame_untold);
	tcase_add_test(full, vcpu_that_sends_and_receives_in_turns_waits_by_itself);
	tcase_add_test(full, frame_comes_in);
	tcase_add_test(full, headers_of_received_frames_reach_the_guest);
	tcase_add_test(full, large_frame_takes_several_buffers_at_once);
	tcase_add_test(full, largest_frame_comes_in_buffers_of_all_sizes);
	tcase_add_test(full, frame_waits_for_the_buffers_that_it_needs);
	tcase_add_test(full, frame_that_no_ring_of_buffers_can_hold_is_dropped);
	tcase_add_test(plain, without_merging_a_frame_has_one_chain);
	tcase_add_test(plain, frames_with_unaccepted_offloads_are_dropped);
	tcase_add_test(full, received_chains_without_room_do_no_harm);
	tcase_add_test(full, frames_wait_while_there_are_no_buffers);
	tcase_add_test(full, many_frames_come_by_one_interrupt);
	tcase_add_test(full, nothing_comes_in_after_a_reset);
	tcase_add_test(pairs, driver_sets_the_pairs_in_use);
	tcase_add_test(pairs, each_pair_receives_and_sends);
	tcase_add_test(pairs, pairs_not_in_use_receive_nothing);
	tcase_add_test(pairs, without_multi_queue_the_third_queue_is_the_control_queue);
	tcase_add_test(full, driver_changes_offloads_while_it_runs);
	tcase_add_test(pairs, commands_of_bad_lengths_are_refused);
	tcase_add_test(pairs, commands_without_a_place_for_the_answer_do_nothing);
	tcase_add_test(full, link_changes_are_told);
	tcase_add_test(full, link_is_as_the_supervisor_found_it_last);
	tcase_add_test(full, link_is_told_until_it_is_known);
	tcase_add_test(full, end_of_the_other_end_takes_the_link_down_once);
	tcase_add_loop_test(full, random_chains_and_frames_do_no_harm, 0, 8);
	suite_add_tcase(suite, own);
	suite_add_tcase(suite, full);
	suite_add_tcase(suite, plain);
	suite_add_tcase(suite, pairs);
	return suite;
}
