// SPDX-License-Identifier: GPL-2.0-only
/* karma ps: the guests that run. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "client.h"
#include "karma/commands.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/util.h"

#define TIMEOUT_MILLISECONDS 1000	/* for all guests together */

static const struct command command = { "ps",
	"usage: karma ps [--json] [--names]\n"
	"\n"
	"List the guests that this user runs, by name: the process, its state, CPUs, memory that\n"
	"it uses and has, the time since the guest's start, and of which snapshot it came.\n"
	"\n"
	"  --json    an array of objects, as karma-control(7) has them; sizes in bytes\n"
	"  --names   the names alone, for other commands\n"
	"\n"
	"States: starting, running, paused, stopping (asked to power off), ending, halted (after a\n"
	"panic, by --on-panic wait), restarting, silent (its supervisor does not answer).\n"
	"Exit status: 0, or 125 if karma failed.\n" };

/* In the two largest units that are not 0. */
static void print_uptime(int64_t milliseconds)
{
	int64_t seconds = milliseconds / 1000;

	if (seconds < 60)
		printf("%" PRId64 "s", seconds);
	else if (seconds < 3600)
		printf("%" PRId64 "m %" PRId64 "s", seconds / 60, seconds % 60);
	else if (seconds < 24 * 3600)
		printf("%" PRId64 "h %" PRId64 "m", seconds / 3600, seconds / 60 % 60);
	else
		printf("%" PRId64 "d %" PRId64 "h", seconds / (24 * 3600), seconds / 3600 % 24);
}

static void print_row(const char *name, int width, const json_t *status)
{
	struct size_text used = size_text(integer_of(status, "memory_used"));
	struct size_text all = size_text(integer_of(status, "memory"));
	const char *from = string_of(status, "restored_from");

	printf("%-*s  %7" PRId64 "  ", width, name, integer_of(status, "pid"));
	printf("%-10.10s", string_of(status, "state"));
	printf("  %4" PRId64 "  %6s of %-6s  ", integer_of(status, "cpus"), used.text, all.text);
	print_uptime(integer_of(status, "uptime_ms"));
	if (from[0]) {
		fputs(", from ", stdout);
		print_plain(stdout, from);
	}
	putchar('\n');
}

/* Send all requests before the first reply is awaited. */
static json_t *ask_all(char (*names)[CONTROL_NAME_MAX + 1], struct connection *connections, int count)
{
	int64_t until = nanoseconds() + TIMEOUT_MILLISECONDS * 1000000ll;
	json_t *all = json_array();
	int result;

	for (int i = 0; i < count; i++) {
		connections[i] = (struct connection){ .name = names[i], .fd = -1, .pidfd = -1 };
		result = control_connect(names[i], &connections[i].pid);
		connections[i].fd = result;
		if (result >= 0 && connection_send(&connections[i], json_pack("{s:s}", "request", "status")) < 0)
			close_fd(&connections[i].fd);
	}
	for (int i = 0; i < count; i++) {
		int64_t left = (until - nanoseconds()) / 1000000;
		json_t *reply = NULL, *status;

		/* It has ended, or is another user's. */
		if (connections[i].fd < 0 && connections[i].fd != -EAGAIN)
			continue;
		/* The greeting, then the reply. */
		for (unsigned line = 0; line < 2 && connections[i].fd >= 0; line++) {
			json_decref(reply);
			reply = connection_receive(&connections[i], left > 0 ? left : 0);
		}
		status = json_incref(json_object_get(reply, "return"));
		json_decref(reply);
		if (!status)
			status = json_pack("{s:s, s:i, s:s}", "name", names[i], "pid", (int)connections[i].pid,
				"state", "silent");
		json_array_append_new(all, status);
	}
	return all;
}

static void print_table(const json_t *all)
{
	int width = 4;
	size_t i;
	json_t *status;

	json_array_foreach(all, i, status) {
		int length = strlen(string_of(status, "name"));

		width = length > width ? length : width;
	}
	printf("%-*s  %7s  %-10s  %4s  %-16s  %s\n", width, "NAME", "PID", "STATE", "CPUS",
		"MEMORY", "UPTIME");
	json_array_foreach(all, i, status)
		print_row(string_of(status, "name"), width, status);
}

static void print_names(const json_t *all)
{
	size_t i;
	json_t *status;

	json_array_foreach(all, i, status)
		puts(string_of(status, "name"));
}

/* Whether names and states are such as the protocol has, and so harmless to print. */
static bool is_well_formed(const json_t *status)
{
	const char *state = string_of(status, "state");

	return control_name_is_valid(string_of(status, "name")) &&
		state[strspn(state, "abcdefghijklmnopqrstuvwxyz")] == '\0';
}

static void remove_malformed(json_t *all)
{
	for (size_t i = json_array_size(all); i-- > 0;) {
		if (!is_well_formed(json_array_get(all, i)))
			json_array_remove(all, i);
	}
}

int command_ps(int argc, char **argv)
{
	int json = false, only_names = false;
	const struct option options[] = {
		{ "json", no_argument, &json, true },
		{ "names", no_argument, &only_names, true },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int count, status = command_options(&command, options, argc, argv, NULL);
	char (*names)[CONTROL_NAME_MAX + 1] = NULL;
	struct connection *connections;
	json_t *all;

	if (status >= 0)
		return status;
	if (optind < argc)
		return command_misused(&command, "%s: is one argument too many", argv[optind]);
	count = control_list(&names);
	connections = count > 0 ? calloc(count, sizeof(*connections)) : NULL;
	if (count < 0 || (count && !connections)) {
		free(names);
		fail(-ENOMEM, "out of memory");
		return STATUS_FAILURE;
	}
	all = ask_all(names, connections, count);
	remove_malformed(all);
	if (json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (only_names) {
		print_names(all);
	} else {
		print_table(all);
	}
	json_decref(all);
	for (int i = 0; i < count; i++)
		connection_close(&connections[i]);
	free(connections);
	free(names);
	return 0;
}
