// SPDX-License-Identifier: GPL-2.0-only
/* The options of `karma run`: what is taken, what it means, and what is refused. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "guest.h"
#include "karma/cli.h"
#include "karma/vm.h"

#define ARGUMENTS_MAX 32

static struct run_options options;
static char words[1024], *arguments[ARGUMENTS_MAX];
static int count;

static void teardown(void)
{
	run_options_release(&options);
}

/* Arguments behind `karma run`, in words between spaces. */
static int parse(const char *line)
{
	run_options_release(&options);
	options = (struct run_options){ 0 };
	/* getopt() starts anew; 0 is GNU's, which forgets what it was in the middle of as well. */
	optind = 0;
	count = 0;
	arguments[count++] = "run";
	ck_assert_uint_lt((size_t)snprintf(words, sizeof(words), "%s", line), sizeof(words));
	for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
		ck_assert_int_lt(count, ARGUMENTS_MAX - 1);
		arguments[count++] = word;
	}
	arguments[count] = NULL;
	return run_options_parse(&options, count, arguments);
}

/* Refused, and the message has this word. */
static void assert_refused(const char *line, const char *word)
{
	const char *said;

	messages_begin();
	ck_assert_msg(parse(line) == -EINVAL, "\"%s\" is taken", line);
	said = messages_end();
	ck_assert_msg(strstr(said, word), "\"%s\": %s", line, said);
}

static int parse_memory_of(const char *size)
{
	char line[128];

	snprintf(line, sizeof(line), "--kernel k --memory %s", size);
	return parse(line);
}

START_TEST(kernel_is_enough)
{
	ck_assert_int_eq(parse("--kernel bzImage"), 0);
	ck_assert_str_eq(options.guest.kernel, "bzImage");
	ck_assert_uint_eq(options.guest.cpus, 1);
	ck_assert_uint_eq(options.guest.memory.size, 512 * MIB);
	ck_assert_str_eq(options.guest.cmdline, "");
	ck_assert_ptr_null(options.guest.console);
	ck_assert_uint_eq(options.guest.timeout, 0);
	ck_assert_uint_eq(options.guest.disk_count, 0);
	ck_assert_uint_eq(options.guest.initrd_count, 0);
	ck_assert(!options.guest.strict && !options.guest.stats && !options.help);
	ck_assert_ptr_null(options.guest.command);
	ck_assert_ptr_null(options.guest.name);
}
END_TEST

START_TEST(every_option_is_taken)
{
	ck_assert_int_eq(parse("--kernel k --initrd a --initrd=b --disk d --cpus 4 --memory 1G "
			       "--cmdline quiet --name web-1 --console pty --timeout 30 --strict "
			       "--stats"),
		0);
	ck_assert_uint_eq(options.guest.initrd_count, 2);
	ck_assert_str_eq(options.guest.initrds[0], "a");
	ck_assert_str_eq(options.guest.initrds[1], "b");
	ck_assert_uint_eq(options.guest.disk_count, 1);
	ck_assert_uint_eq(options.guest.cpus, 4);
	ck_assert_uint_eq(options.guest.memory.size, GIB);
	ck_assert_str_eq(options.guest.cmdline, "quiet");
	ck_assert_str_eq(options.guest.name, "web-1");
	ck_assert_str_eq(options.guest.console, "pty");
	ck_assert_uint_eq(options.guest.timeout, 30);
	ck_assert(options.guest.strict && options.guest.stats);
}
END_TEST

START_TEST(kernel_is_needed)
{
	assert_refused("", "--kernel");
	assert_refused("--cpus 2", "--kernel");
	assert_refused("-- true", "--kernel");
}
END_TEST

START_TEST(help_needs_nothing_else)
{
	ck_assert_int_eq(parse("--help"), 0);
	ck_assert(options.help);
	ck_assert_int_eq(parse("-h"), 0);
	ck_assert(options.help);
}
END_TEST

START_TEST(unknown_options_are_refused)
{
	const char *const lines[] = { "--kernel k --kernle k", "--kernel k -x", "--kernel",
		"--kernel k --strict=maybe", "--kernel k --cpus", "--kernel k --c 2" };

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		ck_assert_msg(parse(lines[i]) == -EINVAL, "\"%s\" is taken", lines[i]);
}
END_TEST

