// SPDX-License-Identifier: GPL-2.0-only
#include "command_line.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "karma/log.h"
#include "karma/util.h"
#include "oci.h"

static int out_of_memory(void)
{
	return fail(-ENOMEM, "out of memory");
}

int command_line_add(struct oci_command_line *line, const char *format, ...)
{
	char **longer = reallocarray(line->words, line->word_count + 2, sizeof(*longer));
	va_list arguments;
	int length;

	if (!longer)
		return out_of_memory();
	line->words = longer;
	va_start(arguments, format);
	length = vasprintf(&longer[line->word_count], format, arguments);
	va_end(arguments);
	longer[line->word_count + (length >= 0)] = NULL;
	if (length < 0)
		return out_of_memory();
	line->word_count++;
	return 0;
}

static int append(const char ***list, size_t *count, const char *text)
{
	const char **longer = reallocarray(*list, *count + 1, sizeof(*longer));

	if (!longer)
		return out_of_memory();
	*list = longer;
	longer[(*count)++] = text;
	return 0;
}

/* --- Options.  What is not Karma's business has the code 'o'. */

static const struct option global_options[] = {
	{ "root", required_argument, NULL, 'r' },
	{ "log", required_argument, NULL, 'l' },
	{ "log-format", required_argument, NULL, 'f' },
	{ "log-level", required_argument, NULL, 'i' },
	{ "cgroup-manager", required_argument, NULL, 'o' },
	{ "rootless", required_argument, NULL, 'o' },
	{ "systemd-cgroup", no_argument, NULL, 'o' },
	{ "debug", no_argument, NULL, 'o' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'v' },
	{ 0 },
};

static const struct option create_options[] = {
	{ "bundle", required_argument, NULL, 'b' },
	{ "config", required_argument, NULL, 'f' },
	{ "preserve-fds", required_argument, NULL, 'n' },
	{ "console-socket", required_argument, NULL, 'o' },
	{ "pid-file", required_argument, NULL, 'o' },
	{ "detach", no_argument, NULL, 'o' },
	{ "keep", no_argument, NULL, 'o' },
	{ "no-new-keyring", no_argument, NULL, 'o' },
	{ "no-pivot", no_argument, NULL, 'o' },
	{ "no-subreaper", no_argument, NULL, 'o' },
	{ 0 },
};

static const struct option exec_options[] = {
	{ "process", required_argument, NULL, 'p' },
	{ "cwd", required_argument, NULL, 'w' },
	{ "user", required_argument, NULL, 'u' },
	{ "env", required_argument, NULL, 'e' },
	{ "cap", required_argument, NULL, 'c' },
	{ "no-new-privs", no_argument, NULL, 'N' },
	{ "tty", optional_argument, NULL, 't' },
	{ "preserve-fds", required_argument, NULL, 'n' },
	{ "console-socket", required_argument, NULL, 'o' },
	{ "pid-file", required_argument, NULL, 'o' },
	{ "cgroup", required_argument, NULL, 'o' },
	{ "detach", no_argument, NULL, 'd' },
	{ "apparmor", required_argument, NULL, 'i' },
	{ "process-label", required_argument, NULL, 'i' },
	{ 0 },
};

static const struct option update_options[] = {
	{ "resources", required_argument, NULL, 'r' },
	{ "memory", required_argument, NULL, 'm' },
	{ "memory-reservation", required_argument, NULL, 's' },
	{ "memory-swap", required_argument, NULL, 's' },
	{ "blkio-weight", required_argument, NULL, 'o' },
	{ "cpu-period", required_argument, NULL, 'o' },
	{ "cpu-quota", required_argument, NULL, 'o' },
	{ "cpu-rt-period", required_argument, NULL, 'o' },
	{ "cpu-rt-runtime", required_argument, NULL, 'o' },
	{ "cpu-share", required_argument, NULL, 'o' },
	{ "cpuset-cpus", required_argument, NULL, 'o' },
	{ "cpuset-mems", required_argument, NULL, 'o' },
	{ "kernel-memory", required_argument, NULL, 'o' },
	{ "kernel-memory-tcp", required_argument, NULL, 'o' },
	{ "pids-limit", required_argument, NULL, 'p' },
	{ 0 },
};

