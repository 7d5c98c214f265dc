// SPDX-License-Identifier: GPL-2.0-only
/* PROCESS: the user, rights and limits of a container's process. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define UMASK_MAX 0777u
#define RESOURCES 16u	/* RLIM_NLIMITS of Linux */

static void take_groups(struct process *process, const uint8_t *at)
{
	for (size_t i = 0; i < process->group_count; i++)
		process->groups[i] = agent_number(at + i * sizeof(uint32_t));
}

static int take_limits(struct process *process, const uint8_t *at)
{
	for (size_t i = 0; i < process->limit_count; i++) {
		struct agent_limit *limit = &process->limits[i];

		memcpy(limit, at + i * sizeof(*limit), sizeof(*limit));
		limit->resource = le32toh(limit->resource);
		limit->soft = le64toh(limit->soft);
		limit->hard = le64toh(limit->hard);
		if (limit->resource >= RESOURCES || limit->zero)
			return -EPROTO;
	}
	return 0;
}

int process_parse(struct process *process, const struct agent_frame *frame)
{
	struct agent_process head;
	size_t groups, limits;

	if (frame->length < sizeof(head))
		return -EPROTO;
	memcpy(&head, frame->payload, sizeof(head));
	groups = le32toh(head.group_count);
	limits = le32toh(head.limit_count);
	if (groups > PROCESS_GROUPS_MAX || limits > PROCESS_LIMITS_MAX || le32toh(head.umask) > UMASK_MAX ||
		le32toh(head.flags) & ~AGENT_PROCESS_NO_NEW_PRIVILEGES ||
		frame->length != sizeof(head) + groups * sizeof(uint32_t) + limits * sizeof(struct agent_limit))
		return -EPROTO;
	*process = (struct process){
		.no_new_privileges = le32toh(head.flags) & AGENT_PROCESS_NO_NEW_PRIVILEGES,
		.uid = le32toh(head.uid),
		.gid = le32toh(head.gid),
		.umask = le32toh(head.umask),
		.bounding = le64toh(head.bounding),
		.effective = le64toh(head.effective),
		.inheritable = le64toh(head.inheritable),
		.permitted = le64toh(head.permitted),
		.ambient = le64toh(head.ambient),
		.group_count = groups,
		.limit_count = limits,
	};
	take_groups(process, frame->payload + sizeof(head));
	return take_limits(process, frame->payload + sizeof(head) + groups * sizeof(uint32_t));
}

static int set_limits(const struct process *process)
{
	for (size_t i = 0; i < process->limit_count; i++) {
		const struct agent_limit *limit = &process->limits[i];
		const struct rlimit value = { limit->soft, limit->hard };

		if (setrlimit(limit->resource, &value) < 0)
			return -errno;
	}
	return 0;
}

/* What this kernel does not know, nobody has. */
static int drop_bounding(uint64_t kept)
{
	for (unsigned number = 0; number < 64 && prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++) {
		if (!(kept >> number & 1) && prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0)
			return -errno;
	}
	return 0;
}

/* No more than the bounding set has, which is what this kernel knows at most. */
static int set_capabilities(const struct process *process)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2];
	uint64_t known = 0;

	for (unsigned number = 0; number < 64 && prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++)
		known |= 1ull << number;
	for (unsigned i = 0; i < 2; i++) {
		sets[i].effective = (process->effective & known) >> i * 32;
		sets[i].permitted = (process->permitted & known) >> i * 32;
		sets[i].inheritable = (process->inheritable & known) >> i * 32;
	}
	if (syscall(SYS_capset, &header, sets) < 0)
		return -errno;
	/* What an ambient capability needs (capabilities(7)); other runtimes leave out others as silently. */
	known &= process->ambient & process->permitted & process->inheritable;
	for (unsigned number = 0; number < 64; number++) {
		if (known >> number & 1 &&
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) < 0)
			return -errno;
	}
	return 0;
}

int process_become(const struct process *process)
{
	int result = set_limits(process);

	umask(process->umask);
	if (result == 0)
		result = drop_bounding(process->bounding);
	if (result < 0)
		return result;
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(process->group_count, process->groups) < 0 ||
		setgid(process->gid) < 0 || setuid(process->uid) < 0)
		return -errno;
	result = set_capabilities(process);
	if (result == 0 && process->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		result = -errno;
	return result;
}

int container_enter(const struct container *container)
{
	if (chdir(container->root) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return -errno;
	/* A root without the directory does without. */
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 && errno != ENOENT)
		return -errno;
	return 0;
}

void container_started(const struct container *container, pid_t pid)
{
	struct agent_place place = { .root = container->root };
	char path[64];
	int listener;

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
	place.pid_namespace = open(path, O_RDONLY | O_CLOEXEC);
	/* It may have ended. */
	if (place.pid_namespace < 0)
		return;
	listener = agent_listen();
	if (listener >= 0) {
		agent_serve_all(listener, &place);
		close(listener);
	}
	close(place.pid_namespace);
}
