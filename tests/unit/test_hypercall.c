// SPDX-License-Identifier: GPL-2.0-only
/* The guest ABI, call by call, and then all of it at random. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>

#include "guest.h"

#define STORM_CALLS 200000u
#define STORM_SEED 0x6b61726d61ull
#define DEVICES 4u
#define ZONES 8u
#define ZONE_BASE 0x400000ull
#define ZONE_BYTES 0x10000ull
#define ZONE_AVAIL 0x2000ull
#define ZONE_USED 0x4000ull
#define ZONE_BUFFERS 0x6000ull
#define ZONE_QUEUE_SIZE 16u

static struct sim sim;
static struct terminal terminal;
static int file;

static void setup(void)
{
	struct disk_options options;
	struct disk *disk;

	sim_init(&sim, SIM_MEMORY);
	file = temporary_file(MIB);
	options = (struct disk_options){ .path = descriptor_path(file) };
	ck_assert_int_eq(disk_open(&disk, &options, &sim.ring), 0);
	ck_assert_int_eq(terminal_open(&terminal, "none", &sim.ring), 0);
	sim_add(&sim, rng_create(&sim.environment));
	sim_add(&sim, blk_create(&sim.environment, "vda", disk, NULL, 1));
	sim_add(&sim, console_create(&sim.environment, &terminal));
	sim_add(&sim, rng_create(&sim.environment));
}

static void teardown(void)
{
	sim_release(&sim);
	terminal_close(&terminal);
	close(file);
}

static int64_t raw(uint64_t rbx, uint64_t rcx, uint64_t rdx)
{
	return hypercall(&sim.machine, &sim.counters, rbx, rcx, rdx);
}

START_TEST(version_and_features)
{
	ck_assert_int_eq(raw(KARMA_WINDOW_BASE, KARMA_TAG, 0), 1);
	ck_assert_int_eq(raw(KARMA_WINDOW_BASE + 0x1000, KARMA_TAG, 0),
		KARMA_FEATURES);
	ck_assert_uint_eq(sim.counters.calls[KARMA_CALL_version], 1);
	ck_assert_uint_eq(sim.counters.calls[KARMA_CALL_features], 1);
	ck_assert_uint_eq(sim.counters.refused + sim.counters.unknown, 0);
}
END_TEST

START_TEST(numbers_of_the_calls_never_change)
{
	const struct {
		unsigned number;
		const char *name;
	} calls[] = { { 0, "version" }, { 1, "features" }, { 2, "console_write" }, { 3, "exit" },
		{ 4, "power" }, { 5, "panic" }, { 6, "ready" }, { 7, "event" },
		{ 8, "watchdog" }, { 9, "generation" }, { 10, "checkpoint" }, { 11, "command" },
		{ 16, "device_info" }, { 17, "device_accept" }, { 18, "device_status" },
		{ 19, "device_set_status" }, { 20, "config_generation" }, { 21, "config_read" },
		{ 22, "config_write" }, { 23, "queue_info" }, { 24, "queue_setup" },
		{ 25, "queue_notify" } };
	unsigned named = 0;

	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		ck_assert_str_eq(hypercall_name(calls[i].number), calls[i].name);
	for (unsigned i = 0; i < 1000; i++)
		named += hypercall_name(i) != NULL;
	ck_assert_uint_ge(named, ARRAY_SIZE(calls));
	ck_assert_ptr_null(hypercall_name(KARMA_WINDOW_CALLS));
	ck_assert_ptr_null(hypercall_name(UINT32_MAX));
}
END_TEST

START_TEST(unknown_numbers_are_counted)
{
	uint64_t unknown = 0;

	for (unsigned number = 0; number < KARMA_WINDOW_CALLS; number++) {
		if (hypercall_name(number))
			continue;
		ck_assert_int_eq(sim_call(&sim, number, 0, 0), -ENOSYS);
		ck_assert_uint_eq(sim.counters.unknown, ++unknown);
	}
	ck_assert_uint_gt(unknown, 200);
	ck_assert_uint_eq(sim.counters.refused, 0);
}
END_TEST

START_TEST(calls_outside_of_the_window_are_unknown)
{
	const uint64_t addresses[] = { 0, KARMA_WINDOW_BASE - 0x1000,
		KARMA_WINDOW_BASE + 0x1000 * KARMA_WINDOW_CALLS, KARMA_WINDOW_BASE + 1,
		KARMA_WINDOW_BASE + 0xfff, KARMA_WINDOW_BASE | 1ull << 32, UINT64_MAX,
		UINT64_MAX & ~0xfffull, KARMA_WINDOW_BASE | 1ull << 63 };

	for (size_t i = 0; i < ARRAY_SIZE(addresses); i++)
		ck_assert_int_eq(raw(addresses[i], KARMA_TAG, 0), -ENOSYS);
	ck_assert_uint_eq(sim.counters.unknown, ARRAY_SIZE(addresses));
}
END_TEST

START_TEST(calls_without_the_tag_are_unknown)
{
	const uint64_t arguments[] = { 0, 1, KARMA_ARGUMENT_MASK, 1ull << 32,
		KARMA_TAG | 1ull << 32, KARMA_TAG | 1ull << 63, UINT64_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(arguments); i++)
		ck_assert_int_eq(raw(KARMA_WINDOW_BASE, arguments[i], 0), -ENOSYS);
	ck_assert_uint_eq(sim.counters.unknown, ARRAY_SIZE(arguments));
	ck_assert_uint_eq(sim.counters.calls[KARMA_CALL_version], 0);
}
END_TEST

START_TEST(refusals_are_counted)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_version, 1, 0), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_status, 99, 0), -ENODEV);
	ck_assert_uint_eq(sim.counters.refused, 2);
	ck_assert_uint_eq(sim.counters.calls[KARMA_CALL_version], 1);
	ck_assert_uint_eq(sim.counters.unknown, 0);
}
END_TEST

START_TEST(what_must_be_0_is_checked)
{
	const unsigned calls[] = { KARMA_CALL_version, KARMA_CALL_features, KARMA_CALL_event };

	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		ck_assert_int_eq(sim_call(&sim, calls[i], 1, 0), -EINVAL);
		ck_assert_int_eq(sim_call(&sim, calls[i], KARMA_ARGUMENT_MASK, 0), -EINVAL);
		ck_assert_int_eq(sim_call(&sim, calls[i], 0, 1), -EINVAL);
		ck_assert_int_eq(sim_call(&sim, calls[i], 0, 1ull << 63), -EINVAL);
	}
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_status, 0, 1), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_config_generation, 0, 1), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_info, 0, 1), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_notify, 0, 1), -EINVAL);
}
END_TEST

START_TEST(console_text_arrives)
{
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_console_write, 6, sim_text(&sim, "hello\n", 6)), 6);
	ck_assert_uint_eq(sim.console_length, 6);
	ck_assert_mem_eq(sim.console, "hello\n", 6);
	/* A console that is full takes less, and says so. */
	sim.console_takes = 2;
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_console_write, 6, sim_text(&sim, "hello\n", 6)), 2);
	sim.console_takes = 0;
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_console_write, 6, sim_text(&sim, "hello\n", 6)), 0);
}
END_TEST

