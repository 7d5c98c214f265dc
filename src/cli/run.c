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
#include "karma/nbd_connector.h"
#include "run.h"

/* Of --die-with-parent; nobody else sends it. */
#define PARENT_SIGNAL SIGUSR2
#define RESTART_MILLISECONDS 1000	/* from one start to the next, at least */
/* What the supervisor waits for: the guest's process, signals, answers, links, and what others want. */
#define SUPERVISOR_POLLS (4 + NOTIFY_EVENTS + CONTROL_POLLS + NBD_CONNECTORS_MAX)

static const char help[] =
	"usage: karma run --kernel FILE [OPTION]... [-- COMMAND [ARGUMENT]...]\n"
	"  --config FILE|NAME     read options from a file, or /etc/karma/NAME.conf; those of\n"
	"                         the command line win\n"
	"  --print-config         print all options as such a file, and run nothing\n"
	"  --kernel FILE          a bzImage (any Debian vmlinuz) or an ELF vmlinux\n"
	"  --initrd FILE          an initramfs, one or several; without one, Karma's own:\n"
	"                         $KARMA_GUEST_DIR/RELEASE/initramfs.img\n"
	"  --disk FILE[,ro][,direct][,raw][,overlay=FILE][,serial=TEXT][,iops=N]\n"
	"      [,bps=SIZE][,burst=SECONDS]  raw image or block device; the first, vda, is the root;\n"
	"                         what is written goes to the overlay, if there is one\n"
	"  --disk nbd:unix:PATH, nbd://HOST[:PORT][/EXPORT]  what an NBD server has; with\n"
	"                         ro, serial, iops, bps, burst and timeout=SECONDS\n"
	"  --net tap=NAME[,queues=N] | fd=N | user[,publish=[ADDR:]HOST:GUEST[/udp]]...\n"
	"        [,mac=MAC][,mtu=N][,bps=SIZE][,pps=N][,burst=SECONDS]\n"
	"                         a network: a TAP of the host, or what any user may (passt)\n"
	"  --cpus N               virtual CPUs, 1 to 64 (1)\n"
	"  --memory SIZE[,hugepages=on|off][,shared=on|off]  such as 256M or 2G (512M);\n"
	"                         of huge pages; in a file that other processes can map\n"
	"  --balloon on|off       give memory that the guest frees back to the host (on)\n"
	"  --pmu on|off           give the guest the CPU's performance counters (off)\n"
	"  --cmdline TEXT         added to the kernel's command line; root= there wins\n"
	"  --console WHERE        stdio, pty, none, file:PATH or unix:PATH (stdio)\n"
	"  --name NAME            the guest's name, for karma ps, stop and others (karma-PID)\n"
	"  --log-format text|json  the form of messages on stderr (text)\n"
	"  --timeout SECONDS      end the guest then, with status 124\n"
	"  --grace SECONDS        time to power off after SIGTERM; then by force (30)\n"
	"  --reboot exit|restart  what a reboot does (exit)\n"
	"  --on-panic exit|restart|wait  what a panic does; wait keeps the guest (exit)\n"
	"  --watchdog SECONDS     a guest that is silent for so long counts as panicked\n"
	"  --die-with-parent      when karma's parent ends, do what SIGTERM does\n"
	"  --strict, --stats      end it when it uses absent ports or memory; print counters\n"
	"  --user NAME, --cgroup PATH  for root: what the guest's process is to run as, and in\n"
	"  --no-sandbox           leave that process all the rights that it was started with\n"
	"COMMAND runs in the initramfs, or on the disk's root, and its status is karma's.\n"
	"Exit status: 0 powered off, 1-123 COMMAND's, 124 timeout, 125 karma failed,\n"
	"126 the guest's kernel panicked or hangs, 127 the guest crashed, 128+N a signal\n"
	"ended COMMAND or karma.  All of it: karma(1).\n";

