// SPDX-License-Identifier: GPL-2.0-only
/*
 * passt, a program that gives a guest the network of an ordinary user of the host.  It is ours: we
 * start it with one end of a socket pair, and it ends when we close the other, however we end.
 *
 * On the socket each frame follows its length, of 4 bytes, most significant first.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "karma/iov.h"
#include "karma/log.h"
#include "karma/net.h"
#include "karma/util.h"

#define LENGTH_BYTES 4u
#define BUFFER_BYTES (128 * KIB)	/* more than one frame of any length */
#define SOCKET_BYTES (4 * MIB)		/* asked of the host; it may give less */
#define KEEP_BYTES 2048u		/* frames up to that are kept to be sent together */
#define START_SECONDS 30
#define WORDS_MAX 4096u
#define ARGUMENTS_MAX (16 + 2 * NET_PUBLISH_MAX)

#define CHILD_SOCKET 3			/* the only descriptor that it keeps beside stdio */

/* Frames that are in parts: in memory that the processes of guests share, so the next one checks it. */
struct passt_kept {
	size_t in_start, in_end;
	size_t out_start, out_end;
	uint8_t in[BUFFER_BYTES], out[BUFFER_BYTES];
};

struct passt {
	struct net net;
	pid_t pid;
	int words_fd;		/* what it says, of which only the last is told */
	struct passt_kept *kept;
};

static struct passt *passt_of(struct net *net)
{
	return container_of(net, struct passt, net);
}

/* --- Frames in. */

/* The length of the next frame in the buffer, 0 if it is not there in full, or -EPROTO. */
static ssize_t next_frame(const struct passt *passt)
{
	size_t have = passt->kept->in_end - passt->kept->in_start;
	uint32_t length;

	if (have < LENGTH_BYTES)
		return 0;
	memcpy(&length, passt->kept->in + passt->kept->in_start, LENGTH_BYTES);
	length = ntohl(length);
	if (length < ETH_HLEN || length > NET_FRAME_MAX)
		return -EPROTO;
	return have - LENGTH_BYTES >= length ? length : 0;
}

static bool passt_pending(const struct net *net, unsigned queue)
{
	(void)queue;
	return next_frame(container_of(net, struct passt, net)) > 0;
}

/* More bytes from the socket; the rest of a frame goes to the front before. */
static ssize_t fill(struct passt *passt)
{
	ssize_t got;

	passt->kept->in_end -= passt->kept->in_start;
	memmove(passt->kept->in, passt->kept->in + passt->kept->in_start, passt->kept->in_end);
	passt->kept->in_start = 0;
	got = read_bytes(passt->net.queues[0].fd, passt->kept->in + passt->kept->in_end,
		BUFFER_BYTES - passt->kept->in_end);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -errno;
	passt->kept->in_end += got;
	return got ? got : -EPIPE;
}

static ssize_t passt_receive(
	struct net *net, unsigned queue, const struct iovec *iov, unsigned count)
{
	/* Its frames come whole and with their checksums. */
	static const uint8_t header[NET_HEADER_BYTES];
	struct passt *passt = passt_of(net);
	ssize_t length, got = 0;

	(void)queue;
	while ((length = next_frame(passt)) == 0 && (got = fill(passt)) > 0)
		;
	if (length == 0 && got == -EAGAIN)
		return -EAGAIN;
	if (length <= 0) {
		net_set_gone(net);
		return -EPIPE;
	}
	iov_write(iov, count, 0, header, sizeof(header));
	iov_write(iov, count, sizeof(header), passt->kept->in + passt->kept->in_start + LENGTH_BYTES, length);
	passt->kept->in_start += LENGTH_BYTES + length;
	return sizeof(header) + length;
}

/* --- Frames out. */

static size_t unsent(const struct passt *passt)
{
	return passt->kept->out_end - passt->kept->out_start;
}

static int send_error(struct net *net, int error)
{
	if (error == EAGAIN || error == EINTR)
		return -EAGAIN;
	net_set_gone(net);
	return -error;
}

static int passt_flush(struct net *net, unsigned queue)
{
	struct passt *passt = passt_of(net);

	(void)queue;
	while (unsent(passt)) {
		ssize_t sent = write_bytes(net->queues[0].fd, passt->kept->out + passt->kept->out_start, unsent(passt));

		if (sent < 0)
			return send_error(net, errno);
		passt->kept->out_start += sent;
	}
	passt->kept->out_start = passt->kept->out_end = 0;
	return 0;
}

static void keep(struct passt *passt, const struct iovec *iov, unsigned count, size_t length)
{
	passt->kept->out_end += iov_read(iov, count, 0, passt->kept->out + passt->kept->out_end, length);
}

