// SPDX-License-Identifier: GPL-2.0-only
/* The sockets of guests by their names: directories, listening, connecting, and stale sockets of dead guests. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "karma/control.h"
#include "karma/log.h"
#include "karma/unix_connect.h"
#include "karma/util.h"

#define SYSTEM_DIRECTORY "/run/karma"
#define SUFFIX ".sock"
#define UNIT_SOCKET "control.sock"
#define BACKLOG 64
#define DIRECTORIES 3

struct directory {
	char path[sizeof(((struct control_socket *)0)->path)];
	uid_t user;	/* -1: shared by guests of several names; else the user of the one guest that it is for */
};

bool control_name_is_valid(const char *name)
{
	size_t length = strspn(
		name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

	return length > 0 && length <= CONTROL_NAME_MAX && !name[length] && name[0] != '.' &&
		name[0] != '-';
}

/*
 * $XDG_RUNTIME_DIR is the user's own by its specification.  Where it is not, as under sudo, it is ignored.
 */
static bool own_runtime_directory(struct directory *directory)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	struct stat status;

	return runtime && runtime[0] == '/' && stat(runtime, &status) == 0 &&
		status.st_uid == geteuid() &&
		snprintf(directory->path, sizeof(directory->path), "%s/karma", runtime) <
			(int)sizeof(directory->path);
}

/* The directories that guests of several names share, in the order to look in; new sockets go to the first. */
static unsigned find_shared_directories(struct directory directories[2])
{
	unsigned count = own_runtime_directory(&directories[0]);

	directories[0].user = directories[1].user = -1;
	strcpy(directories[count].path, SYSTEM_DIRECTORY);
	return count + (count == 0 || strcmp(directories[0].path, SYSTEM_DIRECTORY) != 0);
}

/*
 * The directory of one guest's service (RuntimeDirectory= in systemd's unit), which belongs to that service's
 * user.  False if there is none, or if it is neither ours nor are we root.
 */
static bool find_unit_directory(const char *name, struct directory *directory)
{
	struct stat status;

	if (snprintf(directory->path, sizeof(directory->path), SYSTEM_DIRECTORY "/%s", name) >=
			(int)sizeof(directory->path) ||
		lstat(directory->path, &status) < 0 || !S_ISDIR(status.st_mode))
		return false;
	directory->user = status.st_uid;
	return status.st_uid == geteuid() || geteuid() == 0;
}

/* The directories for a guest of that name, likewise. */
static unsigned find_directories(const char *name, struct directory directories[DIRECTORIES])
{
	struct directory own;
	bool there = find_unit_directory(name, &own), first = there && own.user == geteuid();
	unsigned count = find_shared_directories(directories + first);

	if (there)
		directories[first ? 0 : count] = own;
	return count + there;
}

static int socket_address(
	const struct directory *directory, const char *name, struct sockaddr_un *address)
{
	bool own = directory->user != (uid_t)-1;

	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (snprintf(address->sun_path, sizeof(address->sun_path), "%s/%s%s", directory->path,
		    own ? UNIT_SOCKET : name, own ? "" : SUFFIX) >= (int)sizeof(address->sun_path))
		return -ENAMETOOLONG;
	return 0;
}

/*
 * A non-blocking connection; -ECONNREFUSED for a stale socket, -EAGAIN if the backlog is full, -ENOENT if there is
 * no socket or we have no right to it.
 */
static int connect_to(const struct sockaddr_un *address)
{
	int fd = unix_connect(address->sun_path);

	return fd == -EACCES ? -ENOENT : fd;
}

/* 0 if a process listens there, -ECONNREFUSED for a stale socket, or another negative errno. */
static int probe(const struct sockaddr_un *address)
{
	int fd;

	/* The common case at a start, which needs no socket(). */
	if (access(address->sun_path, F_OK) < 0)
		return -errno;
	fd = connect_to(address);
	close_fd(&fd);
	return fd >= 0 || fd == -EAGAIN ? 0 : fd;
}

/*
 * Unlink a stale socket of ours, and nothing else.  0 if the path is free then; -EADDRINUSE if a process
 * listens there, -EEXIST if anything else is there, or another negative errno.
 */
