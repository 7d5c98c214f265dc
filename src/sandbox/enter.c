// SPDX-License-Identifier: GPL-2.0-only
/* The steps into the sandbox, but for namespaces and filters: user, control group, capabilities, limits. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "internal.h"
#include "karma/getent.h"
#include "karma/log.h"
#include "karma/util.h"

/* A line of passwd(5): NAME:PASSWORD:UID:GID:... */
static bool parse_user(char *line, uid_t *uid, gid_t *gid)
{
	char *end;

	strsep(&line, ":");
	strsep(&line, ":");
	if (!line)
		return false;
	*uid = strtoul(line, &end, 10);
	if (end == line || *end != ':')
		return false;
	line = end + 1;
	*gid = strtoul(line, &end, 10);
	return end > line && *end == ':';
}

static int find_user(struct sandbox *sandbox)
{
	const char *name = sandbox->options.user;
	char line[1024];
	int result;

	if (!name)
		return 0;
	if (geteuid() != 0)
		return fail(-EPERM, "--user %s: only root can become another user: leave it out", name);
	result = getent("passwd", name, line, sizeof(line));
	if (result == 0 && !parse_user(line, &sandbox->uid, &sandbox->gid))
		result = -ENOENT;
	if (result == -ENOENT)
		return fail(result, "--user %s: there is no such user: give one that `getent passwd` has",
			name);
	if (result < 0)
		return result;
	if (sandbox->uid == 0)
		return fail(-EINVAL, "--user %s: is root: give another, or leave it out", name);
	return 0;
}

static int enter_cgroup(const char *path)
{
	cleanup_free char *file = NULL;
	cleanup_fd int fd = -1;

	if (!path)
		return 0;
	if (asprintf(&file, "%s/cgroup.procs", path) < 0)
		return fail(-ENOMEM, "--cgroup %s: out of memory", path);
	fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return fail(-ENOENT, "--cgroup %s: is no control group: make it (mkdir), below /sys/fs/cgroup",
			path);
	/* 0 stands for the writing process (cgroups(7)). */
	if (fd < 0 || write(fd, "0", 1) != 1)
		return fail(-errno, "--cgroup %s: can't enter it: %s: run karma as root, or have it "
				    "delegated to you; it must have no groups below it",
			path, strerror(errno));
	return 0;
}

int sandbox_prepare(struct sandbox *sandbox, const struct sandbox_options *options)
{
	int result;

	*sandbox = (struct sandbox){ .options = *options };
	if (options->off)
		note("--no-sandbox: a guest that breaks out of its virtual machine has all your rights");
	result = enter_cgroup(options->cgroup);
	return result == 0 ? find_user(sandbox) : result;
}

static int become_user(const struct sandbox *sandbox)
{
	if (!sandbox->options.user)
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid(sandbox->gid, sandbox->gid, sandbox->gid) < 0 ||
		setresuid(sandbox->uid, sandbox->uid, sandbox->uid) < 0)
		return -errno;
	/* The kernel clears it when the user changes. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return 0;
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };

	return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

/* Print what of namespaces and Landlock this host lacks: system call filters then have to do without. */
static void warn_missing(const struct sandbox *sandbox, bool empty, bool landlock)
{
	if (sandbox->warned || (empty && landlock))
		return;
	if (!empty)
		note("sandbox: this host allows no namespaces of its own to the guest's process: Landlock "
		     "and system call filters confine it: see `karma check`");
	if (!landlock)
		note("sandbox: this host's kernel has no Landlock: %ssystem call filters confine the "
		     "guest's process: see `karma check`",
			empty ? "namespaces and " : "");
}

static int confine(const struct sandbox *sandbox, const struct sandbox_bounds *bounds)
{
	bool empty = sandbox->namespaces && namespaces_empty_root() == 0;
	int result = become_user(sandbox);
	bool landlock;

	if (result == 0)
		result = drop_capabilities();
	if (result == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		result = -errno;
	if (result < 0)
		return result;
	landlock = landlock_forbid_all() == 0;
	warn_missing(sandbox, empty, landlock);
	/* Last, since no file can be opened afterwards. */
	return limits_set(sandbox, bounds);
}

int sandbox_enter(const struct sandbox *sandbox, const struct sandbox_bounds *bounds)
{
	int result;

	/* One heap for all threads, which grows by brk(): no filter has to allow mmap(). */
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_MAX, 0);
	result = sandbox->options.off ? become_user(sandbox) : confine(sandbox, bounds);
	if (result < 0)
		return fail(result, "sandbox: can't close it: %s: see `karma check`, or give --no-sandbox",
			strerror(-result));
	return 0;
}

struct sandbox_support sandbox_probe(void)
{
	struct sandbox_support support = { .landlock = landlock_supported() };
	struct sandbox sandbox = { 0 };
	cleanup_fd int pidfd = -1;
	pid_t child = sandbox_fork(&sandbox, &pidfd);
	int status;

	if (child == 0)
		_exit(sandbox.namespaces && namespaces_empty_root() == 0 ? 0 : 1);
	support.namespaces = child > 0 && waitpid(child, &status, 0) == child && status == 0;
	return support;
}
