// SPDX-License-Identifier: GPL-2.0-only
/* karma cp: files to a guest and back, by its agent. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "client.h"
#include "karma/agent_tree.h"
#include "karma/commands.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/util.h"

#define STATUS_INCOMPLETE 1
#define SKIPPED_MAX 20u		/* that are told one by one */
#define PROGRESS_NANOSECONDS 100000000ll
#define ERASE_LINE "\r\033[K"	/* CR, and EL of ECMA-48 */

static const struct command command = { "cp",
	"usage: karma cp SRC NAME:DST\n"
	"       karma cp NAME:SRC DST\n"
	"\n"
	"Copy a file, or a directory with all that is in it, to a guest or from it, which needs --vsock on\n"
	"and karma-agent, as Karma's initramfs has it.  Into DST, if that is a directory, or as DST.  What\n"
	"is copied keeps its permissions, times, links and holes, and becomes the receiver's: in the\n"
	"guest, root's.  A file has its name once it is complete.  A SRC or DST of ours that is - is\n"
	"standard input, which becomes a file, or standard output, which gets one.\n"
	"\n"
	"  karma cp web:/var/log/syslog .\n"
	"  karma cp ./linux web:/usr/src\n"
	"  pg_dump | gzip | karma cp - web:dump.gz\n"
	"\n"
	"NAME:PATH without a slash at its head is in root's home; a file of ours of such a name is\n"
	"./NAME:PATH, and one that is called - is ./-.\n"
	"Exit status: 0; 1 if devices, sockets and the like were left out, or 125 if karma failed.\n" };

struct copy {
	bool to_guest;
	bool streams;			/* our side is standard input or output */
	char name[CONTROL_NAME_MAX + 1];
	const char *guest_path, *host_path;
	struct agent_tree tree;
	bool shows;			/* progress, on a terminal */
	int64_t shown;			/* nanoseconds() */
	uint64_t bytes;
	uint64_t skipped;
};

/* For the handler. */
static volatile sig_atomic_t copy_socket = -1, caught_signal;

static void end_copy(int number)
{
	caught_signal = number;
	/* What waits for the guest finds the end, and clears up. */
	shutdown(copy_socket, SHUT_RDWR);
}

static void catch_signals(int socket)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	const struct sigaction action = { .sa_handler = end_copy };

	copy_socket = socket;
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static void show_progress(void *context, uint64_t bytes)
{
	struct copy *copy = context;
	int64_t now;

	copy->bytes += bytes;
	if (!copy->shows)
		return;
	now = nanoseconds();
	if (now - copy->shown < PROGRESS_NANOSECONDS)
		return;
	copy->shown = now;
	fprintf(stderr, ERASE_LINE "%s", size_text(copy->bytes).text);
}

static void erase_progress(const struct copy *copy)
{
	if (copy->shows && copy->shown)
		fputs(ERASE_LINE, stderr);
}

static void tell_skipped(void *context, const char *text)
{
	struct copy *copy = context;
	char printable[AGENT_TREE_TEXT];

	if (copy->skipped++ >= SKIPPED_MAX)
		return;
	snprintf(printable, sizeof(printable), "%s", text);
	make_printable(printable, strlen(printable));
	erase_progress(copy);
	note("left out: %s", printable);
}

/* The agent's first frame.  0 or an error, with the text set. */
static int greet(struct copy *copy)
{
	struct agent_frame frame;
	const char *text = "";
	int result = agent_link_flush(copy->tree.link);

	/* An answer already is no error here. */
	if (result == 0 || result == -ECANCELED)
		result = agent_link_await(copy->tree.link, &frame);
	if (result <= 0)
		return result == 0 ? -EPIPE : result;
	result = agent_link_check_hello(&frame, &text);
	if (result < 0)
		snprintf(copy->tree.text, sizeof(copy->tree.text), "%s", text);
	return result;
}

static int stream(struct copy *copy)
{
	return copy->to_guest ? agent_tree_send_input(&copy->tree, STDIN_FILENO, 0666 & ~umask(0)) :
		agent_tree_receive_output(&copy->tree, STDOUT_FILENO);
}

