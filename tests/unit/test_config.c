// SPDX-License-Identifier: GPL-2.0-only
/* The configuration file: what it means, what is refused with which line, and that it can be printed. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "../../src/cli/config.h"
#include "../../src/cli/options.h"
#include "guest.h"

static struct run_options options;
static char *printed;

static void setup(void)
{
	run_options_default(&options);
}

static void teardown(void)
{
	run_options_release(&options);
	free(printed);
	printed = NULL;
}

static int parse_bytes(const char *bytes, size_t size)
{
	run_options_release(&options);
	run_options_default(&options);
	return config_parse(&options, "web.conf", bytes, size);
}

static int parse(const char *text)
{
	return parse_bytes(text, strlen(text));
}

/* Refused, and the message has these words: where, and why. */
static void assert_refused_bytes(const char *bytes, size_t size, const char *words)
{
	const char *said;
	int result;

	messages_begin();
	result = parse_bytes(bytes, size);
	said = messages_end();
	ck_assert_msg(result == -EINVAL, "\"%s\" is taken", bytes);
	ck_assert_msg(strstr(said, words), "\"%s\": no \"%s\": %s", bytes, words, said);
}

static void assert_refused(const char *text, const char *words)
{
	assert_refused_bytes(text, strlen(text), words);
}

static char *print(const struct run_options *from)
{
	char *text = NULL;
	size_t size;
	FILE *file = open_memstream(&text, &size);

	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(run_options_print(from, file), 0);
	fclose(file);
	return text;
}

/* All there is, each with a value of its own. */
static const char everything[] =
	"# a comment\n"
	"; another\n"
	"name = web-1\n"
	"restore = /srv/snap\n"
	"kernel = /boot/vm linuz\n"
	"initrd = a\n"
	"initrd = b,c\n"
	"cmdline = a=b ; c #d \"e\"\n"
	"root = /srv/ro ot\n"
	"rw = /srv/a\n"
	"rw = b,c\n"
	"modules = /srv/mo dules\n"
	"cpus=4\n"
	"\tmemory : 1G,hugepages=on,shared=on\r\n"
	"vsock = listen=1024:unix:/run/a\n"
	"vsock = listen=1025:unix:b\n"
	"share = /srv/a:data,ro\n"
	"share = unix:/s:/mnt\n"
	"vhost-user = s,type=fs,tag=t\n"
	"balloon = off\n"
	"pmu = on\n"
	"warm = on\n"
	"console = pty\n"
	"log-format = json\n"
	"timeout = 30\n"
	"grace = 0\n"
	"reboot = restart\n"
	"on-panic = wait\n"
	"watchdog = 9\n"
	"die-with-parent = yes\n"
	"strict = on\n"
	"stats = yes\n"
	"user = nobody\n"
	"cgroup = /sys/fs/cgroup/x\n"
	"no-sandbox = on\n"
	"command = sh\n"
	"command = \"  two words \"\n"
	"command = \"\n"
	"command = \"\"\n"
	"command = \"a\"b\"\n"
	"\n"
	"[disk] # the root\n"
	"path = /d,1\n"
	"ro = yes\n"
	"direct = on\n"
	"raw = on\n"
	"overlay = o\n"
	"from = f\n"
	"generation = file-1\n"
	"serial = S 1\n"
	"iops = 5\n"
	"bps = 20M\n"
	"burst = 3\n"
	"[disk]\n"
	"path = nbd:unix:/s\n"
	"timeout = 7\n"
	"[disk]\n"
	"path = m\n"
	"pmem = on\n"
	"private = on\n"
	"[net]\n"
	"tap = tap0\n"
	"queues = 2\n"
	"mac = 02:00:ab:CD:00:01\n"
	"mtu = 9000\n"
	"bps = 1K\n"
	"pps = 10\n"
	"burst = 2\n"
	"[net]\n"
	"publish = 8080:80\n"
	"user = yes\n"
	"publish = [::1]:53:5353/udp\n"
	"publish = 127.0.0.1:1:2/tcp\n"
	"[net]\n"
	"fd = 7:8\n";

