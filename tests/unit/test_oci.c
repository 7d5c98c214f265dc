// SPDX-License-Identifier: GPL-2.0-only
/* karma-oci: from the configuration of a container to that of Karma in one; and a process of one, by the agent. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/oci/command_line.h"
#include "../../src/oci/oci.h"
#include "agent_fixture.h"
#include "karma/agent_client.h"
#include "karma/util.h"

/* test_oci_network.c: add its case to the suite. */
void oci_add_network(Suite *suite);

/* As an engine writes it, in little. */
static const char configuration[] = "{'ociVersion': '1.0.0',"
	"'process': {'terminal': true, 'user': {'uid': 1000, 'gid': 50, 'additionalGids': [7, 8]}, 'args': ['sh', '-c', 'exit 3'],"
	" 'env': ['PATH=/bin', 'A=b c'], 'cwd': '/tmp', 'noNewPrivileges': false, 'oomScoreAdj': 5, 'apparmorProfile': 'x',"
	" 'capabilities': {'bounding': ['CAP_CHOWN', 'CAP_KILL'], 'effective': ['CAP_KILL']},"
	" 'rlimits': [{'type': 'RLIMIT_NOFILE', 'soft': 64, 'hard': 128}]},"
	"'root': {'path': 'rootfs'}, 'hostname': \\\"it's\\\","
	"'mounts': [{'destination': '/proc', 'type': 'proc', 'source': 'proc'},"
	" {'destination': '/dev', 'type': 'tmpfs', 'source': 'tmpfs'},"
	" {'destination': '/dev/shm', 'type': 'tmpfs', 'options': ['nosuid', 'size=4m', 'size=$(reboot)']},"
	" {'destination': '/sys/fs/cgroup', 'type': 'cgroup', 'options': ['ro']}],"
	"'linux': {'seccomp': {}, 'sysctl': {'kernel.msgmax': '8192'}, 'resources': {'memory': {'limit': 134217728, 'swap': 134217728}, 'pids': {'limit': 20},"
	" 'cpu': {'quota': 150000, 'period': 100000}}, 'devices': [{'path': '/dev/null', 'type': 'c'}],"
	" 'namespaces': [{'type': 'pid'}, {'type': 'mount'}, {'type': 'network', 'path': '/run/netns/x'}]}}";

static struct oci_settings settings = { .kernel = "/boot/kernel", .initrd = "/boot/initrd" };

/* Of JSON with ' for ", and \" for '. */
static json_t *parse(const char *text)
{
	char *copy = strdup(text), *from = copy, *to = copy;
	json_t *value;

	for (; *from; from++) {
		if (strncmp(from, "\\\"", 2) == 0) {
			*to++ = '"';
			for (from += 2; strncmp(from, "\\\"", 2) != 0; from++)
				*to++ = *from;
			*to++ = '"';
			from++;
		} else {
			*to++ = *from == '\'' ? '"' : *from;
		}
	}
	*to = '\0';
	value = json_loads(copy, 0, NULL);
	free(copy);
	ck_assert_ptr_nonnull(value);
	return value;
}

/* That configuration with a member of one of its objects replaced; or removed, if value is NULL. */
static json_t *changed(const char *object, const char *member, const char *value)
{
	json_t *config = parse(configuration);
	json_t *target = object ? json_object_get(config, object) : config;

	if (value)
		json_object_set_new(target, member, parse(value));
	else
		json_object_del(target, member);
	return config;
}

static int translate(json_t *config)
{
	int result = oci_translate(config, &settings, "/usr/bin/karma");

	json_decref(config);
	return result;
}

static json_t *take_task(const json_t *config)
{
	const char *variable = json_string_value(json_array_get(json_object_get(json_object_get(config, "process"), "env"), 0));
	json_t *task;

	ck_assert_int_eq(strncmp(variable, "KARMA_OCI=", 10), 0);
	task = json_loads(variable + 10, 0, NULL);
	ck_assert_ptr_nonnull(task);
	return task;
}

static bool has_mount(const json_t *config, const char *destination, const char *source)
{
	const json_t *mount = oci_find_mount(config, destination);

	return mount && strcmp(json_string_value(json_object_get(mount, "source")), source) == 0 && oci_mount_has(mount, "ro");
}

