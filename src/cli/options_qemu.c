// SPDX-License-Identifier: GPL-2.0-only
/* Advice for options of QEMU: what Karma has instead. */
#include <string.h>

#include "karma/util.h"
#include "options.h"

static const struct {
	const char *name, *cure;
} habits[] = {
	{ "append", "give --cmdline TEXT" },
	{ "cdrom", "give --disk FILE,ro" },
	{ "cpu", "leave it out: a guest has the host's CPU" },
	{ "daemonize", "leave it out, and start karma in the background, or as a service" },
	{ "device", "give --disk or --net" },
	{ "display", "leave it out: guests have no display" },
	{ "drive", "give --disk FILE" },
	{ "enable-kvm", "leave it out: it always is" },
	{ "accel", "leave it out: it always is KVM" },
	{ "hda", "give --disk FILE" },
	{ "hdb", "give --disk FILE once more" },
	{ "kernel", "give --kernel FILE" },
	{ "initrd", "give --initrd FILE" },
	{ "m", "give --memory SIZE" },
	{ "M", "leave it out: there is one machine only" },
	{ "machine", "leave it out: there is one machine only" },
	{ "monitor", "leave it out: `karma ps` and its like operate guests" },
	{ "name", "give --name NAME" },
	{ "net", "give --net" },
	{ "netdev", "give --net" },
	{ "nic", "give --net" },
	{ "no-reboot", "leave it out: a guest that resets ends, without --reboot restart" },
	{ "nographic", "leave it out: the console is on stdin and stdout" },
	{ "qmp", "leave it out: `karma ps` and its like operate guests" },
	{ "serial", "give --console WHERE" },
	{ "smp", "give --cpus N" },
	{ "snapshot", "give --disk FILE,overlay=FILE" },
	{ "virtfs", "give --share DIR" },
	{ "vga", "leave it out: guests have no display" },
};

const char *option_of_qemu(const char *word)
{
	for (size_t i = 0; i < ARRAY_SIZE(habits); i++) {
		if (strcmp(word + strspn(word, "-"), habits[i].name) == 0)
			return habits[i].cure;
	}
	return NULL;
}
