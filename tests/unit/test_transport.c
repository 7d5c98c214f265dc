// SPDX-License-Identifier: GPL-2.0-only
/* The transport: status, features, configuration, queues, broken rings, and resets in flight. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <pthread.h>
#include <string.h>

#include "guest.h"

#define DISK_BYTES (64 * KIB)
#define QUEUE_SIZE 8
#define QUEUE_SIZE_MAX BLK_QUEUE_SIZE_MAX
#define ARG_BLK KARMA_ARG(0, 0)
#define THREAD_REQUESTS 2000u
#define TOY_QUEUE_SIZE 16
#define TOY_CHAINS 40

static struct sim sim;
static struct driver_queue queue;
static struct virtio_device *blk;
static int pipe_ends[2];

static void pipe_done(struct io_op *op, int result)
{
	struct disk_request *request = container_of(op, struct disk_request, op);

	request->done(request, result < 0 ? result : 0);
}

static void pipe_submit(struct disk *disk, struct disk_request *request)
{
	request->op.done = pipe_done;
	io_ring_readv(io_ring_current(disk->ring), &request->op, pipe_ends[0], request->iov,
		request->iov_count, 0, false);
}

static void pipe_kick(struct disk *disk)
{
	io_ring_submit(io_ring_current(disk->ring));
}

static void pipe_close(struct disk *disk)
{
	(void)disk;
	close(pipe_ends[0]);
}

static const struct disk_backend pipe_backend = {
	.submit = pipe_submit,
	.kick = pipe_kick,
	.close = pipe_close,
};

/* A disk whose reads end when the test says so: they are those of a pipe. */
static struct disk disk;

static void setup(void)
{
	disk = (struct disk){
		.backend = &pipe_backend,
		.ring = &sim.ring,
		.size = DISK_BYTES,
		.block_size = 512,
		.physical_block_size = 4096,
		.references = 1,
	};
	sim_init(&sim, SIM_MEMORY);
	ck_assert_int_eq(pipe(pipe_ends), 0);
	blk = blk_create(&sim.environment, "vda", &disk, NULL, 1);
	ck_assert_uint_eq(sim_add(&sim, blk), 0);
	ck_assert_uint_eq(sim_add(&sim, rng_create(&sim.environment)), 1);
}

static void teardown(void)
{
	/* What still waits for the pipe ends with it. */
	close(pipe_ends[1]);
	sim_release(&sim);
}

static void start(uint64_t features)
{
	sim_start_device(&sim, 0, features, &queue, 1, QUEUE_SIZE);
}

static int64_t set_status(uint64_t status)
{
	return sim_call(&sim, KARMA_CALL_device_set_status, 0, status);
}

static int64_t accept_features(uint64_t features)
{
	int64_t result =
		sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(0, 0), features & 0xffffffff);

	return result ? result
		      : sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(0, 1), features >> 32);
}

static uint64_t data_gpa, status_gpa;

/* A read of one sector, kicked: it stays in flight until the pipe gives its data. */
static uint16_t start_read(void)
{
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN };
	uint16_t head;

	data_gpa = sim_alloc(&sim, 512, 512);
	status_gpa = sim_alloc(&sim, 1, 1);
	*(uint8_t *)sim_at(&sim, status_gpa, 1) = 0xee;
	head = driver_chain(&queue,
		(struct part[]){ { sim_text(&sim, &header, sizeof(header)), sizeof(header), false },
			{ data_gpa, 512, true }, { status_gpa, 1, true } },
		3);
	driver_publish(&queue, head);
	driver_kick(&queue);
	return head;
}

static void end_reads(unsigned count)
{
	uint8_t sector[512];

	memset(sector, 0xa5, sizeof(sector));
	while (count--)
		ck_assert_int_eq(write(pipe_ends[1], sector, sizeof(sector)), sizeof(sector));
}

static void break_queue(void)
{
	driver_publish(&queue, QUEUE_SIZE + 7);
	driver_kick(&queue);
}

START_TEST(new_device_has_status_0)
{
	ck_assert_int_eq(sim_status(&sim, 0), 0);
	ck_assert_int_eq(sim_status(&sim, 1), 0);
}
END_TEST

START_TEST(status_is_raised_step_by_step)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_FEATURES);
	sim_driver_ok(&sim, 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
	ck_assert_int_eq(sim_status(&sim, 1), 0);
}
END_TEST

