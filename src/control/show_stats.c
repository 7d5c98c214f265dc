// SPDX-License-Identifier: GPL-2.0-only
/* karma stats: what guests and their devices do, for people, for programs, and for Prometheus. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "client.h"
#include "karma/commands.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/util.h"

#define WATCH_MILLISECONDS 1000

static const struct command command = { "stats",
	"usage: karma stats [--json | --prometheus | --watch] [NAME]...\n"
	"\n"
	"Print counters of guests, of all without NAME: exits, hypercalls, and for each device its\n"
	"requests, bytes, errors and how long requests took.\n"
	"\n"
	"  --json         an object with one member for each guest, as karma-control(7) has it\n"
	"  --prometheus   metrics in the text format of Prometheus\n"
	"  --watch        what happens each second, until Ctrl-C\n"
	"\n"
	"Exit status: 0, or 125 if a guest was not to be reached.\n" };

enum form { FORM_TEXT, FORM_JSON, FORM_PROMETHEUS, FORM_WATCH };

/* { NAME: { "status": ..., "stats": ... }, ... } of the guests that reply; clears *complete if one does not. */
static json_t *ask_all(char **names, int count, bool quiet, bool *complete)
{
	json_t *all = json_object();

	for (int i = 0; i < count; i++) {
		struct connection connection;
		json_t *status = NULL, *stats = NULL;

		if (connection_open(&connection, names[i], quiet) == 0) {
			status = connection_call(&connection, json_pack("{s:s}", "request", "status"));
			stats = status ?
				connection_call(&connection, json_pack("{s:s}", "request", "stats")) : NULL;
		}
		connection_close(&connection);
		if (stats)
			json_object_set_new(all, names[i], json_pack("{s:O, s:O}", "status", status, "stats", stats));
		else
			*complete = false;
		json_decref(status);
		json_decref(stats);
	}
	return all;
}

/* --- Histograms. */

struct histogram {
	uint64_t count;
	double seconds;
	const json_t *buckets;
};

static struct histogram histogram_of(const json_t *latency)
{
	struct histogram histogram = {
		.seconds = integer_of(latency, "ns") / 1e9,
		.buckets = json_object_get(latency, "buckets"),
	};
	const json_t *bucket;
	size_t i;

	json_array_foreach(histogram.buckets, i, bucket)
		histogram.count += json_integer_value(json_array_get(bucket, 1));
	return histogram;
}

/* The upper bound, in nanoseconds, of the bucket with that quantile; 0: the last bucket, which has none. */
static int64_t quantile(const struct histogram *histogram, double share)
{
	uint64_t seen = 0;
	const json_t *bucket;
	size_t i;

	json_array_foreach(histogram->buckets, i, bucket) {
		seen += json_integer_value(json_array_get(bucket, 1));
		if (seen >= share * histogram->count)
			return json_integer_value(json_array_get(bucket, 0));
	}
	return 0;
}

static void print_time(int64_t ns)
{
	if (ns == 0)
		printf(" >8s");
	else if (ns < 1000000)
		printf(" <%.0fus", ns / 1e3);
	else if (ns < 1000000000)
		printf(" <%.0fms", ns / 1e6);
	else
		printf(" <%.1fs", ns / 1e9);
}

/* --- Text. */

static void print_group(const char *title, const json_t *group)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)group, name, value) {
		if (json_integer_value(value))
			printf("  %s.%-*s %15" JSON_INTEGER_FORMAT "\n", title, 36 - (int)strlen(title), name,
				json_integer_value(value));
	}
}

static void print_latencies(const char *device, const json_t *latencies)
{
	const char *operation;
	json_t *latency;

	json_object_foreach((json_t *)latencies, operation, latency) {
		struct histogram histogram = histogram_of(latency);

		if (!histogram.count)
			continue;
		printf("  %s.%s took %.0fus on average; half of them", device, operation,
			histogram.seconds * 1e6 / histogram.count);
		print_time(quantile(&histogram, 0.5));
		printf(", 99%%");
		print_time(quantile(&histogram, 0.99));
		putchar('\n');
	}
}

static void print_text(const char *name, const json_t *guest)
{
	static const char *const groups[] = { "exits", "hypercalls", "io_uring", "kvm", "snapshots" };
	const json_t *stats = json_object_get(guest, "stats");
	const char *device_name;
	json_t *device;

	printf("%s\n", name);
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		print_group(groups[i], json_object_get(stats, groups[i]));
	json_object_foreach(json_object_get(stats, "devices"), device_name, device) {
		print_group(device_name, json_object_get(device, "counters"));
		print_latencies(device_name, json_object_get(device, "latency"));
	}
}

/* --- Prometheus, whose format wants all samples of a metric together. */

