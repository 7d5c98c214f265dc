// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the command line of `karma run`, a word a line: what is taken is within the bounds that the
 * rest of Karma relies on, and every text lies in the words.  Then the addresses of NBD servers
 * that disks name.
 *
 * Every refused word costs a message: run it with -close_fd_mask=2.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "karma/cli.h"
#include "karma/nbd.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "script.h"

#define WORDS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- No look-up leaves this process. */

/* What getent is asked for, it answers: two addresses, and whatever the words hold. */
int __wrap_getent(const char *database, const char *key, char *text, size_t size);

int __wrap_getent(const char *database, const char *key, char *text, size_t size)
{
	check(strcmp(database, "ahosts") == 0 && size > 0);
	if (key[0] == 'x')
		return -ENOENT;
	snprintf(text, size, "127.0.0.1       STREAM %s\n127.0.0.1       DGRAM\n%s\n::1 STREAM\n", key, key);
	return 0;
}

/* Each word in memory of its own, so that nothing is read behind it. */
static int split(const uint8_t *data, size_t size, char **words)
{
	const uint8_t *end = data + size;
	int count = 0;

	words[count++] = strdup("run");
	while (data < end && count < WORDS_MAX) {
		const uint8_t *stop = memchr(data, '\n', end - data);

		if (!stop)
			stop = end;
		words[count++] = strndup((const char *)data, stop - data);
		data = stop + (stop < end);
	}
	words[count] = NULL;
	return count;
}

static void check_limit(const struct rate_limit_options *limit)
{
	check(limit->burst >= 1 && limit->burst <= RATE_LIMIT_BURST_MAX);
	check(limit->requests <= 1000000000 && limit->bytes <= 1024 * GIB);
	check(limit->bytes == 0 || limit->bytes >= KIB);
}

static void check_disk(const struct disk_options *disk)
{
	struct nbd_address address;

	check(disk->path && strlen(disk->path) > 0);
	check(!disk->serial || (strlen(disk->serial) >= 1 && strlen(disk->serial) <= 20));
	check(!disk->overlay || strlen(disk->overlay) > 0);
	check_limit(&disk->limit);
	if (!nbd_is_address(disk->path)) {
		check(disk->timeout == 0);
		return;
	}
	check(!disk->overlay && !disk->direct && disk->timeout <= 24 * 3600);
	if (nbd_parse_address(disk->path, &address) < 0)
		return;
	check(address.count >= 1 && address.count <= NBD_ADDRESSES_MAX);
	check(strnlen(address.export_name, sizeof(address.export_name)) <= NBD_NAME_MAX);
	for (unsigned i = 0; i < address.count; i++)
		check(address.lengths[i] >= sizeof(sa_family_t) &&
			address.lengths[i] <= sizeof(address.addresses[i]));
}

static void check_publish(const struct net_publish *publish)
{
	unsigned char address[sizeof(struct in6_addr)];

	check(publish->host >= 1 && publish->host <= 65535);
	check(publish->guest >= 1 && publish->guest <= 65535);
	check(!publish->address || inet_pton(AF_INET, publish->address, address) == 1 ||
		inet_pton(AF_INET6, publish->address, address) == 1);
}

static void check_net(const struct net_options *net)
{
	check(net->queues >= 1 && net->queues <= NET_QUEUES_MAX &&
		(net->kind != NET_USER || net->queues == 1));
	check((net->kind == NET_TAP) == !!net->tap);
	check(!net->tap ||
		(strlen(net->tap) >= 1 && strlen(net->tap) <= 15 && !strchr(net->tap, '/')));
	check(!net->mtu || (net->mtu >= NET_MTU_MIN && net->mtu <= NET_MTU_MAX));
	check(!net->has_mac || !(net->mac[0] & 1));
	check(net->publish_count <= (net->kind == NET_USER ? NET_PUBLISH_MAX : 0));
	for (unsigned i = 0; i < net->publish_count; i++)
		check_publish(&net->publish[i]);
	for (unsigned i = 0; net->kind == NET_FDS && i < net->queues; i++)
		check(net->fds[i] >= 0);
	check_limit(&net->limit);
}