START_TEST(command_follows_two_dashes)
{
	ck_assert_int_eq(parse("--kernel k -- ls -l --all -- x"), 0);
	ck_assert_ptr_nonnull(options.guest.command);
	ck_assert_str_eq(options.guest.command[0], "ls");
	ck_assert_str_eq(options.guest.command[1], "-l");
	ck_assert_str_eq(options.guest.command[2], "--all");
	ck_assert_str_eq(options.guest.command[3], "--");
	ck_assert_str_eq(options.guest.command[4], "x");
	ck_assert_ptr_null(options.guest.command[5]);
	ck_assert_int_eq(parse("--kernel k --"), 0);
	ck_assert_ptr_null(options.guest.command);
}
END_TEST

START_TEST(options_of_qemu_are_refused_with_the_names_here)
{
	assert_refused("--kernel k -m 1G", "-m: is an option of QEMU: give --memory SIZE");
	assert_refused("-smp 2", "give --cpus N");
	assert_refused("-append console=ttyS0 --kernel k", "give --cmdline TEXT");
	assert_refused("--kernel k --append quiet", "give --cmdline TEXT");
	assert_refused("-kernel k", "give --kernel FILE");
	assert_refused("-initrd i", "give --initrd FILE");
	/* It begins with an h. */
	assert_refused("-hda d", "give --disk FILE");
	assert_refused("-drive file=d", "give --disk FILE");
	assert_refused("-nographic", "console is on stdin and stdout");
	assert_refused("-enable-kvm", "it always is");
	assert_refused("-h2 --kernel k", "-h2: is no option");
	assert_refused("--kernel k -xyz", "-xyz: is no option: see");
	assert_refused("vmlinuz --memory 1G", "give a kernel as `--kernel vmlinuz`");
}
END_TEST

START_TEST(command_without_two_dashes_is_refused)
{
	assert_refused("--kernel k ls", "`--`");
	assert_refused("ls --kernel k", "`--`");
	assert_refused("--kernel k ls -- x", "`--`");
}
END_TEST

START_TEST(two_dashes_that_are_a_value_end_no_options)
{
	ck_assert_int_eq(parse("--kernel k --cmdline -- --cpus 2"), 0);
	ck_assert_str_eq(options.guest.cmdline, "--");
	ck_assert_uint_eq(options.guest.cpus, 2);
	assert_refused("--kernel k --cmdline -- ls", "`--`");
}
END_TEST

START_TEST(numbers_of_cpus)
{
	ck_assert_int_eq(parse("--kernel k --cpus 1"), 0);
	ck_assert_int_eq(parse("--kernel k --cpus 64"), 0);
	ck_assert_uint_eq(options.guest.cpus, VCPUS_MAX);
	assert_refused("--kernel k --cpus 0", "--cpus");
	assert_refused("--kernel k --cpus 65", "64");
	assert_refused("--kernel k --cpus -1", "--cpus");
	assert_refused("--kernel k --cpus +1", "--cpus");
	assert_refused("--kernel k --cpus 2x", "--cpus");
	assert_refused("--kernel k --cpus 0x2", "--cpus");
	assert_refused("--kernel k --cpus two", "--cpus");
	assert_refused("--kernel k --cpus=", "--cpus");
	assert_refused("--kernel k --cpus 4294967297", "--cpus");
	assert_refused("--kernel k --cpus 18446744073709551617", "--cpus");
}
END_TEST

START_TEST(sizes_of_memory)
{
	const struct {
		const char *text;
		uint64_t bytes;
	} sizes[] = { { "16M", 16 * MIB }, { "16m", 16 * MIB }, { "256", 256 * MIB },
		{ "2G", 2 * GIB }, { "2g", 2 * GIB }, { "16384K", 16 * MIB },
		{ "20000k", 20000 * KIB }, { "1T", 1ull << 40 }, { "1024G", 1ull << 40 } };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		ck_assert_int_eq(parse_memory_of(sizes[i].text), 0);
		ck_assert_uint_eq(options.guest.memory.size, sizes[i].bytes);
	}
}
END_TEST

