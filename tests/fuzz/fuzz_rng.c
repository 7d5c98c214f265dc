// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the entropy source as a hostile guest does: its one ring, and memory that changes meanwhile
 * if the first byte says so.
 */
#include "guest.h"
#include "karma/devices.h"

#define STEPS_MAX 200u

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct io_ring ring;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	memory_make(DRIVER_MEMORY);
	check(io_ring_init(&ring, 64) == 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct virtio_environment environment = { &memory, &ring };
	struct script script = { data, data + size };
	uint8_t kind = take(&script, 1);
	struct driver driver;

	driver_init(&driver, rng_create(&environment), &ring);
	driver_start(&driver, &script);
	meddling_start(kind, QUEUE_BYTES / 16);
	for (unsigned i = 0; i < STEPS_MAX && !script_over(&script); i++) {
		uint8_t operation = take(&script, 1);

		if (!driver_step(&driver, operation, &script))
			driver_any_chain(&driver, 0, &script);
	}
	meddling_stop();
	driver_reset(&driver);
	driver.device->ops->release(driver.device);
	memory_clear();
	return 0;
}
