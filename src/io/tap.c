// SPDX-License-Identifier: GPL-2.0-only
/*
 * TAPs of the host, as backends of networks: an existing one, one made here, or one that was passed
 * in.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "karma/log.h"
#include "karma/net.h"
#include "karma/util.h"

/* Of Linux 6.2, which Debian 12's headers lack. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define OFFLOADS (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)
#define OFFLOADS_USO (OFFLOADS | TUN_F_USO4 | TUN_F_USO6)

#define MONITOR_MESSAGES 64	/* read at a time */

struct tap {
	struct net net;
	char interface[IFNAMSIZ];	/* its name, as of tap_query_link() */
};

static struct tap *tap_of(struct net *net)
{
	return container_of(net, struct tap, net);
}

static const char *create_cure(int error)
{
	switch (error) {
	case EPERM:
		return "create it as root for yourself, with `ip tuntap add NAME mode tap user $USER` (and "
		       "multi_queue for queues=N), and `ip link set NAME up`";
	case EBUSY:
		return "another program uses it: give a TAP of its own, or end that program";
	case EINVAL:
		return "it is no TAP, or was made for another number of queues: create it with "
		       "`ip tuntap add NAME mode tap`, and with multi_queue for queues=N";
	default:
		return "give the name of a TAP, of at most 15 characters";
	}
}

static int set_interface(int fd, const char *name, unsigned flags)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags };

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	return ioctl(fd, TUNSETIFF, &request) < 0 ? -errno : 0;
}

/* A TAP that was created with IFF_MULTI_QUEUE wants that flag even for one queue. */
static int open_queue(const char *name, unsigned queues)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	int result;

	if (fd < 0)
		return fail(-errno, "tap %s: can't open /dev/net/tun: %s: load the module `tun`, and give "
				    "yourself the right to read and write that file",
			name, strerror(errno));
	result = set_interface(fd, name, queues > 1 ? IFF_MULTI_QUEUE : 0);
	if (result == -EINVAL && queues == 1)
		result = set_interface(fd, name, IFF_MULTI_QUEUE);
	if (result == 0)
		return fd;
	close(fd);
	return fail(result, "tap %s: %s: %s", name, strerror(-result), create_cure(-result));
}

static void bring_up(const char *name)
{
	cleanup_fd int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = { 0 };

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return;
	request.ifr_flags |= IFF_UP;
	ioctl(fd, SIOCSIFFLAGS, &request);
}

static void tap_gone(struct net *net)
{
	note("%s: the interface was deleted: the guest's link is down until the guest is started with "
	     "another",
		net->name);
}

/* By the name that the interface has now: it may have been renamed. */
static enum net_link tap_query_link(struct net *net, int monitor_fd)
{
	struct ifreq request = { 0 };

	if (ioctl(net->queues[0].fd, TUNGETIFF, &request) < 0)
		return errno == EBADFD ? NET_LINK_GONE : NET_LINK_UP;
	memcpy(tap_of(net)->interface, request.ifr_name, sizeof(request.ifr_name));
	/* It may be in another network namespace, whose interfaces are not seen here. */
	if (ioctl(monitor_fd, SIOCGIFFLAGS, &request) < 0)
		return NET_LINK_UP;
	return request.ifr_flags & IFF_UP ? NET_LINK_UP : NET_LINK_DOWN;
}

int net_monitor_open(void)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	int result;

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	result = fail(-errno, "--net: can't watch interfaces (netlink): %s: raise the limit of open files "
			      "(ulimit -n)",
		strerror(errno));
	close_fd(&fd);
	return result;
}

/*
 * What the messages say does not matter, nor that some were lost: the links are queried afterwards.
 */
void net_monitor_drain(int monitor_fd)
{
	char message[4096];

	for (unsigned i = 0; i < MONITOR_MESSAGES; i++) {
		if (read_bytes(monitor_fd, message, sizeof(message)) < 0 && errno != ENOBUFS)
			return;
	}
}

/*
 * Whether the interface was deleted, or only this queue detached.  The first queue is never
 * detached.
 */
static bool check_gone(struct net *net, int error)
{
	struct ifreq request;

	if (error != EBADFD && error != EFAULT && error != ENODEV)
		return false;
	if (ioctl(net->queues[0].fd, TUNGETIFF, &request) == 0 || errno != EBADFD)
		return false;
	net_set_gone(net);
	return true;
}

static ssize_t tap_receive(
	struct net *net, unsigned queue, const struct iovec *iov, unsigned count)
{
	ssize_t got = read_list(net->queues[queue].fd, iov, count);
	int error = errno;

	if (got >= 0)
		return got;
	return check_gone(net, error) ? -ENODEV : -EAGAIN;
}

static int tap_send(struct net *net, unsigned queue, struct iovec *iov, unsigned count)
{
	int error;

	if (write_list(net->queues[queue].fd, iov, count) >= 0)
		return 0;
	error = errno;
	return check_gone(net, error) ? -ENODEV : -error;
}

