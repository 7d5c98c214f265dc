// SPDX-License-Identifier: GPL-2.0-only
/*
 * Requests and responses of 14 bytes over one TCP connection, each after the other, as sockperf's
 * ping-pong has them; that one hangs in a guest of the soft host.
 *
 *   request-response serve ADDRESS PORT           answers, one connection after the other
 *   request-response run ADDRESS PORT SECONDS     prints how many there were in a second
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE_BYTES 14

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void send_at_once(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static bool read_message(int fd, char *message)
{
	size_t have = 0;

	while (have < MESSAGE_BYTES) {
		ssize_t got = read(fd, message + have, MESSAGE_BYTES - have);

		if (got <= 0)
			return false;
		have += got;
	}
	return true;
}

static bool write_message(int fd, const char *message)
{
	return write(fd, message, MESSAGE_BYTES) == MESSAGE_BYTES;
}

static int serve(int listener)
{
	char message[MESSAGE_BYTES];
	int fd;

	if (listen(listener, 1) < 0)
		return 1;
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		send_at_once(fd);
		while (read_message(fd, message) && write_message(fd, message))
			;
		close(fd);
	}
	return 1;
}

static int run(int fd, double limit)
{
	char message[MESSAGE_BYTES] = "request";
	double start, now;
	unsigned long count = 0;

	send_at_once(fd);
	start = seconds();
	do {
		if (!write_message(fd, message) || !read_message(fd, message))
			return 1;
		count++;
		now = seconds();
	} while (now - start < limit);
	printf("transactions: %.1f\n", count / (now - start));
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int one = 1;

	if (fd < 0 || argc < 4 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) {
		fputs("usage: request-response serve ADDRESS PORT | run ADDRESS PORT SECONDS\n", stderr);
		return 2;
	}
	address.sin_port = htons(atoi(argv[3]));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (strcmp(argv[1], "serve") == 0 && bind(fd, (void *)&address, sizeof(address)) == 0)
		return serve(fd);
	if (argc == 5 && connect(fd, (void *)&address, sizeof(address)) == 0)
		return run(fd, atof(argv[4]));
	perror("request-response");
	return 1;
}
