// SPDX-License-Identifier: GPL-2.0-only
/* karma fork: a snapshot, and guests that go on from it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "client.h"
#include "karma/commands.h"
#include "karma/log.h"
#include "karma/snapshot_directory.h"
#include "karma/status.h"
#include "karma/util.h"

#define COUNT_MAX 1000u
/* One that does not fit is too long for a name in any case. */
#define NAME_BYTES (CONTROL_NAME_MAX + 16)
#define DIRECTORY "/dev/shm"	/* a tmpfs of each Linux host (file-hierarchy(7)) */

static const struct command command = { "fork",
	"usage: karma fork NAME [--count N] [--names PREFIX] [--console WHERE]\n"
	"\n"
	"Start guests that go on from where a guest is now, which goes on, too, after a short pause.  They\n"
	"share its memory, but for what either of them writes from then on, and its disks, which have to be\n"
	"read-only or to have overlays.  Their names are printed as they are up.\n"
	"\n"
	"  --count N         so many (1)\n"
	"  --names PREFIX    called PREFIX1, PREFIX2, ... (NAME-)\n"
	"  --console WHERE   as of `karma run`, for each of them (none)\n"
	"\n"
	"Exit status: 0, or 125 if one of them could not be started; others stay.\n" };

struct fork_options {
	const char *name, *prefix, *console;
	unsigned count;
};

/* A directory of ours while guests start, and what they tell that they are up by. */
struct place {
	char directory[96], snapshot[112];	/* with room for a socket's name in it */
	struct sockaddr_un address;	/* what service managers have in NOTIFY_SOCKET, sd_notify(3) */
	int notify;
};

static void clone_name(const struct fork_options *options, unsigned number, char name[NAME_BYTES])
{
	snprintf(name, NAME_BYTES, "%s%u", options->prefix, number);
}

/* Before the guest is paused. */
static int check_names(const struct fork_options *options)
{
	for (unsigned i = 1; i <= options->count; i++) {
		char name[NAME_BYTES];
		int fd;
		pid_t pid;

		clone_name(options, i, name);
		if (!control_name_is_valid(name))
			return fail(-EINVAL, "%s: is no guest's name: give a shorter --names, or one of letters, digits, `-`, "
					     "`_` and `.`", name);
		fd = control_connect(name, &pid);
		close_fd(&fd);
		if (fd >= 0 || fd == -EAGAIN)
			return fail(-EADDRINUSE, "%s: runs already: give other --names", name);
	}
	return 0;
}

static int open_place(struct place *place)
{
	const char *parent = getenv("TMPDIR");
	int length;

	*place = (struct place){ .notify = -1, .address.sun_family = AF_UNIX };
	if (!parent || !parent[0])
		parent = DIRECTORY;
	length = snprintf(place->directory, sizeof(place->directory), "%s/karma-fork-XXXXXX", parent);
	if (length >= (int)sizeof(place->directory)) {
		place->directory[0] = '\0';
		return fail(-ENAMETOOLONG, "%s: is too long a name for a directory of sockets: set TMPDIR to a shorter one",
			parent);
	}
	if (!mkdtemp(place->directory)) {
		place->directory[0] = '\0';
		return fail(-errno, "%s: %s: set TMPDIR to a directory with room for the guest's memory", parent,
			strerror(errno));
	}
	snprintf(place->snapshot, sizeof(place->snapshot), "%s/snapshot", place->directory);
	snprintf(place->address.sun_path, sizeof(place->address.sun_path), "%s/notify", place->directory);
	place->notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (place->notify < 0 || bind(place->notify, (struct sockaddr *)&place->address, sizeof(place->address)) < 0)
		return fail(-errno, "%s: %s", place->address.sun_path, strerror(errno));
	return 0;
}

/* Guests that are up have its files open. */
static void close_place(struct place *place)
{
	cleanup_fd int directory = place->directory[0] ? open(place->snapshot, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (directory >= 0)
		snapshot_directory_empty(directory);
	close_fd(&place->notify);
	if (!place->directory[0])
		return;
	rmdir(place->snapshot);
	unlink(place->address.sun_path);
	rmdir(place->directory);
}

/* In its process.  Its messages go to a pipe as long as we are there, and are in `karma log` all the time. */
static _Noreturn void run_clone(const struct place *place, const char *name, const char *console, int messages)
{
	const char *const arguments[] = { "karma", "run", "--restore", place->snapshot, "--name", name, "--console",
		console, NULL };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
		dup2(messages, STDERR_FILENO) < 0 || close_range(STDERR_FILENO + 1, ~0u, 0) < 0 ||
		setenv("NOTIFY_SOCKET", place->address.sun_path, 1) < 0)
		_exit(STATUS_FAILURE);
	unsetenv("WATCHDOG_USEC");
	execv("/proc/self/exe", (char **)arguments);
	fail(-errno, "/proc/self/exe: %s: mount /proc", strerror(errno));
	_exit(STATUS_FAILURE);
}