START_TEST(bad_sizes_of_memory_are_refused)
{
	const char *const sizes[] = { "0", "15M", "16383K", "16385K", "2T", "1025G", "1048577",
		"-1", "-512M", "+512M", "M", "G", "512MB", "512MiB", "512Mx", "1.5G", "0x200M",
		"512X", "512B", "18446744073709551615", "18446744073709551616M", "17179869185G",
		"16777217T", "99999999999999999999G" };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		messages_begin();
		ck_assert_msg(parse_memory_of(sizes[i]) == -EINVAL, "\"%s\" is taken", sizes[i]);
		ck_assert_ptr_nonnull(strstr(messages_end(), sizes[i]));
	}
}
END_TEST

START_TEST(memory_with_flags)
{
	ck_assert_int_eq(parse("--kernel k --memory 1G"), 0);
	ck_assert(!options.guest.memory.shared && !options.guest.memory.huge_pages);
	ck_assert_int_eq(parse("--kernel k --memory 1G,shared=on"), 0);
	ck_assert(options.guest.memory.shared && !options.guest.memory.huge_pages);
	ck_assert_int_eq(parse("--kernel k --memory 514M,hugepages=on,shared=off"), 0);
	ck_assert(!options.guest.memory.shared && options.guest.memory.huge_pages);
	ck_assert_uint_eq(options.guest.memory.size, 514 * MIB);
	ck_assert_int_eq(parse("--kernel k --memory 64,shared=on,hugepages=on,hugepages=off"), 0);
	ck_assert(options.guest.memory.shared && !options.guest.memory.huge_pages);
	/* The last one counts, with its flags. */
	ck_assert_int_eq(parse("--kernel k --memory 1G,shared=on --memory 2G"), 0);
	ck_assert(!options.guest.memory.shared);
}
END_TEST

START_TEST(bad_memory_flags_are_refused)
{
	assert_refused("--kernel k --memory 1G,", "knows no");
	assert_refused("--kernel k --memory 1G,shared", "knows no `shared`");
	assert_refused("--kernel k --memory 1G,shared=", "on or off");
	assert_refused("--kernel k --memory 1G,shared=true", "shared true");
	assert_refused("--kernel k --memory 1G,hugepages=1", "hugepages 1");
	assert_refused("--kernel k --memory 1G,hugepage=on", "hugepage=on");
	assert_refused("--kernel k --memory shared=on", "no size");
	assert_refused("--kernel k --memory ,shared=on", "no size");
	assert_refused("--kernel k --memory 513M,hugepages=on", "2M");
	assert_refused("--kernel k --memory 1048580K,hugepages=on", "2M");
}
END_TEST

START_TEST(pmu_is_off_unless_it_is_switched_on)
{
	ck_assert_int_eq(parse("--kernel k"), 0);
	ck_assert(!options.guest.pmu);
	ck_assert_int_eq(parse("--kernel k --pmu on"), 0);
	ck_assert(options.guest.pmu);
}
END_TEST

static bool parse_warm_of(const char *line, const char *environment)
{
	setenv("KARMA_WARM", environment, 1);
	ck_assert_int_eq(parse(line), 0);
	ck_assert_int_eq(warm_complete(&options), 0);
	return options.guest.warm;
}

START_TEST(warm_starts_are_chosen_by_option_or_else_by_the_environment)
{
	ck_assert(parse_warm_of("--kernel k -- true", ""));
	ck_assert(!parse_warm_of("--kernel k -- true", "0"));
	ck_assert(parse_warm_of("--kernel k -- true", "1"));
	ck_assert(!parse_warm_of("--kernel k --warm off -- true", "1"));
	/* Without use, which is told, since it was typed. */
	messages_begin();
	ck_assert(parse_warm_of("--kernel k --warm on", "0"));
	ck_assert_ptr_nonnull(strstr(messages_end(), "is for guests with a COMMAND"));
	setenv("KARMA_WARM", "yes", 1);
	ck_assert_int_eq(parse("--kernel k"), 0);
	ck_assert_int_eq(warm_complete(&options), -EINVAL);
	unsetenv("KARMA_WARM");
	assert_refused("--kernel k --warm auto", "give on or off");
}
END_TEST