START_TEST(console_text_has_limits)
{
	uint64_t text = sim_alloc(&sim, 2 * KARMA_TEXT_MAX, 1);

	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_console_write, 0, text), -EINVAL);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_console_write, KARMA_TEXT_MAX + 1, text), -EINVAL);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_console_write, KARMA_ARGUMENT_MASK, text), -EINVAL);
	ck_assert_uint_eq(sim.console_length, 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_console_write, KARMA_TEXT_MAX, text), 4096);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_console_write, 1, SIM_MEMORY - 1), 1);
}
END_TEST

START_TEST(exit_gives_a_status)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_exit, 256, 0), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_exit, KARMA_ARGUMENT_MASK, 0), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_exit, 0, 1), -EINVAL);
	ck_assert_uint_eq(sim.ends, 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_exit, 255, 0), 0);
	ck_assert_uint_eq(sim.ends, 1);
	ck_assert_int_eq(sim.end, MACHINE_EXIT);
	ck_assert_uint_eq(sim.end_status, 255);
}
END_TEST

START_TEST(power_ends_the_guest)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_power, 2, 0), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_power, 0, 1), -EINVAL);
	ck_assert_uint_eq(sim.ends, 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_power, KARMA_POWER_OFF, 0), 0);
	ck_assert_int_eq(sim.end, MACHINE_POWER_OFF);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_power, KARMA_POWER_RESET, 0), 0);
	ck_assert_int_eq(sim.end, MACHINE_RESET);
}
END_TEST