START_TEST(the_process_is_karma_and_its_own_goes_along)
{
	json_t *before = parse(configuration), *config = parse(configuration), *process, *task, *original;

	ck_assert_int_eq(oci_translate(config, &settings, "/usr/bin/karma"), 0);
	process = json_object_get(config, "process");
	ck_assert_str_eq(json_string_value(json_array_get(json_object_get(process, "args"), 0)), "/dev/karma/karma");
	ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(process, "user"), "uid")), 0);
	ck_assert(json_is_true(json_object_get(process, "terminal")));
	ck_assert_int_eq(json_integer_value(json_object_get(process, "oomScoreAdj")), 5);
	ck_assert_ptr_null(json_object_get(process, "apparmorProfile"));
	ck_assert_ptr_null(json_object_get(process, "rlimits"));
	ck_assert_uint_eq(json_array_size(json_object_get(process, "env")), 3);
	task = take_task(config);
	ck_assert(json_is_true(json_object_get(task, "warm")));
	ck_assert(json_equal(json_object_get(task, "process"), json_object_get(before, "process")));
	original = oci_original_process(config);
	ck_assert(json_equal(original, json_object_get(before, "process")));
	json_decref(original);
	ck_assert_ptr_null(oci_original_process(before));
	json_decref(task);
	json_decref(config);
	json_decref(before);
}
END_TEST

START_TEST(it_has_its_files_and_kvm_and_no_filter)
{
	json_t *config = parse(configuration), *part, *devices, *allowed;

	ck_assert_int_eq(oci_translate(config, &settings, "/usr/bin/karma"), 0);
	ck_assert(has_mount(config, "/dev/karma/karma", "/usr/bin/karma"));
	ck_assert(has_mount(config, "/dev/karma/kernel", "/boot/kernel"));
	ck_assert(has_mount(config, "/dev/karma/initrd", "/boot/initrd"));
	part = json_object_get(config, "linux");
	devices = json_object_get(part, "devices");
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(devices, 1), "path")), "/dev/kvm");
	allowed = json_object_get(json_object_get(part, "resources"), "devices");
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(devices, 2), "path")), "/dev/net/tun");
	ck_assert_uint_eq(json_array_size(allowed), 2);
	ck_assert_ptr_null(json_object_get(part, "seccomp"));
	ck_assert_ptr_null(oci_find_mount(config, "/dev/karma/cache"));
	json_decref(config);
}
END_TEST

START_TEST(it_has_a_cache_and_boots_if_told_to)
{
	struct oci_settings own = settings;
	json_t *config = parse(configuration), *task;
	const json_t *mount;

	own.cache = (char *)"/root/.cache/karma/containers";
	own.no_warm = true;
	ck_assert_int_eq(oci_translate(config, &own, "/usr/bin/karma"), 0);
	mount = oci_find_mount(config, "/dev/karma/cache");
	ck_assert_str_eq(json_string_value(json_object_get(mount, "source")), own.cache);
	ck_assert(oci_mount_has(mount, "rw") && oci_mount_has(mount, "nosuid") && oci_mount_has(mount, "nodev"));
	task = take_task(config);
	ck_assert(json_is_false(json_object_get(task, "warm")));
	json_decref(task);
	json_decref(config);
}
END_TEST

START_TEST(the_guest_has_the_containers_size)
{
	json_t *config = parse(configuration), *task, *memory;

	ck_assert_int_eq(oci_translate(config, &settings, "/usr/bin/karma"), 0);
	task = take_task(config);
	ck_assert_int_eq(json_integer_value(json_object_get(task, "cpus")), 2);
	ck_assert_int_eq(json_integer_value(json_object_get(task, "memory")), 134217728);
	memory = json_object_get(json_object_get(json_object_get(config, "linux"), "resources"), "memory");
	ck_assert_int_eq(json_integer_value(json_object_get(memory, "limit")), 134217728 + 64 * MIB);
	ck_assert_int_eq(json_integer_value(json_object_get(memory, "swap")), 134217728 + 64 * MIB);
	/* Karma's threads come on top. */
	ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(
		json_object_get(json_object_get(config, "linux"), "resources"), "pids"), "limit")), 20 + 256);
	json_decref(task);
	json_decref(config);
}
END_TEST