START_TEST(status_bits_are_cleared_by_reset_only)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(set_status(STATUS_DRIVER), -EINVAL);
	ck_assert_int_eq(set_status(VIRTIO_CONFIG_S_FEATURES_OK), -EINVAL);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_FEATURES);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(set_status(0), 0);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
}
END_TEST

START_TEST(unknown_status_bits_are_refused)
{
	const uint64_t values[] = { 0x10, 0x20, 0x30, 0x100, 0x101, 1ull << 32, UINT64_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		ck_assert_int_eq(set_status(values[i]), -EINVAL);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
}
END_TEST

START_TEST(driver_may_give_up)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(set_status(STATUS_FEATURES | VIRTIO_CONFIG_S_FAILED), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_FEATURES | VIRTIO_CONFIG_S_FAILED);
}
END_TEST

START_TEST(driver_can_not_set_needs_reset)
{
	start(FEATURES_PLAIN);
	ck_assert_int_eq(set_status(STATUS_BROKEN), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

START_TEST(driver_ok_needs_features_ok)
{
	ck_assert_int_eq(set_status(STATUS_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK), -EINVAL);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
	/* In one go, with features that can't be. */
	ck_assert_int_eq(set_status(STATUS_RUNNING), -EINVAL);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
}
END_TEST

START_TEST(features_ok_is_refused_without_version_1)
{
	ck_assert_int_eq(set_status(STATUS_DRIVER), 0);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_DRIVER);
	ck_assert_int_eq(accept_features(FEATURE(VIRTIO_BLK_F_FLUSH)), 0);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_DRIVER);
	/* The driver may try again with better ones. */
	ck_assert_int_eq(accept_features(FEATURES_PLAIN), 0);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_FEATURES);
}
END_TEST

START_TEST(features_ok_is_refused_for_every_bit_not_offered)
{
	for (unsigned bit = 0; bit < 64; bit++) {
		bool offered = blk->offered & FEATURE(bit);

		ck_assert_int_eq(set_status(STATUS_DRIVER), 0);
		ck_assert_int_eq(accept_features(FEATURES_PLAIN | FEATURE(bit)), 0);
		ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
		ck_assert_int_eq(sim_status(&sim, 0), offered ? STATUS_FEATURES : STATUS_DRIVER);
		sim_reset(&sim, 0);
	}
}
END_TEST

START_TEST(features_are_fixed_by_features_ok)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(accept_features(FEATURES_EVENT), -EBUSY);
	sim_reset(&sim, 0);
	ck_assert_int_eq(accept_features(FEATURES_EVENT), 0);
}
END_TEST

START_TEST(reset_forgets_features)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	sim_reset(&sim, 0);
	ck_assert_int_eq(set_status(STATUS_DRIVER), 0);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_DRIVER);
}
END_TEST

START_TEST(there_are_two_halves_of_features)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(0, 2), 0), -EINVAL);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(0, 0xffff), 0), -EINVAL);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(0, 0), 1ull << 32), -EINVAL);
}
END_TEST

START_TEST(every_piece_of_the_configuration_can_be_read_and_nothing_else)
{
	size_t size = blk->config_size;
	uint64_t to = sim_alloc(&sim, KARMA_CONFIG_MAX + 1, 1);
	uint8_t *bytes = sim_at(&sim, to, KARMA_CONFIG_MAX + 1);

	for (size_t offset = 0; offset <= size + 2; offset++) {
		for (size_t length = 1; length <= size + 2; length++) {
			bool fits = offset + length <= size;

			memset(bytes, 0xcc, length + 1);
			ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_read,
						 KARMA_ARG_CONFIG(0, offset, length), to),
				fits ? 0 : -EINVAL);
			ck_assert_uint_eq(bytes[length], 0xcc);
			if (fits)
				ck_assert_mem_eq(
					bytes, (const uint8_t *)blk->config + offset, length);
			else
				ck_assert_uint_eq(bytes[0], 0xcc);
		}
	}
}
END_TEST

START_TEST(configuration_far_outside_is_refused)
{
	uint64_t to = sim_alloc(&sim, KARMA_CONFIG_MAX, 1);

	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0xfff, 1), to), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_read,
				 KARMA_ARG_CONFIG(0, 0, KARMA_CONFIG_MAX), to),
		-EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_read,
				 KARMA_ARG_CONFIG(0, 0xfff, KARMA_CONFIG_MAX), to),
		-EINVAL);
	/* The entropy device has none. */
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(1, 0, 1), to), -EINVAL);
}
END_TEST

