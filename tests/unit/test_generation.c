// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a guest learns of itself and of a restore, by the call `generation`, its event and ACPI's VMGENID; that it may be
 * copied; and what it is to do.
 */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <time.h>

#include "guest.h"
#include "karma/snapshot.h"

static struct sim sim;

static void setup(void)
{
	sim_init(&sim, SIM_MEMORY);
	ck_assert_int_eq(machine_identify(&sim.machine), 0);
}

static void teardown(void)
{
	sim_release(&sim);
}

static struct karma_generation ask(void)
{
	struct karma_generation generation;
	uint64_t address = sim_alloc(&sim, sizeof(generation), 1);

	memset(sim_at(&sim, address, sizeof(generation)), 0xff, sizeof(generation));
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_generation, 0, address), 0);
	memcpy(&generation, sim_at(&sim, address, sizeof(generation)), sizeof(generation));
	return generation;
}

static int64_t next_event(void)
{
	return sim_call(&sim, KARMA_CALL_event, 0, 0);
}

START_TEST(guest_knows_its_name_and_the_time)
{
	const struct karma_generation nameless = ask();
	struct karma_generation generation;
	struct timespec before, after;

	for (size_t i = 0; i < sizeof(nameless.name); i++)
		ck_assert_int_eq(nameless.name[i], 0);
	sim.machine.name = "web";
	clock_gettime(CLOCK_REALTIME, &before);
	generation = ask();
	clock_gettime(CLOCK_REALTIME, &after);
	ck_assert_str_eq(generation.name, "web");
	ck_assert_uint_eq(generation.generation, 0);
	ck_assert_uint_ge(generation.realtime, before.tv_sec * 1000000000ull + before.tv_nsec);
	ck_assert_uint_le(generation.realtime, after.tv_sec * 1000000000ull + after.tv_nsec);
}
END_TEST

START_TEST(name_ends_with_a_nul)
{
	char name[2 * KARMA_NAME_BYTES];
	struct karma_generation generation;

	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	sim.machine.name = name;
	generation = ask();
	ck_assert_uint_eq(strnlen(generation.name, sizeof(generation.name)), KARMA_NAME_BYTES - 1);
}
END_TEST

START_TEST(id_is_that_of_vmgenid)
{
	const struct karma_generation generation = ask();
	const uint8_t zeroes[KARMA_ID_BYTES] = { 0 };

	ck_assert_mem_ne(generation.id, zeroes, KARMA_ID_BYTES);
	ck_assert_mem_eq(generation.id, sim_at(&sim, GUEST_VMGENID, KARMA_ID_BYTES), KARMA_ID_BYTES);
	ck_assert_mem_eq(ask().id, generation.id, KARMA_ID_BYTES);
}
END_TEST

START_TEST(restored_guest_is_another_one)
{
	const struct karma_generation before = ask();
	struct karma_generation after;

	ck_assert_int_eq(machine_restored(&sim.machine), 0);
	after = ask();
	ck_assert_uint_eq(after.generation, 1);
	ck_assert_mem_ne(after.id, before.id, KARMA_ID_BYTES);
	ck_assert_mem_eq(after.id, sim_at(&sim, GUEST_VMGENID, KARMA_ID_BYTES), KARMA_ID_BYTES);
	ck_assert_int_eq(machine_restored(&sim.machine), 0);
	ck_assert_uint_eq(ask().generation, 2);
	ck_assert_mem_ne(ask().id, after.id, KARMA_ID_BYTES);
}
END_TEST

START_TEST(generation_is_saved)
{
	ck_assert_int_eq(machine_restored(&sim.machine), 0);
	sim_save(&sim);
	sim_change_process(&sim);
	ck_assert_uint_eq(sim.machine.generation, 0);
	ck_assert_int_eq(sim_restore(&sim), 0);
	sim_interrupts(&sim, SIM_EVENT_VECTOR);
	ck_assert_int_eq(machine_restored(&sim.machine), 0);
	ck_assert_uint_eq(sim.machine.generation, 2);
	/* The interrupt that the guest chose is in the snapshot, too. */
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
}
END_TEST