START_TEST(the_guest_is_set_up_by_quoted_words)
{
	json_t *config = parse(configuration);
	char *script = oci_setup_script(config);

	ck_assert_str_eq(script, "\tlimit_processes 20\n\tprepare_container mode=1777,size=65536k,size=4m ro\n\thostname 'it'\\''s'\n"
				 "\tset_kernel_parameter 'kernel.msgmax' '8192'\n");
	free(script);
	json_decref(config);
}
END_TEST

START_TEST(annotations_and_the_file_choose_the_guest)
{
	struct oci_settings chosen = { 0 };
	json_t *annotations = parse("{'karma.cpus': '3', 'karma.memory': '96M', 'karma.kernel': '/k', 'karma.warm': 'off',"
				    " 'other': '1'}");

	ck_assert_int_eq(oci_settings_annotate(&chosen, annotations), 0);
	ck_assert_uint_eq(chosen.cpus, 3);
	ck_assert_uint_eq(chosen.memory, 96 * MIB);
	ck_assert_str_eq(chosen.kernel, "/k");
	json_decref(annotations);
	annotations = parse("{'karma.warm': 'on'}");
	ck_assert(chosen.no_warm);
	ck_assert_int_eq(oci_settings_annotate(&chosen, annotations), 0);
	ck_assert(!chosen.no_warm);
	json_decref(annotations);
	annotations = parse("{'karma.warm': 'cold'}");
	ck_assert_int_lt(oci_settings_annotate(&chosen, annotations), 0);
	json_decref(annotations);
	annotations = parse("{'karma.cpu': '3'}");
	ck_assert_int_lt(oci_settings_annotate(&chosen, annotations), 0);
	json_decref(annotations);
	oci_settings_release(&chosen);
}
END_TEST

static const struct {
	const char *object, *member, *value;
} refused[] = {
	{ NULL, "process", NULL },
	{ NULL, "process", "[]" },
	{ NULL, "root", NULL },
	{ NULL, "mounts", "[]" },
	{ "process", "args", NULL },
	{ "process", "args", "[]" },
	{ "process", "args", "[1]" },
	{ "process", "env", "[{}]" },
	{ "process", "user", "{'uid': -1}" },
	{ "process", "user", "{'uid': 4294967295}" },
	{ "process", "user", "{'uid': 'root'}" },
	{ "process", "user", "{'umask': 512}" },
	{ "process", "user", "{'additionalGids': ['x']}" },
	{ "process", "rlimits", "[{'type': 'RLIMIT_X'}]" },
	{ "process", "rlimits", "[{}]" },
	/* A guest has processes and a network of its own, and no devices of the host. */
	{ "linux", "namespaces", "[{'type': 'mount'}, {'type': 'network'}]" },
	{ "linux", "namespaces", "[{'type': 'pid'}, {'type': 'mount'}, {'type': 'network', 'path': '/proc/self/ns/net'}]" },
	{ "linux", "namespaces", "[{'type': 'pid', 'path': '/x'}, {'type': 'mount'}, {'type': 'network'}]" },
	{ "linux", "namespaces", "[{'type': 'pid'}, {'type': 'mount'}]" },
	{ "linux", "devices", "[{'path': '/dev/fuse'}]" },
	{ NULL, "mounts", "[{'destination': '/proc'}, {'destination': '/dev', 'type': 'tmpfs'}, {'destination': '/dev/log'}]" },
};

START_TEST(what_a_guest_cannot_have_is_refused)
{
	ck_assert_int_lt(translate(changed(refused[_i].object, refused[_i].member, refused[_i].value)), 0);
}
END_TEST

START_TEST(a_pods_sandbox_is_cruns)
{
	json_t *config = changed(NULL, "annotations", "{'io.kubernetes.cri.container-type': 'sandbox'}");

	ck_assert(oci_is_sandbox(config));
	json_object_set_new(config, "annotations", parse("{'io.kubernetes.cri.container-type': 'container'}"));
	ck_assert(!oci_is_sandbox(config));
	json_decref(config);
}
END_TEST

