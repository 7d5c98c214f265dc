// SPDX-License-Identifier: GPL-2.0-only
/* karma-oci: the command line of runc and crun; what follows of it for crun, which this becomes. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command_line.h"
#include "karma/log.h"
#include "karma/oci.h"
#include "karma/status.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "oci.h"

#define SETTINGS_PATH KARMA_CONFIG_DIR "/oci.conf"

static const char help[] =
	"usage: karma-oci [--root DIR] [--log FILE] [--log-format text|json] [--systemd-cgroup]\n"
	"                 COMMAND [OPTION]... [ID]\n"
	"\n"
	"A container runtime (OCI) whose containers are guests of Karma, for podman and other engines.\n"
	"Namespaces, control groups, mounts, hooks and states are made by crun, which it needs.\n"
	"\n"
	"  create, run [--bundle DIR] ID   make a container, which start starts; or run one\n"
	"  exec [--process FILE] ID [COMMAND]...  run a process in its guest\n"
	"  update [OPTION]... ID           change its limits, and the guest's memory with them\n"
	"  start, state, kill, delete, list, pause, resume, ps, spec  as with crun\n"
	"\n"
	"  podman --runtime /usr/bin/karma-oci run --rm IMAGE COMMAND\n"
	"\n"
	"What the guest is made of is in " SETTINGS_PATH " and in annotations karma.*: karma-oci(8).\n";

/* A descriptor for crun alone, behind those that it passes on; -1 with a message printed. */
static int pass_json(const json_t *value, unsigned preserved)
{
	cleanup_fd int fd = memfd_create("karma-oci", 0);
	int behind;

	if (fd < 0 || json_dumpfd(value, fd, JSON_COMPACT) < 0) {
		fail(-EIO, "the configuration can't be passed to crun: %s", fd < 0 ? strerror(errno) : "it is too large");
		return -1;
	}
	behind = fcntl(fd, F_DUPFD, STDERR_FILENO + 1 + (int)preserved);
	if (behind < 0)
		fail(-errno, "--preserve-fds %u: %s: give fewer, or raise the limit (ulimit -n)", preserved, strerror(errno));
	return behind;
}

static json_t *read_json(const char *path)
{
	json_error_t error;
	json_t *value = json_load_file(path, JSON_REJECT_DUPLICATES, &error);

	if (value && json_is_object(value))
		return value;
	if (value)
		fail(-EINVAL, "%s: is no JSON object: give one", path);
	else if (error.line < 0)
		fail(-ENOENT, "%s: can't be read: give a file that is there", path);
	else
		fail(-EINVAL, "%s: line %d: %s: give JSON", path, error.line, error.text);
	json_decref(value);
	return NULL;
}

static int become_crun(struct oci_command_line *line, const char *crun)
{
	execvp(crun ? crun : "crun", line->words);
	return fail(-errno, "%s: %s: install the package crun", crun ? crun : "crun", strerror(errno));
}

/* /proc/self/fd/N of a descriptor, for an option. */
static int add_file_option(struct oci_command_line *line, const char *option, int fd)
{
	return fd < 0 ? -EIO : command_line_add(line, "--%s=/proc/self/fd/%d", option, fd);
}

/* --- create and run. */

