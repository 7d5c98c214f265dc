// SPDX-License-Identifier: GPL-2.0-only
/*
 * The end: power off, restart, panic, kexec; and no sleep.
 *
 * Which way the guest ends:
 * - Power off: a sys-off handler ahead of the firmware's makes the power call.
 * - Halt: a syscore shutdown makes that call, too, since a halted guest is of no more use.
 * - Restart: x86 runs no restart handlers, and machine_ops is not exported; so a restart-prepare
 *   handler makes the call.  Those run after device_shutdown(), for restarts proper and not for
 *   kexec.  A reboot notifier would run before device_shutdown().  Emergency restarts run none of
 *   them and take the reset register of ACPI, as does everything before this driver is loaded.
 * - Panic: a notifier behind all others makes the panic call with the reason.
 * - Hang: the monitor's watchdog, if the user asked for one, is no longer fed.
 *
 * A kexec is no end: the next kernel is to find devices that are at rest, and a crash kernel, which
 * nobody gives time for that, brings them to rest itself.
 */

#include "driver.h"

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/panic_notifier.h>
#include <linux/reboot.h>
#include <linux/suspend.h>
#include <linux/syscore_ops.h>

static struct sys_off_handler *karma_power_off_handler;
static struct sys_off_handler *karma_restart_handler;
static char *karma_panic_text;	/* KARMA_TEXT_MAX bytes */

static int karma_power_off(struct sys_off_data *data)
{
	karma_call(KARMA_CALL_power, KARMA_POWER_OFF, 0);
	return NOTIFY_DONE;
}

static int karma_restart(struct sys_off_data *data)
{
	karma_call(KARMA_CALL_power, KARMA_POWER_RESET, 0);
	return NOTIFY_DONE;
}

static int karma_panic(struct notifier_block *block, unsigned long action, void *message)
{
	size_t length = strnlen(message, KARMA_TEXT_MAX);

	memcpy(karma_panic_text, message, length);
	karma_call(KARMA_CALL_panic, length, virt_to_phys(karma_panic_text));
	return NOTIFY_DONE;
}

static struct notifier_block karma_panic_block = {
	.notifier_call = karma_panic,
	.priority = INT_MIN,	/* the others want to run too */
};

/*
 * Of the kernel's last steps: after device_shutdown(), with the other CPUs still at work.  A restart
 * proper has made its call by now, so a restart is a kexec.
 */
static void karma_shutdown(void)
{
	if (system_state == SYSTEM_HALT)
		karma_call(KARMA_CALL_power, KARMA_POWER_OFF, 0);
	if (system_state != SYSTEM_RESTART)
		return;
	karma_remove_watchdog();
	karma_mute_events();
	karma_reset_devices();
}

#ifdef KARMA_SYSCORE_HAS_DATA
static void karma_syscore_shutdown(void *data)
{
	karma_shutdown();
}

static const struct syscore_ops karma_syscore_ops = { .shutdown = karma_syscore_shutdown };
static struct syscore karma_syscore = { .ops = &karma_syscore_ops };
#else
#define register_syscore register_syscore_ops
#define unregister_syscore unregister_syscore_ops
static struct syscore_ops karma_syscore = { .shutdown = karma_shutdown };
#endif

/*
 * A saved kernel would find other devices than it left, and one that sleeps has nothing to wake it
 * up.
 */
static int karma_sleep(struct notifier_block *block, unsigned long action, void *unused)
{
	switch (action) {
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
	case PM_SUSPEND_PREPARE:
		pr_err("a guest can neither hibernate nor sleep: `karma pause` on the host stops it\n");
		return notifier_from_errno(-EOPNOTSUPP);
	}
	return NOTIFY_DONE;
}

static struct notifier_block karma_sleep_block = {
	.notifier_call = karma_sleep,
};

/* What only reports or ends the guest may fail: a guest with disks is of use. */
void __init karma_add_end(void)
{
	karma_power_off_handler = register_sys_off_handler(
		SYS_OFF_MODE_POWER_OFF, SYS_OFF_PRIO_FIRMWARE + 1, karma_power_off, NULL);
	if (IS_ERR(karma_power_off_handler)) {
		pr_err("cannot register for power off: %ld\n", PTR_ERR(karma_power_off_handler));
		karma_power_off_handler = NULL;
	}
	/* The last of its kind, since it does not return. */
	karma_restart_handler = register_sys_off_handler(SYS_OFF_MODE_RESTART_PREPARE, INT_MIN,
							 karma_restart, NULL);
	if (IS_ERR(karma_restart_handler)) {
		pr_err("cannot register for restart: %ld\n", PTR_ERR(karma_restart_handler));
		karma_restart_handler = NULL;
	}
	karma_panic_text = (char *)__get_free_page(GFP_KERNEL);
	if (karma_panic_text)
		atomic_notifier_chain_register(&panic_notifier_list, &karma_panic_block);
}

void karma_remove_end(void)
{
	if (karma_panic_text)
		atomic_notifier_chain_unregister(&panic_notifier_list, &karma_panic_block);
	unregister_sys_off_handler(karma_restart_handler);
	unregister_sys_off_handler(karma_power_off_handler);
	free_page((unsigned long)karma_panic_text);
}

void __init karma_add_shutdown(void)
{
	register_syscore(&karma_syscore);
	register_pm_notifier(&karma_sleep_block);
}

void karma_remove_shutdown(void)
{
	unregister_pm_notifier(&karma_sleep_block);
	unregister_syscore(&karma_syscore);
}
