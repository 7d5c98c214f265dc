// SPDX-License-Identifier: GPL-2.0-only
/* karma run: the supervisor, which starts a process for the guest, and tells how it ended. */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "karma/log.h"
#include "karma/status.h"
#include "karma/nbd_server.h"
#include "internal.h"

/* Of --die-with-parent; nobody else sends it. */
#define PARENT_SIGNAL SIGUSR2
#define RESTART_MILLISECONDS 1000	/* from one start to the next, at least */
/* What the supervisor waits for: the guest's process, signals, answers, links, and what others want. */
#define SUPERVISOR_POLLS (4 + NOTIFY_EVENTS + CONTROL_POLLS + NBD_SERVERS_MAX)

/* Signals come by a file descriptor; threads inherit that they are blocked. */
static int take_signals(struct guest *guest)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		sigaddset(&set, numbers[i]);
	if (guest->options.die_with_parent)
		sigaddset(&set, PARENT_SIGNAL);
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* A reader that goes away, or a limit of file size, is an error of that write alone. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	guest->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (guest->signal_fd < 0)
		return fail(-errno, "signalfd: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	return 0;
}

/* With the signal blocked, so that it waits for the signal_fd. */
static int follow_parent(const struct guest *guest)
{
	if (!guest->options.die_with_parent)
		return 0;
	if (prctl(PR_SET_PDEATHSIG, PARENT_SIGNAL) < 0)
		return fail(-errno, "--die-with-parent: can't watch the parent: %s: leave it out",
			strerror(errno));
	/* It may have ended before we asked. */
	if (getppid() == guest->options.parent)
		return 0;
	return fail(-ESRCH, "--die-with-parent: process %d, the parent, has ended: start none",
		(int)guest->options.parent);
}

/* poll() takes no more entries than there may be open files. */
static int check_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= SUPERVISOR_POLLS)
		return 0;
	return fail(-EMFILE, "only %llu open files are allowed, and Karma needs %u, and some more for each CPU, "
			     "disk and network: raise the limit (ulimit -n 1024)",
		(unsigned long long)limit.rlim_cur, SUPERVISOR_POLLS);
}

static int check_host(void)
{
	int result;

	/* A CPU that tells of SVM or VT-x has a KVM that hands on hypercalls; others may hang. */
	if (cpu_has_virtualization())
		return 0;
	result = kvm_open();
	if (result < 0)
		return result;
	close(result);
	result = kvm_probe();
	return result < 0 ? fail(result, "%s", kvm_probe_message(result)) : 0;
}

static int open_console(struct guest *guest)
{
	int result = terminal_open(&guest->terminal, guest->options.console, &guest->ring);

	if (result < 0)
		return result;
	guest->terminal_open = true;
	return terminal_start(&guest->terminal);
}

static int map_shared(struct guest *guest)
{
	size_t size = sizeof(*guest->shared) + guest->options.disk_count * sizeof(guest->shared->limits[0]);
	void *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		return fail(-errno, "out of memory");
	guest->shared = shared;
	guest->shared_bytes = size;
	disk_count_calls(&guest->shared->disk_calls);
	return 0;
}

/* A file of a disk, as an option names it. */
struct disk_file {
	const char *path;	/* NULL: none, or no file */
	bool written;
};

static struct disk_file disk_file(const struct disk_options *disk, bool overlay)
{
	const char *path = overlay ? disk->overlay : nbd_is_address(disk->path) ? NULL : disk->path;

	return (struct disk_file){ path, !disk->read_only && (overlay || !disk->overlay) };
}

