/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The messages of vhost-user, as QEMU's docs/interop/vhost-user.rst has them, which its front and its back end
 * here share: on a Unix socket, in the machine's byte order, a head and then its payload.  Each end takes what
 * it receives for hostile.
 */
#ifndef KARMA_VHOST_USER_PROTOCOL_H
#define KARMA_VHOST_USER_PROTOCOL_H

#include <stdint.h>

enum vhost_user_request {
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES = 2,
	VHOST_USER_SET_OWNER = 3,
	VHOST_USER_RESET_OWNER = 4,
	VHOST_USER_SET_MEM_TABLE = 5,
	VHOST_USER_SET_VRING_NUM = 8,
	VHOST_USER_SET_VRING_ADDR = 9,
	VHOST_USER_SET_VRING_BASE = 10,
	VHOST_USER_GET_VRING_BASE = 11,
	VHOST_USER_SET_VRING_KICK = 12,
	VHOST_USER_SET_VRING_CALL = 13,
	VHOST_USER_SET_VRING_ERR = 14,
	VHOST_USER_GET_PROTOCOL_FEATURES = 15,
	VHOST_USER_SET_PROTOCOL_FEATURES = 16,
	VHOST_USER_GET_QUEUE_NUM = 17,
	VHOST_USER_SET_VRING_ENABLE = 18,
	VHOST_USER_GET_CONFIG = 24,
	VHOST_USER_SET_CONFIG = 25,
	VHOST_USER_RESET_DEVICE = 34,
};

/* A feature bit of the device's that says that there are protocol features. */
#define VHOST_USER_F_PROTOCOL_FEATURES 30

/* Protocol features. */
#define VHOST_USER_PROTOCOL_F_MQ 0
#define VHOST_USER_PROTOCOL_F_REPLY_ACK 3
#define VHOST_USER_PROTOCOL_F_CONFIG 9
#define VHOST_USER_PROTOCOL_F_RESET_DEVICE 13

/* Flags of a head: the version in the lowest two bits. */
#define VHOST_USER_VERSION 1u
#define VHOST_USER_VERSION_MASK 3u
#define VHOST_USER_REPLY (1u << 2)
#define VHOST_USER_NEED_REPLY (1u << 3)

/* The u64 that comes with a descriptor for a queue: its index, and a flag that there is no descriptor. */
#define VHOST_USER_VRING_INDEX 0xffu
#define VHOST_USER_VRING_NO_FD (1u << 8)

#define VHOST_USER_REGIONS_MAX 8u
#define VHOST_USER_CONFIG_MAX 256u

struct vhost_user_head {
	uint32_t request;
	uint32_t flags;
	uint32_t size;	/* of the payload */
};

struct vhost_user_vring_state {
	uint32_t index, number;
};

/* Addresses are the front's own, of its mapping of guest memory. */
struct vhost_user_vring_address {
	uint32_t index, flags;
	uint64_t descriptors, used, avail, log;
};

struct vhost_user_region {
	uint64_t gpa, size;	/* bytes */
	uint64_t address;	/* in the front */
	uint64_t offset;	/* in the descriptor that comes with it */
};

/* With a descriptor for each region. */
struct vhost_user_memory {
	uint32_t count, padding;
	struct vhost_user_region regions[VHOST_USER_REGIONS_MAX];
};

struct vhost_user_config {
	uint32_t offset, size, flags;
	uint8_t bytes[VHOST_USER_CONFIG_MAX];
};

union vhost_user_payload {
	uint64_t number;
	struct vhost_user_vring_state state;
	struct vhost_user_vring_address address;
	struct vhost_user_memory memory;
	struct vhost_user_config config;
};

#endif
