// SPDX-License-Identifier: GPL-2.0-only
/* A container's process, from its configuration to what the guest's agent is asked for. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "karma/agent_protocol.h"
#include "karma/log.h"
#include "karma/util.h"
#include "oci.h"

#define UMASK_DEFAULT 0022
#define GROUPS_MAX 1024u
#define LIMITS_MAX 16u

/* By their numbers (linux/capability.h). */
static const char *const capabilities[] = { "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID",
	"SETUID", "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK",
	"IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE" };

/* By their numbers (asm-generic/resource.h). */
static const char *const limits[] = { "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS",
	"LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME" };

/* The number of a name behind its prefix, or -1. */
static int find_name(const char *const *names, size_t count, const char *prefix, const char *name)
{
	size_t length = strlen(prefix);

	for (size_t i = 0; name && strncmp(name, prefix, length) == 0 && i < count; i++) {
		if (strcmp(names[i], name + length) == 0)
			return i;
	}
	return -1;
}

/* What of a set this kernel's newer sisters have is left out, as runc does. */
static uint64_t capability_set(const json_t *process, const char *which)
{
	const json_t *list = json_object_get(json_object_get(process, "capabilities"), which);
	uint64_t set = 0;

	for (size_t i = 0; i < json_array_size(list); i++) {
		int number = find_name(capabilities, ARRAY_SIZE(capabilities), "CAP_",
			json_string_value(json_array_get(list, i)));

		if (number >= 0)
			set |= 1ull << number;
	}
	return htole64(set);
}

/* An array of strings as one that ends with NULL; NULL with a message printed. */
static const char **take_strings(const json_t *list, const char *what, size_t *count)
{
	const char **strings = calloc(json_array_size(list) + 1, sizeof(*strings));

	*count = 0;
	for (size_t i = 0; strings && i < json_array_size(list); i++) {
		const char *string = json_string_value(json_array_get(list, i));

		if (!string) {
			free(strings);
			fail(-EINVAL, "config.json: process.%s: has what is no text: give texts", what);
			return NULL;
		}
		/* A variable without a value is none. */
		if (strcmp(what, "env") != 0 || (string[0] != '=' && strchr(string, '=')))
			strings[(*count)++] = string;
	}
	if (!strings)
		fail(-ENOMEM, "out of memory");
	return strings;
}

static bool is_number(const json_t *value, json_int_t max)
{
	return json_is_integer(value) && json_integer_value(value) >= 0 && json_integer_value(value) <= max;
}

/* A number of a user or group, or none. */
static int take_number(const json_t *user, const char *name, json_int_t max, uint32_t *number)
{
	const json_t *value = json_object_get(user, name);

	if (!value)
		return 0;
	if (!is_number(value, max))
		return fail(-EINVAL, "config.json: process.user.%s: is out of range: give 0 to %lld", name, (long long)max);
	*number = json_integer_value(value);
	return 0;
}

static int take_groups(uint32_t *to, size_t *count, const json_t *list)
{
	*count = json_array_size(list);
	if (*count > GROUPS_MAX)
		return fail(-E2BIG, "config.json: process.user.additionalGids: are more than %u: give fewer", GROUPS_MAX);
	for (size_t i = 0; i < *count; i++) {
		if (!is_number(json_array_get(list, i), UINT32_MAX - 1))
			return fail(-EINVAL, "config.json: process.user.additionalGids: has what is no group's number");
		to[i] = htole32(json_integer_value(json_array_get(list, i)));
	}
	return 0;
}

/* A bound beyond JSON's integers, as the spec's uint64 has for none, is read as a real number. */
static uint64_t take_bound(const json_t *value)
{
	return json_is_integer(value) && json_integer_value(value) >= 0 ? (uint64_t)json_integer_value(value) : RLIM_INFINITY;
}

