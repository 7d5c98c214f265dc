// SPDX-License-Identifier: GPL-2.0-only
/* Shared directories: the server as its vhost-user front sees it, in a process of its own. */
#include <linux/virtio_fs.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "karma/status.h"
#include "karma/vhost_user_protocol.h"
#include "share_fixture.h"

/* Guest memory, in two regions, and where they are in the front. */
#define MEMORY_BYTES (1 * MIB)
#define HIGH_GPA (4 * GIB)
#define FRONT_AT 0x10000000ull
#define QUEUE_ENTRIES 16u
#define DESCRIPTORS_AT 0u
#define AVAIL_AT 4096u
#define USED_AT 8192u
#define REQUEST_AT 16384u
#define ANSWER_AT (HIGH_GPA + 16384u)

static int front, memory_fd, kick, call_fd;
static pid_t server;
static uint8_t *memory;	/* the low region, and behind it the high one */

static struct vring_desc *descriptors;
static struct vring_avail *avail;
static struct vring_used *used;

/* --- The front. */

static void send_message(uint32_t request, uint32_t flags, const void *payload, uint32_t size, const int *fds,
	unsigned fd_count)
{
	struct vhost_user_head head = { request, VHOST_USER_VERSION | flags, size };
	struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)payload, size } };
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int) * 10)];
	} control = { .head = { CMSG_LEN(sizeof(int) * fd_count), SOL_SOCKET, SCM_RIGHTS } };
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = size ? 2 : 1, .msg_control = fd_count ? &control : NULL,
		.msg_controllen = fd_count ? CMSG_SPACE(sizeof(int) * fd_count) : 0 };

	if (fd_count)
		memcpy(CMSG_DATA(&control.head), fds, sizeof(int) * fd_count);
	ck_assert_int_eq(sendmsg(front, &message, MSG_NOSIGNAL), sizeof(head) + size);
}

static uint32_t receive_reply(uint32_t request, void *payload, uint32_t room)
{
	struct vhost_user_head head;

	ck_assert_int_eq(recv(front, &head, sizeof(head), MSG_WAITALL), sizeof(head));
	ck_assert_uint_eq(head.request, request);
	ck_assert_uint_eq(head.flags, VHOST_USER_VERSION | VHOST_USER_REPLY);
	ck_assert_uint_le(head.size, room);
	ck_assert_int_eq(recv(front, payload, head.size, MSG_WAITALL), head.size);
	return head.size;
}

static uint64_t get_number(uint32_t request)
{
	uint64_t number;

	send_message(request, 0, NULL, 0, NULL, 0);
	ck_assert_uint_eq(receive_reply(request, &number, sizeof(number)), sizeof(number));
	return number;
}

/* Whether the server did it. */
static bool tell(uint32_t request, const void *payload, uint32_t size, const int *fds, unsigned fd_count)
{
	uint64_t failed;

	send_message(request, VHOST_USER_NEED_REPLY, payload, size, fds, fd_count);
	ck_assert_uint_eq(receive_reply(request, &failed, sizeof(failed)), sizeof(failed));
	return !failed;
}

static bool tell_number(uint32_t request, uint64_t number, int fd)
{
	return tell(request, &number, sizeof(number), &fd, fd >= 0);
}

static bool tell_state(uint32_t request, uint32_t index, uint32_t number)
{
	const struct vhost_user_vring_state state = { index, number };

	return tell(request, &state, sizeof(state), NULL, 0);
}

static bool tell_memory(const struct vhost_user_memory *table, unsigned fd_count)
{
	int fds[10];

	for (unsigned i = 0; i < 10; i++)
		fds[i] = memory_fd;
	return tell(VHOST_USER_SET_MEM_TABLE, table,
		offsetof(struct vhost_user_memory, regions) + table->count * sizeof(table->regions[0]), fds, fd_count);
}

static const struct vhost_user_memory both_regions = {
	.count = 2,
	.regions = {
		{ 0, MEMORY_BYTES, FRONT_AT, 0 },
		{ HIGH_GPA, MEMORY_BYTES, FRONT_AT + MEMORY_BYTES, MEMORY_BYTES },
	},
};

static bool tell_address(uint32_t index)
{
	const struct vhost_user_vring_address address = { .index = index, .descriptors = FRONT_AT + DESCRIPTORS_AT,
		.avail = FRONT_AT + AVAIL_AT, .used = FRONT_AT + USED_AT };

	return tell(VHOST_USER_SET_VRING_ADDR, &address, sizeof(address), NULL, 0);
}

