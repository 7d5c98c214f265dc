// SPDX-License-Identifier: GPL-2.0-only
/*
 * Open the kernel in the supervisor, for each start, and unpack it into the user's cache if it is not there.
 * What is packed is hostile, so a process of its own unpacks it: in the sandbox, with one descriptor left.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "internal.h"
#include "karma/log.h"

#define CPU_SECONDS 60u
#define FILE_BYTES_MAX (BOOT_UNPACKED_MAX + MIB)	/* with its checksums */

static void close_all_but(int fd)
{
	if (fd > 0)
		close_range(0, fd - 1, 0);
	close_range(fd + 1, ~0u, 0);
}

/* In that process: the exit status.  max: bytes that the guest's memory has room for. */
static enum unpack_end unpack(const struct boot_kernel *kernel, int out, const struct sandbox *sandbox,
	uint64_t max)
{
	const struct rlimit cpu = { CPU_SECONDS, CPU_SECONDS };
	const struct sandbox_bounds bounds = { .file_bytes = FILE_BYTES_MAX, .threads = 1 };
	const struct sandbox_descriptors none = { .vm = -1, .vcpu = -1, .terminal = -1 };
	struct unpacking unpacking;

	if (!boot_unpack_begin(&unpacking, kernel, out, max) || setrlimit(RLIMIT_CPU, &cpu) < 0 ||
		sandbox_enter(sandbox, &bounds) < 0)
		return UNPACK_NO_SPACE;
	close_all_but(out);
	if (!sandbox->options.off && sandbox_filter(SANDBOX_UNPACKER, &none) < 0)
		return UNPACK_NO_SPACE;
	return boot_unpack(&unpacking);
}

/* It takes a second or so, and a minute at most: signals and clients are served meanwhile. */
static int wait_for_unpacker(struct guest *guest, pid_t pid, int pidfd, bool *complete)
{
	const char *path = guest->kernel.file.path;
	bool cancelled;
	int status;

	supervise(guest, pidfd, guest->timeout_at);
	cancelled = guest->stop_requested || passed(guest->timeout_at);
	if (cancelled)
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (cancelled)
		return -ECANCELED;
	*complete = WIFEXITED(status) && WEXITSTATUS(status) == UNPACK_DONE;
	if (WIFEXITED(status) && WEXITSTATUS(status) == UNPACK_DAMAGED)
		return fail(-ENOEXEC, "kernel %s: what is packed in it can't be unpacked: the file is damaged; "
				      "copy it again",
			path);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return fail(-ENOEXEC, "kernel %s: to unpack it takes more than %u seconds of CPU time, or more "
				      "memory than the host has: give another",
			path, CPU_SECONDS);
	if (WIFSIGNALED(status))
		return fail(-ENOEXEC, "kernel %s: unpacking it was ended by signal %d (%s): the file may be "
				      "made to attack its host: give another, and report it as SECURITY.md says",
			path, WTERMSIG(status), strsignal(WTERMSIG(status)));
	return 0;
}

static int unpack_into_cache(struct guest *guest)
{
	struct boot_kernel *kernel = &guest->kernel;
	struct sandbox sandbox = guest->sandbox;
	char unfinished[BOOT_CACHE_NAME];
	cleanup_fd int out = boot_cache_begin(kernel, unfinished), pidfd = -1;
	bool complete = false;
	int result = 0;
	pid_t pid;

	/* The guest's process will print what the host lacks: not twice. */
	sandbox.warned = true;
	pid = out < 0 ? -1 : sandbox_fork(&sandbox, &pidfd);
	/* Not _exit(), to which a sanitizer adds calls that the filter forbids. */
	if (pid == 0)
		syscall(SYS_exit_group, unpack(kernel, out, &sandbox, guest->options.memory.size));
	if (pid > 0)
		result = wait_for_unpacker(guest, pid, pidfd, &complete);
	if (out >= 0)
		boot_cache_end(kernel, unfinished, out, complete);
	return result;
}

int guest_open_kernel(struct guest *guest)
{
	struct boot_kernel *kernel = &guest->kernel;
	int result = boot_kernel_open(kernel, guest->options.kernel);

	/* Without a cache the guest starts with the packed kernel, which unpacks itself. */
	if (result == 0 && kernel->cache >= 0 && !kernel->cached && boot_unpack_can(kernel))
		result = unpack_into_cache(guest);
	return result;
}
