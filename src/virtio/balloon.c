// SPDX-License-Identifier: GPL-2.0-only
/* The memory balloon: pages that the guest does not use go back to the host. */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <string.h>

#include "karma/devices.h"
#include "karma/log.h"
#include "karma/snapshot.h"
#include "karma/util.h"

/* Linux reports up to 32 blocks in a chain, and wants room for as many descriptors. */
#define QUEUE_SIZE 32
/* Pages that one chain can put into the balloon: Linux has 256.  Others stay where they are. */
#define CHAIN_PFNS 4096
/* Page numbers that are looked at in one go. */
#define BATCH 256

/* By the features that we offer there is no queue for statistics or hints (section 5.5.2). */
enum { INFLATE, DEFLATE, REPORTING, QUEUES };

enum { FREED_BYTES, TARGET_BYTES, ACTUAL_BYTES, COUNTERS };

struct balloon {
	struct virtio_device device;
	struct virtio_balloon_config config;
	struct virtio_counter counters[COUNTERS];
	bool error_logged;
};

static void discard(struct balloon *balloon, void *at, uint64_t length)
{
	int64_t result = guest_memory_discard(balloon->device.queues[0].memory, at, length);

	if (result >= 0) {
		count_up(&balloon->counters[FREED_BYTES].value, result);
	} else if (!balloon->error_logged) {
		balloon->error_logged = true;
		note("device balloon: can't give memory back: %s: the guest runs on; give --balloon off",
			strerror(-result));
	}
}

/* Adjacent pages, in either order, go back in one call. */
struct range {
	uint8_t *start;
	uint64_t length;
};

static void add_page(struct balloon *balloon, struct range *range, uint8_t *page)
{
	if (range->length && page == range->start + range->length) {
		range->length += PAGE_BYTES;
	} else if (range->length && page + PAGE_BYTES == range->start) {
		range->start = page;
		range->length += PAGE_BYTES;
	} else {
		discard(balloon, range->start, range->length);
		*range = (struct range){ page, PAGE_BYTES };
	}
}

/* The chain is a list of page numbers; those of no page are passed over. */
static void inflate(struct balloon *balloon, const struct virtq_chain *chain)
{
	const struct guest_memory *memory = balloon->device.queues[INFLATE].memory;
	uint32_t pfns[BATCH];
	struct range range = { 0 };

	for (size_t done = 0; done < CHAIN_PFNS; done += BATCH) {
		size_t count = iov_read(chain->iov, chain->out_count, done * sizeof(pfns[0]), pfns,
				       sizeof(pfns)) /
			sizeof(pfns[0]);

		for (size_t i = 0; i < count; i++) {
			uint64_t gpa = (uint64_t)le32toh(pfns[i]) << VIRTIO_BALLOON_PFN_SHIFT;
			uint8_t *page = guest_memory_at(memory, GPA(gpa), PAGE_BYTES);

			if (page)
				add_page(balloon, &range, page);
		}
		if (count < BATCH)
			break;
	}
	discard(balloon, range.start, range.length);
}

/* The chain's buffers are free memory; whether the device may write to them is all the same. */
static void discard_reported(struct balloon *balloon, const struct virtq_chain *chain)
{
	/* No guest has more to give than it has memory, and it may not have us walk that twice. */
	if (chain->out_bytes + chain->in_bytes > balloon->device.queues[REPORTING].memory->size)
		return;
	for (unsigned i = 0; i < chain->out_count + chain->in_count; i++)
		discard(balloon, chain->iov[i].iov_base, chain->iov[i].iov_len);
}

/*
 * On the vCPU that asks: the guest spends its own time, and holds up nobody else.  The device writes to no
 * chain.
 */
static uint32_t serve(
	struct virtio_device *device, unsigned index, const struct virtq_chain *chain)
{
	struct balloon *balloon = container_of(device, struct balloon, device);