START_TEST(configuration_is_not_written_outside_of_memory)
{
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 8), SIM_MEMORY - 7),
		-EFAULT);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 8), UINT64_MAX - 3),
		-EFAULT);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 8), SIM_MEMORY - 8),
		0);
}
END_TEST

START_TEST(configuration_of_these_devices_is_read_only)
{
	struct virtio_blk_config before;
	uint64_t from = sim_text(&sim, "\xff\xff\xff\xff", 4);

	memcpy(&before, blk->config, sizeof(before));
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 0, 4), from), -EPERM);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_write,
				 KARMA_ARG_CONFIG(0, sizeof(before) - 3, 4), from),
		-EINVAL);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(0, 0, 4), SIM_MEMORY - 3),
		-EFAULT);
	ck_assert_mem_eq(&before, blk->config, sizeof(before));
}
END_TEST

static int64_t setup_queue(unsigned index, uint32_t size)
{
	struct karma_queue_setup wanted = {
		.descriptors = sim_alloc(&sim, 16 * 1024, 16),
		.driver = sim_alloc(&sim, 4096, 2),
		.device = sim_alloc(&sim, 16384, 4),
		.size = size,
	};

	return sim_call(&sim, KARMA_CALL_queue_setup, KARMA_ARG(0, index),
		sim_text(&sim, &wanted, sizeof(wanted)));
}

START_TEST(queue_setup_before_features_ok_is_refused)
{
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE), -EINVAL);
	ck_assert_int_eq(set_status(STATUS_DRIVER), 0);
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE), -EINVAL);
	ck_assert_int_eq(accept_features(FEATURES_PLAIN), 0);
	ck_assert_int_eq(set_status(STATUS_FEATURES), 0);
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE), 0);
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE), -EINVAL);
}
END_TEST

START_TEST(queue_setup_with_a_bad_queue_or_size_is_refused)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(setup_queue(1, QUEUE_SIZE), -EINVAL);
	ck_assert_int_eq(setup_queue(0xffff, QUEUE_SIZE), -EINVAL);
	ck_assert_int_eq(setup_queue(0, 0), -EINVAL);
	ck_assert_int_eq(setup_queue(0, 7), -EINVAL);
	ck_assert_int_eq(setup_queue(0, 2 * QUEUE_SIZE_MAX), -EINVAL);
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE_MAX), 0);
}
END_TEST

START_TEST(queue_info_gives_size)
{
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_queue_info, KARMA_ARG(0, 0), 0), QUEUE_SIZE_MAX);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_info, KARMA_ARG(0, 1), 0), -EINVAL);
}
END_TEST

START_TEST(machine_takes_so_many_devices_and_no_more)
{
	while (sim.machine.device_count < KARMA_DEVICES_MAX)
		sim_add(&sim, rng_create(&sim.environment));
	ck_assert_int_eq(machine_add(&sim.machine, rng_create(&sim.environment)), -ENOSPC);
	ck_assert_uint_eq(sim.machine.device_count, KARMA_DEVICES_MAX);
}
END_TEST

START_TEST(notify_before_driver_ok_starts_nothing)
{
	sim_negotiate(&sim, 0, FEATURES_PLAIN);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_notify, ARG_BLK, 0), -EINVAL);
	driver_queue_setup(&queue, &sim, 0, 0, QUEUE_SIZE);
	start_read();
	ck_assert_uint_eq(blk->in_flight, 0);
	ck_assert_uint_eq(blk->queues[0].chains, 0);
	sim_driver_ok(&sim, 0);
	driver_kick(&queue);
	ck_assert_uint_eq(blk->in_flight, 1);
	end_reads(1);
	driver_wait(&queue);
}
END_TEST

START_TEST(broken_ring_needs_reset_and_raises_an_event)
{
	int64_t generation;

	start(FEATURES_PLAIN);
	generation = sim_call(&sim, KARMA_CALL_config_generation, 0, 0);
	messages_begin();
	break_queue();
	ck_assert_ptr_nonnull(strstr(messages_end(), "vda"));
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_CONFIG | 0 << 8);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), 0);
	ck_assert_int_ne(sim_call(&sim, KARMA_CALL_config_generation, 0, 0), generation);
	/* The other device goes on. */
	ck_assert_int_eq(sim_status(&sim, 1), 0);
}
END_TEST