/* Before anything else it is to do; once, however often it was restored. */
START_TEST(restore_is_the_first_event)
{
	machine_press_power_button(&sim.machine);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 1);
	ck_assert_int_eq(machine_restored(&sim.machine), 0);
	ck_assert_int_eq(machine_restored(&sim.machine), 0);
	ck_assert_uint_eq(sim_interrupts(&sim, SIM_EVENT_VECTOR), 2);
	ck_assert_int_eq(next_event(), KARMA_EVENT_RESTORED);
	ck_assert_int_eq(next_event(), KARMA_EVENT_POWER_BUTTON);
	ck_assert_int_eq(next_event(), 0);
}
END_TEST

static const struct virtio_device_ops net_ops = {
	.device_id = VIRTIO_ID_NET,
	.release = virtio_device_free,
};

START_TEST(restore_has_networks_looked_at)
{
	struct virtio_device *device =
		virtio_device_create(sizeof(*device), &net_ops, "eth0", 0, 1, 16, &sim.environment);
	unsigned net;

	sim_add(&sim, rng_create(&sim.environment));
	net = sim_add(&sim, device);
	ck_assert_int_eq(machine_restored(&sim.machine), 0);
	ck_assert_int_eq(next_event(), KARMA_EVENT_RESTORED);
	ck_assert_int_eq(next_event(), KARMA_EVENT_CONFIG | net << 8);
	ck_assert_int_eq(next_event(), 0);
}
END_TEST

START_TEST(wrong_calls_are_refused)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_generation, 1, sim_alloc(&sim, 96, 1)), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_generation, 0, SIM_MEMORY - 95), -EFAULT);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_generation, 0, UINT64_MAX), -EFAULT);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_generation, 0, SIM_MEMORY - 96), 0);
}
END_TEST

START_TEST(checkpoint_is_passed_on_where_it_is_wanted)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_features, 0, 0), KARMA_FEATURES);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_checkpoint, 0, 0), 0);
	ck_assert_uint_eq(sim.checkpoints, 0);
	sim.machine.checkpoints = true;
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_features, 0, 0), KARMA_FEATURES | KARMA_FEATURE_CHECKPOINT);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_checkpoint, 1, 0), -EINVAL);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_checkpoint, 0, 1), -EINVAL);
	ck_assert_uint_eq(sim.checkpoints, 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_checkpoint, 0, 0), 0);
	ck_assert_uint_eq(sim.checkpoints, 1);
	/* Another kernel of the same guest, by kexec, is not to wait for a call that its init may not make. */
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_features, 0, 0), KARMA_FEATURES);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_checkpoint, 0, 0), 0);
	ck_assert_uint_eq(sim.checkpoints, 1);
}
END_TEST

START_TEST(copy_makes_no_checkpoint_again)
{
	sim.machine.checkpoints = true;
	ck_assert_int_eq(machine_restored(&sim.machine), 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_features, 0, 0), KARMA_FEATURES);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_checkpoint, 0, 0), 0);
	ck_assert_uint_eq(sim.checkpoints, 0);
}
END_TEST

/* What a hostile disk or command could have had it do is not to be the beginning of another guest. */
START_TEST(guest_that_has_looked_at_anything_is_not_copied)
{
	const struct {
		enum karma_call call;
		uint32_t argument;
	} looks[] = {
		{ KARMA_CALL_console_write, 1 },
		{ KARMA_CALL_command, 0 },
		{ KARMA_CALL_device_info, 0 },
		{ KARMA_CALL_device_status, 0 },
		{ KARMA_CALL_config_read, KARMA_ARG_CONFIG(0, 0, 1) },
		{ KARMA_CALL_queue_info, 0 },
	};
	uint64_t address = sim_alloc(&sim, KARMA_TEXT_MAX, 8);

	machine_add(&sim.machine, rng_create(&sim.environment));
	sim.machine.checkpoints = true;
	for (size_t i = 0; i < ARRAY_SIZE(looks); i++) {
		atomic_store(&sim.machine.individual, false);
		atomic_store(&sim.machine.checkpointed, false);
		sim_call(&sim, looks[i].call, looks[i].argument, address);
		ck_assert_int_eq(sim_call(&sim, KARMA_CALL_checkpoint, 0, 0), 0);
		ck_assert_msg(sim.checkpoints == 0, "call %d", looks[i].call);
		ck_assert_int_eq(sim_call(&sim, KARMA_CALL_features, 0, 0), KARMA_FEATURES);
	}
}
END_TEST

