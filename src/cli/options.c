// SPDX-License-Identifier: GPL-2.0-only
/* The options of `karma run`: their table, and the command line. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config.h"
#include "karma/cli.h"
#include "karma/control.h"
#include "karma/log.h"
#include "karma/memory.h"
#include "karma/size.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "options.h"

#define MEMORY_DEFAULT (512 * MIB)
#define GRACE_DEFAULT 30
#define TIMEOUT_MAX (365u * 24 * 3600)
#define WATCHDOG_MAX (24u * 3600)

/* A whole number of pages, from GUEST_MEMORY_MIN to GUEST_MEMORY_MAX. */
static int parse_memory_size(const char *name, const char *text, uint64_t *size)
{
	unsigned long long value;
	unsigned shift;

	if (!split_size(text, &value, &shift))
		return refuse("%s %s: is no size: give one like 256M or 2G", name, text);
	if (value > GUEST_MEMORY_MAX >> shift || value << shift < GUEST_MEMORY_MIN)
		return refuse("%s %s: is out of range: give %lluM to %lluG", name, text,
			GUEST_MEMORY_MIN / MIB, GUEST_MEMORY_MAX / GIB);
	*size = value << shift;
	if (*size % PAGE_BYTES)
		return refuse("%s %s: is no multiple of 4K: give one", name, text);
	return 0;
}

static const struct setting memory_flags[] = {
	{ "hugepages", "on|off", SETTING_SWITCH,
		.offset = offsetof(struct memory_options, huge_pages) },
	{ "shared", "on|off", SETTING_SWITCH,
		.offset = offsetof(struct memory_options, shared) },
};

static const struct setting_table memory_settings = { "memory ", memory_flags,
	ARRAY_SIZE(memory_flags) };

/* SIZE[,flag]... */
static int parse_memory(void *target, const char *name, char *text)
{
	struct memory_options *memory = &((struct run_options *)target)->guest.memory;
	char *rest = text, *size = strsep(&rest, ",");
	int result;

	*memory = (struct memory_options){ 0 };
	result = parse_memory_size(name, size, &memory->size);
	if (result == 0)
		result = settings_parse_list(&memory_settings, memory, rest);
	if (result == 0 && memory->huge_pages && memory->size % GUEST_HUGE_PAGE)
		return refuse("%s %s: is no multiple of 2M: give one, or leave out hugepages=on", name,
			size);
	return result;
}

static int print_memory(const void *target, const char *name, FILE *file)
{
	const struct memory_options *memory = &((const struct run_options *)target)->guest.memory;
	char size[32];

	format_size(size, sizeof(size), memory->size);
	fprintf(file, "%s = %s%s%s\n", name, size, memory->huge_pages ? ",hugepages=on" : "",
		memory->shared ? ",shared=on" : "");
	return 0;
}

static int parse_name(void *target, const char *name, char *text)
{
	if (!control_name_is_valid(text))
		return refuse("%s %s: is no name: give 1 to %d letters, digits, `-`, `_` or `.`, the first "
			      "a letter, digit or `_`",
			name, text, CONTROL_NAME_MAX);
	((struct run_options *)target)->guest.name = text;
	return 0;
}

static int print_name(const void *target, const char *name, FILE *file)
{
	const struct run_options *options = target;

	return options->guest.name ? print_value(file, name, options->guest.name) : 0;
}

int append_text(const char ***list, size_t *count, const char *text)
{
	const char **longer = reallocarray(*list, *count + 2, sizeof(*longer));

	if (!longer)
		return fail(-ENOMEM, "out of memory");
	*list = longer;
	longer[(*count)++] = text;
	longer[*count] = NULL;
	return 0;
}

int print_texts(FILE *file, const char *name, const char *const *list)
{
	int result = 0;

	for (; list && *list && result == 0; list++)
		result = print_value(file, name, *list);
	return result;
}

static int parse_initrd(void *target, const char *name, char *text)
{
	struct run_options *options = target;

	if (!text[0])
		return refuse("%s: is empty: give a FILE", name);
	return append_text(&options->guest.initrds, &options->guest.initrd_count, text);
}

static int print_initrds(const void *target, const char *name, FILE *file)
{
	return print_texts(file, name, ((const struct run_options *)target)->guest.initrds);
}

