// SPDX-License-Identifier: GPL-2.0-only
/*
 * From the configuration of a container to that of one whose process is Karma (runtime-spec 1.0: config.md and
 * config-linux.md name the members).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "karma/log.h"
#include "karma/memory.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "oci.h"

#define MISC_MAJOR 10	/* of its devices (Documentation/admin-guide/devices.txt) */
#define MEMORY_DEFAULT GIB
/* What the monitor and the servers of files take beside the guest's memory, page tables included. */
#define MEMORY_OWN (64 * MIB)
/* Its threads and processes, and io_uring's workers. */
#define PIDS_OWN 256
#define CPUS_DEFAULT 1

static int out_of_memory(void)
{
	return fail(-ENOMEM, "out of memory");
}

/* Set a member, whose reference this takes; NULL: out of memory. */
static int set(json_t *object, const char *name, json_t *value)
{
	return json_object_set_new(object, name, value) < 0 ? out_of_memory() : 0;
}

static int append(json_t *array, json_t *value)
{
	return json_array_append_new(array, value) < 0 ? out_of_memory() : 0;
}

/* A member that is an object or array like `empty`, which is made of it if there is none. */
static json_t *ensure(json_t *object, const char *name, json_t *empty)
{
	json_t *member = json_object_get(object, name);

	if (member && json_typeof(member) == json_typeof(empty)) {
		json_decref(empty);
		return member;
	}
	return json_object_set_new(object, name, empty) == 0 ? empty : NULL;
}

static const char *text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

bool oci_is_sandbox(const json_t *config)
{
	static const char *const names[] = { "io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType" };
	const json_t *annotations = json_object_get(config, "annotations");

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(text_of(annotations, names[i]), "sandbox") == 0)
			return true;
	}
	return false;
}

/* --- What a guest has not. */

/* The namespace of a type; NULL: the host's. */
static const json_t *find_namespace(const json_t *config, const char *type)
{
	const json_t *list = json_object_get(json_object_get(config, "linux"), "namespaces");

	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *namespace = json_array_get(list, i);

		if (strcmp(text_of(namespace, "type"), type) == 0)
			return namespace;
	}
	return NULL;
}

/* A pod that has the host's network names that by a path, such as /proc/PID/ns/net. */
static bool is_own_network(const json_t *namespace)
{
	struct stat there, own;

	return stat(text_of(namespace, "path"), &there) == 0 && stat("/proc/self/ns/net", &own) == 0 &&
	       there.st_dev == own.st_dev && there.st_ino == own.st_ino;
}

static int check_namespaces(const json_t *config)
{
	const json_t *network = find_namespace(config, "network");
	const json_t *pids = find_namespace(config, "pid");

	if (!pids || json_object_get(pids, "path"))
		return fail(-EINVAL, "the container is to share process IDs with others, which a guest can't: leave out --pid");
	if (!network || is_own_network(network))
		return fail(-EINVAL, "the container is to have the host's network, which a guest can't: give it one of its "
				     "own, or --network none");
	if (!find_namespace(config, "mount"))
		return fail(-EINVAL, "config.json: linux.namespaces: there is no mount namespace: add one");
	return 0;
}

/* Those of the specification are there, and a guest has its own. */
static int check_devices(const json_t *config)
{
	static const char *const own[] = { "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
		"/dev/console", "/dev/ptmx" };
	const json_t *list = json_object_get(json_object_get(config, "linux"), "devices");

	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *path = text_of(json_array_get(list, i), "path");
		bool known = false;

		for (size_t j = 0; j < ARRAY_SIZE(own); j++)
			known |= strcmp(path, own[j]) == 0;
		if (!known)
			return fail(-EINVAL, "the device %s: a guest has no devices of the host: leave out --device and "
					     "--privileged", path);
	}
	return 0;
}

/* What is mounted there would not be seen. */
static int check_mounts(const json_t *config)
{
	static const char *const own[] = { "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup" };
	const json_t *list = json_object_get(config, "mounts");

	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *path = text_of(json_array_get(list, i), "destination");
		bool below = strncmp(path, "/dev/", 5) == 0 || strncmp(path, "/proc/", 6) == 0 || strncmp(path, "/sys/", 5) == 0;

		for (size_t j = 0; j < ARRAY_SIZE(own); j++)
			below &= strcmp(path, own[j]) != 0;
		if (below)
			return fail(-EINVAL, "the mount at %s: a guest has its own /dev, /proc and /sys: mount it elsewhere", path);
	}
	return 0;
}

