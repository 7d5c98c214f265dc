// SPDX-License-Identifier: GPL-2.0-only
/* The process that serves a directory. */
#include <errno.h>
#include <linux/virtio_fs.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "confine.h"
#include "karma/log.h"
#include "karma/sandbox.h"
#include "karma/share.h"
#include "karma/status.h"
#include "session.h"
#include "vhost_user.h"

static void close_all_but(int socket)
{
	close_range(0, STDERR_FILENO - 1, 0);
	if (socket > STDERR_FILENO + 1)
		close_range(STDERR_FILENO + 1, socket - 1, 0);
	close_range(socket + 1, ~0u, 0);
}

/* As many open files as the user may have. */
static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int serve(struct session *session, const struct share_options *options, int socket)
{
	static struct vhost_backend backend;
	static struct virtio_fs_config config = { .num_request_queues = VHOST_QUEUES - 1 };
	const struct sandbox_descriptors none = { .vm = -1, .vcpu = -1, .terminal = -1 };
	int result = vhost_backend_init(&backend, socket);

	if (result < 0)
		return fail(result, "--share %s: can't watch the socket of its server: %s: raise the limit of open "
				    "files (ulimit -n)",
			options->directory, strerror(-result));
	memcpy(config.tag, options->tag, strnlen(options->tag, sizeof(config.tag)));
	backend.config = &config;
	backend.config_size = sizeof(config);
	backend.serve = session_serve;
	backend.context = session;
	if (!options->unconfined)
		result = sandbox_filter(SANDBOX_SHARE, &none);
	if (result == 0)
		result = vhost_backend_run(&backend);
	vhost_backend_release(&backend);
	return result;
}

int share_serve(const struct share_options *options, int socket)
{
	static struct session session;
	struct confinement confinement;
	int result;

	close_all_but(socket);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	umask(0);
	/* A heap that grows by brk(): the filter has not to allow mmap() for it. */
	mallopt(M_MMAP_MAX, 0);
	raise_file_limit();
	if (confine(options, &confinement) < 0)
		return STATUS_FAILURE;
	result = session_init(&session, options, confinement.directory, confinement.user_namespace);
	if (result < 0)
		fail(result, "--share %s: can't serve it: %s: give a directory that you may read", options->directory,
			strerror(-result));
	else
		result = serve(&session, options, socket);
	session_release(&session);
	return result == 0 ? 0 : STATUS_FAILURE;
}
