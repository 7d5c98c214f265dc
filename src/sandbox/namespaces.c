// SPDX-License-Identifier: GPL-2.0-only
/* Namespaces: the fork into new ones, and an empty root file system. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "internal.h"
#include "karma/util.h"

/* PID namespaces are entered by fork only; the others once the process no longer needs the host's. */
#define NAMESPACES CLONE_NEWPID
#define NAMESPACES_LATER (CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET)

/*
 * clone() by its system call, since glibc's fork() has no flags.  glibc's cached thread id stays the parent's.
 * Only recursive and robust mutexes would use it, and there are none; raise() asks the kernel.
 */
static pid_t clone_process(unsigned long flags, int *pidfd)
{
	pid_t pid = syscall(SYS_clone, flags | CLONE_PIDFD | SIGCHLD, NULL, pidfd, NULL, 0ul);

	return pid < 0 ? -errno : pid;
}

/* PR_SET_PDEATHSIG misses a parent that has ended before it was set; its pidfd shows that. */
static void die_with(int parent)
{
	struct pollfd watched = { .fd = parent, .events = POLLIN };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (poll(&watched, 1, 0) > 0)
		_exit(1);
}

static pid_t clone_confined(struct sandbox *sandbox, int *pidfd)
{
	pid_t pid = -EPERM;

	sandbox->user_namespace = false;
	if (!sandbox->options.off) {
		sandbox->namespaces = true;
		pid = clone_process(NAMESPACES, pidfd);
		/* Unprivileged: as root of a new user namespace. */
		if (pid == -EPERM && !sandbox->options.user) {
			sandbox->user_namespace = true;
			pid = clone_process(NAMESPACES | CLONE_NEWUSER, pidfd);
		}
	}
	if (pid >= 0 || pid == -EAGAIN || pid == -ENOMEM)
		return pid;
	sandbox->namespaces = sandbox->user_namespace = false;
	return clone_process(0, pidfd);
}

pid_t sandbox_fork(struct sandbox *sandbox, int *pidfd)
{
	cleanup_fd int parent = syscall(SYS_pidfd_open, getpid(), 0);
	pid_t pid;

	if (parent < 0)
		return -errno;
	pid = clone_confined(sandbox, pidfd);
	if (pid == 0)
		die_with(parent);
	else
		sandbox->warned = true;	/* by the child; not again by the next one */
	return pid;
}

/* The new root is mounted on /dev, which surely exists, since it had /dev/kvm. */
int namespaces_empty_root(void)
{
	const unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;

	/* The first mount() makes all mounts private: what follows must not propagate to the host. */
	if (unshare(NAMESPACES_LATER) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("karma", "/dev", "tmpfs", flags, "size=4k,nr_inodes=2,mode=0555") < 0 ||
		chdir("/dev") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
		umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -errno;
	return 0;
}