START_TEST(panic_is_told_without_control_characters)
{
	const char text[] = "Oops:\x1b[31m \0evil\n\r\x7f\x80\xff end";
	const char *said;

	messages_begin();
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_panic, sizeof(text) - 1,
				 sim_text(&sim, text, sizeof(text) - 1)),
		0);
	said = messages_end();
	ck_assert_int_eq(sim.end, MACHINE_PANIC);
	ck_assert_ptr_nonnull(strstr(said, "Oops: [31m  evil"));
	ck_assert_ptr_nonnull(strstr(said, "end\n"));
	for (const char *c = said; c[0] && c[1]; c++)
		ck_assert_msg(*c >= ' ' && *c <= '~', "character %d is in %s", *c, said);
}
END_TEST

START_TEST(panic_text_has_limits)
{
	uint64_t text = sim_alloc(&sim, KARMA_TEXT_MAX, 1);

	memset(sim_at(&sim, text, KARMA_TEXT_MAX), 'x', KARMA_TEXT_MAX);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_panic, KARMA_TEXT_MAX + 1, text), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_panic, 1, SIM_MEMORY), -EFAULT);
	ck_assert_uint_eq(sim.ends, 0);
	messages_begin();
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_panic, KARMA_TEXT_MAX, text), 0);
	ck_assert_uint_lt(strlen(messages_end()), 300);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_panic, 0, 0), 0);
	ck_assert_uint_eq(sim.ends, 2);
}
END_TEST

START_TEST(ready_is_passed_on)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_ready, 1, 0), 0);
	ck_assert_uint_eq(sim.readies, 1);
	ck_assert(sim.ready);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_ready, 0, 0), 0);
	ck_assert_uint_eq(sim.readies, 2);
	ck_assert(!sim.ready);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_ready, 3, 0), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_ready, 1, 1), -EINVAL);
	ck_assert_uint_eq(sim.readies, 2);
	ck_assert_uint_eq(sim.ups, 1);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_ready, KARMA_READY_QUOTED, 0), 0);
	ck_assert_uint_eq(sim.ready, KARMA_READY_QUOTED);
}
END_TEST

START_TEST(watchdog_is_fed)
{
	uint64_t feeds;

	sim.machine.watchdog = 30;
	ck_assert_uint_eq(sim.machine.feeds, 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_watchdog, KARMA_WATCHDOG_FEED, 0), 30);
	feeds = sim.machine.feeds;
	ck_assert_uint_ne(feeds, 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_watchdog, KARMA_WATCHDOG_FEED, 0), 30);
	ck_assert_uint_ne(sim.machine.feeds, feeds);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_watchdog, 2, 0), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_watchdog, KARMA_WATCHDOG_STOP, 1), -EINVAL);
	ck_assert_uint_ne(sim.machine.feeds, 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_watchdog, KARMA_WATCHDOG_STOP, 0), 30);
	ck_assert_uint_eq(sim.machine.feeds, 0);
	ck_assert_uint_eq(sim.ends, 0);
}
END_TEST

START_TEST(no_watchdog_is_fed)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_watchdog, KARMA_WATCHDOG_FEED, 0), 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_watchdog, KARMA_WATCHDOG_STOP, 0), 0);
	ck_assert_uint_eq(sim.machine.feeds, 0);
}
END_TEST

START_TEST(events_come_once)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), 0);
	machine_press_power_button(&sim.machine);
	machine_press_power_button(&sim.machine);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 2);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_POWER_BUTTON);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), 0);
}
END_TEST

