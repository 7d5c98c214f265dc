/* SPDX-License-Identifier: GPL-2.0-only */
/* A console on two pipes. Each file of tests that includes this has one of its own. */
#ifndef KARMA_TESTS_CONSOLE_FIXTURE_H
#define KARMA_TESTS_CONSOLE_FIXTURE_H

#include <fcntl.h>
#include <string.h>

#include "guest.h"

/* The parts of the suite. */
void console_input_tests(Suite *suite);
void console_terminal_tests(Suite *suite);

#define QUEUE_SIZE 64
#define RECEIVE 0
#define TRANSMIT 1
#define END_OF_INPUT "\x04"
#define LOTS (256 * KIB)

static struct sim sim;
static struct terminal terminal;
static struct driver_queue queues[2];
static struct virtio_device *console;
static int to_guest[2], from_guest[2];
static bool started;

/* What came out at an end, with room for all that a test sends. */
static char collected[2 * LOTS];
static size_t collected_length, collected_wanted;

static inline void setup(void)
{
	ck_assert_int_eq(pipe2(to_guest, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(from_guest, O_CLOEXEC), 0);
	/* The test's ends must not block: it is the user, the guest and the monitor in one. */
	fcntl(to_guest[1], F_SETFL, O_NONBLOCK);
	fcntl(from_guest[0], F_SETFL, O_NONBLOCK);
	ck_assert_int_eq(dup2(to_guest[0], STDIN_FILENO), STDIN_FILENO);
	ck_assert_int_eq(dup2(from_guest[1], STDOUT_FILENO), STDOUT_FILENO);
	close(to_guest[0]);
	close(from_guest[1]);
	sim_init(&sim, SIM_MEMORY);
	collected_length = 0;
}

/* In the monitor's order: the terminal outlives the ring. */
static inline void teardown(void)
{
	if (started) {
	}
	sim_release(&sim);
	if (started)
		terminal_close(&terminal);
}

static inline void start_device(void)
{
	console = console_create(&sim.environment, &terminal);
	ck_assert_uint_eq(sim_add(&sim, console), 0);
	sim_start_device(&sim, 0, FEATURES_INDIRECT | FEATURES_EVENT, queues, 2, QUEUE_SIZE);
	started = true;
}

static inline void start(const char *spec)
{
	ck_assert_int_eq(terminal_open(&terminal, spec, &sim.ring), 0);
	start_device();
}

/* The guest prints; it does not wait. */
static inline void print(const char *text, size_t length)
{
	driver_publish(&queues[TRANSMIT],
		driver_chain(&queues[TRANSMIT],
			&(struct part){ sim_text(&sim, text, length), length, false }, 1));
	driver_kick(&queues[TRANSMIT]);
}

static uint64_t input_gpa;
static uint32_t input_length;

static inline void offer(uint16_t descriptor)
{
	queues[RECEIVE].next_descriptor = descriptor;
	driver_publish(&queues[RECEIVE],
		driver_chain(&queues[RECEIVE],
			&(struct part){ input_gpa + (uint64_t)descriptor * input_length,
				input_length, true },
			1));
}

/* The guest listens, with count buffers of some bytes. */
static inline void listen_with(unsigned count, uint32_t length)
{
	input_length = length;
	input_gpa = sim_alloc(&sim, (size_t)QUEUE_SIZE * length, 1);
	for (unsigned i = 0; i < count; i++)
		offer(i);
	driver_kick(&queues[RECEIVE]);
}

static inline void collect(const void *bytes, size_t length)
{
	ck_assert_uint_le(collected_length + length, sizeof(collected));
	memcpy(collected + collected_length, bytes, length);
	collected_length += length;
}

/* Take what the guest got, and give its buffers back to the device. */
static inline void collect_input(void)
{
	struct driver_queue *queue = &queues[RECEIVE];
	bool any = false;

	while (driver_used(queue)) {
		struct vring_used_elem element =
			queue->used->ring[queue->last_used++ % queue->size];

		ck_assert_uint_le(element.len, input_length);
		collect(sim_at(&sim, input_gpa + (uint64_t)element.id * input_length, element.len),
			element.len);
		offer(element.id);
		any = true;
	}
	if (any)
		driver_kick(queue);
}

static inline bool guest_has_input(void *unused)
{
	(void)unused;
	collect_input();
	return collected_length >= collected_wanted;
}

/* The guest gets just this, in all. */
static inline void assert_guest_gets(const void *text, size_t length)
{
	collected_wanted = length;
	ck_assert_msg(sim_run_until(&sim, guest_has_input, NULL), "the guest got %zu of %zu bytes",
		collected_length, length);
	sim_run_moment(&sim);
	collect_input();
	ck_assert_uint_eq(collected_length, length);
	ck_assert(memcmp(collected, text, length) == 0);
	collected_length = 0;
}

static inline void assert_guest_gets_text(const char *text)
{
	assert_guest_gets(text, strlen(text));
}

static inline bool user_has_output(void *fd)
{
	char bytes[8192];
	ssize_t got = read(*(int *)fd, bytes, sizeof(bytes));

	if (got > 0)
		collect(bytes, got);
	return collected_length >= collected_wanted;
}

static inline void assert_user_gets(int fd, const void *text, size_t length)
{
	collected_wanted = length;
	ck_assert_msg(sim_run_until(&sim, user_has_output, &fd), "the user got %zu of %zu bytes",
		collected_length, length);
	ck_assert_uint_eq(collected_length, length);
	ck_assert(memcmp(collected, text, length) == 0);
	collected_length = 0;
}

/* 64 chains of 4 KiB, far more than pipe and buffer hold. */
static inline const char *print_lots(void)
{
	static char text[LOTS];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = 'a' + (i ^ i >> 8 ^ i >> 12) % 26;
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		print(text + i * LOTS / QUEUE_SIZE, LOTS / QUEUE_SIZE);
	return text;
}

#endif
