// SPDX-License-Identifier: GPL-2.0-only
/* karma: find the subcommand and run it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "karma/cli.h"
#include "karma/commands.h"
#include "karma/log.h"
#include "karma/oci.h"
#include "karma/status.h"
#include "karma/util.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "run", command_run },
	{ "check", command_check },
	{ "config", command_config },
	{ "ps", command_ps },
	{ "stats", command_stats },
	{ "console", command_console },
	{ "pause", command_pause },
	{ "resume", command_resume },
	{ "stop", command_stop },
	{ "wait", command_wait },
	{ "resize", command_resize },
	{ "balloon", command_balloon },
	{ "connect", command_connect },
	{ "exec", command_exec },
	{ "cp", command_cp },
	{ "log", command_log },
	{ "snapshot", command_snapshot },
	{ "fork", command_fork },
	{ "oci", command_oci },
};

/* A screen of 24 lines, with that of the shell's prompt. */
static const char help[] =
	"usage: karma COMMAND [OPTION]...\n"
	"Karma runs Linux guests on KVM with no emulated device.  Each COMMAND has --help.\n"
	"\n"
	"  run --kernel FILE ...      run a guest; run --restore DIR: go on with one that was saved\n"
	"  check                      can this host run guests?\n"
	"  config check FILE          is this configuration file in order?\n"
	"  ps                         list the guests that run\n"
	"  stats, log [NAME]          what a guest and its devices do; what its monitor has said\n"
	"  pause, resume NAME         let its CPUs rest; let them go on\n"
	"  stop, wait NAME            have it power off, --force: end it at once; wait for its end\n"
	"  snapshot NAME DIR          save it, with its memory\n"
	"  fork NAME                  start others that go on from where it is\n"
	"  console NAME               see and type on its console\n"
	"  exec NAME -- COMMAND       run a command in it\n"
	"  cp SRC NAME:DST            copy files to it; NAME:SRC DST: from it\n"
	"  connect NAME PORT          standard input and output on a vsock port of it\n"
	"  resize NAME --disk vda     let it know that a disk has grown\n"
	"  balloon NAME [SIZE]        have it give up memory\n"
	"  oci COMMAND ...            containers as guests, for their engines: karma-oci(8)\n"
	"\n"
	"  karma run --kernel /boot/vmlinuz-6.1.0-9-amd64 --disk debian.img\n"
	"  karma run --kernel bzImage --initrd initramfs.img -- uname -a\n"
	"Manual pages: karma(1), karma.conf(5), karma-snapshot(5), karma-control(7), and others.\n";

/* Open closed standard streams, so that no other file gets their numbers. */
static int open_standard_streams(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) < 0)
			return fail(-errno, "descriptor %d is closed, and /dev/null in its place: %s: open it",
				fd, strerror(errno));
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (open_standard_streams() < 0)
		return STATUS_FAILURE;
	if (argc > 0 && strcmp(basename(argv[0]), "karma-oci") == 0)
		return command_oci(argc, argv);
	if (argc < 2) {
		fputs(help, stderr);
		return STATUS_FAILURE;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
		strcmp(argv[1], "help") == 0) {
		fputs(help, stdout);
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("karma " KARMA_VERSION);
		return 0;
	}
	if (argv[1][0] == '-' || access(argv[1], F_OK) == 0)
		fail(-EINVAL, "%s: is no command: to run a guest write `karma run%s %s`, and see `karma --help`",
			argv[1], argv[1][0] == '-' ? "" : " --kernel", argv[1]);
	else
		fail(-EINVAL, "%s: is no command: see `karma --help`", argv[1]);
	return STATUS_FAILURE;
}
