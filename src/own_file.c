// SPDX-License-Identifier: GPL-2.0-only
/* Whether a file is the user's own. */
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "karma/own_file.h"

#define OVERFLOW_USER 65534u	/* Linux's default, user_namespaces(7) */

/* Whether all user ids are mapped: outside of any user namespace, or in one with the identity map. */
static bool all_users_are_mapped(void)
{
	FILE *map = fopen("/proc/self/uid_map", "re");
	unsigned inside, outside, count;
	bool all = map && fscanf(map, "%u %u %u", &inside, &outside, &count) == 3 && inside == 0 &&
		outside == 0 && count == UINT32_MAX;

	if (map)
		fclose(map);
	return all;
}

bool is_own_file(const struct stat *status)
{
	/* All unmapped owners look like the overflow user, ours or not. */
	return status->st_uid == geteuid() && !(status->st_mode & (S_IWGRP | S_IWOTH)) &&
		(status->st_uid != OVERFLOW_USER || all_users_are_mapped());
}