static int unlink_stale(const struct sockaddr_un *address)
{
	struct stat status;
	int result;

	if (lstat(address->sun_path, &status) < 0)
		return errno == ENOENT ? 0 : -errno;
	/* connect() can't tell: it is refused for a path that is no socket, too. */
	if (!S_ISSOCK(status.st_mode))
		return -EEXIST;
	result = probe(address);
	if (result == 0)
		return -EADDRINUSE;
	if (status.st_uid != geteuid())
		return -EEXIST;
	if (result != -ECONNREFUSED)
		return result;
	return unlink(address->sun_path) < 0 ? -errno : 0;
}

/* For messages: why a socket can't be made. */
static const char *explain(int error)
{
	switch (error) {
	case -EADDRINUSE:
		return "somebody listens there";
	case -EEXIST:
		return "what is there is not what a guest of yours has left, and is not touched";
	default:
		return strerror(-error);
	}
}

/* Open a directory, which is made if need be.  -EPERM if others can write it. */
static int open_directory(const struct directory *directory)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	struct stat status;
	int fd = open(directory->path, flags);

	if (fd < 0 && errno == ENOENT && (mkdir(directory->path, 0711) == 0 || errno == EEXIST))
		fd = open(directory->path, flags);
	if (fd < 0)
		return -errno;
	/* Root may share the directory of a service's user. */
	if (fstat(fd, &status) == 0 && (status.st_uid == geteuid() || geteuid() == 0) &&
		!(status.st_mode & 022))
		return fd;
	close(fd);
	return -EPERM;
}

static int bind_and_listen(struct control_socket *to, const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat status;
	int error;

	if (fd < 0)
		return -errno;
	/* Before bind(): the path gets the mode of the socket (unix(7)). */
	if (fchmod(fd, 0600) == 0 && bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 &&
		listen(fd, BACKLOG) == 0 && lstat(address->sun_path, &status) == 0) {
		to->fd = fd;
		memcpy(to->path, address->sun_path, sizeof(to->path));
		to->device = status.st_dev;
		to->inode = status.st_ino;
		return 0;
	}
	error = -errno;
	close(fd);
	return error;
}

/*
 * Make sure that no guest has the name in any of the directories, and free its path in the first one.  The caller
 * has locked that, so that no other process makes a socket there between the check and unlink().
 */
static int claim_name(const char *name, const struct directory *directories, unsigned count)
{
	struct sockaddr_un address;
	int result = socket_address(&directories[0], name, &address);

	if (result == 0)
		result = unlink_stale(&address);
	for (unsigned i = 1; i < count && result == 0; i++) {
		if (socket_address(&directories[i], name, &address) == 0 && probe(&address) == 0)
			result = -EADDRINUSE;
	}
	return result;
}

static int listen_in(struct control_socket *socket, const char *name,
	const struct directory *directories, unsigned count)
{
	cleanup_fd int fd = open_directory(&directories[0]);
	struct sockaddr_un address;
	int result = socket_address(&directories[0], name, &address);

	if (fd < 0 || result < 0)
		return fd < 0 ? fd : result;
	if (flock(fd, LOCK_EX) < 0)
		return -errno;
	result = claim_name(name, directories, count);
	return result < 0 ? result : bind_and_listen(socket, &address);
}

int control_listen(struct control_socket *socket, const char *name, bool quiet)
{
	struct directory directories[DIRECTORIES];
	unsigned count = find_directories(name, directories);
	int result;

	socket->fd = -1;
	result = listen_in(socket, name, directories, count);
	if (result == 0 || quiet)
		return result;
	if (result == -EADDRINUSE)
		return fail(result, "--name %s: a guest with that name runs: give another, or end that one "
				    "(`karma stop %s`)",
			name, name);
	if (result == -EEXIST)
		return fail(result, "--name %s: %s/%s" SUFFIX ": %s: give another name, or see to that file", name,
			directories[0].path, name, explain(result));
	return fail(result, "--name %s: can't make a socket in %s: %s: set XDG_RUNTIME_DIR to a directory "
			    "of yours, or leave out --name",
		name, directories[0].path, explain(result));
}

