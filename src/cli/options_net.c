// SPDX-License-Identifier: GPL-2.0-only
/* The settings of a network: --net, or a section [net]. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "karma/util.h"
#include "options.h"

#define PORT_MAX 65535u
#define PPS_MAX 1000000000u

/* A network is one of tap, fd and user. */
static int choose(struct net_options *net, enum net_kind kind)
{
	if (net->kind != NET_NONE && net->kind != kind)
		return refuse("net: is two of tap=NAME, fd=N, user: give one of these");
	net->kind = kind;
	return 0;
}

static int parse_tap(void *target, const char *name, char *text)
{
	struct net_options *net = target;

	if (!text[0] || strlen(text) >= IFNAMSIZ || strpbrk(text, "/% \t\n") || text[0] == '.')
		return refuse("%s=%s: is no name of an interface: give 1 to %d characters", name, text,
			IFNAMSIZ - 1);
	net->tap = text;
	return choose(net, NET_TAP);
}

static int print_tap(const void *target, const char *name, FILE *file)
{
	const struct net_options *net = target;

	return net->kind == NET_TAP ? print_value(file, name, net->tap) : 0;
}

/* N[:N]...: one descriptor for each queue. */
static int parse_fds(void *target, const char *name, char *text)
{
	struct net_options *net = target;
	char *rest = text;

	net->fd_count = 0;
	while (rest) {
		unsigned fd;
		int result = parse_number(name, strsep(&rest, ":"), 0, 1u << 20, &fd);

		if (result < 0)
			return result;
		if (net->fd_count == NET_QUEUES_MAX)
			return refuse("%s: names more than %u: give fewer", name, NET_QUEUES_MAX);
		net->fds[net->fd_count++] = fd;
	}
	return choose(net, NET_FDS);
}

static int print_fds(const void *target, const char *name, FILE *file)
{
	const struct net_options *net = target;

	if (net->kind != NET_FDS)
		return 0;
	fprintf(file, "%s = ", name);
	for (unsigned i = 0; i < net->fd_count; i++)
		fprintf(file, "%s%d", i ? ":" : "", net->fds[i]);
	putc('\n', file);
	return 0;
}

static int parse_user(void *target, const char *name, char *text)
{
	bool on = true;
	int result = text ? parse_switch(name, text, &on) : 0;

	return result == 0 && on ? choose(target, NET_USER) : result;
}

static int print_user(const void *target, const char *name, FILE *file)
{
	const struct net_options *net = target;

	return net->kind == NET_USER ? print_value(file, name, "on") : 0;
}

static int parse_mac(void *target, const char *name, char *text)
{
	struct net_options *net = target;
	int length = 0;
	uint8_t *mac = net->mac;

	/* Checked first, since sscanf() also accepts signs and blanks. */
	if (text[strspn(text, "0123456789abcdefABCDEF:")] ||
		sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3],
		    &mac[4], &mac[5], &length) != ETH_ALEN ||
		length != 3 * ETH_ALEN - 1 || text[length])
		return refuse(
			"%s %s: is no address: give one like 02:00:00:00:00:01", name, text);
	if ((mac[0] & 1) || !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]))
		return refuse("%s %s: is not that of one station: give one whose first byte is even",
			name, text);
	net->has_mac = true;
	return 0;
}

static int print_mac(const void *target, const char *name, FILE *file)
{
	const struct net_options *net = target;
	const uint8_t *mac = net->mac;

	if (net->has_mac)
		fprintf(file, "%s = %02x:%02x:%02x:%02x:%02x:%02x\n", name, mac[0], mac[1], mac[2],
			mac[3], mac[4], mac[5]);
	return 0;
}

static int print_queues(const void *target, const char *name, FILE *file)
{
	const struct net_options *net = target;

	if (net->kind == NET_TAP)
		fprintf(file, "%s = %u\n", name, net->queues);
	return 0;
}

static int parse_port(const char *text, unsigned *port)
{
	return parse_number("net publish: port", text ? text : "", 1, PORT_MAX, port);
}

/* [ADDR] for IPv6, or ADDR for IPv4, if there is one; advances *text behind its colon. */
static int parse_address(struct net_publish *publish, char **text)
{
	unsigned char address[sizeof(struct in6_addr)];
	bool six = **text == '[';
	char *start = *text + six, *end = strchr(start, six ? ']' : ':');

	if (six ? !end || end[1] != ':' : !strchr(end ? end + 1 : "", ':'))
		return six ? refuse("net publish=%s: lacks `]:`: give [ADDR]:HOST:GUEST", *text) : 0;
	*text = end + 1 + six;
	*end = '\0';
	if (inet_pton(six ? AF_INET6 : AF_INET, start, address) != 1)
		return refuse("net publish: %s is no address: give one like 127.0.0.1 or [::1]", start);
	publish->address = start;
	return 0;
}