static int parse_word(void *target, const char *name, char *text)
{
	struct run_options *options = target;
	int result = append_text(&options->words, &options->word_count, text);

	(void)name;
	options->guest.command = (char **)options->words;
	return result;
}

static int print_words(const void *target, const char *name, FILE *file)
{
	const struct run_options *options = target;

	return print_texts(file, name, (const char *const *)options->guest.command);
}

static int parse_disk_option(void *target, const char *name, char *text)
{
	struct disk_options *disk = add_disk_options(target);

	(void)name;
	return disk ? parse_disk(disk, text) : -ENOMEM;
}

static int parse_net_option(void *target, const char *name, char *text)
{
	struct net_options *net = add_net_options(target);

	(void)name;
	return net ? parse_net(net, text) : -ENOMEM;
}

int check_socket_path(const char *name, const char *path)
{
	if (!path[0])
		return refuse("%s: names no socket: give its PATH", name);
	if (strlen(path) > SOCKET_PATH_MAX)
		return refuse("%s: %s: is longer than a socket's path can be: give one of at most %zu bytes", name,
			path, SOCKET_PATH_MAX);
	return 0;
}

#define VSOCK_FORMS "give on, off or listen=PORT:unix:PATH"

static int parse_listen(struct vsock_options *vsock, const char *name, const char *text, char *value)
{
	char *path = value, *number = strsep(&path, ":");
	unsigned port;

	if (vsock->service_count == VSOCK_SERVICES_MAX)
		return refuse("%s: are too many: give at most %u", name, VSOCK_SERVICES_MAX);
	if (!path || strncmp(path, "unix:", 5) != 0 || !path[5])
		return refuse("%s %s: lacks `:unix:PATH` behind the port: " VSOCK_FORMS, name, text);
	path += 5;
	/* The last number means any port (vsock(7)). */
	if (parse_number(name, number, 0, UINT32_MAX - 1, &port) < 0)
		return -EINVAL;
	if (check_socket_path(name, path) < 0)
		return -EINVAL;
	if (port == VSOCK_COMMAND_PORT)
		return refuse("%s: port %s is where the guest's agent runs a command: give another", name, number);
	if (vsock_find_service(vsock, port))
		return refuse("%s: port %s is given twice: give each service a port of its own", name, number);
	vsock->services[vsock->service_count++] = (struct vsock_service){ port, path };
	vsock->on = true;
	return 0;
}

static int parse_vsock(void *target, const char *name, char *text)
{
	struct vsock_options *vsock = &((struct run_options *)target)->guest.vsock;

	if (strncmp(text, "listen=", 7) == 0)
		return parse_listen(vsock, name, "listen=", text + 7);
	if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0)
		return refuse("%s %s: is none of its forms: " VSOCK_FORMS, name, text);
	vsock->on = strcmp(text, "on") == 0;
	if (!vsock->on)
		vsock->service_count = 0;
	return 0;
}

static int print_vsock(const void *target, const char *name, FILE *file)
{
	const struct vsock_options *vsock = &((const struct run_options *)target)->guest.vsock;
	char text[SOCKET_PATH_MAX + 32];
	int result = 0;

	if (vsock->on && !vsock->service_count)
		return print_value(file, name, "on");
	for (unsigned i = 0; i < vsock->service_count && result == 0; i++) {
		snprintf(text, sizeof(text), "listen=%u:unix:%s", vsock->services[i].port,
			vsock->services[i].path);
		result = print_value(file, name, text);
	}
	return result;
}

#define AT(member) .offset = offsetof(struct run_options, member)

static const char *const reboot_choices[] = { "exit", "restart", NULL };
static const char *const panic_choices[] = { "exit", "restart", "wait", NULL };
static const char *const log_formats[] = { "text", "json", NULL };