static bool are_the_same(const struct disk_file *one, const struct disk_file *other)
{
	struct stat a, b;

	if (!one->path || !other->path || (!one->written && !other->written) ||
		stat(one->path, &a) < 0 || stat(other->path, &b) < 0)
		return false;
	if (S_ISBLK(a.st_mode) && S_ISBLK(b.st_mode))
		return a.st_rdev == b.st_rdev;
	return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Its locks would say that another guest has it. */
static int check_given_once(const struct guest_options *options, size_t index)
{
	for (size_t i = 0; i <= 2 * index; i++) {
		const struct disk_file before = disk_file(&options->disks[i / 2], i % 2);

		for (unsigned overlay = i == 2 * index; overlay < 2; overlay++) {
			const struct disk_file file = disk_file(&options->disks[index], overlay);

			if (are_the_same(&before, &file))
				return fail(-EINVAL,
					"disk %s: is given twice: give each disk, and each overlay, a file of "
					"its own, or `,ro` to all of them",
					file.path);
		}
	}
	return 0;
}

static int open_disks(struct guest *guest)
{
	const struct guest_options *options = &guest->options;

	guest->disks = calloc(options->disk_count, sizeof(*guest->disks));
	if (!guest->disks && options->disk_count)
		return fail(-ENOMEM, "disks: out of memory");
	for (size_t i = 0; i < options->disk_count; i++) {
		int result = check_given_once(options, i);

		if (result == 0)
			result = disk_open(&guest->disks[i], &options->disks[i], &guest->ring);
		if (result < 0)
			return result;
		limit_init(&guest->shared->limits[i], &options->disks[i].limit);
		guest->disk_count++;
	}
	return 0;
}

/* What lives on when the guest is started anew. */
static int start(struct guest *guest)
{
	int result = check_files();

	if (result == 0)
		result = sandbox_prepare(&guest->sandbox, &guest->options.sandbox);
	if (result == 0)
		result = check_host();
	if (result == 0)
		result = take_signals(guest);
	if (result == 0)
		result = follow_parent(guest);
	if (result == 0)
		result = notify_open(&guest->notify);
	if (result == 0)
		result = map_shared(guest);
	if (result == 0)
		result = operate_open(guest);
	if (result == 0)
		result = open_console(guest);
	if (result == 0)
		result = open_disks(guest);
	if (result == 0)
		result = networks_open(&guest->networks, &guest->options, &guest->ring);
	if (guest->options.timeout)
		guest->timeout_at = milliseconds() + guest->options.timeout * 1000ll;
	return result;
}

/* How large a file of ours may become: a disk only grows by others; of the rest, nobody knows. */
uint64_t guest_largest_file(const struct guest *guest)
{
	const int outputs[] = { guest->terminal.out_fd, STDERR_FILENO };
	uint64_t largest = 0;
	struct stat status;

	for (size_t i = 0; i < ARRAY_SIZE(outputs); i++) {
		if (fstat(outputs[i], &status) == 0 && S_ISREG(status.st_mode))
			return 0;
	}
	for (size_t i = 0; i < guest->disk_count; i++) {
		uint64_t size;

		if (disk_measure(guest->disks[i], &size) < 0)
			continue;
		/* An overlay has a map before its data, of a bit for 4 KiB. */
		if (guest->options.disks[i].overlay)
			size += size / 4096 + MIB;
		if (size > largest)
			largest = size;
	}
	return largest;
}

/* The signal comes when the thread ended that started us: its process may live on. */
static bool parent_ended(const struct guest *guest)
{
	if (getppid() == guest->options.parent)
		return false;
	note("process %d, the parent, has ended: the guest is to power off, as --die-with-parent has it",
		(int)guest->options.parent);
	return true;
}

static int find_tty(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (isatty(fd))
			return fd;
	}
	return -1;
}

/*
 * SIGHUP means two things.  Who closes a terminal wants what runs on it to end; a terminal that is
 * still there, or that never was, has not sent it.
 */
static bool terminal_hung_up(const struct guest *guest)
{
	struct pollfd tty = { .fd = guest->tty };

	return guest->tty >= 0 && poll(&tty, 1, 0) > 0 && (tty.revents & POLLHUP);
}

