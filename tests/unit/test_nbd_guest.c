// SPDX-License-Identifier: GPL-2.0-only
/* A disk on a server, as a guest has it. */
#include <linux/virtio_blk.h>

#include "nbd_fixture.h"

#define QUEUES 4
#define THREAD_REQUESTS 60
#define REPLIES_A_LIFE 90

static struct driver_queue queues[QUEUES];
static struct virtio_device *blk;

static void start_guest(void)
{
	blk = blk_create(&sim.environment, "vda", disk_share(disk), NULL, QUEUES);
	ck_assert_uint_eq(sim_add(&sim, blk), 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT | blk->offered, queues, QUEUES, 256);
}

struct guest_request {
	struct virtio_blk_outhdr header;
	uint64_t gpa, data, status;
};

static void make_request(struct guest_request *request)
{
	const uint8_t untouched = 0xee;

	request->gpa = sim_text(&sim, &request->header, sizeof(request->header));
	request->data = sim_alloc(&sim, 512, 16);
	request->status = sim_text(&sim, &untouched, 1);
}

static void publish(struct driver_queue *queue, const struct guest_request *request, uint32_t type)
{
	struct part parts[3] = { { request->gpa, 16, false } };
	unsigned count = 1;

	memcpy(sim_at(&sim, request->gpa, 4), &type, 4);
	if (type != VIRTIO_BLK_T_FLUSH)
		parts[count++] = (struct part){ request->data, 512, type == VIRTIO_BLK_T_IN };
	parts[count++] = (struct part){ request->status, 1, true };
	driver_publish(queue, driver_chain(queue, parts, count));
	driver_kick(queue);
}

START_TEST(guest_sees_what_the_server_can)
{
	const struct virtio_blk_config *config;

	start_guest();
	config = blk->config;
	ck_assert(blk->offered & FEATURE(VIRTIO_BLK_F_DISCARD));
	ck_assert(blk->offered & FEATURE(VIRTIO_BLK_F_WRITE_ZEROES));
	ck_assert_uint_eq(config->capacity, SIZE / 512);
	ck_assert_uint_eq(config->blk_size, 512);
	ck_assert_uint_eq(config->physical_block_exp, 3);
}
END_TEST

START_TEST(guest_is_not_offered_what_the_server_can_not)
{
	offer(SIZE, NBD_HAS_FLAGS | NBD_SEND_FLUSH);
	ck_assert_int_eq(open_disk(), 0);
	start_guest();
	ck_assert(!(blk->offered & FEATURE(VIRTIO_BLK_F_DISCARD)));
	ck_assert(!(blk->offered & FEATURE(VIRTIO_BLK_F_WRITE_ZEROES)));
}
END_TEST

START_TEST(guest_sees_errors_of_the_server)
{
	struct guest_request request = { .header.sector = 2 };
	const char *text;

	start_guest();
	make_request(&request);
	messages_begin();
	publish(&queues[0], &request, VIRTIO_BLK_T_IN);
	reply(hear_command(NBD_READ, 1024, 512).cookie, 28);
	driver_wait(&queues[0]);
	text = messages_end();
	ck_assert_uint_eq(*(uint8_t *)sim_at(&sim, request.status, 1), VIRTIO_BLK_S_IOERR);
	ck_assert_msg(strstr(text, "No space left") && strchr(text, '\n')[1] == '\0', "messages: %s",
		text);
}
END_TEST

/* A server that works, on memory, but hangs up now and then without having answered. */
struct memory_server {
	pthread_t thread;
	uint8_t *bytes;
	unsigned lives;
	_Atomic bool stop;
};

static bool read_all(int fd, void *to, size_t length)
{
	return recv(fd, to, length, MSG_WAITALL) == (ssize_t)length;
}

static bool wait_for_command(struct memory_server *memory)
{
	struct pollfd ready = { .fd = server, .events = POLLIN };

	while (!memory->stop) {
		if (poll(&ready, 1, 10) == 1)
			return true;
	}
	return false;
}

static void serve_life(struct memory_server *memory)
{
	uint8_t bytes[28 + 512];

	for (unsigned i = 0; i < REPLIES_A_LIFE; i++) {
		struct command command;
		uint8_t answer[16 + 512] = "\x67\x44\x66\x98";
		size_t length = 16;

		if (!wait_for_command(memory) || !read_all(server, bytes, 28))
			return;
		command.type = number32(bytes + 4) & 0xffff;
		command.offset = number64(bytes + 16);
		if (command.type == NBD_WRITE && !read_all(server, memory->bytes + command.offset, 512))
			return;
		memcpy(answer + 8, bytes + 8, 8);
		if (command.type == NBD_READ) {
			memcpy(answer + 16, memory->bytes + command.offset, 512);
			length += 512;
		}
		if (send(server, answer, length, MSG_NOSIGNAL) < 0)
			return;
	}
}

