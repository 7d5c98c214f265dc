// SPDX-License-Identifier: GPL-2.0-only
/* Descriptors over Unix sockets. */
#include <string.h>
#include <sys/socket.h>

#include "karma/pass_fd.h"

union control {
	struct cmsghdr head;
	char bytes[CMSG_SPACE(PASS_FDS_MAX * sizeof(int))];
};

ssize_t send_with_fds(int socket, const void *bytes, size_t length, const int *fds, unsigned count)
{
	struct iovec iov = { (void *)bytes, length };
	union control control = { .head = {
		.cmsg_len = CMSG_LEN(count * sizeof(*fds)),
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS,
	} };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (count) {
		memcpy(CMSG_DATA(&control.head), fds, count * sizeof(*fds));
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(count * sizeof(*fds));
	}
	return sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

ssize_t send_with_fd(int socket, const void *bytes, size_t length, int fd)
{
	return send_with_fds(socket, bytes, length, &fd, fd >= 0);
}

ssize_t receive_with_fd(int socket, void *bytes, size_t length, int *fd)
{
	struct iovec iov = { bytes, length };
	union control control;
	/* Not CMSG_SPACE(), whose padding has room for a second one. */
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = CMSG_LEN(sizeof(*fd)) };
	ssize_t count = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*fd = -1;
	if (count >= 0 && message.msg_controllen >= CMSG_LEN(sizeof(*fd)))
		memcpy(fd, CMSG_DATA(&control.head), sizeof(*fd));
	return count;
}
