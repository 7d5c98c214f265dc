// SPDX-License-Identifier: GPL-2.0-only
/* What a guest boots: its kernel, the command line, the initramfs, and the command for its init. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"
#include "karma/log.h"

/*
 * Every guest's kernel command line.  The console is virtio's; there is no PCI and no 8250 UART to probe.
 * panic=-1 has a panic before Karma's driver is there reset at once, and reboot=a has it reset by ACPI, which
 * Linux would not choose without EFI or firmware tables.  swiotlb=noforce allocates no bounce buffers, since
 * virtio reaches all of memory.  noapic: there is no I/O APIC.  noreplace-smp: on a single CPU, patching all
 * lock prefixes out of the kernel costs more time than most guests gain by it.  cryptomgr.notests: Debian's
 * kernels try each of their ciphers at each start otherwise; those of FIPS mode do so still.
 */
#define CMDLINE \
	"console=hvc0 pci=off 8250.nr_uarts=0 quiet panic=-1 reboot=a swiotlb=noforce noapic " \
	"noreplace-smp cryptomgr.notests"

#define RELEASE_BYTES 128

#define ROOT_BYTES 32

/* "/dev/vda rw": the disk that is the root, and how it is mounted; empty if that is none, or the user's command line has it. */
static void choose_root(const struct guest_options *options, char root[static ROOT_BYTES])
{
	char disk[8];

	root[0] = '\0';
	if (!options->disk_count || options->root.directory || options->container.command ||
		boot_has_option(options->cmdline, "root="))
		return;
	guest_disk_name(options, 0, disk, sizeof(disk));
	snprintf(root, ROOT_BYTES, "/dev/%s %s", disk, options->disks[0].read_only ? "ro" : "rw");
}

/*
 * With a command it depends on no device, and the root is told with the command.  karma.command has an initramfs that
 * looks for the command in itself, as those of older versions do, fail.
 */
char *guest_make_cmdline(const struct guest_options *options)
{
	char root[ROOT_BYTES] = "";
	char *cmdline;

	if (!options->command)
		choose_root(options, root);
	if (asprintf(&cmdline, "%s%s%s%s%s%s", CMDLINE, root[0] ? " root=" : "", root,
		    options->command ? " karma.command" : "", options->cmdline[0] ? " " : "", options->cmdline) < 0)
		return NULL;
	return cmdline;
}

void guest_print_word(FILE *file, const char *text)
{
	putc('\'', file);
	for (; *text; text++) {
		if (*text == '\'')
			fputs("'\\''", file);
		else
			putc(*text, file);
	}
	putc('\'', file);
}

/* What is behind each interface, eth0 first: passt, or a TAP of the host.  What has vhost-user is taken for passt. */
static void print_networks(const struct guest_options *options, FILE *file)
{
	const char *blank = "";

	fputs("karma_net='", file);
	for (size_t i = 0; i < options->net_count; i++, blank = " ")
		fprintf(file, "%s%s", blank, options->nets[i].kind == NET_USER ? "user" : "tap");
	for (size_t i = 0; i < options->vhost_user_count; i++) {
		if (options->vhost_users[i].type != VHOST_USER_NET)
			continue;
		fprintf(file, "%suser", blank);
		blank = " ";
	}
	fputs("'\n", file);
}

/* Each share that init mounts, and where, but for the root. */
static void print_shares(const struct guest_options *options, FILE *file)
{
	fputs("karma_mounts() {\n\t:\n", file);
	for (size_t i = 0; i < options->share_count; i++) {
		const struct share_options *share = &options->shares[i];

		if (!share->guest_path)
			continue;
		fputs("\tmount_share ", file);
		guest_print_word(file, share->tag);
		fprintf(file, " %s ", share->read_only ? "ro" : "rw");
		guest_print_word(file, share->guest_path);
		putc('\n', file);
	}
	fputs("}\n", file);
}

/* What of the caller's environment the command gets on the host's root. */
static void print_environment(FILE *file)
{
	static const char *const names[] = { "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LC_ALL" };

	fputs("karma_environment() {\n\t:\n", file);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *value = getenv(names[i]);

		if (!value)
			continue;
		fprintf(file, "\texport %s=", names[i]);
		guest_print_word(file, value);
		putc('\n', file);
	}
	fputs("}\n", file);
}