/* Signals come by a file descriptor; threads inherit that they are blocked. */
static int take_signals(struct run *run)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		sigaddset(&set, numbers[i]);
	if (run->options.die_with_parent)
		sigaddset(&set, PARENT_SIGNAL);
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* A reader that goes away, or a limit of file size, is an error of that write alone. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	run->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (run->signal_fd < 0)
		return fail(-errno, "signalfd: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	return 0;
}

/* With the signal blocked, so that it waits for the signal_fd. */
static int follow_parent(const struct run *run)
{
	if (!run->options.die_with_parent)
		return 0;
	if (prctl(PR_SET_PDEATHSIG, PARENT_SIGNAL) < 0)
		return fail(-errno, "--die-with-parent: can't watch the parent: %s: leave it out",
			strerror(errno));
	/* It may have ended before we asked. */
	if (getppid() == run->parent)
		return 0;
	return fail(-ESRCH, "--die-with-parent: process %d, the parent, has ended: start none",
		(int)run->parent);
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

static int open_console(struct run *run)
{
	int result = terminal_open(&run->terminal, run->options.console, &run->ring);

	if (result < 0)
		return result;
	run->terminal_made = true;
	return terminal_set_raw(&run->terminal);
}

static int make_kept(struct run *run)
{
	size_t size = sizeof(*run->kept) + run->options.disk_count * sizeof(run->kept->limits[0]);
	void *kept = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (kept == MAP_FAILED)
		return fail(-errno, "out of memory");
	run->kept = kept;
	run->kept_bytes = size;
	disk_set_blocking_counter(&run->kept->disk_calls);
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
static int check_given_once(const struct run_options *options, size_t index)
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

static int open_disks(struct run *run)
{
	const struct run_options *options = &run->options;

	run->disks = calloc(options->disk_count, sizeof(*run->disks));
	if (!run->disks && options->disk_count)
		return fail(-ENOMEM, "disks: out of memory");
	for (size_t i = 0; i < options->disk_count; i++) {
		int result = check_given_once(options, i);

		if (result == 0)
			result = disk_open(&run->disks[i], &options->disks[i], &run->ring);
		if (result < 0)
			return result;
		rate_limiter_init(&run->kept->limits[i], &options->disks[i].limit);
		run->disk_count++;
	}
	return 0;
}

/* What lives on when the guest is started anew. */
static int start(struct run *run)
{
	int result = check_files();

	if (result == 0)
		result = sandbox_prepare(&run->sandbox, &run->options.sandbox);
	if (result == 0)
		result = check_host();
	if (result == 0)
		result = take_signals(run);
	if (result == 0)
		result = follow_parent(run);
	if (result == 0)
		result = notify_open(&run->notify);
	if (result == 0)
		result = make_kept(run);
	if (result == 0)
		result = operate_open(run);
	if (result == 0)
		result = open_console(run);
	if (result == 0)
		result = open_disks(run);
	if (result == 0)
		result = networks_open(&run->networks, &run->options, &run->ring);
	if (run->options.timeout)
		run->timeout_at = milliseconds() + run->options.timeout * 1000ll;
	return result;
}

/* How large a file of ours may become: a disk only grows by others; of the rest, nobody knows. */
uint64_t run_largest_file(const struct run *run)
{
	const int outputs[] = { run->terminal.out_fd, STDERR_FILENO };
	uint64_t largest = 0;
	struct stat status;

	for (size_t i = 0; i < ARRAY_SIZE(outputs); i++) {
		if (fstat(outputs[i], &status) == 0 && S_ISREG(status.st_mode))
			return 0;
	}
	for (size_t i = 0; i < run->disk_count; i++) {
		uint64_t size;

		if (disk_measure(run->disks[i], &size) < 0)
			continue;
		/* An overlay has a map before its data, of a bit for 4 KiB. */
		if (run->options.disks[i].overlay)
			size += size / 4096 + MIB;
		if (size > largest)
			largest = size;
	}
	return largest;
}

/* The signal comes when the thread ended that started us: its process may live on. */
static bool parent_ended(const struct run *run)
{
	if (getppid() == run->parent)
		return false;
	note("process %d, the parent, has ended: the guest is to power off, as --die-with-parent has it",
		(int)run->parent);
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
static bool terminal_hung_up(const struct run *run)
{
	struct pollfd tty = { .fd = run->tty };

	return run->tty >= 0 && poll(&tty, 1, 0) > 0 && (tty.revents & POLLHUP);
}

/* The supervisor has a signal for the guest's process. */
static void pass_on_signal(struct run *run)
{
	struct signalfd_siginfo info;
	int number;

	if (read(run->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	number = info.ssi_signo;
	if (number == PARENT_SIGNAL)
		number = parent_ended(run) ? SIGTERM : 0;
	/* There is none between two starts; the next one measures its disks. */
	if (number == SIGHUP && !terminal_hung_up(run)) {
		if (!run->process_runs)
			return;
		process_allow(&run->process, run_largest_file(run));
		process_order(&run->process, &(struct process_order){ .kind = ORDER_MEASURE });
		return;
	}
	/* It has been asked already; the second is one that ends it by force. */
	if (number == SIGTERM && run->stopping)
		run->stopping = false;
	else if (number && run->process_runs)
		process_signal(&run->process, number);
	if (number && number != SIGWINCH) {
		run->leaving = true;
		run->left_by = number;
		notify_stopping(&run->notify, run->options.grace);
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
static void give_up(const struct run *run, int error)
{
	fail(error, "can't wait for what happens: %s: the guest is killed: see the limit of open files "
		    "(ulimit -n), and the host's memory",
		strerror(-error));
	if (run->process_runs)
		process_kill(&run->process);
}

idle_path void run_supervise(struct run *run, int pidfd, int64_t until)
{
	struct pollfd watched[SUPERVISOR_POLLS];
	struct pollfd *const notify = watched + 4, *const control = notify + NOTIFY_EVENTS;
	struct pollfd *const nbd = control + CONTROL_POLLS;
	/* What comes between two starts, or before the first, is no long wait. */
	bool trimmed = !run->process_runs;

	watched[0] = (struct pollfd){ .fd = pidfd, .events = POLLIN };
	watched[1] = (struct pollfd){ .fd = run->signal_fd, .events = POLLIN };
	watched[2] = (struct pollfd){ .fd = run->process.answers, .events = POLLIN };
	watched[3] = (struct pollfd){ .fd = run->networks.links_fd, .events = POLLIN };
	do {
		unsigned clients = control_poll(&run->control, control);
		int timeout = sooner(control_timeout(&run->control), notify_timeout(&run->notify));

		timeout = sooner(timeout, nbd_connectors_timeout());
		if (until)
			timeout = sooner(timeout, milliseconds_until(until));
		notify_watch(&run->notify, notify);
		nbd_connectors_watch(nbd);
		/* Right before a wait that may be long, so that what was touched to get here goes too. */
		if (!trimmed && run->control.client_count == 0) {
			malloc_trim(0);
			trim_program();
			trimmed = true;
		}
		/* Of a constant number, since the checked poll() is in other pages of the C library. */
		if (poll(watched, ARRAY_SIZE(watched), timeout) < 0) {
			if (errno == EINTR)
				continue;
			give_up(run, -errno);
			return;
		}
		trimmed = !run->process_runs;
		if (watched[1].revents)
			pass_on_signal(run);
		if (watched[2].revents) {
			process_hear_answer(&run->process);
			control_answered(&run->control);
		}
		if (watched[3].revents)
			networks_look(&run->networks, &run->process);
		if (notify_serve(&run->notify, notify, atomic_load(&run->kept->disk_calls)))
			process_order(&run->process, &(struct process_order){ .kind = ORDER_ALIVE });
		control_serve(&run->control, control, clients);
		nbd_connectors_serve(nbd);
	} while (!watched[0].revents && (run->process_runs || (!run->leaving && !passed(until))));
}

void run_tell_timeout(const struct run *run)
{
	note("guest is still running after %u seconds: ended by --timeout", run->options.timeout);
}

/* A guest that resets at once, again and again, is not to keep the host busy. */
static void pause_before_restart(struct run *run)
{
	int64_t earliest = run->process_started_at / 1000000 + RESTART_MILLISECONDS;

	if (passed(earliest))
		return;
	if (!run->told_of_pause)
		note("guest ended within a second of its start: it is started once a second at most");
	run->told_of_pause = true;
	if (run->timeout_at && run->timeout_at < earliest)
		earliest = run->timeout_at;
	run_supervise(run, -1, earliest);
}

/* Whether another start follows; else *status is the supervisor's own. */
static bool is_started_anew(struct run *run, int *status)
{
	if (run->leaving || run_policy(run, run->kept->end) != END_RESTART)
		return false;
	pause_before_restart(run);
	if (!run->leaving && passed(run->timeout_at)) {
		run_tell_timeout(run);
		*status = STATUS_TIMEOUT;
		return false;
	}
	return !run->leaving;
}

/* The status of a guest that was not started; why is told. */
static int status_of_none(const struct run *run)
{
	if (run->leaving)
		return STATUS_SIGNAL + run->left_by;
	if (!passed(run->timeout_at))
		return STATUS_FAILURE;
	run_tell_timeout(run);
	return STATUS_TIMEOUT;
}

/* The supervisor, from a start to its end: the status, and whether there is to be another. */
static int run_once(struct run *run, bool *again)
{
	int status;
	pid_t pid = -1;

	run->kept->end = RUN_ENDED;
	atomic_store(&run->kept->disk_calls, 0);
	report_reset(run->report);
	*again = false;
	if (run_open_kernel(run) == 0 && nbd_connectors_open() == 0)
		pid = process_start(&run->process, &run->sandbox);
	if (pid < 0) {
		nbd_connectors_close();
		boot_kernel_close(&run->kernel);
		return status_of_none(run);
	}
	/* All that it has made ends with it. */
	if (pid == 0)
		_exit(run_guest_process(run));
	boot_kernel_close(&run->kernel);
	run->starts++;
	operate_started(run);
	run_supervise(run, run->process.pidfd, 0);
	operate_ended(run);
	nbd_connectors_close();
	status = process_wait(&run->process, STATUS_FAILURE);
	*again = is_started_anew(run, &status);
	return status;
}

static void finish(struct run *run, int status)
{
	control_drop_consoles(&run->control);
	if (run->terminal_made)
		terminal_close(&run->terminal);
	for (size_t i = 0; i < run->disk_count; i++) {
		disk_close(run->disks[i]);
		rate_limiter_release(&run->kept->limits[i]);
	}
	if (run->kept)
		munmap(run->kept, run->kept_bytes);
	free(run->disks);
	networks_close(&run->networks);
	notify_close(&run->notify);
	close_fd(&run->signal_fd);
	report_release(run->report);
	/* Last: who waits for our end may start another guest with what this one had. */
	control_end(&run->control, status);
}

static int run_guest(struct run *run)
{
	int status = STATUS_FAILURE;
	bool again = start(run) == 0;

	while (again)
		status = run_once(run, &again);
	finish(run, status);
	return status;
}

void run_init(struct run *run)
{
	*run = (struct run){
		.notify = NOTIFY_NONE,
		.networks = { .links_fd = -1 },
		.process = PROCESS_NONE,
		.kernel = BOOT_KERNEL_NONE,
		.signal_fd = -1,
		.pid = getpid(),
		.parent = getppid(),
		.tty = find_tty(),
	};
	control_init(&run->control, NULL, NULL, NULL, NULL, NULL);
}

int command_run(int argc, char **argv)
{
	struct run run;
	int status = STATUS_FAILURE;
	int result;

	run_init(&run);
	log_start_history();
	result = run_options_parse(&run.options, argc, argv);
	if (result == 0 && run.options.help) {
		fputs(help, stdout);
		status = 0;
	} else if (result == 0 && run.options.print_config) {
		status = run_options_print(&run.options, stdout) < 0 ? STATUS_FAILURE : 0;
	} else if (result == 0) {
		if (run.options.name)
			log_set_name(run.options.name);
		status = run_guest(&run);
	}
	run_options_release(&run.options);
	return status;
}
