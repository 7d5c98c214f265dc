// SPDX-License-Identifier: GPL-2.0-only
/* karma snapshot: have a guest saved in a directory. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "client.h"
#include "karma/commands.h"
#include "karma/log.h"
#include "karma/snapshot_directory.h"
#include "karma/status.h"
#include "karma/util.h"

#define PROGRESS_MILLISECONDS 200

static const struct command command = { "snapshot",
	"usage: karma snapshot NAME DIR [--stop]\n"
	"\n"
	"Save a guest that runs, with its memory, in a new directory, from which `karma run --restore DIR`\n"
	"goes on, also more than once.  The guest runs meanwhile, but for a short pause at the end.  DIR\n"
	"appears when all of it is on stable storage, or not at all.  It has all secrets of the guest.\n"
	"\n"
	"  --stop   end the guest after that, as if by pulling the plug: it went no further than DIR has\n"
	"\n"
	"Exit status: 0, or 125 if karma failed.\n" };

static void show_progress(const struct snapshot_aside *aside)
{
	struct size_text size = size_text(snapshot_directory_bytes(aside->directory));

	fprintf(stderr, "\r%s: %s saved\033[K", aside->path, size.text);
}

/* Until the reply can be read.  False after a signal that ends us. */
static bool wait_for_reply(const struct connection *connection, const struct snapshot_aside *aside, int signals)
{
	struct pollfd watched[] = {
		{ .fd = connection->fd, .events = POLLIN },
		{ .fd = signals, .events = POLLIN },
	};
	bool shows = isatty(STDERR_FILENO);
	struct signalfd_siginfo info = { 0 };

	while (!watched[0].revents) {
		poll(watched, ARRAY_SIZE(watched), shows ? PROGRESS_MILLISECONDS : -1);
		if (watched[1].revents && read(signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo != SIGWINCH)
			break;
		if (shows)
			show_progress(aside);
	}
	if (shows)
		fputs("\r\033[K", stderr);
	return watched[0].revents;
}

static int save(
	struct connection *connection, const struct snapshot_aside *aside, const char *option, json_t **figures)
{
	json_t *request = json_pack("{s:s}", "request", "snapshot");
	cleanup_fd int signals = client_signals();

	if (signals < 0) {
		json_decref(request);
		return fail(-errno, "signalfd: %s: raise the limit of open files (ulimit -n)", strerror(errno));
	}
	if (option && request)
		json_object_set_new(request, option, json_true());
	if (connection_send_fd(connection, request, aside->directory) < 0)
		return fail(-EIO, "%s: the guest's supervisor does not answer: see `karma ps`", connection->name);
	if (!wait_for_reply(connection, aside, signals))
		return fail(-EINTR, "%s: ended by a signal: the guest goes on, and %s is not made", connection->name, aside->path);
	*figures = connection_result(connection, connection_receive(connection, -1));
	return *figures ? 0 : -EIO;
}

int snapshot_take(
	struct connection *connection, const char *path, const char *option, struct snapshot_figures *figures)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);
	struct snapshot_aside aside;
	json_t *reply = NULL;
	int result;

	if (getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
		return fail(-errno, "%s: can't tell whose the guest is: %s", connection->name, strerror(errno));
	/* The guest's supervisor writes there. */
	result = snapshot_aside_make(&aside, path, peer.uid);
	if (result == 0)
		result = save(connection, &aside, option, &reply);
	if (result == 0)
		result = snapshot_aside_publish(&aside);
	snapshot_aside_release(&aside);
	*figures = (struct snapshot_figures){ integer_of(reply, "bytes"), integer_of(reply, "pause_us") };
	json_decref(reply);
	return result;
}

static int snapshot(struct connection *connection, const char *path, bool stop)
{
	struct snapshot_figures figures;
	int result = snapshot_take(connection, path, stop ? "hold" : NULL, &figures);
	struct size_text size = size_text(figures.bytes);
	json_t *reply;

	if (result < 0)
		return result;
	printf("%s: %s, for which the guest was paused %.1f ms\n", path, size.text, figures.pause_us / 1e3);
	if (!stop)
		return 0;
	reply = connection_call(connection, json_pack("{s:s, s:b}", "request", "stop", "force", true));
	if (!reply)
		return -EIO;
	json_decref(reply);
	connection_wait_end(connection);
	return 0;
}

int command_snapshot(int argc, char **argv)
{
	int stop = false, result;
	const struct option options[] = {
		{ "stop", no_argument, &stop, true },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int status = command_options(&command, options, argc, argv, NULL);
	struct connection connection;
	const char *name;

	if (status >= 0)
		return status;
	if (argc - optind == 1)
		return command_misused(&command, "no DIR: give one that is not there yet");
	name = command_name(&command, argc - (argc - optind == 2), argv);
	if (!name)
		return STATUS_FAILURE;
	result = connection_open(&connection, name, false);
	if (result == 0)
		result = snapshot(&connection, argv[optind + 1], stop);
	connection_close(&connection);
	return result < 0 ? STATUS_FAILURE : 0;
}
