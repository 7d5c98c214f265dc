// SPDX-License-Identifier: GPL-2.0-only
/* karma connect: standard input and output on a vsock port of a guest. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "client.h"
#include "karma/commands.h"
#include "karma/log.h"
#include "karma/status.h"
#include "karma/util.h"

#define CHUNK 65536u
#define STATUS_REFUSED 1

static const struct command command = { "connect",
	"usage: karma connect NAME PORT\n"
	"\n"
	"Connect to a vsock port of a guest, and join it to standard input and output.  The end of input\n"
	"is passed on, and output goes on until the guest ends it.  The guest needs --vsock on.\n"
	"\n"
	"  ssh -o ProxyCommand='karma connect %h 22' root@web\n"
	"\n"
	"Exit status: 0; 1 if the guest refused the connection, or 125 if karma failed.\n" };

/* Bytes of one direction that were read, and not written yet. */
struct flow {
	int from, to;
	char bytes[CHUNK];
	size_t used, sent;
	bool ended;		/* no more will be read */
	bool closed;		/* and the other side knows */
};

static bool is_temporary(int error)
{
	return error == EAGAIN || error == EINTR;
}

static void read_flow(struct flow *flow)
{
	ssize_t got = read(flow->from, flow->bytes, sizeof(flow->bytes));

	flow->sent = 0;
	flow->used = got > 0 ? got : 0;
	flow->ended = got == 0 || (got < 0 && !is_temporary(errno));
}

/* What can't be written is lost, and no more of it is read. */
static void write_flow(struct flow *flow)
{
	ssize_t written = write(flow->to, flow->bytes + flow->sent, flow->used - flow->sent);

	if (written > 0)
		flow->sent += written;
	else if (!is_temporary(errno))
		flow->ended = true;
	if (flow->sent == flow->used || flow->ended)
		flow->used = flow->sent = 0;
}

static void move(struct flow *flow)
{
	if (flow->used)
		write_flow(flow);
	else
		read_flow(flow);
}

static bool is_over(const struct flow *flow)
{
	return flow->ended && !flow->used && !flow->closed;
}

static struct pollfd watch(const struct flow *flow)
{
	if (flow->used)
		return (struct pollfd){ .fd = flow->to, .events = POLLOUT };
	return (struct pollfd){ .fd = flow->ended ? -1 : flow->from, .events = POLLIN };
}

/* Until both directions have ended, or the guest has closed. */
static int join_flows(struct flow *to_guest, struct flow *from_guest, int fd)
{
	bool guest_closed = false;

	while (!from_guest->closed || (!to_guest->closed && !guest_closed)) {
		struct pollfd watched[] = {
			watch(to_guest),
			watch(from_guest),
			/* A hang-up tells that the guest takes no more, though input has not ended. */
			{ .fd = from_guest->closed ? fd : -1, .events = 0 },
		};

		if (poll(watched, ARRAY_SIZE(watched), -1) < 0 && errno != EINTR)
			return fail(-errno, "can't wait for the guest: %s", strerror(errno));
		if (watched[0].revents)
			move(to_guest);
		if (watched[1].revents)
			move(from_guest);
		guest_closed = watched[2].revents;
		if (is_over(to_guest)) {
			to_guest->closed = true;
			shutdown(fd, SHUT_WR);
		}
		if (is_over(from_guest)) {
			from_guest->closed = true;
			shutdown(fd, SHUT_RD);
			close(STDOUT_FILENO);
		}
	}
	return 0;
}

/* The exit status. */
static int join(int fd)
{
	cleanup_free struct flow *flows = calloc(2, sizeof(*flows));

	if (!flows) {
		fail(-ENOMEM, "out of memory");
		return STATUS_FAILURE;
	}
	flows[0].from = STDIN_FILENO;
	flows[0].to = flows[1].from = fd;
	flows[1].to = STDOUT_FILENO;
	return join_flows(&flows[0], &flows[1], fd) < 0 ? STATUS_FAILURE : 0;
}

static bool parse_port(const char *text, unsigned *port)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 10);
	*port = value;
	return text[0] >= '0' && text[0] <= '9' && !*end && !errno && value < UINT32_MAX;
}

int command_connect(int argc, char **argv)
{
	const struct option options[] = { { "help", no_argument, NULL, 'h' }, { 0 } };
	int status = command_options(&command, options, argc, argv, NULL);
	const char *name, *port_text = NULL;
	unsigned port;
	cleanup_fd int socket = -1;

	if (status >= 0)
		return status;
	if (argc - optind == 2)
		port_text = argv[--argc];
	name = command_name(&command, argc, argv);
	if (!name)
		return STATUS_FAILURE;
	if (!port_text)
		return command_misused(&command, "no PORT: give the one that the guest listens on");
	if (!parse_port(port_text, &port))
		return command_misused(&command, "%s: is no port: give a number below 4294967295", port_text);
	signal(SIGPIPE, SIG_IGN);
	socket = connect_port(name, port, NULL);
	if (socket < 0)
		return socket == -ECONNREFUSED ? STATUS_REFUSED : STATUS_FAILURE;
	return join(socket);
}