/* A row for each option.  tests/check-docs compares it with --help, the manuals and the completions. */
static const struct setting settings[] = {
	{ "config", "FILE", SETTING_TEXT, AT(config), .min = 1, .command_line = true },
	{ "print-config", NULL, SETTING_SWITCH, AT(print_config), .command_line = true },
	{ "help", NULL, SETTING_SWITCH, AT(help), .command_line = true },
	{ "name", "NAME", SETTING_OTHER, .parse = parse_name, .print = print_name },
	{ "restore", "DIR", SETTING_TEXT, AT(guest.restore.directory), .min = 1 },
	{ "kernel", "FILE", SETTING_TEXT, AT(guest.kernel), .min = 1 },
	{ "initrd", "FILE", SETTING_OTHER, .parse = parse_initrd, .print = print_initrds,
		.repeats = true },
	{ "cmdline", "TEXT", SETTING_TEXT, AT(guest.cmdline) },
	{ "disk", "FILE", SETTING_OTHER, .parse = parse_disk_option, .command_line = true },
	{ "net", "tap=NAME|fd=N|user", SETTING_OTHER, .parse = parse_net_option,
		.command_line = true },
	{ "root", "DIR", SETTING_TEXT, AT(guest.root.directory), .min = 1 },
	{ "rw", "DIR", SETTING_OTHER, .parse = parse_writable, .print = print_writable,
		.repeats = true },
	{ "modules", "DIR", SETTING_TEXT, AT(guest.modules), .min = 1 },
	{ "cpus", "N", SETTING_NUMBER, AT(guest.cpus), .min = 1, .max = VCPUS_MAX },
	{ "memory", "SIZE", SETTING_OTHER, .parse = parse_memory, .print = print_memory },
	{ "vsock", "on|off|listen=PORT:unix:PATH", SETTING_OTHER, .parse = parse_vsock,
		.print = print_vsock, .repeats = true },
	{ "share", "DIR", SETTING_OTHER, .parse = parse_share, .print = print_shares, .repeats = true },
	{ "vhost-user", "PATH", SETTING_OTHER, .parse = parse_vhost_user, .print = print_vhost_users,
		.repeats = true },
	{ "balloon", "on|off", SETTING_SWITCH, AT(guest.balloon) },
	{ "pmu", "on|off", SETTING_SWITCH, AT(guest.pmu) },
	{ "warm", "on|off", SETTING_OTHER, .parse = parse_warm, .print = print_warm },
	{ "console", "WHERE", SETTING_TEXT, AT(guest.console), .min = 1 },
	{ "log-format", "text|json", SETTING_CHOICE, AT(log_format), .choices = log_formats },
	{ "timeout", "SECONDS", SETTING_NUMBER, AT(guest.timeout), .min = 1, .max = TIMEOUT_MAX },
	{ "grace", "SECONDS", SETTING_NUMBER, AT(guest.grace), .min = 0, .max = TIMEOUT_MAX },
	{ "reboot", "exit|restart", SETTING_CHOICE, AT(guest.reboot), .choices = reboot_choices },
	{ "on-panic", "exit|restart|wait", SETTING_CHOICE, AT(guest.on_panic), .choices = panic_choices },
	{ "watchdog", "SECONDS", SETTING_NUMBER, AT(guest.watchdog), .min = 1, .max = WATCHDOG_MAX },
	{ "die-with-parent", NULL, SETTING_SWITCH, AT(guest.die_with_parent) },
	{ "strict", NULL, SETTING_SWITCH, AT(guest.strict) },
	{ "stats", NULL, SETTING_SWITCH, AT(guest.stats) },
	{ "user", "NAME", SETTING_TEXT, AT(guest.sandbox.user), .min = 1 },
	{ "cgroup", "PATH", SETTING_TEXT, AT(guest.sandbox.cgroup), .min = 1 },
	{ "no-sandbox", NULL, SETTING_SWITCH, AT(guest.sandbox.off) },
	{ "command", "WORD", SETTING_OTHER, .parse = parse_word, .print = print_words, .repeats = true,
		.file = true },
};

const struct setting_table run_settings = { "", settings, ARRAY_SIZE(settings) };

void *append_empty(void *list, size_t *count, size_t size)
{
	char *longer = reallocarray(list, *count + 1, size);

	if (!longer) {
		fail(-ENOMEM, "out of memory");
		return NULL;
	}
	memset(longer + *count * size, 0, size);
	++*count;
	return longer;
}

struct disk_options *add_disk_options(struct run_options *options)
{
	struct guest_options *guest = &options->guest;
	struct disk_options *disks = append_empty(guest->disks, &guest->disk_count, sizeof(*disks));

	if (!disks)
		return NULL;
	guest->disks = disks;
	return &disks[guest->disk_count - 1];
}

struct net_options *add_net_options(struct run_options *options)
{
	struct guest_options *guest = &options->guest;
	struct net_options *nets = append_empty(guest->nets, &guest->net_count, sizeof(*nets));

