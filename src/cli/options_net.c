// SPDX-License-Identifier: GPL-2.0-only
/* The option --net: tap=NAME, fd=N or user, and what follows it. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "karma/log.h"
#include "karma/util.h"
#include "options.h"

#define PORT_MAX 65535u
#define PPS_MAX 1000000000u

static bool takes(char *flag, const char *name, char **value)
{
	size_t length = strlen(name);

	if (strncmp(flag, name, length) != 0)
		return false;
	*value = flag + length;
	return true;
}

static int parse_tap(struct net_options *net, const char *name)
{
	if (!name[0] || strlen(name) >= IFNAMSIZ || strpbrk(name, "/% \t\n") || name[0] == '.')
		return fail(-EINVAL, "--net tap=%s: is no name of an interface: give 1 to %d characters",
			name, IFNAMSIZ - 1);
	net->kind = NET_TAP;
	net->tap = name;
	return 0;
}

/* N[:N]...: a queue each. */
static int parse_fds(struct net_options *net, char *text)
{
	char *rest = text;

	net->kind = NET_FDS;
	net->queues = 0;
	while (rest) {
		unsigned fd;
		int result = parse_number("--net fd", strsep(&rest, ":"), 0, 1u << 20, &fd);

		if (result < 0)
			return result;
		if (net->queues == NET_QUEUES_MAX)
			return fail(-EINVAL, "--net fd: names more than %u: give fewer", NET_QUEUES_MAX);
		net->fds[net->queues++] = fd;
	}
	return 0;
}

static int parse_where(struct net_options *net, char *text)
{
	char *value;

	net->queues = 1;
	if (takes(text, "tap=", &value))
		return parse_tap(net, value);
	if (takes(text, "fd=", &value))
		return parse_fds(net, value);
	if (strcmp(text, "user") == 0) {
		net->kind = NET_USER;
		return 0;
	}
	return fail(-EINVAL, "--net %s: is none of tap=NAME, fd=N, user: give one of these first", text);
}

static int parse_mac(struct net_options *net, const char *text)
{
	int length = 0;
	uint8_t *mac = net->mac;

	/* sscanf() takes signs and blanks, too. */
	if (text[strspn(text, "0123456789abcdefABCDEF:")] ||
		sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3],
		    &mac[4], &mac[5], &length) != ETH_ALEN ||
		length != 3 * ETH_ALEN - 1 || text[length])
		return fail(-EINVAL, "--net mac %s: is no address: give one like 02:00:00:00:00:01", text);
	if ((mac[0] & 1) || !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]))
		return fail(-EINVAL,
			"--net mac %s: is not that of one station: give one whose first byte is even", text);
	net->has_mac = true;
	return 0;
}

static int parse_port(const char *text, unsigned *port)
{
	return parse_number("--net publish: port", text ? text : "", 1, PORT_MAX, port);
}

/* [ADDR] of IPv6, or ADDR of IPv4; *text moves behind it and its colon. */
static int parse_address(struct net_publish *publish, char **text)
{
	unsigned char address[sizeof(struct in6_addr)];
	bool six = **text == '[';
	char *start = *text + six, *end = strchr(start, six ? ']' : ':');

	if (six ? !end || end[1] != ':' : !strchr(end ? end + 1 : "", ':'))
		return six ? fail(-EINVAL, "--net publish=%s: lacks `]:`: give [ADDR]:HOST:GUEST", *text) : 0;
	*text = end + 1 + six;
	*end = '\0';
	if (inet_pton(six ? AF_INET6 : AF_INET, start, address) != 1)
		return fail(-EINVAL,
			"--net publish: %s is no address: give one like 127.0.0.1 or [::1]", start);
	publish->address = start;
	return 0;
}

static int parse_publish(struct net_options *net, char *text)
{
	struct net_publish *publish = &net->publish[net->publish_count];
	char *protocol = strchr(text, '/'), *host;
	int result;

	if (net->kind != NET_USER)
		return fail(-EINVAL, "--net publish=%s: goes with `user` only: a TAP's guest has an address "
				     "of its own",
			text);
	if (net->publish_count == NET_PUBLISH_MAX)
		return fail(-EINVAL, "--net publish=%s: is one more than %u: give fewer", text,
			NET_PUBLISH_MAX);
	if (protocol && strcmp(protocol, "/udp") != 0 && strcmp(protocol, "/tcp") != 0)
		return fail(-EINVAL, "--net publish=%s: is of no known kind: give /udp, or nothing", text);
	publish->udp = protocol && protocol[1] == 'u';
	if (protocol)
		*protocol = '\0';
	result = parse_address(publish, &text);
	if (result < 0)
		return result;
	host = strsep(&text, ":");
	if (!text)
		return fail(-EINVAL, "--net publish=%s: lacks the guest's port: give HOST:GUEST", host);
	result = parse_port(host, &publish->host);
	if (result == 0)
		result = parse_port(text, &publish->guest);
	net->publish_count++;
	return result;
}

static int parse_queues(struct net_options *net, const char *text)
{
	if (net->kind != NET_TAP)
		return fail(-EINVAL, "--net queues=%s: goes with tap=NAME only: fd=N:N has one for each "
				     "number, and user has one",
			text);
	return parse_number("--net queues", text, 1, NET_QUEUES_MAX, &net->queues);
}

static int parse_pps(struct net_options *net, const char *text)
{
	unsigned number = 0;
	int result = parse_number("--net pps", text, 1, PPS_MAX, &number);

	net->limit.requests = number;
	return result;
}

static int parse_flag(struct net_options *net, char *flag)
{
	char *value;

	if (takes(flag, "mac=", &value))
		return parse_mac(net, value);
	if (takes(flag, "publish=", &value))
		return parse_publish(net, value);
	if (takes(flag, "queues=", &value))
		return parse_queues(net, value);
	if (takes(flag, "mtu=", &value))
		return parse_number("--net mtu", value, NET_MTU_MIN, NET_MTU_MAX, &net->mtu);
	if (takes(flag, "pps=", &value))
		return parse_pps(net, value);
	if (takes(flag, "bps=", &value))
		return parse_bps("--net bps", value, &net->limit.bytes);
	if (takes(flag, "burst=", &value))
		return parse_number("--net burst", value, 1, LIMIT_BURST_MAX, &net->limit.burst);
	return fail(-EINVAL,
		"--net: knows no `%s`: give mac=MAC, queues=N, mtu=N, bps=SIZE, pps=N, burst=SECONDS or "
		"publish=[ADDR:]HOST:GUEST[/udp]",
		flag);
}

int parse_net(struct net_options *net, char *text)
{
	char *rest = text;
	int result = parse_where(net, strsep(&rest, ","));

	while (rest && result == 0)
		result = parse_flag(net, strsep(&rest, ","));
	if (result < 0)
		return result;
	if (net->limit.burst && !limit_is_set(&net->limit))
		return fail(-EINVAL, "--net: burst=%u goes with a limit only: give pps=N or bps=SIZE too, "
				     "or leave it out",
			net->limit.burst);
	if (!net->limit.burst)
		net->limit.burst = 1;
	return 0;
}