static int run_copy(struct copy *copy, struct agent_link *link)
{
	char request[2 * PATH_MAX], base[NAME_MAX + 1];
	size_t length = strlen(copy->guest_path) + 1;
	int result;

	agent_tree_base(copy->to_guest ? copy->host_path : copy->guest_path, base);
	/* It has no name: in a directory it is nothing. */
	if (copy->streams)
		strcpy(base, ".");
	if (length > PATH_MAX) {
		snprintf(copy->tree.text, sizeof(copy->tree.text), "the guest's path is too long");
		return -ENAMETOOLONG;
	}
	memcpy(request, copy->guest_path, length);
	if (copy->to_guest) {
		strcpy(request + length, base);
		length += strlen(base) + 1;
	}
	agent_link_put_number(link, AGENT_HELLO, 0, AGENT_VERSION);
	agent_link_put(link, copy->to_guest ? AGENT_PUT : AGENT_GET, 0, request, length);
	result = greet(copy);
	if (result < 0)
		return result;
	if (copy->streams)
		return stream(copy);
	return copy->to_guest ? agent_tree_send(&copy->tree, copy->host_path) :
		agent_tree_receive(&copy->tree, copy->host_path, base);
}

/* The exit status. */
static int report(struct copy *copy, int result)
{
	char *text = copy->tree.text;

	erase_progress(copy);
	if (caught_signal)
		return STATUS_SIGNAL + caught_signal;
	make_printable(text, strlen(text));
	if (result < 0 && !text[0])
		fail(result, "%s: the guest, or its agent, has ended before the copy was complete", copy->name);
	else if (result < 0)
		fail(result, "%s%s%s", copy->tree.refused ? copy->name : "", copy->tree.refused ? ": " : "", text);
	else if (copy->skipped > SKIPPED_MAX)
		note("left out: %llu more", (unsigned long long)copy->skipped - SKIPPED_MAX);
	return result < 0 ? STATUS_FAILURE : copy->skipped ? STATUS_INCOMPLETE : 0;
}

/* NAME:PATH, as scp has it: a path of ours has a slash before its colon, or none.  NULL: it is ours. */
static const char *guest_part(const char *argument, char name[CONTROL_NAME_MAX + 1])
{
	size_t length = strcspn(argument, ":/");

	if (argument[length] != ':' || length > CONTROL_NAME_MAX)
		return NULL;
	memcpy(name, argument, length);
	name[length] = '\0';
	return control_name_is_valid(name) ? argument + length + 1 : NULL;
}

static int parse_paths(struct copy *copy, const char *from, const char *to)
{
	char other[CONTROL_NAME_MAX + 1];
	const char *source = guest_part(from, copy->name);
	const char *destination = guest_part(to, source ? other : copy->name);

	if (source && destination)
		return command_misused(&command, "%s and %s are guests' both: copy to the host first", from, to);
	if (!source && !destination)
		return command_misused(&command, "neither %s nor %s is a guest's: give one as NAME:PATH", from, to);
	copy->to_guest = destination;
	copy->guest_path = source ? source : destination;
	copy->host_path = source ? to : from;
	copy->streams = strcmp(copy->host_path, "-") == 0;
	/* Root's home itself. */
	if (!copy->guest_path[0])
		copy->guest_path = ".";
	return -1;
}

int command_cp(int argc, char **argv)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' }, { 0 } };
	static struct agent_link link;
	static struct copy copy;
	int status = command_options(&command, options, argc, argv, NULL);
	cleanup_fd int socket = -1;

	if (status >= 0)
		return status;
	if (argc - optind != 2)
		return command_misused(&command, "give two paths, SRC and DST");
	status = parse_paths(&copy, argv[optind], argv[optind + 1]);
	if (status >= 0)
		return status;
	copy.tree = (struct agent_tree){ .link = &link, .progress = show_progress, .skipped = tell_skipped,
		.context = &copy };
	/* It would mix with what goes to the same terminal. */
	copy.shows = isatty(STDERR_FILENO) && (!copy.streams || copy.to_guest || !isatty(STDOUT_FILENO));
	socket = connect_port(copy.name, AGENT_PORT, AGENT_ABSENT);
	if (socket < 0)
		return STATUS_FAILURE;
	catch_signals(socket);
	agent_link_init(&link, socket);
	return report(&copy, run_copy(&copy, &link));
}