static void check_guest(void)
{
	ck_assert_str_eq(options.guest.name, "web-1");
	ck_assert_str_eq(options.guest.restore.directory, "/srv/snap");
	ck_assert_str_eq(options.guest.kernel, "/boot/vm linuz");
	ck_assert_uint_eq(options.guest.initrd_count, 2);
	ck_assert_str_eq(options.guest.initrds[1], "b,c");
	ck_assert_str_eq(options.guest.cmdline, "a=b ; c #d \"e\"");
	ck_assert_str_eq(options.guest.root.directory, "/srv/ro ot");
	ck_assert_uint_eq(options.guest.root.writable_count, 2);
	ck_assert_str_eq(options.guest.root.writable[1], "b,c");
	ck_assert_ptr_null(options.guest.root.writable[2]);
	ck_assert_str_eq(options.guest.modules, "/srv/mo dules");
	ck_assert_uint_eq(options.guest.cpus, 4);
	ck_assert_uint_eq(options.guest.memory.size, GIB);
	ck_assert(options.guest.memory.huge_pages && options.guest.memory.shared && !options.guest.balloon);
	ck_assert(options.guest.pmu);
	ck_assert_str_eq(options.warm, "on");
	ck_assert(options.guest.vsock.on);
	ck_assert_str_eq(vsock_find_service(&options.guest.vsock, 1025)->path, "b");
	ck_assert_uint_eq(options.guest.share_count, 2);
	ck_assert(options.guest.shares[0].read_only);
	ck_assert_str_eq(options.guest.shares[1].guest_path, "/mnt");
	ck_assert_str_eq(options.guest.vhost_users[0].tag, "t");
	ck_assert_str_eq(options.guest.console, "pty");
	ck_assert_uint_eq(options.guest.timeout, 30);
	ck_assert_uint_eq(options.guest.grace, 0);
	ck_assert_int_eq(options.guest.reboot, END_RESTART);
	ck_assert_int_eq(options.guest.on_panic, END_WAIT);
	ck_assert_uint_eq(options.guest.watchdog, 9);
	ck_assert(options.guest.die_with_parent && options.guest.strict && options.guest.stats);
	ck_assert_str_eq(options.guest.sandbox.user, "nobody");
	ck_assert_str_eq(options.guest.sandbox.cgroup, "/sys/fs/cgroup/x");
	ck_assert(options.guest.sandbox.off);
	ck_assert_str_eq(options.guest.command[0], "sh");
	ck_assert_str_eq(options.guest.command[1], "  two words ");
	ck_assert_str_eq(options.guest.command[2], "\"");
	ck_assert_str_eq(options.guest.command[3], "");
	ck_assert_str_eq(options.guest.command[4], "a\"b");
	ck_assert_ptr_null(options.guest.command[5]);
}

static void check_devices(void)
{
	ck_assert_uint_eq(options.guest.disk_count, 3);
	ck_assert(options.guest.disks[2].pmem && options.guest.disks[2].private_memory);
	ck_assert_str_eq(options.guest.disks[0].path, "/d,1");
	ck_assert(options.guest.disks[0].read_only && options.guest.disks[0].direct && options.guest.disks[0].raw);
	ck_assert_str_eq(options.guest.disks[0].overlay, "o");
	ck_assert_str_eq(options.guest.disks[0].serial, "S 1");
	ck_assert_uint_eq(options.guest.disks[0].limit.requests, 5);
	ck_assert_uint_eq(options.guest.disks[0].limit.bytes, 20 * MIB);
	ck_assert_uint_eq(options.guest.disks[0].limit.burst, 3);
	ck_assert_uint_eq(options.guest.disks[1].timeout, 7);
	ck_assert_uint_eq(options.guest.net_count, 3);
	ck_assert_int_eq(options.guest.nets[0].kind, NET_TAP);
	ck_assert_uint_eq(options.guest.nets[0].queues, 2);
	ck_assert_uint_eq(options.guest.nets[0].limit.requests, 10);
	ck_assert_int_eq(options.guest.nets[1].kind, NET_USER);
	ck_assert_uint_eq(options.guest.nets[1].publish_count, 3);
	ck_assert_str_eq(options.guest.nets[1].publish[1].address, "::1");
	ck_assert(options.guest.nets[1].publish[1].udp);
	ck_assert_int_eq(options.guest.nets[2].kind, NET_FDS);
	ck_assert_uint_eq(options.guest.nets[2].queues, 2);
	ck_assert_int_eq(options.guest.nets[2].fds[1], 8);
}

