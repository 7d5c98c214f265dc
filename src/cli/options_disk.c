// SPDX-License-Identifier: GPL-2.0-only
/* The settings of a disk: --disk FILE and what follows it, or a section [disk]. */
#include <string.h>

#include "karma/nbd.h"
#include "karma/util.h"
#include "options.h"

#define SERIAL_MAX_BYTES 20
#define IOPS_MAX 1000000000u
#define TIMEOUT_MAX (24u * 3600)

/* Only with a limit: complete_disk() refuses it otherwise. */
static int print_burst(const void *target, const char *name, FILE *file)
{
	const struct disk_options *disk = target;

	if (rate_limit_is_set(&disk->limit))
		fprintf(file, "%s = %u\n", name, disk->limit.burst);
	return 0;
}

#define AT(member) .offset = offsetof(struct disk_options, member)

static const struct setting settings[] = {
	{ "path", "FILE", SETTING_TEXT, AT(path), .min = 1 },
	{ "ro", NULL, SETTING_SWITCH, AT(read_only) },
	{ "direct", NULL, SETTING_SWITCH, AT(direct) },
	{ "raw", NULL, SETTING_SWITCH, AT(raw) },
	{ "overlay", "FILE", SETTING_TEXT, AT(overlay), .min = 1 },
	{ "from", "FILE", SETTING_TEXT, AT(from), .min = 1 },
	{ "generation", "TEXT", SETTING_TEXT, AT(generation), .min = 1 },
	{ "serial", "TEXT", SETTING_TEXT, AT(serial), .min = 1, .max = SERIAL_MAX_BYTES },
	{ "iops", "N", SETTING_COUNT, AT(limit.requests), .min = 1, .max = IOPS_MAX },
	{ "bps", "SIZE", SETTING_RATE, AT(limit.bytes) },
	{ "burst", "SECONDS", SETTING_NUMBER, AT(limit.burst), .min = 1, .max = RATE_LIMIT_BURST_MAX,
		.print = print_burst },
	{ "timeout", "SECONDS", SETTING_NUMBER, AT(timeout), .min = 1, .max = TIMEOUT_MAX },
};

const struct setting_table disk_settings = { "disk ", settings, ARRAY_SIZE(settings) };

/* What may follow the path, which comes first on the command line, without its key. */
static const struct setting_table flags = { "disk ", settings + 1, ARRAY_SIZE(settings) - 1 };

static int check_kind(const struct disk_options *disk)
{
	bool remote = nbd_is_address(disk->path);

	if ((disk->overlay || disk->from) && remote)
		return refuse("disk %s: %s goes with a file only: leave it out", disk->path, disk->overlay ? "overlay" : "from");
	if (disk->direct && remote)
		return refuse("disk %s: direct goes with a file only: leave it out", disk->path);
	if (disk->raw && remote)
		return refuse("disk %s: raw goes with a file only: leave it out", disk->path);
	if (disk->timeout && !remote)
		return refuse("disk %s: timeout goes with an NBD server only: leave it out", disk->path);
	return 0;
}

int complete_disk(struct disk_options *disk)
{
	if (!disk->path || !disk->path[0])
		return refuse("disk: names no file: give its path");
	if (disk->limit.burst && !rate_limit_is_set(&disk->limit))
		return refuse("disk %s: burst=%u goes with a limit only: give iops=N or bps=SIZE too, or "
			      "leave it out",
			disk->path, disk->limit.burst);
	if (!disk->limit.burst)
		disk->limit.burst = 1;
	return check_kind(disk);
}

int parse_disk(struct disk_options *disk, char *text)
{
	char *rest = text;
	int result;

	disk->path = strsep(&rest, ",");
	result = settings_parse_list(&flags, disk, rest);
	return result < 0 ? result : complete_disk(disk);
}