static void print_root(const struct root_options *root, FILE *file)
{
	fputs("karma_root=" GUEST_ROOT_TAG "\nkarma_user=", file);
	guest_print_word(file, root->user);
	fputs("\nkarma_directory=", file);
	guest_print_word(file, root->working_directory);
	putc('\n', file);
	print_environment(file);
}

/* A shell script that init reads (scripts/initramfs-init). */
static void print_command(
	const struct guest_options *options, const struct terminal *terminal, FILE *file)
{
	bool tty = terminal->typed && isatty(terminal->out_fd);
	const char *term = getenv("TERM");
	char root[ROOT_BYTES];
	unsigned columns, rows;

	fprintf(file, "karma_tty=%d\nkarma_term=", tty);
	guest_print_word(file, tty && term ? term : "dumb");
	putc('\n', file);
	if (tty && terminal_size(terminal, &columns, &rows))
		fprintf(file, "karma_columns=%u\nkarma_rows=%u\n", columns, rows);
	print_networks(options, file);
	if (options->agent)
		fputs("karma_agent=1\n", file);
	if (options->share_count)
		print_shares(options, file);
	if (options->root.directory)
		print_root(&options->root, file);
	if (options->container.command)
		fprintf(file, "karma_root=" GUEST_ROOT_TAG "\nkarma_container() {\n\t:\n%s}\n", options->container.setup);
	if (!options->command)
		return;
	choose_root(options, root);
	fprintf(file, "karma_disk='%s'\nset --", root);
	for (char **word = options->command; *word; word++) {
		putc(' ', file);
		guest_print_word(file, *word);
	}
	putc('\n', file);
}

int guest_make_command(const struct guest_options *options, const struct terminal *terminal, char **text, size_t *bytes)
{
	FILE *file = open_memstream(text, bytes);

	if (!file)
		return fail(-errno, "command: %s", strerror(errno));
	print_command(options, terminal, file);
	return fclose(file) == 0 ? 0 : fail(-ENOMEM, "command: out of memory");
}

/*
 * For a kernel that has all built in.  Not to boot from a disk: such a kernel needs no initramfs for that.  True if it is
 * there; it takes the place of *path then.
 */
static bool take_without_modules(const char *directory, char **path)
{
	char *plain;

	if (asprintf(&plain, "%s/initramfs.img", directory) < 0)
		return false;
	if (access(plain, R_OK) < 0) {
		free(plain);
		return false;
	}
	note("there is no %s: %s is taken, for a kernel with all built in; give --modules DIR for another", *path,
		plain);
	free(*path);
	*path = plain;
	return true;
}

int guest_find_initramfs(const struct guest_options *options, char **path)
{
	const char *directory = boot_guest_directory();
	char release[RELEASE_BYTES];
	int result;

	*path = NULL;
	if (options->initrd_count || !options->kernel)
		return 0;
	result = boot_kernel_release(options->kernel, release, sizeof(release));
	if (result == -ENOENT && options->command)
		return fail(-ENOENT, "kernel %s: names no release, so its initramfs can't be found: give "
				     "--initrd FILE",
			options->kernel);
	if (result < 0)
		return result == -ENOENT ? 0 : result;
	if (asprintf(path, "%s/%s/initramfs.img", directory, release) < 0) {
		*path = NULL;
		return fail(-ENOMEM, "initramfs: out of memory");
	}
	if (access(*path, R_OK) == 0)
		return 0;
	if (options->command && take_without_modules(directory, path))
		return 0;
	note("%s: %s: build it with `make guest KVER=%s`, or give --initrd FILE", *path,
		strerror(errno), release);
	free(*path);
	*path = NULL;
	return options->command ? -ENOENT : 0;
}

int guest_load(const struct guest_options *options, const struct boot_kernel *kernel, const char *initramfs,
	struct guest_memory *memory, struct boot_entry *entry)
{
	cleanup_free char *cmdline = guest_make_cmdline(options);
	struct boot_options boot = {
		.kernel = kernel,
		.initrds = options->initrds,
		.initrd_count = options->initrd_count,
		.cmdline = cmdline,
		.cpus = options->cpus,
	};

	if (!cmdline)
		return fail(-ENOMEM, "command line: out of memory");
	if (initramfs) {
		boot.initrds = &initramfs;
		boot.initrd_count = 1;
	}
	return boot_load(memory, &boot, entry);
}
