// SPDX-License-Identifier: GPL-2.0-only
/* Bounds for what the process may still take. */
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "internal.h"
#include "karma/util.h"

/* Guest memory is not in a core dump: this is enough for all the rest, and no more. */
#define CORE_BYTES (16 * MIB)

/* Never raise one; if it is lasting, nobody else can, but for root. */
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
 * Below the lowest descriptor that is free all are taken: with that for a limit, there is no other.
 * A few more may be wanted; the next ones are behind it.
 */
static int bound_files(unsigned more)
{
	int lowest = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0), result;

	/* At the limit as it is. */
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
	/* The supervisor raises it again when a disk has grown; the filters let nobody in here. */
	if (result == 0 && bounds->file_bytes)
		result = bound(RLIMIT_FSIZE, bounds->file_bytes, false);
	/* Elsewhere all processes of that user count. */
	if (result == 0 && sandbox->user_namespace)
		result = bound(RLIMIT_NPROC, bounds->threads, true);
	return result;
}
