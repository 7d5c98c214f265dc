// SPDX-License-Identifier: GPL-2.0-only
/* What the guest's init sets up for a container: a script of calls of scripts/initramfs-init. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "karma/guest.h"
#include "oci.h"

#define SHM_DEFAULT "mode=1777,size=65536k"

const json_t *oci_find_mount(const json_t *config, const char *destination)
{
	const json_t *list = json_object_get(config, "mounts");
	size_t i = json_array_size(list);

	while (i-- > 0) {
		const json_t *mount = json_array_get(list, i);
		const char *path = json_string_value(json_object_get(mount, "destination"));

		if (path && strcmp(path, destination) == 0)
			return mount;
	}
	return NULL;
}

bool oci_mount_has(const json_t *mount, const char *option)
{
	const json_t *options = json_object_get(mount, "options");

	for (size_t i = 0; i < json_array_size(options); i++) {
		const char *text = json_string_value(json_array_get(options, i));

		if (text && strcmp(text, option) == 0)
			return true;
	}
	return false;
}

/* The size and the mode of a tmpfs, of its options; or the size of the one that an engine has mounted already. */
static void print_shm(FILE *file, const json_t *mount)
{
	const json_t *options = json_object_get(mount, "options");
	const char *type = json_string_value(json_object_get(mount, "type"));
	const char *source = json_string_value(json_object_get(mount, "source"));
	struct statvfs there;

	fputs(SHM_DEFAULT, file);
	if (type && source && strcmp(type, "bind") == 0 && statvfs(source, &there) == 0)
		fprintf(file, ",size=%llu", (unsigned long long)there.f_blocks * there.f_frsize);
	for (size_t i = 0; i < json_array_size(options); i++) {
		const char *text = json_string_value(json_array_get(options, i));

		if (text && (strncmp(text, "size=", 5) == 0 || strncmp(text, "mode=", 5) == 0) &&
			!text[5 + strspn(text + 5, "0123456789kKmMgG%")])
			fprintf(file, ",%s", text);
	}
}

static const char *control_groups(const json_t *config)
{
	const json_t *mount = oci_find_mount(config, "/sys/fs/cgroup");

	if (!mount)
		return "none";
	return oci_mount_has(mount, "ro") ? "ro" : "rw";
}

static void print_parameters(FILE *file, const json_t *config)
{
	json_t *parameters = json_object_get(json_object_get(config, "linux"), "sysctl");
	const char *name;
	json_t *value;

	json_object_foreach(parameters, name, value) {
		if (!json_is_string(value))
			continue;
		fputs("\tset_kernel_parameter ", file);
		guest_print_word(file, name);
		putc(' ', file);
		guest_print_word(file, json_string_value(value));
		putc('\n', file);
	}
}

static void print_process_limit(FILE *file, const json_t *config)
{
	const json_t *resources = json_object_get(json_object_get(config, "linux"), "resources");
	json_int_t limit = json_integer_value(json_object_get(json_object_get(resources, "pids"), "limit"));

	if (limit > 0)
		fprintf(file, "\tlimit_processes %lld\n", (long long)limit);
}

char *oci_setup_script(const json_t *config)
{
	const char *hostname = json_string_value(json_object_get(config, "hostname"));
	char *text = NULL;
	size_t size;
	FILE *file = open_memstream(&text, &size);

	if (!file)
		return NULL;
	/* First, since a file system of control groups that is mounted read-only stays so. */
	print_process_limit(file, config);
	fputs("\tprepare_container ", file);
	print_shm(file, oci_find_mount(config, "/dev/shm"));
	fprintf(file, " %s\n", control_groups(config));
	if (hostname) {
		fputs("\thostname ", file);
		guest_print_word(file, hostname);
		putc('\n', file);
	}
	print_parameters(file, config);
	if (fclose(file) == 0)
		return text;
	free(text);
	return NULL;
}
