// SPDX-License-Identifier: GPL-2.0-only
/* Calls on the machine as a whole: version, console, the ways to end, events, the watchdog, identity, copies, its command. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "internal.h"
#include "karma/log.h"

int64_t call_version(struct machine *machine, uint32_t argument, uint64_t value)
{
	(void)machine;
	if (argument || value)
		return -EINVAL;
	return KARMA_ABI_VERSION;
}

uint32_t machine_features(const struct machine *machine)
{
	return KARMA_FEATURES | (machine->checkpoints ? KARMA_FEATURE_CHECKPOINT : 0);
}

int64_t call_features(struct machine *machine, uint32_t argument, uint64_t value)
{
	uint32_t features = machine_features(machine);

	if (argument || value)
		return -EINVAL;
	return atomic_load(&machine->checkpointed) ? features & ~KARMA_FEATURE_CHECKPOINT : features;
}

int64_t call_console_write(struct machine *machine, uint32_t length, uint64_t address)
{
	char text[KARMA_TEXT_MAX];
	int result;

	if (length == 0 || length > sizeof(text))
		return -EINVAL;
	result = guest_memory_read(machine->memory, GPA(address), text, length);
	if (result < 0)
		return result;
	atomic_store(&machine->individual, true);
	return machine->ops->console_write(machine, text, length);
}

int64_t call_exit(struct machine *machine, uint32_t status, uint64_t value)
{
	if (status > 255 || value)
		return -EINVAL;
	machine->ops->end(machine, MACHINE_EXIT, status);
	return 0;
}

int64_t call_power(struct machine *machine, uint32_t how, uint64_t value)
{
	if (how > KARMA_POWER_RESET || value)
		return -EINVAL;
	machine->ops->end(
		machine, how == KARMA_POWER_OFF ? MACHINE_POWER_OFF : MACHINE_RESET, 0);
	return 0;
}

int64_t call_panic(struct machine *machine, uint32_t length, uint64_t address)
{
	char text[KARMA_TEXT_MAX];
	int result;

	if (length > sizeof(text))
		return -EINVAL;
	result = length ? guest_memory_read(machine->memory, GPA(address), text, length) : 0;
	if (result < 0)
		return result;
	make_printable(text, length);
	note("the guest's kernel panicked: %.*s", length > 200 ? 200 : (int)length, text);
	machine->ops->end(machine, MACHINE_PANIC, 0);
	return 0;
}

int64_t call_ready(struct machine *machine, uint32_t ready, uint64_t value)
{
	if (ready > KARMA_READY_QUOTED || value)
		return -EINVAL;
	atomic_store(&machine->tells_ready, true);
	atomic_store(&machine->told_ready, ready + 1);
	machine_tell_ready(machine);
	return 0;
}

int64_t call_watchdog(struct machine *machine, uint32_t what, uint64_t value)
{
	if (what > KARMA_WATCHDOG_STOP || value)
		return -EINVAL;
	if (what == KARMA_WATCHDOG_STOP)
		atomic_store(&machine->feeds, 0);
	else if (machine->watchdog)
		atomic_fetch_add(&machine->feeds, 1);
	return machine->watchdog;
}

int64_t call_generation(struct machine *machine, uint32_t argument, uint64_t address)
{
	struct karma_generation generation = { .generation = machine->generation };
	struct timespec now;

	if (argument)
		return -EINVAL;
	clock_gettime(CLOCK_REALTIME, &now);
	generation.realtime = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	memcpy(generation.id, machine->id, sizeof(generation.id));
	if (machine->name)
		snprintf(generation.name, sizeof(generation.name), "%s", machine->name);
	return guest_memory_write(machine->memory, GPA(address), &generation, sizeof(generation));
}

int64_t call_checkpoint(struct machine *machine, uint32_t argument, uint64_t value)
{
	if (argument || value)
		return -EINVAL;
	if (machine->checkpoints && !atomic_exchange(&machine->checkpointed, true) && !atomic_load(&machine->individual))
		machine->ops->checkpoint(machine);
	return 0;
}

int64_t call_command(struct machine *machine, uint32_t piece, uint64_t address)
{
	uint64_t offset = (uint64_t)piece * KARMA_TEXT_MAX;
	size_t length;
	int result;

	atomic_store(&machine->individual, true);
	if (!machine->command || offset >= machine->command_bytes)
		return 0;
	length = machine->command_bytes - offset;
	if (length > KARMA_TEXT_MAX)
		length = KARMA_TEXT_MAX;
	result = guest_memory_write(machine->memory, GPA(address), machine->command + offset, length);
	return result < 0 ? result : (int64_t)length;
}

int64_t call_event(struct machine *machine, uint32_t argument, uint64_t value)
{
	if (argument || value)
		return -EINVAL;
	return machine_next_event(machine);
}