START_TEST(all_keys_are_taken)
{
	ck_assert_int_eq(parse(everything), 0);
	check_guest();
	check_devices();
}
END_TEST

START_TEST(printed_file_gives_the_same_guest)
{
	char *again;

	ck_assert_int_eq(parse(everything), 0);
	printed = print(&options);
	ck_assert_int_eq(parse(printed), 0);
	check_guest();
	check_devices();
	again = print(&options);
	ck_assert_str_eq(printed, again);
	free(again);
}
END_TEST

/* A setting that none of these files has would not be compared above. */
START_TEST(every_key_is_printed)
{
	const struct setting_table *const tables[] = { &run_settings, &disk_settings, &net_settings };
	char line[64];

	ck_assert_int_eq(parse(everything), 0);
	printed = print(&options);
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		for (size_t j = 0; j < tables[i]->count; j++) {
			if (tables[i]->list[j].command_line)
				continue;
			snprintf(line, sizeof(line), "\n%s = ", tables[i]->list[j].name);
			ck_assert_msg(strstr(printed, line) || strncmp(printed, line + 1, strlen(line + 1)) == 0,
				"no%s in %s", line, printed);
		}
	}
}
END_TEST

START_TEST(defaults_are_printed_and_read)
{
	char *again;

	options.guest.kernel = "k";
	printed = print(&options);
	ck_assert_int_eq(parse(printed), 0);
	ck_assert_str_eq(options.guest.cmdline, "");
	ck_assert_uint_eq(options.guest.memory.size, 512 * MIB);
	again = print(&options);
	ck_assert_str_eq(printed, again);
	free(again);
}
END_TEST

START_TEST(values_that_no_file_can_have_are_not_printed)
{
	const char *const values[] = { "two\nlines", "\x01", "\x7f", "\xff", "\xc3" };
	FILE *file = fopen("/dev/null", "w");

	ck_assert_ptr_nonnull(file);
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		options.guest.kernel = values[i];
		messages_begin();
		ck_assert_int_eq(run_options_print(&options, file), -EINVAL);
		ck_assert_ptr_nonnull(strstr(messages_end(), "kernel: has bytes"));
	}
	fclose(file);
}
END_TEST

START_TEST(empty_files_have_the_defaults)
{
	const char *const texts[] = { "", "\n", "# nothing", "\xef\xbb\xbf", "\xef\xbb\xbf; nothing\n" };

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		ck_assert_int_eq(parse(texts[i]), 0);
		ck_assert_uint_eq(options.guest.cpus, 1);
		ck_assert_ptr_null(options.guest.kernel);
	}
	ck_assert_int_eq(parse("\xef\xbb\xbf[disk]\npath = d"), 0);
	ck_assert_uint_eq(options.guest.disk_count, 1);
}
END_TEST

