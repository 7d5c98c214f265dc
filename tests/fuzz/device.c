// SPDX-License-Identifier: GPL-2.0-only
/* The main loop of the fuzzers of devices. */
#include "device.h"

#define STEPS_MAX 200u

struct io_ring ring;
struct driver driver;

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

		if (!driver_step(&driver, operation, &script))
			fuzzer.step(operation, &script);
		if (fuzzer.check)
			fuzzer.check();
	}
	meddling_stop();
	driver_reset(&driver);
	fuzzer.release();
	memory_clear();
	return 0;
}
