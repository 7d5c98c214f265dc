// SPDX-License-Identifier: GPL-2.0-only
/* NBD: parse the address of a server, as a user writes it, and look up its host. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "karma/getent.h"
#include "karma/log.h"
#include "karma/nbd.h"
#include "karma/util.h"

#define PORT 10809	/* IANA's for nbd */
#define ANSWER_BYTES 4096

bool nbd_is_address(const char *text)
{
	return strncmp(text, "nbd:", 4) == 0 || strncmp(text, "nbd+unix:", 9) == 0 ||
		strncmp(text, "nbds:", 5) == 0;
}

static int refuse_form(const char *text)
{
	return fail(-EINVAL,
		"disk %s: is no address of an NBD server: give nbd:unix:PATH[:exportname=NAME], "
		"nbd://HOST[:PORT][/EXPORT] or nbd+unix:///[EXPORT]?socket=PATH",
		text);
}

static int add_unix(const char *text, const char *path, struct nbd_address *address)
{
	struct sockaddr_un *place = (struct sockaddr_un *)&address->addresses[0];
	size_t length = strlen(path);

	if (length == 0)
		return refuse_form(text);
	if (length >= sizeof(place->sun_path))
		return fail(-ENAMETOOLONG,
			"disk %s: the socket's path has more than %zu bytes: give a shorter one", text,
			sizeof(place->sun_path) - 1);
	*place = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(place->sun_path, path, length);
	address->lengths[0] = sizeof(*place);
	address->count = 1;
	return 0;
}

/*
 * An IPv6 address, with a zone behind a %: the interface of a link-local one (RFC 4007, section
 * 11).
 */
static bool parse_ipv6(const char *text, struct sockaddr_in6 *place)
{
	char digits[INET6_ADDRSTRLEN];
	size_t length = strcspn(text, "%");
	const char *zone = text[length] ? text + length + 1 : NULL;
	char *end;

	if (length >= sizeof(digits))
		return false;
	memcpy(digits, text, length);
	digits[length] = '\0';
	place->sin6_family = AF_INET6;
	if (inet_pton(AF_INET6, digits, &place->sin6_addr) != 1)
		return false;
	if (!zone)
		return true;
	place->sin6_scope_id = if_nametoindex(zone);
	if (!place->sin6_scope_id)
		place->sin6_scope_id = strtoul(zone, &end, 10);
	return place->sin6_scope_id != 0;
}

/* Add an address of the server.  Returns false if the text is none. */
static bool add_ip(const char *text, uint16_t port, struct nbd_address *address)
{
	struct sockaddr_storage *place = &address->addresses[address->count];
	struct sockaddr_in *ipv4 = (struct sockaddr_in *)place;
	struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)place;

	*place = (struct sockaddr_storage){ 0 };
	if (inet_pton(AF_INET, text, &ipv4->sin_addr) == 1) {
		ipv4->sin_family = AF_INET;
		address->lengths[address->count] = sizeof(*ipv4);
	} else if (parse_ipv6(text, ipv6)) {
		address->lengths[address->count] = sizeof(*ipv6);
	} else {
		return false;
	}
	/* The port is in the same place in both families. */
	ipv4->sin_port = htons(port);
	address->count++;
	return true;
}

/*
 * Lines of `getent ahosts`: an address and a type of socket.  Each address has one line for STREAM.
 */
static void add_hosts(char *lines, uint16_t port, struct nbd_address *address)
{
	char *line;

	while ((line = strsep(&lines, "\n")) && address->count < NBD_ADDRESSES_MAX) {
		char *ip = strsep(&line, " \t");

		if (line && strncmp(line + strspn(line, " \t"), "STREAM", 6) == 0)
			add_ip(ip, port, address);
	}
}

static int look_up(const char *text, const char *host, uint16_t port, struct nbd_address *address)
{
	char answer[ANSWER_BYTES];
	int result;

	if (add_ip(host, port, address))
		return 0;
	result = getent("ahosts", host, answer, sizeof(answer));
	if (result == 0)
		add_hosts(answer, port, address);
	if (result < 0 && result != -ENOENT)
		return result;
	if (address->count == 0)
		return fail(-ENOENT, "disk %s: no host has the name `%s`: give one that `getent ahosts` has, "
				     "or an IP address",
			text, host);
	return 0;
}