START_TEST(vsock_is_off_unless_it_is_switched_on_or_has_services)
{
	const struct vsock_options *vsock = &options.guest.vsock;

	ck_assert_int_eq(parse("--kernel k"), 0);
	ck_assert(!vsock->on);
	ck_assert_int_eq(parse("--kernel k --vsock on"), 0);
	ck_assert(vsock->on && vsock->service_count == 0);
	ck_assert_int_eq(parse("--kernel k --vsock listen=1024:unix:/run/a:b --vsock listen=0:unix:c"), 0);
	ck_assert(vsock->on && vsock->service_count == 2);
	ck_assert_uint_eq(vsock->services[0].port, 1024);
	ck_assert_str_eq(vsock->services[0].path, "/run/a:b");
	ck_assert_str_eq(vsock_find_service(vsock, 0)->path, "c");
	ck_assert_ptr_null(vsock_find_service(vsock, 1));
	ck_assert_int_eq(parse("--kernel k --vsock listen=1:unix:a --vsock off"), 0);
	ck_assert(!vsock->on && vsock->service_count == 0);
	assert_refused("--kernel k --vsock yes", "give on, off or listen=PORT:unix:PATH");
	assert_refused("--kernel k --vsock listen=1", "lacks `:unix:PATH`");
	assert_refused("--kernel k --vsock listen=1:/run/a", "lacks `:unix:PATH`");
	assert_refused("--kernel k --vsock listen=1:unix:", "lacks `:unix:PATH`");
	assert_refused("--kernel k --vsock listen=x:unix:a", "x");
	assert_refused("--kernel k --vsock listen=4294967295:unix:a", "4294967294");
	assert_refused("--kernel k --vsock listen=1:unix:a --vsock listen=1:unix:b", "given twice");
	assert_refused("--kernel k --vsock listen=842:unix:a", "where the guest's agent runs a command");
}
END_TEST

START_TEST(balloon_is_on_unless_it_is_switched_off)
{
	ck_assert_int_eq(parse("--kernel k"), 0);
	ck_assert(options.guest.balloon);
	ck_assert_int_eq(parse("--kernel k --balloon off"), 0);
	ck_assert(!options.guest.balloon);
	ck_assert_int_eq(parse("--kernel k --balloon off --balloon=on"), 0);
	ck_assert(options.guest.balloon);
	assert_refused("--kernel k --balloon 256M", "--balloon 256M");
	assert_refused("--kernel k --balloon=", "on or off");
	assert_refused("--kernel k --balloon ON", "on or off");
}
END_TEST

START_TEST(disks_with_flags)
{
	ck_assert_int_eq(parse("--kernel k --disk a --disk b,ro,overlay=o --disk c,direct,ro "
			       "--disk d,serial=01234567890123456789,direct"),
		0);
	ck_assert_uint_eq(options.guest.disk_count, 4);
	ck_assert_str_eq(options.guest.disks[0].path, "a");
	ck_assert(!options.guest.disks[0].read_only && !options.guest.disks[0].direct);
	ck_assert_ptr_null(options.guest.disks[0].serial);
	ck_assert_str_eq(options.guest.disks[1].path, "b");
	ck_assert(options.guest.disks[1].read_only && !options.guest.disks[1].direct);
	ck_assert_str_eq(options.guest.disks[1].overlay, "o");
	ck_assert_ptr_null(options.guest.disks[0].overlay);
	ck_assert(options.guest.disks[2].read_only && options.guest.disks[2].direct);
	ck_assert_str_eq(options.guest.disks[3].path, "d");
	ck_assert_str_eq(options.guest.disks[3].serial, "01234567890123456789");
	ck_assert(options.guest.disks[3].direct);
}
END_TEST

START_TEST(disks_that_are_memory)
{
	ck_assert_int_eq(parse("--kernel k --disk a,pmem --disk b,pmem,ro,raw --disk c,private,pmem"), 0);
	ck_assert(options.guest.disks[0].pmem && !options.guest.disks[0].read_only);
	ck_assert(options.guest.disks[1].pmem && options.guest.disks[1].read_only);
	ck_assert(options.guest.disks[2].pmem && options.guest.disks[2].private_memory);
	assert_refused("--kernel k --disk a,private", "private goes with pmem");
	assert_refused("--kernel k --disk a,pmem,private,ro", "leave it or ro out");
	assert_refused("--kernel k --disk nbd:unix:/s,pmem", "pmem does not go with an NBD server");
	assert_refused("--kernel k --disk a,pmem,overlay=o", "pmem does not go with overlay");
	assert_refused("--kernel k --disk a,pmem,direct", "pmem does not go with direct");
	assert_refused("--kernel k --disk a,pmem,serial=S", "pmem does not go with serial");
	assert_refused("--kernel k --disk a,pmem,iops=5", "pmem does not go with a limit");
}
END_TEST

