/* SPDX-License-Identifier: GPL-2.0-only */
/* What the tests of devices in snapshots share: each device's file gives what makes it again. */
#ifndef KARMA_TESTS_STATE_FIXTURE_H
#define KARMA_TESTS_STATE_FIXTURE_H

#include <string.h>

#include "guest.h"
#include "karma/snapshot.h"

/* The parts of the suite. */
void state_blk_tests(Suite *suite);
void state_console_tests(Suite *suite);
void state_net_tests(Suite *suite);
void state_vsock_tests(Suite *suite);
void state_vhost_tests(Suite *suite);

/* What a number in a part may be, and more. */
static const uint64_t hostile_numbers[] = { 0, 1, 2, 15, 64, 255, 0x7fff, UINT16_MAX, 0x10000, 0xfee00000, UINT32_MAX,
	1ull << 32, INT64_MAX, 1ull << 63, UINT64_MAX - 4095, UINT64_MAX };

/* The I/O thread's part, as far as there is something to do for it now. */
static inline void run_what_is_due(struct sim *guest)
{
	for (unsigned i = 0; i < 16 && io_ring_reap(&guest->ring, false); i++)
		;
}

/* The machine that is made is not the one that was saved: a message says this. */
static inline void expect_restore_refused(struct sim *guest, void (*add_devices)(void), const char *text)
{
	const char *messages;

	sim_change_process(guest);
	add_devices();
	messages_begin();
	ck_assert_int_lt(sim_restore(guest), 0);
	messages = messages_end();
	ck_assert_msg(strstr(messages, text), "%s", messages);
}

/*
 * Save, and restore with each number of each part changed in turn, in a process of its own each time: a state is
 * refused, or the device goes on with it whatever it is.
 */
static inline void restore_every_wrong_number(struct sim *guest, void (*add_devices)(void), void (*drive)(void))
{
	static const unsigned parts[] = { SNAPSHOT_MACHINE, SNAPSHOT_DEVICE, SNAPSHOT_DEVICE_OWN };
	unsigned refused = 0, restored = 0;

	sim_save(guest);
	for (size_t part = 0; part < ARRAY_SIZE(parts); part++) {
		for (size_t index = 0; sim_has_number(parts[part], 0, index); index++) {
			uint64_t right = sim_state_number(parts[part], 0, index);

			for (size_t i = 0; i < ARRAY_SIZE(hostile_numbers); i++) {
				sim_change_process(guest);
				add_devices();
				sim_change_state(parts[part], 0, index, hostile_numbers[i]);
				if (sim_restore(guest) < 0) {
					refused++;
					continue;
				}
				restored++;
				drive();
			}
			sim_change_state(parts[part], 0, index, right);
		}
	}
	ck_assert_uint_gt(refused, 0);
	ck_assert_uint_gt(restored, 0);
}

#endif