/* All of a list that starts with a frame's length; what the socket has no room for is kept. */
static int send_now(struct passt *passt, struct iovec *iov, unsigned count, size_t length)
{
	ssize_t sent = write_list(passt->net.queues[0].fd, iov, count);

	if (sent < 0)
		return send_error(&passt->net, errno);
	if ((size_t)sent < length) {
		count = iov_skip(&iov, count, sent);
		keep(passt, iov, count, length - sent);
	}
	return 0;
}

static int passt_send(struct net *net, unsigned queue, struct iovec *iov, unsigned count)
{
	struct passt *passt = passt_of(net);
	const struct iovec header = iov[0];
	size_t length = LENGTH_BYTES;
	uint32_t prefix;
	int result;

	for (unsigned i = 1; i < count; i++)
		length += iov[i].iov_len;
	prefix = htonl(length - LENGTH_BYTES);
	/* In the place of the header, which says nothing: we offer no offloads. */
	iov[0] = (struct iovec){ &prefix, LENGTH_BYTES };
	if (length <= KEEP_BYTES && BUFFER_BYTES - passt->kept->out_end >= length) {
		keep(passt, iov, count, length);
		result = 0;
	} else {
		result = passt_flush(net, queue);
		if (result == 0)
			result = send_now(passt, iov, count, length);
	}
	iov[0] = header;
	return result;
}

/* --- Its life. */

/* The last line that it said, but for complaints that there is no system log. */
static void last_words(struct passt *passt, char *words, size_t size)
{
	char text[WORDS_MAX + 1];
	ssize_t got;

	snprintf(words, size, "it said nothing");
	while ((got = read_bytes(passt->words_fd, text, WORDS_MAX)) > 0) {
		char *rest = text, *line;

		text[got] = '\0';
		while ((line = strsep(&rest, "\n"))) {
			if (*line && strncmp(line, "Failed to send ", 15) != 0)
				snprintf(words, size, "%s", line);
		}
	}
	for (char *c = words; *c; c++) {
		if ((unsigned char)*c < ' ')
			*c = ' ';
	}
}

/* It has ended, or is to; how. */
static void reap(struct passt *passt, char *how, size_t size)
{
	int status = 0;

	kill(passt->pid, SIGTERM);
	for (int i = 0; waitpid(passt->pid, &status, WNOHANG) == 0; i++) {
		poll(NULL, 0, 10);
		if (i == 100)
			kill(passt->pid, SIGKILL);
	}
	passt->pid = 0;
	if (WIFSIGNALED(status))
		snprintf(how, size, "by signal %d", WTERMSIG(status));
	else
		snprintf(how, size, "with status %d", WEXITSTATUS(status));
}

/* In the guest's process: it is our parent's child, who takes its status at the end. */
static void passt_gone(struct net *net)
{
	char words[256];

	last_words(passt_of(net), words, sizeof(words));
	note("passt has ended (%s): the guest's link is down until it is started anew by another karma run",
		words);
}

/* What a guest has left that has broken out: a stream that goes on somewhere is not to be had then. */
static int passt_start(struct net *net, bool again)
{
	struct passt_kept *kept = passt_of(net)->kept;

	(void)again;
	if (kept->in_start > kept->in_end || kept->in_end > BUFFER_BYTES)
		kept->in_start = kept->in_end = 0;
	if (kept->out_start > kept->out_end || kept->out_end > BUFFER_BYTES)
		kept->out_start = kept->out_end = 0;
	return 0;
}

static void passt_close(struct net *net)
{
	struct passt *passt = passt_of(net);
	char how[32];

	close_fd(&net->queues[0].fd);
	if (passt->pid)
		reap(passt, how, sizeof(how));
	close_fd(&passt->words_fd);
	if (passt->kept)
		munmap(passt->kept, sizeof(*passt->kept));
	free(passt);
}

static const struct net_ops passt_ops = {
	.receive = passt_receive,
	.pending = passt_pending,
	.send = passt_send,
	.start = passt_start,
	.flush = passt_flush,
	.gone = passt_gone,
	.close = passt_close,
};

/* --- Its start. */

struct arguments {
	char *words[ARGUMENTS_MAX + 1];
	char ports[NET_PUBLISH_MAX][80];
	unsigned count;
};

static void add(struct arguments *arguments, const char *word)
{
	arguments->words[arguments->count++] = (char *)word;
}

static void make_arguments(struct arguments *arguments, const struct net_options *options)
{
	static const char *const fixed[] = {
		"passt", "--foreground", "--quiet", "--fd", "3",
	};

	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
		add(arguments, fixed[i]);
	for (unsigned i = 0; i < options->publish_count; i++) {
		const struct net_publish *publish = &options->publish[i];
		const char *address = publish->address ? publish->address : "";

		snprintf(arguments->ports[i], sizeof(arguments->ports[i]), "%s%s%u:%u", address,
			*address ? "/" : "", publish->host, publish->guest);
		add(arguments, publish->udp ? "--udp-ports" : "--tcp-ports");
		add(arguments, arguments->ports[i]);
	}
}

