// SPDX-License-Identifier: GPL-2.0-only
/* karma pause, resume, stop, wait, resize, balloon and log: one request to a guest each. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "client.h"
#include "karma/commands.h"
#include "karma/log.h"
#include "karma/size.h"
#include "karma/status.h"
#include "karma/util.h"

/* How long a guest has to give up memory, and how often it is looked at. */
#define BALLOON_NANOSECONDS 30000000000ll
#define BALLOON_MICROSECONDS 20000

static const struct option only_help[] = {
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static int parse_only_help(const struct command *command, int argc, char **argv)
{
	return command_options(command, only_help, argc, argv, NULL);
}

/* Connect, send a request, whose reference this takes, and return the result; NULL with a message printed. */
static json_t *call(const char *name, json_t *request)
{
	struct connection connection;
	json_t *result = NULL;

	if (connection_open(&connection, name, false) == 0)
		result = connection_call(&connection, json_incref(request));
	connection_close(&connection);
	json_decref(request);
	return result;
}

/* A command that is a request without members, and prints no result. */
static int run_simple(const struct command *command, int argc, char **argv)
{
	int status = parse_only_help(command, argc, argv);
	const char *name;
	json_t *result;

	if (status >= 0)
		return status;
	name = command_name(command, argc, argv);
	if (!name)
		return STATUS_FAILURE;
	result = call(name, json_pack("{s:s}", "request", command->name));
	json_decref(result);
	return result ? 0 : STATUS_FAILURE;
}

int command_pause(int argc, char **argv)
{
	static const struct command command = { "pause",
		"usage: karma pause NAME\n"
		"\n"
		"Let the CPUs of a guest rest until `karma resume NAME`; when this returns, they do.\n"
		"Devices end what they have begun, the guest's clocks go on, and its --watchdog waits.\n"
		"Exit status: 0, or 125 if karma failed.\n" };

	return run_simple(&command, argc, argv);
}

int command_resume(int argc, char **argv)
{
	static const struct command command = { "resume",
		"usage: karma resume NAME\n"
		"\n"
		"Let the CPUs of a guest go on after `karma pause NAME`.\n"
		"Exit status: 0, or 125 if karma failed.\n" };

	return run_simple(&command, argc, argv);
}

/* --- stop. */

static const struct command stop = { "stop",
	"usage: karma stop [--force] NAME...\n"
	"\n"
	"End guests, and return when all that they had is free again.  A guest is asked to power off,\n"
	"as by SIGTERM to its karma; it has the time that --grace gave it, 30 seconds without.\n"
	"\n"
	"  --force   end them at once, as if by pulling the plug: what a guest has not flushed is lost\n"
	"\n"
	"Exit status: 0, or 125 if one of them could not be told to stop.\n" };

static bool request_stop(struct connection *connection, const char *name, bool force)
{
	json_t *result;

	if (connection_open(connection, name, false) < 0)
		return false;
	result = connection_call(connection, json_pack("{s:s, s:b}", "request", "stop", "force", force));
	json_decref(result);
	return result;
}

/* Send all requests before the first end is awaited. */
static int stop_all(char **names, unsigned count, bool force)
{
	struct connection *connections = calloc(count, sizeof(*connections));
	int status = 0;

	if (!connections) {
		fail(-ENOMEM, "out of memory");
		return STATUS_FAILURE;
	}
	for (unsigned i = 0; i < count; i++) {
		if (!request_stop(&connections[i], names[i], force)) {
			connection_close(&connections[i]);
			status = STATUS_FAILURE;
		}
	}
	for (unsigned i = 0; i < count; i++) {
		connection_wait_end(&connections[i]);
		connection_close(&connections[i]);
	}
	free(connections);
	return status;
}

int command_stop(int argc, char **argv)
{
	int force = false;
	const struct option options[] = {
		{ "force", no_argument, &force, true },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int status = command_options(&stop, options, argc, argv, NULL);

	if (status >= 0)
		return status;
	if (optind == argc)
		return command_misused(&stop, "no NAME: give a guest's, as `karma ps` has it");
	for (int i = optind; i < argc; i++) {
		if (!control_name_is_valid(argv[i]))
			return command_misused(&stop, "%s: is no guest's name", argv[i]);
	}
	return stop_all(argv + optind, argc - optind, force);
}

/* --- wait. */

int command_wait(int argc, char **argv)
{
	static const struct command command = { "wait",
		"usage: karma wait NAME\n"
		"\n"
		"Wait for a guest's end.\n"
		"Exit status: that of its `karma run`, or 125 if karma failed, that one's being killed\n"
		"among it.\n" };
	int status = parse_only_help(&command, argc, argv);
	struct connection connection;
	const char *name;
	json_t *result = NULL;

	if (status >= 0)
		return status;
	name = command_name(&command, argc, argv);
	if (!name)
		return STATUS_FAILURE;
	if (connection_open(&connection, name, false) == 0) {
		json_t *reply = NULL;

		if (connection_send(&connection, json_pack("{s:s}", "request", "wait")) == 0)
			reply = connection_receive(&connection, -1);
		result = connection_result(&connection, reply);
		connection_wait_end(&connection);
	}
	connection_close(&connection);
	status = result ? integer_of(result, "status") : STATUS_FAILURE;
	json_decref(result);
	return status;
}

/* --- resize. */

int command_resize(int argc, char **argv)
{
	static const struct command command = { "resize",
		"usage: karma resize NAME --disk DISK\n"
		"\n"
		"Look how large a disk is by now, and let the guest know; print its size in bytes.  Make its\n"
		"file larger before (truncate -s, lvextend); in the guest, resize2fs or its like comes after.\n"
		"\n"
		"  --disk DISK   as the guest calls it: vda, vdb, ...\n"
		"\n"
		"Exit status: 0, or 125 if karma failed.\n" };
	int given;
	const struct option options[] = {
		{ "disk", required_argument, &given, true },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	const char *name, *disk = NULL;
	int status = command_options(&command, options, argc, argv, &disk);
	json_t *result;

	if (status >= 0)
		return status;
	name = command_name(&command, argc, argv);
	if (!name)
		return STATUS_FAILURE;
	if (!disk)
		return command_misused(&command, "no disk: give --disk vda, or another");
	result = call(name, json_pack("{s:s, s:s}", "request", "resize", "disk", disk));
	if (!result)
		return STATUS_FAILURE;
	printf("%" PRId64 "\n", integer_of(result, "bytes"));
	json_decref(result);
	return 0;
}

/* --- balloon. */

static const struct command balloon = { "balloon",
	"usage: karma balloon NAME [SIZE]\n"
	"\n"
	"Ask a guest to give up so much of its memory, to the host, such as 256M or 1G; 0 gives it all\n"
	"back.  The guest does as it can, in its own time.  Without SIZE, print what it was asked for,\n"
	"in bytes, and what it says that it has given up.\n"
	"Exit status: 0, or 125 if karma failed.\n" };

static bool set_balloon(const char *name, uint64_t bytes)
{
	json_t *result = call(name, json_pack("{s:s, s:I}", "request", "balloon", "bytes", (json_int_t)bytes));

	json_decref(result);
	return result;
}

/* Its counters; NULL with a message printed. */
static json_t *balloon_counters(const char *name)
{
	json_t *stats = call(name, json_pack("{s:s}", "request", "stats"));
	json_t *counters = json_incref(json_object_get(
		json_object_get(json_object_get(stats, "devices"), "balloon"), "counters"));

	if (stats && !counters)
		fail(-ENOTSUP, "%s: the guest has no balloon: start it without --balloon off, and without huge "
			       "pages",
			name);
	json_decref(stats);
	return counters;
}

static int show_balloon(const char *name)
{
	json_t *counters = balloon_counters(name);
	int status = counters ? 0 : STATUS_FAILURE;

	if (counters)
		printf("target %" PRId64 "\nactual %" PRId64 "\n", integer_of(counters, "target_bytes"),
			integer_of(counters, "actual_bytes"));
	json_decref(counters);
	return status;
}

int command_balloon(int argc, char **argv)
{
	int status = parse_only_help(&balloon, argc, argv);
	const char *name, *size = NULL;
	uint64_t bytes;

	if (status >= 0)
		return status;
	if (argc - optind == 2)
		size = argv[--argc];
	name = command_name(&balloon, argc, argv);
	if (!name)
		return STATUS_FAILURE;
	if (!size)
		return show_balloon(name);
	if (!parse_size(size, &bytes) || bytes > INT64_MAX)
		return command_misused(&balloon, "%s: is no size: give one like 256M or 1G, or 0", size);
	return set_balloon(name, bytes) ? 0 : STATUS_FAILURE;
}

int balloon_await(const char *name, uint64_t bytes, bool grow)
{
	int64_t end = nanoseconds() + BALLOON_NANOSECONDS;
	json_t *counters = balloon_counters(name);
	uint64_t before = integer_of(counters, "target_bytes"), actual = integer_of(counters, "actual_bytes");

	if (!counters)
		return -EIO;
	json_decref(counters);
	if (bytes == before || (bytes < before) != grow)
		return 0;
	if (!set_balloon(name, bytes))
		return -EIO;
	while (!grow && actual < bytes && nanoseconds() < end) {
		usleep(BALLOON_MICROSECONDS);
		counters = balloon_counters(name);
		if (!counters)
			return -EIO;
		actual = integer_of(counters, "actual_bytes");
		json_decref(counters);
	}
	if (grow || actual >= bytes)
		return 0;
	set_balloon(name, before);
	return fail(-ETIMEDOUT, "%s: the guest needs its memory, and has given up only %s of %s: ask for less", name,
		size_text(actual).text, size_text(bytes).text);
}

/* --- log. */

static void print_message(const json_t *message)
{
	time_t seconds = integer_of(message, "time");
	struct tm local;
	char when[64] = "?";

	if (localtime_r(&seconds, &local))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &local);
	printf("%s  ", when);
	print_plain(stdout, string_of(message, "text"));
	putchar('\n');
}

int command_log(int argc, char **argv)
{
	static const struct command command = { "log",
		"usage: karma log NAME\n"
		"\n"
		"Print what a guest's karma has said on standard error, each message with its time: the last\n"
		"16 KiB of it.  What the guest itself prints is its console's: `karma console NAME`.\n"
		"Exit status: 0, or 125 if karma failed.\n" };
	int status = parse_only_help(&command, argc, argv);
	const char *name;
	json_t *result, *message;
	size_t i;

	if (status >= 0)
		return status;
	name = command_name(&command, argc, argv);
	if (!name)
		return STATUS_FAILURE;
	result = call(name, json_pack("{s:s}", "request", "log"));
	if (!result)
		return STATUS_FAILURE;
	json_array_foreach(json_object_get(result, "messages"), i, message)
		print_message(message);
	json_decref(result);
	return 0;
}