START_TEST(events_of_devices_name_them)
{
	uint64_t seen = 0;
	int64_t event;

	for (unsigned i = 0; i < DEVICES; i++)
		virtio_config_changed(sim.machine.devices[i]);
	virtio_config_changed(sim.machine.devices[2]);
	while ((event = sim_call(&sim, KARMA_CALL_event, 0, 0)) > 0) {
		ck_assert_uint_eq(KARMA_EVENT_KIND(event), KARMA_EVENT_CONFIG);
		ck_assert_uint_eq(seen & 1ull << KARMA_EVENT_DEVICE(event), 0);
		seen |= 1ull << KARMA_EVENT_DEVICE(event);
	}
	ck_assert_int_eq(event, 0);
	ck_assert_uint_eq(seen, (1ull << DEVICES) - 1);
}
END_TEST

static int64_t set_interrupt(uint32_t argument, const struct karma_interrupt *interrupt)
{
	return sim_call(&sim, KARMA_CALL_interrupt, argument,
		sim_text(&sim, interrupt, sizeof(*interrupt)));
}

START_TEST(machine_without_event_interrupt_keeps_events)
{
	const struct karma_interrupt none = { 0 };

	ck_assert_int_eq(set_interrupt(KARMA_EVENTS, &none), 0);
	machine_press_power_button(&sim.machine);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_event, 0, 0), KARMA_EVENT_POWER_BUTTON);
}
END_TEST

START_TEST(interrupts_are_messages_to_local_apics)
{
	static const struct karma_interrupt good[] = {
		{ 0, 0, 0 },
		{ 0xfee00000, 16, 0 },
		{ 0xfee00000, 255, 0 },
		{ 0xfee3f000, 0x41, 0 },	/* to CPU 63 */
		{ 0xfee0100c, 0x4142, 0 },	/* logical, lowest priority */
		{ 0xfee01fe0, 0x41, 0 },	/* to a CPU past 255 */
	};
	static const struct karma_interrupt bad[] = {
		{ 0xfee00000, 15, 0 },		/* no vector of an interrupt */
		{ 0xfee00000, 0x0241, 0 },	/* SMI */
		{ 0xfee00000, 0x0441, 0 },	/* NMI */
		{ 0xfee00000, 0x0541, 0 },	/* INIT */
		{ 0xfee00000, 0x0741, 0 },	/* ExtINT */
		{ 0xfee00000, 0x8041, 0 },	/* level triggered */
		{ 0xfee00000, 0x10041, 0 },
		{ 0xfee00001, 0x41, 0 },
		{ 0xfed00000, 0x41, 0 },
		{ 0xfef00000, 0x41, 0 },
		{ 0x1fee00000, 0x41, 0 },
		{ 0x1000, 0x41, 0 },
		{ 0, 0x41, 0 },
		{ 0xfee00000, 0x41, 1 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		ck_assert_int_eq(set_interrupt(KARMA_EVENTS, &good[i]), 0);
		ck_assert_int_eq(set_interrupt(KARMA_ARG(0, 0), &good[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		ck_assert_int_eq(set_interrupt(KARMA_EVENTS, &bad[i]), -EINVAL);
		ck_assert_int_eq(set_interrupt(KARMA_ARG(0, 0), &bad[i]), -EINVAL);
	}
	ck_assert_int_eq(set_interrupt(KARMA_ARG(0, 64), &good[1]), -EINVAL);
	ck_assert_int_eq(set_interrupt(KARMA_ARG(DEVICES, 0), &good[1]), -ENODEV);
	ck_assert_int_eq(set_interrupt(KARMA_EVENTS | 1 << 8, &good[1]), -ENODEV);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_interrupt, KARMA_EVENTS, SIM_MEMORY), -EFAULT);
	ck_assert_int_eq(
		sim_call(&sim, KARMA_CALL_interrupt, KARMA_EVENTS, SIM_MEMORY - 15), -EFAULT);
}
END_TEST

START_TEST(device_calls_want_a_device)
{
	const uint32_t devices[] = { DEVICES, 63, 64, 255 };
	uint64_t buffer = sim_alloc(&sim, 4096, 8);

	for (unsigned call = KARMA_CALL_device_info; call <= KARMA_CALL_queue_notify; call++) {
		for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
			ck_assert_int_eq(sim_call(&sim, call, devices[i], buffer), -ENODEV);
	}
}
END_TEST

START_TEST(devices_are_found_without_gaps)
{
	uint64_t buffer = sim_alloc(&sim, sizeof(struct karma_device_info), 8);
	unsigned found = 0;

	while (sim_call(&sim, KARMA_CALL_device_info, found, buffer) == 0)
		found++;
	ck_assert_uint_eq(found, DEVICES);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_info, found, buffer), -ENODEV);
}
END_TEST

