// SPDX-License-Identifier: GPL-2.0-only
/*
 * The network of a container, as its engine has made it, becomes the guest's: each Ethernet interface of the network namespace
 * is joined to a TAP of the guest's by a bridge.  Its addresses, routes and MAC are the guest's from then on.
 *
 * A namespace may have one guest after the other, as that of a pod, and a guest may end by SIGKILL.  So the interface keeps its
 * addresses and routes, for the next: it gets no packets, as a port of a bridge, and the bridge answers no ARP, and
 * IPv6's neighbour discovery only for its own address.  The MAC is kept in the interface's alias.
 */
#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <unistd.h>

#include "karma/guest.h"
#include "karma/log.h"
#include "karma/util.h"
#include "netlink.h"

#define TUN_PATH "/dev/net/tun"
#define BRIDGE_PREFIX "karma-br"
#define TAP_PREFIX "karma-tap"
#define ALIAS "karma "
#define ALIAS_BYTES sizeof(ALIAS "00:00:00:00:00:00")

struct interface {
	int index;
	char name[IFNAMSIZ];
	uint8_t mac[ETH_ALEN];
	uint32_t mtu;
};

/* What is read of the namespace. */
struct survey {
	struct interface list[OCI_NETS_MAX];
	unsigned count;
	int bridges[OCI_NETS_MAX];		/* of a guest that is gone */
	unsigned bridge_count;
	int fd;
	FILE *script;
	const struct interface *interface;	/* whose addresses and routes are taken */
	bool gateways;				/* routes by a gateway now, which others lead to */
};

/* --- What is there. */

static bool begins_with(const struct rtattr *name, const char *prefix)
{
	return strncmp(RTA_DATA(name), prefix, strlen(prefix)) == 0;
}

/* The MAC that an interface had before another guest did. */
static void take_former_mac(uint8_t mac[ETH_ALEN], const struct rtattr *alias)
{
	uint8_t former[ETH_ALEN];

	if (alias && RTA_PAYLOAD(alias) == ALIAS_BYTES && ((const char *)RTA_DATA(alias))[ALIAS_BYTES - 1] == '\0' &&
		sscanf(RTA_DATA(alias), ALIAS "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &former[0], &former[1], &former[2], &former[3],
			&former[4], &former[5]) == ETH_ALEN)
		memcpy(mac, former, ETH_ALEN);
}

static int take_link(void *context, const struct nlmsghdr *message)
{
	const struct ifinfomsg *link = NLMSG_DATA(message);
	const struct rtattr *name = netlink_find(message, sizeof(*link), IFLA_IFNAME);
	const struct rtattr *mac = netlink_find(message, sizeof(*link), IFLA_ADDRESS);
	const struct rtattr *mtu = netlink_find(message, sizeof(*link), IFLA_MTU);
	struct survey *survey = context;
	struct interface *to = &survey->list[survey->count];

	/* The TAP ends with the guest. */
	if (name && begins_with(name, TAP_PREFIX))
		return -EBUSY;
	if (name && begins_with(name, BRIDGE_PREFIX)) {
		if (survey->bridge_count < OCI_NETS_MAX)
			survey->bridges[survey->bridge_count++] = link->ifi_index;
		return 0;
	}
	if (link->ifi_type != ARPHRD_ETHER || !(link->ifi_flags & IFF_UP) || !name || !mac || !mtu ||
		RTA_PAYLOAD(mac) != ETH_ALEN)
		return 0;
	if (survey->count == OCI_NETS_MAX)
		return -E2BIG;
	to->index = link->ifi_index;
	snprintf(to->name, sizeof(to->name), "%s", (const char *)RTA_DATA(name));
	memcpy(to->mac, RTA_DATA(mac), ETH_ALEN);
	take_former_mac(to->mac, netlink_find(message, sizeof(*link), IFLA_IFALIAS));
	memcpy(&to->mtu, RTA_DATA(mtu), sizeof(to->mtu));
	survey->count++;
	return 0;
}

static const char *address_text(int family, const struct rtattr *address, char text[INET6_ADDRSTRLEN])
{
	return inet_ntop(family, RTA_DATA(address), text, INET6_ADDRSTRLEN) ? text : "";
}

static bool is_link_local(int family, const struct rtattr *address)
{
	return family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)RTA_DATA(address));
}

/* At the end of a line. */
static void print_name(const struct survey *survey)
{
	guest_print_word(survey->script, survey->interface->name);
	putc('\n', survey->script);
}

