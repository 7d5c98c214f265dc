// SPDX-License-Identifier: GPL-2.0-only
/* The entropy device: the host's random numbers for the guest. */
#include <linux/virtio_ids.h>
#include <sys/random.h>

#include "karma/devices.h"
#include "karma/util.h"

#define QUEUE_SIZE 16
/* What one chain gets at most; the driver asks again for more (virtio 1.2, section 5.4.6.1). */
#define CHAIN_BYTES 4096

static uint32_t fill(
	struct virtio_device *device, unsigned index, const struct virtq_chain *chain)
{
	uint8_t bytes[CHAIN_BYTES];
	size_t length = chain->in_bytes < sizeof(bytes) ? chain->in_bytes : sizeof(bytes);
	ssize_t got = getrandom(bytes, length, GRND_NONBLOCK);

	(void)device;
	(void)index;
	if (got <= 0)
		return 0;
	return iov_write(chain->iov + chain->out_count, chain->in_count, 0, bytes, got);
}

static const struct virtio_device_ops rng_ops = {
	.device_id = VIRTIO_ID_RNG,
	.serve = fill,
	.release = virtio_device_free,
};

struct virtio_device *rng_create(const struct virtio_environment *environment)
{
	struct virtio_device *device =
		virtio_device_create(sizeof(*device), &rng_ops, "rng", 0, 1, QUEUE_SIZE, environment);

	if (!device)
		return NULL;
	device->queues[0].name = "request";
	return device;
}