static void negotiate(void)
{
	const uint64_t features = get_number(VHOST_USER_GET_FEATURES);
	const uint64_t protocol = get_number(VHOST_USER_GET_PROTOCOL_FEATURES);

	ck_assert(features & FEATURE(VIRTIO_F_VERSION_1));
	ck_assert(protocol & FEATURE(VHOST_USER_PROTOCOL_F_REPLY_ACK));
	send_message(VHOST_USER_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof(protocol), NULL, 0);
	ck_assert(tell(VHOST_USER_SET_OWNER, NULL, 0, NULL, 0));
	ck_assert(tell_number(VHOST_USER_SET_FEATURES, features & ~FEATURE(VIRTIO_RING_F_EVENT_IDX), -1));
}

static void start_queue(uint16_t index)
{
	ck_assert(tell_state(VHOST_USER_SET_VRING_NUM, index, QUEUE_ENTRIES));
	ck_assert(tell_address(index));
	ck_assert(tell_number(VHOST_USER_SET_VRING_CALL, index, call_fd));
	ck_assert(tell_number(VHOST_USER_SET_VRING_KICK, index, kick));
	ck_assert(tell_state(VHOST_USER_SET_VRING_ENABLE, index, 1));
}

static void start_all(void)
{
	negotiate();
	ck_assert(tell_memory(&both_regions, 2));
	start_queue(1);
}

/* --- The guest, one request at a time. */

static void wait_for_interrupt(void)
{
	uint64_t count;
	struct pollfd polled = { call_fd, POLLIN, 0 };

	ck_assert_int_eq(poll(&polled, 1, SIM_PATIENCE_MS), 1);
	ck_assert_int_eq(read(call_fd, &count, sizeof(count)), sizeof(count));
}

static void publish(uint16_t head)
{
	const uint64_t one = 1;

	avail->ring[avail->idx % QUEUE_ENTRIES] = head;
	__atomic_store_n(&avail->idx, avail->idx + 1, __ATOMIC_RELEASE);
	ck_assert_int_eq(write(kick, &one, sizeof(one)), sizeof(one));
}

/* What begin() has begun. */
static int finish_by_queue(void)
{
	const struct fuse_out_header *head = (const void *)(memory + MEMORY_BYTES + ANSWER_AT - HIGH_GPA);
	uint16_t before = used->idx;

	((struct fuse_in_header *)out_bytes)->len = out_length;
	memcpy(memory + REQUEST_AT, out_bytes, out_length);
	descriptors[0] = (struct vring_desc){ REQUEST_AT, out_length, VRING_DESC_F_NEXT, 1 };
	descriptors[1] = (struct vring_desc){ ANSWER_AT, 65536, VRING_DESC_F_WRITE, 0 };
	publish(0);
	while (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) == before)
		wait_for_interrupt();
	ck_assert_uint_eq(used->ring[before % QUEUE_ENTRIES].len, head->len);
	return head->error;
}

static int init_by_queue(void)
{
	const struct fuse_init_in in = { .major = 7, .minor = 38 };

	begin(FUSE_INIT, 0);
	put(&in, sizeof(in));
	return finish_by_queue();
}

static int lookup_by_queue(const char *name)
{
	begin(FUSE_LOOKUP, ROOT);
	put_text(name);
	return finish_by_queue();
}