static int refuse_option(int code, char **argv)
{
	const char *word = argv[optind - 1];

	return code == ':' ? fail(-EINVAL, "%s: lacks its value: see `karma-oci --help`", word) :
			     fail(-EINVAL, "%s: is no option: see `karma-oci --help`", word);
}

/* An option again, for crun. */
static int add_option(struct oci_command_line *line, const struct option *option)
{
	return optarg ? command_line_add(line, "--%s=%s", option->name, optarg) : command_line_add(line, "--%s", option->name);
}

static int parse_global(struct oci_command_line *line, int argc, char **argv)
{
	int code, index = 0, result = 0;

	optind = 0;
	opterr = 0;
	while (result == 0 && (code = getopt_long(argc, argv, "+:hv", global_options, &index)) != -1) {
		switch (code) {
		case 'h':
			line->kind = OCI_HELP;
			return 0;
		case 'v':
			line->kind = OCI_VERSION;
			return 0;
		case 'r':
			line->root = optarg;
			break;
		case 'l':
			line->log = optarg;
			break;
		case 'f':
			line->log_json = strcmp(optarg, "json") == 0;
			break;
		case 'i':
			continue;
		case 'o':
			break;
		default:
			return refuse_option(code, argv);
		}
		result = add_option(line, &global_options[index]);
	}
	return result;
}

static int take_preserved(struct oci_command_line *line)
{
	char *end;
	unsigned long count = strtoul(optarg, &end, 10);

	if (optarg[0] < '0' || optarg[0] > '9' || *end || count > 65536)
		return fail(-EINVAL, "--preserve-fds %s: is no number of descriptors: give 0 to 65536", optarg);
	line->preserved = count;
	return 0;
}

static int parse_create(struct oci_command_line *line, int argc, char **argv)
{
	int code, index = 0, result = 0;

	optind = 0;
	while (result == 0 && (code = getopt_long(argc, argv, "+:b:f:d", create_options, &index)) != -1) {
		switch (code) {
		case 'b':
			line->bundle = optarg;
			result = command_line_add(line, "--bundle=%s", optarg);
			break;
		case 'f':
			line->config = optarg;
			break;
		case 'd':
			result = command_line_add(line, "--detach");
			break;
		case 'n':
			result = take_preserved(line);
			if (result == 0)
				result = add_option(line, &create_options[index]);
			break;
		case 'o':
			result = add_option(line, &create_options[index]);
			break;
		default:
			return refuse_option(code, argv);
		}
	}
	return result;
}

/* What concerns crun is passed on; what is about the process is in the file that crun gets. */
static int take_exec_option(struct oci_command_line *line, int code, int index)
{
	switch (code) {
	case 'p':
		line->process = optarg;
		return 0;
	case 'w':
		line->directory = optarg;
		return 0;
	case 'u':
		line->user = optarg;
		return 0;
	case 'e':
		return append(&line->environment, &line->environment_count, optarg);
	case 'c':
		return append(&line->capabilities, &line->capability_count, optarg);
	case 'N':
		line->no_new_privileges = true;
		return 0;
	case 't':
		line->terminal = !optarg || strcmp(optarg, "false") != 0;
		return 0;
	case 'd':
		return command_line_add(line, "--detach");
	case 'n':
		if (take_preserved(line) < 0)
			return -EINVAL;
		return add_option(line, &exec_options[index]);
	case 'i':
		return 0;
	default:
		return add_option(line, &exec_options[index]);
	}
}