START_TEST(broken_device_takes_nothing_until_it_is_reset)
{
	start(FEATURES_PLAIN);
	break_queue();
	start_read();
	ck_assert_uint_eq(blk->in_flight, 0);
	/* No status but 0 brings it back. */
	ck_assert_int_eq(set_status(STATUS_RUNNING), 0);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	sim_reset(&sim, 0);
	start(FEATURES_PLAIN);
	start_read();
	end_reads(1);
	ck_assert_uint_eq(driver_wait(&queue).len, 513);
	ck_assert_uint_eq(*(uint8_t *)sim_at(&sim, status_gpa, 1), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(what_was_in_flight_when_the_ring_broke_still_ends)
{
	uint16_t head;

	start(FEATURES_PLAIN);
	head = start_read();
	break_queue();
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_BROKEN);
	end_reads(1);
	ck_assert_uint_eq(driver_wait(&queue).id, head);
	ck_assert_uint_eq(blk->in_flight, 0);
}
END_TEST

START_TEST(log_of_a_guest_that_breaks_rings_all_day_is_short)
{
	unsigned lines = 0;

	messages_begin();
	for (unsigned i = 0; i < 100; i++) {
		start(FEATURES_PLAIN);
		break_queue();
		sim_reset(&sim, 0);
	}
	for (const char *c = messages_end(); *c; c++)
		lines += *c == '\n';
	ck_assert_uint_ge(lines, 1);
	ck_assert_uint_le(lines, 10);
}
END_TEST

START_TEST(reset_waits_for_requests_in_flight)
{
	start(FEATURES_PLAIN);
	start_read();
	start_read();
	ck_assert_uint_eq(blk->in_flight, 2);
	ck_assert_int_eq(set_status(0), 0);
	ck_assert_int_ne(sim_status(&sim, 0), 0);
	sim_run_moment(&sim);
	ck_assert_int_ne(sim_status(&sim, 0), 0);
	end_reads(1);
	sim_run_moment(&sim);
	ck_assert_int_ne(sim_status(&sim, 0), 0);
	end_reads(1);
	sim_reset(&sim, 0);
	ck_assert_int_eq(sim_status(&sim, 0), 0);
}
END_TEST

START_TEST(device_in_reset_takes_no_orders)
{
	start(FEATURES_PLAIN);
	start_read();
	ck_assert_int_eq(set_status(0), 0);
	ck_assert_int_eq(set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE), -EINVAL);
	ck_assert_int_eq(set_status(STATUS_RUNNING), -EINVAL);
	ck_assert_int_eq(setup_queue(0, QUEUE_SIZE), -EINVAL);
	ck_assert_int_eq(set_status(0), 0);
	start_read();
	ck_assert_uint_eq(blk->in_flight, 1);
	end_reads(1);
	sim_reset(&sim, 0);
}
END_TEST

START_TEST(memory_is_the_guests_again_after_reset)
{
	void *after = malloc(SIM_MEMORY);

	ck_assert_ptr_nonnull(after);
	start(FEATURES_PLAIN);
	start_read();
	ck_assert_int_eq(set_status(0), 0);
	end_reads(1);
	sim_reset(&sim, 0);
	/* The request ended in the reset: nobody is told. */
	ck_assert_uint_eq(driver_used(&queue), 0);
	ck_assert_uint_eq(*(uint8_t *)sim_at(&sim, status_gpa, 1), 0xee);
	ck_assert_uint_eq(driver_interrupts(&queue), 0);
	memcpy(after, sim.memory.base, SIM_MEMORY);
	end_reads(1);
	sim_run_moment(&sim);
	ck_assert(memcmp(after, sim.memory.base, SIM_MEMORY) == 0);
	free(after);
}
END_TEST

START_TEST(request_slots_are_free_after_reset)
{
	start(FEATURES_PLAIN);
	for (unsigned round = 0; round < 3; round++) {
		start_read();
		ck_assert_int_eq(set_status(0), 0);
		end_reads(1);
		sim_reset(&sim, 0);
		start(FEATURES_PLAIN);
		ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
	}
	start_read();
	end_reads(1);
	ck_assert_uint_eq(driver_wait(&queue).len, 513);
}
END_TEST

