// SPDX-License-Identifier: GPL-2.0-only
/* The process that runs a guest, and what its supervisor does with it. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "karma/log.h"
#include "karma/process.h"
#include "karma/util.h"

static void close_all(const struct process *process)
{
	for (unsigned i = 0; i < 2; i++) {
		close(process->signals[i]);
		close(process->calls[i]);
	}
}

pid_t process_start(struct process *process, struct sandbox *sandbox)
{
	pid_t pid;

	if (pipe2(process->signals, O_CLOEXEC | O_NONBLOCK) < 0)
		return fail(-errno, "pipe: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, process->calls) < 0) {
		close(process->signals[0]);
		close(process->signals[1]);
		return fail(-errno, "socketpair: %s: raise the limit of open files (ulimit -n)",
			strerror(errno));
	}
	pid = sandbox_fork(sandbox, &process->pidfd);
	if (pid < 0) {
		close_all(process);
		return fail(pid, "can't start the guest's process: %s: raise the limits of processes and "
				 "open files (ulimit -u, -n)",
			strerror(-pid));
	}
	process->pid = pid;
	return pid;
}

void process_signal(const struct process *process, int number)
{
	uint8_t byte = number;

	/* Full only if thousands came and none was taken. */
	if (write_bytes(process->signals[1], &byte, 1) < 0)
		return;
}

int process_take_signal(const struct process *process)
{
	uint8_t byte;

	return read_bytes(process->signals[0], &byte, 1) == 1 ? byte : 0;
}

/* The answer to a call: a result, and with it a descriptor if that is 0. */
struct answer {
	int result;
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
};

static struct msghdr message_of(struct answer *answer, struct iovec *iov)
{
	*iov = (struct iovec){ &answer->result, sizeof(answer->result) };
	return (struct msghdr){
		.msg_iov = iov,
		.msg_iovlen = 1,
		.msg_control = answer->control.bytes,
		.msg_controllen = sizeof(answer->control.bytes),
	};
}

int process_connect(const struct process *process, const struct process_call *call)
{
	struct answer answer = { .result = -EIO };
	struct iovec iov;
	struct msghdr message = message_of(&answer, &iov);
	int fd;

	if (write_bytes(process->calls[1], call, sizeof(*call)) < 0 ||
		recvmsg(process->calls[1], &message, MSG_CMSG_CLOEXEC) < 0)
		return -errno;
	if (answer.result < 0)
		return answer.result;
	if (message.msg_controllen < CMSG_LEN(sizeof(fd)))
		return -EMFILE;
	memcpy(&fd, CMSG_DATA(&answer.control.head), sizeof(fd));
	return fd;
}

void process_serve(const struct process *process, int (*connect)(unsigned server, unsigned index))
{
	struct process_call call;
	struct answer answer = { 0 };
	struct iovec iov;
	struct msghdr message = message_of(&answer, &iov);
	int fd;

	if (recv(process->calls[0], &call, sizeof(call), MSG_DONTWAIT) != sizeof(call))
		return;
	fd = connect(call.server, call.index);
	if (fd < 0) {
		answer.result = fd;
		message.msg_control = NULL;
		message.msg_controllen = 0;
	} else {
		answer.control.head = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(sizeof(fd)),
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
		};
		memcpy(CMSG_DATA(&answer.control.head), &fd, sizeof(fd));
	}
	/* Who does not take its answers gets none. */
	if (sendmsg(process->calls[0], &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		note("can't pass on a connection: %s", strerror(errno));
	close_fd(&fd);
}

void process_allow(const struct process *process, uint64_t file_bytes)
{
	struct rlimit limit;

	/* It may have ended. */
	if (!file_bytes || prlimit(process->pid, RLIMIT_FSIZE, NULL, &limit) < 0)
		return;
	limit.rlim_cur = file_bytes < limit.rlim_max ? file_bytes : limit.rlim_max;
	if (prlimit(process->pid, RLIMIT_FSIZE, &limit, NULL) < 0)
		note("a disk that has grown can't be written to beyond its first size: %s",
			strerror(errno));
}

int process_wait(struct process *process, int failure)
{
	int status;

	while (waitpid(process->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(process->pidfd);
	close_all(process);
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	fail(-EIO, "the guest's process was killed by signal %d (%s): see the kernel's log (dmesg)",
		WTERMSIG(status), strsignal(WTERMSIG(status)));
	return failure;
}
