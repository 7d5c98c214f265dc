// SPDX-License-Identifier: GPL-2.0-only
/* The guest's networks, from options to devices. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "karma/devices.h"
#include "karma/log.h"
#include "karma/util.h"
#include "networks.h"

/* FNV-1a, 64 bits. */
#define FNV_OFFSET 0xcbf29ce484222325ull
#define FNV_PRIME 0x100000001b3ull

/* For each queue: polls for a frame and for room, timers of the rate limiter and of the queue; and the link. */
#define QUEUE_IN_FLIGHT 6u

unsigned networks_in_flight(const struct guest_options *options)
{
	unsigned in_flight = 0;

	for (size_t i = 0; i < options->net_count; i++)
		in_flight += QUEUE_IN_FLIGHT * options->nets[i].queues;
	return in_flight;
}

/* With the terminating zero, so that texts hashed one after the other stay apart. */
static uint64_t hash(uint64_t value, const char *text)
{
	do {
		value = (value ^ (uint8_t)*text) * FNV_PRIME;
	} while (*text++);
	return value;
}

void networks_derive_mac(const struct guest_options *options, size_t index, uint8_t *mac)
{
	const char *tap = index < options->net_count ? options->nets[index].tap : NULL;
	char host[64] = "", number[24];
	uint64_t value = FNV_OFFSET;

	snprintf(number, sizeof(number), "%zu", index);
	if (options->name) {
		value = hash(hash(value, options->name), number);
	} else {
		FILE *file = fopen("/etc/machine-id", "re");

		if (file) {
			if (!fgets(host, sizeof(host), file))
				host[0] = '\0';
			fclose(file);
		}
		value = hash(hash(hash(value, host), tap ? tap : ""), number);
	}
	memcpy(mac, &value, ETH_ALEN);
	/* Locally administered, unicast (IEEE 802). */
	mac[0] = (mac[0] & 0xfc) | 2;
}

static size_t limits_bytes(const struct guest_options *options)
{
	return options->net_count * sizeof(struct network_limits);
}

static bool has_taps(const struct guest_options *options)
{
	for (size_t i = 0; i < options->net_count; i++) {
		if (options->nets[i].kind != NET_USER)
			return true;
	}
	return false;
}

int networks_open(
	struct networks *networks, const struct guest_options *options, struct io_ring *ring)
{
	networks->options = options;
	networks->list = calloc(options->net_count, sizeof(*networks->list));
	if (!networks->list && options->net_count)
		return fail(-ENOMEM, "--net: out of memory");
	if (options->net_count) {
		void *limits = mmap(NULL, limits_bytes(options), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		if (limits == MAP_FAILED)
			return fail(-ENOMEM, "--net: out of memory");
		networks->limits = limits;
	}
	/* Before the first query of a link, so that no change is missed. */
	if (has_taps(options)) {
		networks->links_fd = net_monitor_open();
		if (networks->links_fd < 0)
			return networks->links_fd;
	}
	for (size_t i = 0; i < options->net_count; i++) {
		const struct net_options *net = &options->nets[i];
		struct network *network = &networks->list[i];
		int result = net_open(&network->net, net, ring);

		if (result < 0)
			return result;
		network->limits = &networks->limits[i];
		rate_limiter_init(&network->limits->receive, &net->limit);
		rate_limiter_init(&network->limits->transmit, &net->limit);
		if (net->has_mac)
			memcpy(network->mac, net->mac, ETH_ALEN);
		else
			networks_derive_mac(options, i, network->mac);
		networks->count++;
	}
	return 0;
}

void networks_close(struct networks *networks)
{
	for (size_t i = 0; i < networks->count; i++) {
		net_close(networks->list[i].net);
		rate_limiter_release(&networks->list[i].limits->receive);
		rate_limiter_release(&networks->list[i].limits->transmit);
	}
	if (networks->limits)
		munmap(networks->limits, limits_bytes(networks->options));
	close_fd(&networks->links_fd);
	free(networks->list);
}

/* The value of ORDER_LINK: a network's index, above its enum net_link. */
#define LINK_BITS 2u

void networks_send_links(struct networks *networks, const struct process *process)
{
	net_monitor_drain(networks->links_fd);
	for (size_t i = 0; i < networks->count; i++) {
		struct order order = { .kind = ORDER_LINK };
		enum net_link link;

		if (!net_query_link(networks->list[i].net, networks->links_fd, &link))
			continue;
		order.value = i << LINK_BITS | link;
		/* If the pipe is full, the next change of a link sends it. */
		if (process_send_order(process, &order) == 0)
			net_set_known_link(networks->list[i].net, link);
	}
}

int networks_set_link(struct networks *networks, uint64_t value)
{
	if (value >> LINK_BITS >= networks->count)
		return -EINVAL;
	net_update_link(networks->list[value >> LINK_BITS].net, value & ((1u << LINK_BITS) - 1));
	return 0;
}

void networks_after_fork(struct networks *networks)
{
	close_fd(&networks->links_fd);
	networks->links_fd = -1;
	for (size_t i = 0; i < networks->count; i++) {
		rate_limiter_start(&networks->limits[i].receive, &networks->options->nets[i].limit);
		rate_limiter_start(&networks->limits[i].transmit, &networks->options->nets[i].limit);
	}
}

int networks_add(struct networks *networks, struct machine *machine,
	const struct virtio_environment *environment, bool restarted)
{
	for (size_t i = 0; i < networks->count; i++) {
		const struct net_options *options = &networks->options->nets[i];
		struct network *network = &networks->list[i];
		struct virtio_device *device;
		char name[24];
		int result = net_start(network->net, restarted);

		if (result < 0)
			return result;
		snprintf(name, sizeof(name), "eth%zu", i);
		device = net_create(environment, name, network->net, network->mac, options->mtu);
		if (!device)
			return fail(-ENOMEM, "--net: out of memory");
		if (rate_limit_is_set(&options->limit))
			net_device_limit(device, &network->limits->receive, &network->limits->transmit);
		result = machine_add(machine, device);
		if (result < 0)
			return result;
	}
	return 0;
}
