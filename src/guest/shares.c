// SPDX-License-Identifier: GPL-2.0-only
/* The servers of the guest's vhost-user devices: their processes and connections, and their devices. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "karma/log.h"
#include "karma/unix_connect.h"
#include "karma/util.h"
#include "networks.h"
#include "shares.h"

#define SERVER_SOCKET 3		/* the only descriptor that a server of Karma's has beside stdio */
#define END_MILLISECONDS 10000	/* that a server has to end by itself, and again after a SIGKILL */

static void name_server(struct share_server *server, const char *option, const char *kind, const char *path)
{
	snprintf(server->name, sizeof(server->name), "%s %s%.200s: its server", option, kind, path);
}

static int check_directory(const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return fail(-errno, "--share %s: %s: give a directory that is there", path,
			strerror(errno));
	if (!S_ISDIR(status.st_mode))
		return fail(-ENOTDIR, "--share %s: is no directory: give one", path);
	return 0;
}

int shares_open(struct shares *shares, const struct guest_options *options)
{
	const size_t count = options->share_count + options->vhost_user_count;

	shares->options = options;
	if (!count)
		return 0;
	shares->list = calloc(count, sizeof(*shares->list));
	if (!shares->list)
		return fail(-ENOMEM, "--share: out of memory");
	shares->count = count;
	for (size_t i = 0; i < count; i++)
		shares->list[i].socket = -1;
	for (size_t i = 0; i < options->share_count; i++) {
		const struct share_options *share = &options->shares[i];

		name_server(&shares->list[i], "--share", share->server ? "unix:" : "",
			share->server ? share->server : share->directory);
		if (share->directory && check_directory(share->directory) < 0)
			return -ENOTDIR;
	}
	for (size_t i = 0; i < options->vhost_user_count; i++)
		name_server(&shares->list[options->share_count + i], "--vhost-user", "",
			options->vhost_users[i].path);
	return 0;
}

void shares_close(struct shares *shares)
{
	free(shares->list);
}

/* --- Processes and connections. */

/*
 * What the guest's processes share, such as the map of an overlay, is none of a server's, but for the history of
 * messages.
 */
static int unmap_shared(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[256];
	int result = maps ? 0 : -errno;

	while (maps && fgets(line, sizeof(line), maps)) {
		unsigned long start, end;
		char shared;

		/* proc(5): the addresses, "rwx", and "s" or "p". */
		if (sscanf(line, "%lx-%lx %*3c%c", &start, &end, &shared) != 3 || shared != 's')
			continue;
		if (!log_has_history_at(start) && munmap((void *)start, end - start) < 0)
			result = -errno;
	}
	if (maps)
		fclose(maps);
	return result;
}

/* It serves one socket.  Signals stay blocked: what a terminal sends is for the supervisor to know. */
static _Noreturn void be_server(const struct share_options *share, bool unconfined, int socket)
{
	struct share_options served = *share;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), result;

	if (dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
		dup2(socket, SERVER_SOCKET) < 0 || close_range(SERVER_SOCKET + 1, ~0u, 0) < 0)
		_exit(1);
	result = unmap_shared();
	if (result < 0) {
		fail(result, "--share %s: can't read /proc/self/maps: %s: mount /proc", share->directory,
			strerror(-result));
		_exit(1);
	}
	prctl(PR_SET_NAME, "karma-share");
	served.unconfined = unconfined;
	_exit(share_serve(&served, SERVER_SOCKET));
}

static int fork_server(struct share_server *server, const struct share_options *share, bool unconfined)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return fail(-errno, "socketpair: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	server->pid = fork();
	if (server->pid == 0)
		be_server(share, unconfined, ends[1]);
	close(ends[1]);
	server->socket = ends[0];
	if (server->pid > 0)
		return 0;
	server->pid = 0;
	return fail(-errno, "%s can't be started: %s: raise the limit of processes (ulimit -u)",
		server->name, strerror(errno));
}