	switch (index) {
	case INFLATE:
		inflate(balloon, chain);
		break;
	case REPORTING:
		discard_reported(balloon, chain);
		break;
	default:
		/* A page that leaves the balloon comes back when it is touched. */
		break;
	}
	return 0;
}

static void count_actual(struct balloon *balloon)
{
	__atomic_store_n(&balloon->counters[ACTUAL_BYTES].value,
		(uint64_t)le32toh(balloon->config.actual) * PAGE_BYTES, __ATOMIC_RELAXED);
}

/* The driver says how large the balloon is (section 5.5.6); it may say anything. */
static int balloon_write_config(
	struct virtio_device *device, size_t offset, const void *from, size_t length)
{
	struct balloon *balloon = container_of(device, struct balloon, device);

	if (offset != offsetof(struct virtio_balloon_config, actual) ||
		length != sizeof(balloon->config.actual))
		return -EPERM;
	memcpy(&balloon->config.actual, from, length);
	count_actual(balloon);
	return 0;
}

static void set_target(struct balloon *balloon, uint64_t bytes)
{
	balloon->config.num_pages = htole32(bytes / PAGE_BYTES);
	__atomic_store_n(&balloon->counters[TARGET_BYTES].value, bytes, __ATOMIC_RELAXED);
}

void balloon_set(struct virtio_device *device, uint64_t bytes)
{
	struct balloon *balloon = container_of(device, struct balloon, device);

	pthread_mutex_lock(&device->lock);
	set_target(balloon, bytes);
	virtio_config_changed(device);
	pthread_mutex_unlock(&device->lock);
}

static void balloon_save(const struct virtio_device *device, struct snapshot_writer *to)
{
	const struct balloon *balloon = container_of(device, struct balloon, device);

	snapshot_put_number(to, le32toh(balloon->config.num_pages));
	snapshot_put_number(to, le32toh(balloon->config.actual));
}

/* The size that was asked for is asked for still. */
static int balloon_restore(struct virtio_device *device, struct snapshot_reader *from)
{
	struct balloon *balloon = container_of(device, struct balloon, device);
	uint32_t pages = snapshot_get_number(from);

	set_target(balloon, (uint64_t)pages * PAGE_BYTES);
	balloon->config.actual = htole32(snapshot_get_number(from));
	count_actual(balloon);
	return 0;
}

static const struct virtio_device_ops balloon_ops = {
	.device_id = VIRTIO_ID_BALLOON,
	.serve = serve,
	.write_config = balloon_write_config,
	.save = balloon_save,
	.restore = balloon_restore,
	.release = virtio_device_free,
};

struct virtio_device *balloon_create(const struct virtio_environment *environment, uint64_t bytes)
{
	static const char *const counters[COUNTERS] = {
		[FREED_BYTES] = "freed_bytes",
		[TARGET_BYTES] = "target_bytes",
		[ACTUAL_BYTES] = "actual_bytes",
	};
	const uint64_t features =
		1ull << VIRTIO_BALLOON_F_DEFLATE_ON_OOM | 1ull << VIRTIO_BALLOON_F_REPORTING;
	struct balloon *balloon = virtio_device_create(sizeof(*balloon), &balloon_ops, "balloon",
		features, QUEUES, QUEUE_SIZE, environment);

	if (!balloon)
		return NULL;
	balloon->device.queues[INFLATE].name = "inflate";
	balloon->device.queues[DEFLATE].name = "deflate";
	balloon->device.queues[REPORTING].name = "reporting";
	balloon->device.config = &balloon->config;
	/* What follows exists with features that are not offered (section 5.5.4). */
	balloon->device.config_size =
		offsetof(struct virtio_balloon_config, free_page_hint_cmd_id);
	balloon->config.num_pages = htole32(bytes / PAGE_BYTES);
	balloon->counters[TARGET_BYTES].value = bytes;
	virtio_set_counters(&balloon->device, balloon->counters, counters, COUNTERS);
	return &balloon->device;
}