static void print_metric(const char *name, const char *type, const char *help)
{
	printf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A group of counters: `metric{guest="...",label="..."} value`. */
static void print_counters(const json_t *all, const char *group, const char *type, const char *metric, const char *label,
	const char *help)
{
	const char *guest_name, *name;
	json_t *guest, *value;

	print_metric(metric, type, help);
	json_object_foreach((json_t *)all, guest_name, guest) {
		json_object_foreach(json_object_get(json_object_get(guest, "stats"), group), name, value)
			printf("%s{guest=\"%s\",%s=\"%s\"} %" JSON_INTEGER_FORMAT "\n", metric, guest_name,
				label, name, json_integer_value(value));
	}
}

static void print_gauge(const json_t *all, const char *member, double unit, const char *metric,
	const char *help)
{
	const char *guest_name;
	json_t *guest;

	print_metric(metric, "gauge", help);
	json_object_foreach((json_t *)all, guest_name, guest)
		printf("%s{guest=\"%s\"} %.15g\n", metric, guest_name,
			integer_of(json_object_get(guest, "status"), member) * unit);
}

static void print_device_counters(const json_t *all)
{
	const char *guest_name, *device_name, *name;
	json_t *guest, *device, *value;

	print_metric("karma_device", "untyped", "Counters of devices.");
	json_object_foreach((json_t *)all, guest_name, guest) {
		json_object_foreach(json_object_get(json_object_get(guest, "stats"), "devices"), device_name,
			device) {
			json_object_foreach(json_object_get(device, "counters"), name, value)
				printf("karma_device{guest=\"%s\",device=\"%s\",counter=\"%s\"} "
				       "%" JSON_INTEGER_FORMAT "\n",
					guest_name, device_name, name, json_integer_value(value));
		}
	}
}

static void print_histogram(
	const char *guest, const char *device, const char *operation, const json_t *latency)
{
	struct histogram histogram = histogram_of(latency);
	char labels[256];
	uint64_t seen = 0;
	const json_t *bucket;
	size_t i;

	snprintf(labels, sizeof(labels), "guest=\"%s\",device=\"%s\",operation=\"%s\"", guest, device,
		operation);
	json_array_foreach(histogram.buckets, i, bucket) {
		int64_t bound = json_integer_value(json_array_get(bucket, 0));

		seen += json_integer_value(json_array_get(bucket, 1));
		if (bound)
			printf("karma_device_latency_seconds_bucket{%s,le=\"%.9g\"} %" PRIu64 "\n", labels,
				bound / 1e9, seen);
	}
	printf("karma_device_latency_seconds_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", labels, histogram.count);
	printf("karma_device_latency_seconds_sum{%s} %.9f\n", labels, histogram.seconds);
	printf("karma_device_latency_seconds_count{%s} %" PRIu64 "\n", labels, histogram.count);
}

static void print_histograms(const json_t *all)
{
	const char *guest_name, *device_name, *operation;
	json_t *guest, *device, *latency;

	print_metric("karma_device_latency_seconds", "histogram", "How long requests to devices took.");
	json_object_foreach((json_t *)all, guest_name, guest) {
		json_object_foreach(json_object_get(json_object_get(guest, "stats"), "devices"), device_name,
			device) {
			json_object_foreach(json_object_get(device, "latency"), operation, latency)
				print_histogram(guest_name, device_name, operation, latency);
		}
	}
}

static void print_prometheus(const json_t *all)
{
	print_gauge(all, "uptime_ms", 1e-3, "karma_uptime_seconds", "Time since the guest's start.");
	print_gauge(all, "cpus", 1, "karma_cpus", "CPUs that the guest has.");
	print_gauge(all, "memory", 1, "karma_memory_bytes", "Memory that the guest has.");
	print_gauge(all, "memory_used", 1, "karma_memory_used_bytes", "Memory of the host that it uses.");
	print_gauge(all, "balloon", 1, "karma_balloon_bytes", "Memory that it was asked to give up.");
	print_gauge(all, "starts", 1, "karma_starts", "Starts of the guest, restarts among them.");
	print_counters(all, "exits", "counter", "karma_exits_total", "reason", "Exits from the guest to Karma.");
	print_counters(all, "hypercalls", "counter", "karma_hypercalls_total", "call", "Hypercalls of the guest.");
	print_counters(all, "io_uring", "counter", "karma_io_uring_total", "what", "Use of io_uring.");
	print_counters(all, "kvm", "counter", "karma_kvm_total", "counter", "Counters of KVM, with --stats.");
	print_counters(all, "snapshots", "untyped", "karma_snapshots", "what", "Snapshots, and figures of the last one.");
	print_device_counters(all);
	print_histograms(all);
}

/* --- The live view. */

static int64_t sum_of(const json_t *group)
{
	const char *name;
	int64_t sum = 0;
	json_t *value;

	json_object_foreach((json_t *)group, name, value)
		sum += json_integer_value(value);
	return sum;
}

static void print_rate(const char *what, int64_t now, int64_t before, double seconds)
{
	/* After a restart of the guest, counters begin at 0. */
	printf("  %-36s %12.0f/s\n", what, now >= before ? (now - before) / seconds : now / seconds);
}

static void watch_device(const char *name, const json_t *now, const json_t *before, double seconds)
{
	const json_t *old = json_object_get(before, "counters");
	const char *counter;
	json_t *value;
	char what[80];

	json_object_foreach(json_object_get(now, "counters"), counter, value) {
		int64_t was = integer_of(old, counter);

		snprintf(what, sizeof(what), "%s.%s", name, counter);
		if (json_integer_value(value) != was)
			print_rate(what, json_integer_value(value), was, seconds);
	}
}

static void watch_guest(const char *name, const json_t *now, const json_t *before, double seconds)
{
	const json_t *status = json_object_get(now, "status"), *stats = json_object_get(now, "stats");
	const json_t *old = json_object_get(before, "stats");
	const char *device_name;
	struct size_text used = size_text(integer_of(status, "memory_used"));
	json_t *device;

	printf("%s: ", name);
	print_plain(stdout, string_of(status, "state"));
	printf(", %s of memory\n", used.text);
	print_rate("exits", sum_of(json_object_get(stats, "exits")), sum_of(json_object_get(old, "exits")),
		seconds);
	print_rate("hypercalls", sum_of(json_object_get(stats, "hypercalls")),
		sum_of(json_object_get(old, "hypercalls")), seconds);
	json_object_foreach(json_object_get(stats, "devices"), device_name, device)
		watch_device(device_name, device,
			json_object_get(json_object_get(old, "devices"), device_name), seconds);
}

static int watch(char **names, int count)
{
	json_t *before = NULL;
	int64_t then = 0;
	bool any = true;

	while (any) {
		bool complete = true;
		json_t *all = ask_all(names, count, before != NULL, &complete), *guest;
		int64_t now = nanoseconds();
		const char *name;

		if (before && isatty(STDOUT_FILENO))
			fputs("\033[H\033[J", stdout);
		json_object_foreach(all, name, guest) {
			if (before)
				watch_guest(name, guest, json_object_get(before, name), (now - then) / 1e9);
		}
		fflush(stdout);
		any = json_object_size(all) > 0 && !ferror(stdout);
		json_decref(before);
		before = all;
		then = now;
		if (any)
			poll(NULL, 0, WATCH_MILLISECONDS);
	}
	json_decref(before);
	return 0;
}

/* --- The command. */

static int show(enum form form, char **names, int count, bool quiet)
{
	bool complete = true;
	const char *name;
	json_t *all, *guest;

	if (form == FORM_WATCH)
		return watch(names, count);
	all = ask_all(names, count, quiet, &complete);
	if (form == FORM_JSON) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (form == FORM_PROMETHEUS) {
		print_prometheus(all);
	} else {
		json_object_foreach(all, name, guest)
			print_text(name, guest);
	}
	json_decref(all);
	return complete || quiet ? 0 : STATUS_FAILURE;
}

/* Of all guests; quietly, since one may end meanwhile. */
static int show_all(enum form form)
{
	char (*names)[CONTROL_NAME_MAX + 1];
	int count = control_list(&names), status = STATUS_FAILURE;
	char **list = count > 0 ? calloc(count, sizeof(*list)) : NULL;

	if (count < 0 || (count && !list)) {
		fail(-ENOMEM, "out of memory");
	} else {
		for (int i = 0; i < count; i++)
			list[i] = names[i];
		status = show(form, list, count, true);
	}
	free(list);
	free(names);
	return status;
}

int command_stats(int argc, char **argv)
{
	int json = 0, prometheus = 0, watch = 0;
	const struct option options[] = {
		{ "json", no_argument, &json, FORM_JSON },
		{ "prometheus", no_argument, &prometheus, FORM_PROMETHEUS },
		{ "watch", no_argument, &watch, FORM_WATCH },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int status = command_options(&command, options, argc, argv, NULL);
	enum form form = json | prometheus | watch;

	if (status >= 0)
		return status;
	if (!!json + !!prometheus + !!watch > 1)
		return command_misused(&command, "give one of --json, --prometheus and --watch");
	for (int i = optind; i < argc; i++) {
		if (!control_name_is_valid(argv[i]))
			return command_misused(&command, "%s: is no guest's name", argv[i]);
	}
	return optind < argc ? show(form, argv + optind, argc - optind, false) : show_all(form);
}