/* --- The command line. */

static void expect_words(struct oci_command_line *line, const char *const *words)
{
	size_t i = 0;

	for (; words[i]; i++)
		ck_assert_str_eq(line->words[i], words[i]);
	ck_assert_ptr_null(line->words[i]);
}

START_TEST(what_is_cruns_is_passed_on)
{
	char *argv[] = { "karma-oci", "--root", "/r", "--log-level", "info", "--systemd-cgroup", "create", "-b", "/b", "--pid-file=/p",
		"--preserve-fds", "2", "one", NULL };
	const char *const words[] = { "crun", "--root=/r", "--systemd-cgroup", "create", "--bundle=/b", "--pid-file=/p",
		"--preserve-fds=2", "one", NULL };
	struct oci_command_line line;

	ck_assert_int_eq(command_line_parse(&line, ARRAY_SIZE(argv) - 1, argv), 0);
	ck_assert_int_eq(line.kind, OCI_CREATE);
	ck_assert_uint_eq(line.preserved, 2);
	ck_assert_str_eq(line.bundle, "/b");
	ck_assert_int_eq(command_line_finish(&line), 0);
	expect_words(&line, words);
	command_line_release(&line);
}
END_TEST

START_TEST(exec_changes_the_containers_process)
{
	char *argv[] = { "karma-oci", "exec", "-t", "--cwd", "/x", "-u", "5:6", "-e", "B=1", "-d", "one", "ls", "-l", NULL };
	const char *const words[] = { "crun", "exec", "--detach", "one", NULL };
	json_t *config = parse(configuration), *process = json_object_get(config, "process");
	json_t *wanted = parse("['ls', '-l']");
	struct oci_command_line line;

	ck_assert_int_eq(command_line_parse(&line, ARRAY_SIZE(argv) - 1, argv), 0);
	ck_assert_int_eq(command_line_apply(&line, process), 0);
	ck_assert(json_equal(json_object_get(process, "args"), wanted));
	ck_assert_str_eq(json_string_value(json_object_get(process, "cwd")), "/x");
	ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(process, "user"), "gid")), 6);
	ck_assert_uint_eq(json_array_size(json_object_get(process, "env")), 3);
	ck_assert_int_eq(command_line_finish(&line), 0);
	expect_words(&line, words);
	command_line_release(&line);
	json_decref(wanted);
	json_decref(config);
}
END_TEST

START_TEST(exec_in_what_is_no_guest_is_as_given)
{
	char *argv[] = { "karma-oci", "exec", "-t", "--cwd", "/x", "one", "ls", "-l", NULL };
	const char *const words[] = { "crun", "exec", "-t", "--cwd", "/x", "one", "ls", "-l", NULL };
	struct oci_command_line line;

	ck_assert_int_eq(command_line_parse(&line, ARRAY_SIZE(argv) - 1, argv), 0);
	ck_assert_int_eq(command_line_as_given(&line), 0);
	ck_assert_int_eq(command_line_finish(&line), 0);
	expect_words(&line, words);
	command_line_release(&line);
}
END_TEST

START_TEST(an_update_leaves_room_for_karma)
{
	char *argv[] = { "karma-oci", "--root=/r", "update", "--cpu-quota", "5", "--memory", "134217728", "--memory-swap=-1",
		"--pids-limit=7", "one", NULL };
	const char *const words[] = { "crun", "--root=/r", "update", "--cpu-quota=5", "--memory=201326592", "--memory-swap=-1",
		"--pids-limit=263", "one", NULL };
	const char *const given[] = { "crun", "--root=/r", "update", "--cpu-quota", "5", "--memory", "134217728",
		"--memory-swap=-1", "--pids-limit=7", "one", NULL };
	struct oci_command_line line;

	ck_assert_int_eq(command_line_parse(&line, ARRAY_SIZE(argv) - 1, argv), 0);
	ck_assert_int_eq(line.kind, OCI_UPDATE);
	ck_assert_int_eq(line.memory, 134217728);
	ck_assert_str_eq(line.id, "one");
	ck_assert_int_eq(command_line_finish(&line), 0);
	expect_words(&line, words);
	/* What crun runs as it is. */
	ck_assert_int_eq(command_line_as_given(&line), 0);
	expect_words(&line, given);
	command_line_release(&line);
}
END_TEST

