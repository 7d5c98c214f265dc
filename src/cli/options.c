// SPDX-License-Identifier: GPL-2.0-only
/* The options of `karma run`. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "karma/cli.h"
#include "karma/log.h"
#include "karma/memory.h"
#include "karma/nbd.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "options.h"

#define MEMORY_DEFAULT (512 * MIB)
#define NAME_MAX_BYTES 63
#define SERIAL_MAX_BYTES 20
#define GRACE_DEFAULT 30
#define TIMEOUT_MAX (365u * 24 * 3600)
#define WATCHDOG_MAX (24u * 3600)
#define IOPS_MAX 1000000000u
#define DISK_TIMEOUT_MAX (24u * 3600)
#define BPS_MIN KIB
#define BPS_MAX (1024 * GIB)

enum {
	OPTION_KERNEL = 256,
	OPTION_INITRD,
	OPTION_DISK,
	OPTION_NET,
	OPTION_CPUS,
	OPTION_MEMORY,
	OPTION_BALLOON,
	OPTION_CMDLINE,
	OPTION_NAME,
	OPTION_CONSOLE,
	OPTION_TIMEOUT,
	OPTION_GRACE,
	OPTION_REBOOT,
	OPTION_ON_PANIC,
	OPTION_WATCHDOG,
	OPTION_DIE_WITH_PARENT,
	OPTION_STRICT,
	OPTION_STATS,
	OPTION_USER,
	OPTION_CGROUP,
	OPTION_NO_SANDBOX,
};

static const struct option long_options[] = {
	{ "kernel", required_argument, NULL, OPTION_KERNEL },
	{ "initrd", required_argument, NULL, OPTION_INITRD },
	{ "disk", required_argument, NULL, OPTION_DISK },
	{ "net", required_argument, NULL, OPTION_NET },
	{ "cpus", required_argument, NULL, OPTION_CPUS },
	{ "memory", required_argument, NULL, OPTION_MEMORY },
	{ "balloon", required_argument, NULL, OPTION_BALLOON },
	{ "cmdline", required_argument, NULL, OPTION_CMDLINE },
	{ "name", required_argument, NULL, OPTION_NAME },
	{ "console", required_argument, NULL, OPTION_CONSOLE },
	{ "timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "grace", required_argument, NULL, OPTION_GRACE },
	{ "reboot", required_argument, NULL, OPTION_REBOOT },
	{ "on-panic", required_argument, NULL, OPTION_ON_PANIC },
	{ "watchdog", required_argument, NULL, OPTION_WATCHDOG },
	{ "die-with-parent", no_argument, NULL, OPTION_DIE_WITH_PARENT },
	{ "strict", no_argument, NULL, OPTION_STRICT },
	{ "stats", no_argument, NULL, OPTION_STATS },
	{ "user", required_argument, NULL, OPTION_USER },
	{ "cgroup", required_argument, NULL, OPTION_CGROUP },
	{ "no-sandbox", no_argument, NULL, OPTION_NO_SANDBOX },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

int parse_number(
	const char *option, const char *text, unsigned least, unsigned most, unsigned *number)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno || value < least || value > most)
		return fail(-EINVAL, "%s %s: is no whole number from %u to %u: give one", option,
			text, least, most);
	*number = value;
	return 0;
}

static unsigned size_shift(const char *suffix)
{
	switch (suffix[0]) {
	case '\0':
	case 'm':
	case 'M':
		return 20;
	case 'k':
	case 'K':
		return 10;
	case 'g':
	case 'G':
		return 30;
	case 't':
	case 'T':
		return 40;
	default:
		return 0;
	}
}

/* A number, and how many bits its suffix, or none, moves it; false if the text is no size. */
static bool split_size(const char *text, unsigned long long *value, unsigned *shift)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	*shift = size_shift(end);
	return text[0] >= '0' && text[0] <= '9' && !errno && *shift && !(end[0] && end[1]);
}

/* Whole pages, of which a guest can have so many. */
static int parse_memory_size(const char *text, uint64_t *size)
{
	unsigned long long value;
	unsigned shift;

	if (!split_size(text, &value, &shift))
		return fail(-EINVAL, "--memory %s: is no size: give one like 256M or 2G", text);
	if (value > GUEST_MEMORY_MAX >> shift || value << shift < GUEST_MEMORY_MIN)
		return fail(-EINVAL, "--memory %s: is out of range: give %lluM to %lluG", text,
			GUEST_MEMORY_MIN / MIB, GUEST_MEMORY_MAX / GIB);
	*size = value << shift;
	if (*size % PAGE_BYTES)
		return fail(-EINVAL, "--memory %s: is no multiple of 4K: give one", text);
	return 0;
}

static int parse_switch(const char *option, const char *text, bool *on)
{
	*on = strcmp(text, "on") == 0;
	if (!*on && strcmp(text, "off") != 0)
		return fail(-EINVAL, "%s %s: is no switch: give on or off", option, text);
	return 0;
}