static int check(const json_t *config)
{
	const json_t *process = json_object_get(config, "process");
	struct oci_process parsed = { 0 };
	int result;

	if (!json_is_object(process))
		return fail(-EINVAL, "config.json: there is no process: give one");
	if (!json_is_object(json_object_get(config, "root")) || !json_is_object(json_object_get(config, "linux")))
		return fail(-EINVAL, "config.json: there is no root, or it is not for Linux: give both");
	if (strcmp(text_of(oci_find_mount(config, "/dev"), "type"), "tmpfs") != 0 || !oci_find_mount(config, "/proc"))
		return fail(-EINVAL, "config.json: mounts: there is no tmpfs at /dev, or nothing at /proc: add them");
	result = check_namespaces(config);
	if (result == 0)
		result = check_devices(config);
	if (result == 0)
		result = check_mounts(config);
	if (result == 0)
		result = oci_process_parse(&parsed, process);
	oci_process_release(&parsed);
	return result;
}

/* --- The guest's size. */

static json_int_t integer_of(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

/* How many CPUs a list such as 0-2,7 has; 0 if it is none. */
static unsigned count_cpus(const char *list)
{
	unsigned count = 0;

	while (*list) {
		char *end;
		unsigned long first = strtoul(list, &end, 10), last = first;

		if (end == list)
			return 0;
		list = end;
		if (*list == '-') {
			last = strtoul(++list, &end, 10);
			if (end == list)
				return 0;
			list = end;
		}
		if (last < first || last - first >= VCPUS_MAX || (*list && *list != ','))
			return 0;
		count += last - first + 1;
		list += *list == ',';
	}
	return count;
}

static unsigned choose_cpus(const struct oci_settings *settings, const json_t *resources)
{
	const json_t *cpu = json_object_get(resources, "cpu");
	json_int_t quota = integer_of(cpu, "quota"), period = integer_of(cpu, "period");
	uint64_t cpus = count_cpus(text_of(cpu, "cpus"));

	if (settings->cpus)
		return settings->cpus;
	if (quota > 0 && period > 0)
		cpus = (uint64_t)quota / period + (quota % period != 0);
	if (cpus == 0)
		return CPUS_DEFAULT;
	return cpus < VCPUS_MAX ? cpus : VCPUS_MAX;
}

static uint64_t choose_memory(const struct oci_settings *settings, const json_t *resources)
{
	json_int_t limit = integer_of(json_object_get(resources, "memory"), "limit");
	uint64_t memory = limit > 0 ? (uint64_t)limit : MEMORY_DEFAULT;

	if (settings->memory)
		return settings->memory;
	if (memory < GUEST_MEMORY_MIN)
		return GUEST_MEMORY_MIN;
	return memory < GUEST_MEMORY_MAX ? align_down(memory, PAGE_BYTES) : GUEST_MEMORY_MAX;
}

json_int_t oci_with_own_memory(json_int_t limit)
{
	json_int_t raised;

	return limit > 0 && !__builtin_add_overflow(limit, (json_int_t)MEMORY_OWN, &raised) ? raised : limit;
}

int oci_raise_limits(json_t *memory)
{
	/* The limit of swap has memory in it. */
	static const char *const names[] = { "limit", "swap", "reservation" };
	int result = 0;

	for (size_t i = 0; i < ARRAY_SIZE(names) && result == 0; i++) {
		if (json_is_integer(json_object_get(memory, names[i])))
			result = set(memory, names[i], json_integer(oci_with_own_memory(integer_of(memory, names[i]))));
	}
	return result;
}

json_int_t oci_with_own_pids(json_int_t limit)
{
	json_int_t raised;

	return limit > 0 && !__builtin_add_overflow(limit, PIDS_OWN, &raised) ? raised : limit;
}

int oci_raise_pids(json_t *pids)
{
	return json_is_integer(json_object_get(pids, "limit")) ?
		set(pids, "limit", json_integer(oci_with_own_pids(integer_of(pids, "limit")))) : 0;
}

/* --- What Karma needs in the container. */

static int add_mount(json_t *config, const char *source, const char *destination, const char *access)
{
	return append(json_object_get(config, "mounts"), json_pack("{ssssss s[sssss]}", "destination", destination, "type",
		"bind", "source", source, "options", "bind", access, "nosuid", "nodev", "private"));
}

static int add_files(json_t *config, const struct oci_settings *settings, const char *program)
{
	int result = add_mount(config, program, OCI_PROGRAM, "ro");

	if (result == 0)
		result = add_mount(config, settings->kernel, OCI_KERNEL, "ro");
	if (result == 0)
		result = add_mount(config, settings->initrd, OCI_INITRD, "ro");
	return result == 0 && settings->cache ? add_mount(config, settings->cache, OCI_CACHE, "rw") : result;
}

static int add_device(json_t *config, const char *path, int minor)
{
	json_t *linux_part = json_object_get(config, "linux");
	json_t *devices = ensure(linux_part, "devices", json_array());
	json_t *resources = ensure(linux_part, "resources", json_object());
	json_t *allowed = resources ? ensure(resources, "devices", json_array()) : NULL;

	if (!devices || !allowed)
		return out_of_memory();
	if (append(devices, json_pack("{ss ss si si si si si}", "path", path, "type", "c", "major", MISC_MAJOR, "minor", minor,
		"fileMode", 0600, "uid", 0, "gid", 0)) < 0)
		return -ENOMEM;
	return append(allowed, json_pack("{sb ss si si ss}", "allow", 1, "type", "c", "major", MISC_MAJOR, "minor", minor,
		"access", "rw"));
}

/*
 * Karma is root there, with what it takes to make namespaces for its sandbox, to hand over the network, and to serve the files
 * of any user.
 */
static json_t *own_capabilities(void)
{
	static const char *const names[] = { "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETUID",
		"CAP_SETGID", "CAP_SYS_ADMIN", "CAP_NET_ADMIN" };
	json_t *list = json_array();

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		json_array_append_new(list, json_string(names[i]));
	return json_pack("{sO sO so}", "bounding", list, "effective", list, "permitted", list);
}

int oci_translate_process(json_t *process, json_t *task, const char *word)
{
	static const char *const gone[] = { "rlimits", "apparmorProfile", "selinuxLabel", "commandLine", "scheduler" };
	cleanup_free char *text = task ? json_dumps(task, JSON_COMPACT) : NULL;

	json_decref(task);
	if (!text)
		return fail(-EINVAL, "config.json: can't be passed on: give texts in UTF-8");
	if (sizeof(OCI_VARIABLE "=") + strlen(text) > OCI_VARIABLE_MAX)
		return fail(-E2BIG, "the container's command and environment are longer than 128 KiB: pass them in a file");
	for (size_t i = 0; i < ARRAY_SIZE(gone); i++)
		json_object_del(process, gone[i]);
	if (set(process, "user", json_pack("{si si}", "uid", 0, "gid", 0)) < 0 ||
		set(process, "args", json_pack("[sss]", OCI_PROGRAM, "oci", word)) < 0 ||
		set(process, "env", json_pack("[s+ s s]", OCI_VARIABLE "=", text, "XDG_RUNTIME_DIR=/dev",
			"KARMA_CACHE_DIR=" OCI_CACHE)) < 0 ||
		set(process, "cwd", json_string("/")) < 0 || set(process, "capabilities", own_capabilities()) < 0 ||
		set(process, "noNewPrivileges", json_true()) < 0)
		return -ENOMEM;
	return 0;
}

int oci_translate(json_t *config, const struct oci_settings *settings, const char *program)
{
	json_t *process = json_object_get(config, "process"), *resources, *task;
	cleanup_free char *script = NULL;
	int result = check(config);

	if (result < 0)
		return result;
	script = oci_setup_script(config);
	resources = json_object_get(json_object_get(config, "linux"), "resources");
	task = json_pack("{so si sI sb ss}", "process", json_deep_copy(process), "cpus", (int)choose_cpus(settings, resources),
		"memory", (json_int_t)choose_memory(settings, resources), "warm", !settings->no_warm, "setup", script);
	result = oci_translate_process(process, task, "guest");
	if (result == 0)
		result = oci_raise_limits(json_object_get(resources, "memory"));
	if (result == 0)
		result = oci_raise_pids(json_object_get(resources, "pids"));
	/* A guest's system calls are its own kernel's. */
	json_object_del(json_object_get(config, "linux"), "seccomp");
	if (result == 0)
		result = add_device(config, "/dev/kvm", 232);
	if (result == 0)
		result = add_device(config, "/dev/net/tun", 200);
	return result == 0 ? add_files(config, settings, program) : result;
}

json_t *oci_task(const json_t *config)
{
	const size_t length = strlen(OCI_VARIABLE "=");
	const json_t *variables = json_object_get(json_object_get(config, "process"), "env");
	json_t *task = NULL;

	for (size_t i = 0; i < json_array_size(variables) && !task; i++) {
		const char *variable = json_string_value(json_array_get(variables, i));

		if (variable && strncmp(variable, OCI_VARIABLE "=", length) == 0)
			task = json_loads(variable + length, 0, NULL);
	}
	return task;
}

json_t *oci_original_process(const json_t *config)
{
	json_t *task = oci_task(config);
	json_t *process = json_incref(json_object_get(task, "process"));

	json_decref(task);
	return process;
}