START_TEST(queue_is_gone_after_reset)
{
	start(FEATURES_PLAIN);
	sim_reset(&sim, 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_notify, ARG_BLK, 0), -EINVAL);
}
END_TEST

/* A device of the test's own, to see what the transport does with the optional operations. */
struct toy {
	struct virtio_device device;
	struct virtq queue;
	uint8_t config[8];
	unsigned starts, resets, notifies, served;
};

static struct toy toy;

static void toy_start(struct virtio_device *device)
{
	(void)device;
	toy.starts++;
}

static void toy_notify(struct virtio_device *device, unsigned index)
{
	toy.notifies++;
	if (toy.notifies < 5)
		virtio_again(&device->queues[index]);
}

static void toy_reset(struct virtio_device *device)
{
	(void)device;
	toy.resets++;
}

static int toy_write_config(
	struct virtio_device *device, size_t offset, const void *from, size_t length)
{
	(void)device;
	memcpy(toy.config + offset, from, length);
	return 0;
}

static void toy_release(struct virtio_device *device)
{
	virtio_device_destroy(device);
}

static const struct virtio_device_ops toy_ops = {
	.device_id = 99,
	.start = toy_start,
	.notify = toy_notify,
	.reset = toy_reset,
	.write_config = toy_write_config,
	.release = toy_release,
};

static uint32_t toy_serve(
	struct virtio_device *device, unsigned index, const struct virtq_chain *chain)
{
	ck_assert_ptr_eq(device, &toy.device);
	ck_assert_uint_eq(index, 0);
	/* A guest that is as fast as the device. */
	if (++toy.served < TOY_CHAINS)
		driver_publish(&queue, chain->head);
	return toy.served;
}

static void toy_serve_all(struct virtio_device *device, unsigned index)
{
	toy.notifies++;
	virtio_serve_queue(device, index, toy_serve);
}

static const struct virtio_device_ops serving_toy_ops = {
	.device_id = 99,
	.notify = toy_serve_all,
	.release = toy_release,
};

static unsigned add_toy_with(const struct virtio_device_ops *ops)
{
	memset(&toy, 0, sizeof(toy));
	virtio_device_init(
		&toy.device, ops, "toy", FEATURE(5), &toy.queue, 1, TOY_QUEUE_SIZE, &sim.environment);
	toy.device.config = toy.config;
	toy.device.config_size = sizeof(toy.config);
	toy.queue.name = "toy";
	return sim_add(&sim, &toy.device);
}

static unsigned add_toy(void)
{
	return add_toy_with(&toy_ops);
}

START_TEST(operations_of_a_device_are_called_when_they_should)
{
	unsigned device = add_toy();
	uint64_t from = sim_text(&sim, "karma", 5);

	sim_start_device(&sim, device, FEATURES_PLAIN, &queue, 1, QUEUE_SIZE);
	ck_assert_uint_eq(toy.starts, 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_set_status, device, STATUS_RUNNING), 0);
	ck_assert_uint_eq(toy.starts, 1);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(device, 3, 5), from), 0);
	ck_assert_mem_eq(toy.config, "\0\0\0karma", 8);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_config_write, KARMA_ARG_CONFIG(device, 4, 5), from),
		-EINVAL);
	sim_reset(&sim, device);
	ck_assert_uint_eq(toy.resets, 1);
}
END_TEST

static bool toy_notified(void *times)
{
	return toy.notifies == *(unsigned *)times;
}

START_TEST(device_that_stopped_for_others_is_called_again)
{
	unsigned device = add_toy(), times = 5;

	sim_start_device(&sim, device, FEATURES_PLAIN, &queue, 1, QUEUE_SIZE);
	driver_kick(&queue);
	ck_assert_uint_eq(toy.notifies, 1);
	ck_assert(sim_run_until(&sim, toy_notified, &times));
	sim_run_moment(&sim);
	ck_assert_uint_eq(toy.notifies, 5);
	ck_assert_uint_eq(toy.device.in_flight, 0);
}
END_TEST

START_TEST(device_in_reset_is_not_called_again)
{
	unsigned device = add_toy();

	sim_start_device(&sim, device, FEATURES_PLAIN, &queue, 1, QUEUE_SIZE);
	driver_kick(&queue);
	sim_reset(&sim, device);
	sim_run_moment(&sim);
	ck_assert_uint_eq(toy.notifies, 1);
}
END_TEST

