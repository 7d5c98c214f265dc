// SPDX-License-Identifier: GPL-2.0-only
/* The console in snapshots: no character is printed twice, or lost. */
#include "console_fixture.h"
#include "state_fixture.h"

/* The restored guest's console is another one, at the same ends here. */
static void make_console(void)
{
	terminal_close(&terminal);
	ck_assert_int_eq(terminal_open(&terminal, "stdio", &sim.ring), 0);
	console = console_create(&sim.environment, &terminal);
	ck_assert_int_eq(machine_add(&sim.machine, console), 0);
}

static void restore_console(void)
{
	sim_change_process(&sim);
	make_console();
	ck_assert_int_eq(sim_restore(&sim), 0);
}

static void setup_state(void)
{
	setup();
	start("stdio");
}

/* ... and the user has got all of it. */
static bool terminal_is_empty(void *unused)
{
	const bool empty = terminal_output_pending(&terminal) == 0;
	size_t before;

	(void)unused;
	do {
		before = collected_length;
		user_has_output(&from_guest[0]);
	} while (collected_length != before);
	return empty;
}

/* What the saved guest has printed is the saved guest's user's. */
static void save_and_restore(void)
{
	sim_save(&sim);
	ck_assert(sim_run_until(&sim, terminal_is_empty, NULL));
	restore_console();
}

START_TEST(console_goes_on_in_both_directions)
{
	listen_with(4, 16);
	save_and_restore();
	print("hello\n", 6);
	assert_user_gets(from_guest[0], "hello\n", 6);
	ck_assert_int_eq(write(to_guest[1], "typed\n", 6), 6);
	assert_guest_gets_text("typed\n");
}
END_TEST

/* The terminal has taken a part of a chain: the rest of it comes from the restored guest. */
START_TEST(chain_that_was_sent_in_part_is_sent_on)
{
	const char *text = print_lots();

	sim_run_moment(&sim);
	ck_assert_uint_lt(driver_used(&queues[TRANSMIT]), QUEUE_SIZE);
	for (unsigned i = 0; i < 4; i++)
		save_and_restore();
	assert_user_gets(from_guest[0], text, LOTS);
	while (queues[TRANSMIT].last_used != QUEUE_SIZE)
		driver_wait(&queues[TRANSMIT]);
}
END_TEST

START_TEST(chain_of_before_a_reset_is_forgotten)
{
	print_lots();
	sim_run_moment(&sim);
	sim_reset(&sim, 0);
	save_and_restore();
	collected_length = 0;
	sim_start_device(&sim, 0, FEATURES_EVENT, queues, 2, QUEUE_SIZE);
	print("anew\n", 5);
	assert_user_gets(from_guest[0], "anew\n", 5);
}
END_TEST

START_TEST(guest_with_a_console_is_up)
{
	sim.ups = 0;
	save_and_restore();
	ck_assert_uint_eq(sim.ups, 1);
}
END_TEST

static void drive(void)
{
	for (unsigned i = 0; i < 2; i++)
		sim_call(&sim, KARMA_CALL_queue_notify, KARMA_ARG(0, i), 0);
	run_what_is_due(&sim);
}

START_TEST(console_with_any_wrong_number_is_refused_or_harmless)
{
	print("text", 4);
	listen_with(4, 16);
	restore_every_wrong_number(&sim, make_console, drive);
}
END_TEST

/* Lines of any length, of which the user reads as many as there are at times. */
START_TEST(console_prints_the_same_with_snapshots)
{
	static char text[LOTS];
	uint64_t random = 1 + _i;
	size_t printed = 0;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = 'a' + (i ^ i >> 8) % 26;
	while (printed + 8192 < sizeof(text)) {
		size_t length = 1 + random_next(&random) % 8000;

		if ((uint16_t)(queues[TRANSMIT].avail->idx - queues[TRANSMIT].last_used) < QUEUE_SIZE) {
			print(text + printed, length);
			printed += length;
		}
		switch (random_next(&random) % 8) {
		case 0:
			save_and_restore();
			break;
		case 1:
			user_has_output(&from_guest[0]);
			break;
		default:
			run_what_is_due(&sim);
		}
		queues[TRANSMIT].last_used += driver_used(&queues[TRANSMIT]);
		if (queues[TRANSMIT].avail->idx == (uint16_t)(queues[TRANSMIT].last_used + QUEUE_SIZE))
			user_has_output(&from_guest[0]);
	}
	assert_user_gets(from_guest[0], text, printed);
}
END_TEST

void state_console_tests(Suite *suite)
{
	const TTest *const tests[] = {
		console_goes_on_in_both_directions,
		chain_that_was_sent_in_part_is_sent_on,
		chain_of_before_a_reset_is_forgotten,
		guest_with_a_console_is_up,
		console_with_any_wrong_number_is_refused_or_harmless,
	};
	TCase *of_console = add_case(suite, "console", setup_state, teardown, 60, tests, ARRAY_SIZE(tests));

	tcase_add_loop_test(of_console, console_prints_the_same_with_snapshots, 0, 4);
}