START_TEST(disks_on_nbd_servers)
{
	ck_assert_int_eq(parse("--kernel k --disk nbd:unix:/s:exportname=e,ro,serial=S,iops=5 "
			       "--disk nbd://host:1/e,timeout=86400 --disk ./nbd:x,direct"),
		0);
	ck_assert_uint_eq(options.guest.disk_count, 3);
	ck_assert_str_eq(options.guest.disks[0].path, "nbd:unix:/s:exportname=e");
	ck_assert(options.guest.disks[0].read_only);
	ck_assert_uint_eq(options.guest.disks[0].timeout, 0);
	ck_assert_str_eq(options.guest.disks[1].path, "nbd://host:1/e");
	ck_assert_uint_eq(options.guest.disks[1].timeout, 86400);
	ck_assert_str_eq(options.guest.disks[2].path, "./nbd:x");
	assert_refused("--kernel k --disk nbd:unix:/s,direct", "direct goes with a file");
	ck_assert_int_eq(parse("--kernel k --disk q,raw"), 0);
	ck_assert(options.guest.disks[0].raw);
	assert_refused("--kernel k --disk nbd:unix:/s,raw", "raw goes with a file");
	assert_refused("--kernel k --disk nbd:unix:/s,overlay=o", "overlay goes with a file");
	assert_refused("--kernel k --disk nbd:unix:/s,from=f", "from goes with a file");
	assert_refused("--kernel k --disk a,timeout=5", "timeout goes with an NBD server");
	assert_refused("--kernel k --disk nbd:unix:/s,timeout=0", "from 1 to 86400");
	assert_refused("--kernel k --disk nbd:unix:/s,timeout=86401", "from 1 to 86400");
	assert_refused("--kernel k --disk nbd:unix:/s,timeout=", "from 1 to 86400");
}
END_TEST

START_TEST(bad_disks_are_refused)
{
	assert_refused("--kernel k --disk ,ro", "names no file");
	assert_refused("--kernel k --disk=", "names no file");
	assert_refused("--kernel k --disk a,", "knows no");
	assert_refused("--kernel k --disk a,rw", "rw");
	assert_refused("--kernel k --disk a,ro,,direct", "knows no");
	assert_refused("--kernel k --disk a,serial=", "serial");
	assert_refused("--kernel k --disk a,overlay=", "overlay");
	assert_refused("--kernel k --disk a,serial=012345678901234567890", "serial");
	assert_refused("--kernel k --disk a,RO", "RO");
}
END_TEST

START_TEST(disks_with_limits)
{
	ck_assert_int_eq(parse("--kernel k --disk a --disk b,iops=50 --disk c,ro,bps=20M,direct "
			       "--disk d,burst=60,bps=1k,iops=1000000000 "
			       "--disk e,bps=1024G,burst=3600"),
		0);
	ck_assert_uint_eq(options.guest.disk_count, 5);
	ck_assert(!rate_limit_is_set(&options.guest.disks[0].limit));
	ck_assert(rate_limit_is_set(&options.guest.disks[1].limit));
	ck_assert_uint_eq(options.guest.disks[1].limit.requests, 50);
	ck_assert_uint_eq(options.guest.disks[1].limit.bytes, 0);
	ck_assert_uint_eq(options.guest.disks[1].limit.burst, 1);
	ck_assert(options.guest.disks[2].read_only && options.guest.disks[2].direct);
	ck_assert_uint_eq(options.guest.disks[2].limit.requests, 0);
	ck_assert_uint_eq(options.guest.disks[2].limit.bytes, 20 * MIB);
	ck_assert_uint_eq(options.guest.disks[2].limit.burst, 1);
	ck_assert_uint_eq(options.guest.disks[3].limit.requests, 1000000000);
	ck_assert_uint_eq(options.guest.disks[3].limit.bytes, KIB);
	ck_assert_uint_eq(options.guest.disks[3].limit.burst, 60);
	ck_assert_uint_eq(options.guest.disks[4].limit.bytes, 1024 * GIB);
	ck_assert_uint_eq(options.guest.disks[4].limit.burst, 3600);
}
END_TEST