START_TEST(errors_have_their_line)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		{ "cpus = 65", "karma: web.conf:1: cpus 65: is no whole number from 1 to 64" },
		{ "\n\ncpus=\n", "web.conf:3: cpus : is no whole number" },
		{ "\r\n#\r\ncpus=x\r\n", "web.conf:3: cpus x" },
		{ "kernel = a\nkernel = b\n", "web.conf:2: kernel: is there twice: leave one out" },
		{ "kernel =\n", "web.conf:1: kernel: is empty" },
		{ "initrd =", "web.conf:1: initrd: is empty" },
		{ "memory = 1G,shared", "memory: knows no `shared`" },
		{ "name = a b", "web.conf:1: name a b: is no name" },
		{ "reboot = wait", "reboot wait: is none of exit, restart" },
		{ "log-format = xml", "log-format xml: is none of text, json" },
		{ "strict = true", "strict true: is no switch: give on or off" },
		{ "strict", "web.conf:1: strict: has no value: write strict = on" },
		{ "nonsense", "web.conf:1: nonsense: is no KEY = VALUE" },
		{ "= 5", "web.conf:1: : is no key" },
		{ "kernal = x", "web.conf:1: kernal: is no key: see karma.conf(5)" },
		{ "Kernel = x", "Kernel: is no key" },
		{ "config = x", "config: goes on the command line only" },
		{ "print-config = on", "print-config: goes on the command line only" },
		{ "help = on", "help: goes on the command line only" },
		{ "disk = x", "disk: is a section: write [disk]" },
		{ "net = user", "net: is a section: write [net]" },
		{ "[guest]\ncpus = 1", "web.conf:1: [guest]: is no section" },
		{ "[DISK]\npath = 1", "[DISK]: is no section" },
		{ "[disk", "web.conf:1: is no [SECTION]" },
		{ "[disk] path = x", "web.conf:1: is no [SECTION]" },
		{ "[]", "web.conf:1: []: is no section" },
		{ "\n[disk]\n", "web.conf:2: [disk]: has no keys" },
		{ "[net]\n[net]\nuser = on", "web.conf:1: [net]: has no keys" },
		{ "[disk]\nro = on\n\n[net]\nuser = on", "web.conf:1: disk: names no file" },
		{ "[disk]\npath = a\npath = b", "web.conf:3: path: is there twice in its section" },
		{ "[disk]\npath = a\nrw = on", "web.conf:3: disk: knows no key `rw`" },
		{ "[disk]\npath = a\nburst = 2", "web.conf:1: disk a: burst=2 goes with a limit" },
		{ "[disk]\npath = a\ntimeout = 2", "web.conf:1: disk a: timeout goes with an NBD" },
		{ "[disk]\npath = a\nserial = 012345678901234567890", "web.conf:3: disk serial" },
		{ "[disk]\npath = a\nkernel = b", "web.conf:3: disk: knows no key `kernel`" },
		{ "[net]\nmtu = 1500", "web.conf:1: net: is none of tap=NAME, fd=N, user" },
		{ "[net]\ntap = a\nuser = on", "web.conf:3: net: is two of" },
		{ "[net]\npublish = 1:1\ntap = a", "web.conf:1: net: publish goes with `user` only" },
		{ "[net]\ntap = a\npublish = 1", "lacks the guest's port" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_refused(bad[i].text, bad[i].words);
}
END_TEST

START_TEST(all_errors_are_told)
{
	assert_refused("cpus = 0\nnonsense\n[disk]\n[what]\nx = y\n[net]\nuser = on", "web.conf:4");
	assert_refused("cpus = 0\nnonsense\n[disk]\n", "web.conf:1");
	assert_refused("cpus = 0\nnonsense\n[disk]\n", "web.conf:2");
	assert_refused("cpus = 0\nnonsense\n[disk]\n", "web.conf:3");
}
END_TEST

START_TEST(errors_are_told_up_to_a_limit)
{
	char text[200] = "";
	const char *said;

	for (unsigned i = 0; i < 30; i++)
		strcat(text, "x\n");
	messages_begin();
	ck_assert_int_eq(parse(text), -EINVAL);
	said = messages_end();
	ck_assert_ptr_nonnull(strstr(said, "web.conf:20: "));
	ck_assert_ptr_null(strstr(said, "web.conf:21: "));
	ck_assert_ptr_nonnull(strstr(said, "web.conf: has more errors"));
}
END_TEST

START_TEST(bytes_that_are_no_text_are_refused)
{
	static const char nul[] = "kernel = a\0b\n";

	assert_refused_bytes(nul, sizeof(nul) - 1, "web.conf:1: is no text");
	assert_refused("cpus = 1\nkernel = \x1b[31m", "web.conf:2: is no text");
	assert_refused("kernel = \xff\xfe", "web.conf:1: is no text");
	assert_refused("kernel = \xc0\xaf", "web.conf:1: is no text");
	assert_refused("kernel = \xed\xa0\x80", "web.conf:1: is no text");
	assert_refused("kernel = \xf4\x90\x80\x80", "web.conf:1: is no text");
	assert_refused("kernel = \xe2\x82", "web.conf:1: is no text");
	assert_refused("kernel = a\rb", "web.conf:1: is no text");
	ck_assert_int_eq(parse("kernel = \xe2\x82\xac\xf0\x9f\x98\x80\tx"), 0);
	ck_assert_str_eq(options.guest.kernel, "\xe2\x82\xac\xf0\x9f\x98\x80\tx");
}
END_TEST