/* Saved there without devices, it goes on with any. */
START_TEST(copy_finds_the_devices_that_it_has)
{
	static uint8_t bytes[4096];
	struct snapshot_writer writer;
	struct snapshot_reader reader;

	machine_add(&sim.machine, rng_create(&sim.environment));
	sim.machine.config_events = 1;
	machine_start_devices(&sim.machine);
	machine_pause_devices(&sim.machine);
	snapshot_writer_init(&writer, bytes, sizeof(bytes));
	ck_assert_int_eq(machine_save(&sim.machine, &writer, false), 0);
	ck_assert_int_eq(snapshot_reader_init(&reader, bytes, snapshot_finish(&writer)), 0);
	ck_assert_uint_eq(snapshot_count(&reader, SNAPSHOT_DEVICE), 0);
	sim_change_process(&sim);
	for (unsigned i = 0; i < 2; i++)
		machine_add(&sim.machine, rng_create(&sim.environment));
	ck_assert_int_eq(machine_restore(&sim.machine, &reader), 0);
	machine_start_devices(&sim.machine);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_device_status, 1, 0), 0);
	ck_assert_int_eq(next_event(), 0);
}
END_TEST

START_TEST(command_comes_in_pieces)
{
	static char text[2 * KARMA_TEXT_MAX + 3];
	uint64_t address = sim_alloc(&sim, KARMA_TEXT_MAX, 1);
	const char *piece = sim_at(&sim, address, KARMA_TEXT_MAX);

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = 'a' + i % 23;
	sim.machine.command = text;
	sim.machine.command_bytes = sizeof(text);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_int_eq(sim_call(&sim, KARMA_CALL_command, i, address), KARMA_TEXT_MAX);
		ck_assert_mem_eq(piece, text + i * KARMA_TEXT_MAX, KARMA_TEXT_MAX);
	}
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_command, 2, address), 3);
	ck_assert_mem_eq(piece, text + 2 * KARMA_TEXT_MAX, 3);
	/* The rest of the buffer is as it was. */
	ck_assert_mem_eq(piece + 3, text + KARMA_TEXT_MAX + 3, KARMA_TEXT_MAX - 3);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_command, 3, address), 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_command, KARMA_ARGUMENT_MASK, address), 0);
	sim.machine.command_bytes = 2 * KARMA_TEXT_MAX;
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_command, 2, address), 0);
}
END_TEST

START_TEST(command_goes_to_memory_alone)
{
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_command, 0, UINT64_MAX), 0);
	sim.machine.command = "exit 3\n";
	sim.machine.command_bytes = 7;
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_command, 0, SIM_MEMORY - 6), -EFAULT);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_command, 0, UINT64_MAX), -EFAULT);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_command, 1, UINT64_MAX), 0);
	ck_assert_int_eq(sim_call(&sim, KARMA_CALL_command, 0, SIM_MEMORY - 7), 7);
}
END_TEST

Suite *generation_suite(void)
{
	const TTest *const tests[] = {
		guest_knows_its_name_and_the_time,
		name_ends_with_a_nul,
		id_is_that_of_vmgenid,
		restored_guest_is_another_one,
		generation_is_saved,
		restore_is_the_first_event,
		restore_has_networks_looked_at,
		wrong_calls_are_refused,
		checkpoint_is_passed_on_where_it_is_wanted,
		copy_makes_no_checkpoint_again,
		guest_that_has_looked_at_anything_is_not_copied,
		copy_finds_the_devices_that_it_has,
		command_comes_in_pieces,
		command_goes_to_memory_alone,
	};
	Suite *suite = suite_create("generation");

	add_case(suite, "generation", setup, teardown, 20, tests, ARRAY_SIZE(tests));
	return suite;
}
