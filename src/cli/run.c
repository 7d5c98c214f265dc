// SPDX-License-Identifier: GPL-2.0-only
/* karma run: from the command line to a guest. */
#include <unistd.h>

#include "karma/cli.h"
#include "karma/log.h"
#include "karma/status.h"

static const char help[] =
	"usage: karma run --kernel FILE [OPTION]... [-- COMMAND [ARGUMENT]...]\n"
	"       karma run --restore DIR [OPTION]...\n"
	"  --config FILE|NAME     read options from a file, or /etc/karma/NAME.conf; those of\n"
	"                         the command line win\n"
	"  --print-config         print all options as such a file, and run nothing\n"
	"  --restore DIR          go on with a guest that `karma snapshot` has saved; options win over\n"
	"                         what it had then, --disk and --net in their order\n"
	"  --kernel FILE          a bzImage (any Debian vmlinuz) or an ELF vmlinux\n"
	"  --initrd FILE          an initramfs, one or several; without one, Karma's own:\n"
	"                         $KARMA_GUEST_DIR/RELEASE/initramfs.img\n"
	"  --disk FILE[,ro][,direct][,raw][,overlay=FILE][,from=FILE][,generation=TEXT]\n"
	"      [,serial=TEXT][,iops=N][,bps=SIZE][,burst=SECONDS]\n"
	"                         raw image or block device; the first, vda, is the root; what is\n"
	"                         written goes to the overlay, if there is one\n"
	"  --disk FILE,pmem[,ro|,private]  guest memory, pmem0, which file systems read in place (DAX)\n"
	"  --disk nbd:unix:PATH, nbd://HOST[:PORT][/EXPORT]  what an NBD server has; with\n"
	"                         ro, serial, iops, bps, burst and timeout=SECONDS\n"
	"  --net tap=NAME[,queues=N] | fd=N | user[,publish=[ADDR:]HOST:GUEST[/udp]]...\n"
	"        [,mac=MAC][,mtu=N][,bps=SIZE][,pps=N][,burst=SECONDS]\n"
	"                         a network: a TAP of the host, or what any user may (passt)\n"
	"  --root DIR             a directory of the host, such as /, as the guest's root, which gets\n"
	"                         changes in its memory; COMMAND runs as you, where you are\n"
	"  --rw DIR               with --root: a directory where changes are the host's, too\n"
	"  --modules DIR          those of a kernel that is not installed, by modules_install\n"
	"  --cpus N               virtual CPUs, 1 to 64 (1)\n"
	"  --memory SIZE[,hugepages=on|off][,shared=on|off]  such as 256M or 2G (512M);\n"
	"                         of huge pages; in a file that other processes can map\n"
	"  --vsock on|off|listen=PORT:unix:PATH  a socket device, for karma connect; what of the\n"
	"                         host the guest reaches at CID 2, PORT (off)\n"
	"  --share DIR[:TAG|:GUESTPATH][,ro|,rw][,cache=auto|always|never]  a directory of the\n"
	"                         host's, which the guest mounts by its TAG: mount -t virtiofs\n"
	"  --share unix:PATH[:TAG|:GUESTPATH]  one that another server has, such as virtiofsd\n"
	"  --vhost-user PATH,type=fs|blk|net[,tag=TAG]  a device that a vhost-user server has\n"
	"  --balloon on|off       give memory that the guest frees back to the host (on)\n"
	"  --pmu on|off           give the guest the CPU's performance counters (off)\n"
	"  --warm on|off          with a COMMAND: go on from the moment before it looks at the guest's\n"
	"                         devices, as the first such start has saved it (on)\n"
	"  --cmdline TEXT         added to the kernel's command line; root= there wins\n"
	"  --console WHERE        stdio, stderr, pty, none, file:PATH or unix:PATH (stdio, or\n"
	"                         stderr if the guest's agent runs COMMAND)\n"
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

int command_run(int argc, char **argv)
{
	const pid_t parent = getppid();
	struct run_options options;
	int status = STATUS_FAILURE;
	int result;

	log_start_history();
	result = run_options_parse(&options, argc, argv);
	if (result == 0 && options.help) {
		fputs(help, stdout);
		status = 0;
	} else if (result == 0 && options.print_config) {
		status = run_options_print(&options, stdout) < 0 ? STATUS_FAILURE : 0;
	} else if (result == 0) {
		if (options.guest.name)
			log_set_name(options.guest.name);
		options.guest.parent = parent;
		options.guest.print_snapshot = print_snapshot_config;
		if (root_complete(&options) == 0 && warm_complete(&options) == 0 && restore_open(&options) == 0)
			status = guest_run(&options.guest);
	}
	run_options_release(&options);
	return status;
}