static bool toy_served_all(void *unused)
{
	(void)unused;
	return toy.served == TOY_CHAINS && toy.device.in_flight == 0;
}

START_TEST(queue_is_served_a_ring_of_chains_at_a_time)
{
	unsigned device = add_toy_with(&serving_toy_ops);
	struct part part = { sim_alloc(&sim, 64, 1), 64, true };

	sim_start_device(&sim, device, FEATURES_PLAIN, &queue, 1, QUEUE_SIZE);
	driver_publish(&queue, driver_chain(&queue, &part, 1));
	driver_kick(&queue);
	ck_assert_uint_eq(toy.served, TOY_QUEUE_SIZE);
	ck_assert_uint_eq(driver_interrupts(&queue), 1);
	ck_assert(sim_run_until(&sim, toy_served_all, NULL));
	ck_assert_uint_eq(toy.notifies, 3);
	ck_assert_uint_eq(driver_interrupts(&queue), 2);
	ck_assert_uint_eq(driver_used(&queue), TOY_CHAINS);
	/* The lengths are what serve() returned. */
	ck_assert_uint_eq(queue.used->ring[(TOY_CHAINS - 1) % QUEUE_SIZE].len, TOY_CHAINS);
}
END_TEST

START_TEST(chain_of_too_many_buffers_stops_the_device)
{
	unsigned device = add_toy_with(&serving_toy_ops);
	struct part parts[TOY_QUEUE_SIZE + 1];

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		parts[i] = (struct part){ sim_alloc(&sim, 8, 1), 8, true };
	sim_start_device(&sim, device, FEATURES_INDIRECT, &queue, 1, QUEUE_SIZE);
	driver_publish(&queue, driver_chain_indirect(&queue, parts, ARRAY_SIZE(parts)));
	driver_kick(&queue);
	ck_assert_uint_eq(toy.served, 0);
	ck_assert_int_eq(sim_status(&sim, device), STATUS_BROKEN);
}
END_TEST

START_TEST(queue_setup_in_a_reset_is_refused)
{
	unsigned device = add_toy();
	struct karma_queue_setup wanted = {
		.descriptors = sim_alloc(&sim, 4096, 16),
		.driver = sim_alloc(&sim, 4096, 2),
		.device = sim_alloc(&sim, 4096, 4),
		.size = QUEUE_SIZE,
	};
	uint64_t gpa = sim_text(&sim, &wanted, sizeof(wanted));

	sim_negotiate(&sim, device, FEATURES_PLAIN);
	virtio_request_started(&toy.device);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_set_status, device, 0), 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_setup, device, gpa), -EINVAL);
	virtio_request_done(&toy.device);
	sim_run_moment(&sim);
	ck_assert_int_eq(sim_status(&sim, device), 0);
	sim_negotiate(&sim, device, FEATURES_PLAIN);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_setup, device, gpa), 0);
}
END_TEST

static void *run_loop(void *ring)
{
	io_ring_loop(ring);
	return NULL;
}

struct noisy_vcpu {
	struct hypercall_counters counters;
	bool *stop;
};

/* A vCPU that notifies and asks while another uses the device. */
static void *run_noisy_vcpu(void *argument)
{
	struct noisy_vcpu *vcpu = argument;
	const unsigned calls[] = { KARMA_CALL_queue_notify, KARMA_CALL_device_status,
		KARMA_CALL_config_generation, KARMA_CALL_event };

	for (unsigned i = 0; !__atomic_load_n(vcpu->stop, __ATOMIC_RELAXED); i++)
		hypercall(&sim.machine, &vcpu->counters,
			KARMA_WINDOW_BASE + ((uint64_t)calls[i % ARRAY_SIZE(calls)] << 12),
			KARMA_TAG, 0);
	return NULL;
}