START_TEST(bits_of_the_argument_without_meaning_must_be_0)
{
	const unsigned device_only[] = { KARMA_CALL_device_info, KARMA_CALL_device_status,
		KARMA_CALL_device_set_status, KARMA_CALL_config_generation };
	const unsigned with_index[] = { KARMA_CALL_device_accept, KARMA_CALL_queue_info,
		KARMA_CALL_queue_setup, KARMA_CALL_queue_notify };
	uint64_t buffer = sim_alloc(&sim, 4096, 8);

	for (unsigned bit = 8; bit < 31; bit++) {
		for (size_t i = 0; i < ARRAY_SIZE(device_only); i++) {
			uint64_t value = device_only[i] == KARMA_CALL_device_info ? buffer : 0;

			ck_assert_int_eq(sim_call(&sim, device_only[i], 1u << bit, value), -EINVAL);
		}
		for (size_t i = 0; bit >= 24 && i < ARRAY_SIZE(with_index); i++) {
			uint64_t value = with_index[i] == KARMA_CALL_queue_setup ? buffer : 0;

			ck_assert_int_eq(sim_call(&sim, with_index[i], 1u << bit, value), -EINVAL);
		}
	}
}
END_TEST

START_TEST(addresses_outside_of_memory_are_faults)
{
	const uint64_t addresses[] = { SIM_MEMORY, SIM_MEMORY - 7, GUEST_HOLE_START,
		KARMA_WINDOW_BASE, GUEST_HOLE_END, UINT64_MAX, UINT64_MAX - 7, 1ull << 63 };
	const struct {
		unsigned call;
		uint32_t argument;
	} calls[] = { { KARMA_CALL_console_write, 8 }, { KARMA_CALL_panic, 8 },
		{ KARMA_CALL_device_info, 1 },
		{ KARMA_CALL_config_read, KARMA_ARG_CONFIG(1, 0, 8) },
		{ KARMA_CALL_config_write, KARMA_ARG_CONFIG(1, 0, 8) },
		{ KARMA_CALL_queue_setup, KARMA_ARG(1, 0) } };

	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(addresses); j++)
			ck_assert_int_eq(
				sim_call(&sim, calls[i].call, calls[i].argument, addresses[j]),
				-EFAULT);
	}
	ck_assert_uint_eq(sim.ends + sim.console_length, 0);
}
END_TEST

START_TEST(queues_past_the_last_are_refused)
{
	const uint32_t indexes[] = { 2, 64, 65, 0x100, 0xffff };
	uint64_t buffer = sim_alloc(&sim, 4096, 8);

	for (size_t i = 0; i < ARRAY_SIZE(indexes); i++) {
		uint32_t argument = KARMA_ARG(2, indexes[i]);

		ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_info, argument, 0), -EINVAL);
		ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_setup, argument, buffer), -EINVAL);
		ck_assert_int_eq(sim_call(&sim, KARMA_CALL_queue_notify, argument, 0), -EINVAL);
	}
}
END_TEST

/* The storm: a zone of memory is a queue's rings, and buffers with requests in them. */
static uint64_t random_state;

static uint64_t dice(uint64_t sides)
{
	return (random_next(&random_state) >> 11) % sides;
}

static uint64_t zone(unsigned number)
{
	return ZONE_BASE + number * ZONE_BYTES;
}

static uint64_t setup_address(unsigned number)
{
	return zone(number) + ZONE_BYTES - sizeof(struct karma_queue_setup);
}

