// SPDX-License-Identifier: GPL-2.0-only
/* Readiness and watchdog keep-alives for a service manager (sd_notify(3)). */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "karma/log.h"
#include "karma/util.h"
#include "notify.h"

/* The manager wants one keep-alive in a period: so many are requested, since a reply may be late. */
#define KEEPALIVES_PER_PERIOD 4
/* What the supervisor itself needs at the end, beyond the guest's grace. */
#define STOPPING_SECONDS 10

static int64_t milliseconds(void)
{
	return nanoseconds() / 1000000;
}

/* An error is only reported: the guest goes on without its manager. */
static void send_state(const struct notify *notify, const char *text)
{
	if (notify->fd >= 0 && send(notify->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		note("can't tell the service manager: %s", strerror(errno));
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t length = strlen(path);
	int fd;

	if ((path[0] != '/' && path[0] != '@') || length >= sizeof(address.sun_path))
		return -EINVAL;
	memcpy(address.sun_path, path, length);
	/* An abstract socket, whose name begins with a zero byte (unix(7)). */
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + length) < 0) {
		int error = errno;

		close(fd);
		return -error;
	}
	return fd;
}

/* The longest time between two keep-alives, in milliseconds; 0: the manager wants none. */
static int64_t watchdog_period(void)
{
	const char *period = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	unsigned long long microseconds;
	char *end;

	if (!period || (pid && strtoull(pid, NULL, 10) != (unsigned long long)getpid()))
		return 0;
	errno = 0;
	microseconds = strtoull(period, &end, 10);
	return *end || errno || microseconds / 1000 > INT_MAX ? 0 : microseconds / 1000;
}

static int open_event(int *fd)
{
	*fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return *fd < 0 ? fail(-errno, "eventfd: %s: raise the limit of open files (ulimit -n)",
				 strerror(errno)) : 0;
}

int notify_open(struct notify *notify)
{
	const char *path = getenv("NOTIFY_SOCKET");
	int64_t period = watchdog_period();
	int result = 0;

	*notify = (struct notify)NOTIFY_NONE;
	if (!path || !path[0])
		return 0;
	notify->fd = connect_to(path);
	if (notify->fd < 0)
		return fail(notify->fd, "NOTIFY_SOCKET %s: %s: start karma without it, or from a service manager",
			path, strerror(-notify->fd));
	if (period) {
		notify->interval = period / KEEPALIVES_PER_PERIOD + 1;
		notify->keepalive_at = milliseconds();
		result = open_event(&notify->keepalive_fd);
	}
	return result == 0 ? open_event(&notify->ready_fd) : result;
}

void notify_watch_ready(struct notify *notify)
{
	if (notify->ready_fd < 0)
		notify->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void notify_close(struct notify *notify)
{
	close_fd(&notify->fd);
	close_fd(&notify->ready_fd);
	close_fd(&notify->keepalive_fd);
	*notify = (struct notify)NOTIFY_NONE;
}

void notify_after_fork(struct notify *notify)
{
	close_fd(&notify->fd);
	notify->fd = -1;
}

/* An eventfd is polled only while it is awaited: a guest that raises it without end keeps nobody busy. */
void notify_poll(const struct notify *notify, struct pollfd *events)
{
	events[0] = (struct pollfd){ .fd = notify->ready ? -1 : notify->ready_fd, .events = POLLIN };
	events[1] = (struct pollfd){ .fd = notify->keepalive_pending ? notify->keepalive_fd : -1, .events = POLLIN };
}

int notify_timeout(const struct notify *notify)
{
	int64_t left;

	if (notify->keepalive_fd < 0)
		return -1;
	left = notify->keepalive_at - milliseconds();
	return left < 0 ? 0 : left;
}

static void reset_event(int fd)
{
	uint64_t count;

	if (read_bytes(fd, &count, sizeof(count)) < 0)
		return;
}

bool notify_serve(struct notify *notify, const struct pollfd *events, bool disk_blocked)
{
	if (events[0].revents) {
		notify->ready = true;
		send_state(notify, "READY=1\nSTATUS=The guest is up.");
	}
	if (events[1].revents) {
		notify->keepalive_pending = false;
		send_state(notify, "WATCHDOG=1");
	}
	if (notify->keepalive_fd < 0 || milliseconds() < notify->keepalive_at)
		return false;
	/* What was raised before the request is no reply to it. */
	if (!notify->keepalive_pending)
		reset_event(notify->keepalive_fd);
	else if (disk_blocked)
		send_state(notify, "WATCHDOG=1");
	notify->keepalive_pending = true;
	notify->keepalive_at = milliseconds() + notify->interval;
	return true;
}

void notify_stopping(const struct notify *notify, unsigned seconds)
{
	char text[160];

	snprintf(text, sizeof(text),
		"STOPPING=1\nSTATUS=The guest is to power off.\nEXTEND_TIMEOUT_USEC=%llu",
		(seconds + STOPPING_SECONDS) * 1000000ull);
	send_state(notify, text);
}

void notify_signal(int fd)
{
	const uint64_t one = 1;

	/* It fails only if the counter is at its maximum, and then the eventfd is raised already. */
	if (fd >= 0 && write_bytes(fd, &one, sizeof(one)) < 0)
		return;
}