static int take_limits(struct agent_limit *to, size_t *count, const json_t *list)
{
	*count = json_array_size(list);
	if (*count > LIMITS_MAX)
		return fail(-E2BIG, "config.json: process.rlimits: are more than %u: give each once", LIMITS_MAX);
	for (size_t i = 0; i < *count; i++) {
		const json_t *limit = json_array_get(list, i);
		const char *type = json_string_value(json_object_get(limit, "type"));
		int number = find_name(limits, ARRAY_SIZE(limits), "RLIMIT_", type);

		if (number < 0)
			return fail(-EINVAL, "config.json: process.rlimits: %s: is no limit of Linux", type ? type : "a type");
		to[i] = (struct agent_limit){
			.resource = htole32(number),
			.soft = htole64(take_bound(json_object_get(limit, "soft"))),
			.hard = htole64(take_bound(json_object_get(limit, "hard"))),
		};
	}
	return 0;
}

/* The payload of PROCESS (karma-agent(7)). */
static int make_payload(struct oci_process *to, const json_t *process)
{
	const json_t *user = json_object_get(process, "user");
	uint32_t groups[GROUPS_MAX], uid = 0, gid = 0, mask = UMASK_DEFAULT;
	struct agent_limit bounds[LIMITS_MAX];
	size_t group_count, limit_count;
	struct agent_process head = {
		.flags = htole32(json_is_true(json_object_get(process, "noNewPrivileges")) ?
				AGENT_PROCESS_NO_NEW_PRIVILEGES : 0),
		.bounding = capability_set(process, "bounding"),
		.effective = capability_set(process, "effective"),
		.inheritable = capability_set(process, "inheritable"),
		.permitted = capability_set(process, "permitted"),
		.ambient = capability_set(process, "ambient"),
	};
	char *at;

	if (take_number(user, "uid", UINT32_MAX - 1, &uid) < 0 || take_number(user, "gid", UINT32_MAX - 1, &gid) < 0 ||
		take_number(user, "umask", 0777, &mask) < 0 ||
		take_groups(groups, &group_count, json_object_get(user, "additionalGids")) < 0 ||
		take_limits(bounds, &limit_count, json_object_get(process, "rlimits")) < 0)
		return -EINVAL;
	head.uid = htole32(uid);
	head.gid = htole32(gid);
	head.umask = htole32(mask);
	head.group_count = htole32(group_count);
	head.limit_count = htole32(limit_count);
	to->command.process_length = sizeof(head) + group_count * sizeof(groups[0]) + limit_count * sizeof(bounds[0]);
	to->payload = at = malloc(to->command.process_length);
	if (!at)
		return fail(-ENOMEM, "out of memory");
	at = mempcpy(at, &head, sizeof(head));
	at = mempcpy(at, groups, group_count * sizeof(groups[0]));
	memcpy(at, bounds, limit_count * sizeof(bounds[0]));
	return 0;
}

int oci_process_parse(struct oci_process *to, const json_t *process)
{
	struct agent_command *command = &to->command;
	const char *directory = json_string_value(json_object_get(process, "cwd"));

	*to = (struct oci_process){ .command = {
		.terminal = json_is_true(json_object_get(process, "terminal")),
		.input = true,
		.all_signals = true,
		.directory = directory ? directory : "/",
		.fds = { 0, 1, 2 },
	} };
	if (json_array_size(json_object_get(process, "args")) == 0)
		return fail(-EINVAL, "config.json: process.args: there is no command: give one");
	to->arguments = take_strings(json_object_get(process, "args"), "args", &command->argument_count);
	to->environment = take_strings(json_object_get(process, "env"), "env", &command->environment_count);
	if (!to->arguments || !to->environment || make_payload(to, process) < 0)
		return -EINVAL;
	command->arguments = to->arguments;
	command->environment = to->environment;
	command->process = to->payload;
	return 0;
}

void oci_process_release(struct oci_process *process)
{
	free(process->arguments);
	free(process->environment);
	free(process->payload);
}