START_TEST(bad_limits_of_disks_are_refused)
{
	const char *const iops[] = { "0", "-1", "1000000001", "1K", "5.5", "x", "",
		"18446744073709551617" };
	const char *const bps[] = { "0K", "1000", "-1M", "M", "", "1.5M", "1MB", "1025G",
		"18446744073709551615K", "16777217G" };
	char line[128];

	for (size_t i = 0; i < ARRAY_SIZE(iops); i++) {
		snprintf(line, sizeof(line), "--kernel k --disk a,iops=%s", iops[i]);
		assert_refused(line, "--disk iops");
	}
	for (size_t i = 0; i < ARRAY_SIZE(bps); i++) {
		snprintf(line, sizeof(line), "--kernel k --disk a,bps=%s", bps[i]);
		assert_refused(line, "--disk bps");
	}
	/* Nothing says whether these are bytes or MiB. */
	assert_refused("--kernel k --disk a,bps=1048576", "20M");
	assert_refused("--kernel k --disk a,iops=1,burst=0", "--disk burst");
	assert_refused("--kernel k --disk a,iops=1,burst=3601", "3600");
	assert_refused("--kernel k --disk a,iops=1,burst=1s", "--disk burst");
	assert_refused("--kernel k --disk a,burst=2", "iops=N or bps=SIZE");
	assert_refused("--kernel k --disk a,iops", "knows no `iops`");
}
END_TEST

