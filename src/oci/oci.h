/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parts of karma-oci share: main.c (the command line), settings.c, program.c, and bundle.c with setup.c and process.c
 * (the translation) on the host; container.c and process.c in the container.
 *
 * One thread.  Functions that return int return 0, or a negative errno with a message printed.  JSON of others' is checked
 * where it is used: a member of another type is refused, or is as if it were not there.
 */
#ifndef KARMA_OCI_OCI_H
#define KARMA_OCI_OCI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "karma/agent_client.h"

/* Where the container has what Karma needs: below its /dev, which is a tmpfs, and no part of its root. */
#define OCI_DIRECTORY "/dev/karma"
#define OCI_PROGRAM OCI_DIRECTORY "/karma"
#define OCI_KERNEL OCI_DIRECTORY "/kernel"
#define OCI_INITRD OCI_DIRECTORY "/initrd"
#define OCI_ROOT OCI_DIRECTORY "/root"
/* The cache of this user's containers: unpacked kernels and warm images.  Not there if the user has none. */
#define OCI_CACHE OCI_DIRECTORY "/cache"
/* The variable that tells Karma there what to do, as JSON; a string of execve(2) has 128 KiB at most. */
#define OCI_VARIABLE "KARMA_OCI"
#define OCI_VARIABLE_MAX 131072u
/* The guest's name in there: its control socket is OCI_DIRECTORY/container.sock. */
#define OCI_GUEST_NAME "container"

/* --- settings.c */

/* Of oci.conf, and of a container's annotations, which win.  Strings are malloc'ed. */
struct oci_settings {
	char *kernel, *initrd;	/* NULL: Karma's own */
	char *crun;		/* NULL: crun, in PATH */
	unsigned cpus;		/* 0: by the container's limits */
	uint64_t memory;	/* bytes; 0: by the container's limits */
	bool no_warm;		/* boot always */
	char *cache;		/* of oci_settings_complete(): the directory for OCI_CACHE; NULL: there is none */
};

#define cleanup_oci_settings __attribute__((cleanup(oci_settings_release)))

/* Read a file; none is as good as an empty one. */
int oci_settings_read(struct oci_settings *settings, const char *path);
/* Take those of annotations, an object or NULL. */
int oci_settings_annotate(struct oci_settings *settings, const json_t *annotations);
/* Find Karma's own kernel and initramfs if none are set, and the cache, which is made if need be. */
int oci_settings_complete(struct oci_settings *settings);
void oci_settings_release(struct oci_settings *settings);

/* --- bundle.c */

/* Whether a container is to be run by crun as it is: what Kubernetes holds a pod's namespaces with. */
bool oci_is_sandbox(const json_t *config);

/*
 * Turn a container's configuration into that of one that runs it in a guest.  program is Karma's own path.  -EINVAL where it
 * asks for what a guest has not, with a message that names it.
 */
int oci_translate(json_t *config, const struct oci_settings *settings, const char *program);

/* A limit of memory, raised by what Karma takes beside the guest's memory; as it is if it is none (0 and below). */
json_int_t oci_with_own_memory(json_int_t limit);
/* The same for the limits of a configuration's "resources"."memory", or NULL.  0 or -ENOMEM. */
int oci_raise_limits(json_t *memory);
/* The same for a limit of processes, and for that of "resources"."pids", which the guest has as it was. */
json_int_t oci_with_own_pids(json_int_t limit);
int oci_raise_pids(json_t *pids);

/*
 * Turn a process into Karma's in the container, which does in the guest what `task` says, an object whose reference this
 * takes: "process" of it is the process as it was.  word tells Karma what to be there.
 */
int oci_translate_process(json_t *process, json_t *task, const char *word);

/* What a container was translated to do ("process", "memory" and others); a reference of the caller's.  NULL: it is no guest's. */
json_t *oci_task(const json_t *config);
/* Its "process", as that was before; a reference of the caller's.  NULL: it is no guest's. */
json_t *oci_original_process(const json_t *config);

/* --- setup.c */

/* The script that sets the guest up for a container: struct container_options.  malloc'ed, or NULL: out of memory. */
char *oci_setup_script(const json_t *config);
/* The last mount at a path; or NULL. */
const json_t *oci_find_mount(const json_t *config, const char *destination);
/* Whether it has an option; NULL has none. */
bool oci_mount_has(const json_t *mount, const char *option);

/* --- program.c */

/*
 * Look for the program of a container in its root, before it is made.  0: it is there, or may be in a volume, which can't be
 * seen from here; -ENOENT or -EACCES with a message that engines know.  bundle: the directory of config.json.
 */
int oci_check_program(const json_t *config, const char *bundle);

/* --- process.c */

/* What the guest's agent is asked for.  Strings are the process's; the rest is malloc'ed. */
struct oci_process {
	struct agent_command command;
	const char **arguments, **environment;
	void *payload;
};

/* From the "process" of a configuration.  oci_process_release() in any case. */
int oci_process_parse(struct oci_process *to, const json_t *process);
void oci_process_release(struct oci_process *process);

/* --- container.c: in the container.  The exit status. */

/* Its first process: the guest's supervisor. */
int oci_guest(void);
/* What `exec` runs in there: a client of the guest's agent. */
int oci_join(void);
/* What `update` runs in there: has the guest give up memory, and waits until it has. */
int oci_balloon(void);

#endif