	if (!nets)
		return NULL;
	guest->nets = nets;
	return &nets[guest->net_count - 1];
}

struct share_options *add_share_options(struct run_options *options)
{
	struct guest_options *guest = &options->guest;
	struct share_options *shares;

	if (guest->share_count == SHARES_MAX) {
		refuse("share: there are more than %u, with those of --root, --rw and --modules: give fewer",
			SHARES_MAX);
		return NULL;
	}
	shares = append_empty(guest->shares, &guest->share_count, sizeof(*shares));
	if (!shares)
		return NULL;
	guest->shares = shares;
	return &shares[guest->share_count - 1];
}

char *copy_text(struct run_options *options, const char *text)
{
	struct text_copy *kept = malloc(sizeof(*kept) + strlen(text) + 1);

	if (!kept) {
		fail(-ENOMEM, "out of memory");
		return NULL;
	}
	kept->next = options->texts;
	options->texts = kept;
	return strcpy(kept->text, text);
}

/* getopt's value for the first long option: beyond any character. */
#define CODE_FIRST 256

/* The options for getopt, and the table's row for each. */
struct long_options {
	struct option list[ARRAY_SIZE(settings) + 1];
	const struct setting *settings[ARRAY_SIZE(settings)];
};

static void make_long_options(struct long_options *options)
{
	size_t count = 0;

	*options = (struct long_options){ 0 };
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		if (settings[i].file)
			continue;
		options->settings[count] = &settings[i];
		options->list[count] = (struct option){ settings[i].name,
			settings[i].value ? required_argument : optional_argument, NULL,
			CODE_FIRST + count };
		count++;
	}
}

/* The row of the next option.  NULL with *code -1 at the end, or '?' or ':' at an error. */
static const struct setting *next_option(
	const struct long_options *options, int argc, char **argv, int *code)
{
	int next = optind ? optind : 1;

	/* A word with one dash, which getopt would split into short options. */
	if (next < argc && argv[next][0] == '-' && argv[next][1] && argv[next][1] != '-' &&
		strcmp(argv[next], "-h") != 0) {
		optind = next + 1;
		*code = '?';
		return NULL;
	}
	opterr = 0;
	*code = getopt_long(argc, argv, "+:h", options->list, NULL);
	if (*code == 'h')
		return setting_find(&run_settings, "help", strlen("help"));
	return *code >= CODE_FIRST ? options->settings[*code - CODE_FIRST] : NULL;
}

static int refuse_option(int code, const char *word)
{
	const char *cure = option_of_qemu(word);

	if (code == ':')
		return fail(-EINVAL, "%s: lacks its value: see `karma run --help`", word);
	if (cure)
		return fail(-EINVAL, "%s: is an option of QEMU: %s", word, cure);
	if (word[1] != '-')
		return fail(-EINVAL, "%s: is no option: see `karma run --help`", word);
	return fail(-EINVAL, "%s: is no option, or short for several: see `karma run --help`", word);
}

static int refuse_word(const struct run_options *options, const char *word)
{
	if (!options->guest.kernel)
		return fail(-EINVAL, "%s: is no option: give a kernel as `--kernel %s`, and put `--` before "
				     "the guest's command",
			word, word);
	return fail(-EINVAL, "%s: is no option: put `--` before the guest's command", word);
}

/* First pass: options that affect how all others are read, wherever they stand.  Errors are left to the second. */
static void look_ahead(
	struct run_options *options, const struct long_options *known, int argc, char **argv)
{
	const struct setting *setting;
	int code;

	optind = 0;
	while ((setting = next_option(known, argc, argv, &code)) || code != -1) {
		if (!setting)
			continue;
		if (strcmp(setting->name, "help") == 0)
			options->help = true;
		else if (strcmp(setting->name, "config") == 0)
			options->config = optarg;
		else if (strcmp(setting->name, "restore") == 0)
			options->guest.restore.directory = optarg;
		else if (strcmp(setting->name, "log-format") == 0 && strcmp(optarg, "json") == 0)
			log_set_format(LOG_JSON);
	}
}

static int parse_options(
	struct run_options *options, const struct long_options *known, int argc, char **argv)
{
	const struct setting *setting;
	const char *last_value = NULL;
	int code;