static uint64_t storm_address(void)
{
	switch (dice(4)) {
	case 0:
		return random_next(&random_state);
	case 1:
		return dice(SIM_MEMORY);
	case 2:
		return SIM_MEMORY - dice(64);
	default:
		return zone(dice(ZONES)) + ZONE_BUFFERS + dice(0x8000);
	}
}

static void scribble_setup(unsigned number)
{
	struct karma_queue_setup wanted = {
		.descriptors = zone(number),
		.driver = zone(number) + ZONE_AVAIL,
		.device = zone(number) + ZONE_USED,
		.size = dice(8) ? ZONE_QUEUE_SIZE : dice(40),
	};

	if (dice(16) == 0)
		((uint64_t *)&wanted)[dice(4)] = random_next(&random_state);
	memcpy(sim_at(&sim, setup_address(number), sizeof(wanted)), &wanted, sizeof(wanted));
}

static void scribble_descriptor(unsigned number)
{
	const uint32_t lengths[] = { 0, 1, 16, 16, 17, 512, 512, 513, 4096, 32, UINT32_MAX };
	struct vring_desc *descriptors = sim_at(&sim, zone(number), 16 * ZONE_QUEUE_SIZE);
	struct virtio_blk_outhdr request = { .type = dice(15),
		.sector = dice(2) ? dice(4096) : random_next(&random_state) };
	uint64_t buffer = zone(number) + ZONE_BUFFERS + 64 * dice(256);

	memcpy(sim_at(&sim, buffer, sizeof(request)), &request, sizeof(request));
	descriptors[dice(ZONE_QUEUE_SIZE)] = (struct vring_desc){
		.addr = dice(32) ? buffer : storm_address(),
		.len = lengths[dice(ARRAY_SIZE(lengths) - (dice(8) != 0))],
		.flags = dice(16) ? dice(4) : dice(0x10000),
		.next = dice(32) ? dice(ZONE_QUEUE_SIZE) : dice(0x10000),
	};
}

static void scribble_avail(unsigned number)
{
	struct vring_avail *avail = sim_at(&sim, zone(number) + ZONE_AVAIL, 256);
	const struct vring_used *used = sim_at(&sim, zone(number) + ZONE_USED, 256);

	avail->flags = dice(3);
	avail->ring[dice(ZONE_QUEUE_SIZE + 1)] = dice(64) ? dice(ZONE_QUEUE_SIZE) : dice(0x10000);
	avail->idx = dice(64) ? used->idx + dice(ZONE_QUEUE_SIZE) : dice(0x10000);
}

static void scribble(void)
{
	unsigned number = dice(ZONES);

	scribble_setup(number);
	for (unsigned i = 0; i < 8; i++)
		scribble_descriptor(number);
	scribble_avail(number);
}

/* The way that a driver takes, with no look at what comes back. */
static void storm_start(void)
{
	unsigned device = dice(DEVICES);
	uint64_t features = FEATURES_PLAIN | dice(1ull << 32) << dice(8);

	features = dice(4) ? features & sim.machine.devices[device]->offered : features;
	sim_call(&sim, KARMA_CALL_device_set_status, device, 0);
	io_ring_reap(&sim.ring, false);
	sim_call(&sim, KARMA_CALL_device_set_status, device, STATUS_DRIVER);
	sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(device, 0), (uint32_t)features);
	sim_call(&sim, KARMA_CALL_device_accept, KARMA_ARG(device, 1), features >> 32);
	sim_call(&sim, KARMA_CALL_device_set_status, device, STATUS_FEATURES);
	for (unsigned i = 0; i < sim.machine.devices[device]->queue_count; i++) {
		unsigned number = dice(ZONES);
		struct vring_used *used = sim_at(&sim, zone(number) + ZONE_USED, 256);

		scribble_setup(number);
		used->idx = 0;
		sim_call(&sim, KARMA_CALL_queue_setup, KARMA_ARG(device, i), setup_address(number));
	}
	sim_call(&sim, KARMA_CALL_device_set_status, device, STATUS_RUNNING);
}