START_TEST(lines_may_be_long)
{
	static char text[8192 + 64];

	memset(text, 'a', sizeof(text) - 1);
	memcpy(text, "cmdline=", 8);
	text[8190] = '\0';
	ck_assert_int_eq(parse(text), 0);
	ck_assert_uint_eq(strlen(options.guest.cmdline), 8182);
	strcpy(text + 8190, "\nkernel = k\n");
	ck_assert_int_eq(parse(text), 0);
	ck_assert_uint_eq(strlen(options.guest.cmdline), 8182);
	ck_assert_str_eq(options.guest.kernel, "k");
	strcpy(text + 8190, "a");
	assert_refused(text, "web.conf:1: has more than 8190 bytes");
	/* With the blanks around its `=`, this is too long to be printed. */
	text[8190] = '\0';
	ck_assert_int_eq(parse(text), 0);
	messages_begin();
	ck_assert_int_eq(run_options_print(&options, stderr), -EINVAL);
	ck_assert_ptr_nonnull(strstr(messages_end(), "cmdline: is too long for a file"));
}
END_TEST

/* A file of its own, read by `karma run` with these arguments behind --config FILE. */
static int run_with(const char *text, const char *name, char **arguments)
{
	static char *argv[16];
	char path[64] = "/tmp/karma-test-XXXXXX", file[96];
	int argc = 0, result;
	FILE *config;

	ck_assert_ptr_nonnull(mkdtemp(path));
	snprintf(file, sizeof(file), "%s/%s", path, name);
	config = fopen(file, "w");
	ck_assert_ptr_nonnull(config);
	fputs(text, config);
	fclose(config);
	argv[argc++] = "run";
	argv[argc++] = "--config";
	argv[argc++] = file;
	while (*arguments)
		argv[argc++] = *arguments++;
	argv[argc] = NULL;
	run_options_release(&options);
	result = run_options_parse(&options, argc, argv);
	unlink(file);
	rmdir(path);
	return result;
}

START_TEST(options_win_over_the_file)
{
	char disk[] = "--disk=e,ro";
	char *arguments[] = { "--cpus", "2", "--strict=off", disk, "--initrd=j", "--", "ls", NULL };

	ck_assert_int_eq(run_with("kernel=k\ncpus=4\nstrict=on\nmemory=1G\ninitrd=i\ncommand=true\n[disk]\n"
				  "path=d", "web.conf", arguments), 0);
	ck_assert_str_eq(options.guest.kernel, "k");
	ck_assert_uint_eq(options.guest.cpus, 2);
	ck_assert_uint_eq(options.guest.memory.size, GIB);
	ck_assert(!options.guest.strict);
	ck_assert_uint_eq(options.guest.disk_count, 2);
	ck_assert_str_eq(options.guest.disks[0].path, "d");
	ck_assert_str_eq(options.guest.disks[1].path, "e");
	ck_assert_uint_eq(options.guest.initrd_count, 2);
	ck_assert_str_eq(options.guest.initrds[1], "j");
	ck_assert_str_eq(options.guest.command[0], "ls");
}
END_TEST

START_TEST(guests_are_named_after_their_file)
{
	char *none[] = { NULL }, *other[] = { "--name", "other", NULL };

	ck_assert_int_eq(run_with("kernel=k", "web-2.conf", none), 0);
	ck_assert_str_eq(options.guest.name, "web-2");
	ck_assert_int_eq(run_with("kernel=k", "db", none), 0);
	ck_assert_str_eq(options.guest.name, "db");
	ck_assert_int_eq(run_with("kernel=k\nname=x", "web.conf", none), 0);
	ck_assert_str_eq(options.guest.name, "x");
	ck_assert_int_eq(run_with("kernel=k\nname=x", "web.conf", other), 0);
	ck_assert_str_eq(options.guest.name, "other");
	ck_assert_int_eq(run_with("kernel=k", "no name.conf", none), 0);
	ck_assert_ptr_null(options.guest.name);
}
END_TEST