static void pass_on_messages(int from)
{
	char text[4096];
	ssize_t length;

	while ((length = read(from, text, sizeof(text))) > 0) {
		if (write(STDERR_FILENO, text, length) < 0)
			return;
	}
}

/* Until it is up: true; or has ended. */
static bool is_up(const struct place *place, int pidfd)
{
	struct pollfd watched[] = {
		{ .fd = place->notify, .events = POLLIN },
		{ .fd = pidfd, .events = POLLIN },
	};
	char text[256];

	while (!watched[1].revents) {
		poll(watched, ARRAY_SIZE(watched), -1);
		if (watched[0].revents && recv(place->notify, text, sizeof(text), 0) >= 7 && strncmp(text, "READY=1", 7) == 0)
			return true;
	}
	return false;
}

static int start_clone(const struct place *place, const char *name, const char *console)
{
	int messages[2], pidfd, error;
	pid_t pid;
	bool up;

	if (pipe2(messages, O_CLOEXEC | O_NONBLOCK) < 0)
		return fail(-errno, "pipe: %s: raise the limit of open files (ulimit -n)", strerror(errno));
	pid = fork();
	if (pid == 0)
		run_clone(place, name, console, messages[1]);
	pidfd = pid < 0 ? -1 : syscall(SYS_pidfd_open, pid, 0);
	error = errno;
	close(messages[1]);
	if (pidfd < 0) {
		close(messages[0]);
		if (pid > 0)
			kill(pid, SIGTERM);
		return fail(-error, "can't start %s: %s: raise the limits of processes and open files (ulimit -u, -n)", name,
			strerror(error));
	}
	up = is_up(place, pidfd);
	if (!up)
		pass_on_messages(messages[0]);
	close(messages[0]);
	close(pidfd);
	if (!up)
		return fail(-ECHILD, "%s: did not start", name);
	puts(name);
	return fflush(stdout) == 0 ? 0 : -EIO;
}

static int start_clones(const struct place *place, const struct fork_options *options)
{
	sigset_t none;
	int result = 0;

	/* Those that end the command while the guest is saved. */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (unsigned i = 1; i <= options->count; i++) {
		char name[NAME_BYTES];
		int error;

		clone_name(options, i, name);
		error = start_clone(place, name, options->console);
		if (error < 0)
			result = error;
	}
	return result;
}

static int fork_guest(const struct fork_options *options)
{
	struct snapshot_figures figures;
	struct connection connection;
	struct place place;
	int result = check_names(options);

	if (result < 0)
		return result;
	result = connection_open(&connection, options->name, false);
	if (result == 0) {
		result = open_place(&place);
		if (result == 0)
			result = snapshot_take(&connection, place.snapshot, "copies", &figures);
		if (result == 0)
			result = start_clones(&place, options);
		close_place(&place);
	}
	connection_close(&connection);
	return result;
}

static bool parse_count(const char *text, unsigned *count)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	*count = value;
	return text[0] >= '0' && text[0] <= '9' && !*end && value >= 1 && value <= COUNT_MAX;
}

int command_fork(int argc, char **argv)
{
	static const struct option list[] = {
		{ "count", required_argument, NULL, 'c' },
		{ "names", required_argument, NULL, 'n' },
		{ "console", required_argument, NULL, 'o' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct fork_options options = { .count = 1, .console = "none" };
	char prefix[CONTROL_NAME_MAX + 2];
	int code;

	opterr = 0;
	while ((code = getopt_long(argc, argv, ":h", list, NULL)) != -1) {
		if (code == 'h') {
			fputs(command.help, stdout);
			return 0;
		}
		if (code == 'c' && !parse_count(optarg, &options.count))
			return command_misused(&command, "--count %s: is no number from 1 to %u", optarg, COUNT_MAX);
		if (code == 'n')
			options.prefix = optarg;
		else if (code == 'o')
			options.console = optarg;
		else if (code != 'c')
			return command_refuse_option(&command, code, argv);
	}
	options.name = command_name(&command, argc, argv);
	if (!options.name)
		return STATUS_FAILURE;
	snprintf(prefix, sizeof(prefix), "%s-", options.name);
	if (!options.prefix)
		options.prefix = prefix;
	return fork_guest(&options) < 0 ? STATUS_FAILURE : 0;
}