static int expect_end(void)
{
	int status;

	ck_assert_int_eq(waitpid(server, &status, 0), server);
	server = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void setup_server(void)
{
	int pair[2];

	setup();
	memory_fd = memfd_create("guest", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(memory_fd, 2 * MEMORY_BYTES), 0);
	memory = mmap(NULL, 2 * MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	descriptors = (void *)(memory + DESCRIPTORS_AT);
	avail = (void *)(memory + AVAIL_AT);
	used = (void *)(memory + USED_AT);
	kick = eventfd(0, EFD_CLOEXEC);
	call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	front = pair[0];
	/* A sanitizer needs what the sandbox takes away. */
	options.unconfined = true;
	server = fork();
	if (server == 0)
		_exit(share_serve(&options, pair[1]));
	close(pair[1]);
}

static void teardown_server(void)
{
	close(front);
	if (server)
		ck_assert_int_eq(expect_end(), 0);
	munmap(memory, 2 * MEMORY_BYTES);
	close(memory_fd);
	close(kick);
	close(call_fd);
	teardown();
}

START_TEST(requests_come_by_the_queue)
{
	make_file("file", "contents");
	start_all();
	ck_assert_int_eq(init_by_queue(), 0);
	for (unsigned i = 0; i < 100; i++) {
		ck_assert_int_eq(lookup_by_queue("file"), 0);
		ck_assert_int_eq(lookup_by_queue("none"), -ENOENT);
	}
}
END_TEST

START_TEST(configuration_has_the_tag)
{
	struct vhost_user_config config = { .size = sizeof(struct virtio_fs_config) };
	struct virtio_fs_config *fs = (void *)config.bytes;
	const uint32_t head = offsetof(struct vhost_user_config, bytes);

	negotiate();
	send_message(VHOST_USER_GET_CONFIG, 0, &config, head + sizeof(*fs), NULL, 0);
	ck_assert_uint_eq(receive_reply(VHOST_USER_GET_CONFIG, &config, sizeof(config)), head + sizeof(*fs));
	ck_assert_str_eq((char *)fs->tag, "test");
	ck_assert_uint_eq(fs->num_request_queues, 1);
	ck_assert_uint_eq(get_number(VHOST_USER_GET_QUEUE_NUM), 2);
	config.offset = 1;
	send_message(VHOST_USER_GET_CONFIG, 0, &config, head + sizeof(*fs), NULL, 0);
	ck_assert_uint_eq(receive_reply(VHOST_USER_GET_CONFIG, &config, sizeof(config)), head);
	ck_assert_uint_eq(config.size, 0);
}
END_TEST

START_TEST(queue_that_was_stopped_goes_on)
{
	struct vhost_user_vring_state state = { 1, 0 };

	start_all();
	ck_assert_int_eq(init_by_queue(), 0);
	send_message(VHOST_USER_GET_VRING_BASE, 0, &state, sizeof(state), NULL, 0);
	ck_assert_uint_eq(receive_reply(VHOST_USER_GET_VRING_BASE, &state, sizeof(state)), sizeof(state));
	ck_assert_uint_eq(state.number, 1);
	ck_assert(tell_state(VHOST_USER_SET_VRING_BASE, 1, state.number));
	start_queue(1);
	ck_assert_int_eq(lookup_by_queue("none"), -ENOENT);
	/* Memory changes while a queue runs. */
	ck_assert(tell_memory(&both_regions, 2));
	ck_assert_int_eq(lookup_by_queue("none"), -ENOENT);
}
END_TEST

START_TEST(forgets_come_by_their_own_queue)
{
	const struct fuse_forget_in in = { 1 };

	negotiate();
	ck_assert(tell_memory(&both_regions, 2));
	start_queue(0);
	begin(FUSE_FORGET, ROOT);
	put(&in, sizeof(in));
	((struct fuse_in_header *)out_bytes)->len = out_length;
	memcpy(memory + REQUEST_AT, out_bytes, out_length);
	descriptors[0] = (struct vring_desc){ REQUEST_AT, out_length, 0, 0 };
	publish(0);
	while (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) == 0)
		wait_for_interrupt();
	ck_assert_uint_eq(used->ring[0].len, 0);
}
END_TEST

START_TEST(broken_queue_is_left_alone)
{
	start_all();
	descriptors[0] = (struct vring_desc){ 2 * MEMORY_BYTES, 100, 0, 0 };
	publish(0);
	/* The server is there, and answers its front. */
	ck_assert_uint_eq(get_number(VHOST_USER_GET_QUEUE_NUM), 2);
	ck_assert_uint_eq(used->idx, 0);
}
END_TEST

START_TEST(memory_that_is_not_there_is_refused)
{
	static const struct vhost_user_region wrong[] = {
		{ 0, 0, FRONT_AT, 0 },
		{ 0, 3 * MEMORY_BYTES, FRONT_AT, 0 },
		{ 0, MEMORY_BYTES, FRONT_AT, 2 * MEMORY_BYTES },
		{ 0, MEMORY_BYTES, FRONT_AT, UINT64_MAX - MEMORY_BYTES + 1 },
		{ 0, UINT64_MAX & ~4095ull, FRONT_AT, 8192 },
		{ UINT64_MAX & ~4095ull, MEMORY_BYTES, FRONT_AT, 0 },
		{ 0, MEMORY_BYTES, UINT64_MAX - 10, 0 },
		{ 1, MEMORY_BYTES, FRONT_AT, 0 },
		{ 0, MEMORY_BYTES, FRONT_AT, 1 },
		{ 0, 100, FRONT_AT, 0 },
	};
	struct vhost_user_memory table = { .count = 1 };

	negotiate();
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		table.regions[0] = wrong[i];
		ck_assert(!tell_memory(&table, 1));
	}
	table = both_regions;
	ck_assert(!tell_memory(&table, 1));
	ck_assert(!tell_memory(&table, 3));
	ck_assert(!tell(VHOST_USER_SET_MEM_TABLE, &table, 8, NULL, 0));
	/* A queue that lies in none is not started. */
	ck_assert(tell_state(VHOST_USER_SET_VRING_NUM, 1, QUEUE_ENTRIES));
	ck_assert(tell_address(1));
	ck_assert(!tell_number(VHOST_USER_SET_VRING_KICK, 1, kick));
}
END_TEST

