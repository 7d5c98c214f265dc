// SPDX-License-Identifier: GPL-2.0-only
/* Karma in the container: the guest's supervisor, which is its first process, and clients of the guest's agent. */
#include <errno.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "karma/agent_protocol.h"
#include "karma/commands.h"
#include "karma/guest.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/util.h"
#include "network.h"
#include "oci.h"

/* The task; NULL with a message printed. */
static json_t *take_task(void)
{
	const char *text = getenv(OCI_VARIABLE);
	json_t *task = text ? json_loads(text, 0, NULL) : NULL;

	if (!task)
		fail(-EINVAL, OCI_VARIABLE ": is not what karma-oci sets: this is for the inside of a container");
	unsetenv(OCI_VARIABLE);
	return task;
}

/* Wherever else it is mounted: in /proc the server of files would find its own memory, for the guest to write. */
static int check_root(void)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	const struct mntent *mount;
	int result = mounts ? 0 : -errno;

	while (result == 0 && (mount = getmntent(mounts))) {
		if (strncmp(mount->mnt_dir, OCI_ROOT "/", strlen(OCI_ROOT "/")) == 0 &&
			(strcmp(mount->mnt_type, "proc") == 0 || strcmp(mount->mnt_type, "sysfs") == 0))
			result = fail(-EINVAL, "%s: a guest can't have the host's %s: leave that mount out",
				mount->mnt_dir + strlen(OCI_ROOT), mount->mnt_type);
	}
	if (mounts)
		endmntent(mounts);
	return result;
}

/*
 * The container's root as the guest is to see it: with volumes and files of its engine, and without what a guest has
 * itself.
 */
static int make_root(void)
{
	static const char *const own[] = { OCI_ROOT "/dev", OCI_ROOT "/proc", OCI_ROOT "/sys" };

	if (mkdir(OCI_ROOT, 0700) < 0 || mount("/", OCI_ROOT, NULL, MS_BIND | MS_REC, NULL) < 0 ||
		mount(NULL, OCI_ROOT, NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fail(-errno, "the container's root can't be mounted for the guest: %s", strerror(errno));
	for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
		/* The last need not be there; links in the root would lead elsewhere. */
		if (umount2(own[i], MNT_DETACH | UMOUNT_NOFOLLOW) < 0 &&
			(i < 2 || (errno != EINVAL && errno != ENOENT)))
			return fail(-errno, "%s can't be kept from the guest: %s: have it be a directory in the image",
				own[i] + strlen(OCI_ROOT), strerror(errno));
	}
	return check_root();
}

/* What the guest's init does: what karma-oci has told on the host, and the network as it is here.  malloc'ed, or NULL. */
static char *make_setup(const json_t *task, struct net_options nets[OCI_NETS_MAX], size_t *count)
{
	const char *told = json_string_value(json_object_get(task, "setup"));
	char *text = NULL;
	size_t size;
	FILE *file = told ? open_memstream(&text, &size) : NULL;
	int result;

	if (!file) {
		fail(-EINVAL, OCI_VARIABLE ": has no setup, or memory is short");
		return NULL;
	}
	fputs(told, file);
	result = oci_network(nets, count, file);
	if (fclose(file) == 0 && result == 0)
		return text;
	free(text);
	return NULL;
}

static int run(const json_t *task, const struct oci_process *process)
{
	struct net_options nets[OCI_NETS_MAX];
	size_t net_count;
	cleanup_free char *setup = make_setup(task, nets, &net_count);
	const char *initrds[] = { OCI_INITRD, NULL };
	/* So that the initramfs knows that there is one; the agent is told what it is. */
	char *command[] = { "container", NULL };
	struct share_options root = {
		.directory = OCI_ROOT,
		.tag = GUEST_ROOT_TAG,
		.plain_mounts = true,
	};
	const struct guest_options options = {
		.name = OCI_GUEST_NAME,
		.kernel = OCI_KERNEL,
		.initrds = initrds,
		.initrd_count = 1,
		/* No question for an address: there is one, or none is to be had. */
		.cmdline = "ip=none",
		.nets = nets,
		.net_count = setup ? net_count : 0,
		.command = command,
		.shares = &root,
		.share_count = 1,
		.container = {
			.command = &process->command,
			.setup = setup,
		},
		.cpus = json_integer_value(json_object_get(task, "cpus")),
		.memory = { .size = json_integer_value(json_object_get(task, "memory")) },
		.balloon = true,
		.warm = json_is_true(json_object_get(task, "warm")),
	};

	if (!setup || make_root() < 0)
		return STATUS_FAILURE;
	return guest_run(&options);
}

int oci_guest(void)
{
	json_t *task = take_task();
	struct oci_process process = { 0 };
	int status = STATUS_FAILURE;

	log_start_history();
	if (task && oci_process_parse(&process, json_object_get(task, "process")) == 0)
		status = run(task, &process);
	oci_process_release(&process);
	json_decref(task);
	return status;
}

int oci_join(void)
{
	json_t *task = take_task();
	struct oci_process process = { 0 };
	int status = STATUS_FAILURE;

	if (task && oci_process_parse(&process, json_object_get(task, "process")) == 0) {
		int socket = agent_await(OCI_GUEST_NAME);

		if (socket >= 0) {
			status = agent_run_command(socket, NULL, &process.command);
			close(socket);
		}
	}
	oci_process_release(&process);
	json_decref(task);
	return status;
}

int oci_balloon(void)
{
	json_t *task = take_task();
	int status = STATUS_FAILURE;

	if (task)
		status = balloon_await(OCI_GUEST_NAME, json_integer_value(json_object_get(task, "balloon")),
			json_is_true(json_object_get(task, "grow"))) == 0 ? 0 : STATUS_FAILURE;
	json_decref(task);
	return status;
}
