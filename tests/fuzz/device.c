// SPDX-License-Identifier: GPL-2.0-only
/* The main loop of the fuzzers of devices. */
#include "device.h"

#define STEPS_MAX 200u

struct io_ring ring;
struct driver driver;

/* Of the first byte; and then the operation that is a snapshot. */
#define KIND_SAVED 0x80u
#define OPERATION_SNAPSHOT 0xffu

/* The guest goes on in another process, with what a snapshot has of the device, or what it should not have. */
static void save_and_restore(uint8_t kind, struct script *script)
{
	struct virtio_device *device;

	state_save(driver.device, &ring);
	state_change(script);
	fuzzer.release();
	device = fuzzer.create(kind);
	if (state_restore(device)) {
		driver.device = device;
		return;
	}
	driver.device = device;
	fuzzer.release();
	driver_init(&driver, fuzzer.create(kind), &ring);
	driver_start(&driver, script);
}

static void take_step(uint8_t operation, struct script *script)
{
	if (fuzzer.step)
		fuzzer.step(operation, script);
	else
		driver_any_chain(&driver, 0, script);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	memory_make(DRIVER_MEMORY);
	check(io_ring_init(&ring, fuzzer.ring_entries) == 0);
	if (fuzzer.prepare)
		fuzzer.prepare();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script script = { data, data + size };
	uint8_t kind = take(&script, 1);

	driver_init(&driver, fuzzer.create(kind), &ring);
	driver_start(&driver, &script);
	meddling_start(kind, QUEUE_BYTES / 16);
	for (unsigned i = 0; i < STEPS_MAX && !script_over(&script); i++) {
		uint8_t operation = take(&script, 1);

		if ((kind & KIND_SAVED) && operation == OPERATION_SNAPSHOT && !driver.device->ops->unsavable)
			save_and_restore(kind, &script);
		else if (!driver_step(&driver, operation, &script))
			take_step(operation, &script);
		if (fuzzer.check)
			fuzzer.check();
	}
	meddling_stop();
	driver_reset(&driver);
	fuzzer.release();
	memory_clear();
	return 0;
}
