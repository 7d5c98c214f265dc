// SPDX-License-Identifier: GPL-2.0-only
/* The supervisor's event loop. */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>

#include "internal.h"
#include "karma/log.h"
#include "karma/nbd_connector.h"

/* What it polls: the guest's process, signals, replies to orders, changes of TAPs, the saver; and what others want. */
enum {
	POLL_PROCESS,
	POLL_SIGNALS,
	POLL_REPLIES,
	POLL_LINKS,
	POLL_NOTIFY,
	POLL_CONTROL = POLL_NOTIFY + NOTIFY_EVENTS,
	POLL_VSOCK = POLL_CONTROL + CONTROL_POLLS,
	POLL_SAVER,
	POLL_NBD,
	POLLS = POLL_NBD + NBD_CONNECTORS_MAX
};

/* poll() refuses more entries than RLIMIT_NOFILE allows. */
int supervisor_check_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= (unsigned)POLLS)
		return 0;
	return fail(-EMFILE, "only %llu open files are allowed, and Karma needs %u, and some more for each CPU, "
			     "disk and network: raise the limit (ulimit -n 1024)",
		(unsigned long long)limit.rlim_cur, (unsigned)POLLS);
}

/* Without poll() there is no way to receive a signal, or to serve the guest. */
static void give_up(const struct guest *guest, int error)
{
	fail(error, "can't wait for what happens: %s: the guest is killed: see the limit of open files "
		    "(ulimit -n), and the host's memory",
		strerror(-error));
	if (guest->process_running)
		process_kill(&guest->process);
}

/* Returns how many entries of the control socket's are in use. */
idle_path static unsigned fill_polls(struct guest *guest, int pidfd, struct pollfd polls[POLLS])
{
	polls[POLL_PROCESS] = (struct pollfd){ .fd = pidfd, .events = POLLIN };
	polls[POLL_SIGNALS] = (struct pollfd){ .fd = guest->signal_fd, .events = POLLIN };
	polls[POLL_REPLIES] = (struct pollfd){ .fd = guest->process.replies, .events = POLLIN };
	polls[POLL_LINKS] = (struct pollfd){ .fd = guest->networks.links_fd, .events = POLLIN };
	notify_poll(&guest->notify, polls + POLL_NOTIFY);
	polls[POLL_VSOCK] = vsock_connector_watch(&guest->vsock);
	polls[POLL_SAVER] = saver_watch(guest);
	nbd_connectors_watch(polls + POLL_NBD);
	return control_poll(&guest->control, polls + POLL_CONTROL);
}

idle_path static int next_timeout(const struct guest *guest, int64_t until)
{
	int timeout = shorter_timeout(control_timeout(&guest->control), notify_timeout(&guest->notify));

	timeout = shorter_timeout(timeout, nbd_connectors_timeout());
	timeout = shorter_timeout(timeout, timeout_until(guest->note_touched_at));
	return shorter_timeout(timeout, timeout_until(until));
}

idle_path static void serve(struct guest *guest, const struct pollfd polls[POLLS], unsigned clients)
{
	struct vsock_message answer;

	if (polls[POLL_SIGNALS].revents)
		signals_serve(guest);
	if (polls[POLL_REPLIES].revents) {
		process_clear_replies(&guest->process);
		control_reply_ready(&guest->control);
		saver_checkpoint(guest);
	}
	if (polls[POLL_LINKS].revents)
		networks_send_links(&guest->networks, &guest->process);
	if (notify_serve(&guest->notify, polls + POLL_NOTIFY, atomic_load(&guest->shared->disk_calls)))
		process_send_order(&guest->process, &(struct order){ .kind = ORDER_KEEPALIVE });
	if (polls[POLL_VSOCK].revents && vsock_connector_serve(&guest->vsock, &answer))
		control_connected(&guest->control, answer.id, answer.result);
	if (polls[POLL_SAVER].revents)
		saver_serve(guest);
	control_serve(&guest->control, polls + POLL_CONTROL, clients);
	nbd_connectors_serve(polls + POLL_NBD);
	note_touched_serve(guest);
}

idle_path void supervise(struct guest *guest, int pidfd, int64_t until)
{
	struct pollfd polls[POLLS];
	/* Without a guest's process, no wait is long enough to pay for it. */
	bool trimmed = !guest->process_running;

	do {
		unsigned clients = fill_polls(guest, pidfd, polls);
		int timeout = next_timeout(guest, until);

		/* Right before a long wait, so that the pages that led here are unmapped too. */
		if (!trimmed && guest->control.client_count == 0) {
			malloc_trim(0);
			trim_program();
			trimmed = true;
		}
		/* The number is a constant, which spares poll()'s checked variant and its pages of the C library. */
		if (poll(polls, ARRAY_SIZE(polls), timeout) < 0) {
			if (errno == EINTR)
				continue;
			give_up(guest, -errno);
			return;
		}
		trimmed = !guest->process_running;
		serve(guest, polls, clients);
	} while (!polls[POLL_PROCESS].revents &&
		 (guest->process_running || (!guest->stop_requested && !passed(until))));
}