int control_listen_at(struct control_socket *socket, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int result;

	socket->fd = -1;
	if (strlen(path) >= sizeof(address.sun_path))
		return fail(-ENAMETOOLONG, "--console unix:%s: a socket's path has at most %zu bytes: give a "
					   "shorter one",
			path, sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	result = unlink_stale(&address);
	if (result == 0)
		result = bind_and_listen(socket, &address);
	if (result < 0)
		return fail(result, "--console unix:%s: %s: give the path of a socket that isn't there yet", path,
			explain(result));
	return 0;
}

void control_unlisten(struct control_socket *socket)
{
	struct stat status;

	if (socket->fd < 0)
		return;
	if (lstat(socket->path, &status) == 0 && status.st_dev == socket->device &&
		status.st_ino == socket->inode)
		unlink(socket->path);
	close(socket->fd);
	socket->fd = -1;
}

static int connect_in(const struct directory *directory, const char *name)
{
	struct sockaddr_un address;
	int result = socket_address(directory, name, &address);

	if (result == 0)
		result = connect_to(&address);
	if (result == -ECONNREFUSED) {
		cleanup_fd int fd = open_directory(directory);

		/* Locked, so that a new socket of the same name is not taken for the stale one. */
		if (fd >= 0 && flock(fd, LOCK_EX) == 0)
			unlink_stale(&address);
		result = -ENOENT;
	}
	return result;
}

/* Whether the peer may be the guest: in a service's own directory, its user can bind any name. */
static bool is_trusted(const struct directory *directory, const struct ucred *peer)
{
	if (directory->user != (uid_t)-1)
		return peer->uid == directory->user;
	return peer->uid == geteuid() || peer->uid == 0 || geteuid() == 0;
}

int control_connect(const char *name, pid_t *pid)
{
	struct directory directories[DIRECTORIES];
	unsigned count = find_directories(name, directories), i;
	struct ucred peer;
	socklen_t length = sizeof(peer);
	int result = -ENOENT;

	for (i = 0; i < count; i++) {
		result = connect_in(&directories[i], name);
		if (result != -ENOENT)
			break;
	}
	if (result < 0)
		return result;
	if (getsockopt(result, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 ||
		!is_trusted(&directories[i], &peer)) {
		close(result);
		return -EPERM;
	}
	*pid = peer.pid;
	return result;
}

struct list {
	char (*names)[CONTROL_NAME_MAX + 1];
	size_t count, room;
};

static int add_name(struct list *list, const char *name, size_t length)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		void *names = reallocarray(list->names, room, sizeof(*list->names));

		if (!names)
			return -ENOMEM;
		list->names = names;
		list->room = room;
	}
	memcpy(list->names[list->count], name, length);
	list->names[list->count][length] = '\0';
	if (control_name_is_valid(list->names[list->count]))
		list->count++;
	return 0;
}

static bool has_unit_socket(const char *name)
{
	struct directory directory;
	struct sockaddr_un address;

	return control_name_is_valid(name) && find_unit_directory(name, &directory) &&
		socket_address(&directory, name, &address) == 0 && access(address.sun_path, F_OK) == 0;
}

static int list_directory(const struct directory *directory, struct list *list)
{
	DIR *stream = opendir(directory->path);
	struct dirent *entry;
	int result = 0;

	/* Absent, or another user's: no guest of ours is in it. */
	if (!stream)
		return 0;
	while (result == 0 && (entry = readdir(stream))) {
		size_t length = strlen(entry->d_name);

		if (length > strlen(SUFFIX) && strcmp(entry->d_name + length - strlen(SUFFIX), SUFFIX) == 0)
			length -= strlen(SUFFIX);
		else if (!has_unit_socket(entry->d_name))
			continue;
		if (length <= CONTROL_NAME_MAX)
			result = add_name(list, entry->d_name, length);
	}
	closedir(stream);
	return result;
}

static int compare_names(const void *one, const void *other)
{
	return strverscmp(one, other);
}

int control_list(char (**names)[CONTROL_NAME_MAX + 1])
{
	struct directory directories[2];
	unsigned count = find_shared_directories(directories);
	struct list list = { 0 };
	size_t unique = 0;

	for (unsigned i = 0; i < count; i++) {
		if (list_directory(&directories[i], &list) < 0) {
			free(list.names);
			return -ENOMEM;
		}
	}
	if (list.count)
		qsort(list.names, list.count, sizeof(*list.names), compare_names);
	for (size_t i = 0; i < list.count; i++) {
		if (unique == 0 || strcmp(list.names[i], list.names[unique - 1]) != 0)
			memmove(list.names[unique++], list.names[i], sizeof(*list.names));
	}
	*names = list.names;
	return unique;
}