static void check_tag(const char *tag)
{
	check(tag && tag[0] && strlen(tag) <= SHARE_TAG_MAX);
}

static void check_share(const struct share_options *share)
{
	check(!share->directory != !share->server);
	check(!share->directory || share->directory[0]);
	check(!share->server || (share->server[0] && strlen(share->server) < 108));
	check(!share->guest_path || share->guest_path[0] == '/');
	check(share->cache <= SHARE_CACHE_NEVER);
	check_tag(share->tag);
}

static void check_vhost_user(const struct vhost_user_options *options)
{
	check(options->path[0] && strlen(options->path) < 108);
	check(options->type >= VHOST_USER_FS && options->type <= VHOST_USER_NET);
	if (options->type == VHOST_USER_FS)
		check_tag(options->tag);
	else
		check(!options->tag);
}

static void check_memory(const struct memory_options *memory)
{
	check(memory->size >= GUEST_MEMORY_MIN && memory->size <= GUEST_MEMORY_MAX);
	check(memory->size % (memory->huge_pages ? GUEST_HUGE_PAGE : PAGE_BYTES) == 0);
}

static void check_name(const char *name)
{
	check(strlen(name) >= 1 && strlen(name) <= 63 && name[0] != '.' && name[0] != '-');
	for (; *name; name++)
		check((*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
			(*name >= '0' && *name <= '9') || strchr("-_.", *name));
}

static void check_options(const struct run_options *options, int count, char **words)
{
	check((options->guest.kernel || options->guest.root.directory) && options->guest.cmdline);
	check(!options->guest.root.writable || options->guest.root.directory);
	check(options->guest.cpus >= 1 && options->guest.cpus <= VCPUS_MAX);
	check(options->guest.on_panic <= END_WAIT && options->guest.reboot <= END_RESTART);
	check(options->guest.watchdog <= 24 * 3600 && options->guest.timeout <= 365 * 24 * 3600);
	check(options->guest.initrd_count + options->guest.disk_count + options->guest.net_count < (size_t)count);
	check_memory(&options->guest.memory);
	if (options->guest.name)
		check_name(options->guest.name);
	for (size_t i = 0; i < options->guest.initrd_count; i++)
		check(!!options->guest.initrds[i]);
	for (size_t i = 0; i < options->guest.disk_count; i++)
		check_disk(&options->guest.disks[i]);
	for (size_t i = 0; i < options->guest.net_count; i++)
		check_net(&options->guest.nets[i]);
	check(options->guest.share_count <= SHARES_MAX && options->guest.vhost_user_count <= VHOST_USERS_MAX);
	for (size_t i = 0; i < options->guest.share_count; i++)
		check_share(&options->guest.shares[i]);
	for (size_t i = 0; i < options->guest.vhost_user_count; i++)
		check_vhost_user(&options->guest.vhost_users[i]);
	/* The rest of the words, behind a `--`. */
	if (options->guest.command)
		check(options->guest.command > words + 1 && options->guest.command < words + count &&
			strcmp(options->guest.command[-1], "--") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run_options options;
	char *words[WORDS_MAX + 1], *order[WORDS_MAX + 1];
	int count = split(data, size, words), result;

	memcpy(order, words, sizeof(words));
	/* GNU's way to have getopt() forget all. */
	optind = 0;
	result = run_options_parse(&options, count, words);
	check(result == 0 || result == -EINVAL);
	if (result == 0 && !options.help)
		check_options(&options, count, words);
	run_options_release(&options);
	for (int i = 0; i < count; i++) {
		check(words[i] == order[i]);
		free(words[i]);
	}
	return 0;
}