/* --- The program of a container. */

static char root[32];

static void root_setup(void)
{
	strcpy(root, "/tmp/karma-oci-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
	ck_assert_int_eq(chdir(root), 0);
	ck_assert_int_eq(mkdir("rootfs", 0755) | mkdir("rootfs/bin", 0755) | mkdir("rootfs/etc", 0755) |
				 mkdir("rootfs/tmp", 0755), 0);
	close(open("rootfs/bin/tool", O_CREAT | O_WRONLY, 0755));
	close(open("rootfs/etc/passwd", O_CREAT | O_WRONLY, 0644));
	ck_assert_int_eq(symlink("/bin/tool", "rootfs/etc/link"), 0);
	/* On the host, there is one. */
	ck_assert_int_eq(symlink("/../../../../../../bin/sh", "rootfs/etc/out"), 0);
}

static void root_teardown(void)
{
	unlink("rootfs/etc/out");
	unlink("rootfs/etc/link");
	unlink("rootfs/etc/passwd");
	unlink("rootfs/bin/tool");
	rmdir("rootfs/etc");
	rmdir("rootfs/tmp");
	rmdir("rootfs/bin");
	rmdir("rootfs");
	ck_assert_int_eq(chdir("/"), 0);
	rmdir(root);
}

static const struct {
	const char *arguments, *mounts;
	int result;
} programs[] = {
	{ "['tool']", NULL, 0 },
	{ "['/bin/tool']", NULL, 0 },
	{ "['../bin/tool']", NULL, 0 },
	{ "['/etc/link']", NULL, 0 },
	{ "['nowhere']", NULL, -ENOENT },
	{ "['/no/where']", NULL, -ENOENT },
	{ "['/bin/tool/x']", NULL, -ENOENT },
	{ "['/etc/out']", NULL, -ENOENT },
	{ "['/etc/passwd']", NULL, -EACCES },
	{ "['/etc']", NULL, -EACCES },
	{ "['nowhere']", "[{'destination': '/run/secrets'}]", -ENOENT },
	{ "['nowhere']", "[{'destination': '/usr'}]", 0 },
	{ "['nowhere']", "[{'destination': '/running'}]", 0 },
	{ "['/run/init', 'tool']", "[{'destination': '/run/init'}]", 0 },
	{ "['/run/init', 'tool']", "[{'destination': '/run/initial'}]", -ENOENT },
};

START_TEST(a_program_that_is_not_there_is_told_before)
{
	json_t *config = changed("process", "args", programs[_i].arguments);

	if (programs[_i].mounts)
		json_object_set_new(config, "mounts", parse(programs[_i].mounts));
	ck_assert_int_eq(oci_check_program(config, root), programs[_i].result);
	json_decref(config);
}
END_TEST

static char *const wrong_lines[][6] = {
	{ "karma-oci" },
	{ "karma-oci", "--nothing", "list" },
	{ "karma-oci", "create" },
	{ "karma-oci", "create", "../x" },
	{ "karma-oci", "create", "one", "two" },
	{ "karma-oci", "create", "--preserve-fds", "-1", "one" },
	{ "karma-oci", "exec", "--user" },
	{ "karma-oci", "events", "one" },
	{ "karma-oci", "update", "--memory", "1M", "one" },
	{ "karma-oci", "update", "--memory=-2", "one" },
	{ "karma-oci", "update" },
};

START_TEST(wrong_lines_are_refused)
{
	struct oci_command_line line;
	char *argv[6];
	int argc = 0;

	for (; argc < 5 && wrong_lines[_i][argc]; argc++)
		argv[argc] = wrong_lines[_i][argc];
	argv[argc] = NULL;
	ck_assert_int_lt(command_line_parse(&line, argc, argv), 0);
	command_line_release(&line);
}
END_TEST

/* --- A process, by the agent. */

static char output[4096];

/* Run what a process says; its output is in output. */
static int run(const char *text)
{
	json_t *process = parse(text);
	struct oci_process parsed;
	ssize_t length;
	int status;

	ck_assert_int_eq(oci_process_parse(&parsed, process), 0);
	parsed.command.fds[0] = open("/dev/null", O_RDWR);
	parsed.command.fds[1] = memfd_create("output", 0);
	parsed.command.fds[2] = STDERR_FILENO;
	start_agent();
	status = agent_run_command(agent_socket, "web", &parsed.command);
	length = pread(parsed.command.fds[1], output, sizeof(output) - 1, 0);
	ck_assert_int_ge(length, 0);
	output[length] = '\0';
	oci_process_release(&parsed);
	json_decref(process);
	return status;
}

START_TEST(a_process_is_its_user_with_its_rights)
{
	int status;

	if (geteuid() != 0)
		return;
	status = run("{'user': {'uid': 1234, 'gid': 50, 'umask': 63, 'additionalGids': [7, 8]}, 'cwd': '/tmp', 'noNewPrivileges': true,"
		"'capabilities': {'bounding': ['CAP_CHOWN', 'CAP_KILL'], 'permitted': ['CAP_KILL'], 'effective': ['CAP_KILL'],"
		" 'inheritable': ['CAP_KILL'], 'ambient': ['CAP_KILL']}, 'rlimits': [{'type': 'RLIMIT_NOFILE', 'soft': 64, 'hard': 128}],"
		"'env': ['PATH=/usr/bin:/bin', 'A=b c'], 'args': ['sh', '-c',"
		"'id -u; id -g; id -G; umask; pwd; ulimit -Sn; ulimit -Hn; echo $A,$USER; grep -e ^Cap -e NoNew /proc/self/status; exit 9']}");
	ck_assert_int_eq(status, 9);
	ck_assert_str_eq(output, "1234\n50\n50 7 8\n0077\n/tmp\n64\n128\nb c,\nCapInh:\t0000000000000020\nCapPrm:\t0000000000000020\n"
				 "CapEff:\t0000000000000020\nCapBnd:\t0000000000000021\nCapAmb:\t0000000000000020\nNoNewPrivs:\t1\n");
}
END_TEST

START_TEST(a_process_that_is_not_there_is_told)
{
	if (geteuid() == 0)
		ck_assert_int_eq(run("{'args': ['nowhere'], 'env': ['PATH=/bin'], 'capabilities': {}}"), 127);
}
END_TEST

static void setup(void)
{
	agent_setup();
}

static void teardown(void)
{
	agent_teardown();
}

Suite *oci_suite(void)
{
	const TTest *const translation[] = {
		the_process_is_karma_and_its_own_goes_along,
		it_has_its_files_and_kvm_and_no_filter,
		it_has_a_cache_and_boots_if_told_to,
		the_guest_has_the_containers_size,
		the_guest_is_set_up_by_quoted_words,
		annotations_and_the_file_choose_the_guest,
		a_pods_sandbox_is_cruns,
		what_is_cruns_is_passed_on,
		exec_changes_the_containers_process,
		exec_in_what_is_no_guest_is_as_given,
		an_update_leaves_room_for_karma,
	};
	const TTest *const processes[] = {
		a_process_is_its_user_with_its_rights,
		a_process_that_is_not_there_is_told,
	};
	Suite *suite = suite_create("oci");
	TCase *one = add_case(suite, "translation", NULL, NULL, 20, translation, ARRAY_SIZE(translation));
	TCase *program = add_case(suite, "program", root_setup, root_teardown, 20, NULL, 0);

	tcase_add_loop_test(one, what_a_guest_cannot_have_is_refused, 0, ARRAY_SIZE(refused));
	tcase_add_loop_test(one, wrong_lines_are_refused, 0, ARRAY_SIZE(wrong_lines));
	tcase_add_loop_test(program, a_program_that_is_not_there_is_told_before, 0, ARRAY_SIZE(programs));
	add_case(suite, "process", setup, teardown, 20, processes, ARRAY_SIZE(processes));
	oci_add_network(suite);
	return suite;
}