static int translate(json_t *config, struct oci_settings *settings, const char *bundle)
{
	char program[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
	int result;

	if (length < 0)
		return fail(-errno, "/proc/self/exe: %s: mount /proc", strerror(errno));
	program[length] = '\0';
	result = oci_check_program(config, bundle);
	if (result == 0)
		result = oci_settings_annotate(settings, json_object_get(config, "annotations"));
	if (result == 0)
		result = oci_settings_complete(settings);
	return result == 0 ? oci_translate(config, settings, program) : result;
}

static int create(struct oci_command_line *line, struct oci_settings *settings)
{
	const char *bundle = line->bundle ? line->bundle : ".", *name = line->config ? line->config : "config.json";
	cleanup_free char *path = NULL;
	json_t *config;
	int result;

	if (asprintf(&path, "%s%s%s", name[0] == '/' ? "" : bundle, name[0] == '/' ? "" : "/", name) < 0) {
		path = NULL;
		return fail(-ENOMEM, "out of memory");
	}
	config = read_json(path);
	if (!config)
		return -EINVAL;
	result = oci_is_sandbox(config) ? 0 : translate(config, settings, bundle);
	if (result == 0)
		result = add_file_option(line, "config", pass_json(config, line->preserved));
	json_decref(config);
	return result;
}

/* --- exec. */

/* The configuration of a container that there is, as crun keeps it; NULL with a message printed. */
static json_t *read_state(const struct oci_command_line *line)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	cleanup_free char *path = NULL;
	int length;

	if (line->root)
		length = asprintf(&path, "%s/%s/config.json", line->root, line->id);
	else if (geteuid() != 0 && runtime)
		length = asprintf(&path, "%s/crun/%s/config.json", runtime, line->id);
	else
		length = asprintf(&path, "/run/crun/%s/config.json", line->id);
	if (length < 0) {
		path = NULL;
		fail(-ENOMEM, "out of memory");
		return NULL;
	}
	if (access(path, F_OK) < 0) {
		fail(-errno, "container %s: there is none: see `karma-oci list`", line->id);
		return NULL;
	}
	return read_json(path);
}

/* The container's own, with what the command line says; a reference of the caller's. */
static json_t *make_process(const struct oci_command_line *line, const json_t *original)
{
	json_t *process = line->process ? read_json(line->process) : json_deep_copy(original);
	int result = !process ? -EINVAL : line->process ? 0 : command_line_apply(line, process);

	if (result == 0)
		return process;
	json_decref(process);
	return NULL;
}

static int exec_in_guest(struct oci_command_line *line, json_t *config, const json_t *original)
{
	json_t *process = make_process(line, original), *task;
	struct oci_process parsed = { 0 };
	int result = process ? oci_process_parse(&parsed, process) : -EINVAL;

	if (result == 0) {
		json_object_set(config, "process", process);
		/* Where the root is told by its full path, as it is of most engines. */
		result = oci_check_program(config, "");
	}
	if (result == 0) {
		task = json_pack("{so}", "process", json_deep_copy(process));
		result = oci_translate_process(process, task, "join");
	}
	if (result == 0)
		result = add_file_option(line, "process", pass_json(process, line->preserved));
	oci_process_release(&parsed);
	json_decref(process);
	return result;
}

static int exec(struct oci_command_line *line)
{
	json_t *config = read_state(line), *original;
	int result;

	if (!config)
		return -ENOENT;
	original = oci_original_process(config);
	/* Without one, crun runs it as it is. */
	result = original ? exec_in_guest(line, config, original) : command_line_as_given(line);
	json_decref(original);
	json_decref(config);
	return result;
}

/* --- update. */

/* Run crun, and wait for it.  0, or a negative errno; what it says is for the user. */
static int run_crun(const char *crun, char *const *words)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		execvp(crun ? crun : "crun", words);
		_exit(STATUS_FAILURE);
	}
	if (child < 0)
		return fail(-errno, "crun can't be started: %s", strerror(errno));
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

/* Have the guest give up so much of its memory, or, with `grow`, take back what is above that. */
static int balloon(const struct oci_command_line *line, const char *crun, const json_t *config, json_int_t bytes, bool grow)
{
	json_t *process = json_deep_copy(json_object_get(config, "process"));
	struct oci_command_line child = { 0 };
	int fd = -1, result = 0;

	json_object_set_new(process, "terminal", json_false());
	for (size_t i = 0; i < line->global_count && result == 0; i++)
		result = command_line_add(&child, "%s", line->words[i]);
	if (result == 0)
		result = command_line_add(&child, "exec");
	if (result == 0)
		result = oci_translate_process(process, json_pack("{sI sb}", "balloon", bytes, "grow", grow), "balloon");
	if (result == 0) {
		fd = pass_json(process, 0);
		result = add_file_option(&child, "process", fd);
	}
	if (result == 0)
		result = command_line_add(&child, "%s", line->id);
	if (result == 0)
		result = run_crun(crun, child.words);
	if (fd >= 0)
		close(fd);
	command_line_release(&child);
	json_decref(process);
	return result;
}