static int parse_exec(struct oci_command_line *line, int argc, char **argv)
{
	int code, index = 0, result = 0;

	optind = 0;
	while (result == 0 && (code = getopt_long(argc, argv, "+:p:u:e:c:td", exec_options, &index)) != -1) {
		if (code == ':' || code == '?')
			return refuse_option(code, argv);
		result = take_exec_option(line, code, index);
	}
	if (result == 0 && optind < argc) {
		line->arguments = argv + optind + 1;
		line->argument_count = argc - optind - 1;
	}
	return result;
}

/* A limit, -1 for none: crun's is higher by what Karma takes itself. */
static int take_limit(struct oci_command_line *line, const char *name, json_int_t (*with_own)(json_int_t), json_int_t *limit)
{
	char *end;

	errno = 0;
	*limit = strtoll(optarg, &end, 10);
	if (end == optarg || *end || errno || *limit < -1)
		return fail(-EINVAL, "--%s %s: is no number: give one, or -1 for no limit", name, optarg);
	return command_line_add(line, "--%s=%lld", name, (long long)with_own(*limit));
}

static int parse_update(struct oci_command_line *line, int argc, char **argv)
{
	int code, index = 0, result = 0;
	json_int_t other;

	optind = 0;
	while (result == 0 && (code = getopt_long(argc, argv, "+:r:", update_options, &index)) != -1) {
		const struct option *option = &update_options[index];

		switch (code) {
		case 'r':
			line->resources = optarg;
			break;
		case 'm':
		case 's':
			result = take_limit(line, option->name, oci_with_own_memory, code == 'm' ? &line->memory : &other);
			break;
		case 'p':
			result = take_limit(line, option->name, oci_with_own_pids, &other);
			break;
		case 'o':
			result = add_option(line, option);
			break;
		default:
			return refuse_option(code, argv);
		}
	}
	return result;
}

static int take_id(struct oci_command_line *line, const char *command, int argc, char **argv)
{
	if (optind == argc)
		return fail(-EINVAL, "%s: lacks the ID of the container: give one", command);
	line->id = argv[optind];
	if (strchr(line->id, '/') || line->id[0] == '.' || !line->id[0])
		return fail(-EINVAL, "%s: is no ID of a container: give one without `/` that begins with a letter or digit",
			line->id);
	if (line->kind != OCI_EXEC && optind + 1 < argc)
		return fail(-EINVAL, "%s: is too much: give one ID", argv[optind + 1]);
	return 0;
}

static int parse_other(struct oci_command_line *line, int argc, char **argv)
{
	int result = 0;

	if (strcmp(argv[0], "events") == 0 || strcmp(argv[0], "checkpoint") == 0 || strcmp(argv[0], "restore") == 0)
		return fail(-ENOTSUP, "%s: is not supported: see karma-oci(8)", argv[0]);
	for (int i = 1; i < argc && result == 0; i++)
		result = command_line_add(line, "%s", argv[i]);
	return result;
}

int command_line_parse(struct oci_command_line *line, int argc, char **argv)
{
	const char *command;
	int result;

	*line = (struct oci_command_line){ .kind = OCI_OTHER };
	result = command_line_add(line, "crun");
	if (result == 0)
		result = parse_global(line, argc, argv);
	if (result < 0 || line->kind != OCI_OTHER)
		return result;
	argc -= optind;
	argv += optind;
	if (argc == 0)
		return fail(-EINVAL, "no command: see `karma-oci --help`");
	command = argv[0];
	line->global_count = line->word_count;
	line->options = argv + 1;
	line->option_count = argc - 1;
	result = command_line_add(line, "%s", command);
	if (result < 0)
		return result;
	if (strcmp(command, "create") == 0 || strcmp(command, "run") == 0) {
		line->kind = OCI_CREATE;
		result = parse_create(line, argc, argv);
	} else if (strcmp(command, "exec") == 0) {
		line->kind = OCI_EXEC;
		result = parse_exec(line, argc, argv);
	} else if (strcmp(command, "update") == 0) {
		line->kind = OCI_UPDATE;
		result = parse_update(line, argc, argv);
	} else {
		return parse_other(line, argc, argv);
	}
	return result == 0 ? take_id(line, command, argc, argv) : result;
}