static int take_address(void *context, const struct nlmsghdr *message)
{
	const struct ifaddrmsg *address = NLMSG_DATA(message);
	const struct rtattr *local = netlink_find(message, sizeof(*address), IFA_LOCAL);
	const struct survey *survey = context;
	char text[INET6_ADDRSTRLEN];

	if (!local)
		local = netlink_find(message, sizeof(*address), IFA_ADDRESS);
	if ((int)address->ifa_index != survey->interface->index || !local || is_link_local(address->ifa_family, local))
		return 0;
	fprintf(survey->script, "\tip addr add %s/%u dev ", address_text(address->ifa_family, local, text),
		address->ifa_prefixlen);
	print_name(survey);
	return 0;
}

static int take_route(void *context, const struct nlmsghdr *message)
{
	const struct rtmsg *route = NLMSG_DATA(message);
	const struct rtattr *out = netlink_find(message, sizeof(*route), RTA_OIF);
	const struct rtattr *to = netlink_find(message, sizeof(*route), RTA_DST);
	const struct rtattr *gateway = netlink_find(message, sizeof(*route), RTA_GATEWAY);
	const struct survey *survey = context;
	char text[INET6_ADDRSTRLEN];
	int index = 0;

	if (out)
		memcpy(&index, RTA_DATA(out), sizeof(index));
	/* What follows from addresses is the guest's kernel's to add. */
	if (index != survey->interface->index || route->rtm_table != RT_TABLE_MAIN || route->rtm_protocol == RTPROT_KERNEL ||
		route->rtm_type != RTN_UNICAST || (gateway != NULL) != survey->gateways)
		return 0;
	fprintf(survey->script, "\tip %s route add ", route->rtm_family == AF_INET6 ? "-6" : "-4");
	if (to)
		fprintf(survey->script, "%s/%u", address_text(route->rtm_family, to, text), route->rtm_dst_len);
	else
		fputs("default", survey->script);
	if (gateway)
		fprintf(survey->script, " via %s", address_text(route->rtm_family, gateway, text));
	fputs(" dev ", survey->script);
	print_name(survey);
	return 0;
}

/* The script's part of one interface, which is eth0, eth1 and so on to the guest's kernel. */
static int describe(struct survey *survey, unsigned number)
{
	const struct interface *interface = &survey->list[number];
	int result;

	survey->interface = interface;
	fprintf(survey->script, "\tset_up_interface eth%u %u ", number, interface->mtu);
	print_name(survey);
	result = netlink_list(survey->fd, RTM_GETADDR, AF_UNSPEC, take_address, survey);
	for (unsigned i = 0; i < 2 && result == 0; i++) {
		survey->gateways = i;
		result = netlink_list(survey->fd, RTM_GETROUTE, AF_INET, take_route, survey);
		if (result == 0)
			result = netlink_list(survey->fd, RTM_GETROUTE, AF_INET6, take_route, survey);
	}
	return result;
}

/* --- What is made of it. */

/* What was a port of it is none then. */
static int remove_link(int fd, int index)
{
	const struct ifinfomsg link = { .ifi_index = index };
	struct netlink_request request;

	netlink_begin(&request, RTM_DELLINK, 0, &link, sizeof(link));
	return netlink_send(fd, &request);
}

static int make_bridge(int fd, const char *name, uint32_t mtu)
{
	const struct ifinfomsg link = { .ifi_flags = IFF_UP | IFF_NOARP, .ifi_change = IFF_UP | IFF_NOARP };
	const uint32_t none = 0;
	const uint8_t off = 0;
	struct netlink_request request;
	struct rtattr *info, *data;

	netlink_begin(&request, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof(link));
	netlink_add(&request, IFLA_IFNAME, name, strlen(name) + 1);
	netlink_add(&request, IFLA_MTU, &mtu, sizeof(mtu));
	info = netlink_nest(&request, IFLA_LINKINFO);
	netlink_add(&request, IFLA_INFO_KIND, "bridge", strlen("bridge"));
	data = netlink_nest(&request, IFLA_INFO_DATA);
	/* Frames pass at once, multicasts too. */
	netlink_add(&request, IFLA_BR_STP_STATE, &none, sizeof(none));
	netlink_add(&request, IFLA_BR_FORWARD_DELAY, &none, sizeof(none));
	netlink_add(&request, IFLA_BR_MCAST_SNOOPING, &off, sizeof(off));
	netlink_unnest(&request, data);
	netlink_unnest(&request, info);
	return netlink_send(fd, &request);
}

/* Put an interface into a bridge, up; with another MAC, and an alias that tells the former one, unless they are NULL. */
static int join(int fd, int index, int bridge, const uint8_t *mac, const char *alias, const uint32_t *mtu)
{
	const struct ifinfomsg link = { .ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };
	struct netlink_request request;

	netlink_begin(&request, RTM_NEWLINK, 0, &link, sizeof(link));
	netlink_add(&request, IFLA_MASTER, &bridge, sizeof(bridge));
	if (mac)
		netlink_add(&request, IFLA_ADDRESS, mac, ETH_ALEN);
	if (alias)
		netlink_add(&request, IFLA_IFALIAS, alias, strlen(alias) + 1);
	if (mtu)
		netlink_add(&request, IFLA_MTU, mtu, sizeof(*mtu));
	return netlink_send(fd, &request);
}

