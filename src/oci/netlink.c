// SPDX-License-Identifier: GPL-2.0-only
#include "netlink.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_BYTES 32768u	/* what the kernel sends at a time at most, of a list */

int netlink_open(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	return fd < 0 ? -errno : fd;
}

void netlink_begin(struct netlink_request *request, uint16_t type, uint16_t flags, const void *fixed, size_t length)
{
	*request = (struct netlink_request){ .head = {
		.nlmsg_len = NLMSG_LENGTH(length),
		.nlmsg_type = type,
		.nlmsg_flags = NLM_F_REQUEST | flags,
	} };
	memcpy(NLMSG_DATA(&request->head), fixed, length);
}

void netlink_add(struct netlink_request *request, uint16_t type, const void *value, size_t length)
{
	struct rtattr *attribute = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->head.nlmsg_len));

	attribute->rta_type = type;
	attribute->rta_len = RTA_LENGTH(length);
	if (length)
		memcpy(RTA_DATA(attribute), value, length);
	request->head.nlmsg_len = NLMSG_ALIGN(request->head.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
}

struct rtattr *netlink_nest(struct netlink_request *request, uint16_t type)
{
	struct rtattr *nest = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->head.nlmsg_len));

	netlink_add(request, type, NULL, 0);
	return nest;
}

void netlink_unnest(struct netlink_request *request, struct rtattr *nest)
{
	nest->rta_len = (char *)request + request->head.nlmsg_len - (char *)nest;
}

/* What is received: messages, in a buffer; a negative errno. */
static ssize_t receive(int fd, void *answer)
{
	ssize_t length;

	do
		length = recv(fd, answer, ANSWER_BYTES, 0);
	while (length < 0 && errno == EINTR);
	return length < 0 ? -errno : length;
}

static int error_of(const struct nlmsghdr *message)
{
	return ((const struct nlmsgerr *)NLMSG_DATA(message))->error;
}

int netlink_send(int fd, struct netlink_request *request)
{
	struct nlmsghdr answer[ANSWER_BYTES / sizeof(struct nlmsghdr)];
	ssize_t length;

	request->head.nlmsg_flags |= NLM_F_ACK;
	if (send(fd, request, request->head.nlmsg_len, 0) < 0)
		return -errno;
	length = receive(fd, answer);
	if (length < 0)
		return length;
	return NLMSG_OK(answer, (size_t)length) && answer->nlmsg_type == NLMSG_ERROR ? error_of(answer) : -EPROTO;
}

int netlink_list(int fd, uint16_t type, uint8_t family, int (*take)(void *context, const struct nlmsghdr *message),
	void *context)
{
	struct nlmsghdr answer[ANSWER_BYTES / sizeof(struct nlmsghdr)];
	/* The family is the first byte of each kind's fixed part. */
	const struct ifinfomsg fixed = { .ifi_family = family };
	struct netlink_request request;
	int result = 0;

	netlink_begin(&request, type, NLM_F_DUMP, &fixed, sizeof(fixed));
	if (send(fd, &request, request.head.nlmsg_len, 0) < 0)
		return -errno;
	for (;;) {
		ssize_t length = receive(fd, answer);
		size_t left = length > 0 ? length : 0;

		if (length <= 0)
			return length < 0 ? length : -EPROTO;
		for (const struct nlmsghdr *one = answer; NLMSG_OK(one, left); one = NLMSG_NEXT(one, left)) {
			if (one->nlmsg_type == NLMSG_DONE)
				return result;
			if (one->nlmsg_type == NLMSG_ERROR)
				return error_of(one);
			/* All of it is received in any case. */
			if (result == 0)
				result = take(context, one);
		}
	}
}

const struct rtattr *netlink_find(const struct nlmsghdr *message, size_t fixed, uint16_t type)
{
	const struct rtattr *one = (const struct rtattr *)((const char *)NLMSG_DATA(message) + NLMSG_ALIGN(fixed));
	size_t left = message->nlmsg_len - NLMSG_SPACE(fixed);

	for (; message->nlmsg_len >= NLMSG_SPACE(fixed) && RTA_OK(one, left); one = RTA_NEXT(one, left)) {
		if (one->rta_type == type)
			return one;
	}
	return NULL;
}