static void *serve_memory(void *argument)
{
	struct memory_server *memory = argument;
	uint8_t bytes[4 + 16 + 4 + sizeof(EXPORT) - 1 + 4];

	while (!memory->stop) {
		struct pollfd ready = { .fd = listener, .events = POLLIN };

		serve_life(memory);
		close(server);
		server = -1;
		while (!memory->stop && server < 0) {
			if (poll(&ready, 1, 10) == 1)
				server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		}
		if (server < 0)
			return NULL;
		memory->lives++;
		say_script();
		if (!read_all(server, bytes, sizeof(bytes)))
			return NULL;
	}
	return NULL;
}

struct vcpu_like {
	pthread_t thread;
	struct io_ring ring;
	unsigned index;
	struct guest_request request;
	unsigned failed_flushes;
};

static uint8_t run_request(struct vcpu_like *vcpu, uint32_t type)
{
	struct driver_queue *mine = &queues[vcpu->index];
	int64_t end = now_ms() + SIM_PATIENCE_MS;

	publish(mine, &vcpu->request, type);
	while (!driver_used(mine) && now_ms() < end)
		io_ring_reap(&vcpu->ring, false);
	ck_assert_uint_eq(driver_used(mine), 1);
	mine->last_used++;
	return *(uint8_t *)sim_at(&sim, vcpu->request.status, 1);
}

static void *write_and_read_as_a_vcpu(void *argument)
{
	struct vcpu_like *vcpu = argument;
	uint8_t *bytes = sim_at(&sim, vcpu->request.data, 512);

	io_ring_bind(&vcpu->ring);
	for (unsigned i = 0; i < THREAD_REQUESTS; i++) {
		fill(bytes, i, 512);
		ck_assert_uint_eq(run_request(vcpu, VIRTIO_BLK_T_OUT), VIRTIO_BLK_S_OK);
		if (run_request(vcpu, VIRTIO_BLK_T_FLUSH) != VIRTIO_BLK_S_OK)
			vcpu->failed_flushes++;
		memset(bytes, 0, 512);
		ck_assert_uint_eq(run_request(vcpu, VIRTIO_BLK_T_IN), VIRTIO_BLK_S_OK);
		assert_filled(bytes, i, 512);
	}
	io_ring_unbind(&vcpu->ring);
	return NULL;
}

static void *run_io_thread(void *unused)
{
	(void)unused;
	io_ring_loop(&sim.ring);
	return NULL;
}

START_TEST(vcpus_share_a_server_that_comes_and_goes)
{
	struct memory_server memory = { .bytes = calloc(1, SIZE) };
	struct vcpu_like vcpus[QUEUES];
	unsigned failed = 0;
	pthread_t io_thread;

	ck_assert_ptr_nonnull(memory.bytes);
	start_guest();
	for (unsigned i = 0; i < QUEUES; i++) {
		vcpus[i].index = i;
		vcpus[i].failed_flushes = 0;
		vcpus[i].request = (struct guest_request){ .header.sector = 10 * i };
		make_request(&vcpus[i].request);
		ck_assert_int_eq(io_ring_init_thread(&vcpus[i].ring, &sim.ring, QUEUES * 256, NULL), 0);
	}
	ck_assert_int_eq(pthread_create(&memory.thread, NULL, serve_memory, &memory), 0);
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_io_thread, NULL), 0);
	for (unsigned i = 0; i < QUEUES; i++)
		ck_assert_int_eq(pthread_create(&vcpus[i].thread, NULL, write_and_read_as_a_vcpu,
					 &vcpus[i]),
			0);
	for (unsigned i = 0; i < QUEUES; i++)
		pthread_join(vcpus[i].thread, NULL);
	virtio_end(blk);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
	memory.stop = true;
	pthread_join(memory.thread, NULL);
	for (unsigned i = 0; i < QUEUES; i++) {
		failed += vcpus[i].failed_flushes;
		io_ring_release_thread(&vcpus[i].ring);
	}
	ck_assert_uint_ge(memory.lives, QUEUES * THREAD_REQUESTS * 3 / REPLIES_A_LIFE - 1);
	/* A loss is told to those who wait then, and to one at least. */
	ck_assert_uint_le(failed, memory.lives * QUEUES);
	free(memory.bytes);
}
END_TEST

void nbd_guest_tests(Suite *suite)
{
	const TTest *const up[] = {
		guest_sees_what_the_server_can,
		guest_sees_errors_of_the_server,
		vcpus_share_a_server_that_comes_and_goes,
	};
	const TTest *const opening[] = { guest_is_not_offered_what_the_server_can_not };

	add_case(suite, "connected", setup, teardown, 60, up, ARRAY_SIZE(up));
	add_case(suite, "opening", setup_place, teardown, 60, opening, ARRAY_SIZE(opening));
}