int command_line_as_given(struct oci_command_line *line)
{
	int result = 0;

	while (line->word_count > line->global_count + 1)
		free(line->words[--line->word_count]);
	for (size_t i = 0; i < line->option_count && result == 0; i++)
		result = command_line_add(line, "%s", line->options[i]);
	/* They have the container. */
	line->kind = OCI_OTHER;
	return result;
}

int command_line_finish(struct oci_command_line *line)
{
	return line->kind == OCI_OTHER ? 0 : command_line_add(line, "%s", line->id);
}

void command_line_release(struct oci_command_line *line)
{
	for (size_t i = 0; i < line->word_count; i++)
		free(line->words[i]);
	free(line->words);
	free(line->environment);
	free(line->capabilities);
}

/* --- The process of exec. */

/* UID or UID:GID. */
static int apply_user(json_t *process, const char *text)
{
	char *end;
	unsigned long uid = strtoul(text, &end, 10), gid = 0;

	if (text[0] < '0' || text[0] > '9' || (*end && *end != ':'))
		return fail(-EINVAL, "--user %s: is no number: give UID or UID:GID", text);
	if (*end)
		gid = strtoul(end + 1, &end, 10);
	if (*end)
		return fail(-EINVAL, "--user %s: is no number: give UID or UID:GID", text);
	return json_object_set_new(process, "user", json_pack("{sI sI}", "uid", (json_int_t)uid, "gid", (json_int_t)gid)) < 0 ?
		out_of_memory() : 0;
}

static int add_texts(json_t *object, const char *name, const char *const *texts, size_t count)
{
	json_t *list = json_object_get(object, name);

	if (!json_is_array(list)) {
		list = json_array();
		if (json_object_set_new(object, name, list) < 0)
			return out_of_memory();
	}
	for (size_t i = 0; i < count; i++) {
		if (json_array_append_new(list, json_string(texts[i])) < 0)
			return fail(-EINVAL, "%s: is no text in UTF-8: give one", texts[i]);
	}
	return 0;
}

static int apply_capabilities(const struct oci_command_line *line, json_t *process)
{
	static const char *const sets[] = { "bounding", "effective", "permitted", "ambient" };
	json_t *capabilities = json_object_get(process, "capabilities");
	int result = 0;

	if (line->capability_count && !json_is_object(capabilities)) {
		capabilities = json_object();
		if (json_object_set_new(process, "capabilities", capabilities) < 0)
			return out_of_memory();
	}
	for (size_t i = 0; i < ARRAY_SIZE(sets) && line->capability_count && result == 0; i++)
		result = add_texts(capabilities, sets[i], line->capabilities, line->capability_count);
	return result;
}

int command_line_apply(const struct oci_command_line *line, json_t *process)
{
	int result;

	if (line->argument_count == 0)
		return fail(-EINVAL, "exec: lacks a command: give one behind the container, or --process FILE");
	json_object_del(process, "args");
	result = add_texts(process, "args", (const char *const *)line->arguments, line->argument_count);
	if (result == 0)
		result = add_texts(process, "env", line->environment, line->environment_count);
	if (result == 0 && line->user)
		result = apply_user(process, line->user);
	if (result == 0)
		result = apply_capabilities(line, process);
	if (result == 0 && line->directory && json_object_set_new(process, "cwd", json_string(line->directory)) < 0)
		result = out_of_memory();
	if (result == 0 && line->no_new_privileges)
		result = json_object_set_new(process, "noNewPrivileges", json_true());
	return result < 0 ? result : json_object_set_new(process, "terminal", json_boolean(line->terminal));
}
