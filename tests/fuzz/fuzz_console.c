// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the console from both sides: as a hostile guest does, with memory that changes meanwhile if
 * the first byte says so, and as a user who types anything and reads at times.  What the terminal
 * keeps never leaves its buffers, and what was written comes to rest when the user reads it.
 */
#include <fcntl.h>
#include <string.h>

#include "device.h"
#include "karma/devices.h"
#include "karma/util.h"

#define TYPED_MAX 64u

/* Of the first byte. */
#define KIND_INTERACTIVE 0x02u
#define KIND_TYPED 0x04u
#define KIND_HELD 0x08u

static struct terminal terminal;
static int typing, reading; /* the user's ends */

/* A full pipe is not far. */
static void open_terminal(uint8_t kind)
{
	int in[2], out[2];

	check(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
	check(fcntl(out[1], F_SETPIPE_SZ, PAGE_BYTES) > 0);
	typing = in[1];
	reading = out[0];
	check(fcntl(typing, F_SETFL, O_NONBLOCK) == 0 && fcntl(reading, F_SETFL, O_NONBLOCK) == 0);
	check(terminal_open(&terminal, "none", &ring) == 0);
	terminal.in_fd = terminal.inputs[TERMINAL_USER].fd = in[0];
	terminal.out_fd = out[1];
	/* Nobody is attached: that input ends only with the process. */
	close_fd(&terminal.inputs[TERMINAL_ATTACHED].fd);
	terminal.inputs[TERMINAL_ATTACHED].fd = -1;
	terminal.shared->input_ended = false;
	terminal.interactive = kind & KIND_INTERACTIVE;
	terminal.typed = kind & KIND_TYPED;
	if (kind & KIND_HELD)
		terminal_hold_input(&terminal);
}

static void check_terminal(void)
{
	const struct terminal_shared *kept = terminal.shared;

	check(kept->output_sent <= kept->output_written &&
		kept->output_written - kept->output_sent <= TERMINAL_OUTPUT_BYTES);
	check(kept->input_start < TERMINAL_INPUT_BYTES && kept->input_used <= TERMINAL_INPUT_BYTES);
}

static void type(struct script *script)
{
	const uint8_t *bytes;
	size_t count = take_bytes(script, take(script, 1) % TYPED_MAX, &bytes);

	/* A full pipe takes none: so it is. */
	if (typing >= 0 && write(typing, bytes, count) < 0)
		return;
}

static void read_output(void)
{
	uint8_t bytes[PAGE_BYTES];

	while (read(reading, bytes, sizeof(bytes)) > 0)
		;
}

static void close_input(void)
{
	close_fd(&typing);
	typing = -1;
}

static void use_terminal(uint8_t what)
{
	switch (what % 8) {
	case 0:
		close_input();
		break;
	case 1:
		terminal_hold_input(&terminal);
		break;
	case 2:
		terminal_release_input(&terminal, what & 8);
		break;
	case 3:
		terminal_write(&terminal, memory_at(DATA_AT, QUEUE_BYTES), QUEUE_BYTES);
		break;
	default:
		read_output();
	}
}

static void step(uint8_t operation, struct script *script)
{
	switch (operation & 0xf) {
	case 0:
	case 1:
		driver_any_chain(&driver, driver_queue(&driver, operation), script);
		break;
	case 2:
		type(script);
		break;
	default:
		use_terminal(operation >> 4);
	}
}

static void release(void)
{
	close_input();
	while (terminal.output_busy || terminal.inputs[TERMINAL_USER].armed) {
		read_output();
		io_ring_reap(&ring, false);
	}
	check(terminal_output_pending(&terminal) == 0);
	driver.device->ops->release(driver.device);
	close(reading);
	close(terminal.in_fd);
	close(terminal.out_fd);
	terminal_close(&terminal);
}

static struct virtio_device *create(uint8_t kind)
{
	const struct virtio_environment environment = { &memory, &ring };

	open_terminal(kind);
	return console_create(&environment, &terminal);
}

const struct device_fuzzer fuzzer = {
	.ring_entries = 64,
	.create = create,
	.step = step,
	.check = check_terminal,
	.release = release,
};