static int parse_memory_flag(struct memory_options *memory, const char *flag)
{
	if (strncmp(flag, "hugepages=", 10) == 0)
		return parse_switch("--memory hugepages", flag + 10, &memory->huge_pages);
	if (strncmp(flag, "shared=", 7) == 0)
		return parse_switch("--memory shared", flag + 7, &memory->shared);
	return fail(-EINVAL, "--memory: knows no `%s`: give hugepages=on|off or shared=on|off", flag);
}

/* SIZE[,flag]...; cuts the text of argv apart. */
static int parse_memory(char *text, struct memory_options *memory)
{
	char *rest = text, *size = strsep(&rest, ",");
	int result;

	*memory = (struct memory_options){ 0 };
	result = parse_memory_size(size, &memory->size);
	while (rest && result == 0)
		result = parse_memory_flag(memory, strsep(&rest, ","));
	if (result == 0 && memory->huge_pages && memory->size % GUEST_HUGE_PAGE)
		return fail(-EINVAL,
			"--memory %s: is no multiple of 2M: give one, or leave out hugepages=on", size);
	return result;
}

/* Bytes a second.  A number alone is refused: with --memory it is MiB, which few would guess. */
int parse_bps(const char *option, const char *text, uint64_t *bytes)
{
	unsigned long long value;
	unsigned shift;

	if (!split_size(text, &value, &shift) || isdigit((unsigned char)text[strlen(text) - 1]))
		return fail(-EINVAL, "%s %s: is no size: give one like 512K or 20M", option, text);
	if (value > BPS_MAX >> shift || value << shift < BPS_MIN)
		return fail(-EINVAL, "%s %s: is out of range: give %lluK to %lluG", option, text,
			BPS_MIN / KIB, BPS_MAX / GIB);
	*bytes = value << shift;
	return 0;
}

static int parse_iops(const char *text, uint64_t *requests)
{
	unsigned number;
	int result = parse_number("--disk iops", text, 1, IOPS_MAX, &number);

	if (result == 0)
		*requests = number;
	return result;
}

static int parse_disk_flag(struct disk_options *disk, const char *flag)
{
	if (strcmp(flag, "ro") == 0) {
		disk->read_only = true;
	} else if (strcmp(flag, "direct") == 0) {
		disk->direct = true;
	} else if (strncmp(flag, "serial=", 7) == 0 && flag[7]) {
		disk->serial = flag + 7;
		if (strlen(disk->serial) > SERIAL_MAX_BYTES)
			return fail(-EINVAL, "--disk %s: serial has more than %d characters: give fewer",
				disk->path, SERIAL_MAX_BYTES);
	} else if (strncmp(flag, "overlay=", 8) == 0 && flag[8]) {
		disk->overlay = flag + 8;
	} else if (strncmp(flag, "iops=", 5) == 0) {
		return parse_iops(flag + 5, &disk->limit.requests);
	} else if (strncmp(flag, "bps=", 4) == 0) {
		return parse_bps("--disk bps", flag + 4, &disk->limit.bytes);
	} else if (strncmp(flag, "burst=", 6) == 0) {
		return parse_number(
			"--disk burst", flag + 6, 1, LIMIT_BURST_MAX, &disk->limit.burst);
	} else if (strncmp(flag, "timeout=", 8) == 0) {
		return parse_number(
			"--disk timeout", flag + 8, 1, DISK_TIMEOUT_MAX, &disk->timeout);
	} else {
		return fail(-EINVAL,
			"--disk %s: knows no `%s`: give ro, direct, overlay=FILE, serial=TEXT, iops=N, "
			"bps=SIZE, burst=SECONDS or timeout=SECONDS",
			disk->path, flag);
	}
	return 0;
}

static int complete_limit(struct disk_options *disk)
{
	if (disk->limit.burst && !limit_is_set(&disk->limit))
		return fail(-EINVAL,
			"--disk %s: burst=%u goes with a limit only: give iops=N or bps=SIZE too, "
			"or leave it out",
			disk->path, disk->limit.burst);
	if (!disk->limit.burst)
		disk->limit.burst = 1;
	return 0;
}

static int check_kind(const struct disk_options *disk)
{
	bool remote = nbd_is_address(disk->path);

	if (disk->overlay && remote)
		return fail(-EINVAL, "--disk %s: overlay goes with a file only: leave it out",
			disk->path);
	if (disk->direct && remote)
		return fail(-EINVAL, "--disk %s: direct goes with a file only: leave it out",
			disk->path);
	if (disk->timeout && !remote)
		return fail(-EINVAL, "--disk %s: timeout goes with an NBD server only: leave it out",
			disk->path);
	return 0;
}

/* FILE[,flag]...; cuts the text of argv apart. */
static int parse_disk(struct run_options *options, char *text)
{
	struct disk_options *disk = &options->disks[options->disk_count];
	char *rest = text;

	disk->path = strsep(&rest, ",");
	if (!disk->path[0])
		return fail(-EINVAL, "--disk: names no file: give --disk FILE");
	while (rest) {
		int result = parse_disk_flag(disk, strsep(&rest, ","));

		if (result < 0)
			return result;
	}
	options->disk_count++;
	return check_kind(disk) < 0 ? -EINVAL : complete_limit(disk);
}