	set_origin("--");
	optind = 0;
	while ((setting = next_option(known, argc, argv, &code)) || code != -1) {
		int result = setting ? setting_parse(&run_settings, setting, options, optarg) :
				       refuse_option(code, argv[optind - 1]);

		if (result < 0)
			return result;
		last_value = optarg;
	}
	/* The `--` before a command, not one that is the value of the last option. */
	if (optind < argc &&
		(strcmp(argv[optind - 1], "--") != 0 || argv[optind - 1] == last_value))
		return refuse_word(options, argv[optind]);
	if (optind < argc)
		options->guest.command = argv + optind;
	return 0;
}

/* Without --name, the guest is named after its configuration file, if that is a regular file. */
static int name_by_file(struct run_options *options, const char *path)
{
	struct stat status;
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	size_t length = strlen(base);
	char *name = copy_text(options, base);

	if (!name)
		return -ENOMEM;
	if (length > 5 && strcmp(name + length - 5, ".conf") == 0)
		name[length - 5] = '\0';
	if (stat(path, &status) == 0 && S_ISREG(status.st_mode) && control_name_is_valid(name))
		options->guest.name = name;
	return 0;
}

static int read_config(struct run_options *options)
{
	cleanup_free char *path = config_path(options->config);
	int result = path ? config_read(options, path) : fail(-ENOMEM, "out of memory");

	if (result == 0 && !options->guest.name)
		result = name_by_file(options, path);
	return result;
}

/* Forget all settings, but not the texts, which others may still point to. */
static void start_anew(struct run_options *options)
{
	struct text_copy *texts = options->texts;
	const char *config = options->config;

	options->texts = NULL;
	run_options_release(options);
	run_options_default(options);
	options->texts = texts;
	options->config = config;
}

/* What a file says about --restore is known once it was read, and the snapshot's configuration comes before it. */
static int read_files(struct run_options *options)
{
	const char *restore = options->guest.restore.directory;
	int result = options->config ? read_config(options) : 0;

	if (!restore)
		restore = options->guest.restore.directory;
	if (result < 0 || !restore)
		return result;
	start_anew(options);
	result = restore_read(options, restore);
	return result == 0 && options->config ? read_config(options) : result;
}

void run_options_default(struct run_options *options)
{
	*options = (struct run_options){
		.guest = {
			.cpus = 1,
			.memory = { .size = MEMORY_DEFAULT },
			.balloon = true,
			.cmdline = "",
			.grace = GRACE_DEFAULT,
		},
		.files = SNAPSHOT_FILES_NONE,
	};
}

int run_options_parse(struct run_options *options, int argc, char **argv)
{
	struct long_options known;
	int result;

	run_options_default(options);
	make_long_options(&known);
	look_ahead(options, &known, argc, argv);
	if (options->help)
		return 0;
	result = read_files(options);
	if (result == 0)
		result = parse_options(options, &known, argc, argv);
	if (result == 0 && options->guest.restore.directory)
		result = restore_complete(options);
	if (result < 0)
		return result;
	log_set_format(options->log_format);
	if (root_check(options) < 0)
		return -EINVAL;
	if (!options->guest.kernel && !options->guest.root.directory)
		return fail(-EINVAL, "no kernel: give --kernel FILE, a bzImage or an ELF vmlinux%s",
			options->config ? ", or put `kernel = FILE` into the configuration file" : "");
	return 0;
}

int run_options_print(const struct run_options *options, FILE *file)
{
	int result = settings_print(&run_settings, options, file);

	for (size_t i = 0; i < options->guest.disk_count && result == 0; i++) {
		fputs("\n[disk]\n", file);
		result = settings_print(&disk_settings, &options->guest.disks[i], file);
	}
	for (size_t i = 0; i < options->guest.net_count && result == 0; i++) {
		fputs("\n[net]\n", file);
		result = settings_print(&net_settings, &options->guest.nets[i], file);
	}
	if (fflush(file) != 0 && result == 0)
		return fail(-errno, "--print-config: can't write it: %s", strerror(errno));
	return result;
}

void run_options_release(struct run_options *options)
{
	while (options->texts) {
		struct text_copy *next = options->texts->next;

		free(options->texts);
		options->texts = next;
	}
	free(options->guest.initrds);
	free(options->words);
	free(options->guest.disks);
	free(options->guest.nets);
	free(options->guest.shares);
	free(options->guest.root.writable);
	free(options->guest.vhost_users);
	restore_release(options);
}