/* With nothing of ours but these two; and no signal blocked or ignored. */
static int spawn(struct passt *passt, struct arguments *arguments, int socket, int words)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	int result;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, words, STDERR_FILENO);
	posix_spawn_file_actions_adddup2(&actions, socket, CHILD_SOCKET);
	result = -posix_spawnp(
		&passt->pid, "passt", &actions, &attributes, arguments->words, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	if (result < 0)
		passt->pid = 0;
	return result;
}

/*
 * It reads what is sent to it once all ports are open and its own sandbox is closed, and just ends if a port
 * can't be opened.  So a frame waits for it, of a protocol that nobody speaks, behind which our socket has no
 * room until it was read.
 */
static int send_probe(int fd)
{
	const uint32_t length = htonl(ETH_FRAME_LEN);
	const struct ethhdr header = {
		.h_dest = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
		.h_source = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },	/* as before the guest's first frame */
		.h_proto = htons(ETH_P_802_EX1),
	};
	uint8_t probe[LENGTH_BYTES + ETH_FRAME_LEN] = { 0 };
	int least = 0;

	memcpy(probe, &length, LENGTH_BYTES);
	memcpy(probe + LENGTH_BYTES, &header, sizeof(header));
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)) < 0)
		return -errno;
	return write_bytes(fd, probe, sizeof(probe)) == sizeof(probe) ? 0 : -EIO;
}

static int wait_until_ready(struct passt *passt)
{
	struct pollfd watched = { .fd = passt->net.queues[0].fd, .events = POLLOUT };
	char how[32], words[256];

	if (poll(&watched, 1, START_SECONDS * 1000) > 0 && !(watched.revents & (POLLHUP | POLLERR))) {
		/* What it has said of its start is not what it will end for. */
		last_words(passt, words, sizeof(words));
		return 0;
	}
	reap(passt, how, sizeof(how));
	last_words(passt, words, sizeof(words));
	return fail(-ECONNREFUSED,
		"--net user: passt did not start, and ended %s: %s: see passt(1), and whether the ports to "
		"publish are free",
		how, words);
}

/* Numbers that dup2() in the child does not overwrite before it has used them. */
static int move_up(int *fd)
{
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, CHILD_SOCKET + 1);

	if (moved < 0)
		return -errno;
	close(*fd);
	*fd = moved;
	return 0;
}

static int start_passt(struct passt *passt, const struct net_options *options)
{
	cleanup_fd int socket = -1, words = -1;
	struct arguments arguments = { 0 };
	int pair[2], pipes[2], result, size = SOCKET_BYTES;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	passt->net.queues[0].fd = pair[0];
	socket = pair[1];
	/* Our end alone. */
	if (fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	/* Nobody reads it meanwhile, so it must not wait for room. */
	if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	passt->words_fd = pipes[0];
	words = pipes[1];
	if (move_up(&socket) < 0 || move_up(&words) < 0)
		return -errno;
	make_arguments(&arguments, options);
	result = send_probe(pair[0]);
	if (result == 0)
		result = spawn(passt, &arguments, socket, words);
	if (result < 0)
		return result;
	/* The only other end is its own. */
	close_fd(&socket);
	socket = -1;
	result = wait_until_ready(passt);
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return result;
}

int passt_open(struct net **net, const struct net_options *options, struct io_ring *ring)
{
	struct passt *passt = calloc(1, sizeof(*passt));
	int result;

	if (!passt)
		return fail(-ENOMEM, "--net user: out of memory");
	net_init(&passt->net, &passt_ops, ring);
	passt->net.queue_count = 1;
	snprintf(passt->net.name, sizeof(passt->net.name), "passt");
	passt->words_fd = -1;
	passt->kept = mmap(NULL, sizeof(*passt->kept), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (passt->kept == MAP_FAILED)
		passt->kept = NULL;
	result = passt->kept ? start_passt(passt, options) : -ENOMEM;
	if (result < 0) {
		passt_close(&passt->net);
		if (result == -ENOENT)
			return fail(result, "--net user: there is no passt: `apt-get install passt`, or give "
					    "--net tap=NAME");
		if (result == -ECONNREFUSED)
			return result;
		return fail(result, "--net user: can't start passt: %s", strerror(-result));
	}
	passt->net.mtu = 65520;	/* what passt tells guests by DHCP */
	passt->net.up = true;
	*net = &passt->net;
	return 0;
}
