/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Requests to the kernel's network (rtnetlink(7)), of one at a time.  The kernel's answers are trusted.  Functions that return
 * int return 0 or a negative errno, without a message.
 */
#ifndef KARMA_OCI_NETLINK_H
#define KARMA_OCI_NETLINK_H

#include <linux/rtnetlink.h>
#include <stddef.h>
#include <stdint.h>

#define NETLINK_REQUEST_BYTES 512u

struct netlink_request {
	struct nlmsghdr head;
	uint8_t room[NETLINK_REQUEST_BYTES];
};

/* A socket, which the caller closes; or a negative errno. */
int netlink_open(void);

/* Begin a request of that type, with the fixed part behind its header. */
void netlink_begin(struct netlink_request *request, uint16_t type, uint16_t flags, const void *fixed, size_t length);
/* Add an attribute, which has room: all are ours. */
void netlink_add(struct netlink_request *request, uint16_t type, const void *value, size_t length);
/* Begin a nested one, and end it. */
struct rtattr *netlink_nest(struct netlink_request *request, uint16_t type);
void netlink_unnest(struct netlink_request *request, struct rtattr *nest);
/* Send it, and receive what became of it. */
int netlink_send(int fd, struct netlink_request *request);

/* Have each object of a kind (RTM_GETLINK and its like) given to a function, whose error ends it. */
int netlink_list(int fd, uint16_t type, uint8_t family, int (*take)(void *context, const struct nlmsghdr *message),
	void *context);
/* An attribute behind the fixed part of a message; NULL: it has none. */
const struct rtattr *netlink_find(const struct nlmsghdr *message, size_t fixed, uint16_t type);

#endif