START_TEST(vcpus_and_the_io_thread_share_a_device)
{
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_GET_ID };
	struct virtio_blk_outhdr flush = { .type = VIRTIO_BLK_T_FLUSH };
	uint64_t header_gpa = sim_text(&sim, &header, sizeof(header));
	uint64_t flush_gpa = sim_text(&sim, &flush, sizeof(flush));
	uint64_t to = sim_alloc(&sim, QUEUE_SIZE_MAX, 1);
	struct noisy_vcpu vcpu = { 0 };
	pthread_t io_thread, vcpu_thread;
	bool stop = false;

	vcpu.stop = &stop;
	start(FEATURES_INDIRECT | FEATURES_EVENT);
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_loop, &sim.ring), 0);
	ck_assert_int_eq(pthread_create(&vcpu_thread, NULL, run_noisy_vcpu, &vcpu), 0);
	for (unsigned i = 0; i < THREAD_REQUESTS; i++) {
		struct part parts[] = { { i % 2 ? header_gpa : flush_gpa, 16, false },
			{ to + i % QUEUE_SIZE, 1, true } };

		driver_publish(&queue, driver_chain(&queue, parts, 2));
		driver_kick(&queue);
		while (driver_used(&queue) == 0)
			sched_yield();
		queue.last_used++;
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(vcpu_thread, NULL);
	virtio_wait_idle(blk);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
	ck_assert_uint_eq(blk->queues[0].chains, THREAD_REQUESTS);
	ck_assert_int_eq(sim_status(&sim, 0), STATUS_RUNNING);
}
END_TEST

START_TEST(wait_idle_returns_when_the_backend_is_done)
{
	pthread_t io_thread;

	start(FEATURES_PLAIN);
	start_read();
	start_read();
	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_loop, &sim.ring), 0);
	end_reads(2);
	virtio_wait_idle(blk);
	ck_assert_uint_eq(driver_used(&queue), 2);
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
}
END_TEST

START_TEST(resets_in_flight_with_an_io_thread)
{
	pthread_t io_thread;

	ck_assert_int_eq(pthread_create(&io_thread, NULL, run_loop, &sim.ring), 0);
	for (unsigned round = 0; round < 50; round++) {
		start(FEATURES_PLAIN);
		start_read();
		end_reads(1);
		ck_assert_int_eq(set_status(0), 0);
		while (sim_status(&sim, 0))
			sched_yield();
	}
	io_ring_stop(&sim.ring);
	pthread_join(io_thread, NULL);
	ck_assert_uint_eq(blk->in_flight, 0);
}
END_TEST

Suite *transport_suite(void)
{
	const TTest *const tests[] = {
		new_device_has_status_0,
		status_is_raised_step_by_step,
		status_bits_are_cleared_by_reset_only,
		unknown_status_bits_are_refused,
		driver_may_give_up,
		driver_can_not_set_needs_reset,
		driver_ok_needs_features_ok,
		features_ok_is_refused_without_version_1,
		features_ok_is_refused_for_every_bit_not_offered,
		features_are_fixed_by_features_ok,
		reset_forgets_features,
		there_are_two_halves_of_features,
		every_piece_of_the_configuration_can_be_read_and_nothing_else,
		configuration_far_outside_is_refused,
		configuration_is_not_written_outside_of_memory,
		configuration_of_these_devices_is_read_only,
		queue_setup_before_features_ok_is_refused,
		queue_setup_with_a_bad_queue_or_size_is_refused,
		queue_info_gives_size,
		machine_takes_so_many_devices_and_no_more,
		notify_before_driver_ok_starts_nothing,
		broken_ring_needs_reset_and_raises_an_event,
		broken_device_takes_nothing_until_it_is_reset,
		what_was_in_flight_when_the_ring_broke_still_ends,
		log_of_a_guest_that_breaks_rings_all_day_is_short,
		reset_waits_for_requests_in_flight,
		device_in_reset_takes_no_orders,
		memory_is_the_guests_again_after_reset,
		request_slots_are_free_after_reset,
		queue_is_gone_after_reset,
		operations_of_a_device_are_called_when_they_should,
		device_that_stopped_for_others_is_called_again,
		device_in_reset_is_not_called_again,
		queue_is_served_a_ring_of_chains_at_a_time,
		chain_of_too_many_buffers_stops_the_device,
		queue_setup_in_a_reset_is_refused,
		vcpus_and_the_io_thread_share_a_device,
		wait_idle_returns_when_the_backend_is_done,
		resets_in_flight_with_an_io_thread,
	};
	Suite *suite = suite_create("transport");
	TCase *transport = tcase_create("transport");

	tcase_add_checked_fixture(transport, setup, teardown);
	tcase_set_timeout(transport, 30);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(transport, tests[i]);
	suite_add_tcase(suite, transport);
	return suite;
}
