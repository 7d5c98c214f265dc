// SPDX-License-Identifier: GPL-2.0-only
/* A guest from its first start to its end: what lives on over restarts, and whether another start follows. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"
#include "karma/log.h"
#include "karma/nbd_connector.h"
#include "karma/status.h"

#define RESTART_MILLISECONDS 1000	/* from one start to the next, at least */

static int check_host(void)
{
	int result;

	/* With SVM or VT-x, KVM passes hypercalls on.  Without, as in some nested hosts, it may hang in one. */
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
	return terminal_set_raw(&guest->terminal);
}

static int map_shared(struct guest *guest)
{
	size_t size = sizeof(*guest->shared) + guest->options.disk_count * sizeof(guest->shared->limits[0]);
	void *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		return fail(-errno, "out of memory");
	guest->shared = shared;
	guest->shared_bytes = size;
	disk_set_blocking_counter(&guest->shared->disk_calls);
	return 0;
}

/* What lives on when the guest is started anew. */
static int open_all(struct guest *guest)
{
	int result = supervisor_check_files();

	if (result == 0)
		result = sandbox_prepare(&guest->sandbox, &guest->options.sandbox);
	if (result == 0)
		result = check_host();
	if (result == 0)
		result = signals_open(guest);
	if (result == 0)
		result = notify_open(&guest->notify);
	if (result == 0)
		result = map_shared(guest);
	if (result == 0 && !guest_restores(guest))
		result = guest_find_initramfs(&guest->options, &guest->initramfs);
	if (result == 0)
		result = agent_choose(guest);
	if (result == 0)
		result = operations_open(guest);
	if (result == 0)
		result = open_console(guest);
	if (result == 0)
		result = disks_open(guest);
	if (result == 0)
		result = networks_open(&guest->networks, &guest->options, &guest->ring);
	if (result == 0)
		result = shares_open(&guest->shares, &guest->options);
	/* Their servers map it. */
	guest->options.memory.shared |= guest->shares.count > 0;
	if (result == 0)
		warm_open(guest);
	if (guest->options.timeout)
		guest->timeout_at = milliseconds() + guest->options.timeout * 1000ll;
	return result;
}

void log_timeout(const struct guest *guest)
{
	note("guest is still running after %u seconds: ended by --timeout", guest->options.timeout);
}

/* A guest that resets at once, again and again, must not keep the host busy. */
static void delay_restart(struct guest *guest)
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

/* Whether another start follows.  Sets *status if the supervisor itself is why not. */
static bool is_restarted(struct guest *guest, int *status)
{
	if (guest->stop_requested || end_policy(guest, guest->shared->end) != END_RESTART)
		return false;
	delay_restart(guest);
	if (!guest->stop_requested && passed(guest->timeout_at)) {
		log_timeout(guest);
		*status = STATUS_TIMEOUT;
		return false;
	}
	return !guest->stop_requested;
}

/* The exit status where a guest could not be started, after its message. */
static int status_not_started(const struct guest *guest)
{
	if (guest->stop_requested)
		return STATUS_SIGNAL + guest->stop_signal;
	if (!passed(guest->timeout_at))
		return STATUS_FAILURE;
	log_timeout(guest);
	return STATUS_TIMEOUT;
}

/* At a restart the kernel's file may be another. */
static int find_initramfs_again(struct guest *guest)
{
	if (!guest->starts)
		return 0;
	free(guest->initramfs);
	return guest_find_initramfs(&guest->options, &guest->initramfs);
}

/* One start, to its end: the exit status, and whether there is to be another. */
static int run_once(struct guest *guest, bool *again)
{
	int status;
	pid_t pid = -1;

	guest->shared->end = OUTCOME_END;
	atomic_store(&guest->shared->disk_calls, 0);
	report_reset(guest->report);
	*again = false;
	if (find_initramfs_again(guest) == 0 && (guest_restores(guest) || guest_open_kernel(guest) == 0) && nbd_connectors_open() == 0 &&
		vsock_connector_open(&guest->vsock) == 0 && shares_start(&guest->shares) == 0)
		pid = process_start(&guest->process, &guest->sandbox);
	if (pid < 0) {
		shares_stop(&guest->shares);
		vsock_connector_close(&guest->vsock);
		nbd_connectors_close();
		boot_kernel_close(&guest->kernel);
		return status_not_started(guest);
	}
	if (pid == 0)
		_exit(guest_process_main(guest));
	boot_kernel_close(&guest->kernel);
	shares_started(&guest->shares);
	guest->starts++;
	operations_started(guest);
	supervise(guest, guest->process.pidfd, 0);
	operations_ended(guest);
	vsock_connector_close(&guest->vsock);
	agent_end(&guest->agent);
	nbd_connectors_close();
	status = process_wait(&guest->process, STATUS_FAILURE);
	shares_stop(&guest->shares);
	*again = warm_was_refused(guest) || is_restarted(guest, &status);
	return status;
}

static void close_all(struct guest *guest, int status)
{
	control_detach_consoles(&guest->control);
	if (guest->terminal_open)
		terminal_close(&guest->terminal);
	disks_close(guest);
	if (guest->shared)
		munmap(guest->shared, guest->shared_bytes);
	networks_close(&guest->networks);
	shares_close(&guest->shares);
	notify_close(&guest->notify);
	free(guest->initramfs);
	warm_close(guest);
	close_fd(&guest->signal_fd);
	report_release(guest->report);
	/* Last: a client that waits for the end may start another guest with the same files at once. */
	control_end(&guest->control, status);
}

void guest_init(struct guest *guest)
{
	*guest = (struct guest){
		.notify = NOTIFY_NONE,
		.networks = { .links_fd = -1 },
		.agent = AGENT_CLIENT_NONE,
		.vsock = { .sockets = { -1, -1 } },
		.process = PROCESS_NONE,
		.saver = SAVER_IDLE,
		.warm = WARM_NONE,
		.kernel = BOOT_KERNEL_NONE,
		.signal_fd = -1,
		.pid = getpid(),
		.tty = -1,
	};
	control_init(&guest->control, NULL, NULL, NULL, NULL, NULL);
}

void guest_restore_from(struct guest_options *options, const char *path, const struct snapshot_files *files)
{
	options->restore.state = files->state;
	options->restore.state_bytes = files->state_bytes;
	options->restore.notes_touched = files->touched ? NULL : path;
	options->memory.restored = true;
	options->memory.file = files->memory;
	if (files->touched) {
		options->memory.ahead = files->touched->ranges;
		options->memory.ahead_count = files->touched->count;
	}
}

int guest_run(const struct guest_options *options)
{
	struct guest guest;
	int status = STATUS_FAILURE;
	bool again;

	guest_init(&guest);
	guest.options = *options;
	vsock_connector_init(&guest.vsock, &guest.options.vsock);
	again = open_all(&guest) == 0;
	while (again)
		status = run_once(&guest, &again);
	close_all(&guest, status);
	return status;
}
