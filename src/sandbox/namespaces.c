// SPDX-License-Identifier: GPL-2.0-only
/* A process with namespaces of its own, and with an empty file system. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "internal.h"
#include "karma/util.h"

/* A process is born into the first, and can go into the others when it has no use for the host's any more. */
#define NAMESPACES CLONE_NEWPID
#define NAMESPACES_LATER (CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET)

/*
 * glibc's fork() has no flags.  This leaves its cached thread id as the parent's, which nothing
 * of ours asks for: recursive and robust mutexes would, and raise() takes the real one.
 */
static pid_t clone_process(unsigned long flags, int *pidfd)
{
	pid_t pid = syscall(SYS_clone, flags | CLONE_PIDFD | SIGCHLD, NULL, pidfd, NULL, 0ul);

	return pid < 0 ? -errno : pid;
}

/* A parent that ended before we asked for its signal is not told of; its pidfd tells. */
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
		/* Who may not make them may have a user namespace, and be its root. */
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
		sandbox->warned = true;	/* by that process */
	return pid;
}

/* Any directory will do to mount on; /dev is where /dev/kvm was. */
int namespaces_empty_root(void)
{
	const unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;

	/* The first mount is for what follows to stay among us. */
	if (unshare(NAMESPACES_LATER) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("karma", "/dev", "tmpfs", flags, "size=4k,nr_inodes=2,mode=0555") < 0 ||
		chdir("/dev") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
		umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -errno;
	return 0;
}