START_TEST(messages_of_wrong_values_are_refused)
{
	negotiate();
	ck_assert(!tell_number(VHOST_USER_SET_FEATURES, ~0ull, -1));
	ck_assert(!tell_number(VHOST_USER_SET_PROTOCOL_FEATURES, ~0ull, -1));
	ck_assert(!tell_state(VHOST_USER_SET_VRING_NUM, 2, QUEUE_ENTRIES));
	ck_assert(!tell_state(VHOST_USER_SET_VRING_ENABLE, UINT32_MAX, 1));
	ck_assert(!tell_address(2));
	ck_assert(!tell_number(VHOST_USER_SET_VRING_CALL, 2, call_fd));
	ck_assert(!tell_number(VHOST_USER_SET_VRING_CALL, 1, -1));
	ck_assert(!tell_number(VHOST_USER_SET_VRING_CALL, 1 | VHOST_USER_VRING_NO_FD, call_fd));
	ck_assert(tell_number(VHOST_USER_SET_VRING_CALL, 1 | VHOST_USER_VRING_NO_FD, -1));
	/* What can't be waited for. */
	ck_assert(!tell_number(VHOST_USER_SET_VRING_KICK, 1, memory_fd));
	ck_assert(!tell(VHOST_USER_SET_FEATURES, "", 1, NULL, 0));
	ck_assert(!tell(12345, NULL, 0, NULL, 0));
	ck_assert_uint_eq(get_number(VHOST_USER_GET_QUEUE_NUM), 2);
}
END_TEST

START_TEST(front_that_breaks_the_protocol_is_left)
{
	struct vhost_user_head head = { VHOST_USER_GET_FEATURES, VHOST_USER_VERSION, UINT32_MAX };

	ck_assert_int_eq(send(front, &head, sizeof(head), MSG_NOSIGNAL), sizeof(head));
	ck_assert_int_eq(expect_end(), STATUS_FAILURE);
}
END_TEST

START_TEST(message_that_is_cut_ends_the_server)
{
	struct vhost_user_head head = { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, 8 };

	ck_assert_int_eq(send(front, &head, sizeof(head) - 1, MSG_NOSIGNAL), sizeof(head) - 1);
	shutdown(front, SHUT_WR);
	ck_assert_int_eq(expect_end(), 0);
}
END_TEST

START_TEST(directory_that_is_not_there_is_told)
{
	static const struct share_options none = { .directory = "/none/such", .tag = "t" };
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	close(front);
	ck_assert_int_eq(expect_end(), 0);
	front = pair[0];
	server = fork();
	if (server == 0)
		_exit(share_serve(&none, pair[1]));
	ck_assert_int_eq(expect_end(), STATUS_FAILURE);
	close(pair[1]);
}
END_TEST

void share_server_tests(Suite *suite)
{
	const TTest *const tests[] = {
		requests_come_by_the_queue,
		configuration_has_the_tag,
		queue_that_was_stopped_goes_on,
		forgets_come_by_their_own_queue,
		broken_queue_is_left_alone,
		memory_that_is_not_there_is_refused,
		messages_of_wrong_values_are_refused,
		front_that_breaks_the_protocol_is_left,
		message_that_is_cut_ends_the_server,
		directory_that_is_not_there_is_told,
	};

	add_case(suite, "share_server", setup_server, teardown_server, 20, tests, ARRAY_SIZE(tests));
}