static int connect_server(struct share_server *server, const char *path)
{
	int fd = unix_connect(path), error = fd;

	if (fd >= 0 && fcntl(fd, F_SETFL, 0) < 0) {
		error = -errno;
		close(fd);
	}
	if (error < 0)
		return fail(error, "%s can't be reached: %s: start it first, to listen there, as many end "
				   "with their first connection",
			server->name, strerror(-error));
	server->socket = fd;
	return 0;
}

int shares_start(struct shares *shares)
{
	const struct guest_options *options = shares->options;
	int result = 0;

	for (size_t i = 0; i < shares->count && result == 0; i++) {
		const struct share_options *share = i < options->share_count ? &options->shares[i] : NULL;
		struct share_server *server = &shares->list[i];

		if (!share)
			result = connect_server(server, options->vhost_users[i - options->share_count].path);
		else if (share->server)
			result = connect_server(server, share->server);
		else
			result = fork_server(server, share, options->sandbox.off);
	}
	return result;
}

void shares_started(struct shares *shares)
{
	for (size_t i = 0; i < shares->count; i++) {
		close_fd(&shares->list[i].socket);
		shares->list[i].socket = -1;
	}
}

static bool has_ended(int pidfd)
{
	struct pollfd watched = { .fd = pidfd, .events = POLLIN };

	return poll(&watched, 1, END_MILLISECONDS) > 0;
}

/* It ends with its socket; one that hangs in the host's file system may outlive the guest. */
static void reap(struct share_server *server)
{
	cleanup_fd int pidfd = syscall(SYS_pidfd_open, server->pid, 0);
	int status;

	if (!has_ended(pidfd)) {
		note("%s does not end with the guest: it is killed", server->name);
		kill(server->pid, SIGKILL);
		has_ended(pidfd);
	} else if (waitpid(server->pid, &status, WNOHANG) > 0 && WIFSIGNALED(status)) {
		note("%s was killed by signal %d (%s): see the kernel's log (dmesg)", server->name,
			WTERMSIG(status), strsignal(WTERMSIG(status)));
	}
	waitpid(server->pid, NULL, WNOHANG);
	server->pid = 0;
}

void shares_stop(struct shares *shares)
{
	shares_started(shares);
	for (size_t i = 0; i < shares->count; i++) {
		if (shares->list[i].pid)
			reap(&shares->list[i]);
	}
}

/* --- Devices. */

static int add_device(struct machine *machine, const struct virtio_environment *environment,
	const struct vhost_user_setup *setup)
{
	struct virtio_device *device = vhost_user_create(environment, setup);

	return device ? machine_add(machine, device) : -ECONNREFUSED;
}

static int add_vhost_user(struct shares *shares, struct machine *machine,
	const struct virtio_environment *environment, struct vhost_user_setup *setup, size_t index)
{
	const struct vhost_user_options *one = &shares->options->vhost_users[index];
	uint8_t mac[ETH_ALEN];
	char name[32];

	snprintf(name, sizeof(name), "vhost%zu", index);
	/* Their numbers go on behind those of --net. */
	networks_derive_mac(shares->options, shares->options->net_count + index, mac);
	setup->name = name;
	setup->type = one->type;
	setup->tag = one->tag;
	setup->mac = mac;
	return add_device(machine, environment, setup);
}

int shares_add(struct shares *shares, struct machine *machine, const struct virtio_environment *environment,
	struct irqfds *irqfds)
{
	const size_t share_count = shares->options->share_count;
	struct vhost_user_setup setup = {
		.type = VHOST_USER_FS,
		.cpus = shares->options->cpus,
		.irqfds = irqfds,
	};
	int result = 0;

	for (size_t i = 0; i < shares->count && result == 0; i++) {
		char name[32];

		setup.server = shares->list[i].name;
		setup.socket = shares->list[i].socket;
		if (i >= share_count) {
			result = add_vhost_user(shares, machine, environment, &setup, i - share_count);
			continue;
		}
		snprintf(name, sizeof(name), "share%zu", i);
		setup.name = name;
		setup.tag = shares->options->shares[i].tag;
		result = add_device(machine, environment, &setup);
	}
	return result;
}