START_TEST(names_of_guests)
{
	const char *const good[] = { "a", "web-1", "A.b_C", "_x", "0",
		"012345678901234567890123456789012345678901234567890123456789012" };
	const char *const bad[] = { ".", "..", ".x", "-x", "a/b", "a:b", "\xc3\xa4", "a\tb", "a%s",
		"0123456789012345678901234567890123456789012345678901234567890123" };
	char line[128];

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		snprintf(line, sizeof(line), "--kernel k --name=%s", good[i]);
		ck_assert_int_eq(parse(line), 0);
		ck_assert_str_eq(options.guest.name, good[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(line, sizeof(line), "--kernel k --name=%s", bad[i]);
		assert_refused(line, "--name");
	}
	assert_refused("--kernel k --name=", "--name");
}
END_TEST

START_TEST(timeouts)
{
	ck_assert_int_eq(parse("--kernel k --timeout 1"), 0);
	ck_assert_int_eq(parse("--kernel k --timeout 31536000"), 0);
	assert_refused("--kernel k --timeout 0", "--timeout");
	assert_refused("--kernel k --timeout 31536001", "--timeout");
	assert_refused("--kernel k --timeout 1.5", "--timeout");
	assert_refused("--kernel k --timeout 5s", "--timeout");
}
END_TEST

START_TEST(ends_of_guests)
{
	ck_assert_int_eq(parse("--kernel k"), 0);
	ck_assert_int_eq(options.guest.reboot, END_EXIT);
	ck_assert_int_eq(options.guest.on_panic, END_EXIT);
	ck_assert_uint_eq(options.guest.watchdog, 0);
	ck_assert(!options.guest.die_with_parent);
	ck_assert_int_eq(parse("--kernel k --reboot restart --on-panic wait --watchdog 30 "
			       "--die-with-parent"),
		0);
	ck_assert_int_eq(options.guest.reboot, END_RESTART);
	ck_assert_int_eq(options.guest.on_panic, END_WAIT);
	ck_assert_uint_eq(options.guest.watchdog, 30);
	ck_assert(options.guest.die_with_parent);
	ck_assert_int_eq(parse("--kernel k --reboot restart --on-panic restart"), 0);
	ck_assert_int_eq(options.guest.on_panic, END_RESTART);
	ck_assert_int_eq(parse("--kernel k --reboot restart --reboot exit --on-panic=exit"), 0);
	ck_assert_int_eq(options.guest.reboot, END_EXIT);
	assert_refused("--kernel k --reboot wait", "none of exit, restart");
	assert_refused("--kernel k --reboot=", "--reboot");
	assert_refused("--kernel k --on-panic reboot", "exit, restart, wait");
	assert_refused("--kernel k --watchdog 0", "--watchdog");
	assert_refused("--kernel k --watchdog 86401", "86400");
	assert_refused("--kernel k --watchdog 5s", "--watchdog");
	assert_refused("--kernel k --die-with-parent=always", "--die-with-parent always");
}
END_TEST

START_TEST(many_disks_and_initrds_are_kept)
{
	char line[1024] = "--kernel=k";

	for (unsigned i = 0; i < 14; i++)
		strcat(line, " --disk=d --initrd=i");
	ck_assert_int_eq(parse(line), 0);
	ck_assert_uint_eq(options.guest.disk_count, 14);
	ck_assert_uint_eq(options.guest.initrd_count, 14);
	ck_assert_str_eq(options.guest.disks[13].path, "d");
}
END_TEST

START_TEST(networks)
{
	const uint8_t mac[] = { 2, 0, 0xab, 0xCD, 0, 1 };
	const struct net_options *net;

	ck_assert_int_eq(parse("--kernel k --net tap=tap0 --net tap=br-1,queues=4,mac=02:00:ab:CD:00:01,"
			       "mtu=9000,bps=20M,pps=500,burst=3 --net fd=7:8:9 --net user"),
		0);
	ck_assert_uint_eq(options.guest.net_count, 4);
	net = &options.guest.nets[0];
	ck_assert_int_eq(net->kind, NET_TAP);
	ck_assert_str_eq(net->tap, "tap0");
	ck_assert_uint_eq(net->queues, 1);
	ck_assert_uint_eq(net->mtu, 0);
	ck_assert(!net->has_mac);
	ck_assert(!rate_limit_is_set(&net->limit));
	ck_assert_uint_eq(net->limit.burst, 1);
	net = &options.guest.nets[1];
	ck_assert_uint_eq(net->queues, 4);
	ck_assert_mem_eq(net->mac, mac, sizeof(mac));
	ck_assert_uint_eq(net->mtu, 9000);
	ck_assert_uint_eq(net->limit.bytes, 20 * MIB);
	ck_assert_uint_eq(net->limit.requests, 500);
	ck_assert_uint_eq(net->limit.burst, 3);
	net = &options.guest.nets[2];
	ck_assert_int_eq(net->kind, NET_FDS);
	ck_assert_uint_eq(net->queues, 3);
	ck_assert_int_eq(net->fds[0], 7);
	ck_assert_int_eq(net->fds[2], 9);
	ck_assert_int_eq(options.guest.nets[3].kind, NET_USER);
}
END_TEST

START_TEST(published_ports)
{
	const struct net_publish *publish;

	ck_assert_int_eq(parse("--kernel k --net user,publish=8080:80,publish=127.0.0.1:53:5353/udp,"
			       "publish=[::1]:65535:1/tcp"),
		0);
	ck_assert_uint_eq(options.guest.nets[0].publish_count, 3);
	publish = options.guest.nets[0].publish;
	ck_assert_ptr_null(publish[0].address);
	ck_assert_uint_eq(publish[0].host, 8080);
	ck_assert_uint_eq(publish[0].guest, 80);
	ck_assert(!publish[0].udp);
	ck_assert_str_eq(publish[1].address, "127.0.0.1");
	ck_assert_uint_eq(publish[1].host, 53);
	ck_assert_uint_eq(publish[1].guest, 5353);
	ck_assert(publish[1].udp);
	ck_assert_str_eq(publish[2].address, "::1");
	ck_assert_uint_eq(publish[2].host, 65535);
	ck_assert_uint_eq(publish[2].guest, 1);
	ck_assert(!publish[2].udp);
}
END_TEST

START_TEST(bad_networks_are_refused)
{
	static const struct {
		const char *text, *word;
	} bad[] = {
		{ "", "names no network: give tap=NAME, fd=N or user" },
		{ "tap0", "give tap=NAME, fd=N, user" },
		{ "mac=02:00:00:00:00:01", "none of tap=NAME" },
		{ "user=off", "none of tap=NAME" },
		{ "user=maybe", "--net user maybe: is no switch" },
		{ "tap=a,user", "is two of" },
		{ "fd=3,tap=a", "is two of" },
		{ "tap=", "no name" },
		{ "tap=a/b", "no name" },
		{ "tap=tap%d", "no name" },
		{ "tap=sixteen-letters-", "no name" },
		{ "fd=", "--net fd" },
		{ "fd=-1", "--net fd" },
		{ "fd=3:", "--net fd" },
		{ "fd=3:x", "--net fd" },
		{ "fd=1:2:3:4:5:6:7:8:9:10:11:12:13:14:15:16:17:18:19:20:21:22:23:24:25:26:27:28:29:30:31:32",
			"more than 31" },
		{ "tap=a,queues=0", "--net queues" },
		{ "tap=a,queues=32", "31" },
		{ "user,queues=2", "tap=NAME only" },
		{ "fd=3,queues=2", "tap=NAME only" },
		{ "tap=a,mac=", "is no address" },
		{ "tap=a,mac=02:00:00:00:00", "is no address" },
		{ "tap=a,mac=02:00:00:00:00:01:02", "is no address" },
		{ "tap=a,mac=02:00:00:00:00:0g", "is no address" },
		{ "tap=a,mac=02:00:00:00:00:-1", "is no address" },
		{ "tap=a,mac=+2:00:00:00:00:01", "is no address" },
		{ "tap=a,mac=01:00:00:00:00:01", "one station" },
		{ "tap=a,mac=ff:ff:ff:ff:ff:ff", "one station" },
		{ "tap=a,mac=00:00:00:00:00:00", "one station" },
		{ "tap=a,mtu=67", "--net mtu" },
		{ "tap=a,mtu=65536", "--net mtu" },
		{ "tap=a,pps=0", "--net pps" },
		{ "tap=a,bps=1000", "--net bps" },
		{ "tap=a,burst=2", "pps=N or bps=SIZE" },
		{ "tap=a,speed=9", "knows no `speed=9`" },
		{ "tap=a,", "knows no ``" },
		{ "tap=a,publish=1:1", "goes with `user` only" },
		{ "user,publish=", "lacks the guest's port" },
		{ "user,publish=80", "lacks the guest's port" },
		{ "user,publish=0:80", "publish: port" },
		{ "user,publish=80:65536", "publish: port" },
		{ "user,publish=80:", "publish: port" },
		{ "user,publish=80:80/sctp", "no known kind" },
		{ "user,publish=localhost:80:80", "is no address" },
		{ "user,publish=::1:80:80", "is no address" },
		{ "user,publish=[::1:80:80", "lacks `]:`" },
		{ "user,publish=[127.0.0.1]:80:80", "is no address" },
		{ "user,publish=1.2.3.4:80:80:80", "publish: port" },
	};
	char line[600];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(line, sizeof(line), "--kernel k --net=%s", bad[i].text);
		assert_refused(line, bad[i].word);
	}
	strcpy(line, "--kernel k --net user");
	for (unsigned i = 0; i <= NET_PUBLISH_MAX; i++)
		strcat(line, ",publish=1:1");
	assert_refused(line, "one more than 32");
}
END_TEST