static void storm_call(void)
{
	uint32_t argument = KARMA_ARG(dice(DEVICES + 1), dice(3));

	switch (dice(8)) {
	case 0:
		raw(random_next(&random_state), random_next(&random_state),
			random_next(&random_state));
		break;
	case 1:
		sim_call(&sim, dice(KARMA_WINDOW_CALLS),
			random_next(&random_state) & KARMA_ARGUMENT_MASK, storm_address());
		break;
	case 2:
		sim_call(&sim, dice(10), dice(2) ? dice(5000) : 0, dice(2) ? storm_address() : 0);
		break;
	case 3:
		sim_call(&sim, 16 + dice(10), argument, dice(2) ? storm_address() : dice(256));
		break;
	case 4:
		sim_call(&sim, KARMA_CALL_config_read + dice(2),
			KARMA_ARG_CONFIG(dice(DEVICES), dice(80), 1 + dice(80)), storm_address());
		break;
	case 5:
		scribble();
		break;
	default:
		sim_call(&sim, KARMA_CALL_queue_notify, argument, 0);
		break;
	}
}

static void fill_memory(void)
{
	for (uint64_t i = 0; i < SIM_MEMORY; i += 8) {
		uint64_t bytes = random_next(&random_state);

		memcpy(sim.memory.base + i, &bytes, 8);
	}
}

START_TEST(storm_of_random_calls_is_survived)
{
	const char *seed = getenv("KARMA_TEST_SEED");
	uint64_t chains = 0;

	random_state = seed ? strtoull(seed, NULL, 0) | 1 : STORM_SEED;
	fill_memory();
	for (unsigned i = 0; i < STORM_CALLS; i++) {
		if (i % 64 == 0)
			storm_start();
		storm_call();
		if (i % 16 == 0)
			io_ring_reap(&sim.ring, false);
	}
	/* Whatever was begun comes to its end. */
	for (unsigned i = 0; i < DEVICES; i++)
		sim_reset(&sim, i);
	for (unsigned i = 0; i < DEVICES; i++) {
		const struct virtio_device *device = sim.machine.devices[i];

		ck_assert_uint_eq(device->in_flight, 0);
		for (unsigned j = 0; j < device->queue_count; j++)
			chains += device->queues[j].chains;
	}
	/* It was a storm: calls were refused and served, and got as far as the devices. */
	ck_assert_uint_gt(sim.counters.unknown, STORM_CALLS / 20);
	ck_assert_uint_gt(sim.counters.refused, STORM_CALLS / 20);
	ck_assert_uint_gt(chains, 1000);
	ck_assert_uint_gt(sim.machine.devices[1]->queues[0].chains, 100);
	/* And a driver that behaves still works. */
	memset(sim_at(&sim, zone(0), ZONES * ZONE_BYTES), 0, ZONES * ZONE_BYTES);
	for (unsigned i = 0; i < DEVICES; i++)
		sim_negotiate(&sim, i, FEATURES_PLAIN);
}
END_TEST

Suite *hypercall_suite(void)
{
	const TTest *const tests[] = {
		version_and_features,
		numbers_of_the_calls_never_change,
		unknown_numbers_are_counted,
		calls_outside_of_the_window_are_unknown,
		calls_without_the_tag_are_unknown,
		refusals_are_counted,
		what_must_be_0_is_checked,
		console_text_arrives,
		console_text_has_limits,
		exit_gives_a_status,
		power_ends_the_guest,
		panic_is_told_without_control_characters,
		panic_text_has_limits,
		ready_is_passed_on,
		watchdog_is_fed,
		no_watchdog_is_fed,
		events_come_once,
		events_of_devices_name_them,
		machine_without_event_interrupt_keeps_events,
		interrupts_are_messages_to_local_apics,
		device_calls_want_a_device,
		devices_are_found_without_gaps,
		bits_of_the_argument_without_meaning_must_be_0,
		addresses_outside_of_memory_are_faults,
		queues_past_the_last_are_refused,
		storm_of_random_calls_is_survived,
	};
	Suite *suite = suite_create("hypercall");
	TCase *tcase = tcase_create("hypercall");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 60);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite;
}
