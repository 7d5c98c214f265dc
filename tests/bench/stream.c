// SPDX-License-Identifier: GPL-2.0-only
/*
 * stream: what one connection carries.
 *
 *   stream serve ADDRESS                            answers, one connection after the other
 *   stream send|receive|exchange ADDRESS SECONDS    connects, and prints MB or messages in a second
 *
 * ADDRESS is tcp:HOST:PORT, unix:PATH or vsock:CID:PORT.  What is sent counts when the other end has
 * read it all.  An
 * exchange is of 14 bytes each way, each after the other, as sockperf's ping-pong has them; that one hangs in a
 * guest of the soft host.
 */
#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE_BYTES 14
#define PIECE_BYTES (128 * 1024)

static char piece[PIECE_BYTES];

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

union address {
	struct sockaddr any;
	struct sockaddr_in tcp;
	struct sockaddr_un local;
	struct sockaddr_vm vsock;
};

/* Its length, or 0. */
static socklen_t parse_address(const char *text, union address *address)
{
	char host[INET_ADDRSTRLEN];
	unsigned cid, port;

	*address = (union address){};
	if (sscanf(text, "tcp:%15[0-9.]:%u", host, &port) == 2) {
		address->tcp.sin_family = AF_INET;
		address->tcp.sin_port = htons(port);
		return inet_pton(AF_INET, host, &address->tcp.sin_addr) == 1 ? sizeof(address->tcp) : 0;
	}
	if (sscanf(text, "vsock:%u:%u", &cid, &port) == 2) {
		address->vsock.svm_family = AF_VSOCK;
		address->vsock.svm_cid = cid;
		address->vsock.svm_port = port;
		return sizeof(address->vsock);
	}
	address->local.sun_family = AF_UNIX;
	return sscanf(text, "unix:%107s", address->local.sun_path) == 1 ? sizeof(address->local) : 0;
}

static bool read_all(int fd, char *bytes, size_t count)
{
	size_t have = 0;

	while (have < count) {
		ssize_t got = read(fd, bytes + have, count - have);

		if (got <= 0)
			return false;
		have += got;
	}
	return true;
}

static bool write_all(int fd, const char *bytes, size_t count)
{
	size_t done = 0;

	while (done < count) {
		ssize_t part = write(fd, bytes + done, count - done);

		if (part <= 0)
			return false;
		done += part;
	}
	return true;
}

static uint64_t read_to_the_end(int fd)
{
	uint64_t bytes = 0;
	ssize_t got;

	while ((got = read(fd, piece, sizeof(piece))) > 0)
		bytes += got;
	return bytes;
}

/* The first byte tells what the other end does. */
static void serve(int fd)
{
	char message[MESSAGE_BYTES], what;
	uint64_t bytes;

	if (!read_all(fd, &what, 1))
		return;
	if (what == 's') {
		bytes = read_to_the_end(fd);
		write_all(fd, (char *)&bytes, sizeof(bytes));
	} else if (what == 'r') {
		while (write_all(fd, piece, sizeof(piece)))
			;
	} else {
		while (read_all(fd, message, sizeof(message)) && write_all(fd, message, sizeof(message)))
			;
	}
}

static bool send_pieces(int fd, double start, double limit)
{
	uint64_t bytes;

	do {
		if (!write_all(fd, piece, sizeof(piece)))
			return false;
	} while (seconds() - start < limit);
	if (shutdown(fd, SHUT_WR) < 0 || !read_all(fd, (char *)&bytes, sizeof(bytes)))
		return false;
	printf("rate: %.1f\n", bytes / 1e6 / (seconds() - start));
	return true;
}

static bool receive_pieces(int fd, double start, double limit)
{
	uint64_t bytes = 0;
	double now;

	do {
		ssize_t got = read(fd, piece, sizeof(piece));

		if (got <= 0)
			return false;
		bytes += got;
		now = seconds();
	} while (now - start < limit);
	printf("rate: %.1f\n", bytes / 1e6 / (now - start));
	return true;
}

static bool exchange_messages(int fd, double start, double limit)
{
	char message[MESSAGE_BYTES] = "request";
	unsigned long count = 0;
	double now;

	do {
		if (!write_all(fd, message, sizeof(message)) || !read_all(fd, message, sizeof(message)))
			return false;
		count++;
		now = seconds();
	} while (now - start < limit);
	printf("rate: %.1f\n", count / (now - start));
	return true;
}

static bool run(int fd, const char *what, double limit)
{
	double start;

	if (!write_all(fd, what, 1))
		return false;
	start = seconds();
	if (what[0] == 's')
		return send_pieces(fd, start, limit);
	if (what[0] == 'r')
		return receive_pieces(fd, start, limit);
	return exchange_messages(fd, start, limit);
}

static void send_at_once(int fd, const union address *address)
{
	int one = 1;

	if (address->any.sa_family == AF_INET)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

int main(int argc, char **argv)
{
	union address address;
	socklen_t length = argc >= 3 ? parse_address(argv[2], &address) : 0;
	int fd, client, one = 1;

	if (!length) {
		fputs("usage: stream serve ADDRESS | send|receive|exchange ADDRESS SECONDS\n", stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	fd = socket(address.any.sa_family, SOCK_STREAM, 0);
	if (argc == 3) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, &address.any, length) == 0 && listen(fd, 1) == 0) {
			while ((client = accept(fd, NULL, NULL)) >= 0) {
				send_at_once(client, &address);
				serve(client);
				close(client);
			}
		}
	} else if (connect(fd, &address.any, length) == 0) {
		send_at_once(fd, &address);
		if (run(fd, argv[1], atof(argv[3])))
			return 0;
	}
	perror("stream");
	return 1;
}
