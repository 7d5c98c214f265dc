// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the back end of vhost-user by a hostile front: messages that are right, nearly right or any bytes, with
 * descriptors, and a guest whose rings have anything in them.  What a chain points to is memory, and no descriptor
 * stays behind.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "../../src/share/vhost_user.h"
#include "karma/util.h"
#include "script.h"

#define STEPS_MAX 100u
#define MEMORY_BYTES (64 * 1024u)
#define FDS_MAX (VHOST_USER_REGIONS_MAX + 2)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vhost_backend backend;
static int front, memory_fd, event_fd;
static uint8_t *memory;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	memory_fd = memfd_create("fuzz", MFD_CLOEXEC);
	event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	check(ftruncate(memory_fd, MEMORY_BYTES) == 0);
	memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	check(memory != MAP_FAILED);
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

/* All that a chain has is read and written. */
static uint32_t serve(void *context, const struct virtq_chain *chain)
{
	uint64_t sum = 0;
	size_t bytes = 0;

	for (unsigned i = 0; i < chain->out_count + chain->in_count; i++) {
		uint8_t *at = chain->iov[i].iov_base;

		bytes += chain->iov[i].iov_len;
		sum += at[0] + at[chain->iov[i].iov_len - 1];
		if (i >= chain->out_count)
			at[chain->iov[i].iov_len - 1] = sum;
	}
	check(bytes == chain->out_bytes + chain->in_bytes && context == &backend);
	return chain->in_bytes;
}

static void fill_region(struct script *script, struct vhost_user_region *region, unsigned index)
{
	const uint8_t kind = take(script, 1);

	*region = (struct vhost_user_region){ index * MEMORY_BYTES, MEMORY_BYTES, index * MEMORY_BYTES, 0 };
	if (kind & 1)
		region->size = take(script, 1) * 4096u;
	if (kind & 2)
		region->offset = take(script, 1) * 4096u;
	if (kind & 4)
		region->gpa = take(script, 8) & ~4095ull;
	if (kind & 8)
		region->address = take(script, 8);
	if ((kind & 0xf0) == 0xf0)
		region->size = take(script, 8);
}

/* What leads on, mostly. */
static uint32_t fill_payload(struct script *script, uint32_t request, union vhost_user_payload *payload)
{
	switch (request) {
	case VHOST_USER_SET_FEATURES:
		payload->number = take(script, 1) & 1 ? 0x130000000ull : take(script, 8);
		return sizeof(payload->number);
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		payload->number = take(script, 2);
		return sizeof(payload->number);
	case VHOST_USER_SET_MEM_TABLE:
		payload->memory.count = take(script, 1) % (VHOST_USER_REGIONS_MAX + 2);
		for (unsigned i = 0; i < VHOST_USER_REGIONS_MAX; i++)
			fill_region(script, &payload->memory.regions[i], i);
		return sizeof(payload->memory);
	case VHOST_USER_SET_VRING_ADDR:
		payload->address = (struct vhost_user_vring_address){ take(script, 1) % 3, 0, take(script, 2) & ~15ull,
			take(script, 3) & ~3ull, take(script, 3) & ~1ull, 0 };
		return sizeof(payload->address);
	case VHOST_USER_GET_CONFIG:
		payload->config.offset = take(script, 1);
		payload->config.size = take(script, take(script, 1) & 1 ? 1 : 4);
		return sizeof(payload->config);
	case VHOST_USER_SET_VRING_KICK:
	case VHOST_USER_SET_VRING_CALL:
	case VHOST_USER_SET_VRING_ERR:
		payload->number = take(script, 1) % 3 | (take(script, 1) & 1) << 8;
		return sizeof(payload->number);
	default:
		payload->state.index = take(script, 1) % 3;
		payload->state.number = 1u << take(script, 1) % 12;
		return sizeof(payload->state);
	}
}

static void send_message(struct script *script)
{
	const uint8_t kind = take(script, 1), fd_kind = take(script, 1);
	struct {
		struct vhost_user_head head;
		union vhost_user_payload payload;
	} __attribute__((packed)) message = { .head = { take(script, 1) % 40, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY, 0 } };
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control = { .head = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	union vhost_user_payload payload = { 0 };
	struct iovec iov = { &message, 0 };
	struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fds[FDS_MAX];
	unsigned count;

	message.head.size = fill_payload(script, message.head.request, &payload);
	message.payload = payload;
	iov.iov_len = sizeof(message.head) + message.head.size;
	count = message.head.request == VHOST_USER_SET_MEM_TABLE ? payload.memory.count % FDS_MAX : fd_kind & 1;
	if (kind >= 0xf0) {
		message.head.flags = take(script, 1);
		message.head.size = take(script, kind & 1 ? 1 : 4);
		count = take(script, 1) % FDS_MAX;
	}
	for (unsigned i = 0; i < count; i++)
		fds[i] = message.head.request == VHOST_USER_SET_MEM_TABLE || fd_kind >= 0xf0 ? memory_fd : event_fd;
	if (count) {
		control.head.cmsg_len = CMSG_LEN(sizeof(int) * count);
		memcpy(CMSG_DATA(&control.head), fds, sizeof(int) * count);
		head.msg_control = &control;
		head.msg_controllen = CMSG_SPACE(sizeof(int) * count);
	}
	sendmsg(front, &head, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void write_memory(struct script *script)
{
	uint32_t at = take(script, 2);
	unsigned bytes = 1u << take(script, 1) % 4;
	uint64_t value = take(script, bytes);

	if (at + bytes <= MEMORY_BYTES)
		memcpy(memory + at, &value, bytes);
}

static void read_replies(void)
{
	uint8_t bytes[4096];

	while (recv(front, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

/* 0, or what ends the server.  It does not wait where there is nothing to come. */
static int step(struct script *script)
{
	const uint64_t one = 1;
	int result = 0;

	switch (take(script, 1) % 4) {
	case 0:
		write_memory(script);
		return 0;
	case 1:
		check(write(event_fd, &one, sizeof(one)) == sizeof(one));
		for (unsigned i = 0; i < VHOST_QUEUES; i++) {
			if (backend.queues[i].waiting)
				result = vhost_backend_step(&backend);
		}
		return result;
	default:
		send_message(script);
		result = vhost_user_take(&backend);
		read_replies();
		return result;
	}
}

static int next_descriptor(void)
{
	int fd = dup(event_fd);

	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	const int before = next_descriptor();
	int ends[2];

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
	front = ends[0];
	check(vhost_backend_init(&backend, ends[1]) == 0);
	backend.config = memory;
	backend.config_size = 40;
	backend.serve = serve;
	backend.context = &backend;
	for (unsigned i = 0; i < STEPS_MAX && !script_over(&script) && step(&script) == 0; i++)
		;
	vhost_backend_release(&backend);
	close(ends[0]);
	close(ends[1]);
	check(next_descriptor() == before);
	memset(memory, 0, MEMORY_BYTES);
	return 0;
}