/*
 * Where the guest is, its own frames tell.  An engine's bridge in hairpin mode, as CNI's and Netavark's, sends each broadcast
 * of the guest's back, from which ours would learn that the guest is out there, and then keep all frames from it.
 */
static int stop_learning(int fd, int index)
{
	const struct ifinfomsg link = { .ifi_family = AF_BRIDGE, .ifi_index = index };
	const uint8_t off = 0;
	struct netlink_request request;
	struct rtattr *port;

	netlink_begin(&request, RTM_SETLINK, 0, &link, sizeof(link));
	port = netlink_nest(&request, IFLA_PROTINFO | NLA_F_NESTED);
	netlink_add(&request, IFLA_BRPORT_LEARNING, &off, sizeof(off));
	netlink_unnest(&request, port);
	return netlink_send(fd, &request);
}

/* A TAP's descriptor, which is the guest's then; or a negative errno. */
static int make_tap(const char *name)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open(TUN_PATH, O_RDWR | O_NONBLOCK | O_CLOEXEC), error;

	if (fd < 0)
		return -errno;
	strcpy(request.ifr_name, name);
	if (ioctl(fd, TUNSETIFF, &request) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

/* The guest has the interface's MAC; the interface itself, any other. */
static void make_mac(uint8_t mac[ETH_ALEN])
{
	if (getrandom(mac, ETH_ALEN, 0) < 0)
		memset(mac, 0x55, ETH_ALEN);
	mac[0] = (mac[0] & 0xfe) | 0x02;
}

static int hand_over(struct survey *survey, unsigned number, struct net_options *net)
{
	const struct interface *interface = &survey->list[number];
	char bridge[IFNAMSIZ], tap[IFNAMSIZ], alias[ALIAS_BYTES];
	uint8_t mac[ETH_ALEN];
	int result;

	snprintf(bridge, sizeof(bridge), BRIDGE_PREFIX "%u", number);
	snprintf(tap, sizeof(tap), TAP_PREFIX "%u", number);
	snprintf(alias, sizeof(alias), ALIAS "%02x:%02x:%02x:%02x:%02x:%02x", interface->mac[0], interface->mac[1],
		interface->mac[2], interface->mac[3], interface->mac[4], interface->mac[5]);
	make_mac(mac);
	*net = (struct net_options){ .kind = NET_FDS, .fd_count = 1, .queues = 1, .has_mac = true, .mtu = interface->mtu };
	memcpy(net->mac, interface->mac, ETH_ALEN);
	net->fds[0] = make_tap(tap);
	if (net->fds[0] < 0)
		return fail(net->fds[0], TUN_PATH ": %s: load the module tun, or give --network none", strerror(-net->fds[0]));
	result = make_bridge(survey->fd, bridge, interface->mtu);
	if (result == 0)
		result = join(survey->fd, interface->index, if_nametoindex(bridge), mac, alias, NULL);
	if (result == 0)
		result = stop_learning(survey->fd, interface->index);
	if (result == 0)
		result = join(survey->fd, if_nametoindex(tap), if_nametoindex(bridge), NULL, NULL, &interface->mtu);
	return result < 0 ? fail(result, "the interface %s can't be joined to the guest's: %s: load the module bridge, or "
					 "give --network none", interface->name, strerror(-result)) : 0;
}

int oci_network(struct net_options nets[OCI_NETS_MAX], size_t *count, FILE *script)
{
	cleanup_fd int fd = netlink_open();
	struct survey survey = { .fd = fd, .script = script };
	int result = fd < 0 ? fd : netlink_list(fd, RTM_GETLINK, AF_UNSPEC, take_link, &survey);

	*count = 0;
	for (unsigned i = 0; i < survey.count && result == 0; i++)
		result = describe(&survey, i);
	for (unsigned i = 0; i < survey.bridge_count && result == 0; i++)
		result = remove_link(fd, survey.bridges[i]);
	if (result == -EBUSY)
		return fail(result, "the container is to share a network that another guest has: give it one of its own, "
				    "not a pod's or --network container:");
	if (result == -E2BIG)
		return fail(result, "the container has more than %u networks: give fewer", OCI_NETS_MAX);
	if (result < 0)
		return fail(result, "the container's network can't be read: %s", strerror(-result));
	for (unsigned i = 0; i < survey.count && result == 0; i++)
		result = hand_over(&survey, (*count)++, &nets[i]);
	return result;
}
