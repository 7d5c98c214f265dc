// SPDX-License-Identifier: GPL-2.0-only
/*
 * Confine a server of files to its directory: in a mount namespace that has nothing else, or, where there are no
 * namespaces to be had, by Landlock.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "confine.h"
#include "karma/log.h"
#include "karma/sandbox.h"
#include "karma/util.h"

#define NAMESPACES (CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET)
#define OWN_FDS "/proc/self/fd"
/* Where the directory is mounted for a moment: surely there, since it has /dev/kvm. */
#define MOUNT_POINT "/dev"

static int write_text(const char *path, const char *text)
{
	cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* A user namespace's one user and group are the caller's own. */
static int map_user(uid_t uid, gid_t gid)
{
	char users[32], groups[32];
	int result;

	snprintf(users, sizeof(users), "%u %u 1", uid, uid);
	snprintf(groups, sizeof(groups), "%u %u 1", gid, gid);
	result = write_text("/proc/self/setgroups", "deny");
	if (result == 0)
		result = write_text("/proc/self/uid_map", users);
	return result == 0 ? write_text("/proc/self/gid_map", groups) : result;
}

static int make_namespaces(struct confinement *confinement)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();

	if (unshare(NAMESPACES) == 0)
		return 0;
	if (unshare(NAMESPACES | CLONE_NEWUSER) < 0)
		return -errno;
	confinement->user_namespace = true;
	return map_user(uid, gid);
}

/* A copy of the mounts below a path, which belongs to no directory yet; with these flags, and in its own right. */
static int copy_mounts(const char *path, unsigned flags, uint64_t attributes)
{
	struct mount_attr attr = { .attr_set = attributes, .propagation = MS_PRIVATE };
	int fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);

	if (fd < 0)
		return -errno;
	if (mount_setattr(fd, "", AT_EMPTY_PATH | flags, &attr, sizeof(attr)) < 0) {
		int error = errno;

		close(fd);
		return -error;
	}
	return fd;
}

static int change_root(int mounts)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		move_mount(mounts, "", AT_FDCWD, MOUNT_POINT, MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
		fchdir(mounts) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0)
		return -errno;
	return 0;
}

/* The directory becomes the root, and the working directory a mount of nothing but the own descriptors. */
static int enter_namespaces(const struct share_options *options, struct confinement *confinement)
{
	const uint64_t attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
				    MOUNT_ATTR_NOSYMFOLLOW | (options->read_only ? MOUNT_ATTR_RDONLY : 0);
	cleanup_fd int mounts = -1, own_fds = -1;
	int result = make_namespaces(confinement);

	if (result < 0)
		return result;
	mounts = copy_mounts(options->directory, AT_RECURSIVE, attributes);
	if (mounts < 0)
		return mounts;
	own_fds = copy_mounts(OWN_FDS, 0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (own_fds < 0)
		return own_fds;
	result = change_root(mounts);
	if (result < 0)
		return result;
	confinement->directory = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return confinement->directory < 0 || fchdir(own_fds) < 0 ? -errno : 0;
}

static int open_in_place(const struct share_options *options, struct confinement *confinement)
{
	confinement->directory = open(options->directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (confinement->directory < 0)
		return fail(-errno, "--share %s: can't open it: %s: give a directory that you may read",
			options->directory, strerror(errno));
	if (chdir(OWN_FDS) < 0)
		return fail(-errno, "--share %s: can't open " OWN_FDS ": %s: mount /proc", options->directory,
			strerror(errno));
	return 0;
}

/* Root keeps what files of others need; what else it has would be gone with its user's number. */
static int drop_capabilities(bool root)
{
	const uint32_t kept = root ? 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER |
					     1u << CAP_FSETID | 1u << CAP_SETUID | 1u << CAP_SETGID :
				     0;
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct have[2], want[2] = { 0 };

	if (syscall(SYS_capget, &header, have) < 0)
		return -errno;
	/* So that the capabilities stay while files are created as another user. */
	if (root)
		prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP);
	want[0].effective = want[0].permitted = have[0].permitted & kept;
	if (root && have[0].permitted & 1u << CAP_SETGID && setgroups(0, NULL) < 0)
		return -errno;
	if (syscall(SYS_capset, &header, want) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return 0;
}

static int keep_directory(const struct share_options *options, struct confinement *confinement)
{
	int result = enter_namespaces(options, confinement);

	if (result == 0)
		return 0;
	close_fd(&confinement->directory);
	result = open_in_place(options, confinement);
	if (result < 0)
		return result;
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	result = sandbox_keep_directory(confinement->directory, options->read_only);
	if (result < 0)
		return fail(result, "--share %s: this host has neither namespaces nor Landlock to confine its server "
				    "to it: see `karma check`, or give --no-sandbox",
			options->directory);
	return 0;
}

int confine(const struct share_options *options, struct confinement *confinement)
{
	const struct rlimit none = { 0, 0 };
	int result;

	*confinement = (struct confinement){ .directory = -1 };
	/* A core dump would have guest memory. */
	setrlimit(RLIMIT_CORE, &none);
	if (options->unconfined)
		return open_in_place(options, confinement);
	result = keep_directory(options, confinement);
	if (result < 0)
		return result;
	result = drop_capabilities(geteuid() == 0 && !confinement->user_namespace);
	if (result < 0)
		return fail(result, "--share %s: can't drop the server's capabilities: %s: see `karma check`, or give "
				    "--no-sandbox",
			options->directory, strerror(-result));
	return 0;
}
