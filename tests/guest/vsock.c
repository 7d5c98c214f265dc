// SPDX-License-Identifier: GPL-2.0-only
/*
 * vsock: a guest's ends of vsock connections, for the tests.
 *
 *   vsock connect PORT      joins stdin and stdout to that port of the host; the end of stdin is passed on
 *   vsock serve PORT COUNT  for so many connections, one after the other, sends back what comes, up to the end
 */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Until the end of `from`. */
static int copy(int from, int to)
{
	char bytes[65536];
	ssize_t got;

	while ((got = read(from, bytes, sizeof(bytes))) > 0) {
		for (ssize_t done = 0, part; done < got; done += part) {
			part = write(to, bytes + done, got - done);
			if (part <= 0)
				return -1;
		}
	}
	return got;
}

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int connect_host(int fd, const struct sockaddr_vm *address)
{
	pid_t pid;
	int status;

	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		return fail("connect");
	pid = fork();
	if (pid == 0) {
		status = copy(STDIN_FILENO, fd);
		shutdown(fd, SHUT_WR);
		_exit(status != 0);
	}
	if (copy(fd, STDOUT_FILENO) < 0)
		return fail("receive");
	if (waitpid(pid, &status, 0) < 0 || status != 0)
		return fail("send");
	return 0;
}

static int serve(int fd, const struct sockaddr_vm *address, unsigned count)
{
	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 || listen(fd, 8) < 0)
		return fail("listen");
	puts("serving");
	fflush(stdout);
	while (count--) {
		int client = accept(fd, NULL, NULL);

		if (client < 0 || copy(client, client) < 0)
			return fail("serve");
		close(client);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd < 0)
		return fail("socket");
	if (argc < 3)
		return 2;
	address.svm_port = strtoul(argv[2], NULL, 10);
	if (argc == 3 && strcmp(argv[1], "connect") == 0)
		return connect_host(fd, &address);
	address.svm_cid = VMADDR_CID_ANY;
	return argc == 4 ? serve(fd, &address, strtoul(argv[3], NULL, 10)) : 2;
}
