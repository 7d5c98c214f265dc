// SPDX-License-Identifier: GPL-2.0-only
/* The counters in the report as JSON (karma-control(7), "stats"). */
#include <limits.h>
#include <string.h>

#include "internal.h"
#include "karma/latency.h"
#include "karma/util.h"

/* Members that hold the counters of a kind, by their names. */
static const char *const groups[STATS_KINDS] = {
	[STATS_EXIT] = "exits",
	[STATS_HYPERCALL] = "hypercalls",
	[STATS_IO_URING] = "io_uring",
	[STATS_KVM] = "kvm",
};

/* jansson's integers are signed. */
static json_int_t number(uint64_t value)
{
	return value > LLONG_MAX ? LLONG_MAX : (json_int_t)value;
}

/* A member that is an object, made if it isn't there; NULL if memory is short. */
static json_t *object_in(json_t *object, const char *name)
{
	json_t *member = json_object_get(object, name);

	if (!member) {
		member = json_object();
		if (json_object_set_new(object, name, member) < 0)
			return NULL;
	}
	return member;
}

/* "latency": { "read": { "ns": SUM, "buckets": [[BOUND, COUNT], ...] } }; a bound of 0: none. */
static int add_latency(json_t *device, const struct report_counter *counter)
{
	json_t *kind = object_in(object_in(device, "latency"), counter->name);
	json_t *buckets;
	uint64_t bound = counter->bucket < LATENCY_BUCKETS ? latency_bound(counter->bucket) : 0;

	if (counter->kind == STATS_LATENCY_SUM)
		return json_object_set_new(kind, "ns", json_integer(number(counter->value)));
	buckets = json_object_get(kind, "buckets");
	if (!buckets) {
		buckets = json_array();
		if (json_object_set_new(kind, "buckets", buckets) < 0)
			return -1;
	}
	return json_array_append_new(
		buckets, json_pack("[I, I]", (json_int_t)bound, number(counter->value)));
}

static int add_counter(json_t *all, const struct report_counter *counter)
{
	json_t *device;

	if (groups[counter->kind])
		return json_object_set_new(object_in(all, groups[counter->kind]), counter->name,
			json_integer(number(counter->value)));
	device = object_in(object_in(all, "devices"), counter->device);
	if (counter->kind != STATS_DEVICE)
		return add_latency(device, counter);
	return json_object_set_new(
		object_in(device, "counters"), counter->name, json_integer(number(counter->value)));
}

json_t *statistics_of(const struct report *report)
{
	unsigned count = report_counter_count(report);
	json_t *all = json_object();

	for (unsigned i = 0; all && i < count; i++) {
		struct report_counter counter;

		if (!report_counter_at(report, i, &counter))
			continue;
		if (add_counter(all, &counter) < 0) {
			json_decref(all);
			return NULL;
		}
	}
	return all;
}