static int tap_set_offloads(struct net *net, unsigned offloads)
{
	/* The offloads are the interface's: any of its queues will do. */
	return ioctl(net->queues[0].fd, TUNSETOFFLOAD, (unsigned long)offloads) < 0 ? -errno : 0;
}

static int tap_use_queues(struct net *net, unsigned queues)
{
	for (unsigned i = 0; i < net->queue_count; i++) {
		struct ifreq request = {
			.ifr_flags = i < queues ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE,
		};

		/* EINVAL also means that the queue is in that state already. */
		if (ioctl(net->queues[i].fd, TUNSETQUEUE, &request) < 0 && errno != EINVAL)
			return -errno;
	}
	return 0;
}

static void tap_close(struct net *net)
{
	for (unsigned i = 0; i < net->queue_count; i++)
		close_fd(&net->queues[i].fd);
	free(tap_of(net));
}

static const struct net_ops tap_ops = {
	.receive = tap_receive,
	.send = tap_send,
	.set_offloads = tap_set_offloads,
	.query_link = tap_query_link,
	.gone = tap_gone,
	.close = tap_close,
};

/* The queues of these can be detached. */
static const struct net_ops multi_queue_ops = {
	.receive = tap_receive,
	.send = tap_send,
	.set_offloads = tap_set_offloads,
	.use_queues = tap_use_queues,
	.query_link = tap_query_link,
	.gone = tap_gone,
	.close = tap_close,
};

/*
 * Set the size of the header in front of each frame, and find out which offloads the kernel
 * supports.
 */
static int set_up_queue(struct tap *tap, int fd)
{
	int size = NET_HEADER_BYTES;

	if (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0)
		return fail(-errno, "%s: can't have headers for offloads: %s: use Linux 5.15 or later",
			tap->net.name, strerror(errno));
	if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)OFFLOADS_USO) == 0)
		tap->net.offloads = OFFLOADS_USO;
	else if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)OFFLOADS) == 0)
		tap->net.offloads = OFFLOADS;
	ioctl(fd, TUNSETOFFLOAD, 0ul);
	return 0;
}

static int open_by_name(struct tap *tap, const struct net_options *options)
{
	bool there = if_nametoindex(options->tap) != 0;

	for (unsigned i = 0; i < options->queues; i++) {
		int fd = open_queue(options->tap, options->queues);
		int result = fd < 0 ? fd : set_up_queue(tap, fd);

		if (fd >= 0)
			tap->net.queues[tap->net.queue_count++].fd = fd;
		if (result < 0)
			return result;
	}
	if (!there)
		bring_up(options->tap);
	return 0;
}

/* A TAP that was passed in is left as it is, but that it becomes non-blocking. */
static int add_fd(struct tap *tap, int fd)
{
	struct ifreq request = { 0 };
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return fail(-errno, "%s: %s: pass in an open TAP with that number", tap->net.name,
			strerror(errno));
	if (ioctl(fd, TUNGETIFF, &request) < 0)
		return fail(-errno, "%s: is no TAP: pass in one by TUNSETIFF", tap->net.name);
	if ((request.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) !=
		(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
		return fail(-EINVAL,
			"%s: its frames are not as they have to be: set IFF_TAP, IFF_NO_PI and "
			"IFF_VNET_HDR by TUNSETIFF",
			tap->net.name);
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return fail(-errno, "%s: %s: pass in an open TAP", tap->net.name, strerror(errno));
	tap->net.queues[tap->net.queue_count++].fd = fd;
	return set_up_queue(tap, fd);
}

static int open_by_fd(struct tap *tap, const struct net_options *options)
{
	for (unsigned i = 0; i < options->queues; i++) {
		int result;

		snprintf(tap->net.name, sizeof(tap->net.name), "tap fd=%d", options->fds[i]);
		result = add_fd(tap, options->fds[i]);
		if (result < 0)
			return result;
	}
	return 0;
}

static void set_first_link(struct tap *tap)
{
	cleanup_fd int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	tap->net.up = tap_query_link(&tap->net, fd) == NET_LINK_UP;
	if (!tap->net.up)
		note("%s: it is down, and so is the guest's link: `ip link set %s up`", tap->net.name,
			tap->interface);
}

int tap_open(struct net **net, const struct net_options *options, struct io_ring *ring)
{
	struct tap *tap = calloc(1, sizeof(*tap));
	int result;

	if (!tap)
		return fail(-ENOMEM, "tap: out of memory");
	net_init(&tap->net, options->queues > 1 ? &multi_queue_ops : &tap_ops, ring);
	if (options->kind == NET_FDS) {
		result = open_by_fd(tap, options);
	} else {
		snprintf(tap->net.name, sizeof(tap->net.name), "tap %s", options->tap);
		result = open_by_name(tap, options);
	}
	if (result < 0) {
		tap_close(&tap->net);
		return result;
	}
	set_first_link(tap);
	*net = &tap->net;
	return 0;
}
