// SPDX-License-Identifier: GPL-2.0-only
/* Resource limits. */
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "internal.h"
#include "karma/util.h"

/* Enough for the monitor's own memory: guest memory is excluded from core dumps. */
#define CORE_BYTES (16 * MIB)

/* Lower a limit.  lasting: the hard limit too, so that only root can raise it again. */
static int bound(int resource, rlim_t most, bool lasting)
{
	struct rlimit limit;

	if (getrlimit(resource, &limit) < 0)
		return -errno;
	if (limit.rlim_cur > most)
		limit.rlim_cur = most;
	if (lasting && limit.rlim_max > most)
		limit.rlim_max = most;
	return setrlimit(resource, &limit) < 0 ? -errno : 0;
}

/*
 * Limit descriptors to those that are open, and a few more.  RLIMIT_NOFILE bounds numbers: the lowest free
 * number as the limit allows no new descriptor, so the free ones to allow are taken before it is looked for.
 */
static int bound_files(unsigned more)
{
	int lowest = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0), result;

	/* None is free as it is. */
	if (lowest < 0)
		return 0;
	result = more ? bound_files(more - 1) : bound(RLIMIT_NOFILE, lowest, true);
	close(lowest);
	return result;
}

int limits_set(const struct sandbox *sandbox, const struct sandbox_bounds *bounds)
{
	int result = bound(RLIMIT_CORE, CORE_BYTES, true);

	if (result == 0)
		result = bound_files(bounds->files);
	/* The soft limit only: the supervisor raises it when a disk has grown; filters deny that in here. */
	if (result == 0 && bounds->file_bytes)
		result = bound(RLIMIT_FSIZE, bounds->file_bytes, false);
	/* Outside of a user namespace it would count all processes of the user on the host. */
	if (result == 0 && sandbox->user_namespace)
		result = bound(RLIMIT_NPROC, bounds->threads, true);
	return result;
}
