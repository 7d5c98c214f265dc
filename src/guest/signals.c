// SPDX-License-Identifier: GPL-2.0-only
/* Signals to the supervisor, and what each of them means for the guest. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "internal.h"
#include "karma/log.h"

#define PARENT_SIGNAL SIGUSR2	/* PR_SET_PDEATHSIG, for --die-with-parent; nobody else sends it */

/* The guest's process and its threads inherit that they are blocked. */
static int block_signals(struct guest *guest)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		sigaddset(&set, numbers[i]);
	if (guest->options.die_with_parent)
		sigaddset(&set, PARENT_SIGNAL);
	if (guest->options.container.command)
		agent_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* Instead, a write to a closed pipe or beyond the limit of file sizes fails. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	guest->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (guest->signal_fd < 0)
		return fail(-errno, "signalfd: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	return 0;
}

/* With the signal blocked already, so that none is lost. */
static int watch_parent(const struct guest *guest)
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

static int find_tty(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (isatty(fd))
			return fd;
	}
	return -1;
}

int signals_open(struct guest *guest)
{
	int result = block_signals(guest);

	guest->tty = find_tty();
	return result == 0 ? watch_parent(guest) : result;
}

/* PR_SET_PDEATHSIG is about the thread that has started us: its process may live on. */
static bool parent_ended(const struct guest *guest)
{
	if (getppid() == guest->options.parent)
		return false;
	note("process %d, the parent, has ended: the guest is to power off, as --die-with-parent has it",
		(int)guest->options.parent);
	return true;
}

/*
 * SIGHUP has two meanings.  If our terminal has hung up, the guest is to end, as any program on it.  If there is
 * no terminal, or it is still there, the user has sent the signal: disks have grown.
 */
static bool terminal_hung_up(const struct guest *guest)
{
	struct pollfd tty = { .fd = guest->tty };

	return guest->tty >= 0 && poll(&tty, 1, 0) > 0 && (tty.revents & POLLHUP);
}

/* Between two starts there is nothing to do: the next one measures its disks. */
static void disks_have_grown(struct guest *guest)
{
	if (!guest->process_running)
		return;
	process_set_file_limit(&guest->process, disks_file_limit(guest));
	process_send_order(&guest->process, &(struct order){ .kind = ORDER_MEASURE });
}

/* After `karma stop` has asked the guest to power off, only a second SIGTERM ends it by force. */
static void pass_on(struct guest *guest, int number)
{
	if (number == SIGTERM && guest->stopped_by_client)
		guest->stopped_by_client = false;
	else if (guest->process_running)
		process_signal(&guest->process, number);
}

void signals_serve(struct guest *guest)
{
	struct signalfd_siginfo info;
	int number;

	if (read(guest->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	number = info.ssi_signo;
	if (guest->options.container.command) {
		agent_signal(&guest->agent, number);
		return;
	}
	if (number == PARENT_SIGNAL && !parent_ended(guest))
		return;
	if (number == PARENT_SIGNAL)
		number = SIGTERM;
	if (number == SIGHUP && !terminal_hung_up(guest)) {
		disks_have_grown(guest);
		return;
	}
	pass_on(guest, number);
	/* The console has another size; all others end the guest. */
	if (number == SIGWINCH)
		return;
	guest->stop_requested = true;
	guest->stop_signal = number;
	notify_stopping(&guest->notify, guest->options.grace);
}