/* The guest has less memory before the control group has, and more after that. */
static int update_memory(struct oci_command_line *line, const char *crun, const json_t *config, json_int_t guest_memory)
{
	json_int_t limit = line->memory < (json_int_t)GUEST_MEMORY_MIN ? (json_int_t)GUEST_MEMORY_MIN : line->memory;
	json_int_t bytes = line->memory > 0 && limit < guest_memory ? guest_memory - limit : 0;
	int result = balloon(line, crun, config, bytes, false);

	if (result == 0)
		result = run_crun(crun, line->words);
	return result == 0 ? balloon(line, crun, config, bytes, true) : result;
}

static int take_resources(struct oci_command_line *line)
{
	json_t *resources = read_json(strcmp(line->resources, "-") == 0 ? "/dev/stdin" : line->resources);
	json_t *memory = json_object_get(resources, "memory");
	int result = resources ? 0 : -EINVAL;

	line->memory = json_integer_value(json_object_get(memory, "limit"));
	if (result == 0)
		result = oci_raise_limits(memory);
	if (result == 0)
		result = oci_raise_pids(json_object_get(resources, "pids"));
	if (result == 0)
		result = add_file_option(line, "resources", pass_json(resources, 0));
	json_decref(resources);
	return result;
}

/* Leaves the line to be done by crun, unless it returns 1: it is done. */
static int update(struct oci_command_line *line, const char *crun)
{
	json_t *config = read_state(line), *task = config ? oci_task(config) : NULL;
	int result = config ? 0 : -ENOENT;

	if (result == 0 && !task) {
		result = command_line_as_given(line);
	} else if (result == 0) {
		result = line->resources ? take_resources(line) : 0;
		if (result == 0 && line->memory) {
			result = command_line_finish(line);
			if (result == 0)
				result = update_memory(line, crun, config, json_integer_value(json_object_get(task, "memory")));
			result = result == 0 ? 1 : result;
		}
	}
	json_decref(task);
	json_decref(config);
	return result;
}

/* 0: crun is to go on; 1: all is done. */
static int prepare(struct oci_command_line *line, struct oci_settings *settings)
{
	int result = 0;

	if (line->kind == OCI_CREATE)
		result = create(line, settings);
	else if (line->kind == OCI_EXEC)
		result = exec(line);
	else if (line->kind == OCI_UPDATE)
		result = update(line, settings->crun);
	return result == 0 ? command_line_finish(line) : result;
}

/* Engines read it where the runtime has failed. */
static void write_log(const struct oci_command_line *line)
{
	char text[LOG_BYTES + 1], *message = text;
	size_t length;
	FILE *file;
	json_t *entry;

	if (!line->log)
		return;
	length = log_read_history(text, LOG_BYTES);
	text[length] = '\0';
	/* The one message, without its time. */
	message += strcspn(message, " ");
	message += *message == ' ';
	message[strcspn(message, "\n")] = '\0';
	file = fopen(line->log, "ae");
	if (!file)
		return;
	entry = line->log_json ? json_pack("{ss ss}", "level", "error", "msg", message) : NULL;
	if (entry && json_dumpf(entry, file, JSON_COMPACT) == 0)
		putc('\n', file);
	else if (!line->log_json)
		fprintf(file, "%s\n", message);
	json_decref(entry);
	fclose(file);
}

int command_oci(int argc, char **argv)
{
	struct oci_settings cleanup_oci_settings settings = { 0 };
	struct oci_command_line line;
	int result;

	if (argc == 2 && strcmp(argv[1], "guest") == 0)
		return oci_guest();
	if (argc == 2 && strcmp(argv[1], "join") == 0)
		return oci_join();
	if (argc == 2 && strcmp(argv[1], "balloon") == 0)
		return oci_balloon();
	log_start_history();
	result = command_line_parse(&line, argc, argv);
	if (result == 0 && line.kind == OCI_HELP) {
		fputs(help, stdout);
	} else if (result == 0 && line.kind == OCI_VERSION) {
		puts("karma-oci version " KARMA_VERSION "\nspec: 1.0.0");
	} else if (result == 0) {
		result = oci_settings_read(&settings, SETTINGS_PATH);
		if (result == 0)
			result = prepare(&line, &settings);
		if (result == 0)
			result = become_crun(&line, settings.crun);
	}
	if (result < 0)
		write_log(&line);
	command_line_release(&line);
	return result < 0 ? STATUS_FAILURE : 0;
}