static int parse_publish(void *target, const char *name, char *text)
{
	struct net_options *net = target;
	struct net_publish *publish = &net->publish[net->publish_count];
	char *protocol = strchr(text, '/'), *host;
	int result;

	if (net->publish_count == NET_PUBLISH_MAX)
		return refuse("%s=%s: is one more than %u: give fewer", name, text, NET_PUBLISH_MAX);
	if (protocol && strcmp(protocol, "/udp") != 0 && strcmp(protocol, "/tcp") != 0)
		return refuse("%s=%s: is of no known kind: give /udp, or nothing", name, text);
	publish->udp = protocol && protocol[1] == 'u';
	if (protocol)
		*protocol = '\0';
	result = parse_address(publish, &text);
	if (result < 0)
		return result;
	host = strsep(&text, ":");
	if (!text)
		return refuse("%s=%s: lacks the guest's port: give HOST:GUEST", name, host);
	result = parse_port(host, &publish->host);
	if (result == 0)
		result = parse_port(text, &publish->guest);
	net->publish_count++;
	return result;
}

static int print_publish(const void *target, const char *name, FILE *file)
{
	const struct net_options *net = target;

	for (unsigned i = 0; i < net->publish_count; i++) {
		const struct net_publish *publish = &net->publish[i];
		const char *address = publish->address ? publish->address : "";
		bool six = strchr(address, ':');

		fprintf(file, "%s = %s%s%s%s%u:%u%s\n", name, six ? "[" : "", address, six ? "]" : "",
			address[0] ? ":" : "", publish->host, publish->guest,
			publish->udp ? "/udp" : "");
	}
	return 0;
}

/* Only with a limit: complete_net() refuses it otherwise. */
static int print_burst(const void *target, const char *name, FILE *file)
{
	const struct net_options *net = target;

	if (rate_limit_is_set(&net->limit))
		fprintf(file, "%s = %u\n", name, net->limit.burst);
	return 0;
}

#define AT(member) .offset = offsetof(struct net_options, member)

static const struct setting settings[] = {
	{ "tap", "NAME", SETTING_OTHER, .parse = parse_tap, .print = print_tap },
	{ "fd", "N", SETTING_OTHER, .parse = parse_fds, .print = print_fds },
	{ "user", NULL, SETTING_OTHER, .parse = parse_user, .print = print_user },
	{ "mac", "MAC", SETTING_OTHER, .parse = parse_mac, .print = print_mac },
	{ "mtu", "N", SETTING_NUMBER, AT(mtu), .min = NET_MTU_MIN, .max = NET_MTU_MAX },
	{ "queues", "N", SETTING_NUMBER, AT(queues), .min = 1, .max = NET_QUEUES_MAX,
		.print = print_queues },
	{ "bps", "SIZE", SETTING_RATE, AT(limit.bytes) },
	{ "pps", "N", SETTING_COUNT, AT(limit.requests), .min = 1, .max = PPS_MAX },
	{ "burst", "SECONDS", SETTING_NUMBER, AT(limit.burst), .min = 1, .max = RATE_LIMIT_BURST_MAX,
		.print = print_burst },
	{ "publish", "[ADDR:]HOST:GUEST[/udp]", SETTING_OTHER, .parse = parse_publish,
		.print = print_publish, .repeats = true },
};

const struct setting_table net_settings = { "net ", settings, ARRAY_SIZE(settings) };

int complete_net(struct net_options *net)
{
	if (net->kind == NET_NONE)
		return refuse("net: is none of tap=NAME, fd=N, user: give one of these");
	if (net->publish_count && net->kind != NET_USER)
		return refuse("net: publish goes with `user` only: a TAP's guest has an address of its own");
	if (net->queues && net->kind != NET_TAP)
		return refuse("net: queues=%u goes with tap=NAME only: fd=N:N has one for each number, and "
			      "user has one",
			net->queues);
	if (net->limit.burst && !rate_limit_is_set(&net->limit))
		return refuse("net: burst=%u goes with a limit only: give pps=N or bps=SIZE too, or leave "
			      "it out",
			net->limit.burst);
	if (net->kind == NET_FDS)
		net->queues = net->fd_count;
	else if (!net->queues)
		net->queues = 1;
	if (!net->limit.burst)
		net->limit.burst = 1;
	return 0;
}

int parse_net(struct net_options *net, char *text)
{
	int result;

	if (!text[0])
		return refuse("net: names no network: give tap=NAME, fd=N or user");
	result = settings_parse_list(&net_settings, net, text);
	return result < 0 ? result : complete_net(net);
}