static int parse_name(const char *text, const char **name)
{
	size_t length = strspn(
		text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

	if (length == 0 || length > NAME_MAX_BYTES || text[length] || text[0] == '.' ||
		text[0] == '-')
		return fail(-EINVAL,
			"--name %s: is no name: give 1 to %d letters, digits, `-`, `_` or `.`, the first "
			"a letter, digit or `_`",
			text, NAME_MAX_BYTES);
	*name = text;
	return 0;
}

static int parse_on_panic(const char *text, enum end_policy *policy)
{
	if (strcmp(text, "exit") == 0)
		*policy = END_EXIT;
	else if (strcmp(text, "restart") == 0)
		*policy = END_RESTART;
	else if (strcmp(text, "wait") == 0)
		*policy = END_WAIT;
	else
		return fail(-EINVAL, "--on-panic %s: is none of exit, restart, wait: give one of these",
			text);
	return 0;
}

static int parse_reboot(const char *text, enum end_policy *policy)
{
	if (strcmp(text, "exit") == 0)
		*policy = END_EXIT;
	else if (strcmp(text, "restart") == 0)
		*policy = END_RESTART;
	else
		return fail(-EINVAL, "--reboot %s: is neither exit nor restart: give one of these",
			text);
	return 0;
}

static int parse_option(struct run_options *options, int option)
{
	switch (option) {
	case OPTION_KERNEL:
		options->kernel = optarg;
		return 0;
	case OPTION_INITRD:
		options->initrds[options->initrd_count++] = optarg;
		return 0;
	case OPTION_DISK:
		return parse_disk(options, optarg);
	case OPTION_NET:
		return parse_net(&options->nets[options->net_count++], optarg);
	case OPTION_CPUS:
		return parse_number("--cpus", optarg, 1, VCPUS_MAX, &options->cpus);
	case OPTION_MEMORY:
		return parse_memory(optarg, &options->memory);
	case OPTION_BALLOON:
		return parse_switch("--balloon", optarg, &options->balloon);
	case OPTION_CMDLINE:
		options->cmdline = optarg;
		return 0;
	case OPTION_NAME:
		return parse_name(optarg, &options->name);
	case OPTION_CONSOLE:
		options->console = optarg;
		return 0;
	case OPTION_TIMEOUT:
		return parse_number("--timeout", optarg, 1, TIMEOUT_MAX, &options->timeout);
	case OPTION_GRACE:
		return parse_number("--grace", optarg, 0, TIMEOUT_MAX, &options->grace);
	case OPTION_REBOOT:
		return parse_reboot(optarg, &options->reboot);
	case OPTION_ON_PANIC:
		return parse_on_panic(optarg, &options->on_panic);
	case OPTION_WATCHDOG:
		return parse_number("--watchdog", optarg, 1, WATCHDOG_MAX, &options->watchdog);
	case OPTION_DIE_WITH_PARENT:
		options->die_with_parent = true;
		return 0;
	case OPTION_STRICT:
		options->strict = true;
		return 0;
	case OPTION_STATS:
		options->stats = true;
		return 0;
	case OPTION_USER:
		options->sandbox.user = optarg;
		return 0;
	case OPTION_CGROUP:
		options->sandbox.cgroup = optarg;
		return 0;
	case OPTION_NO_SANDBOX:
		options->sandbox.off = true;
		return 0;
	case 'h':
		options->help = true;
		return 0;
	default:
		return fail(-EINVAL, "see `karma run --help`");
	}
}

int run_options_parse(struct run_options *options, int argc, char **argv)
{
	const char *last_value = NULL;
	int option;

	*options = (struct run_options){
		.cpus = 1,
		.memory = { .size = MEMORY_DEFAULT },
		.balloon = true,
		.cmdline = "",
		.console = "stdio",
		.grace = GRACE_DEFAULT,
		/* There can't be more of any than there are arguments. */
		.initrds = calloc(argc, sizeof(*options->initrds)),
		.disks = calloc(argc, sizeof(*options->disks)),
		.nets = calloc(argc, sizeof(*options->nets)),
	};
	if (!options->initrds || !options->disks || !options->nets)
		return fail(-ENOMEM, "out of memory");
	while ((option = getopt_long(argc, argv, "+h", long_options, NULL)) != -1) {
		int result = parse_option(options, option);

		if (result < 0)
			return result;
		last_value = optarg;
	}
	if (options->help)
		return 0;
	/* A `--` that is the value of the last option is not the one before a command. */
	if (optind < argc &&
		(strcmp(argv[optind - 1], "--") != 0 || argv[optind - 1] == last_value))
		return fail(-EINVAL, "%s: is no option: put `--` before the guest's command",
			argv[optind]);
	if (optind < argc)
		options->command = argv + optind;
	if (!options->kernel)
		return fail(-EINVAL, "no kernel: give --kernel FILE, a bzImage or an ELF vmlinux");
	return 0;
}

void run_options_release(struct run_options *options)
{
	free(options->initrds);
	free(options->disks);
	free(options->nets);
}