Suite *options_suite(void)
{
	const TTest *const tests[] = {
		kernel_is_enough,
		every_option_is_taken,
		kernel_is_needed,
		help_needs_nothing_else,
		unknown_options_are_refused,
		command_follows_two_dashes,
		options_of_qemu_are_refused_with_the_names_here,
		command_without_two_dashes_is_refused,
		two_dashes_that_are_a_value_end_no_options,
		numbers_of_cpus,
		sizes_of_memory,
		bad_sizes_of_memory_are_refused,
		memory_with_flags,
		bad_memory_flags_are_refused,
		pmu_is_off_unless_it_is_switched_on,
		warm_starts_are_chosen_by_option_or_else_by_the_environment,
		vsock_is_off_unless_it_is_switched_on_or_has_services,
		balloon_is_on_unless_it_is_switched_off,
		disks_with_flags,
		disks_that_are_memory,
		disks_on_nbd_servers,
		bad_disks_are_refused,
		disks_with_limits,
		bad_limits_of_disks_are_refused,
		networks,
		published_ports,
		bad_networks_are_refused,
		names_of_guests,
		timeouts,
		ends_of_guests,
		many_disks_and_initrds_are_kept,
	};
	Suite *suite = suite_create("options");
	TCase *tcase = tcase_create("options");

	tcase_add_checked_fixture(tcase, NULL, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