/* The supervisor has a signal for the guest's process. */
static void pass_on_signal(struct guest *guest)
{
	struct signalfd_siginfo info;
	int number;

	if (read(guest->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	number = info.ssi_signo;
	if (number == PARENT_SIGNAL)
		number = parent_ended(guest) ? SIGTERM : 0;
	/* There is none between two starts; the next one measures its disks. */
	if (number == SIGHUP && !terminal_hung_up(guest)) {
		if (!guest->process_running)
			return;
		process_set_file_limit(&guest->process, guest_largest_file(guest));
		process_send_order(&guest->process, &(struct order){ .kind = ORDER_MEASURE });
		return;
	}
	/* It has been asked already; the second is one that ends it by force. */
	if (number == SIGTERM && guest->stopped_by_client)
		guest->stopped_by_client = false;
	else if (number && guest->process_running)
		process_signal(&guest->process, number);
	if (number && number != SIGWINCH) {
		guest->stop_requested = true;
		guest->stop_signal = number;
		notify_stopping(&guest->notify, guest->options.grace);
	}
}

/* For poll(). */
static int milliseconds_until(int64_t moment)
{
	int64_t left = moment - milliseconds();

	return left < 0 ? 0 : left;
}

/* Of two times for poll(), either of which may be none. */
static int sooner(int one, int other)
{
	return one < 0 || (other >= 0 && other < one) ? other : one;
}

/* Nobody would hear a signal, or what the guest's process asks. */
static void give_up(const struct guest *guest, int error)
{
	fail(error, "can't wait for what happens: %s: the guest is killed: see the limit of open files "
		    "(ulimit -n), and the host's memory",
		strerror(-error));
	if (guest->process_running)
		process_kill(&guest->process);
}

waiting_place void supervise(struct guest *guest, int pidfd, int64_t until)
{
	struct pollfd watched[SUPERVISOR_POLLS];
	struct pollfd *const notify = watched + 4, *const control = notify + NOTIFY_EVENTS;
	struct pollfd *const nbd = control + CONTROL_POLLS;
	/* What comes between two starts, or before the first, is no long wait. */
	bool trimmed = !guest->process_running;

	watched[0] = (struct pollfd){ .fd = pidfd, .events = POLLIN };
	watched[1] = (struct pollfd){ .fd = guest->signal_fd, .events = POLLIN };
	watched[2] = (struct pollfd){ .fd = guest->process.replies, .events = POLLIN };
	watched[3] = (struct pollfd){ .fd = guest->networks.links_fd, .events = POLLIN };
	do {
		unsigned clients = control_poll(&guest->control, control);
		int timeout = sooner(control_timeout(&guest->control), notify_timeout(&guest->notify));

		timeout = sooner(timeout, nbd_servers_timeout());
		if (until)
			timeout = sooner(timeout, milliseconds_until(until));
		notify_poll(&guest->notify, notify);
		nbd_servers_watch(nbd);
		/* Right before a wait that may be long, so that what was touched to get here goes too. */
		if (!trimmed && guest->control.client_count == 0) {
			malloc_trim(0);
			trim_program();
			trimmed = true;
		}
		/* Of a constant number, since the checked poll() is in other pages of the C library. */
		if (poll(watched, ARRAY_SIZE(watched), timeout) < 0) {
			if (errno == EINTR)
				continue;
			give_up(guest, -errno);
			return;
		}
		trimmed = !guest->process_running;
		if (watched[1].revents)
			pass_on_signal(guest);
		if (watched[2].revents) {
			process_clear_replies(&guest->process);
			control_answered(&guest->control);
		}
		if (watched[3].revents)
			networks_look(&guest->networks, &guest->process);
		if (notify_serve(&guest->notify, notify, atomic_load(&guest->shared->disk_calls)))
			process_send_order(&guest->process, &(struct order){ .kind = ORDER_KEEPALIVE });
		control_serve(&guest->control, control, clients);
		nbd_servers_serve(nbd);
	} while (!watched[0].revents && (guest->process_running || (!guest->stop_requested && !passed(until))));
}

void log_timeout(const struct guest *guest)
{
	note("guest is still running after %u seconds: ended by --timeout", guest->options.timeout);
}

/* A guest that resets at once, again and again, is not to keep the host busy. */
static void pause_before_restart(struct guest *guest)
{
	int64_t earliest = guest->process_started_at / 1000000 + RESTART_MILLISECONDS;

	if (passed(earliest))
		return;
	if (!guest->restart_delay_logged)
		note("guest ended within a second of its start: it is started once a second at most");
	guest->restart_delay_logged = true;
	if (guest->timeout_at && guest->timeout_at < earliest)
		earliest = guest->timeout_at;
	supervise(guest, -1, earliest);
}

/* Whether another start follows; else *status is the supervisor's own. */
static bool is_started_anew(struct guest *guest, int *status)
{
	if (guest->stop_requested || end_policy(guest, guest->shared->end) != END_RESTART)
		return false;
	pause_before_restart(guest);
	if (!guest->stop_requested && passed(guest->timeout_at)) {
		log_timeout(guest);
		*status = STATUS_TIMEOUT;
		return false;
	}
	return !guest->stop_requested;
}

/* The status of a guest that was not started; why is told. */
static int status_of_none(const struct guest *guest)
{
	if (guest->stop_requested)
		return STATUS_SIGNAL + guest->stop_signal;
	if (!passed(guest->timeout_at))
		return STATUS_FAILURE;
	log_timeout(guest);
	return STATUS_TIMEOUT;
}

/* The supervisor, from a start to its end: the status, and whether there is to be another. */
static int run_once(struct guest *guest, bool *again)
{
	int status;
	pid_t pid = -1;

	guest->shared->end = OUTCOME_END;
	atomic_store(&guest->shared->disk_calls, 0);
	report_reset(guest->report);
	*again = false;
	if (guest_open_kernel(guest) == 0 && nbd_servers_open() == 0)
		pid = process_start(&guest->process, &guest->sandbox);
	if (pid < 0) {
		nbd_servers_close();
		boot_kernel_close(&guest->kernel);
		return status_of_none(guest);
	}
	/* All that it has made ends with it. */
	if (pid == 0)
		_exit(guest_process_main(guest));
	boot_kernel_close(&guest->kernel);
	guest->starts++;
	operate_started(guest);
	supervise(guest, guest->process.pidfd, 0);
	operate_ended(guest);
	nbd_servers_close();
	status = process_wait(&guest->process, STATUS_FAILURE);
	*again = is_started_anew(guest, &status);
	return status;
}

static void finish(struct guest *guest, int status)
{
	control_drop_consoles(&guest->control);
	if (guest->terminal_open)
		terminal_close(&guest->terminal);
	for (size_t i = 0; i < guest->disk_count; i++) {
		disk_close(guest->disks[i]);
		limit_release(&guest->shared->limits[i]);
	}
	if (guest->shared)
		munmap(guest->shared, guest->shared_bytes);
	free(guest->disks);
	networks_close(&guest->networks);
	notify_close(&guest->notify);
	close_fd(&guest->signal_fd);
	report_release(guest->report);
	/* Last: who waits for our end may start another guest with what this one had. */
	control_end(&guest->control, status);
}

static int run_guest(struct guest *guest)
{
	int status = STATUS_FAILURE;
	bool again = start(guest) == 0;

	while (again)
		status = run_once(guest, &again);
	finish(guest, status);
	return status;
}

void guest_init(struct guest *guest)
{
	*guest = (struct guest){
		.notify = NOTIFY_NONE,
		.networks = { .links_fd = -1 },
		.process = PROCESS_NONE,
		.kernel = BOOT_KERNEL_NONE,
		.signal_fd = -1,
		.pid = getpid(),
		.tty = find_tty(),
	};
	control_init(&guest->control, NULL, NULL, NULL, NULL, NULL);
}

int guest_run(const struct guest_options *options)
{
	struct guest guest;
	int status;

	guest_init(&guest);
	guest.options = *options;
	status = run_guest(&guest);
	return status;
}