START_TEST(files_are_found)
{
	const struct {
		const char *given, *path;
	} cases[] = { { "web", "/etc/karma/web.conf" }, { "web.conf", "web.conf" }, { "./web", "./web" },
		{ "/x/web.conf", "/x/web.conf" }, { "web.1", "/etc/karma/web.1.conf" } };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *path = config_path(cases[i].given);

		ck_assert_str_eq(path, cases[i].path);
		free(path);
	}
}
END_TEST

/* Writes a file of two lines, the second when the first has been read. */
static pid_t write_in_pieces(int to)
{
	static const char *const lines[] = { "kernel = /boot/vmlinuz\n", "cpus = 3\n" };
	pid_t writer = fork();
	int unread = 0;

	if (writer != 0)
		return writer;
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		do {
			sched_yield();
		} while (ioctl(to, FIONREAD, &unread) == 0 && unread > 0);
		if (write(to, lines[i], strlen(lines[i])) < 0)
			_exit(1);
	}
	_exit(0);
}

START_TEST(pipe_is_read_whole_and_names_no_guest)
{
	char path[32], *argv[] = { "run", "--config", path, NULL };
	int ends[2];
	pid_t writer;

	ck_assert_int_eq(pipe(ends), 0);
	writer = write_in_pieces(ends[1]);
	ck_assert_int_gt(writer, 0);
	close(ends[1]);
	snprintf(path, sizeof(path), "/dev/fd/%d", ends[0]);
	ck_assert_int_eq(run_options_parse(&options, 3, argv), 0);
	ck_assert_str_eq(options.guest.kernel, "/boot/vmlinuz");
	ck_assert_uint_eq(options.guest.cpus, 3);
	ck_assert_ptr_null(options.guest.name);
	ck_assert_int_eq(waitpid(writer, NULL, 0), writer);
	close(ends[0]);
}
END_TEST

START_TEST(bad_files_are_refused)
{
	char *none[] = { NULL };
	static char large[65536 + 2];
	const char *said;

	memset(large, '\n', sizeof(large) - 1);
	messages_begin();
	ck_assert_int_eq(run_with(large, "web.conf", none), -EINVAL);
	ck_assert_int_eq(config_read(&options, "/nonexistent/web.conf"), -EINVAL);
	ck_assert_int_eq(config_read(&options, "/"), -EINVAL);
	ck_assert_int_eq(config_read(&options, socket_path()), -EINVAL);
	ck_assert_int_eq(run_with("", "web.conf", none), -EINVAL);
	said = messages_end();
	ck_assert_ptr_nonnull(strstr(said, "web.conf: has more than 64 KiB"));
	ck_assert_ptr_nonnull(strstr(said, "/nonexistent/web.conf: No such file"));
	ck_assert_ptr_nonnull(strstr(said, "/: is a directory"));
	ck_assert_ptr_nonnull(strstr(said, "is a socket"));
	ck_assert_ptr_nonnull(strstr(said, "no kernel: give --kernel FILE"));
}
END_TEST

Suite *config_suite(void)
{
	const TTest *const tests[] = {
		all_keys_are_taken,
		printed_file_gives_the_same_guest,
		every_key_is_printed,
		defaults_are_printed_and_read,
		values_that_no_file_can_have_are_not_printed,
		empty_files_have_the_defaults,
		errors_have_their_line,
		all_errors_are_told,
		errors_are_told_up_to_a_limit,
		bytes_that_are_no_text_are_refused,
		lines_may_be_long,
		options_win_over_the_file,
		guests_are_named_after_their_file,
		files_are_found,
		pipe_is_read_whole_and_names_no_guest,
		bad_files_are_refused,
	};
	Suite *suite = suite_create("config");
	TCase *tcase = tcase_create("config");

	tcase_add_checked_fixture(tcase, setup, teardown);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
