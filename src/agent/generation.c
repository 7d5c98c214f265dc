// SPDX-License-Identifier: GPL-2.0-only
/* Which copy of the guest this is. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "karma/util.h"

#define NAME "/sys/kernel/karma/generation"
/* The driver knows of a restore a little later than vsock. */
#define WAIT_NANOSECONDS 1000000000ll

static bool read_generation(const struct generation *generation, char *text)
{
	memset(text, 0, GENERATION_BYTES);
	return pread(generation->fd, text, GENERATION_BYTES - 1, 0) > 0;
}

void generation_open(struct generation *generation)
{
	generation->fd = open(NAME, O_RDONLY | O_CLOEXEC);
	if (generation->fd >= 0 && !read_generation(generation, generation->text))
		close_fd(&generation->fd);
}

bool generation_is_another(const struct generation *generation)
{
	/* sysfs_notify() of Linux: what was read has changed. */
	struct pollfd watched = { .fd = generation->fd, .events = POLLPRI };
	int64_t until = nanoseconds() + WAIT_NANOSECONDS, left;
	char text[GENERATION_BYTES];

	while (read_generation(generation, text)) {
		if (strcmp(text, generation->text) != 0)
			return true;
		left = until - nanoseconds();
		if (left <= 0 || (poll(&watched, 1, left / 1000000 + 1) < 0 && errno != EINTR))
			return false;
	}
	return false;
}
