// SPDX-License-Identifier: GPL-2.0-only
/* Warm starts: what the image of a guest depends on, and whether there is one. */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "internal.h"

/* --- The key: a line for each thing.  Functions return false, without a message, if it can't be told. */

/* As the cache of kernels tells files. */
static bool print_file(FILE *key, const char *what, const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return false;
	fprintf(key, "%s %jx-%jx-%jx-%jx.%lx-%jx.%lx\n", what, (uintmax_t)status.st_dev, (uintmax_t)status.st_ino,
		(uintmax_t)status.st_size, (uintmax_t)status.st_mtim.tv_sec, (unsigned long)status.st_mtim.tv_nsec,
		(uintmax_t)status.st_ctim.tv_sec, (unsigned long)status.st_ctim.tv_nsec);
	return true;
}

/* The host's kernel and this boot of it: what was not synced may be lost by its end, and its TSC may run at another rate. */
static bool print_host(FILE *key)
{
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
	struct utsname host;
	char boot[64] = "";
	bool known = file && fscanf(file, "%63s", boot) == 1 && uname(&host) == 0;

	if (file)
		fclose(file);
	if (known)
		fprintf(key, "host %s %s %s\n", host.release, host.version, boot);
	return known;
}

/* A restore checks all features; this has another CPU make an image of its own. */
static void print_cpu(FILE *key)
{
	static const unsigned leaves[] = { 0, 1, 7, 0x80000001 };
	unsigned eax, ebx, ecx, edx;

	fputs("cpu", key);
	for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
		if (!__get_cpuid_count(leaves[i], 0, &eax, &ebx, &ecx, &edx))
			continue;
		/* Leaf 1 has the number of the CPU that asks there (Intel SDM volume 2, CPUID). */
		fprintf(key, " %x-%x-%x-%x", eax, leaves[i] == 1 ? 0 : ebx, ecx, edx);
	}
	putc('\n', key);
}

static void print_options(FILE *key, const struct guest_options *options, const char *cmdline)
{
	fprintf(key, "memory %" PRIu64 " hugepages %d\ncpus %u pmu %d strict %d watchdog %u\ncmdline %s\n",
		options->memory.size, options->memory.huge_pages, options->cpus, options->pmu, options->strict,
		options->watchdog, cmdline);
}

static bool print_key(FILE *key, const struct guest *guest)
{
	const struct guest_options *options = &guest->options;
	cleanup_free char *cmdline = guest_make_cmdline(options);
	bool known = cmdline && print_host(key) && print_file(key, "karma " KARMA_VERSION, "/proc/self/exe") &&
		print_file(key, "kernel", options->kernel);

	if (known && guest->initramfs)
		known = print_file(key, "initramfs", guest->initramfs);
	for (size_t i = 0; i < options->initrd_count && known; i++)
		known = print_file(key, "initrd", options->initrds[i]);
	if (!known)
		return false;
	print_cpu(key);
	print_options(key, options, cmdline);
	return true;
}

/* malloc'ed; NULL if it is not known. */
static char *make_key(const struct guest *guest)
{
	char *text = NULL;
	size_t bytes;
	FILE *key = open_memstream(&text, &bytes);
	bool known = key && print_key(key, guest);

	if (key && fclose(key) == 0 && known)
		return text;
	free(text);
	return NULL;
}

/* --- Starts. */

void warm_open(struct guest *guest)
{
	struct guest_options *options = &guest->options;
	struct warm *warm = &guest->warm;

	if (!options->warm || !options->command || guest_restores(guest))
		return;
	warm->key = make_key(guest);
	warm->path = warm->key ? warm_image_path(warm->key) : NULL;
	if (!warm->path)
		return;
	warm->restores = warm_image_open(warm->path, warm->key, options->memory.size, &warm->files) == 0;
	warm->makes = !warm->restores;
	if (warm->restores)
		guest_restore_from(options, warm->path, &warm->files);
	if (options->restore.notes_touched)
		notify_watch_ready(&guest->notify);
}

static void forget_files(struct guest *guest)
{
	guest->options.memory.restored = false;
	guest->options.restore = (struct restore_options){ 0 };
	snapshot_files_close(&guest->warm.files);
}

bool warm_was_refused(struct guest *guest)
{
	if (!guest->warm.restores || !guest->shared->image_refused)
		return false;
	guest->warm.restores = false;
	warm_image_remove(guest->warm.path);
	forget_files(guest);
	guest->starts = 0;
	return true;
}

int warm_begin(struct guest *guest)
{
	struct warm *warm = &guest->warm;
	cleanup_free char *key = make_key(guest);

	/* A file has been replaced since the guest booted from it, or before. */
	if (!key || strcmp(key, warm->key) != 0)
		return -ESTALE;
	return warm_image_begin(&warm->aside, warm->path, warm->key);
}

void warm_close(struct guest *guest)
{
	snapshot_aside_release(&guest->warm.aside);
	snapshot_files_close(&guest->warm.files);
	free(guest->warm.path);
	free(guest->warm.key);
}