/* 1 to 65535, and nothing else. */
static bool parse_port(const char *text, uint16_t *port)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	*port = number;
	return text[0] >= '0' && text[0] <= '9' && !*end && number >= 1 && number <= UINT16_MAX;
}

static int hex_digit(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	digit |= 0x20;
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/*
 * Decode percent-encoding in place (RFC 3986, section 2.1).  Returns false if it is invalid or has
 * a NUL.
 */
static bool percent_decode(char *text)
{
	char *to = text;

	for (; *text; text++) {
		*to = *text;
		if (*text == '%') {
			int high = hex_digit(text[1]), low = high < 0 ? -1 : hex_digit(text[2]);

			if (low < 0 || high + low == 0)
				return false;
			*to = high << 4 | low;
			text += 2;
		}
		to++;
	}
	*to = '\0';
	return true;
}

static bool set_export(struct nbd_address *address, const char *name)
{
	size_t length = strlen(name);

	if (length > NBD_NAME_MAX)
		return false;
	memcpy(address->export_name, name, length + 1);
	return true;
}

/* Of nbd://: HOST[:PORT][/EXPORT] */
static int parse_host(const char *text, char *host, struct nbd_address *address)
{
	char *export = strchr(host, '/');
	char *end = strchr(host, ']');
	uint16_t number = PORT;
	char *port;

	if (strchr(host, '?') || strchr(host, '@'))
		return refuse_form(text);
	if (export)
		*export++ = '\0';
	if (export && (!percent_decode(export) || !set_export(address, export)))
		return refuse_form(text);
	/* An IPv6 address is in brackets. */
	if (host[0] == '[') {
		if (!end || (end[1] && end[1] != ':'))
			return refuse_form(text);
		host++;
		*end++ = '\0';
		port = *end ? end + 1 : NULL;
	} else {
		port = strchr(host, ':');
		if (port)
			*port++ = '\0';
	}
	if (!host[0] || (port && !parse_port(port, &number)) || !percent_decode(host))
		return refuse_form(text);
	return look_up(text, host, number, address);
}

/* Of nbd+unix:///: [EXPORT]?socket=PATH */
static int parse_unix_uri(const char *text, char *export, struct nbd_address *address)
{
	char *socket = strstr(export, "?socket=");

	if (!socket)
		return refuse_form(text);
	*socket = '\0';
	socket += strlen("?socket=");
	if (!percent_decode(export) || !percent_decode(socket) || !set_export(address, export))
		return refuse_form(text);
	return add_unix(text, socket, address);
}

/* Of nbd:unix: PATH[:exportname=NAME] */
static int parse_unix(const char *text, char *path, struct nbd_address *address)
{
	char *export = strstr(path, ":exportname=");

	if (export) {
		*export = '\0';
		if (!set_export(address, export + strlen(":exportname=")))
			return refuse_form(text);
	}
	return add_unix(text, path, address);
}

static char *skip_prefix(char *text, const char *prefix)
{
	size_t length = strlen(prefix);

	return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

int nbd_parse_address(const char *text, struct nbd_address *address)
{
	cleanup_free char *copy = strdup(text);
	char *rest;

	*address = (struct nbd_address){ 0 };
	if (!copy)
		return fail(-ENOMEM, "disk %s: out of memory", text);
	if ((rest = skip_prefix(copy, "nbd:unix:")))
		return parse_unix(text, rest, address);
	if ((rest = skip_prefix(copy, "nbd://")))
		return parse_host(text, rest, address);
	if ((rest = skip_prefix(copy, "nbd+unix:///")))
		return parse_unix_uri(text, rest, address);
	if (skip_prefix(copy, "nbds:"))
		return fail(-EPROTONOSUPPORT,
			"disk %s: Karma speaks no TLS: reach the server by a Unix socket, or through a "
			"tunnel",
			text);
	return refuse_form(text);
}
